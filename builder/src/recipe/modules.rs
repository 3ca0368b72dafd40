//! The deployment manifest that a recipe names: read, and its images added to those that the recipe has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::types::{EngineImage, Modules, Recipe};
use crate::deployment::{Manifest, Values};
use crate::error::Problem;
use crate::finding::{Finding, Place};
use crate::oci::reference::Reference;

/// Most bytes of a manifest, or of a file of values: IoT Hub takes 32 KB of desired properties a twin.
const LARGEST: u64 = 4 << 20;

/// The manifest, filled in where it is a template; nothing where the recipe has none.
///
/// # Errors
/// What is wrong with its form, or its values'.
pub(crate) fn read(modules: &Modules) -> Result<Option<Manifest>, Vec<Finding>> {
    let Some(manifest) = &modules.manifest else { return Ok(None) };
    let values = match &modules.values {
        Some(file) => Some(Values::parse(&file.display().to_string(), &text(file)?)?),
        None => None,
    };
    Manifest::of(&manifest.display().to_string(), &text(manifest)?, values.as_ref()).map(Some)
}

/// As [`read`], for who cannot go on without it.
///
/// # Errors
/// A [`Problem`] with all that is wrong.
pub(crate) fn load(modules: &Modules) -> Result<Option<Manifest>, Problem> {
    read(modules).map_err(|found| {
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        Problem::input(said.join("\n")).findings(&found)
    })
}

fn text(file: &Path) -> Result<String, Vec<Finding>> {
    let wrong = |message: String| vec![Finding::error(message).at(Place::file(file.display().to_string()))];
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(wrong(format!("it has more than {} MiB", LARGEST >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))
}

/// Adds the images of the manifest's modules that the recipe does not have by themselves. Of a manifest that cannot be read
/// there are none: `check` says why.
pub(super) fn add_images(recipe: &mut Recipe) {
    let manifest = if recipe.modules.preload { read(&recipe.modules).ok().flatten() } else { None };
    let Some(manifest) = manifest else { return };
    let there: BTreeSet<String> = recipe.engine.images.iter().filter_map(canonical).collect();
    let wanted: BTreeMap<String, &Reference> =
        manifest.images().into_iter().map(|reference| (reference.canonical(), reference)).collect();
    let missing = wanted.into_iter().filter(|(name, _)| !there.contains(name));
    recipe.engine.images.extend(missing.map(|(_, reference)| EngineImage::pulled(&reference.to_string())));
}

fn canonical(image: &EngineImage) -> Option<String> {
    image.name.parse::<Reference>().ok().map(|reference| reference.canonical())
}

#[cfg(test)]
mod tests {
    use super::{add_images, read};
    use crate::lock::tests::recipe;
    use crate::recipe::types::EngineImage;

    const MANIFEST: &str = r#"{ "modulesContent": { "$edgeAgent": { "properties.desired": {
        "schemaVersion": "1.1", "runtime": { "type": "docker", "settings": {} },
        "systemModules": {
            "edgeAgent": { "type": "docker", "settings": { "image": "registry.example/agent:1" } },
            "edgeHub": { "type": "docker", "settings": { "image": "registry.example/hub:1" } } },
        "modules": { "tool": { "type": "docker", "settings": { "image": "${TOOL}" } } } } } } }"#;

    #[test]
    fn the_images_of_a_manifest_are_the_recipes() {
        let folder = tempfile::tempdir().expect("folder");
        let mut recipe = recipe();
        recipe.engine.images.push(EngineImage::pulled("registry.example/agent:1"));
        let names = |recipe: &super::Recipe| -> Vec<String> {
            recipe.engine.images.iter().map(|image| image.name.clone()).collect()
        };
        add_images(&mut recipe);
        assert_eq!(names(&recipe).len(), 1, "no manifest");
        let manifest = folder.path().join("deployment.template.json");
        std::fs::write(&manifest, MANIFEST).expect("manifest");
        recipe.modules.manifest = Some(manifest);
        assert!(read(&recipe.modules).is_err(), "a placeholder without a value");
        add_images(&mut recipe);
        assert_eq!(names(&recipe).len(), 1, "a manifest that cannot be read");
        let values = folder.path().join("values.env");
        std::fs::write(&values, "TOOL=busybox:1.36\n").expect("values");
        recipe.modules.values = Some(values);
        let mut without = recipe.clone();
        without.modules.preload = false;
        add_images(&mut without);
        assert_eq!(names(&without).len(), 1);
        add_images(&mut recipe);
        assert_eq!(names(&recipe), ["registry.example/agent:1", "busybox:1.36", "registry.example/hub:1"]);
        recipe.modules.manifest = Some("/no/such/file.json".into());
        let found = read(&recipe.modules).expect_err("no file");
        assert!(found[0].to_string().starts_with("/no/such/file.json: cannot be read"), "{}", found[0]);
    }
}
