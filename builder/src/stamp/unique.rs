//! What no two devices of a fleet may share. Only digests are kept: 24 bytes a value, whatever its length.

use std::collections::HashMap;

use crate::units::Digest;

/// What must be unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueValue {
    /// Registration ids; DPS does not distinguish upper and lower case.
    RegistrationId,
    /// Host names, as first boot cleans them.
    Hostname,
    /// Serial numbers of cards or devices, as `flash` compares them.
    Serial,
    /// Public keys.
    Key,
    /// Symmetric keys.
    SymmetricKey,
    /// What they ask a server for.
    Fetched,
}

/// A value that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Of what.
    pub kind: UniqueValue,
    /// Number of the first device with it.
    pub first: u32,
}

/// Every value of a fleet so far.
#[derive(Debug, Default)]
pub struct Seen(HashMap<[u8; 16], u32>);

impl Seen {
    /// Notes a value of the device `number`, and says whether an earlier one has it.
    pub fn note(&mut self, kind: UniqueValue, value: &[u8], number: u32) -> Option<Duplicate> {
        let first = *self.0.entry(key(kind, value)).or_insert(number);
        (first != number).then_some(Duplicate { kind, first })
    }

    /// Is there a device with this value?
    pub fn has(&self, kind: UniqueValue, value: &[u8]) -> bool {
        self.0.contains_key(&key(kind, value))
    }
}

/// Half of a digest: two of a million values are the same by chance once in 10^26 fleets.
fn key(kind: UniqueValue, value: &[u8]) -> [u8; 16] {
    let digest = Digest::of([&[kind as u8], value].concat()).0;
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::{Duplicate, Seen, UniqueValue};

    #[test]
    fn the_first_is_named() {
        let mut seen = Seen::default();
        assert_eq!(seen.note(UniqueValue::Serial, b"x", 1), None);
        assert_eq!(seen.note(UniqueValue::Hostname, b"x", 2), None);
        assert_eq!(seen.note(UniqueValue::Serial, b"y", 2), None);
        assert_eq!(
            seen.note(UniqueValue::Serial, b"x", 3),
            Some(Duplicate { kind: UniqueValue::Serial, first: 1 })
        );
        assert_eq!(
            seen.note(UniqueValue::Serial, b"x", 4),
            Some(Duplicate { kind: UniqueValue::Serial, first: 1 })
        );
        assert!(seen.has(UniqueValue::Serial, b"y") && !seen.has(UniqueValue::Key, b"y"));
    }
}
