//! Is this the certificate of a device, with its chain and its key, so that DPS and the runtime will take it?
//!
//! ```text
//! certificate.pem   leaf ── signed by ── intermediate ── … ── (signed by one of --ca)
//! private-key.pem   belongs to the leaf
//! ```

mod constraints;
mod purpose;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

pub(crate) use self::purpose::Role;
use self::purpose::Signer;
use crate::certificate::{blocks, pem};
use crate::finding::{Finding, Severity};
use crate::units::{Digest, counted};

/// A certificate that ends sooner is warned of: a card may lie in a drawer for a while.
const SOON: Duration = Duration::days(30);
/// Most certificates of a chain; OpenSSL goes no deeper by default, DPS by far not.
const LONGEST: usize = 10;

/// A certificate that passed.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// Common name.
    pub name: String,
    /// Leaf first, then the intermediates; PEM.
    pub chain_pem: String,
    /// The leaf's key; PEM, a secret.
    pub key_pem: String,
    /// SHA-256 of the leaf (DER): the thumbprint that Azure shows.
    pub sha256: Digest,
    /// SHA-256 of the public key itself: what stands around it may be written in several ways.
    pub key_sha256: Digest,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// Is the key an RSA one?
    pub rsa: bool,
}

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairFile {
    /// The certificate with its chain.
    Certificate,
    /// Its key.
    Key,
}

/// What a certificate is checked against.
#[derive(Clone)]
pub(crate) struct Rules {
    /// The authorities that the chain must end at; empty: any.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The time now.
    pub now: OffsetDateTime,
    /// Must there be a common name?
    pub named: bool,
    /// What the first certificate is judged as.
    pub role: Role,
}

/// Checks the texts of a certificate's and a key's file.
///
/// # Errors
/// Everything that is wrong; with only warnings in it, the certificate is good.
pub(crate) fn check(
    chain: &[u8],
    key: &[u8],
    rules: &Rules,
) -> (Option<Certificate>, Vec<(PairFile, Finding)>) {
    let mut wrong = Wrong::default();
    let ders = wrong.certificates(chain);
    let key_der = wrong.key(key);
    let parsed = wrong.parsed(&ders);
    if let Some(leaf) = parsed.first().filter(|_| parsed.len() == ders.len()) {
        wrong.leaf(leaf, rules);
        wrong.chain(&parsed, rules);
        if let Some(key) =
            key_der.as_ref().filter(|_| purpose::key_fault(leaf.public_key(), rules.role).is_none())
        {
            wrong.belongs(leaf, key);
        }
    }
    let made = match (parsed.first(), &key_der) {
        (Some(leaf), Some(key)) if !wrong.0.iter().any(|(_, found)| found.severity == Severity::Error) => {
            Some(Certificate {
                name: common_name(leaf).unwrap_or_default(),
                chain_pem: ders.iter().map(|der| pem(der, "CERTIFICATE")).collect(),
                key_pem: key_pem(key),
                sha256: Digest::of(&ders[0]),
                key_sha256: Digest::of(&leaf.public_key().subject_public_key.data),
                not_after: leaf.validity().not_after.to_datetime(),
                rsa: matches!(leaf.public_key().parsed(), Ok(PublicKey::RSA(_))),
            })
        }
        _ => None,
    };
    (made, wrong.0)
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
pub(crate) fn day(moment: OffsetDateTime) -> String {
    moment.date().to_string()
}

#[derive(Default)]
struct Wrong(Vec<(PairFile, Finding)>);

impl Wrong {
    fn add(&mut self, message: impl Into<String>) {
        self.0.push((PairFile::Certificate, Finding::error(message)));
    }

    fn add_key(&mut self, message: impl Into<String>) {
        self.0.push((PairFile::Key, Finding::error(message)));
    }

    fn certificates(&mut self, text: &[u8]) -> Vec<CertificateDer<'static>> {
        if text.windows(16).any(|part| part == b"PRIVATE KEY-----") {
            self.add("it also holds a private key, which belongs in a file of its own");
        }
        match blocks::certificates(text) {
            Err(fault) => self.add(fault),
            Ok(found) if found.is_empty() => {
                self.add("it holds no certificate (a PEM file begins with -----BEGIN CERTIFICATE-----)");
            }
            Ok(found) if found.len() > LONGEST => {
                self.add(format!("it holds more than {LONGEST} certificates"));
            }
            Ok(found) => return found.into_iter().map(CertificateDer::from).collect(),
        }
        Vec::new()
    }

    fn key(&mut self, text: &[u8]) -> Option<PrivateKeyDer<'static>> {
        let (mut keys, others): (Vec<_>, Vec<_>) = match blocks::read(text) {
            Ok(found) => found.into_iter().partition(blocks::Block::is_key),
            Err(fault) => {
                self.add_key(fault);
                return None;
            }
        };
        let lines: Vec<String> = keys.iter().map(|key| key.line.to_string()).collect();
        let Some(key) = keys.pop() else {
            self.add_key("it holds no private key that can be read (PEM: PKCS#8, PKCS#1 or SEC1)");
            return None;
        };
        if !keys.is_empty() {
            self.add_key(format!("it holds more than one private key (lines {})", lines.join(", ")));
            return None;
        }
        if key.encrypted {
            self.add_key("it is protected by a password, which nobody could type at first boot");
            return None;
        }
        if others.iter().any(blocks::Block::is_certificate) {
            let message = "it also holds certificates, which are not taken from there";
            self.0.push((PairFile::Key, Finding::warning(message)));
        }
        match key.label.as_str() {
            "PRIVATE KEY" => Some(PrivateKeyDer::Pkcs8(key.der.into())),
            "RSA PRIVATE KEY" => Some(PrivateKeyDer::Pkcs1(key.der.into())),
            "EC PRIVATE KEY" => Some(PrivateKeyDer::Sec1(key.der.into())),
            other => {
                self.add_key(format!("it holds a key of the form {other}: PKCS#8, PKCS#1 or SEC1 are read"));
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
        purpose::faults(leaf, rules.role).into_iter().for_each(|fault| self.add(fault));
        let doubts = if rules.role == Role::Client { purpose::doubts(leaf) } else { Vec::new() };
        self.0.extend(doubts.into_iter().map(|doubt| (PairFile::Certificate, Finding::warning(doubt))));
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
            match issued(child, parent, at) {
                Ok(None) => {}
                Ok(Some(doubt)) => {
                    let message = format!("certificate {}: {doubt}", at + 1);
                    self.0.push((PairFile::Certificate, Finding::warning(message)));
                }
                Err(reason) => self.add(format!("certificate {}: {reason}", at + 1)),
            }
            if let Some(name) =
                below(chain, at).find_map(|(one, leaf)| constraints::forbidden(parent, one, leaf))
            {
                self.add(format!(
                    "its authority (certificate {}) may not vouch for {name} (name constraints)",
                    at + 2
                ));
            }
        }
        self.authorities(chain, rules);
    }

    /// Does the chain end at one of the authorities that were named?
    fn authorities(&mut self, chain: &[X509Certificate<'_>], rules: &Rules) {
        let Some(last) = chain.last().filter(|_| !rules.authorities.is_empty()) else { return };
        let mut reason = None;
        let vouched = rules.authorities.iter().any(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, authority)| {
                let above: Vec<_> = chain.iter().filter(|one| one.as_raw() != authority.as_raw()).collect();
                let named = authority.as_raw() == last.as_raw()
                    || (last.issuer() == authority.subject()
                        && purpose::signed_by(last, &authority) != Signer::Another);
                named
                    && match vouches(&authority, &above, rules.now) {
                        Ok(()) => true,
                        Err(fault) => {
                            reason = Some(fault);
                            false
                        }
                    }
            })
        });
        match reason {
            _ if vouched => {}
            Some(reason) => self.add(format!("the authority of --ca cannot vouch for it: {reason}")),
            None => self.add("its chain does not end at one of the authorities of --ca"),
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
            self.0.push((PairFile::Certificate, Finding::warning(message)));
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

/// The certificates up to `last`, and whether each is the device's.
fn below<'a, 'b>(
    chain: &'a [X509Certificate<'b>],
    last: usize,
) -> impl Iterator<Item = (&'a X509Certificate<'b>, bool)> {
    chain.iter().take(last + 1).enumerate().map(|(at, one)| (one, at == 0))
}

