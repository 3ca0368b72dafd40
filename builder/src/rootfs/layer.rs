//! Makes one layer, or shows a stack of them to something that reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::stat::{Mode, umask};
use nix::unistd::sethostname;
use serde::{Deserialize, Serialize};

use super::packages::{DebFile, Installer, NoServices};
use super::{accounts, clean, engine_store, files, initramfs, package_keys, sync};
use crate::board::Program;
use crate::chroot::Chroot;
use crate::chroot::mounts;
use crate::event::{Event, Sink, Unit};
use crate::foreign::{Foreign, tools};
use crate::sandbox::confined::Limits;
use crate::sandbox::{Job, World};
use crate::tree::Root;
use crate::tree::entry::TreeEntry;
use crate::units::Arch;

/// Where a layer is made and from what; every path is one of the host's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerJob {
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
    /// The machine's name while packages' scripts run: that of the recipe.
    pub hostname: String,
    /// What packages' scripts may take.
    pub limits: Limits,
    /// Files that packages made and the recipe names: taken out before the last layer's files are laid.
    pub remove: Vec<PathBuf>,
    /// Files with keys that the recipe says are no secret.
    pub keep_keys: Vec<PathBuf>,
    /// What to do.
    pub action: Action,
}

/// What makes the layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
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
    /// What the tree's own program makes of the boot loader's packages.
    BootLoader(Program),
    /// The initramfs, with the files that steer how it is made.
    Initramfs {
        /// Laid over the tree first.
        files: Vec<TreeEntry>,
        /// Does the recipe want one?
        wanted: bool,
    },
    /// Container images in the engine's own store; needs nothing of the layers below.
    Images(Vec<engine_store::Image>),
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

impl Action {
    /// Needs nothing of the layers below: what it makes is the same over any.
    pub(crate) fn stands_alone(&self) -> bool {
        matches!(self, Self::Images(_))
    }
}

impl Job for LayerJob {
    const NAME: &'static str = "layer";
    /// The digest of the layer's content, see [`Root::content`].
    type Answer = String;

    fn doing(&self) -> String {
        format!("making layer `{}`", self.step)
    }

    fn world(&self) -> Option<World> {
        Some(self.seen())
    }

    fn execute(&self, sink: &dyn Sink) -> Result<String> {
        make(self, sink)
    }
}

impl LayerJob {
    /// What of the host it reads and writes.
    fn seen(&self) -> World {
        let mut read = self.lowers.clone();
        read.push(self.blobs.clone());
        read.extend(self.foreign.iter().flat_map(Foreign::files));
        if let Action::Files(files) = &self.action {
            read.extend(files.images.iter().filter_map(|image| image.archive().map(Path::to_owned)));
        }
        // Tree and scratch are folders of one staging folder, and overlayfs wants them in one mount.
        let staging = self.scratch.parent().map(Path::to_owned);
        World { read, write: staging.into_iter().collect() }
    }
}

