//! The two processes on the far side of a sandbox.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, close, setgroups, sethostname, setresgid, setresuid};

use super::job::{self, Known};
use super::{Line, Pipe, own_peak, read_job_line, say};
use crate::error::{Problem, ProblemKind, problem};
use crate::host;

/// First process: makes the namespaces, waits for the parent's maps and the job, and starts pid 1.
///
/// Must be called while the process has one thread: the kernel refuses a user namespace to others.
///
/// # Errors
/// When the parent is gone. Everything else is told to the parent.
pub(crate) fn outer() -> Result<()> {
    match enter_and_start() {
        Ok(()) => Ok(()),
        Err(error) => say(&failed(&error)),
    }
}

fn enter_and_start() -> Result<()> {
    die_with_parent()?;
    close_what_was_inherited()?;
    raise_limits();
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET;
    unshare(flags).map_err(|errno| refused("unshare", errno))?;
    say(&Line::Unshared)?;
    let text = read_job_line()?;
    become_root()?;
    // A change of credentials clears the parent-death signal.
    die_with_parent()?;
    let mut child = Command::new("/proc/self/exe")
        .args(["sandbox", "--inner"])
        .stdin(Stdio::piped())
        .spawn()
        .context("starting pid 1 of the sandbox")?;
    let mut pipe = child.stdin.take().context("opening the standard input of pid 1")?;
    std::io::Write::write_all(&mut pipe, text.as_bytes())?;
    drop(pipe);
    let status = child.wait()?;
    if !status.success() {
        bail!("the sandbox's first process died: {status}");
    }
    Ok(())
}

/// Closes files that the caller left open, a lock or a socket of its shell: nothing of them is for a sandbox.
fn close_what_was_inherited() -> Result<()> {
    const STANDARD: i32 = 2;
    let entries = fs::read_dir("/proc/self/fd").context("listing open files")?;
    let numbers: Vec<i32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > STANDARD) {
        // The listing's own file is closed already.
        close(number).ok();
    }
    Ok(())
}

/// Takes the caller's limits away as far as they can be: a shell's `ulimit` must not decide whether an image can be made.
fn raise_limits() {
    for resource in [
        Resource::RLIMIT_AS,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_STACK,
    ] {
        let Ok((_, hard)) = getrlimit(resource) else { continue };
        if setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).is_err() {
            setrlimit(resource, hard, hard).ok();
        }
    }
}

pub(super) fn die_with_parent() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("asking to die with the parent")
}

fn become_root() -> Result<()> {
    // With a map of one id the kernel denies setgroups, and there is nothing to drop.
    match setgroups(&[]) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno).context("dropping groups in the sandbox"),
    }
    let (root, root_group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root_group, root_group, root_group).map_err(|errno| refused("setresgid", errno))?;
    setresuid(root, root, root).map_err(|errno| refused("setresuid", errno))?;
    Ok(())
}

/// Pid 1: private mounts, a fresh /proc, `lo` up; then the job, which is one of those that are known.
///
/// # Errors
/// When the parent is gone. Everything else is told to the parent.
pub(crate) fn inner(known: &[Known]) -> Result<()> {
    let answer = die_with_parent().and_then(|()| settle()).and_then(|()| {
        let job = job::read(&read_job_line()?, known)?;
        if let Some(world) = job.world() {
            forbid_user_namespaces()?;
            world.enter()?;
        }
        job.execute(&Pipe)
    });
    say(&answer.map_or_else(|error| failed(&error), |value| Line::Answer { value, peak: own_peak() }))
}

fn settle() -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| refused("mount", errno))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(|errno| refused("mount /proc", errno))?;
    sethostname("edgepress").context("naming the sandbox")?;
    // The NIS domain, which no package has a use for; an ordinary user may not set it.
    fs::write("/proc/sys/kernel/domainname", "(none)").ok();
    host::run(host::command("ip")?.args(["link", "set", "lo", "up"])).map(drop)
}

/// In a user namespace of its own, a script would have every capability again, over mounts and networks of its own making.
fn forbid_user_namespaces() -> Result<()> {
    fs::write("/proc/sys/user/max_user_namespaces", "0").context("forbidding user namespaces in the sandbox")
}

/// The host does not let us: say what would.
fn refused(what: &str, errno: Errno) -> anyhow::Error {
    let message = format!("this host refuses user namespaces to this user ({what}: {})", errno.desc());
    let problem = Problem::work(message);
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    let hint = if sysctl("kernel/apparmor_restrict_unprivileged_userns").trim() == "1" {
        "Ubuntu's AppArmor forbids them: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run edgepress as root"
    } else if sysctl("kernel/unprivileged_userns_clone").trim() == "0" {
        "allow them: sudo sysctl kernel.unprivileged_userns_clone=1, or run edgepress as root"
    } else if sysctl("user/max_user_namespaces").trim() == "0" {
        "allow them: sudo sysctl user.max_user_namespaces=10000"
    } else {
        "in a container, start it privileged (docker run --privileged); in a chroot the kernel allows none; else run \
         edgepress as root"
    };
    problem.hint(hint).into()
}

fn failed(error: &anyhow::Error) -> Line {
    let found = problem(error);
    Line::Failed {
        input: found.is_some_and(|problem| problem.kind == ProblemKind::Input),
        message: format!("{error:#}"),
        hint: found.and_then(|problem| problem.hint.clone()),
    }
}
