//! The demo boots: report, console and simulators are held against each other. And machines that do not come up.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::share::Share;
use crate::support::machine::{Bench, machines, until};
use crate::support::report::assert_provisioned;
use crate::{LIMIT, demo, edgepress, scratch};

const MILESTONES: [&str; 9] = [
    "firmware",
    "kernel",
    "userspace",
    "engine",
    "first-boot",
    "dps-registered",
    "dps-assigned",
    "agent-identity",
    "agent-running",
];

/// The simulators' marks for the milestones that they see.
const MARKS: [(&str, &str); 4] = [
    ("dps-registered", "dps-registered"),
    ("dps-assigned", "dps-assigned"),
    ("agent-identity", "agent-identity"),
    ("agent-running", "hub-messaging"),
];

/// A test's report, read back.
struct Found {
    report: Value,
    /// Seconds and text of each line of the console.
    console: Vec<(f64, String)>,
    entries: Vec<Value>,
    junit: String,
    timeline: String,
}

impl Found {
    fn read(folder: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
        let stamped = |line: &str| {
            let (stamp, text) = line.strip_prefix('[')?.split_once("] ")?;
            Some((stamp.trim().parse().ok()?, text.to_owned()))
        };
        Self {
            report: serde_json::from_str(&text("report.json")).expect("report.json"),
            console: text("console.log").lines().map(|line| stamped(line).expect(line)).collect(),
            entries: text("simulator.jsonl")
                .lines()
                .map(|line| serde_json::from_str(line).expect(line))
                .collect(),
            junit: text("junit.xml"),
            timeline: text("timeline.svg"),
        }
    }

    fn seconds(&self, milestone: &str) -> f64 {
        self.report["seconds"][milestone].as_f64().unwrap_or_else(|| panic!("{milestone}: {:#}", self.report))
    }

    /// The first line of the console with these words.
    fn line(&self, words: &str) -> &(f64, String) {
        self.console
            .iter()
            .find(|(_, line)| line.contains(words))
            .unwrap_or_else(|| panic!("no line: {words}"))
    }

    /// When each mark first stands in the simulators' log, by their clock.
    fn marks(&self) -> BTreeMap<&str, f64> {
        let mut marks = BTreeMap::new();
        for entry in &self.entries {
            if let Some(mark) = entry["mark"].as_str() {
                marks.entry(mark).or_insert(entry["seconds"].as_f64().expect("seconds"));
            }
        }
        marks
    }
}

#[test]
fn the_demo_image_comes_up_provisioned() {
    let image = demo().join("demo.img");
    let before = fs::metadata(&image).expect("image").modified().expect("time");
    let folder = scratch().join("demo");
    let mut command = edgepress();
    command.arg("test").arg(&image).args(["--timeout", &LIMIT.to_string()]).arg("--report").arg(&folder);
    // As a custom allocation may: the hub knows the device by another name than DPS.
    command.args(["--device-id", "north-*"]);
    let share = Share::take(2);
    let output = command.output().expect("edgepress test");
    drop(share);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("PROVISIONED in "), "{said}");
    assert_eq!(fs::metadata(&image).expect("image").modified().expect("time"), before);

    let found = Found::read(&folder);
    assert_report(&found);
    assert_console(&found);
    assert_simulators(&found);
}

fn assert_report(found: &Found) {
    let report = &found.report;
    assert_provisioned(report, LIMIT);
    assert!(found.junit.contains("failures=\"0\""), "{}", found.junit);
    assert_eq!(found.timeline.matches("<title>").count(), MILESTONES.len());
}

fn assert_console(found: &Found) {
    let times: Vec<_> = found.console.iter().map(|(at, _)| *at).collect();
    assert!(times.is_sorted(), "the console's times go backwards");
    let id = found.report["simulator"]["registration_id"].as_str().expect("an id");
    let done = format!("edgepress: first boot: configured: registration id {id}");
    for (milestone, words) in [("kernel", "Linux version "), ("first-boot", done.as_str())] {
        let (at, line) = found.line(words);
        assert!((at - found.seconds(milestone)).abs() < 0.002, "{milestone}: {line} at {at}");
    }
}

fn assert_simulators(found: &Found) {
    let marks = found.marks();
    // The simulators count from their own start, some time before power-on: the same for all.
    let offset = marks["dps-registered"] - found.seconds("dps-registered");
    assert!(offset >= 0.0, "DPS was asked {offset} s before there was a DPS");
    for (milestone, mark) in MARKS {
        let at = marks.get(mark).unwrap_or_else(|| panic!("no {mark}")) - offset;
        assert!((at - found.seconds(milestone)).abs() < 0.002, "{milestone} at {at}");
    }
    let id = found.report["simulator"]["registration_id"].as_str().expect("an id");
    let of = |service: &'static str| found.entries.iter().filter(move |entry| entry["service"] == service);
    for entry in of("dps").filter(|entry| !entry["mark"].is_null()) {
        assert_eq!(entry["client"], id, "{entry}");
    }
    let agent = of("mqtt").find(|entry| entry["mark"] == "hub-messaging").expect("edgeAgent came to its hub");
    assert_eq!(agent["what"], format!("hub-messaging MQTT north-{id}/$edgeAgent"));
    assert!(of("ntp").count() > 0, "nobody asked for the time");
    let asked =
        |name: &str| of("dns").any(|entry| entry["what"].as_str().is_some_and(|what| what.contains(name)));
    assert!(asked("global.azure-devices-provisioning.net"), "nobody asked for the name of DPS");
}

#[test]
fn a_disk_without_a_loader_fails_at_once() {
    let bench = Bench::new();
    let _share = Share::take(1);
    let began = Instant::now();
    let output =
        edgepress().arg("test").arg(bench.image()).args(["--timeout", "600"]).output().expect("edgepress");
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(1));
    let report = bench.report_json();
    let reason = report["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("the firmware found nothing to boot"), "{reason}");
    assert_eq!(report["seconds"].as_object().map(serde_json::Map::len), Some(0), "{report:#}");
}

#[test]
fn a_real_machine_dies_with_a_killed_test() {
    let bench = Bench::new();
    let _share = Share::take(1);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.arg("test").arg(bench.image()).env("TMPDIR", bench.path("tmp"));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("edgepress");
    until("a machine", || machines(&bench) > 0);
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("no machine", || machines(&bench) == 0);
}
