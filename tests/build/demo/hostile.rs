//! Packages whose scripts want out of the build, or never to end. They take the place of a package of the runtime, which
//! is a layer of its own: each build starts from the layer below it, which is there already.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::first;
use crate::support::project;
use crate::{edgepress, scratch};

/// The ways that hostile.sh tries, and what it looks at besides, at least.
const LEAST_WAYS: usize = 50;

/// The demo in a copy of the recipes, whose aziot-identity-service has this postinst.
pub fn recipe(name: &str, postinst: &str) -> PathBuf {
    let folder = scratch().join("hostile").join(name);
    let package = folder.join("packages/aziot-identity-service/DEBIAN");
    fs::create_dir_all(&package).expect("folder");
    let standin = project().join("tests/standin");
    let control = fs::read_to_string(standin.join("aziot-identity-service/DEBIAN/control")).expect("control");
    fs::write(package.join("control"), control).expect("control");
    fs::write(package.join("postinst"), postinst).expect("postinst");
    fs::set_permissions(package.join("postinst"), fs::Permissions::from_mode(0o755)).expect("mode");
    copy(&standin.join("aziot-edge"), &folder.join("packages"));
    copy(&project().join("recipes"), &folder);
    copy(&project().join("overlays"), &folder);
    let base = folder.join("recipes/base/stand-in.toml");
    let text = fs::read_to_string(&base).expect("recipe");
    assert!(text.contains("\"../../tests/standin\""), "{text}");
    fs::write(&base, text.replace("../../tests/standin", "../../packages")).expect("recipe");
    folder.join("recipes/demo.toml")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

/// What the build says, which has to fail as work does.
fn build(recipe: &Path, limits: &str) -> (Output, String) {
    let mut command = edgepress(&first().store);
    command.args(["build", "--limits", limits, "--out"]).arg(scratch().join("hostile/out")).arg(recipe);
    // A file that the caller has open, and a secret in the environment.
    let mut shell = Command::new("bash");
    shell.args(["-c", "exec 7</etc/passwd; umask 077; exec \"$@\"", "bash"]);
    shell.arg(command.get_program()).args(command.get_args()).current_dir(project());
    shell.env("EDGEPRESS_STORE", &first().store).env("EP_CASE_SECRET", "1").env("TZ", "Asia/Tokyo");
    let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash runs");
    let staged = format!(".{}.", child.id());
    let output = child.wait_with_output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("base: made"), "the layer below was made again: {said}");
    let staging = fs::read_dir(first().store.join("tmp")).expect("store").flatten();
    let left = staging.filter(|entry| entry.file_name().to_string_lossy().contains(&staged)).count();
    assert_eq!(left, 0, "what the scripts wrote is still there: {said}");
    (output, said)
}

#[test]
fn a_package_s_script_stays_inside() {
    let canary = scratch().join("canary");
    fs::create_dir_all(&canary).expect("folder");
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let name = format!("edgepress-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _socket = UnixListener::bind_addr(&address).expect("an abstract socket");
    let script = include_str!("hostile.sh")
        .replace("@CANARY@", &canary.display().to_string())
        .replace("@PORT@", &server.local_addr().expect("an address").port().to_string())
        .replace("@SOCKET@", &name);
    let (_, said) = build(&recipe("ways", &script), "");
    assert!(said.lines().any(|line| line.trim() == "tried all"), "{said}");
    let out: Vec<&str> = said.lines().filter(|line| line.starts_with("OUT ")).collect();
    assert!(out.is_empty(), "{out:?}\n{said}");
    let held = said.lines().filter(|line| line.starts_with("held ")).count();
    assert!(held >= LEAST_WAYS, "{held} of {LEAST_WAYS}\n{said}");
    for stated in
        ["umask", "open-files", "no-new-privileges", "capabilities", "own-name", "locale", "root-inside"]
    {
        assert!(said.lines().any(|line| line == format!("held {stated}")), "{stated}\n{said}");
    }
    assert!(said.contains("held escapes-are-shown-as-text") && !said.contains('\u{1b}'), "{said}");
    assert_eq!(fs::read_dir(&canary).expect("canary").count(), 0, "something was written outside");
}

/// Each would go on for ever, or until the machine has nothing left.
#[test]
fn a_script_that_takes_too_much_ends_the_build_alone() {
    let free = free_mib();
    for (name, script, limits, words) in [
        ("silent", "sleep 100000".to_owned(), "silence=3s".to_owned(), "said nothing for 3 s"),
        ("chatty", "while :; do echo more; sleep 0.1; done".to_owned(), "time=5s".to_owned(), "it ran for"),
        (
            "fork-bomb",
            "f() { f | f & }; f; sleep 100".to_owned(),
            "processes=300".to_owned(),
            "300 processes",
        ),
        (
            "memory",
            "perl -e 'my @all; push @all, \"x\" x (64 << 20) while 1'".to_owned(),
            "memory=300M".to_owned(),
            "300 MiB of memory",
        ),
        (
            "disk",
            "while :; do cat /proc/self/exe /usr/bin/perl >>/var/lib/filler; done".to_owned(),
            format!("reserve={}M", free.saturating_sub(300)),
            "free where the store is",
        ),
    ] {
        let start = Instant::now();
        let (_, said) = build(&recipe(name, &format!("#!/bin/sh\n{script}\n")), &limits);
        assert!(said.contains(words), "{name}: {said}");
        assert!(said.contains("hint: ") && said.contains("--limits"), "{name}: {said}");
        assert!(start.elapsed() < Duration::from_secs(300), "{name}: it ended on its own");
    }
}

/// MiB that are free where the store is.
fn free_mib() -> u64 {
    let mut df = Command::new("df");
    let said = df.args(["--output=avail", "-BM"]).arg(&first().store).output().expect("df runs").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    said.lines().last().and_then(|line| line.trim().trim_end_matches('M').parse().ok()).expect("a number")
}

/// A vendor's package starts its daemon itself; the build does not wait for it, and names it.
#[test]
fn a_process_that_a_script_leaves_is_ended_and_named() {
    let script = "#!/bin/sh\nsleep 77777 &\n(exec sleep 88888 >/dev/null 2>&1 </dev/null &)\nexit 0\n";
    let recipe = recipe("daemon", script);
    // So that the build ends after the layer in question.
    let edge = recipe.with_file_name("../packages/aziot-edge/DEBIAN/postinst");
    fs::write(&edge, "#!/bin/sh\necho enough\nexit 1\n").expect("postinst");
    let (_, said) = build(&recipe, "");
    assert!(said.contains("enough"), "{said}");
    for process in ["sleep 77777", "sleep 88888"] {
        let named =
            format!("package aziot-identity-service left a process running, which was ended: {process}");
        assert!(said.contains(&named), "{said}");
    }
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let mut commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    assert!(
        !commands.any(|line| line == b"sleep\x0077777\0" || line == b"sleep\x0088888\0"),
        "they still run"
    );
}
