//! What a build remembers of the files that it left in the output folder, to know whether they are still the ones.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::image::Made;
use crate::manifest::{self, Manifest};
use crate::units::Digest;

/// Remembered in the store, for one output folder and recipe name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct OutputCache {
    /// The raw image, where it stayed.
    pub image: Option<CachedImage>,
    /// Everything that was handed out.
    pub outputs: Option<CachedOutputs>,
}

/// A raw image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CachedImage {
    /// Key of the step that made it.
    pub key: Digest,
    /// What it looked like.
    pub seen: Seen,
    /// What is known of it.
    pub made: Made,
}

/// Files of a folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CachedOutputs {
    /// Key of the step that made them.
    pub key: Digest,
    /// What they looked like; the manifest is one of them.
    pub seen: Vec<Seen>,
}

/// What a file looked like when it was finished; any write to it since shows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    file: PathBuf,
    size: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Seen {
    /// A file as it is now; nothing where there is none.
    pub(crate) fn of(folder: &Path, file: &Path) -> Option<Self> {
        let data = fs::metadata(folder.join(file)).ok()?;
        // ctime, unlike mtime, cannot be set back by a program.
        let changed = (data.ctime(), data.ctime_nsec());
        Some(Self { file: file.to_owned(), size: data.size(), inode: data.ino(), changed })
    }

    fn is_unchanged(&self, folder: &Path) -> bool {
        Self::of(folder, &self.file).as_ref() == Some(self)
    }
}

impl OutputCache {
    /// Reads what the last build remembered; a file that cannot be read counts as none.
    pub(crate) fn read(path: &Path) -> Self {
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec(self)?).context("remembering the outputs' state")
    }

    /// The manifest of the outputs, if they were made under `key` and not touched since.
    pub(crate) fn outputs(&self, folder: &Path, key: Digest) -> Option<Manifest> {
        let kept = self.outputs.as_ref().filter(|kept| kept.key == key)?;
        kept.seen.iter().all(|seen| seen.is_unchanged(folder)).then_some(())?;
        manifest_in(folder)
    }

    /// What is known of the raw image, if it was made under `key` and not touched since.
    pub(crate) fn image(self, folder: &Path, key: Digest) -> Option<Made> {
        let kept = self.image.filter(|kept| kept.key == key)?;
        kept.seen.is_unchanged(folder).then_some(kept.made)
    }
}

/// The manifest in a folder, if there is one.
pub(crate) fn manifest_in(folder: &Path) -> Option<Manifest> {
    serde_json::from_slice(&fs::read(folder.join(manifest::FILE_NAME)).ok()?).ok()
}
