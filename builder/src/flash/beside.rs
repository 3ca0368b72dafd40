//! What lies beside an image and says what it must be: lists of digests, and the manifest of a build.
//!
//! A list that does not speak of the image, or that is of another kind, is named; one that may speak of it and is not
//! understood is refused: a check that silently does not take place is none.

mod digests;
mod lists;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::error::Problem;
use crate::format::Format;
use crate::manifest::FILE_NAME;
use crate::units::Digest;

use self::digests::Digests;
use self::lists::{List, ListKind};

/// Far above any manifest, list of digests or block map.
const LARGEST_TEXT: u64 = 64 << 20;
/// What to do with a list that cannot be used.
const NAME_IT: &str = "fetch or build the image anew, with all that lies beside it; or name its digest, which then counts: \
    --sha256 HEX";

/// What lies beside an image says of it.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// What the file's digest must be, and who says so.
    file: Vec<(Digest, String)>,
    /// How long the file must be.
    pub size: Option<u64>,
    /// What the disk's digest must be.
    pub raw_sha256: Option<Digest>,
    /// How long the disk must be.
    pub raw_size: Option<u64>,
    /// Lists that do not speak of it, those that nobody reads, and what was not checked of those that do.
    pub notes: Vec<String>,
}

impl Beside {
    /// What lies in the image's folder. Where the digest is `given`, a list that is not understood is no more than named.
    ///
    /// # Errors
    /// A [`Problem`] when a list names the image and not what it must be.
    pub(crate) fn of(image: &Path, given: bool) -> Result<Self> {
        let mut beside = Self::default();
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for list in lists::beside(image, &name) {
            match beside.list(image, &list, &name) {
                Ok(()) => {}
                Err(why) if given => beside.notes.push(format!("{} is not read: {why}", list.file)),
                Err(why) => {
                    let list = image.with_file_name(&list.file);
                    return Err(Problem::input(format!("{}: {why}", list.display())).hint(NAME_IT).into());
                }
            }
        }
        if let Some(text) = text(&image.with_file_name(FILE_NAME))? {
            // Another program's manifest.json is none of ours: what cannot be read there says nothing.
            let manifest = serde_json::from_str(&text).unwrap_or(Value::Null);
            beside.manifest(&manifest, &name);
        }
        Ok(beside)
    }

    /// What a list says.
    ///
    /// # Errors
    /// Why it is not understood, though it may speak of the image.
    fn list(&mut self, image: &Path, list: &List, name: &str) -> Result<(), String> {
        let List { file, kind, too_large } = list;
        match kind {
            ListKind::Other => {
                self.notes.push(format!("{file} is not read: only SHA-256 is checked"));
                return Ok(());
            }
            // An older list, or a copy: what a list by its name says goes before.
            ListKind::Unnamed if !self.file.is_empty() => return Ok(()),
            ListKind::Own | ListKind::Stem | ListKind::Folder if *too_large => {
                return Err("it is too large for a list of digests".to_owned());
            }
            _ if *too_large => return Ok(()),
            _ => {}
        }
        let text = match text(&image.with_file_name(file)) {
            Ok(text) => text.unwrap_or_default(),
            // It lies there by chance.
            Err(_) if matches!(kind, ListKind::Unnamed | ListKind::Named) => return Ok(()),
            Err(error) => return Err(format!("{error:#}")),
        };
        let digests = Digests::read(&text);
        let is_another = |other: &str| other != name && image.with_file_name(other).exists();
        let said = digests.of(name, is_another);
        let digest = match kind {
            ListKind::Own => own(&digests, said)?,
            ListKind::Stem => stem(&digests, said, image, name)?,
            ListKind::Unnamed if digests.is_list() => said.ok().flatten(),
            ListKind::Unnamed => {
                self.chance(&digests, said, file, name);
                None
            }
            ListKind::Folder | ListKind::Named | ListKind::Other => said?,
        };
        match digest {
            Some(sum) => {
                self.file.push((sum, file.clone()));
                if digests.signed {
                    self.notes.push(format!("{file} is signed, and its signature was not verified"));
                }
            }
            None => self.silent(&digests, list, image, name)?,
        }
        Ok(())
    }

