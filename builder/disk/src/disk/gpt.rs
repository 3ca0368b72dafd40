//! GUID partition tables: written for our images, read from anybody's.
//!
//! ```text
//! LBA 0      protective MBR: one partition of type EE over the whole disk
//! LBA 1      primary header ─┐ each holds the CRC-32 of itself and of its array of entries
//! LBA 2..33  128 entries     │
//!   …        partitions      │
//! last 33    128 entries, backup header (in the last sector)
//! ```
//! Numbers and offsets are those of the UEFI specification 2.10, chapter 5.3.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result};

use super::ids::Uuid;
use crate::error::Problem;
use crate::units::Arch;

/// Bytes in a sector: disk images have no other.
pub const SECTOR: u64 = 512;
/// Partitions begin and end on multiples of this: flash pages, RAID stripes and Azure's size rule all divide it.
pub const ALIGN: u64 = 1024 * 1024;
/// Partition type of the EFI system partition.
pub const ESP: Uuid = Uuid(*b"\xc1\x2a\x73\x28\xf8\x1f\x11\xd2\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b");

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const ENTRIES: usize = 128;
const ARRAY_SECTORS: u64 = (ENTRIES * ENTRY_BYTES) as u64 / SECTOR;
const NAME_UNITS: usize = 36;
/// A table that claims more is not believed: real ones hold 128 entries of 128 bytes, 16 KiB.
const MOST_ARRAY_BYTES: usize = 1024 * 1024;

/// The root partition's type of the Discoverable Partitions Specification.
pub fn root_type(arch: Arch) -> Uuid {
    Uuid(match arch {
        Arch::X86_64 => *b"\x4f\x68\xbc\xe3\xe8\xcd\x4d\xb1\x96\xe7\xfb\xca\xf9\x84\xb7\x09",
        Arch::Aarch64 => *b"\xb9\x21\xb0\x45\x1d\xf0\x41\xc3\xaf\x44\x4c\x6f\x28\x0d\x3f\xae",
    })
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// GUID of the disk.
    pub disk: Uuid,
    /// The used entries, in the order of the table.
    pub partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for, for example [`ESP`].
    pub kind: Uuid,
    /// GUID of this partition.
    pub guid: Uuid,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Name, at most 36 UTF-16 units.
    pub name: String,
}

impl Table {
    /// The first partition of a type.
    pub fn find(&self, kind: Uuid) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.kind == kind)
    }
}

/// Writes protective MBR, primary and backup table to a disk of `size` bytes.
///
/// # Errors
/// When a partition is not aligned to sectors or lies outside the usable part of the disk, or on a write error.
pub fn write<D: Write + Seek>(mut disk: D, size: u64, table: &Table) -> Result<()> {
    let last = (size / SECTOR).checked_sub(1).filter(|last| *last > 2 * (ARRAY_SECTORS + 2));
    let last = last.with_context(|| format!("{size} bytes are too few for a partition table"))?;
    let array = entries(table, last)?;
    let primary = header(table.disk, &array, 1, last, 2);
    let backup = header(table.disk, &array, last, 1, last - ARRAY_SECTORS);
    let mut put =
        |lba: u64, bytes: &[u8]| disk.seek(SeekFrom::Start(lba * SECTOR)).and_then(|_| disk.write_all(bytes));
    put(0, &protective_mbr(last))?;
    put(1, &primary)?;
    put(2, &array)?;
    put(last - ARRAY_SECTORS, &array)?;
    put(last, &backup)?;
    Ok(())
}

