//! Who signs the certificates of devices: an authority whose key lies in a file, or a command.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::certificate::pem;
use crate::error::Problem;
use crate::finding::Severity;
use crate::host;
use crate::stamp::certificate::{self, PairFile, Role, Rules, day};
use crate::stamp::files;

/// How far back validity begins: a device's clock may be behind until a time server sets it.
const BACKDATED: Duration = Duration::HOUR;
/// The registration id, for the command.
const VARIABLE: &str = "EDGEPRESS_REGISTRATION_ID";

/// Who signs.
#[derive(Debug)]
pub(crate) enum Authority {
    /// An authority whose key is here.
    File(Box<FileAuthority>),
    /// A command for `sh -c`, that reads a request (PEM) and prints the chain (PEM).
    Command(String),
}

/// An authority whose key is here.
pub(crate) struct FileAuthority {
    issuer: Issuer<'static, CaKey>,
    certificate: CertificateDer<'static>,
    /// Its own chain, as devices send it: without the root.
    above: String,
    not_after: OffsetDateTime,
}

impl fmt::Debug for FileAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileAuthority")
    }
}

impl Authority {
    /// Reads an authority's certificate (with those above it after it, if there are any) and its key.
    ///
    /// # Errors
    /// A [`Problem`] when they cannot be read, do not belong together, or are no authority's.
    pub(crate) fn open(certificate: &Path, key: &Path, now: OffsetDateTime) -> Result<Self> {
        let name = certificate.display();
        let chain = files::read(certificate).map_err(Problem::input)?;
        let key_text = files::read(key).map_err(Problem::input)?;
        if key_text.windows(9).any(|part| part == b"ENCRYPTED") {
            return Err(Problem::input(format!("{} is protected by a password", key.display()))
                .hint("let --ca-command sign: openssl asks for the password then, or takes it from -passin")
                .into());
        }
        let rules = Rules { authorities: Vec::new(), now, named: false, role: Role::Authority };
        let (checked, found) = certificate::check(&chain, &key_text, &rules);
        let Some(checked) = checked else {
            let wrong = found.iter().filter(|(_, found)| found.severity == Severity::Error);
            let wrong: Vec<String> = wrong
                .map(|(file, found)| {
                    let path = if *file == PairFile::Key { key } else { certificate };
                    format!("{}: {}", path.display(), found.message)
                })
                .collect();
            return Err(Problem::input(wrong.join("\n")).into());
        };
        let ders: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(checked.chain_pem.as_bytes()).collect::<Result<_, _>>()?;
        let own = ders.first().context("reading the authority")?.clone();
        if !is_authority(&own) {
            return Err(Problem::input(format!(
                "the first certificate in {name} is no certificate authority"
            ))
            .hint("the certificate that signs stands first, its basic constraints say CA:TRUE")
            .into());
        }
        let above = ders.iter().filter(|der| !is_root(der)).map(|der| pem(der, "CERTIFICATE")).collect();
        let key = CaKey::new(&PrivateKeyDer::from_pem_slice(checked.key_pem.as_bytes())?)?;
        let issuer = Issuer::from_ca_cert_der(&own, key).with_context(|| format!("reading {name}"))?;
        let not_after = checked.not_after;
        Ok(Self::File(Box::new(FileAuthority { issuer, certificate: own, above, not_after })))
    }

    /// The certificate that signs, where it is known.
    pub(crate) fn certificate(&self) -> Option<CertificateDer<'static>> {
        match self {
            Self::File(authority) => Some(authority.certificate.clone()),
            Self::Command(_) => None,
        }
    }

    /// A warning where the authority ends before its certificates would.
    pub(crate) fn ends_before(&self, now: OffsetDateTime, days: u32) -> Option<String> {
        match self {
            Self::File(authority) if authority.not_after < now + Duration::days(days.into()) => {
                let end = day(authority.not_after);
                Some(format!(
                    "the authority's own certificate ends on {end}, and so do those that it signs now"
                ))
            }
            _ => None,
        }
    }

    /// The chain (PEM) of a certificate for this registration id and key.
    ///
    /// # Errors
    /// When it cannot be signed, or the command fails.
    pub(crate) fn issue(&self, id: &str, key: &KeyPair, now: OffsetDateTime, days: u32) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id);
        match self {
            Self::Command(command) => {
                let request = params.serialize_request(key).context("making a certificate request")?;
                run(command, id, &request.pem().context("making a certificate request")?)
            }
            Self::File(authority) => {
                params.not_before = now - BACKDATED;
                params.not_after = (now + Duration::days(days.into())).min(authority.not_after);
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.use_authority_key_identifier_extension = true;
                let leaf =
                    params.signed_by(key, &authority.issuer).with_context(|| format!("signing {id}"))?;
                Ok(format!("{}{}", leaf.pem(), authority.above))
            }
        }
    }
}

