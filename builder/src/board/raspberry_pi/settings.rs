//! config.txt and cmdline.txt.

use anyhow::Result;

use crate::board::own_arguments;
use crate::disk::ids::Ids;
use crate::recipe::types::{DistributionId, Initramfs, Model, Recipe};

/// The number of the root's partition in the table.
pub(super) const ROOT_PARTITION: u8 = 2;

/// As raspi-firmware's hook on Debian writes it, word for word: the hook runs at every kernel update on the device,
/// and shall change nothing there but versions.
pub(super) fn debian_config(recipe: &Recipe, version: &str) -> String {
    let custom = debian_custom(recipe);
    let inserted = match custom.trim_end_matches('\n') {
        "" => String::new(),
        custom => format!("\n# Inserted by /etc/default/raspi-firmware-custom\n{custom}\n"),
    };
    format!(
        "\
# Do not modify this file!
#
# It is automatically generated upon install or update of either the
# firmware or the Linux kernel.
#
# If you need to set boot-time parameters, do so via the
# /etc/default/raspi-firmware, /etc/default/raspi-firmware-custom or
# /etc/default/raspi-extra-cmdline files.

# Switch the CPU from ARMv7 into ARMv8 (aarch64) mode
arm_64bit=1

enable_uart=1
upstream_kernel=1

kernel=vmlinuz-{version}
# For details on the initramfs directive, see
# https://www.raspberrypi.org/forums/viewtopic.php?f=63&t=10532
initramfs initrd.img-{version}
{inserted}"
    )
}

/// `/etc/default/raspi-firmware-custom`: what the recipe adds to Debian's config.txt.
pub(super) fn debian_custom(recipe: &Recipe) -> String {
    let pi = &recipe.target.raspberry_pi;
    // The hook turns it on whatever anybody says; the later line counts.
    let uart = (!pi.serial).then(|| "enable_uart=0".to_owned());
    lines(uart.into_iter().chain(common(recipe)))
}

/// Of Raspberry Pi OS, whose hooks never touch it.
pub(super) fn raspberry_pi_os_config(recipe: &Recipe) -> String {
    let initramfs = (recipe.target.initramfs != Initramfs::None).then(|| "auto_initramfs=1".to_owned());
    own_config(recipe, initramfs)
}

/// Of Ubuntu, where flash-kernel keeps the files that it names.
pub(super) fn ubuntu_config(recipe: &Recipe) -> String {
    let kernel = ["kernel=vmlinuz", "cmdline=cmdline.txt"].map(str::to_owned);
    let initramfs =
        (recipe.target.initramfs != Initramfs::None).then(|| "initramfs initrd.img followkernel".to_owned());
    own_config(recipe, kernel.into_iter().chain(initramfs))
}

fn own_config(recipe: &Recipe, first: impl IntoIterator<Item = String>) -> String {
    let pi = &recipe.target.raspberry_pi;
    let mut all = vec![
        "# Written by edgepress. Updates replace the files beside this one, never this one.".to_owned(),
        "arm_64bit=1".to_owned(),
    ];
    all.extend(first);
    all.extend(pi.serial.then(|| "enable_uart=1".to_owned()));
    // systemd feeds it; without this line the kernel does not see it.
    all.push("dtparam=watchdog=on".to_owned());
    if pi.serial && pi.models.contains(&Model::Pi5) {
        // Else the console of model 5 is on a connector of its own.
        all.extend(["[pi5]", "dtparam=uart0_console", "[all]"].map(str::to_owned));
    }
    all.extend(common(recipe));
    lines(all)
}

/// The typed settings. Parameters come before overlays: behind one they would be taken for that overlay's.
fn common(recipe: &Recipe) -> Vec<String> {
    let pi = &recipe.target.raspberry_pi;
    let mut all = Vec::new();
    if let Some(size) = pi.gpu_memory {
        let old = |model: &Model| matches!(model, Model::Pi3 | Model::Zero2);
        let setting = format!("gpu_mem={size}");
        if pi.models.iter().all(old) {
            all.push(setting);
        } else {
            for (model, filter) in [(Model::Pi3, "[pi3]"), (Model::Zero2, "[pi02]")] {
                if pi.models.contains(&model) {
                    all.extend([filter.to_owned(), setting.clone()]);
                }
            }
            all.push("[all]".to_owned());
        }
    }
    all.extend(pi.parameters.iter().map(|parameter| format!("dtparam={parameter}")));
    // Debian's kernel has no overlays; there a line in modprobe.d does it.
    if !pi.bluetooth && recipe.distribution.id != DistributionId::Debian {
        all.push("dtoverlay=disable-bt".to_owned());
    }
    all.extend(pi.overlays.iter().map(|overlay| format!("dtoverlay={overlay}")));
    all.extend(pi.config.iter().cloned());
    all
}

fn lines(all: impl IntoIterator<Item = String>) -> String {
    all.into_iter().map(|line| line + "\n").collect()
}

/// The consoles by name; the last is /dev/console, where first boot speaks. The GPU's firmware knows what `serial0` is
/// on each model, but only in the device trees of Raspberry Pi's own kernels.
pub(super) fn consoles(recipe: &Recipe) -> Vec<&'static str> {
    let (screen, serial) = match recipe.distribution.id {
        DistributionId::Debian => ("tty0", "ttyS1,115200"),
        DistributionId::RaspberryPiOs | DistributionId::Ubuntu => ("tty1", "serial0,115200"),
    };
    if recipe.target.raspberry_pi.serial { vec![screen, serial] } else { vec![screen] }
}

/// The root as the kernel names it.
pub(super) fn root(ids: &Ids) -> String {
    format!("PARTUUID={}", ids.mbr_partition(ROOT_PARTITION))
}

/// What edgepress and the recipe add to the arguments that Debian's hook writes (`/etc/default/raspi-extra-cmdline`).
/// `panic`: restarts after a panic, and keeps the initramfs from offering a root shell when the root does not appear.
///
/// # Errors
/// A [`crate::error::Problem`] for an argument that cannot stand there.
pub(super) fn extra(recipe: &Recipe) -> Result<String> {
    let mut all = vec!["rootfstype=ext4", "panic=30"];
    if recipe.distribution.id != DistributionId::Debian {
        // Raspberry Pi's kernels leave it off, and docker then limits no container's memory.
        all.push("cgroup_enable=memory");
    }
    all.extend(own_arguments(recipe)?);
    Ok(all.join(" "))
}

/// cmdline.txt. `net.ifnames=0` everywhere, as Debian's hook insists: the units of Wi-Fi name `wlan0`.
///
/// # Errors
/// See [`extra`].
pub(super) fn command_line(recipe: &Recipe, ids: &Ids) -> Result<String> {
    let (root, extra) = (root(ids), extra(recipe)?);
    let consoles: String = consoles(recipe).iter().map(|console| format!(" console={console}")).collect();
    Ok(match recipe.distribution.id {
        // The hook's blanks are not ours.
        DistributionId::Debian => {
            format!("{consoles} root={root} rw fsck.repair=yes net.ifnames=0  rootwait {extra}\n")
        }
        // Read-only at first: where there is no initramfs, systemd checks the root before it writes to it.
        DistributionId::RaspberryPiOs | DistributionId::Ubuntu => format!(
            "{} root={root} ro fsck.repair=yes net.ifnames=0 rootwait {extra}\n",
            consoles.trim_start()
        ),
    })
}
