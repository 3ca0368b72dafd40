//! Does every file that the recipe names exist, and is it what it should be?

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;

use crate::board::wifi;
use crate::provisioning::source;
use crate::recipe::diagnostic::Diagnostic;
use crate::recipe::load::Loaded;
use crate::recipe::types::EdgeSource;

/// First bytes of a .deb, which is an `ar` archive.
const DEB_MAGIC: &[u8] = b"!<arch>\n";
/// Most bytes of a file of public keys.
const LARGEST_KEYS: u64 = 256 * 1024;
/// Types of SSH keys, as OpenSSH 9 names them (`ssh -Q key-plain`, without the withdrawn DSA).
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];
/// The packages of the runtime.
const RUNTIME: [&str; 2] = ["aziot-identity-service", "aziot-edge"];

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Diagnostic>) {
    let recipe = &loaded.recipe;
    for (at, deb) in recipe.packages.debs.iter().enumerate() {
        if let Some(file) = &deb.file {
            is_deb(loaded, &format!("packages/debs/{at}/file"), file, findings);
        }
    }
    let mut provided: Vec<String> = deb_names(loaded);
    for (at, folder) in recipe.packages.sources.iter().enumerate() {
        provided.extend(sources(loaded, &format!("packages/sources/{at}"), folder, findings));
    }
    if recipe.edge.from == EdgeSource::Packages {
        for name in RUNTIME.iter().filter(|name| !provided.iter().any(|provided| provided == **name)) {
            let message = format!(
                "`edge.from` is \"packages\", and neither packages.debs nor packages.sources has `{name}`"
            );
            findings.push(Diagnostic::error(message).at(loaded.place("edge/from")));
        }
    }
    for (at, image) in recipe.engine.images.iter().enumerate() {
        if let Some(file) = &image.file {
            exists(loaded, &format!("engine/images/{at}/file"), file, "container image", findings);
        }
    }
    for (at, file) in recipe.access.ssh_keys.iter().enumerate() {
        public_keys(loaded, &format!("access/ssh_keys/{at}"), file, findings);
    }
    archive_keys(loaded, findings);
    if let Some(file) = recipe.provisioning.certificate.ca()
        && let Err(error) = source::read_authorities(file)
    {
        let diagnostic = Diagnostic::error(error.to_string());
        findings.push(diagnostic.at(loaded.place("provisioning/certificate/ca")));
    }
    if let Some(file) = recipe.network.wifi.as_ref().and_then(|wifi| wifi.key_file.as_ref()) {
        wifi_key(loaded, file, findings);
    }
}

/// Nothing of the file is shown.
fn wifi_key(loaded: &Loaded, file: &Path, findings: &mut Vec<Diagnostic>) {
    let key = "network/wifi/key_file";
    if exists(loaded, key, file, "key of the Wi-Fi", findings)
        && let Err(problem) = wifi::read_key(file)
    {
        findings.push(Diagnostic::error(problem.to_string()).at(loaded.place(key)));
    }
}

/// Names of the packages in `packages.debs`, from their file names (`name_version_arch.deb`).
fn deb_names(loaded: &Loaded) -> Vec<String> {
    let recipe = &loaded.recipe;
    let fitting =
        recipe.packages.debs.iter().filter(|deb| deb.arch.is_none_or(|arch| arch == recipe.target.arch));
    let file = |deb: &crate::recipe::types::Deb| match (&deb.file, &deb.url) {
        (Some(file), _) => file.file_name().map(|name| name.to_string_lossy().into_owned()),
        (None, Some(url)) => url.rsplit('/').next().map(str::to_owned),
        (None, None) => None,
    };
    fitting.filter_map(file).filter_map(|name| name.split('_').next().map(str::to_owned)).collect()
}

fn exists(loaded: &Loaded, key: &str, file: &Path, what: &str, findings: &mut Vec<Diagnostic>) -> bool {
    let found = file.is_file();
    if !found {
        let problem = if file.exists() { "is not a file" } else { "does not exist" };
        let message = format!("the {what} {} {problem}", file.display());
        findings.push(Diagnostic::error(message).at(loaded.place(key)));
    }
    found
}

fn is_deb(loaded: &Loaded, key: &str, file: &Path, findings: &mut Vec<Diagnostic>) {
    if !exists(loaded, key, file, "package", findings) {
        return;
    }
    let mut start = [0; DEB_MAGIC.len()];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut start));
    if read.is_err() || start != *DEB_MAGIC {
        let message = format!("{} is not a Debian package", file.display());
        findings.push(Diagnostic::error(message).at(loaded.place(key)));
    }
}

