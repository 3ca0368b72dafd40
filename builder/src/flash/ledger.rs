//! The ledger: what was flashed, a line of JSON for each device, appended and synced as soon as it is over.
//!
//! ```text
//! {"verdict":"finishing","registration_id":"pump-7",…}     its first MiB comes next
//! {"verdict":"good","registration_id":"pump-7",…}
//! ```
//! It is the memory of which identities are given away: after `finishing`, an identity is free again when the next line says
//! that its device boots nothing; after `good`, never. What cannot be read gives nothing free. The file is locked as long as a run lasts.

mod lines;
mod mend;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::writer::Key;
use crate::error::Problem;
use crate::event::Sink;
use crate::units::Digest;

/// How every line begins.
const BEGIN: &[u8] = b"{\"verdict\":\"";

/// What came of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Written, and read back unless that was switched off.
    Good,
    /// It boots nothing.
    Failed,
    /// The user stopped it; it boots nothing.
    Interrupted,
    /// It went away while its first MiB was written: it may boot, and keeps its identity.
    Uncertain,
    /// All but the first MiB is there. Another line follows, unless the power went.
    Finishing,
}

impl fmt::Display for Taken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (record, image) = match self {
            Self::Same(record) => (Some(record), ""),
            Self::Other(records) => (records.last(), ", with another golden image"),
        };
        record.map_or(Ok(()), |record| match record.time.as_str() {
            "" => write!(f, "by a line that cannot be read"),
            time => write!(f, "{} of {time}{image}", record.target),
        })
    }
}

impl Verdict {
    /// Does the device boot nothing, so that its identity may be given to another one?
    fn frees(self) -> bool {
        matches!(self, Self::Failed | Self::Interrupted)
    }
}

/// One line. What tells an identity's fate stands first: a line that a power cut tore still says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
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
    /// What became of the identity's secrets, which were on it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The line was torn by a power cut, and closed later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

/// A ledger that nobody else writes to.
pub(crate) struct Ledger {
    path: PathBuf,
    file: Mutex<Flock<File>>,
    /// The last line of each identity with each golden image.
    known: BTreeMap<String, Vec<Record>>,
    /// Another file with the same lines.
    copy: Option<Box<Self>>,
    /// What stood in its place before it was mended.
    _replaced: Option<Flock<File>>,
}

