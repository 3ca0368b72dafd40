//! The arguments of `edgepress sim`, and the world they describe.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::allocation::AllocationArguments;
use crate::error::Problem;
use crate::sim::fault::Fault;
use crate::sim::pki::Pki;
use crate::sim::{
    Addresses, Config, DPS_NAME, EST_NAME, FILES_NAME, HUB_NAME, Metadata, SecretContent, Service,
    TOKEN_NAME, VAULT_NAME, VaultSecret,
};

const EXAMPLES: &str = "\
Examples:
  edgepress sim --port-offset 10000
      on this machine, without privileges: HTTPS services at 127.0.0.1:10443, DNS at 10053, …
  edgepress sim --issue edge-1 --out stick
      writes stick/edgepress/, the identity of a device, to be copied onto its FAT partition
  edgepress sim --issue edge-1 --bootstrap --out stick
      the same for a device that fetches its certificate from elsewhere
  sudo edgepress sim --listen 192.168.1.5 --id-scope 0ne00000001 --log requests.jsonl
      for devices on the network, which take 192.168.1.5 as their DNS server
  edgepress sim --port-offset 10000 --fault dps=429:3 --fault hub=slow:10s --fault est=silent@30s
      throttles three requests to DPS, answers late for the hub, and gives no EST for 30 s

Services: dps, hub, mqtt, amqp, dns, ntp, est, vault, token, metadata, arc, files, wireserver, hostplugin.
Faults: 429, 500, 404, silent, slow:SECONDSs, wrong, garbage, untrusted.
  A following :N means only the next N requests, @SECONDSs only so long after the start.
docs/simulators.md tells more.";

/// Simulates what a device meets at first contact (DPS, hub, DNS, NTP, EST, key vault and more), so that devices can be tried without an Azure account
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Address of this machine to listen at, which DNS also answers with [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<Ipv4Addr>,
    /// Folder of the certificate authorities; made where it is not there
    #[arg(long, value_name = "DIR", default_value = "edgepress-sim")]
    pub(super) dir: PathBuf,
    /// Host name of the DPS endpoint
    #[arg(long, value_name = "NAME", default_value = DPS_NAME)]
    dps: String,
    /// Host name of the hub that devices are assigned to
    #[arg(long, value_name = "NAME", default_value = HUB_NAME)]
    hub: String,
    /// Host name of the EST server
    #[arg(long, value_name = "NAME", default_value = EST_NAME)]
    est: String,
    /// Host name of the key vault, which answers to *.vault.azure.net besides
    #[arg(long, value_name = "NAME", default_value = VAULT_NAME)]
    vault: String,
    /// Host name of Entra's token endpoint
    #[arg(long, value_name = "NAME", default_value = TOKEN_NAME)]
    token: String,
    /// Host name of the company's server
    #[arg(long, value_name = "NAME", default_value = FILES_NAME)]
    files: String,
    /// The only ID scope that DPS knows [default: any]
    #[arg(long, value_name = "SCOPE")]
    id_scope: Option<String>,
    /// Added to every port, so that no privilege is needed
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
    /// Port of one service, as in est=8443; 0: any free one
    #[arg(long, value_name = "SERVICE=PORT", value_parser = pair::<Service, u16>)]
    port: Vec<(Service, u16)>,
    /// Leaves a service off
    #[arg(long, value_name = "SERVICE")]
    without: Vec<Service>,
    /// Serves instance metadata too (port 80), as devices expect it at 169.254.169.254
    #[arg(long)]
    metadata: bool,
    /// Name that instance metadata gives the virtual machine [default: edge-vm]
    #[arg(long, value_name = "NAME", requires = "metadata")]
    vm_name: Option<String>,
    /// A user-assigned identity of the virtual machine: its client, object or resource id
    #[arg(long, value_name = "ID", requires = "metadata")]
    user_identity: Vec<String>,
    /// Serves the wireserver of an Azure VM too (ports 80 and 32526), at this address: devices expect it at 168.63.129.16
    #[arg(long, value_name = "ADDR")]
    wireserver: Option<Ipv4Addr>,
    /// Serves Arc's metadata too; DIR, which must exist, gets the files of its challenge
    #[arg(long, value_name = "DIR")]
    arc_tokens: Option<PathBuf>,
    /// EST refuses its own certificates when they come without their intermediate, as certd shows them when it renews
    #[arg(long)]
    est_strict: bool,
    /// Seconds that a certificate issued by EST holds
    #[arg(long, value_name = "SECONDS", default_value_t = 31_536_000, value_parser = clap::value_parser!(u32).range(60..))]
    est_life: u32,
    /// Names of the vault's secrets, `*` standing for the registration id; with :pfx behind it, as PFX; or a name and the file
    /// whose first line such a secret is, as in registry=password.txt [default: *]
    #[arg(long, value_name = "PATTERN[:pfx]|NAME=FILE", value_parser = secret)]
    vault_secret: Vec<VaultSecret>,
    /// A client that Entra knows, with its certificate (PEM) [default: any, with a bootstrap certificate]
    #[arg(long, value_name = "CLIENT_ID=FILE", value_parser = pair::<String, PathBuf>)]
    token_client: Vec<(String, PathBuf)>,
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
    #[command(flatten)]
    allocation: AllocationArguments,
    /// Also writes the log to a file, as JSON Lines
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Issues the identity of a device into --out, and ends
    #[arg(long, value_name = "REGISTRATION_ID", requires = "out")]
    pub(super) issue: Option<String>,
    /// Where `edgepress/` with the identity is made
    #[arg(long, value_name = "DIR", requires = "issue")]
    pub(super) out: Option<PathBuf>,
    /// Issues what a device fetches its certificate with instead: bootstrap-certificate.pem, bootstrap-key.pem
    #[arg(long, requires = "issue")]
    pub(super) bootstrap: bool,
    /// Certificate request (PEM) of a key that stays where it is; RSA, say, since Entra takes no other
    #[arg(long, value_name = "FILE", requires = "bootstrap", conflicts_with = "flaw")]
    pub(super) csr: Option<PathBuf>,
    /// Issues an identity that DPS must refuse (with --bootstrap: EST, Entra, the company's server)
    #[arg(long, requires = "issue")]
    pub(super) flaw: Option<Flaw>,
}