    /// A file that is no list and has a digest of the image in it: a log of some earlier day as well as its maker's word.
    fn chance(&mut self, digests: &Digests, said: Result<Option<Digest>, String>, file: &str, name: &str) {
        let why = match said {
            Ok(None) => return,
            Ok(Some(_)) => format!("it has a digest of {name}, and is no list of digests"),
            Err(_) if digests.other_form().is_none() => return,
            Err(why) => why,
        };
        self.notes.push(format!("{file} is not used: {why}"));
    }

    /// A list that does not say what the image must be.
    fn silent(&mut self, digests: &Digests, list: &List, image: &Path, name: &str) -> Result<(), String> {
        let List { file, kind, .. } = list;
        let mut owners = file.match_indices(['.', '-', '_']).map(|(at, _)| image.with_file_name(&file[..at]));
        let is_of_another = owners.any(|owner| owner.is_file());
        match (kind, digests.nameless(), digests.other_form()) {
            (ListKind::Folder, Some(why), _) | (ListKind::Folder | ListKind::Stem, _, Some(why)) => {
                return Err(why);
            }
            (ListKind::Named, Some(_), _) if !is_of_another => {
                self.notes
                    .push(format!("{file} has a digest and does not say of which file: it is not used"));
            }
            (ListKind::Folder | ListKind::Stem, ..) if !digests.detached => {
                self.notes.push(format!("{file} has no line for {name}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// The manifest counts for an image that it lists, not for one that happens to lie there.
    fn manifest(&mut self, manifest: &Value, name: &str) {
        let sum = |output: &Value| output["sha256"].as_str()?.parse::<Digest>().ok();
        let outputs = || manifest["outputs"].as_array().into_iter().flatten();
        let Some(own) = outputs().find(|output| output["file"] == name) else { return };
        self.file.extend(sum(own).map(|sum| (sum, FILE_NAME.to_owned())));
        self.size = own["size"].as_u64();
        // The disk: it says itself what comes out of it, or is raw, or has the raw one beside it.
        let stem = Format::flashed().into_iter().find_map(|form| form.stem(name));
        let sibling = |output: &&Value| {
            let file = output["file"].as_str().unwrap_or_default();
            stem.is_some() && file.strip_suffix(".img") == stem
        };
        let inside = Some(&own["raw"]).filter(|raw| sum(raw).is_some());
        if let Some(disk) = inside.or_else(|| outputs().find(sibling)) {
            (self.raw_sha256, self.raw_size) = (sum(disk), disk["size"].as_u64());
        }
    }

    /// What the image's file must be: `given` on the command line, and found here.
    ///
    /// # Errors
    /// A [`Problem`] when two say different things.
    pub(crate) fn expected(&self, given: Option<Digest>, path: &Path) -> Result<Option<(Digest, String)>> {
        let given = given.map(|sum| (sum, "--sha256".to_owned()));
        let all: Vec<_> = given.into_iter().chain(self.file.iter().cloned()).collect();
        let Some(first) = all.first() else { return Ok(None) };
        if let Some(other) = all.iter().find(|other| other.0 != first.0) {
            let message = format!("{} and {} give {} different digests", first.1, other.1, path.display());
            return Err(Problem::input(message)
                .hint("fetch or build the image anew, with all that lies beside it")
                .into());
        }
        Ok(Some(first.clone()))
    }
}

/// What the image's own list says; it may hold the digest and nothing else.
fn own(digests: &Digests, said: Result<Option<Digest>, String>) -> Result<Option<Digest>, String> {
    match said {
        Ok(Some(digest)) => Ok(Some(digest)),
        Ok(None) | Err(_) if digests.detached => Ok(None),
        said => match (digests.only(false), said) {
            (Some(digest), _) => Ok(Some(digest)),
            (None, Err(why)) => Err(why),
            (None, Ok(_)) => Err("it does not say what the image's SHA-256 must be".to_owned()),
        },
    }
}

/// What the list of all with the image's stem says; one digest without a name is the image's where it is the only one.
fn stem(
    digests: &Digests,
    said: Result<Option<Digest>, String>,
    image: &Path,
    name: &str,
) -> Result<Option<Digest>, String> {
    let said = said?;
    let Some(only) = digests.only(true).filter(|_| said.is_none()) else { return Ok(said) };
    let stem = lists::stem(name).unwrap_or_default();
    let others = Format::flashed().into_iter().map(|form| format!("{stem}.{}", form.name));
    match others.filter(|other| other != name).find(|other| image.with_file_name(other).exists()) {
        Some(other) => Err(format!("it has a digest and does not say whether of {name} or of {other}")),
        None => Ok(Some(only)),
    }
}

/// A file that may be there, as text: in UTF-16 where it says so, as PowerShell writes it.
///
/// # Errors
/// When it is there and cannot be read.
pub(crate) fn text(path: &Path) -> Result<Option<String>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => {
            let mut bytes = Vec::new();
            opened
                .and_then(|file| file.take(LARGEST_TEXT).read_to_end(&mut bytes))
                .with_context(|| format!("reading {}", path.display()))?;
            Ok(Some(decoded(&bytes)))
        }
    }
}

fn decoded(bytes: &[u8]) -> String {
    let order: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        // Without a mark: digests and most of a name are ASCII.
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => u16::from_le_bytes,
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => u16::from_be_bytes,
        _ => return String::from_utf8_lossy(bytes).into_owned(),
    };
    let (pairs, _) = bytes.as_chunks::<2>();
    char::decode_utf16(pairs.iter().map(|pair| order(*pair))).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

#[cfg(test)]
mod tests {
    use super::Beside;
    use crate::units::Digest;
    use std::fs;

    type Known = (Option<(Digest, String)>, Vec<String>);

    /// A folder with an image and these beside it.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("folder"))
        }

        fn put(&self, name: &str, text: impl AsRef<[u8]>) {
            fs::write(self.0.path().join(name), text).expect("write");
        }

        /// Who says what the image must be; and what else is said, or why it cannot be told.
        fn known(&self, image: &str) -> Result<Known, String> {
            let image = self.0.path().join(image);
            let beside = Beside::of(&image, false).map_err(|error| format!("{error:#}"))?;
            let expected = beside.expected(None, &image).map_err(|error| format!("{error:#}"))?;
            Ok((expected, beside.notes))
        }
    }

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn what_each_says() {
        let folder = Folder::new();
        let sum = Digest::of("x");
        let known = || folder.known("x.img");
        folder.put("SHA256SUMS", format!("{sum}  y.img\n"));
        folder.put("MD5SUMS", "");
        let notes = ["MD5SUMS is not read: only SHA-256 is checked", "SHA256SUMS has no line for x.img"];
        assert_eq!(known(), Ok((None, notes.map(str::to_owned).to_vec())));
        // As PowerShell's `>` writes it.
        folder.put("SHA256SUMS", wide(&format!("\u{feff}{sum} *x.img\r\n")));
        assert_eq!(known().map(|known| known.0), Ok(Some((sum, "SHA256SUMS".to_owned()))));
        folder.put("x.img.sha256", format!("{sum}\n"));
        assert_eq!(known().map(|known| known.0), Ok(Some((sum, "SHA256SUMS".to_owned()))));
        folder.put("x.img.sha256", Digest::of("other").to_string());
        let error = known().expect_err("two");
        assert!(error.starts_with("SHA256SUMS and x.img.sha256 give "), "{error}");
        folder.put("x.img.sha256", "x.img {sum}");
        let error = known().expect_err("no digest");
        assert!(error.contains("x.img.sha256: line 1 names x.img, but without a SHA-256"), "{error}");
        // Who names the digest needs no list.
        let path = folder.0.path().join("x.img");
        let beside = Beside::of(&path, true).expect("given");
        assert!(beside.notes.iter().any(|note| note.starts_with("x.img.sha256 is not read: line 1 ")));
    }

    #[test]
    fn the_image_s_own_list() {
        let sum = Digest::of("x");
        for (text, good) in [
            (format!("{sum}"), true),
            (format!("{sum}  -\n"), true),
            (format!("SHA256(stdin)= {sum}\n"), true),
            (format!("{sum}  /builds/17/disk.raw\n"), true),
            (
                format!("SHA256          {}       C:\\Users\\a\\x.i...\r\n", sum.to_string().to_uppercase()),
                true,
            ),
            (format!("x.img\n{sum}\n"), true),
            (format!("{sum}  a.raw\n{}  b.raw\n", Digest::of("b")), false),
            (format!("{{\"sha256\":\"{sum}\"}}"), false),
            (format!("SHA512 (x.img) = {sum}{sum}"), false),
            (sum.to_string()[1..].to_owned(), false),
            (String::new(), false),
        ] {
            for file in ["x.img.sha256", "X.IMG.sha256sum", "x.img-CHECKSUM"] {
                let folder = Folder::new();
                folder.put(file, &text);
                let known = folder.known("x.img");
                match good {
                    true => assert_eq!(known.expect(&text).0.expect(&text).0, sum, "{file}: {text}"),
                    false => assert!(known.expect_err(&text).contains(file), "{file}: {text}"),
                }
            }
        }
    }

    #[test]
    fn lists_of_any_name() {
        let sum = Digest::of("x");
        for file in [
            "SHA256",
            "sha256",
            "sha256.txt",
            "checksum.sha256",
            "release-CHECKSUM",
            "x.sha256",
            "v1.sha256sum",
            "CHECKSUMS",
            "SHA256SUMS.asc",
            "notes",
            "x.txt",
        ] {
            let folder = Folder::new();
            folder.put(file, format!("# of today\n{sum}  x.img\n"));
            assert_eq!(folder.known("x.img").expect(file).0, Some((sum, file.to_owned())), "{file}");
        }
        // What only mentions it is no list, and what is called by its age does not contradict a list.
        let folder = Folder::new();
        folder.put("build.log", format!("writing\n{sum}  x.img\n"));
        folder.put("verify-sha256.sh", format!("echo \"{sum}  x.img\" | sha256sum -c\n"));
        folder.put("y.img", "");
        folder.put("y.img.sha256", sum.to_string());
        folder.put("SHA256SUMS.sig", "untrusted comment");
        folder.put("SHA256SUMS.asc", "-----BEGIN PGP SIGNATURE-----\n\niQ\n");
        let notes = [
            "build.log is not used: it has a digest of x.img, and is no list of digests",
            "verify-sha256.sh is not used: line 1 names x.img, but in a form that is not read",
        ];
        assert_eq!(folder.known("x.img"), Ok((None, notes.map(str::to_owned).to_vec())));
        folder.put("SHA256SUMS", format!("{sum}  x.img\n"));
        folder.put("SHA256SUMS.old", format!("{}  x.img\n", Digest::of("old")));
        assert_eq!(folder.known("x.img"), Ok((Some((sum, "SHA256SUMS".into())), Vec::new())));
    }

    #[test]
    fn a_list_signed_in_clear() {
        let (folder, sum) = (Folder::new(), Digest::of("x"));
        folder.put(
            "SHA256SUMS.asc",
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{sum}  x.img\n-----BEGIN PGP SIGNATURE-----\n\nx.img\n"
            ),
        );
        let notes = vec!["SHA256SUMS.asc is signed, and its signature was not verified".to_owned()];
        assert_eq!(folder.known("x.img"), Ok((Some((sum, "SHA256SUMS.asc".into())), notes)));
    }

