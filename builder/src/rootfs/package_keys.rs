//! Keys that packages make when they are installed, one for each machine: an image for many devices must have none.
//!
//! ```text
//! postinst ─► key ─┬─ known: removed here; /usr/lib/edgepress/package-keys makes it on the device, before any service
//!                  ├─ packages.remove of the recipe names it: removed, and the device's own affair
//!                  ├─ packages.keep_keys names it: no secret, stays
//!                  └─ else: the build ends here, right after the packages, and says so
//! ```

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::guard;
use crate::error::Problem;
use crate::tree::{FileKind, Root};

/// What Debian's packages make in their maintainer scripts (read in Debian 12's), and who does. Each is made again by
/// overlays/base/usr/lib/edgepress/package-keys, but for RabbitMQ's, which its server makes itself.
pub(crate) const MADE: &[(&str, &str)] = &[
    ("etc/ssl/private/ssl-cert-snakeoil.key", "ssl-cert"),
    ("etc/ssl/certs/ssl-cert-snakeoil.pem", "ssl-cert"),
    ("etc/bind/rndc.key", "bind9"),
    ("etc/munge/munge.key", "munge"),
    ("etc/nsd/nsd_server.key", "nsd"),
    ("etc/nsd/nsd_server.pem", "nsd"),
    ("etc/nsd/nsd_control.key", "nsd"),
    ("etc/nsd/nsd_control.pem", "nsd"),
    ("etc/xrdp/rsakeys.ini", "xrdp"),
    ("etc/ejabberd/ejabberd.pem", "ejabberd"),
    ("etc/dropbear/dropbear_*_host_key", "dropbear"),
    ("etc/iscsi/initiatorname.iscsi", "open-iscsi"),
    ("var/lib/rabbitmq/.erlang.cookie", "rabbitmq-server"),
];

/// The link by which OpenSSL finds ssl-cert's certificate has a digest for a name.
const LINK_FOLDER: &str = "etc/ssl/certs";
const LINK_TARGET: &str = "ssl-cert-snakeoil.pem";

/// Removes the links to [`MADE`] whose names are not known beforehand.
///
/// # Errors
/// The link that could not be removed.
pub(crate) fn unlink(root: &Root) -> Result<()> {
    for entry in root.list(LINK_FOLDER)? {
        let path = Path::new(LINK_FOLDER).join(&entry.name);
        if entry.kind == FileKind::Link && root.read_link(&path)?.is_some_and(|to| to.ends_with(LINK_TARGET))
        {
            root.remove(path)?;
        }
    }
    Ok(())
}

/// Removes what `packages.remove` of a recipe names.
///
/// # Errors
/// A path that is not there, or is a folder: most likely it is misspelt.
pub(crate) fn remove(root: &Root, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let kind = root.lstat(path)?.map(|meta| meta.kind);
        if kind.is_none() || kind == Some(FileKind::Folder) {
            let what = if kind.is_none() { "which no package has made" } else { "which is a folder" };
            let message = format!("packages.remove names {}, {what}", path.display());
            return Err(Problem::input(message).hint("name a file that is there, or drop the line").into());
        }
        root.remove(path)?;
    }
    Ok(())
}

/// Refuses keys in a tree of packages, but for those that the recipe's `expected` paths name. It is the same judge as at
/// the end of a build; here nothing but packages can have made them, and the longer steps are still to come.
///
/// # Errors
/// A [`Problem`] that names every key.
pub(crate) fn refuse(root: &Root, expected: &[PathBuf]) -> Result<()> {
    let mut leaks = guard::check_keys(root)?;
    leaks.retain(|leak| !expected.iter().any(|path| path == guard::path_of(leak)));
    if leaks.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = leaks
        .iter()
        .map(|leak| format!("\n  {}: {}", guard::path_of(leak).display(), leak.message))
        .collect();
    let message = format!(
        "a package made a key when it was installed, which every device of this image would share:{}",
        list.concat()
    );
    Err(Problem::input(message)
        .hint(
            "name the file in packages.remove, and have the device make its own (a unit of an overlay, before what uses \
             it); or, where it is no secret, in packages.keep_keys",
        )
        .into())
}

#[cfg(test)]
mod tests {
    use super::{MADE, refuse, remove, unlink};
    use crate::error::problem;
    use crate::rootfs::clean;
    use crate::tree::Root;
    use std::path::{Path, PathBuf};

    const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n";

    fn tree(files: &[&str]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("folder");
        let root = Root::open(folder.path()).expect("open");
        root.make_folders("usr/bin").expect("folder");
        root.write("usr/bin/sh", 0o755, b"").expect("write");
        for file in files {
            root.write(file, 0o600, KEY).expect("write");
        }
        (folder, root)
    }

    #[test]
    fn known_keys_are_gone_after_cleaning() {
        let paths: Vec<String> = MADE.iter().map(|(path, _)| path.replace('*', "rsa")).collect();
        let (_folder, root) = tree(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        root.symlink("ssl-cert-snakeoil.pem", "etc/ssl/certs/0a1b2c3d.0").expect("link");
        root.symlink("other.pem", "etc/ssl/certs/00000000.0").expect("link");
        clean::scrub(&root).expect("scrub");
        unlink(&root).expect("again");
        for path in &paths {
            assert_eq!(root.lstat(path).expect("look"), None, "{path}");
        }
        assert_eq!(root.lstat("etc/ssl/certs/0a1b2c3d.0").expect("look"), None);
        assert!(root.lstat("etc/ssl/certs/00000000.0").expect("look").is_some());
        refuse(&root, &[]).expect("no key is left");
    }

    /// A key that is taken out here and made by nobody would leave its service without one.
    #[test]
    fn the_device_makes_every_key_that_is_removed() {
        let script = include_str!("../../../overlays/base/usr/lib/edgepress/package-keys");
        for (path, package) in MADE.iter().filter(|(_, package)| *package != "rabbitmq-server") {
            let path = format!("/{}", path.split('*').next().unwrap_or(path));
            let folder = Path::new(&path).parent().expect("folder").to_str().expect("text");
            let name = Path::new(&path).file_name().expect("name").to_str().expect("text");
            assert!(script.contains(folder) && script.contains(name), "{path} of {package}");
        }
    }

    #[test]
    fn unknown_keys_end_the_build_with_a_way_on() {
        let (_folder, root) = tree(&["etc/vendor/device.key", "opt/vendor/test.key", "usr/share/doc/x.key"]);
        let error = refuse(&root, &[]).expect_err("two keys");
        let found = problem(&error).expect("a problem");
        assert!(
            found.message.contains("\n  /etc/vendor/device.key: a private key\n  /opt/vendor/test.key"),
            "{found}"
        );
        let hint = found.hint.as_ref().expect("a hint");
        assert!(hint.contains("packages.remove") && hint.contains("packages.keep_keys"), "{hint}");
        refuse(&root, &["/etc/vendor/device.key".into(), "/opt/vendor/test.key".into()]).expect("both named");
        remove(&root, &[PathBuf::from("/etc/vendor/device.key")]).expect("there");
        refuse(&root, &["/opt/vendor/test.key".into()]).expect("one is gone");
        for (path, expected) in [("/etc/vendor/device.key", "no package has made"), ("/etc", "is a folder")] {
            let error = remove(&root, &[path.into()]).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
