//! Lists of SSH public keys, as in `authorized_keys` and `*.pub` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
//!
//! ```text
//!  restrict,command="backup"  ssh-ed25519  AAAAC3NzaC1l…  ops@example
//!  └─ options ─────────────┘  └─ type ──┘  └─ blob ────┘  └─ comment ┘
//! ```
//! One judge for every list that gets onto a device: what sshd would pass over without a word, so that nobody can log
//! in, is refused here. No reason repeats what the file holds.

mod blob;
mod curve;
mod options;

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};

use crate::finding::Finding;

/// What a private key is told by: PEM and OpenSSH's own, PuTTY's.
const PRIVATE: [&str; 2] = ["PRIVATE KEY-----", "PuTTY-User-Key-File"];
/// Most bytes of a file of keys.
pub(crate) const LARGEST: u64 = 256 * 1024;
/// First line of the form of RFC 4716, which PuTTYgen and commercial servers export.
const RFC4716: &str = "---- BEGIN SSH2 PUBLIC KEY ----";
/// What to do with a key that did not arrive whole.
const COPY_WHOLE: &str = "copy the whole line again, from the *.pub that ssh-keygen wrote";

/// What is wrong with a list, to stand after its file's name, and what to do.
fn wrong(message: impl Into<String>, hint: &str) -> Finding {
    Finding::error(message).hint(hint)
}

/// The keys of several files as one list, a line each.
///
/// # Errors
/// The file that cannot be read, or is larger than a list of keys ever is.
pub(crate) fn joined(files: &[PathBuf]) -> anyhow::Result<String> {
    let mut keys = String::new();
    for file in files {
        let reading = || format!("reading the SSH key {}", file.display());
        let mut text = String::new();
        File::open(file)
            .and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text))
            .with_context(reading)?;
        ensure!(text.len() as u64 <= LARGEST, "{} has more than {LARGEST} bytes", file.display());
        for line in lines(text.trim_end()) {
            keys.push_str(line);
            keys.push('\n');
        }
    }
    Ok(keys)
}

/// The lines of a list, of whichever system: sshd ends them at a line feed only, and would read the key behind a lone
/// carriage return as a comment.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim_start_matches('\u{feff}');
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Is the text a list of public keys, each of them whole and of a kind that sshd takes?
///
/// # Errors
/// The first line that is none, why, and what to do; the message stands after the file's name.
pub(crate) fn judge(text: &str) -> Result<(), Finding> {
    if PRIVATE.iter().any(|mark| text.contains(mark)) {
        let hint = "name the public half, which ssh-keygen writes beside the private one as *.pub";
        return Err(wrong("is a private key: it would be in every image", hint));
    }
    if text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace()).starts_with(RFC4716) {
        let hint = "turn it into OpenSSH's form: ssh-keygen -i -f FILE > FILE.pub";
        return Err(wrong("has its key in the form of RFC 4716, which sshd does not read", hint));
    }
    let mut keys = 0;
    for (at, line) in lines(text).map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        one(line)
            .map_err(|found| Finding { message: format!("{} (line {})", found.message, at + 1), ..found })?;
        keys += 1;
    }
    if keys == 0 { Err(wrong("holds no key", "name a file that ssh-keygen wrote as *.pub")) } else { Ok(()) }
}

/// [`judge`] for those who show one line.
///
/// # Errors
/// As [`judge`].
pub(crate) fn judge_keys(text: &str) -> Result<(), String> {
    judge(text).map_err(|found| format!("{}: {}", found.message, found.hint.unwrap_or_default()))
}

/// A line `[options] type blob [comment]`.
fn one(line: &str) -> Result<(), Finding> {
    let (options, key) = split(line)?;
    if let Some(options) = options {
        let hint = "the options that sshd knows are in its manual, \"AUTHORIZED_KEYS FILE FORMAT\"";
        options::judge(options).map_err(|reason| wrong(reason, hint))?;
    }
    let mut words = key.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    let Some(text) = words.next() else {
        return Err(wrong("has a type of key and no key", COPY_WHOLE));
    };
    blob::judge(kind, text)?;
    // The end of a line was lost: sshd takes the first key, and the second's owner cannot log in.
    if words.any(blob::is_in) {
        let hint = "put each key on a line of its own, as ssh-keygen wrote it";
        return Err(wrong("has another key in the comment of one", hint));
    }
    Ok(())
}

