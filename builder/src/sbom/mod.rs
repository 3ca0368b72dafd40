//! Bills of materials: what is inside an image, as CycloneDX 1.6 and SPDX 2.3.
//!
//! ```text
//! root tree ─► Inventory ─┐                         ┌─► sbom.cdx.json
//!   var/lib/dpkg/status   ├─► Bill (+ image digest) ┤
//!   usr/share/doc/…       │                         └─► sbom.spdx.json
//! lock ─────► Origins ────┘
//! ```
//! The inventory is taken from the tree itself, in the sandbox where the image is made: what dpkg says is installed, not
//! what was asked for. Both documents depend on nothing but the image: times are its time stamp, identifiers come from
//! digests.

pub(crate) mod copyright;
pub(crate) mod cyclonedx;
pub(crate) mod depends;
pub(crate) mod licence;
pub(crate) mod origin;
pub(crate) mod purl;
pub(crate) mod spdx;

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::copyright::Texts;
use self::depends::Names;
use self::origin::{Origin, Origins};
use crate::disk::ids::Uuid;
use crate::disk::sparse;
use crate::packages::control::{Paragraph, paragraphs};
use crate::recipe::types::{Engine, EngineImage, Preload};
use crate::rootfs::{engine_store, images};
use crate::tree::Root;
use crate::units::{Arch, Digest};

/// Name of the CycloneDX document beside an image.
pub(crate) const CYCLONEDX: &str = "sbom.cdx.json";
/// Name of the SPDX document beside an image.
pub(crate) const SPDX: &str = "sbom.spdx.json";
/// dpkg's database of a system with every package of Debian would be larger, and is no image's.
const MOST_STATUS: u64 = 256 << 20;
/// The largest copyright file of Debian (chromium's) has 5 MB.
const MOST_COPYRIGHT: u64 = 16 << 20;

/// What is in a root tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    /// The distribution, from os-release.
    pub system: System,
    /// Installed packages, by name.
    pub packages: Vec<Package>,
    /// Container images that are there before the first boot.
    pub images: Vec<Container>,
    /// Licences that SPDX does not list.
    pub texts: Texts,
}

/// The distribution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct System {
    /// `ID`: `debian`.
    pub id: String,
    /// `VERSION_ID`: `12`.
    pub version: String,
    /// `PRETTY_NAME`.
    pub name: String,
}

/// An installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Package {
    /// Package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// Debian architecture.
    pub architecture: String,
    /// Source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: String,
    /// Who maintains it: name and address.
    pub maintainer: String,
    /// Its home page; empty: none.
    pub homepage: String,
    /// One line on what it is.
    pub summary: String,
    /// SPDX expression of the licences that its copyright file declares; none where that is prose.
    pub licence: Option<String>,
    /// Numbers of the packages that it depends on, in [`Inventory::packages`].
    pub depends: Vec<usize>,
}

/// A container image in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Container {
    /// Reference with tag.
    pub name: String,
    /// Digest of its archive in the tree; of its configuration (the image id) where it is in the engine's store.
    pub sha256: Digest,
    /// Made from files of the tree, not pulled from a registry.
    pub own: bool,
}

/// Takes the inventory of a root tree with the container images of `engine`.
///
/// # Errors
/// When the tree has no package database, or it cannot be read.
pub(crate) fn collect(root: &Root, engine: &Engine) -> Result<Inventory> {
    let mut inventory = Inventory { system: system(root)?, ..Inventory::default() };
    let status = root
        .read_text("/var/lib/dpkg/status", MOST_STATUS)?
        .context("the tree has no /var/lib/dpkg/status")?;
    let mut fields: Vec<Paragraph> = paragraphs(&status).context("reading /var/lib/dpkg/status")?;
    fields.retain(installed);
    fields.sort_by(|a, b| key(a).cmp(&key(b)));
    let mut names = Names::default();
    for (number, package) in fields.iter().enumerate() {
        names.add(number, field(package, "Package"), field(package, "Provides"));
    }
    for package in &fields {
        let mut known = describe(package);
        known.depends = names.resolve([field(package, "Pre-Depends"), field(package, "Depends")]);
        let file = format!("/usr/share/doc/{}/copyright", known.name);
        if let Some(text) = root.read_text(&file, MOST_COPYRIGHT)? {
            known.licence = copyright::declared(&known.name, &text, &mut inventory.texts);
        }
        inventory.packages.push(known);
    }
    inventory.images = containers(root, engine)?;
    Ok(inventory)
}

