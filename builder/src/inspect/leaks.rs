//! The identity-leak guard on a finished image: the rules that a build's tree is held against ([`crate::rootfs::guard`]),
//! and those of the FAT partition.
//!
//! A build knows what its recipe brings on purpose; here the recipe is not known. What one may have brought (SSH keys that
//! may log in, a Wi-Fi's key, preloaded images) is therefore told, and judged by the reader.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::FileFacts;
use super::root::Root;
use crate::board::raspberry_pi::chain::Files;
use crate::prove::checks::Check;
use crate::rootfs::guard::{self, Allowed, Leak};
use crate::rootfs::guard_rules::{PRIVATE_KEY, matches};

/// The verdict's name.
pub const NAME: &str = "identity-leak";
/// Folder of the identity on the FAT partition.
pub const FOLDER: &str = "edgepress";
/// A larger file on the FAT partition is no key.
const KEY_MAX: u64 = 64 << 10;

/// Files of an identity that are of no use alone; what else an identity needs is the image's to say (docs/identity.md).
const PAIRS: [[&str; 2]; 3] = [
    ["certificate.pem", "private-key.pem"],
    ["bootstrap-certificate.pem", "bootstrap-key.pem"],
    ["bootstrap-username", "bootstrap-password"],
];

/// Files on the FAT partition that make one machine or open one, wherever the machine's own tools look for them:
/// Raspberry Pi OS's `userconf` and `wpa_supplicant.conf`, cloud-init's seed, systemd-boot's seed.
const ON_FAT: [(&str, &str, &str); 8] = [
    ("userconf.txt", "an account and its password", "remove it: access in the recipe makes the account"),
    ("userconf", "an account and its password", "remove it: access in the recipe makes the account"),
    ("wpa_supplicant.conf", "the key of a Wi-Fi network", "name it in network.wifi of the recipe"),
    ("custom.toml", "settings of Raspberry Pi Imager, with passwords", "remove it"),
    ("user-data", "cloud-init's data of one machine", "remove it, or keep it without secrets"),
    ("edgepress/wifi-key", "the key of a Wi-Fi network", "let `edgepress stamp` bring it to each device"),
    ("loader/random-seed", "a random seed, the same on every device", "remove it"),
    ("ssh_host_*", "an SSH host key", "remove it: first boot makes the device's own"),
];

/// Something that must not be in an image for many devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Found {
    /// `root` or `fat`.
    pub partition: &'static str,
    /// Path on that partition.
    pub path: String,
    /// What it is.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// A recipe may have brought it on purpose; it does not fail the verdict.
    pub perhaps_meant: bool,
}

/// What an image is meant to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Meant {
    /// Either; half an identity is a fault.
    #[default]
    Either,
    /// For many devices: any identity is a fault.
    Golden,
    /// For one device: no identity is a fault.
    Stamped,
}

/// Looks through the root.
///
/// # Errors
/// When the file system cannot be read.
pub fn on_root(root: &Root) -> Result<Vec<Found>> {
    let found = |leak: Leak| Found {
        partition: "root",
        path: leak.path.to_string_lossy().into_owned(),
        what: leak.what,
        fix: leak.fix,
        perhaps_meant: leak.perhaps_meant,
    };
    Ok(guard::check_tree(root, &Allowed::default())?.into_iter().map(found).collect())
}

/// Looks through the FAT partition; the identity itself is judged by [`judge`].
pub fn on_fat(files: &dyn Files, list: &[FileFacts]) -> Vec<Found> {
    let mut all = Vec::new();
    for file in list {
        let path = file.path.to_lowercase();
        let known = ON_FAT.iter().find(|(pattern, ..)| matches(pattern, Path::new(&path)));
        let found = match known {
            Some((_, what, fix)) if file.size > 0 => Some((*what, *fix)),
            _ if !path.starts_with("edgepress/") && is_key(files, file) => {
                Some((PRIVATE_KEY.what, "remove it, or put it into the folder edgepress/"))
            }
            _ => None,
        };
        if let Some((what, fix)) = found {
            all.push(Found {
                partition: "fat",
                path: file.path.clone(),
                what: what.into(),
                fix: fix.into(),
                perhaps_meant: path == "user-data",
            });
        }
    }
    all
}

fn is_key(files: &dyn Files, file: &FileFacts) -> bool {
    let small = (1..=KEY_MAX).contains(&file.size) && !file.path.to_lowercase().ends_with(".dtbo");
    small && files.read(&file.path).is_some_and(|content| (PRIVATE_KEY.holds)(&content))
}

/// The verdict; `identity` has the identity's files on the FAT partition, by name.
pub fn judge(found: &[Found], identity: &[String], meant: Meant, root_was_read: bool) -> Check {
    let mut faults: Vec<String> = found
        .iter()
        .filter(|found| !found.perhaps_meant)
        .map(|found| format!("{}: {}; {}", found.path, found.what, found.fix))
        .collect();
    let has = |name: &str| identity.iter().any(|file| file == name);
    let half = PAIRS.iter().find(|[one, other]| has(one) != has(other));
    let list = identity.join(", ");
    match (identity.is_empty(), meant) {
        (true, Meant::Stamped) => {
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
    if !root_was_read {
        return Check::skipped(NAME, "there is no ext4 root to look through");
    }
    match identity.is_empty() {
        true => Check::new(NAME, true, "nothing of one device, nothing that opens one"),
        false => Check::new(
            NAME,
            true,
            format!("one device's identity where first boot takes it ({list}), and nothing else"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{Meant, judge, on_fat};
    use crate::disk::fat::FatFile;
    use crate::inspect::FileFacts;
    use crate::prove::checks::Outcome;

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
        on_fat(&&files[..], &list).into_iter().map(|found| (found.path, found.what)).collect()
    }

    #[test]
    fn what_lies_on_a_boot_partition() {
        assert_eq!(
            found(&[("config.txt", "a=1"), ("edgepress/private-key.pem", KEY), ("userconf.txt", "")]),
            []
        );
        let found = found(&[("UserConf.txt", "pi:$6$x"), ("certs/key.pem", KEY), ("ssh_host_rsa_key", "x")]);
        let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["UserConf.txt", "certs/key.pem", "ssh_host_rsa_key"]);
    }

    #[test]
    fn golden_stamped_and_half() {
        let outcome = |identity: &[&str], meant| {
            let identity: Vec<_> = identity.iter().map(|name| (*name).to_owned()).collect();
            judge(&[], &identity, meant, true).outcome
        };
        let whole = &["certificate.pem", "private-key.pem"][..];
        assert_eq!(outcome(&[], Meant::Either), Outcome::Passed);
        assert_eq!(outcome(&[], Meant::Golden), Outcome::Passed);
        assert_eq!(outcome(&[], Meant::Stamped), Outcome::Failed);
        assert_eq!(outcome(whole, Meant::Either), Outcome::Passed);
        assert_eq!(outcome(whole, Meant::Stamped), Outcome::Passed);
        assert_eq!(outcome(whole, Meant::Golden), Outcome::Failed);
        assert_eq!(outcome(&whole[..1], Meant::Either), Outcome::Failed);
        assert_eq!(judge(&[], &[], Meant::Either, false).outcome, Outcome::Skipped);
    }
}
