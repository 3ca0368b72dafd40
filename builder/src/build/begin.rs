//! What a build looks at before it works for minutes: may the output folder be written, whose lock is it, are the
//! packages still whole, is there room for all of it?

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::BuildOptions;
use super::plan::{Missing, Plan};
use crate::error::Problem;
use crate::event::Sink;
use crate::lock;
use crate::lock::local::LocalDeb;
use crate::lock::network::Network;
use crate::lock::types::{Locked, Section};
use crate::recipe::types::Recipe;
use crate::store::{Store, room};
use crate::units::Digest;

/// What to do where the output folder has no room.
const NO_ROOM: &str = "free some space, or name a folder on a larger disk with --out";

/// The output folder, made and found to be writable: everything before the image is made in the store.
///
/// # Errors
/// When it cannot be made or written.
pub(super) fn folder(out: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let folder = out.join(format!("{}-{}", recipe.name, recipe.target.arch));
    let made = fs::create_dir_all(&folder).and_then(|()| fs::canonicalize(&folder));
    let tried = made.and_then(|absolute| room::writable(&absolute).map(|()| absolute));
    tried.map_err(|error| {
        Problem::input(format!("the output folder {} cannot be written: {error}", folder.display()))
            .hint("name another with --out")
            .into()
    })
}

/// The lock beside the recipe; where `--set` asks for other packages, one beside the image.
pub(super) fn lock_file(
    options: &BuildOptions,
    recipe: &Recipe,
    debs: &[LocalDeb],
    folder: &Path,
    sink: &dyn Sink,
) -> PathBuf {
    let beside_recipe = lock::owner::beside_recipe(&options.recipe, &options.sets, recipe, debs);
    beside_recipe.unwrap_or_else(|| {
        let own = lock::file::path(&folder.join("recipe"), recipe);
        sink.note(format!(
            "--set asks for other packages than the recipe: they are locked in {}, and the recipe's own lock stays",
            own.display()
        ));
        own
    })
}

/// What was downloaded, and where it comes from.
pub(super) struct Downloads<'a> {
    pub section: &'a Section,
    pub recipe: &'a Recipe,
    pub network: &'a Network,
    pub store: &'a Store,
}

impl Downloads<'_> {
    /// Reads what is about to be installed or unpacked: the disk may have lost what was checked when it was downloaded. Was
    /// something damaged, and is fetched anew? (What came out of a file of the recipe is taken out of it again by the next
    /// plan.)
    ///
    /// # Errors
    /// When something cannot be fetched.
    pub(super) fn mended(&self, plan: Option<&Plan>, missing: Missing, sink: &dyn Sink) -> Result<bool> {
        let mut needed: BTreeMap<Digest, String> = BTreeMap::new();
        if missing.packages {
            let named = |package: &Locked| (package.sha256, format!("{} {}", package.name, package.version));
            needed.extend(self.section.needed().map(named));
        }
        if missing.images {
            let blob = |digest: Digest| (digest, format!("the blob {} of a container image", digest.short()));
            needed.extend(plan.into_iter().flat_map(Plan::image_blobs).map(|(digest, _)| blob(digest)));
            let locked =
                self.section.images.iter().flat_map(|image| image.layers.iter().chain([&image.config]));
            needed.extend(locked.map(|descriptor| blob(descriptor.digest)));
        }
        let damaged = self.store.damaged(&needed.keys().copied().collect::<Vec<_>>())?;
        for name in damaged.iter().filter_map(|digest| needed.get(digest)) {
            sink.warn(format!(
                "the store {} is damaged: {name} has lost its content on the disk, and is fetched anew \
                 (`edgepress store verify` looks at all of it)",
                self.store.root().display(),
            ));
        }
        if damaged.is_empty() {
            return Ok(false);
        }
        lock::fetch(self.section, self.recipe, self.network.mirrors(), self.store, sink)?;
        lock::images::fetch(self.section, self.network, self.store, sink)?;
        Ok(true)
    }
}

/// Is there room for the trees in the store and for the image in its folder? `packages` and `images` are the bytes of what
/// is to be unpacked; what packages say of their size is an estimate, so that three quarters of it count.
///
/// # Errors
/// When there is certainly too little.
pub(super) fn room(packages: u64, images: u64, store: &Store, folder: &Path) -> Result<()> {
    let size = (packages / 4 * 3).saturating_add(images);
    if size == 0 {
        return Ok(());
    }
    let disk = |path: &Path| -> Result<u64> {
        Ok(fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.dev())
    };
    if disk(store.root())? == disk(folder)? {
        return store.needs(
            size.saturating_mul(2),
            "what the packages and container images unpack to, and the image",
        );
    }
    store.needs(size, "what the packages and container images unpack to")?;
    room::needs(folder, size, "the image", NO_ROOM)
}

/// Puts a failure for want of room into plain words: of the store or of the output folder, whichever has less.
///
/// # Errors
/// Those of `result`.
pub(super) fn explained<T>(result: Result<T>, store: &Store, folder: &Path) -> Result<T> {
    let free = |path: &Path| room::free(path).unwrap_or(u64::MAX);
    if free(store.root()) < free(folder) {
        store.explained(result)
    } else {
        room::explained(result, folder, NO_ROOM)
    }
}

#[cfg(test)]
mod tests {
    use super::folder;
    use crate::error::{ProblemKind, problem};
    use crate::lock::tests::recipe;

    #[test]
    fn an_output_folder_that_cannot_be_written_is_an_input_error() {
        let out = tempfile::tempdir().expect("temporary folder");
        assert!(folder(out.path(), &recipe()).expect("makes it").ends_with("test-x86_64"));
        let file = out.path().join("file");
        std::fs::write(&file, "x").expect("writes");
        let error = folder(&file, &recipe()).expect_err("a file is no folder");
        let problem = problem(&error).expect("a problem");
        assert!(
            problem.kind == ProblemKind::Input && problem.message.contains("cannot be written"),
            "{problem}"
        );
    }
}
