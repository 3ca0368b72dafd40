//! The identity-leak guard on a finished image: the rules that a build's tree is held against ([`crate::rootfs::guard`]),
//! and those of the FAT partition.
//!
//! A build knows what its recipe brings on purpose; here the recipe is not known. What one may have brought (SSH keys that
//! may log in, a Wi-Fi's key, preloaded images) is therefore told, and judged by the reader.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::FileFacts;
use super::system::System;
use crate::board::files::Files;
use crate::finding::{Finding, Place, Severity};
use crate::image::root::Root;
use crate::rootfs::guard::{self, Allowed};
use crate::rootfs::guard_rules::{PRIVATE_KEY, Rule, by_ending, has_yaml_password, matches, secret_rule};
use crate::rootfs::secrets;
use crate::stamp::golden::{AUTHORITIES, FOLDER, identity_file, is_authority};
use crate::verdict::Check;

/// The verdict's name.
pub(crate) const NAME: &str = "identity-leak";
/// The root, among partitions.
const ROOT: &str = "root";
/// The partition that the firmware reads.
pub(crate) const FAT: &str = "fat";
const CONFIG: &str = "/etc/aziot/config.toml";
/// A larger file on the FAT partition is a kernel, or another program of the firmware.
const KEY_MAX: u64 = 2 << 20;

/// Files of an identity that are of no use alone; what else an identity needs is the image's to say (docs/identity.md).
const PAIRS: [[&str; 2]; 3] = [
    ["certificate.pem", "private-key.pem"],
    ["bootstrap-certificate.pem", "bootstrap-key.pem"],
    ["bootstrap-username", "bootstrap-password"],
];

/// What an identity may bring besides: alone, it provisions nothing.
const SETTINGS: [&str; 10] = [
    "hostname",
    "hosts",
    "endpoint",
    "authorized_keys",
    "wifi-ssid",
    "wifi-key",
    "registry-address",
    "registry-username",
    "registry-password",
    "source-ca.pem",
];

fn is_setting(name: &str) -> bool {
    SETTINGS.contains(&name) || name.starts_with(AUTHORITIES)
}

/// Files on the FAT partition that make one machine or open one, wherever the machine's own tools look for them:
/// Raspberry Pi OS's `userconf` and `wpa_supplicant.conf`, what its Imager writes, cloud-init's seed, systemd-boot's seed.
const ON_FAT: [(&str, &str, &str); 8] = [
    ("userconf.txt", "an account and its password", "remove it: access in the recipe makes the account"),
    ("userconf", "an account and its password", "remove it: access in the recipe makes the account"),
    ("wpa_supplicant.conf", "the key of a Wi-Fi network", "name it in network.wifi of the recipe"),
    ("custom.toml", "settings of Raspberry Pi Imager, with passwords", "remove it"),
    ("firstrun.sh", "settings of Raspberry Pi Imager, with passwords", "remove it"),
    (USER_DATA, "cloud-init's data of one machine", "remove it, or keep it without secrets"),
    ("loader/random-seed", "a random seed, the same on every device", "remove it"),
    ("ssh_host_*", "an SSH host key", "remove it: first boot makes the device's own"),
];
const USER_DATA: &str = "user-data";
/// Cloud-init's settings of networks: a fault where they have a key.
const NETWORK_CONFIG: &str = "network-config";

/// Something that must not be in an image for many devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Leak {
    /// `root`, `fat`, or `partition 3` for one that a machine may mount anywhere.
    pub partition: String,
    /// What it is, with its path on that partition; a warning, which does not fail the verdict, where a recipe may have
    /// brought it on purpose.
    #[serde(flatten)]
    pub finding: Finding,
}

/// What an image is meant to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Meant {
    /// Either; half an identity is a fault.
    #[default]
    Either,
    /// For many devices: any identity is a fault.
    Golden,
    /// For one device: no identity is a fault.
    Stamped,
}

/// Looks through the root; `allowed` is what the manifest says that the recipe brought.
///
/// # Errors
/// When the file system cannot be read.
pub(crate) fn on_root(root: &Root, system: &System, allowed: &Allowed) -> Result<Vec<Leak>> {
    let leaks = guard::check_tree(root, allowed)?;
    let mut all: Vec<_> = leaks.into_iter().map(|leak| Leak::on(ROOT, leak)).collect();
    // The rules name a device's own; of others, as a registry's password, only the recipe's author knows.
    if !system.config_secrets.is_empty() && !all.iter().any(|leak| leak.path() == CONFIG) {
        let secrets = Finding::warning(format!("it holds secrets: {}", system.config_secrets.join(", ")));
        let hint = "whoever has the image has them: give the devices secrets of their own";
        all.push(Leak::on(ROOT, secrets.at(Place::file(CONFIG)).hint(hint)));
    }
    Ok(all)
}

/// Looks for keys in a file system that is neither the root nor the firmware's.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn elsewhere(tree: &Root, partition: &str) -> Result<Vec<Leak>> {
    let leaks = guard::check_keys(tree)?;
    Ok(leaks.into_iter().map(|leak| Leak::on(partition, leak)).collect())
}

