//! Points on the disk: generation, size, footer, partitions.

use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

use crate::disk::table::TableKind;
use crate::format::{Container, VHD_COOKIE, VHD_FOOTER};
use crate::image::source::OpenImage;
use crate::inspect::{FileSystem, Partition, Report, ext4_uuids};
use crate::recipe::types::Board;
use crate::units::Arch;
use crate::verdict::Check;

const MIB: u64 = 1 << 20;
/// Largest OS disk, bytes: 1,023 GB. Azure counts in powers of 1024.
const LARGEST: u64 = 1023 << 30;

/// What is known of the disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// How the image lies in its file.
    pub container: Container,
    /// Bytes of the disk.
    pub size: u64,
    /// The footer of a VHD.
    pub footer: Option<[u8; VHD_FOOTER as usize]>,
    /// How the partition table is written.
    pub table: TableKind,
    /// The loaders in EFI/BOOT.
    pub loaders: Vec<String>,
    /// A BIOS starts grub from its first sector.
    pub bios: bool,
    /// Architecture, as the manifest or the loaders tell it.
    pub arch: Option<Arch>,
    /// UUIDs of the ext4 file systems.
    pub roots: Vec<String>,
    /// PARTUUIDs of their partitions.
    pub partuuids: Vec<String>,
    /// The partitions' file systems, by partition number.
    pub kinds: Vec<(u32, String)>,
}

impl Disk {
    /// Gathers it.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub(crate) fn of(source: &OpenImage, report: &Report) -> Result<Self> {
        let footer = if source.container == Container::Vhd {
            let mut footer = [0; VHD_FOOTER as usize];
            let read = source.file.read_exact_at(&mut footer, source.size);
            read.with_context(|| format!("reading {}", source.path.display()))?;
            Some(footer)
        } else {
            None
        };
        let loaders = report.loaders.as_ref().map(|loaders| loaders.files.clone()).unwrap_or_default();
        let bios = report.board == Some(Board::Bios) && !loaders.is_empty();
        let loaders = if bios { Vec::new() } else { loaders };
        let loads = |name: &str| loaders.iter().any(|file| file.ends_with(name));
        let by_loader = || match (bios || loads("BOOTX64.EFI"), loads("BOOTAA64.EFI")) {
            (true, _) => Some(Arch::X86_64),
            (false, true) => Some(Arch::Aarch64),
            _ => None,
        };
        let kind = |partition: &Partition| {
            let kind = partition.file_system.as_ref()?.kind;
            Some((partition.entry.number, kind.to_owned()))
        };
        let is_ext4 =
            |partition: &&Partition| partition.file_system.as_ref().is_some_and(FileSystem::is_ext4);
        let ext4 = report.partitions.iter().filter(is_ext4);
        Ok(Self {
            container: source.container,
            size: source.size,
            footer,
            table: report.table,
            arch: report.arch.or_else(by_loader),
            loaders,
            bios,
            roots: ext4_uuids(&report.partitions),
            partuuids: ext4.map(|partition| partition.entry.partuuid.clone()).collect(),
            kinds: report.partitions.iter().filter_map(kind).collect(),
        })
    }
}

/// Every point on the disk.
pub(super) fn points(disk: &Disk) -> Vec<Check> {
    vec![generation(disk), size(disk), footer(disk), lvm(disk)]
}

fn generation(disk: &Disk) -> Check {
    const NAME: &str = "generation";
    match (disk.table, disk.loaders.is_empty()) {
        (TableKind::Gpt, false) => Check::passed(NAME, format!("2 (UEFI, {})", disk.loaders.join(", "))),
        (TableKind::Gpt, true) => Check::failed(
            NAME,
            "a GPT without a loader in EFI/BOOT: neither generation 1 nor 2 boots it",
            "install shim-signed and the signed grub",
        ),
        (TableKind::Mbr, false) => Check::failed(
            NAME,
            "an EFI loader on a disk with an MBR: VMs of generation 2 want a GPT",
            "board = \"uefi\" in [target] makes one",
        ),
        (TableKind::Mbr, true) if disk.arch == Some(Arch::Aarch64) => Check::failed(
            NAME,
            "an MBR without an EFI loader: VMs with Arm processors are of generation 2",
            "board = \"uefi\" in [target]",
        ),
        (TableKind::Mbr, true) if disk.bios => Check::passed(NAME, "1 (BIOS, grub in the first sectors)"),
        (TableKind::Mbr, true) => Check::skipped(NAME, "1, if its boot sector is one: that is not read"),
    }
}

