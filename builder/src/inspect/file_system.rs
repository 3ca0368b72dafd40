//! Which file system a partition holds, by its first bytes.
//!
//! Formats: the kernel's `Documentation/filesystems/ext4/super.rst`; Microsoft's FAT specification of 2000 ("fatgen103").

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use serde::Serialize;

use crate::disk::ids::{Uuid, VolumeId};
use crate::disk::superblock::{SUPERBLOCK, ext4_size};

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FileSystem {
    /// `ext4`, `fat32`, `fat16`, `swap`, or `lvm` for a part of a volume group.
    pub kind: &'static str,
    /// Its UUID, or its volume id as Linux writes it.
    pub uuid: String,
    /// Its label; often empty.
    pub label: String,
    /// Bytes that it spans, where its head tells that.
    pub size: Option<u64>,
    /// Bytes that are free, where its head tells that.
    pub free: Option<u64>,
}

const EXT4: &str = "ext4";
/// Bytes of a partition's head that are looked at.
const HEAD: usize = 4096;
/// Where swap space has its mark: at the end of the first page (mkswap(8)).
const SWAP: usize = 4086;
/// A physical volume of LVM has its label in one of the first four sectors.
const LVM_LABEL: &[u8] = b"LABELONE";

impl FileSystem {
    /// Is it ext4?
    pub(crate) fn is_ext4(&self) -> bool {
        self.kind == EXT4
    }
}

/// Reads the head of the partition at `offset` bytes.
///
/// # Errors
/// When the image cannot be read.
pub(super) fn read(image: &File, offset: u64) -> Result<Option<FileSystem>> {
    let mut head = vec![0; HEAD];
    let mut done = 0;
    while done < HEAD {
        match image.read_at(&mut head[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(parse(&head[..done]))
}

fn parse(head: &[u8]) -> Option<FileSystem> {
    ext4(head).or_else(|| fat(head)).or_else(|| no_files(head))
}

/// What is no file system, but known.
fn no_files(head: &[u8]) -> Option<FileSystem> {
    let kind = if head.get(SWAP..SWAP + 10).is_some_and(|mark| mark == b"SWAPSPACE2") {
        "swap"
    } else {
        let mut sectors = head.chunks(512).take(4);
        sectors.any(|sector| sector.starts_with(LVM_LABEL)).then_some("lvm")?
    };
    Some(FileSystem { kind, uuid: String::new(), label: String::new(), size: None, free: None })
}

fn ext4(head: &[u8]) -> Option<FileSystem> {
    let block = head.get(SUPERBLOCK.0 as usize..)?;
    let size = ext4_size(block).ok()?;
    let uuid = Uuid(block.get(0x68..0x78)?.try_into().ok()?);
    let label = text(block.get(0x78..0x88)?);
    let word = |at: usize| Some(u64::from(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?)));
    // The upper half counts only where blocks have numbers of 64 bits.
    let high = if word(0x60)? & 0x80 != 0 { word(0x158)? } else { 0 };
    let free = (high << 32 | word(0xc)?).checked_mul(1024 << word(0x18)?).filter(|free| *free <= size);
    Some(FileSystem { kind: EXT4, uuid: uuid.to_string(), label, size: Some(size), free })
}

fn fat(head: &[u8]) -> Option<FileSystem> {
    if head.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let (kind, at) = [("fat32", 66), ("fat16", 38)].into_iter().find(|(kind, at)| {
        // The words stand 16 bytes behind the extended boot record's mark.
        head[*at] == 0x29 && head[at + 16..at + 24].starts_with(kind.to_uppercase().as_bytes())
    })?;
    let id = u32::from_le_bytes(head[at + 1..at + 5].try_into().ok()?);
    let label = text(&head[at + 5..at + 16]);
    let label = if label == "NO NAME" { String::new() } else { label };
    let (size, free) = fat_room(head, kind == "fat32").unwrap_or_default();
    Some(FileSystem { kind, uuid: VolumeId(id).to_string(), label, size, free })
}

/// Size, and what the information sector says is free: a hint that writers keep, not counted anew here.
fn fat_room(head: &[u8], wide: bool) -> Option<(Option<u64>, Option<u64>)> {
    let short = |at: usize| Some(u64::from(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| Some(u64::from(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?)));
    let (sector, cluster) = (short(11)?, u64::from(head[13]));
    let sectors = if short(19)? == 0 { word(32)? } else { short(19)? };
    let size = sectors * sector;
    if !wide {
        return Some((Some(size), None));
    }
    let info = usize::try_from(short(48)? * sector).ok()?;
    let is_info = head.get(info..info + 4).is_some_and(|mark| mark == b"RRaA");
    let free = if is_info { word(info + 488).map(|count| count * cluster * sector) } else { None };
    Some((Some(size), free.filter(|free| *free <= size)))
}

/// A padded name, fit to be shown.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{FileSystem, HEAD, SWAP, parse};
    use crate::disk::fat::{self, LEAST};
    use crate::disk::ids::VolumeId;
    use crate::disk::overlay::{Overlay, Zeros};
    use std::io::{Read as _, Seek as _};

    fn fat_head() -> Vec<u8> {
        let mut device = Overlay::new(Zeros, LEAST);
        fat::format(&mut device, LEAST, VolumeId(0x1a2b_3c4d), "boot", 0, |_| Ok(())).expect("format");
        device.rewind().expect("rewind");
        let mut head = vec![0; HEAD];
        device.read_exact(&mut head).expect("read");
        head
    }

    fn ext4_head() -> Vec<u8> {
        let mut head = vec![0; HEAD];
        let block = &mut head[1024..];
        block[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        block[0x18] = 2;
        block[4..8].copy_from_slice(&1000_u32.to_le_bytes());
        block[0x68..0x78].copy_from_slice(&[0x49; 16]);
        block[0x78..0x7c].copy_from_slice(b"root");
        head
    }

    #[test]
    fn by_their_heads() {
        let fat = FileSystem {
            kind: "fat32",
            uuid: "1A2B-3C4D".into(),
            label: "BOOT".into(),
            size: Some(LEAST),
            free: None,
        };
        let parsed = parse(&fat_head()).expect("FAT");
        assert!(parsed.free.is_some_and(|free| (LEAST - (2 << 20)..LEAST).contains(&free)), "{parsed:?}");
        assert_eq!(FileSystem { free: None, ..parsed }, fat);
        let uuid = "49494949-4949-4949-4949-494949494949".into();
        let ext4 =
            FileSystem { kind: "ext4", uuid, label: "root".into(), size: Some(4_096_000), free: Some(0) };
        assert_eq!(parse(&ext4_head()), Some(ext4));
        assert_eq!(parse(&[0; HEAD]), None);
        let mut head = [0; HEAD];
        head[512..520].copy_from_slice(b"LABELONE");
        assert_eq!(parse(&head).map(|found| found.kind), Some("lvm"));
        head[SWAP..].copy_from_slice(b"SWAPSPACE2");
        assert_eq!(parse(&head).map(|found| found.kind), Some("swap"));
    }

    #[test]
    fn a_head_that_is_cut_off() {
        for head in [fat_head(), ext4_head()] {
            for end in 0..HEAD {
                parse(&head[..end]);
            }
        }
    }
}
