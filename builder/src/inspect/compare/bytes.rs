//! Which bytes of two disks differ, and in which part of the disk they lie.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::place::Places;
use crate::disk::sparse::data_ranges;
use crate::image::source::OpenImage;

/// Differences are told in blocks of this size.
const BLOCK: u64 = 4096;
const CHUNK: u64 = 1 << 20;
/// Ranges beyond these are joined to the last one: two disks with nothing in common have no use for a list.
const MOST_RANGES: usize = 100_000;

/// The differing bytes in one part of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Region {
    /// What lies there, in the first image.
    pub place: String,
    /// Bytes of all ranges, in whole blocks of 4 KiB.
    pub bytes: u64,
    /// From byte, to byte (not meant): on the disk.
    pub ranges: Vec<(u64, u64)>,
}

/// The ranges that differ, in blocks, ascending; what one disk has more than the other differs. Holes of both are not read.
///
/// # Errors
/// When one cannot be read.
pub(super) fn differing(a: &OpenImage, b: &OpenImage) -> Result<Vec<Range<u64>>> {
    let common = a.size.min(b.size);
    let mut found = Vec::new();
    let mut buffers = [vec![0; CHUNK as usize], vec![0; CHUNK as usize]];
    for range in data(a, b, common)? {
        let mut at = range.start;
        while at < range.end {
            let length = CHUNK.min(range.end - at) as usize;
            for (source, buffer) in [a, b].into_iter().zip(&mut buffers) {
                let read = source.file.read_exact_at(&mut buffer[..length], at);
                read.with_context(|| format!("reading {}", source.path.display()))?;
            }
            let [one, other] = &buffers;
            if one[..length] != other[..length] {
                let blocks = one[..length].chunks(BLOCK as usize).zip(other[..length].chunks(BLOCK as usize));
                for (start, (one, other)) in (at..).step_by(BLOCK as usize).zip(blocks) {
                    if one != other {
                        push(&mut found, start..start + one.len() as u64);
                    }
                }
            }
            at += length as u64;
        }
    }
    if a.size != b.size {
        push(&mut found, common..a.size.max(b.size));
    }
    Ok(found)
}

/// The parts that are no holes in both, in whole blocks, joined.
fn data(a: &OpenImage, b: &OpenImage, common: u64) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    for source in [a, b] {
        let found = data_ranges(&source.file, common)
            .with_context(|| format!("reading {}", source.path.display()))?;
        ranges.extend(found.into_iter().map(|range| {
            let start = range.start - range.start % BLOCK;
            start..range.end.next_multiple_of(BLOCK).min(common)
        }));
    }
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

fn push(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    let full = ranges.len() >= MOST_RANGES;
    match ranges.last_mut() {
        Some(last) if last.end == next.start || full => last.end = next.end,
        _ => ranges.push(next),
    }
}

/// The ranges by what lies there.
pub(super) fn regions(ranges: &[Range<u64>], places: &Places) -> Vec<Region> {
    let mut regions: BTreeMap<(u64, String), Vec<(u64, u64)>> = BTreeMap::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let (order, place, end) = places.at(at);
            let end = end.clamp(at + 1, range.end);
            let list = regions.entry((order, place)).or_default();
            match list.last_mut() {
                Some(last) if last.1 == at => last.1 = end,
                _ => list.push((at, end)),
            }
            at = end;
        }
    }
    let region = |((_, place), ranges): ((u64, String), Vec<(u64, u64)>)| Region {
        place,
        bytes: ranges.iter().map(|(from, to)| to - from).sum(),
        ranges,
    };
    regions.into_iter().map(region).collect()
}
