//! What a text says of files' SHA-256, in whatever form people's tools write it.
//!
//! ```text
//! HEX  NAME     HEX *NAME     HEX NAME     NAME: HEX     sha256sum, shasum, BusyBox, 7-Zip; also with blanks before or behind
//! \HEX  A\\B                                              a name with a backslash or a line's end in it
//! SHA256 (NAME) = HEX         SHA2-256(NAME)= HEX         sha256sum --tag and BSD; openssl dgst
//! SHA256          HEX         C:\a\NAME                   PowerShell's Get-FileHash, as a table
//! Hash      : HEX     then    Path      : C:\a\NAME       the same as a list
//! SHA256 hash of NAME:  then  HEX  or  ab cd ef …         certutil -hashfile, of new and of old Windows
//! HEX           HEX  -                                    of the list's own file
//! ```
//! Other lines are kept by their numbers where they have a digest, or the image's name: what is not understood counts as
//! something that the list says, never as nothing.

use crate::sign::sums;
use crate::units::Digest;

/// Letters of a digest.
const DIGITS: usize = 64;
/// As many letters have MD5, SHA-1, SHA-224, SHA-384 and SHA-512.
const OTHERS: [usize; 5] = [32, 40, 56, 96, 128];
/// What begins a text that GnuPG has signed in clear, and what ends it.
const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
/// First words of lines that those tools write around the digests: Get-FileHash's head and rule, certutil's last line.
const AROUND: [&str; 4] = ["Algorithm", "---", "CertUtil:", "Hash: SHA"];

/// What stands between a digest and its file's name.
const BETWEEN: [char; 8] = [' ', '\t', ':', '=', ',', ';', '"', '\''];

/// What a text says.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Of files.
    entries: Vec<Entry>,
    /// Nothing that could be used: their numbers, as they stand, and what is so.
    unread: Vec<(usize, String, &'static str)>,
    /// Does it say that it is signed?
    pub signed: bool,
    /// Is it a signature, and no list?
    pub detached: bool,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    digest: Digest,
    name: Name,
}

/// Of which file.
#[derive(Debug)]
enum Name {
    /// It does not say, or that it came through a pipe.
    None,
    /// The rest of a line.
    Is(String),
    /// What ends with the name, in anybody's language: `SHA256-Hash von x.img`.
    Ends(String),
}

const OTHER: &str = "with a digest that is not SHA-256";
const FORM: &str = "in a form that is not read";
const NO_DIGEST: &str = "without a SHA-256 digest";
const CUT: &str = "with a name that is cut off";

