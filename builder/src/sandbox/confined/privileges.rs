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
    apply_filter, sock_filter,
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
pub(super) fn limit(limits: &Limits) -> Result<()> {
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
pub(super) fn give_up() -> Result<()> {
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
    apply_filter(&filter()?).context("giving up system calls")?;
    apply_filter(&no_other_numbers()).context("giving up system calls of x32")
}

/// Where the numbers of x86-64's second table begin (`__X32_SYSCALL_BIT` in the kernel's asm/unistd.h). With CONFIG_X86_X32_ABI
/// each call has one more number there, and some have another; the architecture that a filter sees is the same.
const X32: u32 = 1 << 30;

/// Refuses that table as a kernel without it does. In a program of its own, for seccompiler's rules compare whole numbers.
fn no_other_numbers() -> BpfProgram {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // Where `nr` lies in `seccomp_data`.
    const NUMBER: u32 = 0;
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        step(LOAD, 0, 0, NUMBER),
        step(AT_LEAST, 0, 1, X32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
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

#[cfg(test)]
mod tests {
    use super::{REFUSED, X32, filter, no_other_numbers};
    use seccompiler::{BpfProgram, TargetArch};

    /// What the kernel would do with a call: the program, step by step. Its words are those that seccompiler writes.
    fn run(program: &BpfProgram, number: u32, arguments: [u64; 6]) -> u32 {
        let arch: TargetArch = std::env::consts::ARCH.try_into().expect("an architecture");
        let arch = match arch {
            TargetArch::x86_64 => 0xc000_003e_u32,
            TargetArch::aarch64 => 0xc000_00b7,
            TargetArch::riscv64 => 0xc000_00f3,
        };
        let mut data = [number.to_ne_bytes(), arch.to_ne_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut at, mut word) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match step.code {
                0x20 => {
                    let from = step.k as usize;
                    word = u32::from_ne_bytes(*data[from..].first_chunk().expect("in the data"));
                }
                0x05 => at += step.k as usize,
                0x15 => at += jump(word == step.k),
                0x25 => at += jump(word > step.k),
                0x35 => at += jump(word >= step.k),
                0x54 => word &= step.k,
                0x06 => return step.k,
                code => panic!("a step {code:#x}"),
            }
        }
    }

    /// The strictest of both counts; here one of them allows, or both.
    fn says(number: u32, arguments: [u64; 6]) -> u32 {
        let all = [filter().expect("compiles"), no_other_numbers()].map(|one| run(&one, number, arguments));
        all.into_iter().min().expect("two")
    }

    #[test]
    fn numbers_of_either_table() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let none = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for number in REFUSED {
            let number = u32::try_from(number).expect("a number");
            assert_eq!(says(number, [0; 6]), refused, "{number}");
            assert_eq!(run(&no_other_numbers(), number | X32, [0; 6]), none, "{number} of x32");
            assert_ne!(says(number | X32, [0; 6]), libc::SECCOMP_RET_ALLOW, "{number} of x32");
        }
        // x32's own numbers, among them ptrace and process_vm_writev, and no number at all.
        for number in (X32..X32 + 600).chain([u32::MAX]) {
            assert_eq!(says(number, [0; 6]), none, "{number:#x}");
        }
        let terminal = [0, libc::TIOCSTI, 0, 0, 0, 0];
        assert_eq!(says(libc::SYS_ioctl as u32, terminal), refused);
        for number in [libc::SYS_read, libc::SYS_write, libc::SYS_ioctl, libc::SYS_execve, libc::SYS_socket] {
            assert_eq!(says(number as u32, [0; 6]), libc::SECCOMP_RET_ALLOW, "{number}");
        }
    }
}
