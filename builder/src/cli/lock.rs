//! `edgepress lock`: decides exactly which packages go into a recipe's image, and says what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Session;
use super::origins::OriginOptions;
use super::store::StoreOption;
use crate::error::Problem;
use crate::lock::local;
use crate::lock::network::Network;
use crate::lock::types::Section;
use crate::lock::{self, Action, Ensured, Policy, owner};
use crate::recipe;
use crate::registry::Resolved;
use crate::units::{Arch, counted};

const EXAMPLES: &str = "\
Examples:
  edgepress lock gateway.toml
      makes gateway.lock, or renews it where the recipe's packages have changed
  edgepress lock gateway.toml --update
      takes the archives' newest versions; the summary lists what that changes
  edgepress lock gateway.toml --locked
      only checks that the lock fits the recipe, for CI; needs no network
  edgepress lock gateway.toml --fetch --mirror debian=http://ftp.debian.org/debian
      also downloads every package, so that `edgepress build` needs no network";

/// Decides exactly which packages go into an image: version, file and SHA-256 of each, in <name>.lock
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The recipe
    recipe: PathBuf,
    /// Architecture to lock for [default: the recipe's]
    #[arg(long)]
    arch: Option<Arch>,
    /// Take the newest versions even where the lock still fits the recipe
    #[arg(long)]
    update: bool,
    /// Change nothing: fail where the lock is missing or no longer fits the recipe
    #[arg(long, conflicts_with = "update")]
    locked: bool,
    /// Download the packages into the store as well
    #[arg(long)]
    fetch: bool,
    #[command(flatten)]
    origins: OriginOptions,
    /// Overrides a value of the recipe, as in `--set provisioning.id_scope=0ne00123456`; none that changes which
    /// packages are wanted: the lock is of the recipe as it is written
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    store: StoreOption,
}

/// What the verb answers.
#[derive(Debug, Serialize)]
struct Answer {
    lock: PathBuf,
    arch: Arch,
    action: Action,
    packages: usize,
    /// Bytes of all packages.
    size: u64,
    /// Container images from registries.
    images: usize,
    /// Bytes of their layers and configurations.
    images_size: u64,
    /// Packages downloaded now; absent without `--fetch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    downloaded: Option<usize>,
    /// Blobs of images downloaded now; absent without `--fetch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    blobs_downloaded: Option<usize>,
    #[serde(flatten)]
    change: Change,
}

/// How a section differs from the one before: name → version; of a container image `image NAME` → digest.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Change {
    added: BTreeMap<String, String>,
    removed: BTreeMap<String, String>,
    /// Old and new version.
    changed: BTreeMap<String, [String; 2]>,
}

impl Change {
    fn between(before: Option<&Section>, after: &Section) -> Self {
        let versions = |section: &Section| -> BTreeMap<String, String> {
            let packages = section.packages.iter();
            let packages = packages.map(|package| (package.name.clone(), package.version.clone()));
            let images = section.images.iter();
            let images = images.map(|one| (format!("image {}", one.reference), one.digest().short()));
            packages.chain(images).collect()
        };
        let Some(old) = before.map(versions) else { return Self::default() };
        let new = versions(after);
        let mut change = Self::default();
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            match (old.get(name), new.get(name)) {
                (None, Some(version)) => drop(change.added.insert(name.clone(), version.clone())),
                (Some(version), None) => drop(change.removed.insert(name.clone(), version.clone())),
                (Some(a), Some(b)) if a != b => {
                    change.changed.insert(name.clone(), [a.clone(), b.clone()]);
                }
                _ => {}
            }
        }
        change
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Kept => "still fits",
            Action::Made => "made",
            Action::Renewed => "renewed",
            Action::Updated => "updated",
            Action::Completed => "completed with this machine's tools",
        };
        let (lock, arch, mib) = (self.lock.display(), self.arch, self.size >> 20);
        let count = counted(self.packages as u64, "package");
        write!(f, "{lock}: {action} for {arch}: {count}, {mib} MiB")?;
        if self.images > 0 {
            let count = counted(self.images as u64, "container image");
            write!(f, "; {count}, {} MiB", self.images_size >> 20)?;
        }
        writeln!(f)?;
        for (name, version) in &self.change.added {
            writeln!(f, "  + {name} {version}")?;
        }
        for (name, version) in &self.change.removed {
            writeln!(f, "  - {name} {version}")?;
        }
        for (name, [from, to]) in &self.change.changed {
            writeln!(f, "  ~ {name} {from} -> {to}")?;
        }
        match self.downloaded {
            None => Ok(()),
            Some(0) => writeln!(f, "all packages are in the store"),
            Some(count) => writeln!(f, "{} downloaded", counted(count as u64, "package")),
        }?;
        match self.blobs_downloaded.filter(|_| self.images > 0) {
            None => Ok(()),
            Some(0) => writeln!(f, "all container images are in the store"),
            Some(count) => writeln!(f, "{} of container images downloaded", counted(count as u64, "blob")),
        }
    }
}

