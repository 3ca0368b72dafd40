//! A fixed VHD: the disk, in whole MiB, and a footer of 512 bytes.
//!
//! Source: "Virtual Hard Disk Image Format Specification", Microsoft, 2006; numbers are big-endian. Azure takes a VHD
//! whose size is a multiple of 1 MiB and refuses all others.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::consume::Whole;
use crate::disk::gpt::SECTOR;
use crate::disk::ids::Uuid;
use crate::format::{VHD_COOKIE, VHD_FOOTER};
use crate::units::Sha256;

/// Azure's unit of size.
pub const UNIT: u64 = 1 << 20;
/// 2000-01-01 00:00 UTC, from which the format counts seconds; in seconds since 1970.
const YEAR_2000: u64 = 946_684_800;
/// A reserved bit that is always set.
const FEATURES: u32 = 2;
const VERSION: u32 = 0x0001_0000;
/// "No dynamic header": the disk is fixed.
const NO_HEADER: u64 = u64::MAX;
const FIXED: u32 = 2;
/// Who made it decides how a reader finds the size: for names that it does not know, QEMU computes it from the geometry
/// (block/vpc.c), which is rounded down. With QEMU's own name the size counts, as with Hyper-V's, and it is the name in
/// the files that Microsoft's guide makes with qemu-img.
const CREATOR: &[u8; 4] = b"qem2";
/// "Windows", the one system that the specification knows beside Macintosh.
const CREATOR_SYSTEM: &[u8; 4] = b"Wi2k";
const CHECKSUM_AT: usize = 64;

/// What sets one VHD apart from another.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its id; the same inputs give the same.
    pub id: Uuid,
    /// Its time stamp, seconds since 1970.
    pub epoch: u64,
}

/// The footer of a disk of `size` bytes, a multiple of 512.
pub fn footer(size: u64, identity: &Identity) -> [u8; VHD_FOOTER as usize] {
    let seconds = u32::try_from(identity.epoch.saturating_sub(YEAR_2000)).unwrap_or(u32::MAX);
    let (cylinders, heads, sectors) = geometry(size / SECTOR);
    let fields = [
        VHD_COOKIE.to_vec(),
        FEATURES.to_be_bytes().to_vec(),
        VERSION.to_be_bytes().to_vec(),
        NO_HEADER.to_be_bytes().to_vec(),
        seconds.to_be_bytes().to_vec(),
        CREATOR.to_vec(),
        VERSION.to_be_bytes().to_vec(),
        CREATOR_SYSTEM.to_vec(),
        size.to_be_bytes().to_vec(),
        size.to_be_bytes().to_vec(),
        cylinders.to_be_bytes().to_vec(),
        vec![heads, sectors],
        FIXED.to_be_bytes().to_vec(),
        vec![0; 4],
        identity.id.0.to_vec(),
    ]
    .concat();
    let mut footer = [0; VHD_FOOTER as usize];
    footer[..fields.len()].copy_from_slice(&fields);
    // The one's complement of the sum of all bytes, the sum's own taken as zeros.
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

/// Cylinders, heads, sectors of a track: the appendix "CHS Calculation" of the specification.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65535 * 16 * 255);
    let (track, heads, tracks) = if total >= 65535 * 16 * 63 {
        (255, 16, total / 255)
    } else {
        let heads = (total / 17).div_ceil(1024).max(4);
        let (track, heads) = if total / 17 >= heads * 1024 || heads > 16 { (31, 16) } else { (17, heads) };
        let (track, heads) = if total / track >= heads * 1024 { (63, 16) } else { (track, heads) };
        (track, heads, total / track)
    };
    // At most 65535, 16 and 255 by the bounds above.
    (u16::try_from(tracks / heads).unwrap_or(u16::MAX), heads as u8, track as u8)
}

/// Makes a VHD of the file at `path`, which holds a disk of `size` bytes and nothing else; `hasher` has taken these. The
/// disk grows to whole MiB.
pub(super) fn finish(path: &Path, size: u64, identity: &Identity, mut hasher: Sha256) -> Result<Whole> {
    let whole = size.next_multiple_of(UNIT);
    let footer = footer(whole, identity);
    let context = || format!("writing {}", path.display());
    let file = File::options().write(true).open(path).with_context(context)?;
    // Growing leaves a hole, which reads as zeros.
    file.set_len(whole).with_context(context)?;
    file.write_all_at(&footer, whole).with_context(context)?;
    hasher.zeros(whole - size);
    hasher.update(footer);
    Ok(Whole { size: whole + VHD_FOOTER, sha256: hasher.finish() })
}

#[cfg(test)]
mod tests {
    use super::{Identity, footer, geometry};
    use crate::disk::ids::Uuid;

    /// By the specification's own steps, followed elsewhere.
    #[test]
    fn geometries() {
        for (mib, expected) in [
            (1, (30, 4, 17)),
            (20, (602, 4, 17)),
            (64, (963, 8, 17)),
            (300, (609, 16, 63)),
            (512, (1040, 16, 63)),
            (1139, (2314, 16, 63)),
            (2048, (4161, 16, 63)),
            (40960, (20560, 16, 255)),
            (1047552, (65535, 16, 255)),
        ] {
            assert_eq!(geometry(mib * 2048), expected, "{mib} MiB");
        }
    }

    #[test]
    fn a_footer_by_the_byte() {
        let id = Uuid(*b"0123456789abcdef");
        let footer = footer(2 << 30, &Identity { id, epoch: 946_684_800 + 0x0102_0304 });
        assert_eq!(&footer[..8], b"conectix");
        assert_eq!(
            footer[8..28],
            [0, 0, 0, 2, 0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4]
        );
        assert_eq!(&footer[28..40], b"qem2\0\x01\0\0Wi2k");
        assert_eq!(footer[40..56], [[0, 0, 0, 0, 0x80, 0, 0, 0]; 2].concat());
        assert_eq!(footer[56..64], [0x10, 0x41, 16, 63, 0, 0, 0, 2]);
        assert_eq!(&footer[68..84], b"0123456789abcdef");
        assert!(footer[84..].iter().all(|byte| *byte == 0));
        let said = u32::from_be_bytes(footer[64..68].try_into().expect("four bytes"));
        let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = footer[64..68].iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(said, !(sum - own));
    }
}
