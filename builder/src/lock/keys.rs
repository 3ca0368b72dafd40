//! Signing keys: a keyring of exactly the pinned ones.
//!
//! Enough of OpenPGP (RFC 4880, RFC 9580) to take a keyring apart into its certificates and to compute their
//! fingerprints. Nothing is verified here: that is for gpgv, with the keyring that comes out.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use sha1::{Digest as _, Sha1};

use super::host::HostApt;
use crate::error::Problem;
use crate::files;
use crate::recipe::types::ArchiveKey;
use crate::store::Store;
use crate::store::net::{Client, parse};
use crate::store::pace::{Pace, Paced};
use crate::units::Digest;

/// No keyring is near this size.
const LIMIT: u64 = 16 << 20;
const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const ARMOR_END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
/// Packet tags (RFC 9580, 5).
const PUBLIC_KEY: u8 = 6;
/// GnuPG's private notes in its keyrings.
const TRUST: u8 = 12;

/// One certificate: a primary key with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Certificate {
    /// Upper-case hex; empty for key versions other than 4, which no archive uses yet.
    fingerprint: String,
    packets: Vec<u8>,
}

/// The binary keyring with the keys that an archive's recipe entry pins; `role` is the archive's.
///
/// # Errors
/// When the key file is missing or holds none of the pinned keys; says which it holds.
pub(crate) fn keyring(role: &str, key: &ArchiveKey, store: &Store) -> Result<Vec<u8>> {
    let (bytes, origin) = material(role, key, store)?;
    Ok(pinned(role, key, &bytes, &origin)?)
}

/// Has the key file of an archive, where it names one that is there, the pinned keys? For those who have no store yet.
///
/// # Errors
/// When it holds none of them; says which it holds.
pub(crate) fn judge_file(role: &str, key: &ArchiveKey) -> Result<(), Problem> {
    let Some(file) = key.file.as_ref().filter(|file| file.is_file()) else { return Ok(()) };
    let origin = file.display().to_string();
    let bytes = read(file).map_err(|error| {
        Problem::input(format!("the archive `{role}`: the key file {origin} cannot be read: {error}"))
    })?;
    pinned(role, key, &bytes, &origin).map(drop)
}

/// A key file, which has no business being large.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LIMIT {
        true => Err(std::io::Error::other("it is larger than 16 MiB, which no keyring is")),
        false => Ok(bytes),
    }
}

fn pinned(role: &str, key: &ArchiveKey, bytes: &[u8], origin: &str) -> Result<Vec<u8>, Problem> {
    pick(bytes, &key.fingerprints).map_err(|what| {
        let message = format!("the archive `{role}`: {what}, in the key file {origin}");
        Problem::input(message).hint(format!(
            "check archives.{role}.key: are these the fingerprints that the archive's owner states?"
        ))
    })
}

/// A fingerprint as it is compared: upper case, without spaces.
pub(crate) fn normal(fingerprint: &str) -> String {
    fingerprint.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_uppercase()).collect()
}

fn material(role: &str, key: &ArchiveKey, store: &Store) -> Result<(Vec<u8>, String)> {
    if let Some(file) = &key.file {
        match read(file) {
            Ok(bytes) => return Ok((bytes, file.display().to_string())),
            Err(error) if key.url.is_none() => {
                let message =
                    format!("the archive `{role}`: the key file {} cannot be read: {error}", file.display());
                let problem = Problem::input(message);
                return Err(match &key.package {
                    Some(package) => problem.hint(format!("install it: sudo apt-get install {package}")),
                    None => problem.hint(format!("correct archives.{role}.key.file")),
                }
                .into());
            }
            // The address stands in for it.
            Err(_) => {}
        }
    }
    let Some(url) = &key.url else {
        return Err(Problem::input(format!("archives.{role}.key has neither `file` nor `url`")).into());
    };
    let bytes =
        download(url, key, store).with_context(|| format!("fetching the key of the archive `{role}`"))?;
    Ok((bytes, url.clone()))
}

/// A key by its address: once in the store, it is taken from there for as long as it has the pinned keys.
fn download(url: &str, key: &ArchiveKey, store: &Store) -> Result<Vec<u8>> {
    let cached = store.keys_dir().join(Digest::of(url).to_string());
    if let Ok(bytes) = fs::read(&cached)
        && pick(&bytes, &key.fingerprints).is_ok()
    {
        return Ok(bytes);
    }
    let address = parse(url)?;
    if address.scheme() != "https" {
        return Err(Problem::input(format!("the key's address {url} is not https://")).into());
    }
    let answer = Client::new(HostApt::read().settings()).get(&address, 0);
    let answer = answer.map_err(|error| unreachable(url, &error.to_string()))?;
    if answer.status() != 200 {
        return Err(unreachable(url, &format!("the server answers {}", answer.status().as_u16())).into());
    }
    let mut bytes = Vec::new();
    let body = answer.into_body().into_with_config().limit(LIMIT).reader();
    let read = Paced::new(body, Pace::default()).read_to_end(&mut bytes);
    read.map_err(|error| unreachable(url, &error.to_string()))?;
    files::write(&cached, 0o644, &bytes).context("keeping the key")?;
    Ok(bytes)
}

