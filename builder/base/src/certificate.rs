//! Certificates as everybody here needs them: PEM, and the name of whom they are for.

pub mod blocks;

use base64::Engine as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// One block of PEM (RFC 7468), 64 characters a line; `label` as in `CERTIFICATE`.
pub fn pem(der: &[u8], label: &str) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The first common name of a certificate (DER); nothing where it has none, or is none.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{common_name, pem};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    #[test]
    fn pem_is_read_by_others() {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "pump-7");
        let der = params.self_signed(&key).expect("certificate").der().clone();
        let text = pem(&der, "CERTIFICATE");
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM"), der);
        assert_eq!(common_name(&der).as_deref(), Some("pump-7"));
        for damaged in [&der[..der.len() / 2], &[], &[0x30, 0xff]] {
            assert_eq!(common_name(damaged), None);
        }
    }
}
