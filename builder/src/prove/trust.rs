//! The simulators' certificate authority in the trust store of an image that takes none from its FAT partition: put into
//! the root file system of the copy, as `update-ca-certificates` would have done it on the device.
//!
//! ```text
//! /usr/local/share/ca-certificates/edgepress-simulator.crt   the certificate
//! /etc/ssl/certs/edgepress-simulator.pem                     a link to it
//! /etc/ssl/certs/0a1b2c3d.0                                  a link to that, by the subject's hash
//! /etc/ssl/certs/ca-certificates.crt                         all of them in one file, this one at the end
//! ```
//!
//! The image is only read. `e2image` copies the file system's own structures, 1 % of it, into a file with holes; debugfs
//! works on that; what has changed in it are the blocks that go into the copy.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha1::{Digest as _, Sha1};
use x509_parser::pem::Pem;
use x509_parser::x509::X509Name;

use super::root::debugfs;
use crate::disk::sparse::data_ranges;
use crate::disk::survey::BLOCK;
use crate::host;

/// The certificate's name, without an ending.
const NAME: &str = "edgepress-simulator";
const LOCAL: &str = "/usr/local/share/ca-certificates";
/// The folder of the trust store.
pub(super) const STORE: &str = "/etc/ssl/certs";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Files that debugfs reads and writes stand in this folder under these names.
const METADATA: &str = "trust.raw";
const CERTIFICATE: &str = "trust.crt";
const WHOLE: &str = "trust-bundle.crt";

/// A root file system in an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The image.
    pub image: &'a Path,
    /// Where the file system begins.
    pub offset: u64,
    /// The times that new files get, seconds since 1970.
    pub epoch: u64,
}

/// The blocks of the image that change when its root trusts the authority, as (offset in the image, bytes). `scratch` is
/// a private folder.
///
/// # Errors
/// When the image has no trust store, or a program of e2fsprogs is missing or fails.
pub(super) fn blocks(place: &Place<'_>, ca_pem: &str, scratch: &Path) -> Result<Vec<(u64, Vec<u8>)>> {
    let device = format!("{}?offset={}", place.image.display(), place.offset);
    let bundle = debugfs(Path::new(&device), &format!("cat {BUNDLE}"))?;
    ensure!(!bundle.is_empty(), "the image has no {BUNDLE}: is the package ca-certificates in its recipe?");
    let link = format!("{}.0", subject_hash(ca_pem)?);
    fs::write(scratch.join(CERTIFICATE), ca_pem).context("writing the simulators' certificate")?;
    fs::write(scratch.join(WHOLE), joined(&bundle, ca_pem)).context("writing the trusted certificates")?;
    let metadata = scratch.join(METADATA);
    let mut copy = host::command("e2image")?;
    copy.args(["-r", "-o", &place.offset.to_string()]).arg(place.image).arg(&metadata);
    host::run(copy.env("LC_ALL", "C"))?;
    change(place, &link, scratch)?;
    let changed = changed(place, &metadata)?;
    verify(&metadata, &link)?;
    for name in [METADATA, CERTIFICATE, WHOLE] {
        fs::remove_file(scratch.join(name)).with_context(|| format!("removing {name}"))?;
    }
    Ok(changed)
}

fn joined(bundle: &[u8], ca_pem: &str) -> Vec<u8> {
    let mut whole = bundle.to_vec();
    if whole.last().is_some_and(|byte| *byte != b'\n') {
        whole.push(b'\n');
    }
    whole.extend_from_slice(ca_pem.as_bytes());
    whole
}

fn change(place: &Place<'_>, link: &str, scratch: &Path) -> Result<()> {
    let mut script = format!(
        "rm {BUNDLE}\nwrite {WHOLE} {BUNDLE}\nwrite {CERTIFICATE} {LOCAL}/{NAME}.crt\n\
         symlink {STORE}/{NAME}.pem {LOCAL}/{NAME}.crt\nsymlink {STORE}/{link} {NAME}.pem\n"
    );
    for path in [BUNDLE, &format!("{LOCAL}/{NAME}.crt")] {
        for (field, value) in [("mode", "0100644"), ("uid", "0"), ("gid", "0")] {
            script.push_str(&format!("sif {path} {field} {value}\n"));
        }
    }
    let paths = [
        BUNDLE.to_owned(),
        format!("{LOCAL}/{NAME}.crt"),
        format!("{STORE}/{NAME}.pem"),
        format!("{STORE}/{link}"),
        STORE.to_owned(),
        LOCAL.to_owned(),
    ];
    for path in paths {
        for field in ["atime", "ctime", "mtime", "crtime"] {
            script.push_str(&format!("sif {path} {field} @{}\n", place.epoch));
        }
    }
    let mut command = host::command("debugfs")?;
    command.current_dir(scratch).env_clear().env("LC_ALL", "C");
    // Before 1.47.1 it knows only the first variable.
    for variable in ["E2FSPROGS_FAKE_TIME", "SOURCE_DATE_EPOCH"] {
        command.env(variable, place.epoch.to_string());
    }
    let mut file = tempfile::Builder::new().tempfile_in(scratch).context("writing a script for debugfs")?;
    file.write_all(script.as_bytes()).context("writing a script for debugfs")?;
    host::run(command.args(["-w", "-f"]).arg(file.path()).arg(METADATA)).map(drop)
}

