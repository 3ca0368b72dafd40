//! What the machine meets outside: simulated services on their real ports, and nothing else.
//!
//! The sandbox's network has only `lo`. Addresses are added to it, the simulators listen there, and QEMU's user-mode
//! network lets the guest reach what this process could reach: those addresses, and DNS by way of its 10.0.2.3, which
//! asks the server in /etc/resolv.conf.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::azure::Vm;
use super::fault_injection::Planned;
use crate::error::Problem;
use crate::host;
use crate::sim::log::LogEntry;
use crate::sim::pki::Pki;
use crate::sim::{Addresses, Allocation, Config, Service, Simulation, VaultSecret};

/// The services' addresses: private, and outside the 10.0.2.0/24 of QEMU's user-mode network and docker's defaults.
const DPS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const HUB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const NTP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 4);
const EST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 5);
const VAULT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 6);
const TOKEN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);
const FILES: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 8);
/// Where every virtual machine of Azure finds it.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same of what the platform is told.
const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

const HTTPS: u16 = 443;

/// The world as the sandbox is told it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Folder of the certificate authorities.
    pub pki: PathBuf,
    /// DPS endpoint of the image.
    pub global_endpoint: String,
    /// Addresses that the image's source of certificates asks, each with the service that is simulated there.
    pub servers: Vec<(Service, String)>,
    /// ID scope of the image.
    pub id_scope: String,
    /// DNS servers that the image's containers ask.
    pub engine_dns: Vec<IpAddr>,
    /// The device's registration id.
    pub registration_id: String,
    /// The vault's secrets, in whose names `*` stands for the registration id.
    pub secrets: Vec<VaultSecret>,
    /// The VM of a simulated Azure that the device is.
    pub azure: Option<Vm>,
    /// What DPS makes of a registration.
    pub allocation: Allocation,
    /// What the services do wrong.
    pub faults: Vec<Planned>,
    /// Seconds that this world is ahead of the host.
    pub clock_offset: i64,
    /// Where the simulators' log is written.
    pub log: PathBuf,
    /// A file of this run that may become /etc/resolv.conf.
    pub resolv_conf: PathBuf,
}

/// The running world; ends when dropped.
pub(crate) struct World(Simulation);

impl World {
    /// Sets it up in this process' mount and network namespaces, which must be private.
    ///
    /// # Errors
    /// When an address, a port or a mount is refused.
    pub(crate) fn start(setting: &Setting) -> Result<Self> {
        let (name, dps) = endpoint("DPS endpoint", &setting.global_endpoint, DPS)?;
        let resolvers = resolvers(&setting.engine_dns);
        let mut addresses = addresses(dps);
        let mut config = Config::new(Pki::open_or_create(&setting.pki)?);
        for (service, url) in &setting.servers {
            let (name, at) = endpoint("source of certificates", url, *addresses.get(*service).ip())?;
            addresses = addresses.with(*service, at);
            match service {
                Service::Est => config.est_name = name,
                Service::Vault => config.vault_name = name,
                Service::Token => config.token_name = name,
                _ => config.files_name = name,
            }
        }
        if !setting.secrets.is_empty() {
            config.vault_secrets = setting.secrets.clone();
        }
        let all = Service::ALL.map(|service| *addresses.get(service).ip());
        for address in all.into_iter().chain(resolvers.iter().copied()).collect::<BTreeSet<_>>() {
            host::run(host::command("ip")?.args(["address", "add", &format!("{address}/32"), "dev", "lo"]))?;
        }
        name_server(&setting.resolv_conf)?;
        config.dps_name = name;
        config.id_scope = (!setting.id_scope.is_empty()).then(|| setting.id_scope.clone());
        config.allocation = setting.allocation.clone();
        config.log_file = Some(setting.log.clone());
        config.more_dns = resolvers;
        config.faults = setting.faults.iter().map(|planned| (planned.service, planned.fault)).collect();
        config.clock_offset = time::Duration::seconds(setting.clock_offset);
        config.addresses = addresses;
        config.without.remove(&Service::Metadata);
        if let Some(vm) = &setting.azure {
            config.metadata = vm.metadata();
            config.without.clear();
        }
        Ok(Self(Simulation::start(config)?))
    }

    /// The instant from which entries count their seconds.
    pub(crate) fn started(&self) -> Instant {
        self.0.started()
    }

    /// Every request from now on.
    pub(crate) fn subscribe(&self) -> Receiver<LogEntry> {
        self.0.subscribe()
    }

    /// Ends the world and returns every request.
    ///
    /// # Errors
    /// When the log could not be written.
    pub(crate) fn end(self) -> Result<Vec<LogEntry>> {
        self.0.stop()
    }
}

/// Where each service listens. The hub's is also that of Arc, which stays off: a device asks it at its own loopback.
fn addresses(dps: SocketAddrV4) -> Addresses {
    let others = [
        (Service::Dns, DNS),
        (Service::Ntp, NTP),
        (Service::Est, EST),
        (Service::Vault, VAULT),
        (Service::Token, TOKEN),
        (Service::Files, FILES),
        (Service::Metadata, METADATA),
        (Service::Wireserver, WIRESERVER),
        (Service::Hostplugin, WIRESERVER),
    ];
    others.into_iter().fold(Addresses::all_at(HUB).with(Service::Dps, dps), |all, (service, address)| {
        all.with(service, SocketAddrV4::new(address, service.port()))
    })
}

