//! Takes out of a layer what a build leaves behind: one machine's identity, logs, caches, and the hour of the build.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::package_keys;
use crate::tree::{FileKind, Root};

/// Files and folders that go, each with its reason. `*` stands for any characters within a name.
const UNWANTED: &[(&str, &str)] = &[
    ("etc/ssh/ssh_host_*", "host keys are made on the device"),
    ("etc/.pwd.lock", "a lock"),
    ("var/lib/dbus/machine-id", "one machine's identity"),
    ("var/lib/systemd/random-seed", "one machine's identity"),
    ("var/lib/systemd/credential.secret", "one machine's identity"),
    ("var/lib/waagent", "one machine's identity: of the Azure agent, which makes it anew"),
    ("var/lib/cloud/*", "one machine's identity: of cloud-init"),
    ("var/lib/dpkg/*-old", "a copy of what stands beside it"),
    ("var/lib/dpkg/available", "only dselect reads it"),
    ("var/cache/debconf/*-old", "a copy of what stands beside it"),
    ("var/cache/apt/*", "made again by apt"),
    ("var/cache/ldconfig/aux-cache", "holds inode numbers and times of the build's disk"),
    ("var/log/*.log", "of the build, not of the device"),
    ("var/log/apt/*", "of the build, not of the device"),
    ("boot/firmware/*", "a Raspberry Pi's FAT partition is mounted there: hooks of packages fill it in vain"),
    ("etc/*-", "copies that shadow tools make of passwd, group and the like"),
];

/// Removes [`UNWANTED`] and the keys that packages [`MADE`](package_keys::MADE), and empties the machine id, in the tree as it is seen whole.
///
/// # Errors
/// The file that could not be removed.
pub(crate) fn scrub(root: &Root) -> Result<()> {
    package_keys::unlink(root)?;
    for (pattern, _) in UNWANTED.iter().chain(package_keys::MADE) {
        let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        for entry in root.list(folder)? {
            if matches(name, &entry.name.to_string_lossy()) {
                root.remove(Path::new(folder).join(entry.name))?;
            }
        }
    }
    // Present and empty: systemd makes one at the first boot and keeps it (machine-id(5)).
    root.truncate("etc/machine-id").context("emptying the machine id")?;
    Ok(())
}

/// Why [`scrub`] takes `path` (of the image) away, or a folder that it lies in; nothing where it does not.
pub(crate) fn removes(path: &Path) -> Option<&'static str> {
    let steps: Vec<_> = path.iter().skip(1).map(|name| name.to_string_lossy()).collect();
    let falls = |pattern: &&(&str, &str)| {
        let parts: Vec<&str> = pattern.0.split('/').collect();
        steps.len() >= parts.len() && parts.iter().zip(&steps).all(|(part, name)| matches(part, name))
    };
    UNWANTED.iter().find(falls).map(|(_, reason)| *reason)
}

/// One `*` at most.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

/// Sets every modification time later than `epoch` (seconds since 1970) to it: what packages brought keeps its own,
/// what the build wrote gets the image's. Call it on a layer that is not mounted.
///
/// # Errors
/// The file whose time could not be set.
pub(crate) fn clamp_times(tree: &Root, epoch: u64) -> Result<()> {
    let limit = i64::try_from(epoch).context("reading the epoch")?;
    // A folder's time changes with what is in it, not with that one's times: the order does not matter.
    tree.walk("", &mut |path, meta| {
        // Overlayfs marks what a layer removed with a character device 0:0, whose times nobody sees.
        if meta.mtime > limit && meta.kind != FileKind::Char { tree.set_time(path, limit) } else { Ok(()) }
    })?;
    let newer = tree.stat("")?.is_some_and(|meta| meta.mtime > limit);
    if newer { tree.set_time("", limit) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::{clamp_times, matches, scrub};
    use crate::tree::Root;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn what_is_removed() {
        let reason = |path: &str| super::removes(std::path::Path::new(path));
        assert_eq!(reason("/var/log/site.log"), Some("of the build, not of the device"));
        assert!(
            reason("/var/lib/cloud/seed/nocloud/user-data").is_some_and(|why| why.contains("cloud-init"))
        );
        assert!(reason("/var/lib/waagent").is_some() && reason("/etc/site-").is_some());
        for kept in ["/var/log/site/a.log", "/etc/site", "/var/lib/clouds", "/var/log"] {
            assert_eq!(reason(kept), None, "{kept}");
        }
    }

    #[test]
    fn patterns() {
        assert!(matches("*-old", "status-old"));
        assert!(matches("ssh_host_*", "ssh_host_rsa_key.pub"));
        assert!(matches("*", "x"));
        assert!(!matches("*-", "passwd"));
        assert!(!matches("aa*aa", "aaa"));
    }

    #[test]
    fn scrubbing_removes_identity_and_keeps_the_rest() {
        let root = tempfile::tempdir().expect("temp dir");
        let root = root.path();
        for folder in ["etc/ssh", "var/log/apt", "var/lib/dbus", "boot/firmware/overlays", "boot/efi"] {
            fs::create_dir_all(root.join(folder)).expect("folder");
        }
        for file in [
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
            "etc/passwd-",
            "etc/passwd",
            "var/log/dpkg.log",
            "boot/vmlinuz-6.1.0",
            "boot/firmware/vmlinuz-6.1.0",
            "boot/firmware/overlays/disable-bt.dtbo",
        ] {
            fs::write(root.join(file), "x").expect("file");
        }
        fs::write(root.join("etc/machine-id"), "0123").expect("machine id");
        scrub(&Root::open(root).expect("open")).expect("scrub");
        assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists());
        assert!(!root.join("etc/passwd-").exists());
        assert!(!root.join("var/log/dpkg.log").exists());
        assert_eq!(fs::read_dir(root.join("boot/firmware")).expect("the mount point").count(), 0);
        assert!(root.join("boot/vmlinuz-6.1.0").exists() && root.join("boot/efi").exists());
        assert!(root.join("etc/ssh/sshd_config").exists() && root.join("etc/passwd").exists());
        assert_eq!(fs::read(root.join("etc/machine-id")).expect("machine id"), b"");
    }

    #[test]
    fn times_are_clamped_on_files_folders_and_links() {
        let root = tempfile::tempdir().expect("temp dir");
        fs::create_dir(root.path().join("folder")).expect("folder");
        fs::write(root.path().join("folder/file"), "x").expect("file");
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).expect("link");
        clamp_times(&Root::open(root.path()).expect("open"), 1_700_000_000).expect("clamp");
        for name in ["folder", "folder/file", "link", ""] {
            let data = root.path().join(name).symlink_metadata().expect(name);
            assert_eq!(data.mtime(), 1_700_000_000, "{name}");
        }
    }
}
