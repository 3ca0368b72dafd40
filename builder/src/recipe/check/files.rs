//! Does every file that the recipe names exist, and is it what it should be?

use std::io::Read as _;
use std::path::Path;

use crate::board::wifi;
use crate::provisioning::source;
use crate::recipe::diagnostic::Diagnostic;
use crate::recipe::load::Loaded;
use crate::recipe::types::EdgeSource;
use crate::ssh;

/// First bytes of a .deb, which is an `ar` archive.
const DEB_MAGIC: &[u8] = b"!<arch>\n";
/// Most bytes of a file of public keys.
const LARGEST_KEYS: u64 = 256 * 1024;
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
    let read = std::fs::File::open(file).and_then(|file| file.take(LARGEST_KEYS + 1).read_to_end(&mut bytes));
    let diagnostic = match (read, std::str::from_utf8(&bytes)) {
        (Err(error), _) => Diagnostic::error(format!("{} cannot be read: {error}", file.display())),
        (Ok(size), _) if size as u64 > LARGEST_KEYS => {
            let message = format!("{} is larger than {} KiB", file.display(), LARGEST_KEYS / 1024);
            Diagnostic::error(message).expected("a list of SSH public keys")
        }
        (Ok(_), Err(_)) => Diagnostic::error(format!("{} is not UTF-8", file.display()))
            .hint("save it as UTF-8: PowerShell's `>` writes UTF-16"),
        (Ok(_), Ok(text)) => match ssh::judge(text) {
            Ok(()) => return,
            Err(fault) => Diagnostic::error(format!("{} {}", file.display(), fault.reason)).hint(fault.hint),
        },
    };
    findings.push(diagnostic.at(loaded.place(key)));
}
