//! The blocks that an ext4 file system has given away.
//!
//! ```text
//! group 0   superblock │ group descriptors │ room for more │ bitmaps and inode tables of 16 groups │ data
//! group n   (backup of the first three, in some groups)    │ data
//! ```
//! A group's block bitmap says what is used, unless the group is marked as one whose bitmap was never written: nothing
//! but metadata is in it then. Metadata is taken from the descriptors as well. Layout: the kernel's
//! Documentation/filesystems/ext4.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

use super::{MOST_RANGES, Understood, push};

const SUPERBLOCK: u64 = 1024;
const MAGIC: u64 = 0xef53;
/// `s_state`: unmounted in good order, no errors noted.
const CLEAN: u64 = 1;
/// Backups of the superblock in two groups that the superblock names.
const COMPAT_SPARSE_SUPER2: u64 = 0x200;
const INCOMPAT_64BIT: u64 = 0x80;
/// Not among them: a journal to be replayed (4), a device of its own for it (8), descriptors in each group (0x10).
const INCOMPAT_UNDERSTOOD: u64 = 0x2
    | 0x40
    | INCOMPAT_64BIT
    | 0x100
    | 0x200
    | 0x400
    | 0x1000
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x10000
    | 0x20000;
const RO_SPARSE_SUPER: u64 = 1;
/// Either of them: descriptors have checksums, and groups may be marked as never written.
const RO_CHECKSUMS: u64 = 0x10 | 0x400;
/// Not among them: clusters of blocks (0x200), snapshots (0x80), replicas (0x800).
const RO_UNDERSTOOD: u64 = RO_SPARSE_SUPER
    | 0x2
    | 0x4
    | 0x8
    | RO_CHECKSUMS
    | 0x20
    | 0x40
    | 0x100
    | 0x1000
    | 0x2000
    | 0x8000
    | 0x10000;
/// `bg_flags`: the block bitmap was never written.
const BLOCK_UNINIT: u64 = 2;
/// Fewer blocks in a group than mke2fs makes; bounds how many groups are looked at.
const LEAST_PER_GROUP: u64 = 256;

/// What is used, if there is an ext4 file system at `offset` that is understood: clean, and without features that give
/// its bitmaps another meaning.
///
/// # Errors
/// When the image cannot be read.
pub(super) fn used(image: &File, offset: u64, size: u64) -> Result<Option<Understood>> {
    if size < 2 * SUPERBLOCK {
        return Ok(None);
    }
    let mut raw = [0; SUPERBLOCK as usize];
    image.read_exact_at(&mut raw, offset + SUPERBLOCK).context("reading a superblock")?;
    let Some(layout) = Layout::parse(&raw, size) else { return Ok(None) };
    let mut walk = Walk { image, offset, layout: &layout, used: Vec::new() };
    push(&mut walk.used, 0..layout.first + 1);
    for group in 0..layout.groups() {
        if !walk.group(group)? || walk.used.len() > MOST_RANGES {
            return Ok(None);
        }
    }
    let bytes = |range: &Range<u64>| range.start * layout.block..range.end * layout.block;
    let used = walk.used.iter().map(bytes).collect();
    Ok(Some(Understood { length: layout.blocks * layout.block, used }))
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The superblock, as far as it is needed. Counts in blocks.
struct Layout {
    block: u64,
    blocks: u64,
    /// The block with the superblock: 1 where blocks have 1 KiB, else 0.
    first: u64,
    per_group: u64,
    /// Blocks of a group's inode table.
    table: u64,
    descriptor: u64,
    /// Kept free behind the descriptors, for more of them.
    reserved: u64,
    checksums: bool,
    sparse: bool,
    backups: Option<[u64; 2]>,
}

impl Layout {
    fn parse(raw: &[u8], size: u64) -> Option<Self> {
        let field = |at, width| number(raw, at, width);
        let (compat, incompat, read_only) = (field(0x5c, 4), field(0x60, 4), field(0x64, 4));
        let plain = field(0x38, 2) == MAGIC
            && field(0x3a, 2) == CLEAN
            && incompat & !INCOMPAT_UNDERSTOOD == 0
            && read_only & !RO_UNDERSTOOD == 0;
        let log = field(0x18, 4);
        if !plain || log > 6 {
            return None;
        }
        let block = 1024 << log;
        let wide = incompat & INCOMPAT_64BIT != 0;
        let blocks = field(0x04, 4) | if wide { field(0x150, 4) << 32 } else { 0 };
        let (inodes, inode_size) = (field(0x28, 4), if field(0x4c, 4) == 0 { 128 } else { field(0x58, 2) });
        let layout = Self {
            block,
            blocks,
            first: field(0x14, 4),
            per_group: field(0x20, 4),
            table: (inodes * inode_size).div_ceil(block),
            descriptor: if wide { field(0xfe, 2) } else { 32 },
            reserved: field(0xce, 2),
            checksums: read_only & RO_CHECKSUMS != 0,
            sparse: read_only & RO_SPARSE_SUPER != 0,
            backups: (compat & COMPAT_SPARSE_SUPER2 != 0).then(|| [field(0x24c, 4), field(0x250, 4)]),
        };
        let sound = layout.first == u64::from(block == 1024)
            && layout.blocks > layout.first
            && layout.blocks.checked_mul(block)? <= size
            && (LEAST_PER_GROUP..=8 * block).contains(&layout.per_group)
            && (32..=1024).contains(&layout.descriptor)
            && (!wide || layout.descriptor >= 64)
            && block.is_multiple_of(layout.descriptor)
            && layout.table <= layout.blocks;
        sound.then_some(layout)
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first).div_ceil(self.per_group)
    }

    /// Blocks of a group.
    fn span(&self, group: u64) -> Range<u64> {
        let start = self.first + group * self.per_group;
        start..(start + self.per_group).min(self.blocks)
    }

    /// Does the group have a copy of superblock and descriptors?
    fn has_copy(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match self.backups {
            _ if group == 0 => true,
            Some(backups) => backups.contains(&group),
            None => !self.sparse || group == 1 || [3, 5, 7].into_iter().any(power_of),
        }
    }
}

