//! UEFI machines: PCs, servers, Azure Gen2, QEMU.
//!
//! The files come from the distribution's signed packages, so that the machine may have secure boot on: shim (signed by
//! Microsoft) as the fallback loader, grub (signed by the distribution) beside it. Nothing is installed by grub-install.

mod chain;

use anyhow::{Context as _, Result};

use super::initramfs::Drivers;
use super::{Definition, Evidence, Judged, grub};
use crate::disk::Scheme;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::recipe::types::{DistributionId, Recipe};
use crate::tree::Root;
use crate::tree::entry::TreeEntry;
use crate::units::Arch;

/// The board `uefi`.
pub(super) struct Uefi;

impl Definition for Uefi {
    fn packages(&self, recipe: &Recipe) -> Vec<&'static str> {
        match recipe.target.arch {
            Arch::X86_64 => vec!["shim-signed", "grub-efi-amd64-signed"],
            Arch::Aarch64 => vec!["shim-signed", "grub-efi-arm64-signed"],
        }
    }

    fn kernel(&self, _distribution: DistributionId) -> &'static str {
        "linux-image-cloud-amd64 (Debian) or linux-virtual (Ubuntu)"
    }

    fn drivers(&self, _recipe: &Recipe) -> Vec<Drivers> {
        DRIVERS.to_vec()
    }

    fn scheme(&self) -> Scheme {
        Scheme::Gpt
    }

    fn fat_mount(&self) -> &'static str {
        "/boot/efi"
    }

    fn boot_files(&self, tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
        boot_files(tree, recipe, ids)
    }

    fn root_files(&self, recipe: &Recipe, ids: &Ids) -> Result<Vec<TreeEntry>> {
        grub::root_files(recipe, ids, self.fat_mount())
    }

    fn recognises(&self, evidence: &Evidence<'_>) -> bool {
        !evidence.files.list("EFI/BOOT").is_empty()
    }

    fn judge(&self, evidence: &Evidence<'_>) -> Judged {
        let (loaders, verdict) = chain::judge(evidence.files, evidence.arch, evidence.roots);
        Judged { chains: Vec::new(), loaders: Some(loaders), verdict }
    }
}

/// What a root can be on.
pub(super) const DRIVERS: &[Drivers] = &[
    ("every board", "ext4 sd_mod"),
    ("QEMU and KVM", "virtio_pci virtio_mmio virtio_blk virtio_scsi"),
    // The network driver too: Azure asks for it. NVMe disks of newer Azure machines hang off pci-hyperv.
    ("Azure and Hyper-V", "hv_vmbus hv_storvsc hv_netvsc pci-hyperv"),
    ("VMware", "vmw_pvscsi mptspi"),
    ("Xen", "xen-blkfront"),
    ("NVMe, also behind Intel VMD", "nvme vmd"),
    ("SATA", "ahci ahci_platform ata_piix ata_generic"),
    ("USB", "xhci_pci xhci_plat_hcd ehci_pci usb_storage uas"),
    (
        "eMMC, SD cards, UFS",
        "mmc_block sdhci_pci sdhci_acpi sdhci_iproc dw_mmc_pltfm rtsx_pci_sdmmc ufshcd_pci",
    ),
];

/// A loader: where it goes in `EFI/BOOT`, where packages have it (the first that is there is taken), and whose it is.
struct Loader {
    target: &'static str,
    sources: &'static [&'static str],
    package: &'static str,
    optional: bool,
}

