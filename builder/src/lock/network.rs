//! Where packages and container images come from: archives by their mirrors, registries with whom they know us as.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;

use super::mirrors::Mirrors;
use crate::oci::credentials::Credentials;
use crate::registry::{self, Registry};

/// What the command line says of it.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// Role of an archive, or a registry (`HOST[:PORT]`), and the address to fetch from in its place.
    pub mirrors: Vec<(String, String)>,
    /// A file like docker's config.json, in its place.
    pub registry_auth: Option<PathBuf>,
    /// Registry, and a PEM file with the authorities that it is trusted by.
    pub registry_ca: Vec<(String, PathBuf)>,
}

/// Archives and registries as this run meets them. No file of credentials is read before a registry is asked for.
pub struct Network {
    mirrors: Mirrors,
    registries: Origins,
    registry: OnceLock<Registry>,
}

impl Network {
    /// As the command line, the environment and the host's apt have it.
    pub fn new(origins: Origins) -> Self {
        let (registries, archives) = origins.mirrors.into_iter().partition(|(name, _)| is_registry(name));
        let registries = Origins { mirrors: registries, ..origins };
        Self { mirrors: Mirrors::new(archives), registries, registry: OnceLock::new() }
    }

    /// Where archives are.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// The registries.
    ///
    /// # Errors
    /// When a file of credentials or authorities cannot be read, or a mirror is no address.
    pub fn registry(&self) -> Result<&Registry> {
        if let Some(made) = self.registry.get() {
            return Ok(made);
        }
        let made = Registry::new(registry::Options {
            mirrors: self.registries.mirrors.iter().cloned().collect::<BTreeMap<_, _>>(),
            credentials: Credentials::load(self.registries.registry_auth.as_deref())?,
            settings: self.mirrors.settings(),
            authorities: self.registries.registry_ca.iter().cloned().collect(),
        })?;
        Ok(self.registry.get_or_init(|| made))
    }
}

/// An archive's role has neither dot nor colon, and is no machine.
fn is_registry(name: &str) -> bool {
    name.contains(['.', ':']) || name == "localhost"
}

#[cfg(test)]
mod tests {
    use super::is_registry;

    #[test]
    fn registries_are_told_from_archives() {
        for (name, registry) in [
            ("debian", false),
            ("debian-security", false),
            ("docker.io", true),
            ("plant:5000", true),
            ("localhost", true),
        ] {
            assert_eq!(is_registry(name), registry, "{name}");
        }
    }
}
