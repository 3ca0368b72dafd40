//! The ledger: what was flashed, a line of JSON for each device, appended and synced as soon as it is over.
//!
//! ```text
//! {"verdict":"finishing","registration_id":"pump-7",…}     its first MiB comes next
//! {"verdict":"good","registration_id":"pump-7",…}
//! ```
//! It is the memory of which identities are given away: an identity is free unless its last line says `good` or
//! `finishing` (the power went in just that moment, and the card may be good). The file is locked as long as a run lasts.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::event::Sink;
use crate::units::Digest;

/// A longer line is none of ours.
const LONGEST: u64 = 64 << 10;

/// What came of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Written, and read back unless that was switched off.
    Good,
    /// It boots nothing.
    Failed,
    /// The user stopped it; it boots nothing.
    Interrupted,
    /// All but the first MiB is there. Another line follows, unless the power went.
    Finishing,
}

/// One line. What tells an identity's fate stands first: a line that a power cut tore still says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What came of it.
    pub verdict: Verdict,
    /// Whose identity it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_id: Option<String>,
    /// SHA-256 of the golden image that the identity's patch is for, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden_sha256: Option<Digest>,
    /// When, RFC 3339, UTC.
    #[serde(default)]
    pub time: String,
    /// Name of the station.
    #[serde(default)]
    pub station: String,
    /// Version of edgepress.
    #[serde(default)]
    pub edgepress: String,
    /// The device, as it was named.
    #[serde(default)]
    pub target: String,
    /// Its maker's name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Bytes of it.
    #[serde(default)]
    pub size: u64,
    /// Name of the image's file.
    #[serde(default)]
    pub image: String,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_sha256: Option<Digest>,
    /// SHA-256 of the disk in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_sha256: Option<Digest>,
    /// SHA-256 of the identity's certificate (DER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<Digest>,
    /// Bytes written.
    #[serde(default)]
    pub bytes_written: u64,
    /// Bytes read back and compared; 0 with `--no-verify`.
    #[serde(default)]
    pub bytes_read_back: u64,
    /// Seconds of writing.
    #[serde(default)]
    pub seconds_write: f64,
    /// Seconds of reading back.
    #[serde(default)]
    pub seconds_verify: f64,
    /// Why it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The line was torn by a power cut, and closed later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

/// A ledger that nobody else writes to.
pub struct Ledger {
    path: PathBuf,
    file: Mutex<Flock<File>>,
    /// The last line of each identity.
    known: BTreeMap<String, Record>,
}

impl Ledger {
    /// Opens or begins a ledger, and mends its last line if a power cut tore it.
    ///
    /// # Errors
    /// When it cannot be read or written, or another run has it.
    pub fn open(path: &Path, sink: &dyn Sink) -> Result<Self> {
        let name = path.display();
        let mut options = OpenOptions::new();
        let open = options.read(true).append(true).create(true).mode(0o644).open(path);
        let file = open.with_context(|| format!("opening the ledger {name}"))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Problem::work(format!("another edgepress is writing to the ledger {name}"))
                .hint("wait for it to end: two runs must not give the same identity away")
        })?;
        mend(&file, sink, path).with_context(|| format!("mending the ledger {name}"))?;
        let known = read(&file, path, sink).with_context(|| format!("reading the ledger {name}"))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), known })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is an identity given away, with this golden image? Where one of the two images is not known, it is.
    pub fn taken(&self, registration_id: &str, golden: Option<Digest>) -> Option<&Record> {
        self.known.get(&registration_id.to_ascii_lowercase()).filter(|record| {
            let same = record.golden_sha256.is_none() || golden.is_none() || record.golden_sha256 == golden;
            same && matches!(record.verdict, Verdict::Good | Verdict::Finishing)
        })
    }

    /// Adds a line, and returns when it lies on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).context("writing the ledger")?;
        line.push(b'\n');
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = (&**file).write_all(&line).and_then(|()| file.sync_data());
        written.with_context(|| format!("writing the ledger {}", self.path.display()))
    }
}

