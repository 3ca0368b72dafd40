//! The digests of the block map, and the file that is hashed while it is written.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, Result};

use super::pass::{self, Chunk};
use crate::format::bmap::{self, Mapped};
use crate::units::{Digest, Sha256};

/// A file that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    /// Bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl Whole {
    /// Writes a small file.
    pub(super) fn small(path: &Path, text: &str) -> Result<Self> {
        let mut file = Hashed::create(path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
        Ok(file.finish())
    }
}

/// A file that is written from start to end, and its digest.
pub(super) struct Hashed {
    file: File,
    hasher: Sha256,
    size: u64,
}

impl Hashed {
    /// Begins the file anew. It must be there: one that an interrupt has just removed shall not come back.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::options().write(true).truncate(true).open(path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { file, hasher: Sha256::new(), size: 0 })
    }

    /// What was written.
    pub(super) fn finish(self) -> Whole {
        Whole { size: self.size, sha256: self.hasher.finish() }
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The digest of each range (bytes, ascending, on whole blocks but where the disk ends).
pub(super) fn ranges(chunks: &Receiver<Chunk>, ranges: Vec<Range<u64>>) -> Vec<Mapped> {
    pass::stand_back();
    let mut mapped = Vec::with_capacity(ranges.len());
    let mut ranges = ranges.into_iter().peekable();
    let mut hasher = Sha256::new();
    let mut at = 0;
    for chunk in chunks {
        let end = at + chunk.length as u64;
        while let Some(range) = ranges.next_if(|range| range.end <= end) {
            add(&mut hasher, &chunk, at, &range);
            let blocks = range.start / bmap::BLOCK..range.end.div_ceil(bmap::BLOCK);
            mapped.push(Mapped { blocks, sha256: Some(std::mem::take(&mut hasher).finish()) });
        }
        if let Some(range) = ranges.peek() {
            add(&mut hasher, &chunk, at, range);
        }
        at = end;
    }
    mapped
}

/// Hashes what a chunk at `at` has of a range.
fn add(hasher: &mut Sha256, chunk: &Chunk, at: u64, range: &Range<u64>) {
    let inside =
        |place: u64| usize::try_from(place.saturating_sub(at)).unwrap_or(usize::MAX).min(chunk.length);
    let part = inside(range.start)..inside(range.end);
    chunk.range(part).for_each(|piece| hasher.update(piece));
}
