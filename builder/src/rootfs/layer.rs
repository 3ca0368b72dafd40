//! Makes one layer, or shows a stack of them to something that reads it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::packages::{DebFile, Installer, NoServices};
use super::{accounts, clean, files, initramfs, mounts, sync};
use crate::event::{Event, Sink, Unit};
use crate::foreign::{Foreign, tools};
use crate::overlay::Entry;
use crate::tree::Root;
use crate::units::Arch;

/// Where a layer is made and from what; every path is one of the host's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerJob {
    /// Step name, for events.
    pub step: String,
    /// Trees below, bottom first.
    pub lowers: Vec<PathBuf>,
    /// Folder for work that is thrown away; on the file system of the trees.
    pub scratch: PathBuf,
    /// The new layer's tree; an empty folder.
    pub tree: PathBuf,
    /// The store's folder of blobs.
    pub blobs: PathBuf,
    /// Time stamp of what scripts write, seconds since 1970.
    pub epoch: u64,
    /// For a tree of another architecture than this machine's: how its programs are run.
    pub foreign: Option<Foreign>,
    /// What to do.
    pub action: Action,
}

/// What makes the layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A new tree from packages.
    Bootstrap {
        /// Of these packages.
        debs: Vec<DebFile>,
        /// Of this architecture.
        arch: Arch,
    },
    /// More packages; `last`: the runtime's users must be complete afterwards.
    Install {
        /// The packages.
        debs: Vec<DebFile>,
        /// Assert the accounts.
        last: bool,
    },
    /// The initramfs, with the files that steer how it is made.
    Initramfs {
        /// Laid over the tree first.
        files: Vec<Entry>,
        /// Does the recipe want one?
        wanted: bool,
    },
    /// Everything that is no package.
    Files(files::Files),
    /// No layer of the image: programs of this machine that build trees of another architecture; see [`tools`].
    Tools {
        /// Packages of this machine.
        debs: Vec<DebFile>,
        /// The trees' architecture.
        target: Arch,
    },
}

/// Makes the layer; called in a sandbox.
///
/// # Errors
/// What the packages' scripts or the file system said.
pub fn make(job: &LayerJob, sink: &dyn Sink) -> Result<()> {
    sync::suppress()?;
    let installer = |root| Installer { root, blobs: &job.blobs, epoch: job.epoch, step: &job.step, sink };
    let stacked = Stack::open(&job.lowers, &job.tree, &job.scratch)?;
    let root = stacked.root();
    match &job.action {
        Action::Bootstrap { debs, arch } => installer(root).bootstrap(*arch, debs)?,
        Action::Tools { debs, target } => {
            started(job, sink);
            installer(root).extract(Arch::host(), debs)?;
            return tools::prepare(&stacked.tree()?, *target, sink);
        }
        _ => {}
    }
    mounts::around(root, &job.blobs)?;
    let foreign = job.foreign.as_ref().map(|foreign| foreign.enter(root, &job.scratch)).transpose()?;
    let no_services = NoServices::install(root)?;
    match &job.action {
        Action::Bootstrap { debs, .. } => installer(root).install(debs)?,
        Action::Install { debs, last } => {
            installer(root).install(debs)?;
            if *last {
                accounts::assert(&Root::open(root)?)?;
            }
        }
        Action::Initramfs { files, wanted } => {
            started(job, sink);
            initramfs::make(root, files, &job.blobs, *wanted, job.epoch)?;
        }
        Action::Files(files) => {
            started(job, sink);
            files.lay(root, &job.blobs, job.epoch, sink)?;
        }
        Action::Tools { .. } => {}
    }
    no_services.remove()?;
    clean::scrub(&stacked.tree()?)?;
    if let Some(foreign) = foreign {
        foreign.leave()?;
    }
    mounts::clear(root)?;
    drop(stacked);
    clean::clamp_times(&Root::open(&job.tree)?, job.epoch)
}

fn started(job: &LayerJob, sink: &dyn Sink) {
    sink.emit(Event::Started { step: job.step.clone(), total: None, unit: Unit::Items });
}

/// Layers seen as one tree while this lives.
pub struct Stack {
    root: PathBuf,
    mounted: bool,
}

impl Stack {
    /// Mounts `lowers` with `tree` on top; where there are no lowers, `tree` is the root itself.
    ///
    /// # Errors
    /// See [`mounts::overlay`].
    pub fn open(lowers: &[PathBuf], tree: &Path, scratch: &Path) -> Result<Self> {
        if lowers.is_empty() {
            return Ok(Self { root: tree.to_owned(), mounted: false });
        }
        let root = scratch.join("merged");
        mounts::overlay(lowers, tree, &scratch.join("work"), &root)?;
        Ok(Self { root, mounted: true })
    }

    /// Mounts `lowers` to be read.
    ///
    /// # Errors
    /// See [`mounts::overlay`].
    pub fn read_only(lowers: &[PathBuf], scratch: &Path) -> Result<Self> {
        let root = scratch.join("merged");
        mounts::view(lowers, &root)?;
        Ok(Self { root, mounted: true })
    }

    /// A handle on the tree. Give it back before this ends, which takes the mount away.
    ///
    /// # Errors
    /// See [`Root::open`].
    pub fn tree(&self) -> Result<Root> {
        Root::open(&self.root)
    }

    /// The tree's path on this machine, for programs that are started with it as their root.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.mounted {
            // The namespace ends soon, and the mount with it.
            mounts::detach(&self.root).ok();
        }
    }
}

/// Kernel versions in a tree: the folders of `/lib/modules`, oldest name first.
///
/// # Errors
/// When the folder cannot be read.
pub fn kernels(root: &Root) -> Result<Vec<String>> {
    let entries = root.list("usr/lib/modules")?;
    Ok(entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
}