impl Digests {
    /// Reads a text.
    pub(super) fn read(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let mut digests = Self::default();
        let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim).collect();
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            match *line {
                SIGNED => digests.signed = true,
                // What follows is letters that could mean anything.
                SIGNATURE => break,
                line => at += digests.line(at, line, &lines),
            }
            at += 1;
        }
        digests.detached = at < lines.len() && digests.entries.is_empty();
        digests
    }

    /// Reads a line, and returns how many more belong to it.
    fn line(&mut self, at: usize, line: &str, lines: &[&str]) -> usize {
        let mut unread = |why| self.unread.push((at + 1, line.to_owned(), why));
        let entry = |digest, name| Entry { line: at + 1, digest, name };
        if line.is_empty() || line.starts_with(['#', ';']) || AROUND.iter().any(|word| line.starts_with(word))
        {
            return 0;
        }
        if let Some((algorithm, name, digest)) = sums::tagged(line) {
            match digest.parse() {
                _ if !is_sha256(algorithm) => unread(OTHER),
                Ok(digest) => self.entries.push(entry(digest, named(name))),
                Err(_) => unread(NO_DIGEST),
            }
            return 0;
        }
        if let Some(digest) = alone(line) {
            let before = at.checked_sub(1).and_then(|before| lines[before].strip_suffix(':'));
            let before = before.map(str::trim).filter(|title| !is_sha256(title));
            self.entries.push(entry(digest, before.map_or(Name::None, |name| Name::Ends(name.to_owned()))));
            return 0;
        }
        let Some((before, digest, after)) = digest_in(line) else {
            // What stands before certutil's digest.
            let announces =
                line.ends_with(':') && lines.get(at + 1).is_some_and(|next| alone(next).is_some());
            if !announces {
                unread(if has_other(line) { OTHER } else { NO_DIGEST });
            }
            return 0;
        };
        let label = before.trim_matches(BETWEEN);
        if label.eq_ignore_ascii_case("hash") && after.is_empty() {
            let (name, more) = path_below(&lines[at + 1..]);
            self.entries.push(entry(digest, name.map_or(Name::None, |name| named(&name))));
            return more;
        }
        match (label.trim_start_matches('\\'), after) {
            ("", after) if before.starts_with('\\') => {
                self.entries.push(entry(digest, named(&sums::unescaped(strip(after)))));
            }
            ("", after) => self.entries.push(entry(digest, named(strip(after)))),
            (label, after) if is_sha256(label) => self.entries.push(entry(digest, named(strip(after)))),
            (_, "") => self.entries.push(entry(digest, named(label))),
            _ => unread(FORM),
        }
        0
    }

    /// The digest of a file, by its name: where none of this folder is named so, that of one in another folder, or with other
    /// large and small letters, unless `is_another` knows that name.
    ///
    /// # Errors
    /// Names lines that give it different digests, and those that speak of it and are not understood.
    pub(super) fn of(&self, name: &str, is_another: impl Fn(&str) -> bool) -> Result<Option<Digest>, String> {
        let lower = name.to_lowercase();
        let here = |entry: &&Entry| matches!(&entry.name, Name::Is(found) if bare(found) == name);
        let elsewhere = |entry: &&Entry| entry.name.leads_to(name);
        let other_case = |entry: &&Entry| {
            entry.name.lower().leads_to(&lower) && !entry.name.last().is_some_and(&is_another)
        };
        let all = |is: &dyn Fn(&&Entry) -> bool| self.entries.iter().filter(is).collect::<Vec<_>>();
        let ranks: [&dyn Fn(&&Entry) -> bool; 3] = [&here, &elsewhere, &other_case];
        let found = ranks.into_iter().map(all).find(|found| !found.is_empty()).unwrap_or_default();
        let Some(first) = found.first() else { return self.not_understood(name).map_or(Ok(None), Err) };
        match found.iter().find(|other| other.digest != first.digest) {
            Some(other) => {
                Err(format!("lines {} and {} give {name} different digests", first.line, other.line))
            }
            None => Ok(Some(first.digest)),
        }
    }

    /// The digest that stands there alone: where `nameless`, of no file that is named.
    pub(super) fn only(&self, nameless: bool) -> Option<Digest> {
        let first = self.entries.first()?;
        let same = self.entries.iter().all(|entry| entry.digest == first.digest);
        let none = || self.entries.iter().all(|entry| matches!(entry.name, Name::None));
        (same && self.other_form().is_none() && (none() || !nameless)).then_some(first.digest)
    }

    /// A line with a digest of which nobody knows what file has it.
    pub(super) fn nameless(&self) -> Option<String> {
        let mut entries = self.entries.iter().filter(|entry| matches!(entry.name, Name::None));
        entries.next().map(|entry| format!("line {} has a digest and does not say of which file", entry.line))
    }

    /// A line with a digest in a form that is not read.
    pub(super) fn other_form(&self) -> Option<String> {
        let mut lines = self.unread.iter().filter(|(.., why)| *why == FORM);
        lines.next().map(|(number, ..)| format!("line {number} has a digest {FORM}"))
    }

    /// Is it a list of digests and nothing else, whatever its file is called?
    pub(super) fn is_list(&self) -> bool {
        !self.entries.is_empty() && self.unread.is_empty()
    }

    /// A line that speaks of a file, and how is not clear.
    fn not_understood(&self, name: &str) -> Option<String> {
        let says = |number: usize, why: &str| format!("line {number} names {name}, but {why}");
        let (lower, mut lines) = (name.to_lowercase(), Vec::new());
        for (number, line, why) in &self.unread {
            if speaks_of(&line.to_lowercase(), &lower) {
                lines.push((*number, says(*number, why)));
            }
        }
        for Entry { line, name: found, .. } in &self.entries {
            let last = found.last().unwrap_or_default().to_lowercase();
            let cut = last.strip_suffix("...").or_else(|| last.strip_suffix('…'));
            if cut.is_some_and(|cut| lower.starts_with(cut)) {
                lines.push((*line, format!("line {line} has a digest {CUT}")));
            } else if last.strip_prefix(&lower).is_some_and(|rest| rest.starts_with([' ', '\t'])) {
                lines.push((*line, says(*line, "with more behind the name")));
            }
        }
        lines.into_iter().min().map(|(_, says)| says)
    }
}

