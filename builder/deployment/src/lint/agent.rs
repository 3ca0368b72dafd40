//! edgeAgent's desired properties but for the modules: schema version, runtime, credentials of registries.

use std::collections::BTreeSet;

use edgepress_base::finding::clean;

use super::rules::{
    AGENT_MISSING, AGENT_PART, AGENT_SCHEMA, CREDENTIALS_ADDRESS, CREDENTIALS_INCOMPLETE,
    CREDENTIALS_MISSING, CREDENTIALS_PLACEHOLDER, CREDENTIALS_TWICE, CREDENTIALS_UNUSED, DOCKER_VERSION,
    MODULE_COUNT, RUNTIME_TYPE, SYSTEM_AGENT, SYSTEM_HUB, SYSTEM_UNKNOWN,
};
use super::{Linter, Want, is_placeholder};
use crate::cursor::{Cursor, Twin};
use crate::image::{DOCKER_HUB_ADDRESS, credentials_address};
use crate::model::{AGENT, Module, ModuleKind, PullPolicy};

/// Most modules of a deployment (learn.microsoft.com, "Azure IoT Edge limits and restrictions").
const MOST_MODULES: usize = 50;
/// Registries of this domain ask everybody who they are, unless their owner allowed anonymous pulls.
const AZURE_REGISTRIES: &str = ".azurecr.io";

pub(super) fn rules(lint: &mut Linter<'_>) {
    let manifest = lint.manifest;
    let Some(content) = manifest.content() else { return };
    let Some(agent) = manifest.twin(AGENT).filter(|twin| twin.parts().next().is_some()) else {
        if !manifest.is_layered() {
            let message = "`$edgeAgent` with its `properties.desired` is missing";
            lint.hit_key(&AGENT_MISSING, &content, message, "");
        }
        return;
    };
    if !agent.is_layered() {
        complete(lint, &agent);
    }
    schema(lint, &agent);
    runtime(lint, &agent);
    system(lint, &agent);
    credentials(lint);
    let count = agent.children(&["modules"]).len();
    if count > MOST_MODULES {
        let at = agent.find(&["modules"]).unwrap_or(agent.at.clone());
        let message = format!("{count} modules are more than the {MOST_MODULES} that a deployment may have");
        lint.hit_key(&MODULE_COUNT, &at, message, "run several programs in one module, or use two devices");
    }
}

fn complete(lint: &mut Linter<'_>, agent: &Twin<'_>) {
    let Some(desired) = agent.find(&[]) else { return };
    lint.unknown(&desired, &["schemaVersion", "runtime", "systemModules", "modules", "integrity"]);
    if desired.get("schemaVersion").is_none() {
        lint.hit_key(
            &AGENT_SCHEMA,
            &desired,
            "`schemaVersion` is missing",
            "write \"schemaVersion\": \"1.1\"",
        );
    }
    for part in ["runtime", "systemModules"] {
        if desired.get(part).is_none() {
            lint.hit_key(&AGENT_PART, &desired, format!("`{part}` is missing"), "");
        }
    }
    let Some(system) = desired.get("systemModules").filter(|at| at.node.is_object()) else { return };
    if system.get("edgeAgent").is_none() {
        lint.hit_key(&SYSTEM_AGENT, &system, "edgeAgent is missing", "");
    }
    if system.get("edgeHub").is_none() {
        lint.hit_key(&SYSTEM_HUB, &system, "edgeHub is missing: no module can send messages", "");
    }
}

/// .NET's `Version.TryParse`: two to four numbers.
pub(super) fn version(text: &str) -> Option<Vec<u32>> {
    let numbers: Option<Vec<u32>> = text.trim().split('.').map(|number| number.trim().parse().ok()).collect();
    numbers.filter(|numbers| (2..=4).contains(&numbers.len()))
}

fn schema(lint: &mut Linter<'_>, agent: &Twin<'_>) {
    let Some(at) = agent.find(&["schemaVersion"]) else { return };
    if !lint.has_type(&at, Want::Text) {
        return;
    }
    let stated = at.node.as_str().unwrap_or_default();
    if is_placeholder(stated) {
        let hint = "write \"1.1\", or make the file a template (`.template.json`) with a file of values";
        return lint.hit(&AGENT_SCHEMA, &at, "this is still a placeholder", hint);
    }
    let good = version(stated).is_some_and(|numbers| numbers[0] == 1 && numbers <= vec![1, 1, 0]);
    if !good {
        let message = format!("edgeAgent refuses schema version `{}`", clean(stated));
        lint.hit(&AGENT_SCHEMA, &at, message, "write \"1.1\", or \"1.0\" without startupOrder");
    }
}

fn runtime(lint: &mut Linter<'_>, agent: &Twin<'_>) {
    let Some(runtime) = agent.find(&["runtime"]) else { return };
    if !lint.has_type(&runtime, Want::Object) {
        return;
    }
    lint.unknown(&runtime, &["type", "settings"]);
    match lint.typed(&runtime, "type", Want::Text) {
        Some(at) if at.node.as_str() == Some("docker") => {}
        Some(at) => {
            lint.hit(&RUNTIME_TYPE, &at, "edgeAgent knows the type `docker` alone", "write \"docker\"");
        }
        None if runtime.get("type").is_none() => {
            lint.hit_key(&RUNTIME_TYPE, &runtime, "`type` is missing", "write \"type\": \"docker\"");
        }
        None => {}
    }
    let Some(settings) = lint.typed(&runtime, "settings", Want::Object) else { return };
    lint.unknown(&settings, &["minDockerVersion", "loggingOptions", "registryCredentials"]);
    lint.typed(&settings, "loggingOptions", Want::Text);
    lint.typed(&settings, "registryCredentials", Want::Object);
    if let Some(at) = lint.typed(&settings, "minDockerVersion", Want::Text) {
        let text = at.node.as_str().unwrap_or_default();
        if version(text.strip_prefix('v').unwrap_or(text)).is_none() {
            let message = format!("`{}` is no version", clean(text));
            lint.hit(&DOCKER_VERSION, &at, message, "write \"v1.25\"");
        }
    }
}

