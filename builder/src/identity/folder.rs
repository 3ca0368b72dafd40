//! A device's folder: certificate, key and registration id, there as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::interrupt;

/// The chain's file.
pub(super) const CERTIFICATE: &str = "certificate.pem";
/// The key's file.
pub(super) const PRIVATE_KEY: &str = "private-key.pem";
const REGISTRATION_ID: &str = "registration-id";

/// A folder in the making; gone again on every way out but [`persist`].
pub(super) struct Folder {
    path: PathBuf,
    target: PathBuf,
    _guard: interrupt::Guard,
}

impl Folder {
    /// Writes the files beside where they belong. What a killed run left there is removed.
    ///
    /// # Errors
    /// On a write error.
    pub(super) fn make(target: &Path, id: &str, chain: &str, key: &str) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.partial"));
        let context = || format!("writing {}", path.display());
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(context),
            _ => {}
        }
        let doomed = path.clone();
        let guard = interrupt::on_interrupt(move || drop(fs::remove_dir_all(&doomed)));
        let folder = Self { path: path.clone(), target: target.to_owned(), _guard: guard };
        DirBuilder::new().mode(0o700).create(&path).with_context(context)?;
        for (name, mode, text) in [
            (PRIVATE_KEY, 0o600, key),
            (CERTIFICATE, 0o644, chain),
            (REGISTRATION_ID, 0o644, &format!("{id}\n")),
        ] {
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path.join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(context)?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Gone already where it is in its place.
        fs::remove_dir_all(&self.path).ok();
    }
}

/// Puts folders into their places below `out`. Their files are on the disk before: one call for all of them.
///
/// # Errors
/// On a write error.
pub(super) fn persist(out: &Path, folders: &[Folder]) -> Result<()> {
    if folders.is_empty() {
        return Ok(());
    }
    let disk = File::open(out).with_context(|| format!("opening {}", out.display()))?;
    nix::unistd::syncfs(&disk).context("writing identities to the disk")?;
    for folder in folders {
        fs::rename(&folder.path, &folder.target)
            .with_context(|| format!("creating {}", folder.target.display()))?;
    }
    disk.sync_all().with_context(|| format!("writing {}", out.display()))
}

#[cfg(test)]
mod tests {
    use super::{Folder, persist};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn whole_or_not_at_all() {
        let out = tempfile::tempdir().expect("folder");
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(out.path()).expect("list").flatten().map(|e| e.file_name()).collect();
            names.sort();
            names
        };
        drop(Folder::make(&out.path().join("a"), "a", "chain", "key").expect("made"));
        assert_eq!(names(), [""; 0], "what is not finished goes");
        std::fs::create_dir(out.path().join(".a.partial")).expect("left by a killed run");
        let made = Folder::make(&out.path().join("a"), "a", "chain", "key").expect("made");
        assert_eq!(names(), [".a.partial"]);
        persist(out.path(), &[made]).expect("persisted");
        assert_eq!(names(), ["a"]);
        let mode = |name: &str| out.path().join(name).metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!([mode("a"), mode("a/private-key.pem")], [0o700, 0o600]);
        assert_eq!(std::fs::read_to_string(out.path().join("a/registration-id")).expect("read"), "a\n");
    }
}