fn entries(table: &Table, last: u64) -> Result<Vec<u8>> {
    anyhow::ensure!(table.partitions.len() <= ENTRIES, "a partition table holds {ENTRIES} partitions");
    let mut array = vec![0; ENTRIES * ENTRY_BYTES];
    for (partition, entry) in table.partitions.iter().zip(array.chunks_exact_mut(ENTRY_BYTES)) {
        let Partition { kind, guid, offset, size, name } = partition;
        let first = offset / SECTOR;
        let end = (offset + size) / SECTOR;
        let fits = offset % SECTOR == 0 && size % SECTOR == 0 && *size > 0;
        let inside = first >= 2 + ARRAY_SECTORS && end <= last - ARRAY_SECTORS;
        anyhow::ensure!(fits && inside, "partition `{name}` does not fit: {size} bytes at {offset}");
        entry[0..16].copy_from_slice(&kind.to_gpt());
        entry[16..32].copy_from_slice(&guid.to_gpt());
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(end - 1).to_le_bytes());
        for (unit, place) in name.encode_utf16().take(NAME_UNITS).zip(entry[56..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    Ok(array)
}

fn header(disk: Uuid, array: &[u8], here: u64, other: u64, array_lba: u64) -> [u8; SECTOR as usize] {
    let last = here.max(other);
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, SIGNATURE);
    put(8, &REVISION.to_le_bytes());
    put(12, &(HEADER_BYTES as u32).to_le_bytes());
    put(24, &here.to_le_bytes());
    put(32, &other.to_le_bytes());
    put(40, &(2 + ARRAY_SECTORS).to_le_bytes());
    put(48, &(last - ARRAY_SECTORS - 1).to_le_bytes());
    put(56, &disk.to_gpt());
    put(72, &array_lba.to_le_bytes());
    put(80, &(ENTRIES as u32).to_le_bytes());
    put(84, &(ENTRY_BYTES as u32).to_le_bytes());
    put(88, &crc32fast::hash(array).to_le_bytes());
    let crc = crc32fast::hash(&sector[..HEADER_BYTES]);
    sector[16..20].copy_from_slice(&crc.to_le_bytes());
    sector
}

fn protective_mbr(last: u64) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let entry = &mut sector[446..462];
    // CHS 0/0/2 to "beyond the end", as UEFI 2.10 table 5-4 asks.
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Reads the partition table of a disk or image, of whatever origin: the primary one, or the backup where the primary
/// is damaged.
///
/// # Errors
/// A [`Problem`] when there is no intact table, or an error from reading.
pub fn read<D: Read + Seek>(mut disk: D) -> Result<Table> {
    let size = disk.seek(SeekFrom::End(0))?;
    let last = (size / SECTOR).saturating_sub(1);
    let mut reasons = Vec::new();
    for (which, lba) in [("primary", 1), ("backup", last)] {
        match read_at(&mut disk, lba, size)? {
            Ok(table) => return Ok(table),
            Err(reason) => reasons.push(format!("{which}: {reason}")),
        }
    }
    Err(Problem::input(format!("there is no intact GUID partition table ({})", reasons.join("; "))).into())
}

/// Reads the primary table alone: where firmware looks first.
///
/// # Errors
/// As [`read`].
pub fn read_primary<D: Read + Seek>(mut disk: D) -> Result<Table> {
    let size = disk.seek(SeekFrom::End(0))?;
    let refused = |why| Problem::input(format!("the GPT at its start is not intact ({why})"));
    Ok(read_at(&mut disk, 1, size)?.map_err(refused)?)
}

/// The outer result is for the disk, the inner one for the table on it.
fn read_at<D: Read + Seek>(disk: &mut D, lba: u64, size: u64) -> Result<Result<Table, &'static str>> {
    if (lba + 1) * SECTOR > size || lba == 0 {
        return Ok(Err("the disk is too small"));
    }
    let mut sector = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(lba * SECTOR))?;
    disk.read_exact(&mut sector)?;
    let place = match parse_header(&sector, lba) {
        Ok(place) => place,
        Err(reason) => return Ok(Err(reason)),
    };
    let bytes = place.entries * place.entry_bytes;
    let end = place.array_lba.checked_mul(SECTOR).and_then(|start| start.checked_add(bytes as u64));
    if end.is_none_or(|end| end > size) {
        return Ok(Err("its entries lie outside the disk"));
    }
    let mut array = vec![0; bytes];
    disk.seek(SeekFrom::Start(place.array_lba * SECTOR))?;
    disk.read_exact(&mut array)?;
    Ok(parse_entries(&array, &place, size))
}

struct Place {
    disk: Uuid,
    array_lba: u64,
    entries: usize,
    entry_bytes: usize,
    crc: u32,
}

fn parse_header(sector: &[u8; SECTOR as usize], lba: u64) -> Result<Place, &'static str> {
    if &sector[..8] != SIGNATURE {
        return Err("no signature");
    }
    let header_bytes = u32_at(sector, 12) as usize;
    if !(HEADER_BYTES..=sector.len()).contains(&header_bytes) {
        return Err("a wrong header size");
    }
    let mut blanked = *sector;
    blanked[16..20].fill(0);
    if crc32fast::hash(&blanked[..header_bytes]) != u32_at(sector, 16) {
        return Err("a wrong checksum");
    }
    if u64_at(sector, 24) != lba {
        return Err("it says that it is elsewhere");
    }
    let (entries, entry_bytes) = (u32_at(sector, 80) as usize, u32_at(sector, 84) as usize);
    let sane = entry_bytes >= ENTRY_BYTES && entry_bytes.is_power_of_two();
    if !sane || entries.checked_mul(entry_bytes).is_none_or(|bytes| bytes > MOST_ARRAY_BYTES) {
        return Err("a wrong number or size of entries");
    }
    Ok(Place {
        disk: uuid_at(sector, 56),
        array_lba: u64_at(sector, 72),
        entries,
        entry_bytes,
        crc: u32_at(sector, 88),
    })
}

fn parse_entries(array: &[u8], place: &Place, size: u64) -> Result<Table, &'static str> {
    if crc32fast::hash(array) != place.crc {
        return Err("a wrong checksum of its entries");
    }
    let used = |entry: &&[u8]| entry[..16].iter().any(|byte| *byte != 0);
    let parse = |entry: &[u8]| {
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let offset = first.checked_mul(SECTOR)?;
        let end = last.checked_add(1)?.checked_mul(SECTOR)?;
        if first > last || end > size {
            return None;
        }
        let units: Vec<u16> = entry[56..56 + 2 * NAME_UNITS]
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        Some(Partition {
            kind: uuid_at(entry, 0),
            guid: uuid_at(entry, 16),
            offset,
            size: end - offset,
            name: String::from_utf16_lossy(&units),
        })
    };
    let partitions: Option<Vec<Partition>> =
        array.chunks_exact(place.entry_bytes).filter(used).map(parse).collect();
    let partitions = partitions.ok_or("a partition lies outside the disk")?;
    Ok(Table { disk: place.disk, partitions })
}

