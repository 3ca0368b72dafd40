//! Exactly which packages go into an image, resolved by the host's apt in a private tree.
//!
//! ```text
//! recipe ─┬─► archives, keys, package lists ─► apt ─► section of the lock ─► fetch ─► store
//!         └─► inputs digest: does the lock still fit the recipe?
//! ```

pub(crate) mod apt;
pub(crate) mod explain;
pub(crate) mod fetch;
pub(crate) mod file;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod index;
pub(crate) mod keys;
pub(crate) mod local;
pub(crate) mod mirrors;
pub(crate) mod network;
pub(crate) mod owner;
pub(crate) mod tools;
pub(crate) mod types;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::board;
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::lock::local::LocalDeb;
use crate::packages::control::RELATIONS;
use crate::recipe::types::{Archive, EdgeSource, Recipe};
use crate::store::Store;
use crate::units::{Arch, Digest, counted};
use apt::{Apt, Origin};
pub(crate) use fetch::fetch;
use mirrors::Mirrors;
use network::Network;
use types::{FORMAT, Lock, Locked, Section};

/// Name of the step in events.
pub(crate) const STEP: &str = "lock";

/// What the resolution of a recipe depends on, and nothing else of it.
#[derive(Serialize)]
struct Inputs<'a> {
    format: u32,
    arch: Arch,
    archives: BTreeMap<&'a str, ArchiveInputs<'a>>,
    requested: Vec<String>,
    recommends: bool,
    /// Only where the runtime comes from an archive.
    edge_version: Option<&'a str>,
    local: Vec<LocalInputs<'a>>,
}

#[derive(Serialize)]
struct ArchiveInputs<'a> {
    url: &'a str,
    suites: &'a [String],
    components: &'a [String],
    fingerprints: Vec<String>,
}

#[derive(Serialize)]
struct LocalInputs<'a> {
    name: &'a str,
    version: &'a str,
    architecture: &'a str,
    essential: bool,
    relations: Vec<(&'static str, &'a str)>,
}

/// Digest of all that the resolution depends on: archives, keys, suites, architecture, package lists, the runtime's
/// version, and how the recipe's own packages relate to others. Mirrors and configuration values are not in it.
pub(crate) fn inputs_digest(recipe: &Recipe, debs: &[LocalDeb]) -> Digest {
    let archives = recipe.archives.iter().map(|(role, archive)| {
        let mut fingerprints: Vec<String> =
            archive.key.fingerprints.iter().map(|text| keys::normal(text)).collect();
        fingerprints.sort();
        let url = mirrors::stated(archive, recipe.target.arch);
        let inputs =
            ArchiveInputs { url, suites: &archive.suites, components: &archive.components, fingerprints };
        (role.as_str(), inputs)
    });
    let local = debs.iter().map(|deb| LocalInputs {
        name: &deb.name,
        version: &deb.version,
        architecture: &deb.architecture,
        essential: deb.control.essential,
        relations: RELATIONS.into_iter().filter_map(|name| Some((name, deb.control.get(name)?))).collect(),
    });
    Digest::of_json(&Inputs {
        format: FORMAT,
        arch: recipe.target.arch,
        archives: archives.collect(),
        requested: requested(recipe, debs),
        recommends: recipe.packages.recommends,
        edge_version: (recipe.edge.from == EdgeSource::Archive).then_some(recipe.edge.version.as_str()),
        local: local.collect(),
    })
}

/// What apt is asked for: what the recipe names, and each of its own packages at just its version.
fn requested(recipe: &Recipe, debs: &[LocalDeb]) -> Vec<String> {
    let mut names = board::requested_packages(recipe);
    names.retain(|name| !debs.iter().any(|deb| Some(deb.name.as_str()) == name.split('=').next()));
    names.extend(debs.iter().map(|deb| format!("{}={}", deb.name, deb.version)));
    names.sort();
    names.dedup();
    names
}

