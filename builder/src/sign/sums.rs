//! `SHA256SUMS`: a digest and a file name a line, in every form that `sha256sum --check` reads.
//!
//! ```text
//! HEX  NAME      HEX *NAME      HEX NAME      text, binary, BSD's `-r`; also with blanks before
//! HEX  ./NAME    HEX  a/NAME    as shell globs, find(1) and another folder write it
//! \HEX  A\\B                    a name with a backslash or a line's end in it
//! SHA256 (NAME) = HEX           sha256sum --tag, BSD's sha256
//! SHA256(NAME)= HEX             openssl dgst (SHA2-256 since version 3)
//! ```

use std::borrow::Cow;
use std::path::{Component, Path};

use crate::disk::sparse;
use crate::units::Digest;

/// A folder of an image has a dozen files.
const MOST_LINES: usize = 10_000;

/// File names and their digests.
///
/// # Errors
/// Names the line that is not in the form.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, Digest)>, String> {
    let mut listed = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if at >= MOST_LINES {
            return Err(format!("it has more than {MOST_LINES} lines"));
        }
        let wrong = |what: &str| format!("line {}: {what}", at + 1);
        let (digest, name) = split(line).map_err(wrong)?;
        let digest = digest.parse().map_err(|error: String| wrong(&error))?;
        // A path would let the list vouch for files elsewhere.
        let mut parts = Path::new(name.as_ref()).components();
        let name = name.as_ref();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\']) {
            return Err(wrong("a file of the same folder must be named"));
        }
        listed.push((name.to_owned(), digest));
    }
    if listed.is_empty() { Err("it names no file".to_owned()) } else { Ok(listed) }
}

/// Digest and name of a line, as they stand there; of a name without what leads to this folder.
fn split(line: &str) -> Result<(&str, Cow<'_, str>), &'static str> {
    let line = line.trim_start_matches('\u{feff}').trim_start_matches([' ', '\t']);
    let (digest, name) = match tagged(line) {
        Some((algorithm, ..)) if !["SHA256", "SHA2-256"].contains(&algorithm) => {
            return Err("with a digest that is not SHA-256");
        }
        Some((_, name, digest)) => (digest, Cow::Borrowed(name)),
        None => {
            let escaped = line.strip_prefix('\\');
            let words = escaped.unwrap_or(line).split_once([' ', '\t']);
            let (digest, rest) = words.ok_or("expected a digest and a file name")?;
            // BSD's `md5 -r` has one blank between the two.
            let name = rest.strip_prefix([' ', '*']).unwrap_or(rest);
            (digest, if escaped.is_some() { unescaped(name) } else { Cow::Borrowed(name) })
        }
    };
    let here = |name: &str| name.trim_start_matches("./").to_owned();
    Ok((digest, if name.starts_with("./") { Cow::Owned(here(&name)) } else { name }))
}

/// Algorithm, name and digest of the BSD form.
pub(crate) fn tagged(line: &str) -> Option<(&str, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, digest) = rest.rsplit_once(')')?;
    let digest = digest.trim_start().strip_prefix('=')?.trim();
    let algorithm = algorithm.trim_end();
    let word = !algorithm.is_empty() && !algorithm.contains(char::is_whitespace);
    word.then_some((algorithm, name, digest))
}

/// As the GNU tools write names with such characters.
pub(crate) fn unescaped(name: &str) -> Cow<'_, str> {
    Cow::Owned(name.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace('\0', "\\"))
}

/// What a list says of a folder's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// What differs, a line each.
    pub wrong: Vec<String>,
    /// Names of files that are not there.
    pub missing: Vec<String>,
}

/// Holds a folder's files against the list; holes are hashed without being read.
pub(crate) fn compare(folder: &Path, listed: &[(String, Digest)]) -> Compared {
    let mut compared = Compared::default();
    for (name, digest) in listed {
        let path = folder.join(name);
        match path.metadata() {
            Ok(data) if !data.is_file() => compared.wrong.push(format!("{name} is not a file")),
            Err(_) => compared.missing.push(name.clone()),
            Ok(_) => match sparse::digest(&path) {
                Ok(found) if found == *digest => {}
                Ok(found) => compared.wrong.push(format!("{name} has SHA-256 {found}, {digest} is listed")),
                Err(error) => compared.wrong.push(format!("{name} cannot be read: {error:#}")),
            },
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::units::Digest;

    #[test]
    fn lines_as_sha256sum_writes_them() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        let text = format!("{a}  demo.img\n \t{b} *with a space.json\n");
        let expected = vec![("demo.img".to_owned(), a), ("with a space.json".to_owned(), b)];
        assert_eq!(parse(&text), Ok(expected));
        let text = format!("SHA256 (demo.img) = {a}\n{b} ./with a space.json\n");
        assert_eq!(parse(&text).expect("the other forms").len(), 2);
        for length in 0..text.len() {
            let _ = parse(&text[..length]);
        }
    }

    #[test]
    fn other_folders_and_other_forms_are_refused() {
        let digest = Digest::of("a");
        for (line, expected) in [
            (String::new(), "names no file"),
            ("x".into(), "line 1: expected a digest"),
            ("12  x".into(), "line 1: "),
            (format!("{digest}  ../x"), "line 1: a file of the same folder"),
            (format!("{digest}  /etc/passwd"), "line 1: a file of the same folder"),
            (format!("{digest}  "), "line 1: a file of the same folder"),
            (format!("{digest}  .."), "line 1: a file of the same folder"),
        ] {
            let error = parse(&line).expect_err(&line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
