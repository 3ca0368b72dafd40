//! `edgepress test` with faults injected, without a machine: power cuts, faults, clocks, and what the command line takes.

use std::fs;

use serde_json::Value;

use crate::support::machine::{Bench, text};

fn outcome(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().expect("checks");
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"));
    check["outcome"].as_str().expect("an outcome").to_owned()
}

fn milestones(of: &Value) -> Vec<&str> {
    of.as_object().expect("milestones").keys().map(String::as_str).collect()
}

const CONSOLE: [&str; 4] = ["firmware", "kernel", "userspace", "engine"];

#[test]
fn the_second_boot_counts() {
    let bench = Bench::new();
    let output = bench.run("twice", &["--cut-power", "engine+0.3"]);
    assert_eq!(output.status.code(), Some(1), "the key was left: {}", text(&output.stderr));
    let report = bench.report_json();
    let cut = &report["power_cut"];
    assert_eq!((&cut["at"], &cut["after"]), (&"engine+0.3".into(), &"engine".into()), "{report:#}");
    assert_eq!(milestones(&cut["milestones"]), CONSOLE);
    let (seconds, engine) = (cut["seconds"].as_f64(), cut["milestones"]["engine"].as_f64());
    let after = seconds.expect("seconds") - engine.expect("engine");
    assert!((0.3..5.0).contains(&after), "cut {after} s after the engine");
    assert_eq!(milestones(&report["seconds"]).len(), 9, "{report:#}");
    assert_eq!(report["provisioned"], true, "{report:#}");
    assert_eq!(outcome(&report, "shut-down"), "skipped");
    assert_eq!(outcome(&report, "secrets-wiped"), "failed");
    assert_eq!(outcome(&report, "one-registration"), "passed");
    assert_eq!(outcome(&report, "file-system"), "failed", "there is none");
    for name in ["console.log", "console-before-cut.log"] {
        assert!(bench.report(name).contains("Linux version"), "{name}");
    }
    assert!(!bench.report("console-before-cut.log").contains("first boot: configured"));
    assert!(bench.report("timeline.svg").contains("the power was cut"));
    assert!(text(&output.stdout).contains("s after the first power-on, "), "{}", text(&output.stdout));
}

#[test]
fn what_the_first_boot_did_need_not_come_again() {
    let bench = Bench::new();
    bench.run("late", &["--cut-power", "agent-running"]);
    let report = bench.report_json();
    assert_eq!(report["provisioned"], true, "{report:#}");
    assert_eq!(milestones(&report["power_cut"]["milestones"]).len(), 9, "{report:#}");
    let again: Vec<_> = CONSOLE.into_iter().chain(["agent-identity", "agent-running"]).collect();
    assert_eq!(milestones(&report["seconds"]), again);
    let junit = bench.report("junit.xml");
    assert_eq!(junit.matches("it came before the power cut").count(), 3, "{junit}");
    assert_eq!(outcome(&report, "one-registration"), "passed");
}

#[test]
fn a_boot_that_fails_before_the_cut() {
    let bench = Bench::new();
    let output = bench.run("panics", &["--cut-power", "engine"]);
    assert_eq!(output.status.code(), Some(1));
    let report = bench.report_json();
    assert!(report["reason"].as_str().expect("a reason").starts_with("the kernel panicked"), "{report:#}");
    assert_eq!(
        (&report["power_cut"]["seconds"], &report["power_cut"]["at"]),
        (&Value::Null, &"engine".into())
    );
    let bench = Bench::new();
    bench.run("silent", &["--cut-power", "engine", "--timeout", "1"]);
    let report = bench.report_json();
    let reason = report["reason"].as_str().expect("a reason").to_owned();
    assert_eq!(reason, "the power was to be cut at engine, which did not come within 1 s");
}

#[test]
fn random_moments_are_the_seed_s() {
    let bench = Bench::new();
    let moment = |arguments: &[&str]| {
        bench.run("dies", arguments);
        let report = bench.report_json();
        let cut = &report["power_cut"];
        (cut["seed"].as_u64(), cut["at"].as_str().expect("a moment").to_owned())
    };
    let first = moment(&["--cut-power", "random", "--seed", "7"]);
    assert_eq!(first, moment(&["--cut-power", "random", "--seed", "7"]));
    assert!(first.1.starts_with("userspace+") && first.0 == Some(7), "{first:?}");
    let (seed, other) = moment(&["--cut-power", "random"]);
    let seed = seed.expect("a seed of its own").to_string();
    assert_eq!(moment(&["--cut-power", "random", "--seed", &seed]).1, other);
}

#[test]
fn a_dps_that_was_told_to_do_wrong_ends_no_test() {
    let bench = Bench::new();
    let output = bench.run("stranger", &["--fault", "dps=slow:1ms", "--timeout", "8"]);
    assert_eq!(output.status.code(), Some(1));
    let report = bench.report_json();
    assert!(report["reason"].as_str().expect("a reason").contains("did not come within 8 s"), "{report:#}");
    assert_eq!(report["simulator"]["requests"]["dps 401"], 1, "{report:#}");
    assert_eq!(report["conditions"]["faults"], serde_json::json!(["dps=slow:1ms"]));
    let bench = Bench::new();
    bench.run("stranger", &["--fault", "dps=500:1", "--clock-offset", "-60", "--timeout", "8"]);
    let report = bench.report_json();
    assert_eq!(report["simulator"]["requests"]["dps 500"], 1, "{report:#}");
    assert_eq!(report["conditions"]["clock_offset"], -60);
}

#[test]
fn what_the_command_line_refuses() {
    let bench = Bench::new();
    for (arguments, said) in [
        (
            &["--cut-power", "motor"][..],
            "`motor` is no moment: expected SECONDS, MILESTONE or MILESTONE+SECONDS",
        ),
        (&["--seed", "1"], "--cut-power"),
        (&["--fault", "dps=418"], "`418` is not a fault"),
        (&["--fault", "ntp=404"], "ntp cannot have the fault `404`"),
        (&["--rtc", "1980"], "`1980` is no date"),
        (&["--rtc", "1969-12-31"], "leaves the years 1970 to 2099"),
        (&["--network-after", "0"], "0 is not in 1..=86400"),
    ] {
        let output = bench.run("silent", arguments);
        let words = text(&output.stderr);
        assert!(words.contains(said), "{arguments:?}: {words}");
        assert_eq!(output.status.code(), Some(2), "{words}");
    }
}

#[test]
fn no_swtpm() {
    let bench = Bench::new();
    let only = bench.path("only");
    fs::create_dir(&only).expect("folder");
    let output = bench.command("silent", &["--tpm"]).env("PATH", &only).output().expect("edgepress");
    let words = text(&output.stderr);
    assert!(words.contains("`qemu-system-x86_64`, `swtpm` are not installed"), "{words}");
    assert!(words.contains("apt-get install qemu-system-x86 swtpm"), "{words}");
    assert_eq!(output.status.code(), Some(1));
}
