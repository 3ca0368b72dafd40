//! The disk image: partition table, FAT partition, ext4 root, and changes to finished images.
//!
//! ```text
//! 0      protective MBR, GPT
//! 1 MiB  FAT32   boot loader; `edgepress/` holds a device's identity
//!   …    ext4    the root tree
//! end    backup GPT
//! ```

pub mod fat;
mod fat_check;
pub mod gpt;
pub mod ids;
pub mod overlay;
pub mod patch;
pub mod sparse;
