//! `edgepress identity issue`: certificates for a fleet without a public key infrastructure of its own.
//!
//! ```text
//! fleet.csv ─► key made here, request ─► authority (a file, or a command) ─► DIR/<registration id>/certificate.pem
//!                                                                            DIR/<registration id>/private-key.pem
//! ```
//!
//! A device's folder appears when it is whole. A run that was interrupted goes on where it stopped: what is there and
//! good stays.

pub(crate) mod authority;
mod folder;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::KeyPair;
use serde::Serialize;
use time::OffsetDateTime;

use self::authority::Authority;
use self::folder::Folder;
use crate::error::Problem;
use crate::event::Sink;
use crate::finding::Severity;
use crate::stamp::certificate::{self, Role, Rules};
use crate::stamp::files;
use crate::stamp::finding::Findings;
use crate::stamp::fleet::{self, Fleet, Row};
use crate::stamp::parallel::Parallel;
use crate::stamp::record::Record;
use crate::stamp::unique::{Seen, UniqueValue};
use crate::stamp::{RENEWAL, counted, names, output};

/// What to issue.
#[derive(Debug)]
pub(crate) struct IssueOptions {
    /// The fleet: a CSV file.
    pub fleet: PathBuf,
    /// An identity file with what the devices share.
    pub defaults: Option<PathBuf>,
    /// Folder of the results.
    pub out: PathBuf,
    /// Who signs.
    pub authority: Authority,
    /// Days that certificates are valid.
    pub days: u32,
    /// Signatures at a time.
    pub jobs: usize,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct IssueOutcome {
    /// Folder of the results.
    pub out: PathBuf,
    /// Rows read.
    pub devices: u64,
    /// Certificates made.
    pub issued: u64,
    /// Certificates that were there and are good.
    pub kept: u64,
    /// Rows that bring a certificate, or get theirs from elsewhere.
    pub skipped: u64,
    /// When the first of the certificates ends, those that were there included.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub first_end: Option<OffsetDateTime>,
    /// Everything that was found.
    #[serde(flatten)]
    pub findings: Findings,
}

impl fmt::Display for IssueOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.fmt(f)?;
        let devices = counted(self.devices, "device");
        if self.findings.errors > 0 {
            return write!(f, "{devices}, nothing issued");
        }
        let Self { issued, kept, skipped, .. } = self;
        let certificates = counted(*issued, "certificate");
        write!(
            f,
            "{certificates} issued to {}: {devices}, {kept} had theirs, {skipped} need none",
            self.out.display()
        )?;
        match self.first_end {
            Some(end) => write!(f, "\nthe first of them ends on {}; {RENEWAL}", certificate::day(end)),
            None => Ok(()),
        }
    }
}

/// A row that a certificate is for.
struct Wanted {
    number: u32,
    id: String,
    record: Record,
    /// When the good one ends that is there.
    there: Option<OffsetDateTime>,
}

enum Judged {
    Wrong(Findings),
    /// It needs none; its record is still one of the fleet's.
    Skipped(u32, Box<Record>),
    Wanted(Box<Wanted>),
}

/// Issues what is missing, once every row is in order.
///
/// # Errors
/// When an input cannot be used at all, or a certificate cannot be made. What is wrong with rows is in the outcome.
pub(crate) fn issue(options: &IssueOptions, sink: &dyn Sink) -> Result<IssueOutcome> {
    let mut outcome = IssueOutcome {
        out: options.out.clone(),
        devices: 0,
        issued: 0,
        kept: 0,
        skipped: 0,
        first_end: None,
        findings: Findings::default(),
    };
    let defaults = options.defaults.as_deref().map(|path| fleet::read_toml(path, true)).transpose();
    let (fleet, defaults) = match (Fleet::open(&options.fleet), defaults) {
        (Ok(fleet), Ok(defaults)) => (fleet, defaults),
        (fleet, defaults) => {
            fleet.err().into_iter().for_each(|found| outcome.findings.append(found));
            defaults.err().into_iter().flatten().for_each(|found| outcome.findings.push(found));
            return Ok(outcome);
        }
    };
    std::fs::create_dir_all(&options.out).with_context(|| format!("creating {}", options.out.display()))?;
    let _lock = output::lock(&options.out)?;
    let there = there(&options.out)?;
    let now = OffsetDateTime::now_utc();
    let work = Work { options, fleet: &fleet, defaults: defaults.as_ref(), now, there };
    if let Some(warning) = options.authority.ends_before(work.now, options.days) {
        sink.warn(warning);
    }
    work.check(&mut outcome, sink)?;
    if outcome.findings.errors == 0 {
        work.issue(&mut outcome, sink)?;
    }
    Ok(outcome)
}

