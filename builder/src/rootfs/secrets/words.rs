//! Text word by word: a word is a secret by its form, by the name before it, or by what it is the base64 of.
//!
//! *Word*: letters, digits, and what else base64, URLs and names have; all but the equals sign, which ends a name as often as
//! it ends base64.

use super::named::{self, Before};
use super::{Secret, der, pem, places, random};

/// Less is the base64 of no key: one of Curve25519 has 64 characters in PKCS#8, and 44 raw.
const LEAST_BASE64: usize = 60;
/// A key has less.
const MOST_BASE64: usize = 24 << 10;

/// age's keys have 58 characters after `AGE-SECRET-KEY-1`.
const LEAST_AGE: usize = 50;

/// Begins of tokens that name who gave them, and the characters that follow at least (the rules of github.com/gitleaks/gitleaks,
/// config/gitleaks.toml, which cites each service).
const TOKENS: [(&str, usize); 16] = [
    ("ghp_", 36),
    ("gho_", 36),
    ("ghu_", 36),
    ("ghs_", 36),
    ("ghr_", 36),
    ("github_pat_", 40),
    ("glpat-", 20),
    ("npm_", 36),
    ("pypi-AgEI", 50),
    ("dckr_pat_", 27),
    ("dckr_oat_", 27),
    ("hvs.", 24),
    ("xoxb-", 24),
    ("xoxp-", 24),
    ("sk_live_", 24),
    ("dop_v1_", 64),
];

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/_-.~%".contains(&byte)
}

/// The first secret. `decode`: of base64 too.
pub(super) fn look(text: &[u8], decode: bool) -> Option<Secret> {
    let mut before = Before::default();
    let mut amazon = (false, false);
    let mut at = 0;
    while at < text.len() {
        if !is_of_word(text[at]) {
            at += 1;
            continue;
        }
        let length = text[at..].iter().take_while(|byte| is_of_word(**byte)).count();
        let word = &text[at..at + length];
        let found = named::secret(text, &before, at)
            .or_else(|| token(word))
            .or_else(|| decode.then(|| encoded(text, at, length)).flatten());
        if found.is_some() {
            return found;
        }
        amazon = (amazon.0 || is_amazon_id(word), amazon.1 || is_amazon_key(word));
        before.push(at..at + length);
        at += length;
    }
    (amazon == (true, true)).then_some(Secret::Login)
}

fn token(word: &[u8]) -> Option<Secret> {
    // After https:// too.
    let word = &word[word.iter().take_while(|byte| **byte == b'/').count()..];
    if let Some(rest) = word.strip_prefix(b"AGE-SECRET-KEY-") {
        // Bech32, in capitals.
        let key = rest.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'-');
        return (key && rest.len() >= LEAST_AGE && random::is_varied(rest)).then_some(Secret::Key);
    }
    let follows = |(start, least): &(&'static str, usize)| {
        let rest = word.strip_prefix(start.as_bytes())?;
        (rest.len() >= *least && random::is_secret(rest, *least)).then_some(*start)
    };
    let found = TOKENS.iter().find_map(follows).is_some() || is_entra_secret(word);
    found.then_some(Secret::Login)
}

/// A client secret of Entra ID: three characters, a digit, `Q~`, and 31 to 34 more (gitleaks' azure-ad-client-secret).
fn is_entra_secret(word: &[u8]) -> bool {
    (37..=40).contains(&word.len())
        && word[3].is_ascii_digit()
        && &word[4..6] == b"Q~"
        && random::is_secret(word, 37)
}

/// An access key's id, which by itself tells nothing.
fn is_amazon_id(word: &[u8]) -> bool {
    word.len() == 20
        && (word.starts_with(b"AKIA") || word.starts_with(b"ASIA"))
        && word.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        && !word.ends_with(b"EXAMPLE")
}

/// Something of a secret key's length.
fn is_amazon_key(word: &[u8]) -> bool {
    word.len() == 40 && word.iter().any(u8::is_ascii_uppercase) && random::is_secret(word, 40)
}

/// What a word is the base64 of: a key in DER, a store of them, or text with a secret, as in Kubernetes' Secrets.
fn encoded(text: &[u8], at: usize, length: usize) -> Option<Secret> {
    let padding = text[at + length..].iter().take(2).take_while(|byte| **byte == b'=').count();
    let word = &text[at..at + length + padding];
    if !(LEAST_BASE64..=MOST_BASE64).contains(&word.len()) || places(word, b".").next().is_some() {
        return None;
    }
    let bytes = random::decode(word)?;
    if der::is_private_key(&bytes) {
        return Some(Secret::Key);
    }
    if der::is_pkcs12(&bytes) && der::has_key_bag(&bytes) {
        return Some(Secret::Store);
    }
    let is_text = bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'));
    match is_text {
        true if pem::has_private_key(&bytes) => Some(Secret::Key),
        true => look(&bytes, false),
        false => None,
    }
}
