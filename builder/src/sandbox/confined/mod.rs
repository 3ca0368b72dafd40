//! Runs a program of a root tree behind a boundary: packages' scripts come from archives that people trust for their
//! devices, not for the machine that builds.
//!
//! ```text
//! edgepress sandbox --inner            pid 1 of the sandbox: makes a layer
//!  └─ edgepress sandbox --confined     new pid, mount and ipc namespaces
//!      └─ … --confined-init            pid 1 in there: the tree becomes `/`, the old root goes, privileges go
//!          ├─ watch (a thread)         ends everything when processes, memory or disk pass a limit
//!          └─ dpkg                     sees the tree, itself and its children, and nothing else
//! ```
//!
//! What holds: the tree is the root of a mount namespace that has no other mount of the host's (no `chroot`, which root
//! may leave); a pid namespace of its own, in which pid 1 has more capabilities than scripts have and so is closed to
//! them; no terminal, a session of its own; an empty environment but for what is stated here; files beyond the three
//! standard ones closed; only the capabilities that dpkg uses; no new privileges, no new user namespaces; system calls
//! that reach around namespaces refused; `/proc/sys` and its like read-only. When the program ends, all that it left
//! running ends with the namespace.

mod init;
mod limits;
mod privileges;
mod streams;
mod view;
mod watch;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

pub(crate) use init::init;
pub(crate) use limits::Limits;
use streams::{Silence, each_line};

/// Most bytes of a control message: a report of processes, never an output.
const MOST_CONTROL: u64 = 1 << 20;

/// A program and the tree that is its world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Folder that becomes `/`.
    pub root: PathBuf,
    /// Path in the tree, or a name that its PATH finds.
    pub name: String,
    /// Arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// What it may take.
    pub limits: Limits,
}

/// How it ended, and what was ended with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The signal.
    pub signal: Option<i32>,
    /// Processes that it left running.
    pub left: Vec<Left>,
    /// The limit that it passed, in words; everything was ended then.
    pub passed: Option<String>,
}

/// A process that outlived the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// Its command line, shortened.
    pub command: String,
    /// The package whose script started it, where dpkg said so.
    pub package: Option<String>,
}

impl Ended {
    /// Did the program do what it was asked for?
    pub(crate) fn success(&self) -> bool {
        self.passed.is_none() && self.code == Some(0)
    }

    /// `exit status: 1`, `signal: 9`, or the limit.
    pub(crate) fn status(&self) -> String {
        match (&self.passed, self.code, self.signal) {
            (Some(limit), _, _) => limit.clone(),
            (None, Some(code), _) => format!("exit status: {code}"),
            (None, None, Some(signal)) => format!("signal: {signal}"),
            (None, None, None) => "it ended without a status".into(),
        }
    }
}

impl Program {
    /// More arguments.
    #[must_use]
    pub(crate) fn args<T: Into<String>>(mut self, more: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it with nothing on its standard input, and hands each line of its output, cleaned of control characters, to
    /// `line`.
    ///
    /// # Errors
    /// When it cannot be started. How it ended is the answer.
    pub(crate) fn run(&self, line: impl FnMut(&str)) -> Result<Ended> {
        let (reader, writer) = std::io::pipe().context("making a pipe")?;
        let mut child = Command::new("/proc/self/exe")
            .args(["sandbox", "--confined"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(writer)
            .spawn()
            .context("starting a process for a program of the tree")?;
        let handed = hand(&mut child, self);
        let ended = handed.and_then(|()| self.follow(&mut child, reader, line));
        if ended.as_ref().map_or(true, |ended| ended.passed.is_some()) {
            child.kill().ok();
        }
        child.wait().context("waiting for a program of the tree")?;
        ended
    }

    fn follow(
        &self,
        child: &mut Child,
        output: std::io::PipeReader,
        line: impl FnMut(&str),
    ) -> Result<Ended> {
        let mut control = child.stdout.take().context("opening the control pipe")?;
        let since = Instant::now();
        if let Err(Silence(spent)) = each_line(output, since, &self.limits, line)? {
            let passed = self.limits.too_long(spent);
            return Ok(Ended { code: None, signal: None, left: Vec::new(), passed: Some(passed) });
        }
        let mut text = String::new();
        control.by_ref().take(MOST_CONTROL).read_to_string(&mut text).context("reading how it ended")?;
        match serde_json::from_str(&text).context("understanding how a program of the tree ended")? {
            Control::Ended(ended) => Ok(ended),
            Control::Failed(why) => anyhow::bail!("{why}"),
        }
    }
}

fn hand(child: &mut Child, program: &Program) -> Result<()> {
    let mut input = child.stdin.take().context("opening the standard input of the program's keeper")?;
    input.write_all(&serde_json::to_vec(program)?).context("saying what to run")
}

/// What the keeper says on its standard output, once.
#[derive(Debug, Serialize, Deserialize)]
enum Control {
    /// The program ran.
    Ended(Ended),
    /// It did not, for this reason.
    Failed(String),
}

impl Control {
    /// Writes it; whoever would read it is about to notice the end of the pipe anyway when that fails.
    fn say(&self) {
        if let Ok(text) = serde_json::to_vec(self) {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&text).and_then(|()| stdout.flush()).ok();
        }
    }
}

/// First process: makes the namespaces and starts pid 1 in them, which reads the program from the same standard input.
///
/// # Errors
/// Never: what goes wrong is said on the control pipe.
pub(crate) fn outer() -> Result<()> {
    if let Err(error) = enter() {
        Control::Failed(format!("{error:#}")).say();
    }
    Ok(())
}

fn enter() -> Result<()> {
    super::die_with_parent()?;
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    unshare(flags).context("making namespaces for a program of the tree")?;
    let status: ExitStatus = Command::new("/proc/self/exe")
        .args(["sandbox", "--confined-init"])
        .env_clear()
        .status()
        .context("starting pid 1 for a program of the tree")?;
    anyhow::ensure!(status.success(), "the keeper of a program of the tree died: {status}");
    Ok(())
}

/// The tree's folder as a path that names nothing of the host once the tree is `/`.
fn slash() -> &'static Path {
    Path::new("/")
}
