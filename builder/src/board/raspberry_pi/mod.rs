//! The Raspberry Pi: its GPU reads config.txt off a FAT partition and starts what that names.
//!
//! ```text
//! FAT partition, /boot/firmware on the device
//!   bootcode.bin, start*.elf, fixup*.dat   firmware of the GPU   (models 3 and Zero 2; start4*, fixup4* for model 4;
//!                                                                 model 5 has it in its EEPROM)
//!   config.txt                             names what follows
//!   cmdline.txt                            the kernel's arguments
//!                Debian            Raspberry Pi OS                Ubuntu
//!   kernel       vmlinuz-<v>       kernel8.img, kernel_2712.img   vmlinuz
//!   initramfs    initrd.img-<v>    initramfs8, initramfs_2712     initrd.img
//!   trees        bcm2837-*.dtb     bcm2710-*.dtb, overlays/       bcm2710-*.dtb, overlays/
//! ```
//! The names are those that each distribution's own hooks use: a kernel update on the device replaces these very files.
//! On Debian the hook (of the package raspi-firmware) also writes config.txt and cmdline.txt anew each time, from
//! /etc/default/raspi-firmware and its neighbours; so the image has what that hook makes of the files that it has.

pub(crate) mod chain;
pub(crate) mod config_txt;
mod files;
pub(crate) mod model;
mod root;
mod settings;

use anyhow::Result;

use self::chain::{Chain, RootPartition};
use super::initramfs::Drivers;
use super::{BOOT_CHAIN, Definition, Evidence, Judged, Parts};
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::disk::{ROOT_LABEL, Scheme};
use crate::error::Problem;
use crate::finding::Finding;
use crate::recipe::types::{DistributionId, Model, Recipe};
use crate::tree::Root;
use crate::tree::entry::TreeEntry;
use crate::verdict::Check;

/// The board `raspberry-pi`.
pub(crate) struct RaspberryPi;

impl Definition for RaspberryPi {
    fn packages(&self, recipe: &Recipe) -> Vec<&'static str> {
        match recipe.distribution.id {
            // flash-kernel copies new kernels to the FAT partition, as the hooks of raspi-firmware do elsewhere.
            DistributionId::Ubuntu => vec!["linux-firmware-raspi", "flash-kernel"],
            DistributionId::Debian | DistributionId::RaspberryPiOs => vec!["raspi-firmware"],
        }
    }

    fn kernel(&self, distribution: DistributionId) -> &'static str {
        match distribution {
            DistributionId::Debian => "linux-image-arm64",
            DistributionId::RaspberryPiOs => "linux-image-rpi-v8",
            DistributionId::Ubuntu => "linux-raspi",
        }
    }

    fn drivers(&self, recipe: &Recipe) -> Vec<Drivers> {
        let model_5 = recipe.target.raspberry_pi.models.contains(&Model::Pi5);
        if model_5 { [DRIVERS, DRIVERS_5].concat() } else { DRIVERS.to_vec() }
    }

    fn boots_without_initramfs(&self, distribution: DistributionId) -> bool {
        distribution == DistributionId::RaspberryPiOs
    }

    fn models(&self, recipe: &Recipe) -> Vec<Model> {
        recipe.target.raspberry_pi.models.clone()
    }

    /// The boot ROM of model 3 and Zero 2 reads no GPT.
    fn scheme(&self) -> Scheme {
        Scheme::CardMbr
    }

    fn fat_mount(&self) -> &'static str {
        "/boot/firmware"
    }

    fn fat_spare(&self, files: &[FatFile]) -> u64 {
        files::spare(files)
    }

    fn boot_files(&self, tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
        boot_files(tree, recipe, ids)
    }

    fn root_files(&self, recipe: &Recipe, ids: &Ids) -> Result<Vec<TreeEntry>> {
        root::root_files(recipe, ids, self.fat_mount())
    }

    fn parts(&self) -> Option<&'static Parts> {
        Some(&Parts { packages: &PACKAGES, folders: &FOLDERS })
    }

    fn chains(&self, tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<Chain>> {
        Ok(files_and_chains(tree, recipe, ids)?.1)
    }

    fn recognises(&self, evidence: &Evidence<'_>) -> bool {
        evidence.files.size(config_txt::NAME).is_some()
    }

    /// Follows the chain of each model. If nobody says which models, an image need only boot one.
    fn judge(&self, evidence: &Evidence<'_>) -> Judged {
        judge(evidence)
    }
}

