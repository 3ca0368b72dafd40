//! Layers in the store: one folder each, named by its key.
//!
//! ```text
//! layers/<key>/tree/        the files, owned as in the image
//! layers/<key>/layer.json   the step and the inputs that the key was computed from; the digest of the tree
//! ```
//! A layer is renamed into place when it is whole; a killed build leaves nothing here. Its key says what went in, not what
//! is there: the digest does, and is compared before a layer is read ([`damaged`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::jobs::{Contents, Remove};
use super::{Store, prune};
use crate::event::{Silent, Sink};
use crate::sandbox;
use crate::units::Digest;

/// What a layer was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The step's name.
    pub step: String,
    /// Input → its digest or value.
    pub inputs: BTreeMap<String, String>,
}

/// layer.json: the record, and what the tree was when it was made.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    record: Record,
    content: String,
}

/// Where the tree of the layer `key` is, or would be.
pub(crate) fn place(store: &Store, key: &Digest) -> PathBuf {
    folder(store, key).join("tree")
}

/// Has the store a layer `key`?
pub(crate) fn has(store: &Store, key: &Digest) -> bool {
    folder(store, key).join("layer.json").is_file()
}

/// Reads these layers and takes those out of the store that are not what they were when they were made; returns which.
///
/// # Errors
/// When a damaged one cannot be removed.
pub(crate) fn damaged(store: &Store, keys: &[Digest]) -> Result<Vec<Digest>> {
    let there: Vec<Digest> = keys.iter().copied().filter(|key| has(store, key)).collect();
    if there.is_empty() {
        return Ok(Vec::new());
    }
    let trees = there.iter().map(|key| place(store, key)).collect();
    let found = sandbox::run(&Contents(trees), &Silent)?;
    let wrong =
        there.into_iter().zip(found).filter(|(key, found)| found.is_none() || stored(store, key) != *found);
    let wrong: Vec<Digest> = wrong.map(|(key, _)| key).collect();
    if !wrong.is_empty() {
        // The record first: without it, what a cut leaves of a layer is none.
        for key in &wrong {
            let record = folder(store, key).join("layer.json");
            fs::remove_file(&record).with_context(|| format!("removing {}", record.display()))?;
        }
        let folders = wrong.iter().map(|key| folder(store, key)).collect();
        sandbox::run(&Remove(folders), &Silent)?;
    }
    Ok(wrong)
}

/// The keys of all layers.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn keys(store: &Store) -> Result<Vec<Digest>> {
    let entries = fs::read_dir(store.layers_dir()).context("listing the layers")?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse().ok()));
    let keys: Vec<Option<Digest>> = names.collect::<Result<_>>()?;
    Ok(keys.into_iter().flatten().filter(|key| has(store, key)).collect())
}

fn stored(store: &Store, key: &Digest) -> Option<String> {
    let text = fs::read(folder(store, key).join("layer.json")).ok()?;
    serde_json::from_slice::<Stored>(&text).ok().map(|stored| stored.content)
}

/// The tree of the layer `key`, if the store has it; marks it as used now.
pub(crate) fn find(store: &Store, key: &Digest) -> Option<PathBuf> {
    let folder = folder(store, key);
    let record = folder.join("layer.json");
    super::touch(&record).ok().map(|()| folder.join("tree"))
}

/// Makes the layer `key`: calls `make` with an empty tree and a scratch folder, and keeps the tree when that succeeds with
/// the digest of its content.
///
/// # Errors
/// What `make` says; then nothing is kept.
pub(crate) fn create(
    store: &Store,
    key: &Digest,
    record: &Record,
    sink: &dyn Sink,
    make: impl FnOnce(&Path, &Path) -> Result<String>,
) -> Result<PathBuf> {
    let staging = store.staging(&record.step)?;
    let (new, scratch) = (staging.path().join("layer"), staging.path().join("scratch"));
    for path in [&new, &new.join("tree"), &scratch] {
        fs::create_dir(path).with_context(|| format!("creating {}", path.display()))?;
    }
    let made = make(&new.join("tree"), &scratch).and_then(|content| keep(store, key, record, content, &new));
    // Also after a failure: what packages wrote belongs to users that only a sandbox may remove.
    let removed = sandbox::run(&Remove(vec![new, scratch]), sink);
    let tree = made?;
    removed?;
    Ok(tree)
}

fn keep(store: &Store, key: &Digest, record: &Record, content: String, new: &Path) -> Result<PathBuf> {
    let text = serde_json::to_vec_pretty(&Stored { record: record.clone(), content })?;
    fs::write(new.join("layer.json"), text).context("writing layer.json")?;
    let folder = folder(store, key);
    match fs::rename(new, &folder) {
        // Another build made the same one meanwhile: equal keys, equal trees.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
        other => other.with_context(|| format!("moving a layer to {}", folder.display()))?,
    }
    Ok(folder.join("tree"))
}

fn folder(store: &Store, key: &Digest) -> PathBuf {
    store.layers_dir().join(key.to_string())
}

/// Removes the layers whose last use `unwanted` says yes to; returns how many bytes each took on the disk.
///
/// # Errors
/// The layer that could not be removed.
pub(super) fn prune(store: &Store, unwanted: impl Fn(&fs::Metadata) -> bool) -> Result<Vec<u64>> {
    let mut doomed = Vec::new();
    for entry in fs::read_dir(store.layers_dir()).context("listing the layers")? {
        let path = entry?.path();
        // One without a record was never finished.
        if fs::metadata(path.join("layer.json")).map_or(true, |record| unwanted(&record)) {
            doomed.push(path);
        }
    }
    let sizes = doomed.iter().map(|path| prune::tree_size(path)).collect();
    if !doomed.is_empty() {
        sandbox::run(&Remove(doomed), &Silent)?;
    }
    Ok(sizes)
}
