//! `edgepress flash`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Session, terminal};
use crate::error::Problem;
use crate::flash::identity::Identities;
use crate::flash::report::{FlashOutcome, Plan};
use crate::flash::source::{self, Map};
use crate::flash::target::Rules;
use crate::flash::{FlashOptions, flash};
use crate::units::Digest;

/// Writes an image to many cards or disks at once, each with its own identity, and reads all of it back
///
/// The image (raw, zst, xz, gz, vhd) is read and unpacked once. All targets are checked before any is written: whole disks
/// that nobody uses, removable, large enough, none named twice. Files and loop devices are targets like cards.
///
/// A target's first MiB is blank until everything else is written, synced, found to be the image that it must be, and read
/// back past the page cache: a card that was pulled out, or is bad, boots nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress flash out/gateway-aarch64 --to /dev/sdb
  edgepress flash gateway.img.zst --to /dev/sdb --to /dev/sdc --fleet patches --station line-3
      each card the next identity of patches/fleet.jsonl; patches/ledger.jsonl remembers who got which
  edgepress flash gateway.img.zst --to card.img --create --patch patches/pump-7.patch --yes
      into a file, without questions

Exit status: 0 all are good, 1 at least one is not, 2 nothing was begun (refused, or the fleet or its ledger is locked
or cannot be written), 130 interrupted.
docs/flashing.md explains the ledger, and what is done in which order.")]
pub(super) struct Args {
    /// The image, or the folder that `edgepress build` made
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// What is written to: a whole disk, a loop device or a file; may be named many times
    #[arg(long = "to", value_name = "DEV", required = true)]
    to: Vec<PathBuf>,
    /// Identities: the folder that `edgepress stamp --fleet … --out DIR` made; each target gets the next that is left
    #[arg(long, value_name = "DIR", conflicts_with = "patch")]
    fleet: Option<PathBuf>,
    /// With --fleet: each target gets the identity with its serial (the card's, or that of the USB device)
    #[arg(long = "match", value_name = "WHAT", value_parser = ["serial"], requires = "fleet")]
    by: Option<String>,
    /// The same devices are flashed anew. With --fleet, identities that went out with another golden image are given again;
    /// without this they are passed over. An identity that is named (--patch, or one in the image itself) is given again
    /// although a ledger says that a device has it; without this it is refused: two devices with one identity lock each
    /// other out
    #[arg(long)]
    reflash: bool,
    /// One target's identity; refused if the ledger beside it says that it is given away
    #[arg(long, value_name = "FILE")]
    patch: Option<PathBuf>,
    /// Where every target gets a line, besides the ledger.jsonl that lies with the fleet's patches
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Name of this station in the ledger [default: the host's name]
    #[arg(long, value_name = "NAME")]
    station: Option<String>,
    /// The block map [default: IMAGE.bmap, or so named without IMAGE's endings]
    #[arg(long, value_name = "FILE", conflicts_with = "no_bmap")]
    bmap: Option<PathBuf>,
    /// Write the whole image, whatever a block map says
    #[arg(long)]
    no_bmap: bool,
    /// What the image's file must be [default: what SHA256SUMS or manifest.json beside it says]
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
    /// Do not read back: a bad card then passes for a good one
    #[arg(long)]
    no_verify: bool,
    /// Make files that do not exist
    #[arg(long)]
    create: bool,
    /// Overwrite disks that are built in, too
    #[arg(long)]
    even_if_not_removable: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Runs the verb.
///
/// # Errors
/// When nothing could be begun, or a target is not good.
pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    if args.no_verify {
        session.sink.warn("--no-verify: nothing is read back, a bad card passes for a good one".into());
    }
    if args.even_if_not_removable {
        session.sink.warn("--even-if-not-removable: a built-in disk is overwritten like a card".into());
    }
    if args.reflash {
        let what = if args.fleet.is_some() {
            "identities that devices have with another golden image"
        } else {
            "an identity that a device has"
        };
        session.sink.warn(format!("--reflash: {what} may be given again"));
    }
    let yes = args.yes;
    let again = again(&args);
    let options = options(args);
    let outcome = flash(&options, &|plan| confirm(plan, yes), session.sink.as_ref())?;
    session.answer(&outcome)?;
    failed(&outcome, &again)
}

fn options(args: Args) -> FlashOptions {
    let bmap = match (args.bmap, args.no_bmap) {
        (Some(path), _) => Map::File(path),
        (None, true) => Map::None,
        (None, false) => Map::Beside,
    };
    let identities = match (args.fleet, args.patch) {
        (Some(folder), _) => {
            Identities::Fleet { folder, by_serial: args.by.is_some(), reflash: args.reflash }
        }
        (None, Some(path)) => Identities::Patch { path, reflash: args.reflash },
        (None, None) => Identities::None { reflash: args.reflash },
    };
    FlashOptions {
        source: source::SourceOptions { image: args.image, bmap, sha256: args.sha256 },
        targets: args.to,
        rules: Rules { fixed: args.even_if_not_removable, create: args.create },
        identities,
        ledger: args.ledger,
        station: args.station,
        verify: !args.no_verify,
    }
}

/// Shows what is about to be lost, and asks for the number of targets: a `y` is typed before it is read.
fn confirm(plan: &Plan, yes: bool) -> Result<bool> {
    let seen = terminal::say(format_args!("{plan}")).is_ok();
    if yes {
        return Ok(true);
    }
    // Nobody answers a question that nobody sees.
    if !seen || !std::io::stdin().is_terminal() {
        let message = "nothing was written: nobody is there to be asked";
        return Err(Problem::input(message).hint("--yes does without").into());
    }
    let count = plan.targets.len();
    let these = if count == 1 { "this target".to_owned() } else { format!("these {count} targets") };
    let _ = terminal::say(format_args!("Everything on {these} will be lost. Type {count} to go on: "));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("reading the answer")?;
    Ok(line.trim() == count.to_string())
}

/// The command line without its targets, to do those again that failed.
fn again(args: &Args) -> String {
    let mut words = vec!["edgepress flash".to_owned(), quoted(&args.image.to_string_lossy())];
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{name} {}", quoted(&value))));
    };
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    option("--fleet", path(&args.fleet));
    option("--match", args.by.clone());
    option("--patch", path(&args.patch));
    option("--ledger", path(&args.ledger));
    option("--station", args.station.clone());
    option("--bmap", path(&args.bmap));
    option("--sha256", args.sha256.map(|sum| sum.to_string()));
    let flags = [
        (args.reflash, "--reflash"),
        (args.no_bmap, "--no-bmap"),
        (args.no_verify, "--no-verify"),
        (args.even_if_not_removable, "--even-if-not-removable"),
        (args.yes, "--yes"),
    ];
    words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
    words.join(" ")
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn failed(outcome: &FlashOutcome, again: &str) -> Result<()> {
    let Some(message) = outcome.shortfall() else { return Ok(()) };
    let bad: Vec<_> = outcome.bad().map(|row| quoted(&row.target.path.to_string_lossy())).collect();
    let targets: String = bad.iter().map(|path| format!(" --to {path}")).collect();
    Err(Problem::work(message).hint(format!("those alone again, with other cards: {again}{targets}")).into())
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_a_shell() {
        for (word, expected) in
            [("/dev/sdb", "/dev/sdb"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
