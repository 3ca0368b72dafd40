//! A PC with a BIOS, emulated: the demo for the board `bios` on QEMU's `pc`, whose SeaBIOS starts its first sector.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::report::{assert_provisioned, outcome};
use crate::{LIMIT, boot, build, edgepress, scratch};

/// Looks as Azure does.
fn inspected(image: &Path) -> Value {
    let output = edgepress().args(["--json", "inspect", "--azure"]).arg(image).output().expect("inspect");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn named<'a>(report: &'a Value, list: &str, name: &str) -> &'a Value {
    let mut all = report[list].as_array().expect(list).iter();
    all.find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// What is told of the image alone, without its manifest.
fn assert_chain_is_followed(image: &Path) {
    let alone = scratch().join("bios-alone.img");
    fs::copy(image, &alone).expect("copy");
    let report = inspected(&alone);
    assert_eq!(report["board"], "bios", "{report:#}");
    assert_eq!(
        named(&report, "verdicts", "boot-chain")["detail"],
        "the loaders are there, and the root that they look for"
    );
    assert_eq!(named(&report, "azure", "generation")["detail"], "1 (BIOS, grub in the first sectors)");
    // A part of the core image is gone, as behind a download that was cut and filled up.
    let file = fs::File::options().write(true).open(&alone).expect("open");
    file.write_all_at(&[0; 60 << 10], 64 << 10).expect("cut");
    let report = inspected(&alone);
    let chain = named(&report, "verdicts", "boot-chain");
    assert_eq!(chain["outcome"], "failed", "{report:#}");
    assert!(chain["detail"].as_str().expect("detail").contains("core image is cut"), "{chain}");
    fs::remove_file(&alone).expect("remove");
}

#[test]
fn a_pc_with_a_bios_comes_up_provisioned() {
    let image = build("demo-bios", "x86_64").join("demo-bios.img");
    assert_chain_is_followed(&image);
    let report = boot(&image, "bios", &[]);
    assert_provisioned(&report, LIMIT);
    assert_eq!(report["machine"]["machine"], "bios", "{report:#}");
    assert_eq!(outcome(&report, "shut-down"), "passed", "{report:#}");
}
