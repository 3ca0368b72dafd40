//! SSH signatures (OpenSSH's PROTOCOL.sshsig), made and checked by `ssh-keygen`: it knows agents, security keys and
//! certificates.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{NAMESPACE, SUMS};
use crate::error::Problem;
use crate::{host, interrupt};

/// Whoever signed with the one key that counts.
const PRINCIPAL: &str = "signer@edgepress";

/// The signature and the fingerprint of its key.
pub(super) fn sign(key: &Path, text: &str) -> Result<(String, String)> {
    let key = fs::canonicalize(key).with_context(|| format!("finding {}", key.display()))?;
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    // A pass phrase is asked for meanwhile, and Ctrl-C an answer.
    let _guard = interrupt::remove_on_interrupt(folder.path());
    let message = folder.path().join(SUMS);
    fs::write(&message, text).context("writing the digests to be signed")?;
    let mut command: Command = host::command("ssh-keygen")?;
    command.args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"]).arg(&key).arg(&message);
    // The terminal, where there is one: ssh-keygen asks it for the pass phrase.
    let output = host::output(command.stdin(Stdio::inherit()))?;
    if !output.status.success() {
        let said = host::tail(&String::from_utf8_lossy(&output.stderr), 5);
        let message = format!("ssh-keygen does not sign with {}: {}", key.display(), said.trim());
        let hint = "a key with a pass phrase needs a terminal, or ssh-agent: ssh-add KEY, then --key KEY.pub";
        return Err(Problem::input(message).hint(hint).into());
    }
    let signature = fs::read_to_string(message.with_extension("sig")).context("reading the signature")?;
    let signer = signer(&signature, text)?
        .map_err(|why| Problem::work(format!("the signature just made does not verify: {why}")))?;
    Ok((signature, signer))
}

/// Who made a signature over `text`, whoever that is; or why it is none.
pub(super) fn signer(signature: &str, text: &str) -> Result<Result<String, String>> {
    let file = written(signature)?;
    run(&["-Y", "check-novalidate", "-n", NAMESPACE, "-s"], &[file.path()], text)
}

/// Did this key sign?
pub(super) fn verify_key(public: &str, signature: &str, text: &str) -> Result<Result<String, String>> {
    let allowed = written(&format!("{PRINCIPAL} {public}\n"))?;
    verify(PRINCIPAL, allowed.path(), signature, text)
}

/// Did one of these signers?
pub(super) fn verify_allowed(allowed: &Path, signature: &str, text: &str) -> Result<Result<String, String>> {
    let file = written(signature)?;
    let mut command = host::command("ssh-keygen")?;
    command.args(["-Y", "find-principals", "-s"]).arg(file.path()).arg("-f").arg(allowed);
    let found = host::output(command.stdin(Stdio::null()))?;
    let principals = String::from_utf8_lossy(&found.stdout).into_owned();
    let Some(principal) = principals.lines().next().filter(|_| found.status.success()) else {
        let by =
            signer(signature, text)?.map_or_else(|why| why, |signer| format!("it is signed by {signer}"));
        return Ok(Err(format!("{} names nobody with the key of the signature; {by}", allowed.display())));
    };
    Ok(verify(principal, allowed, signature, text)?.map(|signer| format!("{principal} with {signer}")))
}

fn verify(principal: &str, allowed: &Path, signature: &str, text: &str) -> Result<Result<String, String>> {
    let file = written(signature)?;
    let arguments = ["-Y", "verify", "-I", principal, "-n", NAMESPACE, "-f"];
    let verdict = run(&arguments, &[allowed, Path::new("-s"), file.path()], text)?;
    Ok(match verdict {
        Ok(signer) => Ok(signer),
        Err(why) => {
            // A good signature of somebody else is worth telling from a bad one.
            let by =
                signer(signature, text)?.map_or_else(|_| why, |signer| format!("it is signed by {signer}"));
            Err(format!("the signature is not that of the key given: {by}"))
        }
    })
}

/// Runs `ssh-keygen` with the signed text as its input: the key that it names when the signature is good, or what it says.
fn run(arguments: &[&str], files: &[&Path], text: &str) -> Result<Result<String, String>> {
    let mut message = tempfile::tempfile().context("making a temporary file")?;
    message.write_all(text.as_bytes()).context("writing the digests")?;
    std::io::Seek::rewind(&mut message).context("writing the digests")?;
    let mut command = host::command("ssh-keygen")?;
    command.args(arguments).args(files).env("LC_ALL", "C").stdin(Stdio::from(message));
    let output = host::output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = error.lines().chain(said.lines()).find(|line| !line.trim().is_empty());
        return Ok(Err(line.unwrap_or("ssh-keygen refuses it").trim().to_owned()));
    }
    // `Good "namespace" signature with ED25519 key SHA256:…`, or `… for PRINCIPAL with …`.
    Ok(Ok(said.trim().rsplit_once(" with ").map_or(said.trim(), |(_, key)| key).to_owned()))
}

fn written(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    file.write_all(text.as_bytes()).context("writing a temporary file")?;
    Ok(file)
}