fn containers(root: &Root, engine: &Engine) -> Result<Vec<Container>> {
    let names =
        root.read(engine_store::NAMES, MOST_STATUS)?.map(|text| engine_store::ids(&text)).transpose()?;
    let names = names.unwrap_or_default();
    let in_store = |image: &EngineImage| -> Result<Digest> {
        let id = names
            .get(&engine_store::Name::of(&image.name)?.reference)
            .and_then(|id| id.strip_prefix("sha256:"));
        let id = id.with_context(|| format!("the engine's store has no image {}", image.name))?;
        id.parse().map_err(anyhow::Error::msg)
    };
    let archived = |at: usize, image: &EngineImage| -> Result<Digest> {
        let archive = Path::new(images::FOLDER).join(images::archive_name(at, &image.name));
        let file = root.open_file(&archive)?;
        let file = file.with_context(|| format!("{} is not in the tree", archive.display()))?;
        digest(&file).with_context(|| format!("reading {}", archive.display()))
    };
    let each = engine.images.iter().enumerate().map(|(at, image)| {
        let sha256 = match engine.preload {
            Preload::Store => in_store(image)?,
            Preload::Load => archived(at, image)?,
        };
        Ok(Container { name: image.name.clone(), sha256, own: !image.from_root.is_empty() })
    });
    each.collect()
}

fn key(package: &Paragraph) -> (&str, &str) {
    (field(package, "Package"), field(package, "Architecture"))
}

fn field<'a>(package: &'a Paragraph, name: &str) -> &'a str {
    package.get(name).unwrap_or_default()
}

/// Its files are there, whatever else dpkg had to say about it.
fn installed(package: &Paragraph) -> bool {
    let state = field(package, "Status").split_whitespace().nth(2).unwrap_or("not-installed");
    !matches!(state, "not-installed" | "config-files") && !field(package, "Package").is_empty()
}

fn describe(package: &Paragraph) -> Package {
    let own = |name: &str| field(package, name).to_owned();
    // `Source: gcc-12 (12.2.0-14)`, or only the name where the version is the same; no field where both are.
    let (source, version) =
        field(package, "Source").split_once('(').unwrap_or((field(package, "Source"), ""));
    let or = |value: &str, other: &str| {
        let value = value.trim_end_matches(')').trim();
        if value.is_empty() { own(other) } else { value.to_owned() }
    };
    Package {
        name: own("Package"),
        version: own("Version"),
        architecture: own("Architecture"),
        source: or(source, "Package"),
        source_version: or(version, "Version"),
        maintainer: own("Maintainer"),
        homepage: own("Homepage"),
        summary: field(package, "Description").lines().next().unwrap_or_default().to_owned(),
        licence: None,
        depends: Vec::new(),
    }
}

/// os-release(5): lines `NAME=value`, maybe in quotes.
fn system(root: &Root) -> Result<System> {
    const MOST: u64 = 1 << 20;
    let text = root.read_text("/etc/os-release", MOST)?.unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    Ok(System { id: value("ID"), version: value("VERSION_ID"), name: value("PRETTY_NAME") })
}

fn digest(file: &File) -> Result<Digest> {
    let size = file.metadata()?.len();
    Ok(sparse::hash(file, size, |_| ())?.finish())
}

/// Everything that goes into the documents.
#[derive(Debug, Clone)]
pub(crate) struct Bill<'a> {
    /// Name of the image.
    pub name: &'a str,
    /// What the recipe says it is.
    pub description: &'a str,
    /// Its architecture.
    pub arch: Arch,
    /// Digest of the raw image.
    pub sha256: Digest,
    /// Its time stamp, seconds since 1970.
    pub epoch: u64,
    /// What is in it.
    pub inventory: &'a Inventory,
    /// Where that came from.
    pub origins: &'a Origins,
}

