//! The initramfs, made once, when every package and every file that steers it is in place.

use std::path::Path;

use anyhow::Result;

use super::layer::kernels;
use super::{chroot, files};
use crate::error::Problem;
use crate::overlay::Entry;
use crate::tree::Root;

/// Folders of the image whose files decide what is in an initramfs (initramfs-tools(7)). Overlay files in these are
/// part of its key; all others can change without making it again.
pub const STEERED_BY: [&str; 3] =
    ["/etc/initramfs-tools/", "/etc/modprobe.d/", "/usr/share/initramfs-tools/"];

/// Makes an initramfs for each kernel, and the links that the boot loader follows; where none is `wanted`, it only lays
/// the files.
///
/// # Errors
/// When there is no kernel, or initramfs-tools fails.
pub fn make(root: &Path, files: &[Entry], blobs: &Path, wanted: bool, epoch: u64) -> Result<()> {
    let tree = Root::open(root)?;
    files::write_entries(&tree, files, blobs)?;
    let kernels = kernels(&tree)?;
    if kernels.is_empty() {
        return Err(Problem::input("the recipe installs no kernel")
            .hint("add one to packages.install, for example linux-image-amd64")
            .into());
    }
    if !wanted {
        return Ok(());
    }
    for version in &kernels {
        let mut update = chroot::command(root, epoch, "update-initramfs")?;
        chroot::run(update.args(["-c", "-k", version]), |_| {})?;
        // The kernel's own postinst ran before there was an initramfs, so it linked none.
        let mut links = chroot::command(root, epoch, "linux-update-symlinks")?;
        links.args(["install", version, &format!("/boot/vmlinuz-{version}")]);
        chroot::run(&mut links, |_| {})?;
    }
    Ok(())
}
