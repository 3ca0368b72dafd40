//! What goes along with every image: bills of materials, and for a Raspberry Pi the list that its Imager reads.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::image::Made;
use super::plan::Plan;
use crate::files;
use crate::manifest::{Output, Raw};
use crate::os_list::{self, Download};
use crate::sbom::Bill;
use crate::sign;
use crate::units::Digest;

/// Version of what is written here: a change makes it anew beside images that did not change. Part of the key of `export`.
pub(crate) const VERSION: &str = "1";

/// Writes the documents of the raw image `raw` into the folder where `outputs` are, and says what they are.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    plan: &Plan,
    folder: &Path,
    made: &Made,
    raw: Raw,
    outputs: &[Output],
) -> Result<Vec<Output>> {
    let recipe = &plan.recipe;
    let bill = Bill {
        name: &recipe.name,
        description: &recipe.description,
        arch: recipe.target.arch,
        sha256: raw.sha256,
        epoch: plan.epoch,
        inventory: &made.inventory,
        origins: &plan.origins,
    };
    let mut files = bill.documents()?.to_vec();
    let offered = |format| outputs.iter().find(|output| output.format == Some(format));
    if os_list::wanted(recipe)
        && let Some(output) = os_list::FORMATS.into_iter().find_map(offered)
    {
        let download = Download {
            file: &output.file.to_string_lossy(),
            size: output.size,
            sha256: output.sha256,
            raw_size: raw.size,
            raw_sha256: raw.sha256,
        };
        files.push((os_list::FILE_NAME, os_list::document(recipe, &download, plan.epoch)?));
    }
    remove_signatures(folder)?;
    let written = files.into_iter().map(|(name, text)| {
        files::write(&folder.join(name), 0o644, &text)?;
        let file = PathBuf::from(name);
        Ok(Output { file, format: None, size: text.len() as u64, sha256: Digest::of(&text), raw: None })
    });
    written.collect()
}

/// A signature over the digests of an earlier build would not fit those that are written next.
fn remove_signatures(folder: &Path) -> Result<()> {
    for name in [sign::SSH_SIGNATURE, sign::MINISIGN_SIGNATURE] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing the old {name}"));
            }
            _ => {}
        }
    }
    Ok(())
}
