//! What a tree needs around it while its packages' scripts run. All of it lives in the sandbox's own mount
//! namespace and ends with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::error::Problem;

/// Folder in the tree that belongs to the build alone; never part of a layer.
pub const RESERVED: &str = ".edgepress-build";

/// Device nodes that scripts may use; bound from the host because mknod is refused in a user namespace.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const NONE: Option<&str> = None;

/// Layers, bottom first, seen as one tree; what is written goes to `upper`.
///
/// # Errors
/// When the kernel or the file system of the store cannot do it; the hint says what can.
pub fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Result<()> {
    for path in [upper, work] {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    }
    mount_overlay(lowers, &format!("upperdir={},workdir={},", option(upper)?, option(work)?), at)
}

/// Layers, bottom first, seen as one tree that cannot be written.
///
/// # Errors
/// As [`overlay`].
pub fn view(lowers: &[PathBuf], at: &Path) -> Result<()> {
    mount_overlay(lowers, "", at)
}

fn mount_overlay(lowers: &[PathBuf], writable: &str, at: &Path) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("creating {}", at.display()))?;
    let stack = lowers.iter().rev().map(|path| option(path)).collect::<Result<Vec<_>>>()?.join(":");
    // userxattr: overlayfs's own marks as user.overlay.*, the kind that an unprivileged mount may write (Linux 5.11).
    let options = format!("lowerdir={stack},{writable}userxattr");
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str())).map_err(|errno| {
        Problem::work(format!("stacking layers with overlayfs at {}: {}", at.display(), errno.desc()))
            .hint("put the store on ext4, xfs, btrfs or tmpfs (--store DIR), under Linux 5.11 or newer")
            .into()
    })
}

/// Takes an overlay away again.
///
/// # Errors
/// When something in it is still in use.
pub fn detach(at: &Path) -> Result<()> {
    umount(at).with_context(|| format!("unmounting {}", at.display()))
}

/// Overlayfs separates its options with `,` and its folders with `:` and knows no way to quote the first.
fn option(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains([',', ':', '\\']) => Ok(text.to_owned()),
        _ => bail!(Problem::work(format!(
            "the store's path {} holds a comma, colon or backslash",
            path.display()
        ))),
    }
}

/// Mounts /proc, /dev, /run, /tmp and /sys in `root`, and the store's blobs, read-only, in [`RESERVED`].
///
/// # Errors
/// The mount that failed.
pub fn around(root: &Path, blobs: &Path) -> Result<()> {
    for folder in ["proc", "dev", "run", "tmp", "sys"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("creating /{folder} in the tree"))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mounted("proc", &root.join("proc"), quiet | MsFlags::MS_NOEXEC, "")?;
    for (folder, mode) in
        [("dev", "mode=0755"), ("run", "mode=0755"), ("tmp", "mode=1777"), ("sys", "mode=0555")]
    {
        let flags = if folder == "dev" { MsFlags::MS_NOSUID } else { quiet };
        mounted("tmpfs", &root.join(folder), flags, mode)?;
    }
    devices(&root.join("dev"))?;
    let reserved = root.join(RESERVED);
    fs::create_dir_all(reserved.join("debs")).with_context(|| format!("creating {}", reserved.display()))?;
    mounted("tmpfs", &reserved, quiet, "mode=0755")?;
    for folder in ["blobs", "debs"] {
        fs::create_dir(reserved.join(folder)).with_context(|| format!("creating {}", reserved.display()))?;
    }
    bind_read_only(blobs, &reserved.join("blobs"))
}

/// Takes away what [`around`] mounted, and the folders that only mounts needed.
///
/// # Errors
/// When a script left something running in the tree.
pub fn clear(root: &Path) -> Result<()> {
    umount(&root.join(RESERVED).join("blobs")).context("unmounting the blobs")?;
    for folder in [RESERVED, "sys", "tmp", "run"] {
        umount(&root.join(folder)).with_context(|| format!("unmounting /{folder} of the tree"))?;
    }
    let dev = root.join("dev");
    umount(&dev.join("pts")).context("unmounting /dev/pts of the tree")?;
    for name in DEVICES {
        umount(&dev.join(name)).with_context(|| format!("unmounting /dev/{name} of the tree"))?;
    }
    umount(&dev).context("unmounting /dev of the tree")?;
    umount(&root.join("proc")).context("unmounting /proc of the tree")?;
    let reserved = root.join(RESERVED);
    fs::remove_dir_all(&reserved).with_context(|| format!("removing {}", reserved.display()))
}

fn mounted(kind: &str, at: &Path, flags: MsFlags, options: &str) -> Result<()> {
    let options = Some(options).filter(|text| !text.is_empty());
    mount(Some(kind), at, Some(kind), flags, options)
        .with_context(|| format!("mounting {kind} at {}", at.display()))
}

fn devices(dev: &Path) -> Result<()> {
    for name in DEVICES {
        let at = dev.join(name);
        fs::write(&at, b"").with_context(|| format!("creating {}", at.display()))?;
        mount(Some(&Path::new("/dev").join(name)), &at, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("binding /dev/{name}"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name)).with_context(|| format!("linking /dev/{name}"))?;
    }
    for folder in ["pts", "shm"] {
        fs::create_dir(dev.join(folder)).with_context(|| format!("creating /dev/{folder}"))?;
    }
    mounted("devpts", &dev.join("pts"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "newinstance,ptmxmode=0666")
}

/// Shows `from`, a folder or a file, at `at`, and lets nobody write to it there.
///
/// # Errors
/// When the kernel refuses.
pub fn bind_read_only(from: &Path, at: &Path) -> Result<()> {
    mount(Some(from), at, NONE, MsFlags::MS_BIND, NONE)
        .with_context(|| format!("binding {}", from.display()))?;
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
