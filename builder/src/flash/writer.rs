//! One device: wiped at its start, written, read back, and only then given its first MiB.
//!
//! ```text
//! wipe ─► write all but the first MiB ─► sync ─► the image is verified ─► read back ─► first MiB ─► sync ─► read back
//! └──────────── whatever happens here leaves a device that boots nothing ────────────┘
//! ```
//! What goes wrong with the first MiB itself has it wiped again. A device that does not let us, gone perhaps, may boot.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::block_device::{BlockDevice, read_all, write_all};
use super::chunk::{Aligned, CHUNK, Chunk, Extents, Pool, ZEROS, is_zero};
use super::feed::{Feed, INTERRUPTED, Next};
use super::source::FlashImage;
use super::verification::{Line, Verified};
use crate::format::decode::fill;
use crate::stamp::patch::{Patch, Stream};

/// Why a device is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriteFailure {
    /// The user stopped it.
    pub interrupted: bool,
    /// Its first MiB was begun, and could not be wiped again: it may boot, with its identity.
    pub may_boot: bool,
    /// What became of its identity's secrets.
    pub key: Option<Key>,
    /// What went wrong, where.
    pub message: String,
}

/// What became of the secrets on a device that is not done: its identity goes to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Key {
    /// They were there, and zeros were written in their place.
    Wiped,
    /// They are there: the device did not let itself be wiped.
    Left,
}

impl WriteFailure {
    fn new(message: impl Into<String>) -> Self {
        Self { interrupted: false, may_boot: false, key: None, message: message.into() }
    }

    fn broken(reason: String) -> Self {
        Self { interrupted: reason == INTERRUPTED, ..Self::new(reason) }
    }

    fn io(doing: &str, at: u64, error: &io::Error) -> Self {
        let why = match (error.kind(), error.raw_os_error()) {
            // Of a file's file system; a device says so at its end.
            (_, Some(libc::ENOSPC)) => {
                "no space is left there (a file's disk is full, or the device ends here)".to_owned()
            }
            (ErrorKind::QuotaExceeded, _) => "the quota of that disk is used up".to_owned(),
            (ErrorKind::FileTooLarge, _) => "the file system takes no file of this length".to_owned(),
            (ErrorKind::WriteZero | ErrorKind::UnexpectedEof | ErrorKind::StorageFull, _) => {
                "the device ends here: is the image larger than it is?".to_owned()
            }
            (_, Some(libc::ENODEV | libc::ENXIO)) => "the device is gone".to_owned(),
            _ => error.to_string(),
        };
        Self::new(format!("{doing} at {:.1} MiB: {why}", at as f64 / CHUNK as f64))
    }
}

/// What was done to a device.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Work {
    /// Bytes written.
    pub written: u64,
    /// Bytes read back and compared.
    pub read: u64,
    /// Seconds until everything was written and synced.
    pub seconds_write: f64,
    /// Seconds of reading back.
    pub seconds_verify: f64,
    /// It was too slow for the others, and had a decoder of its own.
    pub alone: bool,
}

/// What the engine tells about a device while it works.
pub(crate) trait Watch: Sync {
    /// It wrote, or with `verify` read back, so far.
    fn progress(&self, verify: bool, done: u64);

    /// All is well but the first MiB, which comes now: from here on the device boots.
    ///
    /// # Errors
    /// Says why that cannot be noted down: then the device stays as it is.
    fn seal(&self, verified: &Verified) -> Result<(), String>;
}

/// Everything that a device's thread needs.
pub(crate) struct Job<'a> {
    /// The device.
    pub device: &'a dyn BlockDevice,
    /// Its size, bytes.
    pub size: u64,
    /// Its identity.
    pub patch: Option<&'a Patch>,
    /// Where secrets lie, bytes.
    pub secrets: &'a [Range<u64>],
    /// The chunks.
    pub feed: &'a Feed,
    /// Its number there.
    pub slot: usize,
    /// Where it reads for itself when it was left behind.
    pub source: &'a FlashImage,
    /// Read back?
    pub verify: bool,
    /// Who is told.
    pub watch: &'a dyn Watch,
}

