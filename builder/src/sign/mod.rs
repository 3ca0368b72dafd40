//! Signatures over an image's `SHA256SUMS`, and with it over every file that it names.
//!
//! ```text
//! SHA256SUMS ──► SHA256SUMS.sig       an SSH key (ssh-keygen -Y sign, namespace `sha256sums@edgepress`)
//!            └─► SHA256SUMS.minisig   a minisign key
//! ```
//! Both are formats that others read: `ssh-keygen -Y verify` and `minisign -V` check them without edgepress. Which kind
//! of key a file holds is told by its content.

pub(crate) mod key;
mod minisig;
mod ssh;
pub(crate) mod sums;

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use self::key::{Public, Secret};
use self::sums::Compared;
use crate::error::Problem;
use crate::event::Sink;
use crate::files;
use crate::units::counted;
use crate::verdict::Check;

/// Name of the digests beside an image, in the form that `sha256sum --check` reads.
pub const SUMS: &str = "SHA256SUMS";
/// The signature of an SSH key.
pub const SSH_SIGNATURE: &str = "SHA256SUMS.sig";
/// The signature of a minisign key.
pub const MINISIGN_SIGNATURE: &str = "SHA256SUMS.minisig";
/// What an SSH signature is for: one made for mail or git does not count here (ssh-keygen(1), `-n`).
pub const NAMESPACE: &str = "sha256sums@edgepress";

/// What to sign.
#[derive(Debug, Clone)]
pub struct SignOptions {
    /// The folder that `edgepress build` made.
    pub folder: PathBuf,
    /// The key: an SSH key (the public half, where ssh-agent has the private one) or a minisign secret key.
    pub key: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct SignOutcome {
    /// The signature's file.
    pub signature: PathBuf,
    /// Who signed: an SSH key's fingerprint or a minisign key's id.
    pub signer: String,
    /// Files that the digests name, all of them compared.
    pub files: usize,
}

impl fmt::Display for SignOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.signature.display())?;
        write!(f, "signed by {}, over {}", self.signer, counted(self.files as u64, "file"))
    }
}

/// Signs a folder's `SHA256SUMS`, after comparing every file with it: a signature over a list that is not true would
/// be worse than none.
///
/// # Errors
/// No digests, files that differ from them, a key that cannot be read or is of no known kind, a wrong pass phrase.
pub fn sign(options: &SignOptions, sink: &dyn Sink) -> Result<SignOutcome> {
    let secret = key::secret(&options.key)?;
    let text = sums_of(&options.folder)?.ok_or_else(|| {
        Problem::input(format!("{} has no {SUMS}", options.folder.display()))
            .hint("name the folder that `edgepress build` made: out/<recipe name>-<arch>")
    })?;
    let listed = sums::parse(&text).map_err(|what| {
        Problem::input(format!("{SUMS} in {} cannot be read: {what}", options.folder.display()))
            .hint("`edgepress build` writes it anew")
    })?;
    let compared = sums::compare(&options.folder, &listed);
    let missing = compared.missing.iter().map(|name| format!("{name} is missing"));
    let wrong: Vec<_> = compared.wrong.iter().cloned().chain(missing).collect();
    if !wrong.is_empty() {
        let message = format!("{} is not what {SUMS} says:\n{}", options.folder.display(), wrong.join("\n"));
        return Err(Problem::input(message).hint("build the image anew; nothing was signed").into());
    }
    let (name, signature, signer) = match secret {
        Secret::Ssh => {
            let (signature, signer) = ssh::sign(&options.key, &text)?;
            (SSH_SIGNATURE, signature, signer)
        }
        Secret::Minisign(secret) => {
            let (signature, signer) = minisig::sign(&options.key, &secret, &text, sink)?;
            (MINISIGN_SIGNATURE, signature, signer)
        }
    };
    let signature = write(&options.folder, name, signature.as_bytes())?;
    Ok(SignOutcome { signature, signer, files: listed.len() })
}

