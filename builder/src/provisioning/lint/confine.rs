//! Rules on what the edgeAgent container is given of its machine: nothing that makes it who the device is.
//!
//! *Private*: a folder of the machine with keys, or with sockets through which keys are used. A bind that is one, lies in one
//! or holds one shows it to the container, whatever firewall there is.

use std::path::{Component, Path, PathBuf};

use super::Linter;
use crate::recipe::tree::{Node, Value};

/// Private folders and sockets. `/var/run` is `/run`.
const PRIVATE: [(&str, &str); 8] = [
    ("/var/secrets", "the device's private key"),
    ("/var/lib/aziot", "the runtime's keys"),
    ("/etc/aziot", "the runtime's configuration and secrets"),
    ("/run/aziot", "the sockets that sign with the device's key"),
    ("/var/opt/azcmagent", "what the agent of Azure Arc gives tokens for"),
    ("/run/docker.sock", "the engine, and with it the machine"),
    ("/boot", "the partition with a device's identity"),
    ("/etc/ssh", "the machine's SSH host keys"),
];

const OPTIONS: &str = "agent.config.createOptions";

pub(super) fn rules(lint: &mut Linter<'_>) {
    for source in sources(lint) {
        let Some((private, what)) = private(&source) else { continue };
        let message = format!("the agent's container is given `{source}`, and with it {what} ({private})");
        lint.error(OPTIONS, message, "bind a folder of its own, as /var/lib/edgepress/agent");
    }
    let host = |key: &str| format!("{OPTIONS}.HostConfig.{key}");
    let open = lint.text(&host("NetworkMode")) == Some("host");
    let privileged =
        lint.get(&host("Privileged")).is_some_and(|node| matches!(node.value, Value::Boolean(true)));
    for (found, what) in [(open, "the machine's own network"), (privileged, "privilege")] {
        if found {
            let message =
                format!("with {what} nothing keeps the agent's container from the machine's identity");
            lint.warning(OPTIONS, message, "leave it out: docs/identity.md, \"What modules can reach\"");
        }
    }
}

/// What of the machine the options name: `Binds = ["/from:/to"]`, `Mounts = [{ Type = "bind", Source = "/from" }]`.
fn sources(lint: &Linter<'_>) -> Vec<String> {
    let list = |key: &str| -> &[Node] {
        match lint.get(&format!("{OPTIONS}.HostConfig.{key}")).map(|node| &node.value) {
            Some(Value::Array(all)) => all,
            _ => &[],
        }
    };
    let binds = list("Binds").iter().filter_map(Node::as_str).filter_map(|bind| bind.split(':').next());
    let mounts = list("Mounts").iter().filter_map(Node::entries).flatten();
    let mounts = mounts.filter(|entry| entry.key == "Source").filter_map(|entry| entry.node.as_str());
    // What has no slash is a volume of the engine's.
    binds.chain(mounts).filter(|source| source.starts_with('/')).map(str::to_owned).collect()
}

/// The private place that a bind shows, and what it is.
fn private(source: &str) -> Option<(&'static str, &'static str)> {
    let clean = clean(source);
    PRIVATE
        .into_iter()
        .find(|(private, _)| clean.starts_with(private) || Path::new(private).starts_with(&clean))
}

/// Without `.`, `..` and doubled slashes, and by the name that is no link.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
        if clean == Path::new("/var/run") {
            clean = PathBuf::from("/run");
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::private;

    #[test]
    fn what_a_bind_shows() {
        for (source, shown) in [
            ("/", "/var/secrets"),
            ("/var", "/var/secrets"),
            ("/var/lib/aziot/keyd/keys", "/var/lib/aziot"),
            ("/var/run", "/run/aziot"),
            ("/var/run/docker.sock", "/run/docker.sock"),
            ("/srv/../var//run/./aziot", "/run/aziot"),
            ("/var/opt/azcmagent/tokens", "/var/opt/azcmagent"),
            ("/boot/efi", "/boot"),
        ] {
            assert_eq!(private(source).map(|(private, _)| private), Some(shown), "{source}");
        }
        for source in [
            "/var/lib/edgepress/agent",
            "/iotedge/storage",
            "/var/secretsx",
            "/etc/localtime",
            "/run/iotedge",
        ] {
            assert_eq!(private(source), None, "{source}");
        }
    }
}
