//! `edgepress sim`: runs the simulators until Ctrl-C, or issues a device's identity.

use std::fmt::{self, Display};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::channel;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Session;
use crate::error::Problem;
use crate::sim::fault::Fault;
use crate::sim::log::Entry;
use crate::sim::pki::{DeviceOptions, Pki};
use crate::sim::{Addresses, Config, DPS_NAME, HUB_NAME, Service, Simulation, hosts};
use crate::units::Digest;

const EXAMPLES: &str = "\
Examples:
  edgepress sim --port-offset 10000
      on this machine, without privileges: DPS and hub at 127.0.0.1:10443, DNS at 10053, …
  edgepress sim --issue edge-1 --out stick
      writes stick/edgepress/, the identity of a device, to be copied onto its FAT partition
  sudo edgepress sim --listen 192.168.1.5 --id-scope 0ne00000001 --log requests.jsonl
      for devices on the network, which take 192.168.1.5 as their DNS server
  edgepress sim --port-offset 10000 --fault dps=429:3 --fault hub=slow:10s --fault ntp=silent
      throttles three requests to DPS, answers late for the hub, and gives no time at all

Faults: 429, 500, silent, slow:SECONDSs; a following :N means only the next N requests.
docs/simulators.md tells more.";

/// Simulates DPS, hub, DNS and NTP, so that devices can be tried without an Azure account
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Address of this machine to listen at, which DNS also answers with [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Ipv4Addr>,
    /// Folder of the certificate authorities; made where it is not there
    #[arg(long, value_name = "DIR", default_value = "edgepress-sim")]
    dir: PathBuf,
    /// Host name of the DPS endpoint
    #[arg(long, value_name = "NAME", default_value = DPS_NAME)]
    dps: String,
    /// Host name of the hub that devices are assigned to
    #[arg(long, value_name = "NAME", default_value = HUB_NAME)]
    hub: String,
    /// The only ID scope that DPS knows [default: any]
    #[arg(long, value_name = "SCOPE")]
    id_scope: Option<String>,
    /// Added to every port, so that no privilege is needed
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
    /// Port of one service (dps, hub, mqtt, amqp, dns, ntp); 0: any free one
    #[arg(long, value_name = "SERVICE=PORT", value_parser = pair::<Service, u16>)]
    port: Vec<(Service, u16)>,
    /// One more name that DNS answers; `*` stands for any characters
    #[arg(long, value_name = "NAME=ADDR", value_parser = pair::<String, Ipv4Addr>)]
    name: Vec<(String, Ipv4Addr)>,
    /// What a service does wrong, as in dps=429:3
    #[arg(long, value_name = "SERVICE=FAULT", value_parser = pair::<Service, Fault>)]
    fault: Vec<(Service, Fault)>,
    /// Seconds that the simulated clock is ahead of this machine's
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    clock_offset: i64,
    /// How often DPS answers "assigning" before "assigned"
    #[arg(long, value_name = "N", default_value_t = 0)]
    assigning: u32,
    /// Also writes the log to a file, as JSON Lines
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Issues the identity of a device into --out, and ends
    #[arg(long, value_name = "REGISTRATION_ID", requires = "out")]
    issue: Option<String>,
    /// Where `edgepress/` with the identity is made
    #[arg(long, value_name = "DIR", requires = "issue")]
    out: Option<PathBuf>,
    /// Issues an identity that DPS must refuse
    #[arg(long, requires = "issue")]
    flaw: Option<Flaw>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Flaw {
    /// Expired an hour ago
    Expired,
    /// Valid from tomorrow
    NotYetValid,
    /// Signed by another authority of the same name
    WrongCa,
}

/// `KEY=VALUE`, each of its type.
fn pair<K, V>(text: &str) -> Result<(K, V), String>
where
    K: FromStr<Err: Display>,
    V: FromStr<Err: Display>,
{
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let key = key.parse::<K>().map_err(|error| error.to_string())?;
    let value = value.parse::<V>().map_err(|error| error.to_string())?;
    Ok((key, value))
}

pub(super) fn run(arguments: Arguments, session: &Session) -> Result<()> {
    let pki = Pki::open_or_create(&arguments.dir)?;
    let config = config(&arguments, pki)?;
    match (&arguments.issue, &arguments.out) {
        (Some(id), Some(out)) => session.answer(&issue(&arguments, &config, id, out)?),
        _ => simulate(arguments.dir, config, session),
    }
}

fn config(arguments: &Arguments, pki: Pki) -> Result<Config> {
    let address = arguments.listen.unwrap_or(Ipv4Addr::LOCALHOST);
    let mut addresses = Addresses::all_at(address);
    for service in Service::ALL {
        let chosen = arguments.port.iter().rev().find(|(named, _)| *named == service);
        let port = match chosen {
            Some((_, port)) => *port,
            None => service.port().checked_add(arguments.port_offset).ok_or_else(|| {
                Problem::input(format!(
                    "--port-offset {} takes port {} of {service} beyond 65535",
                    arguments.port_offset,
                    service.port()
                ))
                .hint("the offset can be at most 56652")
            })?,
        };
        addresses = addresses.with(service, SocketAddrV4::new(address, port));
    }
    Ok(Config {
        dps_name: arguments.dps.clone(),
        hub_name: arguments.hub.clone(),
        id_scope: arguments.id_scope.clone(),
        addresses,
        names: arguments.name.clone(),
        faults: arguments.fault.clone(),
        clock_offset: time::Duration::seconds(arguments.clock_offset),
        assigning_polls: arguments.assigning,
        log_file: arguments.log.clone(),
        ..Config::new(pki)
    })
}

/// What `--issue` made.
#[derive(Serialize)]
struct Issued {
    registration_id: String,
    folder: PathBuf,
    /// SHA-256 of the certificate.
    thumbprint: Digest,
}

impl Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: the identity of {}", self.folder.display(), self.registration_id)?;
        write!(f, "It holds a private key. Copy the folder onto the FAT partition of the device's image.")
    }
}

