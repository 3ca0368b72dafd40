//! The demo image, stamped for eight devices and flashed to eight loop devices (files, where there are none to be had): the
//! eight differ in nothing but their FAT partitions, and two of them boot in QEMU, each provisioned under its own id.
//!
//! Takes minutes, and needs qemu-system-x86, ovmf and qemu-utils besides what `edgepress build` needs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use assert_cmd::Command;
use serde_json::Value;

use crate::support::report::assert_passed;
use crate::support::store;

/// Twice the default: the machine that runs the tests is shared.
const LIMIT: &str = "360";
const DEVICES: usize = 8;
/// The cards are a little larger than the image, as cards are.
const MORE: u64 = 5 << 20;
const PIECE: usize = 1 << 20;

fn scratch() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-flash")
}

/// In the scratch folder, with the store that the target `build` fills.
fn edgepress(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.env("EDGEPRESS_STORE", store());
    command.current_dir(scratch()).args(arguments);
    command
}

/// Loop devices, gone when dropped.
#[derive(Default)]
struct Loops(Vec<String>);

impl Loops {
    /// One for each card, or the cards themselves.
    fn of(cards: &[String]) -> (Self, Vec<String>) {
        let mut loops = Self::default();
        for card in cards {
            let output =
                Program::new("losetup").args(["--find", "--show"]).arg(scratch().join(card)).output();
            match output.ok().filter(|output| output.status.success()) {
                Some(output) => loops.0.push(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
                None => {
                    eprintln!("onto files: loop devices need root, and a kernel that has {DEVICES}");
                    return (Self::default(), cards.to_vec());
                }
            }
        }
        let names = loops.0.clone();
        (loops, names)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for name in &self.0 {
            Program::new("losetup").args(["--detach", name]).status().ok();
        }
    }
}

#[test]
fn eight_cards_from_one_image() {
    fs::remove_dir_all(scratch()).ok();
    fs::create_dir_all(scratch().join("cards")).expect("a folder");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/demo.toml");
    edgepress(&["build", "--out", "."]).arg(recipe).assert().success();
    let mut fleet = String::from("registration_id,certificate,private_key\n");
    for number in 1..=DEVICES {
        let id = format!("pump-{number}");
        edgepress(&["sim", "--dir", "pki", "--issue", &id, "--out", &id]).assert().success();
        fleet += &format!("{id},{id}/edgepress/certificate.pem,{id}/edgepress/private-key.pem\n");
    }
    fs::write(scratch().join("fleet.csv"), fleet).expect("the fleet");
    edgepress(&["stamp", "demo-x86_64", "--fleet", "fleet.csv", "--out", "patches"]).assert().success();
    flash();
    same_but_for_the_fat_partition();
    fs::copy(scratch().join("demo-x86_64/manifest.json"), scratch().join("cards/manifest.json"))
        .expect("copy");
    // At once: a boot is mostly one processor's work, and the two have worlds of their own.
    std::thread::scope(|scope| {
        let boots = [2, 7].map(|number| (number, scope.spawn(move || boot(number))));
        for (number, boot) in boots {
            let report = boot.join().expect("a report");
            assert_passed(&report);
            assert_eq!(report["simulator"]["registration_id"], format!("pump-{number}"), "{report:#}");
        }
    });
    fs::remove_dir_all(scratch()).expect("cleaning up");
}

fn flash() {
    let size = fs::metadata(scratch().join("demo-x86_64/demo.img")).expect("image").len();
    let cards: Vec<String> = (1..=DEVICES).map(|number| format!("cards/{number}.img")).collect();
    for card in &cards {
        let file = File::create(scratch().join(card)).expect("a card");
        file.set_len(size + MORE).expect("a card");
        // An old backup of a partition table, which must not count.
        file.write_all_at(b"EFI PART", size + MORE - 512).expect("write");
    }
    let (loops, targets) = Loops::of(&cards);
    let to = targets.iter().flat_map(|target| ["--to", target]);
    let words = ["--json", "flash", "demo-x86_64", "--fleet", "patches", "--station", "test", "--yes"];
    let all: Vec<&str> = words.into_iter().chain(to).collect();
    let said = edgepress(&all).assert().success();
    let said: Value = serde_json::from_slice(&said.get_output().stdout).expect("one document");
    for (number, device) in (1..).zip(said["devices"].as_array().expect("devices")) {
        assert_eq!(device["verdict"], "good", "{device}");
        assert_eq!(device["registration_id"], format!("pump-{number}"));
    }
    drop(loops);
}

/// Every byte outside the FAT partition is the golden image's; inside, each card differs from it and from all others.
fn same_but_for_the_fat_partition() {
    let manifest = fs::read_to_string(scratch().join("demo-x86_64/manifest.json")).expect("manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let fat =
        manifest["partitions"].as_array().expect("partitions").iter().find(|part| part["role"] == "fat");
    let number = |key: &str| fat.and_then(|fat| fat[key].as_u64()).expect("a FAT partition");
    let (start, end) = (number("offset"), number("offset") + number("size"));
    let golden = File::open(scratch().join("demo-x86_64/demo.img")).expect("image");
    let size = golden.metadata().expect("image").len();
    let mut inside = std::collections::BTreeSet::new();
    for card in 1..=DEVICES {
        let file = File::open(scratch().join(format!("cards/{card}.img"))).expect("card");
        let mut differing = Vec::new();
        let mut at = 0;
        while at < size {
            let length = PIECE.min((size - at) as usize);
            let (mut ours, mut theirs) = (vec![0; length], vec![0; length]);
            file.read_exact_at(&mut ours, at).expect("read");
            golden.read_exact_at(&mut theirs, at).expect("read");
            if ours != theirs {
                let places = (0..length).filter(|place| ours[*place] != theirs[*place]);
                differing.extend(places.map(|place| (at + place as u64, ours[place])));
            }
            at += length as u64;
        }
        assert!(!differing.is_empty(), "card {card} has no identity");
        let outside: Vec<_> = differing.iter().filter(|(at, _)| !(start..end).contains(at)).take(9).collect();
        assert!(outside.is_empty(), "card {card} differs outside its FAT partition: {outside:?}");
        assert!(inside.insert(differing), "two cards have the same identity");
        let mut last = [1; 512];
        file.read_exact_at(&mut last, size + MORE - 512).expect("read");
        assert_eq!(last, [0; 512], "an old table is left");
    }
}

/// Boots a card as it was flashed, and returns the report.
fn boot(number: usize) -> Value {
    let card = format!("cards/{number}.img");
    let report = format!("report-{number}");
    let output =
        edgepress(&["test", &card, "--pki", "pki", "--report", &report, "--timeout", LIMIT]).output();
    let said = String::from_utf8_lossy(&output.expect("edgepress test").stderr).into_owned();
    let text = fs::read_to_string(scratch().join(report).join("report.json"));
    serde_json::from_str(&text.unwrap_or_else(|_| panic!("no report: {said}"))).expect("JSON")
}