/// Runs the verb.
pub(super) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let sink = &*session.sink;
    let recipe = recipe::load(&arguments.recipe, &arguments.set, arguments.arch)?.recipe;
    let store = arguments.store.open()?;
    let debs = local::gather(&recipe, &store, sink)?;
    let network = Network::new(arguments.origins.clone().into());
    let path = owner::beside_recipe(&arguments.recipe, &arguments.set, &recipe, &debs).ok_or_else(|| {
        Problem::input(
            "--set changes which packages are wanted, and the lock is of the recipe as it is written",
        )
        .hint(
            "write the change into the recipe, or into a small one that extends it; \
                 `edgepress build --set` keeps such a lock beside its image",
        )
    })?;
    let policy = match (arguments.locked, arguments.update) {
        (true, _) => Policy::Locked,
        (_, true) => Policy::Update,
        _ => Policy::Renew,
    };
    let ensured = lock::ensure(&path, policy, &recipe, &debs, &network, &store, sink);
    let Ensured { section, action, before } = store.explained(ensured)?;
    let (mut downloaded, mut blobs_downloaded) = (None, None);
    if arguments.fetch {
        downloaded = Some(lock::fetch(&section, &recipe, network.mirrors(), &store, sink)?.packages);
        blobs_downloaded = Some(lock::images::fetch(&section, &network, &store, sink)?);
    }
    session.answer(&Answer {
        lock: path,
        arch: recipe.target.arch,
        action,
        packages: section.packages.len(),
        size: section.packages.iter().map(|package| package.size).sum(),
        images: section.images.len(),
        images_size: section.images.iter().map(Resolved::size).sum(),
        downloaded,
        blobs_downloaded,
        change: Change::between(before.as_ref(), &section),
    })
}

#[cfg(test)]
mod tests {
    use super::{Action, Answer, Change, Section};
    use crate::lock::types::Locked;
    use crate::units::{Arch, Digest};

    fn section(packages: &[(&str, &str)]) -> Section {
        let package = |(name, version): &(&str, &str)| Locked {
            name: (*name).into(),
            version: (*version).into(),
            architecture: "all".into(),
            archive: "debian".into(),
            path: "pool/x.deb".into(),
            size: 1 << 20,
            sha256: Digest::of("x"),
        };
        Section {
            inputs: Digest::of("i"),
            packages: packages.iter().map(package).collect(),
            tools: Default::default(),
            images: Vec::new(),
        }
    }

    #[test]
    fn the_summary_lists_what_changed() {
        let before = section(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = section(&[("a", "1"), ("b", "2"), ("d", "1")]);
        let answer = Answer {
            lock: "x.lock".into(),
            arch: Arch::X86_64,
            action: Action::Renewed,
            packages: 3,
            size: 3 << 20,
            images: 0,
            images_size: 0,
            downloaded: Some(2),
            blobs_downloaded: Some(0),
            change: Change::between(Some(&before), &after),
        };
        let expected = "x.lock: renewed for x86_64: 3 packages, 3 MiB\n  + d 1\n  - c 1\n  ~ b 1 -> 2\n\
            2 packages downloaded\n";
        assert_eq!(answer.to_string(), expected);
        assert_eq!(Change::between(None, &after), Change::default());
    }
}
