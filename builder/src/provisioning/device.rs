//! `config.toml` of one device, as first boot makes it from the image's.
//!
//! Only the tables that say who the device is differ: `[provisioning.attestation]` and `[cert_issuance]`. First boot does
//! the same with awk; here it is done to judge the result before a card is written.

use serde::Serialize;

use super::config::{Attestation, CertIssuance, UNKNOWN_ID, attestation};
use super::source::DeviceSource;

/// Where first boot puts the certificate that lets aziot-certd in at the EST server; aziotcs:aziotcs 0640.
pub(crate) const EST_CERTIFICATE: &str = "/var/secrets/aziot/certs/est-bootstrap.pem";
/// Where first boot puts its key; aziotks:aziotks 0600.
pub(crate) const EST_KEY: &str = "/var/secrets/aziot/keys/est-bootstrap.key.pem";
/// What stands for a password where only the shape of the file matters.
const HIDDEN: &str = "hidden";

/// How aziot-certd proves itself to an EST server the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EstAuth {
    /// With `bootstrap-certificate.pem` and its key.
    Certificate,
    /// With `bootstrap-username` and `bootstrap-password`.
    Password,
    /// With both.
    Both,
}

#[derive(Serialize)]
struct Tables {
    provisioning: Provisioning,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_issuance: Option<CertIssuance>,
}

#[derive(Serialize)]
struct Provisioning {
    attestation: Attestation,
}

/// The configuration of the device `id` (a legal registration id) with this source, from its image's `text`. No secret
/// is in it: a word stands for the password of an EST server.
pub(crate) fn for_device(text: &str, source: &DeviceSource, id: &str, auth: Option<EstAuth>) -> String {
    let (attestation, cert_issuance) = attestation(&source.certificate);
    let enrols = cert_issuance.is_some();
    let tables = Tables { provisioning: Provisioning { attestation }, cert_issuance };
    // Every value is a string, a boolean or an array of strings.
    let made = toml::to_string(&tables).unwrap_or_default().replace(UNKNOWN_ID, id);
    let mut config = without(text, &["provisioning.attestation", "cert_issuance"]);
    config.push('\n');
    config.push_str(&made);
    if let Some(auth) = auth.filter(|_| enrols) {
        config.push_str(&est_auth(auth));
    }
    config
}

fn est_auth(auth: EstAuth) -> String {
    let mut text = String::from("\n[cert_issuance.est.auth]\n");
    if auth != EstAuth::Certificate {
        text.push_str(&format!("username = \"{HIDDEN}\"\npassword = \"{HIDDEN}\"\n"));
    }
    if auth != EstAuth::Password {
        text.push_str(&format!(
            "bootstrap_identity_cert = \"file://{EST_CERTIFICATE}\"\nbootstrap_identity_pk = \"file://{EST_KEY}\"\n"
        ));
    }
    text
}

/// A TOML text without these tables and those below them, where they stand as `[table]`.
fn without(text: &str, tables: &[&str]) -> String {
    let below = |name: &str, table: &str| {
        name.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut skipped = false;
    let mut kept = String::new();
    for line in text.lines() {
        let header = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((name, _)) = header {
            skipped = tables.iter().any(|table| below(name.trim(), table));
        }
        if !skipped {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{EstAuth, for_device, without};
    use crate::finding::Severity;
    use crate::provisioning::config::ConfigToml;
    use crate::provisioning::lint::lint;
    use crate::provisioning::source::DeviceSource;

    const EST: &str = "from = \"est\"\nurl = \"https://est.example/.well-known/est\"\nauto_renew = true";
    const SOURCES: [&str; 5] = [
        "from = \"partition\"",
        EST,
        "from = \"tpm\"",
        "from = \"symmetric-key\"",
        "from = \"key-vault\"\nvault = \"https://f.vault.azure.net\"",
    ];

    fn source(text: &str) -> DeviceSource {
        DeviceSource::from_table(text.parse().expect("TOML")).expect("source")
    }

    #[test]
    fn any_image_serves_any_source() {
        let mut recipe = crate::recipe::test_recipe();
        for image in SOURCES {
            recipe.provisioning.certificate = source(image).certificate;
            let text = ConfigToml::from_recipe(&recipe).render(&recipe.name).expect("TOML");
            for device in SOURCES {
                let auth = (device == EST).then_some(EstAuth::Both);
                let config = for_device(&text, &source(device), "pump-7", auth);
                let errors: Vec<_> = lint(&config, None)
                    .into_iter()
                    .filter(|found| found.severity == Severity::Error)
                    .collect();
                assert_eq!(errors, [], "{config}");
                let table: toml::Table = config.parse().expect("TOML");
                let attestation = table["provisioning"]["attestation"].clone();
                let stated = attestation.get("registration_id").and_then(toml::Value::as_str);
                let told = !device.contains("partition") && !device.contains("key-vault");
                assert_eq!(stated, told.then_some("pump-7"), "{config}");
                assert_eq!(table.contains_key("cert_issuance"), device == EST, "{config}");
                assert_eq!(table["agent"]["name"].as_str(), Some("edgeAgent"));
            }
        }
    }

    #[test]
    fn tables_go_with_what_is_below_them() {
        let text = "a = 1\n[x]\nb = 1\n[x.y]\nc = 1\n[x.y.z]\nd = 1\n[x.yy]\ne = 1\n";
        assert_eq!(without(text, &["x.y"]), "a = 1\n[x]\nb = 1\n[x.yy]\ne = 1\n");
    }
}
