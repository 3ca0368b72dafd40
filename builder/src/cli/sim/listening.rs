//! What `edgepress sim` tells first: where everything listens, and what to do with it.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::SocketAddrV4;
use std::path::PathBuf;

use serde::Serialize;

use crate::sim::{Config, Service};

/// Where everything listens.
#[derive(Serialize)]
pub(super) struct Listening {
    /// The services that listen.
    #[serde(flatten)]
    addresses: BTreeMap<Service, SocketAddrV4>,
    /// `dps_name` and so on: the host names of the HTTPS services.
    #[serde(flatten)]
    names: BTreeMap<String, String>,
    id_scope: Option<String>,
    /// The certificate to trust.
    ca: PathBuf,
    #[serde(skip)]
    dir: PathBuf,
}

impl Listening {
    pub(super) fn of(config: &Config, addr: impl Fn(Service) -> SocketAddrV4, dir: PathBuf) -> Self {
        Self {
            addresses: config.services().map(|service| (service, addr(service))).collect(),
            names: config
                .named()
                .into_iter()
                .map(|(service, name)| (format!("{service}_name"), name.to_owned()))
                .collect(),
            id_scope: config.id_scope.clone(),
            ca: dir.join("root.pem"),
            dir,
        }
    }

    fn name(&self, service: Service) -> &str {
        match service {
            Service::Dns => "UDP and TCP",
            Service::Ntp => "UDP",
            Service::Metadata | Service::Arc | Service::Wireserver | Service::Hostplugin => "HTTP",
            Service::Mqtt | Service::Amqp => self.name(Service::Hub),
            _ => self.names.get(&format!("{service}_name")).map_or("", String::as_str),
        }
    }
}

impl Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (service, address) in &self.addresses {
            writeln!(f, "listening  {service:<8}  {:<21}  {}", address.to_string(), self.name(*service))?;
        }
        let (ca, dir) = (self.ca.display(), self.dir.display());
        if let Some(dns) = self.addresses.get(&Service::Dns) {
            write!(
                f,
                "
A device: make its identity and copy it onto the FAT partition; its DNS server is {dns}
  edgepress sim --dir {dir} --issue edge-1 --out stick
"
            )?;
        }
        if let Some(dps) = self.addresses.get(&Service::Dps) {
            let (name, scope) = (self.name(Service::Dps), self.id_scope.as_deref().unwrap_or("0ne00000001"));
            write!(
                f,
                "
curl, with that identity:
  curl --cacert {ca} --connect-to {name}:443:{dps} \\
    --cert stick/edgepress/certificate.pem --key stick/edgepress/private-key.pem \\
    -X PUT -H 'Content-Type: application/json' -d '{{\"registrationId\":\"edge-1\"}}' \\
    'https://{name}/{scope}/registrations/edge-1/register?api-version=2021-06-01'
"
            )?;
        }
        if self.addresses.contains_key(&Service::Est) {
            writeln!(f, "\nEST: user device, password in {dir}/est-password")?;
        }
        if self.addresses.contains_key(&Service::Files) {
            writeln!(f, "The company's server: bearer token in {dir}/files-token")?;
        }
        write!(f, "\nCtrl-C ends. Requests:")
    }
}
