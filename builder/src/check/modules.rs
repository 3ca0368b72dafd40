//! The deployment manifest: would edgeAgent take it, and do its modules find what they need on this image?

use std::collections::BTreeSet;

use crate::deployment::{Context, lint};
use crate::finding::Finding;
use crate::oci::reference::Reference;
use crate::recipe::{Loaded, modules};

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let manifest = match modules::read(&recipe.modules) {
        Ok(None) if recipe.modules.values.is_some() => {
            let found = Finding::error("`modules.values` stands without `modules.manifest`");
            return findings
                .push(found.at(loaded.place("modules/values")).hint("name the template that it fills in"));
        }
        Ok(None) => return,
        Ok(Some(manifest)) => manifest,
        Err(found) => return findings.extend(found),
    };
    let images = recipe.engine.images.iter();
    let preloaded: BTreeSet<Reference> = images.filter_map(|image| image.name.parse().ok()).collect();
    let context = Context {
        preloaded: Some(preloaded),
        bootstrap_agent: recipe.edge.agent_image.parse().ok(),
        privileged_allowed: recipe.modules.privileged,
        arch: Some(recipe.target.arch),
    };
    findings.extend(lint(&manifest, &context));
}
