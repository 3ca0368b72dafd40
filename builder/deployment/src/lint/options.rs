//! createOptions: chunks, and what the engine and edgeAgent make of the JSON in them.

use edgepress_base::finding::clean;

use super::rules::{
    BIND_FORM, DOCKER_RESTART, HOST_NETWORK, HOST_NETWORK_PORTS, HOST_PORT, OPTIONS_CHUNKS, OPTIONS_JSON,
    OPTIONS_LONG, OPTIONS_LOOSE, OPTIONS_LOOSE_JSON, OPTIONS_OBJECT, OPTIONS_PLACE, OPTIONS_SHAPE, PORT_KEY,
    PRIVILEGED, STORAGE,
};
use super::{Linter, Want, duplicates, reach};
use crate::cursor::Cursor;
use crate::json::{Node, Value};
use crate::model::container::{container_port, port_range, split_bind};
use crate::model::module::truth;
use crate::model::{Module, ModuleKind};
use crate::options::{CHUNK, KEY, MOST_CHUNKS, chunk_number, chunks};

/// Keys that belong into HostConfig and are often written beside it.
const OF_HOST: [&str; 14] = [
    "Binds",
    "CapAdd",
    "CapDrop",
    "Devices",
    "Dns",
    "ExtraHosts",
    "LogConfig",
    "Memory",
    "MemorySwap",
    "Mounts",
    "NetworkMode",
    "PortBindings",
    "Privileged",
    "RestartPolicy",
];
/// Keys that belong beside HostConfig and are often written into it.
const NOT_OF_HOST: [&str; 8] =
    ["Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Hostname", "NetworkingConfig", "User"];
/// Lists of texts in HostConfig (Agent.Docker/models/HostConfig.cs).
const LISTS: [&str; 9] =
    ["Binds", "CapAdd", "CapDrop", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "SecurityOpt"];
/// Numbers in it.
const NUMBERS: [&str; 7] =
    ["Memory", "MemoryReservation", "MemorySwap", "NanoCpus", "CpuShares", "CpuQuota", "ShmSize"];
/// Where edgeAgent and edgeHub keep their files, and the variable that says so.
const STORAGE_FOLDER: &str = "storageFolder";

pub(super) fn rules(lint: &mut Linter<'_>, module: &Module) {
    if let Some(settings) = lint.manifest.at(module).and_then(|at| at.get("settings")) {
        pieces(lint, &settings);
        fault(lint, module, &settings);
    }
    storage(lint, module);
    let Some(options) = module.inside() else { return };
    if !options.node.is_object() {
        let message = format!("createOptions are {}", options.node.kind());
        return lint.hit(&OPTIONS_JSON, &options, message, "write a JSON object in the string: \"{}\"");
    }
    if module.options.is_object && !lint.manifest.source.is_rendered() {
        let hint = "write it as a string: `jq -c tojson` makes one; in a template (`.template.json`) an object is right";
        lint.hit(&OPTIONS_OBJECT, &options, "createOptions are an object, and must be a string", hint);
    }
    if !module.options.is_object {
        duplicates(lint, &options);
    }
    placed(lint, &options);
    shape(lint, &options);
    if let Some(host) = options.get_any_case("HostConfig").filter(|at| at.node.is_object()) {
        ports(lint, &host);
        mounts(lint, &host);
        network(lint, &options, &host);
        rights(lint, module, &host);
        reach::rules(lint, &host);
    }
}

