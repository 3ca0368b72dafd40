//! The milestones from power-on to a provisioned device, and the lines of a console that tell them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a device has got to, in the usual order. DPS may see the device before first boot says that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Milestone {
    /// The firmware starts the disk's boot loader; on a Raspberry Pi, whose firmware QEMU does not run, what it would
    /// load is loaded.
    Firmware,
    /// The kernel runs.
    Kernel,
    /// The root file system's init runs.
    Userspace,
    /// The container engine is up.
    Engine,
    /// First boot put the identity in its place and applied the configuration.
    FirstBoot,
    /// DPS took the registration.
    DpsRegistered,
    /// DPS assigned a hub.
    DpsAssigned,
    /// The device asked the hub for edgeAgent's identity.
    AgentIdentity,
    /// The edgeAgent container runs: it connected to the hub.
    AgentRunning,
}

impl Milestone {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Firmware,
        Self::Kernel,
        Self::Userspace,
        Self::Engine,
        Self::FirstBoot,
        Self::DpsRegistered,
        Self::DpsAssigned,
        Self::AgentIdentity,
        Self::AgentRunning,
    ];

    /// The name in reports: `dps-registered`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
            Self::Engine => "engine",
            Self::FirstBoot => "first-boot",
            Self::DpsRegistered => "dps-registered",
            Self::DpsAssigned => "dps-assigned",
            Self::AgentIdentity => "agent-identity",
            Self::AgentRunning => "agent-running",
        }
    }

    /// What a person reads.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Firmware => "firmware starts the boot loader",
            Self::Kernel => "kernel runs",
            Self::Userspace => "init runs",
            Self::Engine => "container engine is up",
            Self::FirstBoot => "first boot is done",
            Self::DpsRegistered => "DPS took the registration",
            Self::DpsAssigned => "DPS assigned a hub",
            Self::AgentIdentity => "edgeAgent's identity requested",
            Self::AgentRunning => "edgeAgent runs",
        }
    }

    /// Was it read off the console, or seen by a simulator?
    pub fn on_console(self) -> bool {
        self <= Self::FirstBoot
    }
}

impl fmt::Display for Milestone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one line of the console says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sign {
    /// A milestone.
    Reached(Milestone),
    /// The boot cannot succeed any more, and why.
    Fatal(String),
}

/// First boot's words, as the device writes them.
pub(crate) const FIRST_BOOT_DONE: &str = "edgepress: first boot: configured: registration id ";
/// Its very last words, when DPS has assigned a hub and that is recorded.
pub(crate) const FIRST_BOOT_THROUGH: &str = "edgepress: first boot: done: ";
const FIRST_BOOT_REFUSED: &str = "edgepress: first boot: refused: ";

/// A line that holds any of these words tells the milestone.
const REACHED: &[(Milestone, &[&str])] = &[
    // OVMF; then grub and the kernel's own stub, for firmware that says nothing.
    (Milestone::Firmware, &["BdsDxe: starting Boot", "Welcome to GRUB", "GRUB loading", "EFI stub: "]),
    (Milestone::Kernel, &["Linux version "]),
    // systemd's own first words, by way of the kernel's log and of its status output.
    (
        Milestone::Userspace,
        &["running in system mode", "Welcome to Debian", "Welcome to Ubuntu", "Welcome to Rasp"],
    ),
    // "Started docker.service - Docker Application Container Engine." since systemd 250, before that only the description.
    // systemd's status lines end when the login prompt takes the console; overlays/base has the unit itself say it.
    (
        Milestone::Engine,
        &[
            "edgepress: container engine is up",
            "Started docker.service",
            "Started Docker Application Container Engine",
        ],
    ),
    // The second words alone are heard where the power was cut before the first ones came out.
    (Milestone::FirstBoot, &[FIRST_BOOT_DONE, FIRST_BOOT_THROUGH]),
];

/// A line that holds any of these words ends the boot.
const FATAL: &[(&str, &str)] = &[
    ("Kernel panic - not syncing", "the kernel panicked"),
    ("X64 Exception Type", "the firmware crashed"),
    ("Synchronous Exception at 0x", "the firmware crashed"),
    ("Security Violation", "secure boot refused the boot loader"),
    ("No bootable option or device was found", "the firmware found nothing to boot"),
    ("\"EFI Internal Shell\"", "the firmware found nothing to boot on the disk"),
    (">>Start PXE", "the firmware found nothing to boot on the disk"),
    (">>Start HTTP Boot", "the firmware found nothing to boot on the disk"),
    ("UEFI Interactive Shell", "the firmware found nothing to boot"),
    ("No bootable device", "the firmware found nothing to boot"),
    ("grub rescue>", "grub stopped at its prompt"),
    ("You are in emergency mode", "the system went into emergency mode"),
    ("You are in rescue mode", "the system went into rescue mode"),
    ("Freezing execution", "init died"),
];

/// systemd's words before the name of a unit that failed.
const FAILURES: &[&str] = &["Failed to start ", "Dependency failed for "];

