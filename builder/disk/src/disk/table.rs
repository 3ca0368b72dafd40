//! The partition table of a disk, of either kind.

use std::io::{Read, Seek, SeekFrom};

use anyhow::Result;
use serde::Serialize;

use super::gpt::{self, ESP, SECTOR};
use super::mbr;
use crate::error::{Problem, problem};
use crate::units::Arch;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// A GUID partition table.
    Gpt,
    /// A classic MBR.
    Mbr,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The machine's firmware reads it: EFI system partition, or FAT32 of an MBR.
    Fat,
    /// The root file system.
    Root,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// GPT or MBR.
    pub kind: TableKind,
    /// The disk's GUID, or its id of 8 hexadecimal digits.
    pub disk: String,
    /// The used partitions, in the order of the table.
    pub partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// From 1: of a GPT counted over the used entries, of an MBR over all.
    pub number: u32,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// What it is for, as its type tells.
    pub role: Option<Role>,
    /// As Linux names it in `root=PARTUUID=…`.
    pub partuuid: String,
    /// Name; empty in an MBR.
    pub name: String,
}

impl Table {
    /// The first partition with a role.
    pub fn find(&self, role: Role) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.role == Some(role))
    }
}

/// Reads the partition table of a disk or image, of whatever origin: a GPT where the MBR protects one, else the MBR; a
/// GPT too where the first sector is damaged.
///
/// # Errors
/// A [`Problem`] when there is no table, an error from reading.
pub fn read<D: Read + Seek>(mut disk: D) -> Result<Table> {
    disk.seek(SeekFrom::Start(0))?;
    let mut sector = Vec::new();
    (&mut disk).take(SECTOR).read_to_end(&mut sector)?;
    if mbr::is_protective(&sector) {
        return Ok(from_gpt(gpt::read(disk)?));
    }
    let why = match mbr::read(&mut disk) {
        Ok(table) => return Ok(from_mbr(&table)),
        Err(error) if problem(&error).is_some() => error,
        Err(error) => return Err(error),
    };
    match gpt::read(disk) {
        Ok(table) => Ok(from_gpt(table)),
        Err(error) if problem(&error).is_some() => {
            Err(Problem::input(format!("{error}; {why}")).hint("is it a raw disk image?").into())
        }
        Err(error) => Err(error),
    }
}

fn from_gpt(table: gpt::Table) -> Table {
    let role = |kind| match kind {
        ESP => Some(Role::Fat),
        _ if [Arch::X86_64, Arch::Aarch64].map(gpt::root_type).contains(&kind) => Some(Role::Root),
        _ => None,
    };
    let partitions = (1..).zip(table.partitions).map(|(number, partition)| Partition {
        number,
        offset: partition.offset,
        size: partition.size,
        role: role(partition.kind),
        partuuid: partition.guid.to_string(),
        name: partition.name,
    });
    Table { kind: TableKind::Gpt, disk: table.disk.to_string(), partitions: partitions.collect() }
}

fn from_mbr(table: &mbr::Table) -> Table {
    let disk = format!("{:08x}", table.disk_id);
    let role = |kind| match kind {
        mbr::FAT32 | mbr::FAT32_LBA => Some(Role::Fat),
        mbr::LINUX => Some(Role::Root),
        _ => None,
    };
    let used = (1..).zip(&table.partitions).filter(|(_, partition)| partition.kind != 0);
    let partitions = used.map(|(number, partition): (u32, _)| Partition {
        number,
        offset: partition.offset,
        size: partition.size,
        role: role(partition.kind),
        partuuid: format!("{disk}-{number:02x}"),
        name: String::new(),
    });
    Table { partitions: partitions.collect(), kind: TableKind::Mbr, disk }
}

#[cfg(test)]
mod tests {
    use super::{Partition, Role, TableKind, read};
    use crate::disk::gpt::{self, ALIGN};
    use crate::disk::ids::Ids;
    use crate::disk::mbr::{self, FAT32_LBA, LINUX};
    use crate::units::{Arch, Digest};
    use std::io::Cursor;

    const SIZE: u64 = 8 * ALIGN;

    fn mbr_disk() -> Vec<u8> {
        let part =
            |kind, mib, mibs| mbr::Partition { kind, offset: mib * ALIGN, size: mibs * ALIGN, active: false };
        let table =
            mbr::Table { disk_id: 0x0a2b_3c4d, partitions: vec![part(FAT32_LBA, 1, 2), part(LINUX, 3, 5)] };
        let mut disk = Cursor::new(vec![0; SIZE as usize]);
        mbr::write(&mut disk, SIZE, &table).expect("fits");
        disk.into_inner()
    }

    fn gpt_disk() -> Vec<u8> {
        let ids = Ids::from_seed(&Digest::of("table"));
        let part = |kind, guid, mib, mibs| gpt::Partition {
            kind,
            guid,
            offset: mib * ALIGN,
            size: mibs * ALIGN,
            name: "EFI".into(),
        };
        let partitions = vec![
            part(gpt::ESP, ids.fat_partition, 1, 2),
            part(gpt::root_type(Arch::Aarch64), ids.root_partition, 3, 4),
        ];
        let mut disk = Cursor::new(vec![0; SIZE as usize]);
        gpt::write(&mut disk, SIZE, &gpt::Table { disk: ids.disk, partitions }).expect("fits");
        disk.into_inner()
    }

    #[test]
    fn an_mbr() {
        let table = read(Cursor::new(mbr_disk())).expect("table");
        assert_eq!((table.kind, table.disk.as_str()), (TableKind::Mbr, "0a2b3c4d"));
        let root = Partition {
            number: 2,
            offset: 3 * ALIGN,
            size: 5 * ALIGN,
            role: Some(Role::Root),
            partuuid: "0a2b3c4d-02".into(),
            name: String::new(),
        };
        assert_eq!(table.find(Role::Root), Some(&root));
        assert_eq!(table.find(Role::Fat).map(|fat| fat.number), Some(1));
    }

    #[test]
    fn a_gpt_also_without_its_mbr() {
        for damage in [None, Some(510), Some(450)] {
            let mut disk = gpt_disk();
            if let Some(at) = damage {
                disk[at] = 0;
            }
            let table = read(Cursor::new(disk)).expect("table");
            let ids = Ids::from_seed(&Digest::of("table"));
            assert_eq!((table.kind, table.disk), (TableKind::Gpt, ids.disk.to_string()));
            let roles: Vec<_> = table.partitions.iter().map(|partition| partition.role).collect();
            assert_eq!(roles, [Some(Role::Fat), Some(Role::Root)]);
            assert_eq!(table.partitions[1].partuuid, ids.root_partition.to_string());
        }
    }

    #[test]
    fn neither() {
        for size in [0, 1, 511, 512, 4096] {
            let error = read(Cursor::new(vec![0; size])).expect_err("no table");
            assert!(error.to_string().contains("no usable MBR"), "{error}");
        }
        // An MBR that protects a GPT which is not there is no table of its own.
        let mut disk = vec![0; 4096];
        disk[..512].copy_from_slice(&gpt_disk()[..512]);
        assert!(read(Cursor::new(disk)).is_err());
    }
}
