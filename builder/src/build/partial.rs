//! Files of the output folder while they are made: beside their final places, so that the rename stays on one file
//! system, and under one name each, so that what a killed build left is written over.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::error::Problem;
use crate::interrupt;

/// One file; removed on every way out but [`Partial::persist`].
pub(crate) struct Partial {
    /// Where it is written.
    pub path: PathBuf,
    target: PathBuf,
    _lock: Flock<File>,
    _guard: interrupt::Guard,
}

impl Partial {
    /// Takes the place of `target` while it is made.
    ///
    /// # Errors
    /// When another build is making the same file, or the folder cannot be written.
    pub(crate) fn claim(target: &Path) -> Result<Self> {
        let path = partial(target);
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.with_context(|| format!("creating {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Problem::work(format!("another build is writing {}", target.display()))
                .hint("wait for it to end, or choose another folder with --out")
        })?;
        let doomed = path.clone();
        let guard = interrupt::on_interrupt(move || drop(fs::remove_file(&doomed)));
        Ok(Self { path, target: target.to_owned(), _lock: lock, _guard: guard })
    }

    /// Removes what a killed build left of `target`.
    ///
    /// # Errors
    /// As [`Partial::claim`].
    pub(crate) fn sweep(target: &Path) -> Result<()> {
        if partial(target).exists() { Self::claim(target).map(drop) } else { Ok(()) }
    }

    /// Moves it to its place.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(crate) fn persist(self) -> Result<()> {
        self.persist_as(&self.target)
    }

    /// Moves it to another place in the same folder: it became something else.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(crate) fn persist_as(&self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).with_context(|| format!("moving the file to {}", target.display()))
    }
}

fn partial(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.partial"))
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already where it became the file.
        fs::remove_file(&self.path).ok();
    }
}
