//! The forms in which an image lies in a file, and how its raw bytes come out of each.
//!
//! ```text
//!                    ┌─ raw           the disk, byte for byte
//!                    ├─ zst, xz, gz   the disk, compressed           ─► decode: a stream of raw bytes
//!  file ─► detect ───┤
//!                    ├─ vhd           the disk and a footer of 512 bytes
//!                    ├─ qcow2         only qemu-img reads it
//!                    └─ foreign       an archive, another machine's disk, an error page: refused, with what to do
//!  beside it: a bmap, which parts of the disk hold anything
//! ```
//! A file is known by what it holds, never by its name. Every verb asks [`detect`]; whether a disk could start a machine,
//! which `flash` asks before it touches a card, says [`judge`].

pub mod bmap;
pub mod decode;
pub mod foreign;
pub mod judge;
pub mod unpack;

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use serde::Serialize;

use self::foreign::Foreign;
use crate::error::Problem;

/// How an image lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// The disk's bytes and nothing else.
    Raw,
    /// Zstandard (RFC 8878), any number of frames.
    Zst,
    /// xz.
    Xz,
    /// gzip (RFC 1952), any number of members.
    Gz,
    /// A fixed VHD: the disk's bytes, then a footer.
    Vhd,
    /// QEMU's qcow2.
    Qcow2,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Zst => "zst",
            Self::Xz => "xz",
            Self::Gz => "gz",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// Length of a VHD's footer, bytes.
pub const VHD_FOOTER: u64 = 512;
/// First bytes of a VHD's footer ("Virtual Hard Disk Image Format Specification", Microsoft, 2006).
pub const VHD_COOKIE: &[u8; 8] = b"conectix";
/// Where the footer has the disk's kind, and the number of a fixed one (the same specification).
const VHD_KIND: (usize, [u8; 4]) = (0x3c, [0, 0, 0, 2]);

/// First bytes of compressed files and of a qcow2 (the formats' own specifications).
const MAGIC: [(&[u8], Container); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], Container::Zst),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Container::Xz),
    (&[0x1f, 0x8b, 8], Container::Gz),
    (b"QFI\xfb", Container::Qcow2),
];
/// A skippable frame of Zstandard may have any of sixteen first bytes (RFC 8878, 3.1.2); pzstd begins with one.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// How the image lies in this file.
///
/// # Errors
/// When the file cannot be read; a [`Problem`] when it is something else that is known, with how to make an image of it.
pub fn detect(file: &File, size: u64) -> Result<Container> {
    let read = |at: u64, most: usize| {
        let mut bytes = vec![0; most.min(usize::try_from(size - at).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, at).map(|()| bytes)
    };
    let head = read(0, foreign::HEAD)?;
    if let Some((_, container)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Ok(*container);
    }
    if head.len() > 4 && (0x50..0x60).contains(&head[0]) && head[1..4] == SKIPPABLE {
        return Ok(Container::Zst);
    }
    let tail = read(size.saturating_sub(VHD_FOOTER), foreign::TAIL)?;
    let (at, fixed) = VHD_KIND;
    let whole = size > VHD_FOOTER && size.is_multiple_of(VHD_FOOTER);
    if whole && tail.starts_with(VHD_COOKIE) && tail[at..at + 4] == fixed {
        return Ok(Container::Vhd);
    }
    // A disk is a disk, whatever stands in its boot sector besides.
    if let judge::Judged::Foreign(foreign) = judge::judge(&head, size) {
        return Err(refused(foreign).into());
    }
    match foreign::known(&[], &tail) {
        Some(foreign) if whole => Err(refused(foreign).into()),
        _ => Ok(Container::Raw),
    }
}

fn refused(foreign: Foreign) -> Problem {
    Problem::input(format!("this is no disk image but {}", foreign.what)).hint(foreign.hint)
}
