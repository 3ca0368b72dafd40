//! `edgepress inspect`.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::board::raspberry_pi::model;
use crate::error::Problem;
use crate::inspect::compare::compare;
use crate::inspect::leaks::Meant;
use crate::inspect::{InspectOptions, inspect, shown};
use crate::recipe::types::Model;

/// Shows what is in an image and judges it, or tells what differs between two
///
/// Partitions and file systems; the system on the root: kernels, packages, enabled units, engine and runtime, config.toml
/// with its secrets masked, how far first boot got; the files on the FAT partition. Then the verdicts, each fault with its
/// hint:
///
///   boot-chain       would the machine's firmware find everything down to the root?
///   identity-leak    is there anything of one device, or anything that opens one?
///   azure-preflight  does Azure take it? For a VHD, an image with one beside it, or with --azure
///
/// Nothing is mounted, written or started, and root is not needed. The image may come from anywhere: raw, zst, xz, gz, vhd,
/// qcow2, vhdx or vmdk. What is compressed is unpacked into a temporary file (in TMPDIR or /var/tmp).
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  edgepress inspect out/gateway-aarch64                  what `edgepress build` made
  edgepress inspect card.img.zst --model 4 --model 5     must boot on these
  edgepress inspect gateway.vhd                          before it is uploaded
  edgepress inspect today.img yesterday.img              what differs, file by file
  edgepress inspect gateway.img.xz --verify              is it what was published?
  edgepress inspect card.img --json | jq -r '.system.packages[] | .name + \" \" + .version'

Exit status: 0 the image is sound, or the two are the same; 1 a verdict failed, or they differ; 2 there is nothing to inspect."
)]
pub(super) struct Args {
    /// The image, or the folder that `edgepress build` made
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// A second image: tells what differs in it
    #[arg(value_name = "OTHER", conflicts_with_all = ["model", "golden", "stamped", "azure", "verify", "packages"])]
    other: Option<PathBuf>,
    /// Raspberry Pi that it must boot on: 3, 4, 5 or zero-2; may be repeated [default: those in manifest.json]
    #[arg(long, value_name = "MODEL", value_parser = parse_model)]
    model: Vec<Model>,
    /// It is for many devices: an identity on its FAT partition is a fault
    #[arg(long, conflicts_with = "stamped")]
    golden: bool,
    /// It is for one device: no identity on its FAT partition is a fault
    #[arg(long)]
    stamped: bool,
    /// Judge it as an Azure image, whatever its form
    #[arg(long)]
    azure: bool,
    /// Hold the files beside it against SHA256SUMS
    #[arg(long)]
    verify: bool,
    /// Whose signature SHA256SUMS must have
    #[arg(long, value_name = "FILE", requires = "verify")]
    key: Option<PathBuf>,
    /// List the packages
    #[arg(long)]
    packages: bool,
}

fn parse_model(text: &str) -> Result<Model, String> {
    let names = || model::ALL.map(|model| model.to_string()).join(", ");
    let found = model::ALL.into_iter().find(|model| model.to_string() == text);
    found.ok_or_else(|| format!("unknown model: expected one of {}", names()))
}

/// Runs the verb.
///
/// # Errors
/// When there is nothing to inspect, a verdict failed, or two images differ.
pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    if let Some(other) = &args.other {
        let found = compare(&args.image, other, &*session.sink)?;
        session.answer(&found)?;
        return if found.identical { Ok(()) } else { Err(Problem::work("the images differ").into()) };
    }
    let meant = match (args.golden, args.stamped) {
        (true, _) => Meant::Golden,
        (_, true) => Meant::Stamped,
        _ => Meant::Either,
    };
    let options = InspectOptions {
        image: args.image,
        models: args.model,
        meant,
        azure: args.azure,
        verify: args.verify,
        key: args.key,
        packages: args.packages,
    };
    let report = inspect(&options, &*session.sink)?;
    session.answer(&report)?;
    // Line by line, for what an image holds must not reach the terminal as it is.
    let detail = |text: &str| text.lines().map(shown).collect::<Vec<_>>().join("\n");
    let failed: Vec<_> =
        report.failed().map(|verdict| format!("{}: {}", verdict.name, detail(&verdict.detail))).collect();
    if failed.is_empty() { Ok(()) } else { Err(Problem::work(failed.join("\n")).into()) }
}
