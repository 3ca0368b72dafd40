//! The native tools of a foreign section: packages of this machine's architecture, from the same archives at the same
//! versions (see [`crate::foreign`]).

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;

use super::apt::Apt;
use super::index;
use super::mirrors::Mirrors;
use super::types::{Locked, Section};
use super::{STEP, origins};
use crate::event::{Event, Sink, Unit};
use crate::foreign::tools::PACKAGES;
use crate::recipe::types::{EdgeSource, Recipe};
use crate::store::Store;
use crate::units::{Arch, counted};

/// Does a section for `arch` lack the tools of this machine?
pub(crate) fn lacking(section: &Section, arch: Arch) -> bool {
    arch != Arch::host() && !section.tools.contains_key(&Arch::host())
}

/// Resolves the tools for building trees of these packages on this machine.
///
/// Where an archive has not the same version for both architectures, this machine's comes nearest.
///
/// # Errors
/// As [`super::resolve`].
pub(crate) fn resolve(
    recipe: &Recipe,
    packages: &[Locked],
    mirrors: &Mirrors,
    store: &Store,
    sink: &dyn Sink,
) -> Result<Vec<Locked>> {
    let start = Instant::now();
    sink.emit(Event::Started { step: STEP.to_owned(), total: None, unit: Unit::Items });
    let wanted: Vec<&Locked> =
        packages.iter().filter(|package| PACKAGES.contains(&package.name.as_str())).collect();
    let roles: BTreeSet<&str> = wanted.iter().map(|package| package.archive.as_str()).collect();
    let mut own = recipe.clone();
    own.target.arch = Arch::host();
    // The runtime is no tool: nothing is pinned for it, and its archive is not asked.
    own.edge.from = EdgeSource::Packages;
    own.archives.retain(|role, _| roles.contains(role.as_str()));
    let apt = Apt::new(&own, &[], origins(&own, mirrors)?, mirrors.host(), store)?;
    apt.prefer(packages.iter().map(|package| (package.name.as_str(), package.version.as_str())))?;
    apt.update()?;
    let known = apt.known()?;
    let names = wanted.iter().map(|package| package.name.clone()).filter(|name| known.contains(name));
    let uris = apt.resolve(&names.collect::<Vec<_>>(), &|| Ok(BTreeSet::new()))?;
    let mut tools = index::locate(&uris, &apt.indices()?)?;
    // Packages for every architecture hold scripts: the tree has them already.
    tools.retain(|package| package.architecture != "all");
    let outcome = format!("{} of {} to build with", counted(tools.len() as u64, "package"), Arch::host());
    sink.emit(Event::Finished { step: STEP.to_owned(), seconds: start.elapsed().as_secs_f64(), outcome });
    Ok(tools)
}
