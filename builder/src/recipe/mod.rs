//! Recipes: loading, merging, checking.

mod de;
pub mod diagnostic;
mod load;
mod merge;
pub mod schema;
pub mod support;
pub(crate) mod tree;
pub mod types;
mod validate;
pub mod zones;

#[cfg(test)]
mod tests;

pub use load::{Loaded, load, load_or_list};

use crate::units::Arch;
use types::{Board, DistributionId, Initramfs, Recipe};

impl Recipe {
    /// Every package that is asked for by name, in the order of the recipe's tables: the board's boot loader, the
    /// recipe's own list, the engine and the runtime. What they depend on is for `lock` to find.
    pub fn requested_packages(&self) -> Vec<String> {
        let mut names: Vec<String> = self.board_packages().iter().map(ToString::to_string).collect();
        names.extend(self.packages.install.iter().cloned());
        names.extend(self.engine.packages.iter().cloned());
        // What loads the firewall of overlays/base.
        names.extend((!self.engine.metadata_access).then(|| "nftables".to_owned()));
        names.extend(["aziot-identity-service", "aziot-edge"].map(String::from));
        names
    }

    /// The boot loader's packages, what makes an initramfs, and what Wi-Fi needs.
    fn board_packages(&self) -> Vec<&'static str> {
        let target = &self.target;
        let ubuntu = self.distribution.id == DistributionId::Ubuntu;
        let mut names = match (target.board, target.arch) {
            (Board::Uefi, Arch::X86_64) => vec!["shim-signed", "grub-efi-amd64-signed"],
            (Board::Uefi, Arch::Aarch64) => vec!["shim-signed", "grub-efi-arm64-signed"],
            // flash-kernel copies new kernels to the FAT partition, as the hooks of raspi-firmware do elsewhere.
            (Board::RaspberryPi, _) if ubuntu => vec!["linux-firmware-raspi", "flash-kernel"],
            (Board::RaspberryPi, _) => vec!["raspi-firmware"],
        };
        if target.initramfs != Initramfs::None {
            names.extend(["initramfs-tools", "zstd"]);
        }
        if self.network.wifi.is_some() {
            names.extend(["wpasupplicant", "wireless-regdb"]);
            // On Ubuntu the firmware of the radio comes with that of the GPU.
            names.extend((!ubuntu).then_some("firmware-brcm80211"));
        }
        names
    }
}

/// The smallest recipe, for tests of what works on recipes.
#[cfg(test)]
pub(crate) fn test_recipe() -> Recipe {
    let text = r#"
        name = "test"
        distribution = { id = "debian", release = "12", codename = "bookworm" }
        target = { arch = "x86_64", board = "uefi" }
        provisioning = { id_scope = "0ne00123456" }
        [archives]
    "#;
    toml::from_str(text).expect("the test recipe is a recipe")
}
