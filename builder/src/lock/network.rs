//! Where packages and container images come from: archives by their mirrors, registries with whom they know us as.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;

use super::mirrors::Mirrors;
use crate::error::Problem;
use crate::oci::credentials::Credentials;
use crate::oci::reference::Reference;
use crate::registry::{self, Registry};

/// What the command line says of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    /// Role of an archive, or a registry (`HOST[:PORT]`), and the address to fetch from in its place.
    pub mirrors: Vec<(String, String)>,
    /// A file like docker's config.json, in its place.
    pub registry_auth: Option<PathBuf>,
    /// Registry, and a PEM file with the authorities that it is trusted by.
    pub registry_ca: Vec<(String, PathBuf)>,
}

/// Archives and registries as this run meets them. No file of credentials is read before a registry is asked for.
pub(crate) struct Network {
    mirrors: Mirrors,
    registries: Origins,
    registry: OnceLock<Registry>,
}

impl Network {
    /// As the command line, the environment and the host's apt have it.
    pub(crate) fn new(origins: Origins) -> Self {
        let (registries, archives) = origins.mirrors.into_iter().partition(|(name, _)| is_registry(name));
        let registries = Origins { mirrors: registries, ..origins };
        Self { mirrors: Mirrors::new(archives), registries, registry: OnceLock::new() }
    }

    /// Where archives are.
    pub(crate) fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// A mirror for a registry that no image comes from is a slip of the pen: what was meant would be pulled from elsewhere.
    ///
    /// # Errors
    /// A [`Problem`] that names it.
    pub(crate) fn refuse_unused(&self, images: &[Reference]) -> Result<()> {
        let known: BTreeSet<&str> = images.iter().map(Reference::registry).collect();
        let Some((unknown, _)) =
            self.registries.mirrors.iter().find(|(name, _)| !known.contains(name.as_str()))
        else {
            return Ok(());
        };
        let message = format!("--mirror {unknown}=…: no container image of the recipe comes from {unknown}");
        let known: Vec<&str> = known.into_iter().collect();
        let hint = match known.is_empty() {
            true => "the recipe takes none from a registry; archives are named by their roles".to_owned(),
            false => format!("its images come from {}", known.join(", ")),
        };
        Err(Problem::input(message).hint(hint).into())
    }

    /// The registries.
    ///
    /// # Errors
    /// When a file of credentials or authorities cannot be read, or a mirror is no address.
    pub(crate) fn registry(&self) -> Result<&Registry> {
        if let Some(made) = self.registry.get() {
            return Ok(made);
        }
        let made = Registry::new(registry::RegistryOptions {
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
    use super::{Network, Origins, is_registry};

    #[test]
    fn a_mirror_for_nothing_is_refused() {
        let mirror = |name: &str| (name.to_owned(), "https://mirror.example".to_owned());
        let mirrors = vec![mirror("debian"), mirror("plant.example")];
        let network = Network::new(Origins { mirrors, ..Origins::default() });
        let image = |name: &str| vec![name.parse().expect("a reference")];
        network.refuse_unused(&image("plant.example/pump:1")).expect("it is used");
        let error = network.refuse_unused(&image("other.example/pump:1")).expect_err("unused").to_string();
        assert!(error.contains("--mirror plant.example=…"), "{error}");
        network.refuse_unused(&[]).expect_err("no image at all");
    }

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
