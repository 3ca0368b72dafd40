//! Lines, torn and whole; who is taken.

use super::{Ledger, Record, Taken, Verdict, append};
use crate::error::problem;
use crate::event::Silent;
use crate::units::Digest;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

pub(super) fn record(verdict: &str, id: &str) -> Record {
    let json = serde_json::json!({ "verdict": verdict, "registration_id": id, "golden_sha256": Digest::of("a"),
        "error": "a, b and \"c\"", "target": "/dev/sdb" });
    serde_json::from_value(json).expect("a record")
}

fn open(path: &Path) -> Ledger {
    Ledger::open(path, &Silent).expect("opens")
}

fn is_taken(ledger: &Ledger, id: &str) -> bool {
    matches!(ledger.taken(id, Some(Digest::of("a"))), Some(Taken::Same(_)))
}

#[test]
fn the_last_word_counts() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    let ledger = open(&path);
    for (verdict, id) in [
        ("good", "a"),
        ("failed", "b"),
        ("good", "b"),
        ("good", "c"),
        ("failed", "C"),
        ("finishing", "d"),
        ("failed", "D"),
        ("finishing", "e"),
        ("interrupted", "e"),
        ("finishing", "f"),
        ("uncertain", "f"),
    ] {
        ledger.add(&record(verdict, id)).expect("add");
    }
    assert!(Ledger::open(&path, &Silent).is_err(), "it is locked");
    drop(ledger);
    let ledger = open(&path);
    let taken = ["a", "b", "c", "d", "e", "f"].map(|id| is_taken(&ledger, id));
    assert_eq!(taken, [true, true, true, false, false, true]);
    assert!(matches!(ledger.taken("A", None), Some(Taken::Same(_))));
}

/// Another golden image frees no identity, and a failure with it hides nothing.
#[test]
fn golden_images_are_told_apart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    let ledger = open(&path);
    let with = |verdict: &str, golden: Option<&str>| {
        let record = Record { golden_sha256: golden.map(Digest::of), ..record(verdict, "x") };
        ledger.add(&record).expect("add");
        match open_again(&path).taken("x", Some(Digest::of("b"))) {
            None => "free",
            Some(Taken::Same(_)) => "same",
            Some(Taken::Other(_)) => "other",
        }
    };
    assert_eq!(with("failed", Some("b")), "free");
    assert_eq!(with("good", Some("a")), "other");
    assert_eq!(with("failed", Some("b")), "other");
    assert_eq!(with("failed", Some("a")), "other");
    assert_eq!(with("finishing", None), "same");
    assert_eq!(with("failed", None), "other");
    assert_eq!(with("finishing", Some("b")), "same");
    assert_eq!(with("interrupted", Some("b")), "other");
    assert_eq!(with("good", Some("b")), "same");
    // Another card failed, even after its last step was begun; the good one is out there.
    assert_eq!(with("finishing", Some("b")), "same");
    assert_eq!(with("failed", Some("b")), "same");
}

/// A copy of the file, which is locked itself.
fn open_again(path: &Path) -> Ledger {
    let copy = tempfile::NamedTempFile::new().expect("file");
    fs::copy(path, copy.path()).expect("copy");
    open(copy.path())
}

#[test]
fn a_copy_gets_every_line_and_is_believed() {
    let folder = tempfile::tempdir().expect("folder");
    let [own, copy] = ["ledger.jsonl", "copy.jsonl"].map(|name| folder.path().join(name));
    open(&copy).add(&record("good", "before")).expect("add");
    let both = |own, copy| Ledger::with_copy(own, copy, &Silent).expect("opens");
    let ledger = both(Some(&own), Some(&copy)).expect("a ledger");
    assert!(ledger.path() == own && is_taken(&ledger, "before"));
    ledger.add(&record("good", "now")).expect("add");
    assert!(Ledger::open(&copy, &Silent).is_err(), "both are locked");
    drop(ledger);
    assert!(is_taken(&open(&own), "now") && is_taken(&open(&copy), "now"));
    assert!(!is_taken(&open(&own), "before"));
    // The same file by another name; one alone; none.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&own, &link).expect("link");
    let ledger = both(Some(&own), Some(&link)).expect("a ledger");
    ledger.add(&record("good", "once")).expect("add");
    drop(ledger);
    assert_eq!(fs::read_to_string(&own).expect("read").matches("once").count(), 1);
    assert!(both(None, Some(&copy)).is_some_and(|ledger| ledger.path() == copy));
    assert!(both(None, None).is_none());
}

