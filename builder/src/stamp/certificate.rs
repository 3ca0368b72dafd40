//! Is this the certificate of a device, with its chain and its key, so that DPS and the runtime will take it?
//!
//! ```text
//! certificate.pem   leaf ── signed by ── intermediate ── … ── (signed by one of --ca)
//! private-key.pem   belongs to the leaf
//! ```

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::error::X509Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::certificate::pem;
use crate::units::{Digest, counted};

/// `iotedge check` warns of shorter RSA keys; bits.
const LEAST_RSA: usize = 2048;
/// A certificate that ends sooner is warned of: a card may lie in a drawer for a while.
const SOON: Duration = Duration::days(30);
/// Most certificates of a chain; OpenSSL goes no deeper by default, DPS by far not.
const LONGEST: usize = 10;

/// A certificate that passed.
#[derive(Clone)]
pub struct Certificate {
    /// Common name.
    pub name: String,
    /// Leaf first, then the intermediates; PEM.
    pub chain_pem: String,
    /// The leaf's key; PEM, a secret.
    pub key_pem: String,
    /// SHA-256 of the leaf (DER): the thumbprint that Azure shows.
    pub sha256: Digest,
    /// SHA-256 of the public key (`SubjectPublicKeyInfo`, DER).
    pub key_sha256: Digest,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// Is the key an RSA one?
    pub rsa: bool,
}

/// Something wrong with a certificate or its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Is it in the key's file, not the certificate's?
    pub in_key: bool,
    /// Can it still be used?
    pub warning: bool,
    /// What is wrong.
    pub message: String,
}

/// What a certificate is checked against.
#[derive(Clone)]
pub struct Rules {
    /// The authorities that the chain must end at; empty: any.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The time now.
    pub now: OffsetDateTime,
    /// Must there be a common name?
    pub named: bool,
}

/// Checks the texts of a certificate's and a key's file.
///
/// # Errors
/// Everything that is wrong; with only warnings in it, the certificate is good.
pub fn check(chain: &[u8], key: &[u8], rules: &Rules) -> (Option<Certificate>, Vec<Fault>) {
    let mut faults = Faults::default();
    let ders = faults.certificates(chain);
    let key_der = faults.key(key);
    let parsed = faults.parsed(&ders);
    if let Some(leaf) = parsed.first().filter(|_| parsed.len() == ders.len()) {
        faults.leaf(leaf, rules);
        faults.chain(&parsed, rules);
        if let Some(key) = &key_der {
            faults.belongs(leaf, key);
        }
    }
    let made = match (parsed.first(), &key_der) {
        (Some(leaf), Some(key)) if !faults.0.iter().any(|fault| !fault.warning) => Some(Certificate {
            name: common_name(leaf).unwrap_or_default(),
            chain_pem: ders.iter().map(|der| pem(der, "CERTIFICATE")).collect(),
            key_pem: key_pem(key),
            sha256: Digest::of(&ders[0]),
            key_sha256: Digest::of(leaf.public_key().raw),
            not_after: leaf.validity().not_after.to_datetime(),
            rsa: matches!(leaf.public_key().parsed(), Ok(PublicKey::RSA(_))),
        }),
        _ => None,
    };
    (made, faults.0)
}

fn key_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    pem(key.secret_der(), label)
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

