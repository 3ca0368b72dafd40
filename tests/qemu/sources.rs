//! One golden image, stamped for three devices that get their certificates from three sources: each boots in QEMU and is
//! provisioned under its own id.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::report::assert_passed;
use crate::{boot, demo, edgepress, scratch};

/// Certificate and key on the partition; an EST server that aziot-certd enrols with; a Key Vault, by the identity of the
/// virtual machine.
const FLEET: &str = "\
registration_id,certificate,private_key,source.from,source.url,source.ca,source.vault,source.name,bootstrap.certificate,bootstrap.key
pump-1,one/edgepress/certificate.pem,one/edgepress/private-key.pem,,,,,,,
pump-2,,,est,https://est.factory.example/.well-known/est,pki/root.pem,,,two/edgepress/bootstrap-certificate.pem,two/edgepress/bootstrap-key.pem
pump-3,,,key-vault,,,https://factory.vault.azure.net,edge-{{ registration_id }},,
";

fn digest(file: &Path) -> Vec<u8> {
    Command::new("sha256sum").arg(file).output().expect("sha256sum").stdout
}

/// A folder with the patch of each device, and the authorities that issued for them.
fn fleet() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = scratch().join("sources");
        fs::create_dir_all(&folder).expect("a folder");
        let run = |arguments: &[&str]| edgepress().current_dir(&folder).args(arguments).assert().success();
        let golden = demo().join("demo.img");
        let before = digest(&golden);
        run(&["sim", "--dir", "pki", "--issue", "pump-1", "--out", "one"]);
        run(&["sim", "--dir", "pki", "--issue", "pump-2", "--bootstrap", "--out", "two"]);
        fs::write(folder.join("fleet.csv"), FLEET).expect("the fleet");
        let demo = demo().to_str().expect("UTF-8");
        run(&["stamp", demo, "--fleet", "fleet.csv", "--out", "patches"]);
        assert_eq!(digest(&golden), before, "the golden image was changed");
        folder
    })
}

/// Boots the device that a patch makes of the golden image: of the services that hand out certificates it asked this one.
fn assert_provisioned(id: &str, service: Option<&str>) {
    let file = |name: &str| fleet().join(name).to_str().expect("UTF-8").to_owned();
    let (patch, pki) = (file(&format!("patches/{id}.patch")), file("pki"));
    let report = boot(demo(), id, &["--patch", &patch, "--pki", &pki]);
    assert_passed(&report);
    assert_eq!(report["simulator"]["registration_id"], id, "{report:#}");
    for other in ["est 200", "vault 200"] {
        let asked = report["simulator"]["requests"].get(other).is_some();
        assert_eq!(asked, service == Some(other), "{id}: {other}: {report:#}");
    }
}

#[test]
#[ignore = "as a flashed card: see ci/more-boots"]
fn a_certificate_of_its_own_from_the_partition() {
    assert_provisioned("pump-1", None);
}

#[test]
fn a_certificate_from_an_est_server() {
    assert_provisioned("pump-2", Some("est 200"));
}

#[test]
fn a_certificate_from_a_key_vault() {
    assert_provisioned("pump-3", Some("vault 200"));
}
