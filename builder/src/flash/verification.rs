//! Is the image what it must be? The answer is a value that nobody else can make, and without which no device's first
//! MiB is written.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use twox_hash::xxhash3_128::Hasher;

use super::chunk::{Chunk, Extents};
use super::source::{FlashImage, Hashed};
use crate::format::bmap::Bmap;
use crate::units::{Digest, Sha256};

/// What must be read back from a chunk's place.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// What was written.
    pub extents: Extents,
    /// Sum of those bytes.
    pub sum: u128,
}

/// What is read back is compared by XXH3 of 128 bits, five times as fast as SHA-256 and read for each target: a bad card is
/// no adversary. The seed is this run's own, so that nobody can have made two chunks that are alike.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u64));

impl Line {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8], extents: &Extents) -> Self {
        let mut hasher = Hasher::with_seed(*SEED);
        extents.data.iter().for_each(|range| hasher.write(&bytes[range.clone()]));
        Self { extents: extents.clone(), sum: hasher.finish_128() }
    }
}

/// Proof that the whole image was read, to the end of its file, and that every digest that was known is right. Only
/// [`Verification::finish`] makes one.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Bytes of the disk.
    pub size: u64,
    /// SHA-256 of the disk.
    pub raw_sha256: Digest,
    /// SHA-256 of the file.
    pub file_sha256: Digest,
    lines: Vec<Line>,
}

impl Verified {
    /// What must be read back from the place of a chunk, if the image has so many.
    pub(crate) fn line(&self, chunk: u64) -> Option<&Line> {
        self.lines.get(usize::try_from(chunk).ok()?)
    }

    /// How many chunks the image has.
    pub(crate) fn chunks(&self) -> u64 {
        self.lines.len() as u64
    }
}

/// Looks at every chunk as it goes by.
pub(crate) struct Verification<'a> {
    source: &'a FlashImage,
    disk: Sha256,
    size: u64,
    lines: Vec<Line>,
    ranges: Option<Ranges<'a>>,
}

impl<'a> Verification<'a> {
    /// Of this image.
    pub(crate) fn new(source: &'a FlashImage) -> Self {
        let ranges = source.bmap.as_ref().map(Ranges::new);
        Self { source, disk: Sha256::new(), size: 0, lines: Vec::new(), ranges }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// Says which part of the block map it does not fit.
    pub(crate) fn take(&mut self, chunk: &Chunk) -> Result<(), String> {
        let bytes = chunk.bytes();
        self.disk.update(bytes);
        self.lines.push(Line::of(bytes, &chunk.extents));
        if let Some(ranges) = &mut self.ranges {
            ranges.take(self.size, bytes)?;
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// All chunks were taken, and the decoder is at its end.
    ///
    /// # Errors
    /// Says what is not as it must be.
    pub(crate) fn finish(self, file: Hashed) -> Result<Arc<Verified>, String> {
        let FlashImage { size, container, file_sha256: expected, raw_sha256, bmap, .. } = self.source;
        let file_sha256 = file.finish().map_err(|error| format!("reading the image: {error}"))?;
        let raw = self.disk.finish();
        if let Some((expected, who)) = expected.as_ref().filter(|(sum, _)| *sum != file_sha256) {
            return Err(format!(
                "the image is damaged: its digest is {file_sha256}, and {who} says {expected}"
            ));
        }
        for said in [Some(*size), bmap.as_ref().map(|map| map.image_size)].into_iter().flatten() {
            if said != self.size {
                return Err(format!("the image has {} bytes and not {said}", self.size));
            }
        }
        if let Some(expected) = raw_sha256.filter(|sum| *sum != raw) {
            return Err(format!(
                "the {container} holds another disk than its manifest says: {raw}, not {expected}"
            ));
        }
        Ok(Arc::new(Verified { size: self.size, raw_sha256: raw, file_sha256, lines: self.lines }))
    }
}

/// The parts of a block map, each with its digest.
struct Ranges<'a> {
    map: &'a Bmap,
    current: usize,
    hasher: Sha256,
}

impl<'a> Ranges<'a> {
    fn new(map: &'a Bmap) -> Self {
        Self { map, current: 0, hasher: Sha256::new() }
    }

    fn take(&mut self, start: u64, bytes: &[u8]) -> Result<(), String> {
        let end = start + bytes.len() as u64;
        while let Some(mapped) = self.map.ranges.get(self.current) {
            let at = |block: u64| (block * self.map.block_size).min(self.map.image_size);
            let range = at(mapped.blocks.start)..at(mapped.blocks.end);
            if range.start >= end {
                break;
            }
            let from = (range.start.max(start) - start) as usize;
            let to = (range.end.min(end) - start) as usize;
            self.hasher.update(&bytes[from..to]);
            if range.end > end {
                break;
            }
            let found = std::mem::take(&mut self.hasher).finish();
            if mapped.sha256.is_some_and(|expected| expected != found) {
                let (first, last) = (mapped.blocks.start, mapped.blocks.end - 1);
                return Err(format!(
                    "the image is damaged, or the block map is another's: blocks {first}-{last} differ"
                ));
            }
            self.current += 1;
        }
        Ok(())
    }
}
