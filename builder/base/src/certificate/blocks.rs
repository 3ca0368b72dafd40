//! PEM (RFC 7468) as people and their programs write it. The one reader of the whole product: every `-----BEGIN ` of a file is
//! accounted for. What is one block for the eye is read, whatever its line ends; what is none is named with its line.
//!
//! ```text
//! text before ─ -----BEGIN LABEL----- ─ headers ─ base64 ─ -----END LABEL----- ─ text between ─ the next, perhaps in the same line
//! ```
//!
//! First boot reads by the same rules (`pem_blocks` in overlays/base/usr/lib/edgepress/identity.sh).

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const BYTE_ORDER_MARK: char = '\u{feff}';
/// What the border of a block ends in; lines that end so and are no border look like one.
const KINDS: [&str; 6] = ["CERTIFICATE", "KEY", "REQUEST", "CRL", "CMS", "PKCS7"];

/// Base64 as OpenSSL takes it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// One block.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// What it says that it is, as in `CERTIFICATE`.
    pub label: String,
    /// The line that it begins in, from 1.
    pub line: usize,
    /// What it holds; nothing where it is protected by a password.
    pub der: Vec<u8>,
    /// Is it protected by a password?
    pub encrypted: bool,
}

impl Block {
    /// Is it a certificate? (Whether that can be read is another question.)
    pub fn is_certificate(&self) -> bool {
        ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"].contains(&self.label.as_str())
    }

    /// Is it a private key?
    pub fn is_key(&self) -> bool {
        self.label.ends_with("PRIVATE KEY")
    }
}

/// All blocks of a file, in order.
///
/// # Errors
/// The first thing that cannot be accounted for, with its line. Nothing of the content is repeated.
pub fn read(bytes: &[u8]) -> Result<Vec<Block>, String> {
    let text = text(bytes)?;
    let mut reader = Reader { rest: &text, line: 1, blocks: Vec::new() };
    while reader.next()? {}
    Ok(reader.blocks)
}

/// The certificates of a file (DER), in order: those of every label that means one.
///
/// # Errors
/// As [`read`]; or a block is neither certificate nor key, or holds one that is cut short.
pub fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for block in read(bytes)? {
        match block.label.as_str() {
            // What OpenSSL adds behind the certificate says whom it trusts for what; nobody else reads it.
            "TRUSTED CERTIFICATE" => {
                let length = element(&block.der)
                    .ok_or_else(|| format!("line {}: the certificate is cut short", block.line))?;
                found.push(block.der[..length].to_vec());
            }
            _ if block.is_certificate() => found.push(block.der),
            _ if block.is_key() => {}
            "EC PARAMETERS" | "PUBLIC KEY" => {}
            other => {
                return Err(format!(
                    "line {}: a block {other}, which is neither certificate nor key",
                    block.line
                ));
            }
        }
    }
    Ok(found)
}

/// Has this text a line that is the border of a block for the eye, also where [`read`] would not take it for one?
pub fn seems_pem(text: &str) -> bool {
    lines(text).any(looks_like_border)
}

/// Does a certificate, key or PFX in DER begin here? That is a sequence of a number, of another sequence, or of an identifier
/// (PKCS #7). A length of several bytes is no text; where it is a single byte, it must be that of the rest.
pub fn is_der(bytes: &[u8]) -> bool {
    let &[0x30, length, ref rest @ ..] = bytes else { return false };
    let first = |rest: &[u8]| rest.first().is_some_and(|tag| matches!(tag, 0x02 | 0x30 | 0x06));
    match length {
        0..=0x7f => {
            let end = usize::from(length);
            first(rest) && rest.get(end..).is_some_and(|more| more.iter().all(u8::is_ascii_whitespace))
        }
        0x80..=0x84 => rest.get(usize::from(length & 0x7f)..).is_some_and(first),
        _ => false,
    }
}

/// Length of the DER element that begins here, header included, where it is whole.
fn element(der: &[u8]) -> Option<usize> {
    let (&first, rest) = der.get(1..)?.split_first()?;
    let (header, length) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let length = rest.get(..count)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (2 + count, length)
        }
        _ => return None,
    };
    let whole = header.checked_add(length)?;
    (whole <= der.len()).then_some(whole)
}

/// The text, or what the file is instead.
fn text(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Err("it is UTF-16, not plain text: save it as UTF-8 or ANSI".into())
        }
        _ if is_der(bytes) => {
            Err("it is binary (DER, or a PFX), and no PEM file: `openssl x509 -inform DER`, \
             `openssl pkey -inform DER` or `openssl pkcs12 -nodes` makes one of it"
                .into())
        }
        _ if bytes.contains(&0) => Err("it holds zero bytes (UTF-16?): save it as UTF-8 or ANSI".into()),
        // Outside blocks any sign is welcome, also in the code page of an old editor; within one it is no base64.
        _ => Ok(String::from_utf8_lossy(bytes)),
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    blocks: Vec<Block>,
}

