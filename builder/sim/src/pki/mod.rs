//! The simulator's certificate authorities.
//!
//! ```text
//! edgepress simulator root ── server CA ── one certificate for each service name   (TLS)
//! enrolment root ── enrolment CA ── one certificate for each device                (DPS enrolment group)
//! bootstrap root ── what the manufacturer put into a device                        (EST, Entra, files)
//! ```
//!
//! The trees are separate, as in the field: trusting the servers does not let a device in. A device sends
//! its certificate and the enrolment CA; DPS knows only the enrolment root.

mod request;
mod store;

use std::fmt;
use std::fs;
use std::net::IpAddr;
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

use edgepress_base::error::Problem;
use edgepress_base::units::Digest;
pub(super) use request::Requested;

/// How far back a certificate's validity begins: a guest's clock may be behind.
const BACKDATED: Duration = Duration::DAY;
/// How long a server's or a device's certificate holds.
const LEAF_LIFE: Duration = Duration::days(365);
/// How long an authority holds.
const CA_LIFE: Duration = Duration::days(20 * 365);
/// Longest common name (X.520's upper bound).
const LONGEST_NAME: usize = 64;
/// The oldest clock that an authority is good for: a machine without a clock starts at its image's date.
const CA_BACKDATED: Duration = Duration::days(3 * 365);

const ROOT: &str = "root";
const SERVER: &str = "server-ca";
const GROUP_ROOT: &str = "enrolment-root";
const GROUP: &str = "enrolment-ca";
const BOOTSTRAP: &str = "bootstrap-root";
/// Files and common names.
const AUTHORITIES: [(&str, &str); 5] = [
    (ROOT, "edgepress simulator root"),
    (SERVER, "edgepress simulator server CA"),
    (GROUP_ROOT, "edgepress simulator enrolment root"),
    (GROUP, "edgepress simulator enrolment CA"),
    (BOOTSTRAP, "edgepress simulator bootstrap root"),
];

/// The authorities of one simulated world; cheap to clone.
#[derive(Clone)]
pub struct Pki(Arc<Authorities>);

struct Authorities {
    root_pem: String,
    server: Authority,
    group_root: CertificateDer<'static>,
    group: Authority,
    bootstrap: Authority,
    est_password: String,
    files_token: String,
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
    /// The private key, PKCS#8 (secret); empty where it stays with whoever asked for the certificate.
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
    /// Opens the authorities kept in `dir`, or makes them there: PEM files, keys and secrets with mode 0600. What
    /// an older folder lacks is added.
    ///
    /// # Errors
    /// When the folder holds something else, or cannot be read or written.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        store::open_or_create(dir)
    }

    /// The certificate that whoever talks to the simulators must trust.
    pub fn server_ca_pem(&self) -> &str {
        &self.0.root_pem
    }

    /// The enrolment group's root, as one would upload it to DPS.
    pub(super) fn enrolment_root(&self) -> &CertificateDer<'static> {
        &self.0.group_root
    }

    /// The root of what the manufacturer put into devices.
    pub(super) fn bootstrap_root(&self) -> Result<CertificateDer<'static>> {
        certificate(&self.0.bootstrap.pem).context("reading the bootstrap root")
    }

    /// The enrolment CA and then its root, as EST's `cacerts` tells them.
    pub(super) fn enrolment_authorities(&self) -> Result<Vec<CertificateDer<'static>>> {
        let ca = certificate(&self.0.group.pem).context("reading the enrolment CA")?;
        Ok(vec![ca, self.0.group_root.clone()])
    }

    /// The password of the EST user that [`super::Config::new`] knows; secret.
    pub fn est_password(&self) -> &str {
        &self.0.est_password
    }

    /// The bearer token for the company's server that [`super::Config::new`] knows; secret.
    pub fn files_token(&self) -> &str {
        &self.0.files_token
    }

    /// As [`Pki::issue_server`], of an authority that was made for this and is thrown away: nobody trusts it.
    pub(super) fn issue_untrusted(names: &[String], now: OffsetDateTime) -> Result<ServerCertificate> {
        let root = make_authority(ROOT, None)?;
        server_certificate(&authority_of(&make_authority(SERVER, Some(&root))?)?, names, now)
    }

    /// A certificate for a server of these names (host names or addresses), good at `now` and at the host's
    /// own time.
    pub(super) fn issue_server(&self, names: &[String], now: OffsetDateTime) -> Result<ServerCertificate> {
        server_certificate(&self.0.server, names, now)
    }

    /// A device certificate (EC P-256) of the enrolment group, its common name the registration id.
    ///
    /// # Errors
    /// When the registration id cannot be a common name.
    pub fn issue_device(&self, registration_id: &str, options: &DeviceOptions) -> Result<DeviceCertificate> {
        let authority = |name, parent: Option<&Made>| authority_of(&make_authority(name, parent)?);
        if options.wrong_ca {
            let root = make_authority(GROUP_ROOT, None)?;
            let stranger = authority(GROUP, Some(&root))?;
            return client_certificate(&stranger, Some(&stranger.pem), registration_id, options);
        }
        client_certificate(&self.0.group, Some(&self.0.group.pem), registration_id, options)
    }

    /// A bootstrap certificate (EC P-256): what a manufacturer put into the device, for EST, Entra or the company's
    /// server. DPS does not take it.
    ///
    /// # Errors
    /// When the name cannot be a common name.
    pub fn issue_bootstrap(&self, name: &str, options: &DeviceOptions) -> Result<DeviceCertificate> {
        if options.wrong_ca {
            let stranger = authority_of(&make_authority(BOOTSTRAP, None)?)?;
            return client_certificate(&stranger, None, name, options);
        }
        client_certificate(&self.0.bootstrap, None, name, options)
    }

    /// The device's identity as first boot takes it from the FAT partition: paths below `edgepress/`, contents.
    /// One of them is the private key.
    pub fn identity(&self, device: &DeviceCertificate) -> Vec<(PathBuf, Vec<u8>)> {
        self.files(device, ["certificate.pem", PRIVATE_KEY])
    }

    /// What a device needs that is to fetch its certificate with this one of [`Pki::issue_bootstrap`], as
    /// [`Pki::identity`].
    pub fn bootstrap_identity(&self, device: &DeviceCertificate) -> Vec<(PathBuf, Vec<u8>)> {
        self.files(device, ["bootstrap-certificate.pem", BOOTSTRAP_KEY])
    }

    fn files(&self, device: &DeviceCertificate, [chain, key]: [&str; 2]) -> Vec<(PathBuf, Vec<u8>)> {
        [
            ("registration-id", format!("{}\n", device.registration_id)),
            (chain, device.chain_pem.clone()),
            (key, device.key_pem.clone()),
            ("ca/simulator.pem", self.server_ca_pem().to_owned()),
        ]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(path, text)| (PathBuf::from(path), text.into_bytes()))
        .collect()
    }
}

