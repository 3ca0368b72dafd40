//! The key itself: base64 of fields, each after its length in four bytes (RFC 4251, 5).
//!
//! ```text
//! ssh-ed25519          type · key of 32 bytes                                       RFC 8709, 4
//! ssh-rsa              type · exponent · modulus                                    RFC 4253, 6.6
//! ecdsa-sha2-<curve>   type · curve · point                                         RFC 5656, 3.1
//! sk-…                 as the plain kind, then the application's name               OpenSSH's PROTOCOL.u2f
//! ```
//! Every length is followed to its exact end, and what has a fixed length must have it: a key that lost its end in a
//! terminal or a chat is no key.

use base64::Engine as _;

use super::{COPY_WHOLE, curve, wrong};
use crate::finding::Finding;

/// Bits of the shortest RSA key that sshd takes (its RequiredRSASize), and of the longest that OpenSSH reads.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=16384;
/// Bytes of an Ed25519 public key.
const ED25519: usize = 32;
/// First byte of a point that is written out in full (SEC 1, 2.3.3); sshd takes no other form.
const UNCOMPRESSED: u8 = 4;

/// How the fields after the type are.
#[derive(Clone, Copy)]
enum Shape {
    Ed25519,
    Rsa,
    /// Name of the curve, and bytes of a coordinate.
    Ecdsa(&'static str, usize),
}

/// Types of keys, as OpenSSH 9 names them (`ssh -Q key-plain`, without the withdrawn DSA); whether a security key holds
/// them, whose blob ends with the name of an application.
const KINDS: [(&str, Shape, bool); 7] = [
    ("ssh-ed25519", Shape::Ed25519, false),
    ("ssh-rsa", Shape::Rsa, false),
    ("ecdsa-sha2-nistp256", Shape::Ecdsa("nistp256", 32), false),
    ("ecdsa-sha2-nistp384", Shape::Ecdsa("nistp384", 48), false),
    ("ecdsa-sha2-nistp521", Shape::Ecdsa("nistp521", 66), false),
    ("sk-ssh-ed25519@openssh.com", Shape::Ed25519, true),
    ("sk-ecdsa-sha2-nistp256@openssh.com", Shape::Ecdsa("nistp256", 32), true),
];
/// Characters of base64 that hold the longest name of a type, and more.
const LONGEST_KIND: usize = 80;
/// What the names of certificates have.
const CERTIFICATE: &str = "-cert-v0";
/// Withdrawn: sshd has taken none since 7.0, and none can be made since 10.0.
const DSA: &str = "ssh-dss";

/// Is the word a type of key, though maybe one that sshd does not take?
pub(super) fn is_kind(word: &str) -> bool {
    word == DSA || KINDS.iter().any(|(name, ..)| *name == word) || word.contains(CERTIFICATE)
}

/// Has a word the beginning of a key in it, as far as its type?
pub(super) fn is_in(word: &str) -> bool {
    // Every blob begins with three zeros of its type's length.
    word.match_indices("AAAA").any(|(at, _)| {
        let digits: Vec<u8> = word[at..].bytes().take(LONGEST_KIND).collect();
        let whole = &digits[..digits.len() / 4 * 4];
        let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(whole).unwrap_or_default();
        Fields(&bytes).next().is_ok_and(|kind| std::str::from_utf8(kind).is_ok_and(is_kind))
    })
}

/// Is it a whole key of this kind?
pub(super) fn judge(kind: &str, base64: &str) -> Result<(), Finding> {
    let Some((_, shape, hardware)) = KINDS.into_iter().find(|(name, ..)| *name == kind) else {
        return Err(not_taken(kind));
    };
    let cut = || wrong("has a key that is not whole: its base64 does not end as it should", COPY_WHOLE);
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).map_err(|_| cut())?;
    let mut fields = Fields(&bytes);
    if fields.next()? != kind.as_bytes() {
        return Err(wrong("has a key of another kind than the word before it says", COPY_WHOLE));
    }
    match shape {
        Shape::Ed25519 => exactly(fields.next()?, ED25519)?,
        Shape::Rsa => rsa(fields.next()?, fields.next()?)?,
        Shape::Ecdsa(curve, coordinate) => point(fields.next()?, fields.next()?, curve, coordinate)?,
    }
    if hardware {
        let application = fields.next()?;
        if application.is_empty() || application.contains(&0) || std::str::from_utf8(application).is_err() {
            return Err(wrong("has a security key without its application's name", COPY_WHOLE));
        }
    }
    match fields.0.len() {
        0 => Ok(()),
        more => Err(wrong(format!("has a key with {more} bytes too many after its end"), COPY_WHOLE)),
    }
}

