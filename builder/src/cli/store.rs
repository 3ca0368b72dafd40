//! `edgepress store`: shows how large the store is, makes it smaller, and reads it through for damage.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::Session;
use crate::error::Problem;
use crate::store::Store;
use crate::store::prune::{Amount, Pruned, Usage};
use crate::store::verify::{ItemKind, Verified};
use crate::units::counted;

const DAY: u64 = 86_400;

/// Where the store is; for every verb that uses it.
#[derive(Debug, Clone, Args)]
pub(super) struct StoreOption {
    /// Folder of the store [default: $XDG_CACHE_HOME/edgepress or ~/.cache/edgepress]
    #[arg(long = "store", value_name = "DIR", env = crate::store::ENVIRONMENT, global = true)]
    folder: Option<PathBuf>,
}

impl StoreOption {
    /// Opens it.
    pub(super) fn open(&self) -> Result<Store> {
        Store::open(self.folder.clone())
    }
}

/// Shows where the store is and how large, prunes it, or looks for damage
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<What>,
    #[command(flatten)]
    store: StoreOption,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Removes what was not used lately; refuses while a build runs
    Prune {
        /// What was not used for so many days
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        older_than: u32,
        /// Everything
        #[arg(long, conflicts_with = "older_than")]
        all: bool,
    },
    /// Reads everything in it, removes what is damaged and names it; exit status 1 if anything was
    Verify,
}

/// Runs the verb.
pub(super) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let store = arguments.store.open()?;
    match &arguments.action {
        None => session.answer(&Shown(store.usage()?)),
        Some(What::Prune { older_than, all }) => {
            let age = (!all).then(|| Duration::from_secs(u64::from(*older_than) * DAY));
            session.answer(&Removed(store.prune(age)?))
        }
        Some(What::Verify) => verify(&store, session),
    }
}

fn verify(store: &Store, session: &Session) -> Result<()> {
    let verified = store.verify()?;
    let damaged = verified.damaged.len();
    session.answer(&Looked(verified))?;
    if damaged == 0 {
        return Ok(());
    }
    let message = format!("the store {} was damaged: {damaged} removed", store.root().display());
    let hint = "what is needed of it is fetched or made anew; if it happens again, look at the disk";
    Err(Problem::work(message).hint(hint).into())
}

#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Usage);

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.path.display())?;
        writeln!(f, "  {}", amount(self.0.blobs, "blob"))?;
        write!(f, "  {}", amount(self.0.layers, "layer"))
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Removed(Pruned);

impl Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removed {} and {}", amount(self.0.blobs, "blob"), amount(self.0.layers, "layer"))
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Looked(Verified);

impl Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in &self.0.damaged {
            let kind = match damage.kind {
                ItemKind::Blob => "blob",
                ItemKind::Layer => "layer",
            };
            writeln!(f, "damaged, removed: {kind} {}: {}", damage.path.display(), damage.why)?;
        }
        write!(f, "read {} and {}", amount(self.0.blobs, "blob"), amount(self.0.layers, "layer"))
    }
}

fn amount(amount: Amount, what: &str) -> String {
    format!("{}, {} MiB", counted(amount.count, what), amount.bytes >> 20)
}
