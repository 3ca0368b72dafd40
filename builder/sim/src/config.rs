//! What to simulate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::pki::Pki;
use super::service::{Service, Transport};

/// The global endpoint that devices ask unless told otherwise.
pub const DPS_NAME: &str = "global.azure-devices-provisioning.net";
/// The simulated hub's name unless told otherwise.
pub const HUB_NAME: &str = "edgepress-simulator.azure-devices.net";
/// The simulated EST server's name unless told otherwise.
pub const EST_NAME: &str = "est.edgepress.example";
/// The simulated key vault's name unless told otherwise.
pub const VAULT_NAME: &str = "edgepress-simulator.vault.azure.net";
/// Every key vault of Azure: the simulated one answers to all of them.
pub const VAULT_NAMES: &str = "*.vault.azure.net";
/// Host name of Entra's token endpoint unless told otherwise.
pub const TOKEN_NAME: &str = "login.microsoftonline.com";
/// The simulated company's server's name unless told otherwise.
pub const FILES_NAME: &str = "devices.edgepress.example";
/// Entra's tenant that the simulated vault and virtual machine belong to.
pub(super) const TENANT: &str = "8d1f0b7e-3c52-4a96-b0e4-6f2a9c7d5e13";
/// The user that the EST server knows unless told otherwise.
pub const EST_USER: &str = "device";

/// Names of the time servers that common systems ask; `*` stands for any run of characters.
pub const NTP_NAMES: [&str; 6] =
    ["pool.ntp.org", "*.pool.ntp.org", "ntp.ubuntu.com", "*.ntp.ubuntu.com", "time.*", "ntp.*"];

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

/// Secrets of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultSecret {
    /// The secret's name, in which one `*` stands for the registration id.
    pub pattern: String,
    /// What it holds.
    pub content: SecretContent,
}

/// What a secret of a vault holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretContent {
    /// Certificate and key of the device, as PEM (`application/x-pem-file`).
    Pem,
    /// The same as PFX in base64 (`application/x-pkcs12`).
    Pfx,
    /// This text, whoever asks.
    Text(String),
}

/// What DPS makes of a registration besides the hub, as a custom allocation may.
/// <https://learn.microsoft.com/azure/iot-dps/concepts-custom-allocation>
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// The device id, in which one `*` stands for the registration id.
    pub device_id: String,
    /// What the device is told besides, any JSON.
    pub payload: Option<serde_json::Value>,
}

impl Default for Allocation {
    /// The device id is the registration id, and there is nothing besides.
    fn default() -> Self {
        Self { device_id: "*".into(), payload: None }
    }
}

impl Allocation {
    /// The device id of a registration.
    pub fn device_id(&self, registration_id: &str) -> String {
        self.device_id.replacen('*', registration_id, 1)
    }
}

/// The virtual machine that instance metadata tells about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its name in Azure.
    pub vm_name: String,
    /// Its unique id, a UUID.
    pub vm_id: String,
    /// Whether it has a system-assigned managed identity.
    pub system_assigned: bool,
    /// Its user-assigned identities: client, object or resource ids.
    pub user_identities: Vec<String>,
    /// The account that the VM was ordered with.
    pub admin_user: String,
    /// Public keys of that account, in OpenSSH's form.
    pub public_keys: Vec<String>,
    /// What the VM was given to read, which cloud-init takes as its user data.
    pub user_data: Option<String>,
}

impl Default for Metadata {
    /// `edge-vm`, with a system-assigned identity and no other.
    fn default() -> Self {
        Self {
            vm_name: "edge-vm".into(),
            vm_id: "5f1c6f0a-9d3e-4b52-8a57-0c2d9e6b7a41".into(),
            system_assigned: true,
            user_identities: Vec::new(),
            admin_user: "azureuser".into(),
            public_keys: Vec::new(),
            user_data: None,
        }
    }
}

