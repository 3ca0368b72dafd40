//! Recipes: loading, merging, checking.

pub mod check;
mod de;
pub mod diagnostic;
mod load;
mod merge;
pub mod schema;
pub mod support;
pub(crate) mod tree;
pub mod types;
mod validate;

#[cfg(test)]
mod tests;

pub use load::{Loaded, load, load_or_list};

use crate::units::Arch;
use types::{Board, Recipe};

impl Recipe {
    /// Every package that is asked for by name, in the order of the recipe's tables: the board's boot loader, the
    /// recipe's own list, the engine and the runtime. What they depend on is for `lock` to find.
    pub fn requested_packages(&self) -> Vec<String> {
        let mut names: Vec<String> = self.board_packages().iter().map(ToString::to_string).collect();
        names.extend(self.packages.install.iter().cloned());
        names.extend(self.engine.packages.iter().cloned());
        names.extend(["aziot-identity-service", "aziot-edge"].map(String::from));
        names
    }

    /// The boot loader's packages and what makes an initramfs.
    fn board_packages(&self) -> &'static [&'static str] {
        match (self.target.board, self.target.arch) {
            (Board::Uefi, Arch::X86_64) => {
                &["shim-signed", "grub-efi-amd64-signed", "initramfs-tools", "zstd"]
            }
            (Board::Uefi, Arch::Aarch64) => {
                &["shim-signed", "grub-efi-arm64-signed", "initramfs-tools", "zstd"]
            }
            (Board::RaspberryPi, _) => &["raspi-firmware", "initramfs-tools", "zstd"],
        }
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