impl Name {
    /// Is it this file's, in whatever folder?
    fn leads_to(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            // The size, as in Debian's lists and 7-Zip's tables.
            Self::Is(found) => {
                let found = last(found);
                let sized = found.split_once([' ', '\t']).filter(|(size, _)| is_number(size));
                found == name || sized.is_some_and(|(_, rest)| last(rest.trim_start()) == name)
            }
            Self::Ends(text) => {
                let before = text.strip_suffix(name);
                before
                    .is_some_and(|before| before.is_empty() || before.ends_with([' ', '/', '\\', '"', '\'']))
            }
        }
    }

    /// The name without its folders.
    fn last(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Is(text) | Self::Ends(text) => Some(last(text)),
        }
    }

    fn lower(&self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Is(text) => Self::Is(text.to_lowercase()),
            Self::Ends(text) => Self::Ends(text.to_lowercase()),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn last(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// A name without what leads to this folder.
fn bare(name: &str) -> &str {
    name.trim_start_matches("./").trim_start_matches(".\\")
}

/// What marks a file as text or binary stands before its name.
fn strip(after: &str) -> &str {
    let after = after.trim_start_matches(BETWEEN);
    after.strip_prefix(['*', '^', '?']).unwrap_or(after)
}

fn named(text: &str) -> Name {
    let text = text.trim();
    match text.trim_matches(['"', '\'']) {
        "" | "-" | "stdin" | "(stdin)" => Name::None,
        text => Name::Is(text.to_owned()),
    }
}

fn is_sha256(algorithm: &str) -> bool {
    let word: String = algorithm.chars().filter(|c| !"-_".contains(*c)).collect();
    ["sha256", "sha2256"].contains(&word.to_lowercase().as_str())
}

/// A line of nothing but a digest, be it in groups.
fn alone(line: &str) -> Option<Digest> {
    let groups: Vec<&str> = line.split_whitespace().collect();
    let even = groups.iter().all(|group| group.len() == groups[0].len());
    even.then(|| groups.concat().parse().ok()).flatten()
}

/// The one word of a line that could be a digest of `length` letters, with what stands around it.
fn word_of(line: &str, length: usize) -> Option<(&str, &str, &str)> {
    // Not inside of a name: a file may be named by its digest.
    let parts = |c: char| !c.is_alphanumeric() && !"-_./".contains(c);
    let (mut found, mut at) = (None, 0);
    for piece in line.split_inclusive(parts) {
        let word = piece.trim_end_matches(parts);
        if word.len() == length && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let around = (line[..at].trim_start(), word, line[at + length..].trim_end());
            if found.replace(around).is_some() {
                return None;
            }
        }
        at += piece.len();
    }
    found
}

fn digest_in(line: &str) -> Option<(&str, Digest, &str)> {
    let (before, digest, after) = word_of(line, DIGITS)?;
    Some((before, digest.parse().ok()?, after))
}

fn has_other(line: &str) -> bool {
    OTHERS.into_iter().any(|length| word_of(line, length).is_some())
}

/// The value of `Path : …` below a digest, which may go on in further lines; and how many lines these are.
fn path_below(lines: &[&str]) -> (Option<String>, usize) {
    let path = |line: &str| {
        let (label, value) = line.split_once(':')?;
        label.trim().eq_ignore_ascii_case("path").then(|| value.trim().to_owned())
    };
    let Some(mut name) = lines.first().and_then(|line| path(line)) else { return (None, 0) };
    let more = lines[1..].iter().take_while(|line| !line.is_empty() && !line.contains(" : "));
    let count = more.clone().count();
    more.for_each(|line| name.push_str(line));
    (Some(name), 1 + count)
}

/// Is it this name that a line has somewhere, as a word of its own?
fn speaks_of(line: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let ends = |at: usize| !line[..at].ends_with(part) && !line[at + name.len()..].starts_with(part);
    line.match_indices(name).any(|(at, _)| ends(at))
}

#[cfg(test)]
mod tests {
    use super::Digests;
    use crate::units::Digest;

    fn of(text: &str, name: &str) -> Result<Option<Digest>, String> {
        Digests::read(text).of(name, |_| false)
    }

    #[test]
    fn one_file_in_a_list_of_any_form() {
        let sum = Digest::of("x");
        let text = format!("nonsense\n{sum}\tno.img\n{sum} *a b.img\n12  short.img\n# about other.img\n");
        assert_eq!(of(&text, "a b.img"), Ok(Some(sum)));
        assert_eq!(of(&text, "no.img"), Ok(Some(sum)));
        for other in ["o.img", "b.im", "other.img", "b.img"] {
            assert_eq!(of(&text, other), Ok(None), "{other}");
        }
        assert_eq!(
            of(&text, "short.img"),
            Err("line 4 names short.img, but without a SHA-256 digest".to_owned())
        );
        for length in 0..text.len() {
            let _ = of(&text[..length], "a b.img");
        }
    }

    #[test]
    fn every_form_that_people_s_tools_write() {
        let sum = Digest::of("x");
        let (upper, other) = (sum.to_string().to_uppercase(), Digest::of("other"));
        let pairs: Vec<_> = sum
            .to_string()
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).into_owned())
            .collect();
        let pairs = pairs.join(" ");
        for line in [
            format!("{sum}  x.img"),
            format!("{sum} *x.img"),
            format!("{sum} x.img"),
            format!("  {sum}  x.img"),
            format!("\t{sum}  x.img "),
            format!("{sum}  X.IMG"),
            format!("{sum}  .\\x.img"),
            format!("{sum}  ./x.img\r"),
            format!("{sum} *././x.img"),
            format!("{sum}  \"x.img\""),
            format!("{sum} 1234 x.img"),
            format!("{upper}  x.img"),
            format!("\u{feff}{sum}  x.img"),
            format!("SHA256 (x.img) = {sum}"),
            format!(" SHA256 (./x.img) = {upper}"),
            format!("SHA2-256(x.img)= {sum}"),
            format!("sha256:{sum}  x.img"),
            format!("x.img: {sum}"),
            format!("x.img={sum}"),
            format!("{sum},x.img"),
            format!("\"SHA256\",\"{upper}\",\"C:\\a b\\x.img\""),
            format!("SHA512 (y.img) = {sum}{sum}\nSHA256 (x.img) = {sum}"),
            format!("{sum}  out/demo/x.img"),
            format!("{}  old/x.img\n{sum}  ./x.img", Digest::of("old")),
            format!("{other}  y.img\r{sum}  x.img\r"),
            format!(
                "\r\nAlgorithm       Hash             Path\r\n---------       ----             ----\r\nSHA256          {upper}       C:\\Users (x86)\\a b\\x.img\r\n"
            ),
            format!(
                "\r\nAlgorithm : SHA256\r\nHash      : {upper}\r\nPath      : C:\\a long\r\n            er\\x.img\r\n\r\nAlgorithm : SHA256\r\nHash      : {other}\r\nPath      : C:\\y.img\r\n"
            ),
            format!(
                "SHA256 hash of x.img:\r\n{sum}\r\nCertUtil: -hashfile command completed successfully.\r\nSHA256 hash of y.img:\r\n{other}\r\n"
            ),
            format!("SHA256-Hash von C:\\a\\x.img:\r\n{pairs}\r\n"),
        ] {
            assert_eq!(of(&format!("{line}\n"), "x.img"), Ok(Some(sum)), "{line}");
        }
        assert_eq!(of(&format!("\\{sum}  a\\\\b\\nc.img\n"), "a\\b\nc.img"), Ok(Some(sum)));
        // A file that is named by its digest.
        assert_eq!(of(&format!("{sum}  {other}.img"), &format!("{other}.img")), Ok(Some(sum)));
    }

    #[test]
    fn what_speaks_of_it_and_is_not_understood() {
        let (sum, other) = (Digest::of("x"), Digest::of("b"));
        for (text, expected) in [
            (
                format!("SHA512 (x.img) = {sum}{sum}\n"),
                "line 1 names x.img, but with a digest that is not SHA-256",
            ),
            (format!("{sum}{sum}  X.img\n"), "line 1 names x.img, but with a digest that is not SHA-256"),
            (
                format!("BLAKE2b-256 (x.img) = {sum}\n"),
                "line 1 names x.img, but with a digest that is not SHA-256",
            ),
            (format!("{sum}  a/x.img\n{other}  b/x.img\n"), "lines 1 and 2 give x.img different digests"),
            (format!("1234,{sum},x.img\n"), "line 1 names x.img, but in a form that is not read"),
            (
                format!("{{\"x.img\": \"{sum}\", \"size\": 1}}"),
                "line 1 names x.img, but in a form that is not read",
            ),
            (format!("{sum}  x.img (1.2 GB)\n"), "line 1 names x.img, but with more behind the name"),
            (format!("SHA256  {sum}  C:\\a\\x.i..."), "line 1 has a digest with a name that is cut off"),
        ] {
            assert_eq!(of(&text, "x.img"), Err(expected.to_owned()), "{text}");
        }
        for text in [format!("{sum}  my x.img\n"), format!("{sum}  x.img.xz\n"), format!("{sum}  ax.img\n")] {
            assert_eq!(of(&text, "x.img"), Ok(None), "{text}");
        }
    }
}
