//! How large an ext4 file system must be for a tree.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tree::{FileKind, Meta, Root};

/// Bytes in a block of our root file systems: the page size of every machine we build for.
pub const BLOCK: u64 = 4096;
/// Bytes in an inode: 128 cannot hold times after 2038 nor small extended attributes.
pub const INODE: u64 = 256;
/// One inode for each so many bytes, as mke2fs has it: a file system that grows keeps the ratio.
const BYTES_PER_INODE: u64 = 16384;
/// mke2fs's own choice for 1 to 2 GiB. It cannot grow with the file system, so smaller ones get it too.
const JOURNAL: u64 = 32 * 1024 * 1024;
/// In a file system of less than [`SMALL`] it would leave no room.
const SMALL_JOURNAL: u64 = 8 * 1024 * 1024;
const SMALL: u64 = 256 * 1024 * 1024;
/// Of a hundred blocks, the number that only root may fill.
pub const RESERVED_PERCENT: u64 = 1;

const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
const DESCRIPTOR: u64 = 64;
/// A directory block loses this much to its checksum.
const CHECKSUM_TAIL: u64 = 12;
/// Bytes of a folder's entries `.` and `..`.
const DOTS: u64 = 2 * 12;
/// A symlink shorter than this lies in its inode.
const INLINE_LINK: u64 = 60;

/// What a tree puts into a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// Files, folders, links; a file with several names counts once.
    pub inodes: u64,
    /// Blocks of contents and folders.
    pub blocks: u64,
}

impl Survey {
    /// Walks a tree.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn of(tree: &Root) -> Result<Self> {
        // lost+found takes 4 blocks; ten inodes are reserved.
        let mut survey = Self { inodes: 12, blocks: 5 };
        // By folder: bytes of its entries, `.` and `..` first.
        let mut folders = HashMap::from([(PathBuf::new(), DOTS)]);
        let mut seen = HashSet::new();
        tree.walk("", &mut |path, meta| {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            let name = path.file_name().unwrap_or_default().len() as u64;
            *folders.entry(folder).or_insert(DOTS) += 8 + name.next_multiple_of(4);
            if meta.kind == FileKind::Folder {
                folders.entry(path.to_owned()).or_insert(DOTS);
            }
            if meta.kind == FileKind::Folder || meta.links == 1 || seen.insert(meta.id) {
                survey.add(meta);
            }
            Ok(())
        })?;
        // An entry never straddles two blocks, so that up to one name's length is lost in each.
        let blocks = folders.values().map(|bytes| bytes.div_ceil(BLOCK - CHECKSUM_TAIL - 264 / 2));
        survey.blocks += blocks.sum::<u64>();
        Ok(survey)
    }

    fn add(&mut self, meta: &Meta) {
        self.inodes += 1;
        let inline = meta.kind == FileKind::Link && meta.size < INLINE_LINK;
        if !inline && matches!(meta.kind, FileKind::File | FileKind::Link) {
            self.blocks += meta.size.div_ceil(BLOCK);
        }
    }

    /// The number of inodes of a file system of `size` bytes with this tree in it.
    pub fn inodes_of(&self, size: u64) -> u64 {
        (size / BYTES_PER_INODE).max(self.inodes * 5 / 4 + 1024)
    }

    /// The bytes that a file system needs to hold this tree and `free` bytes more, in whole MiB.
    pub fn bytes_needed(&self, free: u64) -> u64 {
        const MIB: u64 = 1024 * 1024;
        // Extended attributes and extent trees, of which the walk knows nothing.
        let slack = self.blocks / 64 + 256;
        let content = self.blocks + slack + free.div_ceil(BLOCK);
        let mut size = content * BLOCK;
        // The overhead depends on the size, far less than proportionally: this settles in a few rounds.
        for _ in 0..16 {
            let blocks = content + self.overhead(size) + journal_of(size) / BLOCK;
            let next = (blocks * BLOCK * 100 / (100 - RESERVED_PERCENT)).next_multiple_of(MIB);
            if next == size {
                break;
            }
            size = next.max(size);
        }
        size
    }

    /// Blocks of a file system of `size` bytes that hold no contents: inode tables, bitmaps, group descriptors with the
    /// room that mke2fs keeps for growing to 1024 times the size.
    fn overhead(&self, size: u64) -> u64 {
        let groups = (size / BLOCK).div_ceil(BLOCKS_PER_GROUP).max(1);
        let descriptors = (groups * 1024 * DESCRIPTOR).div_ceil(BLOCK).min(1024 + groups);
        let is_power = |base: u64| {
            move |group: u64| {
                let mut power = base;
                while power < group {
                    power *= base;
                }
                power == group
            }
        };
        let backup = |group: &u64| *group < 2 || [3, 5, 7].into_iter().any(|base| is_power(base)(*group));
        let copies = (0..groups).filter(backup).count() as u64;
        self.inodes_of(size).div_ceil(BLOCK / INODE) + 4 * groups + copies * (descriptors + 1)
    }
}

/// Bytes of the journal of a file system of `size` bytes.
pub fn journal_of(size: u64) -> u64 {
    if size < SMALL { SMALL_JOURNAL } else { JOURNAL }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Root, SMALL_JOURNAL, Survey};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn counts_what_is_there() {
        let folder = tempfile::tempdir().expect("temp folder");
        let top = folder.path();
        let tree = Root::open(top).expect("open");
        let empty = Survey::of(&tree).expect("walk");
        fs::create_dir(top.join("d")).expect("folder");
        fs::write(top.join("d/file"), vec![1; 2 * BLOCK as usize + 1]).expect("file");
        fs::hard_link(top.join("d/file"), top.join("again")).expect("hard link");
        symlink("x".repeat(59), top.join("short")).expect("symlink");
        symlink("x".repeat(60), top.join("long")).expect("symlink");
        let full = Survey::of(&tree).expect("walk");
        assert_eq!(full.inodes - empty.inodes, 4);
        assert_eq!(full.blocks - empty.blocks, 3 + 1 + 1);
    }

    #[test]
    fn needs_grow_with_content_and_free_space() {
        let small = Survey { inodes: 100, blocks: 100 };
        let large = Survey { inodes: 20_000, blocks: 250_000 };
        assert!(small.bytes_needed(0) > SMALL_JOURNAL);
        assert!(small.bytes_needed(0) < SMALL_JOURNAL + (8 << 20));
        let free = 256 << 20;
        let gap = large.bytes_needed(free) - large.bytes_needed(0);
        assert!((free..free + free / 16).contains(&gap), "{gap}");
        assert!(large.bytes_needed(0) < 250_000 * BLOCK * 110 / 100);
    }
}
