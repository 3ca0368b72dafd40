//! `/etc/aziot/config.toml`, made from a recipe.
//!
//! The keys and their types are those of `iotedge config apply` 1.6 (Azure/iotedge, `edgelet/iotedge/src/config/apply.rs`
//! and `aziotctl-common` of Azure/iot-identity-service). Values that belong to one device are not in it: a certificate
//! stands at a fixed path, and the registration id is its common name. Where the runtime must be told the registration id
//! (EST, TPM, symmetric key), first boot writes the table `[provisioning.attestation]` anew
//! (overlays/base/usr/lib/edgepress/attestation.sh).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::recipe::types::{AutoReprovisioning, CertificateSource, Enrol, PullPolicy, Recipe};

/// Where first boot puts the device's certificate chain; aziotcs:aziotcs 0640.
pub(crate) const CERTIFICATE: &str = "/var/secrets/aziot/certs/device-id.pem";
/// Where first boot puts the device's private key; aziotks:aziotks 0600.
pub(crate) const PRIVATE_KEY: &str = "/var/secrets/aziot/keys/device-id.key.pem";
/// Where first boot puts the device's symmetric key: its bytes, not their base64; aziotks:aziotks 0600.
pub(crate) const SYMMETRIC_KEY: &str = "/var/secrets/aziot/keys/device-id.symmetric";
/// Where first boot puts the authorities that may vouch for the EST server; aziotcs:aziotcs 0640.
pub(crate) const EST_CA: &str = "/var/secrets/aziot/certs/est-ca.pem";
/// The part of a certificate's life after which it is renewed: leaves weeks of a year for a server that is down.
const RENEW_AT: &str = "80%";
/// The part of its life between two attempts.
const RENEW_RETRY: &str = "4%";
/// What stands for the registration id until first boot knows it.
pub(crate) const UNKNOWN_ID: &str = "set-by-first-boot";
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
pub(crate) struct ConfigToml {
    /// When the device asks DPS again.
    pub auto_reprovisioning_mode: AutoReprovisioning,
    /// Seconds that a request to Azure may take; the parser refuses less than 70.
    pub cloud_timeout_sec: u64,
    /// How often a request to Azure is repeated.
    pub cloud_retries: u32,
    /// Where the device's identity comes from.
    pub provisioning: Provisioning,
    /// Who issues the device's certificate, where the runtime asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_issuance: Option<CertIssuance>,
    /// The certificate that signs the certificates of modules.
    pub edge_ca: EdgeCa,
    /// The edgeAgent module before the hub has told what it is.
    pub agent: Agent,
    /// The container engine.
    pub moby_runtime: MobyRuntime,
}

/// `[provisioning]`: the Device Provisioning Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Provisioning {
    /// Always `dps`.
    pub source: &'static str,
    /// Address of the service.
    pub global_endpoint: String,
    /// ID scope of the DPS instance.
    pub id_scope: String,
    /// How the device proves who it is.
    pub attestation: Attestation,
}

/// `[provisioning.attestation]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Attestation {
    /// A certificate from a file.
    Certificate(X509),
    /// A certificate that aziot-certd asks an EST server for.
    Issued {
        /// Always `x509`.
        method: &'static str,
        /// The certificate's common name.
        registration_id: &'static str,
        /// What is asked for.
        identity_cert: Issued,
    },
    /// A TPM.
    Tpm {
        /// Always `tpm`.
        method: &'static str,
        /// The id that the TPM is enrolled under.
        registration_id: &'static str,
    },
    /// A symmetric key from a file.
    SymmetricKey {
        /// Always `symmetric_key`.
        method: &'static str,
        /// The id that the key was derived for.
        registration_id: &'static str,
        /// Where the key is.
        symmetric_key: KeyFile,
    },
}

/// `[provisioning.attestation.identity_cert]` with a method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Issued {
    /// Always `est`.
    pub method: &'static str,
    /// The registration id.
    pub common_name: &'static str,
    /// When to renew; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_renew: Option<AutoRenew>,
}

