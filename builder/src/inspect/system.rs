//! What is installed on an image's root: the system, its kernels, packages and enabled units, the runtime and its
//! configuration, and how far first boot got.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use toml::Table;

use super::config;
use super::grub;
use crate::image::root::Root;
use crate::packages::control::paragraphs;
use crate::rootfs::engine_store;
use crate::rootfs::guard::PathKind;
use crate::units::Digest;

/// Most bytes of a text file that are read, and of the package database.
const TEXT_MAX: u64 = 1 << 20;
const STATUS_MAX: u64 = 128 << 20;
/// Where dpkg has what is installed.
pub(crate) const STATUS: &str = "var/lib/dpkg/status";
/// Where first boot keeps its marks (overlays/base).
const STATE: &str = "var/lib/edgepress";
const FIRST_BOOT: &str = "usr/lib/edgepress/first-boot";
/// Folders of units, the administrator's first: systemd.unit(5).
const UNITS: [&str; 3] = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// Packages that are a container engine or a part of one.
const ENGINE: [&str; 8] = [
    "moby-engine",
    "moby-containerd",
    "moby-runc",
    "docker.io",
    "docker-ce",
    "containerd",
    "containerd.io",
    "runc",
];
const RUNTIME: [&str; 2] = ["aziot-edge", "aziot-identity-service"];

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct System {
    /// `NAME=value` of os-release.
    pub os_release: BTreeMap<String, String>,
    /// The kernels.
    pub kernels: Vec<Kernel>,
    /// The packages that are installed, by name.
    pub packages: Vec<Package>,
    /// Packages in another state, as dpkg has it.
    pub unfinished: Vec<String>,
    /// Units that links start; what presets and generators add is not evaluated.
    pub units: Vec<Unit>,
    /// Units that cannot be started.
    pub masked: Vec<String>,
    /// The container engine's packages.
    pub engine: Vec<Package>,
    /// The runtime's packages.
    pub runtime: Vec<Package>,
    /// Container images in the engine's store, of its driver overlay2.
    pub container_images: ContainerImages,
    /// /etc/aziot/config.toml; nothing where there is none.
    pub config: Option<Config>,
    /// Names of secrets in it, as `agent.config.auth.password`.
    pub config_secrets: Vec<String>,
    /// How far first boot got.
    pub first_boot: FirstBoot,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Kernel {
    /// As in `uname -r`.
    pub version: String,
    /// The boot loader starts this one.
    pub boots: bool,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Package {
    /// Name.
    pub name: String,
    /// Debian architecture.
    pub architecture: String,
    /// Version.
    pub version: String,
}

/// An enabled unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Unit {
    /// Name.
    pub unit: String,
    /// The unit that pulls it in.
    pub by: String,
    /// By the administrator, or whoever built the image; else by a package.
    pub enabled: bool,
}

/// A configuration, or why it is not shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Config {
    /// With its secrets masked.
    Masked(Table),
    /// Why not.
    CannotBeRead {
        /// The reason.
        cannot_be_read: String,
    },
}

/// Container images, or why they are not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum ContainerImages {
    /// Reference → image id.
    Known(BTreeMap<String, String>),
    /// Why not.
    CannotBeRead {
        /// The reason.
        cannot_be_read: String,
    },
}

impl Default for ContainerImages {
    fn default() -> Self {
        Self::Known(BTreeMap::new())
    }
}

/// How far first boot got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct FirstBoot {
    /// `golden`: it never ran. `started`, `configured`, `provisioned`. `none`: the image has no first boot.
    pub state: String,
    /// Registration id, once there is one.
    pub registration_id: Option<String>,
    /// The marks that are there.
    pub marks: Vec<String>,
}

/// The kernel on the FAT partition that a firmware starts: its size and digest.
pub(crate) type Started = (u64, Digest);

/// Looks at a root. `started`: which of its kernels boots, where no boot loader on it says that.
///
/// # Errors
/// When the file system cannot be read.
pub(crate) fn look(root: &Root, started: Option<Started>) -> Result<System> {
    let (packages, unfinished) = packages(root)?;
    let of = |names: &[&str]| -> Vec<Package> {
        packages.iter().filter(|package| names.contains(&package.name.as_str())).cloned().collect()
    };
    let (units, masked) = units(root)?;
    let (config, config_secrets) = configuration(root)?;
    Ok(System {
        os_release: os_release(root)?,
        kernels: kernels(root, started)?,
        engine: of(&ENGINE),
        runtime: of(&RUNTIME),
        packages,
        unfinished,
        units,
        masked,
        config,
        config_secrets,
        container_images: containers(root)?,
        first_boot: first_boot(root)?,
    })
}

fn os_release(root: &Root) -> Result<BTreeMap<String, String>> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Ok(Some(text)) = root.text(path, TEXT_MAX) {
            return Ok(assignments(&text));
        }
    }
    Ok(BTreeMap::new())
}

