//! `edgepress stamp`: one golden image becomes a device each for a fleet.
//!
//! ```text
//! fleet (table, folder, file) ─► record ─► device ─► patch ─► DIR/<registration id>.patch
//!                                  │         │         └────► DIR/<image>-<registration id>.img
//!                                form     judged, against the golden image and the rest of the fleet
//! ```
//!
//! A fleet is read twice: everything is judged before anything is written. Both times it is streamed in groups; per
//! device only digests stay in memory. The golden image is only read.

pub(crate) mod certificate;
pub(crate) mod device;
mod fetched;
pub(crate) mod files;
pub(crate) mod finding;
pub(crate) mod fleet;
pub(crate) mod golden;
mod material;
pub mod names;
pub mod output;
pub(crate) mod parallel;
pub mod patch;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod secret;
mod settings;
mod table;
pub(crate) mod unique;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::device::{Context, Device, Fetched, Shared, assemble};
use self::finding::Findings;
use self::fleet::{Fleet, Row};
use self::golden::Golden;
use self::output::{Form, IndexLine, Output, Written};
use self::parallel::Parallel;
use self::patch::{Base, Identity, Patch};
use self::record::Record;
use self::secret::GroupKey;
use self::unique::{Seen, UniqueValue};
use crate::certificate::blocks;
use crate::error::Problem;
use crate::event::Sink;
use crate::finding::{Finding, Severity};
use crate::provisioning::source;
pub use crate::units::counted;

/// What holds of every certificate that a device brings with it.
pub const RENEWAL: &str = "no device renews it: see \"When a certificate ends\" in docs/identity.md";
/// Files that an error names; more are counted.
const NAMED: usize = 10;

/// What to stamp.
#[derive(Debug, Clone)]
pub struct StampOptions {
    /// The golden image, or the folder that `edgepress build` made.
    pub image: PathBuf,
    /// Where the devices are written down.
    pub devices: Devices,
    /// An identity file with what they share.
    pub defaults: Option<PathBuf>,
    /// Where certificates lie that rows do not name.
    pub identities: Option<PathBuf>,
    /// PEM file of the authorities that certificates must end at.
    pub authorities: Option<PathBuf>,
    /// File with the key of an enrolment group.
    pub group_key: Option<PathBuf>,
    /// Folder of the results; none: only check.
    pub out: Option<PathBuf>,
    /// Patches or images.
    pub form: Form,
    /// Replace what is there.
    pub force: bool,
}

/// Where the devices are written down.
#[derive(Debug, Clone)]
pub enum Devices {
    /// One, in an identity file.
    One(PathBuf),
    /// Many, in a CSV file or a folder.
    Fleet(PathBuf),
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct StampOutcome {
    /// The golden image.
    pub image: PathBuf,
    /// Devices read.
    pub devices: u64,
    /// Files written.
    pub written: u64,
    /// Files that were there already, with the same content.
    pub kept: u64,
    /// Bytes of the files written, holes included.
    pub bytes: u64,
    /// When the first of the devices' certificates ends.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub first_end: Option<OffsetDateTime>,
    /// Folder of the results, if anything was written.
    pub out: Option<PathBuf>,
    /// The file, where it was one device.
    pub file: Option<PathBuf>,
    /// Wall-clock seconds of checking and of writing.
    pub seconds: (f64, f64),
    /// Everything that was found.
    #[serde(flatten)]
    pub findings: Findings,
}

impl fmt::Display for StampOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.fmt(f)?;
        let devices = counted(self.devices, "device");
        if self.findings.errors > 0 {
            return write!(f, "{devices}, nothing written");
        }
        if let Some(end) = self.first_end {
            let first = if self.devices == 1 { "the certificate" } else { "the first certificate" };
            writeln!(f, "{first} ends on {}; {RENEWAL}", certificate::day(end))?;
        }
        match (&self.out, &self.file) {
            (None, _) => write!(f, "{devices}: nothing wrong"),
            (Some(_), Some(file)) if self.kept == 0 => write!(f, "stamped: {}", file.display()),
            (Some(_), Some(file)) => write!(f, "{} was there already", file.display()),
            (Some(out), None) => {
                write!(
                    f,
                    "{devices} in {}: {} written, {} already there",
                    out.display(),
                    self.written,
                    self.kept
                )
            }
        }
    }
}

