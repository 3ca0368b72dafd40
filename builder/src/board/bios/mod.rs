//! PCs whose BIOS starts the first sector of a disk: older industrial PCs, Azure VMs of generation 1, QEMU's `pc`.
//!
//! ```text
//! BIOS ─► sector 0 (boot.img) ─► sectors 1… (core.img) ─► FAT: grub/grub.cfg (finds the root by UUID)
//!                                                              └─► root: /boot/grub/grub.cfg ─► kernel
//! ```
//! The core image is made by the tree's own grub-mkimage, in a layer (see [`Program`]): it depends on nothing but grub's
//! packages, and holds every module that the menu needs. Nothing is installed by grub-install, which wants the disk as a
//! device, and root.
//!
//! The table is an MBR rather than a GPT with a BIOS boot partition: a GPT's protective MBR has no active partition, and
//! BIOSes of the time before UEFI refuse such a disk. The price: what lies beyond 2 TiB of a disk is not used.

mod chain;
pub(super) mod embedding;

use anyhow::Result;

use super::initramfs::Drivers;
use super::{Definition, Evidence, Judged, MOST_BOOT_FILE, Program, grub, uefi};
use crate::disk::Scheme;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::disk::mbr::BootCode;
use crate::error::Problem;
use crate::recipe::types::{DistributionId, Recipe};
use crate::tree::Root;
use crate::tree::entry::{EntryKind, TreeEntry};

/// The board `bios`.
pub(super) struct Bios;

/// The FAT partition in grub's words: the first of the drive that the BIOS started.
const FAT_DEVICE: &str = "(,msdos1)";
/// grub's folder on it.
const FAT_FOLDER: &str = "grub";
/// Where grub's package has its images.
const IMAGES: &str = "/usr/lib/grub/i386-pc";
/// Where the layer leaves the core image, as grub-install does.
const CORE_FOLDER: &str = "/boot/grub/i386-pc";
/// Drives, partition tables, file systems; what finds the root and reads a menu; the words of the menu, and of one that
/// grub-mkconfig makes on the device.
const MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "part_gpt",
    "fat",
    "ext2",
    "search",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "test",
    "echo",
    "sleep",
    "reboot",
    "halt",
    "minicmd",
    "loadenv",
    "gzio",
];

/// What older PCs have beside what UEFI machines have.
const OLDER: &[Drivers] =
    &[("USB of older machines", "uhci_hcd ohci_pci"), ("older IDE", "pata_acpi pata_via pata_amd")];

impl Definition for Bios {
    fn packages(&self, _recipe: &Recipe) -> Vec<&'static str> {
        // grub-pc itself would ask for a disk to install to, and has hooks that do.
        vec!["grub-pc-bin", "grub-common"]
    }

    fn kernel(&self, _distribution: DistributionId) -> &'static str {
        "linux-image-amd64 (Debian) or linux-generic (Ubuntu)"
    }

    fn drivers(&self, _recipe: &Recipe) -> Vec<Drivers> {
        [uefi::DRIVERS, OLDER].concat()
    }

    fn scheme(&self) -> Scheme {
        Scheme::BiosMbr
    }

    fn fat_mount(&self) -> &'static str {
        "/boot/edgepress"
    }

    fn program(&self) -> Option<Program> {
        let words = ["grub-mkimage", "--directory", IMAGES, "--format", "i386-pc"].map(str::to_owned);
        let prefix = format!("{FAT_DEVICE}/{FAT_FOLDER}");
        let output = ["--output".to_owned(), core_path(), "--prefix".to_owned(), prefix];
        let modules = MODULES.iter().map(ToString::to_string);
        Some(Program {
            folder: CORE_FOLDER.into(),
            words: words.into_iter().chain(output).chain(modules).collect(),
        })
    }

    fn boot_files(&self, _tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
        let stub = grub::stub(recipe, ids)?.into_bytes();
        Ok(vec![FatFile { path: format!("{FAT_FOLDER}/grub.cfg"), content: stub }, super::readme()])
    }

    fn boot_code(&self, tree: &Root) -> Result<Option<BootCode>> {
        let read = |path: &str| {
            tree.read(path, MOST_BOOT_FILE)?.ok_or_else(|| {
                anyhow::Error::from(
                    Problem::input(format!("the image has no boot loader: {path} is not there"))
                        .hint("the package grub-pc-bin brings it: keep it out of packages.remove"),
                )
            })
        };
        embedding::embed(&read(&format!("{IMAGES}/boot.img"))?, &read(&core_path())?).map(Some)
    }

    fn root_files(&self, recipe: &Recipe, ids: &Ids) -> Result<Vec<TreeEntry>> {
        let mut entries = grub::root_files(recipe, ids, self.fat_mount())?;
        // No package has this folder.
        entries.push(TreeEntry::own(self.fat_mount(), 0o755, EntryKind::Directory));
        Ok(entries)
    }

    fn recognises(&self, evidence: &Evidence<'_>) -> bool {
        embedding::is_grub(evidence.head)
    }

    fn judge(&self, evidence: &Evidence<'_>) -> Judged {
        let (loaders, verdict) = chain::judge(evidence);
        Judged { chains: Vec::new(), loaders: Some(loaders), verdict }
    }
}

fn core_path() -> String {
    format!("{CORE_FOLDER}/core.img")
}

#[cfg(test)]
mod tests {
    use super::Bios;
    use super::embedding::tests::{boot, core};
    use crate::board;
    use crate::board::Definition as _;
    use crate::disk::ids::Ids;
    use crate::error::problem;
    use crate::recipe::types::{Board, Recipe};
    use crate::tree::Root;
    use crate::units::Digest;
    use std::path::Path;

    fn recipe() -> Recipe {
        let mut recipe = crate::recipe::test_recipe();
        recipe.target.board = Board::Bios;
        recipe
    }

    #[test]
    fn the_boot_loader_is_the_tree_s() {
        let folder = tempfile::tempdir().expect("temp folder");
        let root = Root::open(folder.path()).expect("open");
        let error = Bios.boot_code(&root).expect_err("nothing there");
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.ends_with("/usr/lib/grub/i386-pc/boot.img is not there"), "{problem}");
        for (path, content) in
            [("usr/lib/grub/i386-pc/boot.img", boot()), ("boot/grub/i386-pc/core.img", core("/x"))]
        {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            std::fs::write(path, content).expect("file");
        }
        let code = Bios.boot_code(&root).expect("code").expect("some");
        assert!(code.sector.windows(4).any(|window| window == b"GRUB"));
    }

    #[test]
    fn what_starts_grub_and_what_grub_starts() {
        let recipe = recipe();
        let ids = Ids::from_seed(&Digest::of("bios"));
        let folder = tempfile::tempdir().expect("temp folder");
        let root = Root::open(folder.path()).expect("open");
        let files = Bios.boot_files(&root, &recipe, &ids).expect("files");
        assert_eq!(files[0].path, "grub/grub.cfg");
        let stub = String::from_utf8_lossy(&files[0].content).into_owned();
        assert!(stub.starts_with(&format!("search.fs_uuid {} root\n", ids.root)), "{stub}");
        let entries = board::root_files(&recipe, &ids).expect("files");
        assert!(entries.iter().any(|entry| entry.path == Path::new("/boot/edgepress")));
        let words = Bios.program().expect("a program").words;
        assert!(
            words.contains(&"(,msdos1)/grub".to_owned()) && words.contains(&"linux".to_owned()),
            "{words:?}"
        );
        assert!(board::requested_packages(&recipe).contains(&"grub-pc-bin".to_owned()));
    }
}