fn issue(arguments: &Arguments, config: &Config, id: &str, out: &Path) -> Result<Issued> {
    let options = match arguments.flaw {
        None => DeviceOptions::default(),
        Some(Flaw::Expired) => DeviceOptions::expired(),
        Some(Flaw::NotYetValid) => DeviceOptions::not_yet_valid(),
        Some(Flaw::WrongCa) => DeviceOptions::wrong_ca(),
    };
    let device = config.pki.issue_device(id, &options)?;
    let mut more = Vec::new();
    // Without an address, the device is expected to ask the simulated DNS.
    if arguments.listen.is_some() {
        let lines = hosts(config).into_iter().map(|(address, name)| format!("{address} {name}\n"));
        more.push(("hosts", lines.collect()));
    }
    let port = config.addresses.get(Service::Dps).port();
    match (config.dps_name.as_str(), port) {
        (DPS_NAME, 443) => {}
        (name, 443) => more.push(("endpoint", format!("https://{name}\n"))),
        (name, port) => more.push(("endpoint", format!("https://{name}:{port}\n"))),
    }
    let folder = config.pki.write_identity(&device, &more, out)?;
    Ok(Issued { registration_id: device.registration_id, folder, thumbprint: device.thumbprint })
}

/// One line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Listening(&'a Listening),
    Request(&'a Entry),
}

/// Where everything listens.
#[derive(Serialize)]
struct Listening {
    dps: SocketAddrV4,
    hub: SocketAddrV4,
    mqtt: SocketAddrV4,
    amqp: SocketAddrV4,
    dns: SocketAddrV4,
    ntp: SocketAddrV4,
    dps_name: String,
    hub_name: String,
    id_scope: Option<String>,
    /// The certificate to trust.
    ca: PathBuf,
    #[serde(skip)]
    dir: PathBuf,
}

