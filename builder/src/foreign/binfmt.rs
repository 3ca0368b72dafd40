//! binfmt_misc: tells the kernel what starts programs of another architecture.
//!
//! Since Linux 6.7 it can be mounted in a user namespace, and a registration there is that namespace's own: no root is
//! needed and the host is not changed (the kernel's Documentation/admin-guide/binfmt-misc.rst).

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::units::Arch;

const FOLDER: &str = "/proc/sys/fs/binfmt_misc";

/// The first bytes of a little-endian ELF64 file: type ET_EXEC or ET_DYN (the mask drops the difference), then the
/// machine, EM_X86_64 or EM_AARCH64. Byte 7, the ABI, is not looked at.
const MAGIC: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00";
const MASK: &str = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";

fn machine(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => r"\x3e\x00",
        Arch::Aarch64 => r"\xb7\x00",
    }
}

/// Mounts a binfmt_misc of this user namespace's own; false where the kernel has none for user namespaces.
pub(crate) fn mount_own() -> bool {
    let none: Option<&str> = None;
    let mounted = mount(Some("binfmt_misc"), FOLDER, Some("binfmt_misc"), MsFlags::empty(), none);
    // Older kernels mount the host's, whose files belong to the host's root.
    mounted.is_ok() && fs::File::options().write(true).open(register_file()).is_ok()
}

fn register_file() -> String {
    format!("{FOLDER}/register")
}

/// Has `interpreter` start every program of `arch` that this user namespace starts.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn register(arch: Arch, interpreter: &Path) -> Result<()> {
    ensure!(mount_own(), "this kernel has no binfmt_misc for user namespaces");
    let file = fs::File::open(interpreter).with_context(|| format!("opening {}", interpreter.display()))?;
    // A path of any length and with any characters, made one that the kernel takes.
    let line = registration(arch, file.as_fd().as_raw_fd());
    fs::write(register_file(), line).context("registering the native helper with binfmt_misc")
}

/// `:name:M:offset:magic:mask:interpreter:flags`. P: the program's own argv\[0\] is passed on; F: the interpreter is
/// opened now, and so works in any tree.
fn registration(arch: Arch, interpreter: RawFd) -> String {
    format!(":edgepress-{arch}:M:0:{MAGIC}{}:{MASK}:/proc/self/fd/{interpreter}:PF", machine(arch))
}

/// Has the host a registration for `arch` that works in any tree?
pub(crate) fn host_has(arch: Arch) -> bool {
    fs::read_to_string(format!("{FOLDER}/qemu-{arch}")).is_ok_and(|text| works_anywhere(&text))
}

/// `enabled`, and flag F.
fn works_anywhere(text: &str) -> bool {
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    text.starts_with("enabled") && flags.contains('F')
}

#[cfg(test)]
mod tests {
    use super::{registration, works_anywhere};
    use crate::units::Arch;

    #[test]
    fn the_line_for_the_kernel() {
        let line = registration(Arch::Aarch64, 7);
        assert_eq!(
            line,
            r":edgepress-aarch64:M:0:\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/proc/self/fd/7:PF"
        );
    }

    #[test]
    fn the_host_s_registration() {
        let text = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n";
        assert!(works_anywhere(text));
        assert!(!works_anywhere(&text.replace("POCF", "POC")));
        assert!(!works_anywhere(&text.replace("enabled", "disabled")));
        assert!(!works_anywhere(""));
    }
}
