//! How a machine boots: what a board puts on the FAT partition, into /etc/fstab, into the boot loader's configuration and
//! into the initramfs.
//!
//! ```text
//! uefi:         firmware ─► FAT: EFI/BOOT/BOOTX64.EFI (shim) ─► grubx64.efi ─► EFI/<vendor>/grub.cfg (finds the root by UUID)
//!                                                                                      └─► root: /boot/grub/grub.cfg ─► kernel
//! bios:         BIOS ─► sector 0 (boot.img) ─► core.img ─► FAT: grub/grub.cfg ─► root: /boot/grub/grub.cfg ─► kernel
//! raspberry-pi: boot ROM ─► FAT: bootcode.bin, start*.elf ─► config.txt ─► kernel, initramfs, device tree, cmdline.txt
//! ```
//! Each board is one implementation of [`Definition`], in a file or folder of its own; [`of`] finds it. What modules below
//! this one must know of a board (a recipe's rules, the length of a serial number) is an exhaustive `match` there.

mod bios;
pub(crate) mod files;
mod grub;
pub(crate) mod initramfs;
pub(crate) mod loaders;
pub(crate) mod raspberry_pi;
mod uefi;
pub(crate) mod wifi;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::bios::Bios;
use self::files::Files;
use self::initramfs::Drivers;
use self::loaders::Loaders;
use self::raspberry_pi::RaspberryPi;
use self::raspberry_pi::chain::{Chain, RootPartition};
use self::uefi::Uefi;
use crate::disk::Scheme;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::disk::mbr::BootCode;
use crate::error::Problem;
use crate::recipe::types::{Board, DistributionId, Initramfs, Model, Recipe};
use crate::tree::Root;
use crate::tree::entry::{EntryKind, TreeEntry};
use crate::units::Arch;
use crate::verdict::Check;

/// Name of the verdict on an image's boot chain.
pub(crate) const BOOT_CHAIN: &str = "boot-chain";

/// Every board, in the order in which an image is asked which it is for.
/// Images for clouds often start from both firmwares: they are UEFI's.
const ALL: [Board; 3] = [Board::RaspberryPi, Board::Uefi, Board::Bios];

/// What a board is.
pub(crate) trait Definition: Sync {
    /// Packages of its boot loader.
    fn packages(&self, recipe: &Recipe) -> Vec<&'static str>;

    /// An example of a kernel's package, for a recipe that names none.
    fn kernel(&self, distribution: DistributionId) -> &'static str;

    /// The drivers that a root may need, for the initramfs.
    fn drivers(&self, recipe: &Recipe) -> Vec<Drivers>;

    /// Do a distribution's kernels find the root without an initramfs? Most have the drivers as modules.
    fn boots_without_initramfs(&self, _distribution: DistributionId) -> bool {
        false
    }

    /// The models that an image is for, of a board that has models.
    fn models(&self, _recipe: &Recipe) -> Vec<Model> {
        Vec::new()
    }

    /// The partition table that its firmware reads.
    fn scheme(&self) -> Scheme;

    /// Where the FAT partition is mounted on the device.
    fn fat_mount(&self) -> &'static str;

    /// Bytes that must stay free on the FAT partition, beside `files`, for the device's own updates. A boot loader is
    /// replaced by one of about the same size, for which there is more than enough room.
    fn fat_spare(&self, _files: &[FatFile]) -> u64 {
        0
    }

    /// A program of the tree's own that makes a part of the boot loader there, in a layer over the packages.
    fn program(&self) -> Option<Program> {
        None
    }

    /// Everything on the FAT partition of a golden image; `tree` is the finished root.
    ///
    /// # Errors
    /// A [`Problem`] that names the package to install when something that the machine needs to boot is not in the tree.
    fn boot_files(&self, tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>>;

    /// What stands before the first partition, for a firmware that starts sectors rather than files.
    ///
    /// # Errors
    /// As [`Definition::boot_files`].
    fn boot_code(&self, _tree: &Root) -> Result<Option<BootCode>> {
        Ok(None)
    }

    /// Its own files of the root; see [`root_files`].
    ///
    /// # Errors
    /// As there.
    fn root_files(&self, recipe: &Recipe, ids: &Ids) -> Result<Vec<TreeEntry>>;

    /// What of the locked packages a boot chain can be followed over before anything is built; nothing for a board whose
    /// chain is known only then.
    fn parts(&self) -> Option<&'static Parts> {
        None
    }

