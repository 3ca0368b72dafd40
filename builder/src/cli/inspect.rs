//! `edgepress inspect`.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::board::raspberry_pi::model;
use crate::error::Problem;
use crate::inspect::{Options, inspect};
use crate::recipe::types::Model;

/// Shows what is in an image, and follows its boot chain without booting it
///
/// Partitions, file systems, the files on the FAT partition, and whether an identity lies there. Then the boot chain, as
/// the machine's firmware will follow it: for a Raspberry Pi config.txt, firmware, kernel, initramfs, device tree and
/// command line of each model; for UEFI machines the loaders and where they look for the root. Whatever is named and is
/// not there is told, with what to do about it.
///
/// Nothing is mounted, written or started. The image may come from anywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress inspect out/gateway-aarch64
  edgepress inspect card.img --model 4 --model 5
  edgepress inspect card.img --json | jq '.chains[].bytes_read'

Exit status: 0 the image is sound, 1 a verdict failed, 2 there is nothing to inspect.")]
pub struct Args {
    /// The raw image, or the folder that `edgepress build` made
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Raspberry Pi that it must boot on: 3, 4, 5 or zero-2; may be repeated [default: those in manifest.json]
    #[arg(long, value_name = "MODEL", value_parser = parse_model)]
    model: Vec<Model>,
}

fn parse_model(text: &str) -> Result<Model, String> {
    let names = || model::ALL.map(|model| model.to_string()).join(", ");
    let found = model::ALL.into_iter().find(|model| model.to_string() == text);
    found.ok_or_else(|| format!("unknown model: expected one of {}", names()))
}

/// Runs the verb.
///
/// # Errors
/// When there is nothing to inspect, or a verdict failed.
pub fn run(args: &Args, session: &Session) -> Result<()> {
    let report = inspect(
        &Options { image: args.image.clone(), models: args.model.clone(), ..Options::default() },
        &*session.sink,
    )?;
    session.answer(&report)?;
    let failed: Vec<_> =
        report.failed().map(|verdict| format!("{}: {}", verdict.name, verdict.detail)).collect();
    if failed.is_empty() { Ok(()) } else { Err(Problem::work(failed.join("; ")).into()) }
}
