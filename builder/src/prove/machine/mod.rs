//! The machines that QEMU emulates, one file each: which board and architecture they stand for, and how they are
//! started.

mod pc;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::accel::Accel;
use super::firmware::Firmware;
use crate::recipe::types::Board;
use crate::units::{Arch, ByteSize};

/// The name of the socket for QEMU's machine protocol.
pub const CONTROL: &str = "control";

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Machine {
    /// A 64-bit PC with UEFI (`q35`).
    Pc,
}

/// One machine to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Boot {
    /// QEMU, found on the PATH.
    pub program: PathBuf,
    /// The machine.
    pub machine: Machine,
    /// Sets this machine apart from every other one on the host.
    pub uuid: String,
    /// The disk: a qcow2 file that is written to.
    pub disk: PathBuf,
    /// Firmware; its variables are a private copy that is written to.
    pub firmware: Firmware,
    /// KVM or TCG.
    pub accel: Accel,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// A private folder, QEMU's working folder; the socket [`CONTROL`] for its machine protocol is made there.
    pub folder: PathBuf,
}

impl Machine {
    /// The machine that boots images for this board and architecture; none that edgepress can start yet.
    pub fn of(arch: Arch, board: Board) -> Option<Self> {
        match (arch, board) {
            (Arch::X86_64, Board::Uefi) => Some(Self::Pc),
            (Arch::Aarch64, Board::Uefi) | (_, Board::RaspberryPi) => None,
        }
    }

    /// QEMU's program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Pc => pc::PROGRAM,
        }
    }

    /// QEMU's short name, as in firmware descriptors.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Pc => pc::NAME,
        }
    }

    /// What this machine is described as in a report.
    pub fn arch(self) -> Arch {
        match self {
            Self::Pc => Arch::X86_64,
        }
    }
}

impl Boot {
    /// QEMU's arguments: the machine's own, then what all machines share.
    ///
    /// The serial console is on QEMU's standard output. The network is QEMU's user mode, so the guest sees what this
    /// process' network namespace holds.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments::default();
        match self.machine {
            Machine::Pc => pc::arguments(self, &mut args),
        }
        args.option("-name", format!("edgepress-test-{}", self.uuid));
        args.option("-uuid", &self.uuid);
        args.option("-smp", self.cpus.to_string());
        // QEMU takes plain numbers as MiB.
        args.option("-m", format!("{}B", self.memory.0));
        // -no-reboot: a guest that starts over would look like one that hangs.
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            args.flag(flag);
        }
        args.option("-display", "none");
        args.option("-monitor", "none");
        args.option("-rtc", "base=utc,clock=host");
        args.option("-chardev", "stdio,id=serial0,signal=off");
        args.option("-serial", "chardev:serial0");
        // By its bare name: a socket's whole path may have 107 bytes at most.
        args.option("-chardev", format!("socket,id=control,server=on,wait=off,path={CONTROL}"));
        args.option("-mon", "chardev=control,mode=control");
        args.option("-netdev", "user,id=net0,ipv6=off");
        args.0
    }
}

/// QEMU's arguments as they grow.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn option(&mut self, option: &str, value: impl AsRef<OsStr>) {
        self.0.extend([option.into(), value.as_ref().into()]);
    }

    /// An option whose value ends in a path: QEMU separates by commas, and a doubled comma means one.
    fn paths(&mut self, option: &str, before: &str, path: &std::path::Path) {
        let mut value = OsString::from(before);
        for (at, part) in path.as_os_str().as_encoded_bytes().split(|byte| *byte == b',').enumerate() {
            if at > 0 {
                value.push(",,");
            }
            // A path's bytes are the system's own, whatever their encoding.
            value.push(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(part));
        }
        self.option(option, value);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Arguments, Boot, Machine};
    use crate::prove::accel::Accel;
    use crate::prove::firmware::{Firmware, Flash};
    use crate::recipe::types::Board;
    use crate::units::{Arch, ByteSize};

    fn boot(accel: Accel, secure: bool) -> String {
        let flash = |name: &str| Flash { file: PathBuf::from(name), format: "raw".into() };
        let boot = Boot {
            program: "qemu".into(),
            machine: Machine::Pc,
            uuid: "00000000-0000-4000-8000-000000000000".into(),
            disk: "/t/disk.qcow2".into(),
            firmware: Firmware { code: flash("/f/code"), vars: flash("/t/vars"), secure },
            accel,
            cpus: 2,
            memory: ByteSize::mib(2048),
            folder: "/t".into(),
        };
        boot.arguments().iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn machines() {
        assert_eq!(Machine::of(Arch::X86_64, Board::Uefi), Some(Machine::Pc));
        assert_eq!(Machine::of(Arch::Aarch64, Board::Uefi), None);
    }

    #[test]
    fn a_pc() {
        let line = boot(Accel::Tcg, false);
        for part in [
            "-accel tcg,thread=multi",
            "-drive if=pflash,unit=0,readonly=on,format=raw,file=/f/code",
            "-drive if=pflash,unit=1,format=raw,file=/t/vars",
            "format=qcow2,file=/t/disk.qcow2",
            "-m 2147483648B",
            "-smp 2",
            "-no-reboot",
            "-netdev user,id=net0,ipv6=off",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("smm=on"));
        assert!(boot(Accel::Kvm, false).contains("-accel kvm -cpu host"));
        let secure = boot(Accel::Tcg, true);
        assert!(secure.contains("smm=on") && secure.contains("property=secure,value=on"));
    }

    #[test]
    fn commas_in_paths() {
        let mut args = Arguments::default();
        args.paths("-drive", "file=", Path::new("/a,b/c"));
        assert_eq!(args.0[1], "file=/a,,b/c");
    }
}