/// Makes the layer and returns the digest of its content.
fn make(job: &LayerJob, sink: &dyn Sink) -> Result<String> {
    sync::suppress()?;
    sethostname(&job.hostname).context("naming the sandbox as the recipe names the device")?;
    // The modes of what edgepress makes itself; the folder was made under the caller's mask.
    umask(Mode::from_bits_truncate(0o022));
    fs::set_permissions(&job.tree, fs::Permissions::from_mode(0o755)).context("opening the new tree")?;
    let stacked = Stack::open(&job.lowers, &job.tree, &job.scratch)?;
    let root = stacked.tree()?;
    let (folder, limits) = (stacked.root(), job.limits);
    let tree = Chroot { root: &root, folder, epoch: job.epoch, limits, sink };
    let installer = Installer { tree, blobs: &job.blobs, step: &job.step };
    match &job.action {
        Action::Bootstrap { debs, arch } => installer.bootstrap(*arch, debs)?,
        Action::Tools { debs, target } => {
            started(job, sink);
            installer.extract(Arch::host(), debs)?;
            tools::prepare(&tree, *target)?;
            return root.content();
        }
        Action::Images(images) => {
            started(job, sink);
            for passed in engine_store::put(&root, images)? {
                sink.warn(format!(
                    "{} in a container image: {} is left out",
                    passed.path.display(),
                    passed.what
                ));
            }
            // Of files of a layer the times are the image's.
            engine_store::settle(&root)?;
            return root.content();
        }
        _ => {}
    }
    mounts::around(&root, &job.blobs)?;
    let foreign = job.foreign.as_ref().map(|foreign| foreign.enter(&root, &job.scratch)).transpose()?;
    let no_services = NoServices::install(&root)?;
    act(job, &tree, &installer)?;
    no_services.remove(&root)?;
    clean::scrub(&root)?;
    if matches!(job.action, Action::Bootstrap { .. } | Action::Install { .. }) {
        package_keys::refuse(&root, &[&job.remove[..], &job.keep_keys].concat())?;
    }
    if let Some(foreign) = foreign {
        foreign.leave(&root)?;
    }
    mounts::clear(&root)?;
    drop(root);
    drop(stacked);
    let made = Root::open(&job.tree)?;
    clean::clamp_times(&made, job.epoch)?;
    made.content()
}

/// What needs the tree's own programs.
fn act(job: &LayerJob, tree: &Chroot<'_>, installer: &Installer<'_>) -> Result<()> {
    match &job.action {
        Action::Bootstrap { debs, .. } => installer.install(debs, &job.hostname),
        Action::Install { debs, last } => {
            installer.install(debs, &job.hostname)?;
            if *last { accounts::assert(tree.root) } else { Ok(()) }
        }
        Action::BootLoader(Program { folder, words }) => {
            started(job, tree.sink);
            let (name, arguments) = words.split_first().context("running a program without a name")?;
            tree.root.make_folders(folder.trim_start_matches('/'))?;
            tree.run(&tree.program(name).args(arguments), |_| {})
        }
        Action::Initramfs { files, wanted } => {
            started(job, tree.sink);
            initramfs::make(tree, files, &job.blobs, *wanted)
        }
        Action::Files(files) => {
            started(job, tree.sink);
            package_keys::remove(tree.root, &job.remove)?;
            files.lay(tree, &job.blobs, &job.scratch)
        }
        Action::Tools { .. } | Action::Images(_) => Ok(()),
    }
}

fn started(job: &LayerJob, sink: &dyn Sink) {
    sink.emit(Event::Started { step: job.step.clone(), total: None, unit: Unit::Items });
}

/// Layers seen as one tree while this lives.
pub(crate) struct Stack {
    root: PathBuf,
    mounted: bool,
}

impl Stack {
    /// Mounts `lowers` with `tree` on top; where there are no lowers, `tree` is the root itself.
    ///
    /// # Errors
    /// See [`mounts::overlay`].
    pub(crate) fn open(lowers: &[PathBuf], tree: &Path, scratch: &Path) -> Result<Self> {
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
    pub(crate) fn read_only(lowers: &[PathBuf], scratch: &Path) -> Result<Self> {
        let root = scratch.join("merged");
        mounts::view(lowers, &root)?;
        Ok(Self { root, mounted: true })
    }

    /// A handle on the tree. Give it back before this ends, which takes the mount away.
    ///
    /// # Errors
    /// See [`Root::open`].
    pub(crate) fn tree(&self) -> Result<Root> {
        Root::open(&self.root)
    }

    /// The tree's path on this machine, for programs that are started with it as their root.
    pub(crate) fn root(&self) -> &Path {
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
pub(crate) fn kernels(root: &Root) -> Result<Vec<String>> {
    let entries = root.list("usr/lib/modules")?;
    Ok(entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect())
}
