//! The table `[network]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Network and proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// A proxy that docker, aziot-edged, aziot-identityd and edgeAgent all use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Wi-Fi, for devices without a cable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wifi: Option<Wifi>,
}

/// A proxy for everything that speaks to Azure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// Address, for example `http://proxy.example:3128`; must hold no password (it would be in the golden image).
    pub https: String,
    /// Hosts that are reached without it.
    #[serde(default)]
    pub no_proxy: Vec<String>,
}

/// A WPA2 network with a shared key. What is not here comes with the device's identity: the files `wifi-ssid` and
/// `wifi-key` in `edgepress/` on the FAT partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wifi {
    /// Where the device will stand, as two capital letters (ISO 3166-1): the law there decides channels and power.
    pub country: String,
    /// Name of the network, at most 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssid: Option<String>,
    /// A file of one line with the network's key, relative to the recipe. The golden image then holds the key that is
    /// derived from it, as every device of the fleet would; leave it out to give it with the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The network does not announce its name.
    #[serde(default)]
    pub hidden: bool,
}
