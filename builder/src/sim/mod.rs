//! What a device meets at first contact, simulated: names, time, DPS and the hub.
//!
//! ```text
//! device ── A? ───────► dns  53   the names below, nothing else
//!        ── time? ────► ntp  123  the host's clock plus an offset
//!        ── register ─► dps  443  TLS, client certificate against the enrolment group
//!        ── modules ──► hub  443  TLS, the assigned device's certificate
//!        ── connect ──► mqtt 8883, amqp 5671: that it connects is logged
//! ```
//!
//! A [`Simulation`] runs on threads of its own and ends when dropped. DPS and hub may share address and port:
//! the server name in the TLS handshake tells them apart, as does the path where there is none.

mod dns;
mod dps;
mod exchange;
pub mod fault;
mod hub;
pub mod log;
mod ntp;
pub mod pki;
mod serve;
mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use crate::error::Problem;
use dns::Names;
use dps::Dps;
use fault::Fault;
use hub::Hub;
use log::{Entry, Log};
use pki::Pki;
use serve::World;

/// The global endpoint that devices ask unless told otherwise.
pub const DPS_NAME: &str = "global.azure-devices-provisioning.net";
/// The simulated hub's name unless told otherwise.
pub const HUB_NAME: &str = "edgepress-simulator.azure-devices.net";

/// Names of the time servers that common systems ask; `*` stands for any run of characters.
pub const NTP_NAMES: [&str; 6] =
    ["pool.ntp.org", "*.pool.ntp.org", "ntp.ubuntu.com", "*.ntp.ubuntu.com", "time.*", "ntp.*"];

/// How long [`Simulation`] waits for its tasks when it ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// A simulated service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Device Provisioning Service, HTTPS.
    Dps,
    /// IoT hub, HTTPS.
    Hub,
    /// IoT hub, MQTT over TLS.
    Mqtt,
    /// IoT hub, AMQP over TLS.
    Amqp,
    /// DNS over UDP and TCP.
    Dns,
    /// NTP over UDP.
    Ntp,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Dps, Self::Hub, Self::Mqtt, Self::Amqp, Self::Dns, Self::Ntp];

    /// The port where devices expect it.
    pub fn port(self) -> u16 {
        match self {
            Self::Dps | Self::Hub => 443,
            Self::Mqtt => 8883,
            Self::Amqp => 5671,
            Self::Dns => 53,
            Self::Ntp => 123,
        }
    }

    /// Its name on the command line and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dps => "dps",
            Self::Hub => "hub",
            Self::Mqtt => "mqtt",
            Self::Amqp => "amqp",
            Self::Dns => "dns",
            Self::Ntp => "ntp",
        }
    }

    fn tcp(self) -> bool {
        self != Self::Ntp
    }

    fn udp(self) -> bool {
        matches!(self, Self::Dns | Self::Ntp)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == text)
            .ok_or_else(|| format!("unknown service `{text}`: expected dps, hub, mqtt, amqp, dns or ntp"))
    }
}

/// Where each service listens; port 0 means any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses([SocketAddrV4; Service::ALL.len()]);

impl Addresses {
    /// Every service at this address, on its real port.
    pub fn all_at(address: Ipv4Addr) -> Self {
        Self(Service::ALL.map(|service| SocketAddrV4::new(address, service.port())))
    }

    /// With one service elsewhere.
    #[must_use]
    pub fn with(mut self, service: Service, address: SocketAddrV4) -> Self {
        self.0[service as usize] = address;
        self
    }

    /// Where one service listens.
    pub fn get(&self, service: Service) -> SocketAddrV4 {
        self.0[service as usize]
    }
}

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// Host name of the DPS endpoint.
    pub dps_name: String,
    /// Host name of the hub that devices are assigned to.
    pub hub_name: String,
    /// The only ID scope that DPS knows; any where there is none.
    pub id_scope: Option<String>,
    /// Where each service listens. MQTT and AMQP are expected at the hub's address.
    pub addresses: Addresses,
    /// More names for DNS, before the built-in ones; `*` stands for any run of characters.
    pub names: Vec<(String, Ipv4Addr)>,
    /// Addresses besides, at which DNS answers on its real port.
    pub more_dns: Vec<Ipv4Addr>,
    /// Certificate authorities.
    pub pki: Pki,
    /// Faults from the start.
    pub faults: Vec<(Service, Fault)>,
    /// The simulated world's clock, ahead of the host's: for NTP and for the validity of certificates.
    pub clock_offset: time::Duration,
    /// How often DPS answers "assigning" to a poll before "assigned".
    pub assigning_polls: u32,
    /// A file for the log, as JSON Lines; replaced where it exists.
    pub log_file: Option<PathBuf>,
}