fn size(disk: &Disk) -> Check {
    const NAME: &str = "size";
    let size = disk.size;
    if !size.is_multiple_of(MIB) {
        let next = size.next_multiple_of(MIB);
        return Check::failed(
            NAME,
            format!("{size} bytes are not whole MiB"),
            format!("enlarge the raw image, `truncate -s {next}`, and make the VHD again"),
        );
    }
    if size > LARGEST {
        return Check::failed(NAME, format!("{} GiB", size >> 30), "an OS disk has at most 1,023 GB");
    }
    Check::passed(NAME, format!("{} MiB, uploaded as {} bytes", size / MIB, size + VHD_FOOTER))
}

/// A footer's fields, big endian: the specification's page 6.
fn footer(disk: &Disk) -> Check {
    const NAME: &str = "vhd-footer";
    const HINT: &str =
        "formats = [\"vhd\"] in [target], or `qemu-img convert -O vpc -o subformat=fixed,force_size=on`";
    let Some(footer) = &disk.footer else {
        return Check::skipped(
            NAME,
            format!("{} has none; what is uploaded is a VHD: {HINT}", disk.container),
        );
    };
    let word = |at: usize| u32::from_be_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let sum =
        footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at)).map(|(_, byte)| u32::from(*byte));
    let mut faults = Vec::new();
    let mut expect = |right: bool, fault: String| {
        if !right {
            faults.push(fault);
        }
    };
    expect(footer.starts_with(VHD_COOKIE), "no VHD footer".into());
    expect(word(12) == 0x1_0000, format!("version {:#x}, not 1.0", word(12)));
    expect(long(16) == u64::MAX, "it points to a header, as a growing VHD does".into());
    expect(word(60) == 2, format!("disk type {}, not 2 (fixed)", word(60)));
    expect(long(48) == disk.size, format!("it says {} bytes, the file has {}", long(48), disk.size));
    expect(word(64) == !sum.sum::<u32>(), "its checksum is wrong".into());
    Check::of(NAME, &faults, "fixed, and its checksum is right", HINT)
}

fn lvm(disk: &Disk) -> Check {
    let faults: Vec<_> = disk
        .kinds
        .iter()
        .filter(|(_, kind)| kind == "lvm" || kind == "swap")
        .map(|(number, kind)| format!("partition {number} is {kind}"))
        .collect();
    Check::of(
        "partitions",
        &faults,
        "no LVM and no swap",
        "leave the partition out: swap belongs on the resource disk",
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Disk, MIB, points};
    use crate::disk::table::TableKind;
    use crate::format::{Container, VHD_FOOTER};
    use crate::units::Arch;
    use crate::verdict::Outcome;

    pub(crate) fn disk() -> Disk {
        let mut footer = [0; VHD_FOOTER as usize];
        footer[..8].copy_from_slice(b"conectix");
        footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
        footer[16..24].fill(0xff);
        footer[48..56].copy_from_slice(&(8 * MIB).to_be_bytes());
        footer[63] = 2;
        let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
        footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
        Disk {
            container: Container::Vhd,
            size: 8 * MIB,
            footer: Some(footer),
            table: TableKind::Gpt,
            loaders: vec!["EFI/BOOT/BOOTX64.EFI".into()],
            bios: false,
            arch: Some(Arch::X86_64),
            roots: vec!["1".into()],
            partuuids: vec!["1a2b-02".into()],
            kinds: vec![(1, "fat32".into()), (2, "ext4".into())],
        }
    }

    fn failed(change: impl Fn(&mut Disk)) -> Vec<String> {
        let mut disk = disk();
        change(&mut disk);
        points(&disk).into_iter().filter(|p| p.outcome == Outcome::Failed).map(|p| p.name).collect()
    }

    #[test]
    fn each_point_fails_by_itself() {
        assert_eq!(failed(|_| {}), [""; 0]);
        assert_eq!(failed(|disk| disk.loaders.clear()), ["generation"]);
        assert_eq!(failed(|disk| disk.table = TableKind::Mbr), ["generation"]);
        let bios = Disk { table: TableKind::Mbr, loaders: Vec::new(), bios: true, ..disk() };
        assert_eq!(
            (points(&bios)[0].outcome, points(&bios)[0].detail.starts_with("1 (BIOS")),
            (Outcome::Passed, true)
        );
        assert_eq!(failed(|disk| disk.size += 512), ["size", "vhd-footer"]);
        assert_eq!(failed(|disk| disk.kinds.push((3, "lvm".into()))), ["partitions"]);
        assert_eq!(failed(|disk| disk.kinds.push((3, "swap".into()))), ["partitions"]);
        for at in [0, 13, 16, 50, 63, 64, 100] {
            let flip = |disk: &mut Disk| disk.footer.as_mut().expect("footer")[at] ^= 1;
            assert_eq!(failed(flip), ["vhd-footer"], "byte {at}");
        }
        let mut raw = disk();
        (raw.footer, raw.container) = (None, Container::Raw);
        assert!(points(&raw).iter().any(|p| p.name == "vhd-footer" && p.outcome == Outcome::Skipped));
    }
}
