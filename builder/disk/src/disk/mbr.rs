//! Classic MBR partition tables: written for boards whose boot ROM reads no GPT, read from anybody's.
//!
//! ```text
//! byte 0      boot code; zeros, unless a BIOS shall start the disk ([`write_code`])
//! byte 440    disk id, 4 bytes, little-endian; Linux names partitions by it: PARTUUID=<id>-<number>
//! byte 446    4 entries of 16 bytes: active, first sector (CHS), type, last sector (CHS), first sector, sectors
//! byte 510    55 AA
//! ```
//! The format is older than any standard; the UEFI specification 2.10, chapter 5.2.1, describes it.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result};

use super::gpt::SECTOR;
use crate::error::Problem;

/// Type of a FAT32 partition that is addressed by sector numbers.
pub const FAT32_LBA: u8 = 0x0c;
/// Type of a FAT32 partition, as older tools set it.
pub const FAT32: u8 = 0x0b;
/// Type of a Linux file system.
pub const LINUX: u8 = 0x83;
/// Type of the one partition that keeps old tools off a GPT disk.
pub const PROTECTIVE: u8 = 0xee;
/// Types of partitions that hold further ones: CHS, LBA, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

const ID_AT: usize = BootCode::SECTOR_BYTES;
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const ENTRIES: usize = 4;
const SIGNATURE_AT: usize = 510;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const ACTIVE: u8 = 0x80;
/// Cylinder, head and sector of whatever lies beyond the 8 GiB that they can address: what tools write for disks that
/// are addressed by sector numbers.
const NO_CHS: [u8; 3] = [0xfe, 0xff, 0xff];

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Sets this disk apart from others.
    pub disk_id: u32,
    /// At most four, in the order of the table. An unused entry in between (which we never write) has type 0.
    pub partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its type, for example [`FAT32_LBA`]; 0 for an unused entry.
    pub kind: u8,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// The one that a BIOS would start.
    pub active: bool,
}

/// What a BIOS starts: code in the first sector, and what that loads from the sectors behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootCode {
    /// The first [`BootCode::SECTOR_BYTES`] bytes of the disk.
    pub sector: Vec<u8>,
    /// What stands from sector 1 on: whole sectors, before the first partition.
    pub core: Vec<u8>,
}

impl BootCode {
    /// Bytes of the first sector before the disk's id.
    pub const SECTOR_BYTES: usize = 440;
}

/// Writes boot code to a disk whose table is there and whose first partition begins at byte `first`.
///
/// # Errors
/// When it has another length than a boot sector's, or reaches into the first partition; on a write error.
pub fn write_code<D: Write + Seek>(mut disk: D, code: &BootCode, first: u64) -> Result<()> {
    let BootCode { sector, core } = code;
    anyhow::ensure!(
        sector.len() == BootCode::SECTOR_BYTES,
        "a boot sector has {} bytes of code",
        sector.len()
    );
    let end = SECTOR + core.len() as u64;
    if end > first {
        let message =
            format!("the boot loader takes {end} bytes, and the first partition begins at byte {first}");
        return Err(Problem::input(message)
            .hint("this is a fault of edgepress: leave out modules of its core image")
            .into());
    }
    let put =
        |disk: &mut D, at, bytes: &[u8]| disk.seek(SeekFrom::Start(at)).and_then(|_| disk.write_all(bytes));
    put(&mut disk, 0, sector).and_then(|()| put(&mut disk, SECTOR, core)).context("writing the boot code")
}

/// Writes a table to a disk of `size` bytes.
///
/// # Errors
/// When there are more than four partitions, or one is not aligned to sectors, lies outside the disk, overlaps another
/// or ends above 2 TiB; on a write error.
pub fn write<D: Write + Seek>(mut disk: D, size: u64, table: &Table) -> Result<()> {
    let sector = encode(size, table)?;
    disk.seek(SeekFrom::Start(0)).and_then(|_| disk.write_all(&sector)).context("writing the partition table")
}

