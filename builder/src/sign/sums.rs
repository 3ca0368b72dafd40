//! `SHA256SUMS`: a digest and a file name a line, in every form that `sha256sum --check` reads.
//!
//! ```text
//! HEX  NAME      HEX *NAME      text, binary
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
pub fn parse(text: &str) -> Result<Vec<(String, Digest)>, String> {
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

/// The digest of one file, by its name; other lines may have any form: a list of somebody else's is not ours to judge. A
/// line that names the file in another folder counts where none names it in this one.
///
/// # Errors
/// Names the line that names the file without a digest, and two that give it different ones.
pub fn find(text: &str, name: &str) -> Result<Option<Digest>, String> {
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    for (at, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        match split(line) {
            Ok((digest, found)) if found == name => here.push((at, digest)),
            Ok((digest, found)) if found.rsplit('/').next() == Some(name) => elsewhere.push((at, digest)),
            Err(why) if speaks_of(line, name) => return Err(format!("line {at} names {name}, but {why}")),
            _ => {}
        }
    }
    let found = if here.is_empty() { elsewhere } else { here };
    let mut known = None;
    for (at, digest) in found {
        let digest = digest.parse().map_err(|error: String| format!("line {at}: {error}"))?;
        match known.replace((at, digest)) {
            Some((first, other)) if other != digest => {
                return Err(format!("lines {first} and {at} give {name} different digests"));
            }
            _ => {}
        }
    }
    Ok(known.map(|(_, digest)| digest))
}

/// Is it this name that a line has somewhere, as a word of its own? Remarks are none.
fn speaks_of(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    let part = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let ends = |at: usize| !line[..at].ends_with(part) && !line[at + name.len()..].starts_with(part);
    !line.starts_with(['#', ';', '-']) && line.match_indices(name).any(|(at, _)| ends(at))
}

/// Digest and name of a line, as they stand there; of a name without what leads to this folder.
fn split(line: &str) -> Result<(&str, Cow<'_, str>), &'static str> {
    let (digest, name) = match tagged(line) {
        Some((algorithm, ..)) if !["SHA256", "SHA2-256"].contains(&algorithm) => {
            return Err("with a digest that is not SHA-256");
        }
        Some((_, name, digest)) => (digest, Cow::Borrowed(name)),
        None => {
            let escaped = line.strip_prefix('\\');
            let (digest, rest) =
                escaped.unwrap_or(line).split_once(' ').ok_or("expected a digest and a file name")?;
            let name = rest.strip_prefix([' ', '*']).ok_or("expected two characters between the two")?;
            (digest, if escaped.is_some() { unescaped(name) } else { Cow::Borrowed(name) })
        }
    };
    let here = |name: &str| name.trim_start_matches("./").to_owned();
    Ok((digest, if name.starts_with("./") { Cow::Owned(here(&name)) } else { name }))
}

/// Algorithm, name and digest of the BSD form.
fn tagged(line: &str) -> Option<(&str, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, digest) = rest.rsplit_once(')')?;
    let digest = digest.trim_start().strip_prefix('=')?.trim();
    let algorithm = algorithm.trim_end();
    let word = !algorithm.is_empty() && !algorithm.contains(char::is_whitespace);
    word.then_some((algorithm, name, digest))
}

/// As the GNU tools write names with such characters.
fn unescaped(name: &str) -> Cow<'_, str> {
    Cow::Owned(name.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace('\0', "\\"))
}

/// What a list says of a folder's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What differs, a line each.
    pub wrong: Vec<String>,
    /// Names of files that are not there.
    pub missing: Vec<String>,
}

/// Holds a folder's files against the list; holes are hashed without being read.
pub fn compare(folder: &Path, listed: &[(String, Digest)]) -> Compared {
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
    use super::{find, parse};
    use crate::units::Digest;

    #[test]
    fn lines_as_sha256sum_writes_them() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        let text = format!("{a}  demo.img\n{b} *with a space.json\n");
        let expected = vec![("demo.img".to_owned(), a), ("with a space.json".to_owned(), b)];
        assert_eq!(parse(&text), Ok(expected));
        for length in 0..text.len() {
            let _ = parse(&text[..length]);
        }
    }

    #[test]
    fn one_file_in_a_list_of_any_form() {
        let sum = Digest::of("x");
        let text = format!("nonsense\n{sum}\tno.img\n{sum} *a b.img\n12  short.img\n# about other.img\n");
        assert_eq!(find(&text, "a b.img"), Ok(Some(sum)));
        assert_eq!(
            (find(&text, "o.img"), find(&text, "b.im"), find(&text, "other.img")),
            (Ok(None), Ok(None), Ok(None))
        );
        let error = find(&text, "short.img").expect_err("no digest");
        assert!(error.starts_with("line 4: "), "{error}");
        let error = find(&text, "no.img").expect_err("another form");
        assert_eq!(error, "line 2 names no.img, but expected a digest and a file name");
    }

    #[test]
    fn every_form_that_sha256sum_reads() {
        let sum = Digest::of("x");
        let upper = sum.to_string().to_uppercase();
        for line in [
            format!("{sum}  x.img"),
            format!("{sum} *x.img"),
            format!("{sum}  ./x.img\r"),
            format!("{sum} *././x.img"),
            format!("{upper}  x.img"),
            format!("\u{feff}{sum}  x.img"),
            format!("SHA256 (x.img) = {sum}"),
            format!("SHA256 (./x.img) = {upper}"),
            format!("SHA2-256(x.img)= {sum}"),
            format!("SHA512 (y.img) = {sum}{sum}\nSHA256 (x.img) = {sum}"),
            format!("{sum}  out/demo/x.img"),
            format!("{}  old/x.img\n{sum}  ./x.img", Digest::of("old")),
        ] {
            assert_eq!(find(&format!("{line}\n"), "x.img"), Ok(Some(sum)), "{line}");
        }
        assert_eq!(find(&format!("\\{sum}  a\\\\b\\nc.img\n"), "a\\b\nc.img"), Ok(Some(sum)));
        for (text, expected) in [
            (
                format!("SHA512 (x.img) = {sum}{sum}\n"),
                "line 1 names x.img, but with a digest that is not SHA-256",
            ),
            (
                format!("{sum}  a/x.img\n{}  b/x.img\n", Digest::of("b")),
                "lines 1 and 2 give x.img different digests",
            ),
            (format!("x.img: {sum}\n"), "line 1 names x.img, but expected two characters between the two"),
        ] {
            assert_eq!(find(&text, "x.img"), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(parse(&format!("SHA256 (x.img) = {sum}\n{sum}  ./y.img\n")).expect("both").len(), 2);
    }

    #[test]
    fn other_folders_and_other_forms_are_refused() {
        let digest = Digest::of("a");
        for (line, expected) in [
            (String::new(), "names no file"),
            ("x".into(), "line 1: expected a digest"),
            ("12  x".into(), "line 1: "),
            (format!("{digest} x"), "line 1: expected two characters"),
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
