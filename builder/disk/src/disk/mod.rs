//! The disk image: partition table, FAT partition, ext4 root, and changes to finished images.
//!
//! ```text
//!        board uefi               board bios                      board raspberry-pi
//! 0      protective MBR, GPT      MBR, boot code, core image      MBR: the boot ROM of model 3 and Zero 2 reads no GPT
//! 1 MiB  FAT32   boot loader      FAT32   grub.cfg                (4 MiB) FAT32   firmware, kernel, initramfs
//!   …    ext4    the root tree    ext4, to the end                ext4, to the end
//! end    backup GPT, a MiB
//! ```
//! The FAT partition's folder `edgepress/` holds a device's identity.

pub mod allocation;
pub mod ext4;
pub mod fat;
mod fat_check;
mod fat_undo;
pub mod gpt;
pub mod ids;
pub mod marker;
pub mod mbr;
pub mod overlay;
pub mod patch;
pub mod qcow2;
pub mod sparse;
pub mod superblock;
pub mod survey;
pub mod table;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use self::fat::FatFile;
use self::gpt::ALIGN;
use self::ids::Ids;
use self::mbr::BootCode;
use self::overlay::{Overlay, Zeros};
use self::survey::{BLOCK, Survey};
use crate::error::Problem;
use crate::event::{Event, Sink};
use crate::tree::Root;
use crate::units::Arch;

/// Partitions of a card begin on multiples of this: the erase blocks of cards are up to 4 MiB long.
const CARD_ALIGN: u64 = 4 << 20;

/// The step's name, under which [`make`] says how far it is; who calls it begins and ends the step.
pub const STEP: &str = "image";

/// Label of the FAT partition, as a person sees it on any computer.
pub const FAT_LABEL: &str = "EDGEPRESS";
/// Label of the root file system.
pub const ROOT_LABEL: &str = "root";

/// The kind of the partition table, and what it asks of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// A GUID partition table, its backup at the end; partitions begin on whole MiB.
    Gpt,
    /// A master boot record; partitions begin on whole erase blocks of a card, and nothing is kept free at the end.
    CardMbr,
    /// A master boot record whose code a BIOS starts; partitions begin on whole MiB, and nothing is kept free at the end.
    BiosMbr,
}

impl Scheme {
    /// Partitions begin on multiples of the first; the second is kept free at the end, for a GPT's backup. Bytes.
    fn margins(self) -> (u64, u64) {
        match self {
            Self::Gpt => (ALIGN, ALIGN),
            Self::CardMbr => (CARD_ALIGN, 0),
            Self::BiosMbr => (ALIGN, 0),
        }
    }
}

/// One partition of the image; offsets and sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// `fat` or `root`.
    pub role: String,
    /// Byte offset from the start of the image.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// File system UUID (FAT: the volume id, as `XXXX-XXXX`).
    pub uuid: String,
}

/// One image to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The root tree, as it shall be on the device.
    pub tree: PathBuf,
    /// The image's path; an existing file is overwritten.
    pub out: PathBuf,
    /// The partition table.
    pub scheme: Scheme,
    /// Decides the root partition's type.
    pub arch: Arch,
    /// Bytes of the FAT partition (`disk.fat`).
    pub fat_size: u64,
    /// Bytes that must be free on it: room in which the device updates itself.
    pub fat_spare: u64,
    /// Bytes of the whole image (`disk.size`); absent: what the tree needs and `free`.
    pub size: Option<u64>,
    /// Free bytes in the root file system of an image whose size is not given (`disk.free`).
    pub free: u64,
    /// Identifiers.
    pub ids: Ids,
    /// Every time stamp, seconds since 1970.
    pub epoch: u64,
    /// What the FAT partition holds.
    pub fat_files: Vec<FatFile>,
    /// What a BIOS starts, before the first partition of an MBR.
    pub boot_code: Option<BootCode>,
}

/// Where the partitions lie; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    fat: (u64, u64),
    root: (u64, u64),
    total: u64,
}

