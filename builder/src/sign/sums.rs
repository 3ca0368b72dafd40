//! `SHA256SUMS`: lines of a digest, two characters and a file name, as sha256sum writes and reads them.

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
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || name.contains(['/', '\\']) {
            return Err(wrong("a file of the same folder must be named"));
        }
        listed.push((name.to_owned(), digest));
    }
    if listed.is_empty() { Err("it names no file".to_owned()) } else { Ok(listed) }
}

/// The digest of one file, by its name; other lines may have any form: a list of somebody else's is not ours to judge.
///
/// # Errors
/// Names the line that names the file without a digest.
pub fn find(text: &str, name: &str) -> Result<Option<Digest>, String> {
    let mut lines = text.lines().enumerate();
    let line = lines.find_map(|(at, line)| split(line).ok().filter(|it| it.1 == name).map(|it| (at, it.0)));
    let Some((at, digest)) = line else { return Ok(None) };
    digest.parse().map(Some).map_err(|error: String| format!("line {}: {error}", at + 1))
}

/// Digest and name of a line, as they stand there.
fn split(line: &str) -> Result<(&str, &str), &'static str> {
    let (digest, rest) = line.split_once(' ').ok_or("expected a digest and a file name")?;
    let name = rest.strip_prefix([' ', '*']).ok_or("expected two characters between the two")?;
    Ok((digest, name))
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
        let text = format!("nonsense\n{sum}\tno.img\n{sum} *a b.img\n12  short.img\n");
        assert_eq!(find(&text, "a b.img"), Ok(Some(sum)));
        assert_eq!(find(&text, "no.img"), Ok(None));
        let error = find(&text, "short.img").expect_err("no digest");
        assert!(error.starts_with("line 4: "), "{error}");
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
