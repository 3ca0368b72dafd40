//! Everything on the FAT partition of a card.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::settings;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::recipe::types::{DistributionId, Initramfs, Model, Recipe};
use crate::tree::Root;

/// What a new version of the firmware's package copies to the FAT partition: all variants for all models, 22 MB.
const ALL_FIRMWARE: u64 = 24 << 20;

/// A kernel of the tree.
struct Kernel {
    version: String,
    image: Vec<u8>,
    /// `None` where the recipe wants none.
    initramfs: Option<Vec<u8>>,
}

/// Where a distribution's kernel packages have device trees and overlays; `{}` stands for the kernel's version.
struct Trees {
    folder: &'static str,
    prefix: &'static str,
    overlays: Option<&'static str>,
}

/// See [`crate::board::Definition::boot_files`].
///
/// # Errors
/// A [`Problem`] that names the package to install when firmware, kernel, initramfs or device trees are not in the tree.
pub(super) fn boot_files(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
    let mut files = Files::default();
    firmware(tree, recipe, &mut files)?;
    match recipe.distribution.id {
        DistributionId::Debian => debian(tree, recipe, ids, &mut files)?,
        DistributionId::RaspberryPiOs => raspberry_pi_os(tree, recipe, ids, &mut files)?,
        DistributionId::Ubuntu => ubuntu(tree, recipe, ids, &mut files)?,
    }
    let mut files: Vec<FatFile> =
        files.0.into_iter().map(|(path, content)| FatFile { path, content }).collect();
    files.push(crate::board::readme());
    Ok(files)
}

/// Bytes that an update needs beside what is there: the next kernels, their initramfs, and all firmware.
pub(super) fn spare(files: &[FatFile]) -> u64 {
    let replaced =
        |file: &&FatFile| ["vmlinuz", "kernel", "initr"].iter().any(|name| file.path.starts_with(name));
    files.iter().filter(replaced).map(|file| file.content.len() as u64).sum::<u64>() + ALL_FIRMWARE
}

/// Path on the FAT partition → content.
#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn put(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), content.into());
    }

    /// A kernel and what belongs to it, under the names that the distribution uses.
    fn kernel(&mut self, kernel: Kernel, image: &str, initramfs: &str) {
        self.put(image, kernel.image);
        if let Some(content) = kernel.initramfs {
            self.put(initramfs, content);
        }
    }
}

/// Debian's hook names the newest kernel only.
fn debian(tree: &Root, recipe: &Recipe, ids: &Ids, files: &mut Files) -> Result<()> {
    const TREES: Trees = Trees { folder: "/usr/lib/linux-image-{}/broadcom", prefix: "bcm", overlays: None };
    let kernel = newest(tree, recipe, "")?.ok_or_else(|| no_kernel("linux-image-arm64"))?;
    device_trees(tree, &TREES, &kernel.version, files)?;
    files.put("config.txt", settings::debian_config(recipe, &kernel.version));
    files.put("cmdline.txt", settings::command_line(recipe, ids)?);
    let names = [format!("vmlinuz-{}", kernel.version), format!("initrd.img-{}", kernel.version)];
    files.kernel(kernel, &names[0], &names[1]);
    Ok(())
}

/// One kernel of each flavour: the firmware takes kernel_2712.img on model 5 where it is there, else kernel8.img.
fn raspberry_pi_os(tree: &Root, recipe: &Recipe, ids: &Ids, files: &mut Files) -> Result<()> {
    const TREES: Trees = Trees {
        folder: "/usr/lib/linux-image-{}/broadcom",
        prefix: "bcm27",
        overlays: Some("/usr/lib/linux-image-{}/overlays"),
    };
    const FLAVOURS: [(&str, &str, &str); 2] =
        [("-rpi-v8", "kernel8.img", "initramfs8"), ("-rpi-2712", "kernel_2712.img", "initramfs_2712")];
    let mut found = false;
    for (flavour, image, initramfs) in FLAVOURS {
        let Some(kernel) = newest(tree, recipe, flavour)? else { continue };
        found = true;
        device_trees(tree, &TREES, &kernel.version, files)?;
        files.kernel(kernel, image, initramfs);
    }
    if !found {
        return Err(no_kernel("linux-image-rpi-v8"));
    }
    files.put("config.txt", settings::raspberry_pi_os_config(recipe));
    files.put("cmdline.txt", settings::command_line(recipe, ids)?);
    Ok(())
}

/// As flash-kernel keeps them.
fn ubuntu(tree: &Root, recipe: &Recipe, ids: &Ids, files: &mut Files) -> Result<()> {
    const TREES: Trees = Trees {
        folder: "/usr/lib/firmware/{}/device-tree/broadcom",
        prefix: "bcm27",
        overlays: Some("/usr/lib/firmware/{}/device-tree/overlays"),
    };
    let kernel = newest(tree, recipe, "-raspi")?.ok_or_else(|| no_kernel("linux-raspi"))?;
    device_trees(tree, &TREES, &kernel.version, files)?;
    files.kernel(kernel, "vmlinuz", "initrd.img");
    files.put("config.txt", settings::ubuntu_config(recipe));
    files.put("cmdline.txt", settings::command_line(recipe, ids)?);
    Ok(())
}

/// The GPU's firmware, as far as the recipe's models and settings need it.
fn firmware(tree: &Root, recipe: &Recipe, files: &mut Files) -> Result<()> {
    let (folder, package) = match recipe.distribution.id {
        DistributionId::Ubuntu => ("/usr/lib/linux-firmware-raspi", "linux-firmware-raspi"),
        _ => ("/usr/lib/raspi-firmware", "raspi-firmware"),
    };
    for name in firmware_names(recipe) {
        let path = format!("{folder}/{name}");
        let Some(content) = read(tree, &path)? else {
            let message = format!("the image has no firmware for a Raspberry Pi: {path} is not there");
            let hint = match recipe.distribution.id {
                DistributionId::Debian => format!(
                    "add `{package}` to packages.install, and `non-free-firmware` to the components of the archive"
                ),
                _ => format!("add `{package}` to packages.install"),
            };
            return Err(Problem::input(message).hint(hint).into());
        };
        files.put(name, content);
    }
    Ok(())
}

