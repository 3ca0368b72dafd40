//! What is laid: one path of the image, and where its content is.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::tree::entry::Origin;
use anyhow::{Context as _, Result};

/// What the overlays say about one path of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Laid {
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
pub(crate) enum What {
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
    /// A file to be read piece by piece; nothing of what is no file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(crate) fn open(&self) -> Result<Option<Box<dyn Read + '_>>> {
        match &self.what {
            What::Rendered(bytes) => Ok(Some(Box::new(bytes.as_slice()))),
            What::File(_) => {
                let file = &self.origin.file;
                let file = File::open(file).with_context(|| format!("reading {}", file.display()))?;
                Ok(Some(Box::new(file)))
            }
            _ => Ok(None),
        }
    }

    /// The first bytes of a file, `limit` at most; nothing of what is no file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn beginning(&self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = self.open()? {
            let context = || format!("reading {}", self.origin.file.display());
            file.take(limit).read_to_end(&mut bytes).with_context(context)?;
        }
        Ok(bytes)
    }

    /// Is it a regular file?
    pub(crate) fn is_file(&self) -> bool {
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