/// Checks a folder of package sources, and returns the names of its packages.
fn sources(loaded: &Loaded, key: &str, folder: &Path, findings: &mut Vec<Diagnostic>) -> Vec<String> {
    let Ok(children) = std::fs::read_dir(folder) else {
        let message = format!("the folder of package sources {} does not exist", folder.display());
        findings.push(Diagnostic::error(message).at(loaded.place(key)));
        return Vec::new();
    };
    let control =
        |child: std::fs::DirEntry| std::fs::read_to_string(child.path().join("DEBIAN/control")).ok();
    let name = |control: String| {
        control.lines().find_map(|line| line.strip_prefix("Package:")).map(|name| name.trim().to_owned())
    };
    let names: Vec<String> = children.flatten().filter_map(control).filter_map(name).collect();
    if names.is_empty() {
        let message = format!("{} holds no package source", folder.display());
        let expected = "child folders with a file DEBIAN/control that names its Package";
        findings.push(Diagnostic::error(message).expected(expected).at(loaded.place(key)));
    }
    names
}

fn archive_keys(loaded: &Loaded, findings: &mut Vec<Diagnostic>) {
    for (role, archive) in &loaded.recipe.archives {
        let Some(file) = archive.key.file.as_ref().filter(|file| !file.is_file()) else { continue };
        let message = format!("the key of the archive `{role}`, {}, does not exist", file.display());
        let place = loaded.place(&format!("archives/{role}/key/file"));
        findings.push(match &archive.key.package {
            // The recipe is right, and this machine lacks something that only `lock` needs.
            Some(package) => Diagnostic::warning(message)
                .hint(format!("`lock` needs it: sudo apt-get install {package}"))
                .at(place),
            None => Diagnostic::error(message).at(place),
        });
    }
}

fn public_keys(loaded: &Loaded, key: &str, file: &Path, findings: &mut Vec<Diagnostic>) {
    if !exists(loaded, key, file, "SSH key", findings) {
        return;
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(LARGEST_KEYS).read_to_end(&mut bytes));
    let verdict = match read {
        Ok(_) => judge_keys(&String::from_utf8_lossy(&bytes)),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    if let Err(reason) = verdict {
        let message = format!("{} {reason}", file.display());
        let hint = "name the public half, which ssh-keygen writes beside the private one as *.pub";
        findings.push(Diagnostic::error(message).hint(hint).at(loaded.place(key)));
    }
}

/// Is the text a list of public keys, as in `authorized_keys`? The reason never repeats what the file holds.
pub(crate) fn judge_keys(text: &str) -> Result<(), String> {
    if text.contains("PRIVATE KEY") || text.starts_with("PuTTY-User-Key-File") {
        return Err("is a private key: it would be in every image".into());
    }
    let lines = text.lines().map(str::trim).enumerate();
    let mut keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).peekable();
    if keys.peek().is_none() {
        return Err("holds no key".into());
    }
    match keys.find(|(_, line)| !public_key(line)) {
        Some((at, _)) => Err(format!("is not a list of SSH public keys (line {})", at + 1)),
        None => Ok(()),
    }
}

/// `[options] type base64 [comment]`, where the base64 begins with the type once more (RFC 4253, 6.6).
fn public_key(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(at) = words.iter().position(|word| KEY_TYPES.contains(word)) else { return false };
    let blob = words.get(at + 1).and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    let length = u32::try_from(words[at].len()).unwrap_or(u32::MAX).to_be_bytes();
    blob.and_then(|blob| blob.strip_prefix(&length).map(|rest| rest.starts_with(words[at].as_bytes())))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::judge_keys;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJbVVTeqTGWQfE9Jm1bqhYQfBWZHCkGPGD4KEH3vMMqQ";

    #[test]
    fn public_keys_only() {
        for (text, good) in [
            (KEY.to_owned(), true),
            (format!("# ops\n\n{KEY} ops@example\r\n{KEY}\n"), true),
            (format!("restrict,command=\"a b\" {KEY}"), true),
            (String::new(), false),
            ("# nothing\n".into(), false),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n".into(), false),
            ("-----BEGIN RSA PRIVATE KEY-----".into(), false),
            ("PuTTY-User-Key-File-3: ssh-ed25519".into(), false),
            (KEY.replace("ssh-ed25519", "ssh-rsa"), false),
            ("ssh-ed25519".into(), false),
            ("ssh-ed25519 !!!".into(), false),
            ("hello".into(), false),
        ] {
            assert_eq!(judge_keys(&text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn refusals_do_not_repeat_the_file() {
        let error = judge_keys("-----BEGIN PRIVATE KEY-----\nSECRET\n").expect_err("a private key");
        assert!(!error.contains("SECRET"));
    }
}
