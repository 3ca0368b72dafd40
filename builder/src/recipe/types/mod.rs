//! The recipe as the rest of edgepress sees it: merged, typed, every path absolute.
//!
//! Each table of the TOML file is one struct here, and the JSON Schema in `docs/recipe.schema.json` is generated
//! from these types, so the doc comments are what an editor shows a user on hover.

mod modules;
mod network;
mod provisioning;
mod publish;
mod raspberry_pi;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use modules::Modules;
pub use network::{Network, Proxy, Wifi};
pub use provisioning::{Attestation, AutoReprovisioning, CertificateSource, Enrol, Provisioning, VaultToken};
pub use publish::Publish;
pub use raspberry_pi::{Model, RaspberryPi};

pub use crate::format::Format;
use crate::units::{Arch, ByteSize};

/// What to build: one bootable image with Azure IoT Edge, before any device's identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image: lower-case letters, digits and `-`. Output goes to `<name>-<arch>/<name>.img`.
    pub name: String,
    /// One line for humans, copied into the manifest.
    #[serde(default)]
    pub description: String,
    /// The recipe this one is laid over, as a path relative to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<PathBuf>,
    /// The operating system.
    pub distribution: Distribution,
    /// Package archives by role; `--mirror ROLE=URL` overrides the URL of one.
    pub archives: BTreeMap<String, Archive>,
    /// The machine that the image is for.
    pub target: Target,
    /// What is installed beside engine and runtime.
    #[serde(default)]
    pub packages: Packages,
    /// The container engine and its `daemon.json`.
    #[serde(default)]
    pub engine: Engine,
    /// The Azure IoT Edge runtime.
    #[serde(default)]
    pub edge: Edge,
    /// How the device presents itself to Azure; becomes `/etc/aziot/config.toml`.
    #[serde(default)]
    pub provisioning: Provisioning,
    /// Network and proxy.
    #[serde(default)]
    pub network: Network,
    /// Clock, journal and time zone.
    #[serde(default)]
    pub system: System,
    /// Partitions and sizes.
    #[serde(default)]
    pub disk: Disk,
    /// Who may log in.
    #[serde(default)]
    pub access: Access,
    /// The modules that the devices run.
    #[serde(default)]
    pub modules: Modules,
    /// Where the image will be offered to Raspberry Pi Imager.
    #[serde(default)]
    pub publish: Publish,
    /// Folders laid over the root in order; a file `*.tera` is rendered and loses the ending.
    #[serde(default)]
    pub overlays: Vec<PathBuf>,
    /// Values of your own for templates, as `{{ vars.NAME }}`.
    #[serde(default)]
    pub vars: BTreeMap<String, serde_json::Value>,
}

/// The operating system of the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// `debian`, `ubuntu` or `raspberry-pi-os`.
    pub id: DistributionId,
    /// Release number as in os-release's VERSION_ID, for example "12" or "24.04".
    pub release: String,
    /// Code name, for example "bookworm" or "noble".
    pub codename: String,
}

/// The distributions that edgepress knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistributionId {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
    /// Raspberry Pi OS (the Debian archive plus the Raspberry Pi archive).
    RaspberryPiOs,
}

/// One package archive: a mirror's address and the key that signs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Base address, the part before `dists/`.
    pub url: String,
    /// Addresses that differ by architecture (Ubuntu's ports archive).
    #[serde(default)]
    pub urls: BTreeMap<Arch, String>,
    /// Suites, for example `["bookworm", "bookworm-updates"]`.
    pub suites: Vec<String>,
    /// Components, for example `["main"]`.
    pub components: Vec<String>,
    /// The key that must have signed every suite.
    pub key: ArchiveKey,
}

/// A signing key, pinned: the key material may come from anywhere, the fingerprint decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveKey {
    /// Fingerprints (40 hex digits, primary keys) of the keys that are accepted; others in the file are ignored.
    pub fingerprints: Vec<String>,
    /// A key file (armoured or binary) of your own, relative to the recipe, or absolute (a host's keyring package).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// An HTTPS address of the key; downloaded once into the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The host package that brings `file`, named in the error when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

