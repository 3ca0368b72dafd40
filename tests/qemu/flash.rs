//! The demo image, stamped for eight devices and flashed to eight loop devices (files, where there are none to be had): the
//! eight differ in nothing but their FAT partitions, and two of them boot in QEMU, each provisioned under its own id.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::report::assert_passed;
use crate::{boot, demo, edgepress};

const DEVICES: usize = 8;
/// The cards are a little larger than the image, as cards are.
const MORE: u64 = 5 << 20;
const PIECE: usize = 1 << 20;

/// The cards that are to boot.
const BOOTED: [usize; 2] = [2, 7];

fn scratch() -> PathBuf {
    crate::scratch().join("flash")
}

/// Runs edgepress in the scratch folder.
fn run(arguments: &[&str]) -> assert_cmd::assert::Assert {
    edgepress().current_dir(scratch()).args(arguments).assert().success()
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
                Command::new("losetup").args(["--find", "--show"]).arg(scratch().join(card)).output();
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
            Command::new("losetup").args(["--detach", name]).status().ok();
        }
    }
}

/// A folder with the cards that are to boot, each as it was flashed, with the image's manifest.
fn cards() -> &'static Path {
    static CARDS: OnceLock<PathBuf> = OnceLock::new();
    CARDS.get_or_init(|| {
        let cards = scratch().join("cards");
        fs::create_dir_all(&cards).expect("a folder");
        let mut fleet = String::from("registration_id,certificate,private_key\n");
        for number in 1..=DEVICES {
            let id = format!("pump-{number}");
            run(&["sim", "--dir", "pki", "--issue", &id, "--out", &id]);
            fleet += &format!("{id},{id}/edgepress/certificate.pem,{id}/edgepress/private-key.pem\n");
        }
        fs::write(scratch().join("fleet.csv"), fleet).expect("the fleet");
        run(&["stamp", golden(), "--fleet", "fleet.csv", "--out", "patches"]);
        flash();
        same_but_for_the_fat_partition();
        for number in (1..=DEVICES).filter(|number| !BOOTED.contains(number)) {
            fs::remove_file(cards.join(format!("{number}.img"))).expect("a card");
        }
        fs::copy(demo().join("manifest.json"), cards.join("manifest.json")).expect("copy");
        cards
    })
}

fn golden() -> &'static str {
    demo().to_str().expect("UTF-8")
}

#[test]
#[ignore = "as the seventh: see ci/more-boots"]
fn the_second_of_eight_cards_comes_up_as_its_own_device() {
    assert_provisioned(BOOTED[0]);
}

#[test]
fn the_seventh_of_eight_cards_comes_up_as_its_own_device() {
    assert_provisioned(BOOTED[1]);
}

/// Boots a card as it was flashed.
fn assert_provisioned(number: usize) {
    let card = cards().join(format!("{number}.img"));
    let pki = scratch().join("pki");
    let pki = pki.to_str().expect("UTF-8");
    let report = boot(&card, &format!("card-{number}"), &["--pki", pki]);
    assert_passed(&report);
    assert_eq!(report["simulator"]["registration_id"], format!("pump-{number}"), "{report:#}");
    fs::remove_file(card).expect("cleaning up");
}

fn flash() {
    let size = fs::metadata(demo().join("demo.img")).expect("image").len();
    let cards: Vec<String> = (1..=DEVICES).map(|number| format!("cards/{number}.img")).collect();
    for card in &cards {
        let file = File::create(scratch().join(card)).expect("a card");
        file.set_len(size + MORE).expect("a card");
        // An old backup of a partition table, which must not count.
        file.write_all_at(b"EFI PART", size + MORE - 512).expect("write");
    }
    let (loops, targets) = Loops::of(&cards);
    let to = targets.iter().flat_map(|target| ["--to", target]);
    let words = ["--json", "flash", golden(), "--fleet", "patches", "--station", "test", "--yes"];
    let all: Vec<&str> = words.into_iter().chain(to).collect();
    let said = run(&all);
    let said: Value = serde_json::from_slice(&said.get_output().stdout).expect("one document");
    for (number, device) in (1..).zip(said["devices"].as_array().expect("devices")) {
        assert_eq!(device["verdict"], "good", "{device}");
        assert_eq!(device["registration_id"], format!("pump-{number}"));
    }
    drop(loops);
}

/// Every byte outside the FAT partition is the golden image's; inside, each card differs from it and from all others.
fn same_but_for_the_fat_partition() {
    let manifest = fs::read_to_string(demo().join("manifest.json")).expect("manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let fat =
        manifest["partitions"].as_array().expect("partitions").iter().find(|part| part["role"] == "fat");
    let number = |key: &str| fat.and_then(|fat| fat[key].as_u64()).expect("a FAT partition");
    let (start, end) = (number("offset"), number("offset") + number("size"));
    let golden = File::open(demo().join("demo.img")).expect("image");
    let size = golden.metadata().expect("image").len();
    let mut inside = BTreeSet::new();
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
