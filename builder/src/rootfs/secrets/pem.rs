//! Keys in text between borders: PEM (RFC 7468, RFC 1421), OpenPGP's armour, OpenVPN's, SSH2's and PuTTY's.
//!
//! The border alone stands in many a script and program; a key follows it. How lines end, what quotes and escapes stand
//! between, and what is before the border says nothing: such text is put into JSON, YAML, environment files and code.

use super::{places, random};

/// Before the label; SSH2 (RFC 4716 has its public half) has four hyphens and a space.
const BORDER: &[u8] = b"BEGIN ";
/// No label of a key is longer.
const LONGEST_LABEL: usize = 64;
/// Headers between border and key are passed over within so many bytes: `Comment:` may be long.
const HEADERS: usize = 2048;
/// Fewer characters of base64 are a word in a program.
const LEAST: usize = 16;
/// A line of PEM.
const LINE: usize = 64;

/// Is there a key with its border?
pub(super) fn has_private_key(text: &[u8]) -> bool {
    let has_border = |at: usize| text[..at].ends_with(b"----") || text[..at].ends_with(b"---- ");
    places(text, BORDER).any(|at| has_border(at) && is_key(&text[at + BORDER.len()..]))
        || places(text, b"PuTTY-User-Key-File-").any(|at| is_putty(&text[at..]))
}

fn is_key(text: &[u8]) -> bool {
    let label = &text[..text.len().min(LONGEST_LABEL)];
    let Some(end) = places(label, b"----").next() else { return false };
    let label = label[..end].trim_ascii_end();
    let body = &text[end..];
    let body = &body[body.iter().take_while(|byte| **byte == b'-').count()..];
    if label.ends_with(b"PRIVATE KEY")
        && skipped(body).is_some_and(|at| body[at..].starts_with(b"Proc-Type: 4,ENCRYPTED"))
    {
        return true;
    }
    let Some(body) = without_headers(body) else { return false };
    let line = match label {
        b"OpenVPN Static key V1" => return first_line(body, 2 * LEAST).is_some(),
        _ => first_line(body, LEAST),
    };
    line.is_some_and(|line| match label {
        b"OPENSSH PRIVATE KEY" => line.starts_with(b"b3BlbnNzaC1rZXk"),
        // A SEQUENCE, as all of RFC 7468's are.
        b"PRIVATE KEY"
        | b"RSA PRIVATE KEY"
        | b"EC PRIVATE KEY"
        | b"DSA PRIVATE KEY"
        | b"ENCRYPTED PRIVATE KEY" => line.starts_with(b"M"),
        _ => label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK"),
    })
}

/// The first line of a key, unless it is an example cut short: `MIIEpAIBAAKCAQEA...`.
fn first_line(body: &[u8], least: usize) -> Option<&[u8]> {
    let length = base64_length(body);
    let cut = ["..", "…", "["].iter().any(|mark| body[length..].starts_with(mark.as_bytes()));
    let line = &body[..length.min(LINE)];
    (length >= least && !(cut && length < LINE) && random::is_mixed(line)).then_some(line)
}

/// The text from the first line of base64 on, after what may stand between: ends of lines, quotes and escapes, headers. Nothing
/// where an expression of a program follows: `"-----BEGIN PRIVATE KEY-----\n" + key`.
fn without_headers(text: &[u8]) -> Option<&[u8]> {
    let mut rest = &text[..text.len().min(HEADERS)];
    loop {
        rest = &rest[skipped(rest)?..];
        if !starts_header(rest) {
            return Some(rest);
        }
        rest = &rest[end_of_line(rest)?..];
    }
}

/// `Proc-Type:`, `DEK-Info:`, `Comment:`: letters and hyphens, and a colon.
fn starts_header(text: &[u8]) -> bool {
    let name = text.iter().take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'-').count();
    (1..32).contains(&name) && text.get(name) == Some(&b':')
}

/// The end of a line may be an escape.
fn end_of_line(text: &[u8]) -> Option<usize> {
    (0..text.len()).find(|at| {
        matches!(text[*at], b'\n' | b'\r')
            || text[*at..].starts_with(b"\\n")
            || text[*at..].starts_with(b"\\r")
    })
}

/// How much of a text's beginning stands between two lines of a key. Nothing when they are put together by a program and what
/// comes next is no text of it.
fn skipped(text: &[u8]) -> Option<usize> {
    let (mut at, mut joined) = (0, false);
    while let Some(byte) = text.get(at) {
        at += match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0 | b'>' | b'|' | b'#' | b'*' => 1,
            // A quote that opens text ends the joining.
            b'"' | b'\'' | b'`' => {
                joined = false;
                1
            }
            b'\\' => match text.get(at + 1) {
                Some(b'n' | b'r' | b't') => 2,
                _ => 1,
            },
            b'+' | b',' if text.get(at + 1).is_none_or(|next| !next.is_ascii_alphanumeric()) => {
                joined = true;
                1
            }
            b'<' if text[at..].starts_with(b"<br") => text[at..].iter().position(|byte| *byte == b'>')? + 1,
            _ => break,
        };
    }
    (!joined).then_some(at)
}

fn base64_length(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)).count()
}

/// `Private-Lines: 14`, and base64 below.
fn is_putty(text: &[u8]) -> bool {
    let text = &text[..text.len().min(16 << 10)];
    places(text, b"Private-Lines:").any(|at| {
        let below = &text[at..];
        let body = end_of_line(below).and_then(|end| without_headers(&below[end..]));
        body.and_then(|body| first_line(body, LEAST)).is_some()
    })
}
