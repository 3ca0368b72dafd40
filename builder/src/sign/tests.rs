use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{MINISIGN_SIGNATURE, NAMESPACE, SSH_SIGNATURE, SUMS, SignOptions, minisig, sign, verify};
use crate::error::{ProblemKind, problem};
use crate::event::Silent;
use crate::units::Digest;
use crate::verdict::{Check, Outcome};

/// A folder with two files and their digests.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut sums = String::new();
    for name in ["demo.img", "manifest.json"] {
        fs::write(folder.path().join(name), name).expect("file");
        sums += &format!("{}  {name}\n", Digest::of(name));
    }
    fs::write(folder.path().join(SUMS), sums).expect("digests");
    folder
}

fn ssh_key(keys: &Path, name: &str, password: &str) -> PathBuf {
    let path = keys.join(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-C", "a comment", "-N", password, "-f"]).arg(&path);
    assert!(command.status().expect("ssh-keygen").success());
    path
}

fn minisign_key(keys: &Path, name: &str) -> (PathBuf, PathBuf) {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
    let (secret, public) = (keys.join(format!("{name}.key")), keys.join(format!("{name}.pub")));
    fs::write(&secret, pair.sk.to_box(None).expect("box").to_bytes()).expect("file");
    fs::write(&public, pair.pk.to_box().expect("box").to_bytes()).expect("file");
    (secret, public)
}

fn signed(folder: &Path, key: &Path) -> anyhow::Result<super::SignOutcome> {
    sign(&SignOptions { folder: folder.to_owned(), key: key.to_owned() }, &Silent)
}

fn outcomes(folder: &Path, key: Option<&Path>) -> (Outcome, Outcome, String) {
    let checks: Vec<Check> = verify(&folder.join("demo.img"), key).expect("a verdict");
    let [signature, digests] = checks.as_slice() else { panic!("{checks:?}") };
    (signature.outcome, digests.outcome, format!("{}; {}", signature.detail, digests.detail))
}

#[test]
fn ssh_signatures() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let (mine, other) = (ssh_key(keys.path(), "mine", ""), ssh_key(keys.path(), "other", ""));
    let folder = folder.path();
    let outcome = signed(folder, &mine).expect("signs");
    assert!(outcome.signer.starts_with("ED25519 key SHA256:") && outcome.files == 2, "{outcome:?}");
    let (mine, other) = (mine.with_extension("pub"), other.with_extension("pub"));
    let (signature, digests, detail) = outcomes(folder, Some(&mine));
    assert_eq!((signature, digests), (Outcome::Passed, Outcome::Passed), "{detail}");
    let (signature, _, detail) = outcomes(folder, None);
    assert_eq!(signature, Outcome::Skipped);
    assert!(detail.contains(&outcome.signer) && detail.contains("not checked against anything"), "{detail}");
    let (signature, _, detail) = outcomes(folder, Some(&other));
    assert_eq!(signature, Outcome::Failed);
    assert!(detail.contains(&format!("it is signed by {}", outcome.signer)), "{detail}");

    let allowed = keys.path().join("allowed_signers");
    let line = |who: &str, key: &Path| format!("{who} {}", fs::read_to_string(key).expect("key"));
    fs::write(&allowed, line("# nobody\nben@plant.example", &other) + &line("anna@plant.example", &mine))
        .expect("file");
    let (signature, _, detail) = outcomes(folder, Some(&allowed));
    assert_eq!(signature, Outcome::Passed, "{detail}");
    assert!(detail.contains("anna@plant.example"), "{detail}");
    fs::write(&allowed, line("ben@plant.example", &other)).expect("file");
    assert_eq!(outcomes(folder, Some(&allowed)).0, Outcome::Failed);

    // A signature that the same key made for another purpose.
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-Y", "sign", "-n", "file", "-f"])
        .arg(keys.path().join("mine"))
        .arg(folder.join(SUMS));
    fs::remove_file(folder.join(SSH_SIGNATURE)).expect("removes");
    assert!(command.status().expect("ssh-keygen").success());
    assert_eq!(outcomes(folder, Some(&mine)).0, Outcome::Failed);
    assert_eq!(outcomes(folder, None).0, Outcome::Failed);
}