impl<'a> Reader<'a> {
    /// Reads up to the end of the next block; false: there is none.
    fn next(&mut self) -> Result<bool, String> {
        let Some(at) = self.rest.find(BEGIN) else {
            self.skip(self.rest.len())?;
            return Ok(false);
        };
        self.skip(at)?;
        let line = self.line;
        let label =
            self.border(BEGIN).ok_or_else(|| format!("line {line}: five dashes are missing behind BEGIN"))?;
        let end = self.rest.find(DASHES).filter(|end| self.rest[*end..].starts_with(END));
        let end = end.ok_or_else(|| format!("line {line}: the block that begins there has no end"))?;
        let content = self.advance(end);
        let closed = self.border(END);
        if closed != Some(label) {
            return Err(format!(
                "line {}: the block that begins in line {line} does not end as it begins",
                self.line
            ));
        }
        self.blocks.push(block(label, content, line)?);
        Ok(true)
    }

    /// The label of the border that begins here, which is passed.
    fn border(&mut self, start: &str) -> Option<&'a str> {
        let (label, _) = self.rest.get(start.len()..)?.split_once(DASHES)?;
        let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ';
        (!label.is_empty() && label.chars().all(plain)).then_some(())?;
        self.advance(start.len() + label.len() + DASHES.len());
        Some(label)
    }

    /// Passes so many bytes, and counts their lines: CR LF, LF, or CR alone.
    fn advance(&mut self, count: usize) -> &'a str {
        let (part, rest) = self.rest.split_at(count);
        let bytes = part.as_bytes();
        let alone = |at: usize| bytes[at] == b'\r' && rest_or(bytes, rest, at + 1) != Some(b'\n');
        self.line += (0..bytes.len()).filter(|at| bytes[*at] == b'\n' || alone(*at)).count();
        self.rest = rest;
        part
    }

    /// Passes text that stands outside blocks: anything that does not look like the border of one.
    fn skip(&mut self, count: usize) -> Result<(), String> {
        let first = self.line;
        let text = self.advance(count);
        for (at, line) in (first..).zip(lines(text)) {
            if looks_like_border(line) {
                return Err(format!(
                    "line {at}: what looks like the border of a block is none (-----BEGIN and -----END, with five dashes)"
                ));
            }
        }
        Ok(())
    }
}

fn rest_or(bytes: &[u8], rest: &str, at: usize) -> Option<u8> {
    bytes.get(at).copied().or_else(|| rest.as_bytes().first().copied())
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    // What ends in CR LF is one line.
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

fn is_dash(c: char) -> bool {
    c == '-' || ('\u{2010}'..='\u{2015}').contains(&c) || c == '\u{2212}'
}

fn looks_like_border(line: &str) -> bool {
    let upper = line.to_uppercase();
    let words =
        upper.trim_matches(|c: char| is_dash(c) || c.is_whitespace() || ">\u{feff}\u{fffd}".contains(c));
    let kind = words.strip_prefix("BEGIN ").or_else(|| words.strip_prefix("END "));
    kind.is_some_and(|kind| {
        let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ';
        kind.chars().all(plain) && KINDS.iter().any(|known| kind.ends_with(known))
    })
}

fn block(label: &str, content: &str, line: usize) -> Result<Block, String> {
    let mut encrypted = label.starts_with("ENCRYPTED");
    let mut base64 = String::new();
    let mut in_headers = true;
    for (at, text) in (line..).zip(lines(content)) {
        let text_part = text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK);
        if text_part.is_empty() {
            continue;
        }
        if in_headers && text_part.contains(": ") {
            encrypted |= text_part.contains("ENCRYPTED");
            continue;
        }
        in_headers = false;
        let signs = text_part.chars().filter(|c| !c.is_whitespace());
        for sign in signs {
            if !sign.is_ascii_alphanumeric() && !"+/=".contains(sign) {
                return Err(format!(
                    "line {at}: a sign that is no base64, in the block that begins in line {line}"
                ));
            }
            base64.push(sign);
        }
    }
    let der = match encrypted {
        true => Vec::new(),
        false if base64.is_empty() => {
            return Err(format!("line {line}: the block that begins there is empty"));
        }
        false => BASE64
            .decode(&base64)
            .map_err(|_| format!("line {line}: the block that begins there is damaged (base64)"))?,
    };
    Ok(Block { label: label.to_owned(), line, der, encrypted })
}

#[cfg(test)]
mod tests {
    use super::{certificates, read};
    use crate::certificate::pem;

    fn two() -> (String, String) {
        (pem(&[0x30, 3, 2, 1, 7], "CERTIFICATE"), pem(&[b'x'; 100], "CERTIFICATE"))
    }