/// debugfs succeeds whatever happened: what it should have made is read again.
fn verify(metadata: &Path, link: &str) -> Result<()> {
    for path in [
        format!("{LOCAL}/{NAME}.crt"),
        format!("{STORE}/{NAME}.pem"),
        format!("{STORE}/{link}"),
        BUNDLE.into(),
    ] {
        let said = debugfs(metadata, &format!("stat {path}"))?;
        ensure!(said.starts_with(b"Inode:"), "debugfs did not make {path} in the image's copy");
    }
    let mut check: Command = host::command("e2fsck")?;
    check.args(["-f", "-n"]).arg(metadata);
    host::run(check.env("LC_ALL", "C")).context("putting a certificate into the image's copy").map(drop)
}

/// The blocks of `metadata` that differ from the image's.
fn changed(place: &Place<'_>, metadata: &Path) -> Result<Vec<(u64, Vec<u8>)>> {
    let context = || format!("reading {}", metadata.display());
    let file = File::open(metadata).with_context(context)?;
    let image = File::open(place.image).with_context(|| format!("opening {}", place.image.display()))?;
    let size = file.metadata().with_context(context)?.len();
    let block = usize::try_from(BLOCK)?;
    let (mut new, mut old) = (vec![0; block], vec![0; block]);
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for range in data_ranges(&file, size)? {
        let first = range.start / BLOCK * BLOCK;
        for at in (first..range.end.min(size / BLOCK * BLOCK)).step_by(block) {
            file.read_exact_at(&mut new, at).with_context(context)?;
            image
                .read_exact_at(&mut old, place.offset + at)
                .with_context(|| format!("reading {}", place.image.display()))?;
            if new == old {
                continue;
            }
            match runs.last_mut() {
                Some((start, bytes)) if *start + bytes.len() as u64 == place.offset + at => {
                    bytes.extend(&new);
                }
                _ => runs.push((place.offset + at, new.clone())),
            }
        }
    }
    Ok(runs)
}

/// The name by which OpenSSL looks for a certificate: the first four bytes, the last one first, of the SHA-1 of the
/// subject in canonical form (`X509_NAME_hash_ex`; the form is described at `x509_name_canon` in crypto/x509/x_name.c).
fn subject_hash(pem: &str) -> Result<String> {
    let pem = Pem::iter_from_buffer(pem.as_bytes()).next().context("the certificate is empty")?;
    let pem = pem.context("reading the simulators' certificate")?;
    let certificate = pem.parse_x509().context("reading the simulators' certificate")?;
    let digest = Sha1::digest(canonical(certificate.subject())?);
    let bytes: [u8; 4] = digest[..4].try_into().context("a digest of SHA-1 has 20 bytes")?;
    Ok(format!("{:08x}", u32::from_le_bytes(bytes)))
}

/// Each set of the name, without the sequence around them: texts in UTF-8, small letters, single blanks.
fn canonical(name: &X509Name<'_>) -> Result<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const OID: u8 = 0x06;
    const UTF8: u8 = 0x0c;
    let mut all = Vec::new();
    for set in name.iter() {
        let mut members = Vec::new();
        for attribute in set.iter() {
            let text = attribute.as_str().context("reading the simulators' name")?;
            let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
            let pair = [tagged(OID, attribute.attr_type().as_bytes())?, tagged(UTF8, text.as_bytes())?];
            members.extend(tagged(SEQUENCE, &pair.concat())?);
        }
        all.extend(tagged(SET, &members)?);
    }
    Ok(all)
}

