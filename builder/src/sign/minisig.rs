//! minisign's signatures: Ed25519 over the BLAKE2b digest of the file, with a comment that is signed too.

use std::io::{Cursor, IsTerminal as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{PublicKey, SecretKey, SecretKeyBox, SignatureBox};

use super::SUMS;
use crate::error::Problem;
use crate::event::Sink;

/// Line and bytes of the two signatures in a file: algorithm (2), the key's id (8) and the signature (64); and the signature over
/// that one with the comment (minisign(1), "Signature format").
const SIGNATURES: [(usize, usize); 2] = [(2, 74), (4, 64)];

/// The signature and the id of its key.
pub(super) fn sign(path: &Path, secret: &str, text: &str, sink: &dyn Sink) -> Result<(String, String)> {
    let secret = unlock(path, secret, sink)?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?.as_secs();
    // As minisign itself writes it.
    let comment = format!("timestamp:{seconds}\tfile:{SUMS}\thashed");
    let signature = minisign::sign(None, &secret, Cursor::new(text), Some(&comment), None)
        .map_err(|error| Problem::work(format!("signing with {}: {error}", path.display())))?;
    let signature = signature.into_string();
    // The file holds the public half too: one that does not belong to the secret half would sign in vain.
    let public = PublicKey::from_secret_key(&secret).map(|key| key.to_base64());
    let public = public.with_context(|| format!("reading the public half in {}", path.display()))?;
    let signer = verify(&public, &signature, text)
        .map_err(|why| Problem::input(format!("the minisign key {} is damaged: {why}", path.display())))?;
    Ok((signature, signer))
}

fn unlock(path: &Path, secret: &str, sink: &dyn Sink) -> Result<SecretKey> {
    let boxed = || SecretKeyBox::from_string(secret);
    let refused = |error: &dyn std::fmt::Display| {
        Problem::input(format!("the minisign key {} cannot be used: {error}", path.display()))
    };
    if let Some(key) = open(secret) {
        return Ok(key);
    }
    // Asked on the terminal itself: standard input and output may be somebody else's.
    if !std::io::stderr().is_terminal() {
        let hint =
            "for work without a terminal use a key without one (minisign -G -W), or an SSH key in ssh-agent";
        return Err(refused(&"it has a pass phrase, and there is no terminal to ask for it")
            .hint(hint)
            .into());
    }
    let password = rpassword::prompt_password(format!("pass phrase of {}: ", path.display()))
        .map_err(|error| refused(&error))?;
    sink.note("deriving the key from the pass phrase, which takes seconds by design".into());
    boxed()
        .and_then(|boxed| boxed.into_secret_key(Some(password)))
        .map_err(|error| refused(&error).hint("was the pass phrase right?").into())
}

/// A key without a pass phrase. The file is: algorithm (2 bytes), key derivation (2, zero: none), checksum's algorithm (2),
/// salt and limits (48), the key's id (8), the key (64), checksum (32).
fn open(secret: &str) -> Option<SecretKey> {
    const CHECKSUM: std::ops::Range<usize> = 126..158;
    if let Ok(key) = SecretKeyBox::from_string(secret).and_then(SecretKeyBox::into_unencrypted_secret_key) {
        return Some(key);
    }
    // `minisign -G -W` leaves the checksum zero; the crate insists on one.
    let bytes = STANDARD.decode(secret.lines().nth(1)?.trim()).ok()?;
    let unlocked = bytes.len() == CHECKSUM.end && bytes[2..4] == [0; 2] && bytes[CHECKSUM] == [0; 32];
    unlocked.then(|| SecretKey::from_bytes(&bytes).ok()).flatten()
}

/// Who made a signature, as it says itself: without the public key this cannot be checked.
pub(super) fn signer(signature: &str) -> Result<String, String> {
    parse(signature).map(|signature| shown(signature.keynum()))
}

/// Did this key sign? Says who did, with what the signed comment says.
pub(super) fn verify(public: &str, signature: &str, text: &str) -> Result<String, String> {
    let public =
        PublicKey::from_base64(public).map_err(|error| format!("the public key is damaged: {error}"))?;
    let signature = parse(signature)?;
    match minisign::verify(&public, &signature, Cursor::new(text), true, false, false) {
        Ok(()) => Ok(shown(public.keynum())),
        Err(_) if signature.keynum() != public.keynum() => Err(format!(
            "the signature is that of {}, the key given is {}",
            shown(signature.keynum()),
            shown(public.keynum())
        )),
        Err(error) => Err(format!("the signature does not fit: {error}")),
    }
}

/// The crate takes signatures of any length, and panics on a short one.
fn parse(signature: &str) -> Result<SignatureBox, String> {
    let unreadable = |why: &dyn std::fmt::Display| format!("the signature cannot be read: {why}");
    for (line, length) in SIGNATURES {
        let text = signature.lines().nth(line - 1).unwrap_or_default().trim();
        if STANDARD.decode(text).map(|bytes| bytes.len()) != Ok(length) {
            return Err(unreadable(&format!("line {line} is not {length} bytes in base64")));
        }
    }
    SignatureBox::from_string(signature).map_err(|error| unreadable(&error))
}

/// A key's id, in minisign's way: the bytes as a little-endian number.
fn shown(id: &[u8]) -> String {
    let digits: String = id.iter().rev().map(|byte| format!("{byte:02X}")).collect();
    format!("minisign key {digits}")
}
