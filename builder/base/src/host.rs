//! The host's programs: one runner for all of them, and the package to install when one is missing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};

use crate::error::Problem;

/// Host programs and the Debian/Ubuntu package that has each. `ci/host-packages` installs the same.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-cache", "apt"),
    ("apt-config", "apt"),
    ("apt-get", "apt"),
    ("chroot", "coreutils"),
    ("debugfs", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
    ("e2fsck", "e2fsprogs"),
    ("e2image", "e2fsprogs"),
    ("gpgv", "gpgv"),
    ("ip", "iproute2"),
    ("mke2fs", "e2fsprogs"),
    ("newgidmap", "uidmap"),
    ("newuidmap", "uidmap"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ssh-keygen", "openssh-client"),
    ("swtpm", "swtpm"),
];

/// How many lines of a failed program's standard error are shown.
const TAIL_LINES: usize = 20;

/// Finds a program on the PATH, or in the sbin folders that an ordinary user's PATH lacks.
///
/// # Errors
/// Names the package to install when it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file());
    found.ok_or_else(|| missing(&[name]).into())
}

/// Looks for all programs that some work will need, so that it does not end in its middle for want of one.
///
/// # Errors
/// Names all that are not there, and the packages to install.
pub fn programs<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let absent: Vec<_> = names.into_iter().filter(|name| program(name).is_err()).collect();
    if absent.is_empty() { Ok(()) } else { Err(missing(&absent).into()) }
}

fn missing(names: &[&str]) -> Problem {
    let package = |name: &str| {
        PACKAGES
            .iter()
            .find(|(program, _)| *program == name)
            .map_or(name.to_owned(), |(_, package)| (*package).to_owned())
    };
    let packages: BTreeSet<_> = names.iter().map(|name| package(name)).collect();
    let packages = packages.into_iter().collect::<Vec<_>>().join(" ");
    let (message, it) = match names {
        [name] => (format!("the program `{name}` is not installed"), "it"),
        _ => (format!("the programs `{}` are not installed", names.join("`, `")), "them"),
    };
    Problem::work(message).hint(format!("install {it}: sudo apt-get install {packages}"))
}

/// A command of a host program, found by [`program`].
///
/// # Errors
/// When the program is not installed.
pub fn command(name: &str) -> Result<Command> {
    Ok(Command::new(program(name)?))
}

/// Runs a command to its end, with no standard input, and returns its standard output.
///
/// # Errors
/// The whole command line and the last lines of standard error, when it cannot run or does not succeed.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = output(command.stdin(Stdio::null()))?;
    checked(command, output)
}

/// As [`run`], with `input` on standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", line(command)))?;
    let mut pipe = child.stdin.take().context("opening the child's standard input")?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output().with_context(|| format!("waiting for {}", line(command)))?;
    match writer.join() {
        Ok(Err(error)) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    checked(command, output)
}

/// Runs a command to its end and returns all that it printed, for callers that read the failure themselves.
///
/// # Errors
/// When it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = Path::new(command.get_program()).file_name().unwrap_or_default();
            Err(missing(&[&*name.to_string_lossy()]).into())
        }
        other => other.with_context(|| format!("starting {}", line(command))),
    }
}

fn checked(command: &Command, output: Output) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Problem::work(format!("{} failed: {}\n{}", line(command), output.status, tail(&stderr, TAIL_LINES)))
        .into())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect::<Vec<_>>().join(" ")
}

/// The last `count` lines of `text`.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{program, run, run_with_input};
    use crate::error::problem;
    use std::process::Command;

    #[test]
    fn failure_shows_command_and_stderr() {
        let error = run(Command::new("sh").args(["-c", "echo oh no >&2; exit 3"])).expect_err("fails");
        assert_eq!(error.to_string(), "sh -c 'echo oh no >&2; exit 3' failed: exit status: 3\noh no");
    }

    #[test]
    fn missing_program_names_its_package() {
        let error = super::missing(&["mke2fs"]);
        assert_eq!(error.hint.as_deref(), Some("install it: sudo apt-get install e2fsprogs"));
        let error = super::missing(&["mke2fs", "debugfs", "newuidmap"]);
        assert_eq!(error.message, "the programs `mke2fs`, `debugfs`, `newuidmap` are not installed");
        assert_eq!(error.hint.as_deref(), Some("install them: sudo apt-get install e2fsprogs uidmap"));
        super::programs(["sh", "cat"]).expect("there");
        let error = super::programs(["sh", "no-such-program", "nor-this"]).expect_err("missing");
        assert_eq!(error.to_string(), "the programs `no-such-program`, `nor-this` are not installed");
        let error = program("no-such-program").expect_err("missing");
        assert!(problem(&error).is_some());
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(run_with_input(&mut Command::new("cat"), b"hello").expect("cat"), b"hello");
    }
}