fn encode(size: u64, table: &Table) -> Result<[u8; SECTOR as usize]> {
    anyhow::ensure!(table.partitions.len() <= ENTRIES, "this partition table holds {ENTRIES} partitions");
    let mut sector = [0; SECTOR as usize];
    sector[ID_AT..ID_AT + 4].copy_from_slice(&table.disk_id.to_le_bytes());
    sector[SIGNATURE_AT..].copy_from_slice(&SIGNATURE);
    let entries = sector[ENTRIES_AT..SIGNATURE_AT].chunks_exact_mut(ENTRY_BYTES);
    for (at, (partition, entry)) in table.partitions.iter().zip(entries).enumerate() {
        let Partition { kind, offset, size: bytes, active } = partition;
        let ours = !matches!(*kind, 0 | PROTECTIVE) && !EXTENDED.contains(kind);
        anyhow::ensure!(ours, "partition {} has the type {kind:#04x}, which is not written here", at + 1);
        let aligned = offset % SECTOR == 0 && bytes % SECTOR == 0 && *bytes > 0 && *offset >= SECTOR;
        let end = offset.checked_add(*bytes).filter(|end| *end <= size);
        let number = |bytes: u64| u32::try_from(bytes / SECTOR).ok();
        let free = table.partitions[..at].iter().all(|other| !overlap(other, partition));
        let (true, true, Some(_), Some(first), Some(count)) =
            (aligned, free, end, number(*offset), number(*bytes))
        else {
            anyhow::bail!("partition {} does not fit: {bytes} bytes at {offset}", at + 1);
        };
        entry[0] = if *active { ACTIVE } else { 0 };
        entry[1..4].copy_from_slice(&NO_CHS);
        entry[4] = *kind;
        entry[5..8].copy_from_slice(&NO_CHS);
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&count.to_le_bytes());
    }
    Ok(sector)
}

fn overlap(a: &Partition, b: &Partition) -> bool {
    a.offset < b.offset.saturating_add(b.size) && b.offset < a.offset.saturating_add(a.size)
}

/// Reads the partition table of a disk or image, of whatever origin.
///
/// # Errors
/// A [`Problem`] when there is none, when it only protects a GPT, when it has extended partitions (which no image of
/// ours has), or when partitions overlap or lie outside the disk; an error from reading.
pub fn read<D: Read + Seek>(mut disk: D) -> Result<Table> {
    let size = disk.seek(SeekFrom::End(0))?;
    let refused = |why: &str| Problem::input(format!("there is no usable MBR partition table: {why}"));
    if size < SECTOR {
        return Err(refused("the disk is too small").into());
    }
    let mut sector = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut sector)?;
    Ok(parse(&sector, size).map_err(refused)?)
}

/// Does this first sector of a disk say that the disk has a GPT?
pub fn is_protective(sector: &[u8]) -> bool {
    signed(sector) && entries(sector).any(|entry| entry[4] == PROTECTIVE)
}

fn signed(sector: &[u8]) -> bool {
    sector.get(SIGNATURE_AT..SIGNATURE_AT + 2) == Some(&SIGNATURE[..])
}

/// The four entries of a sector that is long enough.
fn entries(sector: &[u8]) -> impl Iterator<Item = &[u8]> {
    sector.get(ENTRIES_AT..SIGNATURE_AT).unwrap_or_default().chunks_exact(ENTRY_BYTES)
}

/// Why a disk's beginning holds no MBR that a machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It only protects a GPT.
    Protective,
    /// In words.
    Other(String),
}

