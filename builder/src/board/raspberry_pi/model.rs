//! What differs by model: the firmware that the card must hold, and the names of kernels and device trees that the
//! firmware tries.
//!
//! Sources: Raspberry Pi's documentation of config.txt (conditional filters, boot options) and of revision codes; the
//! device trees of Raspberry Pi's kernel (`arch/arm64/boot/dts/broadcom`) and of the upstream one.

use crate::recipe::types::Model;

/// A board that boots as its model does and has a device tree of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// What a person calls it: `3 B+`.
    pub name: &'static str,
    /// Names of its device tree in Raspberry Pi's kernel packages, in the order tried.
    pub trees: &'static [&'static str],
    /// Its name in upstream kernels, which `upstream_kernel=1` prefers.
    pub upstream: &'static [&'static str],
}

/// What the GPU's firmware does on one model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Filters of config.txt that apply to the model's main variant.
    pub filters: &'static [&'static str],
    /// Type in the revision code of the main variant, for `[board-type=…]`.
    pub board_type: u32,
    /// The loader that the ROM reads off the card; none where an EEPROM holds it.
    pub loader: Option<&'static str>,
    /// What stands between `start` and `.elf`, `fixup` and `.dat`; none where an EEPROM holds the firmware.
    pub firmware: Option<&'static str>,
    /// Kernels looked for when config.txt names none, in this order.
    pub kernels: &'static [&'static str],
    /// Starts a 64-bit kernel when config.txt does not say `arm_64bit`.
    pub wide: bool,
    /// Has a wired network.
    pub ethernet: bool,
    /// What Linux calls the serial port at GPIO 14 and 15 while Bluetooth has the better UART.
    pub serial: &'static str,
    /// The main variant first.
    pub variants: &'static [Variant],
}

/// All models, in the order of their numbers.
pub(crate) const ALL: [Model; 4] = [Model::Pi3, Model::Pi4, Model::Pi5, Model::Zero2];

/// What is so on this model.
pub(crate) fn facts(model: Model) -> &'static Facts {
    match model {
        Model::Pi3 => &PI3,
        Model::Pi4 => &PI4,
        Model::Pi5 => &PI5,
        Model::Zero2 => &ZERO2,
    }
}

const KERNEL8: &[&str] = &["kernel8.img"];

static PI3: Facts = Facts {
    filters: &["pi3"],
    board_type: 0x08,
    loader: Some("bootcode.bin"),
    firmware: Some(""),
    kernels: KERNEL8,
    wide: false,
    ethernet: true,
    serial: "ttyS0",
    variants: &[
        variant("3 B", &["bcm2710-rpi-3-b.dtb"], &["bcm2837-rpi-3-b.dtb"]),
        variant("3 B+", &["bcm2710-rpi-3-b-plus.dtb"], &["bcm2837-rpi-3-b-plus.dtb"]),
    ],
};

static PI4: Facts = Facts {
    filters: &["pi4"],
    board_type: 0x11,
    loader: None,
    firmware: Some("4"),
    kernels: KERNEL8,
    wide: true,
    ethernet: true,
    serial: "ttyS0",
    variants: &[
        variant("4 B", &["bcm2711-rpi-4-b.dtb"], &["bcm2711-rpi-4-b.dtb"]),
        variant("400", &["bcm2711-rpi-400.dtb"], &["bcm2711-rpi-400.dtb"]),
        variant("Compute Module 4", &["bcm2711-rpi-cm4.dtb"], &["bcm2711-rpi-cm4-io.dtb"]),
    ],
};

static PI5: Facts = Facts {
    filters: &["pi5"],
    board_type: 0x17,
    loader: None,
    firmware: None,
    kernels: &["kernel_2712.img", "kernel8.img"],
    wide: true,
    ethernet: true,
    serial: "ttyAMA10",
    variants: &[
        variant("5", &["bcm2712-rpi-5-b.dtb"], &["bcm2712-rpi-5-b.dtb"]),
        variant("500", &["bcm2712-rpi-500.dtb"], &["bcm2712-rpi-500.dtb"]),
        variant(
            "Compute Module 5",
            &["bcm2712-rpi-cm5-cm5io.dtb", "bcm2712-rpi-cm5-cm4io.dtb"],
            &["bcm2712-rpi-cm5-cm5io.dtb"],
        ),
    ],
};

static ZERO2: Facts = Facts {
    // A Zero 2 W sees what is meant for its elders too.
    filters: &["pi02", "pi0w", "pi0"],
    board_type: 0x12,
    loader: Some("bootcode.bin"),
    firmware: Some(""),
    kernels: KERNEL8,
    wide: false,
    ethernet: false,
    serial: "ttyS0",
    variants: &[variant(
        "Zero 2 W",
        &["bcm2710-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2.dtb"],
        &["bcm2837-rpi-zero-2-w.dtb"],
    )],
};

const fn variant(
    name: &'static str,
    trees: &'static [&'static str],
    upstream: &'static [&'static str],
) -> Variant {
    Variant { name, trees, upstream }
}

impl Facts {
    /// Names of a variant's device tree in the order that the firmware tries.
    pub(crate) fn trees(&self, variant: &Variant, upstream: bool) -> Vec<&'static str> {
        let (first, second) =
            if upstream { (variant.upstream, variant.trees) } else { (variant.trees, &[][..]) };
        let mut names = first.to_vec();
        names.extend(second.iter().filter(|name| !first.contains(name)));
        names
    }
}

/// The initramfs that `auto_initramfs=1` loads for a kernel: `kernel8.img` has `initramfs8`. None for a kernel with
/// another kind of name.
pub(crate) fn auto_initramfs(kernel: &str) -> Option<String> {
    let (folder, name) = kernel.rsplit_once('/').map_or(("", kernel), |(folder, name)| (folder, name));
    let rest = name.strip_prefix("kernel")?;
    let stem = rest.rsplit_once('.').map_or(rest, |(stem, _)| stem);
    Some(if folder.is_empty() { format!("initramfs{stem}") } else { format!("{folder}/initramfs{stem}") })
}

#[cfg(test)]
mod tests {
    use super::{ALL, auto_initramfs, facts};
    use crate::recipe::types::Model;

    #[test]
    fn trees_in_the_order_tried() {
        let of = |model, at: usize, upstream| facts(model).trees(&facts(model).variants[at], upstream);
        assert_eq!(of(Model::Pi3, 0, false), ["bcm2710-rpi-3-b.dtb"]);
        assert_eq!(of(Model::Pi3, 1, true), ["bcm2837-rpi-3-b-plus.dtb", "bcm2710-rpi-3-b-plus.dtb"]);
        assert_eq!(of(Model::Pi4, 0, true), ["bcm2711-rpi-4-b.dtb"]);
        assert_eq!(of(Model::Zero2, 0, false), ["bcm2710-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2.dtb"]);
    }

    #[test]
    fn initramfs_by_the_kernels_name() {
        for (kernel, expected) in [
            ("kernel8.img", Some("initramfs8")),
            ("kernel_2712.img", Some("initramfs_2712")),
            ("current/kernel8.img", Some("current/initramfs8")),
            ("kernel", Some("initramfs")),
            ("vmlinuz-6.1.0", None),
        ] {
            assert_eq!(auto_initramfs(kernel).as_deref(), expected);
        }
    }

    #[test]
    fn only_the_zero_has_no_wire() {
        let wireless: Vec<_> = ALL.into_iter().filter(|model| !facts(*model).ethernet).collect();
        assert_eq!(wireless, [Model::Zero2]);
    }
}
