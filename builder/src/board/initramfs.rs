//! What is in the initramfs: only what can hold a root file system on the boards, instead of everything there is.

use crate::recipe::types::{Board, Initramfs, Model, Recipe};
use crate::tree::entry::Entry;

use super::file;

/// What a root can be on, by what has it. A kernel lacks some of them, or has them built in: that is no error.
const UEFI: &[(&str, &str)] = &[
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

/// Checked against Debian 12's arm64 kernel: clocks, power, pins, PCIe and the card's block layer are built in there, and
/// Raspberry Pi's own kernels have nearly all of this built in. Every module is read from a slow card at each boot.
const RASPBERRY_PI: &[(&str, &str)] = &[
    ("root file system", "ext4"),
    // The regulators: the controller of model 4 waits for the one that switches its card's voltage.
    ("cards of models 3 and Zero 2, and of model 4", "bcm2835 sdhci_iproc gpio_regulator fixed"),
    ("USB of models 3 and Zero 2", "dwc2 phy_generic"),
    // The reset driver has the firmware load the controller's own.
    ("USB of model 4, behind PCIe", "xhci_pci reset_raspberrypi"),
    ("disks on USB", "usb_storage uas sd_mod"),
];

/// Only where the recipe names model 5, which Debian 12's kernel does not boot.
const RASPBERRY_PI_5: &[(&str, &str)] =
    &[("cards of model 5", "sdhci_brcmstb"), ("USB of model 5", "xhci_plat_hcd dwc3"), ("NVMe", "nvme")];

/// The files that steer initramfs-tools. They must be in the tree when the initramfs is made, and stay there: the device
/// makes its own at each kernel update.
pub fn files(recipe: &Recipe) -> Vec<Entry> {
    let model_5 = recipe.target.raspberry_pi.models.contains(&Model::Pi5);
    let board: &[&[(&str, &str)]] = match (recipe.target.initramfs, recipe.target.board) {
        (Initramfs::Board, Board::Uefi) => &[UEFI],
        (Initramfs::Board, Board::RaspberryPi) if model_5 => &[RASPBERRY_PI, RASPBERRY_PI_5],
        (Initramfs::Board, Board::RaspberryPi) => &[RASPBERRY_PI],
        (Initramfs::Most | Initramfs::None, _) => &[],
    };
    let own = recipe.target.modules.join(" ");
    let lines: String = board
        .concat()
        .into_iter()
        .chain((!own.is_empty()).then_some(("this recipe", own.as_str())))
        .map(|(what, modules)| format!("# {what}\nmanual_add_modules {modules}\n"))
        .collect();
    let modules = match recipe.target.initramfs {
        Initramfs::Board | Initramfs::None => "list",
        Initramfs::Most => "most",
    };
    vec![
        file("/etc/initramfs-tools/conf.d/edgepress", 0o644, settings(modules)),
        file("/etc/initramfs-tools/hooks/edgepress", 0o755, hook(&lines)),
    ]
}

/// Files in conf.d are read after initramfs.conf and win over it (mkinitramfs(8)).
fn settings(modules: &str) -> String {
    format!(
        "\
# Written by edgepress; wins over ../initramfs.conf. `most` holds drivers for every disk there is.
MODULES={modules}
COMPRESS=zstd
# The tools to check the root with; `auto` would look at the disks of the machine that builds.
FSTYPE=ext4
# No swap, so nothing to wake from, and no waiting for it.
RESUME=none
"
    )
}

/// A hook rather than /etc/initramfs-tools/modules: what stands there is loaded at every boot on every machine, what a
/// hook adds is loaded by udev where the hardware is there.
fn hook(lines: &str) -> String {
    format!(
        "\
#!/bin/sh
# Written by edgepress: drivers that a root file system may need.
case \"${{1:-}}\" in prereqs) exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions

{lines}"
    )
}

#[cfg(test)]
mod tests {
    use super::files;
    use crate::board::uefi::tests::recipe;
    use crate::host;
    use crate::recipe::types::{Board, Initramfs, Model};
    use crate::tree::entry::Kind;
    use std::process::Command;

    fn texts(change: impl FnOnce(&mut crate::recipe::types::Recipe)) -> [String; 2] {
        let mut recipe = recipe();
        change(&mut recipe);
        let text = |kind| match kind {
            Kind::File(content) => String::from_utf8(content).expect("text"),
            other => panic!("{other:?}"),
        };
        let mut entries = files(&recipe).into_iter().map(|entry| text(entry.kind));
        [entries.next().expect("settings"), entries.next().expect("hook")]
    }

    #[test]
    fn the_board_decides_unless_the_recipe_does() {
        let [settings, hook] = texts(|_| ());
        assert!(settings.contains("\nMODULES=list\n"), "{settings}");
        for module in ["virtio_blk", "hv_storvsc", "nvme", "mmc_block", "uas", "ext4"] {
            assert!(hook.contains(&format!(" {module}")), "{module}");
        }
        let [settings, hook] = texts(|recipe| {
            recipe.target.initramfs = Initramfs::Most;
            recipe.target.modules = vec!["megaraid_sas".into(), "mpt3sas".into()];
        });
        assert!(settings.contains("\nMODULES=most\n"), "{settings}");
        assert!(hook.ends_with("\n\n# this recipe\nmanual_add_modules megaraid_sas mpt3sas\n"), "{hook}");
    }

    #[test]
    fn a_card_needs_few_drivers() {
        let [_, hook] = texts(|recipe| recipe.target.board = Board::RaspberryPi);
        for module in ["ext4", "bcm2835", "sdhci_iproc", "gpio_regulator", "usb_storage"] {
            assert!(hook.contains(&format!(" {module}")), "{module}");
        }
        assert!(!hook.contains("virtio") && !hook.contains("ahci") && !hook.contains("nvme"), "{hook}");
        let [_, hook] = texts(|recipe| {
            recipe.target.board = Board::RaspberryPi;
            recipe.target.raspberry_pi.models = vec![Model::Pi4, Model::Pi5];
        });
        assert!(hook.contains(" nvme") && hook.contains(" sdhci_brcmstb"), "{hook}");
    }

    #[test]
    fn the_hook_is_shell() {
        let [settings, hook] = texts(|recipe| recipe.target.modules = vec!["megaraid_sas".into()]);
        for text in [settings, hook] {
            host::run_with_input(Command::new("sh").arg("-n"), text.as_bytes()).expect("syntax");
        }
    }
}
