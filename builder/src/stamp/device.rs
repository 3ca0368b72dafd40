//! A record becomes a device: what it names is read and judged, and the files of its FAT partition are put together.
//! Everything that is wrong with it is found at once.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::certificate::{self, Certificate, PairFile, Role, Rules};
use super::fetched;
use super::files::{self, Memo};
use super::finding::Findings;
use super::fleet::Single;
use super::golden::{FOLDER, Golden};
use super::names;
use super::record::{Cell, Record};
use super::secret::GroupKey;
use crate::finding::{Finding, Severity};
use crate::provisioning::room;
use crate::provisioning::source::{self, DeviceSource};
use crate::provisioning::template::{self, Word};
use crate::recipe::types::CertificateSource;
use crate::units::Digest;

/// What a record is judged by.
pub(crate) struct Context<'a> {
    /// The image.
    pub golden: &'a Golden,
    /// Authorities that the devices' certificates must end at; empty: any.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The time now.
    pub now: OffsetDateTime,
    /// From which keys of devices are derived.
    pub group_key: Option<GroupKey>,
    /// Where certificates lie that rows do not name, as `identity issue` writes them.
    pub identities: Option<PathBuf>,
    /// Files that devices share.
    pub shared: Shared,
}

type Checked = (Option<Certificate>, Vec<(PairFile, Finding)>);
/// The file of the two that cannot be read, and why.
type Unreadable = (PairFile, String);

/// What came of files that several devices name.
#[derive(Default)]
pub(crate) struct Shared {
    pub(super) authorities: Memo<PathBuf, Result<String, String>>,
    pub(super) texts: Memo<(PathBuf, &'static str), Result<Vec<u8>, String>>,
    pub(super) pairs: Memo<(PathBuf, PathBuf), Result<Checked, Unreadable>>,
    /// Did any device get a key that is derived from the group's?
    pub(super) group_key_used: AtomicBool,
}

/// A device that can be stamped. It has no form for debugging: it holds its keys.
pub(crate) struct Device {
    /// Its number in the fleet.
    pub number: u32,
    /// Its registration id.
    pub registration_id: String,
    /// Serial of the card or device, where the fleet has it.
    pub serial: Option<String>,
    /// The host name that first boot will give it, where that can be known.
    pub hostname: Option<String>,
    /// SHA-256 of its certificate and of its public key, and the end of validity.
    pub certificate: Option<(Digest, Digest, OffsetDateTime)>,
    /// SHA-256 of its own symmetric key, where it brings one.
    pub symmetric_key: Option<Digest>,
    /// What it will ask a server for, where that is its identity.
    pub fetched: Option<Fetched>,
    /// Paths on the FAT partition, and contents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What a device asks a server for.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The column that says so.
    pub column: &'static str,
    /// In words.
    pub what: String,
    /// The same for all devices that get the same.
    pub digest: Digest,
}

/// A device in the making.
pub(super) struct Assembly<'a> {
    pub record: &'a Record,
    pub context: &'a Context<'a>,
    pub findings: Findings,
    pub files: Vec<(String, Vec<u8>)>,
    pub symmetric_key: Option<Digest>,
}

/// Judges a record.
pub(crate) fn assemble(record: &Record, number: u32, context: &Context<'_>) -> (Option<Device>, Findings) {
    let mut all =
        Assembly { record, context, findings: Findings::default(), files: Vec::new(), symmetric_key: None };
    let source = all.source();
    let certificate = source.as_ref().and_then(|source| all.certificate(source));
    let id = all.registration_id(certificate.as_ref(), source.as_ref());
    let hostname = all.hostname(id.as_deref(), source.as_ref());
    all.settings();
    if let (Some(source), Some(id)) = (&source, &id) {
        let auth = all.credentials(source, id);
        for fault in context.golden.config_faults(source, id, auth) {
            all.error("source.from", fault);
        }
    }
    let fetched =
        source.as_ref().zip(id.as_ref()).and_then(|(source, id)| fetched::of(source, id, &all.files));
    let serial = record.text("serial").map(str::to_owned);
    let Assembly { findings, files, symmetric_key, .. } = all;
    let device = id.filter(|_| findings.errors == 0).map(|registration_id| Device {
        number,
        registration_id,
        serial,
        hostname,
        certificate: certificate.map(|it| (it.sha256, it.key_sha256, it.not_after)),
        symmetric_key,
        fetched,
        files,
    });
    (device, findings)
}