/// Wherever a line is torn, what stood before is there, what it still says counts, and every line is JSON again.
#[test]
fn a_torn_line_is_mended() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    let ledger = open(&path);
    ledger.add(&record("good", "first")).expect("add");
    ledger.add(&record("finishing", "second")).expect("add");
    drop(ledger);
    let whole = fs::read(&path).expect("read");
    let line = whole.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    for cut in line..whole.len() {
        fs::write(&path, &whole[..cut]).expect("write");
        let ledger = open(&path);
        ledger.add(&record("good", "third")).expect("add");
        drop(ledger);
        let ledger = open(&path);
        assert!(is_taken(&ledger, "first") && is_taken(&ledger, "third"), "{cut}");
        let said = String::from_utf8_lossy(&whole[line..cut]).contains("\"registration_id\":\"second\"");
        assert_eq!(is_taken(&ledger, "second"), said, "{cut}");
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.lines().all(|line| serde_json::from_str::<Record>(line).is_ok()), "{text}");
    }
}

/// The power goes again while a torn line is mended; and lines that older versions glued to a torn one.
#[test]
fn a_torn_line_in_the_middle_gives_nothing_free() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    let line = |verdict, id| serde_json::to_string(&record(verdict, id)).expect("JSON");
    let (torn, next, last) = (line("finishing", "torn"), line("good", "next"), line("failed", "last"));
    for cut in 0..torn.len() {
        let (begin, id) = (&torn[..cut], "\"registration_id\":\"torn\"");
        for text in [
            format!("{begin}\n{next}\n{last}\n"),
            format!("{begin}{next}\n{last}\n"),
            format!("{begin}{next}{last}"),
            format!("{next}{last}{begin}"),
            format!("{next}\n{begin}\n{begin}"),
        ] {
            fs::write(&path, &text).expect("write");
            for _ in 0..2 {
                let ledger = open(&path);
                assert!(is_taken(&ledger, "next") && !is_taken(&ledger, "last"), "{text}");
                assert_eq!(is_taken(&ledger, "torn"), begin.contains(id), "{text}");
                drop(ledger);
                let now = fs::read_to_string(&path).expect("text");
                let json =
                    |line: &str| line.is_empty() || serde_json::from_str::<serde_json::Value>(line).is_ok();
                assert!(now.lines().all(json), "{text}\nbecame\n{now}");
            }
        }
    }
}

/// The ledger's place is taken by the mended one: whose it was, who may read it, and that it is locked, stay.
#[test]
fn a_mended_ledger_is_the_same_file_to_everybody() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("folder");
    let (path, link) = (folder.path().join("ledger.jsonl"), folder.path().join("link"));
    let (good, torn) = ("{\"verdict\":\"good\",\"registration_id\":\"a\"}", "{\"verd");
    fs::write(&path, format!("{torn}\n{good}\n{torn}\n{good}")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
    std::os::unix::fs::symlink(&path, &link).expect("link");
    // What an earlier run left of the same work.
    fs::write(folder.path().join("ledger.jsonl.new"), "half").expect("write");
    let old = fs::File::open(&path).expect("open");
    let ledger = open(&link);
    assert!(link.is_symlink() && Ledger::open(&path, &Silent).is_err(), "it is locked");
    let lock = nix::fcntl::Flock::lock(old, nix::fcntl::FlockArg::LockExclusiveNonblock);
    assert!(lock.is_err(), "so is the one that it replaced");
    assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o640);
    ledger.add(&record("good", "b")).expect("add");
    drop(ledger);
    let text = fs::read_to_string(&path).expect("text");
    assert_eq!((text.lines().count(), text.starts_with(&format!("{good}\n{good}\n"))), (3, true), "{text}");
    let aside = fs::read_to_string(folder.path().join("ledger.jsonl.torn")).expect("text");
    assert_eq!(aside, format!("{torn}\n{torn}\n"));
    assert!(!folder.path().join("ledger.jsonl.new").exists());
    // A line without an end, of no JSON, is no ledger.
    fs::write(&path, "x".repeat(70_000)).expect("write");
    assert!(Ledger::open(&path, &Silent).is_err());
}

