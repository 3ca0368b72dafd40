//! Files of the root: mounts, what steers the distribution's hooks, the watchdog.

use anyhow::Result;

use super::settings;
use crate::board::file;
use crate::disk::ids::Ids;
use crate::recipe::types::{DistributionId, Initramfs, Recipe};
use crate::tree::entry::{EntryKind, TreeEntry};

/// See [`crate::board::root_files`]; the FAT partition is mounted at `fat_mount`.
///
/// # Errors
/// A [`crate::error::Problem`] when an argument of the kernel's command line cannot be written there.
pub(super) fn root_files(recipe: &Recipe, ids: &Ids, fat_mount: &str) -> Result<Vec<TreeEntry>> {
    let mut entries = vec![
        file("/etc/fstab", 0o644, fstab(ids, fat_mount)),
        file("/etc/systemd/system.conf.d/edgepress-watchdog.conf", 0o644, WATCHDOG),
        // The FAT partition is mounted here; what packages put into the folder while the image was built is gone.
        TreeEntry::own(fat_mount, 0o755, EntryKind::Directory),
    ];
    match recipe.distribution.id {
        DistributionId::Debian => entries.extend(debian(recipe, ids)?),
        DistributionId::RaspberryPiOs => entries.extend(raspberry_pi_os(recipe)),
        DistributionId::Ubuntu => {}
    }
    if recipe.target.initramfs == Initramfs::None {
        entries.push(file("/etc/initramfs-tools/update-initramfs.conf", 0o644, NO_INITRAMFS));
    }
    Ok(entries)
}

/// Both by partition: a card that is copied block by block keeps these, and the firmware knows no others.
fn fstab(ids: &Ids, mount: &str) -> String {
    format!(
        "\
# device\tmount point\ttype\toptions\tdump\tcheck
PARTUUID={root}\t/\text4\tnoatime,errors=remount-ro\t0\t1
PARTUUID={fat}\t{mount}\tvfat\tumask=0077,nosuid,nodev,noexec,noatime,flush,nofail\t0\t2
",
        root = ids.mbr_partition(settings::ROOT_PARTITION),
        fat = ids.mbr_partition(1),
    )
}

/// The timer of these chips counts to 15 s, and the kernel refuses more. Not for the way down too: the last writes to a
/// slow card may take longer, and would be cut off.
const WATCHDOG: &str = "\
# Written by edgepress: the hardware restarts a device that hangs.
[Manager]
RuntimeWatchdogSec=15s
";

const NO_INITRAMFS: &str = "\
# Written by edgepress: this device starts without an initramfs.
update_initramfs=no
backup_initramfs=no
";

fn debian(recipe: &Recipe, ids: &Ids) -> Result<Vec<TreeEntry>> {
    let consoles = settings::consoles(recipe).join(" ");
    let root = settings::root(ids);
    let defaults = format!(
        "\
# Written by edgepress: what /etc/kernel/postinst.d/z50-raspi-firmware makes config.txt and cmdline.txt from, at each
# update of the kernel or the firmware. `update-initramfs -u` runs it too.
ROOTPART=\"{root}\"
CONSOLES=\"{consoles}\"
# Nothing here needs one large piece of memory, and on model 4 its size must not be set.
CMA=0
"
    );
    let mut entries = vec![
        file("/etc/default/raspi-firmware", 0o644, defaults),
        file("/etc/default/raspi-extra-cmdline", 0o644, settings::extra(recipe)? + "\n"),
    ];
    let custom = settings::debian_custom(recipe);
    if !custom.is_empty() {
        entries.push(file("/etc/default/raspi-firmware-custom", 0o644, custom));
    }
    if !recipe.target.raspberry_pi.bluetooth {
        entries.push(file(
            "/etc/modprobe.d/edgepress-bluetooth.conf",
            0o644,
            "# Written by edgepress: no Bluetooth.\nblacklist hci_uart\nblacklist btbcm\n",
        ));
    }
    Ok(entries)
}

fn raspberry_pi_os(recipe: &Recipe) -> Vec<TreeEntry> {
    // It would make a swap file on the card; masked whether or not some package brings it.
    let mut entries = vec![TreeEntry::own(
        "/etc/systemd/system/dphys-swapfile.service",
        0o777,
        EntryKind::Symlink("/dev/null".into()),
    )];
    if recipe.target.initramfs == Initramfs::None {
        let defaults =
            "# Written by edgepress: config.txt names no initramfs, so none need be copied.\nINITRAMFS=no\n";
        entries.push(file("/etc/default/raspi-firmware", 0o644, defaults));
    }
    entries
}
