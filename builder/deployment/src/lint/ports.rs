//! Ports of the host that two modules want.

use edgepress_base::finding::clean;

use super::Linter;
use super::rules::HOST_PORT_TWICE;
use crate::cursor::Cursor;
use crate::model::{HostPort, Module, Status};

/// Bindings that are compared, of all modules together: far more than a device has, and the work stays small.
const MOST: usize = 1000;

pub(super) fn rules(lint: &mut Linter<'_>) {
    let running = lint.manifest.modules().iter().filter(|module| module.status != Some(Status::Stopped));
    let ports = running.flat_map(|module| module.host_ports.iter().map(move |port| (module, port)));
    let ports: Vec<(&Module, &HostPort)> = ports.take(MOST).collect();
    for (index, (module, port)) in ports.iter().enumerate() {
        let other = ports[..index].iter().find(|(_, other)| other.excludes(port));
        let (Some((other, _)), Some(at)) = (other, binding(module, port)) else { continue };
        let message = if other.name == module.name {
            format!("the module takes port {port} of the host twice")
        } else {
            format!("`{}` takes port {port} of the host already", clean(&other.name))
        };
        lint.hit(&HOST_PORT_TWICE, &at, message, "give one of them another HostPort");
    }
}

/// The binding in the module's createOptions.
fn binding<'a>(module: &'a Module, port: &HostPort) -> Option<Cursor<'a>> {
    let bindings = module.inside()?.get_any_case("HostConfig")?.get_any_case("PortBindings")?;
    let found =
        bindings.entries().flat_map(|(_, at)| at.elements()).find(|at| at.pointer.ends_with(&port.pointer));
    found.map(|at| at.get_any_case("HostPort").unwrap_or(at))
}
