//! Certificates with their keys that services give away: made when first asked for, and the same for the whole run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::dps::valid_id;
use super::pkcs;
use super::pki::{DeviceOptions, Pki};
use edgepress_base::units::Digest;

/// Longest id that fits a certificate.
const LONGEST_ID: usize = 64;
/// What makes another id of one.
const OTHER: &str = "-other";
/// How far back validity begins, and how long it lasts.
const BACKDATED: Duration = Duration::DAY;
const LIFE: Duration = Duration::days(365);

/// A device's certificate and key, in the forms that servers give them away.
pub(super) struct Identity {
    /// Key (PKCS#8) and chain; secret. Which comes first differs from one identity to the next: the formats leave it
    /// open, and clients must not rely on it.
    pub pem: String,
    /// The same as PFX; secret.
    pub pfx: Vec<u8>,
    pub certificate: CertificateDer<'static>,
    pub thumbprint: Digest,
    /// Seconds since 1970.
    pub created: u64,
    pub not_before: i64,
    pub not_after: i64,
}

pub(super) struct Identities {
    pki: Pki,
    of: Mutex<BTreeMap<String, Arc<Identity>>>,
}

impl Identities {
    pub(super) fn new(pki: Pki) -> Self {
        Self { pki, of: Mutex::default() }
    }

    /// The identity of a registration id; that of another where the answer is to be `wrong`.
    ///
    /// # Errors
    /// Says why there can be none.
    pub(super) fn get(&self, id: &str, now: OffsetDateTime, wrong: bool) -> Result<Arc<Identity>, String> {
        if !valid_id(id) || id.len() > LONGEST_ID {
            return Err(format!("`{id}` is no registration id that a certificate can have"));
        }
        let id = match wrong {
            true => format!("{}{OTHER}", &id[..id.len().min(LONGEST_ID - OTHER.len())]),
            false => id.to_owned(),
        };
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&id) {
            return Ok(known.clone());
        }
        let made = Arc::new(self.make(&id, now).map_err(|error| format!("{error:#}"))?);
        all.insert(id, made.clone());
        Ok(made)
    }

    fn make(&self, id: &str, now: OffsetDateTime) -> anyhow::Result<Identity> {
        let (start, end) = (now - BACKDATED, now + LIFE);
        let options =
            DeviceOptions { not_before: Some(start), not_after: Some(end), ..DeviceOptions::default() };
        let device = self.pki.issue_device(id, &options)?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(device.chain_pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(device.key_pem.as_bytes())?;
        let certificate = chain.first().cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()));
        let key_first = certificate.last().is_some_and(|byte| byte % 2 == 0);
        let parts = [device.key_pem.as_str(), &device.chain_pem];
        let [first, second] = if key_first { parts } else { [parts[1], parts[0]] };
        Ok(Identity {
            pem: format!("{first}{second}"),
            pfx: pkcs::pfx(key.secret_pkcs8_der(), &chain),
            certificate,
            thumbprint: device.thumbprint,
            created: u64::try_from(now.unix_timestamp()).unwrap_or_default(),
            not_before: start.unix_timestamp(),
            not_after: end.unix_timestamp(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Identities, LONGEST_ID};
    use crate::pki::Pki;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use time::OffsetDateTime;

    #[test]
    fn an_identity_stays_the_same_and_its_order_is_open() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let all = Identities::new(Pki::open_or_create(folder.path()).expect("authorities"));
        let now = OffsetDateTime::now_utc();
        let first = all.get("edge-1", now, false).expect("identity");
        assert!(Arc::ptr_eq(&first, &all.get("edge-1", now, false).expect("identity")));
        let wrong = all.get("edge-1", now, true).expect("identity");
        assert_ne!(wrong.thumbprint, first.thumbprint);
        let heads: BTreeSet<String> = (0..64)
            .map(|n| all.get(&format!("e-{n}"), now, false).expect("identity").pem[..24].to_owned())
            .collect();
        assert_eq!(heads.len(), 2, "{heads:?}");
        assert_eq!(first.pem.matches("BEGIN").count(), 3);
        assert!(all.get(&"x".repeat(LONGEST_ID), now, true).is_ok());
        for id in ["", "a b", "a/b", &"x".repeat(LONGEST_ID + 1)] {
            assert!(all.get(id, now, false).is_err(), "{id}");
        }
    }
}
