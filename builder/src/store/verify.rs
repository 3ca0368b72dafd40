//! Is what the store holds still what was put there? Blobs are named by their digest, so each can be asked.
//!
//! A disk loses bits, a full one cuts files short, and somebody's script may write where it should not. What does not
//! have its content any more is *damaged*: it is removed, and whoever needs it next fetches or makes it anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::prune::{self, Amount, entries};
use super::{COPY_BUFFER, Store, layers};
use crate::units::{Digest, Sha256};

/// What kind of thing the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// A package or another file, named by its digest.
    Blob,
    /// A root tree.
    Layer,
}

/// One thing that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What it is.
    pub kind: ItemKind,
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What was looked at, and what is damaged; that was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Packages and other files.
    pub blobs: Amount,
    /// Root trees.
    pub layers: Amount,
    /// What was damaged.
    pub damaged: Vec<Damage>,
}

impl Store {
    /// Reads every blob and every layer, and removes those that do not have the content that they were put there with.
    ///
    /// # Errors
    /// When something cannot be read, or a damaged blob not be removed.
    pub fn verify(&self) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut paths = Vec::new();
        for folder in entries(&self.blobs_dir())? {
            paths.extend(entries(&folder)?);
        }
        for (path, state) in states(&paths) {
            let state = state.with_context(|| format!("reading {}", path.display()))?;
            verified.blobs.add(path.metadata().map_or(0, |file| file.len()));
            if let Some(why) = state {
                remove(path)?;
                verified.damaged.push(Damage { kind: ItemKind::Blob, path: path.clone(), why });
            }
        }
        let keys = layers::keys(self)?;
        for key in &keys {
            verified.layers.add(prune::tree_size(&layers::place(self, key)));
        }
        for key in layers::damaged(self, &keys)? {
            let why = "its files are not what they were when it was made".into();
            verified.damaged.push(Damage { kind: ItemKind::Layer, path: layers::place(self, &key), why });
        }
        Ok(verified)
    }

    /// Reads these blobs, and removes those that are damaged; returns their digests, sorted. One that is not there is not
    /// damaged.
    ///
    /// # Errors
    /// When one cannot be read, or a damaged one not be removed.
    pub fn damaged(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let once: BTreeSet<&Digest> = digests.iter().collect();
        let there = once.into_iter().map(|digest| (self.blob_path(digest), *digest));
        let (paths, digests): (Vec<_>, Vec<_>) = there.filter(|(path, _)| path.exists()).unzip();
        let mut damaged = Vec::new();
        for ((path, state), digest) in states(&paths).into_iter().zip(digests) {
            // A disk that cannot read it back has lost it as well.
            if !matches!(state, Ok(None)) {
                remove(path)?;
                damaged.push(digest);
            }
        }
        Ok(damaged)
    }

    /// The blob's file, if it is there and has its content; a damaged one is removed, and is not there then.
    ///
    /// # Errors
    /// When a damaged one cannot be removed.
    pub fn sound_blob(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        self.damaged(&[*digest])?;
        Ok(self.blob(digest))
    }
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("removing {}, which is damaged", path.display()))
}

/// What is wrong with each of these blobs, if anything: in their order, read by as many threads as there are cores.
fn states(paths: &[PathBuf]) -> Vec<(&PathBuf, io::Result<Option<String>>)> {
    let next = Mutex::new(paths.iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(paths.len()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(paths.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((at, path)) = taken else { return };
                    let state = state(path);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, path, state));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, ..)| *at);
    done.into_iter().map(|(_, path, state)| (path, state)).collect()
}

fn state(path: &Path) -> io::Result<Option<String>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Ok(named) = name.parse::<Digest>() else {
        return Ok(Some("its name is no SHA-256 digest: the store does not put such a file there".into()));
    };
    if !path.symlink_metadata()?.is_file() {
        return Ok(Some("it is not a file".into()));
    }
    let found = digest(path)?;
    Ok((found != named).then(|| format!("its content has SHA-256 {found}")))
}

/// The digest of a file's content.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ItemKind, Store};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn overwrite(path: &Path, bytes: &[u8]) {
        fs::set_permissions(path, Permissions::from_mode(0o644)).expect("opens for writing");
        fs::write(path, bytes).expect("writes");
    }

    #[test]
    fn what_lost_its_content_is_named_and_removed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(Some(folder.path().into())).expect("opens");
        let all: Vec<_> = ["one", "two", "three", "four"]
            .map(|text| store.insert_bytes(text.as_bytes()).expect("inserts"))
            .into();
        let paths: Vec<_> = all.iter().map(|digest| store.blob_path(digest)).collect();
        // As long as before, shorter, and empty.
        for (at, bytes) in [(0, &b"One"[..]), (1, b"t"), (2, b"")] {
            overwrite(&paths[at], bytes);
        }
        assert_eq!(store.sound_blob(&all[0]).expect("looks"), None);
        let mut expected = [all[1], all[2]];
        expected.sort();
        let twice = [&all[..], &all[..]].concat();
        assert_eq!(store.damaged(&twice).expect("looks"), expected);
        assert_eq!(store.damaged(&all).expect("looks again"), []);
        assert!(store.sound_blob(&all[3]).expect("looks").is_some());

        overwrite(&paths[3], b"FOUR");
        let stranger = paths[3].with_file_name("notes.txt");
        fs::write(&stranger, "mine").expect("writes");
        let verified = store.verify().expect("verifies");
        assert_eq!((verified.blobs.count, verified.damaged.len()), (2, 2));
        assert!(verified.damaged.iter().all(|damage| damage.kind == ItemKind::Blob));
        assert!(verified.damaged.iter().any(|damage| damage.path == paths[3]));
        assert_eq!(store.verify().expect("verifies again").damaged, []);
    }
}
