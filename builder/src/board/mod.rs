//! How a machine boots: what a board puts on the FAT partition, into /etc/fstab, into the boot loader's configuration and
//! into the initramfs.
//!
//! ```text
//! uefi:         firmware ─► FAT: EFI/BOOT/BOOTX64.EFI (shim) ─► grubx64.efi ─► EFI/<vendor>/grub.cfg (finds the root by UUID)
//!                                                                                      └─► root: /boot/grub/grub.cfg ─► kernel
//! raspberry-pi: boot ROM ─► FAT: bootcode.bin, start*.elf ─► config.txt ─► kernel, initramfs, device tree, cmdline.txt
//! ```

pub mod initramfs;
pub mod raspberry_pi;
pub mod uefi;
pub mod wifi;

use anyhow::Result;

use crate::disk::Scheme;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::recipe::types::{Board, Recipe};
use crate::tree::Root;
use crate::tree::entry::{Entry, Kind};

/// Where the FAT partition is mounted on the device.
pub fn fat_mount(board: Board) -> &'static str {
    match board {
        Board::Uefi => "/boot/efi",
        Board::RaspberryPi => "/boot/firmware",
    }
}

/// The partition table that its firmware reads.
pub fn scheme(board: Board) -> Scheme {
    match board {
        Board::Uefi => Scheme::Gpt,
        // The boot ROM of model 3 and Zero 2 reads no GPT.
        Board::RaspberryPi => Scheme::CardMbr,
    }
}

/// Everything on the FAT partition of a golden image; `tree` is the finished root.
///
/// # Errors
/// A [`crate::error::Problem`] that names the package to install when something that the machine needs to boot is not
/// in the tree.
pub fn boot_files(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
    match recipe.target.board {
        Board::Uefi => uefi::boot_files(tree, recipe, ids),
        Board::RaspberryPi => raspberry_pi::boot_files(tree, recipe, ids),
    }
}

/// The largest file of a boot partition that is read from a tree: kernel and initramfs of a Debian with every driver
/// have a tenth of it.
const MOST_BOOT_FILE: u64 = 1 << 30;

/// Bytes that must stay free on the FAT partition for the device's own updates.
pub fn fat_spare(board: Board, files: &[FatFile]) -> u64 {
    match board {
        // A loader is replaced by one of about the same size, and there is more than enough room for that.
        Board::Uefi => 0,
        Board::RaspberryPi => raspberry_pi::spare(files),
    }
}

/// Files of the root that depend on the board: mounts and what steers its boot loader. They must be in the tree before
/// it becomes a file system.
///
/// # Errors
/// A [`crate::error::Problem`] when an argument of the kernel's command line cannot be written there, or the file with
/// the Wi-Fi's key holds none.
pub fn root_files(recipe: &Recipe, ids: &Ids) -> Result<Vec<Entry>> {
    let mut entries = match recipe.target.board {
        Board::Uefi => uefi::root_files(recipe, ids),
        Board::RaspberryPi => raspberry_pi::root_files(recipe, ids),
    }?;
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

First boot moves them to their place and wipes them here.

Unless the image forbids it, these are taken as well:

  ca/*.pem, ca/*.crt   certificate authorities to trust
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

fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Entry {
    Entry::own(path, mode, Kind::File(content.into()))
}
