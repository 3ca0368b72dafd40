//! Indexes and manifests: from what a registry, a layout or an archive has under a name to one image for one architecture.
//!
//! ```text
//! index                                   manifest                         blobs
//!  linux/amd64        ─► sha256:1c2d… ──►  config  ─► sha256:77af… ──►      {"architecture": …, "rootfs": …}
//!  linux/arm64/v8     ─► sha256:88b0…      layers  ─► sha256:5e0b… ──►      tar, gzip or zstd
//!  unknown/unknown    (an attestation)              ─► sha256:02c9… ──►      tar, gzip or zstd
//! ```
//! A manifest is known by its bytes: they are kept as they came, and few of their fields are read. Types of our own: the crate
//! oci-spec knows no media types but OCI's, no limits, and brings sixteen further crates for what are five small structs here.

use serde::Deserialize;

use crate::descriptor::{BlobKind, Descriptor, MAX_CONFIG, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, shown};
use crate::error::Problem;
use crate::units::Arch;

/// Most layers of an image: the engine takes no more (moby's `maxLayerDepth`; the newest take 250, but not the distributions').
pub const MAX_LAYERS: usize = 125;
/// Most entries of an index. Public ones have a few dozen with their attestations.
const MAX_ENTRIES: usize = 1000;
/// Architectures that are named in a message.
const MAX_SHOWN: usize = 12;

/// What stands under a name: many images, or one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image an architecture.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// A list of images of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its media type.
    pub media_type: String,
    /// Its images, in order.
    pub entries: Vec<IndexEntry>,
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its manifest; or an index, within a layout.
    pub descriptor: Descriptor,
    /// What it is for.
    pub platform: Option<Platform>,
    /// What layouts call it (`org.opencontainers.image.ref.name`): a tag, or a whole reference.
    pub ref_name: Option<String>,
    /// The reference that containerd and newer engines write beside it (`io.containerd.image.name`).
    pub image_name: Option<String>,
}

/// What an image of an index is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The operating system, for example `linux`.
    #[serde(default)]
    pub os: String,
    /// The architecture as Go names it, for example `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// Which of its kind, for example `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// One image: its configuration and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

/// The fields of either document that are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<RawEntry>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<Platform>,
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    ref_name: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    image_name: Option<String>,
}

impl Document {
    /// Reads an index or manifest. `stated` is what its descriptor, or the registry, says that it is.
    ///
    /// # Errors
    /// When it is neither, both, of the old schema 1, larger than [`MAX_MANIFEST`], or not what was stated; a manifest also
    /// when a layer is none that a device can have.
    pub fn parse(bytes: &[u8], stated: Option<&str>) -> Result<Self, Problem> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(broken(&format!("it is larger than {} MiB", MAX_MANIFEST >> 20)));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| broken(&error.to_string()))?;
        let written = raw.media_type.clone().filter(|text| !text.is_empty());
        let kinds = [written.as_deref(), stated].map(|text| text.map_or(BlobKind::Other, BlobKind::of));
        if kinds.contains(&BlobKind::Schema1) || raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(Problem::input("the manifest is of Docker's schema 1, which is not taken")
                .hint("push the image again with an engine or tool of this decade"));
        }
        // One document that is a manifest to one reader and an index to another is an attack (CVE-2021-41190).
        let said = |kind: BlobKind| kinds.iter().all(|found| *found == kind || *found == BlobKind::Other);
        match raw {
            Raw { manifests: Some(entries), config: None, layers: None, .. } if said(BlobKind::Index) => {
                let media_type =
                    written.or_else(|| stated.map(str::to_owned)).unwrap_or_else(|| OCI_INDEX.into());
                Index::read(entries, media_type).map(Self::Index)
            }
            Raw { manifests: None, config: Some(config), layers: Some(layers), .. }
                if said(BlobKind::Manifest) =>
            {
                let media_type =
                    written.or_else(|| stated.map(str::to_owned)).unwrap_or_else(|| OCI_MANIFEST.into());
                Manifest { media_type, config, layers }.checked().map(Self::Manifest)
            }
            _ => Err(broken("it is neither an index nor a manifest of an image, or not what it says")),
        }
    }
}

fn broken(why: &str) -> Problem {
    Problem::input(format!("the manifest cannot be read: {why}"))
        .hint("is it a container image? Push it again, or name another")
}

