//! The document: its JSON, `modulesContent`, the twins in it, the dotted keys of layered deployments.

use super::rules::{LAYERED_ALONE, LAYERED_KEY, NO_CONTENT, TWIN_FORM, TWIN_OF_NOBODY};
use super::{Linter, Want, duplicates};
use crate::cursor::{Cursor, DESIRED, Twin};
use crate::model::{AGENT, HUB};
use edgepress_base::finding::{clean, nearest};

/// What a deployment of a fleet has around its content (IoT Hub's Configuration), and what tools add.
const AROUND: [&str; 14] = [
    "modulesContent",
    "content",
    "id",
    "schemaVersion",
    "labels",
    "targetCondition",
    "priority",
    "metrics",
    "systemMetrics",
    "createdTimeUtc",
    "lastUpdatedTimeUtc",
    "etag",
    "$schema",
    "$schema-template",
];
/// What dotted keys of edgeAgent's twin may begin with.
const AGENT_PARTS: [&str; 4] = ["modules", "systemModules", "runtime", "schemaVersion"];
/// What dotted keys of edgeHub's twin may begin with.
const HUB_PARTS: [&str; 4] = ["routes", "storeAndForwardConfiguration", "mqttBroker", "schemaVersion"];

pub(super) fn rules(lint: &mut Linter<'_>) {
    let root = Cursor::root(&lint.manifest.root);
    duplicates(lint, &root);
    lint.unknown(&root, &AROUND);
    let Some(content) = lint.manifest.content() else {
        let near = nearest_key(&root, "modulesContent");
        let hint = near.map_or_else(
            || "the portal, `az iot edge` and iotedgedev write it around $edgeAgent and $edgeHub".to_owned(),
            |near| format!("did you mean `modulesContent` by `{}`?", clean(near)),
        );
        return lint.hit(&NO_CONTENT, &root, "`modulesContent` is missing", hint);
    };
    if !lint.has_type(&content, Want::Object) {
        return;
    }
    let twins = lint.manifest.twins();
    for twin in &twins {
        form(lint, twin);
        nobody(lint, twin);
    }
    if let Some(twin) = twins.iter().find(|twin| twin.is_layered()) {
        let message = "this manifest is layered: it changes a deployment, and is none by itself";
        lint.hit_key(
            &LAYERED_ALONE,
            &twin.at,
            message,
            "give the devices a complete deployment of a lower priority, too",
        );
    }
}

fn nearest_key<'a>(at: &Cursor<'a>, wanted: &str) -> Option<&'a str> {
    let near = |key: &&str| nearest(key, [wanted]).is_some();
    at.entries().map(|(key, _)| key).find(near)
}

/// Keys of a twin: `properties.desired`, or that and a path.
fn form(lint: &mut Linter<'_>, twin: &Twin<'_>) {
    if !lint.has_type(&twin.at, Want::Object) {
        return;
    }
    for (key, value) in twin.at.entries() {
        let path = key.strip_prefix(DESIRED);
        match path.map(|path| (path, path.strip_prefix('.'))) {
            Some(("", _)) => {
                lint.has_type(&value, Want::Object);
            }
            Some((_, Some(path))) => layered(lint, twin, path, &value),
            _ => {
                let message = "IoT Hub applies nothing but what begins with `properties.desired`";
                let hint = format!("write \"{DESIRED}\": {{ … }}, with the dot");
                lint.hit_key(&TWIN_FORM, &value, message, hint);
            }
        }
    }
}

fn layered(lint: &mut Linter<'_>, twin: &Twin<'_>, path: &str, at: &Cursor<'_>) {
    let known: &[&str] = match twin.name {
        AGENT => &AGENT_PARTS,
        HUB => &HUB_PARTS,
        _ => &[],
    };
    let mut parts = path.split('.');
    let first = parts.next().unwrap_or_default();
    if path.split('.').any(str::is_empty) {
        return lint.hit_key(
            &LAYERED_KEY,
            at,
            "the path has an empty part",
            "write one dot between two names",
        );
    }
    let named = !["modules", "systemModules", "routes"].contains(&first) || parts.next().is_some();
    if known.is_empty() || (known.contains(&first) && named) {
        return;
    }
    let hint = match nearest(first, known.iter().copied()) {
        Some(near) if near != first => format!("did you mean `{DESIRED}.{near}`?"),
        Some(near) => {
            format!("write {DESIRED}.{near}.NAME: without a name it replaces what lower layers have")
        }
        None => format!("known here are `{}`", known.join("`, `")),
    };
    lint.hit_key(&LAYERED_KEY, at, format!("no lower layer has `{}` at this place", clean(first)), hint);
}

fn nobody(lint: &mut Linter<'_>, twin: &Twin<'_>) {
    let manifest = lint.manifest;
    if lint.is_full()
        || [AGENT, HUB].contains(&twin.name)
        || manifest.module(twin.name).is_some()
        || manifest.is_layered()
    {
        return;
    }
    let names = manifest.modules().iter().map(|module| module.name.as_str());
    let hint = match nearest(twin.name, names.chain([AGENT, HUB])) {
        Some(near) => format!("did you mean `{}`?", clean(near)),
        None => "add the module, or remove its twin".into(),
    };
    lint.hit_key(&TWIN_OF_NOBODY, &twin.at, "the manifest has no module of this name", hint);
}
