//! The device's root file system as the machine left it: brought up to date from its journal, checked, and read with
//! debugfs. No mount, no root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use rcgen::PublicKeyData as _;
use x509_parser::pem::Pem;

use super::checks::partition_size;
use super::copy::Copy;
use crate::host;
use crate::verdict::Check;

/// Where first boot puts the identity (overlays/base).
const CERTIFICATES: &str = "/var/secrets/aziot/certs";
const KEYS: &str = "/var/secrets/aziot/keys";
const CERTIFICATE: &str = "device-id.pem";
const KEY: &str = "device-id.key.pem";
/// What first boot writes last: the registration id.
const PROVISIONED: &str = "/var/lib/edgepress/provisioned";

/// Folders in which first boot writes.
const WRITTEN: [&str; 5] = [CERTIFICATES, KEYS, "/var/lib/edgepress", "/etc/aziot", "/etc"];

/// Endings of files that are not whole yet.
const UNFINISHED: [&str; 2] = [".new", ".tmp"];

/// The names of the checks, in the order of the report.
pub(super) const NAMES: [&str; 3] = ["file-system", "one-identity", "no-leftovers"];

/// Exit status of e2fsck: nothing was wrong.
const CLEAN: i32 = 0;

/// A private copy of the root partition.
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// Copies the partition at `offset` out of the machine's disk. The machine must be off.
    ///
    /// # Errors
    /// When there is no such partition, or the copy cannot be read.
    pub(crate) fn take(copy: &Copy, offset: u64) -> Result<Self> {
        let size = partition_size(copy, offset)?.context("the root partition is gone")?;
        Ok(Self { path: copy.read("root.raw", offset, size)? })
    }

    /// The copy.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every check, by [`NAMES`]; `installed`: first boot put certificate and key into their places.
    ///
    /// # Errors
    /// When a program is missing or cannot run.
    pub(crate) fn checks(&self, registration_id: &str, installed: bool) -> Result<Vec<Check>> {
        // First, for it replays the journal: until then the latest files and names are there only.
        let sound = self.sound()?;
        let identity = if installed {
            self.one_identity(registration_id)?
        } else {
            Check::skipped(NAMES[1], "the runtime keeps this device's identity by itself")
        };
        Ok(vec![sound, identity, self.no_leftovers()?])
    }

    /// What the kernel would do when it mounts it; until then the latest files are in the journal only.
    ///
    /// # Errors
    /// When e2fsck is missing.
    pub(crate) fn replay(&self) -> Result<Output> {
        let mut replay = self.e2fsck()?;
        host::output(replay.args(["-y", "-E", "journal_only"]).arg(&self.path))
    }

    /// What the kernel would do when it mounts it, then everything that there is to check.
    fn sound(&self) -> Result<Check> {
        let replayed = self.replay()?;
        let mut check = self.e2fsck()?;
        check.args(["-f", "-n"]).arg(&self.path);
        let found = host::output(&mut check)?;
        let sound = found.status.code() == Some(CLEAN);
        let detail = if sound {
            "e2fsck finds no fault once the journal is replayed".to_owned()
        } else {
            let said = [replayed.stdout, replayed.stderr, found.stdout, found.stderr].concat();
            format!("e2fsck: {}", host::tail(&String::from_utf8_lossy(&said), 12).replace('\n', "; "))
        };
        Ok(Check::new(NAMES[0], sound, detail))
    }

    fn one_identity(&self, registration_id: &str) -> Result<Check> {
        Ok(match self.identity(registration_id)? {
            Ok(()) => Check::new(
                NAMES[1],
                true,
                format!("one certificate and the key that belongs to it, recorded as {registration_id}"),
            ),
            Err(why) => Check::new(NAMES[1], false, why),
        })
    }

    fn identity(&self, registration_id: &str) -> Result<Result<(), String>> {
        for (folder, name) in [(CERTIFICATES, CERTIFICATE), (KEYS, KEY)] {
            let names = self.list(folder)?;
            if names != [name] {
                return Ok(Err(format!("{folder} holds {names:?}: expected {name} alone")));
            }
        }
        let (certificate, key) =
            (self.read(&format!("{CERTIFICATES}/{CERTIFICATE}"))?, self.read(&format!("{KEYS}/{KEY}"))?);
        if let Err(error) = belong_together(&certificate, &key, registration_id) {
            return Ok(Err(format!("{error:#}")));
        }
        let recorded = self.read(PROVISIONED)?;
        let recorded = String::from_utf8_lossy(&recorded).trim().to_owned();
        Ok(if recorded == registration_id {
            Ok(())
        } else {
            Err(format!("{PROVISIONED} says `{recorded}`: expected {registration_id}"))
        })
    }

    fn no_leftovers(&self) -> Result<Check> {
        let mut found = Vec::new();
        for folder in WRITTEN {
            let unfinished = |name: &String| UNFINISHED.iter().any(|ending| name.ends_with(ending));
            found.extend(
                self.list(folder)?.into_iter().filter(unfinished).map(|name| format!("{folder}/{name}")),
            );
        }
        let detail = match found.is_empty() {
            true => "no file that was begun and not finished".to_owned(),
            false => format!("begun and not finished: {}", found.join(", ")),
        };
        Ok(Check::new(NAMES[2], found.is_empty(), detail))
    }

    fn e2fsck(&self) -> Result<Command> {
        let mut command = host::command("e2fsck")?;
        command.env("LC_ALL", "C");
        Ok(command)
    }

    /// A whole file; nothing where there is none.
    ///
    /// # Errors
    /// When debugfs is missing.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        debugfs(&self.path, &format!("cat {path}"))
    }

    /// The names in a folder, in order; none where there is no folder.
    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let said = debugfs(&self.path, &format!("ls -p {folder}"))?;
        let mut names: Vec<_> = String::from_utf8_lossy(&said).lines().filter_map(listed).collect();
        names.sort();
        Ok(names)
    }
}

