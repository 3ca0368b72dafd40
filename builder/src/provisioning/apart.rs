//! What must differ between two devices of one image: does the source make it differ?

use super::source::DeviceSource;
use super::template::{self, Word};
use crate::finding::Finding;
use crate::recipe::types::CertificateSource;

/// Says which value would be the same on every device. Only warnings: an image may be for one device, and an identity may
/// bring a value of its own.
pub(crate) fn alike(source: &DeviceSource) -> Vec<Finding> {
    let fixed = |text: &str| !Word::ALL.into_iter().any(|word| template::names(text, word));
    let mut findings = Vec::new();
    let mut add = |key: &str, text: Option<&str>, message: &str, hint: &str| {
        if let Some(text) = text.filter(|text| !text.is_empty() && fixed(text)) {
            findings.push(Finding::warning(message.replace("{}", text)).key(key).hint(hint));
        }
    };
    // A certificate of the partition tells the registration id itself.
    let id = match source.certificate {
        CertificateSource::Partition {} => None,
        _ => source.registration_id.as_deref(),
    };
    add(
        "registration_id",
        id,
        "every device of this image comes up as `{}`, unless its identity brings another registration id",
        "for more than one device name what tells them apart, as in pump-{{ serial }}, or leave it out",
    );
    add(
        "hostname",
        source.hostname.as_deref(),
        "every device of this image is called `{}`, unless its identity brings another host name",
        "name what tells devices apart, as in p-{{ registration_id }}, or leave it out",
    );
    // A fixed id is told above; one certificate is then all that there is.
    if let (CertificateSource::KeyVault { name, .. }, true) =
        (&source.certificate, id.is_none_or(|id| !fixed(id)))
    {
        add(
            "name",
            Some(name),
            "every device asks for the secret `{}`, and only the one that its certificate is for comes up",
            "a secret for each device, as in edge-{{ registration_id }}",
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::alike;
    use crate::provisioning::source::DeviceSource;

    #[test]
    fn what_is_the_same_on_every_device_is_told() {
        let vault = "from = \"key-vault\"\nvault = \"https://f.vault.azure.net\"";
        for (text, keys) in [
            ("from = \"tpm\"\nregistration_id = \"pump\"".to_owned(), &["registration_id"][..]),
            ("from = \"symmetric-key\"\nregistration_id = \"pump\"".to_owned(), &["registration_id"]),
            (
                "from = \"tpm\"\nregistration_id = \"pump-{{mac}}\"\nhostname = \"pump\"".to_owned(),
                &["hostname"],
            ),
            ("from = \"tpm\"\nhostname = \"p-{{ registration_id }}\"".to_owned(), &[]),
            // The certificate tells it.
            ("from = \"partition\"\nregistration_id = \"pump\"".to_owned(), &[]),
            (vault.to_owned(), &[]),
            (format!("{vault}\nname = \"one\""), &["name"]),
            (format!("{vault}\nname = \"one\"\nregistration_id = \"{{{{ vm_name }}}}\""), &["name"]),
            (format!("{vault}\nname = \"one\"\nregistration_id = \"one\""), &["registration_id"]),
        ] {
            let source = DeviceSource::from_table(text.parse().expect("TOML")).expect(&text);
            let found: Vec<_> = alike(&source).into_iter().filter_map(|found| found.key).collect();
            assert_eq!(found, keys, "{text}");
        }
    }
}
