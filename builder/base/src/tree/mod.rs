//! A root tree of an image, held by a handle on its folder: whatever is read, written or removed below it is resolved
//! *inside* it, as the device will resolve it.
//!
//! ```text
//! host:  /store/…/merged/                    Root::open, once; the path is not kept
//!          var/lib/cloud ─► /data/cloud      a link that an overlay or a package brought
//!
//! root.remove("var/lib/cloud/x")   removes  merged/data/cloud/x, never the host's /data/cloud/x
//! ```
//!
//! A path of an image is not a path of this machine: joined to a folder's path and handed to the kernel, its links
//! would be followed from the *host's* root. So there is no way from a [`Root`] to a path of the host, and every method
//! takes paths of the image (`/etc/passwd` and `etc/passwd` are the same). Folders on the way are opened by `openat2`
//! with `RESOLVE_IN_ROOT`, where `/` and `..` of a link end at the root; the last name is then worked on by the `*at`
//! calls, relative to its folder's handle, without following. Between the two nothing can be exchanged, not even by a
//! program that a package left running.
//!
//! *follows*: where the last name is a link, what it stands for in the tree is meant. Methods that do say so; all others
//! mean the link itself.

mod change;
mod content;
pub mod entry;
mod look;
mod remove;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

pub use look::{DirEntry, FileKind, Meta};

use crate::error::Problem;

/// As many links as Linux itself follows (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// The kernel asks for another try when something in the tree was renamed meanwhile (openat2(2), EAGAIN).
const TRIES: usize = 64;

/// A handle on the folder of a root tree; see the module.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
}

impl Root {
    /// The tree in `folder`, a path of this machine.
    ///
    /// # Errors
    /// When there is no such folder, or this kernel cannot resolve inside one (Linux 5.6).
    pub fn open(folder: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let handle = open(folder, flags, Mode::empty())
            .with_context(|| format!("opening the root tree {}", folder.display()))?;
        let root = Self { folder: handle };
        match root.at(Path::new(""), flags) {
            Ok(_) => Ok(root),
            Err(Errno::ENOSYS | Errno::EPERM) => Err(Problem::work(
                "this kernel, or the container that this runs in, does not know the system call openat2",
            )
            .hint("use Linux 5.6 or newer, and a container engine whose seccomp profile allows openat2")
            .into()),
            Err(error) => Err(error).with_context(|| format!("opening the root tree {}", folder.display())),
        }
    }

    /// The tree in the folder `path`, followed: its links end at that folder.
    ///
    /// # Errors
    /// When there is no folder of this path.
    pub fn subtree(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = self.at(path, OFlag::O_PATH | OFlag::O_DIRECTORY);
        Ok(Self { folder: folder.with_context(|| format!("opening the folder {}", shown(path)))? })
    }

    /// A handle on `path`, followed, that names the place only (`O_PATH`): for mount(2) and for running a program with
    /// this as its root, which both need more than a path that a link may bend.
    ///
    /// # Errors
    /// When there is nothing of this path.
    pub fn handle(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.at(path, OFlag::O_PATH).with_context(|| format!("opening {}", shown(path)))
    }

    /// `path` with every link on the way, and in the last name, followed inside the tree, as far as it exists; starts with
    /// `/`. Two paths of one file have the same.
    ///
    /// # Errors
    /// When links go in circles.
    pub fn canonical(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let mut at = PathBuf::from("/");
        let mut rest: Vec<PathBuf> = steps(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name.as_os_str() == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            let Some(target) = self.read_link(&at)? else { continue };
            links += 1;
            ensure!(links <= MOST_LINKS, "the links on the way to {} go in circles", shown(path));
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(steps(&target));
        }
        Ok(at)
    }

    /// Opens `path` resolved in the tree; with [`OFlag::O_NOFOLLOW`], a link as the last name is not followed.
    fn at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        resolved(self.folder.as_fd(), path, flags, resolve)
    }

    /// The folder of `path`, and its name in it; nothing where there is no such folder.
    fn parent<'p>(&self, path: &'p Path) -> Result<Option<(OwnedFd, &'p OsStr)>> {
        let (folder, name) = split(path)?;
        let folder = found(self.at(folder, OFlag::O_PATH | OFlag::O_DIRECTORY));
        Ok(folder.with_context(|| format!("opening the folder of {}", shown(path)))?.map(|fd| (fd, name)))
    }

    /// As [`Self::parent`], of something that must be there.
    fn folder_of<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
        let found = self.parent(path)?;
        found.with_context(|| format!("opening the folder of {}: there is none", shown(path)))
    }
}

fn resolved(
    from: impl std::os::fd::AsFd,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 1..TRIES {
        match openat2(&from, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    openat2(&from, path, how)
}

/// Nothing where something on the way, or the last name, is not there.
fn found<T>(result: nix::Result<T>) -> nix::Result<Option<T>> {
    match result {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        other => other.map(Some),
    }
}

/// A path as it stands in messages: of the image.
fn shown(path: &Path) -> String {
    Path::new("/").join(path).display().to_string()
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok((folder, name)),
        _ => bail!("{} names no file of the root tree", shown(path)),
    }
}

/// The steps of a path, last first.
fn steps(path: &Path) -> Vec<PathBuf> {
    let steps = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut steps: Vec<PathBuf> = steps.collect();
    steps.reverse();
    steps
}
