//! The machines that QEMU emulates, one file each: which board and architecture they stand for, and how they are
//! started.

mod bios;
mod pc;
pub(crate) mod raspi3b;
mod virt;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::raspi3b::Loaded;
use super::accel::{self, Accel, Wanted};
use super::firmware::Firmware;
use super::milestone::Milestone;
use super::{azure, tpm};
use crate::error::Problem;
use crate::recipe::types::Board;
use crate::units::{Arch, ByteSize};

/// The name of the socket for QEMU's machine protocol.
pub(crate) const CONTROL: &str = "control";

/// QEMU's name of the network that the machine's adapter is connected to.
pub(crate) const NETWORK: &str = "net0";

/// What the machine's clock shows if nobody says otherwise: the time.
pub(crate) const NOW: &str = "utc";

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Machine {
    /// A 64-bit PC with UEFI (`q35`).
    Pc,
    /// A 64-bit Arm machine with UEFI (`virt`).
    Virt,
    /// A Raspberry Pi 3 B (`raspi3b`).
    Raspi3b,
    /// A 64-bit PC with a BIOS (`pc`).
    Bios,
}

/// One machine to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// QEMU, found on the PATH.
    pub program: PathBuf,
    /// Sets this machine apart from every other one on the host.
    pub uuid: String,
    /// The disk: a qcow2 file that is written to.
    pub disk: PathBuf,
    /// The machine, and what it runs first.
    pub start: Start,
    /// KVM or TCG.
    pub accel: Accel,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// The power will be cut: what the guest flushes must be in the disk's file then.
    pub cut: bool,
    /// What its own clock shows at power-on, as QEMU's `-rtc base=` takes it.
    pub clock: String,
    /// With a TPM, whose emulator listens at [`tpm::SOCKET`].
    pub tpm: bool,
    /// The disc that Azure puts into a new VM's drive; the machine is then described as one of Azure's.
    pub provisioning_disc: Option<PathBuf>,
    /// It waits for QEMU's machine protocol to let it go.
    pub paused: bool,
    /// A private folder, QEMU's working folder; the socket [`CONTROL`] for its machine protocol is made there.
    pub folder: PathBuf,
}

/// A machine and what it runs first. Firmware's variables are a private copy that is written to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    /// [`Machine::Pc`].
    Pc(Firmware),
    /// [`Machine::Virt`].
    Virt(Firmware),
    /// [`Machine::Raspi3b`]: QEMU runs no firmware of this machine, so its work was done before.
    Raspi3b(Loaded),
    /// [`Machine::Bios`]: its firmware is QEMU's own.
    Bios,
}

impl Machine {
    /// The machine that boots images for this board and architecture; none that edgepress can start.
    pub(crate) fn of(arch: Arch, board: Board) -> Option<Self> {
        match (arch, board) {
            (Arch::X86_64, Board::Uefi) => Some(Self::Pc),
            (Arch::Aarch64, Board::Uefi) => Some(Self::Virt),
            (Arch::Aarch64, Board::RaspberryPi) => Some(Self::Raspi3b),
            (Arch::X86_64, Board::Bios) => Some(Self::Bios),
            (Arch::X86_64, Board::RaspberryPi) | (Arch::Aarch64, Board::Bios) => None,
        }
    }

    /// QEMU's program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Pc => pc::PROGRAM,
            Self::Virt => virt::PROGRAM,
            Self::Raspi3b => raspi3b::PROGRAM,
            Self::Bios => bios::PROGRAM,
        }
    }

    /// QEMU's short name, as in firmware descriptors.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Pc => pc::NAME,
            Self::Virt => virt::NAME,
            Self::Raspi3b => raspi3b::NAME,
            Self::Bios => bios::NAME,
        }
    }

    /// What this machine is described as in a report.
    pub(crate) fn arch(self) -> Arch {
        match self {
            Self::Pc | Self::Bios => Arch::X86_64,
            Self::Virt | Self::Raspi3b => Arch::Aarch64,
        }
    }

    /// In words, with which a sentence begins.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Pc | Self::Virt => "a machine with UEFI",
            Self::Raspi3b => "a Raspberry Pi",
            Self::Bios => "a PC with a BIOS",
        }
    }

    /// Does QEMU run UEFI firmware on it, which has to be found?
    pub(crate) fn has_firmware(self) -> bool {
        match self {
            Self::Pc | Self::Virt => true,
            Self::Raspi3b | Self::Bios => false,
        }
    }

    /// Is its disk a card, whose length is a power of two?
    pub(crate) fn has_card(self) -> bool {
        self == Self::Raspi3b
    }

    /// Has it a clock that runs while the power is off, and can a TPM be attached?
    pub(crate) fn has_clock_and_tpm(self) -> bool {
        self != Self::Raspi3b
    }

    /// Does the guest learn that it shall shut down?
    pub(crate) fn has_power_button(self) -> bool {
        self != Self::Raspi3b
    }

    /// Seconds from power-on to the last milestone, if the user does not say.
    pub(crate) fn timeout(self) -> f64 {
        match self {
            Self::Pc | Self::Virt | Self::Bios => 180.0,
            Self::Raspi3b => raspi3b::TIMEOUT,
        }
    }

    /// Its processors and memory: what the user wants, or what it has.
    ///
    /// # Errors
    /// When the machine has another number, and no other.
    pub(crate) fn size(self, cpus: Option<u32>, memory: Option<ByteSize>) -> Result<(u32, ByteSize)> {
        if self != Self::Raspi3b {
            return Ok((cpus.unwrap_or(2), memory.unwrap_or(ByteSize::mib(2048))));
        }
        let (own_cpus, own_memory) = (raspi3b::CPUS, raspi3b::MEMORY);
        if cpus.is_some_and(|cpus| cpus != own_cpus) || memory.is_some_and(|memory| memory != own_memory) {
            return Err(Problem::input(format!(
                "a Raspberry Pi 3 has {own_cpus} processors and {own_memory} of memory, and no others"
            ))
            .hint("leave out --cpus and --memory")
            .into());
        }
        Ok((own_cpus, own_memory))
    }

    /// What it runs on, on this host.
    ///
    /// # Errors
    /// When KVM is demanded and cannot run it.
    pub(crate) fn accel(self, wanted: Wanted) -> Result<Accel> {
        match (self, wanted) {
            // Its processor is a model of its own.
            (Self::Raspi3b, Wanted::Auto | Wanted::Tcg) => Ok(Accel::Tcg),
            (Self::Raspi3b, Wanted::Kvm) => Err(Problem::input("KVM cannot run a Raspberry Pi 3")
                .hint("leave out --accel: software emulation works everywhere")
                .into()),
            (Self::Pc | Self::Virt | Self::Bios, _) => accel::choose(wanted, self.arch()),
        }
    }
}

