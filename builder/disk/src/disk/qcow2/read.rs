//! Reading a layer that QEMU wrote to, with what lies below.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    CLUSTER, CLUSTER_BITS, COMPRESSED, ENTRY, ENTRY_EXTENDED, EXTENDED, HEADER, MAGIC, OFFSET, PARTS,
    VERSION, ZEROS,
};
use crate::disk::overlay::{Base, Part};

/// Most entries of an L1 table: QEMU's own limit is 32 MiB of them.
const L1_MAX: u32 = 4 << 20;

/// A layer, open for reading, over its backing file.
pub struct Layer {
    file: Part,
    below: Box<dyn Base>,
    l1: Vec<u64>,
    extended: bool,
    /// The L2 table that was needed last: its place and its entries.
    table: Mutex<Option<(u64, Vec<u8>)>>,
}

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Below,
    Zeros,
    Here(u64),
}

impl At {
    /// The place `count` bytes further on.
    fn after(self, count: u64) -> Self {
        match self {
            Self::Here(offset) => Self::Here(offset + count),
            other => other,
        }
    }
}

impl Layer {
    /// Opens the layer at `path`, over what `below` reads; nobody may be writing to it.
    ///
    /// # Errors
    /// When it cannot be read, or is no layer as [`super::create`] makes them.
    pub fn open(path: &Path, below: Box<dyn Base>) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Self::parse(file, below).with_context(|| format!("reading {}", path.display()))
    }

    fn parse(file: File, below: Box<dyn Base>) -> Result<Self> {
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0).context("its header is cut off")?;
        let (word, long) = (|at| word(&head, at), |at| long(&head, at));
        ensure!(head.starts_with(MAGIC) && word(4) == VERSION, "it is no qcow2 of version {VERSION}");
        ensure!(word(20) == CLUSTER_BITS, "its clusters are not of {CLUSTER} bytes");
        let features = long(72);
        ensure!(
            features & !EXTENDED == 0,
            "it is damaged, or has features that are not known here ({features:#x})"
        );
        let (entries, offset) = (word(36), long(40));
        let bytes = u64::from(entries) * ENTRY;
        let end = offset.checked_add(bytes).context("its L1 table is nowhere")?;
        ensure!(entries <= L1_MAX && end <= file.metadata()?.len(), "its L1 table is cut off");
        let mut table = vec![0; usize::try_from(bytes)?];
        file.read_exact_at(&mut table, offset)?;
        let l1 = table.chunks_exact(ENTRY as usize).map(|entry| self::long(entry, 0) & OFFSET).collect();
        let extended = features & EXTENDED != 0;
        Ok(Self { file: Part { file, start: 0 }, below, l1, extended, table: Mutex::default() })
    }

    /// Bytes that are here or below as a whole.
    fn piece(&self) -> u64 {
        if self.extended { CLUSTER / PARTS } else { CLUSTER }
    }

    /// Where the piece with the byte at `offset` is.
    fn look(&self, offset: u64) -> Result<At> {
        let size = if self.extended { ENTRY_EXTENDED } else { ENTRY };
        let (cluster, per_l2) = (offset / CLUSTER, CLUSTER / size);
        let table = usize::try_from(cluster / per_l2).ok().and_then(|index| self.l1.get(index));
        let Some(table) = table.copied().filter(|table| *table != 0) else { return Ok(At::Below) };
        let mut last = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(known, _)| *known != table) {
            let mut entries = vec![0; CLUSTER as usize];
            self.file.fill(&mut entries, table)?;
            *last = Some((table, entries));
        }
        let entries = last.as_ref().map(|(_, entries)| entries.as_slice()).unwrap_or_default();
        let at = usize::try_from(cluster % per_l2 * size)?;
        let entry = long(entries, at);
        if entry & COMPRESSED != 0 {
            bail!("the cluster at {offset} is compressed");
        }
        let bitmap = self.extended.then(|| long(entries, at + 8));
        Ok(place(entry, bitmap, offset % CLUSTER))
    }

    /// Where the bytes from `offset` on are, and how many of them, at most `most`, are there in one run.
    fn run(&self, offset: u64, most: u64) -> Result<(At, u64)> {
        let at = self.look(offset)?;
        let mut count = self.piece() - offset % self.piece();
        while count < most && self.look(offset + count)? == at.after(count) {
            count += self.piece();
        }
        Ok((at, count.min(most)))
    }
}

/// What an L2 entry, with the bitmap of an extended one, says of the byte `within` the cluster.
fn place(entry: u64, bitmap: Option<u64>, within: u64) -> At {
    let here = At::Here((entry & OFFSET) + within);
    match bitmap {
        None if entry & ZEROS != 0 => At::Zeros,
        None if entry & OFFSET == 0 => At::Below,
        None => here,
        // Lower half: is the subcluster here? Upper half: does it read as zeros?
        Some(bits) => {
            let part = within / (CLUSTER / PARTS);
            match (bits >> part & 1, bits >> (PARTS + part) & 1) {
                (_, 1) => At::Zeros,
                (1, _) => here,
                _ => At::Below,
            }
        }
    }
}

impl Base for Layer {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let left = (buffer.len() - done) as u64;
            let (place, count) = self
                .run(at, left)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("{error:#}")))?;
            let part = &mut buffer[done..done + count as usize];
            match place {
                At::Zeros => part.fill(0),
                At::Below => self.below.fill(part, at)?,
                At::Here(place) => self.file.fill(part, place)?,
            }
            done += count as usize;
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|long| long.try_into().ok()).map_or(0, u64::from_be_bytes)
}
