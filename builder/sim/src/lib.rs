//! What a device meets at first contact, simulated: names, time, DPS, the hub, and where certificates come from.
//!
//! ```text
//! device ── A? ────────► dns      53     the names below, nothing else
//!        ── time? ─────► ntp      123    the host's clock plus an offset
//!        ── register ──► dps      443    TLS, client certificate against the enrolment group
//!        ── modules ───► hub      443    TLS, the assigned device's certificate
//!        ── connect ───► mqtt 8883, amqp 5671: TLS for the hub's name, and its protocol's first message
//!        ── enrol ─────► est      443    TLS, password or bootstrap certificate, a request signed
//!        ── secret? ───► vault    443    TLS, a token of one of the next three
//!        ── assertion ─► token    443    TLS, signed with a bootstrap certificate
//!        ── token? ────► metadata 80     plain HTTP; also tells who the virtual machine is
//!        ── token? ────► arc      40342  plain HTTP, proof by a file
//!        ── file? ─────► files    443    TLS, bearer token or bootstrap certificate
//!        ── ready ─────► wireserver 80   plain HTTP: an Azure VM's goal state, and its health
//! ```
//!
//! A [`Simulation`] runs on threads of its own and ends when dropped. The HTTPS services may share address and
//! port: the server name in the TLS handshake tells them apart, as does the path where there is none.

mod arc;
mod assertion;
mod config;
mod dns;
mod door;
mod dps;
mod entra;
mod est;
mod exchange;
pub mod fault;
mod files;
mod hub;
mod identities;
pub mod log;
mod messaging;
mod metadata;
mod ntp;
mod pkcs;
pub mod pki;
mod serve;
mod service;
mod sockets;
mod tls;
mod tokens;
mod vault;
mod web;
mod wireserver;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use arc::Agent;
use dns::Names;
use dps::Dps;
use edgepress_base::error::Problem;
use entra::Entra;
use est::Est;
use exchange::Site;
use fault::Fault;
use files::Files;
use hub::Hub;
use identities::Identities;
use log::{Log, LogEntry};
use metadata::Instance;
use pki::Pki;
use serve::World;
use sockets::Sockets;
use tls::Group;
use tokens::Tokens;
use vault::Vault;
use web::{Host, Web};
use wireserver::{Hostplugin, Wireserver};

pub use config::{
    Addresses, Allocation, Config, DPS_NAME, EST_NAME, EST_USER, FILES_NAME, HUB_NAME, Metadata, NTP_NAMES,
    SecretContent, TOKEN_NAME, VAULT_NAME, VAULT_NAMES, VaultSecret, hosts,
};
pub use service::Service;

/// How long [`Simulation`] waits for its tasks when it ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// A running world; ends when dropped.
pub struct Simulation {
    world: Arc<World>,
    bound: Addresses,
    runtime: Option<Runtime>,
}

impl Simulation {
    /// Binds every service and starts answering.
    ///
    /// # Errors
    /// When an address cannot be bound (says which, for which service, and what to do) or a file not written.
    pub fn start(config: Config) -> Result<Self> {
        check(&config)?;
        let dns = |address: &Ipv4Addr| (Service::Dns, SocketAddrV4::new(*address, Service::Dns.port()));
        let services = config.services().filter(|service| config.listener(*service) == *service);
        // The services' own addresses come last: they are the ones told.
        let sockets = config
            .more_dns
            .iter()
            .filter(|_| config.has(Service::Dns))
            .map(dns)
            .chain(services.map(|service| (service, config.addresses.get(service))))
            .map(|(service, address)| Sockets::bind(service, address))
            .collect::<Result<Vec<_>>>()?;
        let bound = sockets.iter().fold(config.addresses, |all, it| all.with(it.service, it.address));
        let world = Arc::new(world(&config)?);
        for (service, fault) in config.faults {
            world.faults.add(service, fault);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("simulation")
            .enable_all()
            .build()
            .context("starting the simulation's threads")?;
        {
            let _inside = runtime.enter();
            for socket in sockets {
                socket.serve(&world)?;
            }
        }
        Ok(Self { world, bound, runtime: Some(runtime) })
    }

    /// Where a service listens, with the port that it really got; where it would, if it is left off.
    pub fn addr(&self, service: Service) -> SocketAddrV4 {
        self.bound.get(service)
    }

    /// The instant from which entries count their seconds.
    pub fn started(&self) -> Instant {
        self.world.log.started()
    }

    /// The requests so far, oldest first (the latest 100,000).
    pub fn entries(&self) -> Vec<LogEntry> {
        self.world.log.entries()
    }

    /// Every request from now on; the channel ends with the simulation.
    pub fn subscribe(&self) -> Receiver<LogEntry> {
        self.world.log.subscribe()
    }

    /// Gives a service a fault instead of those it had; `None` mends it. One that does not suit the service
    /// ([`fault::Trouble::suits`]) changes nothing.
    pub fn set_fault(&self, service: Service, fault: Option<Fault>) {
        self.world.faults.set(service, fault);
    }

    /// Ends the simulation.
    ///
    /// # Errors
    /// When the log file could not be written at some time.
    pub fn stop(mut self) -> Result<Vec<LogEntry>> {
        self.end();
        match self.world.log.failure() {
            Some(error) => Err(error).context("writing the simulator's log"),
            None => Ok(self.entries()),
        }
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(FAREWELL);
        }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("bound", &self.bound).finish_non_exhaustive()
    }
}