/// DER of a value of less than 128 bytes.
fn tagged(tag: u8, value: &[u8]) -> Result<Vec<u8>> {
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 128);
    let length = length.context("a name of more than 127 bytes")?;
    Ok([&[tag, length], value].concat())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};

    use super::{BUNDLE, LOCAL, NAME, Place, STORE, blocks, subject_hash};
    use crate::host;
    use crate::prove::root::debugfs;
    use crate::prove::root::tests::file_system;
    use crate::sim::pki::Pki;

    const OFFSET: u64 = 3 << 20;
    const EPOCH: u64 = 1_700_000_000;

    /// An image with a root file system that holds `files`.
    fn image(folder: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        let root = fs::read(file_system(folder, files)).expect("read");
        let path = folder.join("an image.img");
        let file = File::create_new(&path).expect("create");
        file.write_all_at(&root, OFFSET).expect("write");
        path
    }

    fn authority(folder: &Path) -> String {
        Pki::open_or_create(&folder.join("pki")).expect("pki").server_ca_pem().to_owned()
    }

    #[test]
    fn the_copy_trusts_and_the_image_stays() {
        let folder = tempfile::tempdir().expect("temp dir");
        let ca = authority(folder.path());
        let local = format!("{LOCAL}/README");
        let bundle = b"-----BEGIN CERTIFICATE-----\nothers\n-----END CERTIFICATE-----".as_slice();
        let image = image(folder.path(), &[(BUNDLE, bundle), (&local, b"x"), ("/large", &vec![9; 4 << 20])]);
        let before = fs::read(&image).expect("read");
        let place = Place { image: &image, offset: OFFSET, epoch: EPOCH };
        let changed = blocks(&place, &ca, folder.path()).expect("blocks");
        assert_eq!(fs::read(&image).expect("read"), before);
        let bytes: usize = changed.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 200_000 && changed.iter().all(|(at, _)| *at >= OFFSET), "{bytes} bytes");
        assert_eq!(changed, blocks(&place, &ca, folder.path()).expect("again"), "the same bytes each time");

        let mut after = before[usize::try_from(OFFSET).expect("small")..].to_vec();
        for (at, bytes) in &changed {
            let at = usize::try_from(at - OFFSET).expect("small");
            after[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let root = folder.path().join("after.raw");
        fs::write(&root, &after).expect("write");
        host::run(host::command("e2fsck").expect("e2fsprogs").args(["-f", "-n"]).arg(&root)).expect("clean");
        let ask =
            |request: String| String::from_utf8(debugfs(&root, &request).expect("debugfs")).expect("text");
        assert_eq!(ask(format!("cat {LOCAL}/{NAME}.crt")), ca);
        let whole = format!("{}\n{ca}", std::str::from_utf8(bundle).expect("text"));
        assert_eq!(ask(format!("cat {BUNDLE}")), whole);
        assert_eq!(debugfs(&root, "cat /large").expect("debugfs"), vec![9; 4 << 20]);
        let hash = subject_hash(&ca).expect("hash");
        for (path, target) in [
            (format!("{STORE}/{NAME}.pem"), format!("{LOCAL}/{NAME}.crt")),
            (format!("{STORE}/{hash}.0"), format!("{NAME}.pem")),
        ] {
            assert!(ask(format!("stat {path}")).contains(&format!("Fast link dest: \"{target}\"")));
        }
        for path in [BUNDLE.to_owned(), format!("{LOCAL}/{NAME}.crt"), STORE.to_owned()] {
            let said = ask(format!("stat {path}"));
            assert!(said.contains(&format!("mtime: 0x{EPOCH:08x}:00000000")), "{said}");
            assert!(said.contains("User:     0   Group:     0"), "{said}");
            assert!(path == STORE || said.contains("Mode:  0644"), "{said}");
        }
    }

    #[test]
    fn without_a_trust_store() {
        let folder = tempfile::tempdir().expect("temp dir");
        let image = image(folder.path(), &[("/etc/hostname", b"x")]);
        let place = Place { image: &image, offset: OFFSET, epoch: EPOCH };
        let error = blocks(&place, &authority(folder.path()), folder.path()).expect_err("nothing to add to");
        assert!(error.to_string().contains("is the package ca-certificates in its recipe?"), "{error}");
    }

    #[test]
    fn the_hash_is_openssl_s() {
        let folder = tempfile::tempdir().expect("temp dir");
        let ca = authority(folder.path());
        let path = folder.path().join("ca.pem");
        fs::write(&path, &ca).expect("write");
        let mut openssl = host::command("openssl").expect("openssl");
        let said =
            host::run(openssl.args(["x509", "-noout", "-subject_hash", "-in"]).arg(&path)).expect("openssl");
        assert_eq!(subject_hash(&ca).expect("hash"), String::from_utf8_lossy(&said).trim());
        assert!(subject_hash("").is_err());
    }
}
