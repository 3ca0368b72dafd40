//! Builds of the demo recipe from Debian's archive: the same bytes twice, only what changed, and what a kill leaves.
//!
//! Needs the archive (the host's own mirror of it, or the recipe's). Every test starts from one build, made once.

pub mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::project;
use crate::{edgepress, scratch};

fn build(store: &Path, out: &Path) -> Command {
    let mut command = edgepress(store);
    command.args(["--json", "build", "recipes/demo.toml", "--explain", "--out"]).arg(out);
    command
}

fn run(mut command: Command) -> Value {
    let output = command.output().expect("edgepress runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{stderr}"))
}

/// The same command, called by somebody whose surroundings are strange.
fn strangely(command: &Command) -> Command {
    let script = "umask 077; ulimit -S -n 300; ulimit -c unlimited; ulimit -S -s 2048; exec \"$@\"";
    let mut strange = Command::new("bash");
    strange.args(["-c", script, "bash"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        strange.env(name, value.expect("a value"));
    }
    for (name, value) in [("TZ", "Pacific/Kiritimati"), ("LC_ALL", "tr_TR.UTF-8"), ("HOSTNAME", "other")] {
        strange.env(name, value);
    }
    strange.env("POSIXLY_CORRECT", "1").env("SOURCE_DATE_EPOCH", "1").current_dir(project());
    strange
}

pub struct First {
    pub store: PathBuf,
    answer: Value,
}

/// The build that all tests start from.
pub fn first() -> &'static First {
    static FIRST: OnceLock<First> = OnceLock::new();
    FIRST.get_or_init(|| {
        let store = scratch().join("store");
        let answer = run(build(&store, &scratch().join("out")));
        First { store, answer }
    })
}

/// A store with the first one's downloads and nothing else.
fn store_of_downloads(name: &str) -> PathBuf {
    let store = scratch().join(name);
    fs::create_dir_all(&store).expect("store");
    let status =
        Command::new("cp").arg("-al").arg(first().store.join("blobs")).arg(&store).status().expect("cp runs");
    assert!(status.success());
    store
}

fn steps(answer: &Value) -> BTreeMap<String, bool> {
    let steps = answer["steps"].as_array().expect("steps").iter();
    steps.map(|step| (step["step"].as_str().expect("name").to_owned(), step["hit"] == true)).collect()
}

fn made(answer: &Value) -> Vec<String> {
    steps(answer).into_iter().filter(|(_, hit)| !hit).map(|(name, _)| name).collect()
}

/// Another folder and another store, some time later, by somebody with another umask, limits, zone, locale and name of
/// the machine: none of it is the image's business.
#[test]
fn two_builds_are_identical() {
    let store = store_of_downloads("second");
    let out = scratch().join("elsewhere").join("out");
    let answer = run(strangely(&build(&store, &out)));
    assert!(made(&answer).contains(&"base".to_owned()), "{answer}");
    assert_eq!(answer["sha256"], first().answer["sha256"], "two builds differ");
    let image = fs::metadata(answer["image"].as_str().expect("path")).expect("image");
    assert_eq!(answer["size"], image.len());
}

#[test]
fn a_rebuild_makes_only_what_changed() {
    let first = first();
    let out = scratch().join("rebuild");
    assert_eq!(made(&run(build(&first.store, &out))), ["export", "image"], "a new folder");
    assert_eq!(made(&run(build(&first.store, &out))), [""; 0], "nothing changed");
    let mut changed = build(&first.store, &out);
    changed.args(["--set", "provisioning.cloud_retries=7"]);
    let answer = run(changed);
    assert_eq!(made(&answer), ["export", "files", "image"], "one value changed");
    let files = answer["steps"].as_array().expect("steps").iter().find(|step| step["step"] == "files");
    let why = files.expect("files")["changed"].to_string();
    assert!(why.contains("/etc/aziot/config.toml"), "{why}");
    // An image that somebody wrote to is not the one that was built.
    let image = answer["image"].as_str().expect("path").to_owned();
    fs::OpenOptions::new().append(true).open(&image).and_then(|file| file.set_len(1 << 20)).expect("cut");
    let mut again = build(&first.store, &out);
    again.args(["--set", "provisioning.cloud_retries=7"]);
    assert_eq!(run(again)["sha256"], answer["sha256"]);
}

/// Kills a command as soon as it says that `step` started.
fn kill_when(mut command: Command, step: &str) {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let stderr = BufReader::new(child.stderr.take().expect("stderr"));
    let reached = stderr.lines().map_while(Result::ok).any(|line| line.starts_with(step));
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(reached, "the build never came to {step}");
}

