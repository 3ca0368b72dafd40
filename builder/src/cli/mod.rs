//! The command line: one file per verb, which parses, calls one library function and prints.

mod azure;
mod build;
mod check;
mod flash;
mod identity;
mod inspect;
mod lock;
mod progress;
mod sign;
mod sim;
mod stamp;
mod store;
mod test;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::error::{Kind, problem};
use crate::event::Sink;
use crate::interrupt;
use crate::sandbox;

const AFTER_HELP: &str = "\
From a recipe to a device that is proved to provision itself:
  edgepress check gateway.toml          is the recipe right? (no network, nothing built)
  edgepress build gateway.toml          out/gateway-x86_64/gateway.img
  edgepress inspect out/gateway-x86_64  what is in it, and would it boot? (nothing is started)
  edgepress test  out/gateway-x86_64    boots a copy in QEMU against simulated Azure services
  edgepress stamp out/gateway-x86_64 --fleet fleet.csv --out patches    an identity for each device
  edgepress flash out/gateway-x86_64 --fleet patches --to /dev/sdb --to /dev/sdc     a card for each
  edgepress azure out/gateway-x86_64 --out azure    templates and scripts for a subscription
  edgepress sign  out/gateway-x86_64 --key KEY      SHA256SUMS, signed

Exit status: 0 done, 1 the work failed, 2 the command line or an input is wrong, 130 interrupted.
Recipes to start from are in recipes/; every key is explained in docs/recipe.md.";

/// Presses bootable device images that come up provisioned in Azure IoT Edge.
#[derive(Debug, Parser)]
#[command(name = "edgepress", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    /// One JSON document on standard output instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(check::Args),
    Lock(lock::Arguments),
    Build(Box<build::Build>),
    Test(Box<test::Arguments>),
    Inspect(Box<inspect::Args>),
    Stamp(Box<stamp::Args>),
    Flash(Box<flash::Args>),
    Azure(azure::Args),
    Identity(Box<identity::Args>),
    Sign(sign::Args),
    Sim(Box<sim::Arguments>),
    Store(store::Arguments),
    /// Runs one job in namespaces of its own (edgepress calls itself)
    #[command(hide = true)]
    Sandbox {
        /// As its first process
        #[arg(long)]
        inner: bool,
    },
}

/// What every verb is given: where to send events, and how to answer.
pub struct Session {
    json: bool,
    /// Progress and notes go here (standard error, in whatever form suits it).
    pub sink: Arc<dyn Sink>,
}

impl Session {
    /// Prints the verb's result on standard output: as text, or with `--json` as one JSON document.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn answer<T: Serialize + Display>(&self, answer: &T) -> Result<()> {
        let text = if self.json { serde_json::to_string_pretty(answer)? } else { answer.to_string() };
        writeln!(std::io::stdout().lock(), "{}", text.trim_end()).context("writing to standard output")
    }
}

/// Parses the command line, runs the verb, prints what went wrong, and returns the exit code:
/// 0 done, 1 the work failed, 2 the command line or an input is wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Verb::Sandbox { inner } = cli.verb {
        // Before anything starts a thread: see sandbox::outer.
        let result = if inner { sandbox::inner() } else { sandbox::outer() };
        return if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // `sim` ends of itself when it is interrupted, and answers then.
    if !matches!(cli.verb, Verb::Sim(_))
        && let Err(error) = interrupt::install()
    {
        return report(&error);
    }
    let session = Session { json: cli.json, sink: progress::for_stderr() };
    let result: Result<()> = match cli.verb {
        Verb::Lock(arguments) => lock::run(&arguments, &session),
        Verb::Store(arguments) => store::run(&arguments, &session),
        Verb::Sim(arguments) => sim::run(*arguments, &session),
        Verb::Build(verb) => verb.run(&session),
        Verb::Check(args) => check::run(&args, &session),
        Verb::Inspect(args) => inspect::run(*args, &session),
        Verb::Stamp(args) => stamp::run(*args, &session),
        Verb::Flash(args) => flash::run(*args, &session),
        Verb::Azure(args) => azure::run(args, &session),
        Verb::Identity(args) => identity::run(*args, &session),
        Verb::Sign(args) => sign::run(args, &session),
        Verb::Test(arguments) => test::run(*arguments, &session),
        Verb::Sandbox { .. } => Ok(()),
    };
    // What is left of progress bars goes before an error is printed.
    drop(session);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    let problem = problem(error);
    if let Some(hint) = problem.and_then(|problem| problem.hint.as_ref()) {
        eprintln!(" hint: {hint}");
    }
    match problem.map(|problem| problem.kind) {
        Some(Kind::Input) => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}