struct Walk<'a> {
    image: &'a File,
    offset: u64,
    layout: &'a Layout,
    /// In blocks.
    used: Vec<Range<u64>>,
}

impl Walk<'_> {
    /// Adds what a group uses; says whether it made sense.
    fn group(&mut self, group: u64) -> Result<bool> {
        let layout = self.layout;
        let span = layout.span(group);
        let mut raw = [0; 64];
        let raw = &mut raw[..usize::try_from(layout.descriptor)?.min(64)];
        let at = (layout.first + 1) * layout.block + group * layout.descriptor;
        if at + raw.len() as u64 > layout.blocks * layout.block {
            return Ok(false);
        }
        self.image.read_exact_at(raw, self.offset + at).context("reading a group descriptor")?;
        let place = |low: usize| {
            number(raw, low, 4) | if raw.len() < 64 { 0 } else { number(raw, low + 0x20, 4) << 32 }
        };
        let (bitmap, inode_bitmap, table) = (place(0), place(4), place(8));
        if layout.has_copy(group) {
            let descriptors = (layout.groups() * layout.descriptor).div_ceil(layout.block);
            let copy = span.start..span.start + 1 + descriptors + layout.reserved;
            // In a group too short for all of it mke2fs leaves the copy out.
            if copy.end <= span.end {
                self.used.push(copy);
            }
        }
        for part in [bitmap..bitmap + 1, inode_bitmap..inode_bitmap + 1, table..table + layout.table] {
            if part.start <= layout.first || part.end > layout.blocks {
                return Ok(false);
            }
            push(&mut self.used, part);
        }
        if !(layout.checksums && number(raw, 0x12, 2) & BLOCK_UNINIT != 0) {
            self.bitmap(bitmap, span)?;
        }
        Ok(true)
    }

    fn bitmap(&mut self, at: u64, span: Range<u64>) -> Result<()> {
        let count = usize::try_from(span.end - span.start)?;
        let mut bits = vec![0; count.div_ceil(8)];
        self.image
            .read_exact_at(&mut bits, self.offset + at * self.layout.block)
            .context("reading a bitmap")?;
        for (index, byte) in bits.iter().enumerate() {
            let at = 8 * index;
            let end = (at + 8).min(count);
            match byte {
                0 => {}
                0xff => push(&mut self.used, span.start + at as u64..span.start + end as u64),
                _ => {
                    for bit in (at..end).filter(|bit| byte >> (bit % 8) & 1 != 0) {
                        let block = span.start + bit as u64;
                        push(&mut self.used, block..block + 1);
                    }
                }
            }
        }
        Ok(())
    }
}