impl Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (service, address, name) in [
            ("dps", self.dps, self.dps_name.as_str()),
            ("hub", self.hub, &self.hub_name),
            ("mqtt", self.mqtt, &self.hub_name),
            ("amqp", self.amqp, &self.hub_name),
            ("dns", self.dns, "UDP and TCP"),
            ("ntp", self.ntp, "UDP"),
        ] {
            writeln!(f, "listening  {service:<4}  {:<21}  {name}", address.to_string())?;
        }
        let (ca, dir, dps, name) = (self.ca.display(), self.dir.display(), self.dps, &self.dps_name);
        let scope = self.id_scope.as_deref().unwrap_or("0ne00000001");
        write!(
            f,
            "
A device: make its identity and copy it onto the FAT partition; its DNS server is {dns}
  edgepress sim --dir {dir} --issue edge-1 --out stick

curl, with that identity:
  curl --cacert {ca} --connect-to {name}:443:{dps} \\
    --cert stick/edgepress/certificate.pem --key stick/edgepress/private-key.pem \\
    -X PUT -H 'Content-Type: application/json' -d '{{\"registrationId\":\"edge-1\"}}' \\
    'https://{name}/{scope}/registrations/edge-1/register?api-version=2021-06-01'

Ctrl-C ends. Requests:",
            dns = self.dns,
        )
    }
}

fn simulate(dir: PathBuf, config: Config, session: &Session) -> Result<()> {
    let (dps_name, hub_name) = (config.dps_name.clone(), config.hub_name.clone());
    let id_scope = config.id_scope.clone();
    let simulation = Simulation::start(config)?;
    let entries = simulation.subscribe();
    let (stop, stopped) = channel();
    let interrupt = stop.clone();
    ctrlc::set_handler(move || drop(interrupt.send(Ok(())))).context("taking over Ctrl-C")?;

    let addr = |service| simulation.addr(service);
    let listening = Listening {
        dps: addr(Service::Dps),
        hub: addr(Service::Hub),
        mqtt: addr(Service::Mqtt),
        amqp: addr(Service::Amqp),
        dns: addr(Service::Dns),
        ntp: addr(Service::Ntp),
        dps_name,
        hub_name,
        id_scope,
        ca: dir.join("root.pem"),
        dir,
    };
    let json = session.json;
    if json {
        print(&Line::Listening(&listening))?;
    } else {
        session.answer(&listening)?;
    }

    let printer = std::thread::spawn(move || {
        for entry in entries {
            let written = if json {
                print(&Line::Request(&entry))
            } else {
                writeln!(std::io::stderr().lock(), "{entry}").context("writing to standard error")
            };
            if written.is_err() {
                let _ = stop.send(written);
                return;
            }
        }
    });
    let outcome = stopped.recv().context("waiting for Ctrl-C")?;
    let ended = simulation.stop();
    // The simulation's end closes the channel, and so ends the printer when the last line is out.
    let _ = printer.join();
    outcome.and(ended.map(drop))
}

/// One line of JSON, at once: whoever reads it waits for it.
fn print(line: &Line<'_>) -> Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to standard output")
}

#[cfg(test)]
mod tests {
    use super::{Service, pair};
    use crate::sim::fault::Fault;
    use std::net::Ipv4Addr;

    #[test]
    fn pairs_are_read() {
        assert_eq!(pair::<Service, u16>("dps=8443"), Ok((Service::Dps, 8443)));
        assert_eq!(pair("x.y=10.0.0.1"), Ok(("x.y".to_owned(), Ipv4Addr::new(10, 0, 0, 1))));
        assert!(pair::<Service, Fault>("dps=429:3").is_ok());
        for text in ["", "dps", "dps=", "est=1", "dps=65536"] {
            assert!(pair::<Service, u16>(text).is_err(), "{text}");
        }
    }
}
