//! `edgepress stamp`.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::error::Problem;
use crate::stamp::output::Form;
use crate::stamp::{Devices, StampOptions, counted, remove, stamp};

/// Puts identities into a golden image: a device each, as a patch of a few kilobytes or as a whole image
///
/// Everything is judged before anything is written: chain, key, dates and names of every certificate, what two devices
/// share, the credentials of other sources, and the config.toml that results. All errors of a fleet are shown at once, by
/// row and column. The golden image is only read; nothing is mounted, and no root is needed.
///
/// A fleet is a CSV file with a row for each device, or a folder as `edgepress identity issue` writes it. By default it
/// becomes patches, and a single identity an image. docs/stamping.md explains every column.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress stamp out/gateway-aarch64 --identity pump-7.toml
      gateway-pump-7.img, to be written to a card
  edgepress stamp out/gateway-aarch64 --fleet fleet.csv --out patches
      patches/<registration id>.patch for each row, and patches/fleet.jsonl
  edgepress stamp out/gateway-aarch64 --fleet fleet.csv --identities issued --ca plant-root.pem --check
      only checks; certificates that rows do not name are taken from issued/
  edgepress stamp --remove gateway-pump-7.img
      takes the identity off again

Run again after an interruption, it makes what is missing.
Exit status: 0 done, 1 the work failed, 2 the command line, a device or an image is wrong.")]
pub(super) struct Args {
    /// The golden image, or the folder that `edgepress build` made (with --remove: an image or patch that was stamped)
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// One device: an identity file (TOML)
    #[arg(long, value_name = "FILE", conflicts_with = "fleet")]
    identity: Option<PathBuf>,
    /// Many devices: a CSV file with a header, or a folder of certificates and keys
    #[arg(long, value_name = "FILE")]
    fleet: Option<PathBuf>,
    /// What the devices share: a file like an identity file
    #[arg(long, value_name = "FILE")]
    defaults: Option<PathBuf>,
    /// Where `edgepress identity issue` put certificates and keys that the fleet does not name
    #[arg(long, value_name = "DIR")]
    identities: Option<PathBuf>,
    /// Authorities that every device's certificate must come from (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Key of a DPS enrolment group (base64), from which devices' symmetric keys are derived
    #[arg(long, value_name = "FILE")]
    enrolment_group_key: Option<PathBuf>,
    /// Folder of the results [default: the current one; --fleet needs it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write patches, also for a single identity
    #[arg(long, conflicts_with = "full")]
    patch: bool,
    /// Write whole images, also for a fleet
    #[arg(long)]
    full: bool,
    /// Only check; write nothing
    #[arg(long)]
    check: bool,
    /// Replace results that are there already
    #[arg(long)]
    force: bool,
    /// Take the identity off a stamped image, in its place, or remove a patch
    #[arg(long, conflicts_with_all = ["identity", "fleet", "out", "check", "force", "patch", "full"])]
    remove: bool,
    /// The golden image: what is removed is replaced by its bytes, and the whole is compared with it
    #[arg(long, value_name = "IMAGE", requires = "remove")]
    golden: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When a device is wrong, or the work failed.
pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    if args.remove {
        let golden = args.golden.as_deref();
        return session.answer(&remove::remove(&args.image, golden, session.sink.as_ref())?);
    }
    let options = options(args)?;
    let outcome = stamp(&options, session.sink.as_ref())?;
    session.answer(&outcome)?;
    match outcome.findings.errors {
        0 => Ok(()),
        errors => {
            let message = format!("{}; nothing was written", counted(errors as u64, "error"));
            Err(Problem::input(message).findings(outcome.findings.first_error()).into())
        }
    }
}

fn options(args: Args) -> Result<StampOptions> {
    let devices = match (args.identity, args.fleet) {
        (Some(file), _) => Devices::One(file),
        (None, Some(fleet)) => Devices::Fleet(fleet),
        (None, None) => {
            let message = "whose identity? Neither --identity nor --fleet is given";
            return Err(Problem::input(message).hint("`edgepress stamp --help` shows examples").into());
        }
    };
    let one = matches!(devices, Devices::One(_));
    let out = match args.out {
        _ if args.check => None,
        None if one => Some(".".into()),
        None => {
            let message = "--fleet needs a folder for its results";
            return Err(Problem::input(message).hint("name one with --out DIR, or give --check").into());
        }
        out => out,
    };
    let form = if args.patch || (!one && !args.full) { Form::Patch } else { Form::Image };
    Ok(StampOptions {
        image: args.image,
        devices,
        defaults: args.defaults,
        identities: args.identities,
        authorities: args.ca,
        group_key: args.enrolment_group_key,
        out,
        form,
        force: args.force,
    })
}