/// The machine that the image is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `x86_64` or `aarch64`; `--arch` overrides it.
    pub arch: Arch,
    /// How the machine boots.
    pub board: Board,
    /// Output formats: each is a file `<name>.<format>`.
    #[serde(default = "default_formats")]
    pub formats: Vec<Format>,
    /// Which kernel modules the initramfs holds.
    #[serde(default)]
    pub initramfs: Initramfs,
    /// Kernel modules to add to the board's list.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Arguments added to the kernel's command line.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// Only for `board = "raspberry-pi"`: the models, and the settings that become config.txt.
    #[serde(default)]
    pub raspberry_pi: RaspberryPi,
}

fn default_formats() -> Vec<Format> {
    vec![Format::Img]
}

/// How a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    /// UEFI firmware: PCs, servers, Azure Gen2, QEMU `virt`.
    Uefi,
    /// The firmware of a Raspberry Pi's GPU: config.txt on a FAT partition.
    RaspberryPi,
    /// The BIOS of a 64-bit PC, which starts the first sector of a disk: older PCs, Azure VMs of generation 1.
    Bios,
}

/// Which kernel modules the initramfs holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Initramfs {
    /// The board's list: three to four times smaller, read at every boot.
    #[default]
    Board,
    /// Everything a root could be on (`MODULES=most`).
    Most,
    /// No initramfs: the kernel has the drivers of its root built in, as Raspberry Pi's own kernels have.
    None,
}

/// What is installed beside engine and runtime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Packages {
    /// Packages from the archives, by name, or `name=version`.
    pub install: Vec<String>,
    /// Also install what packages recommend.
    pub recommends: bool,
    /// Single .deb files, by path or by address and digest.
    pub debs: Vec<Deb>,
    /// Folders of package sources that `dpkg-deb --build` can build: each child folder with a `DEBIAN/control` is one.
    pub sources: Vec<PathBuf>,
    /// Files that packages make when they are installed, one for each machine, as paths in the image: taken out of it. The
    /// device makes its own, by a unit of an overlay. (Debian's usual ones are known, and need not be named.)
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<PathBuf>,
    /// Files with private keys that may be in every device, as paths in the image, because they are no secret: an example,
    /// a key of a test.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_keys: Vec<PathBuf>,
}

/// One .deb from outside the archives: either `file`, or `url` with `sha256`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deb {
    /// A file, relative to the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// An address; needs `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Digest of the file, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Only for this architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
}

/// The container engine and its `daemon.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// The engine's packages: `["docker.io"]`, or `["moby-engine", "moby-cli"]`.
    pub packages: Vec<String>,
    /// DNS servers for containers (`iotedge check` warns where there are none).
    pub dns: Vec<std::net::IpAddr>,
    /// May containers ask the platform of a VM, or the agent of Azure Arc, for tokens of the machine's own identity? With
    /// one they read all that the machine may read, the device's key among it. Unless this says so, a firewall keeps
    /// containers from the addresses of instance metadata.
    pub metadata_access: bool,
    /// Container logs.
    pub log: EngineLog,
    /// How those images come to the device: in the engine's own store, or as archives that it loads at first boot.
    pub preload: Preload,
    /// Images that are in the device's store before its first contact with a network.
    pub images: Vec<EngineImage>,
}

/// How preloaded container images come to the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preload {
    /// In the engine's own store, for its driver `overlay2`: there when it starts.
    #[default]
    Store,
    /// As archives that are loaded at first boot, for an engine that keeps its images otherwise.
    Load,
}

/// How container logs are kept, so that they never fill the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EngineLog {
    /// `json-file`, `local` or `journald`.
    pub driver: String,
    /// Size at which a log file is rotated, as docker writes it ("10m"). Not for journald.
    pub max_size: String,
    /// Number of rotated files kept. Not for journald.
    pub max_files: u32,
}

impl Default for EngineLog {
    fn default() -> Self {
        Self { driver: "json-file".into(), max_size: "10m".into(), max_files: 3 }
    }
}

