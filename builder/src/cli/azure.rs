//! `edgepress azure`.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::azure::{AzureOptions, Version, azure};

/// Writes what puts an image into an Azure subscription: templates, scripts, and the order to run them in
///
/// A Bicep template and the same as ARM JSON (gallery, image version, a VM with an identity of its own that may read the
/// vault, a network without a way in), a script that uploads the VHD, one for the Device Provisioning Service, and a README.
/// Nothing is run and no account is needed.
///
/// From what was built, names, sizes and digests are the image's own. From a recipe the size is left to the script.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress build ubuntu-24.04-azure.toml && edgepress azure out/ubuntu-24-04-azure-x86_64 --out azure
      azure/README.md tells the order
  edgepress azure out/gateway-x86_64 --out azure --version 1.4.0
      of another image with the same packages: only the recipe or an overlay has changed
  edgepress azure recipes/debian-12-azure.toml --out azure
      before anything is built

Exit status: 0 done, 1 the work failed, 2 the command line or the image is wrong.")]
pub(super) struct Args {
    /// A recipe (*.toml), or the folder that `edgepress build` made
    #[arg(value_name = "RECIPE|IMAGE")]
    input: PathBuf,
    /// Folder for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Version of the image: three numbers, higher than those that the gallery has. Otherwise it is made of the time of the
    /// image's newest package, and 1.0.0 before anything is built
    #[arg(long, value_name = "X.Y.Z")]
    version: Option<Version>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the image is none that Azure takes, or files are in the way.
pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    let options = AzureOptions { input: args.input, out: args.out, version: args.version, force: args.force };
    session.answer(&azure(&options)?)
}
