//! Builds for the other architecture: what a foreign build must do besides what every build does.
//!
//! Needs Debian's archive and qemu-user-static, and a kernel with binfmt_misc for user namespaces (6.7 or newer) or
//! qemu-user registered on the host. Written for x86_64 hosts: on others the recipe is not foreign.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use edgepress::units::Arch;
use serde_json::Value;

use crate::demo::hostile;
use crate::support::project;

fn store() -> PathBuf {
    crate::scratch().join("store")
}

fn scratch() -> PathBuf {
    let folder = crate::scratch().join("arm64");
    fs::create_dir_all(&folder).expect("folder");
    folder
}

fn edgepress() -> Command {
    crate::edgepress(&store())
}

fn build(arguments: &[&str]) -> Command {
    let mut command = edgepress();
    command.args(["--json", "build", "recipes/demo-arm64.toml", "--out"]).arg(scratch().join("out"));
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a build must leave as it was: mounts of our own, and what binfmt_misc knows.
fn host() -> (Vec<String>, Vec<PathBuf>) {
    let registered = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten();
    let registered = registered.map(|entry| entry.expect("entry").path()).collect();
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    // Others may mount something meanwhile.
    let ours = |line: &&str| line.contains(store().to_str().expect("path")) || line.contains("binfmt");
    (mounts.lines().filter(ours).map(String::from).collect(), registered)
}

struct Built {
    answer: Value,
    before: (Vec<String>, Vec<PathBuf>),
    after: (Vec<String>, Vec<PathBuf>),
    stderr: String,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let before = host();
        let output = build(&[]).output().expect("edgepress runs");
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let answer = serde_json::from_slice(&output.stdout).expect("JSON");
        Built { answer, before, after: host(), stderr }
    })
}

/// Runs debugfs on the root file system of the image.
fn debugfs(request: &str) -> String {
    let image = built().answer["image"].as_str().expect("path").to_owned();
    let manifest = fs::read(Path::new(&image).with_file_name("manifest.json")).expect("manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let partitions = manifest["partitions"].as_array().expect("partitions");
    let root = partitions.iter().find(|partition| partition["role"] == "root").expect("root");
    let device = format!("{image}?offset={}", root["offset"]);
    let mut command = edgepress::host::command("debugfs").expect("e2fsprogs");
    let output = command.args(["-R", request, &device]).output().expect("debugfs");
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn the_image_is_foreign_and_nothing_of_this_machine_is_in_it() {
    if Arch::host() != Arch::X86_64 {
        eprintln!("skipped: on this machine the recipe is not foreign");
        return;
    }
    let built = built();
    assert_eq!(built.before, built.after, "the host was changed");
    for path in ["/.edgepress-build", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"] {
        let said = debugfs(&format!("stat {path}"));
        assert!(said.contains("File not found"), "{path}: {said}");
    }
    // A program of the image: the machine's number in its ELF header is AArch64's.
    let program = scratch().join("dash");
    debugfs(&format!("dump /usr/bin/dash {}", program.display()));
    let bytes = fs::read(&program).expect("dash");
    assert_eq!(bytes[18], 183, "dash is not for aarch64");
}

#[test]
fn native_tools_are_used_where_the_kernel_allows_and_else_one_line_says_why_not() {
    if Arch::host() != Arch::X86_64 {
        eprintln!("skipped: on this machine the recipe is not foreign");
        return;
    }
    let built = built();
    let steps = built.answer["steps"].as_array().expect("steps").iter();
    let steps: BTreeMap<&str, bool> =
        steps.map(|step| (step["step"].as_str().expect("name"), step["hit"] == true)).collect();
    let slow = built.stderr.lines().filter(|line| line.contains("ten times slower")).count();
    assert_eq!(steps.contains_key("native-tools"), slow == 0, "{}", built.stderr);
    assert!(slow <= 1, "{}", built.stderr);
}

/// The demo with a package whose script fails. It is one of the runtime's, a layer of its own: the one below it is there.
fn failing() -> Output {
    built();
    let script = "#!/bin/sh\necho first words\nfor i in 1 2 3; do echo \"line $i of $(uname -m)\"; done\n\
                  echo last words >&2\nexit 7\n";
    let recipe = hostile::recipe("failing-arm64", script).with_file_name("demo-arm64.toml");
    let mut command = edgepress();
    command.arg("build").arg(recipe).arg("--out").arg(scratch().join("failing"));
    command.output().expect("edgepress runs")
}

#[test]
fn a_failing_script_is_shown_whole_with_its_package() {
    let output = failing();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for words in
        ["first words", "line 1 of aarch64", "line 3 of aarch64", "last words", "aziot-identity-service"]
    {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!scratch().join("failing/demo-arm64-aarch64/demo-arm64.img").exists());
}

#[test]
fn a_package_of_the_other_architecture_only_is_refused_by_name() {
    let folder = scratch().join("wrong");
    fs::create_dir_all(&folder).expect("folder");
    let base = project().join("recipes/demo-arm64.toml").canonicalize().expect("recipe");
    let recipe = format!(
        "name = \"wrong\"\nextends = \"{}\"\n[packages]\ninstall = [\"memtest86+\"]\n",
        base.display()
    );
    fs::write(folder.join("wrong.toml"), recipe).expect("recipe");
    let output = edgepress().arg("lock").arg(folder.join("wrong.toml")).output().expect("runs");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let expected = "packages.install: `memtest86+` is there for amd64 only, and the image is for arm64";
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!folder.join("wrong.lock").exists());
}

/// The PATH of a host on which everything is installed but qemu-user.
#[test]
fn without_qemu_user_the_error_names_its_package() {
    if Arch::host() != Arch::X86_64 {
        eprintln!("skipped: on this machine the recipe is not foreign");
        return;
    }
    let programs = scratch().join("programs");
    fs::create_dir_all(&programs).expect("folder");
    let path = std::env::var_os("PATH").expect("PATH");
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder).expect("folder").flatten() {
            if !entry.file_name().to_string_lossy().starts_with("qemu-") {
                std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name())).ok();
            }
        }
    }
    let mut command = build(&[]);
    let output = command.env("PATH", &programs).output().expect("runs");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("building for aarch64 on x86_64 needs qemu-user"), "{stderr}");
    assert!(stderr.contains("hint: install it: sudo apt-get install qemu-user-static"), "{stderr}");
}