/// Closes a last line without an end: what it still says is kept.
fn mend(file: &File, sink: &dyn Sink, path: &Path) -> Result<()> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LONGEST);
    let mut tail = vec![0; (length - start) as usize];
    file.read_exact_at(&mut tail, start)?;
    let torn = tail.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    if torn.is_empty() {
        return Ok(());
    }
    anyhow::ensure!(torn.len() as u64 + 1 < LONGEST, "it is no ledger: its last line has no end");
    let whole = serde_json::from_slice::<Record>(torn).is_ok();
    let closed = if whole { torn.to_vec() } else { close(torn).unwrap_or_default() };
    let line = String::from_utf8_lossy(torn);
    if closed.is_empty() {
        sink.warn(format!("{}: its last line is torn and says nothing: {line}", path.display()));
    } else if !whole {
        sink.warn(format!(
            "{}: its last line was torn by a power cut, and is mended: {line}",
            path.display()
        ));
    }
    // Appended to, not overwritten: cut the torn part off, then add it closed.
    file.set_len(length - torn.len() as u64)?;
    if !closed.is_empty() {
        let mut file = file;
        file.write_all(&[&closed[..], b"\n"].concat())?;
    }
    file.sync_data()?;
    Ok(())
}

/// A torn line as far as it says anything: cut behind its last whole member, and closed.
fn close(torn: &[u8]) -> Option<Vec<u8>> {
    let commas = torn.iter().enumerate().rev().filter(|(_, byte)| **byte == b',');
    let mut tries = commas.map(|(at, _)| [&torn[..at], b",\"torn\":true}"].concat());
    tries.find(|line| serde_json::from_slice::<Record>(line).is_ok())
}

fn read(file: &File, path: &Path, sink: &dyn Sink) -> Result<BTreeMap<String, Record>> {
    let mut known = BTreeMap::new();
    // A file of its own place in it: this one only appends.
    let again = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
    for (at, line) in BufReader::new(again).split(b'\n').enumerate() {
        match serde_json::from_slice::<Record>(&line?) {
            Ok(record) => {
                if let Some(id) = &record.registration_id {
                    known.insert(id.to_ascii_lowercase(), record);
                }
            }
            Err(error) => {
                sink.warn(format!("{}:{}: this is no line of a ledger: {error}", path.display(), at + 1));
            }
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Record, Verdict};
    use crate::event::Silent;
    use crate::units::Digest;
    use std::fs;
    use std::path::Path;

    pub fn record(verdict: &str, id: &str) -> Record {
        let json = serde_json::json!({ "verdict": verdict, "registration_id": id, "golden_sha256": Digest::of("a"),
            "error": "a, b and \"c\"", "target": "/dev/sdb" });
        serde_json::from_value(json).expect("a record")
    }

    fn open(path: &Path) -> Ledger {
        Ledger::open(path, &Silent).expect("opens")
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
            ("finishing", "e"),
            ("interrupted", "e"),
        ] {
            ledger.add(&record(verdict, id)).expect("add");
        }
        assert!(Ledger::open(&path, &Silent).is_err(), "it is locked");
        drop(ledger);
        let ledger = open(&path);
        let same = Some(Digest::of("a"));
        let taken: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|id| ledger.taken(id, same).is_some()).into();
        assert_eq!(taken, [true, true, false, true, false, false]);
        assert!(ledger.taken("A", None).is_some());
        assert!(ledger.taken("a", Some(Digest::of("other"))).is_none());
    }

    /// Wherever a line is torn, what stood before is there, and what it still says counts.
    #[test]
    fn a_torn_line_is_mended() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        let ledger = open(&path);
        ledger.add(&record("good", "first")).expect("add");
        ledger.add(&record("good", "second")).expect("add");
        drop(ledger);
        let whole = fs::read(&path).expect("read");
        let line = whole.len() / 2;
        for cut in (line..whole.len()).step_by(4).chain([whole.len() - 2, whole.len() - 1]) {
            fs::write(&path, &whole[..cut]).expect("write");
            let ledger = open(&path);
            ledger.add(&record("good", "third")).expect("add");
            drop(ledger);
            let ledger = open(&path);
            assert!(ledger.taken("first", None).is_some() && ledger.taken("third", None).is_some(), "{cut}");
            let said = String::from_utf8_lossy(&whole[line..cut]).contains("\"registration_id\":\"second\",");
            assert_eq!(ledger.taken("second", None).is_some(), said || cut + 1 == whole.len(), "{cut}");
        }
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        fs::write(&path, b"\xff\xfe\n{}\n{\"verdict\":\"good\",\"registration_id\":\"x\"}\n[[[")
            .expect("write");
        assert!(open(&path).taken("x", None).is_some());
        assert_eq!(open(&path).known["x"].verdict, Verdict::Good);
    }
}
