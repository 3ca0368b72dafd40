//! Which file system a partition holds, by its first bytes.
//!
//! Formats: the kernel's `Documentation/filesystems/ext4/super.rst`; Microsoft's FAT specification of 2000 ("fatgen103").

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use serde::Serialize;

use crate::disk::ids::{Uuid, VolumeId};
use crate::prove::checks::{SUPERBLOCK, ext4_size};

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// `ext4`, `fat32` or `fat16`.
    pub kind: &'static str,
    /// Its UUID, or its volume id as Linux writes it.
    pub uuid: String,
    /// Its label; often empty.
    pub label: String,
    /// Bytes that it spans, where its head tells that.
    pub size: Option<u64>,
}

const EXT4: &str = "ext4";
/// Bytes of a partition's head that are looked at.
const HEAD: usize = 2048;

impl FileSystem {
    /// Is it ext4?
    pub fn is_ext4(&self) -> bool {
        self.kind == EXT4
    }
}

/// Reads the head of the partition at `offset` bytes.
///
/// # Errors
/// When the image cannot be read.
pub fn read(image: &File, offset: u64) -> Result<Option<FileSystem>> {
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
    ext4(head).or_else(|| fat(head))
}

fn ext4(head: &[u8]) -> Option<FileSystem> {
    let block = head.get(SUPERBLOCK.0 as usize..)?;
    let size = ext4_size(block).ok()?;
    let uuid = Uuid(block.get(0x68..0x78)?.try_into().ok()?);
    let label = text(block.get(0x78..0x88)?);
    Some(FileSystem { kind: EXT4, uuid: uuid.to_string(), label, size: Some(size) })
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
    Some(FileSystem { kind, uuid: VolumeId(id).to_string(), label, size: None })
}

/// A padded name, fit to be shown.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{FileSystem, HEAD, parse};
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
        let fat = FileSystem { kind: "fat32", uuid: "1A2B-3C4D".into(), label: "BOOT".into(), size: None };
        assert_eq!(parse(&fat_head()), Some(fat));
        let uuid = "49494949-4949-4949-4949-494949494949".into();
        let ext4 = FileSystem { kind: "ext4", uuid, label: "root".into(), size: Some(4_096_000) };
        assert_eq!(parse(&ext4_head()), Some(ext4));
        assert_eq!(parse(&[0; HEAD]), None);
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