impl Leak {
    fn on(partition: &str, finding: Finding) -> Self {
        Self { partition: partition.to_owned(), finding }
    }

    /// Path on its partition.
    pub(crate) fn path(&self) -> &str {
        self.finding.file_and_line().0
    }

    /// May a recipe have brought it on purpose?
    pub(crate) fn perhaps_meant(&self) -> bool {
        self.finding.severity == Severity::Warning
    }
}

/// The files of an identity in the folder `edgepress/`, by the names under which first boot takes them; a golden image has
/// none.
pub(crate) fn identity(files: &[FileFacts]) -> Vec<String> {
    let mut found: Vec<String> = files.iter().filter_map(|file| of_identity(&file.path)).collect();
    found.dedup();
    found
}

fn of_identity(path: &str) -> Option<String> {
    let (folder, name) = path.split_once('/')?;
    if !folder.eq_ignore_ascii_case(FOLDER) {
        return None;
    }
    match name.split_once('/') {
        None => identity_file(name).map(str::to_owned),
        Some((below, name)) => {
            let authority = below.eq_ignore_ascii_case(AUTHORITIES) && is_authority(name);
            authority.then(|| format!("{AUTHORITIES}/{name}"))
        }
    }
}

/// Looks through a FAT partition; the identity itself, on the firmware's, is judged by [`judge`].
pub(crate) fn on_fat(files: &dyn Files, list: &[FileFacts], partition: &str) -> Vec<Leak> {
    let leak = |file: &FileFacts| {
        let (what, hint) = on_fat_is(files, file, partition)?;
        let perhaps_meant = file.path.eq_ignore_ascii_case(USER_DATA);
        let found = if perhaps_meant { Finding::warning(what) } else { Finding::error(what) };
        Some(Leak::on(partition, found.at(Place::file(&file.path)).hint(hint)))
    };
    list.iter().filter(|file| file.size > 0).filter_map(leak).collect()
}

fn on_fat_is(files: &dyn Files, file: &FileFacts, partition: &str) -> Option<(&'static str, &'static str)> {
    let path = file.path.to_lowercase();
    if partition == FAT && of_identity(&path).is_some() {
        return None;
    }
    if let Some((_, what, hint)) = ON_FAT.iter().find(|(pattern, ..)| matches(pattern, Path::new(&path))) {
        return Some((what, hint));
    }
    if path == NETWORK_CONFIG && file.size <= KEY_MAX {
        let keys = files.read(&file.path).is_some_and(|content| has_yaml_password(&content));
        return keys.then_some(("the key of a network", "name it in network.wifi of the recipe"));
    }
    let rule = secret(files, file)?;
    if rule.what == PRIVATE_KEY.what {
        let hint =
            "remove it: an identity is put on by `edgepress stamp`, under the names that first boot knows";
        return Some((rule.what, hint));
    }
    Some((rule.what, "remove it"))
}

/// What a file is by what it holds. Kernels and programs of the firmware are larger than text that people write; what
/// describes hardware has no ending in common with it.
fn secret(files: &dyn Files, file: &FileFacts) -> Option<&'static Rule> {
    let small = file.size <= KEY_MAX && !file.path.to_lowercase().ends_with(".dtbo");
    let content = small.then(|| files.read(&file.path)).flatten()?;
    match secrets::find_in(&content) {
        Some(secret) => Some(secret_rule(secret)),
        None => by_ending(Path::new(&file.path), content.as_slice()).ok().flatten(),
    }
}

/// What was looked through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The root.
    pub root: bool,
    /// The firmware's FAT partition, if there is one.
    pub fat: bool,
    /// Partitions that were not, with what they hold.
    pub not: Vec<String>,
}

/// The verdict; `identity` has the identity's files on the FAT partition, by name.
pub(crate) fn judge(leaks: &[Leak], identity: &[String], meant: Meant, seen: &Seen) -> Check {
    let place = |leak: &Leak| match leak.partition.as_str() {
        ROOT | FAT => leak.path().to_owned(),
        other => format!("{other}, {}", leak.path()),
    };
    let one = |leak: &Leak| {
        let Finding { message, hint, .. } = &leak.finding;
        format!("{}: {message}; {}", place(leak), hint.as_deref().unwrap_or_default())
    };
    let mut faults: Vec<String> = leaks.iter().filter(|leak| !leak.perhaps_meant()).map(one).collect();
    let has = |name: &str| identity.iter().any(|file| file == name);
    let half = PAIRS.iter().find(|[one, other]| has(one) != has(other));
    let list = identity.join(", ");
    let settings_only = identity.iter().all(|name| is_setting(name));
    match (identity.is_empty(), meant) {
        (_, Meant::Stamped) if settings_only => {
            faults.push("it has no identity; put one in with `edgepress stamp IMAGE --identity FOLDER`".into());
        }
        (false, Meant::Golden) => faults.push(format!(
            "{FOLDER}/ on the FAT partition holds an identity ({list}); take the image as it was before it was stamped, or \
             `edgepress stamp --remove`"
        )),
        (false, _) => faults.extend(half.map(|[one, other]| {
            format!(
                "{FOLDER}/ on the FAT partition holds half an identity, {one} and {other} belong together ({list}); \
                 complete it with `edgepress stamp`, or remove it"
            )
        })),
        _ => {}
    }
    if !faults.is_empty() {
        return Check::new(NAME, false, faults.join("\n"));
    }
    if !seen.root {
        return Check::skipped(NAME, "there is no ext4 root to look through");
    }
    if !seen.fat {
        return Check::skipped(NAME, "the FAT partition cannot be read");
    }
    let not = match &seen.not[..] {
        [] => String::new(),
        not => format!("; not looked through: {}", not.join(", ")),
    };
    let detail = match () {
        () if identity.is_empty() => format!("nothing of one device, nothing that opens one{not}"),
        () if settings_only => format!("settings where first boot takes them ({list}), no identity{not}"),
        () => format!("one device's identity where first boot takes it ({list}), and nothing else{not}"),
    };
    Check::new(NAME, true, detail)
}

