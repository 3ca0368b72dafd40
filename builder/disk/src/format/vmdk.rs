//! VMDK in one file: what is looked at before qemu-img reads one, and what is put in place of what qemu-img draws by lot.
//!
//! ```text
//! sector 0      header: size of the disk and of its grains, where the rest is
//! sector 1..21  descriptor, a text: kind, content id, parent, the files that it is made of
//!               tables and grains; of a stream also a second header ("footer") at the end, which counts
//! ```
//! A descriptor may name any file of the machine, as a part or as what lies below. qemu-img follows it where it stands alone,
//! where the header says that the disk is empty, and always to a parent: so only a disk that is whole in its one file passes.
//!
//! Source: "Virtual Disk Format 5.0", VMware; what qemu-img makes of it: QEMU's `block/vmdk.c`. Numbers are little-endian.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

use super::table::Qemu;
use crate::disk::ids::Uuid;
use crate::units::Digest;

/// First bytes.
pub(super) const MAGIC: &[u8] = b"KDMV";

/// As ESXi and OVF take it: compressed, in the order of the disk, on a SCSI adapter; virtual hardware of version 6, which
/// every ESX since 3.0 knows.
pub(super) static QEMU: Qemu =
    Qemu { driver: "vmdk", options: "subformat=streamOptimized,adapter_type=lsilogic,compat6", settle, look };

const SECTOR: u64 = 512;
/// Places in the header: version; bytes 12 to 80 are longs and words as below.
const VERSION: usize = 4;
const CAPACITY: usize = 12;
const GRAIN: usize = 20;
const TEXT_AT: usize = 28;
const TABLE_LENGTH: usize = 44;
const DIRECTORY_AT: usize = 56;
/// "The directory is where the footer says."
const AT_END: u64 = u64::MAX;
/// The footer, its marker and the end's: from here to the end of the file.
const FOOTER: u64 = 3 * SECTOR;
/// Grains have 4 KiB to 1 MiB (64 KiB is usual): qemu-img takes memory by what the header says, and would take 1 GiB.
const GRAINS: std::ops::RangeInclusive<u64> = 8..=2048;
/// Entries of a grain table, in all files.
const ENTRIES: u32 = 512;
/// Where qemu-img reads the descriptor, whatever the header says, and how much of it.
const TEXT: u64 = SECTOR;
const TEXT_LENGTH: usize = 20 * SECTOR as usize;
/// No content has it: "there is no parent".
const NO_PARENT: &str = "ffffffff";
/// The kinds that are whole in one file.
const KINDS: [&str; 2] = ["streamOptimized", "monolithicSparse"];
/// Name of the one file in a descriptor that we write. The file's own may change at any time, and nobody looks for it.
const NAME: &str = "disk.vmdk";

const CUT: &str = "it is cut off or damaged";
const LAYER: &str = "it is a layer over another file (a parent)";
const OTHERS: &str = "it is not one file (streamOptimized or monolithicSparse), or names others";

/// The disk's size. Refuses whatever would make qemu-img open another file.
fn look(file: &File, length: u64) -> Result<u64, &'static str> {
    let head = sector(file, 0).ok_or(CUT)?;
    if long(&head, TEXT_AT) != TEXT / SECTOR {
        return Err(OTHERS);
    }
    let counts = if long(&head, DIRECTORY_AT) == AT_END {
        if !length.is_multiple_of(SECTOR) {
            return Err(CUT);
        }
        let footer = length.checked_sub(FOOTER).and_then(|at| sector(file, at + SECTOR)).ok_or(CUT)?;
        // Whoever reads only one of the two must see the same disk.
        let same = |places: std::ops::Range<usize>| footer[places.clone()] == head[places];
        if !(same(0..VERSION) && same(CAPACITY..TEXT_AT) && same(TABLE_LENGTH..TABLE_LENGTH + 4)) {
            return Err(CUT);
        }
        footer
    } else {
        head
    };
    if !(1..=3).contains(&word(&counts, VERSION)) {
        return Err("it is of an unknown version");
    }
    let (capacity, grain) = (long(&counts, CAPACITY), long(&counts, GRAIN));
    let known = GRAINS.contains(&grain) && grain.is_power_of_two() && word(&counts, TABLE_LENGTH) == ENTRIES;
    // With no capacity qemu-img goes by the descriptor alone.
    let size = capacity.checked_mul(SECTOR).filter(|size| *size > 0 && known).ok_or(CUT)?;
    alone(&text(file).ok_or(CUT)?)?;
    Ok(size)
}

