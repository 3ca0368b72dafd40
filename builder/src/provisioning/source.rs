//! Where a device gets its certificate, in the form that first boot reads: lines `key = "value"`.
//!
//! ```text
//! recipe [provisioning] ─► /usr/lib/edgepress/source.toml          the image's own
//! stamp, or a person    ─► edgepress/source.toml on the FAT partition   one device's, instead of the image's
//! ```
//!
//! It is a part of TOML that a shell script can read too: one value a line, plain strings, no tables.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize as _;
use url::Url;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::template::{self, Word};
use crate::certificate::{blocks, pem};
use crate::error::Problem;
use crate::finding::Finding;
use crate::oci::reference::Reference;
use crate::recipe::types::{CertificateSource, Enrol, Provisioning, VaultToken};

/// Its name, in the image's library and on the FAT partition.
pub(crate) const FILE_NAME: &str = "source.toml";
/// Name of the authorities that may vouch for the source's server, beside it.
pub(crate) const CA_FILE: &str = "source-ca.pem";

/// Where one device, or every device of an image, gets its certificate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceSource {
    /// Template of the registration id; none: the identity brings it.
    pub registration_id: Option<String>,
    /// Template of the host name; none: made from the registration id.
    pub hostname: Option<String>,
    /// The source.
    pub certificate: CertificateSource,
}

impl DeviceSource {
    /// The source of every device of a recipe.
    pub fn of(provisioning: &Provisioning) -> Self {
        Self {
            registration_id: provisioning.registration_id.clone(),
            hostname: provisioning.hostname.clone(),
            certificate: provisioning.certificate.clone(),
        }
    }

    /// Reads keys and values as `source.toml` has them; `from` may be left out where a key belongs to no source.
    ///
    /// # Errors
    /// Says which key is unknown, missing or of another type.
    pub fn from_table(mut table: toml::Table) -> Result<Self, String> {
        let mut text = |key: &str| match table.remove(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("`{key}` is not a string")),
        };
        let (registration_id, hostname) = (text("registration_id")?, text("hostname")?);
        let certificate = if table.is_empty() {
            CertificateSource::default()
        } else {
            CertificateSource::deserialize(table).map_err(|error| error.message().to_owned())?
        };
        Ok(Self { registration_id, hostname, certificate })
    }

    /// Every value that cannot be used, by its key.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |key, judged: Result<(), String>, expected| {
            if let Err(message) = judged {
                findings.push(Finding::error(message).key(key).expected(expected));
            }
        };
        if let Some(id) = &self.registration_id {
            add("registration_id", template::check(id, &Word::OF_MACHINE, template::IN_ID), ID);
        }
        if let Some(name) = &self.hostname {
            add("hostname", template::check(name, &Word::ALL, template::IN_ID), HOSTNAME);
        }
        match &self.certificate {
            CertificateSource::Partition {}
            | CertificateSource::Tpm {}
            | CertificateSource::SymmetricKey {} => {}
            CertificateSource::Est { url, enrol, auto_renew, .. } => {
                add("url", https(url), EST_URL);
                let renewable = *enrol == Enrol::Runtime || !auto_renew;
                let never = || "only aziot-certd renews certificates".to_owned();
                add("auto_renew", renewable.then_some(()).ok_or_else(never), "enrol = \"runtime\"");
            }
            CertificateSource::Https { url, .. } => add("url", address(url), HTTPS_URL),
            CertificateSource::KeyVault {
                vault,
                name,
                version,
                token,
                client_id,
                tenant,
                authority,
                registry_address,
                registry_username,
                registry_secret,
            } => {
                add("vault", https(vault), VAULT_URL);
                add("name", template::check(name, &Word::ALL, template::IN_SECRET), SECRET);
                add("version", plain(version.as_deref(), 32), "32 letters and digits");
                add("client_id", plain(client_id.as_deref(), 36), GUID);
                add("tenant", plain(tenant.as_deref(), 253), TENANT);
                add("authority", https(authority), AUTHORITY);
                let application = *token == VaultToken::ClientCertificate;
                let missing = |there: bool, what: &str| match there || !application {
                    true => Ok(()),
                    false => Err(format!("token = \"client-certificate\" needs {what}")),
                };
                add("client_id", missing(client_id.is_some(), "the application's client id"), GUID);
                add("tenant", missing(tenant.is_some(), "the tenant that knows the application"), TENANT);
                let all = [registry_address, registry_username, registry_secret].map(Option::as_deref);
                registry(all)
                    .into_iter()
                    .for_each(|(key, message, expected)| add(key, Err(message), expected));
            }
        }
        findings
    }

    /// The text of `source.toml`. The path of `ca` is not in it: the authorities stand beside it as [`CA_FILE`].
    pub fn render(&self) -> String {
        let mut text =
            String::from("# Where first boot gets this device's certificate; see docs/identity.md.\n");
        let mut line = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                // Values hold neither quotes nor backslashes: see `findings`.
                let _ = writeln!(text, "{key} = \"{value}\"");
            }
        };
        line("from", Some(self.certificate.name()));
        line("registration_id", self.registration_id.as_deref());
        line("hostname", self.hostname.as_deref());
        match &self.certificate {
            CertificateSource::Partition {}
            | CertificateSource::Tpm {}
            | CertificateSource::SymmetricKey {} => {}
            CertificateSource::Est { url, enrol, auto_renew, .. } => {
                line("url", Some(url));
                line("enrol", Some(if *enrol == Enrol::Runtime { "runtime" } else { "first-boot" }));
                line("auto_renew", auto_renew.then_some("true"));
            }
            CertificateSource::Https { url, .. } => line("url", Some(url)),
            CertificateSource::KeyVault {
                vault,
                name,
                version,
                token,
                client_id,
                tenant,
                authority,
                registry_address,
                registry_username,
                registry_secret,
            } => {
                line("vault", Some(vault));
                line("name", Some(name));
                line("version", version.as_deref());
                line("token", Some(token_name(*token)));
                line("client_id", client_id.as_deref());
                line("tenant", tenant.as_deref());
                line("authority", (*token == VaultToken::ClientCertificate).then_some(authority));
                line("registry_address", registry_address.as_deref());
                line("registry_username", registry_username.as_deref());
                line("registry_secret", registry_secret.as_deref());
            }
        }
        // The one value that is no string.
        text.replace("auto_renew = \"true\"", "auto_renew = true")
    }
}

