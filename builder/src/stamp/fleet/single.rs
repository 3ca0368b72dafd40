//! The folder of one device, as `edgepress identity issue` writes it. Names count in any case, with the endings that are usual,
//! and as Notepad saves them; everything else in it is named, for somebody may have meant it for the device.
//!
//! ```text
//! pump-1/certificate.pem  (.crt .cer .cert)    pump-1/private-key.pem  (.key .private .p8 .pk8)    pump-1/registration-id
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::{remark, wrong};
use crate::finding::Finding;
use crate::stamp::material::Material;
use crate::stamp::record::COLUMNS;

/// Endings of certificates' files, and of keys'.
pub(super) const CERTIFICATES: [&str; 4] = ["pem", "crt", "cer", "cert"];
pub(super) const KEYS: [&str; 4] = ["key", "private", "p8", "pk8"];
/// What Windows' editors put behind a name that has no such ending; first boot takes it off, too.
const TEXT: &str = ".txt";

const CERTIFICATE: &str = "certificate.pem";
const PRIVATE_KEY: &str = "private-key.pem";
const REGISTRATION_ID: &str = "registration-id";

/// The files of one device.
pub(crate) struct Single {
    /// Its certificate, whether it is there or not.
    pub certificate: PathBuf,
    /// Its key, whether it is there or not.
    pub private_key: PathBuf,
    /// Its registration id, where that is stated.
    pub registration_id: Option<PathBuf>,
    /// What else is there: errors where it may matter, else warnings.
    pub findings: Vec<Finding>,
}

impl Single {
    /// Looks through a folder. One that cannot be read shows when its files are.
    pub(crate) fn open(path: &Path) -> Self {
        let mut found = Self {
            certificate: path.join(CERTIFICATE),
            private_key: path.join(PRIVATE_KEY),
            registration_id: None,
            findings: Vec::new(),
        };
        let mut children: Vec<PathBuf> =
            fs::read_dir(path).into_iter().flatten().flatten().map(|child| child.path()).collect();
        children.sort();
        let mut taken: [Option<PathBuf>; 3] = [None, None, None];
        for child in children {
            let name = child.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match known(&name).filter(|_| !child.is_dir()) {
                Some(which) => match &taken[which] {
                    None => taken[which] = Some(child),
                    Some(first) => {
                        let first = first.file_name().unwrap_or_default().to_string_lossy();
                        found.findings.push(wrong(
                            &child,
                            0,
                            format!("`{first}` is the same: which of them?"),
                        ));
                    }
                },
                None => found.findings.extend(stranger(&child, &name)),
            }
        }
        let [certificate, private_key, registration_id] = taken;
        found.certificate = certificate.unwrap_or(found.certificate);
        found.private_key = private_key.unwrap_or(found.private_key);
        found.registration_id = registration_id;
        found
    }
}

/// Which of the three files has this name.
fn known(name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(TEXT).unwrap_or(&name);
    if name == REGISTRATION_ID {
        return Some(2);
    }
    match name.rsplit_once('.')? {
        ("certificate", ending) if CERTIFICATES.contains(&ending) => Some(0),
        ("private-key", ending) if ending == "pem" || KEYS.contains(&ending) => Some(1),
        _ => None,
    }
}

/// What to say of a file or folder that is not taken.
fn stranger(path: &Path, name: &str) -> Option<Finding> {
    match Material::of(path) {
        Err(message) => Some(wrong(path, 0, message)),
        Ok(Some(material)) => {
            let message = "it seems to hold a certificate or key, and its name is none that is taken";
            Some(wrong(path, 0, message).hint(material.hint(path, CERTIFICATE, PRIVATE_KEY)))
        }
        Ok(None) => match setting(name) {
            Some(column) => {
                let message =
                    "a device's folder has certificate, key and registration id, and this is not taken";
                let hint = format!(
                    "write the devices into a table (CSV) with a column `{column}`, and name the folder with --identities"
                );
                Some(wrong(path, 0, message).hint(hint))
            }
            None if name.starts_with('.') => None,
            None => Some(remark(path, "it is not taken")),
        },
    }
}