impl Bill<'_> {
    /// The documents by file name, as text that ends with a line feed.
    ///
    /// # Errors
    /// When the time stamp is none.
    pub(crate) fn documents(&self) -> Result<[(&'static str, Vec<u8>); 2]> {
        let text = |value: &serde_json::Value| -> Result<Vec<u8>> {
            let mut text = serde_json::to_vec_pretty(value)?;
            text.push(b'\n');
            Ok(text)
        };
        Ok([(CYCLONEDX, text(&cyclonedx::document(self)?)?), (SPDX, text(&spdx::document(self)?)?)])
    }

    /// What a version is to other things: the raw image's digest, shortened.
    fn version(&self) -> String {
        self.sha256.short()
    }

    /// The time stamp as RFC 3339 has it.
    fn time(&self) -> Result<String> {
        let time = OffsetDateTime::from_unix_timestamp(i64::try_from(self.epoch)?)?;
        time.format(&Rfc3339).context("writing the image's time stamp")
    }

    /// The same for equal documents, another for any other.
    fn uuid(&self, kind: &str, document: &serde_json::Value) -> Uuid {
        Uuid::from_digest(Digest::of(format!("{kind} {}", Digest::of_json(document))))
    }

    /// The origin of an installed package: the .deb of that name, if it has that version.
    fn origin(&self, package: &Package) -> Option<&Origin> {
        self.origins.get(&package.name).filter(|origin| origin.version == package.version)
    }

    /// The package's URL.
    fn purl(&self, package: &Package) -> String {
        let system = &self.inventory.system;
        let distribution = format!("{}-{}", system.id, system.version);
        // The source package, by which distributions name security advisories; spelled as syft and grype do.
        let upstream = match (package.source == package.name, package.source_version == package.version) {
            (true, true) => String::new(),
            (false, true) => package.source.clone(),
            (_, false) => format!("{}@{}", package.source, package.source_version),
        };
        let Package { name, version, architecture, .. } = package;
        let origin = self.origin(package);
        match origin.and_then(|origin| origin.archive.as_ref()) {
            Some(archive) => {
                let repository = archive.repository.as_deref().unwrap_or_default();
                let qualifiers = [
                    ("arch", architecture.as_str()),
                    ("distro", &distribution),
                    ("repository_url", repository),
                    ("upstream", &upstream),
                ];
                purl::purl("deb", &archive.namespace, name, version, &qualifiers)
            }
            // From no archive: no publisher whose advisories would apply.
            None => {
                let checksum = origin.map(|origin| format!("sha256:{}", origin.sha256)).unwrap_or_default();
                let url = origin.and_then(|origin| origin.url.as_deref()).unwrap_or_default();
                let qualifiers =
                    [("arch", architecture.as_str()), ("checksum", &checksum), ("download_url", url)];
                purl::purl("generic", "", name, version, &qualifiers)
            }
        }
    }
}

impl Package {
    /// Its home page, if it is an address: the field holds what its maintainer wrote.
    fn website(&self) -> Option<&str> {
        let url = url::Url::parse(&self.homepage).ok()?;
        let plain = url.has_host()
            && self.homepage.chars().all(|c| c.is_ascii_graphic() && !"<>\"{}|\\^`".contains(c));
        plain.then_some(&self.homepage)
    }
}

impl Container {
    /// Name and tag.
    fn parts(&self) -> (&str, &str) {
        match self.name.rsplit_once(':') {
            // A colon before a slash is that of a registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (&self.name, "latest"),
        }
    }

    /// Its URL; none for an image that no registry has.
    fn purl(&self) -> Option<String> {
        if self.own {
            return None;
        }
        let (path, tag) = self.parts();
        let (registry, rest) = match path.split_once('/') {
            // As Docker tells a registry from the first part of a name.
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("", path),
        };
        let (namespace, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        Some(purl::purl("docker", namespace, name, tag, &[("repository_url", registry)]))
    }
}

/// Name and address of `Name <address>`.
fn person(maintainer: &str) -> (&str, &str) {
    match maintainer.rsplit_once('<') {
        Some((name, address)) => {
            let address = address.trim().trim_end_matches('>');
            let good = address.contains('@') && !address.contains(char::is_whitespace);
            (name.trim().trim_matches('"'), if good { address } else { "" })
        }
        None => (maintainer.trim(), ""),
    }
}

#[cfg(test)]
mod tests;