/// Lets debugfs do one thing and returns what it says.
///
/// # Errors
/// When it is missing.
pub(super) fn debugfs(device: &Path, request: &str) -> Result<Vec<u8>> {
    let mut command = host::command("debugfs")?;
    host::run(command.env("LC_ALL", "C").args(["-R", request]).arg(device))
}

/// The name in a line of `ls -p`: `/inode/mode/uid/gid/name/size/`.
fn listed(line: &str) -> Option<String> {
    let name = line.split('/').nth(5)?;
    (!matches!(name, "" | "." | "..")).then(|| name.to_owned())
}

/// Is the key that of the certificate, and the certificate that of the device?
fn belong_together(certificate: &[u8], key: &[u8], registration_id: &str) -> Result<()> {
    let pem = Pem::iter_from_buffer(certificate).next().context("the certificate is empty")?;
    let pem = pem.context("reading the certificate")?;
    let parsed = pem.parse_x509().context("reading the certificate")?;
    let names: Vec<_> = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    anyhow::ensure!(
        names == [registration_id],
        "the certificate is that of {}: expected {registration_id}",
        names.join(", ")
    );
    // What is wrong with a key is not said: errors may show what they are about.
    let key = std::str::from_utf8(key).ok().and_then(|text| rcgen::KeyPair::from_pem(text).ok());
    let key = key.context("the key cannot be read")?;
    let same = key.subject_public_key_info() == parsed.public_key().raw;
    anyhow::ensure!(same, "the key is not that of the certificate");
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::{CERTIFICATES, KEYS, NAMES, Root, listed};
    use crate::host;
    use crate::sim::pki::{DeviceCertificate, DeviceOptions, Pki};
    use crate::verdict::Outcome;

    /// A file system of 16 MiB with these files.
    pub(crate) fn file_system(folder: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        let tree = folder.join("tree");
        for (path, content) in files {
            let path = tree.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, content).expect("write");
        }
        let path = folder.join("root.raw");
        let mut command = host::command("mke2fs").expect("e2fsprogs");
        command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"]);
        host::run(command.arg(&tree).arg(&path).arg("16M")).expect("mke2fs");
        fs::remove_dir_all(tree).expect("remove");
        path
    }

    fn devices(folder: &Path) -> [DeviceCertificate; 2] {
        let pki = Pki::open_or_create(&folder.join("pki")).expect("pki");
        ["dev-1", "dev-2"].map(|id| pki.issue_device(id, &DeviceOptions::default()).expect("device"))
    }

    /// The details of the checks that fail on a device of these files, and of `more`.
    fn failures(certificate: &[u8], key: &[u8], more: &[(&str, &[u8])]) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().expect("temp dir");
        let (place, key_place) =
            (format!("{CERTIFICATES}/device-id.pem"), format!("{KEYS}/device-id.key.pem"));
        let mut files: Vec<(&str, &[u8])> =
            vec![(&place, certificate), (&key_place, key), ("/var/lib/edgepress/provisioned", b"dev-1\n")];
        files.extend(more);
        let root = Root { path: file_system(folder.path(), &files) };
        let checks = root.checks("dev-1", true).expect("checks");
        assert_eq!(checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), NAMES);
        let failed = checks.into_iter().filter(|check| check.outcome == Outcome::Failed);
        failed.map(|check| (check.name, check.detail)).collect()
    }

    #[test]
    fn identities() {
        let folder = tempfile::tempdir().expect("temp dir");
        let [one, other] = devices(folder.path());
        let (chain, key) = (one.chain_pem.as_bytes(), one.key_pem.as_bytes());
        assert_eq!(failures(chain, key, &[]), []);
        let says = |found: Vec<(String, String)>, name: &str, words: &str| {
            assert!(found.len() == 1 && found[0].0 == name && found[0].1.contains(words), "{found:?}");
            let secret = other.key_pem.lines().nth(1).expect("a line");
            assert!(!found[0].1.contains(secret));
        };
        says(failures(chain, other.key_pem.as_bytes(), &[]), "one-identity", "not that of the certificate");
        says(failures(other.chain_pem.as_bytes(), key, &[]), "one-identity", "that of dev-2");
        says(failures(&chain[..200], key, &[]), "one-identity", "reading the certificate");
        says(failures(chain, &key[..100], &[]), "one-identity", "the key cannot be read");
        says(failures(chain, b"", &[]), "one-identity", "the key cannot be read");
        let second: &[(&str, &[u8])] = &[("/var/secrets/aziot/keys/second.pem", b"x")];
        says(failures(chain, key, second), "one-identity", "second.pem");
        let unfinished: &[(&str, &[u8])] = &[("/etc/hostname.new", b"x")];
        says(failures(chain, key, unfinished), "no-leftovers", "/etc/hostname.new");
        let record: &[(&str, &[u8])] = &[("/var/lib/edgepress/provisioned", b"dev-2\n")];
        says(failures(chain, key, record), "one-identity", "says `dev-2`");
    }

    #[test]
    fn a_damaged_file_system() {
        use std::os::unix::fs::FileExt as _;

        let folder = tempfile::tempdir().expect("temp dir");
        let path = file_system(folder.path(), &[("/etc/hostname", b"x")]);
        let root = Root { path };
        assert_eq!(root.sound().expect("check").outcome, Outcome::Passed);
        let file = fs::File::options().write(true).open(root.path()).expect("open");
        // The second group descriptor's neighbourhood: bitmaps and inode tables.
        file.write_all_at(&[0xff; 64], 4096).expect("write");
        let check = root.sound().expect("check");
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.detail.starts_with("e2fsck: "), "{}", check.detail);
    }

    #[test]
    fn lines_of_debugfs() {
        for (line, name) in [
            ("/16987/100644/0/0/grown/0/", Some("grown")),
            ("/2/040755/0/0/./4096/", None),
            ("/2/040755/0/0/../4096/", None),
            ("", None),
            ("/etc/nothing: File not found by ext2_lookup", None),
        ] {
            assert_eq!(listed(line).as_deref(), name, "{line}");
        }
    }
}
