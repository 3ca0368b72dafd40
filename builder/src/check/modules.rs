//! The deployment manifest: would edgeAgent take it, and do its modules find what they need on this image?

use std::collections::BTreeSet;

use crate::deployment::model::RegistryCredentials;
use crate::deployment::{Context, Manifest, lint};
use crate::finding::Finding;
use crate::oci::reference::Reference;
use crate::recipe::types::Recipe;
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
    findings.extend(
        first_pull(&recipe.edge.agent_image, &manifest, &context)
            .filter(|_| !has_login(recipe))
            .map(|found| found.at(loaded.place("edge/agent_image"))),
    );
}

/// Does first boot get the login for the registry of edgeAgent's image from where it gets the certificate?
fn has_login(recipe: &Recipe) -> bool {
    let agent: Option<Reference> = recipe.edge.agent_image.parse().ok();
    let registry = recipe.provisioning.certificate.registry();
    agent.is_some_and(|agent| registry == Some(agent.registry()))
}

/// The runtime pulls edgeAgent's image before the hub has told it any credentials.
fn first_pull(image: &str, manifest: &Manifest, context: &Context) -> Option<Finding> {
    let agent: Reference = image.parse().ok()?;
    let is_private = |known: &RegistryCredentials| known.address.split('/').next() == Some(agent.registry());
    if !manifest.registry_credentials().iter().any(is_private) {
        return None;
    }
    let same = |there: &Reference| {
        there.canonical() == agent.canonical()
            || (agent.digest().is_some() && there.digest() == agent.digest())
    };
    if context.preloaded.as_ref().is_some_and(|preloaded| preloaded.iter().any(same)) {
        return None;
    }
    let message = format!(
        "{image} comes from a registry that wants a login: the runtime pulls it before the hub has told it the manifest's"
    );
    let hint = "preload it, or give its credentials with the identity: registry-address, registry-username, registry-password, or by a secret of the vault (registry_secret)";
    Some(Finding::warning(message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::first_pull;
    use crate::deployment::{Context, Manifest};

    #[test]
    fn a_login_for_the_first_pull() {
        let text = r#"{ "modulesContent": { "$edgeAgent": { "properties.desired": { "runtime": { "settings": {
            "registryCredentials": { "own": { "username": "u", "password": "p", "address": "plant.example" } } } } } } } }"#;
        let manifest = Manifest::parse("deployment.json", text).expect("JSON");
        let pull = |image: &str, preloaded: &[&str]| {
            let preloaded = preloaded.iter().map(|name| name.parse().expect("a reference")).collect();
            let context = Context { preloaded: Some(preloaded), ..Context::default() };
            first_pull(image, &manifest, &context)
        };
        let warned = pull("plant.example/agent:1", &[]).expect("a warning").to_string();
        assert!(warned.contains("wants a login") && warned.contains("registry-password"), "{warned}");
        assert_eq!(pull("plant.example/agent:1", &["plant.example/agent:1"]), None);
        assert_eq!(pull("plant.example/agent:latest", &["plant.example/agent"]), None);
        assert_eq!(pull("mcr.microsoft.com/azureiotedge-agent:1.6.1", &[]), None);
    }
}
