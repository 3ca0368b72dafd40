//! Containers of certificates: PKCS#7 that holds nothing else (RFC 2315, as RFC 7030 uses it), and PKCS#12 (RFC 7292)
//! without a password.
//!
//! ```text
//! PFX ── AuthenticatedSafe ─┬─ encrypted: certificate bags, the key's own first
//!    └── MAC                └─ data: the key's bag, itself encrypted
//! ```
//!
//! "Without a password" means the empty one, as Azure Key Vault does it: everything is encrypted and has a MAC all the
//! same, by what OpenSSL 3 takes without its legacy provider (PBES2, AES-256-CBC, HMAC-SHA-256).

use std::num::NonZeroU32;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockEncryptMut as _, KeyIvInit as _};
use ring::{digest, hmac, pbkdf2};

use super::tls::random;

/// Rounds of key derivation: as many as OpenSSL takes by default.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2047);
/// The empty password as PKCS#12 hashes it: UTF-16 with its final zero.
const PASSWORD: [u8; 2] = [0, 0];
/// Purpose of derived bytes (RFC 7292, B.3): a MAC's key.
const MAC_KEY: u8 = 3;
/// Block of SHA-256, bytes.
const BLOCK: usize = 64;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
/// `[0]`, holding one element or several.
const CONTEXT: u8 = 0xa0;
/// `[0]`, holding bytes.
const CONTEXT_BYTES: u8 = 0x80;
const NULL: &[u8] = &[0x05, 0];

/// Object identifiers, with tag and length.
mod oid {
    /// 1.2.840.113549.1.7.1, .2 and .6
    pub(super) const DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
    pub(super) const SIGNED: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
    pub(super) const ENCRYPTED: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06";
    /// 1.2.840.113549.1.12.10.1.2 and .3
    pub(super) const KEY_BAG: &[u8] = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x02";
    pub(super) const CERTIFICATE_BAG: &[u8] = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x03";
    /// 1.2.840.113549.1.9.21 and .22.1
    pub(super) const LOCAL_KEY_ID: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x15";
    pub(super) const X509: &[u8] = b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x09\x16\x01";
    /// 1.2.840.113549.1.5.12 and .13
    pub(super) const PBKDF2: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c";
    pub(super) const PBES2: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
    /// 1.2.840.113549.2.9
    pub(super) const HMAC_SHA256: &[u8] = b"\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x09";
    /// 2.16.840.1.101.3.4.1.42 and .2.1
    pub(super) const AES256_CBC: &[u8] = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a";
    pub(super) const SHA256: &[u8] = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01";
}

/// One element of DER: tag, length, content.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match content.len() {
        short @ 0..=0x7f => element.push(u8::try_from(short).unwrap_or_default()),
        long => {
            let bytes = long.to_be_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
            element.push(0x80 | u8::try_from(bytes.len() - first).unwrap_or_default());
            element.extend(&bytes[first..]);
        }
    }
    element.extend(content);
    element
}

fn integer(value: u16) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    // Without leading zeros, and with one where the number would be read as negative.
    let minimal = if bytes[0] == 0 && bytes[1] < 0x80 { &bytes[1..] } else { &bytes[..] };
    der(INTEGER, &[minimal])
}

/// PKCS#7 SignedData that nobody signed: certificates only.
pub(super) fn certificates_only<T: AsRef<[u8]>>(certificates: &[T]) -> Vec<u8> {
    let all: Vec<&[u8]> = certificates.iter().map(AsRef::as_ref).collect();
    let signed = der(
        SEQUENCE,
        &[&integer(1), &der(SET, &[]), &der(SEQUENCE, &[oid::DATA]), &der(CONTEXT, &all), &der(SET, &[])],
    );
    der(SEQUENCE, &[oid::SIGNED, &der(CONTEXT, &[&signed])])
}

/// A PFX of a key (PKCS#8) and its chain, whose first certificate is the key's.
pub(super) fn pfx<T: AsRef<[u8]>>(key: &[u8], chain: &[T]) -> Vec<u8> {
    let id = chain.first().map(|leaf| digest::digest(&digest::SHA256, leaf.as_ref()));
    let id = der(OCTETS, &[id.as_ref().map_or(&[], AsRef::as_ref)]);
    let own = der(SET, &[&der(SEQUENCE, &[oid::LOCAL_KEY_ID, &der(SET, &[&id])])]);
    let mut bags = Vec::new();
    for (at, certificate) in chain.iter().enumerate() {
        let held = der(CONTEXT, &[&der(OCTETS, &[certificate.as_ref()])]);
        let value = der(CONTEXT, &[&der(SEQUENCE, &[oid::X509, &held])]);
        let attributes: &[u8] = if at == 0 { &own } else { &[] };
        bags.extend(der(SEQUENCE, &[oid::CERTIFICATE_BAG, &value, attributes]));
    }
    let (scheme, hidden) = encrypt(&der(SEQUENCE, &[&bags]));
    let content = der(SEQUENCE, &[oid::DATA, &scheme, &der(CONTEXT_BYTES, &[&hidden])]);
    let content = der(SEQUENCE, &[&integer(0), &content]);
    let certificates = der(SEQUENCE, &[oid::ENCRYPTED, &der(CONTEXT, &[&content])]);

    let (scheme, hidden) = encrypt(key);
    let shrouded = der(CONTEXT, &[&der(SEQUENCE, &[&scheme, &der(OCTETS, &[&hidden])])]);
    let bag = der(SEQUENCE, &[oid::KEY_BAG, &shrouded, &own]);
    let key = data(&der(SEQUENCE, &[&bag]));

    let safe = der(SEQUENCE, &[&certificates, &key]);
    der(SEQUENCE, &[&integer(3), &data(&safe), &mac(&safe)])
}