impl Boot {
    /// A device that is plugged in when this milestone is reached, as QEMU's machine protocol takes it.
    pub(crate) fn plugged_in_at(&self, milestone: Milestone) -> Option<Value> {
        match (&self.start, milestone) {
            (Start::Raspi3b(_), Milestone::Userspace) => Some(raspi3b::network()),
            _ => None,
        }
    }

    /// QEMU's arguments: the machine's own, then what all machines share.
    ///
    /// The serial console is on QEMU's standard output. The network is QEMU's user mode, so the guest sees what this
    /// process' network namespace holds.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments::default();
        match &self.start {
            Start::Pc(firmware) => pc::arguments(self, firmware, &mut args),
            Start::Virt(firmware) => virt::arguments(self, firmware, &mut args),
            Start::Raspi3b(loaded) => raspi3b::arguments(self, loaded, &mut args),
            Start::Bios => bios::arguments(self, &mut args),
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
        // Not `serial0`: that is what QEMU itself calls a `-serial null`.
        args.option("-chardev", "stdio,id=console,signal=off");
        // By its bare name: a socket's whole path may have 107 bytes at most.
        args.option("-chardev", format!("socket,id=control,server=on,wait=off,path={CONTROL}"));
        args.option("-mon", "chardev=control,mode=control");
        args.option("-netdev", format!("user,id={NETWORK},ipv6=off"));
        if self.paused {
            args.flag("-S");
        }
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

    /// UEFI firmware: its code and its variables.
    fn firmware(&mut self, firmware: &Firmware) {
        let (code, vars) = (&firmware.code, &firmware.vars);
        let before = format!("if=pflash,unit=0,readonly=on,format={},file=", code.format);
        self.paths("-drive", &before, &code.file);
        self.paths("-drive", &format!("if=pflash,unit=1,format={},file=", vars.format), &vars.file);
    }

    /// What machines with PCI share.
    fn virtual_hardware(&mut self, boot: &Boot) {
        // The copy is thrown away: nobody needs it to survive a crash of the host. QEMU's own end is another matter.
        let cache = if boot.cut { "writeback" } else { "unsafe" };
        let before = format!("if=none,id=disk,cache={cache},discard=unmap,format=qcow2,file=");
        self.paths("-drive", &before, &boot.disk);
        self.option("-device", "virtio-blk-pci,drive=disk,bootindex=0");
        self.option("-device", "virtio-rng-pci");
        // No boot ROM: the firmware must not wait for a network boot server.
        self.option("-device", "virtio-net-pci,netdev=net0,romfile=");
        self.option("-rtc", format!("base={},clock=host", boot.clock));
        self.option("-serial", "chardev:console");
        if let Some(disc) = &boot.provisioning_disc {
            self.azure(disc);
        }
    }

    /// What makes it a VM of Azure.
    fn azure(&mut self, disc: &Path) {
        for table in azure::SMBIOS {
            self.option("-smbios", table);
        }
        self.paths("-drive", "if=none,id=disc,media=cdrom,readonly=on,format=raw,file=", disc);
        self.option("-device", "virtio-scsi-pci,id=scsi");
        self.option("-device", "scsi-cd,bus=scsi.0,drive=disc");
    }

    /// A TPM 2.0, emulated by another program; `device` is how it hangs on the machine.
    fn tpm(&mut self, boot: &Boot, device: &str) {
        if boot.tpm {
            // By its bare name: a socket's whole path may have 107 bytes at most.
            self.option("-chardev", format!("socket,id=tpm,path={}", tpm::SOCKET));
            self.option("-tpmdev", "emulator,id=tpm0,chardev=tpm");
            self.option("-device", format!("{device},tpmdev=tpm0"));
        }
    }

    /// An option whose value ends in a path: QEMU separates by commas, and a doubled comma means one.
    fn paths(&mut self, option: &str, before: &str, path: &Path) {
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
mod tests;