/// Most bytes of a file of authorities: first boot takes no larger one.
const LARGEST_AUTHORITIES: u64 = 256 * 1024;
/// Most certificates in one: all of Mozilla's are about 150.
const MOST_AUTHORITIES: usize = 200;

/// Reads a file of certificate authorities: its certificates and nothing else, as PEM. A single one may be binary (DER), as
/// Windows exports it.
///
/// # Errors
/// A [`Problem`] when it cannot be read, holds no certificate, or holds a private key.
pub(crate) fn read_authorities(path: &Path) -> Result<String> {
    let name = path.display();
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST_AUTHORITIES + 1).read_to_end(&mut bytes)).map_err(
        |error| Problem::input(format!("cannot read the certificate authorities {name}: {error}")),
    )?;
    if bytes.len() as u64 > LARGEST_AUTHORITIES {
        let message = format!("{name} has more than {LARGEST_AUTHORITIES} bytes");
        return Err(Problem::input(message).hint("name the authorities that devices need, not all").into());
    }
    if bytes.windows(16).any(|part| part == b"PRIVATE KEY-----") {
        return Err(Problem::input(format!("{name} holds a private key"))
            .hint("every device would have it: name a file with the authorities' certificates only")
            .into());
    }
    let ders = match X509Certificate::from_der(&bytes) {
        Ok(([], _)) => vec![bytes],
        _ => blocks::certificates(&bytes).map_err(|fault| Problem::input(format!("{name}: {fault}")))?,
    };
    if ders.is_empty() || ders.len() > MOST_AUTHORITIES {
        let count =
            if ders.is_empty() { "no certificate".into() } else { format!("{} certificates", ders.len()) };
        return Err(Problem::input(format!("{name} holds {count}"))
            .hint(format!(
                "a PEM file begins with -----BEGIN CERTIFICATE-----; at most {MOST_AUTHORITIES} are taken"
            ))
            .into());
    }
    for (number, der) in (1..).zip(&ders) {
        if !matches!(X509Certificate::from_der(der), Ok(([], _))) {
            let message = format!("{name} holds a certificate that cannot be read (number {number})");
            return Err(Problem::input(message).into());
        }
    }
    Ok(ders.iter().map(|der| pem(der, "CERTIFICATE")).collect())
}

