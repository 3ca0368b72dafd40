//! How large the store is, and making it smaller.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::fcntl::FlockArg;
use serde::Serialize;

use super::{Store, layers};
use crate::error::Problem;

/// Things of one kind: how many, and the bytes that they take on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl Amount {
    /// Counts one more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The store's folder.
    pub path: PathBuf,
    /// Packages and other files.
    pub blobs: Amount,
    /// Root trees.
    pub layers: Amount,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Packages and other files.
    pub blobs: Amount,
    /// Root trees.
    pub layers: Amount,
}

impl Store {
    /// Counts what is in the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage =
            Usage { path: self.root.clone(), blobs: Amount::default(), layers: Amount::default() };
        for (_, metadata) in self.blobs()? {
            usage.blobs.add(on_disk(&metadata));
        }
        for entry in entries(&self.layers_dir())? {
            usage.layers.add(tree_size(&entry));
        }
        Ok(usage)
    }

    /// Removes what was not used for `age`; with no age, everything. No other process may have the store open: what
    /// it is about to use must stay.
    ///
    /// # Errors
    /// When the store is in use, or something cannot be removed.
    pub fn prune(self, age: Option<Duration>) -> Result<Pruned> {
        // The shared lock of an open store becomes an exclusive one only if nobody else has the store open.
        self.lock.relock(FlockArg::LockExclusiveNonblock).map_err(|_| {
            Problem::work(format!("the store {} is in use", self.root.display()))
                .hint("wait for the running build to end, then prune again")
        })?;
        let before = age.map(|age| SystemTime::now() - age);
        let mut pruned = Pruned::default();
        for (path, metadata) in self.blobs()? {
            if unused_since(&metadata, before) {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
                pruned.blobs.add(on_disk(&metadata));
            }
        }
        for bytes in layers::prune(&self, |metadata| unused_since(metadata, before))? {
            pruned.layers.add(bytes);
        }
        Ok(pruned)
    }

    fn blobs(&self) -> Result<Vec<(PathBuf, Metadata)>> {
        let mut all = Vec::new();
        for folder in entries(&self.blobs_dir())? {
            for path in entries(&folder)? {
                let metadata = path.symlink_metadata();
                all.push((path.clone(), metadata.with_context(|| format!("reading {}", path.display()))?));
            }
        }
        Ok(all)
    }
}

/// Was it last used before `before`? Always, where there is no such limit.
pub(crate) fn unused_since(metadata: &Metadata, before: Option<SystemTime>) -> bool {
    before.is_none_or(|before| metadata.modified().is_ok_and(|stamp| stamp < before))
}

fn on_disk(metadata: &Metadata) -> u64 {
    // st_blocks counts 512 bytes whatever the file system's block size (stat(2)).
    metadata.blocks() * 512
}

/// Bytes on the disk of everything below `path`, as far as it may be read.
pub(crate) fn tree_size(path: &Path) -> u64 {
    let mut size = 0;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        size += on_disk(&metadata);
        if metadata.is_dir() {
            left.extend(entries(&path).unwrap_or_default());
        }
    }
    size
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        paths.push(entry.with_context(reading)?.path());
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Store, SystemTime, fs};
    use crate::error::problem;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn takes_only_what_was_not_used_lately() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(Some(folder.path().into())).expect("opens");
        let (old, new) = (store.insert_bytes(b"old").expect("old"), store.insert_bytes(b"new").expect("new"));
        let stamp = SystemTime::now() - 40 * DAY;
        fs::File::open(store.blob_path(&old)).expect("opens").set_modified(stamp).expect("stamps");
        assert_eq!(store.usage().expect("usage").blobs.count, 2);
        let paths = (store.blob_path(&old), store.blob_path(&new));
        assert_eq!(store.prune(Some(30 * DAY)).expect("prunes").blobs.count, 1);
        assert!(!paths.0.exists() && paths.1.exists());
        let store = Store::open(Some(folder.path().into())).expect("opens");
        assert_eq!(store.prune(None).expect("prunes").blobs.count, 1);
    }

    #[test]
    fn refuses_while_the_store_is_in_use() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let user = Store::open(Some(folder.path().into())).expect("opens");
        let digest = user.insert_bytes(b"needed").expect("inserts");
        let other = Store::open(Some(folder.path().into())).expect("opens");
        let error = other.prune(None).expect_err("in use");
        assert!(problem(&error).is_some_and(|problem| problem.hint.is_some()), "{error}");
        assert!(user.has_blob(&digest));
    }
}
