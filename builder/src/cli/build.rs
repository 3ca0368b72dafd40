//! `edgepress build`.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Session;
use super::origins::OriginOptions;
use crate::build::{self, BuildOptions, BuildOutcome};
use crate::sandbox::confined::Limits;
use crate::units::Arch;

/// Build the image of a recipe
///
/// Locks the packages if there is no lock, fetches them, installs them in namespaces of its own (no root needed),
/// lays overlays and config.toml over them, and writes a bootable image in the recipe's `target.formats` (img, img.zst,
/// img.xz, img.gz, bmap, vhd, qcow2, vhdx, vmdk, tar.zst), its manifest.json and SHA256SUMS to
/// DIR/<recipe name>-<arch>/. Steps whose inputs did not change are taken from the store.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edgepress build recipes/demo.toml
  edgepress build gateway.toml --set provisioning.id_scope=0ne00123456 --out images
  edgepress build gateway.toml --set target.formats='[\"img.zst\", \"bmap\"]'
  edgepress build gateway.toml --locked --explain
  edgepress build gateway.toml --mirror debian=http://mirror.example/debian")]
pub(super) struct Build {
    /// The recipe file
    recipe: PathBuf,
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Architecture, instead of the recipe's: x86_64 or aarch64
    #[arg(long)]
    arch: Option<Arch>,
    /// Set one value of the recipe, as TOML or plain text
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    origins: OriginOptions,
    /// Refuse a lock that the recipe has outgrown, instead of renewing it
    #[arg(long)]
    locked: bool,
    /// Say for each step its key, whether it was there, and which input changed since the last build
    #[arg(long)]
    explain: bool,
    /// For another architecture: run all of its programs in qemu-user (ten times slower; to compare)
    #[arg(long)]
    emulate: bool,
    /// What packages' scripts may take before they are ended [default: silence=45m,time=6h,processes=4096,reserve=256M,
    /// and three quarters of the machine's memory]
    #[arg(long, value_name = "NAME=VALUE,...")]
    limits: Option<Limits>,
    /// Folder of downloads and layers [default: ~/.cache/edgepress]
    #[arg(long, value_name = "DIR", env = "EDGEPRESS_STORE")]
    store: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    outcome: BuildOutcome,
    #[serde(skip)]
    explain: bool,
}

impl Build {
    /// Runs the verb.
    ///
    /// # Errors
    /// See [`build::build`].
    pub(super) fn run(self, session: &Session) -> Result<()> {
        let options = BuildOptions {
            recipe: self.recipe,
            out: self.out,
            arch: self.arch,
            sets: self.sets,
            origins: self.origins.into(),
            locked: self.locked,
            emulate: self.emulate,
            store: self.store,
            limits: self.limits.unwrap_or_default(),
        };
        let outcome = build::build(&options, session.sink.as_ref())?;
        session.answer(&Answer { outcome, explain: self.explain })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.explain {
            for step in &self.outcome.steps {
                let word = if step.hit { "hit" } else { "miss" };
                writeln!(f, "{:<17} {:<4} {}  {:6.1} s", step.step, word, step.key.short(), step.seconds)?;
                const SHOWN: usize = 8;
                for change in step.changed.iter().take(SHOWN) {
                    writeln!(f, "    {change}")?;
                }
                if step.changed.len() > SHOWN {
                    writeln!(f, "    … and {} more", step.changed.len() - SHOWN)?;
                }
            }
        }
        self.outcome.fmt(f)
    }
}