/// Is the disk whole in this file, by what its descriptor says?
fn alone(text: &str) -> Result<(), &'static str> {
    // Anywhere, in whatever form: qemu-img looks for the word, not for the line.
    if text.contains("parentFileNameHint") {
        return Err(LAYER);
    }
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once('='));
        let (_, value) = lines.find(|(known, _)| known.trim() == key)?;
        Some(value.trim().trim_matches('"'))
    };
    if !value("parentCID").is_some_and(|parent| parent.eq_ignore_ascii_case(NO_PARENT)) {
        return Err(LAYER);
    }
    let extents: Vec<&str> = text.lines().filter(|line| is_extent(line)).collect();
    let one = matches!(extents[..], [extent] if extent.split_whitespace().nth(2) == Some("SPARSE"));
    if one && value("createType").is_some_and(|kind| KINDS.contains(&kind)) { Ok(()) } else { Err(OTHERS) }
}

/// A line `RW 655360 SPARSE "disk.vmdk"`.
fn is_extent(line: &str) -> bool {
    let access = line.split_whitespace().next().unwrap_or_default();
    ["RW", "RDONLY", "NOACCESS"].contains(&access)
}

/// Writes the descriptor anew, with a content id that follows from `id`, and without the name that the file had just then.
fn settle(file: &File, id: Uuid) -> Result<()> {
    let head = sector(file, 0).filter(|head| head.starts_with(MAGIC)).context("it has no header")?;
    let room = usize::try_from(long(&head, TEXT_AT + 8).saturating_mul(SECTOR))?;
    ensure!(long(&head, TEXT_AT) == TEXT / SECTOR && room == TEXT_LENGTH, "its descriptor is elsewhere");
    let old = text(file).context("it has no descriptor")?;
    let [a, b, c, d, ..] = Digest::of(format!("edgepress vmdk content {id}")).0;
    // Never the one that means "none".
    let content = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
    let mut new = String::new();
    for line in old.lines() {
        if line.starts_with("CID=") {
            new += &format!("CID={content:08x}");
        } else if let Some((extent, _)) = line.split_once('"').filter(|_| is_extent(line)) {
            new += &format!("{extent}\"{NAME}\"");
        } else {
            new += line;
        }
        new.push('\n');
    }
    alone(&new).map_err(|why| anyhow::anyhow!("{why}"))?;
    let mut bytes = new.into_bytes();
    ensure!(bytes.len() <= room, "its descriptor is too long");
    bytes.resize(room, 0);
    Ok(file.write_all_at(&bytes, TEXT)?)
}

