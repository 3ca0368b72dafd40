//! Rules on what runs: the edgeAgent container, its image, its storage, the proxy, and the engine's socket.

use super::Linter;
use crate::oci::reference::Reference;
use crate::recipe::tree::{Node, Value};

/// Protocols of the agent that an HTTP proxy lets through.
const THROUGH_PROXY: [&str; 2] = ["AmqpWs", "MqttWs"];

pub(super) fn rules(lint: &mut Linter<'_>) {
    container(lint);
    if lint.get("agent").is_some() {
        image(lint);
        login(lint);
        storage(lint);
    }
    environment(lint);
    proxy(lint);
    sockets(lint);
}

fn container(lint: &mut Linter<'_>) {
    if lint.text("agent.name").is_some_and(|name| name != "edgeAgent") {
        lint.error("agent.name", "the hub knows the agent as `edgeAgent` only", "write \"edgeAgent\"");
    }
    lint.one_of("agent.type", &["docker"]);
    lint.one_of("agent.imagePullPolicy", &["on-create", "never"]);
    let options = "agent.config.createOptions";
    if lint.get(options).is_some_and(|node| node.entries().is_none()) {
        let message = "in config.toml the options are a TOML table, not JSON in a string as in a deployment";
        lint.error(options, message, "for example { HostConfig = { Binds = [\"/a:/a\"] } }");
    }
    let camel = ["image_pull_policy", "config.create_options"];
    for key in camel.map(|key| format!("agent.{key}")) {
        if lint.get(&key).is_some() {
            lint.error(&key, "the runtime does not know this key", "write imagePullPolicy and createOptions");
        }
    }
}

fn image(lint: &mut Linter<'_>) {
    let key = "agent.config.image";
    let Some(name) = lint.text(key).map(str::to_owned) else {
        return lint.error(
            key,
            "the agent has no image",
            "for example \"mcr.microsoft.com/azureiotedge-agent:1.6.1\"",
        );
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return lint.error(key, "this is no image reference", "registry/name:tag");
    }
    if name.ends_with(":latest") || !name.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
        let message = format!("`{name}` is another image every day");
        lint.warning(key, message, "name a version as tag");
    }
    let Some(recipe) = lint.recipe else { return };
    let full = |name: &str| name.parse::<Reference>().map(|reference| reference.canonical()).ok();
    let preloaded =
        recipe.engine.images.iter().any(|image| image.name == name || full(&image.name) == full(&name));
    let policy = lint.text("agent.imagePullPolicy").unwrap_or("on-create");
    match (policy, preloaded) {
        ("on-create", true) => lint.warning(
            "agent.imagePullPolicy",
            format!("`{name}` is in the device's store, yet \"on-create\" asks the registry for it and fails without"),
            "write \"never\" (edge.agent_pull_policy in the recipe)",
        ),
        ("never", false) => lint.error(
            "agent.imagePullPolicy",
            format!("\"never\" needs `{name}` in the device's store, and the recipe does not preload it"),
            "add it to engine.images, or write \"on-create\"",
        ),
        _ => {}
    }
}

/// What logs in to the registry of the agent's image.
fn login(lint: &mut Linter<'_>) {
    let key = "agent.config.auth";
    if lint.get(key).is_none() {
        return;
    }
    let password = "agent.config.auth.password";
    if lint.get(password).is_some() {
        let message = "every image has this password, and so has whoever gets one";
        let hint = "give it with the identity: registry-address, registry-username, registry-password";
        lint.warning(password, message, hint);
    }
    let plain = |line: &str| line.trim_start().replace([' ', '\t'], "").starts_with("[agent.config.auth]");
    if !lint.source.lines().any(plain) {
        let message = "first boot knows this table by a line of its own, and would write a second one for an identity's login";
        lint.error(key, message, "write it as a table of its own: [agent.config.auth]");
    }
}

/// `iotedge check` wants the agent's state outside the container, or a new container has lost its deployment.
fn storage(lint: &mut Linter<'_>) {
    let folder = lint.text("agent.env.storageFolder").map(str::to_owned);
    let Some(folder) = folder else {
        let message = "the agent's state would be lost with its container: no folder of the host is named";
        return lint.warning(
            "agent.env.storageFolder",
            message,
            "name a folder, and bind it in createOptions",
        );
    };
    let binds = lint.get("agent.config.createOptions.HostConfig.Binds");
    let bound = match binds.map(|node| &node.value) {
        Some(Value::Array(items)) => items.iter().filter_map(Node::as_str).any(|bind| {
            bind.split(':').nth(1).is_some_and(|inside| std::path::Path::new(&folder).starts_with(inside))
        }),
        _ => false,
    };
    if !bound {
        let message = format!("`{folder}` is not a folder of the host: nothing binds it into the container");
        let hint =
            format!("HostConfig = {{ Binds = [\"{folder}:{folder}\"] }} in [agent.config.createOptions]");
        lint.warning("agent.config.createOptions", message, hint);
    }
}

fn environment(lint: &mut Linter<'_>) {
    let entries = lint.get("agent.env").and_then(Node::entries).map(Vec::as_slice).unwrap_or_default();
    let wrong = entries.iter().filter(|entry| entry.node.as_str().is_none());
    for key in wrong.map(|entry| format!("agent.env.{}", entry.key)).collect::<Vec<_>>() {
        lint.error(&key, "a variable's value must be a string", "put it in quotes");
    }
}

fn proxy(lint: &mut Linter<'_>) {
    let stated =
        ["https_proxy", "HTTPS_PROXY"].into_iter().find_map(|name| lint.text(&format!("agent.env.{name}")));
    let key = "agent.env.https_proxy";
    if let Some(recipe) = lint.recipe {
        let expected = recipe.network.proxy.as_ref().map(|proxy| proxy.https.as_str());
        match (expected, stated) {
            (Some(expected), Some(stated)) if expected != stated => {
                let message = "the agent's proxy is not the one of the engine and the daemons";
                lint.error(key, message, "make it equal to network.proxy.https of the recipe");
            }
            (Some(_), None) => {
                let message = "the engine and the daemons have a proxy, and the agent has none";
                lint.error(key, message, "set it to network.proxy.https of the recipe");
            }
            (None, Some(_)) => {
                let message = "the agent has a proxy, and the engine and the daemons have none";
                lint.warning(key, message, "state network.proxy in the recipe: it sets all of them");
            }
            _ => {}
        }
    }
    let protocol = lint.text("agent.env.UpstreamProtocol");
    if stated.is_some() && !protocol.is_some_and(|name| THROUGH_PROXY.contains(&name)) {
        let message = "behind a proxy only the protocols over WebSockets reach the hub";
        lint.warning("agent.env.UpstreamProtocol", message, "write \"AmqpWs\"");
    }
}

fn sockets(lint: &mut Linter<'_>) {
    lint.scheme("moby_runtime.uri", &["unix://"], "the engine is reached through a unix socket");
    for table in ["connect", "listen"] {
        for name in ["management_uri", "workload_uri"] {
            let schemes: &[&str] = if table == "listen" { &["unix://", "fd://"] } else { &["unix://"] };
            lint.scheme(&format!("{table}.{name}"), schemes, "the daemon is reached through a unix socket");
        }
    }
}