/// ContentInfo of plain bytes.
fn data(content: &[u8]) -> Vec<u8> {
    der(SEQUENCE, &[oid::DATA, &der(CONTEXT, &[&der(OCTETS, &[content])])])
}

/// Encrypts with the empty password: the scheme, and the ciphertext.
fn encrypt(plain: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (salt, iv): ([u8; 16], [u8; 16]) = (random(), random());
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, b"", &mut key);
    let cipher = cbc::Encryptor::<aes::Aes256>::new(&key.into(), &iv.into());
    let hidden = cipher.encrypt_padded_vec_mut::<Pkcs7>(plain);
    let rounds = integer(u16::try_from(ROUNDS.get()).unwrap_or_default());
    let function = der(SEQUENCE, &[oid::HMAC_SHA256, NULL]);
    let derivation = der(SEQUENCE, &[&der(OCTETS, &[&salt]), &rounds, &function]);
    let derivation = der(SEQUENCE, &[oid::PBKDF2, &derivation]);
    let encryption = der(SEQUENCE, &[oid::AES256_CBC, &der(OCTETS, &[&iv])]);
    (der(SEQUENCE, &[oid::PBES2, &der(SEQUENCE, &[&derivation, &encryption])]), hidden)
}

/// MacData over the authenticated safe.
fn mac(safe: &[u8]) -> Vec<u8> {
    let salt: [u8; 16] = random();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &mac_key(&salt)), safe);
    let algorithm = der(SEQUENCE, &[oid::SHA256, NULL]);
    let value = der(SEQUENCE, &[&algorithm, &der(OCTETS, &[tag.as_ref()])]);
    let rounds = integer(u16::try_from(ROUNDS.get()).unwrap_or_default());
    der(SEQUENCE, &[&value, &der(OCTETS, &[&salt]), &rounds])
}

/// PKCS#12's own derivation (RFC 7292, B.2) for one block of SHA-256, which is as long as the key.
fn mac_key(salt: &[u8; 16]) -> Vec<u8> {
    let fill = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().cycle().take(BLOCK).collect() };
    let input = [vec![MAC_KEY; BLOCK], fill(salt), fill(&PASSWORD)].concat();
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
    (0..ROUNDS.get()).fold(input, |bytes, _| hash(&bytes))
}

#[cfg(test)]
mod tests {
    use super::{certificates_only, der, integer, mac_key};
    use crate::exchange::hex;
    use x509_parser::der_parser::parse_der;

    #[test]
    fn lengths_and_numbers_are_minimal() {
        for (length, head) in [
            (0_usize, &[4_u8, 0][..]),
            (0x7f, &[4, 0x7f]),
            (0x80, &[4, 0x81, 0x80]),
            (0xff, &[4, 0x81, 0xff]),
            (0x100, &[4, 0x82, 1, 0]),
            (0x1_0000, &[4, 0x83, 1, 0, 0]),
        ] {
            let element = der(4, &[&vec![7; length]]);
            assert_eq!((&element[..head.len()], element.len()), (head, head.len() + length));
        }
        for (value, bytes) in
            [(0, &[2, 1, 0][..]), (127, &[2, 1, 127]), (128, &[2, 2, 0, 128]), (2048, &[2, 2, 8, 0])]
        {
            assert_eq!(integer(value), bytes);
        }
    }

    #[test]
    fn certificates_alone_are_pkcs7() {
        let made = certificates_only(&[der(0x30, &[]), der(0x30, &[b"\x05\x00"])]);
        let (rest, parsed) = parse_der(&made).expect("DER");
        assert!(rest.is_empty());
        assert_eq!(parsed.as_sequence().map(Vec::len), Ok(2));
    }

    /// Against `openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexpass:0000 -kdfopt hexsalt:0101…
    /// -kdfopt iter:2048 -kdfopt id:3 PKCS12KDF`; whole files are opened by OpenSSL in `tests/cli/sim_sources.rs`.
    #[test]
    fn the_key_of_a_mac_is_openssls() {
        let expected = "29ed59c3443eb4fceef5b437f79cb1cbe0c23358da4e10963eff49a52b0a1459";
        assert_eq!(hex(&mac_key(&[1; 16])), expected);
    }
}