/// A container image preloaded into the golden image: from its registry, an archive, or made from files of the root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineImage {
    /// Reference with tag or digest, for example `mcr.microsoft.com/azureiotedge-agent:1.6.1`. With nothing else, the image is
    /// pulled from its registry: `edgepress lock` finds its digest, and every build takes just that.
    pub name: String,
    /// A `docker save` archive, relative to the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Paths in the container → paths in the image's root tree, to make a one-layer image from installed files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from_root: BTreeMap<String, String>,
    /// Entry point of an image made with `from_root`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
}

impl EngineImage {
    /// An image of its registry.
    pub fn pulled(name: &str) -> Self {
        Self { name: name.to_owned(), file: None, from_root: BTreeMap::new(), entrypoint: Vec::new() }
    }

    /// Does it come from its registry?
    pub fn is_pulled(&self) -> bool {
        self.file.is_none() && self.from_root.is_empty()
    }
}

/// The Azure IoT Edge runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// Where the packages `aziot-edge` and `aziot-identity-service` come from.
    pub from: EdgeSource,
    /// Release line ("1.6") or exact version ("1.6.0-1").
    pub version: String,
    /// The edgeAgent module's image.
    pub agent_image: String,
    /// "on-create" asks the registry every time; "never" needs the image preloaded and no network.
    pub agent_pull_policy: PullPolicy,
    /// Environment of edgeAgent.
    pub agent_env: BTreeMap<String, String>,
    /// Host folder for the agent's state, bind-mounted into the container.
    pub agent_storage: String,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            from: EdgeSource::Archive,
            version: "1.6".into(),
            agent_image: "mcr.microsoft.com/azureiotedge-agent:1.6.1".into(),
            agent_pull_policy: PullPolicy::OnCreate,
            agent_env: BTreeMap::new(),
            agent_storage: "/var/lib/edgepress/agent".into(),
        }
    }
}

/// Where the runtime's packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeSource {
    /// A package archive of the recipe.
    Archive,
    /// `packages.debs` or `packages.sources` (the stand-in runtime, or release assets).
    Packages,
}

/// When edgeAgent's image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Ask the registry each time the container is created.
    OnCreate,
    /// Only the local store.
    Never,
}

/// Clock, journal and time zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct System {
    /// Host name until first boot sets the device's own.
    pub hostname: String,
    /// NTP servers; empty: the distribution's.
    pub ntp: Vec<String>,
    /// Time zone, as in `/usr/share/zoneinfo`.
    pub timezone: String,
    /// Most that the journal may take on the disk.
    pub journal_max: ByteSize,
}

impl Default for System {
    fn default() -> Self {
        Self {
            hostname: "edge".into(),
            ntp: Vec::new(),
            timezone: "Etc/UTC".into(),
            journal_max: ByteSize::mib(64),
        }
    }
}

/// Partitions and sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Size of the image; absent: as large as the tree needs plus `free`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Free space in the root file system of an image whose size is not given.
    pub free: ByteSize,
    /// Size of the FAT partition; absent: 64M on `uefi` (the ESP) and `bios`, 256M on `raspberry-pi` (kernels and initramfs too).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fat: Option<ByteSize>,
    /// Grow the root partition and file system to the whole disk at first boot.
    pub grow: bool,
}

impl Default for Disk {
    fn default() -> Self {
        Self { size: None, free: ByteSize::mib(256), fat: None, grow: true }
    }
}

impl Disk {
    /// Size of the FAT partition: the recipe's, or what the board usually needs.
    pub fn fat_size(&self, board: Board) -> ByteSize {
        self.fat.unwrap_or(match board {
            Board::Uefi | Board::Bios => ByteSize::mib(64),
            Board::RaspberryPi => ByteSize::mib(256),
        })
    }
}

/// Who may log in: one account, keys only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The account's name. It has sudo and no password that works.
    pub user: String,
    /// Public keys: files (`*.pub`, relative to the recipe).
    pub ssh_keys: Vec<PathBuf>,
}

impl Default for Access {
    fn default() -> Self {
        Self { user: "edge".into(), ssh_keys: Vec::new() }
    }
}