#[test]
fn openssh_accepts_our_signature() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let key = ssh_key(keys.path(), "mine", "");
    signed(folder.path(), &key).expect("signs");
    let allowed = keys.path().join("allowed_signers");
    let public = fs::read_to_string(key.with_extension("pub")).expect("key");
    fs::write(&allowed, format!("anna@plant.example {public}")).expect("file");
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "verify", "-I", "anna@plant.example", "-n", NAMESPACE, "-s"]);
    command.arg(folder.path().join(SSH_SIGNATURE)).arg("-f").arg(&allowed);
    command.stdin(fs::File::open(folder.path().join(SUMS)).expect("digests"));
    assert!(command.status().expect("ssh-keygen").success());
}

#[test]
fn minisign_signatures() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let (secret, public) = minisign_key(keys.path(), "mine");
    let (_, other) = minisign_key(keys.path(), "other");
    let folder = folder.path();
    let outcome = signed(folder, &secret).expect("signs");
    assert!(outcome.signature.ends_with(MINISIGN_SIGNATURE), "{outcome:?}");
    let (signature, digests, detail) = outcomes(folder, Some(&public));
    assert_eq!((signature, digests), (Outcome::Passed, Outcome::Passed), "{detail}");
    let (signature, _, detail) = outcomes(folder, Some(&other));
    assert_eq!(signature, Outcome::Failed);
    assert!(detail.contains("the signature is that of minisign key"), "{detail}");
    let (signature, _, detail) = outcomes(folder, None);
    assert_eq!(signature, Outcome::Skipped);
    assert!(detail.contains(&outcome.signer), "{detail}");
    // A key without its comment line, as `minisign -P` takes it.
    let text = fs::read_to_string(&public).expect("key");
    fs::write(&public, text.lines().nth(1).expect("a key")).expect("file");
    assert_eq!(outcomes(folder, Some(&public)).0, Outcome::Passed);
    // A signature with one bit changed.
    let path = folder.join(MINISIGN_SIGNATURE);
    let text = fs::read(&path).expect("signature");
    for at in 0..text.len() {
        let mut damaged = text.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("file");
        let (_, _, detail) = outcomes(folder, Some(&public));
        let comment = at < text.iter().position(|byte| *byte == b'\n').expect("a line");
        let passed = outcomes(folder, Some(&public)).0 == Outcome::Passed;
        assert!(
            !passed || comment || damaged[at].is_ascii_whitespace() || text[at].is_ascii_whitespace(),
            "{at}: {detail}"
        );
    }
}

#[test]
fn a_minisign_signature_of_another_length() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let (secret, public) = minisign_key(keys.path(), "mine");
    signed(folder.path(), &secret).expect("signs");
    let read = |path: &Path| fs::read_to_string(path).expect("file");
    let (text, sums) = (read(&folder.path().join(MINISIGN_SIGNATURE)), read(&folder.path().join(SUMS)));
    let public = read(&public);
    let public = public.lines().nth(1).expect("a key");
    let passes = |signature: &str| minisig::verify(public, signature, &sums).is_ok();
    let whole = text.trim_end().len();
    for end in 0..=text.len() {
        assert_eq!(passes(&text[..end]), end >= whole, "cut after {end} bytes");
        assert_eq!(minisig::signer(&text[..end]).is_ok(), end >= whole, "cut after {end} bytes");
    }
    let lines: Vec<&str> = text.lines().collect();
    for at in [1, 3] {
        let with = |line: &str| {
            let mut lines = lines.clone();
            lines[at] = line;
            lines.join("\n")
        };
        // Four characters are three bytes: what is left is base64 without padding.
        for end in (0..lines[at].len()).step_by(4) {
            let error = minisig::verify(public, &with(&lines[at][..end]), &sums).expect_err("short");
            assert!(
                error.starts_with(&format!("the signature cannot be read: line {} is", at + 1)),
                "{error}"
            );
        }
        assert!(!passes(&with(&format!("AAAA{}", lines[at]))), "longer");
        assert!(!passes(&with(&lines[at].trim_end_matches('=').repeat(2))), "longer");
    }
}