impl Config {
    /// A world with the usual names, any ID scope and no faults, on real ports at 127.0.0.1.
    pub fn new(pki: Pki) -> Self {
        Self {
            dps_name: DPS_NAME.into(),
            hub_name: HUB_NAME.into(),
            id_scope: None,
            addresses: Addresses::all_at(Ipv4Addr::LOCALHOST),
            names: Vec::new(),
            more_dns: Vec::new(),
            pki,
            faults: Vec::new(),
            clock_offset: time::Duration::ZERO,
            assigning_polls: 0,
            log_file: None,
        }
    }

    /// The names that DNS answers, the first that matches counting.
    fn dns_names(&self) -> Vec<(String, Ipv4Addr)> {
        let ip = |service| *self.addresses.get(service).ip();
        let mut names = self.names.clone();
        names.push((self.dps_name.clone(), ip(Service::Dps)));
        names.push((self.hub_name.clone(), ip(Service::Hub)));
        names.extend(NTP_NAMES.map(|name| (name.to_owned(), ip(Service::Ntp))));
        names
    }
}

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
        for service in Service::ALL {
            let address = config.addresses.get(service);
            if !serve::tellable(*address.ip()) {
                return Err(Problem::input(format!("{service} cannot listen at {}", address.ip()))
                    .hint("name an address of this machine: DNS answers with it")
                    .into());
            }
        }
        let dns = |address: &Ipv4Addr| (Service::Dns, SocketAddrV4::new(*address, Service::Dns.port()));
        let services = Service::ALL.into_iter().filter(|service| !shares(&config.addresses, *service));
        // The services' own addresses come last: they are the ones told.
        let sockets = config
            .more_dns
            .iter()
            .map(dns)
            .chain(services.map(|service| (service, config.addresses.get(service))))
            .map(|(service, address)| Sockets::bind(service, address))
            .collect::<Result<Vec<_>>>()?;
        let bound = sockets.iter().fold(config.addresses, |all, it| all.with(it.service, it.address));
        let world = Arc::new(world(&config)?);
        for (service, fault) in config.faults {
            world.faults.set(service, Some(fault));
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

    /// Where a service listens, with the port that it really got.
    pub fn addr(&self, service: Service) -> SocketAddrV4 {
        self.bound.get(service)
    }

    /// The instant from which entries count their seconds.
    pub fn started(&self) -> Instant {
        self.world.log.started()
    }

    /// The requests so far, oldest first (the latest 100,000).
    pub fn entries(&self) -> Vec<Entry> {
        self.world.log.entries()
    }

    /// Every request from now on; the channel ends with the simulation.
    pub fn subscribe(&self) -> Receiver<Entry> {
        self.world.log.subscribe()
    }

    /// Gives a service a fault instead of the one it had; `None` mends it.
    pub fn set_fault(&self, service: Service, fault: Option<Fault>) {
        self.world.faults.set(service, fault);
    }

    /// Ends the simulation.
    ///
    /// # Errors
    /// When the log file could not be written at some time.
    pub fn stop(mut self) -> Result<Vec<Entry>> {
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

fn world(config: &Config) -> Result<World> {
    let ip = |service| IpAddr::V4(*config.addresses.get(service).ip());
    let now = OffsetDateTime::now_utc();
    let now = now.checked_add(config.clock_offset).context("the clock offset leaves the calendar")?;
    let server = |name: &str, addresses: &[IpAddr]| {
        let names = pki::server_names(&[name, "localhost"], addresses);
        let certificate = config.pki.issue_server(&names, now)?;
        Ok::<_, anyhow::Error>((name.to_ascii_lowercase(), tls::server_config(certificate)?))
    };
    let hub = Arc::new(Hub::default());
    let group = tls::Group::of(&config.pki)?;
    Ok(World::new(
        Dps::new(
            group,
            config.id_scope.clone(),
            config.hub_name.clone(),
            config.assigning_polls,
            hub.clone(),
        ),
        hub,
        Names::new(config.dns_names()),
        Log::create(config.log_file.as_deref())?,
        config.clock_offset,
        server(&config.dps_name, &[ip(Service::Dps)])?,
        server(&config.hub_name, &[ip(Service::Hub), ip(Service::Mqtt), ip(Service::Amqp)])?,
    ))
}

/// Whether the hub shares the listener of DPS.
fn shares(addresses: &Addresses, service: Service) -> bool {
    let hub = addresses.get(Service::Hub);
    service == Service::Hub && hub.port() != 0 && hub == addresses.get(Service::Dps)
}

/// A service's bound sockets.
struct Sockets {
    service: Service,
    address: SocketAddrV4,
    tcp: Option<TcpListener>,
    udp: Option<UdpSocket>,
}

impl Sockets {
    fn bind(service: Service, address: SocketAddrV4) -> Result<Self> {
        let refused = |error: io::Error| refusal(service, address, &error);
        let tcp = match service.tcp() {
            true => Some(listen(address).map_err(refused)?),
            false => None,
        };
        let mut bound = match &tcp {
            Some(tcp) => v4(tcp.local_addr().context("reading a bound address")?, address),
            None => address,
        };
        // DNS uses one port for both; with port 0 it is the one that TCP was given.
        let udp = match service.udp() {
            true => Some(packets(bound).map_err(refused)?),
            false => None,
        };
        if let Some(udp) = &udp {
            bound = v4(udp.local_addr().context("reading a bound address")?, bound);
        }
        Ok(Self { service, address: bound, tcp, udp })
    }

    /// Starts answering; to be called inside the runtime.
    fn serve(self, world: &Arc<World>) -> Result<()> {
        let service = self.service;
        if let Some(listener) = self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener).context("taking a listener")?;
            let world = world.clone();
            match service {
                Service::Dps | Service::Hub => {
                    tokio::spawn(serve::accept(world, listener, move |world, stream, peer| {
                        serve::https(world, stream, peer, service)
                    }));
                }
                Service::Mqtt | Service::Amqp => {
                    tokio::spawn(serve::accept(world, listener, move |world, stream, peer| {
                        serve::messaging(world, stream, peer, service)
                    }));
                }
                Service::Dns | Service::Ntp => {
                    tokio::spawn(serve::accept(world, listener, serve::dns_tcp));
                }
            }
        }
        if let Some(socket) = self.udp {
            let socket = tokio::net::UdpSocket::from_std(socket).context("taking a socket")?;
            let answer = if service == Service::Ntp { serve::ntp_answer } else { serve::dns_answer };
            tokio::spawn(serve::udp(world.clone(), socket, answer));
        }
        Ok(())
    }
}

fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn packets(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn v4(address: SocketAddr, otherwise: SocketAddrV4) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => otherwise,
    }
}

fn refusal(service: Service, address: SocketAddrV4, error: &io::Error) -> Problem {
    let problem = Problem::work(format!("cannot listen at {address} for {service}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => problem.hint(format!(
            "another program uses port {}: stop it (`ss -lntup` shows it), or choose another address or port",
            address.port()
        )),
        io::ErrorKind::PermissionDenied => problem.hint(
            "ports below 1024 need a privilege: run as root, or choose ports above with --port-offset or --port",
        ),
        io::ErrorKind::AddrNotAvailable => {
            problem.hint(format!("{} is no address of this machine: `ip address` lists them", address.ip()))
        }
        _ => problem,
    }
}

/// The host names that a device must resolve, each with its address: lines for a hosts file.
pub fn hosts(config: &Config) -> Vec<(Ipv4Addr, String)> {
    let named = [(Service::Dps, &config.dps_name), (Service::Hub, &config.hub_name)];
    let lines: BTreeSet<(Ipv4Addr, String)> = named
        .into_iter()
        .map(|(service, name)| (*config.addresses.get(service).ip(), name.clone()))
        .collect();
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests;
