//! Rules on what the edgeAgent container is given of its machine: nothing that makes it who the device is.
//!
//! The private folders are those that no module should see either: [`edgepress_deployment::private`].

use super::Linter;
use crate::deployment::private;
use crate::recipe::tree::{Node, Value};

const OPTIONS: &str = "agent.config.createOptions";

pub(super) fn rules(lint: &mut Linter<'_>) {
    for source in sources(lint) {
        let Some((private, what)) = private::place(&source) else { continue };
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
