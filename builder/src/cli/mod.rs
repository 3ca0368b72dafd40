//! The command line: one file per verb, which parses, calls one library function and answers.
//!
//! ```text
//! arguments ─► verb ─► answer ─► output: text, or one JSON document   (standard output)
//!                └──► error  ─► failure: `error:` and `hint:`         (standard error; in the document too)
//!                └──► events ─► progress: bars or lines               (standard error)
//! ```
//! Nothing of that ends the work: a stream that is closed has nobody to tell.

mod azure;
mod build;
mod check;
#[cfg(test)]
mod docs;
mod failure;
mod flash;
mod identity;
mod inspect;
mod lock;
mod origins;
mod output;
mod progress;
mod sign;
mod sim;
mod stamp;
mod store;
mod terminal;
mod test;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;

use self::failure::Failure;
use self::output::{Form, Output};
use crate::event::Sink;
use crate::interrupt;
use crate::jobs;
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
With --json a failure is on standard output, too: .error.message, .hint, .place, .kind, .exit_code (docs/json.md).
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
        /// As what
        #[command(flatten)]
        stage: SandboxStage,
    },
}

/// Which process of a sandbox this is; none: the outermost.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
struct SandboxStage {
    /// As its first process
    #[arg(long)]
    inner: bool,
    /// As the parent of a program of the tree
    #[arg(long)]
    confined: bool,
    /// As the first process beside a program of the tree
    #[arg(long)]
    confined_init: bool,
}

impl SandboxStage {
    fn run(self) -> Result<()> {
        // Before anything starts a thread: the kernel refuses namespaces to those who have several.
        match self {
            Self { inner: true, .. } => sandbox::inner(jobs::ALL),
            Self { confined: true, .. } => sandbox::confined::outer(),
            Self { confined_init: true, .. } => sandbox::confined::init(),
            _ => sandbox::outer(),
        }
    }
}

/// What every verb is given: where to send events, and how to answer.
pub struct Session {
    output: Arc<Output>,
    /// Progress and notes go here (standard error, in whatever form suits it).
    pub sink: Arc<dyn Sink>,
}

impl Session {
    /// Gives the verb's result to standard output: as text, or with `--json` as one JSON document. That nobody reads it is
    /// no error of the verb.
    ///
    /// # Errors
    /// When it cannot be put into JSON.
    pub fn answer<T: Serialize + Display>(&self, answer: &T) -> Result<()> {
        self.output.answer(answer)
    }
}

/// Parses the command line, runs the verb, says what went wrong, and returns the exit code:
/// 0 done, 1 the work failed, 2 the command line or an input is wrong, 130 interrupted.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return no_command_line(&error, &arguments),
    };
    if let Verb::Sandbox { stage } = cli.verb {
        return if stage.run().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let output = Arc::new(Output::new(form(&cli)));
    // `sim` ends of itself when it is interrupted, and answers then.
    if !matches!(cli.verb, Verb::Sim(_)) {
        let output = Arc::clone(&output);
        let last = move || drop(output.end(Some(&Failure::interrupted())));
        if let Err(error) = interrupt::install(last) {
            return failed(&Failure::of(&error));
        }
    }
    let session = Session { output: Arc::clone(&output), sink: progress::for_stderr() };
    let result = run(cli.verb, &session);
    // What is left of progress bars goes before an error is printed.
    drop(session);
    interrupt::wait();
    end(&output, result)
}

fn form(cli: &Cli) -> Form {
    match &cli.verb {
        _ if !cli.json => Form::Text,
        Verb::Sim(arguments) if arguments.simulates() => Form::Lines,
        _ => Form::Document,
    }
}

fn run(verb: Verb, session: &Session) -> Result<()> {
    match verb {
        Verb::Lock(arguments) => lock::run(&arguments, session),
        Verb::Store(arguments) => store::run(&arguments, session),
        Verb::Sim(arguments) => sim::run(*arguments, session),
        Verb::Build(verb) => verb.run(session),
        Verb::Check(args) => check::run(&args, session),
        Verb::Inspect(args) => inspect::run(*args, session),
        Verb::Stamp(args) => stamp::run(*args, session),
        Verb::Flash(args) => flash::run(*args, session),
        Verb::Azure(args) => azure::run(args, session),
        Verb::Identity(args) => identity::run(*args, session),
        Verb::Sign(args) => sign::run(args, session),
        Verb::Test(arguments) => test::run(*arguments, session),
        Verb::Sandbox { .. } => Ok(()),
    }
}

fn end(output: &Output, result: Result<()>) -> ExitCode {
    let failure = result.err().map(|error| Failure::of(&error));
    let lost = output.end(failure.as_ref()).map(Failure::lost);
    // Why the work failed comes last: it is what the exit code speaks of.
    lost.into_iter().chain(failure).fold(ExitCode::SUCCESS, |_, failure| failed(&failure))
}

fn failed(failure: &Failure) -> ExitCode {
    let _ = match terminal::colours(&std::io::stderr()) {
        true => terminal::say(format_args!("{failure:#}\n")),
        false => terminal::say(format_args!("{failure}\n")),
    };
    failure.exit_code()
}

/// Help, the version, or what is wrong with the command line.
fn no_command_line(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    // Nobody reads it where this fails.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let failure = Failure::of_command_line(error);
    let given = |word: &str| arguments.iter().skip(1).any(|argument| argument == OsStr::new(word));
    if given("--json") {
        let form = if given("sim") && !given("--issue") { Form::Lines } else { Form::Document };
        // Nothing else is left to be said than where that could not go.
        let lost = Output::new(form).end(Some(&failure));
        lost.map(|error| failed(&Failure::lost(error)));
    }
    failure.exit_code()
}
