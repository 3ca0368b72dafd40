//! What a device asks a server for, when that is its identity: two devices that ask for the same get one identity.
//!
//! ```text
//! key-vault   the vault's secret, by its name as first boot fills it in
//! https       the address, and who asks: a server may tell devices apart by their credentials
//! ```
//!
//! An EST server signs whatever name it is asked for, and a TPM or symmetric key is the device's own.

use super::device::Fetched;
use super::golden::FOLDER;
use crate::provisioning::source::DeviceSource;
use crate::provisioning::template::{self, Word};
use crate::recipe::types::CertificateSource;
use crate::units::Digest;

/// What a device with this source, registration id and files asks for, where that can be known here.
pub(super) fn of(source: &DeviceSource, id: &str, files: &[(String, Vec<u8>)]) -> Option<Fetched> {
    match &source.certificate {
        CertificateSource::KeyVault { vault, name, version, .. } => {
            let secret = secret(&filled(name, id)?);
            let vault = vault.trim_start_matches("https://").trim_end_matches('/').to_ascii_lowercase();
            let version = version.as_deref().unwrap_or_default();
            // Azure does not tell capitals apart there.
            let digest = Digest::of(format!("{vault}/{}/{version}", secret.to_ascii_lowercase()));
            Some(Fetched { column: "source.name", what: format!("secret `{secret}` in the vault"), digest })
        }
        CertificateSource::Https { url, .. } => {
            let url = filled(url, id)?;
            let credential = |name: &str| {
                let path = format!("{FOLDER}/{name}");
                let file = files.iter().find(|(file, _)| *file == path);
                file.map_or_else(|| Digest::of(""), |(_, content)| Digest::of(content))
            };
            let asker =
                ["bootstrap-certificate.pem", "bootstrap-token"].map(|name| credential(name).to_string());
            let digest = Digest::of(format!("{url} {}", asker.join(" ")));
            Some(Fetched { column: "source.url", what: format!("address `{url}` and credentials"), digest })
        }
        _ => None,
    }
}

/// A template as this device fills it in; nothing where only the device knows a word of it.
fn filled(text: &str, id: &str) -> Option<String> {
    let open = Word::OF_MACHINE.into_iter().any(|word| template::names(text, word));
    (!open).then(|| template::fill(text, |_| id.to_owned()))
}

/// As `source_obtain` in overlays/base/usr/lib/edgepress/source-key-vault.sh: what a secret's name cannot hold becomes a dash.
fn secret(name: &str) -> String {
    name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::provisioning::source::DeviceSource;

    fn source(text: &str) -> DeviceSource {
        DeviceSource::from_table(text.parse().expect("TOML")).expect("a source")
    }

    #[test]
    fn one_secret_is_one_identity() {
        let vault = |name: &str| {
            source(&format!("from = \"key-vault\"\nvault = \"https://f.vault.azure.net\"\n{name}"))
        };
        let digest = |source: &DeviceSource, id: &str| of(source, id, &[]).map(|found| found.digest);
        let own = vault("");
        assert_ne!(digest(&own, "pump-1"), digest(&own, "pump-2"));
        assert_eq!(digest(&own, "pump-1"), digest(&own, "pump_1"));
        assert_eq!(digest(&own, "pump.1"), digest(&own, "Pump:1"));
        let fixed = vault("name = \"edge\"");
        assert_eq!(digest(&fixed, "pump-1"), digest(&fixed, "pump-2"));
        assert_eq!(of(&fixed, "pump-1", &[]).expect("known").what, "secret `edge` in the vault");
        assert_eq!(digest(&vault("name = \"edge-{{ serial }}\""), "pump-1"), None);
    }

    #[test]
    fn one_address_is_one_identity_for_who_asks_alike() {
        let token = |token: &str| vec![("edgepress/bootstrap-token".to_owned(), token.as_bytes().to_vec())];
        let digest = |url: &str, id: &str, asker: &str| {
            of(&source(&format!("from = \"https\"\nurl = \"https://e.example/{url}\"")), id, &token(asker))
                .map(|found| found.digest)
        };
        assert_eq!(digest("mine.pem", "a", "t"), digest("mine.pem", "b", "t"));
        assert_ne!(digest("mine.pem", "a", "t"), digest("mine.pem", "b", "u"));
        assert_ne!(
            digest("{{ registration_id }}.pem", "a", "t"),
            digest("{{ registration_id }}.pem", "b", "t")
        );
        assert!(of(&source("from = \"tpm\""), "a", &[]).is_none());
    }
}
