//! One golden image, stamped for three devices that get their certificates from three sources: each boots in QEMU and is
//! provisioned under its own id.
//!
//! Takes minutes, and needs qemu-system-x86, ovmf and qemu-utils besides what `edgepress build` needs.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

use crate::support::report::assert_passed;
use crate::support::store;

/// Twice the default: the machine that runs the tests is shared.
const LIMIT: &str = "360";

/// Certificate and key on the partition; an EST server that aziot-certd enrols with; a Key Vault, by the identity of the
/// virtual machine.
const FLEET: &str = "\
registration_id,certificate,private_key,source.from,source.url,source.ca,source.vault,source.name,bootstrap.certificate,bootstrap.key
pump-1,one/edgepress/certificate.pem,one/edgepress/private-key.pem,,,,,,,
pump-2,,,est,https://est.factory.example/.well-known/est,pki/root.pem,,,two/edgepress/bootstrap-certificate.pem,two/edgepress/bootstrap-key.pem
pump-3,,,key-vault,,,https://factory.vault.azure.net,edge-{{ registration_id }},,
";

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-sources")
}

/// In the scratch folder, with the store that the target `build` fills.
fn edgepress(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.env("EDGEPRESS_STORE", store());
    command.current_dir(scratch()).args(arguments);
    command
}

fn digest(file: &Path) -> Vec<u8> {
    let output = std::process::Command::new("sha256sum").arg(file).output().expect("sha256sum");
    output.stdout
}

#[test]
fn one_image_becomes_devices_with_three_sources() {
    fs::remove_dir_all(scratch()).ok();
    fs::create_dir_all(scratch()).expect("a folder");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/demo.toml");
    edgepress(&["build", "--out", "."]).arg(recipe).assert().success();
    let golden = scratch().join("demo-x86_64/demo.img");
    let before = digest(&golden);
    edgepress(&["sim", "--dir", "pki", "--issue", "pump-1", "--out", "one"]).assert().success();
    edgepress(&["sim", "--dir", "pki", "--issue", "pump-2", "--bootstrap", "--out", "two"])
        .assert()
        .success();
    fs::write(scratch().join("fleet.csv"), FLEET).expect("the fleet");
    edgepress(&["stamp", "demo-x86_64", "--fleet", "fleet.csv", "--out", "patches"]).assert().success();
    assert_eq!(digest(&golden), before, "the golden image was changed");
    for (id, service) in [("pump-1", None), ("pump-2", Some("est 200")), ("pump-3", Some("vault 200"))] {
        let report = boot(id);
        assert_passed(&report);
        assert_eq!(report["simulator"]["registration_id"], id, "{report:#}");
        for other in ["est 200", "vault 200"] {
            let asked = report["simulator"]["requests"].get(other).is_some();
            assert_eq!(asked, service == Some(other), "{id}: {other}: {report:#}");
        }
    }
    fs::remove_dir_all(scratch()).expect("cleaning up");
}

/// Boots the device that a patch makes of the golden image, and returns the report.
fn boot(id: &str) -> Value {
    let patch = format!("patches/{id}.patch");
    let arguments =
        ["test", "demo-x86_64", "--patch", &patch, "--pki", "pki", "--report", id, "--timeout", LIMIT];
    let output = edgepress(&arguments).output().expect("edgepress test");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = fs::read_to_string(scratch().join(id).join("report.json"));
    serde_json::from_str(&text.unwrap_or_else(|_| panic!("no report: {said}"))).expect("JSON")
}
