//! Work in namespaces of its own: user, mount, pid, ipc, uts and network, without root and without a trace on the host.
//!
//! ```text
//! edgepress build                      the verb; ordinary user or root
//!  └─ edgepress sandbox                unshares; the parent writes its uid and gid map
//!      └─ edgepress sandbox --inner    pid 1 of the new pid namespace: runs one [`Job`], answers in JSON lines
//! ```
//!
//! When the verb dies the kernel kills both, and pid 1 takes with it everything that the job had started. The environment
//! is what [`environment`] states, whatever the caller's is; files that the caller had open are closed.
//!
//! A job that runs programs of a tree sees only what of the host it needs ([`world`]), and runs them behind one more
//! boundary ([`confined`]).

pub(crate) mod bind;
mod child;
pub(crate) mod confined;
mod job;
mod users;
mod world;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use child::die_with_parent;
pub(crate) use child::{inner, outer};
pub(crate) use job::{Job, Known};
pub(crate) use users::Users;
pub(crate) use world::World;

use crate::error::{Problem, ProblemKind};
use crate::event::{Event, Sink};

/// One line that a sandbox writes to its parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// The namespaces exist: the parent may write the maps.
    Unshared,
    /// Something to pass on.
    Event(Event),
    /// The job's answer, and the most memory that pid 1 had in bytes; the last line.
    Answer { value: serde_json::Value, peak: u64 },
    /// Why there is none; the last line.
    Failed { input: bool, message: String, hint: Option<String> },
}

/// Most memory of any sandbox's pid 1 so far.
static PEAK: AtomicU64 = AtomicU64::new(0);

/// Most memory that this program had, in bytes: this process or one of its sandboxes, whichever had more. The programs
/// that they ran are not counted.
pub(crate) fn peak_memory() -> u64 {
    own_peak().max(PEAK.load(Ordering::Relaxed))
}

/// `VmHWM` of this process (proc(5)).
fn own_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or_default();
    kib * 1024
}

/// Runs `job` in a sandbox of its own and returns its answer.
///
/// # Errors
/// The job's own error; or why the host gives no namespaces, with the remedy.
pub(crate) fn run<J: Job>(job: &J, sink: &dyn Sink) -> Result<J::Answer> {
    let exe = std::env::current_exe().context("finding this program's own file")?;
    let mut child = Command::new(exe)
        .arg("sandbox")
        .env_clear()
        .envs(environment(std::env::vars_os()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a sandbox")?;
    let result = converse(&mut child, job, sink);
    if result.is_err() {
        // Ends whatever still runs; pid 1 dies with its parent.
        child.kill().ok();
    }
    child.wait().context("waiting for the sandbox")?;
    let answer = result.with_context(|| job.doing())?;
    serde_json::from_value(answer).context("reading the sandbox's answer")
}

/// What of the caller's environment a sandbox gets: where the host's programs are and how they are loaded, and where this
/// program's own tests say that things are. No locale, no time zone: what is made does not depend on them.
fn environment(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    // The last, and what begins with FAKETIME, belong to a library that LD_PRELOAD names.
    const NAMES: [&str; 3] = ["PATH", "TMPDIR", "NO_FAKE_STAT"];
    const PREFIXES: [&str; 3] = ["EDGEPRESS_", "FAKETIME", "LD_"];
    let kept = |name: &OsString| {
        let name = name.to_string_lossy();
        NAMES.contains(&name.as_ref()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let stated = ("LC_ALL".into(), "C.UTF-8".into());
    all.filter(|(name, _)| kept(name)).chain([stated]).collect()
}

fn converse<J: Job>(child: &mut Child, job: &J, sink: &dyn Sink) -> Result<serde_json::Value> {
    let mut input = child.stdin.take().context("opening the sandbox's standard input")?;
    let output = BufReader::new(child.stdout.take().context("opening the sandbox's standard output")?);
    for line in output.lines() {
        let line = line.context("reading from the sandbox")?;
        match serde_json::from_str(&line).with_context(|| format!("understanding the sandbox's `{line}`"))? {
            Line::Unshared => {
                users::write_maps(child.id(), job.users())?;
                input.write_all(&job::write(job)?).context("handing the sandbox its job")?;
            }
            Line::Event(event) => sink.emit(event),
            Line::Answer { value, peak } => {
                PEAK.fetch_max(peak, Ordering::Relaxed);
                return Ok(value);
            }
            Line::Failed { input, message, hint } => {
                let kind = if input { ProblemKind::Input } else { ProblemKind::Work };
                return Err(Problem { kind, hint, ..Problem::work(message) }.into());
            }
        }
    }
    Err(anyhow!("the sandbox ended without an answer"))
}

/// Reads one line of at most 256 MiB from standard input, byte by byte so that nothing behind it is swallowed.
fn read_job_line() -> Result<String> {
    let mut text = Vec::new();
    let stdin = std::io::stdin();
    stdin.lock().take(256 << 20).read_until(b'\n', &mut text).context("reading the sandbox's job")?;
    anyhow::ensure!(text.ends_with(b"\n"), "the parent went away");
    String::from_utf8(text).context("reading the sandbox's job")
}

fn say(line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&text)?;
    stdout.flush().context("writing to the sandbox's parent")
}

/// Passes events to the parent.
struct Pipe;

impl Sink for Pipe {
    fn emit(&self, event: Event) {
        // A parent that no longer listens is about to kill this process anyway.
        say(&Line::Event(event)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::environment;

    #[test]
    fn the_caller_s_environment_stays_outside() {
        let all = [
            ("PATH", "/bin"),
            ("TZ", "Asia/Tokyo"),
            ("LANG", "de_DE"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("LD_PRELOAD", "y"),
        ];
        let kept = environment(all.into_iter().map(|(name, value)| (name.into(), value.into())));
        let expected = [("PATH", "/bin"), ("LD_PRELOAD", "y"), ("LC_ALL", "C.UTF-8")];
        assert_eq!(kept, expected.map(|(name, value)| (name.into(), value.into())));
    }
}
