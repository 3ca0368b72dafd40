//! What is put into a root tree: a file, a folder, a link, as it is written down before there is a tree.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::{Digest, Sha256};

/// One thing to put into the image. Owner and group are root, but in the home of the recipe's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Absolute path in the image.
    pub path: PathBuf,
    /// Permission bits; those of a symlink are always 0777.
    pub mode: u32,
    /// What it is.
    pub kind: EntryKind,
    /// The overlay's file that it comes from; nothing for what edgepress makes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What an [`TreeEntry`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A folder that must be there. One that is there keeps its owner and mode.
    Directory,
    /// A folder that must be there, with this mode.
    StatedDirectory,
    /// A file with this content, which edgepress makes itself: small, whatever the inputs are.
    File(Vec<u8>),
    /// A file with the content of this blob of the store.
    Blob(Digest),
    /// A symlink with this target.
    Symlink(PathBuf),
}

impl TreeEntry {
    /// Something that edgepress makes itself.
    pub fn own(path: impl Into<PathBuf>, mode: u32, kind: EntryKind) -> Self {
        Self { path: path.into(), mode, kind, origin: None }
    }

    /// Digest of path, mode, kind, content, and of which overlay decides, for cache keys.
    pub fn digest(&self) -> Digest {
        let (tag, content): (u8, &[u8]) = match &self.kind {
            EntryKind::Directory => (b'd', &[]),
            EntryKind::StatedDirectory => (b'm', &[]),
            EntryKind::File(bytes) => (b'f', bytes),
            EntryKind::Blob(digest) => (b'b', &digest.to_string().into_bytes()),
            EntryKind::Symlink(target) => (b'l', target.as_os_str().as_encoded_bytes()),
        };
        let path = self.path.as_os_str().as_encoded_bytes();
        let mut hasher = Sha256::new();
        hasher.update([tag]);
        hasher.update(self.mode.to_be_bytes());
        hasher.update(self.origin.as_ref().map_or(0, |origin| origin.overlay as u64).to_be_bytes());
        hasher.update((path.len() as u64).to_be_bytes());
        hasher.update(path);
        hasher.update(content);
        hasher.finish()
    }
}

/// Where something of the image comes from, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file in the work tree.
    pub file: PathBuf,
    /// Number of its overlay, from 0: a later one decides.
    pub overlay: usize,
}
