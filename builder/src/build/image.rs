//! The last step: layers become a disk image, beside it its manifest and digests.
//!
//! The image is written under a temporary name in the output folder and renamed when it is whole; what stood there
//! before stays until then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Build;
use super::manifest::{self, Manifest, Output, Partition};
use super::plan::Plan;
use super::steps::Step;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::interrupt;
use crate::recipe::types::{Board, Recipe};
use crate::rootfs::layer::{Stack, kernels};
use crate::rootfs::{guard, images};
use crate::sandbox::{self, Job};
use crate::store::Store;
use crate::units::Digest;
use crate::{board, disk, foreign};

/// Name of the digests beside an image, in the form that `sha256sum --check` reads.
const DIGESTS: &str = "SHA256SUMS";

/// Makes the image; runs in a sandbox, where the tree's owners are those of the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageJob {
    /// Trees of the layers, bottom first.
    pub lowers: Vec<PathBuf>,
    /// Folder to stack them at.
    pub scratch: PathBuf,
    /// The file to write.
    pub out: PathBuf,
    /// The recipe.
    pub recipe: Recipe,
    /// Digest that the identifiers come from.
    pub seed: Digest,
    /// Time stamp, seconds since 1970.
    pub epoch: u64,
    /// The account's authorized_keys, as the recipe has them.
    pub authorized_keys: String,
    /// Digest of the file with the Wi-Fi's key that the recipe brings.
    pub wifi: Option<Digest>,
}

/// What the sandbox says of the image that it made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    partitions: Vec<Partition>,
    kernels: Vec<String>,
    sha256: Digest,
}

impl ImageJob {
    /// Guards the tree against leaks of identity, then writes the disk.
    ///
    /// # Errors
    /// All leaks at once; a disk that is too small; no space left.
    pub fn make(&self, sink: &dyn Sink) -> Result<Made> {
        let stack = Stack::read_only(&self.lowers, &self.scratch)?;
        let root = stack.root();
        self.guard(root)?;
        let ids = Ids::from_seed(&self.seed);
        let fat_files = board::boot_files(root, &self.recipe, &ids)?;
        let board = self.recipe.target.board;
        let plan = disk::Plan {
            tree: root.to_owned(),
            out: self.out.clone(),
            board,
            arch: self.recipe.target.arch,
            fat_size: self.recipe.disk.fat_size(board).0,
            fat_spare: board::fat_spare(board, &fat_files),
            size: self.recipe.disk.size.map(|size| size.0),
            free: self.recipe.disk.free.0,
            ids,
            epoch: self.epoch,
            fat_files,
        };
        let partitions = disk::make(&plan, sink)?;
        Ok(Made { partitions, kernels: kernels(root)?, sha256: disk::sparse::digest(&self.out)? })
    }

    fn guard(&self, root: &Path) -> Result<()> {
        let preloaded = self.recipe.engine.images.iter().enumerate();
        let allowed = guard::Allowed {
            images: preloaded.map(|(at, image)| images::archive_name(at, &image.name)).collect(),
            authorized_keys: BTreeSet::from([Digest::of(&self.authorized_keys)]),
            wifi: self.wifi,
        };
        guard::refuse(&guard::check(root, &allowed)?)?;
        foreign::refuse_leftovers(root, self.recipe.target.arch)
    }
}

/// The image as files in the output folder.
pub struct Image<'a> {
    /// Recipe and inputs.
    pub plan: &'a Plan,
    /// Key of the last layer.
    pub below: Digest,
    /// Trees of the layers.
    pub trees: Vec<PathBuf>,
    /// Folder that the user asked for.
    pub out: PathBuf,
    /// For scratch space.
    pub store: &'a Store,
    /// Listener.
    pub sink: &'a dyn Sink,
}

/// An image that is there.
pub struct Ready {
    /// The file.
    pub path: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
    /// Bytes on the disk.
    pub allocated: u64,
}

/// What an image file looked like when it was finished; any write to it since shows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    key: Digest,
    size: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path, key: Digest) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        // ctime, unlike mtime, cannot be set back by a program.
        Some(Self { key, size: data.size(), inode: data.ino(), changed: (data.ctime(), data.ctime_nsec()) })
    }
}

