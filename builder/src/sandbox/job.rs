//! What can be done in a sandbox.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Users, World};
use crate::build::image::ImageJob;
use crate::event::Sink;
use crate::export::root::RootJob;
use crate::foreign::binfmt;
use crate::prove::inside::{self, Inside};
use crate::rootfs::layer::{self, LayerJob};
use crate::tree::Root;

/// One piece of work; serialised from the verb to the sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Makes a layer of the root tree.
    Layer(Box<LayerJob>),
    /// Makes the disk image from the layers.
    Image(Box<ImageJob>),
    /// Packs the root tree of the layers.
    Root(RootJob),
    /// Boots an image in a simulated world.
    Prove(Box<Inside>),
    /// Can foreign programs be registered in a user namespace?
    ProbeBinfmt,
    /// Digests of root trees, to be compared with those that they had when they were made.
    Contents(Vec<PathBuf>),
    /// Removes trees that hold other users' files.
    Remove(Vec<PathBuf>),
}

impl Job {
    /// A lower-case gerund for error messages.
    pub fn name(&self) -> String {
        match self {
            Self::Layer(job) => format!("making layer `{}`", job.step),
            Self::Image(_) => "making the image".into(),
            Self::Root(_) => "packing the root tree".into(),
            Self::Prove(_) => "booting the image".into(),
            Self::ProbeBinfmt => "looking for binfmt_misc".into(),
            Self::Contents(_) => "reading layers of the store".into(),
            Self::Remove(_) => "removing old trees".into(),
        }
    }

    /// Which users the job needs to see.
    pub fn users(&self) -> Users {
        match self {
            Self::Layer(_)
            | Self::Image(_)
            | Self::Root(_)
            | Self::ProbeBinfmt
            | Self::Contents(_)
            | Self::Remove(_) => Users::Range,
            Self::Prove(_) => Users::Own,
        }
    }

    /// What it may see of the host, where it runs what others wrote; nothing: all of it.
    pub(super) fn world(&self) -> Option<World> {
        match self {
            Self::Layer(job) => Some(job.world()),
            Self::Image(_)
            | Self::Root(_)
            | Self::Prove(_)
            | Self::ProbeBinfmt
            | Self::Contents(_)
            | Self::Remove(_) => None,
        }
    }

    /// Does it; called as pid 1 of the sandbox.
    pub(super) fn execute(&self, sink: &dyn Sink) -> Result<serde_json::Value> {
        Ok(match self {
            Self::Layer(job) => serde_json::to_value(layer::make(job, sink)?)?,
            Self::Image(job) => serde_json::to_value(job.make(sink)?)?,
            Self::Root(job) => serde_json::to_value(job.make()?)?,
            Self::Prove(inside) => serde_json::to_value(inside::run(inside, sink)?)?,
            Self::ProbeBinfmt => serde_json::to_value(binfmt::mount_own())?,
            Self::Contents(trees) => {
                serde_json::to_value(trees.iter().map(|tree| content(tree)).collect::<Vec<_>>())?
            }
            Self::Remove(paths) => serde_json::to_value(paths.iter().try_for_each(remove)?)?,
        })
    }
}

/// Nothing where the tree cannot be read to its end, which a digest of its own would not be either.
fn content(tree: &Path) -> Option<String> {
    Root::open(tree).and_then(|root| root.content()).ok()
}

fn remove(path: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
