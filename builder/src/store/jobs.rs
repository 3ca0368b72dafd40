//! What the store has to do as the users whose files layers hold.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::event::Sink;
use crate::sandbox::Job;
use crate::tree::Root;

/// Digests of root trees, to be compared with those that they had when they were made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Contents(pub Vec<PathBuf>);

impl Job for Contents {
    const NAME: &'static str = "contents";
    /// For each tree; nothing where it cannot be read to its end, which a digest of its own would not be either.
    type Answer = Vec<Option<String>>;

    fn doing(&self) -> String {
        "reading layers of the store".into()
    }

    fn execute(&self, _: &dyn Sink) -> Result<Self::Answer> {
        let content = |tree: &PathBuf| Root::open(tree).and_then(|root| root.content()).ok();
        Ok(self.0.iter().map(content).collect())
    }
}

/// Removes trees that hold other users' files.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Remove(pub Vec<PathBuf>);

impl Job for Remove {
    const NAME: &'static str = "remove";
    type Answer = ();

    fn doing(&self) -> String {
        "removing old trees".into()
    }

    fn execute(&self, _: &dyn Sink) -> Result<()> {
        self.0.iter().try_for_each(|path| remove(path))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