/// Names of firmware files. The variants: `x` with the camera's codecs (`start_x=1`), `db` with debugging
/// (`start_debug=1`), `cd` cut down, which 16 MiB of GPU memory select; or `start_file=` and `fixup_file=` name them.
fn firmware_names(recipe: &Recipe) -> Vec<String> {
    let pi = &recipe.target.raspberry_pi;
    let lines: Vec<&str> = pi.config.iter().map(|line| line.trim()).collect();
    let small = pi.gpu_memory == Some(16) || lines.contains(&"gpu_mem=16");
    let variant = match () {
        () if lines.contains(&"start_x=1") => "x",
        () if lines.contains(&"start_debug=1") => "db",
        () if small => "cd",
        () => "",
    };
    let mut names = Vec::new();
    let old = pi.models.iter().any(|model| matches!(model, Model::Pi3 | Model::Zero2));
    if old {
        names.push("bootcode.bin".to_owned());
        let infix = if variant.is_empty() { String::new() } else { format!("_{variant}") };
        names.extend([format!("start{infix}.elf"), format!("fixup{infix}.dat")]);
    }
    if pi.models.contains(&Model::Pi4) {
        // The typed setting is for models 3 and Zero 2 only.
        let variant = if variant == "cd" && !lines.contains(&"gpu_mem=16") { "" } else { variant };
        names.extend([format!("start4{variant}.elf"), format!("fixup4{variant}.dat")]);
    }
    for line in lines {
        let named = line.strip_prefix("start_file=").or_else(|| line.strip_prefix("fixup_file="));
        names.extend(named.filter(|name| !name.contains('/')).map(str::to_owned));
    }
    names
}

/// The newest kernel in /boot whose version has the ending; `None` where there is none.
fn newest(tree: &Root, recipe: &Recipe, ending: &str) -> Result<Option<Kernel>> {
    let names = list(tree, "/boot")?;
    let versions = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
    let Some(version) = versions.filter(|version| version.ends_with(ending)).max_by(|a, b| by_version(a, b))
    else {
        return Ok(None);
    };
    let image = read(tree, &format!("/boot/vmlinuz-{version}"))?.context("reading the kernel")?;
    let initramfs = match recipe.target.initramfs {
        Initramfs::None => None,
        Initramfs::Board | Initramfs::Most => {
            let path = format!("/boot/initrd.img-{version}");
            let content = read(tree, &path)?.ok_or_else(|| {
                Problem::input(format!("the image has no initramfs: {path} is not there"))
                    .hint("add `initramfs-tools` to packages.install")
            })?;
            Some(content)
        }
    };
    Ok(Some(Kernel { version: version.to_owned(), image, initramfs }))
}

fn no_kernel(package: &str) -> anyhow::Error {
    Problem::input("the image has no kernel for a Raspberry Pi in /boot")
        .hint(format!("add `{package}` to packages.install"))
        .into()
}

fn device_trees(tree: &Root, trees: &Trees, version: &str, files: &mut Files) -> Result<()> {
    let folder = trees.folder.replace("{}", version);
    let is_tree = |name: &&String| name.starts_with(trees.prefix) && name.ends_with(".dtb");
    let names = list(tree, &folder)?;
    let mut names = names.iter().filter(is_tree).peekable();
    if names.peek().is_none() {
        let message =
            format!("the kernel {version} brings no device tree of a Raspberry Pi: {folder} has none");
        return Err(Problem::input(message)
            .hint(
                "install a kernel that is made for it: linux-image-arm64, linux-image-rpi-v8 or linux-raspi",
            )
            .into());
    }
    for name in names {
        files.put(name.as_str(), read(tree, &format!("{folder}/{name}"))?.unwrap_or_default());
    }
    if let Some(overlays) = trees.overlays {
        let folder = overlays.replace("{}", version);
        for name in list(tree, &folder)? {
            if let Some(content) = read(tree, &format!("{folder}/{name}"))? {
                files.put(format!("overlays/{name}"), content);
            }
        }
    }
    Ok(())
}

/// A file of the tree, with links followed as the device would; `None` where there is none.
fn read(tree: &Root, path: &str) -> Result<Option<Vec<u8>>> {
    tree.read(path, crate::board::MOST_BOOT_FILE)
}

/// Names in a folder of the tree, sorted; none where there is no such folder.
fn list(tree: &Root, folder: &str) -> Result<Vec<String>> {
    let entries = tree.list(folder)?;
    Ok(entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
}

/// The order of `sort -V`, which the distributions' hooks use: runs of digits count as numbers.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() && !b.is_empty() {
        let run = |text: &[u8]| {
            let digits = text[0].is_ascii_digit();
            text.iter().take_while(|byte| byte.is_ascii_digit() == digits).count()
        };
        let ((one, rest_a), (other, rest_b)) = (a.split_at(run(a)), b.split_at(run(b)));
        let zeros = |run: &[u8]| run.iter().take_while(|byte| **byte == b'0').count();
        let order = if one[0].is_ascii_digit() && other[0].is_ascii_digit() {
            let (one, other) = (&one[zeros(one)..], &other[zeros(other)..]);
            one.len().cmp(&other.len()).then(one.cmp(other))
        } else {
            one.cmp(other)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
