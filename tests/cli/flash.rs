//! `edgepress flash`, driven from outside: onto files, and where that is allowed onto loop devices.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgepress::disk::gpt::ALIGN;
use edgepress::format::bmap::{Bmap, Mapped};
use edgepress::stamp::patch::Patch;
use edgepress::units::Digest;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

use crate::support::plant::{Plant, SIZE};

const MIB: usize = 1 << 20;

/// A plant with patches for three devices.
fn stamped() -> Plant {
    let plant = Plant::new();
    plant.three();
    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "patches"]).success();
    plant
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("ledger");
    text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
}

/// Verdict and registration id of each line.
fn verdicts(path: &Path) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines(path).iter().map(|line| (text(&line["verdict"]), text(&line["registration_id"]))).collect()
}

fn expected(plant: &Plant, id: &str) -> Vec<u8> {
    let mut image = fs::read(plant.golden()).expect("image");
    let patch = Patch::read(&plant.path(&format!("patches/{id}.patch"))).expect("patch");
    for (at, bytes) in patch.runs() {
        image[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
    }
    image
}

/// The golden image compressed, with a block map that leaves out its last MiB, and a list of digests.
fn packed(plant: &Plant) -> PathBuf {
    let raw = fs::read(plant.golden()).expect("image");
    let packed = zstd::bulk::compress(&raw, 1).expect("zst");
    let blocks = (SIZE - ALIGN) / 4096;
    let sum = Digest::of(&raw[..blocks as usize * 4096]);
    let ranges = vec![Mapped { blocks: 0..blocks, sha256: Some(sum) }];
    let map = Bmap { image_size: SIZE, block_size: 4096, ranges };
    plant.put("ship/gateway.bmap", &map.to_xml());
    plant.put("ship/SHA256SUMS", &format!("{}  gateway.img.zst\n", Digest::of(&packed)));
    let path = plant.path("ship/gateway.img.zst");
    fs::write(&path, packed).expect("write");
    path
}

#[test]
fn each_target_its_own_identity() {
    let plant = stamped();
    let two = ["flash", "golden", "--to", "a.img", "--to", "b.img", "--create", "--fleet", "patches"];
    plant
        .run(&[&two[..], &["--yes", "--station", "line-3"]].concat())
        .success()
        .stdout(contains("2 of 2 good").and(contains("patches/ledger.jsonl")))
        .stderr(contains("(manifest.json)").and(contains("pump-1")));
    // The index has them in the order of their names.
    for (file, id) in [("a.img", "pump%3A3"), ("b.img", "pump-1")] {
        assert!(fs::read(plant.path(file)).expect("written") == expected(&plant, id), "{file}");
    }
    assert_eq!(plant.path("a.img").metadata().expect("there").permissions().mode() & 0o777, 0o600);
    let ledger = plant.path("patches/ledger.jsonl");
    let all = lines(&ledger);
    let good: Vec<&Value> = all.iter().filter(|line| line["verdict"] == "good").collect();
    assert_eq!((all.len(), good.len()), (4, 2));
    let line = good.iter().find(|line| line["registration_id"] == "pump-1").expect("its line");
    assert_eq!((&line["station"], &line["target"]), (&"line-3".into(), &"b.img".into()));
    assert_eq!(line["image_sha256"], plant.digest().to_string());
    assert_eq!(line["golden_sha256"], line["image_sha256"]);
    assert_eq!((line["image"].as_str(), line["bytes_read_back"].as_u64()), (Some("gateway.img"), Some(SIZE)));
    assert!(
        line["certificate_sha256"].is_string()
            && line["time"].as_str().is_some_and(|time| time.ends_with('Z'))
    );
    // One is left; two cannot be had, and then none.
    plant.run(&[&two[..], &["--yes"]].concat()).code(2).stderr(contains(
        "2 targets, and 1 identity is left in patches, says the ledger patches/ledger.jsonl",
    ));
    let one = ["flash", "golden", "--to", "b.img", "--fleet", "patches", "--yes"];
    plant.run(&one).success();
    assert!(fs::read(plant.path("b.img")).expect("written") == expected(&plant, "pump-2"));
    plant.run(&one).code(2).stderr(contains("no identity is left in patches"));
    assert!(!String::from_utf8_lossy(&fs::read(ledger).expect("ledger")).contains("PRIVATE"));
}

#[test]
fn nothing_is_written_before_all_is_right() {
    let plant = stamped();
    plant.put("card", "what was there");
    let refused = |arguments: &[&str], expected: &str| {
        let all = [&["flash", "golden"], arguments].concat();
        plant.run(&all).code(2).stderr(contains(expected.to_owned()));
        assert_eq!(fs::read_to_string(plant.path("card")).expect("there"), "what was there");
    };
    refused(&["--to", "card", "--to", "nowhere"], "card: it has 14 bytes and the image");
    refused(&["--to", "nowhere", "--yes"], "(--create makes a file)");
    refused(&["--to", "golden/gateway.img", "--yes"], "it is the image itself");
    refused(&["--to", "/dev/null", "--yes"], "it is neither a disk nor a file");
    refused(&["--to", "x", "--to", "./x", "--create", "--yes"], "it is the same as");
    refused(&["--to", "/dev/edgepress-sdz", "--create", "--yes"], "lies in memory and is no card");
    refused(&["--to", "x", "--create"], "--yes does without");
    refused(&["--to", "x", "--create", "--yes", "--fleet", "issued"], "there is no fleet.jsonl");
    refused(
        &["--to", "x", "--create", "--yes", "--fleet", "patches", "--match", "serial"],
        "it has no serial",
    );
    refused(&["--to", "x", "--create", "--yes", "--bmap", "card"], "the block map card cannot be used");
    refused(&["--to", "x", "--create", "--yes", "--sha256", &"0".repeat(64)], "give golden/gateway.img");
    assert!(!plant.path("x").exists());
    plant.run(&["flash", "--help"]).success().stdout(contains("Examples:"));
    let raw = File::options().write(true).open(plant.golden()).expect("open");
    raw.set_len(SIZE + 512).expect("longer");
    refused(&["--to", "x", "--create", "--yes"], "gateway.img is cut off or damaged: it has");
    fs::remove_file(plant.path("golden/manifest.json")).expect("remove");
    plant
        .run(&[
            "flash",
            "golden/gateway.img",
            "--to",
            "x",
            "--create",
            "--yes",
            "--patch",
            "patches/pump-1.patch",
        ])
        .code(2)
        .stderr(contains("is for another image"));
    // An archive, a page, nothing: no image for a card, and none of the card is touched.
    for (bytes, expected) in [
        (&b"PK\x03\x04 and so on"[..], "this is no disk image but a zip archive"),
        (b"<html>404 Not Found</html>", "this is no disk image but an HTML page"),
        (&[0; 9000], "it is blank where a partition table would be"),
    ] {
        fs::write(plant.path("download.img"), bytes).expect("write");
        let flash = ["flash", "download.img", "--to", "card", "--yes"];
        plant.run(&flash).code(2).stderr(contains(expected).and(contains("hint: ")));
        assert_eq!(fs::read_to_string(plant.path("card")).expect("there"), "what was there");
    }
}

#[test]
fn a_compressed_image_with_its_map() {
    let plant = stamped();
    packed(&plant);
    // A card of its own size: what the map leaves out stays, but for what lies at the card's very end.
    let mut old = vec![0xee; SIZE as usize + 3 * MIB];
    fs::write(plant.path("card"), &old).expect("write");
    let flash = ["--json", "flash", "ship/gateway.img.zst", "--to", "card", "--yes"];
    let said = plant.run(&[&flash[..], &["--patch", "patches/pump-1.patch"]].concat()).success();
    let said: Value = serde_json::from_slice(&said.get_output().stdout).expect("one document");
    let device = &said["devices"][0];
    assert_eq!((&device["verdict"], &device["registration_id"]), (&"good".into(), &"pump-1".into()));
    assert_eq!(device["bytes_read_back"], SIZE - ALIGN, "what the map has, and no more");
    let card = fs::read(plant.path("card")).expect("card");
    let image = expected(&plant, "pump-1");
    let mapped = SIZE as usize - MIB;
    assert!(card[..mapped] == image[..mapped]);
    // A file was emptied before, so that nothing of the old content is left anyway.
    old.fill(0);
    assert!(card[mapped..] == old[mapped..]);

    // The same, damaged: found, and the card boots nothing.
    let path = plant.path("ship/gateway.img.zst");
    let mut bytes = fs::read(&path).expect("image");
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).expect("write");
    plant.run(&flash[1..]).code(1).stdout(contains("FAILED: ")).stderr(contains("--to card"));
    assert!(fs::read(plant.path("card")).expect("card")[..MIB].iter().all(|byte| *byte == 0));
}

