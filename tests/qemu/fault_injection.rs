//! A real machine with faults injected: its power goes in the middle of first boot, or DPS is down when it asks for the first
//! time. `ci/power-cuts` and `ci/faults` do the same many times over.

use serde_json::Value;

use crate::support::report::{assert_passed, outcome};
use crate::{boot, demo};

/// What a look at the root after the fault must find.
fn assert_whole(report: &Value) {
    assert_passed(report);
    for name in ["file-system", "one-identity", "no-leftovers", "secrets-wiped", "one-registration"] {
        assert_eq!(outcome(report, name), "passed", "{name}: {report:#}");
    }
}

/// The engine is up when `iotedge config apply` has its services started: certificate and key are in their places, and
/// those on the FAT partition are not wiped yet. That takes seconds even on a fast machine.
#[test]
fn a_power_cut_amid_first_boot_loses_nothing() {
    let report = boot(demo(), "cut", &["--cut-power", "engine+0.5"]);
    let before = report["power_cut"]["milestones"].as_object().expect("a cut");
    assert!(before.contains_key("engine"), "{report:#}");
    assert_whole(&report);
}

#[test]
#[ignore = "as the row dps-broken of ci/faults: see ci/more-boots"]
fn dps_is_down_when_the_device_registers() {
    let report = boot(demo(), "dps", &["--fault", "dps=500:2"]);
    assert_eq!(report["simulator"]["requests"]["dps 500"], 2, "{report:#}");
    assert_whole(&report);
}
