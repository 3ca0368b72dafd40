//! An image for Azure boots as a VM of a simulated Azure: cloud-init and the agent are content, and the device is provisioned
//! under the VM's name with a certificate that its own identity got from the vault, which its containers cannot get at.
//!
//! Builds the recipe `debian-12-azure` and boots its VHD in QEMU.

use crate::support::report::outcome;
use crate::{boot, build};

#[test]
fn a_vm_of_a_simulated_azure_is_provisioned() {
    let image = build("debian-12-azure", "x86_64");
    let report = boot(&image, "azure", &["--azure"]);
    assert_eq!(report["passed"], true, "{report:#}");
    for name in [
        "azure-ready",
        "azure-agent",
        "azure-identity",
        "cloud-init",
        "azure-hostname",
        "azure-account",
        "azure-containers",
    ] {
        assert_eq!(outcome(&report, name), "passed", "{name}: {report:#}");
    }
    let id = report["simulator"]["registration_id"].as_str().expect("an id");
    assert!(id.starts_with("edgepress-test-"), "{id} is not the VM's name");
}
