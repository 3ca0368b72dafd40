//! Which files of an image's folder are lists of digests.

use std::fs;
use std::path::Path;

use crate::format::Format;

/// Files of a folder that are looked at.
const MOST_FILES: usize = 10_000;
/// Most bytes of a list; one of ten thousand files in UTF-16 has a fifth.
const LARGEST: u64 = 16 << 20;
/// Most bytes of a file that is looked into only because it lies there, and of all those together.
const LARGEST_UNNAMED: u64 = 64 << 10;
const MOST_UNNAMED: u64 = 4 << 20;

/// A file of digests, or one that may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    pub file: String,
    pub kind: ListKind,
    /// More bytes than a list has.
    pub too_large: bool,
}

/// What its name says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    /// The image's own: `x.img.sha256`.
    Own,
    /// Of all that have the image's name but for the ending: `x.sha256`.
    Stem,
    /// The folder's: `SHA256SUMS`, `checksums.txt`, `SHA256SUMS.asc`.
    Folder,
    /// A release's, or of another file: `release-CHECKSUM`, `y.img.sha256`.
    Named,
    /// Of other algorithms, and the image's or the folder's: `MD5SUMS`, `x.img.sha512`.
    Other,
    /// Nothing: what it holds must tell.
    Unnamed,
}

/// What a word of a file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Sha256,
    List,
    Other,
    /// `.txt`; `.asc`, which is a signature, or a list signed in clear.
    Ending,
    Any,
}

impl Word {
    fn of(word: &str) -> Self {
        let bare =
            ["sums", "sum", "s"].into_iter().find_map(|ending| word.strip_suffix(ending)).unwrap_or(word);
        match bare {
            "sha256" | "sha2" => Self::Sha256,
            "check" if word != bare => Self::List,
            "sha" | "checksum" | "digest" | "hash" | "hashe" => Self::List,
            // `sums.txt`
            "" => Self::List,
            "md2" | "md4" | "md5" | "sha1" | "sha224" | "sha384" | "sha512" | "sha3" | "b2" | "b3"
            | "blake2" | "blake2b" | "blake3" | "crc32" | "sfv" => Self::Other,
            "txt" | "asc" | "text" | "list" | "file" | "all" => Self::Ending,
            _ => Self::Any,
        }
    }
}

/// The words of a file's name, in small letters.
fn words(name: &str) -> Vec<Word> {
    let name = ["sha-256", "sha_256", "sha2-256"]
        .iter()
        .fold(name.to_owned(), |name, form| name.replace(form, "sha256"));
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(Word::of).collect()
}

/// An image's name without its ending, if it has one.
pub(super) fn stem(image: &str) -> Option<&str> {
    let form = Format::flashed().into_iter().find_map(|form| form.stem(image));
    form.or_else(|| Some(image.rsplit_once('.')?.0)).filter(|stem| !stem.is_empty())
}

impl ListKind {
    fn of(file: &str, image: &str) -> Self {
        let (file, image) = (file.to_lowercase(), image.to_lowercase());
        let behind = |name: &str| file.strip_prefix(name).and_then(|rest| rest.strip_prefix(['.', '-', '_']));
        let (kind, rest) = match (behind(&image), stem(&image).and_then(behind)) {
            (Some(rest), _) => (Self::Own, rest),
            // `x.img.xz` is not `x` with the ending `img.xz`.
            (None, Some(rest)) if !words(rest).contains(&Word::Any) => (Self::Stem, rest),
            _ => (Self::Folder, file.as_str()),
        };
        let words = words(rest);
        let has = |word| words.contains(&word);
        let lists = has(Word::Sha256) || has(Word::List);
        match (has(Word::Any), lists, has(Word::Other)) {
            (false, _, true) if !has(Word::Sha256) => Self::Other,
            (false, true, _) => kind,
            (true, true, false) if words.last() != Some(&Word::Any) => Self::Named,
            _ => Self::Unnamed,
        }
    }
}

/// The lists in an image's folder, in the order of their names; those whose names do not tell come last.
pub(super) fn beside(image: &Path, name: &str) -> Vec<List> {
    let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut lists = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().take(MOST_FILES).flatten() {
        let Ok(file) = entry.file_name().into_string() else { continue };
        // A link counts as what it leads to; a pipe would be waited for.
        let Some(data) = fs::metadata(entry.path()).ok().filter(|data| data.is_file()) else { continue };
        let kind = ListKind::of(&file, name);
        if file != name && (kind != ListKind::Unnamed || data.len() <= LARGEST_UNNAMED) {
            lists.push((
                kind == ListKind::Unnamed,
                List { file, kind, too_large: data.len() > LARGEST },
                data.len(),
            ));
        }
    }
    lists.sort_by(|a, b| (a.0, &a.1.file).cmp(&(b.0, &b.1.file)));
    let mut left = MOST_UNNAMED;
    lists.retain(|(unnamed, _, size)| {
        let fits = !unnamed || *size <= left;
        left -= if *unnamed && fits { *size } else { 0 };
        fits
    });
    lists.into_iter().map(|(_, list, _)| list).collect()
}

#[cfg(test)]
mod tests {
    use super::ListKind;

    #[test]
    fn lists_by_their_names() {
        for (kind, files) in [
            (
                ListKind::Folder,
                &[
                    "SHA256SUMS",
                    "sha256sums.txt",
                    "SHA256SUM",
                    "sha256sum.txt",
                    "CHECKSUM",
                    "checksums.txt",
                    "CHECKSUMS",
                    "SHA256",
                    "sha256",
                    "sha256.txt",
                    "checksum.sha256",
                    "SHA256SUMS.asc",
                    "sha-256.txt",
                    "SHA2-256SUMS",
                    "SHA256SUMS.txt.asc",
                    "hashes.txt",
                    "digests",
                    "sums.txt",
                    "_sha256_",
                    "all-sha256-sums.txt",
                ][..],
            ),
            (
                ListKind::Own,
                &[
                    "x.img.xz.sha256",
                    "X.img.xz.SHA256.txt",
                    "x.img.xz.sha256sum",
                    "x.img.xz-sha256",
                    "x.img.xz-CHECKSUM",
                    "x.img.xz.sha",
                    "x.img.xz.sha256.asc",
                    "x.img.xz_sha-256.txt",
                ],
            ),
            (ListKind::Stem, &["x.sha256", "X.SHA256SUM", "x-CHECKSUM", "x.sha256.txt"]),
            (
                ListKind::Named,
                &[
                    "release-CHECKSUM",
                    "y.img.xz.sha256",
                    "v1.2.sha256sum",
                    "x.img.sha256",
                    "Fedora-IoT-41-CHECKSUM",
                ],
            ),
            (
                ListKind::Other,
                &[
                    "MD5SUMS",
                    "SHA512SUMS",
                    "B2SUMS",
                    "x.img.xz.sha1",
                    "x.img.xz.md5sum",
                    "x.sha512",
                    "checksums.md5",
                ],
            ),
            (
                ListKind::Unnamed,
                &[
                    "y.img.xz",
                    "SHA256SUMS.sig",
                    "SHA256SUMS.old",
                    "summary.txt",
                    "x.img.xz.bmap",
                    "check.txt",
                    "sha256.rs",
                    "y.img.md5",
                    "README.txt",
                    "x.img.xz.asc",
                    "x.img.xz.sha256.sig",
                ],
            ),
        ] {
            for file in files {
                assert_eq!(ListKind::of(file, "x.img.xz"), kind, "{file}");
            }
        }
    }
}
