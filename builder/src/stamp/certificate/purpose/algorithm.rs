//! Which kinds of keys and signatures the device's services, DPS and IoT Hub take. What is not listed is refused: a TLS
//! library knows more of them, and learns others.
//!
//! ```text
//! key         RSA · P-256 · P-384                     of the device, and of each authority above it
//! signature   RSA (PKCS #1) · ECDSA, with SHA-2       and its size, which tells the signer's key where that is not at hand
//! ```
//!
//! DPS takes RSA and ECC, and nothing signed with SHA-1
//! (<https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation>); the identity service signs with RSA (PKCS #1) and
//! ECDSA alone.

use x509_parser::asn1_rs::Tag;
use x509_parser::error::X509Error;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::signature_value::EcdsaSigValue;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Role;

/// `iotedge check` warns of shorter RSA keys; bits.
const LEAST_RSA: usize = 2048;
/// Longer ones are not signed with by the TLS library of the device's services; bits.
const LONGEST_RSA: usize = 4096;
/// An authority signs elsewhere. Longer keys are not verified with by the libraries here; bits.
const LONGEST_AUTHORITY: usize = 8192;
/// Bytes of the larger number of an ECDSA signature: more than P-224 has, at most as many as P-384 has. That one on P-256 is
/// so small comes about once in 2^64 signatures.
const NUMBERS: std::ops::RangeInclusive<usize> = 29..=48;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// The signatures that are taken (RFC 4055, RFC 5758).
const SIGNATURES: [(&str, Form, &str); 6] = [
    ("1.2.840.113549.1.1.11", Form::Rsa, "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", Form::Rsa, "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", Form::Rsa, "RSA with SHA-512"),
    ("1.2.840.10045.4.3.2", Form::Ecdsa, "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", Form::Ecdsa, "ECDSA with SHA-384"),
    ("1.2.840.10045.4.3.4", Form::Ecdsa, "ECDSA with SHA-512"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Rsa,
    Ecdsa,
}

/// How people call what is refused; of others the identifier is shown.
const NAMES: [(&str, &str); 24] = [
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("1.2.840.113549.1.1.10", "RSA for PSS only"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.2.840.10045.3.1.1", "P-192"),
    ("1.3.132.0.33", "P-224"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
    ("1.2.156.10197.1.301", "SM2"),
    ("1.2.840.113549.1.1.2", "MD2"),
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.3.14.3.2.29", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("2.16.840.1.101.3.4.3.1", "DSA with SHA-224"),
    ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
    ("1.2.840.113549.1.1.14", "SHA-224"),
    ("1.2.840.10045.4.3.1", "SHA-224"),
    ("1.3.36.3.3.1.2", "RIPEMD-160"),
    ("1.2.156.10197.1.501", "SM3"),
];

fn name(oid: &str) -> &str {
    NAMES.iter().find(|(known, _)| *known == oid).map_or(oid, |(_, name)| name)
}

/// What is wrong with a kind of key: the list is that of the services, on the device and in the cloud, not that of a TLS
/// library.
pub(crate) fn key_fault(key: &SubjectPublicKeyInfo<'_>, role: Role) -> Option<String> {
    let (most, kinds) = match role {
        Role::Client => (LONGEST_RSA, "RSA of 2048 to 4096 bits, P-256 or P-384"),
        Role::Authority => (LONGEST_AUTHORITY, "RSA of 2048 to 8192 bits, P-256 or P-384"),
    };
    let kind = key.algorithm.algorithm.to_id_string();
    let refused = |oid: &str| {
        let name = name(oid);
        Some(format!("its key is of the kind {name}, which the identity service or DPS refuses: {kinds}"))
    };
    match (kind.as_str(), key.parsed()) {
        (RSA, Ok(PublicKey::RSA(rsa))) => match rsa.key_size() {
            bits if (LEAST_RSA..=most).contains(&bits) => None,
            bits => Some(format!("its RSA key has {bits} bits: at least {LEAST_RSA}, at most {most}")),
        },
        (EC, Ok(_)) => {
            let stated = key.algorithm.parameters.as_ref().filter(|any| any.tag() == Tag::Oid);
            let curve = stated.and_then(|any| any.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()) {
                Some(curve) if CURVES.contains(&curve.as_str()) => None,
                Some(curve) => refused(&curve),
                None => Some(format!("its elliptic curve is not one that has a name: {kinds}")),
            }
        }
        (RSA | EC, Err(_)) => Some("its public key cannot be read".into()),
        (other, _) => refused(other),
    }
}

/// What is wrong with how a certificate is signed. What signs itself says nothing by that.
pub(super) fn signature_fault(certificate: &X509Certificate<'_>) -> Option<String> {
    const GOOD: &str = "RSA (PKCS #1) or ECDSA, with SHA-256 or longer";
    if is_self_signed(certificate) {
        return None;
    }
    let outer = certificate.signature_algorithm.algorithm.to_id_string();
    if certificate.tbs_certificate.signature.algorithm.to_id_string() != outer {
        return Some("it names another signature within than without, and servers refuse that".into());
    }
    let Some((_, form, _)) = SIGNATURES.into_iter().find(|(known, ..)| *known == outer) else {
        let name = if outer == "1.2.840.113549.1.1.10" { "RSA-PSS" } else { name(&outer) };
        return Some(format!("it is signed with {name}, which servers refuse: {GOOD}"));
    };
    let value = &certificate.signature_value.data;
    match form {
        Form::Rsa => {
            let bits = value.len() * 8;
            let good = (LEAST_RSA..=LONGEST_AUTHORITY).contains(&bits);
            (!good).then(|| {
                format!("it is signed with an RSA key of {bits} bits: at least {LEAST_RSA}, at most {LONGEST_AUTHORITY}")
            })
        }
        Form::Ecdsa => match numbers(value) {
            None => Some("its signature cannot be read".into()),
            Some(size) if NUMBERS.contains(&size) => None,
            Some(size) => {
                let than = if size > *NUMBERS.end() { "longer than P-384" } else { "shorter than P-256" };
                Some(format!("it is signed on a curve that is {than}: P-256 or P-384"))
            }
        },
    }
}

/// Bytes of the larger of an ECDSA signature's two numbers.
fn numbers(value: &[u8]) -> Option<usize> {
    let (rest, value) = EcdsaSigValue::from_der(value).ok()?;
    let size = |number: &[u8]| number.len() - number.iter().take_while(|byte| **byte == 0).count();
    rest.is_empty().then(|| size(value.r.as_ref()).max(size(value.s.as_ref())))
}

/// As OpenSSL has it (`EXFLAG_SS`): of its own name and, where they are stated, its own key. An authority of the same name
/// may have signed it all the same, so its signature is tried where it can be.
fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    let (mut own, mut issuer) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => issuer = id.key_identifier.as_ref().map(|id| id.0),
            _ => {}
        }
    }
    certificate.subject() == certificate.issuer()
        && (own.is_none() || issuer.is_none() || own == issuer)
        && try_signature(certificate, certificate) != Signer::Another
}

