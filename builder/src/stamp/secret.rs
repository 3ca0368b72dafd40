//! Symmetric keys. The key of an enrolment group stays here: devices only get what is derived from it.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::files;
use crate::error::Problem;
use crate::units::Digest;

/// DPS takes keys of 16 to 64 bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=64;

/// The primary or secondary key of an enrolment group.
pub(crate) struct GroupKey(Vec<u8>);

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey")
    }
}

impl GroupKey {
    /// Reads a file with the key in base64, as the portal shows it.
    ///
    /// # Errors
    /// When it cannot be read or holds no such key.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::read_line(path).map_err(Problem::input)?;
        match STANDARD.decode(text.trim()) {
            Ok(key) if LENGTHS.contains(&key.len()) => Ok(Self(key)),
            _ => Err(Problem::input(format!("{} holds no key of an enrolment group", path.display()))
                .hint("copy its primary key from the portal: base64 of 16 to 64 bytes")
                .into()),
        }
    }

    /// A device's own key, in base64: HMAC-SHA256 of its registration id under the group's key, as Microsoft's "How to
    /// use symmetric key attestation with enrolment groups" has it.
    pub(crate) fn derive(&self, registration_id: &str) -> String {
        // A key of any length is one for HMAC.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        STANDARD.encode(hmac::sign(&key, registration_id.as_bytes()))
    }

    /// Is this (base64) the group's key itself?
    pub(crate) fn is(&self, key: &str) -> bool {
        STANDARD.decode(key).is_ok_and(|key| key == self.0)
    }
}

/// SHA-256 of a device's key: the same whatever form of base64 it has.
pub(crate) fn fingerprint(key: &str) -> Digest {
    STANDARD.decode(key).map_or_else(|_| Digest::of(key), |bytes| Digest::of(&bytes))
}

/// What is wrong with a device's key, if anything is.
pub(crate) fn device_key_fault(key: &str) -> Option<&'static str> {
    let good = STANDARD.decode(key).is_ok_and(|key| LENGTHS.contains(&key.len()));
    (!good).then_some("it is no symmetric key: base64 of 16 to 64 bytes")
}

#[cfg(test)]
mod tests {
    use super::{GroupKey, device_key_fault};

    /// The expected key is that of
    /// `openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64`.
    #[test]
    fn keys_are_derived_as_openssl_does() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("group");
        // Key: 0x00 … 0x3f.
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";
        std::fs::write(&path, format!("{key}\n")).expect("write");
        let group = GroupKey::read(&path).expect("key");
        assert_eq!(group.derive("pump-7"), "M3GeUFxiWLOAZdofd33JuanHka8diHRdP0gocpjKT6o=");
        assert_eq!(device_key_fault(&group.derive("pump-8")), None);
        assert!(!format!("{group:?}").contains("AAEC"));
        assert!(group.is(key) && !group.is(&group.derive("pump-7")));
        for text in ["", "short", "AAEC", "not base64 at all, surely", "AAECAwQFBgcICQoLDA0ODw"] {
            std::fs::write(&path, text).expect("write");
            assert!(GroupKey::read(&path).is_err(), "{text}");
        }
    }
}
