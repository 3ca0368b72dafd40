//! The modules of the devices, as a deployment for IoT Hub. Nothing that is written holds a registry's password: the script asks
//! the environment for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::deployment::Manifest;
use crate::error::Problem;
use crate::oci::reference::Reference;
use crate::recipe::modules;
use crate::recipe::types::Modules;

/// How the names of Azure's registries end.
const ACR: &str = ".azurecr.io";
/// What a manifest calls the logins of registries.
const CREDENTIALS: &str = "registryCredentials";

/// The modules of a recipe's devices.
#[derive(Clone, PartialEq)]
pub(super) struct Fleet {
    /// The manifest, without user names and passwords of registries.
    pub manifest: Value,
    /// The registries that it has logins for.
    pub logins: Vec<Login>,
}

/// Without the manifest: variables of modules may be secrets.
impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("logins", &self.logins).finish_non_exhaustive()
    }
}

/// A registry that devices log in to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Login {
    /// What the manifest calls it.
    pub name: String,
    /// Its address.
    pub address: String,
    /// What the names of its variables begin with: `REGISTRY_OWN`.
    pub variable: String,
    /// Its name in Azure, where it is one of Azure's.
    pub acr: Option<String>,
    /// Repositories of it that the manifest names.
    pub repositories: Vec<String>,
}

/// What a recipe says of its devices' modules; nothing where it names no manifest.
///
/// # Errors
/// A [`Problem`] when the manifest cannot be read.
pub(super) fn of(modules: &Modules) -> Result<Option<Fleet>> {
    let Some(manifest) = modules::load(modules)? else { return Ok(None) };
    let logins = logins(&manifest);
    for Login { name, address, .. } in &logins {
        // They stand in a script.
        let good = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
        if !name.chars().chain(address.chars()).all(good) {
            let message = format!(
                "registryCredentials: {name:?} at {address:?} has characters that a name of a registry has not"
            );
            return Err(Problem::input(message).hint("letters, digits and -._:/ may stand there").into());
        }
    }
    let variables: BTreeSet<&str> = logins.iter().map(|login| login.variable.as_str()).collect();
    if variables.len() < logins.len() {
        let message = "registryCredentials: two of the names are the same in capital letters and `_`, as variables have them";
        return Err(Problem::input(message).hint("give one of them another name in the manifest").into());
    }
    Ok(Some(Fleet { manifest: without_logins(manifest.to_json()), logins }))
}

fn logins(manifest: &Manifest) -> Vec<Login> {
    let mut repositories: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for image in manifest.images() {
        repositories.entry(image.registry()).or_default().insert(Reference::repository(image));
    }
    let login = |known: crate::deployment::model::RegistryCredentials| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let word = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
        let of = repositories.get(known.address.as_str());
        Login {
            variable: format!("REGISTRY_{}", known.name.chars().map(plain).collect::<String>()),
            acr: known.address.strip_suffix(ACR).filter(|name| word(name) && of.is_some()).map(str::to_owned),
            repositories: of.into_iter().flatten().map(|name| (*name).to_owned()).collect(),
            name: known.name,
            address: known.address,
        }
    };
    manifest.registry_credentials().into_iter().map(login).collect()
}

/// Wherever they stand: a deployment of a fleet has the manifest one level deeper, a layered one has dotted keys.
fn without_logins(mut value: Value) -> Value {
    fn clear(value: &mut Value, below: bool) {
        match value {
            Value::Object(members) => {
                for (name, member) in members.iter_mut() {
                    if below && (name == "username" || name == "password") {
                        *member = Value::String(String::new());
                    } else {
                        clear(member, below || name.split('.').any(|part| part == CREDENTIALS));
                    }
                }
            }
            Value::Array(elements) => elements.iter_mut().for_each(|element| clear(element, below)),
            _ => {}
        }
    }
    clear(&mut value, false);
    value
}

#[cfg(test)]
mod tests {
    use super::{Login, of};
    use crate::recipe::types::Modules;

    #[test]
    fn no_password_of_a_registry_is_written() {
        let folder = tempfile::tempdir().expect("folder");
        let manifest = folder.path().join("deployment.json");
        let text = r#"{ "modulesContent": { "$edgeAgent": { "properties.desired": {
            "runtime": { "type": "docker", "settings": { "registryCredentials": {
                "own-one": { "username": "devices", "password": "hunter22", "address": "factory.azurecr.io" } } } },
            "modules": { "pump": { "type": "docker", "settings": { "image": "factory.azurecr.io/line/pump:7" },
                                   "env": { "username": { "value": "kept" } } } } } } } }"#;
        std::fs::write(&manifest, text).expect("manifest");
        let modules = Modules { manifest: Some(manifest), ..Modules::default() };
        let fleet = of(&modules).expect("read").expect("a manifest");
        let written = fleet.manifest.to_string();
        assert!(!written.contains("hunter22") && !written.contains("\"devices\""), "{written}");
        assert!(written.contains("factory.azurecr.io/line/pump:7") && written.contains("kept"), "{written}");
        let login = Login {
            name: "own-one".into(),
            address: "factory.azurecr.io".into(),
            variable: "REGISTRY_OWN_ONE".into(),
            acr: Some("factory".into()),
            repositories: vec!["line/pump".into()],
        };
        assert_eq!(fleet.logins, [login]);
        assert_eq!(of(&Modules::default()).expect("none"), None);
        let missing = Modules { manifest: Some("/no/such.json".into()), ..Modules::default() };
        assert!(of(&missing).expect_err("missing").to_string().contains("/no/such.json"));
    }
}
