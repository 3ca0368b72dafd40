//! What a file's bytes say, whatever its name: a key, a store of keys, a cloud's secret.
//!
//! *Window*: as much of a file as is looked at in one go. A file of any size is read window by window, each with the end of
//! the one before, so that nothing hides behind much text or across a border, and memory does not grow with the file.
//!
//! ```text
//! file ─► window ─┬─► der        the file is a key, or a store of keys   (first window: it is so from its first byte)
//!                 ├─► pem        borders of a key in text, wherever in a line
//!                 └─► words ─┬─► named   SharedAccessKey=…, "primaryKey": "…", ?sv=…&sig=…
//!                            ├─► tokens  text that is a secret by its form
//!                            └─► base64  of any of these
//! ```

mod der;
mod named;
mod pem;
mod random;
mod words;

use std::io::{self, Read};

/// Read at once. A Java keystore with all authorities of a Linux system has 160 KiB.
const CHUNK: usize = 1 << 20;
/// Of a window, what is looked at again with the next: more than any key, or any distance within which one is recognised.
const OVERLAP: usize = 32 << 10;

/// Text within a database or another file of no text is looked at from this length on; what was compressed has none.
const LEAST_TEXT: usize = 32;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Secret {
    /// A private key, or a key of two parties, in any form.
    Key,
    /// A store of certificates and keys, with a key.
    Store,
    /// What logs in somewhere, in plain text.
    Login,
}

/// A secret in what a reader gives, read to its end or to the first one.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn find(mut file: impl Read) -> io::Result<Option<Secret>> {
    let mut window = Vec::new();
    let mut first = None;
    loop {
        let count = file.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        if count == 0 {
            return Ok(None);
        }
        if first.is_none() && is_program(&window) {
            return Ok(None);
        }
        let start = *first.get_or_insert_with(|| Start::of(&window));
        if let Some(found) = start.found.or_else(|| start.look(&window)) {
            return Ok(Some(found));
        }
        window.drain(..window.len().saturating_sub(OVERLAP));
    }
}

/// As [`find`], of bytes that are there already.
pub(crate) fn find_in(bytes: &[u8]) -> Option<Secret> {
    // Nothing but memory is read.
    find(bytes).unwrap_or_default()
}

/// A store of certificates that has no key, as far as its form can be read; of anything else, no.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn is_trust_store(mut file: impl Read) -> io::Result<bool> {
    let mut window = Vec::new();
    file.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
    Ok(der::is_pkcs12(&window) && find(window.chain(file))?.is_none())
}

/// A file that is nothing but 32 bytes in base64, as `wg genkey` writes them; a public key has the same form.
pub(crate) fn is_raw_key(content: &[u8]) -> bool {
    random::is_32_bytes(content.trim_ascii())
}

/// What a file's beginning says of all of it.
#[derive(Clone, Copy)]
struct Start {
    found: Option<Secret>,
    wide: bool,
    pkcs12: bool,
}

impl Start {
    fn of(window: &[u8]) -> Self {
        let found = if der::is_private_key(window) || der::is_openpgp_secret_key(window) {
            Some(Secret::Key)
        } else {
            der::is_java_store_with_key(window).then_some(Secret::Store)
        };
        Self { found, wide: is_wide(window), pkcs12: der::is_pkcs12(window) }
    }

    fn look(self, window: &[u8]) -> Option<Secret> {
        if self.pkcs12 && der::has_key_bag(window) {
            return Some(Secret::Store);
        }
        if self.wide {
            let narrow: Vec<u8> = window.iter().copied().filter(|byte| *byte != 0).collect();
            return in_text(&narrow, true);
        }
        if is_text(window) {
            return in_text(window, true);
        }
        let is_shown = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
        let texts = window.split(|byte| !is_shown(byte)).filter(|text| text.len() >= LEAST_TEXT);
        texts.into_iter().find_map(|text| in_text(text, true))
    }
}

/// Programs and libraries (ELF; ar) are not looked into: those that do cryptography test themselves with keys that they carry,
/// the same for everybody, as libgnutls does.
fn is_program(beginning: &[u8]) -> bool {
    beginning.starts_with(b"\x7fELF") || beginning.starts_with(b"!<arch>\n")
}

/// UTF-8, but for what a window's borders cut.
fn is_text(window: &[u8]) -> bool {
    let cut = window.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    let is_text = match std::str::from_utf8(&window[cut..]) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    is_text && !window.contains(&0)
}

fn in_text(text: &[u8], decode: bool) -> Option<Secret> {
    if pem::has_private_key(text) { Some(Secret::Key) } else { words::look(text, decode) }
}

/// UTF-16, of which every other byte is nothing as long as it is a key's: without them it is the same text.
fn is_wide(window: &[u8]) -> bool {
    let beginning = &window[..window.len().min(4096)];
    if beginning.starts_with(&[0xff, 0xfe]) || beginning.starts_with(&[0xfe, 0xff]) {
        return true;
    }
    let nothing = |from: usize| beginning.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (nothing(0), nothing(1));
    let most = beginning.len() / 2;
    most >= 8 && ((odd * 10 > most * 9 && even == 0) || (even * 10 > most * 9 && odd == 0))
}

/// Where `needle` stands in `text`.
fn places<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle.first().copied().unwrap_or_default();
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let at = from + text.get(from..)?.iter().position(|byte| *byte == first)?;
            from = at + 1;
            if text[at..].starts_with(needle) {
                return Some(at);
            }
        }
    })
}

#[cfg(test)]
mod tests;
