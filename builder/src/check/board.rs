//! Does the board boot with what the recipe installs, and does it reach a network?

use crate::board;
use crate::finding::Finding;
use crate::recipe::Loaded;
use crate::recipe::support;
use crate::recipe::types::{Board, DistributionId, Initramfs, Model};
use crate::units::Arch;

/// Packages that exist for PCs only and do not say so in their names.
const PC_ONLY: [&str; 5] =
    ["intel-microcode", "amd64-microcode", "grub-pc", "grub-pc-bin", "grub-efi-ia32-bin"];

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    foreign_packages(loaded, findings);
    initramfs(loaded, findings);
    match loaded.recipe.target.board {
        Board::RaspberryPi => {
            models(loaded, findings);
            ethernet(loaded, findings);
            overlays(loaded, findings);
        }
        Board::Uefi | Board::Bios => {}
    }
    wifi(loaded, findings);
}

/// The name without a pinned version.
fn bare(package: &str) -> &str {
    package.split('=').next().unwrap_or(package)
}

/// Kernels have a check of their own.
fn foreign_packages(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let target = &loaded.recipe.target;
    let own = target.arch.debian();
    for (at, package) in loaded.recipe.packages.install.iter().enumerate() {
        let name = bare(package);
        if name.starts_with("linux-image-") {
            continue;
        }
        let part = |arch: &&str| name.split('-').any(|part| part == *arch);
        let other = ["amd64", "arm64"].into_iter().filter(|arch| *arch != own).find(part);
        let pc_only = PC_ONLY.contains(&name) && target.arch != Arch::X86_64;
        let (other, hint) = match other {
            _ if pc_only => ("amd64", "leave it out".to_owned()),
            Some(other) => (other, format!("install `{}`", name.replace(other, own))),
            None => continue,
        };
        let message = format!("the package `{name}` is for {other}, and the image for {own}");
        findings.push(Finding::error(message).hint(hint).at(loaded.place(&format!("packages/install/{at}"))));
    }
}

/// A root named by UUID, or on a driver that is a module, needs one.
fn initramfs(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let alone = board::of(recipe.target.board).boots_without_initramfs(recipe.distribution.id);
    if recipe.target.initramfs == Initramfs::None && !alone {
        let message = format!(
            "the kernels of {} find no root without an initramfs: the drivers are modules",
            support::name(recipe.distribution.id)
        );
        findings.push(
            Finding::error(message)
                .hint("leave out `initramfs`: the board's list is small")
                .at(loaded.place("target/initramfs")),
        );
    }
}

/// The models that a kernel package boots, or `None` for a package that edgepress does not know. Debian's kernels lack
/// the drivers of model 5's peripherals (as of 6.12); the kernel for model 5 has pages that no other has.
fn boots(package: &str) -> Option<&'static [Model]> {
    const ALL: &[Model] = &[Model::Pi3, Model::Pi4, Model::Pi5, Model::Zero2];
    let name = bare(package);
    match name {
        _ if name.starts_with("linux-image-rpi-v8") || name.ends_with("-rpi-v8") => Some(ALL),
        _ if name.starts_with("linux-image-rpi-2712") || name.ends_with("-rpi-2712") => Some(&[Model::Pi5]),
        _ if name.starts_with("linux-raspi") || name.starts_with("linux-image-raspi") => Some(ALL),
        _ if name.contains("cloud") || name.contains("azure") || name == "linux-virtual" => Some(&[]),
        _ if name.starts_with("linux-image-") && name.ends_with("-arm64") => {
            Some(&[Model::Pi3, Model::Pi4, Model::Zero2])
        }
        _ => None,
    }
}

fn models(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let packages: Vec<&String> =
        recipe.packages.install.iter().filter(|name| super::combination::is_kernel(name)).collect();
    let known: Vec<&[Model]> = packages.iter().filter_map(|name| boots(name)).collect();
    if packages.is_empty() || known.len() < packages.len() {
        return;
    }
    for (at, model) in recipe.target.raspberry_pi.models.iter().enumerate() {
        if known.iter().any(|models| models.contains(model)) {
            continue;
        }
        let names = packages.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ");
        let message = format!("model {model} does not boot with {names}");
        let fitting = match (recipe.distribution.id, model) {
            (DistributionId::RaspberryPiOs, Model::Pi5) => Some("linux-image-rpi-2712"),
            (DistributionId::RaspberryPiOs, _) => Some("linux-image-rpi-v8"),
            (DistributionId::Ubuntu, _) => Some("linux-raspi"),
            (DistributionId::Debian, Model::Pi5) => None,
            (DistributionId::Debian, _) => Some("linux-image-arm64"),
        };
        let drop = format!("drop `{model}` from the models");
        let hint = match fitting {
            Some(package) => format!("install `{package}`, or {drop}"),
            None => format!("{drop}, or start from recipes/raspberry-pi-os-12.toml, whose kernels boot it"),
        };
        let place = loaded.place(&format!("target/raspberry_pi/models/{at}"));
        findings.push(Finding::error(message).hint(hint).at(place));
    }
}

/// Debian 12 has no firmware for the radio of Zero 2 (BCM43436; firmware-brcm80211 20230210-5).
fn ethernet(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let models = &recipe.target.raspberry_pi.models;
    let Some(at) = models.iter().position(|model| *model == Model::Zero2) else { return };
    let (message, hint) = match (recipe.distribution.id, &recipe.network.wifi) {
        (DistributionId::Debian, _) => (
            "model zero-2 has no Ethernet, and Debian no firmware for its radio",
            "drop `zero-2` from the models, or start from recipes/raspberry-pi-os-12.toml, whose distribution has it",
        ),
        (_, None) => (
            "model zero-2 has no Ethernet, and the recipe has no Wi-Fi",
            "add [network.wifi] with your `country`; name and key of the network may come with the identity",
        ),
        _ => return,
    };
    let place = loaded.place(&format!("target/raspberry_pi/models/{at}"));
    findings.push(Finding::error(message).hint(hint).at(place));
}

fn overlays(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let pi = &recipe.target.raspberry_pi;
    if recipe.distribution.id != DistributionId::Debian {
        return;
    }
    for (key, list) in [("overlays", &pi.overlays), ("parameters", &pi.parameters)] {
        if !list.is_empty() {
            let message = format!("Debian's kernel has no device tree overlays: `{key}` would do nothing");
            findings.push(
                Finding::error(message)
                    .hint("leave it out, or start from recipes/raspberry-pi-os-12.toml")
                    .at(loaded.place(&format!("target/raspberry_pi/{key}"))),
            );
        }
    }
}

fn wifi(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let Some(wifi) = &recipe.network.wifi else { return };
    if wifi.country.is_empty() {
        findings.push(
            Finding::error("`network.wifi.country` is empty, and the law there decides channels and power")
                .hint("two capital letters: --set network.wifi.country=DE")
                .at(loaded.place("network/wifi/country")),
        );
    }
    if wifi.key_file.is_none() && !recipe.provisioning.overrides {
        let message = "the recipe has no key of the Wi-Fi, and the identity may not bring one";
        findings.push(
            Finding::error(message)
                .hint("set `ssid` and `key_file` in [network.wifi], or allow provisioning.overrides")
                .at(loaded.place("network/wifi")),
        );
    }
}
