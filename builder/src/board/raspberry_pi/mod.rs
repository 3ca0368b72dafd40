//! The Raspberry Pi: its GPU reads config.txt off a FAT partition and starts what that names.
//!
//! ```text
//! FAT partition, /boot/firmware on the device
//!   bootcode.bin, start*.elf, fixup*.dat   firmware of the GPU   (models 3 and Zero 2; start4*, fixup4* for model 4;
//!                                                                 model 5 has it in its EEPROM)
//!   config.txt                             names what follows
//!   cmdline.txt                            the kernel's arguments
//!                Debian            Raspberry Pi OS                Ubuntu
//!   kernel       vmlinuz-<v>       kernel8.img, kernel_2712.img   vmlinuz
//!   initramfs    initrd.img-<v>    initramfs8, initramfs_2712     initrd.img
//!   trees        bcm2837-*.dtb     bcm2710-*.dtb, overlays/       bcm2710-*.dtb, overlays/
//! ```
//! The names are those that each distribution's own hooks use: a kernel update on the device replaces these very files.
//! On Debian the hook (of the package raspi-firmware) also writes config.txt and cmdline.txt anew each time, from
//! /etc/default/raspi-firmware and its neighbours; so the image has what that hook makes of the files that it has.

pub mod chain;
pub mod config_txt;
mod files;
pub mod model;
mod root;
mod settings;

pub use files::{boot_files, spare};
pub use root::root_files;