/// As `2025-12-31`.
pub fn day(moment: OffsetDateTime) -> String {
    moment.date().to_string()
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, message: impl Into<String>) {
        self.0.push(Fault { in_key: false, warning: false, message: message.into() });
    }

    fn add_key(&mut self, message: impl Into<String>) {
        self.0.push(Fault { in_key: true, warning: false, message: message.into() });
    }

    fn certificates(&mut self, text: &[u8]) -> Vec<CertificateDer<'static>> {
        if text.windows(16).any(|part| part == b"PRIVATE KEY-----") {
            self.add("it also holds a private key, which belongs in a file of its own");
        }
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        match found {
            Err(_) => self.add("it is no PEM file that can be read"),
            Ok(found) if found.is_empty() => {
                self.add("it holds no certificate (a PEM file begins with -----BEGIN CERTIFICATE-----)");
            }
            Ok(found) if found.len() > LONGEST => {
                self.add(format!("it holds more than {LONGEST} certificates"));
            }
            Ok(found) => return found,
        }
        Vec::new()
    }

    fn key(&mut self, text: &[u8]) -> Option<PrivateKeyDer<'static>> {
        let text_has = |part: &[u8]| text.windows(part.len()).any(|found| found == part);
        match PrivateKeyDer::from_pem_slice(text) {
            _ if text_has(b"ENCRYPTED") => {
                self.add_key("it is protected by a password, which nobody could type at first boot");
                None
            }
            Ok(key) => Some(key),
            Err(_) => {
                self.add_key("it holds no private key that can be read (PEM: PKCS#8, PKCS#1 or SEC1)");
                None
            }
        }
    }

    fn parsed<'a>(&mut self, ders: &'a [CertificateDer<'_>]) -> Vec<X509Certificate<'a>> {
        let mut parsed = Vec::new();
        for (at, der) in ders.iter().enumerate() {
            match X509Certificate::from_der(der) {
                Ok(([], certificate)) => parsed.push(certificate),
                _ => self.add(format!("certificate {} cannot be read", at + 1)),
            }
        }
        parsed
    }

    fn leaf(&mut self, leaf: &X509Certificate<'_>, rules: &Rules) {
        if rules.named && common_name(leaf).is_none() {
            self.add(
                "the first certificate has not exactly one common name, and that is the registration id",
            );
        }
        let usage = leaf.extended_key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.client_auth && !usage.value.any) {
            self.add("its extended key usage does not allow clientAuth, and DPS would refuse it");
        }
        match leaf.public_key().parsed() {
            Ok(PublicKey::RSA(key)) if key.key_size() < LEAST_RSA => {
                self.add(format!("its RSA key has {} bits: at least {LEAST_RSA}", key.key_size()));
            }
            Ok(PublicKey::EC(point)) if point.key_size() < 256 => {
                self.add("its elliptic curve is too short: P-256 or P-384");
            }
            Ok(_) => {}
            Err(_) => self.add("its public key cannot be read"),
        }
    }

    fn chain(&mut self, chain: &[X509Certificate<'_>], rules: &Rules) {
        for (at, certificate) in chain.iter().enumerate() {
            self.dates(certificate, at, rules.now);
        }
        for (at, pair) in chain.windows(2).enumerate() {
            let [child, parent] = pair else { continue };
            if child.issuer() != parent.subject() {
                self.add(format!(
                    "it is out of order: certificate {} did not issue the one before it",
                    at + 2
                ));
                return;
            }
            if let Err(reason) = issued(child, parent, at) {
                self.add(format!("certificate {}: {reason}", at + 1));
            }
        }
        let Some(last) = chain.last().filter(|_| !rules.authorities.is_empty()) else { return };
        let vouched = rules.authorities.iter().any(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, authority)| {
                authority.as_raw() == last.as_raw()
                    || (last.issuer() == authority.subject()
                        && issued(last, &authority, chain.len() - 1).is_ok())
            })
        });
        if !vouched {
            self.add("its chain does not end at one of the authorities of --ca");
        }
    }

    fn dates(&mut self, certificate: &X509Certificate<'_>, at: usize, now: OffsetDateTime) {
        let what = if at == 0 { "it".to_owned() } else { format!("its authority (certificate {})", at + 1) };
        let (from, to) = (certificate.validity().not_before, certificate.validity().not_after);
        let (from, to) = (from.to_datetime(), to.to_datetime());
        if now < from {
            self.add(format!("{what} is not valid before {}", day(from)));
        } else if now > to {
            self.add(format!("{what} expired on {}", day(to)));
        } else if at == 0 && to - now < SOON {
            let left = counted((to - now).whole_days().unsigned_abs(), "day");
            let message = format!("{what} expires on {}, in {left}", day(to));
            self.0.push(Fault { in_key: false, warning: true, message });
        }
    }

    fn belongs(&mut self, leaf: &X509Certificate<'_>, key: &PrivateKeyDer<'_>) {
        let Ok(key) = any_supported_type(key) else {
            return self.add_key("it is no key that can be used: RSA of 2048 to 4096 bits, P-256, P-384");
        };
        let public = key.public_key();
        let same = public.is_some_and(|public| {
            x509_parser::x509::SubjectPublicKeyInfo::from_der(&public).is_ok_and(|(_, public)| {
                public.subject_public_key.data == leaf.public_key().subject_public_key.data
            })
        });
        if !same {
            self.add_key("it does not belong to the certificate");
        }
    }
}

/// Did `parent`, whose name is right, issue `child`, which stands at `depth` of the chain?
fn issued(child: &X509Certificate<'_>, parent: &X509Certificate<'_>, depth: usize) -> Result<(), String> {
    let constraints = parent.basic_constraints().ok().flatten().map(|extension| extension.value);
    // Version 1 has no extensions; nobody takes such an authority.
    let Some(constraints) = constraints.filter(|constraints| constraints.ca) else {
        return Err("its issuer is no certificate authority (basic constraints)".into());
    };
    if constraints.path_len_constraint.is_some_and(|most| (most as usize) < depth) {
        return Err("its issuer may not have that many authorities below it (path length)".into());
    }
    let usage = parent.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("its issuer may not sign certificates (key usage)".into());
    }
    match child.verify_signature(Some(parent.public_key())) {
        Ok(()) => Ok(()),
        Err(X509Error::SignatureUnsupportedAlgorithm) => {
            Err("it is signed by a method that is not supported: RSA or ECDSA (P-256, P-384) with SHA-256 or longer".into())
        }
        Err(_) => Err("its signature is not that of the next certificate".into()),
    }
}

#[cfg(test)]
mod tests;
