//! `/etc/aziot/config.toml`, made from a recipe.
//!
//! The keys and their types are those of `iotedge config apply` 1.6 (Azure/iotedge, `edgelet/iotedge/src/config/apply.rs`
//! and `aziotctl-common` of Azure/iot-identity-service). Values that belong to one device are not in it: the certificate
//! stands at a fixed path, and the registration id is its common name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::recipe::types::{Attestation, AutoReprovisioning, PullPolicy, Recipe};

/// Where first boot puts the device's certificate chain; aziotcs:aziotcs 0640.
pub const CERTIFICATE: &str = "/var/secrets/aziot/certs/device-id.pem";
/// Where first boot puts the device's private key; aziotks:aziotks 0600.
pub const PRIVATE_KEY: &str = "/var/secrets/aziot/keys/device-id.key.pem";
/// The engine's socket, as both Debian's and Microsoft's packages make it.
const ENGINE_SOCKET: &str = "unix:///var/run/docker.sock";
/// The network that the runtime makes for modules.
const ENGINE_NETWORK: &str = "azure-iot-edge";
/// Days that the edge CA lasts which the runtime makes for itself: its own default, stated to be seen.
const EDGE_CA_DAYS: u32 = 90;
/// The protocol that passes an HTTP proxy; AMQP and MQTT of their own do not.
const PROXY_PROTOCOL: &str = "AmqpWs";

/// The whole file. Plain keys stand before tables, or TOML would put them into the table above.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigToml {
    /// When the device asks DPS again.
    pub auto_reprovisioning_mode: AutoReprovisioning,
    /// Seconds that a request to Azure may take; the parser refuses less than 70.
    pub cloud_timeout_sec: u64,
    /// How often a request to Azure is repeated.
    pub cloud_retries: u32,
    /// Where the device's identity comes from.
    pub provisioning: Provisioning,
    /// The certificate that signs the certificates of modules.
    pub edge_ca: EdgeCa,
    /// The edgeAgent module before the hub has told what it is.
    pub agent: Agent,
    /// The container engine.
    pub moby_runtime: MobyRuntime,
}

/// `[provisioning]`: the Device Provisioning Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Provisioning {
    /// Always `dps`.
    pub source: &'static str,
    /// Address of the service.
    pub global_endpoint: String,
    /// ID scope of the DPS instance.
    pub id_scope: String,
    /// How the device proves who it is.
    pub attestation: X509,
}

/// `[provisioning.attestation]` with a certificate from a file.
///
/// There is no `registration_id`: identityd would delete the key where the certificate cannot be read; without one it
/// takes the certificate's common name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct X509 {
    /// Always `x509`.
    pub method: &'static str,
    /// `file:` URL of the chain.
    pub identity_cert: String,
    /// `file:` URL of the key.
    pub identity_pk: String,
}

/// `[edge_ca]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EdgeCa {
    /// Days.
    pub auto_generated_edge_ca_expiry_days: u32,
}

/// `[agent]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Always `edgeAgent`.
    pub name: &'static str,
    /// Always `docker`.
    pub r#type: &'static str,
    /// When the image is pulled.
    pub image_pull_policy: PullPolicy,
    /// Image and options of the container.
    pub config: AgentConfig,
    /// Environment of the container.
    pub env: BTreeMap<String, String>,
}

/// `[agent.config]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// Image reference.
    pub image: String,
    /// Options in the words of Docker's API.
    pub create_options: CreateOptions,
}

/// `[agent.config.createOptions]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateOptions {
    /// Options of the host.
    pub host_config: HostConfig,
}

/// `HostConfig` of Docker's API.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    /// `host:container` pairs.
    pub binds: Vec<String>,
}

/// `[moby_runtime]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MobyRuntime {
    /// The engine's socket.
    pub uri: &'static str,
    /// Network of the modules.
    pub network: &'static str,
}

