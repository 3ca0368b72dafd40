//! Is this FAT file system sound enough to walk in?
//!
//! The crate `fatfs` trusts what it reads: a cluster number out of range makes it compute wild offsets, a chain that
//! bites its tail makes it read for ever. An image may come from anybody, so what `fatfs` relies on is checked first:
//! the geometry, every table entry, and that no cluster is reached twice.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result};

use crate::error::Problem;

/// More clusters than any boot partition has; bounds the memory that the check takes to 66 MiB.
const MOST_CLUSTERS: u64 = 1 << 24;
const LEAST_FAT16: u64 = 4085;
const LEAST_FAT32: u64 = 65525;
pub(super) const ENTRY_BYTES: usize = 32;
const DEEPEST: usize = 32;
pub(super) const DELETED: u8 = 0xe5;
const ATTRIBUTES_LONG_NAME: u8 = 0x0f;
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;

/// Checks a file system on a device of `size` bytes.
///
/// # Errors
/// A [`Problem`] that says what is wrong with it, or an error from reading.
pub(super) fn check<D: Read + Seek>(device: &mut D, size: u64) -> Result<()> {
    folders(device, size).map(drop)
}

/// Puts right how `fatfs` begins a folder: it gives `.` and `..` long names, which `fsck.fat` takes for damage, and lets
/// `..` name the cluster of the top folder, where the specification (1.03, page 25) wants 0.
///
/// # Errors
/// As [`check`].
pub(super) fn mend_dots<D: Read + Write + Seek>(device: &mut D, size: u64) -> Result<()> {
    let (geometry, folders) = folders(device, size)?;
    for folder in folders {
        let offset = geometry.offset(folder.first);
        let slots = read(device, offset, 4 * ENTRY_BYTES as u64)?;
        if let Some(mended) = mended_dots(&slots, folder.at_top) {
            device.seek(SeekFrom::Start(offset))?;
            device.write_all(&mended).context("writing the FAT partition")?;
        }
    }
    Ok(())
}

/// The first four slots of a folder as they should be, if `fatfs` made them.
fn mended_dots(slots: &[u8], at_top: bool) -> Option<Vec<u8>> {
    let [long, dot, long_too, dots] = slots.as_chunks::<ENTRY_BYTES>().0 else { return None };
    let fatfs = long[11] == ATTRIBUTES_LONG_NAME
        && long_too[11] == ATTRIBUTES_LONG_NAME
        && dot.starts_with(b".          ")
        && dots.starts_with(b"..         ");
    if !fatfs {
        return None;
    }
    let mut dots = *dots;
    if at_top {
        dots[20..22].fill(0);
        dots[26..28].fill(0);
    }
    let mut free = [0; ENTRY_BYTES];
    free[0] = DELETED;
    Some([*dot, dots, free, free].concat())
}

/// A folder below the top one.
pub(super) struct Folder {
    /// Its first cluster.
    pub first: u32,
    at_top: bool,
}

/// Checks a file system and lists its folders.
pub(super) fn folders<D: Read + Seek>(device: &mut D, size: u64) -> Result<(Geometry, Vec<Folder>)> {
    let mut boot = [0; 512];
    anyhow::ensure!(size >= 512, damaged("it has less than a sector"));
    device.rewind()?;
    device.read_exact(&mut boot).context("reading the FAT partition")?;
    let geometry = Geometry::parse(&boot, size).map_err(damaged)?;
    let table = geometry.table(device)?;
    let reached = reached_by_table(&table).map_err(damaged)?;
    let mut walk = Walk { device, geometry: &geometry, table: &table, reached, folders: Vec::new() };
    match geometry.root {
        Root::Cluster(first) => walk.folder(first, 0)?,
        Root::Region { offset, bytes } => {
            let raw = read(walk.device, offset, bytes)?;
            walk.entries(&raw, 0)?;
        }
    }
    let folders = walk.folders;
    Ok((geometry, folders))
}

fn damaged(reason: &'static str) -> Problem {
    Problem::input(format!("the FAT file system is not sound: {reason}"))
}

/// Where the parts of a file system lie; bytes from its start.
pub(super) struct Geometry {
    /// FAT32, with entries of four bytes, not two.
    pub wide: bool,
    pub clusters: u64,
    pub cluster_bytes: u64,
    pub table_offset: u64,
    /// Copies of the table, one after the other.
    pub tables: u64,
    pub table_bytes: u64,
    /// The information sector with the number of free clusters; FAT16 has none.
    pub info_offset: Option<u64>,
    pub data_offset: u64,
    root: Root,
}

enum Root {
    Cluster(u32),
    Region { offset: u64, bytes: u64 },
}