const ID: &str = "letters, digits, `-._:`, and {{ serial }}, {{ mac }}, {{ vm_name }} or {{ vm_id }}";
const HOSTNAME: &str = "letters, digits, `-`, and the words of registration_id or {{ registration_id }}";
const EST_URL: &str = "an address such as https://est.example/.well-known/est";
const HTTPS_URL: &str = "an address such as https://devices.example/{{ registration_id }}.pem";
const VAULT_URL: &str = "the vault's address, for example https://factory.vault.azure.net";
const SECRET: &str = "letters, digits, `-`, and {{ registration_id }}, as in edge-{{ registration_id }}";
const GUID: &str = "a client id, as in 00000000-0000-0000-0000-000000000000";
const TENANT: &str = "a tenant's id or domain";
const AUTHORITY: &str = "an address such as https://login.microsoftonline.com";

const REGISTRY: [&str; 3] = ["registry_address", "registry_username", "registry_secret"];
const REGISTRY_NAME: &str = "a registry as an image's name begins with it, as in factory.azurecr.io";
const USERNAME: &str = "letters, digits, `-._:@+~`, and {{ registration_id }}";

/// What is wrong with the address, the user and the secret of a registry: key, message, what was expected.
fn registry(all: [Option<&str>; 3]) -> Vec<(&'static str, String, &'static str)> {
    let Some(given) = all.iter().position(Option::is_some) else { return Vec::new() };
    let judge = |key: usize, text: &str| match key {
        0 if is_registry(text) => Ok(()),
        0 => Err(format!("`{text}` is no registry")),
        1 => template::check(text, &Word::ALL, "-._:@+~"),
        _ => template::check(text, &Word::ALL, template::IN_SECRET),
    };
    let expected = [REGISTRY_NAME, USERNAME, SECRET];
    let findings = (0..3).filter_map(|key| {
        let message = match all[key] {
            Some(text) => judge(key, text).err()?,
            None => format!("`{}` needs it", REGISTRY[given]),
        };
        Some((REGISTRY[key], message, expected[key]))
    });
    findings.collect()
}

/// `HOST` or `HOST:PORT`, as the name of an image begins with it, and as first boot takes it (registry.sh).
pub(crate) fn is_registry(text: &str) -> bool {
    let image: Result<Reference, _> = format!("{text}/x").parse();
    !text.contains('[') && image.is_ok_and(|image| image.registry() == text)
}

fn token_name(token: VaultToken) -> &'static str {
    match token {
        VaultToken::ManagedIdentity => "managed-identity",
        VaultToken::Arc => "arc",
        VaultToken::ClientCertificate => "client-certificate",
    }
}

/// An address that a shell script and curl can take as it is: https, no user, no template.
fn https(url: &str) -> Result<(), String> {
    template::check(url, &[], template::IN_URL)?;
    is_https(url)
}

/// As [`https`], with templates.
fn address(url: &str) -> Result<(), String> {
    template::check(url, &Word::ALL, template::IN_URL)?;
    is_https(&template::fill(url, |_| "x".to_owned()))
}

fn is_https(text: &str) -> Result<(), String> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "https" && url.has_host() && url.username().is_empty() => Ok(()),
        _ => Err("it is no https:// address".to_owned()),
    }
}