/// Refuses what cannot be simulated.
fn check(config: &Config) -> Result<()> {
    for service in config.services() {
        let address = config.addresses.get(service);
        if !serve::tellable(*address.ip()) {
            return Err(Problem::input(format!("{service} cannot listen at {}", address.ip()))
                .hint("name an address of this machine: DNS answers with it")
                .into());
        }
    }
    for (service, Fault { trouble, .. }) in &config.faults {
        if !trouble.suits(*service) {
            return Err(Problem::input(format!("{service} cannot have the fault `{trouble}`"))
                .hint("docs/simulators.md lists which fault means what for which service")
                .into());
        }
        if !config.has(*service) {
            return Err(Problem::input(format!("{service} is given the fault `{trouble}`, but is left off"))
                .hint("a fault can only strike a service that listens")
                .into());
        }
    }
    Ok(())
}

fn world(config: &Config) -> Result<World> {
    let now = OffsetDateTime::now_utc();
    let now = now.checked_add(config.clock_offset).context("the clock offset leaves the calendar")?;
    let mut hosts = BTreeMap::new();
    for service in Service::https().filter(|service| config.has(*service)) {
        hosts.insert(service, host(config, service, now)?);
    }
    let hub = Arc::new(Hub::default());
    let web = Web::new(sites(config, hub.clone())?, hosts);
    let log = Log::create(config.log_file.as_deref())?;
    Ok(World::new(web, hub, Names::new(config.dns_names()), log, config.clock_offset))
}

/// The names of an HTTPS service, with certificates for them.
fn host(config: &Config, service: Service, now: OffsetDateTime) -> Result<Host> {
    let ip = |service| IpAddr::V4(*config.addresses.get(service).ip());
    let addresses = match service {
        Service::Hub => vec![ip(Service::Hub), ip(Service::Mqtt), ip(Service::Amqp)],
        _ => vec![ip(service)],
    };
    let own = config.names_of(service);
    let named: Vec<&str> = own.iter().copied().chain(["localhost"]).collect();
    let names = pki::server_names(&named, &addresses);
    Ok(Host {
        names: own.into_iter().map(str::to_ascii_lowercase).collect(),
        tls: tls::server_config(config.pki.issue_server(&names, now)?)?,
        untrusted: tls::server_config(Pki::issue_untrusted(&names, now)?)?,
    })
}

/// What answers over HTTP.
fn sites(config: &Config, hub: Arc<Hub>) -> Result<BTreeMap<Service, Arc<dyn Site>>> {
    let dps = Dps::new(
        Group::enrolment(&config.pki)?,
        config.id_scope.clone(),
        config.hub_name.clone(),
        config.allocation.clone(),
        config.assigning_polls,
        hub.clone(),
    );
    let tokens = Arc::new(Tokens::default());
    let identities = Arc::new(Identities::new(config.pki.clone()));
    let mut sites: BTreeMap<Service, Arc<dyn Site>> = BTreeMap::from([
        (Service::Dps, Arc::new(dps) as Arc<dyn Site>),
        (Service::Hub, hub),
        (Service::Est, Arc::new(Est::new(config)?)),
        (Service::Vault, Arc::new(Vault::new(config, tokens.clone(), identities.clone()))),
        (Service::Token, Arc::new(Entra::new(config, tokens.clone())?)),
        (Service::Metadata, Arc::new(Instance::new(config, tokens.clone()))),
        (Service::Files, Arc::new(Files::new(config, identities)?)),
        (Service::Wireserver, Arc::new(Wireserver::new(config))),
        (Service::Hostplugin, Arc::new(Hostplugin)),
    ]);
    if let Some(folder) = config.arc_tokens.as_deref().filter(|_| config.has(Service::Arc)) {
        sites.insert(Service::Arc, Arc::new(Agent::new(config, folder, tokens)?));
    }
    Ok(sites)
}

#[cfg(test)]
mod tests;