/// A build like the golden one in every sector that identities change.
#[test]
fn a_patch_of_another_golden_image() {
    let plant = stamped();
    let path = packed(&plant);
    let mut other = fs::read(plant.golden()).expect("image");
    other[SIZE as usize - 2 * MIB] ^= 1;
    let bytes = zstd::bulk::compress(&other, 1).expect("zst");
    fs::write(&path, &bytes).expect("write");
    for name in ["SHA256SUMS", "gateway.bmap"] {
        fs::remove_file(plant.path("ship").join(name)).expect("remove");
    }
    let flash = ["flash", "ship/gateway.img.zst", "--to", "card", "--create", "--yes"];
    let flash = [&flash[..], &["--patch", "patches/pump-1.patch"]].concat();
    // Nothing says what the disk is: known only when all of it was read.
    plant.run(&flash).code(1).stdout(contains("the patch of pump-1 is for another image"));
    assert!(fs::read(plant.path("card")).expect("card")[..MIB].iter().all(|byte| *byte == 0));
    let raw = serde_json::json!({ "size": SIZE, "sha256": Digest::of(&other) });
    let output = serde_json::json!({ "file": "gateway.img.zst", "sha256": Digest::of(&bytes), "raw": raw });
    plant.put("ship/manifest.json", &serde_json::json!({ "outputs": [output] }).to_string());
    plant.run(&flash).code(2).stderr(contains("is for another image than gateway.img.zst"));
}