fn sector(file: &File, at: u64) -> Option<[u8; SECTOR as usize]> {
    let mut bytes = [0; SECTOR as usize];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

/// The descriptor: up to the first zero, as qemu-img has it. Names in it may be of any encoding.
fn text(file: &File) -> Option<String> {
    let mut bytes = vec![0; TEXT_LENGTH];
    file.read_exact_at(&mut bytes, TEXT).ok()?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|long| long.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{AT_END, CUT, DIRECTORY_AT, LAYER, OTHERS, SECTOR, TEXT, look, settle, text};
    use crate::disk::ids::Uuid;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=1f2\nparentCID=ffffffff\n\
        createType=\"streamOptimized\"\n\n# Extent description\nRW 16384 SPARSE \".demo.vmdk.partial\"\n\n#DDB\n\
        ddb.adapterType = \"lsilogic\"\n";
    const LENGTH: u64 = 64 * SECTOR;

    fn header() -> Vec<u8> {
        let mut header = vec![0; SECTOR as usize];
        header[..8].copy_from_slice(b"KDMV\x03\0\0\0");
        for (at, value) in [(12, 16384_u64), (20, 128), (28, 1), (36, 20), (48, 21), (56, 26)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[44..48].copy_from_slice(&512_u32.to_le_bytes());
        header
    }

    /// A disk of 8 MiB, of which nothing is there.
    fn vmdk(descriptor: &str) -> File {
        let file = tempfile::tempfile().expect("file");
        file.set_len(LENGTH).expect("size");
        file.write_all_at(&header(), 0).expect("write");
        file.write_all_at(descriptor.as_bytes(), TEXT).expect("write");
        file
    }

    fn of(descriptor: &str) -> Result<u64, &'static str> {
        look(&vmdk(descriptor), LENGTH)
    }

    #[test]
    fn a_disk_of_its_own() {
        assert_eq!(of(DESCRIPTOR), Ok(8 << 20));
        assert_eq!(of(&DESCRIPTOR.replace("streamOptimized", "monolithicSparse")), Ok(8 << 20));
        assert_eq!(of(&DESCRIPTOR.replace('\n', "\r\n").replace("ffffffff", "FFFFFFFF")), Ok(8 << 20));
    }

    #[test]
    fn what_reaches_for_other_files() {
        for (from, to, why) in [
            ("parentCID=ffffffff", "parentCID=12345678", LAYER),
            ("parentCID=ffffffff\n", "", LAYER),
            ("#DDB\n", "parentFileNameHint=\"/etc/shadow\"\n", LAYER),
            ("#DDB\n", "# parentFileNameHint=\"/etc/shadow\"\n", LAYER),
            ("streamOptimized", "monolithicFlat", OTHERS),
            ("streamOptimized", "twoGbMaxExtentSparse", OTHERS),
            ("createType", "kreateType", OTHERS),
            ("SPARSE", "FLAT", OTHERS),
            ("#DDB\n", "RW 1 FLAT \"/etc/shadow\" 0\n", OTHERS),
            ("RW 16384", "16384", OTHERS),
        ] {
            assert_eq!(of(&DESCRIPTOR.replace(from, to)), Err(why), "{to}");
        }
    }

    #[test]
    fn a_header_that_leads_elsewhere() {
        let with = |at: u64, bytes: &[u8]| {
            let file = vmdk(DESCRIPTOR);
            file.write_all_at(bytes, at).expect("write");
            look(&file, LENGTH)
        };
        // Without a capacity qemu-img goes by the descriptor alone, and opens what it names.
        assert_eq!(with(12, &[0; 8]), Err(CUT));
        assert_eq!(with(12, &[0xff; 8]), Err(CUT), "too large for a number of bytes");
        assert_eq!(with(28, &[2]), Err(OTHERS), "another descriptor than qemu-img reads");
        assert_eq!(with(28, &[0xff; 8]), Err(OTHERS));
        assert_eq!(with(4, &[4]), Err("it is of an unknown version"));
        for (at, bytes) in [(20, [0, 0, 0x20]), (20, [3, 0, 0]), (44, [1, 0, 0])] {
            assert_eq!(with(at, &bytes), Err(CUT), "memory by what the header says");
        }
        for keep in [0, 100, SECTOR, 20 * SECTOR] {
            let file = vmdk(DESCRIPTOR);
            file.set_len(keep).expect("cut");
            assert_eq!(look(&file, keep), Err(CUT), "{keep}");
        }
    }

    #[test]
    fn a_footer_counts_and_says_the_same() {
        let with = |at: usize, byte: u8, length: u64| {
            let file = vmdk(DESCRIPTOR);
            let mut footer = header();
            file.write_all_at(&AT_END.to_le_bytes(), DIRECTORY_AT as u64).expect("write");
            footer[at] = byte;
            file.write_all_at(&footer, LENGTH - 2 * SECTOR).expect("write");
            look(&file, length)
        };
        assert_eq!(with(DIRECTORY_AT, 30, LENGTH), Ok(8 << 20));
        assert_eq!(with(17, 1, LENGTH), Err(CUT), "a larger disk in the footer");
        assert_eq!(with(0, b'X', LENGTH), Err(CUT));
        assert_eq!(with(DIRECTORY_AT, 30, LENGTH - 1), Err(CUT));
        assert_eq!(with(DIRECTORY_AT, 30, 2 * SECTOR), Err(CUT));
    }

    #[test]
    fn what_is_random_follows_from_the_image() {
        let settled = |descriptor: &str, id: u8| {
            let file = vmdk(descriptor);
            settle(&file, Uuid([id; 16])).expect("settles");
            assert_eq!(look(&file, LENGTH), Ok(8 << 20));
            let mut bytes = vec![0; LENGTH as usize];
            file.read_exact_at(&mut bytes, 0).expect("read");
            (bytes, text(&file).expect("text"))
        };
        let (one, said) = settled(DESCRIPTOR, 1);
        let other = DESCRIPTOR.replace("CID=1f2", "CID=1234abcd").replace(".demo.vmdk.partial", "x");
        assert!(settled(&other, 1).0 == one, "it still differs");
        assert!(settled(&other, 2).0 != one, "two images have one id");
        assert!(
            said.contains("RW 16384 SPARSE \"disk.vmdk\"\n") && said.contains("parentCID=ffffffff\n"),
            "{said}"
        );
    }
}
