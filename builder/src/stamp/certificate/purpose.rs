//! Will a TLS server take this certificate from a client, and this one as an authority above it? Judged by what servers
//! judge by: `openssl verify -purpose sslclient` is the measure, and a test compares with it.
//!
//! ```text
//! leaf       key usage · extended key usage · Netscape's type · critical extensions · kind of key · signature
//! authority  the same for an authority, and basic constraints
//! ```
//!
//! Kinds of keys and of signatures are told in [`algorithm`], by a list of what is good.

mod algorithm;

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

pub(super) use self::algorithm::{Signer, key_fault, signed_by};

/// Critical extensions that OpenSSL acts on (`X509_supported_extension`), and what they are called.
const UNDERSTOOD: [&str; 13] = [
    "2.5.29.14",             // subject key identifier
    "2.5.29.15",             // key usage
    "2.5.29.17",             // subject's other names
    "2.5.29.19",             // basic constraints
    "2.5.29.30",             // name constraints
    "2.5.29.31",             // where revocation lists are
    "2.5.29.32",             // policies
    "2.5.29.33",             // policy mappings
    "2.5.29.35",             // authority key identifier
    "2.5.29.36",             // policy constraints
    "2.5.29.37",             // extended key usage
    "2.5.29.54",             // inhibit any policy
    "2.16.840.1.113730.1.1", // Netscape's certificate type
];
/// Certificate of a proxy (RFC 3820), which servers take only when told to.
const PROXY: &str = "1.3.6.1.5.5.7.1.14";

/// What a certificate is judged as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// That of a device, or of whoever else shows it to a server.
    Client,
    /// That which signs others.
    Authority,
}

/// Everything that a server would refuse the certificate for.
pub(super) fn faults(certificate: &X509Certificate<'_>, role: Role) -> Vec<String> {
    let mut faults = extensions(certificate);
    if faults.is_empty() {
        usage(certificate, role, &mut faults);
    }
    faults.extend(key_fault(certificate.public_key(), role));
    faults.extend(algorithm::signature_fault(certificate));
    faults
}

/// What is allowed, and most likely not meant.
pub(super) fn doubts(leaf: &X509Certificate<'_>) -> Vec<&'static str> {
    let mut doubts = Vec::new();
    let usage = leaf.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        doubts.push("its key usage has keyAgreement and no digitalSignature, and some servers ask for that");
    }
    if leaf.is_ca() && leaf.subject() != leaf.issuer() {
        doubts.push("it is an authority's (CA:TRUE): whoever has the device's key can issue more");
    }
    doubts
}

/// Extensions that cannot be read, stand there twice, or must be understood and are not.
fn extensions(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    if certificate.extensions_map().is_err() {
        faults.push("an extension stands in it twice".to_owned());
    }
    for extension in certificate.extensions() {
        let oid = extension.oid.to_id_string();
        if oid == PROXY {
            faults.push("it is a proxy's certificate (RFC 3820), which servers refuse".to_owned());
        } else if matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            faults.push(format!("its extension {oid} cannot be read"));
        } else if extension.critical && !UNDERSTOOD.contains(&oid.as_str()) {
            faults.push(format!(
                "its extension {oid} is marked critical, and servers refuse what they do not know"
            ));
        }
    }
    faults
}

fn usage(certificate: &X509Certificate<'_>, role: Role, faults: &mut Vec<String>) {
    let usage = certificate.key_usage().ok().flatten().map(|extension| extension.value);
    match role {
        Role::Client if usage.is_some_and(|usage| !usage.digital_signature() && !usage.key_agreement()) => {
            faults.push("its key usage does not allow digitalSignature, which a client signs in with".into());
        }
        Role::Authority if usage.is_some_and(|usage| !usage.key_cert_sign()) => {
            faults.push("it may not sign certificates (key usage)".into());
        }
        _ => {}
    }
    let extended = certificate.extended_key_usage().ok().flatten();
    if extended.is_some_and(|usage| !usage.value.client_auth) {
        faults.push("its extended key usage does not allow clientAuth, and DPS would refuse it".into());
    }
    let netscape = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::NSCertType(kind) => Some(kind),
        _ => None,
    });
    if role == Role::Client && netscape.is_some_and(|kind| !kind.ssl_client()) {
        faults.push("its Netscape certificate type does not allow SSL Client".into());
    }
    let constraints = certificate.basic_constraints().ok().flatten();
    // Version 1 has no extensions; nobody takes such an authority.
    if role == Role::Authority && !constraints.is_some_and(|extension| extension.value.ca) {
        faults.push("it is no certificate authority (basic constraints)".into());
    }
}
