//! Packages become files: the essential set by hand, everything else by the tree's own dpkg.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::extract;
use super::names::Names;
use super::order::{self, Relations, Wave};
use crate::chroot::Chroot;
use crate::chroot::mounts::RESERVED;
use crate::event::{Event, Sink, Unit};
use crate::packages::deb;
use crate::tree::Root;
use crate::units::{Arch, Digest};

/// A .deb in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DebFile {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256, under which the store has it.
    pub sha256: Digest,
}

/// dpkg as the build calls it: no sync of each file (see [`super::sync`]), conffiles as the package has them.
const DPKG: [&str; 3] = ["--force-unsafe-io", "--force-confdef", "--force-confold"];

/// Most bytes of dpkg's list of installed packages; Debian's whole archive would be 60 MB of it.
const MOST_STATUS: u64 = 256 << 20;

/// Folders that merged-/usr turns into links; `lib64` only where the loader lives there.
fn merged_folders(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["bin", "sbin", "lib", "lib64"],
        Arch::Aarch64 => &["bin", "sbin", "lib"],
    }
}

/// Installs packages into a tree; see [`order`] for how.
pub(crate) struct Installer<'a> {
    /// The tree, and how its programs run.
    pub tree: Chroot<'a>,
    /// The store's folder of blobs, on the host.
    pub blobs: &'a Path,
    /// Step name for events.
    pub step: &'a str,
}

impl Installer<'_> {
    /// Lays out an empty tree and extracts the packages that dpkg itself needs; before [`crate::chroot::mounts::around`].
    ///
    /// # Errors
    /// A .deb that cannot be read, named.
    pub(crate) fn bootstrap(&self, arch: Arch, debs: &[DebFile]) -> Result<()> {
        self.merge_usr(arch)?;
        let plan = order::plan(&self.relations(debs)?, &BTreeSet::new())?;
        let essential: BTreeSet<&str> = plan.essential.iter().map(String::as_str).collect();
        let debs: Vec<(&DebFile, PathBuf)> = debs
            .iter()
            .filter(|deb| essential.contains(deb.name.as_str()))
            .map(|deb| (deb, self.blob(deb)))
            .collect();
        extract::all(&debs, self.tree.root)?;
        let root = self.tree.root;
        root.make_folders("/var/lib/dpkg/info")?;
        ["status", "available"]
            .into_iter()
            .try_for_each(|name| root.write(Path::new("/var/lib/dpkg").join(name), 0o644, b""))
    }

    /// Extracts packages for `arch` into an empty tree, and does nothing else with them.
    ///
    /// # Errors
    /// A .deb that cannot be read, named.
    pub(crate) fn extract(&self, arch: Arch, debs: &[DebFile]) -> Result<()> {
        self.merge_usr(arch)?;
        let debs: Vec<(&DebFile, PathBuf)> = debs.iter().map(|deb| (deb, self.blob(deb))).collect();
        extract::all(&debs, self.tree.root)
    }

    fn merge_usr(&self, arch: Arch) -> Result<()> {
        let root = self.tree.root;
        merged_folders(arch).iter().try_for_each(|name| {
            root.make_folders(Path::new("/usr").join(name))?;
            root.symlink(format!("usr/{name}"), name)
        })
    }

    /// Unpacks and configures `debs` with the tree's dpkg, on a machine of the name `hostname`.
    ///
    /// # Errors
    /// dpkg's own words, with the whole output of the script that failed.
    pub(crate) fn install(&self, debs: &[DebFile], hostname: &str) -> Result<()> {
        let names = Names::install(self.tree.root, hostname)?;
        self.run_dpkg(debs)?;
        names.remove(self.tree.root)
    }

    fn run_dpkg(&self, debs: &[DebFile]) -> Result<()> {
        let relations = self.relations(debs)?;
        let plan = order::plan(&relations, &self.installed()?)?;
        let names = self.link_debs(debs)?;
        let progress = Progress::new(self, 2 * debs.len());
        if !plan.essential.is_empty() {
            // These depend on each other in circles, and all of their files are there already.
            self.dpkg(&["--force-depends", "--install"], &files(&names, &plan.essential)?, &progress)?;
        }
        for Wave { unpack, configure } in &plan.waves {
            self.dpkg(&["--unpack"], &files(&names, unpack)?, &progress)?;
            if !configure.is_empty() {
                self.dpkg(&["--configure"], configure, &progress)?;
            }
        }
        self.dpkg(&["--configure", "--pending"], &[], &progress)
    }

    fn dpkg(&self, arguments: &[&str], rest: &[String], progress: &Progress<'_>) -> Result<()> {
        let tree = &self.tree;
        // Kernel packages make no initramfs while this says No: there is one at the end, of everything.
        let dpkg = tree.program("dpkg").env("INITRD", "No").args(DPKG).args(arguments.iter().copied());
        tree.run(&dpkg.args(rest.iter().map(String::as_str)), |line| progress.line(line))
    }

    fn blob(&self, deb: &DebFile) -> PathBuf {
        let hex = deb.sha256.to_string();
        self.blobs.join(&hex[..2]).join(&hex)
    }

    fn relations(&self, debs: &[DebFile]) -> Result<Vec<Relations>> {
        debs.iter()
            .map(|deb| {
                let control = deb::Deb::read(&self.blob(deb))
                    .with_context(|| format!("reading package {} {}", deb.name, deb.version))?
                    .control;
                let field = |name: &str| control.get(name).unwrap_or_default().to_owned();
                Ok(Relations {
                    name: deb.name.clone(),
                    essential: control.essential,
                    depends: field("Depends"),
                    pre_depends: field("Pre-Depends"),
                    provides: field("Provides"),
                })
            })
            .collect()
    }

    /// Names of the packages that the tree has.
    fn installed(&self) -> Result<BTreeSet<String>> {
        let text = self.tree.root.read_text("/var/lib/dpkg/status", MOST_STATUS)?;
        let text = text.context("the tree has no /var/lib/dpkg/status")?;
        Ok(text.lines().filter_map(|line| line.strip_prefix("Package: ")).map(String::from).collect())
    }

    /// Gives each blob a name that dpkg's messages can show: `name_version.deb`.
    fn link_debs(&self, debs: &[DebFile]) -> Result<BTreeMap<String, String>> {
        let root = self.tree.root;
        let folder = Path::new("/").join(RESERVED).join("debs");
        debs.iter()
            .map(|deb| {
                let file = format!("{}_{}.deb", deb.name, deb.version.replace(':', "%3a"));
                let hex = deb.sha256.to_string();
                root.symlink(format!("../blobs/{}/{hex}", &hex[..2]), folder.join(&file))?;
                Ok((deb.name.clone(), format!("/{RESERVED}/debs/{file}")))
            })
            .collect()
    }
}