/// Judges the list beside an image: its signature against `key` (a public key of either kind, or an allowed_signers
/// file), then the image and every other file that is there against `SHA256SUMS`. Without a key it is told who signed,
/// and that this was checked against nothing.
///
/// # Errors
/// A key that cannot be read or is of no known kind; no list. What is wrong with the files is in the checks.
pub fn verify(image: &Path, key: Option<&Path>) -> Result<Vec<Check>> {
    let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = image.file_name().context("naming the image")?.to_string_lossy();
    let key = key.map(|path| Ok::<_, anyhow::Error>((path, key::public(path)?))).transpose()?;
    let text = sums_of(folder)?.ok_or_else(|| {
        Problem::input(format!("there is no {SUMS} beside {}", image.display()))
            .hint("`edgepress build` writes it; where an image was published, it is published beside it")
    })?;
    let key = key.as_ref().map(|(path, key)| (*path, key));
    Ok(vec![signature(folder, key, &text)?, digests(folder, &name, &text)])
}

fn signature(folder: &Path, key: Option<(&Path, &Public)>, text: &str) -> Result<Check> {
    const NAME: &str = "signature";
    let ssh = read(&folder.join(SSH_SIGNATURE))?;
    let minisign = read(&folder.join(MINISIGN_SIGNATURE))?;
    let verdict = match (key, &ssh, &minisign) {
        (None, None, None) => return Ok(Check::skipped(NAME, format!("{SUMS} is not signed"))),
        (None, Some(signature), _) => match ssh::signer(signature, text)? {
            Ok(signer) => return Ok(unchecked(NAME, &signer)),
            Err(why) => Err(why),
        },
        (None, None, Some(signature)) => match minisig::signer(signature) {
            Ok(signer) => return Ok(unchecked(NAME, &signer)),
            Err(why) => Err(why),
        },
        (Some((_, Public::Ssh(public))), Some(signature), _) => ssh::verify_key(public, signature, text)?,
        (Some((path, Public::AllowedSigners)), Some(signature), _) => {
            ssh::verify_allowed(path, signature, text)?
        }
        (Some((_, Public::Minisign(public))), _, Some(signature)) => minisig::verify(public, signature, text),
        (Some((path, public)), ..) => {
            let name = if matches!(public, Public::Minisign(_)) { MINISIGN_SIGNATURE } else { SSH_SIGNATURE };
            Err(format!("there is no {name}, which the key {} would have made", path.display()))
        }
    };
    Ok(match verdict {
        Ok(signer) => Check::new(NAME, true, format!("signed by {signer}")),
        Err(why) => Check::new(NAME, false, why),
    })
}

fn unchecked(name: &str, signer: &str) -> Check {
    Check::skipped(
        name,
        format!("signed by {signer}, not checked against anything: name the signer's key with --key"),
    )
}

/// Signed and true is of no use when it is about other files: the image must be listed.
fn digests(folder: &Path, image: &str, text: &str) -> Check {
    const NAME: &str = "digests";
    let listed = match sums::parse(text) {
        Err(what) => return Check::new(NAME, false, format!("{SUMS} cannot be read: {what}")),
        Ok(listed) => listed,
    };
    let Compared { mut wrong, missing } = sums::compare(folder, &listed);
    if !listed.iter().any(|(name, _)| name == image) {
        wrong.insert(0, format!("{SUMS} does not list {image}"));
    }
    if !wrong.is_empty() {
        let detail = format!("{}; fetch it again, from where it was published", wrong.join("; "));
        return Check::new(NAME, false, detail);
    }
    let rest = if missing.is_empty() { String::new() } else { format!("; not here: {}", missing.join(", ")) };
    let right = listed.len() - missing.len();
    Check::new(NAME, true, format!("{right} of {} files are as {SUMS} says{rest}", listed.len()))
}

fn sums_of(folder: &Path) -> Result<Option<String>> {
    read(&folder.join(SUMS))
}

/// A small text file; nothing where there is none.
fn read(path: &Path) -> Result<Option<String>> {
    use std::io::Read as _;
    const MOST: u64 = 1 << 20;
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("opening {}", path.display()))?,
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes a file of the folder all or not at all.
fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    files::write(&path, 0o644, content)?;
    Ok(path)
}

#[cfg(test)]
mod tests;