    /// The boot chain of each model, over a tree of those [`Parts`].
    ///
    /// # Errors
    /// As [`Definition::boot_files`].
    fn chains(&self, _tree: &Root, _recipe: &Recipe, _ids: &Ids) -> Result<Vec<Chain>> {
        Ok(Vec::new())
    }

    /// Is an image for this board, as its files tell?
    fn recognises(&self, evidence: &Evidence<'_>) -> bool;

    /// Follows an image's boot chain.
    fn judge(&self, evidence: &Evidence<'_>) -> Judged;
}

/// A program to run in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The folder to make first.
    pub folder: String,
    /// Its name and its arguments.
    pub words: Vec<String>,
}

/// Packages, by the starts of their names, and the folders of theirs that end up where the firmware reads.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Starts of packages' names.
    pub packages: &'static [&'static str],
    /// Starts of paths in them, without the first `/`.
    pub folders: &'static [&'static str],
}

/// What of an image tells for which board it is, and whether it boots there.
pub(crate) struct Evidence<'a> {
    /// The files of the FAT partition.
    pub files: &'a dyn Files,
    /// The bytes before the first partition, 1 MiB of them at most.
    pub head: &'a [u8],
    /// Architecture, where the manifest tells it.
    pub arch: Option<Arch>,
    /// The root partition, where the table has one.
    pub root: Option<RootPartition>,
    /// UUIDs of the ext4 file systems.
    pub roots: &'a [String],
    /// The models that it must boot; none: one of all.
    pub models: &'a [Model],
}

/// What came of following a boot chain.
pub(crate) struct Judged {
    /// The chain of each model.
    pub chains: Vec<Chain>,
    /// The boot loaders, where there are such.
    pub loaders: Option<Loaders>,
    /// The verdict.
    pub verdict: Check,
}

/// What a board is.
pub(crate) fn of(board: Board) -> &'static dyn Definition {
    match board {
        Board::Uefi => &Uefi,
        Board::RaspberryPi => &RaspberryPi,
        Board::Bios => &Bios,
    }
}

/// The board that an image is for, as its files tell; none that is known here.
pub(crate) fn recognised(evidence: &Evidence<'_>) -> Option<Board> {
    ALL.into_iter().find(|board| of(*board).recognises(evidence))
}

/// Every package that a recipe asks for by name, in the order of its tables: the board's boot loader, the recipe's own
/// list, the engine and the runtime. What they depend on is for `lock` to find.
pub(crate) fn requested_packages(recipe: &Recipe) -> Vec<String> {
    let mut names: Vec<String> = boot_packages(recipe).iter().map(ToString::to_string).collect();
    names.extend(recipe.packages.install.iter().cloned());
    names.extend(recipe.engine.packages.iter().cloned());
    // What loads the firewall of overlays/base.
    names.extend((!recipe.engine.metadata_access).then(|| "nftables".to_owned()));
    names.extend(["aziot-identity-service", "aziot-edge"].map(String::from));
    names
}

/// The boot loader's packages, what makes an initramfs, and what Wi-Fi needs.
fn boot_packages(recipe: &Recipe) -> Vec<&'static str> {
    let mut names = of(recipe.target.board).packages(recipe);
    if recipe.target.initramfs != Initramfs::None {
        names.extend(["initramfs-tools", "zstd"]);
    }
    if recipe.network.wifi.is_some() {
        names.extend(["wpasupplicant", "wireless-regdb"]);
        // On Ubuntu the firmware of the radio comes with that of the GPU.
        let ubuntu = recipe.distribution.id == DistributionId::Ubuntu;
        names.extend((!ubuntu).then_some("firmware-brcm80211"));
    }
    names
}

