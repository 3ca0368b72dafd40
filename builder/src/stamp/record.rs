//! One device as somebody wrote it down: a row of a table, an identity file, a folder. Nothing is judged here but names
//! and forms; what the values mean is `device`'s business.
//!
//! ```text
//! registration_id, source.url  …   keys of an identity file (TOML) and columns of a fleet's table alike
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::finding::{self, Finding, Place, Severity};
use crate::recipe::tree::{Node, SourceText, Value};

/// Every key, in the order of the documentation.
pub(crate) const COLUMNS: [&str; 39] = [
    "registration_id",
    "serial",
    "certificate",
    "private_key",
    "hostname",
    "hosts",
    "endpoint",
    "authorized_keys",
    "wifi_ssid",
    "wifi_key",
    "wifi_key_file",
    "registry_address",
    "registry_username",
    "registry_password",
    "registry_password_file",
    "ca",
    "source.from",
    "source.registration_id",
    "source.hostname",
    "source.url",
    "source.ca",
    "source.enrol",
    "source.auto_renew",
    "source.vault",
    "source.name",
    "source.version",
    "source.token",
    "source.client_id",
    "source.tenant",
    "source.authority",
    "bootstrap.certificate",
    "bootstrap.key",
    "bootstrap.username",
    "bootstrap.password",
    "bootstrap.password_file",
    "bootstrap.token",
    "bootstrap.token_file",
    "symmetric_key",
    "symmetric_key_file",
];
/// Keys that hold a secret itself, not the name of a file.
pub(crate) const SECRETS: [&str; 5] =
    ["wifi_key", "registry_password", "bootstrap.password", "bootstrap.token", "symmetric_key"];
/// Keys that no two devices can share.
const OF_ONE_DEVICE: [&str; 7] = [
    "registration_id",
    "serial",
    "certificate",
    "private_key",
    "hostname",
    "symmetric_key",
    "symmetric_key_file",
];
/// Between the files of `ca` in a table.
const SEPARATOR: char = ';';

/// What other tables call a registration id: those of IoT Hub and DPS (`id`, `deviceId`, `registrationId`), and people's. The
/// signs between letters do not count.
const NAMES_OF_ID: [&str; 7] = ["id", "device", "deviceid", "devicename", "name", "regid", "thing"];

/// The name of a key, as [`COLUMNS`] has it.
pub(crate) type Column = &'static str;

/// The key of this name.
pub(crate) fn column(name: &str) -> Option<Column> {
    COLUMNS.into_iter().find(|known| *known == name)
}

/// A file that values come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// As the user named it.
    pub name: String,
    /// Where relative paths in it begin.
    pub folder: PathBuf,
}

impl Origin {
    /// That of a file.
    pub(crate) fn of(path: &Path) -> Arc<Self> {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Arc::new(Self { name: path.display().to_string(), folder })
    }
}

/// One value.
#[derive(Clone)]
pub(crate) struct Cell {
    /// What stands there; of a list, one to a line.
    pub text: String,
    /// In which file.
    pub origin: Arc<Origin>,
    /// In which line of it; 0 where it has none.
    pub line: usize,
}

/// All values of a device. Its form for debugging shows no value: some are secrets.
#[derive(Clone)]
pub(crate) struct Record {
    /// Where the device as a whole is written down.
    pub origin: Arc<Origin>,
    /// The line there; 0 where there are no lines.
    pub line: usize,
    cells: BTreeMap<Column, Cell>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}:{})", self.origin.name, self.line)
    }
}

impl Record {
    /// One without values.
    pub(crate) fn new(origin: Arc<Origin>, line: usize) -> Self {
        Self { origin, line, cells: BTreeMap::new() }
    }

