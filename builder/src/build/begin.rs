//! What a build looks at before it works for minutes: may the output folder be written, whose lock is it, are the
//! packages still whole, is there room for all of it?

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Options;
use crate::error::Problem;
use crate::event::Sink;
use crate::lock;
use crate::lock::local::LocalDeb;
use crate::lock::network::Network;
use crate::lock::types::Section;
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
    options: &Options,
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

/// Reads the packages before they are installed, or where one could not be read: the disk may have lost what was
/// checked when it was downloaded. Was one damaged, and is fetched anew?
///
/// # Errors
/// When one cannot be fetched.
pub(super) fn mended(
    section: &Section,
    recipe: &Recipe,
    network: &Network,
    store: &Store,
    sink: &dyn Sink,
) -> Result<bool> {
    let needed: Vec<Digest> = section.needed().map(|package| package.sha256).collect();
    let damaged = store.damaged(&needed)?;
    for package in section.needed().filter(|package| damaged.contains(&package.sha256)) {
        sink.warn(format!(
            "the store {} is damaged: {} {} has lost its content on the disk, and is fetched anew \
             (`edgepress store verify` looks at all of it)",
            store.root().display(),
            package.name,
            package.version
        ));
    }
    if damaged.is_empty() {
        return Ok(false);
    }
    lock::fetch(section, recipe, network.mirrors(), store, sink)?;
    Ok(true)
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
    use crate::error::{Kind, problem};
    use crate::lock::tests::recipe;

    #[test]
    fn an_output_folder_that_cannot_be_written_is_an_input_error() {
        let out = tempfile::tempdir().expect("temporary folder");
        assert!(folder(out.path(), &recipe()).expect("makes it").ends_with("test-x86_64"));
        let file = out.path().join("file");
        std::fs::write(&file, "x").expect("writes");
        let error = folder(&file, &recipe()).expect_err("a file is no folder");
        let problem = problem(&error).expect("a problem");
        assert!(problem.kind == Kind::Input && problem.message.contains("cannot be written"), "{problem}");
    }
}