impl Image<'_> {
    /// Makes the image, unless the one in the output folder was made from the same inputs and not touched since.
    ///
    /// # Errors
    /// See [`ImageJob::make`]; or the output folder cannot be written.
    pub(super) fn make(&self, build: &mut Build<'_>) -> Result<Ready> {
        let timer = Instant::now();
        let recipe = &self.plan.recipe;
        let folder = self.out.join(format!("{}-{}", recipe.name, recipe.target.arch));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let folder = fs::canonicalize(&folder)?;
        let path = folder.join(format!("{}.img", recipe.name));
        let step = self.step();
        let stamp_file = self.stamp_file(&path);
        if let Some(ready) = unchanged(&path, &stamp_file, step.key()) {
            build.finish(&step, true, timer);
            return Ok(ready);
        }
        self.sink.emit(Event::Started { step: "image".into(), total: None, unit: Unit::Items });
        let staging = self.store.staging("image")?;
        let partial = Partial::claim(&path)?;
        let job = ImageJob {
            lowers: self.trees.clone(),
            scratch: staging.path().to_owned(),
            out: partial.path.clone(),
            recipe: recipe.clone(),
            seed: self.plan.seed,
            epoch: self.plan.epoch,
            authorized_keys: self.plan.authorized_keys.clone(),
            wifi: board::wifi::allowed(recipe.network.wifi.as_ref())?,
        };
        let made: Made = sandbox::run(&Job::Image(Box::new(job)), self.sink)?;
        partial.persist(&path)?;
        build.finish(&step, false, timer);
        let ready = self.describe(&folder, &path, made, build.seconds())?;
        let stamp = Stamp::of(&path, step.key());
        fs::write(&stamp_file, serde_json::to_vec(&stamp)?).context("remembering the image's state")?;
        Ok(ready)
    }

    fn step(&self) -> Step {
        let recipe = &self.plan.recipe;
        let fat = recipe.disk.fat_size(recipe.target.board);
        let inputs = [
            ("layer below".to_owned(), self.below.to_string()),
            ("identifiers".to_owned(), self.plan.seed.to_string()),
            ("time stamp".to_owned(), self.plan.epoch.to_string()),
            ("target".to_owned(), Digest::of_json(&recipe.target).to_string()),
            ("disk".to_owned(), Digest::of_json(&(&recipe.disk, fat)).to_string()),
            // The manifest carries these.
            ("manifest".to_owned(), Digest::of_json(&(&self.plan.inputs, &recipe.description)).to_string()),
        ];
        Step::new("image", inputs)
    }

    fn stamp_file(&self, image: &Path) -> PathBuf {
        let id = Digest::of(image.display().to_string()).short();
        self.store.steps_dir().join(format!("{id}.image.json"))
    }

    /// Writes manifest and digests.
    fn describe(
        &self,
        folder: &Path,
        path: &Path,
        made: Made,
        seconds: BTreeMap<String, f64>,
    ) -> Result<Ready> {
        let recipe = &self.plan.recipe;
        let data = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
        let file = PathBuf::from(path.file_name().context("naming the image")?);
        let manifest = Manifest {
            edgepress: env!("CARGO_PKG_VERSION").into(),
            name: recipe.name.clone(),
            description: recipe.description.clone(),
            arch: recipe.target.arch,
            board: recipe.target.board,
            models: match recipe.target.board {
                Board::RaspberryPi => recipe.target.raspberry_pi.models.clone(),
                Board::Uefi => Vec::new(),
            },
            inputs: self.plan.inputs.clone(),
            kernels: made.kernels,
            epoch: self.plan.epoch,
            provisioning: recipe.provisioning.in_image(),
            config_toml: self.plan.config_toml(),
            engine_dns: recipe.engine.dns.clone(),
            partitions: made.partitions,
            outputs: vec![Output { file: file.clone(), size: data.len(), sha256: made.sha256 }],
            seconds,
        };
        replace(&folder.join(manifest::FILE_NAME), &serde_json::to_vec_pretty(&manifest)?)?;
        replace(&folder.join(DIGESTS), format!("{}  {}\n", made.sha256, file.display()).as_bytes())?;
        Ok(ready(path, made.sha256, &data))
    }
}

fn ready(path: &Path, sha256: Digest, data: &fs::Metadata) -> Ready {
    const BLOCK: u64 = 512;
    Ready { path: path.to_owned(), sha256, size: data.size(), allocated: data.blocks() * BLOCK }
}

/// The image at `path`, if it is the one made under `key`, untouched, and its manifest is there.
fn unchanged(path: &Path, stamp_file: &Path, key: Digest) -> Option<Ready> {
    let stamp: Stamp = serde_json::from_slice(&fs::read(stamp_file).ok()?).ok()?;
    if Stamp::of(path, key)? != stamp {
        return None;
    }
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(path.with_file_name(manifest::FILE_NAME)).ok()?).ok()?;
    let output = manifest.outputs.iter().find(|output| Some(output.file.as_os_str()) == path.file_name())?;
    path.with_file_name(DIGESTS).exists().then_some(())?;
    Some(ready(path, output.sha256, &fs::metadata(path).ok()?))
}

/// The image while it is written: beside its final place, so that the rename stays on one file system, and under one
/// name, so that what a killed build left is written over. Removed on every way out but [`Partial::persist`].
struct Partial {
    path: PathBuf,
    _lock: Flock<File>,
    _guard: interrupt::Guard,
}

impl Partial {
    fn claim(image: &Path) -> Result<Self> {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let path = image.with_file_name(format!(".{name}.partial"));
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.with_context(|| format!("creating {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Problem::work(format!("another build is writing {}", image.display()))
                .hint("wait for it to end, or choose another folder with --out")
        })?;
        let doomed = path.clone();
        let guard = interrupt::on_interrupt(move || drop(fs::remove_file(&doomed)));
        Ok(Self { path, _lock: lock, _guard: guard })
    }

    fn persist(self, image: &Path) -> Result<()> {
        fs::rename(&self.path, image).with_context(|| format!("moving the image to {}", image.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already where it became the image.
        fs::remove_file(&self.path).ok();
    }
}

/// Writes a small file all or not at all.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("writing {}", path.display()))
}