/// The chunks, before they are joined.
fn pieces(lint: &mut Linter<'_>, settings: &Cursor<'_>) {
    let chunks = chunks(settings);
    if chunks.len() > MOST_CHUNKS {
        let message = format!("edgeAgent reads {MOST_CHUNKS} chunks, and ignores the others");
        lint.hit_key(&OPTIONS_CHUNKS, &chunks[MOST_CHUNKS].1, message, "make createOptions shorter");
    }
    for (index, (key, at)) in chunks.iter().enumerate().take(MOST_CHUNKS) {
        if chunk_number(key) != Some(Ok(index)) {
            let wanted = if index == 0 { KEY.to_owned() } else { format!("{KEY}{index:02}") };
            let message = format!("here edgeAgent expects `{wanted}`");
            lint.hit_key(
                &OPTIONS_CHUNKS,
                at,
                message,
                "number the chunks createOptions, createOptions01, createOptions02 …",
            );
            break;
        }
    }
    let rendered = lint.manifest.source.is_rendered();
    for (_, at) in &chunks {
        match &at.node.value {
            // A template's are cut when it becomes a manifest.
            Value::String(_) if rendered && chunks.len() == 1 => {}
            Value::String(text) if text.chars().count() > CHUNK => {
                let message =
                    format!("this chunk has {} characters, more than {CHUNK}", text.chars().count());
                lint.hit_key(&OPTIONS_LONG, at, message, "go on in createOptions01, createOptions02 …");
            }
            Value::String(_) => {}
            Value::Object(_) if chunks.len() == 1 => {}
            _ => {
                lint.has_type(at, Want::Text);
            }
        }
    }
}

fn fault(lint: &mut Linter<'_>, module: &Module, settings: &Cursor<'_>) {
    let Some(fault) = &module.options.fault else { return };
    let Some((_, first)) = chunks(settings).into_iter().next() else { return };
    let at = Node { value: Value::Null, span: fault.span.clone() };
    let at = Cursor { node: &at, key_span: fault.span.clone(), ..first };
    let hint = "within the string write \\\" for each quote; `jq -c tojson` makes such a string of JSON";
    if module.options.node.is_some() {
        let message = format!("createOptions are JSON to edgeAgent alone: {}", fault.message);
        lint.hit(&OPTIONS_LOOSE_JSON, &at, message, hint);
    } else {
        lint.hit(&OPTIONS_JSON, &at, format!("createOptions are no JSON: {}", fault.message), hint);
    }
}

fn placed(lint: &mut Linter<'_>, options: &Cursor<'_>) {
    for key in OF_HOST {
        if let Some(at) = options.get_any_case(key) {
            let message = format!("the engine reads `{key}` in `HostConfig` alone");
            lint.hit_key(&OPTIONS_PLACE, &at, message, "move it into HostConfig");
        }
    }
    let Some(host) = options.get_any_case("HostConfig") else { return };
    for key in NOT_OF_HOST {
        if let Some(at) = host.get_any_case(key) {
            let message = format!("the engine does not read `{key}` in `HostConfig`");
            lint.hit_key(&OPTIONS_PLACE, &at, message, "move it out of HostConfig, beside it");
        }
    }
}

fn wrong(lint: &mut Linter<'_>, at: &Cursor<'_>, wanted: &str) {
    let message = format!("this is {}, and must be {wanted}", at.node.kind());
    lint.hit(&OPTIONS_SHAPE, at, message, "");
}

fn texts(lint: &mut Linter<'_>, at: Option<Cursor<'_>>) {
    let Some(at) = at else { return };
    match &at.node.value {
        Value::Null => {}
        Value::Array(_) => {
            for element in at.elements().filter(|element| element.node.as_str().is_none()) {
                wrong(lint, &element, "a string");
            }
        }
        _ => wrong(lint, &at, "an array of strings"),
    }
}

fn shape(lint: &mut Linter<'_>, options: &Cursor<'_>) {
    texts(lint, options.get_any_case("Env"));
    texts(lint, options.get_any_case("Cmd").filter(|at| at.node.as_str().is_none()));
    for key in ["ExposedPorts", "Labels", "NetworkingConfig", "HostConfig"] {
        if let Some(at) =
            options.get_any_case(key).filter(|at| !at.node.is_object() && at.node.value != Value::Null)
        {
            wrong(lint, &at, "an object");
        }
    }
    if let Some(exposed) = options.get_any_case("ExposedPorts") {
        for (port, at) in exposed.entries() {
            port_key(lint, port, &at);
            if !at.node.is_object() {
                wrong(lint, &at, "an empty object: { \"8883/tcp\": {} }");
            }
        }
    }
    let Some(host) = options.get_any_case("HostConfig") else { return };
    for key in LISTS {
        texts(lint, host.get_any_case(key));
    }
    for key in NUMBERS {
        if let Some(at) = host.get_any_case(key).filter(|at| at.node.as_number().is_none()) {
            scalar(lint, &at, "a number", |text| text.parse::<i64>().is_ok());
        }
    }
    if let Some(at) = host.get_any_case("Privileged").filter(|at| at.node.as_bool().is_none()) {
        scalar(lint, &at, "true or false", |text| truth(text).is_some());
    }
}

