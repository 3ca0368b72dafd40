//! What a VM may read: its own secret of the vault, and no other's.
//!
//! ```text
//! vault / secret ◄─ role ─ system-assigned identity of the VM
//! ```
//! A role on the vault would make whoever becomes one VM, with a token of its identity, the owner of every device's key.
//! <https://learn.microsoft.com/azure/key-vault/general/rbac-guide>

use super::facts::Facts;
use crate::provisioning::template::{self, IN_SECRET, Word};

/// The name of a secret, which the VM's own name may be a part of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SecretName(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    VmName,
    /// Letters, digits and hyphens.
    Text(String),
}

impl SecretName {
    /// As an expression of Bicep.
    pub(super) fn bicep(&self) -> String {
        match self.0.as_slice() {
            [Part::VmName] => "vmName".into(),
            parts => format!("'{}'", Self::joined(parts, "${vmName}")),
        }
    }

    /// As a value of an ARM template.
    pub(super) fn arm(&self) -> String {
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
pub(super) fn secret(facts: &Facts) -> Option<SecretName> {
    let id = template::fill(&facts.secret, |word| match word == Word::RegistrationId.name() {
        true => facts.registration_id.clone(),
        false => format!("{{{{ {word} }}}}"),
    });
    let unknown = [Word::Serial, Word::Mac, Word::VmId, Word::RegistrationId];
    if facts.registration_id.is_empty() || unknown.into_iter().any(|word| template::names(&id, word)) {
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