impl Geometry {
    /// Field offsets: Microsoft's FAT specification 1.03, pages 9 to 12.
    pub(super) fn parse(boot: &[u8; 512], size: u64) -> Result<Self, &'static str> {
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
        if boot[510..] != [0x55, 0xaa] {
            return Err("no boot sector signature");
        }
        let (sector, per_cluster, reserved, tables) =
            (u16_at(11), u64::from(boot[13]), u16_at(14), u64::from(boot[16]));
        if !(512..=4096).contains(&sector) || !sector.is_power_of_two() || !per_cluster.is_power_of_two() {
            return Err("a wrong sector or cluster size");
        }
        let wide = u16_at(22) == 0;
        let table_sectors = if wide { u32_at(36) } else { u16_at(22) };
        let total = if u16_at(19) == 0 { u32_at(32) } else { u16_at(19) };
        let root_bytes = u16_at(17) * ENTRY_BYTES as u64;
        let root_sector = reserved + tables * table_sectors;
        let data = root_sector + root_bytes.div_ceil(sector);
        if !(1..=2).contains(&tables) || reserved == 0 || total * sector > size || data >= total {
            return Err("its parts do not fit into it");
        }
        let clusters = (total - data) / per_cluster;
        let narrow = (LEAST_FAT16..LEAST_FAT32).contains(&clusters);
        if clusters > MOST_CLUSTERS || wide != (clusters >= LEAST_FAT32) || (!wide && !narrow) {
            return Err("neither FAT16 nor FAT32 has as many clusters");
        }
        if (clusters + 2) * if wide { 4 } else { 2 } > table_sectors * sector {
            return Err("its table is too short");
        }
        let root = match wide {
            true => Root::Cluster(u32_at(44) as u32),
            false => Root::Region { offset: root_sector * sector, bytes: root_bytes },
        };
        // Both copies of the table in use, the information sector within the reserved ones.
        if wide && (u16_at(40) & 0x80 != 0 || u16_at(48) >= reserved || u16_at(50) >= reserved) {
            return Err("an unusual FAT32 layout");
        }
        Ok(Self {
            wide,
            clusters,
            cluster_bytes: per_cluster * sector,
            table_offset: reserved * sector,
            tables,
            table_bytes: table_sectors * sector,
            info_offset: wide.then(|| u16_at(48) * sector),
            data_offset: data * sector,
            root,
        })
    }

    /// Where a cluster begins; the number must be in range.
    pub(super) fn offset(&self, cluster: u32) -> u64 {
        self.data_offset + u64::from(cluster - 2) * self.cluster_bytes
    }

    /// The table as cluster numbers: 0 is free, `u32::MAX` ends a chain.
    pub(super) fn table<D: Read + Seek>(&self, device: &mut D) -> Result<Vec<u32>> {
        let width = if self.wide { 4 } else { 2 };
        let raw = read(device, self.table_offset, (self.clusters + 2) * width)?;
        let entries = raw.chunks_exact(width as usize).map(|raw| match *raw {
            [a, b, c, d] => match u32::from_le_bytes([a, b, c, d]) & 0x0fff_ffff {
                0x0fff_fff7.. => u32::MAX,
                next => next,
            },
            [a, b] => match u16::from_le_bytes([a, b]) {
                0xfff7.. => u32::MAX,
                next => u32::from(next),
            },
            _ => 0,
        });
        Ok(entries.collect())
    }
}

pub(super) fn read<D: Read + Seek>(device: &mut D, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut raw = vec![0; usize::try_from(bytes)?];
    device.seek(SeekFrom::Start(offset))?;
    device.read_exact(&mut raw).context("reading the FAT partition")?;
    Ok(raw)
}

/// Which clusters follow another; no cluster may follow two.
fn reached_by_table(table: &[u32]) -> Result<Vec<bool>, &'static str> {
    let mut reached = vec![false; table.len()];
    for next in table.iter().skip(2).filter(|next| **next != 0 && **next != u32::MAX) {
        reach(*next, &mut reached)?;
    }
    Ok(reached)
}

fn reach(cluster: u32, reached: &mut [bool]) -> Result<(), &'static str> {
    match reached.get_mut(cluster as usize) {
        Some(seen) if cluster >= 2 && !*seen => {
            *seen = true;
            Ok(())
        }
        Some(_) if cluster >= 2 => Err("a cluster belongs to two files"),
        _ => Err("a cluster number is out of range"),
    }
}

struct Walk<'a, D> {
    device: &'a mut D,
    geometry: &'a Geometry,
    table: &'a [u32],
    reached: Vec<bool>,
    folders: Vec<Folder>,
}

