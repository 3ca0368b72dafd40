//! `edgepress sim`: runs the simulators until Ctrl-C, or issues a device's identity.

mod allocation;
mod arguments;
mod listening;

use std::fmt::{self, Display};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::output::Form;
use super::{Session, terminal};
use crate::interrupt;
use crate::sim::log::LogEntry;
use crate::sim::pki::{DeviceOptions, Pki, write_identity};
use crate::sim::{Config, DPS_NAME, Service, Simulation, hosts};
use crate::units::Digest;
use arguments::{Flaw, config, read};
use listening::Listening;

pub(super) use allocation::AllocationArguments;
pub(super) use arguments::Arguments;

pub(super) fn run(arguments: Arguments, session: &Session) -> Result<()> {
    let pki = Pki::open_or_create(&arguments.dir)?;
    let config = config(&arguments, pki)?;
    match (&arguments.issue, &arguments.out) {
        (Some(id), Some(out)) => session.answer(&issue(&arguments, &config, id, out)?),
        _ => simulate(arguments.dir, &config, session),
    }
}

/// What `--issue` made.
#[derive(Serialize)]
struct Issued {
    registration_id: String,
    folder: PathBuf,
    /// SHA-256 of the certificate.
    thumbprint: Digest,
    #[serde(skip)]
    keyless: bool,
}

impl Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: the identity of {}", self.folder.display(), self.registration_id)?;
        let key = if self.keyless { "Add its private key" } else { "It holds a private key" };
        write!(f, "{key}. Copy the folder onto the FAT partition of the device's image.")
    }
}

fn issue(arguments: &Arguments, config: &Config, id: &str, out: &Path) -> Result<Issued> {
    let options = match arguments.flaw {
        None => DeviceOptions::default(),
        Some(Flaw::Expired) => DeviceOptions::expired(),
        Some(Flaw::NotYetValid) => DeviceOptions::not_yet_valid(),
        Some(Flaw::WrongCa) => DeviceOptions::wrong_ca(),
    };
    let (device, mut files) = if arguments.bootstrap {
        let device = match &arguments.csr {
            Some(request) => config.pki.issue_bootstrap_for(id, &read(request)?)?,
            None => config.pki.issue_bootstrap(id, &options)?,
        };
        let files = config.pki.bootstrap_identity(&device);
        (device, files)
    } else {
        let device = config.pki.issue_device(id, &options)?;
        let files = config.pki.identity(&device);
        (device, files)
    };
    let mut add = |name: &str, text: String| files.push((name.into(), text.into_bytes()));
    // Without an address, the device is expected to ask the simulated DNS.
    if arguments.listen.is_some() {
        let lines = hosts(config).into_iter().map(|(address, name)| format!("{address} {name}\n"));
        add("hosts", lines.collect());
    }
    let port = config.addresses.get(Service::Dps).port();
    match (config.dps_name.as_str(), port) {
        (DPS_NAME, 443) => {}
        (name, 443) => add("endpoint", format!("https://{name}\n")),
        (name, port) => add("endpoint", format!("https://{name}:{port}\n")),
    }
    let folder = write_identity(&files, out)?;
    let keyless = device.key_pem.is_empty();
    Ok(Issued { registration_id: device.registration_id, folder, thumbprint: device.thumbprint, keyless })
}

/// One line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Listening(&'a Listening),
    Request(&'a LogEntry),
}

fn simulate(dir: PathBuf, config: &Config, session: &Session) -> Result<()> {
    let (stop, stopped) = channel();
    let asked = stop.clone();
    interrupt::on_signal(move || drop(asked.send(Ok(()))))?;
    let simulation = Simulation::start(config.clone())?;
    let entries = simulation.subscribe();

    let listening = Listening::of(config, |service| simulation.addr(service), dir);
    let output = Arc::clone(&session.output);
    let json = output.form() == Form::Lines;
    let read = if json {
        output.line(&Line::Listening(&listening))?
    } else {
        session.answer(&listening)?;
        true
    };

    let printer = std::thread::spawn(move || {
        for entry in entries {
            let read = if json {
                output.line(&Line::Request(&entry))
            } else {
                let said = terminal::say(format_args!("{entry}\n"));
                Ok(!said.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe))
            };
            // Whoever wanted to see requests has seen enough: `edgepress sim --json | head -n 3`.
            if !matches!(read, Ok(true)) {
                let _ = stop.send(read.map(drop));
                return;
            }
        }
    });
    let outcome = if read { stopped.recv().context("waiting for Ctrl-C")? } else { Ok(()) };
    let ended = simulation.stop();
    // The simulation's end closes the channel, and so ends the printer when the last line is out.
    let _ = printer.join();
    outcome.and(ended.map(drop))
}