    /// A value of the record's own line. Empty ones are none.
    pub(crate) fn set(&mut self, column: Column, text: &str) {
        let text = text.trim();
        if !text.is_empty() {
            let text = if column == "ca" { text.replace(SEPARATOR, "\n") } else { text.to_owned() };
            self.cells.insert(column, Cell { text, origin: Arc::clone(&self.origin), line: self.line });
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, column: Column) -> Option<&Cell> {
        self.cells.get(column)
    }

    /// The value of a key as text.
    pub(crate) fn text(&self, column: Column) -> Option<&str> {
        self.get(column).map(|cell| cell.text.as_str())
    }

    /// The keys that have a value.
    pub(crate) fn columns(&self) -> impl Iterator<Item = Column> {
        self.cells.keys().copied()
    }

    /// Takes from `defaults` what is not stated. A record that says where its certificate comes from takes nothing of
    /// another source.
    pub(crate) fn complete(&mut self, defaults: &Self) {
        let own_source = self.cells.contains_key("source.from");
        for (column, cell) in &defaults.cells {
            if !(own_source && column.starts_with("source.")) {
                self.cells.entry(column).or_insert_with(|| cell.clone());
            }
        }
    }

    /// A finding at a key of this record, or at the record where the key has no value.
    pub(crate) fn finding(&self, severity: Severity, column: &str, message: impl Into<String>) -> Finding {
        let cell = self.cells.get(column);
        let (origin, line) = cell.map_or((&self.origin, self.line), |cell| (&cell.origin, cell.line));
        let place = Place::line(&origin.name, line);
        Finding { severity, ..Finding::error(message).at(place).key(column) }
    }

    /// An error at a key.
    pub(crate) fn error(&self, column: &str, message: impl Into<String>) -> Finding {
        self.finding(Severity::Error, column, message)
    }

    /// Reads an identity file, or with `shared` one of defaults for all devices.
    ///
    /// # Errors
    /// Everything that is wrong with its form.
    pub(crate) fn from_toml(path: &Path, text: &str, shared: bool) -> Result<Self, Vec<Finding>> {
        let origin = Origin::of(path);
        let source = SourceText::file(&origin.name, text, &origin.folder);
        let tree = Node::parse(&source).map_err(|error| {
            // Without the line itself: it may hold a secret.
            let message = format!("this is not TOML: {}", error.message);
            vec![wrong(&origin, error.file_and_line().1, message)]
        })?;
        let mut reader = Reader { record: Self::new(origin, 0), findings: Vec::new(), shared };
        reader.table(&tree, "");
        if reader.findings.is_empty() { Ok(reader.record) } else { Err(reader.findings) }
    }
}

fn wrong(origin: &Origin, line: usize, message: impl Into<String>) -> Finding {
    Finding::error(message).at(Place::line(&origin.name, line))
}

/// An error for a key or column that does not exist.
pub(crate) fn unknown(origin: &Origin, line: usize, name: &str, what: &str) -> Finding {
    let found = wrong(origin, line, format!("there is no such {what}")).key(finding::clean(name));
    match meant(name) {
        Some(column) => found.hint(format!("did you mean `{column}`?")),
        None => found,
    }
}

/// The key that somebody who wrote this most likely meant: the same but for its signs, a name that a registration id has
/// elsewhere, the only one that ends so (`ssid`), or the nearest.
pub(crate) fn meant(name: &str) -> Option<Column> {
    let plain = |name: &str| -> String {
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let own = plain(name);
    let last = |column: &str| column.rsplit(['_', '.']).next().is_some_and(|last| last == own);
    let mut ending = COLUMNS.into_iter().filter(|column| last(column));
    let only = ending.next().filter(|_| ending.next().is_none());
    let same = COLUMNS.into_iter().find(|column| plain(column) == own);
    let id = NAMES_OF_ID.contains(&own.as_str()).then_some("registration_id");
    same.or(id).or(only).or_else(|| finding::nearest(name, COLUMNS))
}

struct Reader {
    record: Record,
    findings: Vec<Finding>,
    shared: bool,
}

impl Reader {
    fn table(&mut self, table: &Node, prefix: &str) {
        for entry in table.entries().into_iter().flatten() {
            let name = format!("{prefix}{}", entry.key);
            let line = entry.origin.place().line;
            let is_table = prefix.is_empty() && matches!(entry.key.as_str(), "source" | "bootstrap");
            if is_table && entry.node.entries().is_some() {
                self.table(&entry.node, &format!("{name}."));
                continue;
            }
            match (column(&name), value(&entry.node.value, &name)) {
                (None, _) => self.findings.push(unknown(&self.record.origin, line, &name, "key")),
                (Some(column), _) if self.shared && OF_ONE_DEVICE.contains(&column) => {
                    self.wrong(line, column, "no two devices can share this value");
                }
                (Some(column), Err(expected)) => self.wrong(line, column, expected),
                (Some(column), Ok(text)) => {
                    let origin = Arc::clone(&self.record.origin);
                    self.record.cells.insert(column, Cell { text, origin, line });
                }
            }
        }
    }

    fn wrong(&mut self, line: usize, column: Column, message: &str) {
        self.findings.push(wrong(&self.record.origin, line, message).key(column));
    }
}

fn value(value: &Value, name: &str) -> Result<String, &'static str> {
    let text = match value {
        Value::String(text) if name != "source.auto_renew" => text.clone(),
        Value::Boolean(flag) if name == "source.auto_renew" => flag.to_string(),
        _ if name == "source.auto_renew" => return Err("expected true or false"),
        Value::Array(items) if name == "ca" => {
            let texts: Option<Vec<&str>> = items.iter().map(Node::as_str).collect();
            texts.ok_or("expected a list of files")?.join("\n")
        }
        _ => return Err("expected a string"),
    };
    let lines = if name == "ca" { text.replace('\n', "") } else { text.clone() };
    match () {
        () if text.trim().is_empty() => Err("it is empty: leave the key out"),
        () if lines.chars().any(char::is_control) => Err("it has a line break or another control character"),
        () => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, Record, SECRETS, column, meant};
    use std::path::Path;

    fn read(text: &str, shared: bool) -> Result<Record, String> {
        Record::from_toml(Path::new("line/pump.toml"), text, shared)
            .map_err(|findings| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn an_identity_file() {
        let record = read(
            "registration_id = \"pump-7\"\nca = [\"a.pem\", \"b.pem\"]\n[source]\nfrom = \"est\"\nauto_renew = true\n\
             [bootstrap]\nusername = \"u\"\n",
            false,
        )
        .expect("read");
        assert_eq!(record.text("registration_id"), Some("pump-7"));
        assert_eq!(record.text("ca"), Some("a.pem\nb.pem"));
        assert_eq!(record.text("source.auto_renew"), Some("true"));
        let cell = record.get("bootstrap.username").expect("there");
        assert_eq!((cell.line, cell.origin.folder.as_path()), (7, Path::new("line")));
        assert!(!format!("{record:?}").contains("pump-7"));
    }

    #[test]
    fn all_errors_of_a_file_at_once() {
        let error = read(
            "registraton_id = \"x\"\nhostname = 7\nwifi_key = \"\"\nendpoint = \"a\\nb\"\n[source]\nfrm = \"est\"\n\
             auto_renew = \"yes\"\n[other]\nx = 1\n",
            false,
        )
        .expect_err("wrong");
        for expected in [
            "line/pump.toml:1: `registraton_id`: there is no such key\n   = hint: did you mean `registration_id`?",
            "line/pump.toml:2: `hostname`: expected a string",
            "line/pump.toml:3: `wifi_key`: it is empty",
            "line/pump.toml:4: `endpoint`: it has a line break",
            "line/pump.toml:6: `source.frm`: there is no such key\n   = hint: did you mean `source.from`?",
            "line/pump.toml:7: `source.auto_renew`: expected true or false",
            "line/pump.toml:8: `other`: there is no such key",
        ] {
            assert!(error.contains(expected), "{expected} is not in\n{error}");
        }
        assert!(read("wifi_key = \"s3cret\" x", false).expect_err("no TOML").contains("this is not TOML"));
        assert!(!read("wifi_key = \"s3cret\" x", false).expect_err("no TOML").contains("s3cret"));
        assert!(read("hostname = \"x\"", true).expect_err("shared").contains("no two devices"));
    }

    #[test]
    fn defaults_fill_what_is_not_stated() {
        let defaults = read("wifi_ssid = \"plant\"\n[source]\nfrom = \"est\"\nurl = \"https://e\"\n", true)
            .expect("read");
        let mut own = read("registration_id = \"a\"\nwifi_ssid = \"lab\"\n", false).expect("read");
        own.complete(&defaults);
        assert_eq!(own.text("wifi_ssid"), Some("lab"));
        assert_eq!(own.text("source.url"), Some("https://e"));
        let mut own = read("registration_id = \"a\"\n[source]\nfrom = \"tpm\"\n", false).expect("read");
        own.complete(&defaults);
        assert_eq!(own.text("source.url"), None);
    }

    #[test]
    fn names_lead_to_what_was_meant() {
        for (name, column) in [
            ("id", "registration_id"),
            ("ID", "registration_id"),
            ("device_id", "registration_id"),
            ("deviceId", "registration_id"),
            ("Device ID", "registration_id"),
            ("device", "registration_id"),
            ("name", "registration_id"),
            ("registrationId", "registration_id"),
            ("Registration-ID", "registration_id"),
            ("registraton_id", "registration_id"),
            ("privateKey", "private_key"),
            ("Wi-Fi SSID", "wifi_ssid"),
            ("ssid", "wifi_ssid"),
            ("vault", "source.vault"),
            ("Serial Number", "serial"),
            ("host_name", "hostname"),
            ("cert", "certificate"),
            ("symmetricKey", "symmetric_key"),
            ("end point", "endpoint"),
        ] {
            assert_eq!(meant(name), Some(column), "{name}");
        }
        for column in COLUMNS {
            // A letter too few, one too many, two of them changed about.
            let middle = column.len() / 2;
            let (before, after) = column.split_at(middle);
            for name in [format!("{before}{}", &after[1..]), format!("{before}x{after}")] {
                if column.len() > 4 && super::column(&name).is_none() {
                    assert!(meant(&name).is_some(), "{name}");
                }
            }
        }
        assert_eq!(meant("zzz"), None);
    }

    #[test]
    fn columns_are_known_once() {
        let mut sorted = COLUMNS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), COLUMNS.len());
        assert!(SECRETS.iter().all(|secret| column(secret).is_some()));
    }
}
