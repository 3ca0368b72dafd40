//! A ledger that a power cut damaged, made one again that every reader of JSON takes.
//!
//! ```text
//! ledger.jsonl   {"verdict":"good",…}            stays, byte for byte
//!                {"verdict":"finishing","reg     ─► ledger.jsonl.torn, as it stood; in its place what it still says
//!                {"verdict":"good",…}            stays
//! ```
//! A line may be torn at the end, or anywhere: an older run closed it and went on, or the power went again while it was
//! mended. Lines keep their order, which tells an identity's fate. First the torn bytes are safe, then the new ledger takes
//! the old one's place as a whole: whenever the power goes, nothing is lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::de::IgnoredAny;

use super::lines::lines;
use super::{BEGIN, Record, Verdict};
use crate::disk::sparse;
use crate::error::Problem;
use crate::event::Sink;

/// A longer line that is torn is none of ours, and more bytes that are no holes no ledger: of a million devices it has 1 GB.
const LONGEST: usize = 64 << 10;
const LARGEST: u64 = 4 << 30;
/// What to do with a file that is none.
const OTHER_FILE: &str = "move the file away, and a new ledger is begun; which identities are given away, it alone knows: if it \
    has lines of one, keep them in the new file, each on a line of its own";

/// Mends the ledger at `path`, which this run has locked; returns the file that is there then, locked likewise.
///
/// # Errors
/// When it is none, or cannot be read or written.
pub(super) fn mend(
    file: Flock<File>,
    path: &Path,
    sink: &dyn Sink,
) -> Result<(Flock<File>, Option<Flock<File>>)> {
    let length = file.metadata()?.len();
    let data: u64 = sparse::data_ranges(&file, length)?.iter().map(|part| part.end - part.start).sum();
    if data > LARGEST {
        return Err(none(format!("it is no ledger: it has {} GiB", data >> 30)));
    }
    let torn = torn(&file)?;
    if torn.is_empty() {
        end(&file, length)?;
        return Ok((file, None));
    }
    let path = fs::canonicalize(path)?;
    let aside = with_ending(&path, "torn");
    keep(&aside, &torn)?;
    for Torn { number, bytes } in &torn {
        let ids: Vec<_> = salvage(bytes).into_iter().filter_map(|record| record.registration_id).collect();
        let said =
            if ids.is_empty() { "nothing".into() } else { format!("that {} may be taken", ids.join(", ")) };
        sink.warn(format!(
            "{}:{number}: this line was torn by a power cut, and is mended: it says {said}; {} has it as it stood",
            path.display(),
            aside.display()
        ));
    }
    let new = rewrite(&file, &path)?;
    // The old one stays locked: who opened it before it was replaced must not think that it is his.
    Ok((new, Some(file)))
}

/// A line that is no JSON, counted from 1.
struct Torn {
    number: usize,
    bytes: Vec<u8>,
}

fn none(why: String) -> anyhow::Error {
    Problem::input(why).hint(OTHER_FILE).into()
}

fn torn(file: &File) -> Result<Vec<Torn>> {
    let mut torn = Vec::new();
    for (number, line) in (1..).zip(lines(file)?) {
        let no_end = || none(format!("it is no ledger: its line {number} has no end"));
        let bytes = line.map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => no_end(),
            _ => anyhow::Error::from(error).context(format!("reading its line {number}")),
        })?;
        if !is_json(&bytes) {
            if bytes.iter().filter(|byte| **byte != 0).count() >= LONGEST {
                return Err(no_end());
            }
            torn.push(Torn { number, bytes });
        }
    }
    Ok(torn)
}

/// As `jq` takes it; an empty line is nothing.
fn is_json(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
        || serde_json::from_slice::<IgnoredAny>(line)
            .is_ok_and(|_| line_is_text(line) && has_whole_pairs(line))
}

/// Is each surrogate in a line of JSON one of a pair? What is passed over is not looked at by serde_json, and a number that is
/// too large for its `Value` is none to complain of.
fn has_whole_pairs(line: &[u8]) -> bool {
    let unit = |at: usize| {
        let digits = line[at..].strip_prefix(b"\\u")?.first_chunk::<4>()?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = line[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        at += match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => return false,
            Some(_) => 6,
            None => 2,
        };
    }
    true
}

