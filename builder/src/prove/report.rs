//! What came of a test, for people and machines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::accel::Accel;
use super::fault_injection::{Injection, Moment, Planned};
use super::inside::Cut;
use super::machine::Machine;
use super::milestone::Milestone;
use super::processor::Processor;
use super::{junit, timeline};
use crate::colour::Colour;
use crate::files;
use crate::units::{Arch, ByteSize, Digest};
use crate::verdict::{Check, Outcome};

/// `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// All milestones came in time.
    pub provisioned: bool,
    /// The last milestone that was waited for: first boot, where the simulated DPS cannot know the device.
    #[serde(default = "provisioned_goal", skip_serializing_if = "is_provisioned_goal")]
    pub goal: Milestone,
    /// The goal was reached, and no check failed.
    pub passed: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Milestone → seconds since power-on, by the host's clock.
    pub seconds: BTreeMap<Milestone, f64>,
    /// Seconds that the device had.
    pub timeout: f64,
    /// Seconds from power-on until it was decided what comes of the boot: at the last milestone, or when hope was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<f64>,
    /// How much of the host's processors QEMU had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
    /// The power cut between two boots; `seconds` are then the second one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_cut: Option<PowerCut>,
    /// What was unusual besides.
    #[serde(default, skip_serializing_if = "Conditions::usual")]
    pub conditions: Conditions,
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

fn provisioned_goal() -> Milestone {
    Milestone::AgentRunning
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_provisioned_goal(goal: &Milestone) -> bool {
    *goal == provisioned_goal()
}

/// A power cut: QEMU was killed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PowerCut {
    /// When it was to be.
    pub at: Moment,
    /// What that was drawn from.
    pub seed: Option<u64>,
    /// When it was: seconds since the first power-on. None if the first boot failed before.
    pub seconds: Option<f64>,
    /// The last milestone before it.
    pub after: Option<Milestone>,
    /// Milestone → seconds since the first power-on, of what was reached before it.
    pub milestones: BTreeMap<Milestone, f64>,
}

impl PowerCut {
    /// What came of the wish for one, if there was one.
    pub(crate) fn of(injection: &Injection, cut: Option<&Cut>) -> Option<Self> {
        let none = BTreeMap::new();
        Some(Self {
            at: injection.cut?,
            seed: injection.seed,
            seconds: cut.map(|cut| rounded(cut.seconds)),
            after: cut.and_then(Cut::after),
            milestones: rounded_all(cut.map_or(&none, |cut| &cut.milestones)),
        })
    }
}

impl fmt::Display for PowerCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seconds) = self.seconds else { return write!(f, "the power was to be cut at {}", self.at) };
        write!(f, "the power was cut {seconds:.1} s after the first power-on, ")?;
        match self.after.and_then(|after| Some((after, self.milestones.get(&after)?))) {
            Some((after, at)) => write!(f, "{:.1} s after {after}", seconds - at),
            None => f.write_str("before any milestone"),
        }
    }
}

/// Milliseconds are what a clock of a test is good for.
pub(crate) fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// [`rounded`], each.
pub(crate) fn rounded_all(seconds: &BTreeMap<Milestone, f64>) -> BTreeMap<Milestone, f64> {
    seconds.iter().map(|(milestone, at)| (*milestone, rounded(*at))).collect()
}

/// What the device met that is not usual.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// What the services did wrong, as `dps=429:3`.
    #[serde(default)]
    pub faults: Vec<Planned>,
    /// Seconds that the simulated world was ahead of the host.
    #[serde(default)]
    pub clock_offset: i64,
    /// What the machine's clock showed at power-on.
    #[serde(default)]
    pub rtc: Option<String>,
    /// Seconds from power-on until the network came.
    #[serde(default)]
    pub network_after: Option<f64>,
    /// How the image came to trust the simulators, where its recipe forbids it.
    #[serde(default)]
    pub trust: Option<String>,
}

impl Conditions {
    /// As the user asked for them, and `trust`.
    pub(crate) fn of(injection: &Injection, trust: Option<String>) -> Self {
        Self {
            faults: injection.faults.clone(),
            clock_offset: injection.clock_offset,
            rtc: injection.rtc.map(|rtc| rtc.to_string()),
            network_after: injection.network_after,
            trust,
        }
    }

    /// Nothing unusual.
    pub(crate) fn usual(&self) -> bool {
        *self == Self::default()
    }