/// A value of the wrong type, which edgeAgent's reader converts if it is the right text.
fn scalar(lint: &mut Linter<'_>, at: &Cursor<'_>, wanted: &str, converts: fn(&str) -> bool) {
    match at.node.as_str() {
        Some(text) if converts(text.trim()) => {
            let message = format!("this is a string, and must be {wanted}");
            lint.hit(&OPTIONS_LOOSE, at, message, "write it without quotes");
        }
        _ => wrong(lint, at, wanted),
    }
}

fn port_key(lint: &mut Linter<'_>, port: &str, at: &Cursor<'_>) {
    if container_port(port).is_none() {
        let message = format!("`{}` is no port of a container", clean(port));
        lint.hit_key(&PORT_KEY, at, message, "write PORT/tcp or PORT/udp");
    }
}

fn ports(lint: &mut Linter<'_>, host: &Cursor<'_>) {
    let Some(bindings) = host.get_any_case("PortBindings").filter(|at| at.node.value != Value::Null) else {
        return;
    };
    if !bindings.node.is_object() {
        return wrong(lint, &bindings, "an object: { \"8883/tcp\": [ { \"HostPort\": \"8883\" } ] }");
    }
    for (port, at) in bindings.entries() {
        port_key(lint, port, &at);
        if !matches!(at.node.value, Value::Array(_) | Value::Null) {
            wrong(lint, &at, "an array: [ { \"HostPort\": \"8883\" } ]");
        }
        for binding in at.elements() {
            if !binding.node.is_object() {
                wrong(lint, &binding, "an object: { \"HostPort\": \"8883\" }");
            } else if let Some(at) = binding.get_any_case("HostPort") {
                host_port(lint, &at);
            }
        }
    }
}

fn host_port(lint: &mut Linter<'_>, at: &Cursor<'_>) {
    let number = at.node.as_number().map(ToString::to_string);
    let Some(text) = at.node.as_str().map(str::to_owned).or(number.clone()) else {
        return wrong(lint, at, "a string");
    };
    // Empty, or 0: the engine takes a free one.
    if !["", "0"].contains(&text.as_str()) && port_range(&text).is_none() {
        let message = format!("`{}` is no port", clean(&text));
        lint.hit(&HOST_PORT, at, message, "write \"8883\", or \"8000-8010\" for several");
    } else if number.is_some() {
        lint.hit(&OPTIONS_LOOSE, at, "a port must be a string", format!("write \"{text}\""));
    }
}

fn mounts(lint: &mut Linter<'_>, host: &Cursor<'_>) {
    for at in host.get_any_case("Binds").into_iter().flat_map(|at| at.elements()) {
        let Some(text) = at.node.as_str() else { continue };
        let hint = "write SOURCE:TARGET or SOURCE:TARGET:ro";
        match split_bind(text) {
            None => lint.hit(&BIND_FORM, &at, format!("`{}` is no bind", clean(text)), hint),
            Some(bind) => mounted(lint, &at, &bind.source, &bind.target, true),
        }
    }
    for at in host.get_any_case("Mounts").into_iter().flat_map(|at| at.elements()) {
        let text = |key| at.get_any_case(key).and_then(|at| at.node.as_str()).unwrap_or_default();
        let kind = text("Type");
        if !["bind", "volume", "tmpfs"].contains(&kind) {
            let message = format!("`{}` is no type of a mount", clean(kind));
            lint.hit(&BIND_FORM, &at, message, "write \"Type\": \"bind\", \"volume\" or \"tmpfs\"");
        } else {
            mounted(
                lint,
                &at,
                if kind == "bind" { text("Source") } else { "volume" },
                text("Target"),
                kind != "bind",
            );
        }
    }
}

