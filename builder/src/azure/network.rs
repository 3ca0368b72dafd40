//! The network of a deployment: a way out, and no way in but the one that somebody asks for.
//!
//! ```text
//! guard: what may come in ──┐
//! address ─► NAT gateway ───┴─► network / subnet ─► adapter of the VM
//! ```
//! Rules stand within the guard, so that no deployment leaves a moment without them; what is added by hand goes with the next
//! one. The subnet is a child: since version 2023-09-01 a network that is written without `subnets` keeps those it has.
//! <https://learn.microsoft.com/azure/azure-resource-manager/bicep/scenarios-virtual-networks>

use super::model::{Parameter, Resource, Value};
use super::template::{child, of_vm, properties, resource, text, with};

const API: &str = "2024-05-01";

/// The name of the parameter that says who may come in.
const BASTION: &str = "bastionPrefix";

/// What can be said of the network.
pub(super) fn parameter() -> Parameter {
    Parameter {
        name: BASTION,
        kind: "string",
        description: "The addresses, like 10.60.1.0/26, that may open SSH to the VMs. Empty: none.",
        default: Some(text("")),
    }
}

/// Everything up to the VM's adapter.
pub(super) fn network() -> Vec<Resource> {
    vec![guard(), address(), gateway(), space(), subnet(), adapter()]
}

fn object(all: &[(&'static str, Value)]) -> Value {
    Value::Object(all.to_vec())
}

fn standard() -> (&'static str, Value) {
    ("sku", object(&[("name", text("Standard"))]))
}

fn guard() -> Resource {
    let kind = "Microsoft.Network/networkSecurityGroups";
    let guard = resource("guard", kind, API, text("edgepress-guard"), "No way in, but for a bastion");
    with(guard, properties(vec![("securityRules", Value::List(vec![ssh(), nothing_in()]))]))
}

/// A rule cannot be left out by a parameter, so it always is one: without a bastion it refuses as `nothing-in` does.
fn ssh() -> Value {
    let either = |empty, other| Value::IfEmpty(BASTION, Box::new([empty, other]));
    let description = "From bastionPrefix; from nowhere while that is empty";
    let access = either(text("Deny"), text("Allow"));
    rule("ssh", description, access, 100, ["Tcp", "22"], either(text("*"), Value::Parameter(BASTION)))
}

/// Before the rule of Azure's own that lets everything in from the same network.
fn nothing_in() -> Value {
    rule("nothing-in", "A device calls; nobody calls it", text("Deny"), 4096, ["*", "*"], text("*"))
}

/// A rule for what comes in. `what` is protocol and port.
fn rule(name: &str, description: &str, access: Value, priority: i64, what: [&str; 2], from: Value) -> Value {
    let [protocol, port] = what.map(text);
    let of = [
        ("description", text(description)),
        ("direction", text("Inbound")),
        ("access", access),
        ("priority", Value::Number(priority)),
        ("protocol", protocol),
        ("sourceAddressPrefix", from),
        ("sourcePortRange", text("*")),
        ("destinationAddressPrefix", text("*")),
        ("destinationPortRange", port),
    ];
    object(&[("name", text(name)), ("properties", object(&of))])
}

fn address() -> Resource {
    let kind = "Microsoft.Network/publicIPAddresses";
    let comment = "The address that devices are seen with; of the gateway, not of a VM";
    let address = resource("address", kind, API, text("edgepress-out"), comment);
    let of = properties(vec![("publicIPAllocationMethod", text("Static"))]);
    with(address, [vec![standard()], of].concat())
}

fn gateway() -> Resource {
    let kind = "Microsoft.Network/natGateways";
    let comment = "The way out: new networks have none of their own";
    let gateway = resource("out", kind, API, text("edgepress-nat"), comment);
    let addresses = Value::List(vec![Value::reference(Value::Id("address"))]);
    let of = properties(vec![("publicIpAddresses", addresses), ("idleTimeoutInMinutes", Value::Number(10))]);
    with(gateway, [vec![standard()], of].concat())
}

fn space() -> Resource {
    let kind = "Microsoft.Network/virtualNetworks";
    let comment = "Apart from docker's own 172.17.0.0/16. Subnets that it has besides stay";
    let network = resource("network", kind, API, text("edgepress-network"), comment);
    let space = object(&[("addressPrefixes", Value::List(vec![text("10.60.0.0/16")]))]);
    with(network, properties(vec![("addressSpace", space)]))
}

fn subnet() -> Resource {
    let kind = "Microsoft.Network/virtualNetworks/subnets";
    let subnet = resource("subnet", kind, API, text("devices"), "The devices' own");
    let of = vec![
        ("addressPrefix", text("10.60.0.0/24")),
        ("defaultOutboundAccess", Value::Bool(false)),
        ("networkSecurityGroup", Value::reference(Value::Id("guard"))),
        ("natGateway", Value::reference(Value::Id("out"))),
    ];
    // A part of the network has no place of its own.
    child(Resource { fields: properties(of), ..subnet }, "network")
}

fn adapter() -> Resource {
    let kind = "Microsoft.Network/networkInterfaces";
    let adapter = resource("adapter", kind, API, of_vm("-nic"), "The VM's only one; no public address");
    let of =
        [("privateIPAllocationMethod", text("Dynamic")), ("subnet", Value::reference(Value::Id("subnet")))];
    let configuration = object(&[("name", text("private")), ("properties", object(&of))]);
    with(adapter, properties(vec![("ipConfigurations", Value::List(vec![configuration]))]))
}
