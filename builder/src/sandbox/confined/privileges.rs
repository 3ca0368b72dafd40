//! What a program of the tree may do.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::utsname::uname;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::Limits;

/// What dpkg and maintainer scripts use on files of a tree that belong to many users: owners, modes, set-id bits, file
/// capabilities, changing to a user, `ldconfig -r`. None of them reaches beyond the user namespace.
const KEPT: [Capability; 9] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// Open files: what Debian's login gives.
const OPEN_FILES: (rlim_t, rlim_t) = (1024, 1 << 19);
/// Bytes of stack, soft.
const STACK: rlim_t = 8 << 20;
/// Process numbers beyond the limit of processes: what ended and was not yet waited for.
const SLACK: u64 = 1024;

/// System calls that reach what namespaces do not part: keyrings, other processes' memory, the kernel's programs and
/// counters; and asynchronous input and output, which no filter sees.
const REFUSED: [i64; 13] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
];

/// Sets the limits that the kernel keeps; needs a `/proc` that can be written.
///
/// # Errors
/// When the kernel refuses one.
pub fn limit(limits: &Limits) -> Result<()> {
    for (resource, soft, hard) in [
        (Resource::RLIMIT_CORE, 0, 0),
        (Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1),
        (Resource::RLIMIT_NPROC, limits.processes, limits.processes),
        (Resource::RLIMIT_STACK, STACK, RLIM_INFINITY),
    ] {
        let (_, most) = getrlimit(resource)?;
        let hard = hard.min(most);
        setrlimit(resource, soft.min(hard), hard).with_context(|| format!("limiting {resource:?}"))?;
    }
    // When memory runs out, the kernel ends these first, whatever else the machine does.
    fs::write("/proc/self/oom_score_adj", "1000")
        .context("offering scripts to the kernel when memory runs out")?;
    if process_numbers_are_the_namespace_s() {
        let most = limits.processes.saturating_add(SLACK).to_string();
        // A kernel may have a larger minimum; the watch holds without it.
        fs::write("/proc/sys/kernel/pid_max", most).ok();
    }
    Ok(())
}

/// Before Linux 6.14 the file sets the limit of the whole machine.
fn process_numbers_are_the_namespace_s() -> bool {
    let Ok(name) = uname() else { return false };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

/// Gives up what scripts do not get, as far as this process can do without it: capabilities that its children could have,
/// being looked into, new privileges, system calls. It keeps its own capabilities, and so stays closed to its children.
///
/// # Errors
/// When the kernel refuses.
pub fn give_up() -> Result<()> {
    for capability in caps::all() {
        if !KEPT.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability)
                .with_context(|| format!("giving up {capability}"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).context("giving up ambient capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("giving up inheritable capabilities")?;
    prctl::set_dumpable(false).context("closing this process to others")?;
    prctl::set_no_new_privs().context("giving up new privileges")?;
    apply_filter(&filter()?).context("giving up system calls")
}

fn filter() -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.into_iter().map(|number| (number, Vec::new())).collect();
    // Typing into a terminal, and what a console takes from its owner.
    rules.insert(libc::SYS_ioctl, argument(1, &[libc::TIOCSTI, TIOCLINUX])?);
    // Sockets to the hypervisor are of no network namespace.
    rules.insert(libc::SYS_socket, argument(0, &[libc::AF_VSOCK as u64])?);
    let arch = std::env::consts::ARCH.try_into().context("finding the architecture for seccomp")?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    filter.try_into().context("compiling the seccomp filter")
}

/// `ioctl_console(2)`: commands to a console, pasting among them.
const TIOCLINUX: u64 = 0x541c;

/// One rule for each value of an argument.
fn argument(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>> {
    let rule = |value: &u64| {
        let is = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
        Ok(SeccompRule::new(vec![is])?)
    };
    values.iter().map(rule).collect()
}
