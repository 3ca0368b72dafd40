//! TLS: server certificates, the optional client certificate, and the check of its chain.
//!
//! The handshake only proves that the client holds the key of the certificate it shows; whom DPS or the hub
//! lets in is decided per request, because DPS answers a stranger with JSON and not with a TLS alert.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::pki::{Pki, ServerCertificate};
use edgepress_base::certificate::common_name;
use edgepress_base::units::Digest;

/// The cryptography of every connection.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness, identifiers and tokens would still be well-formed; what is kept on disk is checked.
    let _ = provider().secure_random.fill(&mut bytes);
    bytes
}

/// A server that asks for a client certificate and goes on without one.
pub(super) fn server_config(certificate: ServerCertificate) -> Result<Arc<ServerConfig>> {
    let provider = provider();
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_client_cert_verifier(Arc::new(HoldsItsKey(provider)))
        .with_single_cert(certificate.chain, certificate.key)
        .context("taking a server certificate")?;
    Ok(Arc::new(config))
}

/// Lets every client certificate through whose key the client holds.
#[derive(Debug)]
struct HoldsItsKey(Arc<CryptoProvider>);

impl ClientCertVerifier for HoldsItsKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client showed in the handshake.
#[derive(Debug, Clone)]
pub(super) struct Client {
    chain: Vec<CertificateDer<'static>>,
    /// Common name of the first certificate.
    pub common_name: Option<String>,
    /// SHA-256 of the first certificate.
    pub thumbprint: Digest,
}

impl Client {
    /// Of the certificates that a client sent, its own first.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let first = chain.first()?;
        Some(Self {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            common_name: common_name(first),
            thumbprint: Digest::of(first),
        })
    }
}

#[cfg(test)]
impl Client {
    /// As a client that leaves its intermediates out.
    pub(super) fn leaf_alone(mut self) -> Self {
        self.chain.truncate(1);
        self
    }
}

/// Clients whose chain ends in one root: the enrolment group, say.
#[derive(Debug)]
pub(super) struct Group {
    verifier: Arc<dyn ClientCertVerifier>,
    name: &'static str,
    /// Intermediates that the server has itself, for clients that show their leaf alone.
    known: Vec<CertificateDer<'static>>,
}

impl Group {
    /// The group of devices that may register.
    pub(super) fn enrolment(pki: &Pki) -> Result<Self> {
        Self::of(pki.enrolment_root().clone(), "the enrolment group")
    }

    /// Those that show what the manufacturer gave them.
    pub(super) fn bootstrap(pki: &Pki) -> Result<Self> {
        Self::of(pki.bootstrap_root()?, "the bootstrap authority")
    }

    /// The same group, of a server that knows these intermediates.
    pub(super) fn knowing(self, known: Vec<CertificateDer<'static>>) -> Self {
        Self { known, ..self }
    }

    fn of(root: CertificateDer<'static>, name: &'static str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(root).with_context(|| format!("taking the root of {name}"))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .with_context(|| format!("making {name}"))?;
        Ok(Self { verifier, name, known: Vec::new() })
    }

    /// Checks signatures, validity at `now` (seconds since 1970) and purposes, up to the root.
    ///
    /// # Errors
    /// Says what is wrong with the chain.
    pub(super) fn check(&self, client: &Client, now: u64) -> Result<(), String> {
        let Some((first, others)) = client.chain.split_first() else { return Err("no certificate".into()) };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        let others: Vec<CertificateDer<'_>> = others.iter().chain(&self.known).cloned().collect();
        match self.verifier.verify_client_cert(first, &others, now) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(CertificateError::BadSignature)) => {
                Err(format!("wrong CA: the chain names {}, but a signature is not its own", self.name))
            }
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                Err(format!("wrong CA, or the intermediate was not sent: no chain to {}", self.name))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Client, Group};
    use crate::pki::{DeviceCertificate, DeviceOptions, Pki};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use time::OffsetDateTime;

    fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|one| one.expect("certificate")).collect()
    }

    /// What a server sees of a client that shows this certificate.
    pub(crate) fn client(device: &DeviceCertificate) -> Client {
        Client::of(&chain(&device.chain_pem)).expect("chain")
    }

    #[test]
    fn only_the_group_is_let_in() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(folder.path()).expect("authorities");
        let group = Group::enrolment(&pki).expect("group");
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).expect("after 1970");
        let check = |options: &DeviceOptions, now: u64| {
            let device = pki.issue_device("edge-1", options).expect("issue");
            let client = Client::of(&chain(&device.chain_pem)).expect("chain");
            assert_eq!(client.common_name.as_deref(), Some("edge-1"));
            assert_eq!(client.thumbprint, device.thumbprint);
            group.check(&client, now)
        };
        let good = DeviceOptions::default();
        assert_eq!(check(&good, now), Ok(()));
        assert_eq!(check(&good, now - 3600 * 23), Ok(()));
        assert!(check(&good, now - 3600 * 48).expect_err("early").contains("not valid yet"));
        assert!(check(&DeviceOptions::expired(), now).expect_err("expired").contains("expired"));
        assert!(check(&DeviceOptions::not_yet_valid(), now).expect_err("early").contains("not valid yet"));
        let wrong = check(&DeviceOptions::wrong_ca(), now).expect_err("other authority");
        assert!(wrong.contains("signature"), "{wrong}");
    }

    #[test]
    fn a_leaf_without_its_intermediate_or_of_the_server_tree_is_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(folder.path()).expect("authorities");
        let group = Group::enrolment(&pki).expect("group");
        let time = OffsetDateTime::now_utc();
        let now = u64::try_from(time.unix_timestamp()).expect("after 1970");
        let device = pki.issue_device("edge-1", &DeviceOptions::default()).expect("issue");
        let leaf = Client::of(&chain(&device.chain_pem)[..1]).expect("chain");
        assert!(group.check(&leaf, now).expect_err("no intermediate").contains("intermediate"));
        let knowing =
            Group::enrolment(&pki).expect("group").knowing(pki.enrolment_authorities().expect("authorities"));
        assert_eq!(knowing.check(&leaf, now), Ok(()));
        let other = pki.issue_device("edge-1", &DeviceOptions::wrong_ca()).expect("issue");
        let other = Client::of(&chain(&other.chain_pem)[..1]).expect("chain");
        assert!(knowing.check(&other, now).is_err(), "knowing the issuer is no trust in its name");
        let server = pki.issue_server(&["edge-1".into()], time).expect("issue");
        let server = Client::of(&server.chain).expect("chain");
        assert!(group.check(&server, now).is_err());
        assert!(Client::of(&[]).is_none());
        let garbage = Client::of(&[CertificateDer::from(vec![1, 2, 3])]).expect("chain");
        assert_eq!(garbage.common_name, None);
        assert!(group.check(&garbage, now).is_err());
    }
}