/// Units without which no device gets provisioned, by name and (as older versions of systemd show them) description.
/// aziot's own are not among them: they are started again until network and clock are there.
const UNITS: &[&str] = &[
    "docker.service",
    "Docker Application Container Engine",
    "containerd",
    "edgepress",
    "local-fs.target",
    "Local File",
];

/// Prompts that wait for a person, which a test has none of.
const PROMPTS: &[(&str, &str)] = &[
    ("(initramfs)", "the initramfs gave up and waits for a person"),
    ("grub>", "the boot loader stopped at its prompt"),
    ("grub rescue>", "the boot loader stopped at its prompt"),
    ("Shell>", "the firmware found nothing to boot"),
    ("Give root password for maintenance", "the system went into emergency mode"),
    ("Press Enter for maintenance", "the system went into emergency mode"),
];

/// Reads a whole line of the console.
pub(crate) fn read(line: &str) -> Option<Sign> {
    if let Some((_, reason)) = line.split_once(FIRST_BOOT_REFUSED) {
        return Some(Sign::Fatal(format!("first boot refused the identity: {reason}")));
    }
    if let Some((_, meaning)) = FATAL.iter().find(|(words, _)| line.contains(words)) {
        return Some(Sign::Fatal(format!("{meaning}: {line}")));
    }
    if FAILURES.iter().any(|words| failed_unit(line, words)) {
        return Some(Sign::Fatal(format!("a unit failed: {line}")));
    }
    let reached = REACHED.iter().find(|(_, words)| words.iter().any(|words| line.contains(words)));
    reached.map(|(milestone, _)| Sign::Reached(*milestone)).or_else(|| prompt(line))
}

/// Reads a line that has begun and not ended.
pub(crate) fn prompt(pending: &str) -> Option<Sign> {
    let (_, meaning) = PROMPTS.iter().find(|(words, _)| pending.starts_with(words))?;
    Some(Sign::Fatal((*meaning).to_owned()))
}

fn failed_unit(line: &str, words: &str) -> bool {
    let name = line.split_once(words).map(|(_, name)| name);
    name.is_some_and(|name| UNITS.iter().any(|unit| name.starts_with(unit)))
}

#[cfg(test)]
mod tests {
    use super::Milestone::{Engine, Firmware, FirstBoot, Kernel, Userspace};
    use super::{Milestone, Sign, prompt, read};

    #[test]
    fn milestones_of_real_consoles() {
        for (line, milestone) in [
            ("BdsDxe: starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x2,0x0)", Firmware),
            ("[    0.000000] Linux version 6.1.0-40-amd64 (debian-kernel@lists.debian.org)", Kernel),
            (
                "[   11.3] systemd[1]: systemd 252.39-1~deb12u1 running in system mode (+PAM +AUDIT)",
                Userspace,
            ),
            ("Welcome to Debian GNU/Linux 12 (bookworm)!", Userspace),
            ("[  OK  ] Started docker.service - Docker Application Container Engine.", Engine),
            ("[  OK  ] Started Docker Application Container Engine.", Engine),
            ("[   40.1] edgepress: first boot: configured: registration id abc", FirstBoot),
        ] {
            assert_eq!(read(line), Some(Sign::Reached(milestone)), "{line}");
        }
    }

    #[test]
    fn what_ends_a_boot() {
        for (line, reason) in [
            (
                "[ 3.1] Kernel panic - not syncing: VFS: Unable to mount root fs",
                "the kernel panicked: [ 3.1] Ke",
            ),
            (
                "[FAILED] Failed to start docker.service - Docker Application Container Engine.",
                "a unit failed: ",
            ),
            ("[DEPEND] Dependency failed for local-fs.target - Local File Systems.", "a unit failed: "),
            (
                "edgepress: Failed to start docker.service; see journalctl -u docker.service",
                "a unit failed: ",
            ),
            ("You are in emergency mode. After logging in, type", "the system went into emergency mode"),
            ("(initramfs) ", "the initramfs gave up"),
            (
                "BdsDxe: starting Boot0002 \"EFI Internal Shell\" from Fv(7CB8)",
                "the firmware found nothing to boot",
            ),
            (
                "edgepress: first boot: refused: the key does not match",
                "first boot refused the identity: the key does",
            ),
        ] {
            let Some(Sign::Fatal(found)) = read(line) else { panic!("{line} is not fatal") };
            assert!(found.starts_with(reason), "{found}");
        }
        assert!(prompt("grub> ").is_some());
    }

    #[test]
    fn ordinary_lines_say_nothing() {
        for line in [
            "",
            "BdsDxe: loading Boot0001 \"UEFI Misc Device\"",
            "[FAILED] Failed to start systemd-networkd-wait-online.service - Wait for Network.",
            "[FAILED] Failed to start aziot-edged.service - Azure IoT Edge daemon.",
            "edgepress: first boot: waiting: no identity in edgepress/ on the FAT partition",
            "Starting docker.service - Docker Application Container Engine...",
            "edge login: ",
            "Failed to start ",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn names_are_those_of_the_json() {
        for milestone in Milestone::ALL {
            assert_eq!(serde_json::to_value(milestone).expect("json"), milestone.name());
        }
    }
}
