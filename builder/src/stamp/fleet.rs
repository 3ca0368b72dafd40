//! Where devices are written down: a table with a row each, a folder with their certificates, or one identity file.
//! Tables are streamed: a fleet of any size takes the same memory.

mod folder;
mod single;

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files;
use super::finding::Findings;
use super::record::{Column, Origin, Record, SECRETS, column, unknown};
use super::{record, table};
use crate::event::Unit;
use crate::finding::{Finding, Place};

pub(crate) use self::folder::Folder;
pub(crate) use self::single::Single;

const BUFFER: usize = 1 << 20;
/// So much of a table shows whether it is one.
const START: u64 = 4096;

/// All devices to stamp.
pub(crate) enum Fleet {
    /// A CSV file (RFC 4180) with a header.
    Table(Table),
    /// A folder of certificates and keys.
    Folder(Folder),
    /// One identity file.
    One(Box<Record>),
}

/// One device as written down.
pub(crate) struct Row {
    /// Its line, or its place among the folder's entries, from 1.
    pub number: u32,
    /// What is written, or what is wrong with the form.
    pub record: Result<Record, Vec<Finding>>,
    /// How far in the fleet this is, in [`Fleet::total`]'s unit.
    pub done: u64,
}

/// A CSV file.
pub(crate) struct Table {
    path: PathBuf,
    size: u64,
    origin: Arc<Origin>,
    columns: Vec<Column>,
}

impl Fleet {
    /// Opens a table or folder.
    ///
    /// # Errors
    /// Everything that is wrong with the table's header, or with the folder's layout.
    pub(crate) fn open(path: &Path) -> Result<Self, Findings> {
        let opened = if path.is_dir() {
            Folder::open(path).map(Self::Folder)
        } else {
            Table::open(path).map(Self::Table)
        };
        opened.map_err(collect)
    }

    /// Reads an identity file.
    ///
    /// # Errors
    /// Everything that is wrong with its form.
    pub(crate) fn one(path: &Path) -> Result<Self, Findings> {
        read_toml(path, false).map(|record| Self::One(Box::new(record))).map_err(collect)
    }

    /// How much there is, for progress.
    pub(crate) fn total(&self) -> (u64, Unit) {
        match self {
            Self::Table(table) => (table.size, Unit::Bytes),
            Self::Folder(folder) => (folder.entries.len() as u64, Unit::Items),
            Self::One(_) => (1, Unit::Items),
        }
    }

    /// How a person finds the device of this number.
    pub(crate) fn name(&self, number: u32) -> String {
        match self {
            Self::Folder(folder) => {
                let entry = folder.entries.get((number as usize).wrapping_sub(1));
                entry.map_or_else(String::new, |entry| format!("`{}`", entry.name))
            }
            Self::Table(_) | Self::One(_) => format!("line {number}"),
        }
    }

    /// All devices, in order.
    ///
    /// # Errors
    /// When the table cannot be opened any more.
    pub(crate) fn rows(&self) -> std::io::Result<Box<dyn Iterator<Item = Row> + Send + '_>> {
        Ok(match self {
            Self::Table(table) => Box::new(table.rows()?),
            Self::Folder(folder) => {
                let row = |(number, entry): (u32, &folder::IdentityFolder)| Row {
                    number,
                    record: entry.record(),
                    done: number.into(),
                };
                Box::new((1..).zip(&folder.entries).map(row))
            }
            Self::One(record) => {
                let record = Ok(record.as_ref().clone());
                Box::new(std::iter::once(Row { number: 1, record, done: 1 }))
            }
        })
    }

    /// What is wrong with a folder's layout, and what is passed over.
    pub(crate) fn findings(&self) -> &[Finding] {
        match self {
            Self::Folder(folder) => &folder.findings,
            Self::Table(_) | Self::One(_) => &[],
        }
    }

    /// Warns where secrets stand in a file that everybody on this machine can read.
    pub(crate) fn exposed(&self) -> Option<Finding> {
        match self {
            Self::Table(table) => exposed(&table.path, table.columns.iter().copied()),
            Self::Folder(_) => None,
            Self::One(record) => exposed(Path::new(&record.origin.name), record.columns()),
        }
    }
}

/// As [`Fleet::exposed`], of any file.
pub(crate) fn exposed(path: &Path, mut columns: impl Iterator<Item = Column>) -> Option<Finding> {
    let column = columns.find(|column| SECRETS.contains(column)).filter(|_| files::is_public(path))?;
    let exposed = Finding::warning("secrets stand in a file that everybody on this machine can read");
    let place = Place::file(path.display().to_string());
    Some(exposed.at(place).key(column).hint(format!("chmod 600 {}", path.display())))
}

