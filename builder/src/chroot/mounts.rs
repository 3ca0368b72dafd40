//! What a tree needs around it while its packages' scripts run. All of it lives in the sandbox's own mount
//! namespace and ends with it.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};

use crate::error::Problem;
use crate::sandbox::bind::{bind, make_read_only};
use crate::tree::Root;

/// Folder in the tree that belongs to the build alone; never part of a layer.
pub(crate) const RESERVED: &str = ".edgepress-build";

/// Device nodes that scripts may use; bound from the host because mknod is refused in a user namespace.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Layers, bottom first, seen as one tree; what is written goes to `upper`.
///
/// # Errors
/// When the kernel or the file system of the store cannot do it; the hint says what can.
pub(crate) fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Result<()> {
    for path in [upper, work] {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    }
    mount_overlay(lowers, &format!("upperdir={},workdir={},", option(upper)?, option(work)?), at)
}

/// Layers, bottom first, seen as one tree that cannot be written.
///
/// # Errors
/// As [`overlay`].
pub(crate) fn view(lowers: &[PathBuf], at: &Path) -> Result<()> {
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
pub(crate) fn detach(at: &Path) -> Result<()> {
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

/// Mounts /dev, /run, /tmp and /sys in the tree, and the store's blobs, read-only, in [`RESERVED`]. `/proc` is each
/// program's own, see [`crate::sandbox::confined`].
///
/// # Errors
/// The mount that failed.
pub(crate) fn around(root: &Root, blobs: &Path) -> Result<()> {
    for folder in ["/proc", "/dev", "/run", "/tmp", "/sys"] {
        root.make_folders(folder)?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // All of these are memory.
    mounted(root, "/dev", "tmpfs", MsFlags::MS_NOSUID, "mode=0755,size=1m")?;
    mounted(root, "/run", "tmpfs", quiet, "mode=0755,size=256m")?;
    mounted(root, "/tmp", "tmpfs", quiet, "mode=1777,size=2g")?;
    mounted(root, "/sys", "tmpfs", quiet, "mode=0555,size=1m")?;
    devices(root)?;
    let reserved = Path::new("/").join(RESERVED);
    root.make_folders(&reserved)?;
    mounted(root, &reserved, "tmpfs", quiet, "mode=0755,size=16m")?;
    for folder in ["blobs", "debs"] {
        root.make_folders(reserved.join(folder))?;
    }
    show(root, blobs, reserved.join("blobs"))
}

/// Shows `from`, a file or folder of the host, at `at` of the tree, where something of its kind is; nobody can write to it.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn show(root: &Root, from: &Path, at: impl AsRef<Path>) -> Result<()> {
    bind(from, &Place::of(root, &at)?.path())?;
    // A handle from before names what is under the mount.
    make_read_only(&Place::of(root, &at)?.path())
}

/// Takes away what [`show`] or a mount put at `at` of the tree.
///
/// # Errors
/// When nothing is mounted there.
pub(crate) fn hide(root: &Root, at: impl AsRef<Path>) -> Result<()> {
    let at = at.as_ref();
    let place = Place::of(root, at)?;
    // The handle itself keeps the mount busy.
    umount2(&place.path(), MntFlags::MNT_DETACH)
        .with_context(|| format!("unmounting {} of the tree", at.display()))
}

/// Takes away what [`around`] mounted, and the folders that only mounts needed.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn clear(root: &Root) -> Result<()> {
    let reserved = Path::new("/").join(RESERVED);
    hide(root, reserved.join("blobs"))?;
    hide(root, &reserved)?;
    for name in DEVICES {
        hide(root, Path::new("/dev").join(name))?;
    }
    for folder in ["/dev/shm", "/dev/pts", "/dev", "/sys", "/tmp", "/run"] {
        hide(root, folder)?;
    }
    root.remove(&reserved).map(drop)
}

/// A place in the tree as a path for mount(2): by its handle, so that no link of the tree is followed outside.
struct Place(OwnedFd);

impl Place {
    fn of(root: &Root, path: impl AsRef<Path>) -> Result<Self> {
        root.handle(path).map(Self)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

fn mounted(root: &Root, at: impl AsRef<Path>, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    let at = at.as_ref();
    let place = Place::of(root, at)?;
    mount(Some(kind), &place.path(), Some(kind), flags, Some(options))
        .with_context(|| format!("mounting {kind} at {} of the tree", at.display()))
}

fn devices(root: &Root) -> Result<()> {
    let dev = Path::new("/dev");
    for name in DEVICES {
        let at = dev.join(name);
        root.write(&at, 0o644, b"")?;
        let place = Place::of(root, &at)?;
        bind(&dev.join(name), &place.path())?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        root.symlink(target, dev.join(name))?;
    }
    for folder in ["pts", "shm"] {
        root.make_folders(dev.join(folder))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mounted(root, "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666")?;
    mounted(root, "/dev/shm", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777,size=256m")
}
