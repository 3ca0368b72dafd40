//! The private folder of one run. It holds a device's key, so nobody else may read it, and it goes when the run ends:
//! well, badly, or by Ctrl-C.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::event::Sink;
use crate::interrupt::{Guard, on_interrupt};

/// The folder; removed when dropped, whatever came between.
pub(crate) struct Scratch {
    folder: TempDir,
    uuid: String,
    keep: bool,
    _guard: Option<Guard>,
}

impl Scratch {
    /// Makes a folder in the host's folder for temporary files; `keep` leaves it there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(keep: bool) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("edgepress-test-").permissions(fs::Permissions::from_mode(0o700));
        let folder = builder.disable_cleanup(keep).tempdir().context("creating a private folder")?;
        let doomed = folder.path().to_owned();
        let guard = (!keep).then(|| on_interrupt(move || remove(&doomed)));
        Ok(Self { folder, uuid: uuid()?, keep, _guard: guard })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Sets this run apart from every other one.
    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Removes the folder, or says where it was kept.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn end(self, sink: &dyn Sink) -> Result<()> {
        let path = self.path().to_owned();
        if self.keep {
            sink.note(format!(
                "the disk's copy, the machine's files and the device's key are in {}",
                path.display()
            ));
            return Ok(());
        }
        self.folder.close().with_context(|| format!("removing {}", path.display()))
    }
}

/// Removes a folder in which others may still be making files: under another name they find it no more.
fn remove(folder: &Path) {
    let mut name = folder.as_os_str().to_owned();
    name.push(".gone");
    let gone = PathBuf::from(name);
    fs::rename(folder, &gone).and_then(|()| fs::remove_dir_all(&gone)).ok();
}

/// A random UUID; the kernel makes them.
///
/// # Errors
/// When /proc is not there.
pub(crate) fn uuid() -> Result<String> {
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(SOURCE).with_context(|| format!("reading {SOURCE}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Scratch, remove};
    use crate::event::Silent;

    #[test]
    fn private_and_gone() {
        let scratch = Scratch::create(false).expect("create");
        let path = scratch.path().to_owned();
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        scratch.end(&Silent).expect("end");
        assert!(!path.exists());
    }

    #[test]
    fn kept() {
        let scratch = Scratch::create(true).expect("create");
        let path = scratch.path().to_owned();
        scratch.end(&Silent).expect("end");
        assert!(path.is_dir());
        remove(&path);
        assert!(!path.exists());
    }
}
