//! `edgepress check`.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::check::check_path;
use crate::error::Problem;
use crate::units::Arch;

/// Checks a recipe, without a network and without building anything.
///
/// Every finding is shown at once, with file, line and column: keys and values, templates, the config.toml that
/// results, the files that the recipe names, and whether the combination of distribution, engine and runtime exists.
///
/// For a Raspberry Pi it also follows the boot chain of each model, from config.txt to the kernel's root, over the card
/// that a build would make; for that the locked packages must be downloaded (edgepress lock RECIPE --fetch).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress check recipes/demo.toml
  edgepress check gateway.toml --arch aarch64 --set provisioning.id_scope=0ne00123456
  edgepress check gateway.toml --json | jq '.findings[].message'

Exit status: 0 the recipe is good (there may be warnings), 2 it has errors.")]
pub(super) struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
    /// Architecture instead of the recipe's: x86_64 or aarch64
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// A value instead of the recipe's, for example `disk.free=1G`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// When the recipe has errors (exit status 2).
pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    let report = check_path(&args.recipe, &args.set, args.arch)?;
    session.answer(&report)?;
    let recipe = args.recipe.display();
    let message = match report.errors {
        0 => return Ok(()),
        1 => format!("{recipe} has an error"),
        many => format!("{recipe} has {many} errors"),
    };
    // Errors stand first, and all of them are in the answer.
    Err(Problem::input(message).findings(report.findings.first()).into())
}