#[cfg(test)]
mod tests {
    use super::{Meant, Seen, identity, judge, on_fat};
    use crate::disk::fat::FatFile;
    use crate::inspect::FileFacts;
    use crate::verdict::Outcome;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n";

    fn found(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| FatFile { path: (*path).into(), content: (*text).into() })
            .collect();
        let list: Vec<_> = files
            .iter()
            .map(|file| FileFacts { path: file.path.clone(), size: file.content.len() as u64 })
            .collect();
        let leaks = on_fat(&&files[..], &list, super::FAT);
        leaks.into_iter().map(|leak| (leak.path().to_owned(), leak.finding.message)).collect()
    }

    #[test]
    fn what_lies_on_a_boot_partition() {
        assert_eq!(
            found(&[
                ("config.txt", "a=1"),
                ("edgepress/Private-Key.pem.TXT", KEY),
                ("edgepress/wifi-key", "hunter22"),
                ("edgepress/Registry-Password.txt", "hunter22"),
                ("userconf.txt", ""),
                ("network-config", "network: {version: 2}\n"),
            ]),
            []
        );
        let found_in_folder = found(&[
            ("edgepress/pump-7.key", KEY),
            ("firstrun.sh", "x"),
            ("Network-Config", "x:\n  password: hunter22\n"),
            ("Plant.P12", "x"),
        ]);
        let paths: Vec<_> = found_in_folder.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["edgepress/pump-7.key", "firstrun.sh", "Network-Config", "Plant.P12"]);
        let found = found(&[("UserConf.txt", "pi:$6$x"), ("certs/key.pem", KEY), ("ssh_host_rsa_key", "x")]);
        let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["UserConf.txt", "certs/key.pem", "ssh_host_rsa_key"]);
    }

    #[test]
    fn golden_stamped_and_half() {
        let seen = Seen { root: true, fat: true, not: vec!["partition 3 (swap)".into()] };
        let outcome = |identity: &[&str], meant| {
            let identity: Vec<_> = identity.iter().map(|name| (*name).to_owned()).collect();
            judge(&[], &identity, meant, &seen).outcome
        };
        let whole = &["certificate.pem", "private-key.pem"][..];
        assert_eq!(outcome(&[], Meant::Either), Outcome::Passed);
        assert_eq!(outcome(&[], Meant::Golden), Outcome::Passed);
        assert_eq!(outcome(&[], Meant::Stamped), Outcome::Failed);
        assert_eq!(outcome(whole, Meant::Either), Outcome::Passed);
        assert_eq!(outcome(whole, Meant::Stamped), Outcome::Passed);
        assert_eq!(outcome(whole, Meant::Golden), Outcome::Failed);
        assert_eq!(outcome(&whole[..1], Meant::Either), Outcome::Failed);
        let settings = &["hostname", "ca/plant.pem"][..];
        assert_eq!(outcome(settings, Meant::Either), Outcome::Passed);
        assert_eq!(outcome(settings, Meant::Stamped), Outcome::Failed);
        assert_eq!(outcome(settings, Meant::Golden), Outcome::Failed);
        let check = judge(&[], &[], Meant::Either, &seen);
        assert!(check.detail.ends_with("; not looked through: partition 3 (swap)"), "{}", check.detail);
        for unseen in [Seen { root: false, ..seen.clone() }, Seen { fat: false, ..seen.clone() }] {
            assert_eq!(judge(&[], &[], Meant::Either, &unseen).outcome, Outcome::Skipped);
        }
    }

    #[test]
    fn an_identity_is_seen_as_first_boot_sees_it() {
        let files = [
            "config.txt",
            "edgepress/README.md",
            "edgepress/Certificate.pem",
            "edgepress/private-key.pem.txt",
            "edgepress/WIPING.TMP",
            "EDGEPRESS/ca/plant.CRT",
            "edgepress/ca/notes",
            "edgepress/authorized_keys",
            "other/certificate.pem",
        ];
        let files: Vec<_> = files.map(|path| FileFacts { path: path.into(), size: 1 }).into();
        let expected =
            ["certificate.pem", "private-key.pem", "wiping.tmp", "ca/plant.CRT", "authorized_keys"];
        assert_eq!(identity(&files), expected);
    }
}