/// Judges all devices; if nothing is wrong, writes them.
///
/// # Errors
/// When an input cannot be used at all, or something else stands where a result should; on a write error. What is wrong
/// with devices is in the outcome.
pub fn stamp(options: &StampOptions, sink: &dyn Sink) -> Result<StampOutcome> {
    let golden = Golden::open(&options.image, sink)?;
    let mut outcome = StampOutcome {
        image: golden.file.clone(),
        devices: 0,
        written: 0,
        kept: 0,
        bytes: 0,
        first_end: None,
        out: None,
        file: None,
        seconds: (0.0, 0.0),
        findings: Findings::default(),
    };
    let context = Context {
        golden: &golden,
        authorities: authorities(options.authorities.as_deref())?,
        now: OffsetDateTime::now_utc(),
        group_key: options.group_key.as_deref().map(GroupKey::read).transpose()?,
        identities: options.identities.clone(),
        shared: Shared::default(),
    };
    let opened = match &options.devices {
        Devices::One(path) => Fleet::one(path),
        Devices::Fleet(path) => Fleet::open(path),
    };
    let (fleet, defaults) = match (opened, defaults(options.defaults.as_deref())) {
        (Ok(fleet), Ok(defaults)) => (fleet, defaults),
        (fleet, defaults) => {
            fleet.err().into_iter().for_each(|found| outcome.findings.append(found));
            defaults.err().into_iter().flatten().for_each(|found| outcome.findings.push(found));
            return Ok(outcome);
        }
    };
    let work = Work { context: &context, fleet: &fleet, defaults: defaults.as_ref(), sink };
    let timer = Instant::now();
    let seen = work.check(&mut outcome)?;
    outcome.seconds.0 = timer.elapsed().as_secs_f64();
    if let Some(out) = options.out.as_deref().filter(|_| outcome.findings.errors == 0) {
        let output = Output::open(out, &golden, options.form, options.force)?;
        let timer = Instant::now();
        work.write(&output, &seen, &mut outcome)?;
        outcome.seconds.1 = timer.elapsed().as_secs_f64();
        outcome.out = Some(out.to_owned());
        if let Fleet::One(_) = fleet {
            outcome.file = outcome.file.map(|name| out.join(name));
        } else {
            outcome.file = None;
        }
    }
    Ok(outcome)
}

fn authorities(path: Option<&Path>) -> Result<Vec<CertificateDer<'static>>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = source::read_authorities(path)?;
    let ders = blocks::certificates(text.as_bytes()).map_err(Problem::work)?;
    Ok(ders.into_iter().map(CertificateDer::from).collect())
}

fn defaults(path: Option<&Path>) -> Result<Option<Record>, Vec<Finding>> {
    path.map(|path| fleet::read_toml(path, true)).transpose()
}

fn parallel(step: &'static str) -> Parallel {
    Parallel::of_all_processors(step)
}

struct Work<'a> {
    context: &'a Context<'a>,
    fleet: &'a Fleet,
    defaults: Option<&'a Record>,
    sink: &'a dyn Sink,
}

/// What a worker hands over of a device whose patch is written.
type Made = Result<(Written, IndexLine)>;