#[test]
fn what_was_changed_after_signing_is_named() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let (secret, public) = minisign_key(keys.path(), "mine");
    let folder = folder.path();
    signed(folder, &secret).expect("signs");
    fs::write(folder.join("demo.img"), "demo.imh").expect("file");
    let (signature, digests, detail) = outcomes(folder, Some(&public));
    assert_eq!((signature, digests), (Outcome::Passed, Outcome::Failed));
    assert!(detail.contains("demo.img has SHA-256"), "{detail}");
    let error = signed(folder, &secret).expect_err("not true");
    assert_eq!(problem(&error).expect("a problem").kind, ProblemKind::Input);
    fs::write(folder.join("demo.img"), "demo.img").expect("file");
    fs::remove_file(folder.join("manifest.json")).expect("removes");
    let (_, digests, detail) = outcomes(folder, Some(&public));
    assert_eq!(digests, Outcome::Passed);
    assert!(detail.ends_with("1 of 2 files are as SHA256SUMS says; not here: manifest.json"), "{detail}");
    assert!(signed(folder, &secret).expect_err("not whole").to_string().contains("manifest.json is missing"));
    let sums = fs::read_to_string(folder.join(SUMS)).expect("digests");
    fs::write(folder.join(SUMS), sums.lines().next().expect("a line")).expect("file");
    let (signature, digests, detail) = outcomes(folder, Some(&public));
    assert_eq!((signature, digests), (Outcome::Failed, Outcome::Passed), "{detail}");
    fs::write(folder.join(SUMS), sums.lines().last().expect("a line")).expect("file");
    assert!(outcomes(folder, None).2.contains("SHA256SUMS does not list demo.img"));
    fs::remove_file(folder.join(SUMS)).expect("removes");
    let error = verify(&folder.join("demo.img"), None).expect_err("no list").to_string();
    assert!(error.starts_with("there is no SHA256SUMS beside"), "{error}");
    assert!(signed(folder, &secret).is_err());
}

#[test]
fn not_signed() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let (_, public) = minisign_key(keys.path(), "mine");
    assert_eq!(outcomes(folder.path(), None).0, Outcome::Skipped);
    let (signature, _, detail) = outcomes(folder.path(), Some(&public));
    assert_eq!(signature, Outcome::Failed);
    assert!(detail.contains("there is no SHA256SUMS.minisig"), "{detail}");
}

#[test]
fn wrong_keys_teach() {
    let (folder, keys) = (folder(), tempfile::tempdir().expect("temporary folder"));
    let (secret, public) = minisign_key(keys.path(), "mine");
    let ssh = ssh_key(keys.path(), "ssh", "");
    let locked = ssh_key(keys.path(), "locked", "secret");
    let nonsense = keys.path().join("nonsense");
    fs::write(&nonsense, "hello\n").expect("file");
    for (key, expected) in [
        (public.clone(), "is minisign's public key, which cannot sign"),
        (nonsense.clone(), "is no key that can sign"),
        (keys.path().join("absent"), "there is no key"),
        (locked, "ssh-keygen does not sign with"),
    ] {
        let error = signed(folder.path(), &key).expect_err(expected);
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.contains(expected) && problem.hint.is_some(), "{problem:?}");
    }
    for (key, expected) in [
        (ssh, "is a private key"),
        (nonsense, "is no key that verifies"),
        (secret, "is no key that verifies"),
    ] {
        let error = verify(&folder.path().join("demo.img"), Some(&key)).expect_err(expected);
        assert!(problem(&error).expect("a problem").message.contains(expected), "{error}");
    }
}