fn not_taken(kind: &str) -> Finding {
    if kind == DSA {
        return wrong("has a DSA key, which sshd no longer takes", "make another: ssh-keygen -t ed25519");
    }
    // A certificate is shown by who logs in; in this list only its plain key, or its authority's, is ever looked for.
    wrong(
        "has a certificate, which sshd does not look for here",
        "name the key that it certifies, or its authority's with the option `cert-authority`",
    )
}

/// What is left of a blob.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field.
    fn next(&mut self) -> Result<&'a [u8], Finding> {
        let cut = |has: usize, wants: usize| {
            let reason = format!("has a key that is cut short: {has} of a field's {wants} bytes are there");
            wrong(reason, COPY_WHOLE)
        };
        let (length, rest) = self.0.split_first_chunk().ok_or_else(|| cut(self.0.len(), 4))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (field, rest) = rest.split_at_checked(length).ok_or_else(|| cut(rest.len(), length))?;
        self.0 = rest;
        Ok(field)
    }
}

fn exactly(field: &[u8], length: usize) -> Result<(), Finding> {
    if field.len() == length {
        return Ok(());
    }
    let reason = format!("has a key of {} bytes, where its kind has {length}", field.len());
    Err(wrong(reason, COPY_WHOLE))
}

/// A positive number without needless zeros before it (RFC 4251, 5, `mpint`); its bytes from the first that counts.
fn number(field: &[u8]) -> Option<&[u8]> {
    match field {
        [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 != 0) => Some(rest),
        [first, ..] if (1..0x80).contains(first) => Some(field),
        _ => None,
    }
}

fn rsa(exponent: &[u8], modulus: &[u8]) -> Result<(), Finding> {
    let (Some(exponent), Some(modulus)) = (number(exponent), number(modulus)) else {
        return Err(wrong("has an RSA key whose numbers are none", COPY_WHOLE));
    };
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    if !odd(exponent) || exponent == [1] || !odd(modulus) {
        return Err(wrong("has an RSA key that cannot be one: its numbers are even", COPY_WHOLE));
    }
    let zeros = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = modulus.len() * 8 - zeros;
    if !RSA_BITS.contains(&bits) {
        let reason = format!("has an RSA key of {bits} bits, and sshd takes {} and more", RSA_BITS.start());
        return Err(wrong(reason, "make another: ssh-keygen -t ed25519"));
    }
    Ok(())
}

fn point(curve: &[u8], point: &[u8], name: &str, coordinate: usize) -> Result<(), Finding> {
    if curve != name.as_bytes() {
        return Err(wrong("has a key on another curve than its kind says", COPY_WHOLE));
    }
    exactly(point, 1 + 2 * coordinate)?;
    if point.first() != Some(&UNCOMPRESSED) {
        return Err(wrong("has a key whose point is not written out in full", COPY_WHOLE));
    }
    let (x, y) = point[1..].split_at(coordinate);
    if curve::has(name, x, y) { Ok(()) } else { Err(wrong("has a key that is not on its curve", COPY_WHOLE)) }
}

#[cfg(test)]
mod tests {
    use super::{UNCOMPRESSED, judge};
    use base64::Engine as _;