fn system(lint: &mut Linter<'_>, agent: &Twin<'_>) {
    for (name, at) in agent.children(&["systemModules"]) {
        if !["edgeAgent", "edgeHub"].contains(&name) {
            let hint = "move it to `modules`";
            lint.hit_key(
                &SYSTEM_UNKNOWN,
                &at,
                "edgeAgent reads edgeAgent and edgeHub here, and nothing else",
                hint,
            );
        }
    }
}

fn credentials(lint: &mut Linter<'_>) {
    let mut addresses: BTreeSet<String> = BTreeSet::new();
    for (_, at) in lint.manifest.credentials() {
        if !lint.has_type(&at, Want::Object) {
            continue;
        }
        lint.unknown(&at, &["username", "password", "address"]);
        let mut complete = true;
        for key in ["address", "username", "password"] {
            complete &= credential(lint, &at, key);
        }
        if let Some(address) = at.get("address").filter(|_| complete) {
            addressed(lint, &address, &mut addresses);
        }
    }
    missing(lint, &addresses);
}

/// One of the three parts; is it good?
fn credential(lint: &mut Linter<'_>, at: &Cursor<'_>, key: &str) -> bool {
    let Some(value) = at.get(key) else {
        lint.hit_key(&CREDENTIALS_INCOMPLETE, at, format!("`{key}` is missing"), "");
        return false;
    };
    if !lint.has_type(&value, Want::Text) {
        return false;
    }
    let text = value.node.as_str().unwrap_or_default();
    if text.trim().is_empty() {
        let hint = "fill it in; a public registry needs no credentials at all";
        lint.hit(&CREDENTIALS_INCOMPLETE, &value, format!("`{key}` is empty"), hint);
        return false;
    }
    if is_placeholder(text) {
        let hint =
            "write the real value, or make the file a template (`.template.json`) with a file of values";
        lint.hit(&CREDENTIALS_PLACEHOLDER, &value, format!("`{key}` is still a placeholder"), hint);
        return false;
    }
    true
}

fn addressed(lint: &mut Linter<'_>, at: &Cursor<'_>, addresses: &mut BTreeSet<String>) {
    let address = at.node.as_str().unwrap_or_default();
    let bare =
        address.split_once("://").map_or(address, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let lower = address.to_ascii_lowercase();
    if address.starts_with('$') {
        // The parent device: known there alone.
    } else if lower != DOCKER_HUB_ADDRESS && bare != address {
        let message = format!("edgeAgent looks for images at `{}`, and finds none", clean(address));
        lint.hit(&CREDENTIALS_ADDRESS, at, message, format!("write \"{}\"", clean(bare)));
    } else if addresses.contains(&lower) {
        lint.hit(
            &CREDENTIALS_TWICE,
            at,
            "there are credentials for this registry already",
            "remove one of them",
        );
    } else if !lint.manifest.is_layered() && !wanted(lint, &lower) {
        let message = format!("no image comes from `{}`", clean(address));
        let hint = match lower.as_str() {
            "docker.io" => format!("images of Docker Hub need the address {DOCKER_HUB_ADDRESS}"),
            _ => "check the address, or remove them: each is a secret more".to_owned(),
        };
        lint.hit(&CREDENTIALS_UNUSED, at, message, hint);
    }
    addresses.insert(lower);
}

fn image<'a>(lint: &Linter<'a>, module: &Module) -> Option<(Cursor<'a>, &'a str)> {
    let at = lint.manifest.at(module)?.find(&["settings", "image"])?;
    let text = at.node.as_str()?;
    Some((at, text))
}

fn wanted(lint: &Linter<'_>, address: &str) -> bool {
    let of = |module: &Module| {
        image(lint, module).and_then(|(_, image)| credentials_address(image).map(str::to_owned))
    };
    lint.manifest.modules().iter().filter_map(of).any(|wanted| wanted.eq_ignore_ascii_case(address))
}

/// edgeAgent's own image may have its credentials in config.toml, and what is never pulled needs none.
fn missing(lint: &mut Linter<'_>, addresses: &BTreeSet<String>) {
    if lint.manifest.is_layered() {
        return;
    }
    let mut told = BTreeSet::new();
    for module in lint.manifest.modules() {
        let Some((at, text)) = image(lint, module) else { continue };
        let Some(address) = credentials_address(text).map(str::to_ascii_lowercase) else { continue };
        let pulled = module.kind != ModuleKind::Agent && module.pull_policy == PullPolicy::OnCreate;
        if pulled
            && address.ends_with(AZURE_REGISTRIES)
            && !addresses.contains(&address)
            && told.insert(address.clone())
        {
            let message = format!("there are no credentials for `{}`", clean(&address));
            let hint =
                "add them to `runtime.settings.registryCredentials`; a token that may only pull is enough";
            lint.hit(&CREDENTIALS_MISSING, &at, message, hint);
        }
    }
}