/// Can this authority, which is not in the file, vouch for the chain below it, the device's first?
fn vouches(
    authority: &X509Certificate<'_>,
    below: &[&X509Certificate<'_>],
    now: OffsetDateTime,
) -> Result<(), String> {
    let (from, to) = (authority.validity().not_before, authority.validity().not_after);
    if now < from.to_datetime() || now > to.to_datetime() {
        return Err(format!("it is valid from {} to {}", day(from.to_datetime()), day(to.to_datetime())));
    }
    let Some(last) = below.last() else { return Ok(()) };
    if let Some(fault) = purpose::faults(authority, Role::Authority).into_iter().next() {
        return Err(fault);
    }
    if let Some(doubt) = issued(last, authority, below.len() - 1)? {
        return Err(doubt);
    }
    let named = |(at, one): (usize, &&X509Certificate<'_>)| constraints::forbidden(authority, one, at == 0);
    match below.iter().enumerate().find_map(named) {
        Some(name) => Err(format!("it may not vouch for {name} (name constraints)")),
        None => Ok(()),
    }
}

/// Did `parent`, whose name is right, issue `child`, which stands at `depth` of the chain? What is left open is returned.
fn issued(
    child: &X509Certificate<'_>,
    parent: &X509Certificate<'_>,
    depth: usize,
) -> Result<Option<String>, String> {
    if let Some(fault) = purpose::faults(parent, Role::Authority).into_iter().next() {
        return Err(format!("its issuer cannot vouch for it: {fault}"));
    }
    let constraints = parent.basic_constraints().ok().flatten().map(|extension| extension.value);
    let most = constraints.and_then(|constraints| constraints.path_len_constraint);
    if most.is_some_and(|most| (most as usize) < depth) {
        return Err("its issuer may not have that many authorities below it (path length)".into());
    }
    match purpose::signed_by(child, parent) {
        Signer::This => Ok(None),
        Signer::Another => Err("its signature is not that of the next certificate".into()),
        Signer::Unknown(kind) => {
            Ok(Some(format!("its signature ({kind}) cannot be verified here; `openssl verify` can")))
        }
        // Told where that certificate itself is judged.
        Signer::Refused => Ok(None),
    }
}

#[cfg(test)]
mod tests;