fn is_authority(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.is_ca())
}

fn is_root(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.subject() == certificate.issuer())
}

fn run(command: &str, id: &str, request: &str) -> Result<String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env(VARIABLE, id);
    let printed = host::run_with_input(&mut shell, request.as_bytes());
    let printed = printed.with_context(|| format!("signing {id} by --ca-command"))?;
    String::from_utf8(printed)
        .map_err(|_| Problem::work(format!("--ca-command for {id} printed no PEM")).into())
}

/// An authority's key of any kind that ring knows, in any form of PEM; rcgen itself reads PKCS#8 only.
struct CaKey {
    key: Arc<dyn rustls::sign::SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
}

impl CaKey {
    fn new(der: &PrivateKeyDer<'_>) -> Result<Self> {
        let key = any_supported_type(der).context("reading the authority's key")?;
        let kinds = [
            (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
            (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
            (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
        ];
        let kind = kinds.into_iter().find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some());
        let (scheme, algorithm) =
            kind.ok_or_else(|| Problem::input("the authority's key is neither RSA nor P-256 or P-384"))?;
        let spki = key.public_key().context("reading the authority's key")?;
        let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki)
            .map_err(|error| anyhow::anyhow!("reading the authority's key: {error}"))?;
        let public = spki.subject_public_key.data.to_vec();
        Ok(Self { key, scheme, algorithm, public })
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.key.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::Authority;
    use crate::host;
    use rcgen::KeyPair;
    use std::process::Command;
    use time::{Duration, OffsetDateTime};

    /// Keys and authorities as openssl writes them, and certificates as it reads them.
    #[test]
    fn authorities_of_every_kind() {
        let openssl = host::program("openssl").expect("openssl");
        let folder = tempfile::tempdir().expect("folder");
        let run = |arguments: &[&str]| {
            host::run(Command::new(&openssl).args(arguments).current_dir(folder.path())).expect("openssl")
        };
        let path = |name: &str| folder.path().join(name);
        run(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa.pem"]);
        run(&["rsa", "-in", "rsa.pem", "-traditional", "-out", "pkcs1.pem"]);
        run(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sec1.pem"]);
        run(&["ecparam", "-name", "secp384r1", "-genkey", "-out", "p384.pem"]);
        for key in ["rsa.pem", "pkcs1.pem", "sec1.pem", "p384.pem"] {
            let subject = "/C=DE/O=Works, Ltd./OU=Line 1/CN=Plant (ö) CA";
            let usage = "keyUsage=critical,keyCertSign";
            let made = ["-days", "50", "-addext", usage, "-out", "ca.pem"];
            run(&[&["req", "-x509", "-new", "-utf8", "-key", key, "-subj", subject][..], &made].concat());
            let now = OffsetDateTime::now_utc();
            let authority = Authority::open(&path("ca.pem"), &path(key), now).expect("opens");
            assert!(authority.ends_before(now, 10).is_none() && authority.ends_before(now, 90).is_some());
            let chain =
                authority.issue("pump-7", &KeyPair::generate().expect("key"), now, 90).expect("issued");
            assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 1, "the root is left out");
            std::fs::write(path("leaf.pem"), chain).expect("write");
            run(&["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "ca.pem", "leaf.pem"]);
        }
        // The authority's end is the device's.
        let end = String::from_utf8(run(&["x509", "-in", "leaf.pem", "-noout", "-checkend", "4060800"]));
        assert!(end.is_ok_and(|said| said.contains("will not expire")), "47 days from now it is good");
        let now = OffsetDateTime::now_utc();
        let late = Authority::open(&path("ca.pem"), &path("p384.pem"), now + Duration::days(60));
        assert!(late.expect_err("expired").to_string().contains("ca.pem: it expired on"));
        let other = Authority::open(&path("ca.pem"), &path("rsa.pem"), now).expect_err("another key");
        assert!(other.to_string().ends_with("rsa.pem: it does not belong to the certificate"), "{other}");
        let leaf = Authority::open(&path("leaf.pem"), &path("rsa.pem"), now).expect_err("no authority");
        assert!(leaf.to_string().contains("does not belong"), "{leaf}");
        run(&["pkey", "-in", "rsa.pem", "-aes256", "-passout", "pass:x", "-out", "locked.pem"]);
        let locked = Authority::open(&path("ca.pem"), &path("locked.pem"), now).expect_err("locked");
        assert!(locked.to_string().contains("protected by a password"), "{locked}");
    }
}
