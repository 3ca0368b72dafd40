//! Pid 1 beside a program of the tree: makes its world, starts it, waits, and says how it ended.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use super::watch::{Watch, processes};
use super::{Control, Ended, Left, Program, privileges, view};

/// Modes of what scripts make, as on every Debian system; the caller's own would enter the image.
const UMASK: Mode = Mode::from_bits_truncate(0o022);
/// How often pid 1 looks whether what was left is about to end by itself, and how long it waits between two looks.
const LOOKS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(10);
/// How much of a command line is told.
const SHOWN: usize = 80;

/// Runs the program that standard input describes, as pid 1 of its namespace.
///
/// # Errors
/// Never: what goes wrong is said on the control pipe.
pub(crate) fn init() -> Result<()> {
    match keep() {
        Ok(ended) => Control::Ended(ended).say(),
        Err(error) => Control::Failed(format!("{error:#}")).say(),
    }
    Ok(())
}

fn keep() -> Result<Ended> {
    crate::sandbox::die_with_parent()?;
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).context("reading what to run")?;
    let program: Program = serde_json::from_slice(&text).context("understanding what to run")?;
    // No terminal to type into.
    setsid().context("starting a session")?;
    umask(UMASK);
    let null = File::open("/dev/null").context("opening /dev/null")?;
    view::enter(&program.root, &null)?;
    privileges::limit(&program.limits)?;
    view::lock()?;
    let watch = Watch::new(&program.limits);
    privileges::give_up()?;
    let output = std::io::stderr().as_fd().try_clone_to_owned().context("sharing the output pipe")?;
    let child = Command::new(&program.name)
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(super::slash())
        .stdin(null)
        .stdout(Stdio::from(output.try_clone().context("sharing the output pipe")?))
        .stderr(Stdio::from(output))
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {} in the tree", program.name))?;
    thread::spawn(move || watch.until_passed());
    let pid = Pid::from_raw(i32::try_from(child.id()).context("reading a process number")?);
    wait(pid)
}

/// Reaps everything until the program itself has ended.
fn wait(program: Pid) -> Result<Ended> {
    let (code, signal) = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => break (Some(code), None),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => break (None, Some(signal as i32)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("waiting for a program of the tree"),
        }
    };
    Ok(Ended { code, signal, left: left(), passed: None })
}

/// What still runs; a process that is just ending is none.
fn left() -> Vec<Left> {
    for _ in 0..LOOKS {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        if others().next().is_none() {
            return Vec::new();
        }
        thread::sleep(BETWEEN);
    }
    others().map(describe).collect()
}

fn others() -> impl Iterator<Item = u32> {
    let me = std::process::id();
    processes().filter(move |pid| *pid != me)
}

fn describe(pid: u32) -> Left {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(|c: char| c.is_control(), " ");
    let command: String = words(&read("cmdline")).trim().chars().take(SHOWN).collect();
    let command = if command.is_empty() { words(&read("comm")).trim().to_owned() } else { command };
    // dpkg tells its scripts whose they are (dpkg(1), ENVIRONMENT).
    let package = read("environ")
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"DPKG_MAINTSCRIPT_PACKAGE="))
        .map(words);
    Left { command, package }
}
