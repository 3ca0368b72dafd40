//! An image for Azure boots as a VM of a simulated Azure: cloud-init and the agent are content, and the device is provisioned
//! under the VM's name with a certificate that its own identity got from the vault, which its containers cannot get at.
//!
//! Builds the recipe `debian-12-azure` and boots its VHD in QEMU.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

use crate::support::store;

/// Twice the default: the machine that runs the tests is shared.
const LIMIT: &str = "360";

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-azure")
}

/// In the scratch folder, with the store that the target `build` fills.
fn edgepress(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.env("EDGEPRESS_STORE", store());
    command.current_dir(scratch()).args(arguments);
    command
}

#[test]
fn a_vm_of_a_simulated_azure_is_provisioned() {
    fs::remove_dir_all(scratch()).ok();
    fs::create_dir_all(scratch()).expect("a folder");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/debian-12-azure.toml");
    edgepress(&["build", "--out", "."]).arg(recipe).assert().success();
    let arguments = ["test", "debian-12-azure-x86_64", "--azure", "--report", "report", "--timeout", LIMIT];
    let output = edgepress(&arguments).output().expect("edgepress test");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = fs::read_to_string(scratch().join("report/report.json"));
    let report: Value =
        serde_json::from_str(&text.unwrap_or_else(|_| panic!("no report: {said}"))).expect("JSON");
    assert_eq!(report["passed"], true, "{report:#}");
    let outcome = |name: &str| {
        let checks = report["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["name"] == name).expect(name)["outcome"].clone()
    };
    for name in [
        "azure-ready",
        "azure-agent",
        "azure-identity",
        "cloud-init",
        "azure-hostname",
        "azure-account",
        "azure-containers",
    ] {
        assert_eq!(outcome(name), "passed", "{name}");
    }
    let id = report["simulator"]["registration_id"].as_str().expect("an id");
    assert!(id.starts_with("edgepress-test-"), "{id} is not the VM's name");
    fs::remove_dir_all(scratch()).expect("cleaning up");
}