    fn base64(bytes: &[u8]) -> String {
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    fn blob(fields: &[&[u8]]) -> Vec<u8> {
        let field = |field: &&[u8]| [&(field.len() as u32).to_be_bytes(), *field].concat();
        fields.iter().flat_map(field).collect()
    }

    fn point(coordinate: usize) -> Vec<u8> {
        let (x, y) = super::curve::tests::base(coordinate);
        [vec![UNCOMPRESSED], x, y].concat()
    }

    /// A key of each kind.
    fn all() -> Vec<(&'static str, Vec<u8>)> {
        let of = |kind: &'static str, rest: &[&[u8]]| (kind, blob(&[&[kind.as_bytes()], rest].concat()));
        let modulus = [vec![0, 0xc3], vec![5; 255]].concat();
        vec![
            of("ssh-ed25519", &[&[9; 32]]),
            of("ssh-rsa", &[&[1, 0, 1], &modulus]),
            of("ecdsa-sha2-nistp256", &[b"nistp256", &point(32)]),
            of("ecdsa-sha2-nistp384", &[b"nistp384", &point(48)]),
            of("ecdsa-sha2-nistp521", &[b"nistp521", &point(66)]),
            of("sk-ssh-ed25519@openssh.com", &[&[9; 32], b"ssh:"]),
            of("sk-ecdsa-sha2-nistp256@openssh.com", &[b"nistp256", &point(32), b"ssh:ops"]),
        ]
    }

    #[test]
    fn a_key_is_whole_or_none() {
        for (kind, blob) in all() {
            assert_eq!(judge(kind, &base64(&blob)), Ok(()), "{kind}");
            for length in 0..blob.len() {
                assert!(judge(kind, &base64(&blob[..length])).is_err(), "{kind} cut to {length} bytes");
            }
            let text = base64(&blob);
            for length in 0..text.len() {
                assert!(judge(kind, &text[..length]).is_err(), "{kind} cut to {length} characters");
            }
            assert!(judge(kind, &base64(&[&blob[..], &[0]].concat())).is_err(), "{kind} and one byte");
            for (other, _) in all().iter().filter(|(other, _)| *other != kind) {
                assert!(judge(other, &text).is_err(), "{kind} as {other}");
            }
        }
    }

    #[test]
    fn what_sshd_does_not_take_is_said() {
        let rsa = |e: &[u8], n: &[u8]| base64(&blob(&[b"ssh-rsa", e, n]));
        let n = [vec![0, 0x80], vec![1; 127]].concat();
        assert_eq!(judge("ssh-rsa", &rsa(&[3], &n)), Ok(()));
        for (e, n) in [
            (&[3][..], &n[..128]),
            (&[4], &n),
            (&[1], &n),
            (&[], &n),
            (&[0, 3], &n),
            (&[3], &n[1..]),
            (&[3], &[n.clone(), vec![2]].concat()),
            (&[3], &[0x7f; 2049]),
        ] {
            assert!(judge("ssh-rsa", &rsa(e, n)).is_err(), "{e:?} {n:?}");
        }
        for (fields, length) in [(&[9u8; 31][..], 31), (&[9; 33], 33), (&[], 0)] {
            let error = judge("ssh-ed25519", &base64(&blob(&[b"ssh-ed25519", fields]))).expect_err("refused");
            assert!(error.message.contains(&format!("{length} bytes")), "{error}");
        }
        let mut flipped = point(32);
        flipped[40] ^= 1;
        let key = blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &flipped]);
        let error = judge("ecdsa-sha2-nistp256", &base64(&key)).expect_err("one bit is wrong");
        assert!(error.message.contains("not on its curve"), "{error}");
        let compressed = [vec![2], vec![7; 64]].concat();
        let key = blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &compressed]);
        assert!(judge("ecdsa-sha2-nistp256", &base64(&key)).is_err());
        assert!(judge("ssh-ed25519-cert-v01@openssh.com", "AAAA").is_err());
        assert!(judge("ssh-dss", "AAAA").is_err());
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error() {
        for bytes in [&[0xff; 4][..], &[0xff, 0xff, 0xff, 0xff, 1], &[0, 0, 0], &[]] {
            assert!(judge("ssh-ed25519", &base64(bytes)).is_err(), "{bytes:?}");
        }
    }
}