/// Reads an identity file, or with `shared` one of defaults.
///
/// # Errors
/// Everything that is wrong with its form.
pub(crate) fn read_toml(path: &Path, shared: bool) -> Result<Record, Vec<Finding>> {
    let text = files::read(path)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display())));
    match text {
        Ok(text) => Record::from_toml(path, text.trim_start_matches('\u{feff}'), shared),
        Err(message) => Err(vec![wrong(path, 0, message)]),
    }
}

fn wrong(path: &Path, line: usize, message: impl Into<String>) -> Finding {
    Finding::error(message).at(Place::line(path.display().to_string(), line))
}

fn remark(path: &Path, message: &str) -> Finding {
    Finding::warning(message).at(Place::file(path.display().to_string()))
}

fn collect(findings: Vec<Finding>) -> Findings {
    let mut all = Findings::default();
    findings.into_iter().for_each(|finding| all.push(finding));
    all
}

impl Table {
    fn open(path: &Path) -> Result<Self, Vec<Finding>> {
        let unreadable = |error: std::io::Error| vec![wrong(path, 0, format!("cannot be read: {error}"))];
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut start = Vec::new();
        file.take(START).read_to_end(&mut start).map_err(unreadable)?;
        if let Some(fault) = no_table(&start) {
            return Err(vec![wrong(path, 0, fault).hint("save it as \"CSV UTF-8\"")]);
        }
        let origin = Origin::of(path);
        let columns = match reader(path).and_then(|mut rows| rows.next_row()).map_err(unreadable)? {
            Some((line, Ok(names))) => columns(&names, path, line, &origin)?,
            Some((line, Err(message))) => return Err(vec![wrong(path, line, message)]),
            None => return Err(vec![wrong(path, 0, "it is empty: the first row names the columns")]),
        };
        Ok(Self { path: path.to_owned(), size, origin, columns })
    }

    fn rows(&self) -> std::io::Result<impl Iterator<Item = Row> + Send + '_> {
        let mut rows = reader(&self.path)?;
        // The header; `open` has read it before.
        rows.next_row()?;
        let mut failed = false;
        Ok(std::iter::from_fn(move || match rows.next_row() {
            _ if failed => None,
            Ok(None) => None,
            Ok(Some((line, cells))) => Some(self.row(line, cells, rows.done())),
            Err(error) => {
                failed = true;
                let record = Err(vec![wrong(&self.path, 0, format!("cannot be read: {error}"))]);
                Some(Row { number: u32::MAX, record, done: self.size })
            }
        }))
    }

    fn row(&self, line: usize, cells: table::Cells, done: u64) -> Row {
        let number = u32::try_from(line).unwrap_or(u32::MAX);
        let record = cells.and_then(|cells| {
            let named = self.columns.len();
            // Columns without a name, behind the others, are what a spreadsheet takes for its table's width.
            let width = cells.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
            let cells = &cells[..cells.len().min(width.max(named))];
            if cells.len() != self.columns.len() {
                let header = self.columns.len();
                return Err(format!("it has {} values, and the header names {header} columns", cells.len()));
            }
            let mut record = Record::new(Arc::clone(&self.origin), line);
            self.columns.iter().zip(cells).for_each(|(column, cell)| record.set(column, cell));
            Ok(record)
        });
        Row { number, record: record.map_err(|message| vec![wrong(&self.path, line, message)]), done }
    }
}

/// What a file is that somebody took for a table; "Unicode text" of a spreadsheet is UTF-16.
fn no_table(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("it is UTF-16, not UTF-8"),
        [b'P', b'K', 3, 4, ..] | [0xd0, 0xcf, 0x11, 0xe0, ..] => {
            Some("it is a spreadsheet's own file, not CSV")
        }
        _ if start.contains(&0) => Some("it holds zero bytes (UTF-16, or no text), and is not UTF-8"),
        _ => None,
    }
}

fn reader(path: &Path) -> std::io::Result<table::Rows<BufReader<File>>> {
    Ok(table::Rows::new(BufReader::with_capacity(BUFFER, File::open(path)?)))
}

fn columns(names: &[String], path: &Path, line: usize, origin: &Origin) -> Result<Vec<Column>, Vec<Finding>> {
    let mut columns: Vec<Column> = Vec::new();
    let mut findings = Vec::new();
    let width = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    for (number, name) in (1..).zip(&names[..width]) {
        match column(name) {
            None if name.is_empty() => {
                findings.push(wrong(path, line, format!("column {number} has no name")));
            }
            None => findings.push(unknown(origin, line, name, "column")),
            Some(known) if columns.contains(&known) => {
                findings.push(wrong(path, line, "the column is there twice").key(name));
            }
            Some(known) => columns.push(known),
        }
    }
    // A misspelt one says more.
    let telling = |column: &Column| ["registration_id", "certificate"].contains(column);
    let meant = names.iter().filter_map(|name| column(name).or_else(|| record::meant(name)));
    if !meant.into_iter().any(|column| telling(&column)) {
        let message = "no column says which devices they are: neither `registration_id` nor `certificate`";
        let found = wrong(path, line, message).key("registration_id");
        findings.push(found.hint("add a column `registration_id`, with the id of each device"));
    }
    if findings.is_empty() { Ok(columns) } else { Err(findings) }
}

