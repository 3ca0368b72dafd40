//! Mounts that show what is elsewhere.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

const NONE: Option<&str> = None;

/// Shows `from`, a folder or a file, at `at`, with what is mounted below it.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn bind(from: &Path, at: &Path) -> Result<()> {
    // Not without MS_REC: a user namespace may not look under mounts that it was given.
    mount(Some(from), at, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .with_context(|| format!("binding {}", from.display()))
}

/// As [`bind`], and lets nobody write to it there. What is mounted below keeps its own mode.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn bind_read_only(from: &Path, at: &Path) -> Result<()> {
    bind(from, at)?;
    make_read_only(at)
}

/// Lets nobody write to the mount at `at`.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make_read_only(at: &Path) -> Result<()> {
    // Flags that the host has set on the mount are locked in a user namespace: a remount must repeat them.
    let now = statvfs(at).with_context(|| format!("asking for the mount flags of {}", at.display()))?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (has, set) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if now.contains(has) {
            flags |= set;
        }
    }
    mount(NONE, at, NONE, flags, NONE).with_context(|| format!("making {} read-only", at.display()))
}