/// Whom an identity is given to.
#[derive(Debug)]
pub(crate) enum Taken<'a> {
    /// This device, with the same golden image; or it is not known with which one.
    Same(&'a Record),
    /// These devices, with other golden images.
    Other(Vec<&'a Record>),
}

impl Ledger {
    /// Opens or begins a ledger, and mends what power cuts tore: every line is JSON then.
    ///
    /// # Errors
    /// When it cannot be read or written, or another run has it.
    pub(crate) fn open(path: &Path, sink: &dyn Sink) -> Result<Self> {
        let name = path.display();
        let mut options = OpenOptions::new();
        let open = options.read(true).append(true).create(true).mode(0o644).open(path);
        let file = open.map_err(|error| {
            Problem::input(format!("opening the ledger {name}: {error}"))
                .hint("it must be a file that can be written: --ledger FILE names another, beside the identities' own")
        })?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Problem::input(format!("another edgepress is writing to the ledger {name}"))
                .hint("wait for it to end: two runs must not give the same identity away")
        })?;
        let mended = mend::mend(file, path, sink).with_context(|| format!("mending the ledger {name}"));
        let (file, replaced) = mended.map_err(Problem::to_input)?;
        let known = read(&file, path, sink).with_context(|| format!("reading the ledger {name}"))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), known, copy: None, _replaced: replaced })
    }

    /// The ledger that lies with the identities, and another one that gets every line as well; none where there is neither.
    /// Whom either knows as given away is given away.
    ///
    /// # Errors
    /// See [`Ledger::open`].
    pub(crate) fn with_copy(
        own: Option<&Path>,
        copy: Option<&Path>,
        sink: &dyn Sink,
    ) -> Result<Option<Self>> {
        let Some(path) = own.or(copy) else { return Ok(None) };
        let mut ledger = Self::open(path, sink)?;
        let here = ledger.file.lock().unwrap_or_else(PoisonError::into_inner).metadata()?;
        let same =
            |path: &Path| fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == (here.dev(), here.ino()));
        if let Some(path) = copy.filter(|path| !same(path)) {
            ledger.copy = Some(Box::new(Self::open(path, sink)?));
        }
        Ok(Some(ledger))
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its files: its own, and the one that gets every line as well.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        [Some(self), self.copy.as_deref()].into_iter().flatten().map(Self::path).collect()
    }

    /// Whom is an identity given to? `golden` is the image that it is for.
    pub(crate) fn taken(&self, registration_id: &str, golden: Option<Digest>) -> Option<Taken<'_>> {
        let id = registration_id.to_ascii_lowercase();
        let files = [Some(self), self.copy.as_deref()].into_iter().flatten();
        let lines = files.filter_map(|ledger| ledger.known.get(&id)).flatten();
        let taken: Vec<&Record> = lines.filter(|record| !record.verdict.frees()).collect();
        let same = |record: &&&Record| {
            record.golden_sha256.is_none() || golden.is_none() || record.golden_sha256 == golden
        };
        let same = taken.iter().rev().find(same).map(|record| Taken::Same(record));
        same.or_else(|| (!taken.is_empty()).then_some(Taken::Other(taken)))
    }

    /// The device that has a certificate and another registration id than this.
    pub(crate) fn holder(&self, certificate: &Digest, id: &str) -> Option<&Record> {
        let files = [Some(self), self.copy.as_deref()].into_iter().flatten();
        let mut lines = files.flat_map(|ledger| ledger.known.values().flatten());
        let other = |record: &&Record| {
            let own = record.registration_id.as_deref().is_some_and(|its| its.eq_ignore_ascii_case(id));
            !own && !record.verdict.frees() && record.certificate_sha256.as_ref() == Some(certificate)
        };
        lines.find(other)
    }

    /// Adds a line, and returns when it lies on the disk.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it is there then.
    pub(crate) fn add(&self, record: &Record) -> Result<()> {
        let line = serde_json::to_vec(record).context("writing the ledger")?;
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = append(&file, line, |mut file, line| file.write_all(line));
        written.with_context(|| format!("writing the ledger {}", self.path.display()))?;
        self.copy.as_ref().map_or(Ok(()), |copy| copy.add(record))
    }
}

/// Adds a line. What a full disk took of it goes again: the next one would be glued to it.
fn append(file: &File, mut line: Vec<u8>, write: impl Fn(&File, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != *b"\n" {
        // It could not be taken back last time.
        line.insert(0, b'\n');
    }
    line.push(b'\n');
    let written = write(file, &line).and_then(|()| file.sync_data());
    if written.is_err() {
        file.set_len(length).and_then(|()| file.sync_data()).ok();
    }
    written
}

/// The same file with a place of its own in it.
fn again(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn read(file: &File, path: &Path, sink: &dyn Sink) -> Result<BTreeMap<String, Vec<Record>>> {
    let mut known = BTreeMap::<String, Vec<Record>>::new();
    for (at, line) in lines::lines(file)?.enumerate() {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let records = match serde_json::from_slice::<Record>(&line) {
            Ok(record) => vec![record],
            Err(error) => {
                let place = format!("{}:{}", path.display(), at + 1);
                let records = mend::salvage(&line);
                let ids = records.iter().filter_map(|record| record.registration_id.as_deref());
                let ids = ids.collect::<Vec<_>>().join(", ");
                let said = if ids.is_empty() { "nothing".into() } else { format!("that {ids} may be taken") };
                sink.warn(format!("{place}: this is no line of a ledger ({error}); it says {said}"));
                records
            }
        };
        for record in records {
            let Some(id) = &record.registration_id else { continue };
            let all = known.entry(id.to_ascii_lowercase()).or_default();
            remember(all, record);
        }
    }
    Ok(known)
}

/// The last line with a golden image counts, except that a device that was begun or failed is not the one that was good
/// before: that one still has the identity. (A reader's serial would not tell them apart.)
fn remember(all: &mut Vec<Record>, record: Record) {
    let same = |other: &&Record| other.golden_sha256 == record.golden_sha256;
    let out = |record: &Record| matches!(record.verdict, Verdict::Good | Verdict::Uncertain);
    if !out(&record) && all.iter().filter(same).any(out) {
        return;
    }
    all.retain(|other| !same(&other));
    all.push(record);
}

#[cfg(test)]
mod tests;
