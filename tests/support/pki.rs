//! Certificates for tests: a root, an intermediate, and leaves of a device.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

/// A device's certificate chain and key, both PEM.
pub struct Identity {
    pub leaf: String,
    pub intermediate: String,
    pub root: String,
    pub key: String,
}

impl Identity {
    /// Valid from yesterday for a month.
    pub fn new(common_name: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self::valid(common_name, now - Duration::days(1), now + Duration::days(30))
    }

    pub fn valid(common_name: &str, from: OffsetDateTime, to: OffsetDateTime) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let root_params = authority("Test Root");
        let root = root_params.self_signed(&root_key).expect("a root").pem();
        let root_issuer = Issuer::new(root_params, root_key);
        let middle_key = KeyPair::generate().expect("a key");
        let middle_params = authority("Test Intermediate");
        let intermediate = middle_params.signed_by(&middle_key, &root_issuer).expect("an intermediate").pem();
        let middle_issuer = Issuer::new(middle_params, middle_key);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = named(common_name);
        (params.not_before, params.not_after) = (from, to);
        let leaf = params.signed_by(&key, &middle_issuer).expect("a leaf").pem();
        Self { leaf, intermediate, root, key: key.serialize_pem() }
    }

    pub fn chain(&self) -> String {
        format!("{}{}", self.leaf, self.intermediate)
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn authority(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