/// The largest file of a boot partition that is read from a tree: kernel and initramfs of a Debian with every driver
/// have a tenth of it.
const MOST_BOOT_FILE: u64 = 1 << 30;

/// Files of the root that depend on the board: mounts and what steers its boot loader. They must be in the tree before
/// it becomes a file system.
///
/// # Errors
/// A [`crate::error::Problem`] when an argument of the kernel's command line cannot be written there, or the file with
/// the Wi-Fi's key holds none.
pub(crate) fn root_files(recipe: &Recipe, ids: &Ids) -> Result<Vec<TreeEntry>> {
    let mut entries = of(recipe.target.board).root_files(recipe, ids)?;
    if let Some(wifi) = &recipe.network.wifi {
        entries.extend(wifi::files(wifi)?);
    }
    Ok(entries)
}

/// What a person who puts the FAT partition into a computer must know, with the line ends of every computer.
fn readme() -> FatFile {
    FatFile { path: "edgepress/README.txt".into(), content: README.replace('\n', "\r\n").into_bytes() }
}

const README: &str = "\
A device's identity goes into this folder, as plain files:

  certificate.pem   certificate of the device, then the intermediate ones
  private-key.pem   its private key
  registration-id   one line (may be left out: the certificate's common name is taken)

First boot moves them to their place, and wipes certificate and key here.

Unless the image forbids it, these are taken as well:

  ca/*.pem             certificate authorities to trust (also .crt, .cer, .cert, .der)
  authorized_keys      SSH keys of the account
  hosts                lines for /etc/hosts
  hostname             name of the machine
  endpoint             address of the Device Provisioning Service
  source.toml          where the certificate comes from, if not from here (docs/identity.md),
                       and for that: bootstrap-certificate.pem, bootstrap-key.pem,
                       bootstrap-username, bootstrap-password, bootstrap-token,
                       symmetric-key, source-ca.pem
  wifi-ssid, wifi-key  name and key of the Wi-Fi (images that were made for Wi-Fi);
                       the key is wiped here as well
  registry-address, registry-username, registry-password
                       the registry of edgeAgent's image, if it wants a login; wiped as well
";

/// The recipe's own arguments of the kernel's command line.
fn own_arguments(recipe: &Recipe) -> Result<Vec<&str>> {
    for argument in &recipe.target.cmdline {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if argument.is_empty() || !argument.chars().all(plain) {
            let message = format!(
                "target.cmdline holds `{argument}`, which cannot stand in a boot loader's configuration"
            );
            return Err(Problem::input(message)
                .hint("write each argument as a string of its own, of letters, digits and -_./=:,+@%")
                .into());
        }
    }
    Ok(recipe.target.cmdline.iter().map(String::as_str).collect())
}

fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> TreeEntry {
    TreeEntry::own(path, mode, EntryKind::File(content.into()))
}

#[cfg(test)]
mod tests {
    use super::README;

    /// What first boot takes from the partition, the file on the partition names.
    #[test]
    fn the_readme_names_what_first_boot_takes() {
        let script = include_str!("../../../overlays/base/usr/lib/edgepress/fat.sh");
        let mut names: Vec<&str> = Vec::new();
        for list in ["FAT_SECRETS='", "FAT_COMPANIONS='", "FAT_OTHERS='"] {
            let (list, _) =
                script.split_once(list).and_then(|(_, rest)| rest.split_once('\'')).expect("a list");
            names.extend(list.split(' ').filter(|name| !["wiping.tmp", "readme.txt"].contains(name)));
        }
        assert!(names.len() > 15, "{names:?}");
        assert!(names.iter().all(|name| README.contains(name)), "{names:?}");
        let (endings, _) = script
            .split_once("AUTHORITIES='\\.(")
            .and_then(|(_, rest)| rest.split_once(')'))
            .expect("endings of authorities");
        assert!(endings.split('|').all(|ending| README.contains(&format!(".{ending}"))), "{endings}");
        assert!(README.lines().all(|line| line.is_ascii() && line.len() < 100));
    }
}