/// How far the partitions reach of an MBR of whatever origin, on a disk of `size` bytes. Unlike [`read`] it takes extended
/// partitions, overlapping ones and a first one at 0 (those of hybrid ISO images), and ends behind the disk's.
///
/// # Errors
/// Says why it is none.
pub fn reach(head: &[u8], size: u64) -> Result<u64, Doubt> {
    let other = |why: &str| Err(Doubt::Other(why.into()));
    if !signed(head) {
        return other("it has no MBR and no GPT");
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let mut end = None;
    for (at, entry) in (1..).zip(entries(head)) {
        let (start, length) = (number(&entry[8..12]) * SECTOR, number(&entry[12..16]) * SECTOR);
        match entry[4] {
            // A FAT file system without any table ends in the same signature.
            _ if !matches!(entry[0], 0 | ACTIVE) => return other("an entry is neither active nor inactive"),
            PROTECTIVE => return Err(Doubt::Protective),
            0 if length == 0 => {}
            _ if length == 0 => return Err(Doubt::Other(format!("its partition {at} has no length"))),
            _ if start >= size => {
                return Err(Doubt::Other(format!(
                    "its partition {at} begins behind the image's {size} bytes: it was cut off"
                )));
            }
            // Type 0 with a place: the first partition of a hybrid ISO image.
            _ => end = end.max(Some(start + length)),
        }
    }
    end.map_or_else(|| other("its MBR has no partitions"), Ok)
}

fn parse(sector: &[u8; SECTOR as usize], size: u64) -> Result<Table, &'static str> {
    if !signed(sector) {
        return Err("no signature");
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    let mut partitions: Vec<Partition> = Vec::new();
    for entry in entries(sector) {
        let partition = Partition {
            kind: entry[4],
            offset: u64::from(number(&entry[8..12])) * SECTOR,
            size: u64::from(number(&entry[12..16])) * SECTOR,
            active: entry[0] == ACTIVE,
        };
        if !matches!(entry[0], 0 | ACTIVE) {
            // A FAT file system without any table ends in the same signature.
            return Err("an entry is neither active nor inactive");
        }
        match partition.kind {
            PROTECTIVE => return Err("it protects a GPT"),
            kind if EXTENDED.contains(&kind) => return Err("extended partitions are not read"),
            0 => {}
            _ if partition.size == 0 || partition.offset < SECTOR => return Err("a partition has no place"),
            _ if partition.offset + partition.size > size => return Err("a partition lies outside the disk"),
            _ if partitions.iter().any(|other| other.kind != 0 && overlap(other, &partition)) => {
                return Err("two partitions overlap");
            }
            _ => {}
        }
        partitions.push(partition);
    }
    // An entry's number is its place: only what follows the last used one goes.
    while partitions.last().is_some_and(|partition| partition.kind == 0) {
        partitions.pop();
    }
    if partitions.is_empty() {
        return Err("it has no partitions");
    }
    for partition in partitions.iter_mut().filter(|partition| partition.kind == 0) {
        *partition = Partition { kind: 0, offset: 0, size: 0, active: false };
    }
    Ok(Table { disk_id: number(&sector[ID_AT..ID_AT + 4]), partitions })
}

#[cfg(test)]
mod tests {
    use super::{BootCode, FAT32_LBA, LINUX, Partition, Table, is_protective, read, write, write_code};
    use crate::disk::gpt::{self, ALIGN};
    use crate::disk::ids::Ids;
    use crate::host;
    use crate::units::Digest;
    use std::io::Cursor;
    use std::process::Command;

    const SIZE: u64 = 8 * ALIGN;

    fn table() -> Table {
        let part =
            |kind, mib, mibs| Partition { kind, offset: mib * ALIGN, size: mibs * ALIGN, active: false };
        Table { disk_id: 0x1a2b_3c4d, partitions: vec![part(FAT32_LBA, 1, 2), part(LINUX, 3, 5)] }
    }

    fn disk() -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; SIZE as usize]);
        write(&mut disk, SIZE, &table()).expect("table fits");
        disk.into_inner()
    }

    #[test]
    fn the_bytes() {
        let disk = disk();
        assert_eq!(disk[440..444], [0x4d, 0x3c, 0x2b, 0x1a]);
        assert_eq!(disk[446..462], *b"\0\xfe\xff\xff\x0c\xfe\xff\xff\0\x08\0\0\0\x10\0\0");
        assert_eq!(disk[462..478], *b"\0\xfe\xff\xff\x83\xfe\xff\xff\0\x18\0\0\0\x28\0\0");
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        assert!(disk[..440].iter().chain(&disk[444..446]).chain(&disk[512..]).all(|byte| *byte == 0));
    }

    #[test]
    fn boot_code_leaves_the_table_alone() {
        let mut disk = Cursor::new(disk());
        let code = |core: usize| BootCode { sector: vec![7; BootCode::SECTOR_BYTES], core: vec![9; core] };
        write_code(&mut disk, &code(1024), ALIGN).expect("fits");
        let bytes = disk.get_ref();
        assert!(bytes[..440].iter().all(|byte| *byte == 7) && bytes[512..1536].iter().all(|byte| *byte == 9));
        assert_eq!((bytes[1536], &bytes[510..512]), (0, &b"\x55\xaa"[..]));
        assert_eq!(read(&mut disk).expect("intact"), table());
        write_code(&mut disk, &code(ALIGN as usize - 512), ALIGN).expect("just fits");
        let error = write_code(&mut disk, &code(ALIGN as usize), ALIGN).expect_err("too long");
        assert!(error.to_string().contains("the first partition begins at byte 1048576"), "{error}");
        assert!(write_code(&mut disk, &BootCode { sector: vec![7; 512], core: Vec::new() }, ALIGN).is_err());
    }

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(read(Cursor::new(disk())).expect("intact"), table());
        // Entry 1 unused: the second keeps its number.
        let mut gap = disk();
        gap[446..462].fill(0);
        let found = read(Cursor::new(gap)).expect("intact");
        assert_eq!((found.partitions[0].kind, &found.partitions[1]), (0, &table().partitions[1]));
    }

    #[test]
    fn refusals_name_the_reason() {
        let change = |at: usize, bytes: &[u8]| {
            let mut disk = disk();
            disk[at..at + bytes.len()].copy_from_slice(bytes);
            read(Cursor::new(disk)).expect_err("refused").to_string()
        };
        for (at, bytes, reason) in [
            (510, &b"\0\0"[..], "no signature"),
            (450, &[0xee], "it protects a GPT"),
            (466, &[0x05], "extended partitions"),
            (466, &[0x0f], "extended partitions"),
            (446, &[0x41], "neither active nor inactive"),
            (454, &[0, 0, 0, 0], "no place"),
            (458, &[0, 0, 0, 0], "no place"),
            (470, &[0xff, 0xff, 0xff, 0xff], "outside the disk"),
            (474, &[0xff, 0xff, 0xff, 0xff], "outside the disk"),
            (458, &[0, 0x20, 0, 0], "overlap"),
            (446, &[0; 64], "it has no partitions"),
        ] {
            let said = change(at, bytes);
            assert!(said.contains(reason), "{at} {bytes:?}: {said}");
        }
        for size in [0, 1, 511, 512] {
            assert!(read(Cursor::new(vec![0; size])).is_err(), "{size}");
        }
    }

    /// Numbers from a small generator: whatever the sector holds, reading it ends.
    #[test]
    fn garbage_is_read_without_harm() {
        let mut state = 1_u32;
        for _ in 0..2000 {
            let mut sector: Vec<u8> = (0..512)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            for at in [446, 462, 478, 494] {
                sector[at] &= 0x80;
            }
            let _ = is_protective(&sector);
            if let Ok(table) = read(Cursor::new(sector)) {
                assert!(table.partitions.len() <= 4);
            }
        }
        assert!(!is_protective(b"short"));
    }

    #[test]
    fn a_gpt_is_not_ours() {
        let mut disk = Cursor::new(vec![0; SIZE as usize]);
        let ids = Ids::from_seed(&Digest::of("mbr"));
        gpt::write(&mut disk, SIZE, &gpt::Table { disk: ids.disk, partitions: Vec::new() }).expect("gpt");
        assert!(is_protective(&disk.get_ref()[..512]));
        assert!(read(disk).is_err());
    }

    #[test]
    fn partitions_must_fit() {
        for (kind, offset, size) in [
            (LINUX, 0, ALIGN),
            (LINUX, ALIGN, SIZE),
            (LINUX, ALIGN, 0),
            (LINUX, ALIGN + 1, ALIGN),
            (LINUX, 4 * ALIGN, ALIGN),
            (LINUX, u64::MAX - 511, 512),
            (0xee, ALIGN, ALIGN),
            (0x05, ALIGN, ALIGN),
            (0, ALIGN, ALIGN),
        ] {
            let mut table = table();
            table.partitions[0] = Partition { kind, offset, size, active: false };
            let mut disk = Cursor::new(Vec::new());
            assert!(write(&mut disk, SIZE, &table).is_err(), "{kind} {offset}+{size}");
        }
        let mut many = table();
        many.partitions = vec![many.partitions[0].clone(); 5];
        assert!(write(Cursor::new(Vec::new()), SIZE, &many).is_err());
        // Above 2 TiB there are no numbers left.
        let far = Partition { kind: LINUX, offset: 1 << 41, size: ALIGN, active: false };
        let table = Table { disk_id: 1, partitions: vec![far] };
        assert!(write(Cursor::new(Vec::new()), 1 << 42, &table).is_err());
    }

    #[test]
    fn other_tools_agree() {
        let Ok(sfdisk) = host::program("sfdisk") else { return };
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), disk()).expect("writing");
        let said = host::run(Command::new(&sfdisk).arg("--dump").arg(file.path())).expect("sfdisk");
        let said = String::from_utf8_lossy(&said).into_owned();
        for part in ["label-id: 0x1a2b3c4d", "size=        4096, type=c", "start=        6144"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        host::run(Command::new(sfdisk).arg("--verify").arg(file.path())).expect("sfdisk finds no fault");
    }
}
