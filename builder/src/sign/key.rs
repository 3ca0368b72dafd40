//! Which kind of key a file holds.

use std::path::Path;

use anyhow::Result;

use super::read;
use crate::error::Problem;

const KINDS: &str = "expected an SSH key (ssh-keygen -t ed25519 -f KEY) or a minisign key (minisign -G)";

/// A key that signs.
#[derive(Debug)]
pub(crate) enum Secret {
    /// `ssh-keygen` reads it, or asks ssh-agent.
    Ssh,
    /// The text of minisign's secret key file.
    Minisign(String),
}

/// A key that verifies.
#[derive(Debug)]
pub(crate) enum Public {
    /// Type and base64 of one SSH key.
    Ssh(String),
    /// Lines of principals and keys (ssh-keygen(1), ALLOWED SIGNERS).
    AllowedSigners,
    /// The base64 of minisign's public key.
    Minisign(String),
}

/// The kind of key that signs.
///
/// # Errors
/// There is no such file, or it is no key that signs.
pub(crate) fn secret(path: &Path) -> Result<Secret> {
    let text = content(path)?;
    let shown = path.display();
    if is_ssh_private(&text) || ssh_public(&text).is_some() {
        return Ok(Secret::Ssh);
    }
    if text.starts_with("untrusted comment:") {
        return match minisign_line(&text) {
            Some(line) if is_minisign_public(line) => {
                Err(Problem::input(format!("{shown} is minisign's public key, which cannot sign"))
                    .hint("name the secret key; minisign puts it into ~/.minisign/minisign.key")
                    .into())
            }
            _ => Ok(Secret::Minisign(text)),
        };
    }
    Err(Problem::input(format!("{shown} is no key that can sign")).hint(KINDS).into())
}

/// The kind of key that verifies.
///
/// # Errors
/// There is no such file, or it is no public key.
pub(crate) fn public(path: &Path) -> Result<Public> {
    let text = content(path)?;
    let shown = path.display();
    if is_ssh_private(&text) {
        let hint = format!("name the public half: {shown}.pub");
        return Err(Problem::input(format!("{shown} is a private key, which nobody else has"))
            .hint(hint)
            .into());
    }
    if let Some(line) = minisign_line(&text).filter(|line| is_minisign_public(line)) {
        return Ok(Public::Minisign(line.to_owned()));
    }
    if let Some(key) = ssh_public(&text) {
        return Ok(Public::Ssh(key));
    }
    if lines(&text).any(is_signer) {
        return Ok(Public::AllowedSigners);
    }
    let hint = "expected an SSH public key, an allowed_signers file, or minisign's public key";
    Err(Problem::input(format!("{shown} is no key that verifies a signature")).hint(hint).into())
}

fn content(path: &Path) -> Result<String> {
    read(path)?
        .ok_or_else(|| Problem::input(format!("there is no key {}", path.display())).hint(KINDS).into())
}

fn is_ssh_private(text: &str) -> bool {
    text.starts_with("-----BEGIN ")
        && text.lines().next().is_some_and(|line| line.contains(" PRIVATE KEY-----"))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Type and base64, without the comment, where the file holds just one public key.
fn ssh_public(text: &str) -> Option<String> {
    let mut lines = lines(text);
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let mut fields = line.split_whitespace();
    let (kind, key) = (fields.next()?, fields.next()?);
    is_ssh_type(kind).then(|| format!("{kind} {key}"))
}

fn is_ssh_type(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| word.starts_with(start))
}

/// `principals [options] type base64`.
fn is_signer(line: &str) -> bool {
    line.split_whitespace().skip(1).any(is_ssh_type)
}

/// The line below the comment; or the only line, as minisign takes it with `-P`.
fn minisign_line(text: &str) -> Option<&str> {
    let mut lines = lines(text);
    let first = lines.next()?;
    if first.starts_with("untrusted comment:") { lines.next() } else { Some(first) }
}

/// `Ed`, the key's id and 32 bytes (minisign(1), "Public key format"): 42 bytes, 56 characters.
fn is_minisign_public(line: &str) -> bool {
    minisign::PublicKey::from_base64(line).is_ok() && line.len() == 56
}
