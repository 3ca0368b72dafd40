//! From a lock to files: whatever the store lacks is downloaded.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use super::mirrors::Mirrors;
use super::types::{Locked, Section};
use crate::event::{Event, Sink, Unit};
use crate::recipe::types::Recipe;
use crate::store::Store;
use crate::store::download::{Wanted, fetch_all};
use crate::store::net::{Client, join};
use crate::units::{Arch, Digest, counted};

/// Name of the step in events.
pub(crate) const STEP: &str = "fetch";

/// What fetching did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// Packages downloaded.
    pub packages: usize,
    /// Bytes downloaded.
    pub bytes: u64,
}

/// Brings every package of a section into the store. With all of them there, no connection is made.
///
/// # Errors
/// Names the file that is gone, cannot be fetched, or is not what the lock says.
pub(crate) fn fetch(
    section: &Section,
    recipe: &Recipe,
    mirrors: &Mirrors,
    store: &Store,
    sink: &dyn Sink,
) -> Result<Fetched> {
    let start = Instant::now();
    let mut native = recipe.clone();
    native.target.arch = Arch::host();
    let needed: BTreeMap<Digest, &Locked> =
        section.needed().map(|package| (package.sha256, package)).collect();
    let all = needed.len();
    let mut wanted = Vec::new();
    for package in needed.into_values().filter(|package| !there(package, store)) {
        // Where architectures are in different archives, the tools come from this machine's.
        let of = if package.architecture == Arch::host().debian() { &native } else { recipe };
        wanted.push(Wanted {
            name: format!("{} {}", package.name, package.version),
            url: join(&mirrors.url(of, &package.archive)?, &package.path)?,
            size: Some(package.size),
            sha256: package.sha256,
            hint: format!(
                "renew the lock (edgepress lock --update), or name a snapshot mirror that has the old files with \
                 --mirror {}=URL",
                package.archive
            ),
        });
    }
    let fetched = Fetched { packages: wanted.len(), bytes: wanted.iter().filter_map(|file| file.size).sum() };
    sink.emit(Event::Started { step: STEP.to_owned(), total: Some(fetched.bytes), unit: Unit::Bytes });
    if !wanted.is_empty() {
        store.needs(fetched.bytes, "the packages to download")?;
        let client = Client::new(mirrors.settings());
        fetch_all(&client, store, wanted, STEP, sink)?;
    }
    let outcome = match fetched.packages {
        0 => format!("{}, all from the store", counted(all as u64, "package")),
        count => format!("{count} of {} downloaded", counted(all as u64, "package")),
    };
    sink.emit(Event::Finished { step: STEP.to_owned(), seconds: start.elapsed().as_secs_f64(), outcome });
    Ok(fetched)
}

/// Is the package in the store, at its full size? A file that a broken disk has shortened is fetched again.
fn there(package: &Locked, store: &Store) -> bool {
    store
        .blob(&package.sha256)
        .and_then(|path| path.metadata().ok())
        .is_some_and(|file| file.len() == package.size)
}
