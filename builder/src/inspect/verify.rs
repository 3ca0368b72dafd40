//! `SHA256SUMS` beside an image: are the files those that were published?

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::disk::sparse;
use crate::error::Problem;
use crate::prove::checks::Check;
use crate::units::Digest;

/// Name of the list.
pub const LIST: &str = "SHA256SUMS";
/// A larger one is none.
const LIST_MAX: u64 = 1 << 20;
/// Endings of signatures of the list.
const SIGNATURES: [&str; 2] = [".sig", ".minisig"];
/// The names of the checks.
const FILES: &str = "sha256sums";
const SIGNATURE: &str = "signature";
const LISTED: &str = "listed";

/// What to hold an image against.
#[derive(Debug, Clone, Default)]
pub struct Verify {
    /// Whose signature; none: files only, and a signature is told.
    pub key: Option<PathBuf>,
    /// Checks the list's signature in a folder, and the files against the list: `sign::verify`.
    pub signature: Option<fn(&Path, Option<&Path>) -> Result<Vec<Check>>>,
}

/// Checks the signature of the list beside an image, that the list names the image, and every file that it names.
///
/// # Errors
/// A [`Problem`] when there is no list, or a key was given and nothing checks signatures; when a file cannot be read.
pub fn verify(image: &Path, options: &Verify) -> Result<Vec<Check>> {
    let folder = match image.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut checks = match (options.signature, &options.key) {
        (Some(check), key) => {
            let mut checks = check(folder, key.as_deref())?;
            checks.push(listed(folder, image)?);
            return Ok(checks);
        }
        (None, Some(_)) => {
            return Err(Problem::input("this build of edgepress checks no signatures")
                .hint("leave --key out, and check the signature with ssh-keygen or minisign")
                .into());
        }
        (None, None) => unchecked(folder),
    };
    checks.push(files(folder, image)?);
    Ok(checks)
}

fn unchecked(folder: &Path) -> Vec<Check> {
    let signed =
        SIGNATURES.iter().map(|ending| format!("{LIST}{ending}")).find(|name| folder.join(name).is_file());
    signed.map(|name| Check::skipped(SIGNATURE, format!("{name} was not checked"))).into_iter().collect()
}

fn read(folder: &Path) -> Result<Vec<(String, Digest)>> {
    let path = folder.join(LIST);
    let unusable = |why: String| {
        Problem::input(format!("{} cannot be used: {why}", path.display()))
            .hint("`edgepress build` writes it; where an image was published, it is published beside it")
    };
    let size = fs::metadata(&path).map_err(|error| unusable(error.to_string()))?.len();
    if size > LIST_MAX {
        return Err(unusable(format!("it is {size} bytes long")).into());
    }
    let text = fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
    Ok(parse(&text).map_err(unusable)?)
}

/// Signed and true is of no use when it is about other files.
fn listed(folder: &Path, image: &Path) -> Result<Check> {
    let name = image.file_name().context("naming the image")?.to_string_lossy();
    let there = read(folder)?.iter().any(|(listed, _)| *listed == name);
    let not = if there { "" } else { "not " };
    Ok(Check::new(LISTED, there, format!("{name} is {not}in {LIST}")))
}

/// The image must be listed; what else is listed and there must fit, too.
fn files(folder: &Path, image: &Path) -> Result<Check> {
    let list = read(folder)?;
    let (mut faults, mut right, mut absent) = (Vec::new(), 0, Vec::new());
    for (name, digest) in &list {
        let file = folder.join(name);
        match file.symlink_metadata() {
            Err(_) => absent.push(name.as_str()),
            Ok(_) if sparse::digest(&file)? == *digest => right += 1,
            Ok(_) => faults.push(format!("{name} differs")),
        }
    }
    let name = image.file_name().context("naming the image")?.to_string_lossy();
    if !list.iter().any(|(listed, _)| *listed == name) {
        faults.insert(0, format!("{LIST} does not list {name}"));
    }
    if !faults.is_empty() {
        let detail = format!("{}; fetch it again, from where it was published", faults.join("; "));
        return Ok(Check::new(FILES, false, detail));
    }
    let rest = if absent.is_empty() { String::new() } else { format!("; not here: {}", absent.join(", ")) };
    Ok(Check::new(FILES, true, format!("{right} of {} files are those of {LIST}{rest}", list.len())))
}

/// Lines of sha256sum(1): digest, a space, a space or `*`, name. Only bare names: a list must not point out of its folder.
fn parse(text: &str) -> Result<Vec<(String, Digest)>, String> {
    let mut list = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = line.split_once(' ').and_then(|(digest, name)| {
            let name = name.strip_prefix([' ', '*'])?;
            let bare = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
            let digest = Digest::try_from(digest.to_ascii_lowercase()).ok()?;
            bare.then(|| (name.to_owned(), digest))
        });
        list.push(parsed.ok_or_else(|| format!("line {number} is no digest and bare file name"))?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::{Verify, parse, verify};
    use crate::prove::checks::{Check, Outcome};
    use crate::units::Digest;
    use std::fs;
    use std::path::Path;

    #[test]
    fn lists() {
        let digest = Digest::of("x");
        let list = parse(&format!("{digest}  a.img\n\n{digest} *b c\n")).expect("parses");
        assert_eq!(list.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a.img", "b c"]);
        for bad in
            ["x  a".to_owned(), format!("{digest}  ../a"), format!("{digest} a"), format!("{digest}  ..")]
        {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_and_their_digests() {
        let folder = tempfile::tempdir().expect("folder");
        let (list, image) = (folder.path().join("SHA256SUMS"), folder.path().join("a.img"));
        let outcome =
            |options: &Verify| verify(&image, options).map(|checks| checks.last().expect("one").clone());
        fs::write(&image, "image").expect("write");
        assert!(outcome(&Verify::default()).is_err(), "no list");
        fs::write(&list, format!("{}  a.img\n{}  gone\n", Digest::of("image"), Digest::of("y")))
            .expect("write");
        let check = outcome(&Verify::default()).expect("checked");
        assert_eq!((check.outcome, check.detail.contains("not here: gone")), (Outcome::Passed, true));
        fs::write(&image, "other").expect("write");
        assert_eq!(outcome(&Verify::default()).expect("checked").outcome, Outcome::Failed);
        fs::write(&list, "").expect("write");
        assert!(outcome(&Verify::default()).expect("checked").detail.contains("does not list a.img"));
    }

    #[test]
    fn a_key_is_never_ignored() {
        let folder = tempfile::tempdir().expect("folder");
        let image = folder.path().join("a.img");
        fs::write(&image, "x").expect("write");
        fs::write(folder.path().join("SHA256SUMS"), format!("{}  a.img\n", Digest::of("x"))).expect("write");
        let mut options = Verify { key: Some("key".into()), signature: None };
        assert!(verify(&image, &options).is_err());
        options.signature =
            Some(|_: &Path, key: Option<&Path>| Ok(vec![Check::new("signature", key.is_none(), "")]));
        let outcomes: Vec<_> =
            verify(&image, &options).expect("checked").into_iter().map(|check| check.outcome).collect();
        assert_eq!(outcomes, [Outcome::Failed, Outcome::Passed], "signature, and the image is listed");
        fs::write(folder.path().join("SHA256SUMS.sig"), "x").expect("write");
        let checks = verify(&image, &Verify::default()).expect("checked");
        assert_eq!(checks[0].outcome, Outcome::Skipped);
    }
}