/// Resolves a recipe for its architecture.
///
/// # Errors
/// Says which archive or package cannot be had, why, and what to do.
pub(crate) fn resolve(
    recipe: &Recipe,
    debs: &[LocalDeb],
    mirrors: &Mirrors,
    store: &Store,
    sink: &dyn Sink,
) -> Result<Section> {
    let start = Instant::now();
    let progress = |done, message: &str| {
        sink.emit(Event::Progress { step: STEP.to_owned(), done, message: message.to_owned() });
    };
    if recipe.edge.from == EdgeSource::Packages {
        runtime_is_there(debs)?;
    }
    sink.emit(Event::Started { step: STEP.to_owned(), total: Some(3), unit: Unit::Items });
    progress(0, "reading and verifying the archives' indices");
    let apt = Apt::new(recipe, debs, origins(recipe, mirrors)?, mirrors.host(), store)?;
    apt.update()?;
    progress(1, "resolving");
    let wanted = requested(recipe, debs);
    let uris = apt.resolve(&wanted, &|| {
        let mut other = recipe.clone();
        other.target.arch = recipe.target.arch.other();
        let apt = Apt::new(&other, &[], origins(&other, mirrors)?, mirrors.host(), store)?;
        apt.update()?;
        apt.known()
    })?;
    progress(2, "looking up digests");
    let mut packages = index::locate(&uris, &apt.indices()?)?;
    holds_all(&wanted, &packages, debs)?;
    // Where an archive has the very file that the recipe brings, apt takes it for the archive's.
    packages.retain(|package| !debs.iter().any(|deb| deb.name == package.name));
    let outcome = counted(packages.len() as u64, "package");
    sink.emit(Event::Finished { step: STEP.to_owned(), seconds: start.elapsed().as_secs_f64(), outcome });
    let mut tools = BTreeMap::new();
    if recipe.target.arch != Arch::host() {
        tools.insert(Arch::host(), tools::resolve(recipe, &packages, mirrors, store, sink)?);
    }
    Ok(Section { inputs: inputs_digest(recipe, debs), packages, tools, images: Vec::new() })
}

/// Is everything that was asked for among what apt chose, at the version that was asked for?
fn holds_all(wanted: &[String], packages: &[Locked], debs: &[LocalDeb]) -> Result<()> {
    for text in wanted {
        let (name, version) = text.split_once('=').map_or((text.as_str(), None), |(name, v)| (name, Some(v)));
        let own = debs.iter().any(|deb| deb.name == name);
        let fits = |package: &&Locked| package.name == name && version.is_none_or(|v| package.version == v);
        if !own && !packages.iter().any(|package| fits(&package)) {
            let message = format!("`{text}` was asked for, and apt has chosen everything but it");
            return Err(Problem::work(message)
                .hint("name in packages.install the very package that you want, by the name that its archive lists")
                .into());
        }
    }
    Ok(())
}

/// The archives of a recipe, with the addresses that they have for its architecture.
fn origins(recipe: &Recipe, mirrors: &Mirrors) -> Result<Vec<Origin>> {
    let origin = |(role, archive): (&String, &Archive)| {
        Ok(Origin {
            role: role.clone(),
            url: mirrors.url(recipe, role)?,
            suites: archive.suites.clone(),
            components: archive.components.clone(),
        })
    };
    recipe.archives.iter().map(origin).collect()
}

fn runtime_is_there(debs: &[LocalDeb]) -> Result<()> {
    for name in ["aziot-edge", "aziot-identity-service"] {
        if !debs.iter().any(|deb| deb.name == name) {
            let message = format!("edge.from = \"packages\", but the recipe brings no package `{name}`");
            return Err(Problem::input(message)
                .hint("name it in packages.debs or packages.sources, or take edge.from = \"archive\"")
                .into());
        }
    }
    Ok(())
}