// Callers index within buffers whose length they have checked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut raw = [0; 16];
    raw.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_gpt(raw)
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, ESP, Partition, SECTOR, Table, read, root_type, write};
    use crate::disk::ids::Ids;
    use crate::host;
    use crate::units::{Arch, Digest};
    use std::io::Cursor;
    use std::process::Command;

    const SIZE: u64 = 8 * ALIGN;

    fn table() -> Table {
        let ids = Ids::from_seed(&Digest::of("gpt"));
        let part = |kind, guid, mib: u64, mibs: u64, name: &str| Partition {
            kind,
            guid,
            offset: mib * ALIGN,
            size: mibs * ALIGN,
            name: name.into(),
        };
        let partitions = vec![
            part(ESP, ids.fat_partition, 1, 2, "EFI system"),
            part(root_type(Arch::X86_64), ids.root_partition, 3, 4, "root"),
        ];
        Table { disk: ids.disk, partitions }
    }

    fn disk() -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; SIZE as usize]);
        write(&mut disk, SIZE, &table()).expect("table fits");
        disk.into_inner()
    }

    #[test]
    fn reads_what_it_wrote() {
        let found = read(Cursor::new(disk())).expect("intact");
        assert_eq!(found, table());
        assert_eq!(found.find(ESP).map(|esp| esp.offset), Some(ALIGN));
    }

    #[test]
    fn the_backup_serves_where_the_primary_is_damaged() {
        for byte in [512, 512 + 20, 512 + 72, 1024 + 32] {
            let mut disk = disk();
            disk[byte] ^= 0xff;
            assert_eq!(read(Cursor::new(disk)).expect("backup"), table(), "damage at {byte}");
        }
    }

    #[test]
    fn no_table_is_a_problem_with_reasons() {
        let error = read(Cursor::new(vec![0; 65536])).expect_err("nothing there");
        assert_eq!(
            error.to_string(),
            "there is no intact GUID partition table (primary: no signature; backup: no signature)"
        );
        for size in [0, 1, 511, 512, 1023, 1024, 1500] {
            assert!(read(Cursor::new(vec![0; size])).is_err(), "{size}");
        }
    }

    /// Headers with valid checksums and wild numbers: the checksum is no protection against malice.
    #[test]
    fn wild_numbers_are_refused() {
        for (at, bytes) in [
            (72, u64::MAX.to_le_bytes().to_vec()),
            (72, (u64::MAX / SECTOR).to_le_bytes().to_vec()),
            (80, u32::MAX.to_le_bytes().to_vec()),
            (84, 0u32.to_le_bytes().to_vec()),
            (84, u32::MAX.to_le_bytes().to_vec()),
            (84, 0x8000_0000u32.to_le_bytes().to_vec()),
            (12, 4096u32.to_le_bytes().to_vec()),
        ] {
            let mut disk = disk();
            disk.truncate(7 * ALIGN as usize);
            disk[512 + at..512 + at + bytes.len()].copy_from_slice(&bytes);
            disk[512 + 16..512 + 20].fill(0);
            let crc = crc32fast::hash(&disk[512..512 + 92]);
            disk[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
            assert!(read(Cursor::new(disk)).is_err(), "{at} {bytes:?}");
        }
    }

    #[test]
    fn partitions_must_lie_inside() {
        for (offset, size) in [(0, ALIGN), (ALIGN, SIZE), (ALIGN, 0), (ALIGN + 1, ALIGN), (7 * ALIGN, ALIGN)]
        {
            let mut table = table();
            table.partitions[0].offset = offset;
            table.partitions[0].size = size;
            let mut disk = Cursor::new(vec![0; SIZE as usize]);
            assert!(write(&mut disk, SIZE, &table).is_err(), "{offset}+{size}");
        }
    }

    #[test]
    fn other_tools_agree() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), disk()).expect("writing");
        if let Ok(sgdisk) = host::program("sgdisk") {
            let said = host::run(Command::new(sgdisk).arg("-v").arg(file.path())).expect("sgdisk");
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(said.contains("No problems found"), "{said}");
        }
        if let Ok(sfdisk) = host::program("sfdisk") {
            let said = host::run(Command::new(sfdisk).args(["--dump"]).arg(file.path())).expect("sfdisk");
            let said = String::from_utf8_lossy(&said).to_lowercase();
            assert!(said.contains(&table().partitions[1].guid.to_string()), "{said}");
            host::run(Command::new(host::program("sfdisk").expect("there")).arg("--verify").arg(file.path()))
                .expect("sfdisk finds no fault");
        }
    }
}