/// What to simulate.
#[derive(Clone)]
pub struct Config {
    /// Host name of the DPS endpoint.
    pub dps_name: String,
    /// Host name of the hub that devices are assigned to.
    pub hub_name: String,
    /// Host name of the EST server. In this and the following names `*` may stand for the first label.
    pub est_name: String,
    /// Host name of the key vault, which also answers to [`VAULT_NAMES`].
    pub vault_name: String,
    /// Host name of Entra's token endpoint.
    pub token_name: String,
    /// Host name of the company's server.
    pub files_name: String,
    /// The only ID scope that DPS knows; any where there is none.
    pub id_scope: Option<String>,
    /// Where each service listens. MQTT and AMQP are expected at the hub's address.
    pub addresses: Addresses,
    /// Services that are left off: they do not listen and have no name.
    pub without: BTreeSet<Service>,
    /// More names for DNS, before the built-in ones; `*` stands for any run of characters.
    pub names: Vec<(String, Ipv4Addr)>,
    /// Addresses besides, at which DNS answers on its real port.
    pub more_dns: Vec<Ipv4Addr>,
    /// Certificate authorities.
    pub pki: Pki,
    /// Faults from the start; of several for one service, the first that still holds strikes.
    pub faults: Vec<(Service, Fault)>,
    /// The simulated world's clock, ahead of the host's: for NTP and for the validity of certificates.
    pub clock_offset: time::Duration,
    /// What DPS makes of a registration.
    pub allocation: Allocation,
    /// How often DPS answers "assigning" to a poll before "assigned".
    pub assigning_polls: u32,
    /// User and password (secret) that may enrol by EST; nobody where there is none.
    pub est_basic: Option<(String, String)>,
    /// Whether a bootstrap certificate may enrol by EST.
    pub est_bootstrap: bool,
    /// Whether a certificate of the enrolment group may enrol by EST, also under another name. To renew itself
    /// (`simplereenroll`) it always may.
    pub est_group: bool,
    /// Whether EST asks for whole chains, and refuses a certificate of its own that comes without its intermediate.
    pub est_strict: bool,
    /// How long a certificate issued by EST holds from now on; it begins a tenth of this earlier, at most a day.
    pub est_life: time::Duration,
    /// The vault's secrets, the first that matches counting.
    pub vault_secrets: Vec<VaultSecret>,
    /// Client ids that Entra knows, each with its certificate (PEM). Where there are none, every client id is
    /// known with every bootstrap certificate, which the assertion's `x5c` must then hold.
    pub token_clients: BTreeMap<String, String>,
    /// The virtual machine that instance metadata tells about.
    pub metadata: Metadata,
    /// A folder for the files of Arc's challenge; without it there is no Arc.
    pub arc_tokens: Option<PathBuf>,
    /// The bearer token (secret) that the company's server takes; only bootstrap certificates where there is none.
    pub files_token: Option<String>,
    /// A file for the log, as JSON Lines; replaced where it exists.
    pub log_file: Option<PathBuf>,
}