/// Makes a sparse raw image and says what partitions it has.
///
/// # Errors
/// A [`Problem`] when a partition is too small for what goes into it or the host's disk is full.
pub fn make(plan: &Plan, sink: &dyn Sink) -> Result<Vec<Partition>> {
    let survey = Survey::of(&Root::open(&plan.tree)?)?;
    let layout = layout(plan, &survey)?;
    check_space(plan, &survey)?;
    let out = plan.out.display();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&plan.out);
    let file = file.with_context(|| format!("creating {out}"))?;
    file.set_len(layout.total).with_context(|| format!("setting the size of {out}"))?;
    let step = |done: u64, message: &str| {
        sink.emit(Event::Progress { step: STEP.into(), done, message: message.into() });
    };
    step(0, "FAT partition");
    write_fat(plan, &layout, &file).map_err(|error| full(error, &plan.out))?;
    write_table(plan, &layout, &file)?;
    step(layout.root.0, "root file system");
    let (offset, size) = layout.root;
    let root = ext4::Root {
        tree: &plan.tree,
        image: &plan.out,
        offset,
        size,
        ids: &plan.ids,
        epoch: plan.epoch,
        label: ROOT_LABEL,
    };
    ext4::make(&root, &survey)?;
    step(layout.total, "");
    Ok(partitions(plan, &layout))
}

fn layout(plan: &Plan, survey: &Survey) -> Result<Layout> {
    let (align, tail) = plan.scheme.margins();
    let fat_size = plan.fat_size.next_multiple_of(align);
    if fat_size < fat::LEAST {
        let message = format!("disk.fat is {} MiB, too little for a FAT32 file system", plan.fat_size >> 20);
        return Err(Problem::input(message)
            .hint(format!("set `fat` in [disk] to at least {}M", fat::LEAST >> 20))
            .into());
    }
    let root_at = align + fat_size;
    let free = if plan.size.is_some() { 0 } else { plan.free };
    let needed = root_at + survey.bytes_needed(free).next_multiple_of(ALIGN) + tail;
    let total = match plan.size {
        None => needed,
        Some(size) => {
            let size = size - size % ALIGN;
            if size < needed {
                let mib = |bytes: u64| bytes.div_ceil(ALIGN);
                let message = format!(
                    "disk.size is {} MiB, but the image needs {} MiB: {} for the root tree, {} for the FAT partition, \
                     {} for the partition table",
                    mib(size),
                    mib(needed),
                    mib(survey.bytes_needed(0)),
                    mib(fat_size),
                    mib(align + tail)
                );
                let hint = format!("set `size` in [disk] to at least {}M, or leave it out", mib(needed));
                return Err(Problem::input(message).hint(hint).into());
            }
            size
        }
    };
    Ok(Layout { fat: (align, fat_size), root: (root_at, total - root_at - tail), total })
}

fn write_table(plan: &Plan, layout: &Layout, file: &File) -> Result<()> {
    match plan.scheme {
        Scheme::Gpt => gpt::write(file, layout.total, &gpt_table(plan, layout)),
        Scheme::CardMbr | Scheme::BiosMbr => mbr::write(file, layout.total, &mbr_table(plan, layout)),
    }?;
    plan.boot_code.iter().try_for_each(|code| mbr::write_code(file, code, layout.fat.0))
}

/// Only a BIOS looks for an active partition, and some start no disk without one.
fn mbr_table(plan: &Plan, layout: &Layout) -> mbr::Table {
    let partition = |kind, (offset, size), active| mbr::Partition { kind, offset, size, active };
    let active = plan.scheme == Scheme::BiosMbr;
    let partitions =
        vec![partition(mbr::FAT32_LBA, layout.fat, active), partition(mbr::LINUX, layout.root, false)];
    mbr::Table { disk_id: plan.ids.mbr, partitions }
}

fn gpt_table(plan: &Plan, layout: &Layout) -> gpt::Table {
    let partition = |kind, guid, (offset, size): (u64, u64), name: &str| gpt::Partition {
        kind,
        guid,
        offset,
        size,
        name: name.into(),
    };
    let ids = &plan.ids;
    let partitions = vec![
        partition(gpt::ESP, ids.fat_partition, layout.fat, FAT_LABEL),
        partition(gpt::root_type(plan.arch), ids.root_partition, layout.root, ROOT_LABEL),
    ];
    gpt::Table { disk: ids.disk, partitions }
}