impl ConfigToml {
    /// The configuration that a recipe describes.
    pub fn from_recipe(recipe: &Recipe) -> Self {
        let provisioning = &recipe.provisioning;
        let Attestation::X509 = provisioning.attestation;
        Self {
            auto_reprovisioning_mode: provisioning.auto_reprovisioning,
            cloud_timeout_sec: provisioning.cloud_timeout_sec,
            cloud_retries: provisioning.cloud_retries,
            provisioning: Provisioning {
                source: "dps",
                global_endpoint: provisioning.global_endpoint.clone(),
                id_scope: provisioning.id_scope.clone(),
                attestation: X509 {
                    method: "x509",
                    identity_cert: format!("file://{CERTIFICATE}"),
                    identity_pk: format!("file://{PRIVATE_KEY}"),
                },
            },
            edge_ca: EdgeCa { auto_generated_edge_ca_expiry_days: EDGE_CA_DAYS },
            agent: agent(recipe),
            moby_runtime: MobyRuntime { uri: ENGINE_SOCKET, network: ENGINE_NETWORK },
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// When a value has no form in TOML.
    pub fn render(&self, recipe_name: &str) -> Result<String> {
        let body = toml::to_string(self).context("writing config.toml")?;
        Ok(format!(
            "# Configuration of Azure IoT Edge, made by edgepress from the recipe \"{recipe_name}\".\n\
             # First boot applies it with `iotedge config apply`; after a change, apply it again by hand.\n\
             # The registration id is the common name of the certificate: stating one here would let the identity\n\
             # service delete the private key whenever it cannot read the certificate.\n\n{body}"
        ))
    }
}

fn agent(recipe: &Recipe) -> Agent {
    let storage = &recipe.edge.agent_storage;
    Agent {
        name: "edgeAgent",
        r#type: "docker",
        image_pull_policy: recipe.edge.agent_pull_policy,
        config: AgentConfig {
            image: recipe.edge.agent_image.clone(),
            // With the variable `storageFolder`: what `iotedge check` calls storage mounted from the host.
            create_options: CreateOptions {
                host_config: HostConfig { binds: vec![format!("{storage}:{storage}")] },
            },
        },
        env: agent_env(recipe),
    }
}

/// The recipe's own variables win over the ones made here.
fn agent_env(recipe: &Recipe) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("storageFolder".to_owned(), recipe.edge.agent_storage.clone())]);
    if let Some(proxy) = &recipe.network.proxy {
        env.insert("https_proxy".into(), proxy.https.clone());
        env.insert("UpstreamProtocol".into(), PROXY_PROTOCOL.into());
        if !proxy.no_proxy.is_empty() {
            env.insert("no_proxy".into(), proxy.no_proxy.join(","));
        }
    }
    env.extend(recipe.edge.agent_env.clone());
    env
}

#[cfg(test)]
mod tests {
    use super::ConfigToml;
    use crate::provisioning::lint::lint;
    use crate::recipe::types::Proxy;

    const GOLDEN: &str = r#"# Configuration of Azure IoT Edge, made by edgepress from the recipe "test".
# First boot applies it with `iotedge config apply`; after a change, apply it again by hand.
# The registration id is the common name of the certificate: stating one here would let the identity
# service delete the private key whenever it cannot read the certificate.

auto_reprovisioning_mode = "Dynamic"
cloud_timeout_sec = 70
cloud_retries = 1

[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net"
id_scope = "0ne00123456"

[provisioning.attestation]
method = "x509"
identity_cert = "file:///var/secrets/aziot/certs/device-id.pem"
identity_pk = "file:///var/secrets/aziot/keys/device-id.key.pem"

[edge_ca]
auto_generated_edge_ca_expiry_days = 90

[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"

[agent.config]
image = "mcr.microsoft.com/azureiotedge-agent:1.6.1"

[agent.config.createOptions.HostConfig]
Binds = ["/var/lib/edgepress/agent:/var/lib/edgepress/agent"]

[agent.env]
UpstreamProtocol = "MqttWs"
https_proxy = "http://proxy.example:3128"
no_proxy = "localhost,10.0.0.0/8"
storageFolder = "/var/lib/edgepress/agent"

[moby_runtime]
uri = "unix:///var/run/docker.sock"
network = "azure-iot-edge"
"#;

    #[test]
    fn the_whole_file() {
        let mut recipe = crate::recipe::test_recipe();
        recipe.network.proxy = Some(Proxy {
            https: "http://proxy.example:3128".into(),
            no_proxy: vec!["localhost".into(), "10.0.0.0/8".into()],
        });
        recipe.edge.agent_env.insert("UpstreamProtocol".into(), "MqttWs".into());
        let text = ConfigToml::from_recipe(&recipe).render(&recipe.name).expect("TOML");
        assert_eq!(text, GOLDEN);
        assert_eq!(lint(&text, Some(&recipe)), []);
    }
}