fn unreachable(url: &str, why: &str) -> Problem {
    Problem::work(format!("{url} cannot be fetched: {why}"))
        .hint("is the host reachable? A proxy goes into https_proxy")
}

/// The certificates with these fingerprints, concatenated.
fn pick(bytes: &[u8], fingerprints: &[String]) -> Result<Vec<u8>, String> {
    let certificates = certificates(bytes)?;
    let mut ring = Vec::new();
    for wanted in fingerprints.iter().map(|text| normal(text)) {
        match certificates.iter().find(|certificate| certificate.fingerprint == wanted) {
            Some(certificate) => ring.extend_from_slice(&certificate.packets),
            None => {
                let held: Vec<&str> =
                    certificates.iter().map(|certificate| certificate.fingerprint.as_str()).collect();
                let held = if held.is_empty() { "none".to_owned() } else { held.join("\n  ") };
                return Err(format!("no key has the pinned fingerprint {wanted}; there are\n  {held}"));
            }
        }
    }
    if ring.is_empty() { Err("no fingerprint is pinned".to_owned()) } else { Ok(ring) }
}

fn certificates(bytes: &[u8]) -> Result<Vec<Certificate>, String> {
    let binary;
    let bytes = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        bytes
    } else {
        binary = dearmor(bytes).ok_or("it is neither a binary nor an armoured OpenPGP key")?;
        &binary
    };
    let mut all: Vec<Certificate> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let packet = Packet::read(rest).ok_or("it is a damaged OpenPGP key")?;
        let whole;
        (whole, rest) = rest.split_at(packet.whole);
        match (packet.tag, all.last_mut()) {
            (PUBLIC_KEY, _) => {
                all.push(Certificate { fingerprint: fingerprint(packet.body), packets: whole.to_vec() });
            }
            (TRUST, _) | (_, None) => {}
            (_, Some(last)) => last.packets.extend_from_slice(whole),
        }
    }
    Ok(all)
}