#[test]
fn an_identity_that_failed_is_free_again() {
    let plant = stamped();
    let path = packed(&plant);
    let whole = fs::read(&path).expect("image");
    let flash = ["flash", "ship/gateway.img.zst", "--to", "a b", "--create", "--fleet", "patches", "--yes"];
    let mut damaged = whole.clone();
    damaged[whole.len() - 5] ^= 1;
    fs::write(&path, &damaged).expect("damaged");
    fs::remove_file(plant.path("ship/SHA256SUMS")).expect("remove");
    plant.run(&flash).code(1).stderr(contains(
        "hint: those alone again, with other cards: edgepress flash ship/gateway.img.zst --fleet patches --yes --to 'a b'",
    ));
    fs::write(&path, &whole).expect("write");
    plant.run(&flash).success();
    let all = verdicts(&plant.path("patches/ledger.jsonl"));
    let said: Vec<&str> = all.iter().map(|(verdict, _)| verdict.as_str()).collect();
    assert_eq!(said, ["failed", "finishing", "good"]);
    assert!(all.iter().all(|(_, id)| id == "pump:3"), "{all:?}");
    // The power went between first MiB and ledger: that card may be good, and its identity stays away from others.
    let ledger = plant.path("patches/ledger.jsonl");
    let text = fs::read_to_string(&ledger).expect("ledger");
    let torn = text.lines().nth(1).expect("a line").replace("pump:3", "pump-1");
    fs::write(&ledger, format!("{text}{}", &torn[..torn.len() - 20])).expect("write");
    plant.run(&flash).success().stderr(contains(
        "this line was torn by a power cut, and is mended: it says that pump-1 may be taken",
    ));
    assert_eq!(verdicts(&ledger).last().expect("a line").1, "pump-2");
}