/// Writes a device from its wiped start to its first MiB.
///
/// # Errors
/// Says why it is not done; it boots nothing then, unless the fault says that it may.
pub(crate) fn run(job: &Job<'_>, work: &mut Work) -> Result<Arc<Verified>, WriteFailure> {
    let timer = Instant::now();
    let mut writer = Writer::new(job, work);
    let result = writer.run(timer).map_err(|fault| writer.forget(fault));
    job.feed.leave(job.slot);
    result
}

struct Writer<'a, 'b> {
    job: &'b Job<'a>,
    work: &'b mut Work,
    patch: Option<Stream<'a>>,
    scratch: Aligned,
    /// The first MiB, and what of it is written.
    head: Option<(Aligned, Extents)>,
    /// Chunks that the patch changes, as they must be read back.
    own: BTreeMap<u64, Line>,
    /// What its own decoder gave, to be compared with what was verified.
    alone: Vec<(u64, Line)>,
    next: u64,
    /// Was the first MiB begun?
    exposed: bool,
}

impl<'a, 'b> Writer<'a, 'b> {
    fn new(job: &'b Job<'a>, work: &'b mut Work) -> Self {
        Self {
            job,
            work,
            patch: job.patch.map(Patch::stream),
            scratch: Aligned::new(),
            head: None,
            own: BTreeMap::new(),
            alone: Vec::new(),
            next: 0,
            exposed: false,
        }
    }

    fn run(&mut self, timer: Instant) -> Result<Arc<Verified>, WriteFailure> {
        self.wipe(0..self.job.size.min(CHUNK as u64))?;
        self.sync()?;
        self.write()?;
        let verified = self.job.feed.outcome().map_err(WriteFailure::broken)?;
        self.compare(&verified)?;
        // Behind the image: an old backup of a partition table, an old RAID's superblock.
        let behind = verified.size.max(self.job.size.saturating_sub(CHUNK as u64));
        self.wipe(behind..self.job.size)?;
        self.sync()?;
        self.work.seconds_write = timer.elapsed().as_secs_f64();
        let timer = Instant::now();
        if self.job.verify {
            self.read_back(&verified)?;
        }
        let result = self.finish(&verified).map_err(|fault| self.undo(fault));
        self.work.seconds_verify = timer.elapsed().as_secs_f64();
        result.map(|()| verified)
    }

    /// Wipes the first MiB again.
    fn undo(&mut self, mut fault: WriteFailure) -> WriteFailure {
        let wiped = self.wipe(0..self.job.size.min(CHUNK as u64)).and_then(|()| self.sync());
        fault.may_boot = self.exposed && wiped.is_err();
        fault
    }

    /// Wipes what was written of an identity: it goes to another device now. One that may boot keeps it.
    fn forget(&mut self, mut fault: WriteFailure) -> WriteFailure {
        let written = self.next * CHUNK as u64;
        let begun = |range: &Range<u64>| range.start < range.end.min(written).min(self.job.size);
        let places: Vec<Range<u64>> = self.job.secrets.iter().filter(|range| begun(range)).cloned().collect();
        if places.is_empty() || fault.may_boot {
            return fault;
        }
        let end = written.min(self.job.size);
        // Where one place cannot be wiped, perhaps the others can.
        let wiped = places.into_iter().map(|range| self.wipe(range.start..range.end.min(end)));
        let wiped = wiped.fold(Ok(()), Result::and).and_then(|()| self.sync());
        fault.key = Some(if wiped.is_ok() { Key::Wiped } else { Key::Left });
        fault
    }

    fn going_on(&self) -> Result<(), WriteFailure> {
        self.job.feed.broken().map_or(Ok(()), |reason| Err(WriteFailure::broken(reason)))
    }

    fn put(&mut self, bytes: &[u8], at: u64) -> Result<(), WriteFailure> {
        self.work.written += bytes.len() as u64;
        write_all(self.job.device, bytes, at).map_err(|error| WriteFailure::io("writing", at, &error))
    }

