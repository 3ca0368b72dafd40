//! How a machine boots: what a board puts on the FAT partition, into /etc/fstab, into the boot loader's configuration and
//! into the initramfs.
//!
//! ```text
//! firmware ─► FAT: EFI/BOOT/BOOTX64.EFI (shim) ─► grubx64.efi ─► EFI/<vendor>/grub.cfg (finds the root by UUID)
//!                                                                        └─► root: /boot/grub/grub.cfg ─► kernel
//! ```

pub mod initramfs;
pub mod uefi;

use crate::overlay::{Entry, Kind};

fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Entry {
    Entry { path: path.into(), mode, kind: Kind::File(content.into()) }
}
