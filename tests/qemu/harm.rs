//! A real machine that is harmed: its power goes in the middle of first boot, or DPS is down when it asks for the first
//! time. `ci/power-cuts` and `ci/faults` do the same many times over.
//!
//! Takes minutes, and needs qemu-system-x86, ovmf and qemu-utils besides what `edgepress build` needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use assert_cmd::Command;
use serde_json::Value;

use crate::support::report::{assert_passed, outcome};
use crate::support::store;

/// Twice the default, for each boot: the machine that runs the tests is shared.
const LIMIT: &str = "360";

/// One machine at a time: two of them on two cores would take more than twice as long.
static TURN: Mutex<()> = Mutex::new(());

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-harm")
}

/// With the store that the target `build` fills.
fn edgepress() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.env("EDGEPRESS_STORE", store());
    command
}

fn built() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/demo.toml");
        edgepress().arg("build").arg(recipe).arg("--out").arg(scratch()).assert().success();
        scratch().join("demo-x86_64/demo.img")
    })
}

/// Boots the demo image under harm and returns the report.
fn harmed(name: &str, arguments: &[&str]) -> Value {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch().join(name);
    let mut command = edgepress();
    command.arg("test").arg(built()).args(["--timeout", LIMIT]).arg("--report").arg(&folder);
    let output = command.args(arguments).output().expect("edgepress test");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = fs::read_to_string(folder.join("report.json")).unwrap_or_else(|_| panic!("no report: {said}"));
    serde_json::from_str(&text).expect("JSON")
}

/// What a look at the root after the harm must find.
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
    let report = harmed("cut", &["--cut-power", "engine+0.5"]);
    let before = report["power_cut"]["milestones"].as_object().expect("a cut");
    assert!(before.contains_key("engine"), "{report:#}");
    assert_whole(&report);
}

#[test]
fn dps_is_down_when_the_device_registers() {
    let report = harmed("dps", &["--fault", "dps=500:2"]);
    assert_eq!(report["simulator"]["requests"]["dps 500"], 2, "{report:#}");
    assert_whole(&report);
}
