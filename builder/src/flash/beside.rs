//! What lies beside an image and says what it must be: lists of digests, and the manifest of a build.
//!
//! A list that does not speak of the image, or that is of another kind, is named: a check that silently does not take place
//! is none.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::error::Problem;
use crate::format::Format;
use crate::manifest::FILE_NAME;
use crate::sign::sums;
use crate::units::Digest;

/// Far above any manifest, list of digests or block map.
const LARGEST_TEXT: u64 = 64 << 20;
/// Files of a folder that are looked at for lists of digests.
const MOST_FILES: usize = 10_000;

/// What lies beside an image says of it.
#[derive(Debug, Default)]
pub struct Beside {
    /// What the file's digest must be, and who says so.
    file: Vec<(Digest, String)>,
    /// How long the file must be.
    pub size: Option<u64>,
    /// What the disk's digest must be.
    pub raw_sha256: Option<Digest>,
    /// How long the disk must be.
    pub raw_size: Option<u64>,
    /// Lists that do not speak of it, and those that nobody reads.
    pub silent: Vec<String>,
}

impl Beside {
    /// What lies in the image's folder.
    ///
    /// # Errors
    /// A [`Problem`] when a list names the image and not what it must be.
    pub fn of(image: &Path) -> Result<Self> {
        let mut beside = Self::default();
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (list, kind) in lists(image, &name) {
            match kind {
                List::Sha256 => beside.list(&image.with_file_name(&list), &list, &name)?,
                List::Other => beside.silent.push(format!("{list} is not read: only SHA-256 is checked")),
            }
        }
        if let Some(text) = text(&image.with_file_name(FILE_NAME))? {
            // Another program's manifest.json is none of ours: what cannot be read there says nothing.
            let manifest = serde_json::from_str(&text).unwrap_or(Value::Null);
            beside.manifest(&manifest, &name);
        }
        Ok(beside)
    }

    fn list(&mut self, path: &Path, list: &str, name: &str) -> Result<()> {
        let Some(text) = text(path)? else { return Ok(()) };
        let bare = text.trim_start_matches('\u{feff}').trim().parse().ok();
        // `x.img.xz.sha256` may hold the digest and nothing else.
        let own = list.to_lowercase().starts_with(&name.to_lowercase());
        let found = match bare.filter(|_| own) {
            Some(sum) => Some(sum),
            None => sums::find(&text, name).map_err(|error| {
                Problem::input(format!("{}: {error}", path.display())).hint(
                    "fetch or build the image anew, with all that lies beside it; or name its digest: --sha256 HEX",
                )
            })?,
        };
        match found {
            Some(sum) => self.file.push((sum, list.to_owned())),
            None => self.silent.push(format!("{list} has no line for {name}")),
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
    pub fn expected(&self, given: Option<Digest>, path: &Path) -> Result<Option<(Digest, String)>> {
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

/// A file of digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Sha256,
    Other,
}

impl List {
    /// By its name, in any case: `SHA256SUMS`, `sha256sum.txt`, `CHECKSUM`, or the image's own with an ending.
    fn named(file: &str, image: &str) -> Option<Self> {
        let file = file.to_lowercase();
        let plain = file.strip_suffix(".txt").unwrap_or(&file);
        let stem = match plain.strip_prefix(&image.to_lowercase()) {
            Some(ending) => ending.strip_prefix(['.', '-', '_'])?,
            None => plain,
        };
        let sums = stem.strip_suffix("sums").or_else(|| stem.strip_suffix("sum")).unwrap_or(stem);
        let alone = sums != stem || plain.len() > stem.len();
        match sums.trim_end_matches(['-', '_', '.']) {
            "sha256" | "sha-256" if alone => Some(Self::Sha256),
            "check" if alone => Some(Self::Sha256),
            "md5" | "sha1" | "sha224" | "sha384" | "sha512" | "b2" | "b3" | "blake2" | "blake3" if alone => {
                Some(Self::Other)
            }
            _ => None,
        }
    }
}

/// The lists in an image's folder, in the order of their names.
fn lists(image: &Path, name: &str) -> Vec<(String, List)> {
    let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).into_iter().flatten().take(MOST_FILES).flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut lists: Vec<_> =
        names.filter_map(|file| List::named(&file, name).map(|kind| (file, kind))).collect();
    lists.sort_by(|a, b| a.0.cmp(&b.0));
    lists
}

/// A file that may be there, as text: in UTF-16 where it says so, as PowerShell writes it.
///
/// # Errors
/// When it is there and cannot be read.
pub fn text(path: &Path) -> Result<Option<String>> {
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
        _ => return String::from_utf8_lossy(bytes).into_owned(),
    };
    let (pairs, _) = bytes[2..].as_chunks::<2>();
    char::decode_utf16(pairs.iter().map(|pair| order(*pair))).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

#[cfg(test)]
mod tests {
    use super::{Beside, List};
    use crate::units::Digest;
    use std::fs;

    #[test]
    fn lists_by_their_names() {
        let kind = |file| List::named(file, "x.img.xz");
        for file in [
            "SHA256SUMS",
            "sha256sums.txt",
            "SHA256SUM",
            "sha256sum.txt",
            "CHECKSUM",
            "checksums.txt",
            "CHECKSUMS",
            "x.img.xz.sha256",
            "X.img.xz.SHA256.txt",
            "x.img.xz.sha256sum",
            "x.img.xz-sha256",
            "x.img.xz-CHECKSUM",
        ] {
            assert_eq!(kind(file), Some(List::Sha256), "{file}");
        }
        for file in ["MD5SUMS", "SHA512SUMS", "B2SUMS", "x.img.xz.sha1", "x.img.xz.md5sum"] {
            assert_eq!(kind(file), Some(List::Other), "{file}");
        }
        for file in
            ["x.img.xz", "y.img.xz.sha256", "sha256", "SHA256SUMS.sig", "summary.txt", "x.img.xz.bmap"]
        {
            assert_eq!(kind(file), None, "{file}");
        }
    }

    #[test]
    fn what_each_says() {
        let folder = tempfile::tempdir().expect("folder");
        let image = folder.path().join("x.img");
        let put = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).expect("write");
        let known = || Beside::of(&image).and_then(|beside| beside.expected(None, &image));
        let sum = Digest::of("x");
        put("SHA256SUMS", format!("{sum}  y.img\n").as_bytes());
        put("MD5SUMS", b"");
        assert_eq!(known().expect("nothing"), None);
        let silent = Beside::of(&image).expect("read").silent;
        assert_eq!(
            silent,
            ["MD5SUMS is not read: only SHA-256 is checked", "SHA256SUMS has no line for x.img"]
        );
        // As PowerShell's `>` writes it.
        let wide: Vec<u8> =
            format!("\u{feff}{sum} *x.img\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
        put("SHA256SUMS", &wide);
        assert_eq!(known().expect("one"), Some((sum, "SHA256SUMS".to_owned())));
        put("x.img.sha256", format!("{sum}\n").as_bytes());
        assert_eq!(known().expect("both the same"), Some((sum, "SHA256SUMS".to_owned())));
        put("x.img.sha256", Digest::of("other").to_string().as_bytes());
        let error = known().expect_err("two").to_string();
        assert!(error.starts_with("SHA256SUMS and x.img.sha256 give "), "{error}");
        put("x.img.sha256", format!("x.img {sum}").as_bytes());
        assert!(
            known().expect_err("another form").to_string().contains("x.img.sha256: line 1 names x.img, but")
        );
    }
}