    #[test]
    fn what_is_one_block_for_the_eye_is_read() {
        let (a, b) = two();
        let plain = format!("{a}{b}");
        for text in [
            plain.clone(),
            format!("{}{b}", a.trim_end()),
            format!("\u{feff}{a}\u{feff}{b}"),
            plain.replace('\n', "\r\n"),
            plain.replace('\n', "\r"),
            plain.replace('\n', ""),
            plain.replace('\n', " "),
            plain.replace('\n', "\n\t"),
            plain.replace("CERTIFICATE", "X509 CERTIFICATE"),
            format!("Bag Attributes\n  x: y\n{a}the end of one, and BEGIN of the next: -- -----\n{b}"),
            format!("{a}{}", b.replacen('\n', "\nX-Note: from the plant\n\n", 1)),
            plain.replace('=', ""),
        ] {
            let found = certificates(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(found, [vec![0x30, 3, 2, 1, 7], vec![b'x'; 100]], "{text}");
        }
        let latin: Vec<u8> = [plain.as_bytes(), b"# Pl\xe4tze\n"].concat();
        assert_eq!(certificates(&latin).map(|found| found.len()), Ok(2));
        let trusted = pem(&[0x30, 3, 2, 1, 7, 0x30, 0], "TRUSTED CERTIFICATE");
        assert_eq!(certificates(trusted.as_bytes()), Ok(vec![vec![0x30, 3, 2, 1, 7]]));
    }

    #[test]
    fn what_is_none_is_named_with_its_line() {
        let (a, b) = two();
        let border = "line 4: what looks like the border";
        let utf16: Vec<u8> = format!("\u{feff}{a}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read(&utf16).err().is_some_and(|error| error.contains("UTF-16")));
        assert!(read(&utf16[2..]).err().is_some_and(|error| error.contains("zero bytes")));
        let short = [&[0x30, 0x31, 2, 1, 1, 4, 0x20][..], &[0; 44]].concat();
        for der in
            [&[0x30, 0x82, 1, 2, 0x30][..], &[0x30, 0x81, 0x87, 2, 1, 0], &[0x30, 0x80, 2, 1, 3], &short]
        {
            assert!(read(der).err().is_some_and(|error| error.contains("binary")), "{der:x?}");
        }
        for text in [&b"0"[..], b"02", b"0\x02", b"0\x80x"] {
            assert!(!super::is_der(text), "{text:x?}");
        }
        for (text, expected) in [
            (format!("{a}{}", b.replace("-----BEGIN", "----BEGIN")), border),
            (format!("{a}{}", b.replace("-----", "\u{2014}\u{2014}")), border),
            (format!("{a}{}", b.replace("BEGIN", "Begin")), border),
            (format!("{a}> {}", b.replace("-----BEGIN", "---- BEGIN").replace('\n', "\n> ")), border),
            (format!("{a}{}", b.replace("-----\n", "----\n")), "line 4: "),
            (
                format!("{a}{}", b.rsplit_once("-----END").expect("PEM").0),
                "line 4: the block that begins there has no end",
            ),
            (
                format!("{}{a}", b.rsplit_once("-----END").expect("PEM").0),
                "line 1: the block that begins there has no end",
            ),
            (
                format!("{a}{}", b.replace("-----END CERTIFICATE", "-----END KEY")),
                "does not end as it begins",
            ),
            (a.replace("MA", "M!"), "line 2: a sign that is no base64"),
            (a.replace('\n', "\\n"), "a sign that is no base64"),
            (pem(&[], "CERTIFICATE"), "line 1: the block that begins there is empty"),
            (
                pem(b"abcd", "CERTIFICATE").replace("==", "AAA"),
                "line 1: the block that begins there is damaged",
            ),
            (pem(b"abc", "PKCS7"), "line 1: a block PKCS7, which is neither certificate nor key"),
            (pem(&[0x30, 9, 1], "TRUSTED CERTIFICATE"), "line 1: the certificate is cut short"),
        ] {
            let error = certificates(text.as_bytes()).err().unwrap_or_else(|| panic!("taken: {text}"));
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let blocks = read(key.as_bytes()).expect("read");
        assert!(blocks[0].encrypted && blocks[0].is_key() && blocks[0].der.is_empty());
    }

    #[test]
    fn any_bytes_are_safe() {
        let mut state = 7_u32;
        let parts: [&[u8]; 12] = [
            b"-----",
            b"BEGIN ",
            b"END ",
            b"CERTIFICATE",
            b"KEY",
            b"\r",
            b"\n",
            b"AAAA",
            b": ",
            b"\xff",
            b"-",
            b"\xef\xbb\xbf",
        ];
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..14)
                .flat_map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    parts[(state >> 16) as usize % parts.len()]
                })
                .copied()
                .collect();
            // Neither panics, and nothing that begins goes unmentioned.
            let begins = String::from_utf8_lossy(&text).matches("-----BEGIN ").count();
            if let Ok(found) = read(&text) {
                assert_eq!(found.len(), begins, "{}", String::from_utf8_lossy(&text));
            }
        }
    }
}