/// Name of a server and where it is simulated: at `usual`, unless it has an address instead of a name.
fn endpoint(what: &str, url: &str, usual: Ipv4Addr) -> Result<(String, SocketAddrV4)> {
    let refused = |why: &str| {
        Problem::input(format!("the image's {what} `{url}` cannot be simulated: {why}")).hint(
            "an address such as https://global.azure-devices-provisioning.net is expected in [provisioning]",
        )
    };
    let parsed = Url::parse(url).map_err(|error| refused(&error.to_string()))?;
    if parsed.scheme() != "https" {
        return Err(refused("it does not begin with https://").into());
    }
    let port = parsed.port().unwrap_or(HTTPS);
    match parsed.host() {
        Some(Host::Domain(name)) => Ok((name.to_owned(), SocketAddrV4::new(usual, port))),
        Some(Host::Ipv4(address)) => Ok((address.to_string(), SocketAddrV4::new(address, port))),
        _ => Err(refused("it names no host").into()),
    }
}

/// Servers that containers ask, apart from those that QEMU itself answers for or that are the guest's own.
fn resolvers(engine_dns: &[IpAddr]) -> Vec<Ipv4Addr> {
    let simulated = |address: &Ipv4Addr| {
        let octets = address.octets();
        !(address.is_loopback() || address.is_unspecified() || octets[..3] == [10, 0, 2] || *address == DNS)
    };
    let found: BTreeSet<_> = engine_dns
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .filter(simulated)
        .collect();
    found.into_iter().collect()
}

/// Makes the simulated DNS this process' only name server.
fn name_server(file: &Path) -> Result<()> {
    const PLACE: &str = "/etc/resolv.conf";
    fs::write(file, format!("nameserver {DNS}\n")).with_context(|| format!("writing {}", file.display()))?;
    // A link is followed: on many hosts this one leads into /run.
    let place = fs::canonicalize(PLACE).map_err(|error| {
        Problem::work(format!("{PLACE} leads nowhere ({error}), so QEMU could offer its guest no DNS"))
            .hint("an empty file there will do")
    })?;
    let none: Option<&str> = None;
    mount(Some(file), &place, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("mounting over {}", place.display()))
}

/// Why an answer to the device ends the test, if it does: DPS knows the device and refuses it, which no waiting mends.
/// A DPS that was told to do wrong means nothing by its answers.
pub(crate) fn refusal(entry: &LogEntry, faults: &[Planned]) -> Option<String> {
    let status = entry.status.filter(|_| entry.service == Service::Dps)?;
    if faults.iter().any(|planned| planned.service == Service::Dps) {
        return None;
    }
    // 408 and 429 ask for patience; 5xx may pass.
    if !(400..500).contains(&status) || status == 408 || status == 429 {
        return None;
    }
    let client = entry.client.as_deref().unwrap_or("a client without certificate");
    let note = if entry.note.is_empty() { String::new() } else { format!(": {}", entry.note) };
    Some(format!("DPS answered {status} to {client} for {}{note}", entry.what))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddrV4;

    use super::{DPS, addresses, endpoint, refusal, resolvers};
    use crate::sim::Service;
    use crate::sim::log::LogEntry;

    #[test]
    fn endpoints() {
        for (url, expected) in [
            (
                "https://global.azure-devices-provisioning.net",
                Some(("global.azure-devices-provisioning.net", DPS, 443)),
            ),
            ("https://dps.example:8443/", Some(("dps.example", DPS, 8443))),
            ("https://10.1.2.3", Some(("10.1.2.3", [10, 1, 2, 3].into(), 443))),
            ("http://dps.example", None),
            ("https://[::1]", None),
            ("dps.example", None),
            ("", None),
        ] {
            let found = endpoint("DPS endpoint", url, DPS).ok();
            let found = found.as_ref().map(|(name, at)| (name.as_str(), *at.ip(), at.port()));
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn no_two_services_meet_but_the_hub_s() {
        let all = addresses(SocketAddrV4::new(DPS, 443));
        let ips: BTreeSet<_> = Service::ALL.map(|service| *all.get(service).ip()).into();
        assert_eq!(ips.len(), Service::ALL.len() - 4, "mqtt, amqp and arc are at the hub's; one plugin");
        assert_eq!(all.get(Service::Metadata).to_string(), "169.254.169.254:80");
        assert!(Service::ALL.iter().all(|service| all.get(*service).port() == service.port()));
    }

    #[test]
    fn only_servers_outside_are_simulated() {
        let list = ["1.1.1.1", "127.0.0.53", "10.0.2.3", "::1", "8.8.8.8", "1.1.1.1", "10.99.0.3"];
        let list: Vec<_> = list.iter().map(|text| text.parse().expect("address")).collect();
        assert_eq!(resolvers(&list), [[1, 1, 1, 1].into(), std::net::Ipv4Addr::from([8, 8, 8, 8])]);
    }

    #[test]
    fn refusals() {
        let entry = |service: &str, status: Option<u16>| -> LogEntry {
            serde_json::from_value(serde_json::json!({
                "seconds": 1.0, "time": "", "service": service, "peer": "10.0.2.15:1000", "what": "PUT /register",
                "client": "dev", "status": status, "note": "unknown CA",
            }))
            .expect("an entry")
        };
        assert_eq!(
            refusal(&entry("dps", Some(401)), &[]).as_deref(),
            Some("DPS answered 401 to dev for PUT /register: unknown CA")
        );
        for (service, status) in
            [("dps", Some(202)), ("dps", Some(429)), ("dps", Some(500)), ("dps", None), ("hub", Some(401))]
        {
            assert_eq!(refusal(&entry(service, status), &[]), None, "{service} {status:?}");
        }
        let faults = |text: &str| [text.parse().expect("a fault")];
        assert_eq!(refusal(&entry("dps", Some(401)), &faults("dps=500:1")), None);
        assert!(refusal(&entry("dps", Some(401)), &faults("hub=500:1")).is_some());
    }
}
