//! What the preflight looks at, read from an image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use super::initramfs::{Initramfs, module_of};
use crate::image::root::Root;
use crate::inspect::grub::{self, MenuEntry};
use crate::inspect::system::{System, Unit, text};

/// Most bytes that are read of a text, and of an initramfs.
const TEXT_MAX: u64 = 4 << 20;
const INITRAMFS_MAX: u64 = 512 << 20;
/// Files that systems swap into.
const SWAP_FILES: [&str; 4] = ["swapfile", "swap.img", "swap", "var/swap"];
/// With this file there, cloud-init does nothing.
const DISABLED: &str = "etc/cloud/cloud-init.disabled";

/// What is on the root.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inside {
    /// grub's entries.
    pub entries: Vec<MenuEntry>,
    /// /etc/fstab: device, mount point, type.
    pub mounts: Vec<[String; 3]>,
    /// Swap files that are there.
    pub swap_files: Vec<String>,
    /// Units that swap, and that are started.
    pub swap_units: Vec<String>,
    /// The kernels that can boot.
    pub kernels: Vec<Kernel>,
    /// Units that cannot be started.
    pub masked: Vec<String>,
    /// cloud-init is turned off by its file.
    pub disabled: bool,
    /// cloud-init's `datasource_list`; absent where nobody sets it.
    pub sources: Option<Vec<String>>,
    /// /etc/waagent.conf; absent where there is none.
    pub agent: Option<BTreeMap<String, String>>,
    /// Names of the installed packages.
    pub packages: BTreeSet<String>,
    /// `ID` of os-release.
    pub id: String,
}

/// A kernel and what it can do.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As in `uname -r`.
    pub version: String,
    /// Its initramfs, or why that is not known.
    pub initramfs: Result<Initramfs, String>,
    /// Drivers that are built in.
    pub builtin: BTreeSet<String>,
    /// Modules that are installed.
    pub modules: BTreeSet<String>,
    /// Its configuration, where it is there.
    pub config: Option<String>,
}

impl Inside {
    /// Gathers it.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub(crate) fn of(root: &Root, system: &System) -> Result<Self> {
        let mut swap_files = Vec::new();
        for path in SWAP_FILES {
            if root.lstat(Path::new(path))?.is_some_and(|stat| stat.kind == '-') {
                swap_files.push(format!("/{path}"));
            }
        }
        // The one that is started; where that is not known, every one.
        let any = system.kernels.iter().all(|kernel| !kernel.boots);
        let kernels = system.kernels.iter().filter(|kernel| kernel.boots || any);
        Ok(Self {
            entries: grub::of(root)?,
            mounts: mounts(&root.text("etc/fstab", TEXT_MAX)?.unwrap_or_default()),
            swap_files,
            swap_units: swap_units(&system.units),
            masked: system.masked.clone(),
            disabled: root.stat(Path::new(DISABLED))?.is_some(),
            kernels: kernels.map(|found| kernel(root, &found.version)).collect::<Result<_>>()?,
            sources: sources(root)?,
            agent: root.text("etc/waagent.conf", TEXT_MAX)?.map(|text| settings(&text)),
            packages: system.packages.iter().map(|package| package.name.clone()).collect(),
            id: system.os_release.get("ID").cloned().unwrap_or_default(),
        })
    }
}

fn kernel(root: &Root, version: &str) -> Result<Kernel> {
    let files = [format!("boot/initrd.img-{version}"), format!("boot/initramfs-{version}.img")];
    let mut initramfs = Err(format!("/{} is not there", files[0]));
    for path in &files {
        if root.stat(Path::new(path))?.is_some() {
            initramfs = match root.read(Path::new(path), INITRAMFS_MAX) {
                Ok(bytes) => Initramfs::parse(&bytes.unwrap_or_default()),
                Err(error) => Err(format!("{error:#}")),
            };
        }
    }
    let mut lists = [BTreeSet::new(), BTreeSet::new()];
    for folder in ["usr/lib/modules", "lib/modules"] {
        for (list, file) in lists.iter_mut().zip(["modules.builtin", "modules.dep"]) {
            let text = root.text(&format!("{folder}/{version}/{file}"), TEXT_MAX)?.unwrap_or_default();
            list.extend(text.lines().filter_map(|line| module_of(line.split(':').next()?)));
        }
    }
    let [builtin, modules] = lists;
    let config = root.text(&format!("boot/config-{version}"), TEXT_MAX)?;
    Ok(Kernel { version: version.to_owned(), initramfs, builtin, modules, config })
}