/// `/a` and not `a`; with `volume` a volume's name will do.
fn mounted(lint: &mut Linter<'_>, at: &Cursor<'_>, source: &str, target: &str, volume: bool) {
    let is_name = source.starts_with(|c: char| c.is_ascii_alphanumeric())
        && source.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        && source.len() > 1;
    let is_source = source.starts_with('/') || (volume && is_name);
    if !is_source {
        let message = format!("`{}` is neither an absolute path nor a volume's name", clean(source));
        lint.hit(&BIND_FORM, at, message, "write the path from / on");
    } else if !target.starts_with('/') || target == "/" {
        let message = format!("`{}` is no place to mount in the container", clean(target));
        lint.hit(&BIND_FORM, at, message, "write the path from / on");
    }
}

fn network(lint: &mut Linter<'_>, options: &Cursor<'_>, host: &Cursor<'_>) {
    let Some(mode) = host.get_any_case("NetworkMode").filter(|at| at.node.as_str() == Some("host")) else {
        return;
    };
    let endpoints =
        options.get_any_case("NetworkingConfig").and_then(|at| at.get_any_case("EndpointsConfig"));
    if endpoints.is_none() {
        let message =
            "edgeAgent joins the module to a network of its own as well, which does not go with the host's";
        lint.hit(
            &HOST_NETWORK,
            &mode,
            message,
            "add \"NetworkingConfig\": { \"EndpointsConfig\": { \"host\": {} } } beside HostConfig",
        );
    }
    if let Some(bindings) = host.get_any_case("PortBindings").filter(|at| !at.node.entries().is_empty()) {
        let message = "with the host's network the engine discards port bindings";
        lint.hit_key(&HOST_NETWORK_PORTS, &bindings, message, "remove them, or the NetworkMode");
    }
}

fn rights(lint: &mut Linter<'_>, module: &Module, host: &Cursor<'_>) {
    for key in ["RestartPolicy", "AutoRemove"] {
        let set = |at: &Cursor<'_>| match at.get_any_case("Name") {
            Some(name) => !["", "no"].contains(&name.node.as_str().unwrap_or_default()),
            None => at.node.as_bool() == Some(true),
        };
        if let Some(at) = host.get_any_case(key).filter(set) {
            let message = "edgeAgent starts and removes modules; the engine must leave them alone";
            lint.hit_key(&DOCKER_RESTART, &at, message, "remove it; the module's `restartPolicy` is enough");
        }
    }
    if lint.context.privileged_allowed || !module.privileged {
        return;
    }
    for key in ["Privileged", "CapAdd"] {
        let yes = |at: &Cursor<'_>| at.node.as_bool().or_else(|| truth(at.node.as_str()?)) == Some(true);
        let asked = |at: &Cursor<'_>| yes(at) || !at.node.elements().is_empty();
        if let Some(at) = host.get_any_case(key).filter(asked) {
            let message = format!(
                "the recipe forbids `{key}`: aziot-edged takes it away, and the module runs without it"
            );
            let hint = "do without, or set `allow_elevated_docker_permissions = true` in config.toml";
            lint.hit_key(&PRIVILEGED, &at, message, hint);
        }
    }
}

/// `storageFolder` must be bound; without one the files are in the container.
fn storage(lint: &mut Linter<'_>, module: &Module) {
    if module.kind == ModuleKind::Custom || (module.options.fault.is_some() && module.options.node.is_none())
    {
        return;
    }
    let Some(at) = lint.manifest.at(module) else { return };
    let folder = module.variable(STORAGE_FOLDER);
    let holds = |target: &str, folder: &str| {
        let target = target.trim_end_matches('/');
        folder
            .trim_end_matches('/')
            .strip_prefix(target)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let bound = folder.is_some_and(|folder| module.binds.iter().any(|bind| holds(&bind.target, folder)));
    if !bound {
        let lost =
            if module.kind == ModuleKind::Agent { "what it stored is" } else { "messages that wait are" };
        let message = match folder {
            Some(folder) => {
                format!("nothing of the host is bound to `{}`: {lost} gone with the container", clean(folder))
            }
            None => format!("it has no `{STORAGE_FOLDER}` on the host: {lost} gone with the container"),
        };
        let hint = "set the variable storageFolder, and bind that path in createOptions (HostConfig.Binds)";
        lint.hit_key(&STORAGE, &at, message, hint);
    }
}
