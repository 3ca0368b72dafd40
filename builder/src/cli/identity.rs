//! `edgepress identity`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::Session;
use crate::error::Problem;
use crate::identity::authority::Authority;
use crate::identity::{self, IssueOptions, issue};
use crate::stamp::counted;

/// Makes device certificates, for fleets without an authority of their own
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Issue(Issue),
}

/// Issues a certificate for each row of a fleet that has none
///
/// Keys (EC P-256) are made here and never leave DIR; each certificate's common name is the row's registration id, and it
/// is good for clientAuth. It is signed by a certificate authority whose key lies in a file, or by a command that gets the
/// request (PEM) on standard input, the registration id in $EDGEPRESS_REGISTRATION_ID, and prints the chain (PEM).
///
/// DIR gets a folder for each device, as a whole or not at all. Run again, it makes what is missing; certificates that are
/// there and good stay. Rows that name a certificate, or get theirs from another source, are passed over.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  edgepress identity issue --fleet fleet.csv --out issued --ca ca.pem --ca-key ca.key
  edgepress identity issue --fleet fleet.csv --out issued --days 1825 --ca-command ./sign-with-hsm
  edgepress stamp out/gateway-aarch64 --fleet fleet.csv --identities issued --out patches

Exit status: 0 done, 1 a certificate could not be made, 2 the command line, the fleet or the authority is wrong.")]
struct Issue {
    /// The fleet: a CSV file with a column registration_id
    #[arg(long, value_name = "FILE")]
    fleet: PathBuf,
    /// What the devices share: a file like an identity file
    #[arg(long, value_name = "FILE")]
    defaults: Option<PathBuf>,
    /// Folder of the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The authority's certificate (PEM), those above it after it
    #[arg(long, value_name = "CERT", requires = "ca_key", conflicts_with = "ca_command")]
    ca: Option<PathBuf>,
    /// The authority's key (PEM)
    #[arg(long, value_name = "KEY", requires = "ca")]
    ca_key: Option<PathBuf>,
    /// A command that signs, for `sh -c`
    #[arg(long, value_name = "CMD")]
    ca_command: Option<String>,
    /// Days that the certificates are valid (a command decides itself); no device renews them
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Commands at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

/// Runs the verb.
///
/// # Errors
/// When a row is wrong, or a certificate could not be made.
pub(super) fn run(args: Args, session: &Session) -> Result<()> {
    let Verb::Issue(args) = args.verb;
    let authority = match (args.ca, args.ca_key, args.ca_command) {
        (Some(certificate), Some(key), _) => identity::authority(&certificate, &key)?,
        (_, _, Some(command)) => Authority::Command(command),
        _ => {
            let message = "who signs? Neither --ca with --ca-key nor --ca-command is given";
            return Err(Problem::input(message)
                .hint("docs/stamping.md shows how to make an authority")
                .into());
        }
    };
    let options = IssueOptions {
        fleet: args.fleet,
        defaults: args.defaults,
        out: args.out,
        authority,
        days: args.days,
        jobs: args.jobs.into(),
    };
    let outcome = issue(&options, session.sink.as_ref())?;
    session.answer(&outcome)?;
    match outcome.findings.errors {
        0 => Ok(()),
        errors => {
            let message = format!("{}; nothing was issued", counted(errors as u64, "error"));
            Err(Problem::input(message).findings(outcome.findings.first_error()).into())
        }
    }
}