/// Packages with what is on a card: kernels, device trees, firmware.
const PACKAGES: [&str; 4] = ["linux-image-", "linux-modules-", "raspi-firmware", "linux-firmware-raspi"];

/// Folders of the root that end up on a card.
const FOLDERS: [&str; 5] = [
    "boot/",
    "usr/lib/raspi-firmware/",
    "usr/lib/linux-image-",
    "usr/lib/linux-firmware-raspi/",
    "lib/firmware/",
];

/// Checked against Debian 12's arm64 kernel: clocks, power, pins, PCIe and the card's block layer are built in there, and
/// Raspberry Pi's own kernels have nearly all of this built in. Every module is read from a slow card at each boot.
const DRIVERS: &[Drivers] = &[
    ("root file system", "ext4"),
    // The regulators: the controller of model 4 waits for the one that switches its card's voltage.
    ("cards of models 3 and Zero 2, and of model 4", "bcm2835 sdhci_iproc gpio_regulator fixed"),
    ("USB of models 3 and Zero 2", "dwc2 phy_generic"),
    // The reset driver has the firmware load the controller's own.
    ("USB of model 4, behind PCIe", "xhci_pci reset_raspberrypi"),
    ("disks on USB", "usb_storage uas sd_mod"),
];

/// Only where the recipe names model 5, which Debian 12's kernel does not boot.
const DRIVERS_5: &[Drivers] =
    &[("cards of model 5", "sdhci_brcmstb"), ("USB of model 5", "xhci_plat_hcd dwc3"), ("NVMe", "nvme")];

/// See [`super::Definition::boot_files`].
///
/// # Errors
/// As there; also when the firmware of a model that the recipe names would not start the kernel: says what is missing.
fn boot_files(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
    let (files, chains) = files_and_chains(tree, recipe, ids)?;
    let broken: Vec<(&Chain, &Finding)> =
        chains.iter().flat_map(|chain| chain.errors().map(move |finding| (chain, finding))).collect();
    let Some((_, first)) = broken.first() else { return Ok(files) };
    let lines: Vec<String> = broken
        .iter()
        .map(|(chain, finding)| format!("model {} would not boot: {}", chain.model, finding.message))
        .collect();
    let hint = first.hint.clone().unwrap_or_else(|| "drop the model from target.raspberry_pi.models".into());
    Err(Problem::input(lines.join("\n")).hint(hint).into())
}

/// Everything on the FAT partition, and what the firmware of each model that the recipe names makes of it.
///
/// # Errors
/// As [`super::Definition::boot_files`].
fn files_and_chains(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<(Vec<FatFile>, Vec<Chain>)> {
    let files = files::boot_files(tree, recipe, ids)?;
    let root = RootPartition {
        number: 2,
        partitions: 2,
        partuuid: ids.mbr_partition(2),
        uuid: Some(ids.root.to_string()),
        label: Some(ROOT_LABEL.into()),
    };
    let follow = |model| chain::follow(&&files[..], model, Some(&root));
    let chains = recipe.target.raspberry_pi.models.iter().map(|model| follow(*model)).collect();
    Ok((files, chains))
}

fn judge(evidence: &Evidence<'_>) -> Judged {
    let named = evidence.models;
    let models = if named.is_empty() { &model::ALL[..] } else { named };
    let follow = |model: &Model| chain::follow(evidence.files, *model, evidence.root.as_ref());
    let chains: Vec<Chain> = models.iter().map(follow).collect();
    let list = |sound: bool| -> Vec<String> {
        let chains = chains.iter().filter(|chain| chain.sound() == sound);
        chains.map(|chain| chain.model.to_string()).collect()
    };
    let (good, bad) = (list(true), list(false));
    let passed = !good.is_empty() && (bad.is_empty() || named.is_empty());
    let mut parts = Vec::new();
    if !good.is_empty() {
        parts.push(format!("sound for model {}", good.join(", ")));
    }
    if !bad.is_empty() {
        parts.push(format!("broken for model {}", bad.join(", ")));
    }
    if let (false, Some(error)) = (passed, chains.iter().find_map(|chain| chain.errors().next())) {
        parts.push(error.message.clone());
    }
    let verdict = Check::new(BOOT_CHAIN, passed, parts.join("; "));
    Judged { chains, loaders: None, verdict }
}
