//! What lies where on a disk: partition table, partitions, and the structures of ext4 and FAT within them.
//!
//! ext4's structures are those of the kernel's `Documentation/filesystems/ext4/group_descr.rst`: each group of blocks has two
//! bitmaps and a part of the inode table, wherever its descriptor says.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

use crate::disk::superblock::SUPERBLOCK;
use crate::image::source::OpenImage;
use crate::inspect::{Partition, Report};

/// Groups that are looked at: 8 TiB of a file system with blocks of 4 KiB.
const MOST_GROUPS: u64 = 1 << 16;

/// A map of a disk.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Where something begins, by byte: order in the report, name, end.
    known: BTreeMap<u64, (u64, String, u64)>,
}

impl Places {
    /// The map of an image.
    pub(super) fn of(source: &OpenImage, report: &Report) -> Self {
        let mut places = Self::default();
        let mut partitions: Vec<_> = report.partitions.iter().collect();
        partitions.sort_by_key(|partition| partition.entry.offset);
        let mut end = 0;
        for partition in partitions {
            let entry = &partition.entry;
            places.add(end, entry.offset, 0, "partition table and gaps".into());
            places.partition(source, partition);
            end = entry.offset.saturating_add(entry.size);
        }
        places.add(end, u64::MAX, u64::MAX, "behind the last partition".into());
        places
    }

    fn add(&mut self, from: u64, to: u64, order: u64, name: String) {
        if from < to {
            self.known.insert(from, (order, name, to));
        }
    }

    fn partition(&mut self, source: &OpenImage, partition: &Partition) {
        let entry = &partition.entry;
        let (start, end) = (entry.offset, entry.offset.saturating_add(entry.size));
        let order = u64::from(entry.number) * 10;
        let kind = partition.file_system.as_ref().map_or("unknown", |system| system.kind);
        let name = |part: &str| format!("partition {} ({kind}): {part}", entry.number);
        let parts = match kind {
            "ext4" => ext4(source, start),
            "fat32" | "fat16" => fat(source, start),
            _ => None,
        };
        let Some(parts) = parts else { return self.add(start, end, order, name("content")) };
        let mut at = start;
        for (from, to, step, part) in parts {
            let (from, to) = (start.saturating_add(from).min(end), start.saturating_add(to).min(end));
            if from < at {
                continue;
            }
            self.add(at, from, order + 9, name("files and folders"));
            self.add(from, to, order + step, name(part));
            at = to;
        }
        self.add(at, end, order + 9, name("files and folders"));
    }

    /// What lies at a byte: its order, its name, and where it ends.
    pub(super) fn at(&self, byte: u64) -> (u64, String, u64) {
        match self.known.range(..=byte).next_back() {
            Some((_, (order, name, end))) if byte < *end => (*order, name.clone(), *end),
            _ => {
                let end = self.known.range(byte..).next().map_or(u64::MAX, |(from, _)| *from);
                (u64::MAX, "elsewhere".into(), end)
            }
        }
    }
}

/// From, to, order, name; bytes within the partition, ascending.
type Parts = Vec<(u64, u64, u64, &'static str)>;

fn fat(source: &OpenImage, start: u64) -> Option<Parts> {
    let mut boot = [0; 64];
    source.file.read_exact_at(&mut boot, start).ok()?;
    let short = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let word = |at: usize| short(at) | short(at + 2) << 16;
    let sector = short(11);
    let table = if short(22) == 0 { word(36) } else { short(22) };
    let (reserved, tables) = (short(14) * sector, u64::from(boot[16]) * table * sector);
    Some(vec![(0, reserved, 1, "boot sectors"), (reserved, reserved + tables, 2, "allocation tables")])
}

fn ext4(source: &OpenImage, start: u64) -> Option<Parts> {
    let mut block = [0; SUPERBLOCK.1 as usize];
    source.file.read_exact_at(&mut block, start + SUPERBLOCK.0).ok()?;
    let short = |at: usize| u64::from(u16::from_le_bytes([block[at], block[at + 1]]));
    let word = |at: usize| short(at) | short(at + 2) << 16;
    let size = 1024_u64.checked_shl(u32::try_from(word(0x18)).ok()?).filter(|size| *size <= 1 << 16)?;
    let wide = word(0x60) & 0x80 != 0;
    let length = if wide { short(0xfe).clamp(32, 1024) } else { 32 };
    let blocks = word(4) | if wide { word(0x150) << 32 } else { 0 };
    let groups = blocks.div_ceil(word(0x20).max(1)).min(MOST_GROUPS);
    let table = (word(0x28) * short(0x58)).div_ceil(size);
    // The superblock has a block of its own where blocks are of 1 KiB.
    let first = if size == 1024 { 2 } else { 1 };
    let mut parts = vec![(0, first * size, 1, "superblock")];
    let descriptors = (groups * length).next_multiple_of(size);
    parts.push((first * size, first * size + descriptors, 2, "group descriptors"));
    let mut raw = vec![0; usize::try_from(groups * length).ok()?];
    source.file.read_exact_at(&mut raw, start + first * size).ok()?;
    for group in raw.chunks_exact(usize::try_from(length).ok()?) {
        let half = |at: usize| {
            u64::from(u32::from_le_bytes([group[at], group[at + 1], group[at + 2], group[at + 3]]))
        };
        let at =
            |low: usize, high: usize| half(low) | if wide && length >= 64 { half(high) << 32 } else { 0 };
        let mut add = |first: u64, count: u64, order, name| {
            let from = first.saturating_mul(size);
            parts.push((from, from.saturating_add(count.saturating_mul(size)), order, name));
        };
        add(at(0, 0x20), 1, 3, "block bitmaps");
        add(at(4, 0x24), 1, 4, "inode bitmaps");
        add(at(8, 0x28), table, 5, "inode tables");
    }
    parts.sort_unstable();
    Some(parts)
}