/// Whatever else is named, the fleet's folder remembers who is given away.
#[test]
fn no_identity_twice() {
    let plant = stamped();
    let to = ["flash", "golden", "--to", "card", "--create", "--yes"];
    let flash = |arguments: &[&str]| plant.run(&[&to[..], arguments].concat());
    let given = "the ledger says that pump-1 is given away already (card of ";
    let patch = ["--patch", "patches/pump-1.patch"];
    flash(&patch).success().stderr(contains(given).not());
    flash(&patch).code(2).stderr(contains(given).and(contains("hint: --reflash")));
    flash(&[&patch[..], &["--reflash"]].concat()).success().stderr(contains(given));
    flash(&[&patch[..], &patch[..]].concat()).code(2).stderr(contains("cannot be used multiple times"));
    let copy = ["--fleet", "patches", "--ledger", "copy.jsonl"];
    flash(&copy).success();
    flash(&copy).success();
    flash(&copy).code(2).stderr(contains(
        "1 target, and no identity is left in patches, say the ledgers patches/ledger.jsonl and copy.jsonl",
    ));
    let ids = |ledger: &str| {
        let good = verdicts(&plant.path(ledger)).into_iter().filter(|(verdict, _)| verdict == "good");
        good.map(|(_, id)| id).collect::<Vec<_>>()
    };
    assert_eq!(ids("patches/ledger.jsonl"), ["pump-1", "pump-1", "pump:3", "pump-2"]);
    assert_eq!(ids("copy.jsonl"), ["pump:3", "pump-2"]);
    // A patch alone, with no fleet around it.
    fs::copy(plant.path("patches/pump-1.patch"), plant.path("alone.patch")).expect("copy");
    flash(&["--patch", "alone.patch"]).success().stdout(contains("ledger").not());
}

/// The index is a claim: what counts is what lies in the patches.
#[test]
fn an_index_that_lies() {
    let plant = stamped();
    let index = fs::read_to_string(plant.path("patches/fleet.jsonl")).expect("index");
    let lines: Vec<&str> = index.lines().collect();
    let file = |at: usize| -> String {
        serde_json::from_str::<Value>(lines[at]).expect("JSON")["file"].as_str().expect("a name").into()
    };
    let renamed = lines[1].replace(&file(1), "again.patch");
    let refused = |text: &str, expected: &str| {
        plant.put("patches/fleet.jsonl", text);
        fs::copy(plant.path("patches").join(file(0)), plant.path("patches/again.patch")).expect("copy");
        let flash = ["flash", "golden", "--to", "a", "--to", "b", "--create", "--yes", "--fleet", "patches"];
        plant.run(&flash).code(2).stderr(contains(expected.to_owned()));
        assert!(!plant.path("a").exists() && !plant.path("b").exists(), "{expected}");
    };
    refused(
        &format!("{0}\n{0}\n", lines[0]),
        "fleet.jsonl:2: the registration id of pump:3 stands in line 1",
    );
    refused(
        &format!("{}\n{}\n", lines[0], lines[1].replace(&file(1), &file(0))),
        "fleet.jsonl:2: the file of",
    );
    refused(
        &format!("{}\n{renamed}\n", lines[0]),
        "is not what the index says of pump-1: it is the identity of pump:3",
    );
}

/// `stamp --full`: the image is one device's, on one card, once.
#[test]
fn an_image_with_an_identity_in_it() {
    let plant = Plant::new();
    plant.three();
    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "full", "--full"]).success();
    let flash = |arguments: &[&str]| {
        plant.run(&[&["flash", "full/gateway-pump-1.img", "--create", "--yes"], arguments].concat())
    };
    flash(&["--to", "a", "--to", "b"])
        .code(2)
        .stderr(contains("has the identity of pump-1 in it, and 2 targets"));
    assert!(!plant.path("a").exists());
    flash(&["--to", "a"]).success().stdout(contains("good, pump-1"));
    let all = verdicts(&plant.path("full/ledger.jsonl"));
    assert_eq!(all, ["finishing", "good"].map(|verdict| (verdict.to_owned(), "pump-1".to_owned())));
    flash(&["--to", "b"]).code(2).stderr(contains("pump-1 is given away already (a of "));
    flash(&["--to", "b", "--reflash"]).success();
}

