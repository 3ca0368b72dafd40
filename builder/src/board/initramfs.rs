//! What is in the initramfs: only what can hold a root file system on the boards, instead of everything there is.

use crate::recipe::types::{Initramfs, Recipe};
use crate::tree::entry::TreeEntry;

use super::file;

/// Drivers of the kernel, by what has them: a name for people, and modules. A kernel lacks some of them, or has them built
/// in: that is no error.
pub(crate) type Drivers = (&'static str, &'static str);

/// The files that steer initramfs-tools. They must be in the tree when the initramfs is made, and stay there: the device
/// makes its own at each kernel update.
pub(crate) fn files(recipe: &Recipe) -> Vec<TreeEntry> {
    let board = match recipe.target.initramfs {
        Initramfs::Board => super::of(recipe.target.board).drivers(recipe),
        Initramfs::Most | Initramfs::None => Vec::new(),
    };
    let own = recipe.target.modules.join(" ");
    let lines: String = board
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
    use crate::tree::entry::EntryKind;
    use std::process::Command;

    fn texts(change: impl FnOnce(&mut crate::recipe::types::Recipe)) -> [String; 2] {
        let mut recipe = recipe();
        change(&mut recipe);
        let text = |kind| match kind {
            EntryKind::File(content) => String::from_utf8(content).expect("text"),
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