/// `auto_renew`: the three keys go together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AutoRenew {
    /// A new key with each certificate.
    pub rotate_key: bool,
    /// Part of the certificate's life after which it is renewed.
    pub threshold: &'static str,
    /// Part of its life between two attempts.
    pub retry: &'static str,
}

/// A key by address.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct KeyFile {
    /// `file:` URL.
    pub uri: String,
}

/// `[cert_issuance]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CertIssuance {
    /// The EST server.
    pub est: Est,
}

/// `[cert_issuance.est]`; the table `auth` is one device's and comes at first boot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Est {
    /// `file:` URLs of authorities; empty: the system's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_certs: Vec<String>,
    /// Where it is.
    pub urls: EstUrls,
}

/// `[cert_issuance.est.urls]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EstUrls {
    /// For every certificate that has no address of its own.
    pub default: String,
}

/// `[provisioning.attestation]` with a certificate from a file.
///
/// There is no `registration_id`: identityd would delete the key where the certificate cannot be read; without one it
/// takes the certificate's common name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct X509 {
    /// Always `x509`.
    pub method: &'static str,
    /// `file:` URL of the chain.
    pub identity_cert: String,
    /// `file:` URL of the key.
    pub identity_pk: String,
}

/// `[edge_ca]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EdgeCa {
    /// Days.
    pub auto_generated_edge_ca_expiry_days: u32,
}

/// `[agent]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Agent {
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
pub(crate) struct AgentConfig {
    /// Image reference.
    pub image: String,
    /// Options in the words of Docker's API.
    pub create_options: CreateOptions,
}

/// `[agent.config.createOptions]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateOptions {
    /// Options of the host.
    pub host_config: HostConfig,
}

/// `HostConfig` of Docker's API.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostConfig {
    /// `host:container` pairs.
    pub binds: Vec<String>,
}

/// `[moby_runtime]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MobyRuntime {
    /// The engine's socket.
    pub uri: &'static str,
    /// Network of the modules.
    pub network: &'static str,
}