fn line_is_text(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok()
}

/// Ends a last line that is whole but for its end.
fn end(file: &File, length: u64) -> io::Result<()> {
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let mut writer = file;
    if last != *b"\n" { writer.write_all(b"\n").and_then(|()| file.sync_data()) } else { Ok(()) }
}

/// `ledger.jsonl` with a further ending.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// The torn lines as they stood but for zeros, of which a run's beginning stands for all; safe on the disk.
fn keep(aside: &Path, torn: &[Torn]) -> Result<()> {
    let open = OpenOptions::new().append(true).create(true).mode(0o644).open(aside);
    let mut file = open.with_context(|| format!("opening {}", aside.display()))?;
    let bytes: Vec<u8> = torn.iter().flat_map(|line| [&line.bytes[..], b"\n"].concat()).collect();
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing {}", aside.display()))
}

/// The ledger with what torn lines say in their place.
fn rewrite(old: &File, path: &Path) -> Result<Flock<File>> {
    let partial = with_ending(path, "new");
    let data = old.metadata()?;
    fs::remove_file(&partial).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let open = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&partial);
    let file = open.with_context(|| format!("creating {}", partial.display()))?;
    let mut new = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    let mut written = io::BufWriter::new(&mut *new);
    for line in lines(old)? {
        let line = line?;
        if is_json(&line) {
            written.write_all(&line)?;
            written.write_all(b"\n")?;
            continue;
        }
        for record in salvage(&line) {
            serde_json::to_writer(&mut written, &record)?;
            written.write_all(b"\n")?;
        }
    }
    written.flush().context("writing the mended ledger")?;
    drop(written);
    // Whoever could read and write it still can.
    new.set_permissions(fs::Permissions::from_mode(data.mode() & 0o777))?;
    if data.uid() != nix::unistd::geteuid().as_raw() {
        std::os::unix::fs::fchown(&*new, Some(data.uid()), Some(data.gid()))?;
    }
    new.sync_all()?;
    fs::rename(&partial, path).context("replacing the ledger")?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all())?;
    }
    Ok(new)
}

/// What a line that is none still says: of each record in it, torn or whole, as much as can be read. Where only an identity
/// can, it is taken as given away.
pub(super) fn salvage(line: &[u8]) -> Vec<Record> {
    // Inside a text the quotes are escaped: this is where a line begins, even one that is glued to another.
    let begins = (0..line.len()).filter(|at| line[*at..].starts_with(BEGIN));
    let begins: Vec<usize> = [0].into_iter().chain(begins.filter(|at| *at > 0)).collect();
    let ends = begins.iter().skip(1).copied().chain([line.len()]);
    let parts = begins.iter().zip(ends).map(|(begin, end)| &line[*begin..end]);
    let record = |part| match whole(part).or_else(|| close(part)) {
        Some(record) if record.registration_id.is_some() => Some(record),
        other => named(part).or(other),
    };
    parts.filter_map(record).collect()
}

fn whole(line: &[u8]) -> Option<Record> {
    serde_json::from_slice(line).ok()
}

/// A torn line as far as it says anything: cut behind its last whole member, and closed.
fn close(torn: &[u8]) -> Option<Record> {
    // More commas than a line has members stand in a text.
    const TRIES: usize = 64;
    let commas = torn.iter().enumerate().rev().filter(|(_, byte)| **byte == b',').map(|(at, _)| at);
    // A number may be cut short and look whole; a text may not.
    let text = torn.ends_with(b"\"").then_some(torn.len());
    let ends = text.into_iter().chain(commas).take(TRIES);
    ends.filter_map(|end| whole(&[&torn[..end], b",\"torn\":true}"].concat())).next()
}

/// An identity that a line names, whatever else it says.
fn named(line: &[u8]) -> Option<Record> {
    const NAME: &[u8] = b"\"registration_id\":";
    let at = line.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let id = serde_json::Deserializer::from_slice(&line[at..]).into_iter::<String>().next()?.ok()?;
    let record = serde_json::json!({ "verdict": Verdict::Finishing, "registration_id": id, "torn": true });
    serde_json::from_value(record).ok()
}