/// Kills a build in `step`; then nothing half-made may be left.
fn kill_in(step: &str, store: &Path, out: &Path) {
    kill_when(build(store, out), step);
    for layer in fs::read_dir(store.join("layers")).expect("layers") {
        assert!(
            layer.expect("layer").path().join("layer.json").exists(),
            "a broken layer after a kill in {step}"
        );
    }
    assert!(!out.join("demo-x86_64/demo.img").exists(), "an image after a kill in {step}");
}

#[test]
fn a_kill_in_each_phase_leaves_nothing_broken() {
    let store = store_of_downloads("killed");
    let out = scratch().join("after-kills");
    for step in ["base", "identity-service", "edge", "initramfs", "files", "image", "export"] {
        kill_in(step, &store, &out);
    }
    assert_eq!(run(build(&store, &out))["sha256"], first().answer["sha256"]);
    let left =
        fs::read_dir(out.join("demo-x86_64")).expect("out").map(|entry| entry.expect("entry").file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["SHA256SUMS", "demo.img", "manifest.json", "sbom.cdx.json", "sbom.spdx.json"]);
}

/// In a copy of the recipes, because the lock stands beside the recipe.
#[test]
fn a_kill_while_locking_or_fetching_leaves_nothing_broken() {
    let copy = scratch().join("copy");
    fs::create_dir_all(copy.join("tests")).expect("folder");
    for (from, to) in [("recipes", ""), ("overlays", ""), ("tests/standin", "tests")] {
        let status = Command::new("cp").arg("-a").arg(project().join(from)).arg(copy.join(to)).status();
        assert!(status.expect("cp runs").success());
    }
    let lock = copy.join("recipes/demo.lock");
    fs::remove_file(&lock).ok();
    let store = scratch().join("downloads");
    let fetch = || {
        let mut command = edgepress(&store);
        command.args(["--json", "lock", "--fetch"]).arg(copy.join("recipes/demo.toml"));
        command
    };
    kill_when(fetch(), "lock");
    assert!(!lock.exists(), "half a lock");
    kill_when(fetch(), "fetch");
    for folder in fs::read_dir(store.join("blobs/sha256")).expect("blobs") {
        for blob in fs::read_dir(folder.expect("folder").path()).expect("folder") {
            let path = blob.expect("blob").path();
            let digest = edgepress::units::Digest::of(fs::read(&path).expect("blob")).to_string();
            assert_eq!(path.file_name().expect("name"), digest.as_str(), "a broken blob");
        }
    }
    let answer = run(fetch());
    assert!(answer["packages"].as_u64().is_some_and(|count| count > 100), "{answer}");
}

fn refused(arguments: &[&str]) -> String {
    let mut command = build(&first().store, &scratch().join("refused"));
    let output = command.args(arguments).output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!scratch().join("refused/demo-x86_64/demo.img").exists());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_too_small_says_how_large_it_must_be() {
    let error = refused(&["--set", "disk.size=\"300M\""]);
    assert!(error.contains("disk.size is 300 MiB, but the image needs"), "{error}");
    assert!(error.contains("hint: set `size` in [disk] to at least"), "{error}");
}

#[test]
fn a_leak_of_identity_is_named() {
    let overlay = scratch().join("leaky");
    fs::create_dir_all(overlay.join("root")).expect("folder");
    fs::write(overlay.join("root/.bash_history"), "az login\n").expect("history");
    fs::create_dir_all(overlay.join("etc/ssh")).expect("folder");
    fs::write(
        overlay.join("etc/ssh/id"),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----\n",
    )
    .expect("key");
    let error = refused(&["--set", &format!("overlays=['overlays/base', '{}']", overlay.display())]);
    assert!(error.contains("/root/.bash_history") && error.contains("/etc/ssh/id"), "{error}");
    assert!(!error.contains("b3BlbnNzaC1rZXk"), "{error}");
}

/// A full disk needs a disk: a tmpfs, in a mount namespace that only root can make without a user namespace (in which
/// the build could not have its own).
#[test]
fn no_space_left_is_said_and_leaves_nothing() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can mount a small file system for this");
        return;
    }
    let out = scratch().join("full");
    fs::create_dir_all(&out).expect("folder");
    let program = build(&first().store, &out);
    let script = "mount -t tmpfs -o size=64M tmpfs \"$0\" && \"$@\"; code=$?; ls -A \"$0\"/* >&2; exit $code";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(&out)
        .arg(program.get_program())
        .args(program.get_args());
    command.env("EDGEPRESS_STORE", &first().store).current_dir(project());
    let output = command.output().expect("unshare runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no space left in"), "{stderr}");
    assert!(!stderr.contains("demo.img\n") && !stderr.contains(".partial\n"), "{stderr}");
}