/// The folders of an earlier run.
fn there(out: &Path) -> Result<BTreeMap<String, String>> {
    let children = std::fs::read_dir(out).with_context(|| format!("reading {}", out.display()))?;
    let names = children.map(|child| child.map(|child| child.file_name().to_string_lossy().into_owned()));
    let named = names.map(|name| name.map(|name| (name.to_ascii_lowercase(), name)));
    named.collect::<Result<_, _>>().with_context(|| format!("reading {}", out.display()))
}

struct Work<'a> {
    options: &'a IssueOptions,
    fleet: &'a Fleet,
    defaults: Option<&'a Record>,
    now: OffsetDateTime,
    /// The folders that were there before, by their names in small letters.
    there: BTreeMap<String, String>,
}

impl Work<'_> {
    fn check(&self, outcome: &mut IssueOutcome, sink: &dyn Sink) -> Result<()> {
        let mut seen = Seen::default();
        let found = self.fleet.findings().iter().cloned().chain(self.fleet.exposed());
        found.for_each(|finding| outcome.findings.push(finding));
        Parallel::of_all_processors("check").work(
            self.fleet,
            sink,
            |row| self.judge(row),
            |group| {
                for judged in group {
                    outcome.devices += 1;
                    match judged {
                        Judged::Wrong(findings) => outcome.findings.append(findings),
                        Judged::Skipped(number, record) => {
                            outcome.skipped += 1;
                            outcome.findings.append(self.alone(&record, number, &mut seen));
                        }
                        Judged::Wanted(wanted) => {
                            let found = self.alone(&wanted.record, wanted.number, &mut seen);
                            outcome.findings.append(found);
                        }
                    }
                }
                Ok(())
            },
        )?;
        if outcome.devices == 0 && outcome.findings.errors == 0 {
            return Err(Problem::input("the fleet has no devices").into());
        }
        Ok(())
    }

    /// Says whether an earlier row has the registration id, whoever of the two needs a certificate.
    fn alone(&self, record: &Record, number: u32, seen: &mut Seen) -> Findings {
        let mut findings = Findings::default();
        let Some(id) = record.text("registration_id").map(str::to_ascii_lowercase) else { return findings };
        if let Some(found) = seen.note(UniqueValue::RegistrationId, id.as_bytes(), number) {
            let first = self.fleet.name(found.first);
            let message = format!("{first} has the same registration id (DPS ignores case)");
            findings.push(record.error("registration_id", message));
        }
        findings
    }

    fn judge(&self, row: Row) -> Judged {
        let mut findings = Findings::default();
        let mut record = match row.record {
            Ok(record) => record,
            Err(found) => {
                found.into_iter().for_each(|finding| findings.push(finding));
                return Judged::Wrong(findings);
            }
        };
        if let Some(defaults) = self.defaults {
            record.complete(defaults);
        }
        let elsewhere = record.text("source.from").is_some_and(|from| from != "partition");
        if elsewhere || record.get("certificate").is_some() {
            return Judged::Skipped(row.number, Box::new(record));
        }
        let id = record.text("registration_id").map(str::to_owned);
        let fault = match &id {
            None => Some("the device has no registration id".to_owned()),
            Some(id) => names::registration_id_fault(id, true).map(|fault| format!("`{id}` {fault}")),
        };
        if let Some(message) = fault {
            findings.push(record.error("registration_id", message));
        }
        let id = id.unwrap_or_default();
        let there = match self.there(&id) {
            Ok(there) => there,
            Err(message) => {
                let mut finding = record.finding(Severity::Error, "registration_id", message);
                finding.hint =
                    Some("remove its folder to have it issued anew, or choose another one with --out".into());
                findings.push(finding);
                None
            }
        };
        match findings.errors {
            0 => Judged::Wanted(Box::new(Wanted { number: row.number, id, record, there })),
            _ => Judged::Wrong(findings),
        }
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.options.out.join(names::file_name(id))
    }

    /// Has the device a good certificate already? The error says why the one that it has is none.
    fn there(&self, id: &str) -> Result<Option<OffsetDateTime>, String> {
        let folder = self.folder(id);
        if id.is_empty() {
            return Ok(None);
        }
        let name = names::file_name(id);
        if let Some(other) = self.there.get(&name.to_ascii_lowercase()).filter(|other| **other != name) {
            let other = self.options.out.join(other);
            return Err(format!("{} is the same to DPS, which ignores case", other.display()));
        }
        if !folder.exists() {
            return Ok(None);
        }
        let chain = files::read(&folder.join(folder::CERTIFICATE))?;
        let key = files::read(&folder.join(folder::PRIVATE_KEY))?;
        let authorities = self.options.authority.certificate().into_iter().collect();
        good(&chain, &key, id, &Rules { authorities, now: self.now, named: true, role: Role::Client })
            .map(|(_, end)| Some(end))
            .map_err(|reason| format!("{} holds another identity: {reason}", folder.display()))
    }

    fn issue(&self, outcome: &mut IssueOutcome, sink: &dyn Sink) -> Result<()> {
        let parallel = match self.options.authority {
            Authority::File(_) => Parallel::of_all_processors("issue"),
            // A command may take a second each; it shall be seen to move on.
            Authority::Command(_) => {
                Parallel { step: "issue", workers: self.options.jobs, group: self.options.jobs }
            }
        };
        parallel.work(
            self.fleet,
            sink,
            |row| self.make(row),
            |group| {
                let mut made: Vec<Folder> = Vec::new();
                for one in group {
                    let (folder, end) = one?;
                    made.extend(folder);
                    outcome.first_end = outcome.first_end.into_iter().chain(end).min();
                }
                outcome.issued += made.len() as u64;
                folder::persist(&self.options.out, &made)
            },
        )?;
        outcome.kept = outcome.devices - outcome.skipped - outcome.issued;
        Ok(())
    }

    /// The device's new folder, where it needs one, and the end of its certificate.
    fn make(&self, row: Row) -> Result<(Option<Folder>, Option<OffsetDateTime>)> {
        let wanted = match self.judge(row) {
            Judged::Skipped(..) => return Ok((None, None)),
            Judged::Wanted(wanted) if wanted.there.is_some() => return Ok((None, wanted.there)),
            Judged::Wanted(wanted) => wanted,
            Judged::Wrong(_) => {
                return Err(Problem::work("the fleet changed meanwhile").hint("run it again").into());
            }
        };
        let id = &wanted.id;
        let key = KeyPair::generate().context("making a key")?;
        let chain = self.options.authority.issue(id, &key, self.now, self.options.days)?;
        let key_pem = key.serialize_pem();
        let rules = Rules {
            authorities: Vec::new(),
            now: OffsetDateTime::now_utc(),
            named: true,
            role: Role::Client,
        };
        let (chain, end) = good(chain.as_bytes(), key_pem.as_bytes(), id, &rules).map_err(|reason| {
            Problem::work(format!("the certificate that was issued for {id} cannot be used: {reason}"))
        })?;
        Ok((Some(Folder::make(&self.folder(id), id, &chain, &key_pem)?), Some(end)))
    }
}

/// Checks a certificate, its key and whose it is; returns the chain and nothing else of its file, and its end.
fn good(chain: &[u8], key: &[u8], id: &str, rules: &Rules) -> Result<(String, OffsetDateTime), String> {
    let (made, found) = certificate::check(chain, key, rules);
    let errors = found.into_iter().filter(|(_, found)| found.severity == Severity::Error);
    let errors: Vec<String> = errors.map(|(_, found)| found.message).collect();
    match made {
        Some(made) if made.name == id => Ok((made.chain_pem, made.not_after)),
        Some(made) => Err(format!("its common name is `{}`", made.name)),
        None => Err(errors.join("; ")),
    }
}

/// Opens the authority that a command line names.
///
/// # Errors
/// When its files cannot be used.
pub(crate) fn authority(certificate: &Path, key: &Path) -> Result<Authority> {
    Authority::open(certificate, key, OffsetDateTime::now_utc())
}
