//! Certificates that are asked for: PKCS#10 (RFC 2986).

use anyhow::{Context as _, Result};
use rcgen::{KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_EC_P256;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509;

use super::{BACKDATED, DeviceCertificate, LEAF_LIFE, LONGEST_NAME, Pki, client_params, named_params};
use edgepress_base::error::Problem;
use edgepress_base::units::Digest;

/// Shortest RSA key, bits: what `iotedge check` and DPS ask for.
const SHORTEST_RSA: usize = 2048;

/// What a request asks for; its signature was right.
#[derive(Debug)]
pub(crate) struct Requested {
    /// The subject's common name.
    pub common_name: String,
    key: SubjectPublicKeyInfo,
    rsa: bool,
}

impl Requested {
    /// Reads a request (DER) and checks that it was signed with the key that it holds.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| format!("not a PKCS#10 request: {error}"))?;
        if !rest.is_empty() {
            return Err("bytes follow the PKCS#10 request".into());
        }
        request.verify_signature().map_err(|_| "the request's signature is not that of its key")?;
        let info = &request.certification_request_info;
        let mut names = info.subject.iter_common_name();
        let common_name = match (names.next().map(|name| name.as_str()), names.next()) {
            (Some(Ok(name)), None) => name.to_owned(),
            _ => return Err("expected a subject with one common name".into()),
        };
        let plain = common_name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if common_name.is_empty() || common_name.len() > LONGEST_NAME || !plain {
            return Err(format!("expected a common name of 1 to {LONGEST_NAME} ASCII characters"));
        }
        let wants_authority = request.requested_extensions().into_iter().flatten().any(
            |extension| matches!(extension, ParsedExtension::BasicConstraints(constraints) if constraints.ca),
        );
        if wants_authority {
            return Err("the request is for a CA: the enrolment CA issues none".into());
        }
        let rsa = kind_of(&info.subject_pki)?;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|error| format!("the request's key cannot be used: {error}"))?;
        Ok(Self { common_name, key, rsa })
    }
}

/// Whether the key is RSA; it is P-256 otherwise.
fn kind_of(key: &x509::SubjectPublicKeyInfo<'_>) -> Result<bool, String> {
    let curve = || key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= SHORTEST_RSA => Ok(true),
        Ok(PublicKey::EC(_)) if curve().is_some_and(|curve| curve == OID_EC_P256) => Ok(false),
        _ => Err(format!("expected a key of RSA with {SHORTEST_RSA} bits or more, or of EC P-256")),
    }
}

impl Pki {
    /// As [`Pki::issue_bootstrap`] for the key of a PKCS#10 request (PEM), RSA or EC P-256, which stays where it is.
    /// Only a request can have an RSA key, and the real Entra takes no other.
    ///
    /// # Errors
    /// When the request is none, or the name cannot be a common name.
    pub fn issue_bootstrap_for(&self, name: &str, request: &str) -> Result<DeviceCertificate> {
        let refused = |why: String| {
            Problem::input(format!("the certificate request cannot be used: {why}"))
                .hint("`openssl req -new -newkey rsa:2048 -nodes -subj /CN=NAME -keyout KEY -out REQUEST` makes one")
        };
        let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
            .map_err(|error| refused(error.to_string()))?;
        let requested = Requested::read(&der).map_err(refused)?;
        let mut params = named_params(name)?;
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - BACKDATED, now + LEAF_LIFE);
        let leaf =
            params.signed_by(&requested.key, &self.0.bootstrap.issuer).context("signing a certificate")?;
        Ok(DeviceCertificate {
            registration_id: name.to_owned(),
            chain_pem: leaf.pem(),
            key_pem: String::new(),
            thumbprint: Digest::of(leaf.der()),
        })
    }

    /// A device certificate of the enrolment group for this request, from a tenth of `life` before `now` (at most a
    /// day: a device's clock may be behind) until `life` after it. `mistaken`: for another key than the one asked
    /// for.
    pub(crate) fn issue_requested(
        &self,
        requested: &Requested,
        now: OffsetDateTime,
        life: Duration,
        mistaken: bool,
    ) -> Result<CertificateDer<'static>> {
        let mut params = client_params(&requested.common_name);
        params.not_before = now - BACKDATED.min(life / 10);
        params.not_after = now.checked_add(life).context("the certificate's life leaves the calendar")?;
        if requested.rsa && !mistaken {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        let issuer = &self.0.group.issuer;
        let leaf = if mistaken {
            params.signed_by(&KeyPair::generate().context("making another key")?, issuer)
        } else {
            params.signed_by(&requested.key, issuer)
        };
        Ok(leaf.context("signing the certificate asked for")?.der().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{Pki, Requested};
    use edgepress_base::error::problem;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn asked() -> rcgen::CertificateSigningRequest {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "edge-1");
        params.serialize_request(&KeyPair::generate().expect("key")).expect("request")
    }

    #[test]
    fn no_bytes_break_the_parser_or_change_what_is_asked_for() {
        let request = asked();
        let good = request.der().to_vec();
        let right = Requested::read(&good).expect("a request");
        assert_eq!(right.common_name, "edge-1");
        for length in 0..good.len() {
            assert!(Requested::read(&good[..length]).is_err(), "{length} bytes");
        }
        assert!(Requested::read(&[&good[..], &[0]].concat()).is_err(), "a byte more");
        for at in 0..good.len() {
            for flip in [1, 0x20, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                // The outermost tags are not signed, and the parser is lenient there.
                if let Ok(read) = Requested::read(&bad) {
                    assert_eq!(
                        (&read.common_name, &read.key),
                        (&right.common_name, &right.key),
                        "{at} {flip}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_bootstrap_certificate_for_a_request() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(folder.path()).expect("authorities");
        let pem = asked().pem().expect("PEM");
        let device = pki.issue_bootstrap_for("line-3", &pem).expect("issue");
        assert_eq!((device.registration_id.as_str(), device.key_pem.as_str()), ("line-3", ""));
        let files = pki.bootstrap_identity(&device);
        assert!(files.iter().all(|(path, _)| path.as_os_str() != "bootstrap-key.pem"));
        for (name, request) in [("line-3", ""), ("line-3", pki.server_ca_pem()), ("", pem.as_str())] {
            let error = pki.issue_bootstrap_for(name, request).expect_err("refused");
            assert!(problem(&error).is_some(), "{error:#}");
        }
    }
}
