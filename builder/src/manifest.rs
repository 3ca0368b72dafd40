//! `manifest.json`: what an image was made from and what `edgepress test` needs to know about it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::Partition;
use crate::format::Holds;
use crate::recipe::types::{Board, Format, Model, Provisioning};
use crate::units::{Arch, Digest};

/// Name of the manifest beside an image.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of edgepress that made the image.
    pub edgepress: String,
    /// Recipe name.
    pub name: String,
    /// Recipe description.
    pub description: String,
    /// Architecture.
    pub arch: Arch,
    /// Board.
    pub board: Board,
    /// Models that it must boot on, where the board has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<Model>,
    /// Digests of the recipe (merged), the lock section and everything laid over the root.
    pub inputs: BTreeMap<String, Digest>,
    /// Kernel versions in the image.
    pub kernels: Vec<String>,
    /// Time stamp of everything in the image, seconds since 1970: that of its newest package.
    pub epoch: u64,
    /// What `test` has to simulate.
    pub provisioning: Provisioning,
    /// The image's /etc/aziot/config.toml before first boot, for `stamp` to judge with a device's values.
    #[serde(default)]
    pub config_toml: String,
    /// Archives of container images that the recipe has the device start with: names in `/var/lib/edgepress/images`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preloaded: Vec<String>,
    /// Container images that are in the engine's store before the first boot: name → image id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub container_images: BTreeMap<String, Digest>,
    /// DNS servers that containers use.
    pub engine_dns: Vec<IpAddr>,
    /// Partitions in order.
    pub partitions: Vec<Partition>,
    /// The files made, beside the manifest.
    pub outputs: Vec<Output>,
    /// Step → seconds.
    pub seconds: BTreeMap<String, f64>,
}

/// One file made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output {
    /// File name beside the manifest.
    pub file: PathBuf,
    /// Which of the recipe's formats it is; absent for what goes along with every image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// What comes out of the file where it is a container: the disk, the tar of
    /// `tar.zst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Raw>,
}

/// What a file holds once it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Raw {
    /// Bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Digest,
}

impl Output {
    /// Does it hold the disk, in whatever container?
    pub(crate) fn is_disk(&self) -> bool {
        self.format.is_some_and(|format| format.form().holds == Holds::Disk)
    }

    /// The file, if its name is a plain one: a manifest must not point out of its folder.
    pub(crate) fn plain_name(&self) -> Option<&PathBuf> {
        let mut parts = self.file.components();
        let plain = matches!(parts.next(), Some(std::path::Component::Normal(_))) && parts.next().is_none();
        plain.then_some(&self.file)
    }
}