/// Options and the rest of a line. As sshd does it: what begins with a type of key has no options; else they end at the
/// first blank outside of quotation marks.
fn split(line: &str) -> Result<(Option<&str>, &str), Finding> {
    let first = |text: &str| text.split_ascii_whitespace().next().is_some_and(blob::is_kind);
    if first(line) {
        return Ok((None, line));
    }
    let end = options::end(line).ok_or_else(|| {
        wrong("has a quotation mark that is never closed", "close it, or leave the options out")
    })?;
    let (options, rest) = line.split_at(end);
    let rest = rest.trim_start();
    if first(rest) {
        return Ok((Some(options), rest));
    }
    let hint = "name a file that ssh-keygen wrote as *.pub, each key on one line of its own";
    Err(wrong("is not a list of SSH public keys", hint))
}

#[cfg(test)]
mod tests {
    use super::{joined, judge, judge_keys};

    pub(super) const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJbVVTeqTGWQfE9Jm1bqhYQfBWZHCkGPGD4KEH3vMMqQ";

    #[test]
    fn public_keys_only() {
        let key = ED25519;
        for (text, good) in [
            (key.to_owned(), true),
            (format!("# ops\n\n{key} ops@example\r\n{key}\n"), true),
            (format!("restrict,command=\"a \\\"b\\\" # c\" {key}"), true),
            (format!("no-pty,from=\"10.0.0.0/8\"\t{key} a b"), true),
            (String::new(), false),
            ("# nothing\n".into(), false),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n".into(), false),
            ("-----BEGIN RSA PRIVATE KEY-----".into(), false),
            ("PuTTY-User-Key-File-3: ssh-ed25519".into(), false),
            ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA".into(), false),
            (key.replace("ssh-ed25519", "ssh-rsa"), false),
            (key.replace("ssh-ed25519 ", "ssh-ed25519"), false),
            (format!("restrict, command=\"x\" {key}"), false),
            (format!("command=\"x {key}"), false),
            (format!("restrictt {key}"), false),
            (format!("{key}\nssh-ed25519 AAAA"), false),
            ("ssh-ed25519".into(), false),
            ("ssh-ed25519 !!!".into(), false),
            ("hello".into(), false),
        ] {
            assert_eq!(judge_keys(&text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn one_key_a_line() {
        let key = ED25519;
        let (kind, blob) = key.split_once(' ').expect("two words");
        for glued in [
            format!("{key} {key}"),
            format!("{key} ops{key}"),
            format!("{key} ops@example {key} b@example"),
            format!("restrict {key} ops {blob}"),
            format!("{key} ops{blob}"),
            format!("{key} a\necdsa-sha2-nistp256"),
            format!("{key} ops{kind} AAAAC3NzaC1lZDI1NTE5AAAA"),
        ] {
            assert!(judge(&glued).is_err(), "{glued}");
        }
        for good in [
            format!("{key} {kind}"),
            format!("{key} my {kind} key, AAAA"),
            format!("{key} one\r{key} two\r"),
            format!("\u{feff}{key} one\r\n{key} two\r\n"),
        ] {
            assert_eq!(judge(&good), Ok(()), "{good}");
        }
    }

    #[test]
    fn lines_of_other_systems_are_lines_of_ours() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("keys.pub");
        std::fs::write(&file, format!("\u{feff}{ED25519} one\r{ED25519} two\r\n\r\n")).expect("write");
        let joined = joined(&[file]).expect("reads");
        assert_eq!(joined, format!("{ED25519} one\n{ED25519} two\n"));
    }

    #[test]
    fn the_line_is_named_and_the_file_never_repeated() {
        let found = judge(&format!("# x\n{ED25519}\nssh-ed25519 c2VjcmV0\n")).expect_err("cut short");
        assert!(found.message.ends_with("(line 3)") && !found.to_string().contains("c2VjcmV0"), "{found}");
        let error = judge_keys("-----BEGIN PRIVATE KEY-----\nSECRET\n").expect_err("a private key");
        assert!(!error.contains("SECRET"));
    }
}