/// Who signed a certificate, as far as that can be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    /// The one that was asked about.
    This,
    /// Another one.
    Another,
    /// Nobody whose signature is taken, or who may sign: a fault that is told where the one or the other is judged.
    Refused,
    /// The libraries here do not know this kind of signature, and servers do.
    Unknown(&'static str),
}

/// Was `child` signed with the key of `parent`?
pub(crate) fn signed_by(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> Signer {
    let refused =
        signature_fault(child).is_some() || key_fault(parent.public_key(), Role::Authority).is_some();
    match try_signature(child, parent) {
        _ if refused => Signer::Refused,
        Signer::Refused => Signer::Another,
        signer => signer,
    }
}

fn try_signature(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> Signer {
    // With keys that are refused, a signature would be called wrong that is none that can be verified.
    if key_fault(parent.public_key(), Role::Authority).is_some() {
        return Signer::Refused;
    }
    let kind = child.signature_algorithm.algorithm.to_id_string();
    match child.verify_signature(Some(parent.public_key())) {
        Ok(()) => Signer::This,
        Err(X509Error::SignatureUnsupportedAlgorithm) => {
            let known = SIGNATURES.into_iter().find(|(known, ..)| *known == kind);
            let ec = parent.public_key().algorithm.algorithm.to_id_string() == EC;
            match known {
                None => Signer::Refused,
                // A signature of the other kind than the key is not this key's.
                Some((_, form, _)) if (form == Form::Ecdsa) != ec => Signer::Another,
                Some((_, _, name)) => Signer::Unknown(name),
            }
        }
        Err(_) => Signer::Another,
    }
}
