//! `edgepress sign` as a user calls it: keys of both kinds, the tools that check what it made, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::CommandCargoExt as _;
use edgepress::sign::verify;
use edgepress::units::Digest;
use edgepress::verdict::Outcome;
use serde_json::Value;

struct Folder {
    image: tempfile::TempDir,
    keys: tempfile::TempDir,
}

/// A folder as a build leaves it.
fn folder() -> Folder {
    let image = tempfile::tempdir().expect("temporary folder");
    let mut sums = String::new();
    for name in ["demo.img", "manifest.json", "sbom.cdx.json"] {
        fs::write(image.path().join(name), name).expect("file");
        sums += &format!("{}  {name}\n", Digest::of(name));
    }
    fs::write(image.path().join("SHA256SUMS"), sums).expect("digests");
    Folder { image, keys: tempfile::tempdir().expect("temporary folder") }
}

impl Folder {
    fn ssh_key(&self, password: &str) -> PathBuf {
        let path = self.keys.path().join("id");
        let mut command = Command::new("ssh-keygen");
        succeed(command.args(["-q", "-t", "ed25519", "-N", password, "-f"]).arg(&path));
        path
    }

    fn minisign_key(&self, password: Option<&str>) -> PathBuf {
        let pair = match password {
            None => minisign::KeyPair::generate_unencrypted_keypair(),
            Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
        };
        let pair = pair.expect("a key");
        let path = self.keys.path().join("minisign.key");
        fs::write(&path, pair.sk.to_box(None).expect("box").to_bytes()).expect("file");
        fs::write(path.with_extension("pub"), pair.pk.to_box().expect("box").to_bytes()).expect("file");
        path
    }

    fn sign(&self, key: &Path) -> Command {
        let mut command = Command::cargo_bin("edgepress").expect("the binary");
        command.arg("sign").arg(self.image.path()).arg("--key").arg(key).stdin(Stdio::null());
        command
    }

    fn passes(&self, key: &Path) -> bool {
        let checks = verify(&self.image.path().join("demo.img"), Some(key)).expect("a verdict");
        checks.iter().all(|check| check.outcome == Outcome::Passed)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.image.path().join(name)
    }
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Exit code 2, nothing on stdout, no signature; what was said.
fn refused(folder: &Folder, mut command: Command) -> String {
    let output = command.output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(!folder.file("SHA256SUMS.sig").exists() && !folder.file("SHA256SUMS.minisig").exists());
    stderr
}

#[test]
fn an_ssh_key_signs_what_ssh_keygen_checks() {
    let folder = folder();
    let key = folder.ssh_key("");
    let output = succeed(folder.sign(&key).arg("--json"));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["files"], 3);
    assert!(answer["signature"].as_str().expect("a path").ends_with("SHA256SUMS.sig"));
    assert!(answer["signer"].as_str().expect("a signer").contains("SHA256:"));
    let public = key.with_extension("pub");
    assert!(folder.passes(&public));
    let allowed = folder.keys.path().join("allowed_signers");
    fs::write(&allowed, format!("release {}", fs::read_to_string(public).expect("key"))).expect("file");
    let mut check = Command::new("ssh-keygen");
    check.args(["-Y", "verify", "-I", "release", "-n", "sha256sums@edgepress", "-f"]).arg(&allowed);
    check.arg("-s").arg(folder.file("SHA256SUMS.sig"));
    succeed(check.stdin(fs::File::open(folder.file("SHA256SUMS")).expect("digests")));
    succeed(
        Command::new("sha256sum")
            .args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(folder.image.path()),
    );
}

