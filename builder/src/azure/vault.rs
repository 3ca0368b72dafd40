//! What a VM may read: its own secret of the vault, and no other's.
//!
//! ```text
//! vault / secret ◄─ role ─ system-assigned identity of the VM
//! ```
//! A role on the vault would make whoever becomes one VM, with a token of its identity, the owner of every device's key.
//! <https://learn.microsoft.com/azure/key-vault/general/rbac-guide>

use super::facts::Facts;
use super::model::{Deployment, Module, Parameter, Resource, Value};
use super::template::{child, existing, properties, resource, text};
use crate::provisioning::template::{self, IN_SECRET, Word};

const VAULTS: &str = "2023-07-01";
const ROLES: &str = "2022-04-01";

/// "Key Vault Secrets User", in every subscription.
const SECRETS_USER: &str = "4633458b-17de-408a-b874-0445c86b69e6";

/// The file of the role on a secret of the vault.
const MODULE: &str = "vault-access.bicep";

/// The secret that first boot asks for, as source-key-vault.sh of overlays/base makes its name; none where that cannot be told
/// before the VM is there.
pub(super) fn secret(facts: &Facts) -> Option<Value> {
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
        parts.extend((at > 0).then_some(Value::Parameter("vmName")));
        parts.extend((!part.is_empty()).then(|| Value::Text(legal(part))));
    }
    match parts.as_slice() {
        [one] => Some(one.clone()),
        _ => Some(Value::Joined(parts)),
    }
}

/// The role on the VM's own secret, as a deployment within this one: the name of an assignment must be known when a deployment
/// starts, and must be another for another identity. A VM that is made anew has one, and an assignment can never be given to it.
/// <https://learn.microsoft.com/samples/azure/azure-quickstart-templates/key-vault-managed-identity-role-assignment>
pub(super) fn access() -> Module {
    let of_machine = Value::Guid(vec![Value::Id("machine")]);
    Module {
        file: MODULE,
        symbol: "access",
        name: Value::Joined(vec![text("vault-access-"), of_machine]),
        arguments: vec![
            ("vaultName", Value::Parameter("vaultName")),
            ("secretName", Value::Parameter("secretName")),
            ("principalId", Value::Principal("machine")),
        ],
        comment: "The VM may read its own secret, and no other's. It asks again until that counts, which takes minutes",
        deployment: vault_access(),
    }
}

fn vault_access() -> Deployment {
    let parameter = |name, description| Parameter { name, kind: "string", description, default: None };
    let kind = "Microsoft.KeyVault/vaults";
    let comment = "Its permissions must go by roles (RBAC)";
    let vault = existing(resource("vault", kind, VAULTS, Value::Parameter("vaultName"), comment));
    let kind = "Microsoft.KeyVault/vaults/secrets";
    let comment = "What dps.sh stored: key and certificate of one device";
    let secret = resource("secret", kind, VAULTS, Value::Parameter("secretName"), comment);
    let secret = child(existing(secret), "vault");
    let who = Value::Parameter("principalId");
    let name = Value::Guid(vec![Value::Id("secret"), who.clone(), text(SECRETS_USER)]);
    let role = Resource {
        scope: Some("secret"),
        fields: properties(vec![
            ("roleDefinitionId", Value::Role(SECRETS_USER)),
            ("principalId", who),
            ("principalType", text("ServicePrincipal")),
        ]),
        ..resource("role", "Microsoft.Authorization/roleAssignments", ROLES, name, "Key Vault Secrets User")
    };
    Deployment {
        title: "A VM may read one secret of a vault.".into(),
        parameters: vec![
            parameter("vaultName", "The key vault, in this resource group."),
            parameter("secretName", "The VM's own secret in it."),
            parameter("principalId", "The VM's own identity."),
        ],
        resources: vec![vault, secret, role],
        modules: Vec::new(),
        outputs: Vec::new(),
    }
}