/// What may be done to a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nothing: it must be there and fit.
    Locked,
    /// It is made or renewed where it is missing or does not fit.
    Renew,
    /// It is renewed in any case.
    Update,
}

/// What was done to a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// It fits.
    Kept,
    /// There was none for this architecture.
    Made,
    /// It did not fit the recipe any more.
    Renewed,
    /// It was asked to be renewed.
    Updated,
    /// It was made on a machine of another architecture: the tools of this one were added.
    Completed,
}

/// A section that fits the recipe, and how it came to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ensured {
    /// The section.
    pub section: Section,
    /// What was done.
    pub action: Action,
    /// The section before.
    pub before: Option<Section>,
}

/// The lock of a recipe for its architecture, from `path` where it fits, else resolved and written there. The other
/// architecture's section stays as it is. Where only container images do not fit, the packages stay.
///
/// # Errors
/// With [`Policy::Locked`], when the lock is missing or does not fit; else as [`resolve`] and [`images::resolve`].
pub(crate) fn ensure(
    path: &Path,
    policy: Policy,
    recipe: &Recipe,
    debs: &[LocalDeb],
    network: &Network,
    store: &Store,
    sink: &dyn Sink,
) -> Result<Ensured> {
    let (arch, shown) = (recipe.target.arch, path.display());
    let before = file::read(path)?.and_then(|lock| lock.arch.get(&arch).cloned());
    let fits = before.as_ref().is_some_and(|section| section.inputs == inputs_digest(recipe, debs));
    let difference =
        before.as_ref().map(|section| images::Difference::between(section, recipe)).transpose()?;
    let difference = difference.unwrap_or_default();
    network.refuse_unused(&images::wanted(recipe)?)?;
    let action = match (&before, fits, policy) {
        (None, _, Policy::Locked) => {
            return Err(Problem::input(format!(
                "{shown} has no section for {arch}, and --locked forbids making it"
            ))
            .hint("make it: edgepress lock RECIPE")
            .into());
        }
        (Some(_), false, Policy::Locked) => {
            return Err(Problem::input(format!(
                "{shown} no longer fits the recipe: archives, keys, architecture or packages have changed since"
            ))
            .hint("renew it: edgepress lock RECIPE, then look at the difference and commit it")
            .into());
        }
        (Some(_), true, Policy::Locked) if !difference.is_none() => {
            return Err(difference.refusal(path).into());
        }
        (Some(section), true, Policy::Renew) if difference.is_none() && tools::lacking(section, arch) => {
            Action::Completed
        }
        (Some(_), true, Policy::Renew) if !difference.is_none() => Action::Renewed,
        (Some(section), true, Policy::Locked | Policy::Renew) => {
            return Ok(Ensured { section: section.clone(), action: Action::Kept, before });
        }
        (None, ..) => Action::Made,
        (Some(_), false, _) => Action::Renewed,
        (Some(_), true, Policy::Update) => Action::Updated,
    };
    if action == Action::Renewed {
        sink.note(format!("{shown} no longer fits the recipe: renewing it"));
    }
    let kept = before.as_ref().filter(|_| policy != Policy::Update);
    let mut section = match kept.filter(|_| fits) {
        Some(section) => section.clone(),
        None => resolve(recipe, debs, network.mirrors(), store, sink)?,
    };
    if tools::lacking(&section, arch) {
        sink.note(format!("{shown} was made on another architecture: adding the tools of this machine"));
        let tools = tools::resolve(recipe, &section.packages, network.mirrors(), store, sink)?;
        section.tools.insert(Arch::host(), tools);
    }
    let locked = kept.map_or(&[][..], |section| &section.images);
    section.images = images::resolve(recipe, locked, network, store, sink)?;
    // Read again: another architecture may have been locked meanwhile.
    let mut lock = file::read(path)?.unwrap_or(Lock { format: FORMAT, arch: BTreeMap::new() });
    lock.arch.insert(arch, section.clone());
    file::write(path, &lock)?;
    Ok(Ensured { section, action, before })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Recipe, inputs_digest, requested};
    use crate::lock::local::LocalDeb;
    use crate::packages::control::Control;
    use crate::units::{Arch, Digest};

    const RECIPE: &str = r#"
        name = "test"
        [distribution]
        id = "debian"
        release = "12"
        codename = "bookworm"
        [archives.debian]
        url = "http://ftp.debian.org/debian"
        suites = ["bookworm", "bookworm-updates"]
        components = ["main"]
        key = { fingerprints = ["4CB5 0190 207B 4758 A3F7  3A79 6ED0 E7B8 2643 E131"], file = "/key.gpg" }
        [target]
        arch = "x86_64"
        board = "uefi"
        [packages]
        install = ["systemd-sysv"]
        [edge]
        from = "packages"
    "#;

    /// A recipe to test with.
    pub(crate) fn recipe() -> Recipe {
        toml::from_str(RECIPE).expect("a recipe")
    }

    fn deb(version: &str, content: &str, depends: &str) -> LocalDeb {
        let text = format!(
            "Package: own\nVersion: {version}\nArchitecture: all\nDepends: {depends}\nX: {content}\n"
        );
        let control = Control::parse(&text).expect("control");
        let (name, version, architecture) =
            (control.package.clone(), control.version.clone(), control.architecture.clone());
        LocalDeb {
            name,
            version,
            architecture,
            control,
            sha256: Digest::of(content),
            size: 1,
            origin: "x".into(),
        }
    }

    #[test]
    fn the_digest_covers_what_resolution_depends_on() {
        let digest = |change: fn(&mut Recipe)| {
            let mut recipe = recipe();
            change(&mut recipe);
            inputs_digest(&recipe, &[])
        };
        let same = digest(|_| {});
        let indifferent: [fn(&mut Recipe); 5] = [
            |recipe| recipe.system.hostname = "other".into(),
            |recipe| recipe.provisioning.id_scope = "0ne00123456".into(),
            |recipe| recipe.name = "renamed".into(),
            |recipe| recipe.edge.version = "1.5".into(),
            |recipe| {
                let key = &mut recipe.archives.get_mut("debian").expect("archive").key;
                key.file = None;
                key.fingerprints = vec!["4cb50190207b4758a3f73a796ed0e7b82643e131".into()];
            },
        ];
        for change in indifferent {
            assert_eq!(digest(change), same);
        }
        let decisive: [fn(&mut Recipe); 7] = [
            |recipe| recipe.packages.install.push("jq".into()),
            |recipe| recipe.packages.recommends = true,
            |recipe| recipe.target.arch = Arch::Aarch64,
            |recipe| recipe.archives.get_mut("debian").expect("archive").suites.truncate(1),
            |recipe| recipe.archives.get_mut("debian").expect("archive").key.fingerprints.clear(),
            |recipe| recipe.archives.get_mut("debian").expect("archive").url.push('x'),
            |recipe| recipe.edge.from = crate::recipe::types::EdgeSource::Archive,
        ];
        for change in decisive {
            assert_ne!(digest(change), same);
        }
    }

    #[test]
    fn own_packages_count_by_their_relations_not_their_content() {
        let digest = |deb: LocalDeb| inputs_digest(&recipe(), &[deb]);
        let same = digest(deb("1", "a", "jq"));
        assert_eq!(digest(deb("1", "b", "jq")), same);
        assert_ne!(digest(deb("2", "a", "jq")), same);
        assert_ne!(digest(deb("1", "a", "jq, curl")), same);
    }

    #[test]
    fn own_packages_are_asked_for_by_version() {
        let mut recipe = recipe();
        recipe.packages.install.push("own".into());
        let names = requested(&recipe, &[deb("1", "a", "jq")]);
        assert!(names.contains(&"own=1".to_owned()) && !names.contains(&"own".to_owned()), "{names:?}");
    }
}