#[test]
fn a_new_golden_image_for_the_same_devices() {
    let plant = stamped();
    let flash = ["flash", "golden", "--to", "card", "--create", "--yes", "--fleet", "patches"];
    plant.run(&flash).success().stdout(contains("good, pump:3"));
    let old = plant.digest().to_string();
    let image = File::options().write(true).open(plant.golden()).expect("open");
    image.write_all_at(b"a newer file system", SIZE - 2 * ALIGN).expect("write");
    let manifest = fs::read_to_string(plant.path("golden/manifest.json")).expect("manifest");
    plant.put("golden/manifest.json", &manifest.replace(&old, &plant.digest().to_string()));
    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "patches", "--force"]).success();
    let passed = "passed over, because devices have them with another golden image: pump:3";
    plant.run(&flash).success().stdout(contains("good, pump-1")).stderr(contains(passed));
    plant.run(&flash).success().stdout(contains("good, pump-2"));
    plant.run(&flash).code(2).stderr(contains("hint: --reflash, if these are the same devices"));
    let again = [&flash[..], &["--reflash"]].concat();
    plant.run(&again).success().stdout(contains("good, pump:3")).stderr(contains("may be given again"));
    plant.run(&again).code(2).stderr(contains("no identity is left in patches"));
}

/// Exit status 2: nothing was begun.
#[test]
fn what_is_locked_or_cannot_be_written() {
    let plant = stamped();
    fs::write(plant.path("patches/ledger.jsonl"), "").expect("write");
    let flash = ["flash", "golden", "--to", "card", "--create", "--yes", "--fleet", "patches"];
    for (held, expected) in [
        ("patches/ledger.jsonl", "error: another edgepress is writing to the ledger patches/ledger.jsonl\n"),
        ("patches", "error: another edgepress is writing to patches\n hint: wait for it to end, or name"),
    ] {
        let file = File::open(plant.path(held)).expect("open");
        let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive);
        plant.run(&flash).code(2).stderr(contains(expected));
        drop(lock.map_err(|(_, errno)| errno).expect("lock"));
    }
    let elsewhere = [&flash[..], &["--ledger", "golden"]].concat();
    plant.run(&elsewhere).code(2).stderr(contains("error: opening the ledger golden: Is a directory"));
    assert!(!plant.path("card").exists());
}

