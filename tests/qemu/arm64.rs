//! Machines for 64-bit Arm, emulated: the demo with UEFI on QEMU's `virt`, and a card for the Raspberry Pi on `raspi3b`.
//!
//! Takes minutes, and needs qemu-system-arm, qemu-efi-aarch64 and qemu-utils besides what `edgepress build` needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use assert_cmd::Command;
use edgepress::disk::{mbr, patch};
use serde_json::Value;

use crate::support::report::{assert_provisioned, outcome};
use crate::support::store;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-arm64")
}

/// With the store that the target `build` fills.
fn edgepress() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.env("EDGEPRESS_STORE", store());
    command.current_dir(project());
    command
}

/// Builds a recipe of the project and returns the image.
fn built(recipe: &str) -> PathBuf {
    let mut command = edgepress();
    command.arg("build").arg(format!("recipes/{recipe}.toml")).arg("--out").arg(scratch());
    command.assert().success();
    scratch().join(format!("{recipe}-aarch64/{recipe}.img"))
}

/// One machine at a time: two of them on two cores would take more than twice as long.
static TURN: Mutex<()> = Mutex::new(());

/// Boots an image and returns the report; the limit is twice the default: the machine that runs the tests is shared.
fn boot(image: &Path, limit: &str) -> Value {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = image.with_file_name("report");
    let mut command = edgepress();
    command.arg("test").arg(image).args(["--timeout", limit]).arg("--report").arg(&folder);
    command.output().expect("edgepress test");
    let text = fs::read_to_string(folder.join("report.json")).expect("report.json");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn an_arm_server_comes_up_provisioned() {
    let report = boot(&built("demo-arm64"), "360");
    assert_provisioned(&report, 360.0);
    assert_eq!(report["machine"]["machine"], "virt", "{report:#}");
    assert_eq!(outcome(&report, "shut-down"), "passed", "{report:#}");
}

/// The packages are downloaded by now, so `check` follows the chain over the card that a build makes.
fn assert_checked() {
    let check = |arguments: &[&str]| {
        let mut command = edgepress();
        let output = command.args(["check", "recipes/debian-12-raspberry-pi.toml"]).args(arguments).output();
        let output = output.expect("check");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = check(&[]);
    assert!(code == Some(0) && said.contains("boot chain: sound for model 3, 4"), "{said}");
    let (code, said) = check(&["--set", "target.raspberry_pi.config=[\"kernel=other.img\"]"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("boot chain of model 4: config.txt names the kernel other.img, which is missing"),
        "{said}"
    );
    let (code, said) = check(&["--set", "target.raspberry_pi.models=[\"3\", \"5\"]"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("brings no device tree for model 5"), "{said}");
}

#[test]
fn a_raspberry_pi_comes_up_provisioned_and_a_broken_card_does_not() {
    let image = built("debian-12-raspberry-pi");
    assert_checked();
    let inspected = edgepress().args(["--json", "inspect"]).arg(&image).output().expect("inspect");
    assert!(inspected.status.success(), "{inspected:?}");
    let provisioned = boot(&image, "480");
    assert_provisioned(&provisioned, 480.0);
    assert_eq!(provisioned["machine"]["machine"], "raspi3b", "{provisioned:#}");

    // Afterwards, because both change the image.
    let take_kernel = |name: &str| {
        let patch = patch::make(&image, 0, |volume| {
            let entries = volume.list("")?;
            let kernel = entries.iter().find(|entry| entry.name.starts_with(name)).expect(name);
            volume.remove(&kernel.name)
        });
        patch.expect("patch").apply_to_path(&image).expect("apply");
    };
    take_kernel("vmlinuz-");
    let report = boot(&image, "480");
    assert_eq!(report["provisioned"], false, "{report:#}");
    let reason = report["reason"].as_str().expect("a reason");
    assert!(reason.contains("config.txt names the kernel vmlinuz-"), "{reason}");

    let disk = fs::File::options().read(true).write(true).open(&image).expect("image");
    let size = disk.metadata().expect("size").len();
    let mut table = mbr::read(&disk).expect("table");
    table.partitions.retain(|partition| partition.kind != 0);
    table.disk_id ^= 1;
    mbr::write(&disk, size, &table).expect("write");
    let inspected = edgepress().arg("inspect").arg(&image).output().expect("inspect");
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert_eq!(inspected.status.code(), Some(1), "{said}");
    assert!(said.contains("root=PARTUUID="), "{said}");
}