/// The column of a table that a file of this name is meant for: `symmetric-key`, `Hostname.txt`, `source.toml`.
fn setting(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '.', ' '], "-");
    let whole = plain(name);
    let stem = plain(name.rsplit_once('.').map_or(name, |(stem, _)| stem));
    COLUMNS.into_iter().find(|column| {
        let column = plain(column);
        column == whole || column == stem || column.strip_prefix("source-").is_some_and(|_| stem == "source")
    })
}

#[cfg(test)]
mod tests {
    use super::{Single, setting};
    use crate::finding::Severity;
    use std::path::Path;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

    fn open(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>, Single) {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, text).expect("write");
        }
        let found = Single::open(folder.path());
        let of = |severity| {
            let these = found.findings.iter().filter(|found| found.severity == severity);
            these.map(|found| found.to_string().replace(&folder.path().display().to_string(), "")).collect()
        };
        (of(Severity::Error), of(Severity::Warning), found)
    }

    fn name(path: &Path) -> String {
        path.file_name().expect("name").to_string_lossy().into_owned()
    }

    #[test]
    fn names_in_any_case_and_form() {
        for [certificate, key, id] in [
            ["certificate.pem", "private-key.pem", "registration-id"],
            ["Certificate.PEM", "PRIVATE-KEY.PEM", "Registration-ID"],
            ["certificate.CRT", "private-key.key", "registration-id.txt"],
            ["certificate.cer", "private-key.p8", "registration-id"],
            ["certificate.pem.txt", "private-key.pem.txt", "REGISTRATION-ID.TXT"],
        ] {
            let (errors, warnings, found) = open(&[(certificate, "c"), (key, KEY), (id, "a")]);
            assert_eq!((errors.len(), warnings.len()), (0, 0), "{errors:?} {warnings:?}");
            assert_eq!(name(&found.certificate), certificate);
            assert_eq!(name(&found.private_key), key);
            assert_eq!(found.registration_id.as_deref().map(name).as_deref(), Some(id));
        }
        let (errors, ..) = open(&[
            ("certificate.pem", "c"),
            ("Certificate.PEM", "c"),
            ("registration-id", "a"),
            ("Registration-Id", "b"),
        ]);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("which of them?"), "{errors:?}");
        let (.., found) = open(&[]);
        assert_eq!(name(&found.certificate), "certificate.pem");
    }

    #[test]
    fn strangers_are_named() {
        let (errors, warnings, _) = open(&[
            ("certificate.pem", "c"),
            ("private-key.pem", KEY),
            ("root.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            ("old.bak", KEY),
            ("backup/deep/k", KEY),
            ("p.pfx", "\u{30}\u{3}\u{2}\u{1}\u{3}"),
            ("hostname", "north\n"),
            ("Hosts.txt", "10.0.0.1 hub\n"),
            ("symmetric_key", "AAECAwQFBgcICQoLDA0ODw==\n"),
            ("source.toml", "from = \"tpm\"\n"),
            ("ca/readme", "x"),
            ("request.csr", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
            ("notes.txt", "x"),
            ("photos/a.png", "x"),
            (".DS_Store", "x"),
        ]);
        for expected in [
            "/root.pem: it seems to hold a certificate or key",
            "/old.bak: it seems",
            "/backup: it seems",
            "openssl pkcs12 -in p.pfx",
            "/hostname: a device's folder has",
            "/Hosts.txt: a device's",
            "with a column `symmetric_key`",
            "/source.toml: a device's",
            "/ca: a device's",
        ] {
            assert!(errors.iter().any(|error| error.contains(expected)), "{expected}: {errors:#?}");
        }
        assert_eq!(errors.len(), 9, "{errors:#?}");
        assert_eq!(
            warnings,
            ["/notes.txt: it is not taken", "/photos: it is not taken", "/request.csr: it is not taken"]
        );
    }

    #[test]
    fn names_of_settings() {
        for (name, column) in [
            ("wifi-key", Some("wifi_key")),
            ("bootstrap-certificate.pem", Some("bootstrap.certificate")),
            ("source-ca.pem", Some("source.ca")),
            ("authorized_keys", Some("authorized_keys")),
            ("Serial.txt", Some("serial")),
            ("readme.txt", None),
            ("source.toml", Some("source.from")),
        ] {
            assert_eq!(setting(name), column, "{name}");
        }
    }
}