/// Writes an identity's files as the folder `edgepress/` in `out`, private keys with mode 0600.
///
/// # Errors
/// When the folder exists already, or cannot be written.
pub fn write_identity(files: &[(PathBuf, Vec<u8>)], out: &Path) -> Result<PathBuf> {
    let folder = out.join("edgepress");
    if folder.exists() {
        return Err(Problem::input(format!("{} exists already", folder.display()))
            .hint("an identity is never overwritten: name another folder with --out, or remove this one")
            .into());
    }
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    store::write_folder(&folder, files, |path| {
        [PRIVATE_KEY, BOOTSTRAP_KEY].iter().any(|key| path.as_os_str() == *key)
    })?;
    Ok(folder)
}

/// The secret files of identities.
const PRIVATE_KEY: &str = "private-key.pem";
const BOOTSTRAP_KEY: &str = "bootstrap-key.pem";

/// A client's certificate, followed by `intermediate` in its chain.
fn client_certificate(
    authority: &Authority,
    intermediate: Option<&str>,
    name: &str,
    options: &DeviceOptions,
) -> Result<DeviceCertificate> {
    let now = OffsetDateTime::now_utc();
    let mut params = named_params(name)?;
    params.not_before = options.not_before.unwrap_or(now - BACKDATED);
    params.not_after = options.not_after.unwrap_or(now + LEAF_LIFE);
    let key = KeyPair::generate().context("making a device key")?;
    let leaf = params.signed_by(&key, &authority.issuer).context("signing a device certificate")?;
    Ok(DeviceCertificate {
        registration_id: name.to_owned(),
        chain_pem: format!("{}{}", leaf.pem(), intermediate.unwrap_or_default()),
        key_pem: key.serialize_pem(),
        thumbprint: Digest::of(leaf.der()),
    })
}

/// [`client_params`] for a name that is checked first.
fn named_params(name: &str) -> Result<CertificateParams> {
    if name.is_empty() || name.len() > LONGEST_NAME || !name.is_ascii() {
        return Err(Problem::input(format!(
            "`{name}` cannot be a certificate's common name: expected 1 to {LONGEST_NAME} ASCII characters"
        ))
        .into());
    }
    Ok(client_params(name))
}

/// What every client certificate has: one name, and no other purpose.
fn client_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn server_certificate(
    authority: &Authority,
    names: &[String],
    now: OffsetDateTime,
) -> Result<ServerCertificate> {
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
    let leaf = params.signed_by(&key, &authority.issuer).context("signing a server certificate")?;
    let authority = certificate(&authority.pem).context("reading the server CA")?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| anyhow::anyhow!("encoding a server key: {error}"))?;
    Ok(ServerCertificate { chain: vec![leaf.der().clone(), authority], key })
}

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
    use super::{DeviceOptions, Pki, write_identity};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_identity_is_written_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(&folder.path().join("pki")).expect("make");
        let device = pki.issue_device("edge-1", &DeviceOptions::default()).expect("issue");
        assert!(!format!("{device:?}").contains("PRIVATE"));
        let out = folder.path().join("out");
        let mut files = pki.identity(&device);
        files.push(("endpoint".into(), b"https://x\n".to_vec()));
        let written = write_identity(&files, &out).expect("write");
        let key = fs::metadata(written.join("private-key.pem")).expect("key").permissions().mode();
        assert_eq!(key & 0o777, 0o600);
        assert_eq!(fs::read_to_string(written.join("registration-id")).expect("id"), "edge-1\n");
        assert_eq!(fs::read_to_string(written.join("endpoint")).expect("endpoint"), "https://x\n");
        assert_eq!(fs::read_to_string(written.join("ca/simulator.pem")).expect("ca"), pki.server_ca_pem());
        assert!(write_identity(&files, &out).is_err());
        assert_eq!(fs::read_dir(&out).expect("list").count(), 1, "no temporary folder is left");

        let device = pki.issue_bootstrap("edge-1", &DeviceOptions::default()).expect("issue");
        let written =
            write_identity(&pki.bootstrap_identity(&device), &folder.path().join("2")).expect("write");
        let key = fs::metadata(written.join("bootstrap-key.pem")).expect("key").permissions().mode();
        assert_eq!(key & 0o777, 0o600);
        let chain = fs::read_to_string(written.join("bootstrap-certificate.pem")).expect("certificate");
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 1);
        assert!(!written.join("private-key.pem").exists());
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
