//! The simulated services: names, ports, and how each is spoken to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    /// Enrolment over Secure Transport (RFC 7030), HTTPS.
    Est,
    /// Azure Key Vault, HTTPS.
    Vault,
    /// The token endpoint of Microsoft Entra ID, HTTPS.
    Token,
    /// Azure's instance metadata service, HTTP.
    Metadata,
    /// The metadata service of an Azure Arc agent, HTTP.
    Arc,
    /// A company's own server that hands out certificates with their keys, HTTPS.
    Files,
    /// What an Azure VM reports to (168.63.129.16), HTTP.
    Wireserver,
    /// The host's plugin for VM agents, at the wireserver's address, HTTP.
    Hostplugin,
}

/// How a service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Https,
    Http,
    Messaging,
    Dns,
    Ntp,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Dps,
        Self::Hub,
        Self::Mqtt,
        Self::Amqp,
        Self::Dns,
        Self::Ntp,
        Self::Est,
        Self::Vault,
        Self::Token,
        Self::Metadata,
        Self::Arc,
        Self::Files,
        Self::Wireserver,
        Self::Hostplugin,
    ];

    /// The port where devices expect it.
    pub fn port(self) -> u16 {
        match self {
            Self::Dps | Self::Hub | Self::Est | Self::Vault | Self::Token | Self::Files => 443,
            Self::Mqtt => 8883,
            Self::Amqp => 5671,
            Self::Dns => 53,
            Self::Ntp => 123,
            Self::Metadata | Self::Wireserver => 80,
            Self::Arc => 40342,
            Self::Hostplugin => 32526,
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
            Self::Est => "est",
            Self::Vault => "vault",
            Self::Token => "token",
            Self::Metadata => "metadata",
            Self::Arc => "arc",
            Self::Files => "files",
            Self::Wireserver => "wireserver",
            Self::Hostplugin => "hostplugin",
        }
    }

    pub(super) fn transport(self) -> Transport {
        match self {
            Self::Dps | Self::Hub | Self::Est | Self::Vault | Self::Token | Self::Files => Transport::Https,
            Self::Metadata | Self::Arc | Self::Wireserver | Self::Hostplugin => Transport::Http,
            Self::Mqtt | Self::Amqp => Transport::Messaging,
            Self::Dns => Transport::Dns,
            Self::Ntp => Transport::Ntp,
        }
    }

    /// Those that speak HTTPS: they may share an address and port.
    pub(super) fn https() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|service| service.transport() == Transport::Https)
    }

    /// The names of all, as a message lists them.
    pub fn list() -> String {
        let names = Self::ALL.map(Self::name);
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        format!("{} or {last}", others.join(", "))
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
            .ok_or_else(|| format!("unknown service `{text}`: expected {}", Self::list()))
    }
}

#[cfg(test)]
mod tests {
    use super::Service;

    #[test]
    fn names_are_read_back() {
        for (at, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, at, "Addresses goes by the order");
            assert_eq!(service.name().parse(), Ok(service));
            assert_eq!(serde_json::to_value(service).expect("JSON"), service.name());
        }
        let error = "imds".parse::<Service>().expect_err("unknown");
        assert!(error.ends_with("wireserver or hostplugin"), "{error}");
    }
}
