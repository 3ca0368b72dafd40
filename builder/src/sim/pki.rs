//! The simulator's certificate authorities.
//!
//! ```text
//! edgepress simulator root ── server CA ── one certificate for each service name   (TLS)
//! enrolment root ── enrolment CA ── one certificate for each device                (DPS enrolment group)
//! ```
//!
//! The two trees are separate, as in the field: trusting the servers does not let a device in. A device sends
//! its certificate and the enrolment CA; DPS knows only the enrolment root.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::error::Problem;
use crate::units::Digest;

/// How far back a certificate's validity begins: a guest's clock may be behind.
const BACKDATED: Duration = Duration::DAY;
/// How long a server's or a device's certificate holds.
const LEAF_LIFE: Duration = Duration::days(365);
/// How long an authority holds.
const CA_LIFE: Duration = Duration::days(20 * 365);
/// The oldest clock that an authority is good for: a machine without a clock starts at its image's date.
const CA_BACKDATED: Duration = Duration::days(3 * 365);

const ROOT: &str = "root";
const SERVER: &str = "server-ca";
const GROUP_ROOT: &str = "enrolment-root";
const GROUP: &str = "enrolment-ca";
const AUTHORITIES: [(&str, &str); 4] = [
    (ROOT, "edgepress simulator root"),
    (SERVER, "edgepress simulator server CA"),
    (GROUP_ROOT, "edgepress simulator enrolment root"),
    (GROUP, "edgepress simulator enrolment CA"),
];

/// The authorities of one simulated world; cheap to clone.
#[derive(Clone)]
pub struct Pki(Arc<Authorities>);

struct Authorities {
    root_pem: String,
    server: Authority,
    group_root: CertificateDer<'static>,
    group: Authority,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pki")
    }
}

/// How a device certificate is made; the default is a good one.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Start of validity (UTC); a day ago where there is none.
    pub not_before: Option<OffsetDateTime>,
    /// End of validity (UTC); in a year where there is none.
    pub not_after: Option<OffsetDateTime>,
    /// Signed by authorities of the same names with other keys: only the signature tells.
    pub wrong_ca: bool,
}

impl DeviceOptions {
    /// A certificate that expired an hour ago.
    pub fn expired() -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            not_before: Some(now - Duration::days(30)),
            not_after: Some(now - Duration::HOUR),
            wrong_ca: false,
        }
    }

    /// A certificate that becomes valid in a day.
    pub fn not_yet_valid() -> Self {
        Self { not_before: Some(OffsetDateTime::now_utc() + Duration::DAY), ..Self::default() }
    }

    /// A certificate of another authority.
    pub fn wrong_ca() -> Self {
        Self { wrong_ca: true, ..Self::default() }
    }
}

/// What a device needs to prove who it is.
#[derive(Clone)]
pub struct DeviceCertificate {
    /// The certificate's common name.
    pub registration_id: String,
    /// The device's certificate, then the enrolment CA's.
    pub chain_pem: String,
    /// The private key, PKCS#8 (secret).
    pub key_pem: String,
    /// SHA-256 of the device's certificate (DER).
    pub thumbprint: Digest,
}

impl fmt::Debug for DeviceCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceCertificate({}, {})", self.registration_id, self.thumbprint)
    }
}