impl<D: Read + Seek> Walk<'_, D> {
    fn folder(&mut self, first: u32, depth: usize) -> Result<()> {
        // Reaching the first cluster of every chain once means that no chain runs into itself.
        reach(first, &mut self.reached).map_err(damaged)?;
        anyhow::ensure!(depth < DEEPEST, damaged("its folders are nested too deep"));
        let mut next = first;
        let mut raw = Vec::new();
        while next != 0 && next != u32::MAX {
            raw.extend(read(self.device, self.geometry.offset(next), self.geometry.cluster_bytes)?);
            next = self.table[next as usize];
            anyhow::ensure!(raw.len() <= 65536 * ENTRY_BYTES, damaged("a folder has too many entries"));
        }
        self.entries(&raw, depth)
    }

    fn entries(&mut self, raw: &[u8], depth: usize) -> Result<()> {
        for entry in raw.chunks_exact(ENTRY_BYTES) {
            let attributes = entry[11];
            match entry[0] {
                0 => break,
                DELETED | b'.' => continue,
                _ if attributes & ATTRIBUTES_LONG_NAME == ATTRIBUTES_LONG_NAME => continue,
                _ if attributes & ATTRIBUTE_LABEL != 0 => continue,
                _ => {}
            }
            let high = if self.geometry.wide { u16::from_le_bytes([entry[20], entry[21]]) } else { 0 };
            let first = u32::from(high) << 16 | u32::from(u16::from_le_bytes([entry[26], entry[27]]));
            if attributes & ATTRIBUTE_FOLDER != 0 {
                self.folders.push(Folder { first, at_top: depth == 0 });
                self.folder(first, depth + 1)?;
            } else if first != 0 {
                reach(first, &mut self.reached).map_err(damaged)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::disk::fat::LEAST;
    use crate::disk::fat::tests::volume;
    use crate::host;
    use std::io::Cursor;
    use std::process::Command;

    /// Reserved sectors of a volume that `fatfs` made: the table begins after them.
    const TABLE: usize = 8 * 512;

    fn verdict(bytes: &[u8]) -> Result<(), String> {
        check(&mut Cursor::new(bytes), bytes.len() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn sound_ones_pass() {
        assert_eq!(verdict(&volume(LEAST, &[("a/b/c", &[1; 5000]), ("a/d", b"")])), Ok(()));
        let Ok(mkfs) = host::program("mkfs.fat") else { return };
        for (bits, mib) in [("16", 16), ("32", 40)] {
            let file = tempfile::NamedTempFile::new().expect("temp file");
            file.as_file().set_len(mib << 20).expect("size");
            host::run(Command::new(&mkfs).args(["-F", bits]).arg(file.path())).expect("mkfs.fat");
            assert_eq!(verdict(&std::fs::read(file.path()).expect("read")), Ok(()), "FAT{bits}");
        }
    }

    #[test]
    fn damage_is_named() {
        let sound = volume(LEAST, &[("f", &[1; 2000])]);
        for (at, bytes, reason) in [
            (510, &b"\0\0"[..], "no boot sector signature"),
            (11, b"\0\0", "a wrong sector or cluster size"),
            (13, b"\0", "a wrong sector or cluster size"),
            (14, b"\0\0", "its parts do not fit into it"),
            (16, b"\xff", "its parts do not fit into it"),
            (32, b"\xff\xff\xff\xff", "its parts do not fit into it"),
            (36, b"\x01\0\0\0", "its table is too short"),
            (36, b"\xff\xff\xff\xff", "its parts do not fit into it"),
            (13, b"\x80", "neither FAT16 nor FAT32 has as many clusters"),
            (48, b"\xff\xff", "an unusual FAT32 layout"),
            (44, b"\0\0\0\0", "a cluster number is out of range"),
            (44, b"\xff\xff\xff\x0f", "a cluster number is out of range"),
            (TABLE + 4 * 4, b"\x03\0\0\0", "a cluster belongs to two files"),
            (TABLE + 4 * 4, b"\xf0\xff\xff\x0f", "a cluster number is out of range"),
            (TABLE + 4 * 2, b"\x02\0\0\0", "a cluster belongs to two files"),
            (TABLE + 4 * 4, b"\x01\0\0\0", "a cluster number is out of range"),
        ] {
            let mut bytes_now = sound.clone();
            bytes_now[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(
                verdict(&bytes_now),
                Err(format!("the FAT file system is not sound: {reason}")),
                "{at} {bytes:?}"
            );
        }
        assert!(verdict(b"short").is_err());
        assert!(verdict(&sound[..1 << 20]).is_err());
    }
}