impl Arguments {
    /// Does it run until it is stopped, or only issue something?
    pub(crate) fn simulates(&self) -> bool {
        self.issue.is_none()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Flaw {
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

/// `PATTERN`, `PATTERN:pfx` or `NAME=FILE`.
fn secret(text: &str) -> Result<VaultSecret, String> {
    if let Some((name, file)) = text.split_once('=') {
        let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        let line = text.lines().next().unwrap_or_default().to_owned();
        return Ok(VaultSecret { pattern: name.to_owned(), content: SecretContent::Text(line) });
    }
    let (pattern, content) = match text.strip_suffix(":pfx") {
        Some(pattern) => (pattern, SecretContent::Pfx),
        None => (text, SecretContent::Pem),
    };
    if pattern.matches('*').count() != 1 {
        return Err(format!("`{pattern}` needs one `*`, which stands for the registration id"));
    }
    Ok(VaultSecret { pattern: pattern.to_owned(), content })
}

/// The world that the arguments describe.
pub(super) fn config(arguments: &Arguments, pki: Pki) -> Result<Config> {
    let mut config = Config {
        dps_name: arguments.dps.clone(),
        hub_name: arguments.hub.clone(),
        est_name: arguments.est.clone(),
        vault_name: arguments.vault.clone(),
        token_name: arguments.token.clone(),
        files_name: arguments.files.clone(),
        id_scope: arguments.id_scope.clone(),
        without: arguments.without.iter().copied().collect(),
        names: arguments.name.clone(),
        faults: arguments.fault.clone(),
        clock_offset: time::Duration::seconds(arguments.clock_offset),
        assigning_polls: arguments.assigning,
        allocation: arguments.allocation.allocation()?,
        est_strict: arguments.est_strict,
        est_life: time::Duration::seconds(arguments.est_life.into()),
        token_clients: token_clients(&arguments.token_client)?,
        arc_tokens: arguments.arc_tokens.clone(),
        log_file: arguments.log.clone(),
        ..Config::new(pki)
    };
    if !arguments.vault_secret.is_empty() {
        config.vault_secrets = arguments.vault_secret.clone();
    }
    if !arguments.metadata {
        config.without.insert(Service::Metadata);
    }
    if arguments.wireserver.is_none() {
        config.without.extend([Service::Wireserver, Service::Hostplugin]);
    }
    let usual = Metadata::default();
    config.metadata = Metadata {
        vm_name: arguments.vm_name.clone().unwrap_or(usual.vm_name),
        user_identities: arguments.user_identity.clone(),
        ..usual
    };
    config.addresses = addresses(arguments, &config)?;
    Ok(config)
}

fn addresses(arguments: &Arguments, config: &Config) -> Result<Addresses> {
    let address = arguments.listen.unwrap_or(Ipv4Addr::LOCALHOST);
    let mut addresses = Addresses::all_at(address);
    for service in config.services() {
        let chosen = arguments.port.iter().rev().find(|(named, _)| *named == service);
        let port = match chosen {
            Some((_, port)) => *port,
            None => service.port().checked_add(arguments.port_offset).ok_or_else(|| {
                Problem::input(format!(
                    "--port-offset {} takes port {} of {service} beyond 65535",
                    arguments.port_offset,
                    service.port()
                ))
                .hint(format!("the offset can be at most {} here", u16::MAX - highest(config)))
            })?,
        };
        let own = match service {
            Service::Wireserver | Service::Hostplugin => arguments.wireserver,
            _ => None,
        };
        addresses = addresses.with(service, SocketAddrV4::new(own.unwrap_or(address), port));
    }
    Ok(addresses)
}

/// The highest port of the services that listen.
fn highest(config: &Config) -> u16 {
    config.services().map(Service::port).max().unwrap_or_default()
}

fn token_clients(files: &[(String, PathBuf)]) -> Result<BTreeMap<String, String>> {
    files.iter().map(|(id, path)| Ok((id.clone(), read(path)?))).collect()
}

/// A text file named on the command line.
pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        Problem::input(format!("{} cannot be read: {error}", path.display()))
            .hint("name a file in PEM form")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::{SecretContent, Service, pair, secret};
    use crate::sim::fault::Fault;
    use std::net::Ipv4Addr;

    #[test]
    fn pairs_are_read() {
        assert_eq!(pair::<Service, u16>("est=8443"), Ok((Service::Est, 8443)));
        assert_eq!(pair("x.y=10.0.0.1"), Ok(("x.y".to_owned(), Ipv4Addr::new(10, 0, 0, 1))));
        assert!(pair::<Service, Fault>("dps=429:3@10s").is_ok());
        for text in ["", "dps", "dps=", "imds=1", "dps=65536"] {
            assert!(pair::<Service, u16>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_have_one_place_for_the_id() {
        let read = secret("edge-*-cert:pfx").expect("a pattern");
        assert_eq!((read.pattern.as_str(), read.content), ("edge-*-cert", SecretContent::Pfx));
        assert_eq!(secret("*").expect("a pattern").content, SecretContent::Pem);
        for text in ["", "x", "*-*", ":pfx"] {
            assert!(secret(text).is_err(), "{text}");
        }
    }
}