/// A full disk takes half a line.
#[test]
fn what_could_not_be_written_spoils_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    open(&path).add(&record("good", "first")).expect("add");
    let before = fs::read(&path).expect("read");
    let file = fs::OpenOptions::new().append(true).read(true).open(&path).expect("open");
    let line = serde_json::to_vec(&record("finishing", "half")).expect("JSON");
    for half in 0..line.len() {
        let full = |mut file: &fs::File, line: &[u8]| {
            file.write_all(&line[..half]).expect("half");
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        append(&file, line.clone(), full).expect_err("full");
        assert_eq!(fs::read(&path).expect("read"), before);
    }
    // Where not even that could be taken back.
    fs::write(&path, [&before[..], &line[..40]].concat()).expect("write");
    append(&file, line, |mut file, line| file.write_all(line)).expect("room again");
    assert!(is_taken(&open(&path), "half") && is_taken(&open(&path), "first"));
}

#[test]
fn what_is_no_line_is_passed_over() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    fs::write(&path, b"\xff\xfe\n{}\n{\"verdict\":\"good\",\"registration_id\":\"x\"}\n[[[").expect("write");
    assert!(open(&path).taken("x", None).is_some());
    assert_eq!(open(&path).known["x"][0].verdict, Verdict::Good);
    assert_eq!(
        fs::read_to_string(&path).expect("read"),
        "{}\n{\"verdict\":\"good\",\"registration_id\":\"x\"}\n",
        "what is no JSON is kept elsewhere"
    );
    let aside = folder.path().join("ledger.jsonl.torn");
    assert_eq!(fs::read(&aside).expect("read"), b"\xff\xfe\n[[[\n");
    // A later version's verdict; zeros that a file system left; a folder is no ledger.
    let later = "{\"verdict\":\"melted\",\"registration_id\":\"Y\\u002d1\",\"golden_sha256\":7}\n";
    fs::write(&path, [later.as_bytes(), &[0; 99]].concat()).expect("write");
    assert!(is_taken(&open(&path), "y-1"));
    assert_eq!(fs::read_to_string(&path).expect("read"), later);
    assert!(Ledger::open(folder.path(), &Silent).is_err());
}

/// ext4 and XFS leave them where a file had grown and its bytes were not yet there.
#[test]
fn zeros_of_any_length_are_torn() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    let line = [serde_json::to_vec(&record("good", "x")).expect("a line"), b"\n".to_vec()].concat();
    for zeros in [1, 300, 100_000, 20 << 20] {
        fs::write(&path, [&line[..], &vec![0; zeros], &line[..40]].concat()).expect("write");
        assert!(is_taken(&open(&path), "x"), "{zeros}");
        assert!(fs::read(&path).expect("read").starts_with(&line), "{zeros}");
    }
    fs::write(&path, &line).expect("write");
    fs::File::options().append(true).open(&path).and_then(|file| file.set_len(50 << 30)).expect("a hole");
    assert!(is_taken(&open(&path), "x"));
    assert_eq!(fs::read(&path).expect("read"), line);
}

#[test]
fn what_jq_does_not_read_is_torn() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    let good = "{\"x\":\"\\ud83d\\ude00 \\\\ud800 \\u0000\",\"y\":1e999}\n";
    for half in ["\\ud800", "\\uDC00", "\\ud800\\u0041", "\\ud800\\ud800", "\\ud83d\\\\ude00"] {
        fs::write(&path, format!("{good}{{\"x\":\"{half}\"}}\n")).expect("write");
        open(&path);
        assert_eq!(fs::read_to_string(&path).expect("read"), good, "{half}");
    }
}

#[test]
fn what_is_no_ledger_says_what_to_do() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger.jsonl");
    fs::write(&path, vec![b'x'; 100_000]).expect("write");
    for path in [path.as_path(), folder.path()] {
        let error = Ledger::open(path, &Silent).err().expect("refused");
        assert!(problem(&error).is_some_and(|problem| problem.hint.is_some()), "{error:#}");
    }
}
