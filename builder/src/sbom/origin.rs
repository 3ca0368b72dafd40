//! Where each .deb came from: its archive and digest, as the lock has them.

use std::collections::BTreeMap;

use crate::lock::local::LocalDeb;
use crate::lock::types::Section;
use crate::recipe::types::Recipe;
use crate::store::net::{join, parse, shown};
use crate::units::{Arch, Digest};

/// Who publishes an archive: host of its address, name in a package URL, name for people.
const VENDORS: &[(&str, &str, &str)] = &[
    ("debian.org", "debian", "Debian"),
    ("ubuntu.com", "ubuntu", "Ubuntu"),
    ("packages.microsoft.com", "microsoft", "Microsoft"),
    ("raspberrypi.com", "raspberry-pi", "Raspberry Pi"),
];

/// Origins of the packages in an image, by name.
pub(crate) type Origins = BTreeMap<String, Origin>;

/// Where a .deb came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its version.
    pub version: String,
    /// Digest of the .deb.
    pub sha256: Digest,
    /// Its archive; none for a package that the recipe brings itself.
    pub archive: Option<Archive>,
    /// Address of the .deb, as the recipe names archives and files: never a mirror's. None for a file of the user's.
    pub url: Option<String>,
}

/// An archive, as far as a bill of materials names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Namespace in package URLs: `debian`.
    pub namespace: String,
    /// The organisation's name: `Debian`.
    pub vendor: String,
    /// Address of the archive where the namespace alone does not say it.
    pub repository: Option<String>,
}

impl Archive {
    /// Known publishers by the host of the address or, for an archive on a host of the user's, by its role in the
    /// recipe; an unknown archive is called as its role is.
    fn new(role: &str, url: &str) -> Self {
        let host =
            url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let at = |known: &str| host == known || host.ends_with(&format!(".{known}"));
        let called = |name: &str| role == name || role.starts_with(&format!("{name}-"));
        let vendor = VENDORS
            .iter()
            .find(|(known, ..)| at(known))
            .or_else(|| VENDORS.iter().find(|(_, name, _)| called(name)));
        let (namespace, name) = vendor.map_or((role, role), |(_, namespace, name)| (*namespace, *name));
        let own = matches!(namespace, "debian" | "ubuntu");
        Self {
            namespace: namespace.to_lowercase(),
            vendor: name.to_owned(),
            repository: if own { None } else { public(url) },
        }
    }
}

/// An address without what a password may stand in.
fn public(url: &str) -> Option<String> {
    parse(url).ok().map(|url| shown(&url))
}

/// The origins of all packages that a recipe's image is made from.
pub(crate) fn origins(recipe: &Recipe, section: &Section, local: &[LocalDeb]) -> Origins {
    let arch = recipe.target.arch;
    let archives: BTreeMap<&str, (Archive, &str)> = recipe
        .archives
        .iter()
        .map(|(role, archive)| {
            let url = address(archive, arch);
            (role.as_str(), (Archive::new(role, url), url))
        })
        .collect();
    let locked = section.packages.iter().map(|package| {
        let archive = archives.get(package.archive.as_str());
        let url = archive.and_then(|(_, base)| join(base, &package.path).ok()).map(|url| shown(&url));
        let archive = archive.map(|(archive, _)| archive.clone());
        let origin = Origin { version: package.version.clone(), sha256: package.sha256, archive, url };
        (package.name.clone(), origin)
    });
    let own = local.iter().map(|package| {
        let url = package.origin.to_str().filter(|origin| origin.starts_with("http")).and_then(public);
        let origin = Origin { version: package.version.clone(), sha256: package.sha256, archive: None, url };
        (package.name.clone(), origin)
    });
    locked.chain(own).collect()
}

fn address(archive: &crate::recipe::types::Archive, arch: Arch) -> &str {
    archive.urls.get(&arch).unwrap_or(&archive.url)
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn archives_by_host_then_by_role() {
        for (role, url, namespace, repository) in [
            ("main", "http://ftp.debian.org/debian", "debian", None),
            ("debian-security", "http://mirror.example/debian-security", "debian", None),
            ("ubuntu", "http://ports.ubuntu.com/ubuntu-ports", "ubuntu", None),
            (
                "microsoft",
                "https://packages.microsoft.com/debian/12/prod",
                "microsoft",
                Some("https://packages.microsoft.com/debian/12/prod"),
            ),
            ("Plant", "https://me:secret@deb.plant.example/x", "plant", Some("https://deb.plant.example/x")),
            (
                "debianish",
                "http://notdebian.org.example/",
                "debianish",
                Some("http://notdebian.org.example/"),
            ),
            ("none", "", "none", None),
        ] {
            let archive = Archive::new(role, url);
            assert_eq!(
                (archive.namespace.as_str(), archive.repository.as_deref()),
                (namespace, repository),
                "{role}"
            );
        }
    }
}
