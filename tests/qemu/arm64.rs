//! Machines for 64-bit Arm, emulated: the demo with UEFI on QEMU's `virt`, and a card for the Raspberry Pi on `raspi3b`.

use std::fs;

use edgepress::disk::{mbr, patch};

use crate::support::report::{assert_provisioned, outcome};
use crate::{LIMIT, boot_by_default, build, edgepress};

/// Seconds that a `raspi3b` may take: several times its default.
const PATIENCE: u32 = 900;
/// Of its processors hardly more than one: with two, a test that waits for both would let one idle.
const BUSY: usize = 1;

#[test]
fn an_arm_server_comes_up_provisioned() {
    let report = boot_by_default(&build("demo-arm64", "aarch64"), "virt", LIMIT, 2);
    assert_provisioned(&report, LIMIT);
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
    let image = build("debian-12-raspberry-pi", "aarch64").join("debian-12-raspberry-pi.img");
    assert_checked();
    let inspected = edgepress().args(["--json", "inspect"]).arg(&image).output().expect("inspect");
    assert!(inspected.status.success(), "{inspected:?}");
    let provisioned = boot_by_default(&image, "raspi3b", PATIENCE, BUSY);
    assert_provisioned(&provisioned, PATIENCE);
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
    let report = boot_by_default(&image, "raspi3b-broken", PATIENCE, BUSY);
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