fn partitions(plan: &Plan, layout: &Layout) -> Vec<Partition> {
    let partition =
        |role: &str, (offset, size): (u64, u64), uuid| Partition { role: role.into(), offset, size, uuid };
    vec![
        partition("fat", layout.fat, plan.ids.fat.to_string()),
        partition("root", layout.root, plan.ids.root.to_string()),
    ]
}

/// Made in memory, where `fatfs` may seek as often as it likes, and only what is not zero is written.
fn write_fat(plan: &Plan, layout: &Layout, file: &File) -> Result<()> {
    let (offset, size) = layout.fat;
    let wanted: u64 = plan.fat_files.iter().map(|file| file.content.len() as u64).sum();
    // Tables, clusters half filled, and room for a device's identity.
    let usable = size - size / 64 - ALIGN;
    let needed = wanted + plan.fat_spare;
    if needed > usable {
        let mut message =
            format!("disk.fat is {} MiB, but {} MiB go into it", size >> 20, wanted.div_ceil(ALIGN));
        if plan.fat_spare > 0 {
            let spare = plan.fat_spare.div_ceil(ALIGN);
            message +=
                &format!(", and the next kernel needs {spare} MiB beside this one while it is installed");
        }
        let hint = format!("set `fat` in [disk] to at least {}M", needed.div_ceil(ALIGN) * 65 / 64 + 2);
        return Err(Problem::input(message).hint(hint).into());
    }
    let mut device = Overlay::new(Zeros, size);
    fat::format(&mut device, size, plan.ids.fat, FAT_LABEL, plan.epoch, |volume| {
        plan.fat_files.iter().try_for_each(|file| volume.write(&file.path, &file.content))
    })?;
    for (at, bytes) in device.changes()? {
        file.write_all_at(&bytes, offset + at).with_context(|| format!("writing {}", plan.out.display()))?;
    }
    Ok(())
}

/// Asks before a minute's work rather than after.
fn check_space(plan: &Plan, survey: &Survey) -> Result<()> {
    let folder = plan.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let host = statvfs(folder).with_context(|| format!("looking for free space in {}", folder.display()))?;
    let available = host.blocks_available() as u64 * host.fragment_size() as u64;
    let fat: u64 = plan.fat_files.iter().map(|file| file.content.len() as u64).sum();
    let needed = survey.blocks * BLOCK + survey.inodes * survey::INODE + fat + 4 * ALIGN;
    if available < needed {
        let message = format!(
            "no space left in {}: the image needs {} MiB, {} MiB are available",
            folder.display(),
            needed.div_ceil(ALIGN),
            available / ALIGN
        );
        return Err(Problem::work(message).hint("free some space, or name another folder with --out").into());
    }
    Ok(())
}