/// A server's certificate and key, as TLS wants them.
pub(super) struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Pki {
    /// Opens the authorities kept in `dir`, or makes them there: PEM files, keys with mode 0600.
    ///
    /// # Errors
    /// When the folder holds something else, or cannot be read or written.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        let empty = match fs::read_dir(dir) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
        };
        if empty {
            create(dir)?;
        }
        open(dir)
    }

    /// The certificate that whoever talks to the simulators must trust.
    pub fn server_ca_pem(&self) -> &str {
        &self.0.root_pem
    }

    /// The enrolment group's root, as one would upload it to DPS.
    pub(super) fn enrolment_root(&self) -> &CertificateDer<'static> {
        &self.0.group_root
    }

    /// A certificate for a server of these names (host names or addresses), good at `now` and at the host's
    /// own time.
    pub(super) fn issue_server(&self, names: &[String], now: OffsetDateTime) -> Result<ServerCertificate> {
        let host = OffsetDateTime::now_utc();
        let mut params = CertificateParams::new(names).context("naming a server certificate")?;
        let first = names.first().map_or("edgepress simulator", String::as_str);
        params.distinguished_name.push(DnType::CommonName, first.chars().take(64).collect::<String>());
        params.not_before = now.min(host) - BACKDATED;
        params.not_after = now.max(host) + LEAF_LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("making a server key")?;
        let leaf = params.signed_by(&key, &self.0.server.issuer).context("signing a server certificate")?;
        let authority = certificate(&self.0.server.pem).context("reading the server CA")?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| anyhow::anyhow!("encoding a server key: {error}"))?;
        Ok(ServerCertificate { chain: vec![leaf.der().clone(), authority], key })
    }

    /// A device certificate (EC P-256) of the enrolment group, its common name the registration id.
    ///
    /// # Errors
    /// When the registration id cannot be a common name.
    pub fn issue_device(&self, registration_id: &str, options: &DeviceOptions) -> Result<DeviceCertificate> {
        if registration_id.is_empty() || registration_id.len() > 64 || !registration_id.is_ascii() {
            return Err(Problem::input(format!(
                "`{registration_id}` cannot be a certificate's common name: expected 1 to 64 ASCII characters"
            ))
            .into());
        }
        let strangers;
        let authority = if options.wrong_ca {
            let root = make_authority(GROUP_ROOT, None)?;
            strangers = authority_of(&make_authority(GROUP, Some(&root))?)?;
            &strangers
        } else {
            &self.0.group
        };
        let mut params = CertificateParams::default();
        let now = OffsetDateTime::now_utc();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, registration_id);
        params.not_before = options.not_before.unwrap_or(now - BACKDATED);
        params.not_after = options.not_after.unwrap_or(now + LEAF_LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("making a device key")?;
        let leaf = params.signed_by(&key, &authority.issuer).context("signing a device certificate")?;
        Ok(DeviceCertificate {
            registration_id: registration_id.to_owned(),
            chain_pem: format!("{}{}", leaf.pem(), authority.pem),
            key_pem: key.serialize_pem(),
            thumbprint: Digest::of(leaf.der()),
        })
    }

    /// The device's identity as first boot takes it from the FAT partition: paths below `edgepress/`, contents.
    /// One of them is the private key.
    pub fn identity(&self, device: &DeviceCertificate) -> Vec<(PathBuf, Vec<u8>)> {
        [
            ("registration-id", format!("{}\n", device.registration_id)),
            ("certificate.pem", device.chain_pem.clone()),
            (PRIVATE_KEY, device.key_pem.clone()),
            ("ca/simulator.pem", self.server_ca_pem().to_owned()),
        ]
        .into_iter()
        .map(|(path, text)| (PathBuf::from(path), text.into_bytes()))
        .collect()
    }

    /// Writes [`Pki::identity`] and `more` files as the folder `edgepress/` in `out`, the key with mode 0600.
    ///
    /// # Errors
    /// When the folder exists already, or cannot be written.
    pub fn write_identity(
        &self,
        device: &DeviceCertificate,
        more: &[(&str, String)],
        out: &Path,
    ) -> Result<PathBuf> {
        let folder = out.join("edgepress");
        if folder.exists() {
            return Err(Problem::input(format!("{} exists already", folder.display()))
                .hint("an identity is never overwritten: name another folder with --out, or remove this one")
                .into());
        }
        fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
        let mut files = self.identity(device);
        files.extend(more.iter().map(|(name, text)| (PathBuf::from(name), text.clone().into_bytes())));
        write_folder(&folder, &files, |path| path.as_os_str() == PRIVATE_KEY)?;
        Ok(folder)
    }
}

/// The identity's secret file.
const PRIVATE_KEY: &str = "private-key.pem";

type Made = CertifiedIssuer<'static, KeyPair>;

fn make_authority(name: &str, parent: Option<&Made>) -> Result<Made> {
    let common_name = AUTHORITIES.iter().find(|(file, _)| *file == name).map_or(name, |(_, name)| name);
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - CA_BACKDATED;
    params.not_after = now + CA_LIFE;
    params.is_ca = IsCa::Ca(match parent {
        Some(_) => BasicConstraints::Constrained(0),
        None => BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().with_context(|| format!("making the key of the {common_name}"))?;
    let made = match parent {
        Some(parent) => CertifiedIssuer::signed_by(params, key, parent),
        None => CertifiedIssuer::self_signed(params, key),
    };
    made.with_context(|| format!("making the {common_name}"))
}

fn authority_of(made: &Made) -> Result<Authority> {
    read_authority(&made.pem(), &made.key().serialize_pem())
}

fn read_authority(pem: &str, key_pem: &str) -> Result<Authority> {
    let key = KeyPair::from_pem(key_pem)?;
    Ok(Authority { pem: pem.to_owned(), issuer: Issuer::from_ca_cert_pem(pem, key)? })
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))
}

fn create(dir: &Path) -> Result<()> {
    let root = make_authority(ROOT, None)?;
    let server = make_authority(SERVER, Some(&root))?;
    let group_root = make_authority(GROUP_ROOT, None)?;
    let group = make_authority(GROUP, Some(&group_root))?;
    let mut files = Vec::new();
    for ((name, _), made) in AUTHORITIES.iter().zip([&root, &server, &group_root, &group]) {
        files.push((PathBuf::from(format!("{name}.pem")), made.pem().into_bytes()));
        files.push((PathBuf::from(format!("{name}.key")), made.key().serialize_pem().into_bytes()));
    }
    match write_folder(dir, &files, |path| path.extension().is_some_and(|ending| ending == "key")) {
        // Another process was faster: its authorities are as good.
        Err(_) if dir.join("root.pem").exists() => Ok(()),
        result => result,
    }
}

