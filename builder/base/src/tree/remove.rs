//! What takes files out of a tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::look::names;
use super::{Root, found, resolved, shown};

impl Root {
    /// Removes a file, a link itself, or a folder with all that is in it; false where there is nothing of this name. It
    /// never goes into what is mounted in the tree.
    ///
    /// # Errors
    /// What cannot be removed, or is mounted.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<bool> {
        let path = path.as_ref();
        let Some((folder, name)) = self.parent(path)? else { return Ok(false) };
        remove(folder.as_fd(), name).with_context(|| format!("removing {}", shown(path)))
    }

    /// Removes all that is in a folder, followed, and leaves it.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn empty(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        for entry in self.list(folder)? {
            self.remove(folder.join(entry.name))?;
        }
        Ok(())
    }
}

fn remove(folder: BorrowedFd<'_>, name: &OsStr) -> nix::Result<bool> {
    match found(unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)) {
        Err(Errno::EISDIR) => {}
        other => return other.map(|gone| gone.is_some()),
    }
    let only = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let inner = resolved(folder, Path::new(name), flags, only)?;
    for entry in names(inner.try_clone().map_err(|_| Errno::EMFILE)?)? {
        remove(inner.as_fd(), &entry.name)?;
    }
    unlinkat(folder, name, UnlinkatFlags::RemoveDir)?;
    Ok(true)
}