/// Says what to do where an error means that the host's disk is full.
pub fn full(error: anyhow::Error, out: &Path) -> anyhow::Error {
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
    };
    if error.chain().any(is_full) {
        let message = format!("no space left on the host while writing {}", out.display());
        return Problem::work(message).hint("free some space, or name another folder with --out").into();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::Scheme;
    use super::{FatFile, Ids, Plan, gpt, make, patch};
    use crate::error::{ProblemKind, problem};
    use crate::event::Silent;
    use crate::units::{Arch, Digest};
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    fn plan(folder: &Path) -> Plan {
        let tree = folder.join("tree");
        fs::create_dir_all(&tree).expect("folder");
        super::ext4::tests::tree(&tree, false);
        Plan {
            tree,
            out: folder.join("disk.img"),
            scheme: Scheme::Gpt,
            arch: Arch::X86_64,
            fat_size: 40 << 20,
            fat_spare: 0,
            size: None,
            free: 16 << 20,
            ids: Ids::from_seed(&Digest::of("disk")),
            epoch: 1_700_000_000,
            fat_files: vec![FatFile { path: "EFI/BOOT/BOOTX64.EFI".into(), content: vec![1; 90_000] }],
            boot_code: None,
        }
    }

    #[test]
    fn an_image_has_what_was_planned_and_nothing_of_its_surroundings() {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("temp folder"));
        let mut images = Vec::new();
        for folder in &folders {
            let plan = plan(folder.path());
            let partitions = make(&plan, &Silent).expect("image");
            assert_eq!(partitions[0].uuid, plan.ids.fat.to_string());
            assert_eq!((partitions[0].role.as_str(), partitions[0].offset), ("fat", 1 << 20));
            assert_eq!((partitions[1].role.as_str(), partitions[1].offset), ("root", 41 << 20));
            let file = fs::File::open(&plan.out).expect("open");
            let metadata = file.metadata().expect("metadata");
            assert_eq!(metadata.len() % (1 << 20), 0);
            assert!(
                metadata.blocks() * 512 < metadata.len() / 2,
                "{} bytes on disk",
                metadata.blocks() * 512
            );
            let table = gpt::read(&file).expect("table");
            assert_eq!(
                table.find(gpt::root_type(Arch::X86_64)).map(|root| root.size),
                Some(partitions[1].size)
            );
            let loader = patch::look(&plan.out, |volume| volume.read("EFI/BOOT/BOOTX64.EFI", 1 << 20));
            assert_eq!(loader.expect("look"), Some(vec![1; 90_000]));
            images.push(fs::read(&plan.out).expect("read"));
        }
        assert!(images[0] == images[1], "two images of one plan differ");
    }

    #[test]
    fn too_small_says_how_small_and_what_to_change() {
        let folder = tempfile::tempdir().expect("temp folder");
        for (change, message, hint) in [
            (
                (|plan: &mut Plan| plan.size = Some(50 << 20)) as fn(&mut Plan),
                "disk.size is 50 MiB, but the image needs",
                "set `size` in [disk] to at least",
            ),
            (
                |plan| plan.fat_size = 8 << 20,
                "disk.fat is 8 MiB, too little",
                "set `fat` in [disk] to at least 33M",
            ),
            (
                |plan| plan.fat_files[0].content = vec![0; 42 << 20],
                "disk.fat is 40 MiB, but 42 MiB go into it",
                "set `fat` in [disk] to at least 44M",
            ),
            (
                |plan| plan.fat_spare = 41 << 20,
                "disk.fat is 40 MiB, but 1 MiB go into it, and the next kernel needs 41 MiB",
                "set `fat` in [disk] to at least 44M",
            ),
        ] {
            let mut plan = plan(folder.path());
            fs::remove_dir_all(plan.tree.join("big")).expect("smaller");
            change(&mut plan);
            let error = make(&plan, &Silent).expect_err(message);
            let problem = problem(&error).expect("a problem");
            assert_eq!(problem.kind, ProblemKind::Input);
            assert!(problem.message.starts_with(message), "{problem}");
            assert!(problem.hint.as_deref().is_some_and(|said| said.starts_with(hint)), "{problem:?}");
            fs::remove_dir_all(&plan.tree).expect("clean");
        }
    }

    #[test]
    fn a_card_has_an_mbr_and_its_root_reaches_the_end() {
        let folder = tempfile::tempdir().expect("temp folder");
        let plan = Plan { scheme: Scheme::CardMbr, fat_spare: 1 << 20, ..plan(folder.path()) };
        let partitions = make(&plan, &Silent).expect("image");
        let image = fs::read(&plan.out).expect("read");
        let fields = |at: usize| {
            let word =
                |at: usize| u64::from(u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")));
            (image[at], image[at + 4], word(at + 8) * 512, word(at + 12) * 512)
        };
        assert_eq!(fields(446), (0, 0x0c, 4 << 20, 40 << 20));
        assert_eq!(fields(462), (0, 0x83, 44 << 20, partitions[1].size));
        assert_eq!(image[510..512], [0x55, 0xaa]);
        assert_eq!(image[440..444], plan.ids.mbr.to_le_bytes());
        assert_eq!((44 << 20) + partitions[1].size, image.len() as u64);
        assert_eq!(partitions[0].offset, 4 << 20);
        assert_eq!(partitions[1].uuid, plan.ids.root.to_string());
        assert_eq!(&image[512..520], &[0; 8], "no GPT");
    }

    #[test]
    fn a_given_size_is_kept() {
        let folder = tempfile::tempdir().expect("temp folder");
        let plan = Plan { size: Some(200 << 20), ..plan(folder.path()) };
        let partitions = make(&plan, &Silent).expect("image");
        assert_eq!(fs::metadata(&plan.out).expect("metadata").len(), 200 << 20);
        assert_eq!(partitions[1].size, (200 - 41 - 1) << 20);
    }
}