fn plain(text: Option<&str>, most: usize) -> Result<(), String> {
    match text {
        Some(text) if text.is_empty() || text.len() > most => {
            Err(format!("it has not 1 to {most} characters"))
        }
        Some(text) => template::check(text, &[], "-."),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceSource, read_authorities};
    use crate::recipe::types::{CertificateSource, Enrol};

    #[test]
    fn authorities_are_certificates() {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).expect("name");
        let certificate = params.self_signed(&key).expect("certificate");
        let file = tempfile::NamedTempFile::new().expect("file");
        let read = |text: &str| {
            std::fs::write(file.path(), text).expect("write");
            read_authorities(file.path()).map_err(|error| error.to_string())
        };
        let pem = certificate.pem().replace("\r\n", "\n");
        assert_eq!(read(&format!("a comment\n{pem}")).as_deref(), Ok(pem.as_str()));
        for (text, message) in [
            (String::new(), "holds no certificate"),
            (format!("{pem}{}", key.serialize_pem()), "holds a private key"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "cannot be read"),
        ] {
            assert!(read(&text).expect_err("refused").contains(message), "{text}");
        }
    }

    fn read(text: &str) -> Result<DeviceSource, String> {
        DeviceSource::from_table(text.parse().expect("TOML"))
    }

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "from = \"partition\"",
            "from = \"partition\"\nregistration_id = \"pump-7\"",
            "from = \"tpm\"\nregistration_id = \"{{ serial }}\"\nhostname = \"p-{{ registration_id }}\"",
            "from = \"symmetric-key\"",
            "from = \"est\"\nurl = \"https://est.example/.well-known/est\"\nenrol = \"runtime\"\nauto_renew = true",
            "from = \"est\"\nurl = \"https://est.example:8443/.well-known/est\"\nenrol = \"first-boot\"",
            "from = \"https\"\nurl = \"https://x.example/{{ registration_id }}.pem?a=b\"",
            "from = \"key-vault\"\nvault = \"https://f.vault.azure.net\"\nname = \"edge-{{ registration_id }}\"\n\
             token = \"managed-identity\"",
            "from = \"key-vault\"\nvault = \"https://f.vault.azure.net\"\nname = \"x\"\ntoken = \"client-certificate\"\n\
             client_id = \"c\"\ntenant = \"t.example\"\nauthority = \"https://login.microsoftonline.com\"",
            "from = \"key-vault\"\nvault = \"https://f.vault.azure.net\"\nname = \"x\"\ntoken = \"managed-identity\"\n\
             registry_address = \"f.azurecr.io\"\nregistry_username = \"line-{{ registration_id }}\"\n\
             registry_secret = \"registry\"",
        ] {
            let source = read(text).expect(text);
            assert_eq!(source.findings(), [], "{text}");
            assert_eq!(read(&source.render()).as_ref(), Ok(&source), "{text}");
            assert!(source.render().ends_with(&format!("{text}\n")), "{}", source.render());
        }
        assert_eq!(read("").expect("empty"), DeviceSource::default());
    }

    #[test]
    fn what_cannot_be_read() {
        for (text, message) in [
            ("from = \"ets\"", "unknown variant `ets`"),
            ("from = \"est\"", "missing field `url`"),
            ("from = \"tpm\"\nurl = \"x\"", "unknown field `url`"),
            ("url = \"https://x\"", "missing field `from`"),
            ("registration_id = 7", "`registration_id` is not a string"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn values_are_checked() {
        for (text, key) in [
            ("from = \"partition\"\nregistration_id = \"a b\"", "registration_id"),
            ("from = \"partition\"\nregistration_id = \"{{ registration_id }}\"", "registration_id"),
            ("from = \"partition\"\nregistration_id = \"{{ serail }}\"", "registration_id"),
            ("from = \"partition\"\nregistration_id = \"\"", "registration_id"),
            ("from = \"partition\"\nhostname = \"a/b\"", "hostname"),
            ("from = \"est\"\nurl = \"http://est.example/.well-known/est\"", "url"),
            ("from = \"est\"\nurl = \"https://u:p@est.example/x\"", "url"),
            ("from = \"est\"\nurl = \"https://a/$(reboot)\"", "url"),
            ("from = \"https\"\nurl = \"https://a/{{ serial\"", "url"),
            ("from = \"key-vault\"\nvault = \"factory\"", "vault"),
            ("from = \"key-vault\"\nvault = \"https://f.example\"\nname = \"a_b\"", "name"),
            (
                "from = \"key-vault\"\nvault = \"https://f.example\"\ntoken = \"client-certificate\"\ntenant = \"t\"",
                "client_id",
            ),
            ("from = \"key-vault\"\nvault = \"https://f.example\"\nversion = \"\"", "version"),
            (
                "from = \"key-vault\"\nvault = \"https://f.example\"\nregistry_address = \"f.azurecr.io\"\n\
                 registry_username = \"u\"",
                "registry_secret",
            ),
            (
                "from = \"key-vault\"\nvault = \"https://f.example\"\nregistry_address = \"https://f.azurecr.io\"\n\
                 registry_username = \"u\"\nregistry_secret = \"s\"",
                "registry_address",
            ),
        ] {
            let found = read(text).expect(text).findings();
            let keys: Vec<_> = found.iter().filter_map(|found| found.key.as_deref()).collect();
            assert_eq!(keys, [key], "{text}: {found:?}");
        }
        let renewing = CertificateSource::Est {
            url: "https://e.example/x".into(),
            enrol: Enrol::FirstBoot,
            auto_renew: true,
            ca: None,
        };
        let found = DeviceSource { certificate: renewing, ..DeviceSource::default() }.findings();
        assert_eq!(found[0].key.as_deref(), Some("auto_renew"));
    }
}
