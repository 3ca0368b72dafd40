//! A fleet as a folder: one folder a device, as `edgepress identity issue` writes it, or pairs of files, as a public key
//! infrastructure exports them. Endings count whatever their case; what belongs to no device is named.
//!
//! ```text
//! pump-1/certificate.pem  pump-1/private-key.pem      pump-2.pem  pump-2.key      pump-3.CER  pump-3.KEY
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::single::{CERTIFICATES, KEYS, Single};
use super::{remark, wrong};
use crate::certificate::blocks;
use crate::finding::{Finding, Severity};
use crate::stamp::material::Material;
use crate::stamp::record::{Origin, Record};
use crate::stamp::{files, names};

/// A folder's entries, sorted.
pub(crate) struct Folder {
    pub(super) entries: Vec<IdentityFolder>,
    /// What is wrong with its layout, and files that belong to no device.
    pub(super) findings: Vec<Finding>,
}

pub(super) struct IdentityFolder {
    pub name: String,
    certificate: PathBuf,
    private_key: PathBuf,
    registration_id: Option<PathBuf>,
}

/// The files of one name.
#[derive(Default)]
struct Pair {
    certificates: Vec<PathBuf>,
    keys: Vec<PathBuf>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, Vec<Finding>> {
        let unreadable = |error: std::io::Error| vec![wrong(path, 0, format!("cannot be read: {error}"))];
        let mut found = Self { entries: Vec::new(), findings: Vec::new() };
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for child in fs::read_dir(path).map_err(unreadable)? {
            let child = child.map_err(unreadable)?;
            let name = child.file_name().to_string_lossy().into_owned();
            let whole = child.path();
            let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
            let ending = ending.to_ascii_lowercase();
            if name.starts_with('.') {
                found.hidden(&whole);
            } else if whole.is_dir() {
                found.single(name, &whole);
            } else if CERTIFICATES.contains(&ending.as_str()) {
                pairs.entry(stem.to_owned()).or_default().certificates.push(whole);
            } else if KEYS.contains(&ending.as_str()) {
                pairs.entry(stem.to_owned()).or_default().keys.push(whole);
            } else {
                found.stranger(&whole, stem);
            }
        }
        if ["certificate", "private-key"].iter().all(|name| pairs.contains_key(*name)) {
            let message = "it is the folder of a single device: name the one that it is in";
            return Err(vec![wrong(path, 0, message)]);
        }
        for (name, pair) in pairs {
            found.pair(name, &pair);
        }
        let wrong_already = found.findings.iter().any(|found| found.severity == Severity::Error);
        if found.entries.is_empty() && !wrong_already {
            let message = "it holds no identity: a folder each with certificate.pem and private-key.pem, or pairs ID.pem and ID.key";
            found.findings.push(wrong(path, 0, message));
        }
        found.entries.sort_by(|a, b| a.name.cmp(&b.name));
        found.findings.sort_by(|a, b| a.file_and_line().cmp(&b.file_and_line()));
        // Where there are devices, what is wrong with them is told as well.
        if found.entries.is_empty() { Err(found.findings) } else { Ok(found) }
    }

    /// What programs hide there is nobody's business, but for a key that lies under such a name.
    fn hidden(&mut self, path: &Path) {
        if path.is_file() && !matches!(Material::of(path), Ok(None)) {
            self.findings.push(remark(path, "it is hidden, and not taken"));
        }
    }

    fn single(&mut self, name: String, path: &Path) {
        let Single { certificate, private_key, registration_id, findings } = Single::open(path);
        self.findings.extend(findings);
        self.entries.push(IdentityFolder { name, certificate, private_key, registration_id });
    }

    /// A file whose name is none that is taken: an error where it holds what a device may lack.
    fn stranger(&mut self, path: &Path, stem: &str) {
        match Material::of(path) {
            Err(message) => self.findings.push(wrong(path, 0, message)),
            Ok(Some(material)) => {
                let message = "it seems to hold a certificate or key, and its name is none that is taken";
                let hint = material.hint(path, &format!("{stem}.pem"), &format!("{stem}.key"));
                self.findings.push(wrong(path, 0, message).hint(hint));
            }
            Ok(None) => self.findings.push(remark(path, "it belongs to no device, and is not taken")),
        }
    }

