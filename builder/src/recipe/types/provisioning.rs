//! The table `[provisioning]`: how a device presents itself to Azure, and where its certificate comes from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the device presents itself to the Device Provisioning Service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Provisioning {
    /// DPS endpoint.
    pub global_endpoint: String,
    /// ID scope of the DPS instance, for example `0ne00123456`.
    pub id_scope: String,
    /// How the device proves who it is; follows from `certificate.from`, and must agree with it where it is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// The device's registration id, with `{{ serial }}`, `{{ mac }}`, `{{ vm_name }}` or `{{ vm_id }}`. Absent: the
    /// identity brings it, as the certificate's common name or in the file `registration-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_id: Option<String>,
    /// The device's host name, with the same words and `{{ registration_id }}`; absent: made from the registration id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Where first boot gets the certificate.
    pub certificate: CertificateSource,
    /// May the identity on the FAT partition also bring another source, CA certificates, hosts entries, SSH keys, an
    /// endpoint and a hostname? If not, only registration id, certificate, key and the credentials of the recipe's own
    /// source are taken from it.
    pub overrides: bool,
    /// `auto_reprovisioning_mode` of config.toml.
    pub auto_reprovisioning: AutoReprovisioning,
    /// `cloud_timeout_sec` of config.toml, at least 70; seconds.
    pub cloud_timeout_sec: u64,
    /// `cloud_retries` of config.toml.
    pub cloud_retries: u32,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self {
            global_endpoint: "https://global.azure-devices-provisioning.net".into(),
            id_scope: String::new(),
            attestation: None,
            registration_id: None,
            hostname: None,
            certificate: CertificateSource::default(),
            overrides: true,
            auto_reprovisioning: AutoReprovisioning::Dynamic,
            cloud_timeout_sec: 70,
            cloud_retries: 1,
        }
    }
}

/// Where an image has the authorities that may vouch for its source's server.
const CA: &str = "/usr/lib/edgepress/source-ca.pem";

impl Provisioning {
    /// As the image has it: without a path of the machine that builds it.
    #[must_use]
    pub fn in_image(&self) -> Self {
        let mut own = self.clone();
        if let Some(ca) = own.certificate.ca_mut() {
            *ca = ca.take().map(|_| CA.into());
        }
        own
    }
}

/// How the device proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attestation {
    /// An X.509 certificate.
    X509,
    /// A TPM 2.0's endorsement key.
    Tpm,
    /// A symmetric key, derived from the enrolment group's.
    SymmetricKey,
}

/// Where first boot gets the certificate, or what takes its place. Secrets are never stated here: they come with the
/// identity, as files in `edgepress/` on the FAT partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CertificateSource {
    /// From the folder `edgepress/` on the FAT partition: `certificate.pem` and `private-key.pem`.
    Partition {},
    /// From an EST server (RFC 7030), with `bootstrap-certificate.pem` and `bootstrap-key.pem`, or with
    /// `bootstrap-username` and `bootstrap-password`.
    Est {
        /// Address up to and with `/.well-known/est`.
        url: String,
        /// Who makes the key and asks for the certificate.
        #[serde(default)]
        enrol: Enrol,
        /// Renew the certificate before it ends; only with an enrolment group (by CA), and `enrol = "runtime"`.
        #[serde(default)]
        auto_renew: bool,
        /// The authorities that may vouch for the server, a PEM file; absent: those of the system.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<PathBuf>,
    },
    /// From a secret of an Azure Key Vault, PEM or PFX, that holds certificate and key.
    KeyVault {
        /// Address of the vault, for example `https://factory.vault.azure.net`.
        vault: String,
        /// Name of the secret, with `{{ registration_id }}`.
        #[serde(default = "default_secret")]
        name: String,
        /// Version of the secret; absent: the current one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// What lets the device in.
        #[serde(default)]
        token: VaultToken,
        /// Client id: of a user-assigned identity, or of the application whose certificate is shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<String>,
        /// Tenant, only for `token = "client-certificate"`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        /// Who gives tokens for `token = "client-certificate"`.
        #[serde(default = "default_authority")]
        authority: String,
        /// A registry that wants a login for edgeAgent's own image, as an image's name begins with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registry_address: Option<String>,
        /// Who logs in there, with `{{ registration_id }}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registry_username: Option<String>,
        /// Name of the secret that is the password for it, with `{{ registration_id }}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registry_secret: Option<String>,
    },
    /// From an HTTPS server of one's own, one file (PEM or PFX) with certificate and key, with `bootstrap-certificate.pem`
    /// and `bootstrap-key.pem`, or with `bootstrap-token`.
    Https {
        /// Address, with `{{ registration_id }}`.
        url: String,
        /// The authorities that may vouch for the server, a PEM file; absent: those of the system.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<PathBuf>,
    },
    /// No certificate: the device's TPM 2.0 proves who it is.
    Tpm {},
    /// No certificate: the device's own key, in the file `symmetric-key`.
    SymmetricKey {},
}

fn default_secret() -> String {
    "{{ registration_id }}".into()
}

fn default_authority() -> String {
    "https://login.microsoftonline.com".into()
}

impl Default for CertificateSource {
    fn default() -> Self {
        Self::Partition {}
    }
}

impl CertificateSource {
    /// The value of `from`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Partition {} => "partition",
            Self::Est { .. } => "est",
            Self::KeyVault { .. } => "key-vault",
            Self::Https { .. } => "https",
            Self::Tpm {} => "tpm",
            Self::SymmetricKey {} => "symmetric-key",
        }
    }

    /// How a device with this source proves who it is.
    pub fn attestation(&self) -> Attestation {
        match self {
            Self::Tpm {} => Attestation::Tpm,
            Self::SymmetricKey {} => Attestation::SymmetricKey,
            _ => Attestation::X509,
        }
    }

    /// The authorities that may vouch for the source's server.
    pub fn ca(&self) -> Option<&PathBuf> {
        match self {
            Self::Est { ca, .. } | Self::Https { ca, .. } => ca.as_ref(),
            _ => None,
        }
    }

    /// The registry for whose login the source is asked.
    pub fn registry(&self) -> Option<&str> {
        match self {
            Self::KeyVault { registry_address, .. } => registry_address.as_deref(),
            _ => None,
        }
    }

    fn ca_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        match self {
            Self::Est { ca, .. } | Self::Https { ca, .. } => Some(ca),
            _ => None,
        }
    }
}

/// Who makes the key and asks the EST server for the certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Enrol {
    /// aziot-certd, configured for EST; it can renew, too.
    #[default]
    Runtime,
    /// First boot: for runtimes without EST. Nobody renews.
    FirstBoot,
}

/// What lets a device into a Key Vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaultToken {
    /// The identity of an Azure VM, from its instance metadata.
    #[default]
    ManagedIdentity,
    /// The identity of a machine that Azure Arc manages.
    Arc,
    /// An application's certificate: `bootstrap-certificate.pem` and `bootstrap-key.pem` sign the request for a token.
    ClientCertificate,
}

/// When the device asks DPS again; the parser of identityd wants these exact words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AutoReprovisioning {
    /// On connection errors that say so.
    Dynamic,
    /// At each start of identityd.
    AlwaysOnStartup,
    /// Only on errors.
    OnErrorOnly,
}
