//! Is there room? Asked before the work begins, and told in plain words where it ran out all the same.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::Store;
use crate::error::{Problem, problem};

/// Free bytes below which a failure is for want of room, whatever it says: programs put it in words of their own.
const NOTHING: u64 = 1 << 20;

/// Bytes that this user may still write in the file system of a folder.
///
/// # Errors
/// When the folder is not there.
pub(crate) fn free(folder: &Path) -> Result<u64> {
    let stat =
        statvfs(folder).with_context(|| format!("asking for the free space at {}", folder.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Refuses work that needs more room than there is.
///
/// # Errors
/// Says what is needed, what there is, and the way out (`hint`).
pub(crate) fn needs(folder: &Path, bytes: u64, what: &str, hint: &str) -> Result<()> {
    let free = free(folder)?;
    if bytes <= free {
        return Ok(());
    }
    let (bytes, free, folder) = (bytes.div_ceil(1 << 20), free >> 20, folder.display());
    Err(Problem::work(format!(
        "there is no room for {what} at {folder}: {bytes} MiB are needed, {free} MiB free"
    ))
    .hint(hint)
    .into())
}

/// Can a file be made in this folder?
///
/// # Errors
/// What the system says.
pub(crate) fn writable(folder: &Path) -> std::io::Result<()> {
    tempfile::Builder::new().prefix(".edgepress-").tempfile_in(folder).map(drop)
}

/// An error for want of room, by its words or by there being none.
fn of_no_room(error: &anyhow::Error, folder: &Path) -> bool {
    let words = [Errno::ENOSPC, Errno::EDQUOT].map(Errno::desc);
    let text = format!("{error:#}");
    words.iter().any(|words| text.contains(words)) || free(folder).is_ok_and(|free| free < NOTHING)
}

/// Puts a failure for want of room in a folder into plain words, before what the failing part said.
pub(crate) fn explained<T>(result: Result<T>, folder: &Path, hint: &str) -> Result<T> {
    result.map_err(|error| {
        if problem(&error).is_some_and(|problem| problem.message.contains("is full"))
            || !of_no_room(&error, folder)
        {
            return error;
        }
        Problem::work(format!("the file system of {} is full: {error:#}", folder.display())).hint(hint).into()
    })
}

impl Store {
    /// What to do where the store has no room.
    pub const NO_ROOM: &str =
        "free some space (edgepress store prune), or put the store on a larger disk with --store";

    /// Refuses to bring more into the store than its file system has room for.
    ///
    /// # Errors
    /// See [`needs`].
    pub fn needs(&self, bytes: u64, what: &str) -> Result<()> {
        needs(&self.root, bytes, what, Self::NO_ROOM)
    }

    /// See [`explained`].
    ///
    /// # Errors
    /// Those of `result`.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        explained(result, &self.root, Self::NO_ROOM)
    }

    /// Can layers be stacked here? overlayfs separates folders with `:` and options with `,`.
    ///
    /// # Errors
    /// When the path has one of them.
    pub fn stacks(&self) -> Result<()> {
        match self.root.to_str() {
            Some(text) if !text.contains([',', ':', '\\']) => Ok(()),
            _ => Err(Problem::input(format!(
                "the store's path {} has a comma, a colon, a backslash or bytes that are not UTF-8",
                self.root.display()
            ))
            .hint("the kernel cannot stack layers below such a path: name another with --store")
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Problem, Store, explained, needs, problem, writable};

    #[test]
    fn too_little_room_is_said_beforehand() {
        let folder = tempfile::tempdir().expect("temporary folder");
        needs(folder.path(), 1, "a byte", "x").expect("fits");
        let error = needs(folder.path(), u64::MAX >> 2, "all of it", "make room").expect_err("does not fit");
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.contains("no room for all of it") && problem.message.contains("MiB free"));
        assert_eq!(problem.hint.as_deref(), Some("make room"));
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let tell =
            |error: anyhow::Error| explained::<()>(Err(error), folder.path(), "hint").expect_err("fails");
        let full = std::io::Error::from_raw_os_error(28);
        let error = tell(anyhow::Error::from(full).context("writing x").context("making y"));
        assert!(error.to_string().contains("is full: making y: writing x: No space left"), "{error}");
        assert_eq!(problem(&error).and_then(|problem| problem.hint.as_deref()), Some("hint"));
        let error = tell(Problem::work("dpkg: error: cannot copy: No space left on device").into());
        assert!(error.to_string().contains("is full: dpkg"), "{error}");
        assert_eq!(tell(anyhow::anyhow!("something else")).to_string(), "something else");
    }

    #[test]
    fn a_folder_that_is_not_there_cannot_be_written() {
        let folder = tempfile::tempdir().expect("temporary folder");
        writable(folder.path()).expect("may be written");
        assert!(writable(&folder.path().join("none")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 0);
    }

    #[test]
    fn a_path_that_overlayfs_cannot_hold_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, good) in [("a b", true), ("a,b", false), ("a:b", false), ("a\\b", false)] {
            let store = Store::open(Some(folder.path().join(name))).expect("opens");
            assert_eq!(store.stacks().is_ok(), good, "{name}");
        }
    }
}