    /// One line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.faults.iter().map(|fault| format!("fault: {fault}")).collect();
        if self.clock_offset != 0 {
            lines.push(format!("the simulated world is {:+} s ahead of the host", self.clock_offset));
        }
        lines.extend(self.rtc.iter().map(|rtc| format!("the machine's clock at power-on: {rtc}")));
        lines.extend(self.network_after.iter().map(|after| format!("the network came after {after} s")));
        lines.extend(self.trust.clone());
        lines
    }
}

/// The image under test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageFacts {
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
pub(crate) struct MachineFacts {
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
    /// It had an emulated TPM.
    #[serde(default)]
    pub tpm: bool,
}

/// What the simulators saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SimulatorFacts {
    /// The registration id that the device was given.
    pub registration_id: String,
    /// Service and kind of request → how often.
    pub requests: BTreeMap<String, u64>,
}

impl Report {
    /// The checks that failed.
    pub(crate) fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Failed)
    }

    /// When a milestone was reached before the power cut, in seconds since the first power-on.
    pub(crate) fn before_cut(&self, milestone: Milestone) -> Option<f64> {
        self.power_cut.as_ref()?.milestones.get(&milestone).copied()
    }

    /// When the last milestone came.
    pub(crate) fn total(&self) -> f64 {
        self.seconds.values().copied().fold(0.0, f64::max)
    }

    /// The milestone that was waited for in vain, and from when to when, in seconds since power-on.
    pub(crate) fn waited(&self) -> Option<(Milestone, f64, f64)> {
        self.reason.as_ref()?;
        let came = |milestone: &Milestone| {
            self.seconds.contains_key(milestone) || self.before_cut(*milestone).is_some()
        };
        let missing =
            Milestone::ALL.into_iter().find(|milestone| *milestone <= self.goal && !came(milestone))?;
        let (from, to) = (self.total(), self.ended?);
        (to > from).then_some((missing, from, to))
    }

    /// When the last milestone came, or hope was given up.
    pub(crate) fn end(&self) -> f64 {
        self.waited().map_or_else(|| self.total(), |(_, _, to)| to)
    }

    /// Writes report.json, junit.xml and timeline.svg into `folder`, each by rename.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        files::write(&folder.join("report.json"), 0o644, json.as_bytes())?;
        files::write(&folder.join("junit.xml"), 0o644, junit::render(self).as_bytes())?;
        files::write(&folder.join("timeline.svg"), 0o644, timeline::render(self).as_bytes())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.conditions.lines().iter().chain(&self.power_cut.as_ref().map(ToString::to_string)) {
            writeln!(f, "{line}")?;
        }
        for milestone in Milestone::ALL {
            let (name, meaning) = (milestone.name(), milestone.meaning());
            match (self.seconds.get(&milestone), self.before_cut(milestone)) {
                (Some(at), _) => writeln!(f, "{name:<16} {at:>7.1} s  {meaning}")?,
                (None, Some(_)) => writeln!(f, "{name:<16} {:>9}  {meaning}", "before")?,
                (None, None) => writeln!(f, "{name:<16} {:>7}    {meaning}", "-")?,
            }
        }
        for check in &self.checks {
            writeln!(f, "{:<16} {}  {}", check.name, check.outcome.word(9, f.alternate()), check.detail)?;
        }
        if !self.passed && !self.provisioned && !self.console_tail.is_empty() {
            writeln!(f, "\nthe console's last lines:")?;
            self.console_tail.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        writeln!(f)?;
        let (good, bad) =
            (|word| Colour::Green.paint(word, f.alternate()), |word| Colour::Red.paint(word, f.alternate()));
        let (provisioned, failed, total) = (good("PROVISIONED"), bad("FAILED"), self.total());
        match (&self.reason, self.provisioned) {
            (None, false) => write!(
                f,
                "{} in {total:.1} s; the simulated DPS takes certificates only, so nothing registered",
                good("CONFIGURED")
            ),
            (None, true) => write!(f, "{provisioned} in {total:.1} s"),
            (Some(reason), true) => write!(f, "{provisioned} in {total:.1} s, but {failed}: {reason}"),
            (Some(reason), false) => write!(f, "{failed}: {reason}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Conditions, ImageFacts, MachineFacts, PowerCut, Report, SimulatorFacts};
    use crate::prove::accel::Accel;
    use crate::prove::machine::Machine;
    use crate::prove::milestone::Milestone;
    use crate::units::{Arch, ByteSize};
    use crate::verdict::Check;

    /// A device that was provisioned in 65.5 s.
    pub(crate) fn good() -> Report {
        let times = [2.1, 6.4, 11.8, 37.25, 48.9, 52.0, 57.3, 59.0, 65.5];
        Report {
            provisioned: true,
            goal: Milestone::AgentRunning,
            passed: true,
            reason: None,
            seconds: Milestone::ALL.into_iter().zip(times).collect(),
            timeout: 180.0,
            ended: Some(65.5),
            processor: None,
            power_cut: None,
            conditions: Conditions::default(),
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
                tpm: false,
            },
            simulator: SimulatorFacts::default(),
            console_tail: vec!["the last line".into()],
            edgepress: "0.1.0".into(),
        }
    }

    /// A device that stopped after first boot.
    pub(crate) fn bad() -> Report {
        let mut report = good();
        report.seconds.retain(|milestone, _| milestone.on_console());
        report.checks.push(Check::new("secrets-wiped", false, "the key is still there"));
        (report.provisioned, report.passed, report.ended) = (false, false, Some(180.0));
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
        assert_eq!(bad().waited(), Some((Milestone::DpsRegistered, 48.9, 180.0)));
        assert_eq!((good().waited(), good().end(), bad().end()), (None, 65.5, 180.0));
    }

    #[test]
    fn verdicts_in_colour() {
        let (good, bad) = (format!("{:#}", good()), format!("{:#}", bad()));
        assert!(good.contains("\u{1b}[32m       ok\u{1b}[0m  nothing was written\n"), "{good}");
        assert!(good.ends_with("\u{1b}[32mPROVISIONED\u{1b}[0m in 65.5 s"), "{good}");
        assert!(bad.contains("\n\u{1b}[31mFAILED\u{1b}[0m: DPS answered 401"), "{bad}");
    }

    /// A device that was provisioned in its second boot, the power having gone when first boot was done.
    pub(crate) fn cut() -> Report {
        let mut report = good();
        report.seconds.remove(&Milestone::FirstBoot);
        let milestones = good().seconds.into_iter().filter(|(milestone, _)| milestone.on_console()).collect();
        report.power_cut = Some(PowerCut {
            at: "first-boot+2".parse().expect("a moment"),
            seed: Some(7),
            seconds: Some(50.9),
            after: Some(Milestone::FirstBoot),
            milestones,
        });
        report
    }

    #[test]
    fn a_power_cut_is_told() {
        let text = cut().to_string();
        let line = "the power was cut 50.9 s after the first power-on, 2.0 s after first-boot\n";
        assert!(text.starts_with(line), "{text}");
        assert!(text.contains("\nfirst-boot          before  first boot is done\n"), "{text}");
        let json = serde_json::to_value(cut()).expect("json");
        assert_eq!(
            (&json["power_cut"]["at"], &json["power_cut"]["after"]),
            (&"first-boot+2".into(), &"first-boot".into())
        );
        assert_eq!(serde_json::from_value::<Report>(json).expect("back"), cut());
    }

    #[test]
    fn what_is_unusual_is_told() {
        let mut report = good();
        report.conditions = Conditions {
            faults: vec!["dps=500:2".parse().expect("a fault")],
            clock_offset: -5,
            rtc: Some("1980-01-01T00:00:00".into()),
            network_after: Some(60.0),
            trust: Some("it was made to".into()),
        };
        let text = report.to_string();
        let lines = "fault: dps=500:2\nthe simulated world is -5 s ahead of the host\n\
                     the machine's clock at power-on: 1980-01-01T00:00:00\nthe network came after 60 s\nit was made to\nfirmware";
        assert!(text.starts_with(lines), "{text}");
        let json = serde_json::to_value(&report).expect("json");
        assert_eq!(json["conditions"]["faults"][0], "dps=500:2");
        assert_eq!(serde_json::from_value::<Report>(json).expect("back"), report);
        assert!(!serde_json::to_string(&good()).expect("json").contains("conditions"));
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
        bad().write(folder.path()).expect("again");
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("read")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
            .collect();
        names.sort();
        assert_eq!(names, ["junit.xml", "report.json", "timeline.svg"]);
        assert!(bad().write(&folder.path().join("no")).is_err());
    }
}
