//! The lock file: exactly which packages, one section per architecture.
//!
//! A lock names archives by role and files by their path within the archive, never a mirror: the mirror is joined
//! when the files are fetched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::registry::Resolved;
use crate::units::{Arch, Digest};

/// Version of the lock format that this program writes.
pub(crate) const FORMAT: u32 = 1;

/// A whole lock file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    /// [`FORMAT`].
    pub format: u32,
    /// One section per architecture.
    pub arch: BTreeMap<Arch, Section>,
}

/// The packages of one architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    /// Digest of what resolution depends on: archives, keys, suites, architecture, package lists. A recipe whose
    /// digest differs has outgrown this section.
    pub inputs: Digest,
    /// Sorted by name.
    #[serde(rename = "package")]
    pub packages: Vec<Locked>,
    /// By the architecture of the machine that builds, if it is another one: packages of that machine whose programs
    /// build the image ([`crate::foreign`]); nothing of them is in it. Each list is sorted by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<Arch, Vec<Locked>>,
    /// Container images from registries, by digest, sorted by name.
    #[serde(default, rename = "image", skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Resolved>,
}

impl Section {
    /// What a build on this machine needs: the packages, and the tools.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &Locked> {
        self.packages.iter().chain(self.tools.get(&Arch::host()).into_iter().flatten())
    }
}

/// One package of an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locked {
    /// Package name.
    pub name: String,
    /// Debian version, epoch included.
    pub version: String,
    /// Debian architecture (`amd64`, `arm64`, `all`).
    pub architecture: String,
    /// Role of the archive in the recipe.
    pub archive: String,
    /// Path of the .deb within the archive.
    pub path: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// SHA-256 of the .deb.
    pub sha256: Digest,
}
