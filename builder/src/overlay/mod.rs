//! Overlays: folders of files and templates that are laid over the root.
//!
//! ```text
//! overlays/base/etc/docker/daemon.json.tera ─► /etc/docker/daemon.json   rendered; nothing where only blanks remain
//!               usr/lib/edgepress/first-boot ─► the same path, 0755 because it is executable here
//!               etc/systemd/…/x.wants/y.service ─► a symlink, with its target as it is
//!               var/lib/site/queue/           ─► a folder, 0755 where it is missing
//!               overlay.toml                  ─► not installed: [modes] with exceptions
//! ```
//!
//! Everything belongs to root, but what lies in the home of the recipe's account. A later folder decides on a path that
//! an earlier one also has, by whichever name ([`names`]); a template that renders to nothing there takes the earlier
//! file away. A folder that is there keeps owner and mode unless `[modes]` names it.
//!
//! [`render`] makes [`Laid`]s, which know where their content is; [`store`] makes of these what a job in the sandbox
//! takes: [`TreeEntry`]s, with contents in the store. No content of a file is held in memory, whatever its size.

mod laid;
mod lay;
pub(crate) mod names;
mod read;
mod settings;
mod tags;
mod template;

use anyhow::{Context as _, Result};

use crate::error::{Problem, problem};
use crate::recipe::types::Recipe;
use crate::store::Store;
use crate::tree::entry::{EntryKind, TreeEntry};
use crate::units::Digest;

pub(crate) use laid::{Laid, What};
pub(crate) use template::Context;

/// Renders a recipe's overlays, sorted by path; `epoch` is the time stamp of the image in seconds since 1970.
///
/// # Errors
/// The first template or file that cannot be used, by name and line.
pub(crate) fn render(recipe: &Recipe, epoch: u64) -> Result<Vec<Laid>> {
    let (laid, problems) = render_all(recipe, epoch)?;
    match problems.into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(laid),
    }
}

/// As [`render`], with everything that is wrong instead of the first.
///
/// # Errors
/// When the context of the templates cannot be made.
pub(crate) fn render_all(recipe: &Recipe, epoch: u64) -> Result<(Vec<Laid>, Vec<Problem>)> {
    let context = Context::new(recipe, epoch)?;
    let mut laying = lay::Laying::new(&context, recipe.target.arch);
    for (overlay, folder) in recipe.overlays.iter().enumerate() {
        if let Err(error) = laying.add(folder, overlay) {
            laying.problems.push(as_problem(&error));
        }
    }
    Ok(laying.finish())
}

fn as_problem(error: &anyhow::Error) -> Problem {
    problem(error).cloned().unwrap_or_else(|| Problem::input(format!("{error:#}")))
}

/// Puts the contents into the store. Earlier overlays come first: where a link that only the tree knows makes two paths
/// one, the later overlay decides here too.
///
/// # Errors
/// The file that cannot be read, or a store that cannot be written.
pub(crate) fn store(laid: &[Laid], store: &Store) -> Result<Vec<TreeEntry>> {
    let mut sorted: Vec<&Laid> = laid.iter().collect();
    sorted.sort_by_key(|laid| (laid.origin.overlay, &laid.path));
    sorted.into_iter().filter_map(|laid| entry(laid, store).transpose()).collect()
}

fn entry(laid: &Laid, store: &Store) -> Result<Option<TreeEntry>> {
    let kind = match &laid.what {
        What::Nothing => return Ok(None),
        What::Folder => EntryKind::Directory,
        What::StatedFolder => EntryKind::StatedDirectory,
        What::Symlink(target) => EntryKind::Symlink(target.clone()),
        What::Rendered(bytes) => EntryKind::Blob(store.insert_bytes(bytes)?),
        What::File(_) => EntryKind::Blob(stored(laid, store)?),
    };
    let (path, mode) = (laid.path.clone(), laid.mode);
    Ok(Some(TreeEntry { path, mode, kind, origin: Some(laid.origin.clone()) }))
}

/// Reads the file once where the store has it already, and writes nothing.
fn stored(laid: &Laid, store: &Store) -> Result<Digest> {
    let file = &laid.origin.file;
    let digest = Digest::of_file(file)?;
    if !store.has_blob(&digest) {
        let opened = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
        store.insert_reader(opened, Some(digest)).with_context(|| {
            format!("copying {} into the store (was it written to at the same time?)", file.display())
        })?;
    }
    Ok(digest)
}

#[cfg(test)]
mod tests;
