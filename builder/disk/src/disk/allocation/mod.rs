//! Which parts of a disk hold anything, as its partition table and its file systems say themselves.
//!
//! ```text
//! table areas      MBR; GPT with all its entries, and its backup
//! file systems     what they have given away: metadata whole (also where it must read as zeros), files, folders
//!                  free blocks are left out, whatever lies in them
//! the rest         what is not zero
//! ```
//! This is what a block map is made of. Looking for zeros alone would be wrong both ways: it leaves out inode tables, a
//! journal or the end of a folder, which must read as zeros on a card full of something else, and it keeps what a removed
//! file left behind. In a file system that is not understood, everything that is no hole counts.

mod ext4;
mod fat32;

use std::fs::File;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

use super::gpt::SECTOR;
use super::sparse;
use super::table::{self, TableKind};
use crate::error::problem;

/// Granularity of the answer: a page, a file system's block, and what bmaptool takes. Bytes.
pub const BLOCK: u64 = 4096;
/// Sectors of a GPT with its usual 128 entries: protective MBR, header, entries. Its backup has one fewer.
const GPT_SECTORS: u64 = 34;
/// A table that claims more than this is not believed.
const LARGEST_TABLE: u64 = 1 << 20;
/// Bytes read at a time where contents decide.
const WINDOW: u64 = 1 << 20;
/// More parts than any file system of a device has; bounds the memory that a hostile one can make us take to 32 MiB.
const MOST_RANGES: usize = 1 << 21;

/// A file system that was understood; bytes from its start.
struct Understood {
    /// What it spans.
    length: u64,
    /// What of that it uses, ascending or not.
    used: Vec<Range<u64>>,
}

/// The parts of a disk that hold anything: bytes, ascending, on multiples of [`BLOCK`] except where the disk ends, none
/// touching the next.
///
/// # Errors
/// When the image cannot be read.
pub fn mapped(image: &File, size: u64) -> Result<Vec<Range<u64>>> {
    let data = sparse::data_ranges(image, size).context("looking for holes")?;
    let (kind, partitions) = partitions(image, size)?;
    let mut used = match kind {
        None => Vec::new(),
        Some(TableKind::Mbr) => iter::once(0..SECTOR).collect(),
        Some(TableKind::Gpt) => gpt_areas(image, size)?,
    };
    let mut known = Vec::new();
    for place in partitions {
        let length = place.end - place.start;
        let found = match ext4::used(image, place.start, length)? {
            None => fat32::used(image, place.start, length)?,
            found => found,
        };
        match found {
            Some(found) => {
                let at = place.start;
                used.extend(found.used.iter().map(|range| at + range.start..at + range.end));
                known.push(at..at + found.length);
            }
            None => {
                used.extend(common(&data, &place));
                known.push(place);
            }
        }
    }
    for gap in gaps(&known, size) {
        for range in common(&data, &gap) {
            not_zero(image, range, &mut used)?;
        }
    }
    Ok(merged(used, size))
}

/// The partitions in order, without those that make no sense.
fn partitions(image: &File, size: u64) -> Result<(Option<TableKind>, Vec<Range<u64>>)> {
    let table = match table::read(image) {
        Ok(table) => table,
        Err(error) if problem(&error).is_some() => return Ok((None, Vec::new())),
        Err(error) => return Err(error),
    };
    let ranges = table.partitions.iter().filter_map(|partition| {
        let end = partition.offset.checked_add(partition.size)?;
        (partition.size > 0 && end <= size).then_some(partition.offset..end)
    });
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_by_key(|range| range.start);
    let mut end = 0;
    ranges.retain(|range| {
        let apart = range.start >= end;
        end = end.max(range.end);
        apart
    });
    Ok((Some(table.kind), ranges))
}

/// Both copies of a GPT with all their entries, used or not: the checksum in the header is over all of them. First and
/// last usable sector: UEFI specification 2.10, table 5.5.
fn gpt_areas(image: &File, size: u64) -> Result<Vec<Range<u64>>> {
    let mut header = [0; SECTOR as usize];
    image.read_exact_at(&mut header, SECTOR).context("reading the partition table")?;
    let word =
        |at: usize| header[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let believed = |bytes: u64, least: u64| if bytes > LARGEST_TABLE { least } else { bytes.max(least) };
    let head = believed(word(40).saturating_mul(SECTOR), GPT_SECTORS * SECTOR);
    let behind = size.saturating_sub(word(48).saturating_add(1).saturating_mul(SECTOR));
    let tail = believed(behind, (GPT_SECTORS - 1) * SECTOR);
    Ok(vec![0..head.min(size), size.saturating_sub(tail)..size])
}

/// The parts of a sorted list that lie in a range.
fn common(list: &[Range<u64>], within: &Range<u64>) -> Vec<Range<u64>> {
    let cut = list.iter().map(|range| range.start.max(within.start)..range.end.min(within.end));
    cut.filter(|range| range.start < range.end).collect()
}

/// What a sorted list leaves out.
fn gaps(list: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut at = 0;
    let mut gaps = Vec::new();
    for range in list.iter().cloned().chain(iter::once(size..size)) {
        if at < range.start {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    gaps
}

/// The blocks of a range that are not zeros.
fn not_zero(image: &File, range: Range<u64>, used: &mut Vec<Range<u64>>) -> Result<()> {
    let mut buffer = vec![0; WINDOW as usize];
    let mut at = range.start - range.start % BLOCK;
    while at < range.end {
        let count = (range.end - at).min(WINDOW);
        let window = &mut buffer[..usize::try_from(count)?];
        image.read_exact_at(window, at).context("reading the image")?;
        for block in window.chunks(BLOCK as usize) {
            let end = at + block.len() as u64;
            if block.iter().any(|byte| *byte != 0) {
                push(used, at..end);
            }
            at = end;
        }
    }
    Ok(())
}

/// Adds a range, which becomes one with the last where it goes on from there.
fn push(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => list.push(range),
    }
}

/// Sorted, on whole blocks, and what touches made one.
fn merged(mut list: Vec<Range<u64>>, size: u64) -> Vec<Range<u64>> {
    for range in &mut list {
        range.start -= range.start % BLOCK;
        range.end = range.end.next_multiple_of(BLOCK).min(size);
    }
    list.retain(|range| range.start < range.end);
    list.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(list.len());
    for range in list {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
