//! What createOptions ask of the host: ports and folders.
//!
//! ```text
//! "HostConfig": { "PortBindings": { "8883/tcp": [ { "HostIp": "127.0.0.1", "HostPort": "8883" } ] },
//!                 "Binds":  [ "/srv/data:/data:ro", "volume:/var/lib/x" ],
//!                 "Mounts": [ { "Type": "bind", "Source": "/srv/data", "Target": "/data" } ] }
//! ```

use std::fmt;

use crate::cursor::Cursor;

/// A port of the host that a container takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address; empty for all.
    pub address: String,
    /// First and last port.
    pub ports: (u16, u16),
    /// The protocol.
    pub protocol: Protocol,
    /// The pointer of the binding in createOptions.
    pub(crate) pointer: String,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A folder or file of the host, or a volume, that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// An absolute path of the host, or a volume's name.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// It can only be read there.
    pub read_only: bool,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ports;
        write!(f, "{first}")?;
        if last > first {
            write!(f, "-{last}")?;
        }
        f.write_str(match self.protocol {
            Protocol::Tcp => "/tcp",
            Protocol::Udp => "/udp",
            Protocol::Sctp => "/sctp",
        })
    }
}

impl HostPort {
    /// Can both be taken at once? Not if they share port, protocol and address.
    pub fn excludes(&self, other: &Self) -> bool {
        let all = |address: &str| ["", "0.0.0.0", "::"].contains(&address);
        let addresses = self.address == other.address || all(&self.address) || all(&other.address);
        let ports = self.ports.0 <= other.ports.1 && other.ports.0 <= self.ports.1;
        addresses && ports && self.protocol == other.protocol
    }
}

/// A port of a container: `8883/tcp`, `8883`, `8000-8010/udp`.
pub(crate) fn container_port(text: &str) -> Option<((u16, u16), Protocol)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((port_range(ports)?, protocol))
}

/// A port, or a range of them.
pub(crate) fn port_range(text: &str) -> Option<(u16, u16)> {
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first > 0 && first <= last).then_some((first, last))
}

/// A bind as the engine splits it: source, target, options.
pub(crate) fn split_bind(text: &str) -> Option<Bind> {
    let mut parts = text.split(':');
    let (source, target) = (parts.next()?, parts.next()?);
    let options = parts.next().unwrap_or_default();
    if source.is_empty() || target.is_empty() || parts.next().is_some() {
        return None;
    }
    let read_only = options.split(',').any(|option| option == "ro");
    Some(Bind { source: source.to_owned(), target: target.to_owned(), read_only })
}

pub(super) fn host_ports(options: &Cursor<'_>) -> Vec<HostPort> {
    let Some(bindings) = options.get_any_case("HostConfig").and_then(|at| at.get_any_case("PortBindings"))
    else {
        return Vec::new();
    };
    let binding = |port: &str, at: &Cursor<'_>| {
        let (_, protocol) = container_port(port)?;
        let text = |key| at.get_any_case(key).and_then(|at| scalar(&at));
        let ports = port_range(&text("HostPort")?)?;
        let address = text("HostIp").unwrap_or_default();
        Some(HostPort { address, ports, protocol, pointer: at.pointer.clone() })
    };
    let of_port = |(port, at): (&str, Cursor<'_>)| -> Vec<HostPort> {
        at.elements().filter_map(|at| binding(port, &at)).collect()
    };
    bindings.entries().flat_map(of_port).collect()
}

/// A string, or a number, which edgeAgent makes one of.
fn scalar(at: &Cursor<'_>) -> Option<String> {
    at.node.as_str().map(str::to_owned).or_else(|| at.node.as_number().map(ToString::to_string))
}

pub(super) fn binds(options: &Cursor<'_>) -> Vec<Bind> {
    let Some(host) = options.get_any_case("HostConfig") else { return Vec::new() };
    let listed = host.get_any_case("Binds").into_iter().flat_map(|at| at.elements());
    let mounted = host.get_any_case("Mounts").into_iter().flat_map(|at| at.elements());
    let mount = |at: Cursor<'_>| {
        let text = |key| at.get_any_case(key).and_then(|at| at.node.as_str().map(str::to_owned));
        let read_only = at.get_any_case("ReadOnly").and_then(|at| at.node.as_bool()).unwrap_or_default();
        Some(Bind { source: text("Source")?, target: text("Target")?, read_only })
    };
    let listed = listed.filter_map(|at| split_bind(at.node.as_str()?));
    listed.chain(mounted.filter_map(mount)).collect()
}

#[cfg(test)]
mod tests {
    use super::{HostPort, Protocol, container_port, port_range, split_bind};

    #[test]
    fn ports_and_binds_are_read_as_the_engine_reads_them() {
        assert_eq!(container_port("8883"), Some(((8883, 8883), Protocol::Tcp)));
        assert_eq!(container_port("10-12/UDP"), Some(((10, 12), Protocol::Udp)));
        for wrong in ["", "0", "65536", "12-10", "+1", "8883/http", "a/tcp", "1/tcp/x"] {
            assert_eq!(container_port(wrong), None, "{wrong}");
        }
        assert_eq!(port_range("443"), Some((443, 443)));
        let bind = split_bind("/a:/b:rshared,ro").expect("a bind");
        assert!(bind.read_only && bind.source == "/a" && bind.target == "/b");
        for wrong in ["/a", "", ":", "/a:", ":/b", "a:b:c:d"] {
            assert_eq!(split_bind(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ports_exclude_each_other_where_they_meet() {
        let port = |address: &str, ports, protocol| HostPort {
            address: address.into(),
            ports,
            protocol,
            pointer: String::new(),
        };
        let all = port("", (443, 443), Protocol::Tcp);
        assert!(all.excludes(&port("10.0.0.1", (440, 450), Protocol::Tcp)));
        assert!(!all.excludes(&port("", (443, 443), Protocol::Udp)));
        assert!(!port("10.0.0.1", (1, 2), Protocol::Tcp).excludes(&port("10.0.0.2", (1, 2), Protocol::Tcp)));
        assert_eq!(port("", (1, 2), Protocol::Sctp).to_string(), "1-2/sctp");
    }
}
