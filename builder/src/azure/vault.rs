//! What a VM may read: its own secret of the vault, and no other's.
//!
//! ```text
//! vault / secret ◄─ role ─ system-assigned identity of the VM
//! ```
//! A role on the vault would make whoever becomes one VM, with a token of its identity, the owner of every device's key.
//! <https://learn.microsoft.com/azure/key-vault/general/rbac-guide>

use serde::Serialize;

use super::facts::Facts;
use crate::provisioning::template::{self, IN_SECRET, Word};

/// A secret that a VM may read, for the templates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Secret {
    /// The parameter that names it.
    pub(super) parameter: &'static str,
    description: &'static str,
    /// The module that gives the role on it, what is said of that, and the beginning of its name.
    symbol: &'static str,
    comment: &'static str,
    deployment: &'static str,
    /// Its name, where it can be told before the VM is there: as an expression of Bicep, and as a value of an ARM template.
    pub(super) bicep: Option<String>,
    arm: Option<String>,
}

/// What the VMs of an image read.
pub(super) fn secrets(facts: &Facts) -> Vec<Secret> {
    let own = facts.vault.as_ref().map(|_| {
        (
            facts.secret.as_str(),
            [
                "secretName",
                "The VM's own secret in it: certificate and key.",
                "access",
                "The VM may read its own secret, and no other's",
                "vault-access",
            ],
        )
    });
    let login = facts.vault.as_ref().and(facts.registry_secret.as_deref()).map(|name| {
        (
            name,
            [
                "registrySecretName",
                "The secret in it that is the password for the registry of edgeAgent's image.",
                "registryAccess",
                "And the password for the registry of edgeAgent's image",
                "registry-access",
            ],
        )
    });
    let secrets = own.into_iter().chain(login);
    secrets
        .map(|(name, [parameter, description, symbol, comment, deployment])| {
            let name = name_of(name, facts);
            let (bicep, arm) = (name.as_ref().map(SecretName::bicep), name.as_ref().map(SecretName::arm));
            Secret { parameter, description, symbol, comment, deployment, bicep, arm }
        })
        .collect()
}

/// The name of a secret, which the VM's own name may be a part of.
#[derive(Debug, Clone, PartialEq)]
struct SecretName(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    VmName,
    /// Letters, digits and hyphens.
    Text(String),
}

impl SecretName {
    /// As an expression of Bicep.
    fn bicep(&self) -> String {
        match self.0.as_slice() {
            [Part::VmName] => "vmName".into(),
            parts => format!("'{}'", Self::joined(parts, "${vmName}")),
        }
    }

    /// As a value of an ARM template.
    fn arm(&self) -> String {
        let name = "parameters('vmName')";
        match self.0.as_slice() {
            [Part::VmName] => format!("[{name}]"),
            parts if parts.contains(&Part::VmName) => {
                format!("[format('{}', {name})]", Self::joined(parts, "{0}"))
            }
            parts => Self::joined(parts, ""),
        }
    }

    fn joined(parts: &[Part], name: &str) -> String {
        let text = |part: &Part| match part {
            Part::VmName => name.to_owned(),
            Part::Text(text) => text.clone(),
        };
        parts.iter().map(text).collect()
    }
}

/// The secret that first boot asks for, as source-key-vault.sh of overlays/base makes its name; none where that cannot be told
/// before the VM is there.
fn name_of(secret: &str, facts: &Facts) -> Option<SecretName> {
    let id = template::fill(secret, |word| match word == Word::RegistrationId.name() {
        true => facts.registration_id.clone(),
        false => format!("{{{{ {word} }}}}"),
    });
    let unknown = [Word::Serial, Word::Mac, Word::VmId, Word::RegistrationId];
    let unknown = unknown.into_iter().any(|word| template::names(&id, word));
    if unknown || (facts.registration_id.is_empty() && template::names(secret, Word::RegistrationId)) {
        return None;
    }
    // A sign that no template has stands for the VM's name.
    const NAME: char = '\0';
    let filled = template::fill(&id, |_| NAME.to_string());
    let legal =
        |part: &str| part.replace(|c: char| !c.is_ascii_alphanumeric() && !IN_SECRET.contains(c), "-");
    let mut parts = Vec::new();
    for (at, part) in filled.split(NAME).enumerate() {
        parts.extend((at > 0).then_some(Part::VmName));
        parts.extend((!part.is_empty()).then(|| Part::Text(legal(part))));
    }
    Some(SecretName(parts))
}