    fn pair(&mut self, name: String, pair: &Pair) {
        let more: Vec<&PathBuf> = pair.certificates.iter().skip(1).chain(pair.keys.iter().skip(1)).collect();
        for path in &more {
            let message = format!("another file is the same of `{name}`: which of them?");
            self.findings.push(wrong(path, 0, message));
        }
        match (pair.certificates.first(), pair.keys.first()) {
            (Some(certificate), Some(key)) if more.is_empty() => self.entries.push(IdentityFolder {
                name,
                certificate: certificate.clone(),
                private_key: key.clone(),
                registration_id: None,
            }),
            (None, Some(key)) => {
                self.findings.push(wrong(key, 0, format!("there is no {name}.pem beside it")));
            }
            (Some(certificate), None) => {
                let found = wrong(certificate, 0, format!("there is no {name}.key beside it"));
                self.findings.push(match holds_key(certificate) {
                    true => found.hint(format!("it holds a private key, which belongs into {name}.key")),
                    false => found,
                });
            }
            _ => {}
        }
    }
}

fn holds_key(path: &Path) -> bool {
    let blocks = files::read(path).and_then(|bytes| blocks::read(&bytes));
    blocks.is_ok_and(|blocks| blocks.iter().any(blocks::Block::is_key))
}

impl IdentityFolder {
    pub(super) fn record(&self) -> Result<Record, Vec<Finding>> {
        let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut record = Record::new(Origin::of(&self.certificate), 0);
        record.set("certificate", &file_name(&self.certificate));
        record.set("private_key", &file_name(&self.private_key));
        match &self.registration_id {
            Some(path) => match files::read_line(path) {
                Ok(id) => record.set("registration_id", &id),
                Err(message) => return Err(vec![wrong(path, 0, message)]),
            },
            // The pair's name says whose it is, where it can be an id; else the common name does.
            None => record.set("registration_id", &names::from_file_name(&self.name).unwrap_or_default()),
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use crate::finding::Finding;
    use crate::stamp::fleet::Fleet;
    use std::path::Path;

    fn put(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("write");
    }

    fn ids(fleet: &Fleet) -> Vec<String> {
        let rows = fleet.rows().expect("rows");
        let id = |record: crate::stamp::record::Record| record.text("registration_id").map(str::to_owned);
        rows.filter_map(|row| id(row.record.expect("good"))).collect()
    }

    #[test]
    fn folders_of_either_kind() {
        let folder = tempfile::tempdir().expect("folder");
        let put = |name: &str, text: &str| put(folder.path(), name, text);
        put("a%3A1/certificate.pem", "x");
        put("a%3A1/registration-id", "a:1\n");
        for name in ["b.pem", "b.key", "c.PEM", "c.KEY", "d.cer", "d.private", "E.Crt", "E.Key"] {
            put(name, "x");
        }
        put("notes.txt", "x");
        let fleet = Fleet::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ids(&fleet), ["E", "a:1", "b", "c", "d"]);
        assert_eq!(fleet.name(3), "`b`");
        let remarks: Vec<String> = fleet.findings().iter().map(Finding::labelled).collect();
        assert_eq!(remarks.len(), 1);
        assert!(
            remarks[0].starts_with("warning: ") && remarks[0].contains("notes.txt: it belongs to no device")
        );
        let refused = || {
            let fleet = Fleet::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
            fleet.findings().iter().map(|found| format!("{}\n", found.labelled())).collect::<String>()
        };
        put("c.key", "x");
        assert!(refused().contains("another file is the same of `c`"), "{}", refused());
        put("f.key", "x");
        put("g.crt", "x");
        put("g-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        put("h.key.bak", "-----BEGIN PRIVATE KEY-----\n");
        put("i.p12", "\u{30}\u{3}\u{2}\u{1}\u{3}");
        let wide: Vec<u8> =
            "-----BEGIN PRIVATE KEY-----\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(folder.path().join("j.txt"), wide).expect("write");
        put("k/certificate.pem", "x");
        put("k/private-key.pem", "x");
        put("k/hostname", "north");
        for expected in [
            "f.key: there is no f.pem",
            "g.crt: there is no g.key",
            "g-key.pem: there is no g-key.key beside it\n   = hint: it holds a private key",
            "h.key.bak: it seems to hold",
            "i.p12: it seems to hold",
            "j.txt: it seems to hold",
            "k/hostname: a device's folder has",
            // What is only named is so beside errors, too.
            "notes.txt: it belongs to no device",
        ] {
            assert!(refused().contains(expected), "{expected}: {}", refused());
        }
        let one = Fleet::open(&folder.path().join("k")).err().expect("refused").to_string();
        assert!(one.contains("it is the folder of a single device"), "{one}");
        let empty = tempfile::tempdir().expect("folder");
        assert!(Fleet::open(empty.path()).err().expect("empty").to_string().contains("holds no identity"));
    }
}