/// `NAME=value` and `NAME="value"` (os-release(5)), without the shell's escapes.
fn assignments(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

/// The kernels by their modules and by their files in /boot.
fn kernels(root: &Root, started: Option<Started>) -> Result<Vec<Kernel>> {
    let mut versions = BTreeSet::new();
    for folder in ["usr/lib/modules", "lib/modules"] {
        let entries = root.list(Path::new(folder))?;
        versions.extend(
            entries.into_iter().filter(|(_, kind)| *kind == PathKind::Folder).map(|(name, _)| text(&name)),
        );
    }
    for (name, kind) in root.list(Path::new("boot"))? {
        if let (Some(version), PathKind::File) = (version_of(&text(&name)), kind) {
            versions.insert(version.to_owned());
        }
    }
    let mut boots = grub::first_kernel(root)?;
    for version in &versions {
        let file = PathBuf::from(format!("boot/vmlinuz-{version}"));
        let Some((size, digest)) = started else { break };
        if root.stat(&file)?.is_some_and(|stat| stat.size == size) && root.digest(&file)? == digest {
            boots = Some(version.clone());
        }
    }
    let kernel = |version: String| Kernel { boots: boots.as_ref() == Some(&version), version };
    Ok(versions.into_iter().map(kernel).collect())
}

/// The version in a kernel's file name.
pub(crate) fn version_of(name: &str) -> Option<&str> {
    ["vmlinuz-", "vmlinux-"].iter().find_map(|head| name.strip_prefix(head))
}

/// The packages that are installed, by name.
///
/// # Errors
/// When the file system or the package database cannot be read.
pub(crate) fn installed(root: &Root) -> Result<Vec<Package>> {
    Ok(packages(root)?.0)
}

fn packages(root: &Root) -> Result<(Vec<Package>, Vec<String>)> {
    let Some(text) = root.text(STATUS, STATUS_MAX)? else { return Ok(Default::default()) };
    let all = paragraphs(&text).map_err(|error| anyhow::anyhow!("/{STATUS}: {error}"))?;
    let (mut packages, mut unfinished) = (Vec::new(), Vec::new());
    for fields in &all {
        let get = |name| fields.get(name).unwrap_or_default().to_owned();
        let (name, status) = (get("Package"), get("Status"));
        match status.split_whitespace().nth(2) {
            Some("installed") => {
                packages.push(Package { name, version: get("Version"), architecture: get("Architecture") });
            }
            // Removed, and its configuration stayed.
            Some("not-installed" | "config-files") => {}
            _ => unfinished.push(format!("{name}: {status}")),
        }
    }
    packages.sort();
    Ok((packages, unfinished))
}

fn units(root: &Root) -> Result<(Vec<Unit>, Vec<String>)> {
    let (mut units, mut masked) = (BTreeSet::<Unit>::new(), BTreeSet::new());
    for folder in UNITS {
        for (name, kind) in root.list(Path::new(folder))? {
            let (path, name) = (Path::new(folder).join(&name), text(&name));
            if kind == PathKind::Other
                && root.link(&path)?.is_some_and(|target| target == Path::new("/dev/null"))
            {
                masked.insert(name);
                continue;
            }
            let by = [".wants", ".requires"].iter().find_map(|ending| name.strip_suffix(ending));
            let (Some(by), PathKind::Folder) = (by, kind) else { continue };
            for (unit, _) in root.list(&path)? {
                units.insert(Unit { unit: text(&unit), by: by.to_owned(), enabled: folder == UNITS[0] });
            }
        }
    }
    units.retain(|unit| !masked.contains(&unit.unit));
    Ok((units.into_iter().collect(), masked.into_iter().collect()))
}

/// The configuration, and the names of its secrets.
fn configuration(root: &Root) -> Result<(Option<Config>, Vec<String>)> {
    let path = Path::new("etc/aziot/config.toml");
    let Some(stat) = root.stat(path)? else { return Ok((None, Vec::new())) };
    let shown = if stat.kind != '-' || stat.size > TEXT_MAX {
        Err(format!("it is no file of at most {TEXT_MAX} bytes"))
    } else {
        match root.text("etc/aziot/config.toml", TEXT_MAX)? {
            Some(text) => config::masked(&text),
            None => Err("it is no file".into()),
        }
    };
    Ok(match shown {
        Ok((table, secrets)) => (Some(Config::Masked(table)), secrets),
        Err(cannot_be_read) => (Some(Config::CannotBeRead { cannot_be_read }), Vec::new()),
    })
}

/// The container images that the engine knows.
///
/// # Errors
/// When the file system cannot be read.
pub(crate) fn containers(root: &Root) -> Result<ContainerImages> {
    let Some(text) = root.text(engine_store::NAMES, STATUS_MAX)? else {
        return Ok(ContainerImages::default());
    };
    Ok(match engine_store::ids(text.as_bytes()) {
        Ok(known) => ContainerImages::Known(known),
        Err(error) => ContainerImages::CannotBeRead { cannot_be_read: format!("{error:#}") },
    })
}

fn first_boot(root: &Root) -> Result<FirstBoot> {
    let marks = root.list(Path::new(STATE))?.into_iter().filter(|(_, kind)| *kind == PathKind::File);
    let marks: Vec<String> = marks.map(|(name, _)| text(&name)).collect();
    let has = |name: &str| marks.iter().any(|mark| mark == name);
    let state = match () {
        () if has("provisioned") => "provisioned",
        () if has("configured") => "configured",
        () if ["installed", "grown", "reset"].into_iter().any(has) => "started",
        () if root.stat(Path::new(FIRST_BOOT))?.is_none() => "none",
        () => "golden",
    };
    let mut registration_id = None;
    for mark in ["provisioned", "configured"] {
        if registration_id.is_none() && has(mark) {
            let text = root.text(&format!("{STATE}/{mark}"), 4096).unwrap_or_default();
            registration_id = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        }
    }
    Ok(FirstBoot { state: state.to_owned(), registration_id, marks })
}

/// A name as text.
pub(crate) fn text(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{assignments, version_of};

    #[test]
    fn os_release_lines() {
        let found = assignments("# x=y\nID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n\nnothing\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found["PRETTY_NAME"], "Debian GNU/Linux 12");
    }

    #[test]
    fn kernel_names() {
        assert_eq!(version_of("vmlinuz-6.1.0-1-amd64"), Some("6.1.0-1-amd64"));
        assert_eq!(version_of("initrd.img-6.1.0-1-amd64"), None);
    }
}
