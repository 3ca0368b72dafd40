//! Staging folders: where things are made before they are whole.
//!
//! Each is `tmp/<what>.<pid>.<n>`, flocked for as long as its maker lives, so that whoever opens the store next can tell
//! what a killed process left behind from what is in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use super::jobs::Remove;
use super::lock;
use crate::event::Silent;
use crate::interrupt;
use crate::sandbox;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Held while a staging folder is made and locked, and while stale ones are looked for: between the two, a new folder
/// would look stale.
const GATE: &str = ".gate";

/// A private folder, removed when it is dropped or the program is interrupted.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    _lock: Flock<File>,
    _guard: interrupt::Guard,
}

impl Staging {
    /// Makes one in `tmp`.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(super) fn new(tmp: &Path, what: &str) -> Result<Self> {
        let _gate = lock(&tmp.join(GATE), FlockArg::LockExclusive)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = tmp.join(format!("{what}.{}.{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let held = own(&path)?.with_context(|| format!("{} is locked by another process", path.display()))?;
        let doomed = path.clone();
        let guard = interrupt::on_interrupt(move || drop(fs::remove_dir_all(&doomed)));
        Ok(Self { path, _lock: held, _guard: guard })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the folder to `target` in one step. When another process has put its own there first, that one stays and
    /// this one goes: both were made from the same inputs.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn publish(self, target: &Path) -> Result<()> {
        match fs::rename(&self.path, target) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(())
            }
            other => other.with_context(|| format!("moving {} to {}", self.path.display(), target.display())),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now (a mount of a dying child, say) is swept when the store is opened next.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The lock of a staging folder, if nobody holds it.
fn own(path: &Path) -> Result<Option<Flock<File>>> {
    let folder = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

/// Removes the staging folders whose makers are gone.
pub(super) fn sweep(tmp: &Path) -> Result<()> {
    let gate = lock(&tmp.join(GATE), FlockArg::LockExclusive)?;
    let mut stale = Vec::new();
    for entry in fs::read_dir(tmp).with_context(|| format!("reading {}", tmp.display()))? {
        let path = entry.with_context(|| format!("reading {}", tmp.display()))?.path();
        // One that vanishes meanwhile was dropped by its maker.
        if let (true, Ok(Some(held))) = (path.is_dir(), own(&path)) {
            stale.push((path, held));
        }
    }
    drop(gate);
    for (path, _held) in stale {
        if fs::remove_dir_all(&path).is_err() {
            // A killed build's tree holds files of users that only a sandbox has. If it fails too, the next one tries.
            let _ = sandbox::run(&Remove(vec![path]), &Silent);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Staging, sweep};
    use std::fs;

    #[test]
    fn is_removed_when_dropped() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        let staging = Staging::new(tmp.path(), "layer").expect("makes");
        let path = staging.path().to_owned();
        fs::write(path.join("file"), "x").expect("writes");
        drop(staging);
        assert!(!path.exists());
    }

    #[test]
    fn the_sweep_takes_what_nobody_holds() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        let held = Staging::new(tmp.path(), "layer").expect("makes");
        let stale = tmp.path().join("layer.1.0");
        fs::create_dir_all(stale.join("deep")).expect("makes");
        sweep(tmp.path()).expect("sweeps");
        assert!(held.path().exists() && !stale.exists());
    }

    #[test]
    fn publishing_twice_keeps_the_first() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        let target = tmp.path().join("done");
        for text in ["first", "second"] {
            let staging = Staging::new(tmp.path(), "layer").expect("makes");
            fs::write(staging.path().join("file"), text).expect("writes");
            let path = staging.path().to_owned();
            staging.publish(&target).expect("publishes");
            assert!(!path.exists());
        }
        assert_eq!(fs::read_to_string(target.join("file")).expect("reads"), "first");
    }
}
