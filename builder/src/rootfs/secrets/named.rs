//! Secrets by the name that stands before them: `SharedAccessKey=…`, `"primaryKey": "…"`, `<ClientSecret>…`.
//!
//! Names are compared without case, hyphens, underscores and points, and by their ends: `AZURE_CLIENT_SECRET`, `client-secret`
//! and `graph.clientSecret` are one. What the value looks like decides: a placeholder, a variable, a name is none.

use std::ops::Range;

use super::{Secret, places, random};

/// Ends of names of what logs in to a cloud, with the least length of a value that is real. Azure's keys are base64 of 16 bytes
/// or more (learn.microsoft.com/azure/iot-hub/iot-hub-dev-guide-sas, and of storage accounts), Amazon's have 40 characters,
/// Entra's 37 or more.
const NAMES: [(&str, usize); 12] = [
    ("sharedaccesskey", 24),
    ("sharedsecretvalue", 24),
    ("accountkey", 24),
    ("storagekey", 24),
    ("primarykey", 24),
    ("secondarykey", 24),
    ("symmetrickey", 24),
    ("accesskey", 32),
    ("clientsecret", 32),
    ("sessiontoken", 32),
    ("refreshtoken", 32),
    ("authtoken", 32),
];
/// WireGuard's, in wg(8)'s and in systemd's files: 32 bytes in base64.
const WIREGUARD: [&str; 2] = ["privatekey", "presharedkey"];
/// What stands between a name and its value is shorter.
const BETWEEN: usize = 24;
/// Around a value, where the others of its address, or of its JSON object, stand.
const AROUND: usize = 6 << 10;
/// A signature is 32 bytes, 43 characters of base64 and more in an address.
const LEAST_SIGNATURE: usize = 40;
/// The private exponent of an elliptic curve's key has 32 bytes.
const LEAST_JWK: usize = 40;

/// The last two words.
#[derive(Default)]
pub(super) struct Before {
    last: Range<usize>,
    second: Range<usize>,
}

impl Before {
    /// One more.
    pub(super) fn push(&mut self, word: Range<usize>) {
        self.second = std::mem::replace(&mut self.last, word);
    }
}

/// Is the word at `at` a secret by its name?
pub(super) fn secret(text: &[u8], before: &Before, at: usize) -> Option<Secret> {
    if before.last.is_empty() || !is_between(&text[before.last.end..at]) {
        return None;
    }
    let mut name = simple(&text[before.last.clone()]);
    // XML's: key="SharedAccessKey" value="…".
    if name == b"value" && !before.second.is_empty() && before.last.start - before.second.end <= BETWEEN {
        name = simple(&text[before.second.clone()]);
    }
    let ends = |end: &str| name.ends_with(end.as_bytes());
    if let Some((_, least)) = NAMES.iter().find(|(end, _)| ends(end)) {
        return random::is_secret(&value(&text[at..]), *least).then_some(Secret::Login);
    }
    if WIREGUARD.iter().any(|end| ends(end)) {
        return random::is_32_bytes(&value(&text[at..])).then_some(Secret::Key);
    }
    match name.as_slice() {
        b"sig" | b"u0026sig" => signature(text, at),
        b"d" | b"k" => web_key(text, at, &name),
        _ => None,
    }
}

/// Quotes, escapes, and something that assigns.
fn is_between(text: &[u8]) -> bool {
    text.len() <= BETWEEN
        && text.iter().any(|byte| b"=:>(,".contains(byte))
        && text.iter().all(|byte| b" \t=:>(,\"'\\`&;|".contains(byte))
}

/// Small letters and digits alone; of a long word, the end.
fn simple(name: &[u8]) -> Vec<u8> {
    let end = &name[name.len().saturating_sub(64)..];
    end.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
}

/// The value from here on, without the escapes of JSON and of addresses: `\u002B`, `\/`, `%2B`.
fn value(text: &[u8]) -> Vec<u8> {
    const MOST: usize = 4096;
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at).filter(|_| value.len() < MOST) {
        let escaped = |from: usize| {
            let digits = text.get(from..from + 2)?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (byte, length) = match byte {
            b'\\' if text.get(at + 1) == Some(&b'/') => (b'/', 2),
            b'\\' if text[at..].starts_with(b"\\u00") => match escaped(at + 4) {
                Some(byte) => (byte, 6),
                None => break,
            },
            b'%' => match escaped(at + 1) {
                Some(byte) => (byte, 3),
                None => break,
            },
            byte => (*byte, 1),
        };
        if !(byte.is_ascii_alphanumeric() || b"+/=_-.~".contains(&byte)) {
            break;
        }
        value.push(byte);
        at += length;
    }
    value
}

/// A token of shared access, which may be good for years: a signature, and in the same address what it is for (`sr`) or its
/// version (`sv`).
fn signature(text: &[u8], at: usize) -> Option<Secret> {
    if !random::is_secret(&value(&text[at..]), LEAST_SIGNATURE) {
        return None;
    }
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'<>`".contains(byte);
    let from = at - at.min(AROUND);
    let start = text[from..at].iter().rposition(ends).map_or(from, |place| from + place + 1);
    let end = (at + AROUND).min(text.len());
    let end = text[at..end].iter().position(ends).map_or(end, |place| at + place);
    // `SharedAccessSignature sr=…` has a space of its own.
    let address = &text[start..end];
    let has = |key: &[u8]| {
        places(address, key).any(|place| place == 0 || !address[place - 1].is_ascii_alphabetic())
    };
    (has(b"sv=") || has(b"sr=")).then_some(Secret::Login)
}

/// A JSON Web Key (RFC 7517, RFC 7518) with its private part: `d` of RSA and curves, `k` of a symmetric key.
fn web_key(text: &[u8], at: usize, name: &[u8]) -> Option<Secret> {
    if !random::is_secret(&value(&text[at..]), LEAST_JWK) {
        return None;
    }
    let from = at - at.min(AROUND);
    let around = &text[from..(at + AROUND).min(text.len())];
    let types: &[&[u8]] = if name == b"k" { &[b"oct"] } else { &[b"RSA", b"EC", b"OKP", b"AKP"] };
    let has_type = places(around, b"kty").any(|place| {
        let value = &around[place + 3..around.len().min(place + 3 + BETWEEN)];
        types.iter().any(|kind| places(value, kind).next().is_some())
    });
    has_type.then_some(Secret::Key)
}
