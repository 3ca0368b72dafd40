//! Does every file that the recipe names exist, and is it what it should be?

use std::io::Read as _;
use std::path::Path;

use crate::board::wifi;
use crate::error::{Problem, problem};
use crate::finding::Finding;
use crate::lock::keys;
use crate::oci::local::LocalImage;
use crate::provisioning::source;
use crate::recipe::Loaded;
use crate::ssh;

/// Most bytes of a file of public keys.
const LARGEST_KEYS: u64 = 256 * 1024;

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    for (at, image) in recipe.engine.images.iter().enumerate() {
        if let Some(file) = &image.file {
            container_image(loaded, &format!("engine/images/{at}/file"), file, &image.name, findings);
        }
    }
    for (at, file) in recipe.access.ssh_keys.iter().enumerate() {
        public_keys(loaded, &format!("access/ssh_keys/{at}"), file, findings);
    }
    archive_keys(loaded, findings);
    if let Some(file) = recipe.provisioning.certificate.ca()
        && let Err(error) = source::read_authorities(file)
    {
        let found = Finding::error(error.to_string());
        findings.push(found.at(loaded.place("provisioning/certificate/ca")));
    }
    if let Some(file) = recipe.network.wifi.as_ref().and_then(|wifi| wifi.key_file.as_ref()) {
        wifi_key(loaded, file, findings);
    }
}

/// Nothing of the file is shown.
fn wifi_key(loaded: &Loaded, file: &Path, findings: &mut Vec<Finding>) {
    let key = "network/wifi/key_file";
    if exists(loaded, key, file, "key of the Wi-Fi", findings)
        && let Err(problem) = wifi::read_key(file)
    {
        findings.push(Finding::error(problem.to_string()).at(loaded.place(key)));
    }
}

/// An archive or a layout, with an image of this name for the recipe's architecture. What its layers hold, the build sees.
fn container_image(loaded: &Loaded, key: &str, file: &Path, name: &str, findings: &mut Vec<Finding>) {
    if !file.is_dir() && !exists(loaded, key, file, "container image", findings) {
        return;
    }
    let Ok(reference) = name.parse() else { return };
    if let Err(error) = LocalImage::open(file, Some(&reference), loaded.recipe.target.arch) {
        let hint = problem(&error).and_then(|problem| problem.hint.clone());
        let message = format!("the container image {}: {error:#}", file.display());
        findings.push(Finding { hint, ..Finding::error(message) }.at(loaded.place(key)));
    }
}

pub(super) fn exists(
    loaded: &Loaded,
    key: &str,
    file: &Path,
    what: &str,
    findings: &mut Vec<Finding>,
) -> bool {
    let found = file.is_file();
    if !found {
        let problem = if file.exists() { "is not a file" } else { "does not exist" };
        let message = format!("the {what} {} {problem}", file.display());
        findings.push(Finding::error(message).at(loaded.place(key)));
    }
    found
}

fn archive_keys(loaded: &Loaded, findings: &mut Vec<Finding>) {
    for (role, archive) in &loaded.recipe.archives {
        let Some(file) = &archive.key.file else { continue };
        let place = loaded.place(&format!("archives/{role}/key/file"));
        if file.is_file() {
            if let Err(Problem { message, hint, .. }) = keys::judge_file(role, &archive.key) {
                findings.push(Finding { hint, ..Finding::error(message) }.at(place));
            }
            continue;
        }
        let message = format!("the key of the archive `{role}`, {}, does not exist", file.display());
        findings.push(match &archive.key.package {
            // The recipe is right, and this machine lacks something that only `lock` needs.
            Some(package) => Finding::warning(message)
                .hint(format!(
                    "`lock` needs it: sudo apt-get install {package}; or name one of recipes/keys/, which no package brings"
                ))
                .at(place),
            None => Finding::error(message).at(place),
        });
    }
}

fn public_keys(loaded: &Loaded, key: &str, file: &Path, findings: &mut Vec<Finding>) {
    if !exists(loaded, key, file, "SSH key", findings) {
        return;
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(LARGEST_KEYS + 1).read_to_end(&mut bytes));
    let found = match (read, std::str::from_utf8(&bytes)) {
        (Err(error), _) => Finding::error(format!("{} cannot be read: {error}", file.display())),
        (Ok(size), _) if size as u64 > LARGEST_KEYS => {
            let message = format!("{} is larger than {} KiB", file.display(), LARGEST_KEYS / 1024);
            Finding::error(message).expected("a list of SSH public keys")
        }
        (Ok(_), Err(_)) => Finding::error(format!("{} is not UTF-8", file.display()))
            .hint("save it as UTF-8: PowerShell's `>` writes UTF-16"),
        (Ok(_), Ok(text)) => match ssh::judge(text) {
            Ok(()) => return,
            Err(found) => Finding { message: format!("{} {}", file.display(), found.message), ..found },
        },
    };
    findings.push(found.at(loaded.place(key)));
}
