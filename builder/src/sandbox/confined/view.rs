//! What a program of the tree sees: the tree as `/`, a `/proc` of its own namespace, and nothing else of the host's.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::sandbox::bind::{bind, bind_read_only};

const NONE: Option<&str> = None;
const PROC: &str = "/proc";

/// Parts of `/proc` that speak of the whole machine and can be written; root in a user namespace whose root is the
/// host's own passes the permission check of some of them.
const READ_ONLY: [&str; 6] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi"];
/// Parts that tell what is none of a package's business (the list of container engines).
const HIDDEN: [&str; 9] = [
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "kpagecount",
];

/// Makes `root` the root of this mount namespace, with the old one unmounted. `null` is the host's `/dev/null`.
///
/// # Errors
/// The mount that the kernel refused.
pub(super) fn enter(root: &Path, null: &File) -> Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("parting from the host's mounts")?;
    // pivot_root(2) wants a mount point.
    bind(root, root)?;
    chdir(root).with_context(|| format!("entering {}", root.display()))?;
    // The old root lies over the new one now; names are looked up in the new one.
    pivot_root(".", ".").context("making the tree the root")?;
    match fs::create_dir(PROC) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).context("creating /proc");
        }
        _ => {}
    }
    // Before the old root goes: the kernel gives a /proc only where one is to be seen already.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), PROC, Some("proc"), flags, NONE)
        .context("mounting /proc for a program of the tree")?;
    let null = format!("/proc/self/fd/{}", null.as_raw_fd());
    for name in HIDDEN {
        let at = Path::new(PROC).join(name);
        if at.exists() {
            bind(Path::new(&null), &at)?;
        }
    }
    umount2(".", MntFlags::MNT_DETACH).context("leaving the host's root")?;
    chdir("/").context("entering the tree")
}

/// Closes what of `/proc` can be written; this process needs some of it before.
///
/// # Errors
/// The mount that the kernel refused.
pub(super) fn lock() -> Result<()> {
    for name in READ_ONLY {
        let at = Path::new(PROC).join(name);
        if at.exists() {
            bind_read_only(&at, &at)?;
        }
    }
    Ok(())
}