    fn sync(&self) -> Result<(), WriteFailure> {
        let synced = self.job.device.sync();
        synced.map_err(|error| {
            WriteFailure::new(format!("writing what the device still had in its cache: {error}"))
        })
    }

    /// Writes zeros.
    fn wipe(&mut self, range: Range<u64>) -> Result<(), WriteFailure> {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(CHUNK as u64);
            self.put(&ZEROS[..length as usize], at)?;
            at += length;
        }
        Ok(())
    }

    /// Everything but the first MiB.
    fn write(&mut self) -> Result<(), WriteFailure> {
        loop {
            match self.job.feed.next(self.job.slot) {
                Next::Chunk(chunk) => self.chunk(&chunk)?,
                Next::End => return Ok(()),
                Next::Broken(reason) => return Err(WriteFailure::broken(reason)),
                Next::Detached(from) => {
                    debug_assert_eq!(from, self.next);
                    return self.alone();
                }
            }
        }
    }

    /// Goes on with a decoder of its own. What it gives is compared with what was verified, chunk for chunk.
    fn alone(&mut self) -> Result<(), WriteFailure> {
        self.work.alone = true;
        let unreadable =
            |error: &dyn std::fmt::Display| WriteFailure::new(format!("reading the image: {error:#}"));
        let going_on = || self.job.feed.broken().is_none();
        let stream = self.job.source.read_from(self.next * CHUNK as u64, &going_on);
        // Stopped is not unreadable.
        self.going_on()?;
        let mut stream = stream.map_err(|error| unreadable(&error))?;
        let mapped = self.job.source.mapped();
        let pool = Pool::new(1);
        while let Some(mut buffer) = pool.take(std::time::Duration::ZERO) {
            let length = fill(&mut stream, &mut buffer).map_err(|error| unreadable(&error))?;
            if length == 0 {
                break;
            }
            let chunk = Chunk::new(self.next, length, buffer, mapped.as_deref());
            self.alone.push((chunk.index, Line::of(chunk.bytes(), &chunk.extents)));
            self.chunk(&chunk)?;
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<(), WriteFailure> {
        self.going_on()?;
        self.next = chunk.index + 1;
        let end = chunk.start() + chunk.length as u64;
        if end > self.job.size {
            let full = io::Error::from(ErrorKind::StorageFull);
            return Err(WriteFailure::io("writing", self.job.size, &full));
        }
        let changed: Vec<Range<usize>> = self.changed(chunk);
        if changed.is_empty() {
            if let Some(patch) = &mut self.patch {
                patch.hole(chunk.length as u64);
            }
            self.place(chunk.index, chunk.bytes(), &chunk.extents)?;
        } else {
            let mut bytes = std::mem::take(&mut self.scratch);
            bytes[..chunk.length].copy_from_slice(chunk.bytes());
            if let Some(patch) = &mut self.patch {
                patch.replace(&mut bytes[..chunk.length]);
            }
            // What a patch brings is written, whatever the block map says of its place.
            let extents = chunk.extents.with(changed.into_iter(), chunk.length);
            self.own.insert(chunk.index, Line::of(&bytes[..chunk.length], &extents));
            self.place(chunk.index, &bytes[..chunk.length], &extents)?;
            self.scratch = bytes;
        }
        self.job.watch.progress(false, end);
        Ok(())
    }

    /// What the patch changes in a chunk.
    fn changed(&self, chunk: &Chunk) -> Vec<Range<usize>> {
        let (start, end) = (chunk.start(), chunk.start() + chunk.length as u64);
        let runs = self.job.patch.map(Patch::runs).unwrap_or_default().iter();
        let here =
            runs.map(|(offset, bytes)| offset.max(&start) - start..end.min(offset + bytes.len() as u64));
        here.filter(|range| range.end > start + range.start)
            .map(|range| range.start as usize..(range.end - start) as usize)
            .collect()
    }

    fn place(&mut self, index: u64, bytes: &[u8], extents: &Extents) -> Result<(), WriteFailure> {
        if index > 0 {
            return self.write_chunk(index * CHUNK as u64, bytes, extents);
        }
        let mut head = Aligned::new();
        head[..bytes.len()].copy_from_slice(bytes);
        self.head = Some((head, extents.clone()));
        Ok(())
    }

    fn write_chunk(&mut self, start: u64, bytes: &[u8], extents: &Extents) -> Result<(), WriteFailure> {
        for range in &extents.data {
            self.put(&bytes[range.clone()], start + range.start as u64)?;
        }
        let rest = if extents.zeros { extents.rest(bytes.len()) } else { Vec::new() };
        for range in rest {
            let place = start + range.start as u64..start + range.end as u64;
            let zeroed = self.job.device.zero(place.clone());
            if !zeroed.map_err(|error| WriteFailure::io("zeroing", place.start, &error))? {
                self.wipe(place)?;
            }
        }
        Ok(())
    }

    /// Was the image that was written the one that was verified, and the one that the patch is for?
    fn compare(&mut self, verified: &Verified) -> Result<(), WriteFailure> {
        let same = |(index, line): &(u64, Line)| {
            verified.line(*index).is_some_and(|expected| expected.sum == line.sum)
        };
        if self.next != verified.chunks() || !self.alone.iter().all(same) {
            return Err(WriteFailure::new("the image's file was changed while it was written"));
        }
        self.alone.clear();
        match self.patch.take() {
            Some(patch) => {
                patch.finish(Some(verified.raw_sha256)).map_err(|error| WriteFailure::new(error.to_string()))
            }
            None => Ok(()),
        }
    }

    /// Everything but the first MiB.
    fn read_back(&mut self, verified: &Verified) -> Result<(), WriteFailure> {
        for index in 1..verified.chunks() {
            self.going_on()?;
            self.read_chunk(index, verified)?;
        }
        Ok(())
    }

    fn read_chunk(&mut self, index: u64, verified: &Verified) -> Result<(), WriteFailure> {
        let line = self.own.get(&index).or_else(|| verified.line(index));
        let Some(line) = line.cloned() else { return Ok(()) };
        let start = index * CHUNK as u64;
        let length = (verified.size - start).min(CHUNK as u64) as usize;
        let mut bytes = std::mem::take(&mut self.scratch);
        let whole = 0..length;
        let ranges = if line.extents.zeros { std::slice::from_ref(&whole) } else { &line.extents.data };
        for range in ranges {
            let at = start + range.start as u64;
            let read = read_all(self.job.device, &mut bytes[range.clone()], at);
            read.map_err(|error| WriteFailure::io("reading back", at, &error))?;
            self.work.read += range.len() as u64;
        }
        let clean =
            !line.extents.zeros || line.extents.rest(length).into_iter().all(|range| is_zero(&bytes[range]));
        let same = clean && Line::of(&bytes[..length], &line.extents).sum == line.sum;
        self.scratch = bytes;
        if !same {
            let at = start as f64 / CHUNK as f64;
            return Err(WriteFailure::new(format!(
                "the device is bad: between {at} and {} MiB it gives back other bytes than were written",
                at + 1.0
            )));
        }
        self.job.watch.progress(true, start + length as u64);
        Ok(())
    }

    /// The first MiB. That everything else is there takes a [`Verified`].
    fn finish(&mut self, verified: &Verified) -> Result<(), WriteFailure> {
        self.going_on()?;
        self.job.watch.seal(verified).map_err(WriteFailure::new)?;
        let Some((head, extents)) = self.head.take() else {
            return Err(WriteFailure::new("the image is empty"));
        };
        let length = verified.size.min(CHUNK as u64) as usize;
        // Before the first write, not after it: one that fails may have reached the medium all the same.
        self.exposed = true;
        for range in &extents.data {
            self.put(&head[range.clone()], range.start as u64)?;
        }
        self.sync()?;
        if self.job.verify && length > 0 {
            self.read_chunk(0, verified)?;
        }
        Ok(())
    }
}