/// Without the secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("addresses", &self.addresses)
            .field("without", &self.without)
            .field("names", &self.named())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// A world with the usual names, any ID scope and no faults, on real ports at 127.0.0.1, without instance
    /// metadata, wireserver and Arc. EST takes bootstrap certificates, those of the enrolment group, and [`EST_USER`] with
    /// [`Pki::est_password`]; the company's server takes bootstrap certificates and [`Pki::files_token`].
    pub fn new(pki: Pki) -> Self {
        Self {
            dps_name: DPS_NAME.into(),
            hub_name: HUB_NAME.into(),
            est_name: EST_NAME.into(),
            vault_name: VAULT_NAME.into(),
            token_name: TOKEN_NAME.into(),
            files_name: FILES_NAME.into(),
            id_scope: None,
            addresses: Addresses::all_at(Ipv4Addr::LOCALHOST),
            without: BTreeSet::from([Service::Metadata, Service::Wireserver, Service::Hostplugin]),
            names: Vec::new(),
            more_dns: Vec::new(),
            est_basic: Some((EST_USER.into(), pki.est_password().into())),
            est_bootstrap: true,
            est_group: true,
            est_strict: false,
            est_life: time::Duration::days(365),
            vault_secrets: vec![VaultSecret { pattern: "*".into(), content: SecretContent::Pem }],
            token_clients: BTreeMap::new(),
            metadata: Metadata::default(),
            arc_tokens: None,
            files_token: Some(pki.files_token().into()),
            pki,
            faults: Vec::new(),
            clock_offset: time::Duration::ZERO,
            allocation: Allocation::default(),
            assigning_polls: 0,
            log_file: None,
        }
    }

    /// Whether a service listens.
    pub fn has(&self, service: Service) -> bool {
        let possible = service != Service::Arc || self.arc_tokens.is_some();
        possible && !self.without.contains(&service)
    }

    /// The services that listen.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        Service::ALL.into_iter().filter(|service| self.has(*service))
    }

    /// The host names of the HTTPS services that listen.
    pub fn named(&self) -> Vec<(Service, &str)> {
        let all = [
            (Service::Dps, &self.dps_name),
            (Service::Hub, &self.hub_name),
            (Service::Est, &self.est_name),
            (Service::Vault, &self.vault_name),
            (Service::Token, &self.token_name),
            (Service::Files, &self.files_name),
        ];
        all.into_iter()
            .filter(|(service, _)| self.has(*service))
            .map(|(s, name)| (s, name.as_str()))
            .collect()
    }

    /// Every name of an HTTPS service that listens: [`Config::named`] and those it answers to besides.
    pub(super) fn names_of(&self, service: Service) -> Vec<&str> {
        let own = self.named().into_iter().filter(|(named, _)| *named == service).map(|(_, name)| name);
        let more = (service == Service::Vault).then_some(VAULT_NAMES);
        own.chain(more).collect()
    }

    /// The names that DNS answers, the first that matches counting.
    pub(super) fn dns_names(&self) -> Vec<(String, Ipv4Addr)> {
        let ip = |service| *self.addresses.get(service).ip();
        let mut names = self.names.clone();
        for service in Service::https().filter(|service| self.has(*service)) {
            names.extend(self.names_of(service).into_iter().map(|name| (name.to_owned(), ip(service))));
        }
        if self.has(Service::Ntp) {
            names.extend(NTP_NAMES.map(|name| (name.to_owned(), ip(Service::Ntp))));
        }
        names
    }

    /// The service on whose listener this one is served: the first HTTPS service at the same address and port.
    pub(super) fn listener(&self, service: Service) -> Service {
        let at = self.addresses.get(service);
        if service.transport() != Transport::Https || at.port() == 0 {
            return service;
        }
        Service::https().find(|other| self.has(*other) && self.addresses.get(*other) == at).unwrap_or(service)
    }
}

/// The host names that a device must resolve, each with its address: lines for a hosts file.
pub fn hosts(config: &Config) -> Vec<(Ipv4Addr, String)> {
    let lines: BTreeSet<(Ipv4Addr, String)> = config
        .named()
        .into_iter()
        .filter(|(_, name)| !name.contains('*'))
        .map(|(service, name)| (*config.addresses.get(service).ip(), name.to_owned()))
        .collect();
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{Config, Service, hosts};
    use crate::pki::Pki;

    fn config() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = Config::new(Pki::open_or_create(folder.path()).expect("authorities"));
        (folder, config)
    }

    #[test]
    fn https_services_share_a_listener() {
        let (_folder, mut config) = config();
        assert_eq!(config.listener(Service::Files), Service::Dps);
        assert_eq!(config.listener(Service::Mqtt), Service::Mqtt);
        config.without.insert(Service::Dps);
        assert_eq!(config.listener(Service::Files), Service::Hub);
        let elsewhere = std::net::SocketAddrV4::new([10, 0, 0, 1].into(), 443);
        config.addresses = config.addresses.with(Service::Est, elsewhere).with(Service::Files, elsewhere);
        assert_eq!(config.listener(Service::Files), Service::Est);
        let any = std::net::SocketAddrV4::new([10, 0, 0, 1].into(), 0);
        config.addresses = config.addresses.with(Service::Est, any).with(Service::Files, any);
        assert_eq!(config.listener(Service::Files), Service::Files);
    }

    #[test]
    fn services_that_are_off_have_no_name() {
        let (_folder, mut config) = config();
        assert!(!config.has(Service::Metadata) && !config.has(Service::Arc));
        config.arc_tokens = Some("x".into());
        assert!(config.has(Service::Arc));
        assert!(config.dns_names().iter().any(|(name, _)| name == "*.vault.azure.net"));
        assert_eq!(hosts(&config).len(), 6);
        config.without.insert(Service::Vault);
        assert!(!config.dns_names().iter().any(|(name, _)| name.contains("vault")));
        config.est_name = "*.est.example".into();
        assert_eq!(hosts(&config).len(), 4);
    }

    #[test]
    fn secrets_are_not_printed() {
        let (_folder, config) = config();
        let text = format!("{config:?}");
        for secret in [&config.est_basic.expect("user").1, &config.files_token.expect("token")] {
            assert!(secret.len() >= 20 && !text.contains(secret.as_str()));
        }
    }
}