#[test]
fn an_agent_signs_by_the_public_half() {
    let folder = folder();
    let key = folder.ssh_key("");
    let public = key.with_extension("pub");
    let sign = folder.sign(&public);
    // The agent lives as long as the command; nobody but it has the private half when edgepress starts.
    let script = "ssh-add -q \"$0\" && rm \"$0\" && exec \"$@\"";
    let mut agent = Command::new("ssh-agent");
    agent.args(["sh", "-c", script]).arg(&key).arg(sign.get_program()).args(sign.get_args());
    succeed(agent.stdin(Stdio::null()));
    assert!(!key.exists());
    assert!(folder.passes(&public));
}

#[test]
fn a_minisign_key_signs_what_minisign_checks() {
    let folder = folder();
    let key = folder.minisign_key(None);
    let output = succeed(&mut folder.sign(&key));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("SHA256SUMS.minisig\nsigned by minisign key ") && text.contains("over 3 files"),
        "{text}"
    );
    let public = key.with_extension("pub");
    assert!(folder.passes(&public));
    // Both may stand side by side.
    let ssh = folder.ssh_key("");
    succeed(&mut folder.sign(&ssh));
    assert!(folder.passes(&public) && folder.passes(&ssh.with_extension("pub")));
    let mut check = Command::new("minisign");
    check.args(["-V", "-q", "-p"]).arg(&public).arg("-m").arg(folder.file("SHA256SUMS"));
    succeed(&mut check);
}

#[test]
fn a_key_that_minisign_made_signs() {
    let folder = folder();
    let (secret, public) = (folder.keys.path().join("its.key"), folder.keys.path().join("its.pub"));
    succeed(Command::new("minisign").args(["-G", "-W", "-p"]).arg(&public).arg("-s").arg(&secret));
    succeed(&mut folder.sign(&secret));
    assert!(folder.passes(&public));
    // And what minisign signs passes here.
    let mut sign = Command::new("minisign");
    succeed(sign.args(["-S", "-s"]).arg(&secret).arg("-m").arg(folder.file("SHA256SUMS")));
    assert!(folder.passes(&public));
}

#[test]
fn a_pass_phrase_is_asked_on_a_terminal_only() {
    let folder = folder();
    let key = folder.minisign_key(Some("correct horse"));
    let error = refused(&folder, folder.sign(&key));
    assert!(error.contains("no terminal to ask for it") && error.contains("hint: "), "{error}");
    // With a terminal: script(1) makes one, and types.
    let typed = |password: &str| {
        let command = folder.sign(&key);
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
        let mut pipe = child.stdin.take().expect("stdin");
        std::io::Write::write_all(&mut pipe, format!("{password}\n").as_bytes()).expect("types");
        let output = child.wait_with_output().expect("ends");
        drop(pipe);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = typed("wrong horse");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("was the pass phrase right?") && !said.contains("wrong horse\n"), "{said}");
    let (code, said) = typed("correct horse");
    assert_eq!(code, Some(0), "{said}");
    assert!(folder.passes(&key.with_extension("pub")));
}

#[test]
fn nothing_is_signed_that_is_not_true() {
    let folder = folder();
    let key = folder.minisign_key(None);
    fs::write(folder.file("demo.img"), "another").expect("file");
    let error = refused(&folder, folder.sign(&key));
    assert!(error.contains("demo.img has SHA-256") && error.contains("nothing was signed"), "{error}");
    fs::remove_file(folder.file("SHA256SUMS")).expect("removes");
    let error = refused(&folder, folder.sign(&key));
    assert!(error.contains("has no SHA256SUMS") && error.contains("hint: name the folder"), "{error}");
}

#[test]
fn keys_that_cannot_sign_are_named() {
    let folder = folder();
    let key = folder.minisign_key(None);
    for (key, expected) in [
        (key.with_extension("pub"), "public key, which cannot sign"),
        (folder.file("demo.img"), "is no key that can sign"),
        (folder.keys.path().join("absent"), "there is no key"),
        (folder.ssh_key("secret"), "ssh-keygen does not sign with"),
    ] {
        let error = refused(&folder, folder.sign(&key));
        assert!(error.contains(expected) && error.contains("hint: "), "{error}");
    }
}