impl ConfigToml {
    /// The configuration that a recipe describes.
    pub(crate) fn from_recipe(recipe: &Recipe) -> Self {
        let provisioning = &recipe.provisioning;
        let (attestation, cert_issuance) = attestation(&provisioning.certificate);
        Self {
            auto_reprovisioning_mode: provisioning.auto_reprovisioning,
            cloud_timeout_sec: provisioning.cloud_timeout_sec,
            cloud_retries: provisioning.cloud_retries,
            provisioning: Provisioning {
                source: "dps",
                global_endpoint: provisioning.global_endpoint.clone(),
                id_scope: provisioning.id_scope.clone(),
                attestation,
            },
            cert_issuance,
            edge_ca: EdgeCa { auto_generated_edge_ca_expiry_days: EDGE_CA_DAYS },
            agent: agent(recipe),
            moby_runtime: MobyRuntime { uri: ENGINE_SOCKET, network: ENGINE_NETWORK },
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// When a value has no form in TOML.
    pub(crate) fn render(&self, recipe_name: &str) -> Result<String> {
        let body = toml::to_string(self).context("writing config.toml")?;
        let id = match &self.provisioning.attestation {
            Attestation::Certificate(_) => {
                "# The registration id is the common name of the certificate: stating one here would let the identity\n\
                 # service delete the private key whenever it cannot read the certificate.\n"
            }
            _ => "# First boot writes [provisioning.attestation] anew, with this device's registration id.\n",
        };
        Ok(format!(
            "# Configuration of Azure IoT Edge, made by edgepress from the recipe \"{recipe_name}\".\n\
             # First boot applies it with `iotedge config apply`; after a change, apply it again by hand.\n\
             {id}\n{body}"
        ))
    }
}

/// How a device with this source proves who it is, and who issues its certificate.
pub(super) fn attestation(source: &CertificateSource) -> (Attestation, Option<CertIssuance>) {
    let attestation = match source {
        CertificateSource::Est { url, enrol: Enrol::Runtime, auto_renew, ca } => {
            return issued_by_est(url, *auto_renew, ca.is_some());
        }
        CertificateSource::Tpm {} => Attestation::Tpm { method: "tpm", registration_id: UNKNOWN_ID },
        CertificateSource::SymmetricKey {} => Attestation::SymmetricKey {
            method: "symmetric_key",
            registration_id: UNKNOWN_ID,
            symmetric_key: KeyFile { uri: format!("file://{SYMMETRIC_KEY}") },
        },
        CertificateSource::Partition {}
        | CertificateSource::Est { .. }
        | CertificateSource::KeyVault { .. }
        | CertificateSource::Https { .. } => Attestation::Certificate(X509 {
            method: "x509",
            identity_cert: format!("file://{CERTIFICATE}"),
            identity_pk: format!("file://{PRIVATE_KEY}"),
        }),
    };
    (attestation, None)
}

fn issued_by_est(url: &str, renew: bool, ca: bool) -> (Attestation, Option<CertIssuance>) {
    let auto_renew = renew.then_some(AutoRenew { rotate_key: true, threshold: RENEW_AT, retry: RENEW_RETRY });
    let attestation = Attestation::Issued {
        method: "x509",
        registration_id: UNKNOWN_ID,
        identity_cert: Issued { method: "est", common_name: UNKNOWN_ID, auto_renew },
    };
    let trusted_certs = if ca { vec![format!("file://{EST_CA}")] } else { Vec::new() };
    let est = Est { trusted_certs, urls: EstUrls { default: url.to_owned() } };
    (attestation, Some(CertIssuance { est }))
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
    use crate::finding::Severity;
    use crate::provisioning::lint::lint;
    use crate::recipe::types::{CertificateSource, Enrol, Proxy};

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

    #[test]
    fn attestations_of_other_sources() {
        let mut recipe = crate::recipe::test_recipe();
        for (source, attestation) in [
            (
                CertificateSource::Est {
                    url: "https://est.example/.well-known/est".into(),
                    enrol: Enrol::Runtime,
                    auto_renew: true,
                    ca: Some("est-ca.pem".into()),
                },
                "[provisioning.attestation]\nmethod = \"x509\"\nregistration_id = \"set-by-first-boot\"\n\n\
                 [provisioning.attestation.identity_cert]\nmethod = \"est\"\ncommon_name = \"set-by-first-boot\"\n\n\
                 [provisioning.attestation.identity_cert.auto_renew]\nrotate_key = true\nthreshold = \"80%\"\n\
                 retry = \"4%\"\n\n[cert_issuance.est]\n\
                 trusted_certs = [\"file:///var/secrets/aziot/certs/est-ca.pem\"]\n\n\
                 [cert_issuance.est.urls]\ndefault = \"https://est.example/.well-known/est\"\n",
            ),
            (
                CertificateSource::Tpm {},
                "[provisioning.attestation]\nmethod = \"tpm\"\nregistration_id = \"set-by-first-boot\"\n",
            ),
            (
                CertificateSource::SymmetricKey {},
                "[provisioning.attestation]\nmethod = \"symmetric_key\"\nregistration_id = \"set-by-first-boot\"\n\n\
                 [provisioning.attestation.symmetric_key]\nuri = \"file:///var/secrets/aziot/keys/device-id.symmetric\"\n",
            ),
        ] {
            recipe.provisioning.certificate = source;
            let text = ConfigToml::from_recipe(&recipe).render(&recipe.name).expect("TOML");
            assert!(text.contains(attestation), "{text}");
            let errors: Vec<_> =
                lint(&text, Some(&recipe)).into_iter().filter(|it| it.severity == Severity::Error).collect();
            assert_eq!(errors, [], "{text}");
        }
    }
}