impl Index {
    fn read(entries: Vec<RawEntry>, media_type: String) -> Result<Self, Problem> {
        if entries.len() > MAX_ENTRIES {
            return Err(broken(&format!("the index has more than {MAX_ENTRIES} entries")));
        }
        let entry = |raw: RawEntry| {
            let Annotations { ref_name, image_name } = raw.annotations.unwrap_or_default();
            IndexEntry { descriptor: raw.descriptor, platform: raw.platform, ref_name, image_name }
        };
        Ok(Self { media_type, entries: entries.into_iter().map(entry).collect() })
    }

    /// The manifest for an architecture: the first that is for it; where none says what it is for, the only one there is.
    ///
    /// # Errors
    /// When there is none: names those that there are.
    pub fn choose(&self, arch: Arch) -> Result<&Descriptor, Problem> {
        let images = || self.entries.iter().filter(|entry| entry.descriptor.kind() == BlobKind::Manifest);
        let fits =
            |entry: &&IndexEntry| entry.platform.as_ref().is_some_and(|platform| platform.runs_on(arch));
        if let Some(found) = images().find(fits) {
            return found.descriptor.sound();
        }
        match images().collect::<Vec<_>>().as_slice() {
            [only] if only.platform.is_none() => only.descriptor.sound(),
            _ => Err(self.absent(arch)),
        }
    }

    fn absent(&self, arch: Arch) -> Problem {
        let named = |entry: &IndexEntry| {
            entry.platform.as_ref().filter(|it| !it.is_attestation()).map(Platform::shown)
        };
        let mut there: Vec<String> = self.entries.iter().filter_map(named).collect();
        there.sort();
        there.dedup();
        there.truncate(MAX_SHOWN);
        let there = if there.is_empty() { "none that says what it is for".into() } else { there.join(", ") };
        Problem::input(format!("there is no image for {arch} (linux/{}); there is {there}", arch.debian()))
            .hint("name an image, or a tag of it, that was built for this architecture too")
    }
}

impl Platform {
    /// Does it run on such a machine? Of the variants, only those that all of the kind can run: not `amd64/v3`.
    pub fn runs_on(&self, arch: Arch) -> bool {
        let variant = self.variant.as_deref().unwrap_or_default();
        let fits = match arch {
            Arch::X86_64 => ["", "v1"].contains(&variant),
            Arch::Aarch64 => ["", "v8", "8"].contains(&variant),
        };
        self.os == "linux" && self.architecture == arch.debian() && fits
    }

    /// What builders put beside images: no image.
    fn is_attestation(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// `os/architecture[/variant]`.
    fn shown(&self) -> String {
        let variant = self.variant.as_deref().map(|variant| format!("/{variant}")).unwrap_or_default();
        shown(&format!("{}/{}{variant}", self.os, self.architecture))
    }
}

impl Descriptor {
    /// As that of a manifest: is its size such?
    fn sound(&self) -> Result<&Self, Problem> {
        if self.size > MAX_MANIFEST {
            return Err(broken(&format!("its index states a size of {} bytes", self.size)));
        }
        Ok(self)
    }
}

impl Manifest {
    /// Can the image be put onto a device, as far as the manifest tells?
    fn checked(self) -> Result<Self, Problem> {
        if self.config.kind() != BlobKind::Config {
            let message =
                format!("it is no container image: its configuration is {}", shown(&self.config.media_type));
            return Err(Problem::input(message).hint("name an image that an engine can run"));
        }
        if self.config.size > MAX_CONFIG {
            return Err(broken(&format!("its configuration states a size of {} bytes", self.config.size)));
        }
        if self.layers.len() > MAX_LAYERS {
            let message =
                format!("the image has {} layers, and the engine takes {MAX_LAYERS}", self.layers.len());
            return Err(Problem::input(message).hint("build it again with fewer steps, or squash it"));
        }
        self.layers.iter().try_for_each(|layer| layer.packing().map(drop))?;
        Ok(self)
    }

    /// Bytes of configuration and layers, each counted once.
    pub fn size(&self) -> u64 {
        let mut blobs: Vec<&Descriptor> = self.layers.iter().chain([&self.config]).collect();
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests;