#[test]
fn interrupted() {
    let plant = stamped();
    // Long enough to be stopped in the middle: 6 GB of zeros are hashed for seconds.
    let image = File::options().write(true).open(plant.golden()).expect("open");
    image.set_len(6 << 30).expect("longer");
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.current_dir(plant.path("")).args([
        "flash",
        "golden/gateway.img",
        "--to",
        "card",
        "--create",
        "--yes",
    ]);
    command.args(["--ledger", "ledger.jsonl"]);
    fs::remove_file(plant.path("golden/manifest.json")).expect("remove");
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("edgepress");
    let begun = Instant::now();
    while !plant.path("card").metadata().is_ok_and(|data| data.len() > 0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    let all = lines(&plant.path("ledger.jsonl"));
    assert_eq!((all.len(), &all[0]["verdict"]), (1, &"interrupted".into()));
    let mut head = vec![1; MIB];
    File::open(plant.path("card")).expect("card").read_exact_at(&mut head, 0).expect("read");
    assert!(head.iter().all(|byte| *byte == 0), "it would boot");
}

/// A loop device, gone when dropped; none where this machine does not let us, which is said.
struct Loop(String);

impl Loop {
    fn of(file: &Path, options: &[&str]) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file).output();
        let output = output.ok().filter(|output| output.status.success());
        if output.is_none() {
            eprintln!("skipped: loop devices need root, and a kernel that has them");
        }
        let name = String::from_utf8(output?.stdout).expect("text");
        Some(Self(name.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").args(["--detach", &self.0]).status().ok();
    }
}

#[test]
fn loop_devices() {
    let plant = stamped();
    packed(&plant);
    let card = |name: &str, byte: u8| {
        fs::write(plant.path(name), vec![byte; SIZE as usize + 2 * MIB]).expect("write");
        Loop::of(&plant.path(name), &[])
    };
    let (Some(one), Some(two)) = (card("one", 0xee), card("two", 0xdd)) else { return };
    let flash = |targets: &[&str]| {
        let to = targets.iter().flat_map(|target| ["--to", target]);
        let all: Vec<&str> =
            ["flash", "ship/gateway.img.zst", "--fleet", "patches", "--yes"].into_iter().chain(to).collect();
        plant.run(&all)
    };
    // The same device by another name, by the file below it, and twice.
    flash(&[&one.0, "one"]).code(2).stderr(contains("it is the same as /dev/loop"));
    flash(&[&one.0, &one.0]).code(2).stderr(contains("it is the same as /dev/loop"));
    // The file below it, alone; a loop device over it; one whose sectors are not those of the image.
    flash(&["one"]).code(2).stderr(contains(format!("one: it is in use: {} is made of it", &one.0[5..])));
    let over = Loop::of(Path::new(&one.0), &[]).expect("a loop device");
    flash(&[&over.0, &one.0]).code(2).stderr(contains(format!("it is the same as {}", over.0)));
    flash(&[&one.0]).code(2).stderr(contains(format!("it is in use: {} is made of it", &over.0[5..])));
    let held = File::options().read(true).custom_flags(libc::O_EXCL).open(&one.0).expect("open");
    flash(&[&over.0]).code(2).stderr(contains(format!("what it is made of, {}: it is in use", one.0)));
    drop(held);
    drop(over);
    fs::write(plant.path("large-sectors"), vec![0; SIZE as usize]).expect("write");
    let large = Loop::of(&plant.path("large-sectors"), &["--sector-size", "4096"]).expect("a loop device");
    flash(&[&large.0]).code(2).stderr(contains("its sectors have 4096 bytes"));
    drop(large);
    let protected = Loop::of(&plant.path("two"), &["--read-only"]).expect("a loop device");
    flash(&[&protected.0]).code(2).stderr(contains("it is write-protected"));
    drop(protected);
    // Somebody else has it for himself.
    let held = File::options().read(true).custom_flags(libc::O_EXCL).open(&one.0).expect("open");
    flash(&[&one.0, &two.0]).code(2).stderr(contains("it is in use"));
    drop(held);
    flash(&[&one.0, &two.0]).success().stdout(contains("2 of 2 good"));
    for (file, id, old) in [("one", "pump%3A3", 0xee), ("two", "pump-1", 0xdd)] {
        let card = fs::read(plant.path(file)).expect("card");
        let image = expected(&plant, id);
        let mapped = SIZE as usize - MIB;
        assert!(card[..mapped] == image[..mapped], "{file}");
        assert!(card[mapped..][..2 * MIB].iter().all(|byte| *byte == old), "the rest stays");
        assert!(card[mapped + 2 * MIB..].iter().all(|byte| *byte == 0), "but for the end");
    }
    mounted(&plant);
}

/// What is mounted is not written, by whatever number of loop devices it is used.
fn mounted(plant: &Plant) {
    let path = plant.path("file-system");
    File::create(&path).and_then(|file| file.set_len(SIZE)).expect("file");
    let path_text = path.to_str().expect("UTF-8");
    assert!(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", path_text])
            .status()
            .expect("mke2fs")
            .success()
    );
    let card = Loop::of(&path, &[]).expect("a loop device");
    let before = Digest::of(fs::read(&path).expect("file"));
    let place = plant.path("mnt");
    fs::create_dir(&place).expect("folder");
    let mount = Command::new("mount").args(["-o", "ro,noload", &card.0]).arg(&place).status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine mounts nothing");
        return;
    }
    let refused = plant.run(&["flash", "golden", "--yes", "--to", &card.0]);
    Command::new("umount").arg(&place).status().expect("umount");
    refused.code(2).stderr(contains(" is mounted on ").and(contains("nothing was written")));
    assert_eq!(Digest::of(fs::read(&path).expect("file")), before);
}
