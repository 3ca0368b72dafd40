//! The initramfs, made once, when every package and every file that steers it is in place.

use std::path::Path;

use anyhow::Result;

use super::files;
use super::layer::kernels;
use crate::chroot::Chroot;
use crate::error::Problem;
use crate::tree::entry::TreeEntry;

/// Folders of the image whose files decide what is in an initramfs (initramfs-tools(7)). Overlay files in these are
/// part of its key; all others can change without making it again.
pub(crate) const STEERED_BY: [&str; 3] =
    ["/etc/initramfs-tools/", "/etc/modprobe.d/", "/usr/share/initramfs-tools/"];

/// Makes an initramfs for each kernel, and the links that the boot loader follows; where none is `wanted`, it only lays
/// the files.
///
/// # Errors
/// When there is no kernel, or initramfs-tools fails.
pub(crate) fn make(chroot: &Chroot<'_>, files: &[TreeEntry], blobs: &Path, wanted: bool) -> Result<()> {
    files::write_entries(chroot.root, files, blobs)?;
    let kernels = kernels(chroot.root)?;
    if kernels.is_empty() {
        return Err(Problem::input("the recipe installs no kernel")
            .hint("add one to packages.install, for example linux-image-amd64")
            .into());
    }
    if !wanted {
        return Ok(());
    }
    for version in &kernels {
        chroot.run(&chroot.program("update-initramfs").args(["-c", "-k", version]), |_| {})?;
        // The kernel's own postinst ran before there was an initramfs, so it linked none.
        let image = format!("/boot/vmlinuz-{version}");
        chroot.run(&chroot.program("linux-update-symlinks").args(["install", version, &image]), |_| {})?;
    }
    Ok(())
}