    #[test]
    fn a_digest_of_which_file() {
        let sum = Digest::of("x");
        let folder = Folder::new();
        folder.put("x.sha256", sum.to_string());
        assert_eq!(folder.known("x.img.xz").expect("the only one").0.expect("known").0, sum);
        folder.put("x.img", "");
        let error = folder.known("x.img.xz").expect_err("two");
        assert!(error.contains("does not say whether of x.img.xz or of x.img"), "{error}");
        folder.put("x.sha256", format!("{sum}  x.img\n"));
        assert_eq!(
            folder.known("x.img.xz"),
            Ok((None, vec!["x.sha256 has no line for x.img.xz".to_owned()]))
        );
        let folder = Folder::new();
        folder.put("SHA256SUMS", format!("{sum}\n"));
        let error = folder.known("x.img").expect_err("of which file?");
        assert!(error.ends_with("line 1 has a digest and does not say of which file"), "{error}");
        folder.put("SHA256SUMS", vec![b'\n'; 17 << 20]);
        assert!(folder.known("x.img").expect_err("no list").ends_with("too large for a list of digests"));
    }

    #[test]
    fn small_and_large_letters() {
        let folder = Folder::new();
        let sum = Digest::of("x");
        folder.put("SHA256SUMS", format!("{sum}  X.IMG\n"));
        assert_eq!(folder.known("x.img").expect("one").0.expect("known").0, sum);
        // It is of the other.
        folder.put("X.IMG", "");
        assert_eq!(folder.known("x.img").expect("none").0, None);
    }
}
