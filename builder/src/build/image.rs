//! The step before the last: layers become a raw disk image.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::disk::Partition;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::event::Sink;
use crate::recipe::types::Recipe;
use crate::rootfs::layer::{Stack, kernels};
use crate::rootfs::{guard, images};
use crate::sandbox::Job;
use crate::sbom::{self, Inventory};
use crate::tree::Root;
use crate::units::Digest;
use crate::{board, disk, foreign};

/// Makes the image; runs in a sandbox, where the tree's owners are those of the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageJob {
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
    /// Digest of the account's authorized_keys, as the recipe has them.
    pub authorized_keys: Digest,
    /// Digest of the file with the Wi-Fi's key that the recipe brings.
    pub wifi: Option<Digest>,
}

/// What the sandbox says of the image that it made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Its partitions in order.
    pub partitions: Vec<Partition>,
    /// Kernel versions in it.
    pub kernels: Vec<String>,
    /// What is in its root.
    pub inventory: Inventory,
}

impl Job for ImageJob {
    const NAME: &'static str = "image";
    type Answer = Made;

    fn doing(&self) -> String {
        "making the image".into()
    }

    fn execute(&self, sink: &dyn Sink) -> Result<Made> {
        self.make(sink)
    }
}

impl ImageJob {
    /// Guards the tree against leaks of identity, then writes the disk.
    ///
    /// # Errors
    /// All leaks at once; a disk that is too small; no space left.
    fn make(&self, sink: &dyn Sink) -> Result<Made> {
        let stack = Stack::read_only(&self.lowers, &self.scratch)?;
        let root = &stack.tree()?;
        self.guard(root)?;
        let ids = Ids::from_seed(&self.seed);
        let board = board::of(self.recipe.target.board);
        let fat_files = board.boot_files(root, &self.recipe, &ids)?;
        let boot_code = board.boot_code(root)?;
        let plan = disk::Plan {
            tree: stack.root().to_owned(),
            out: self.out.clone(),
            scheme: board.scheme(),
            arch: self.recipe.target.arch,
            fat_size: self.recipe.disk.fat_size(self.recipe.target.board).0,
            fat_spare: board.fat_spare(&fat_files),
            size: self.recipe.disk.size.map(|size| size.0),
            free: self.recipe.disk.free.0.saturating_add(images::room_to_load(root)?),
            ids,
            epoch: self.epoch,
            fat_files,
            boot_code,
        };
        let partitions = disk::make(&plan, sink)?;
        let inventory = sbom::collect(root, &self.recipe.engine)?;
        Ok(Made { partitions, kernels: kernels(root)?, inventory })
    }

    fn guard(&self, root: &Root) -> Result<()> {
        let allowed = guard::Allowed {
            images: images::archive_names(&self.recipe.engine).into_iter().collect(),
            engine_store: images::in_store(&self.recipe.engine),
            authorized_keys: BTreeSet::from([self.authorized_keys]),
            keys: self.recipe.packages.keep_keys.iter().cloned().collect(),
            wifi: self.wifi,
        };
        if let Some(gone) = allowed.keys.iter().find(|path| !root.exists(path)) {
            let message = format!("packages.keep_keys names {}, which is not in the image", gone.display());
            return Err(Problem::input(message).hint("name a file that is there, or drop the line").into());
        }
        guard::refuse(&guard::check(root, &allowed)?)?;
        foreign::refuse_leftovers(root, self.recipe.target.arch)
    }
}