impl Assembly<'_> {
    pub(super) fn error(&mut self, column: &str, message: impl Into<String>) {
        self.findings.push(self.record.error(column, message));
    }

    pub(super) fn put(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.files.push((format!("{FOLDER}/{name}"), content.into()));
    }

    pub(super) fn path(cell: &Cell) -> PathBuf {
        cell.origin.folder.join(&cell.text)
    }

    /// The device's own source, or the image's.
    fn source(&mut self) -> Option<DeviceSource> {
        let record = self.record;
        let stated: Vec<_> = record.columns().filter(|column| column.starts_with("source.")).collect();
        let Some(first) = stated.first() else { return Some(self.context.golden.source.clone()) };
        if !self.context.golden.overrides {
            self.error(first, "the image's recipe forbids another source (provisioning.overrides = false)");
            return None;
        }
        let mut table = toml::Table::new();
        for column in &stated {
            let text = record.text(column).unwrap_or_default();
            let value = match (*column, text) {
                ("source.auto_renew", "true" | "false") => toml::Value::Boolean(text == "true"),
                _ => toml::Value::String(text.to_owned()),
            };
            table.insert(column["source.".len()..].to_owned(), value);
        }
        let source = match DeviceSource::from_table(table) {
            Ok(source) => source,
            Err(message) => {
                self.error(if stated.contains(&"source.from") { "source.from" } else { first }, message);
                return None;
            }
        };
        let wrong = source.findings();
        for Finding { key, message, expected, .. } in wrong.clone() {
            let column = format!("source.{}", key.unwrap_or_default());
            self.findings.push(Finding { expected, ..record.error(&column, message) });
        }
        if let Some(Finding { severity, message, expected, .. }) =
            room::shortage(&source, self.context.golden.board)
        {
            let found = record.finding(severity, "source.registration_id", message);
            self.findings.push(Finding { expected, ..found });
        }
        self.put(source::FILE_NAME, source.render());
        if let Some(cell) = record.get("source.ca").filter(|_| source.certificate.ca().is_some()) {
            let authorities = self.authorities(&Self::path(cell));
            self.attach("source.ca", source::CA_FILE, authorities.map(String::into_bytes));
        }
        wrong.is_empty().then_some(source)
    }

    pub(super) fn authorities(&self, path: &Path) -> Result<String, String> {
        let read = || source::read_authorities(path).map_err(|error| error.to_string());
        self.context.shared.authorities.get(path.to_owned(), read)
    }

    /// A file of the partition, or why there is none.
    pub(super) fn attach(&mut self, column: &str, name: &str, content: Result<Vec<u8>, String>) {
        match content {
            Ok(content) => self.put(name, content),
            Err(message) => self.error(column, message),
        }
    }

    fn certificate(&mut self, source: &DeviceSource) -> Option<Certificate> {
        let own = matches!(source.certificate, CertificateSource::Partition {});
        let stated =
            ["certificate", "private_key"].map(|column| (column, self.record.get(column).map(Self::path)));
        let [(_, certificate), (_, key)] = stated.clone();
        match (certificate, key) {
            _ if !own => {
                for (column, _) in stated.iter().filter(|(_, path)| path.is_some()) {
                    let name = source.certificate.name();
                    self.error(
                        column,
                        format!("a device that gets its identity from `{name}` brings none of its own"),
                    );
                }
                None
            }
            (Some(certificate), Some(key)) => self.checked(&certificate, &key, true),
            (None, None) => {
                let issued = self.context.identities.as_ref().zip(self.record.text("registration_id"));
                if let Some((folder, id)) = issued {
                    let found = Single::open(&folder.join(names::file_name(id)));
                    found.findings.into_iter().for_each(|finding| self.findings.push(finding));
                    return self.checked(&found.certificate, &found.private_key, true);
                }
                let mut finding = self.record.error("certificate", "the device has no certificate");
                let hint = "name it with its private_key; `edgepress identity issue` makes both, and --identities DIR takes them from there";
                finding.hint = Some(hint.into());
                self.findings.push(finding);
                None
            }
            (Some(_), None) => {
                self.error("private_key", "the certificate's key is not named");
                None
            }
            (None, Some(_)) => {
                self.error("certificate", "the key's certificate is not named");
                None
            }
        }
    }

    /// The device's certificate and key, put on the partition.
    fn checked(&mut self, certificate: &Path, key: &Path, own: bool) -> Option<Certificate> {
        let rules = Rules {
            authorities: self.context.authorities.clone(),
            now: self.context.now,
            named: own,
            role: Role::Client,
        };
        let result = check_files(certificate, key, &rules);
        let made = self.judge(["certificate", "private_key"], result)?;
        if files::is_public(key) {
            let message = "everybody on this machine can read the private key";
            self.findings.push(self.record.finding(Severity::Warning, "private_key", message));
        }
        self.put("certificate.pem", made.chain_pem.clone());
        self.put("private-key.pem", made.key_pem.clone());
        Some(made)
    }

    /// Turns what is wrong with a pair of files into findings at their columns.
    pub(super) fn judge(
        &mut self,
        columns: [&str; 2],
        result: Result<Checked, Unreadable>,
    ) -> Option<Certificate> {
        let [certificate, key] = columns;
        let column = |file| match file {
            PairFile::Certificate => certificate,
            PairFile::Key => key,
        };
        let (made, wrong) = match result {
            Ok(checked) => checked,
            Err((file, message)) => {
                self.error(column(file), message);
                return None;
            }
        };
        for (file, found) in wrong {
            self.findings.push(self.record.finding(found.severity, column(file), found.message));
        }
        made
    }

    fn registration_id(
        &mut self,
        certificate: Option<&Certificate>,
        source: Option<&DeviceSource>,
    ) -> Option<String> {
        let stated = self.record.text("registration_id");
        let id = match (stated, certificate) {
            (Some(id), Some(certificate)) if id != certificate.name => {
                let message = format!("`{id}` is not the certificate's common name `{}`", certificate.name);
                self.error("registration_id", message);
                return None;
            }
            (Some(id), _) => id.to_owned(),
            (None, Some(certificate)) => certificate.name.clone(),
            (None, None) => {
                // A certificate that cannot be read was told already.
                if self.record.get("certificate").is_none() {
                    self.error("registration_id", "the device has no registration id");
                }
                return None;
            }
        };
        let certified = source.is_some_and(|source| room::most(&source.certificate) == room::COMMON_NAME);
        if let Some(fault) = names::registration_id_fault(&id, certified) {
            self.error("registration_id", format!("`{id}` {fault}"));
            return None;
        }
        self.put("registration-id", format!("{id}\n"));
        Some(id)
    }

    fn hostname(&mut self, id: Option<&str>, source: Option<&DeviceSource>) -> Option<String> {
        if let Some(name) = self.record.text("hostname") {
            let clean = names::label(name);
            if name.to_ascii_lowercase() != clean {
                let message =
                    format!("`{name}` is no host name: letters, digits and `-`, a letter first, at most 63");
                self.error("hostname", message);
                return None;
            }
            if self.overridable("hostname") {
                self.put("hostname", format!("{name}\n"));
            }
            return Some(clean);
        }
        let id = id?;
        match source.and_then(|source| source.hostname.as_deref()) {
            None => Some(names::label(id)),
            // What only the device knows is not known here.
            Some(text) if Word::OF_MACHINE.into_iter().any(|word| template::names(text, word)) => None,
            Some(text) => Some(names::label(&template::fill(text, |_| id.to_owned()))),
        }
    }

    /// Does the image take this from an identity?
    pub(super) fn overridable(&mut self, column: &str) -> bool {
        let allowed = self.context.golden.overrides;
        if !allowed {
            self.error(column, "the image would ignore it: its recipe has provisioning.overrides = false");
        }
        allowed
    }
}

/// [`certificate::check`] of two files.
pub(super) fn check_files(certificate: &Path, key: &Path, rules: &Rules) -> Result<Checked, Unreadable> {
    let chain = files::read(certificate).map_err(|message| (PairFile::Certificate, message))?;
    let key = files::read(key).map_err(|message| (PairFile::Key, message))?;
    Ok(certificate::check(&chain, &key, rules))
}
