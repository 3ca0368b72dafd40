//! Files laid over the root: rendered templates, plain files, links.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One thing to lay over the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute path in the image.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A folder.
    Directory,
    /// A file with this content.
    File(Vec<u8>),
    /// A link to this path.
    Symlink(PathBuf),
}
