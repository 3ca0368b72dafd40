//! Which container images go into an image: by digest, so that a tag that moves changes nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::network::Network;
use super::types::Section;
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::oci::descriptor::Descriptor;
use crate::oci::reference::Reference;
use crate::recipe::modules;
use crate::recipe::types::Recipe;
use crate::registry::{Resolved, is_stored};
use crate::store::Store;
use crate::units::counted;

/// Name of the resolution in events.
pub(crate) const STEP: &str = "lock-images";
/// Name of the downloads in events.
pub(crate) const FETCH_STEP: &str = "fetch-images";

/// The images that a recipe takes from registries, each once, in order of their names.
///
/// # Errors
/// When the deployment manifest cannot be read, whose images are among them; when a name is no reference.
pub(crate) fn wanted(recipe: &Recipe) -> Result<Vec<Reference>> {
    modules::load(&recipe.modules)?;
    let pulled = recipe.engine.images.iter().filter(|image| image.is_pulled());
    let references = pulled.map(|image| image.name.parse::<Reference>().map_err(anyhow::Error::from));
    let mut references = references.collect::<Result<Vec<_>>>()?;
    references.sort_by_key(Reference::canonical);
    references.dedup();
    Ok(references)
}

/// How the images of a section differ from those that the recipe takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Names that the section lacks.
    pub lacking: Vec<String>,
    /// Names that the recipe no longer takes.
    pub left_over: Vec<String>,
}

impl Difference {
    /// Between a section and a recipe.
    ///
    /// # Errors
    /// As [`wanted`].
    pub(crate) fn between(section: &Section, recipe: &Recipe) -> Result<Self> {
        let locked: BTreeSet<String> =
            section.images.iter().map(|image| image.reference.canonical()).collect();
        let wanted: BTreeSet<String> = wanted(recipe)?.iter().map(Reference::canonical).collect();
        let names = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect();
        Ok(Self { lacking: names(&wanted, &locked), left_over: names(&locked, &wanted) })
    }

    /// Is there none?
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Why a lock with this difference is refused.
    pub(crate) fn refusal(&self, lock: &Path) -> Problem {
        let said = [("it lacks", &self.lacking), ("the recipe no longer takes", &self.left_over)];
        let said: Vec<String> = said
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        let message =
            format!("{} has other container images than the recipe: {}", lock.display(), said.join("; "));
        Problem::input(message)
            .hint("renew it: edgepress lock RECIPE, then look at the difference and commit it")
    }
}

/// Asks the registries which digests stand under the names now. `keep`: those that are locked already stay as they are.
///
/// # Errors
/// As [`crate::registry::Registry::resolve`].
pub(crate) fn resolve(
    recipe: &Recipe,
    keep: &[Resolved],
    network: &Network,
    store: &Store,
    sink: &dyn Sink,
) -> Result<Vec<Resolved>> {
    let wanted = wanted(recipe)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (start, step) = (Instant::now(), || STEP.to_owned());
    sink.emit(Event::Started { step: step(), total: Some(wanted.len() as u64), unit: Unit::Items });
    let mut images = Vec::new();
    for (done, reference) in wanted.iter().enumerate() {
        sink.emit(Event::Progress { step: step(), done: done as u64, message: reference.to_string() });
        let kept = keep.iter().find(|image| image.reference == *reference).cloned();
        images.push(match kept {
            Some(image) => image,
            None => network.registry()?.resolve(reference, recipe.target.arch, store)?,
        });
    }
    let outcome = counted(images.len() as u64, "container image");
    sink.emit(Event::Finished { step: step(), seconds: start.elapsed().as_secs_f64(), outcome });
    Ok(images)
}

/// Brings the blobs of a section's images into the store; asks no registry where all are there. Returns how many came.
///
/// # Errors
/// As [`crate::registry::Registry::fetch`].
pub(crate) fn fetch(section: &Section, network: &Network, store: &Store, sink: &dyn Sink) -> Result<usize> {
    if section.images.is_empty() {
        return Ok(0);
    }
    // Index and manifest are of no use on the device.
    let blobs =
        section.images.iter().map(|image| std::iter::once(&image.config).chain(&image.layers).collect());
    let references = section.images.iter().map(|image| &image.reference);
    let images: Vec<(&Reference, Vec<&Descriptor>)> = references.zip(blobs).collect();
    let all = images.iter().flat_map(|(_, blobs)| blobs);
    if all.clone().all(|blob| is_stored(blob, store)) {
        // Not even the files of credentials and authorities are needed.
        let outcome = format!("{}, all from the store", counted(all.count() as u64, "blob"));
        let (step, unit) = (FETCH_STEP.to_owned(), Unit::Bytes);
        sink.emit(Event::Started { step: step.clone(), total: Some(0), unit });
        sink.emit(Event::Finished { step, seconds: 0.0, outcome });
        return Ok(0);
    }
    Ok(network.registry()?.fetch(&images, store, FETCH_STEP, sink)?.blobs)
}
