//! What came of a test, for people and machines.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::accel::Accel;
use super::checks::{Check, Outcome};
use super::machine::Machine;
use super::milestone::Milestone;
use super::{junit, timeline};
use crate::units::{Arch, ByteSize, Digest};

/// `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All milestones came in time.
    pub provisioned: bool,
    /// Provisioned, and no check failed.
    pub passed: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Milestone → seconds since power-on, by the host's clock.
    pub seconds: BTreeMap<Milestone, f64>,
    /// Seconds that the device had.
    pub timeout: f64,
    /// What was looked at besides.
    pub checks: Vec<Check>,
    /// The image.
    pub image: ImageFacts,
    /// The machine.
    pub machine: MachineFacts,
    /// The simulators.
    pub simulator: SimulatorFacts,
    /// The console's last lines.
    pub console_tail: Vec<String>,
    /// Version of edgepress that tested.
    pub edgepress: String,
}

/// The image under test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// File name.
    pub file: String,
    /// Recipe name.
    pub name: String,
    /// SHA-256 as the manifest has it.
    pub sha256: Option<Digest>,
    /// Version of edgepress that built it.
    pub built_by: String,
    /// Kernels in it.
    pub kernels: Vec<String>,
}

/// The machine that it ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Which one.
    pub machine: Machine,
    /// Architecture.
    pub arch: Arch,
    /// QEMU's version, as it says it.
    pub qemu: String,
    /// KVM or TCG.
    pub accel: Accel,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Firmware's code; none where the image's kernel was loaded in the firmware's place.
    pub firmware: Option<PathBuf>,
    /// Secure boot was on.
    pub secure_boot: bool,
}

/// What the simulators saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SimulatorFacts {
    /// The registration id that the device was given.
    pub registration_id: String,
    /// Service and kind of request → how often.
    pub requests: BTreeMap<String, u64>,
}

impl Report {
    /// The checks that failed.
    pub fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Failed)
    }

    /// When the last milestone came.
    pub fn total(&self) -> f64 {
        self.seconds.values().copied().fold(0.0, f64::max)
    }

    /// Writes report.json, junit.xml and timeline.svg into `folder`, each by rename.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        publish(&folder.join("report.json"), json.as_bytes())?;
        publish(&folder.join("junit.xml"), junit::render(self).as_bytes())?;
        publish(&folder.join("timeline.svg"), timeline::render(self).as_bytes())
    }
}

/// Writes a whole file by rename, so that a reader never sees half of it.
///
/// # Errors
/// When it cannot be written.
pub fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    fs::write(&beside, bytes).with_context(|| format!("writing {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("renaming {} to {}", beside.display(), path.display()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for milestone in Milestone::ALL {
            match self.seconds.get(&milestone) {
                Some(at) => writeln!(f, "{:<16} {at:>7.1} s  {}", milestone.name(), milestone.meaning())?,
                None => writeln!(f, "{:<16} {:>7}    {}", milestone.name(), "-", milestone.meaning())?,
            }
        }
        for check in &self.checks {
            let word = match check.outcome {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            writeln!(f, "{:<16} {word:>9}  {}", check.name, check.detail)?;
        }
        if !self.provisioned && !self.console_tail.is_empty() {
            writeln!(f, "\nthe console's last lines:")?;
            self.console_tail.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        writeln!(f)?;
        match (&self.reason, self.provisioned) {
            (None, _) => write!(f, "PROVISIONED in {:.1} s", self.total()),
            (Some(reason), true) => write!(f, "PROVISIONED in {:.1} s, but FAILED: {reason}", self.total()),
            (Some(reason), false) => write!(f, "FAILED: {reason}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{ImageFacts, MachineFacts, Report, SimulatorFacts, publish};
    use crate::prove::accel::Accel;
    use crate::prove::checks::Check;
    use crate::prove::machine::Machine;
    use crate::prove::milestone::Milestone;
    use crate::units::{Arch, ByteSize};

    /// A device that was provisioned in 65.5 s.
    pub fn good() -> Report {
        let times = [2.1, 6.4, 11.8, 37.25, 48.9, 52.0, 57.3, 59.0, 65.5];
        Report {
            provisioned: true,
            passed: true,
            reason: None,
            seconds: Milestone::ALL.into_iter().zip(times).collect(),
            timeout: 180.0,
            checks: vec![
                Check::new("image-unaltered", true, "nothing was written"),
                Check::skipped("root-grew", "<&>"),
            ],
            image: ImageFacts {
                file: "demo.img".into(),
                name: "demo".into(),
                sha256: None,
                built_by: "0.1.0".into(),
                kernels: vec!["6.1.0-40-amd64".into()],
            },
            machine: MachineFacts {
                machine: Machine::Pc,
                arch: Arch::X86_64,
                qemu: "QEMU emulator version 7.2".into(),
                accel: Accel::Tcg,
                cpus: 2,
                memory: ByteSize::mib(2048),
                firmware: Some("/usr/share/OVMF/OVMF_CODE_4M.fd".into()),
                secure_boot: false,
            },
            simulator: SimulatorFacts::default(),
            console_tail: vec!["the last line".into()],
            edgepress: "0.1.0".into(),
        }
    }

    /// A device that stopped after first boot.
    pub fn bad() -> Report {
        let mut report = good();
        report.seconds.retain(|milestone, _| milestone.on_console());
        report.checks.push(Check::new("secrets-wiped", false, "the key is still there"));
        (report.provisioned, report.passed) = (false, false);
        report.reason = Some("DPS answered 401 <Unauthorized> & \"more\"\u{1}".into());
        report
    }

    #[test]
    fn text() {
        let text = good().to_string();
        assert!(text.contains("\nengine              37.2 s  container engine is up\n"), "{text}");
        assert!(text.ends_with("\n\nPROVISIONED in 65.5 s"), "{text}");
        assert!(!text.contains("last line"));
        let text = bad().to_string();
        assert!(text.contains("\ndps-registered         -    DPS took the registration\n"), "{text}");
        assert!(text.contains("the console's last lines:\n  the last line\n"), "{text}");
        assert!(text.contains("FAILED: DPS answered 401"), "{text}");
    }

    #[test]
    fn json_has_milestones_by_name() {
        let json = serde_json::to_value(good()).expect("json");
        assert_eq!(json["seconds"]["agent-running"], 65.5);
        assert_eq!(json["checks"][1]["outcome"], "skipped");
        assert_eq!(serde_json::from_value::<Report>(json).expect("back"), good());
    }

    #[test]
    fn files_appear_whole() {
        let folder = tempfile::tempdir().expect("temp dir");
        bad().write(folder.path()).expect("write");
        publish(&folder.path().join("report.json"), b"new").expect("again");
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("read")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
            .collect();
        names.sort();
        assert_eq!(names, ["junit.xml", "report.json", "timeline.svg"]);
        assert!(publish(&folder.path().join("no/such"), b"").is_err());
    }
}