fn open(dir: &Path) -> Result<Pki> {
    let read = |file: String| {
        fs::read_to_string(dir.join(&file)).map_err(|error| {
            Problem::input(format!(
                "{} is not a folder of the simulator's authorities: {file}: {error}",
                dir.display()
            ))
            .hint("name an empty or new folder with --dir: the authorities are made there")
        })
    };
    let authority = |name: &str| -> Result<Authority> {
        let (pem, key) = (read(format!("{name}.pem"))?, read(format!("{name}.key"))?);
        read_authority(&pem, &key).with_context(|| format!("reading {name}.pem and {name}.key"))
    };
    let root_pem = read(format!("{ROOT}.pem"))?;
    certificate(&root_pem).with_context(|| format!("reading {ROOT}.pem"))?;
    let group_root =
        certificate(&read(format!("{GROUP_ROOT}.pem"))?).context("reading the enrolment root")?;
    Ok(Pki(Arc::new(Authorities {
        root_pem,
        server: authority(SERVER)?,
        group_root,
        group: authority(GROUP)?,
    })))
}

/// Writes a new folder, mode 0700, at once: beside it first, then renamed. `secret` files get mode 0600.
fn write_folder(folder: &Path, files: &[(PathBuf, Vec<u8>)], secret: impl Fn(&Path) -> bool) -> Result<()> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let temporary = tempfile::Builder::new()
        .prefix(".edgepress-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .with_context(|| format!("creating a folder in {}", parent.display()))?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    for (path, bytes) in files {
        let target = temporary.path().join(path);
        builder.create(target.parent().unwrap_or(parent))?;
        let mode = if secret(path) { 0o600 } else { 0o644 };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
        file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    fs::rename(temporary.path(), folder).with_context(|| format!("creating {}", folder.display()))?;
    let _renamed = temporary.keep();
    Ok(())
}

/// Names and addresses of a server certificate, without duplicates.
pub(super) fn server_names(names: &[&str], addresses: &[IpAddr]) -> Vec<String> {
    let mut all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    all.extend(addresses.iter().map(ToString::to_string));
    all.sort();
    all.dedup();
    // The first name becomes the common name.
    if let (Some(first), Some(at)) =
        (names.first(), all.iter().position(|name| Some(&name.as_str()) == names.first()))
    {
        all.remove(at);
        all.insert(0, (*first).to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{DeviceOptions, Pki};
    use crate::error::problem;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn authorities_are_kept_and_keys_are_secret() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path().join("pki");
        let made = Pki::open_or_create(&dir).expect("make");
        let opened = Pki::open_or_create(&dir).expect("open");
        assert_eq!(made.server_ca_pem(), opened.server_ca_pem());
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 8);
        let mode = fs::metadata(&dir).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        for entry in fs::read_dir(&dir).expect("list") {
            let path = entry.expect("entry").path();
            let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
            let expected = if path.extension().is_some_and(|e| e == "key") { 0o600 } else { 0o644 };
            assert_eq!(mode, expected, "{}", path.display());
        }
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("thesis.txt"), "x").expect("write");
        let error = Pki::open_or_create(folder.path()).expect_err("refused");
        assert!(problem(&error).is_some_and(|problem| problem.hint.is_some()), "{error:#}");
        fs::write(folder.path().join("root.pem"), "no PEM").expect("write");
        assert!(Pki::open_or_create(folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2, "nothing was written");
    }

    #[test]
    fn an_identity_is_written_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(&folder.path().join("pki")).expect("make");
        let device = pki.issue_device("edge-1", &DeviceOptions::default()).expect("issue");
        assert!(!format!("{device:?}").contains("PRIVATE"));
        let out = folder.path().join("out");
        let written =
            pki.write_identity(&device, &[("endpoint", "https://x\n".into())], &out).expect("write");
        let key = fs::metadata(written.join("private-key.pem")).expect("key").permissions().mode();
        assert_eq!(key & 0o777, 0o600);
        assert_eq!(fs::read_to_string(written.join("registration-id")).expect("id"), "edge-1\n");
        assert_eq!(fs::read_to_string(written.join("endpoint")).expect("endpoint"), "https://x\n");
        assert_eq!(fs::read_to_string(written.join("ca/simulator.pem")).expect("ca"), pki.server_ca_pem());
        assert!(pki.write_identity(&device, &[], &out).is_err());
        assert_eq!(fs::read_dir(&out).expect("list").count(), 1, "no temporary folder is left");
    }

    #[test]
    fn unfit_registration_ids_are_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(&folder.path().join("pki")).expect("make");
        for id in ["", "é", &"x".repeat(65)] {
            assert!(pki.issue_device(id, &DeviceOptions::default()).is_err(), "{id}");
        }
    }
}