const fn loader(target: &'static str, sources: &'static [&'static str], package: &'static str) -> Loader {
    Loader { target, sources, package, optional: false }
}

/// `fbx64.efi` is missing on purpose: where it stands beside shim, shim runs it, and it writes boot entries into the
/// firmware and starts the machine again.
fn loaders(arch: Arch) -> [Loader; 3] {
    match arch {
        Arch::X86_64 => [
            // On Ubuntu the first is a link into /etc/alternatives.
            loader(
                "BOOTX64.EFI",
                &["/usr/lib/shim/shimx64.efi.signed", "/usr/lib/shim/shimx64.efi.signed.latest"],
                "shim-signed",
            ),
            loader(
                "grubx64.efi",
                &["/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"],
                "grub-efi-amd64-signed",
            ),
            Loader {
                optional: true,
                ..loader(
                    "mmx64.efi",
                    &["/usr/lib/shim/mmx64.efi.signed", "/usr/lib/shim/mmx64.efi"],
                    "shim-helpers-amd64-signed",
                )
            },
        ],
        Arch::Aarch64 => [
            loader(
                "BOOTAA64.EFI",
                &["/usr/lib/shim/shimaa64.efi.signed", "/usr/lib/shim/shimaa64.efi.signed.latest"],
                "shim-signed",
            ),
            loader(
                "grubaa64.efi",
                &["/usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed"],
                "grub-efi-arm64-signed",
            ),
            Loader {
                optional: true,
                ..loader(
                    "mmaa64.efi",
                    &["/usr/lib/shim/mmaa64.efi.signed", "/usr/lib/shim/mmaa64.efi"],
                    "shim-helpers-arm64-signed",
                )
            },
        ],
    }
}

/// Everything on the FAT partition of a golden image.
///
/// # Errors
/// A [`Problem`] that names the package to install when a boot loader is not in the tree.
fn boot_files(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
    let mut files = Vec::new();
    let mut vendor = None;
    for loader in loaders(recipe.target.arch) {
        let Some(content) = find(tree, &loader)? else { continue };
        vendor = vendor.or_else(|| vendor_folder(&content));
        files.push(FatFile { path: format!("EFI/BOOT/{}", loader.target), content });
    }
    let vendor = vendor.context("finding in grub's image where it looks for its configuration")?;
    files.push(FatFile {
        path: format!("EFI/{vendor}/grub.cfg"),
        content: grub::stub(recipe, ids)?.into_bytes(),
    });
    files.push(super::readme());
    Ok(files)
}

fn find(tree: &Root, loader: &Loader) -> Result<Option<Vec<u8>>> {
    for source in loader.sources {
        if let Some(content) = tree.read(source, super::MOST_BOOT_FILE)? {
            return Ok(Some(content));
        }
    }
    if loader.optional {
        return Ok(None);
    }
    let message = format!("the image has no boot loader: {} is not there", loader.sources[0]);
    Err(Problem::input(message).hint(format!("add `{}` to packages.install", loader.package)).into())
}

/// The folders in which the signed grub looks for grub.cfg, in its order; none where its image names none.
fn config_folders(image: &[u8]) -> Vec<String> {
    /// The end of the script that Debian and Ubuntu build in: else, what lies beside grub itself.
    const BESIDE: &[u8] = b"source $cmdpath/grub.cfg";
    let Some(vendor) = vendor_folder(image) else { return Vec::new() };
    let beside = image.windows(BESIDE.len()).any(|window| window == BESIDE);
    [format!("EFI/{vendor}")].into_iter().chain(beside.then(|| "EFI/BOOT".to_owned())).collect()
}

/// The signed grub looks for grub.cfg in the same folder first, whatever folder it was started from. Its name is in the
/// image: `/EFI/debian`, `/EFI/ubuntu`.
fn vendor_folder(image: &[u8]) -> Option<String> {
    const START: &[u8] = b"/EFI/";
    let starts = image.windows(START.len()).enumerate().filter(|(_, window)| *window == START);
    let names = starts.map(|(at, _)| {
        let rest = &image[at + START.len()..];
        let length = rest.iter().take(32).take_while(|byte| byte.is_ascii_lowercase()).count();
        (&rest[..length], rest.get(length))
    });
    let mut ended = names.filter(|(name, end)| !name.is_empty() && *end == Some(&0));
    ended.next().map(|(name, _)| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::{boot_files, config_folders, vendor_folder};
    use crate::disk::ids::Ids;
    use crate::error::problem;
    use crate::recipe::types::Recipe;
    use crate::tree::Root;
    use crate::units::{Arch, Digest};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    pub(crate) fn recipe() -> Recipe {
        toml::from_str(
            "name = 'x'\narchives = {}\ndistribution = { id = 'debian', release = '12', codename = 'bookworm' }\n\
             target = { arch = 'x86_64', board = 'uefi' }",
        )
        .expect("recipe")
    }

    fn ids() -> Ids {
        Ids::from_seed(&Digest::of("board"))
    }

    fn put(tree: &Path, path: &str, content: &[u8]) {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, content).expect("file");
    }

    #[test]
    fn loaders_of_both_distributions() {
        let tree = tempfile::tempdir().expect("temp folder");
        let tree = tree.path();
        // Debian.
        put(tree, "usr/lib/shim/shimx64.efi.signed", b"debian's shim");
        put(tree, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", b"..\0/EFI/debian\0..");
        put(tree, "usr/lib/shim/mmx64.efi", b"mok");
        let files = boot_files(&Root::open(tree).expect("open"), &recipe(), &ids()).expect("files");
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let loaders = ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/mmx64.efi"];
        assert_eq!(paths, [&loaders[..], &["EFI/debian/grub.cfg", "edgepress/README.txt"]].concat());
        // Ubuntu: a link with an absolute target, which must stay within the tree.
        fs::remove_file(tree.join("usr/lib/shim/shimx64.efi.signed")).expect("remove");
        put(tree, "usr/lib/shim/shimx64.efi.signed.latest", b"ubuntu's shim");
        fs::create_dir_all(tree.join("etc/alternatives")).expect("folder");
        symlink("/usr/lib/shim/shimx64.efi.signed.latest", tree.join("etc/alternatives/shim")).expect("link");
        symlink("/etc/alternatives/shim", tree.join("usr/lib/shim/shimx64.efi.signed")).expect("link");
        let files = boot_files(&Root::open(tree).expect("open"), &recipe(), &ids()).expect("files");
        assert_eq!(files[0].content, b"ubuntu's shim");
    }

    #[test]
    fn a_missing_loader_names_its_package() {
        let tree = tempfile::tempdir().expect("temp folder");
        let mut recipe = recipe();
        for (arch, package) in
            [(Arch::X86_64, "grub-efi-amd64-signed"), (Arch::Aarch64, "grub-efi-arm64-signed")]
        {
            put(tree.path(), "usr/lib/shim/shimx64.efi.signed", b"shim");
            put(tree.path(), "usr/lib/shim/shimaa64.efi.signed", b"shim");
            recipe.target.arch = arch;
            let error =
                boot_files(&Root::open(tree.path()).expect("open"), &recipe, &ids()).expect_err("no grub");
            let hint = problem(&error).and_then(|problem| problem.hint.clone()).expect("a hint");
            assert_eq!(hint, format!("add `{package}` to packages.install"));
        }
    }

    #[test]
    fn the_vendor_is_read_from_grub() {
        for (image, vendor) in [
            (&b"x/EFI/BOOT\0/EFI/ubuntu\0"[..], Some("ubuntu")),
            (b"/EFI/debian\0", Some("debian")),
            (b"/EFI/debian", None),
            (b"/EFI/\0", None),
            (b"", None),
        ] {
            assert_eq!(vendor_folder(image).as_deref(), vendor);
        }
        let script = b"else\n\tsource $cmdpath/grub.cfg\nfi\n\0/EFI/debian\0";
        assert_eq!(config_folders(script), ["EFI/debian", "EFI/BOOT"]);
        assert_eq!(config_folders(&script[20..]), ["EFI/debian"]);
        assert_eq!(config_folders(&script[..30]), [""; 0]);
    }
}