/// Lines of fstab(5).
fn mounts(text: &str) -> Vec<[String; 3]> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let fields = |line: &str| -> Option<[String; 3]> {
        let mut fields = line.split_whitespace().map(str::to_owned);
        Some([fields.next()?, fields.next()?, fields.next()?])
    };
    lines.filter_map(fields).collect()
}

/// By name, once each: several targets may want one.
fn swap_units(units: &[Unit]) -> Vec<String> {
    let names = units.iter().map(|unit| &unit.unit).filter(|name| name.ends_with(".swap"));
    names.collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// `Name=value`, as the Azure Linux agent reads its file: the rest of a line behind `#` is a comment, and `None` is as if the line
/// were not there.
fn settings(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split('#').next());
    let pairs = lines.filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.trim(), value.trim_matches(['"', ' ']).trim()));
    let mut settings: BTreeMap<_, _> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    settings.retain(|_, value| value != "None");
    settings
}

/// The list that counts: files in cloud.cfg.d replace cloud.cfg's and each other's, in order of their names (`list` sorts as
/// cloud-init does, by code: `90-own.cfg` comes before `90_dpkg.cfg`, whose list then counts).
fn sources(root: &Root) -> Result<Option<Vec<String>>> {
    let mut files = vec!["etc/cloud/cloud.cfg".to_owned()];
    for (name, _) in root.list(Path::new("etc/cloud/cloud.cfg.d"))? {
        let name = text(&name);
        if name.ends_with(".cfg") {
            files.push(format!("etc/cloud/cloud.cfg.d/{name}"));
        }
    }
    let mut found = None;
    for file in files {
        let text = root.text(&file, TEXT_MAX)?.unwrap_or_default();
        found = datasource_list(&text).or(found);
    }
    Ok(found)
}

/// `datasource_list: [ A, B ]` in YAML, or one `- A` to a line.
fn datasource_list(text: &str) -> Option<Vec<String>> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix("datasource_list:"))?;
    let mut list = rest.split('#').next().unwrap_or_default().trim().to_owned();
    for line in lines {
        let line = line.split('#').next().unwrap_or_default().trim();
        match (list.starts_with('['), line.strip_prefix('-')) {
            (true, _) if list.contains(']') => break,
            (true, _) => list.push_str(line),
            (false, Some(item)) => list = format!("{list},{}", item.trim()),
            (false, None) if line.is_empty() => {}
            (false, None) => break,
        }
    }
    let items =
        list.trim_matches(['[', ']', ' ']).split(',').map(|item| item.trim().trim_matches(['"', '\'']));
    Some(items.filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::{datasource_list, mounts, settings, swap_units};
    use crate::inspect::system::Unit;

    #[test]
    fn lists_of_sources() {
        for (text, expected) in [
            ("datasource_list: [ Azure ]\n", &["Azure"][..]),
            ("x: 1\ndatasource_list: [ NoCloud,\n  'Azure' ] # y\nz: [ None ]\n", &["NoCloud", "Azure"]),
            ("datasource_list:\n  - Azure\n  - None # last\nother: 1\n- x\n", &["Azure", "None"]),
            ("datasource_list: []\n", &[]),
        ] {
            assert_eq!(datasource_list(text).as_deref().expect(text), expected, "{text}");
        }
        assert_eq!(datasource_list("# datasource_list: [ Azure ]\n x: 1\n"), None);
    }

    #[test]
    fn files_of_settings() {
        let found = settings("# a=b\nResourceDisk.EnableSwap=n # no\nbroken\nX = \"1\"\n");
        assert_eq!(
            (found.len(), found["ResourceDisk.EnableSwap"].as_str(), found["X"].as_str()),
            (2, "n", "1")
        );
        assert!(settings("Provisioning.Agent=auto\nProvisioning.Agent=None\n").is_empty());
        let found = mounts("# x y z\n\nUUID=1\t/\text4 noatime 0 1\nshort\n");
        assert_eq!(found, [["UUID=1".to_owned(), "/".into(), "ext4".into()]]);
    }

    #[test]
    fn units_that_swap() {
        let unit = |unit: &str, by: &str| Unit { unit: unit.into(), by: by.into(), enabled: true };
        let units = [
            unit("ssh.service", "multi-user.target"),
            unit("var-swap.swap", "multi-user.target"),
            unit("var-swap.swap", "swap.target"),
        ];
        assert_eq!(swap_units(&units), ["var-swap.swap"]);
    }
}