impl Work<'_> {
    /// Judges every device by itself and beside the others.
    fn check(&self, outcome: &mut StampOutcome) -> Result<Seen> {
        let mut seen = Seen::default();
        let files =
            self.defaults.and_then(|record| fleet::exposed(Path::new(&record.origin.name), record.columns()));
        self.fleet.findings().iter().cloned().for_each(|finding| outcome.findings.push(finding));
        self.fleet.exposed().into_iter().chain(files).for_each(|finding| outcome.findings.push(finding));
        let judge = |row: Row| self.judge(row);
        parallel("check").work(self.fleet, self.sink, judge, |group| {
            for (record, device, findings) in group {
                outcome.devices += 1;
                outcome.findings.append(findings);
                let end = device.as_ref().and_then(|device| device.certificate).map(|(.., end)| end);
                outcome.first_end = outcome.first_end.into_iter().chain(end).min();
                if let (Some(record), Some(device)) = (record, device) {
                    self.alone(&record, &device, &mut seen, &mut outcome.findings);
                }
            }
            Ok(())
        })?;
        if outcome.devices == 0 && outcome.findings.errors == 0 {
            return Err(Problem::input("the fleet has no devices").into());
        }
        let unused = !self.context.shared.group_key_used.load(Ordering::Relaxed);
        if self.context.group_key.is_some() && unused && outcome.findings.errors == 0 {
            let message = "--enrolment-group-key is given, and no device has a key that is derived from it";
            return Err(Problem::input(message)
                .hint("leave it out; or state source.from = \"symmetric-key\" in the recipe or the fleet")
                .into());
        }
        Ok(seen)
    }

    fn judge(&self, row: Row) -> (Option<Record>, Option<Device>, Findings) {
        let mut findings = Findings::default();
        match row.record {
            Err(found) => {
                found.into_iter().for_each(|finding| findings.push(finding));
                (None, None, findings)
            }
            Ok(mut record) => {
                if let Some(defaults) = self.defaults {
                    record.complete(defaults);
                }
                let (mut device, findings) = assemble(&record, row.number, self.context);
                // Only its names are needed from here on, and a group of keys need not stay in memory.
                if let Some(device) = &mut device {
                    device.files.clear();
                }
                (Some(record), device, findings)
            }
        }
    }

    /// Finds what the device shares with an earlier one.
    fn alone(&self, record: &Record, device: &Device, seen: &mut Seen, findings: &mut Findings) {
        let id = device.registration_id.to_ascii_lowercase();
        let mut note = |kind, column: &str, value: &[u8], what: &str| {
            if let Some(found) = seen.note(kind, value, device.number) {
                let message = format!("{} has the same {what}", self.fleet.name(found.first));
                findings.push(record.finding(Severity::Error, column, message));
            }
        };
        note(
            UniqueValue::RegistrationId,
            "registration_id",
            id.as_bytes(),
            "registration id (DPS ignores case)",
        );
        if let Some(name) = &device.hostname {
            note(UniqueValue::Hostname, "hostname", name.as_bytes(), &format!("host name `{name}`"));
        }
        if let Some(serial) = &device.serial {
            note(UniqueValue::Serial, "serial", names::plain_serial(serial).as_bytes(), "serial");
        }
        if let Some((_, key, _)) = &device.certificate {
            note(UniqueValue::Key, "private_key", &key.0, "key");
        }
        if let Some(key) = &device.symmetric_key {
            note(UniqueValue::SymmetricKey, "symmetric_key", &key.0, "symmetric key");
        }
        if let Some(Fetched { column, what, digest }) = &device.fetched {
            note(UniqueValue::Fetched, column, &digest.0, what);
        }
    }

    /// Makes and writes the patch of every device.
    fn write(&self, output: &Output<'_>, seen: &Seen, outcome: &mut StampOutcome) -> Result<()> {
        let mut index = output.index()?;
        let mut refused: Vec<String> = Vec::new();
        let mut more = 0;
        let make = |row: Row| self.make(row, output);
        parallel("stamp").work(self.fleet, self.sink, make, |group: Vec<Made>| {
            for made in group {
                let (written, entry) = made?;
                match written {
                    Written::New(bytes) => {
                        (outcome.written, outcome.bytes) = (outcome.written + 1, outcome.bytes + bytes);
                    }
                    Written::Kept => outcome.kept += 1,
                    Written::Refused if refused.len() < NAMED => refused.push(entry.file.clone()),
                    Written::Refused => more += 1,
                }
                if written != Written::Refused {
                    index.add(&entry)?;
                }
                outcome.file = Some(entry.file.into());
            }
            Ok(())
        })?;
        index.finish(seen)?;
        if refused.is_empty() {
            return Ok(());
        }
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let message = format!("something else is there already, and was left: {}{more}", refused.join(", "));
        Err(Problem::input(message).hint("--force replaces it; or choose another folder with --out").into())
    }

    fn make(&self, row: Row, output: &Output<'_>) -> Made {
        let golden = self.context.golden;
        let changed = || Problem::work("the fleet changed while it was stamped").hint("run it again");
        let mut record = row.record.map_err(|_| changed())?;
        if let Some(defaults) = self.defaults {
            record.complete(defaults);
        }
        let device = assemble(&record, row.number, self.context).0.ok_or_else(changed)?;
        let sectors = golden.master.make(golden.epoch, |volume| {
            device.files.iter().try_for_each(|(path, content)| volume.write(path, content))
        });
        let sectors = sectors.with_context(|| format!("stamping {}", device.registration_id))?;
        let before = golden.master.before(&sectors)?;
        let identity = Identity {
            registration_id: device.registration_id,
            serial: device.serial,
            certificate_sha256: device.certificate.map(|(sha256, ..)| sha256),
            not_after: device.certificate.and_then(|(.., end)| end.format(&Rfc3339).ok()),
        };
        let name = golden.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = Base { name, size: golden.size, sha256: golden.sha256 };
        output.write(&Patch::new(identity, base, sectors, &before))
    }
}
