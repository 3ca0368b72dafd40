//! Keys and stores of keys that are no text, by their shape: DER has no magic number, and endings say what people like.
//!
//! ```text
//! PKCS#8     SEQUENCE { INTEGER 0|1, SEQUENCE { OID … }, OCTET STRING … }          RFC 5958
//! encrypted  SEQUENCE { SEQUENCE { OID of PKCS#5 or #12 … }, OCTET STRING }        RFC 5958
//! PKCS#1     SEQUENCE { INTEGER 0, n, e, d, p, q, dp, dq, qinv … }                 RFC 8017
//! DSA        SEQUENCE { INTEGER 0, p, q, g, y, x }                                 OpenSSL's
//! SEC1       SEQUENCE { INTEGER 1, OCTET STRING, [0] …, [1] … }                    RFC 5915
//! PKCS#12    SEQUENCE { INTEGER 3, SEQUENCE { OID of PKCS#7 … } … }                RFC 7292
//! JKS, JCEKS magic number, version, entries: key or certificate                    OpenJDK's JavaKeyStore.java
//! OpenPGP    packet 5: version, time, algorithm …; another packet                  RFC 9580
//! ```

use super::places;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.7: what a PKCS#12's content is, data or signed data.
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
/// 1.2.840.113549.1.5 and 1.2.840.113549.1.12.1: how keys are encrypted.
const ENCRYPTIONS: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01],
];
/// 1.2.840.113549.1.12.10.1, keyBag and pkcs8ShroudedKeyBag: outside what is encrypted, for a bag is so by itself.
const BAGS: [&[u8]; 2] = [
    &[OID, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x01],
    &[OID, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02],
];
/// The least of an RSA key's modulus, in bytes.
const LEAST_MODULUS: usize = 64;

/// A tag with what it holds, and the rest. A length that is not given (BER) is what is there.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x80 => (rest.len(), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// All elements, if there is nothing else.
fn elements(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (tag, content, rest) = element(bytes)?;
        all.push((tag, content));
        bytes = rest;
    }
    Some(all)
}

fn oid_of(algorithm: &[u8]) -> Option<&[u8]> {
    element(algorithm).filter(|(tag, ..)| *tag == OID).map(|(_, oid, _)| oid)
}

/// Does a file begin with a key in DER?
pub(super) fn is_private_key(bytes: &[u8]) -> bool {
    let Some((SEQUENCE, content, _)) = element(bytes) else { return false };
    let Some(parts) = elements(content) else { return false };
    match parts.as_slice() {
        [(INTEGER, [0 | 1]), (SEQUENCE, algorithm), (OCTETS, key), rest @ ..] => {
            // Attributes, and the public key.
            oid_of(algorithm).is_some() && key.len() >= 16 && rest.iter().all(|(tag, _)| tag & 0xc0 == 0x80)
        }
        [(SEQUENCE, algorithm), (OCTETS, key)] => {
            key.len() >= 16
                && oid_of(algorithm).is_some_and(|oid| ENCRYPTIONS.iter().any(|of| oid.starts_with(of)))
        }
        [(INTEGER, [1]), (OCTETS, key), rest @ ..] => {
            (16..=66).contains(&key.len()) && rest.iter().all(|(tag, _)| [0xa0, 0xa1].contains(tag))
        }
        [(INTEGER, [0 | 1]), (INTEGER, modulus), numbers @ ..] => {
            modulus.len() >= LEAST_MODULUS
                && [4, 7, 8].contains(&numbers.len())
                && numbers.iter().all(|(tag, _)| [INTEGER, SEQUENCE].contains(tag))
        }
        _ => false,
    }
}

/// Does a file begin with OpenPGP's packet of a secret key, as `gpg --export-secret-keys` writes it?
pub(super) fn is_openpgp_secret_key(bytes: &[u8]) -> bool {
    /// From here on there are keys of version 4 (RFC 2440), in seconds since 1970.
    const FIRST: u32 = 0x3600_0000;
    let Some((tag, rest)) = bytes.split_first() else { return false };
    // Old headers say how long the length is, new ones by the length itself.
    let digits = match (tag, rest.first()) {
        (0x94, _) | (0xc5, Some(0..=191)) => 1,
        (0x95, _) | (0xc5, Some(192..=223)) => 2,
        _ => return false,
    };
    let Some((length, rest)) = rest.split_at_checked(digits) else { return false };
    let length = match (tag, length) {
        (0xc5, [first, second]) => (usize::from(*first) - 192) * 256 + usize::from(*second) + 192,
        (_, digits) => digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)),
    };
    let Some((packet, rest)) = rest.split_at_checked(length) else { return false };
    let [4 | 6, a, b, c, d, algorithm, key @ ..] = packet else { return false };
    // RSA, Elgamal, DSA, and those of curves; after it the user's name, a signature, or nothing.
    u32::from_be_bytes([*a, *b, *c, *d]) >= FIRST
        && matches!(algorithm, 1..=3 | 16..=19 | 22 | 25..=28)
        && key.len() >= 32
        && rest.first().is_none_or(|next| next & 0x80 != 0)
}

/// Does a file begin as a PKCS#12 does? It may be longer than what is there.
pub(super) fn is_pkcs12(bytes: &[u8]) -> bool {
    // The lengths are of no interest here: only the beginning of the content is looked at.
    fn inside(bytes: &[u8], tag: u8) -> Option<&[u8]> {
        let (found, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first()?;
        let digits = if *length > 0x80 { usize::from(length & 0x7f) } else { 0 };
        rest.get(digits..).filter(|_| *found == tag && digits <= 4)
    }
    inside(bytes, SEQUENCE)
        .and_then(|pfx| pfx.strip_prefix(&[INTEGER, 1, 3]))
        .and_then(|content| inside(content, SEQUENCE))
        .and_then(oid_of)
        .is_some_and(|oid| oid.starts_with(PKCS7))
}

/// Is there a key among a PKCS#12's bags? A store of certificates that are trusted has none.
pub(super) fn has_key_bag(bytes: &[u8]) -> bool {
    BAGS.iter().any(|bag| places(bytes, bag).next().is_some())
}

/// A JKS or JCEKS with an entry that is a key. One without a private key is a trust store.
pub(super) fn is_java_store_with_key(bytes: &[u8]) -> bool {
    let magic = bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) || bytes.starts_with(&[0xce; 4]);
    magic && java_entries(bytes).is_some()
}

/// Something where an entry is a key. What is cut off, or is none, has nothing.
fn java_entries(bytes: &[u8]) -> Option<()> {
    fn number<'a>(rest: &mut &'a [u8], size: usize) -> Option<(usize, &'a [u8])> {
        let (digits, after) = rest.split_at_checked(size)?;
        *rest = after;
        Some((digits.iter().fold(0, |number, digit| number << 8 | usize::from(*digit)), digits))
    }
    fn skip(rest: &mut &[u8], size_of_length: usize) -> Option<()> {
        let (length, _) = number(rest, size_of_length)?;
        *rest = rest.get(length..)?;
        Some(())
    }
    let mut rest = bytes.get(4..)?;
    let (version, _) = number(&mut rest, 4)?;
    let (count, _) = number(&mut rest, 4)?;
    for _ in 0..count {
        // 1: a private key; 2: a certificate; 3: a secret key of JCEKS.
        match number(&mut rest, 4)?.0 {
            2 => {}
            1 | 3 => return Some(()),
            _ => return None,
        }
        skip(&mut rest, 2)?;
        rest = rest.get(8..)?;
        if version > 1 {
            skip(&mut rest, 2)?;
        }
        skip(&mut rest, 4)?;
    }
    None
}
