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

pub mod chain;
pub mod config_txt;
mod files;
pub mod model;
mod root;
mod settings;

use anyhow::Result;

use self::chain::{Chain, Finding, RootPartition};
pub use self::files::spare;
pub use self::root::root_files;
use crate::disk::ROOT_LABEL;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::recipe::types::Recipe;
use crate::tree::Root;

/// See [`super::boot_files`].
///
/// # Errors
/// As there; also when the firmware of a model that the recipe names would not start the kernel: says what is missing.
pub fn boot_files(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
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
/// As [`super::boot_files`].
pub fn files_and_chains(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<(Vec<FatFile>, Vec<Chain>)> {
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