#[cfg(test)]
mod tests {
    use super::{Fleet, Row};
    use std::path::Path;

    fn table(bytes: &[u8]) -> (tempfile::TempDir, Result<Fleet, String>) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("fleet.csv");
        std::fs::write(&path, bytes).expect("write");
        let fleet = Fleet::open(&path).map_err(|findings| findings.to_string());
        (folder, fleet)
    }

    fn rows(fleet: &Fleet) -> Vec<Row> {
        fleet.rows().expect("rows").collect()
    }

    #[test]
    fn rfc_4180_and_what_spreadsheets_make_of_it() {
        let text = "\u{feff}registration_id,ca,\"wifi_key\"\r\npump-1, a.pem;b.pem ,\"a \"\"b\"\", c\"\r\n,,\r\n\r\npump-2,,\r\n";
        let (_folder, fleet) = table(text.as_bytes());
        let fleet = fleet.unwrap_or_else(|error| panic!("{error}"));
        let rows = rows(&fleet);
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [2, 5]);
        let first = rows[0].record.as_ref().expect("good");
        assert_eq!(first.text("registration_id"), Some("pump-1"));
        assert_eq!(first.text("ca"), Some("a.pem\nb.pem"));
        assert_eq!(first.text("wifi_key"), Some("a \"b\", c"));
        assert_eq!(rows[1].record.as_ref().expect("good").text("wifi_key"), None);
        assert_eq!(fleet.total().0, text.len() as u64);
        assert!(fleet.exposed().expect("world-readable").to_string().contains("`wifi_key`: secrets stand"));
    }

    #[test]
    fn wrong_rows_are_named_and_the_others_read() {
        let (_folder, fleet) =
            table(b"registration_id,serial\na,1,2\nb\nc,\xff\nd,\x01\nok,7\ne,\"open\nf,2\n");
        let rows = rows(&fleet.unwrap_or_else(|error| panic!("{error}")));
        let said: Vec<String> = rows
            .iter()
            .map(|row| match &row.record {
                Ok(record) => record.text("registration_id").unwrap_or_default().to_owned(),
                Err(findings) => findings[0].to_string(),
            })
            .collect();
        for (said, expected) in said.iter().zip([
            "fleet.csv:2: it has 3 values, and the header names 2 columns",
            "fleet.csv:3: it has 1 values",
            "fleet.csv:4: it is not UTF-8",
            "fleet.csv:5: its value 2 has a control character",
            "ok",
            "fleet.csv:7: the quote of its value 2 is not closed in this line",
            "f",
        ]) {
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn tables_as_excel_writes_them() {
        for text in [
            "sep=;\r\nregistration_id;serial\r\npump-1;7\r\n",
            "\u{feff}sep=\t\r\nregistration_id\tserial\r\npump-1\t7\r\n",
            "registration_id\tserial\rpump-1\t7\r",
            "registration_id,serial,,\r\npump-1,7,,\r\n",
        ] {
            let (_folder, fleet) = table(text.as_bytes());
            let rows = rows(&fleet.unwrap_or_else(|error| panic!("{error}")));
            let record = rows[0].record.as_ref().expect("good");
            assert_eq!((rows.len(), record.text("serial")), (1, Some("7")), "{text}");
        }
    }

    #[test]
    fn headers() {
        for (text, expected) in [
            (&b""[..], "it is empty"),
            (b"serial;hostname\nx;y\n", "`registration_id`: no column says which devices they are"),
            (b"registration;serial\n", "did you mean `registration_id`?"),
            (b"\xff\xfer\0", "UTF-16"),
            (b"r\0e\0g\0", "zero bytes (UTF-16"),
            (b"\xfe\xff\0r", "UTF-16"),
            (b"PK\x03\x04\x14\0", "a spreadsheet's own file"),
            (b"id;serial\n", "`id`: there is no such column\n   = hint: did you mean `registration_id`?"),
            (b"sep=;\nid;serial\n", "fleet.csv:2: `id`: there is no such column\n   = hint: did you mean"),
            (b"registration_id,,serial\n", "column 2 has no name"),
            (b"pumpe;serial\n", "`registration_id`: no column says which devices they are"),
            (b"wi-fi ssid;serial\n", "add a column `registration_id`"),
            (b"registration-id,serial,serial\n", "did you mean `registration_id`?"),
            (b"serial,serial\n", "`serial`: the column is there twice"),
        ] {
            let (_folder, fleet) = table(text);
            let error = fleet.err().expect("refused");
            assert!(error.contains(expected), "{error}");
        }
        assert!(Fleet::open(Path::new("/nowhere/fleet.csv")).is_err());
    }
}