fn files(names: &BTreeMap<String, String>, wanted: &[String]) -> Result<Vec<String>> {
    wanted.iter().map(|name| names.get(name).cloned().with_context(|| format!("finding {name}"))).collect()
}

/// Counts dpkg's lines: one for each package unpacked, one for each set up.
struct Progress<'a> {
    step: &'a str,
    sink: &'a dyn Sink,
    done: AtomicUsize,
}

impl<'a> Progress<'a> {
    fn new(installer: &Installer<'a>, total: usize) -> Self {
        let total = Some(total as u64);
        installer.tree.sink.emit(Event::Started { step: installer.step.into(), total, unit: Unit::Items });
        Self { step: installer.step, sink: installer.tree.sink, done: AtomicUsize::new(0) }
    }

    fn line(&self, line: &str) {
        let what = line.strip_prefix("Unpacking ").or_else(|| line.strip_prefix("Setting up "));
        let Some(name) = what.and_then(|rest| rest.split_whitespace().next()) else { return };
        let done = self.done.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        self.sink.emit(Event::Progress { step: self.step.into(), done, message: name.into() });
    }
}

/// A program that stands in the tree only while scripts run: no package may start a service in a build
/// (Debian's policy-rc.d interface; 101 is "action forbidden by policy").
pub(crate) struct NoServices;

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    /// Puts it in place.
    ///
    /// # Errors
    /// When the tree cannot be written.
    pub(crate) fn install(root: &Root) -> Result<Self> {
        root.write(POLICY, 0o755, b"#!/bin/sh\nexit 101\n").map(|()| Self)
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When it is gone already, which a package must not do.
    pub(crate) fn remove(self, root: &Root) -> Result<()> {
        ensure!(
            root.remove(POLICY)?,
            "a package's script removed {POLICY}, which keeps it from starting services"
        );
        Ok(())
    }
}