/// Version 4: SHA-1 over 0x99, a two-byte length and the packet's body (RFC 9580, 5.5.4.2).
fn fingerprint(body: &[u8]) -> String {
    let (Some(4), Ok(length)) = (body.first(), u16::try_from(body.len())) else { return String::new() };
    let mut hasher = Sha1::new();
    hasher.update([0x99]);
    hasher.update(length.to_be_bytes());
    hasher.update(body);
    hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

struct Packet<'a> {
    tag: u8,
    body: &'a [u8],
    /// Length with its header.
    whole: usize,
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes` (RFC 9580, 4.2). Lengths that are partial or unknown do not occur in keys.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        if first & 0x80 == 0 {
            return None;
        }
        let byte = |at: usize| bytes.get(at).copied().map(usize::from);
        let number = |at: usize, count: usize| {
            (at..at + count).try_fold(0usize, |sum, at| sum.checked_mul(256)?.checked_add(byte(at)?))
        };
        let (tag, header, length) = if first & 0x40 == 0 {
            let count = [1, 2, 4].get(usize::from(first & 3)).copied()?;
            ((first >> 2) & 15, 1 + count, number(1, count)?)
        } else {
            let (header, length) = match byte(1)? {
                length @ 0..192 => (2, length),
                high @ 192..224 => (3, (high - 192) * 256 + byte(2)? + 192),
                255 => (6, number(2, 4)?),
                _ => return None,
            };
            (first & 63, header, length)
        };
        let whole = header.checked_add(length)?;
        Some(Self { tag, body: bytes.get(header..whole)?, whole })
    }
}

/// All armoured blocks of a text, decoded (RFC 9580, 6.2). The checksum is not looked at: the fingerprint decides.
fn dearmor(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut out = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while lines.by_ref().any(|line| line == ARMOR) {
        let mut base64 = String::new();
        let mut ended = false;
        for line in lines.by_ref() {
            if line == ARMOR_END {
                ended = true;
                break;
            }
            // Headers such as `Version: …`, and the checksum `=ABCD`.
            if !line.contains(':') && !line.starts_with('=') {
                base64.push_str(line);
            }
        }
        if !ended {
            return None;
        }
        out.extend(base64::engine::general_purpose::STANDARD.decode(base64).ok()?);
    }
    (!out.is_empty()).then_some(out)
}

/// Writes a keyring for apt, which drops to another user when it can: it must be readable.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(path: &Path, keyring: &[u8]) -> Result<()> {
    fs::write(path, keyring).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{ArchiveKey, Path, certificates, judge_file, pick, pinned, read};

    /// A throw-away Ed25519 key, exported with `gpg --armor --export`.
    const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n\
        mDMEawIY0RYJKwYBBAHaRw8BAQdAmXXSO7vKBpGtqnT46OXLfFEKEWxdlNe//eJe\n\
        MuMDQeu0IWVkZ2VwcmVzcyB0ZXN0IDx0ZXN0QGV4YW1wbGUuY29tPoiQBBMWCAA4\n\
        FiEE6MFVfanH4YXMq8w61dv90ppRfu8FAmsCGNECGwMFCwkIBwIGFQoJCAsCBBYC\n\
        AwECHgECF4AACgkQ1dv90ppRfu9bVwEA9pFgr2MR48nPimBMeoeJg7FXVp+lW7CD\n\
        /uroHBzGCFkBAOHJlNLMQ99+eUBOtJei/wrBjeM9itBPpwphTk+M6ekN\n\
        =oYTL\n-----END PGP PUBLIC KEY BLOCK-----\n";
    const FINGERPRINT: &str = "E8C1557DA9C7E185CCABCC3AD5DBFDD29A517EEF";

    #[test]
    fn finds_the_pinned_key_in_either_form() {
        let found = certificates(KEY.as_bytes()).expect("parses");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].fingerprint, FINGERPRINT);
        let spaced = FINGERPRINT.to_lowercase().replace('7', " 7");
        let ring = pick(KEY.as_bytes(), &[spaced]).expect("picks");
        assert_eq!(certificates(&ring).expect("parses"), found);
        let two = [&ring[..], &ring[..]].concat();
        assert_eq!(pick(&two, &[FINGERPRINT.into()]).expect("picks").len(), ring.len());
    }

    #[test]
    fn the_recipes_bring_the_keys_that_they_pin() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
        let mut carried = 0;
        for entry in std::fs::read_dir(&folder).expect("lists").flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|ending| ending != "toml") {
                continue;
            }
            // One shipped recipe asks for the vault's address.
            let vault = ["provisioning.certificate.vault=https://x.vault.azure.net".to_owned()];
            let load = |sets| crate::recipe::load(&path, sets, None);
            let recipe = load(&[]).or_else(|_| load(&vault)).expect("loads").recipe;
            for (role, archive) in &recipe.archives {
                let Some(file) = &archive.key.file else { continue };
                assert!(
                    file.starts_with(folder.canonicalize().expect("resolves")),
                    "{role}: {}",
                    file.display()
                );
                let ring =
                    pinned(role, &archive.key, &read(file).expect("reads"), "x").expect("has the keys");
                assert_eq!(
                    certificates(&ring).expect("parses").len(),
                    archive.key.fingerprints.len(),
                    "{role}"
                );
                carried += 1;
            }
        }
        assert!(carried > 8, "{carried}");
    }

    #[test]
    fn a_file_without_the_pinned_key_is_told_before_a_lock_is_made() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), KEY).expect("writes");
        let key = |fingerprint: &str| ArchiveKey {
            fingerprints: vec![fingerprint.into()],
            file: Some(file.path().into()),
            url: None,
            package: None,
        };
        assert_eq!(judge_file("own", &key(FINGERPRINT)), Ok(()));
        let problem = judge_file("own", &key(&"0".repeat(40))).expect_err("another key");
        assert!(problem.message.contains(FINGERPRINT) && problem.hint.is_some(), "{problem}");
    }

    #[test]
    fn another_key_is_refused_and_named() {
        let error = pick(KEY.as_bytes(), &["0".repeat(40)]).expect_err("refused");
        assert!(error.contains(&"0".repeat(40)) && error.contains(FINGERPRINT), "{error}");
        assert!(pick(KEY.as_bytes(), &[]).is_err());
    }

    #[test]
    fn damaged_keys_are_errors_and_never_panics() {
        let ring = pick(KEY.as_bytes(), &[FINGERPRINT.into()]).expect("picks");
        for length in 0..ring.len() {
            let _ = certificates(&ring[..length]);
            let mut damaged = ring.clone();
            damaged[length] ^= 0xff;
            let _ = certificates(&damaged);
        }
        for bytes in [&b""[..], b"not a key", b"\x80", b"\xc6\xff\xff\xff\xff\xff", &KEY.as_bytes()[..80]] {
            assert!(certificates(bytes).map_or(true, |all| all.is_empty()), "{bytes:?}");
        }
    }
}
