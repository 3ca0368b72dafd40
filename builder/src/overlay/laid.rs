//! What is laid: one path of the image, and where its content is.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use crate::tree::entry::Origin;
use anyhow::{Context as _, Result};

/// What the overlays say about one path of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// Absolute path in the image, by the names of [`super::names`].
    pub path: PathBuf,
    /// Permission bits; of a symlink always 0777.
    pub mode: u32,
    /// What it is.
    pub what: What,
    /// Where it comes from.
    pub origin: Origin,
}

/// What a [`Laid`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A folder that must be there; one that is there keeps owner and mode.
    Folder,
    /// A folder whose mode `[modes]` states.
    StatedFolder,
    /// What a template rendered to.
    Rendered(Vec<u8>),
    /// The file of [`Origin`], as it is; with its size in bytes.
    File(u64),
    /// A symlink with this target.
    Symlink(PathBuf),
    /// A template rendered to nothing: what an earlier overlay has there goes.
    Nothing,
}

impl Laid {
    /// The first bytes of a file, `limit` at most; nothing of what is no file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn beginning(&self, limit: u64) -> Result<Vec<u8>> {
        match &self.what {
            What::Rendered(bytes) => {
                let end = usize::try_from(limit).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes[..end].to_vec())
            }
            What::File(_) => {
                let mut bytes = Vec::new();
                let file = &self.origin.file;
                File::open(file)
                    .and_then(|file| file.take(limit).read_to_end(&mut bytes))
                    .with_context(|| format!("reading {}", file.display()))?;
                Ok(bytes)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Bytes of a file; 0 for what is none.
    pub fn size(&self) -> u64 {
        match &self.what {
            What::Rendered(bytes) => bytes.len() as u64,
            What::File(size) => *size,
            _ => 0,
        }
    }

    /// Is it a regular file?
    pub fn is_file(&self) -> bool {
        matches!(self.what, What::Rendered(_) | What::File(_))
    }

    /// For messages.
    pub(super) fn noun(&self) -> &'static str {
        match self.what {
            What::Folder | What::StatedFolder => "folder",
            What::Symlink(_) => "symlink",
            _ => "file",
        }
    }
}
