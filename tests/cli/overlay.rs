//! `edgepress check` on overlays, as a user runs it: what the device would not have, or could not use.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value;

use crate::support::{project, scratch};

/// A recipe with one overlay, `own`, over the repository's demo.
struct Own(tempfile::TempDir);

impl Own {
    fn new(rest: &str) -> Self {
        let own = Self(tempfile::tempdir().expect("a temporary folder"));
        let demo = project().join("recipes/demo.toml");
        let recipe =
            format!("name = \"own\"\nextends = \"{}\"\noverlays = [\"own\"]\n{rest}", demo.display());
        std::fs::create_dir(own.path("own")).expect("an overlay");
        std::fs::write(own.path("r.toml"), recipe).expect("a recipe");
        own
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    }

    /// The findings: severity, message, hint.
    fn findings(&self) -> Vec<(String, String, String)> {
        let mut command = Command::cargo_bin("edgepress").expect("the program");
        command.env("EDGEPRESS_STORE", scratch("overlay/store"));
        let output =
            command.current_dir(self.0.path()).args(["check", "r.toml", "--json"]).output().expect("run");
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let part = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let all = report["findings"].as_array().expect("findings");
        all.iter().map(|f| (part(f, "severity"), part(f, "message"), part(f, "hint"))).collect()
    }

    /// Exactly one finding, of this severity, that says this and gives a way out.
    fn one(&self, severity: &str, says: &str) {
        let found = self.findings();
        let [(kind, message, hint)] = found.as_slice() else { panic!("{says}: {found:#?}") };
        assert!(kind == severity && message.contains(says) && !hint.is_empty(), "{says}: {found:#?}");
    }
}

#[test]
fn what_the_device_never_sees() {
    for (path, says) in [
        ("run/site/x", "/run/site/x of an overlay, below /run"),
        ("var/run/site/x", "/run/site/x of an overlay, below /run"),
        ("var/lock/x", "/run/lock/x of an overlay, below /run"),
        ("tmp/x", "/tmp/x of an overlay, below /tmp"),
        ("dev/x", "/dev/x of an overlay, below /dev"),
        ("proc/x", "/proc/x of an overlay, below /proc"),
        ("sys/x", "/sys/x of an overlay, below /sys"),
        ("boot/efi/x", "/boot/efi/x of an overlay, below /boot/efi"),
        ("var/log/site.log", "the build removes /var/log/site.log of an overlay: of the build"),
        ("var/lib/cloud/seed/nocloud/user-data", "the build removes /var/lib/cloud/seed/nocloud/user-data"),
        ("etc/fstab", "edgepress writes /etc/fstab itself"),
        ("etc/localtime", "edgepress writes /etc/localtime itself"),
    ] {
        let own = Own::new("");
        own.file(&format!("own/{path}"), "x", 0o644);
        let found = own.findings();
        let hit = found
            .iter()
            .any(|(kind, message, hint)| kind == "error" && message.contains(says) && !hint.is_empty());
        assert!(hit, "{path}: {found:#?}");
    }
}

#[test]
fn many_files_make_one_finding_and_folders_count() {
    let own = Own::new("");
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        own.file(&format!("own/run/site/{name}"), "x", 0o644);
    }
    own.one(
        "error",
        "/run/site/a, /run/site/b, /run/site/c, /run/site/d, /run/site/e and 2 more of an overlay",
    );
    let own = Own::new("");
    std::fs::create_dir_all(own.path("own/run/queue")).expect("a folder");
    own.one("error", "/run/queue of an overlay");
    // A skeleton of a root says nothing of its own.
    let own = Own::new("");
    for name in ["proc", "sys", "dev", "run", "tmp", "var/lib/site/queue"] {
        std::fs::create_dir_all(own.path("own").join(name)).expect("a folder");
    }
    own.file("own/overlay.toml", "[modes]\n\"var/lib/site/queue\" = \"1777\"\n", 0o644);
    assert_eq!(own.findings(), []);
}

#[test]
fn bytes_that_no_device_can_use() {
    let own = Own::new("");
    own.file("own/usr/local/bin/report", "#!/bin/sh\r\nset -e\r\n", 0o755);
    own.one("error", "usr/local/bin/report has Windows line ends");
    let own = Own::new("");
    own.file("own/usr/local/bin/report.tera", "\u{feff}#!/bin/sh\necho {{ recipe.name }}\n", 0o755);
    own.one("error", "has a byte order mark before `#!`");
    let own = Own::new("");
    own.file("own/etc/systemd/system/x.service", "[Unit]\r\nDescription=x\r\n", 0o644);
    assert_eq!(own.findings(), []);
    let own = Own::new("packages.sources = [\"sources\"]");
    let control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.example>\nDescription: x\n";
    own.file("sources/x/DEBIAN/control", control, 0o644);
    own.file("sources/x/DEBIAN/prerm", "#!/bin/sh\r\n", 0o644);
    own.one("error", "sources/x/DEBIAN/prerm has Windows line ends");
    own.file("sources/x/DEBIAN/prerm", "#!/bin/sh\n", 0o644);
    own.file("sources/x/DEBIAN/conffiles", "/etc/x\r\n", 0o644);
    own.one("error", "sources/x/DEBIAN/conffiles has Windows line ends");
}

/// The build's guard, before the build.
#[test]
fn secrets_of_one_device_are_refused_as_the_build_does() {
    let config = |provisioning: &str| format!("hostname = \"x\"\n\n[provisioning]\n{provisioning}");
    let key = "c2VjcmV0";
    for provisioning in [
        format!(
            "source = \"manual\"\niothub_hostname = \"h.azure-devices.net\"\ndevice_id = \"d\"\n\
             [provisioning.authentication]\nmethod = \"sas\"\ndevice_id_pk = {{ value = \"{key}\" }}\n"
        ),
        format!("source = \"manual\"\nconnection_string = \"HostName=h;DeviceId=d;SharedAccessKey={key}\"\n"),
    ] {
        let own = Own::new("");
        own.file("own/etc/aziot/config.toml", &config(&provisioning), 0o600);
        let found = own.findings();
        let says =
            "/etc/aziot/config.toml of an overlay is a secret of a device in the runtime's configuration";
        assert!(found.iter().any(|(kind, message, _)| kind == "error" && message == says), "{found:#?}");
        assert!(
            found.iter().all(|(_, message, hint)| !message.contains(key) && !hint.contains(key)),
            "{found:#?}"
        );
    }
    // Wherever it lies, and whatever it is called.
    let pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n";
    for (path, content, says) in [
        ("usr/share/site/data", pem, "/usr/share/site/data of an overlay is a private key"),
        ("lib/site/key.pem", pem, "/usr/lib/site/key.pem of an overlay is a private key"),
        (
            "usr/share/app/.env",
            "SharedAccessKey = q2w9ZbX0kT7mJ4vYtR1pLs8hNcE5gUaDfOi3KxQeB6A=\n",
            "/usr/share/app/.env of an overlay is a cloud's secret in plain text",
        ),
    ] {
        let own = Own::new("");
        own.file(&format!("own/{path}"), content, 0o600);
        own.one("error", says);
    }
    let own = Own::new("");
    own.file("own/opt/app/server.p12", "x", 0o600);
    own.one("error", "/opt/app/server.p12 of an overlay is a key store");
    let own = Own::new("");
    own.file("own/root/.ssh/authorized_keys", "ssh-ed25519 AAAA x\n", 0o600);
    own.one(
        "error",
        "/root/.ssh/authorized_keys of an overlay is SSH keys that may log in, not from the recipe",
    );
}

#[test]
fn what_tools_leave_and_who_is_not_there() {
    let own = Own::new("");
    own.file("own/etc/cron.d/site~", "x", 0o644);
    own.file("own/opt/.DS_Store", "x", 0o644);
    own.one(
        "warning",
        "left by an editor or by version control, and laid into the image: /etc/cron.d/site~, /opt/",
    );
    let own = Own::new("");
    own.file("own/home/pi/.bashrc", "x", 0o644);
    own.one("warning", "/home/pi/.bashrc belongs to root: the account of the image is `edge`, not `pi`");
    let own = Own::new("");
    own.file("own/usr/local/bin/x", "", 0o4755);
    own.one("warning", "is set-uid, set-gid or sticky here, and will be 0755 in the image");
    let own = Own::new("");
    own.file("own/x", "x", 0o644);
    let _socket = std::os::unix::net::UnixListener::bind(own.path("own/socket")).expect("a socket");
    own.one("error", "own/socket is a device, pipe or socket");
    let own = Own::new("");
    symlink("/opt/bin", own.path("own/bin")).expect("a link");
    own.file("own/sbin/x", "x", 0o644);
    let found = own.findings();
    assert!(found.iter().any(|(_, message, _)| message.contains("/bin is a link to usr/bin in every image")));
}

#[test]
fn values_that_the_tree_would_refuse() {
    for (recipe, says) in [
        ("system.timezone = \"Europe/Berln\"", "there is no time zone `Europe/Berln`"),
        ("system.timezone = \"UTC+2\"", "there is no time zone `UTC+2`"),
        ("access.user = \"operator\"", "the account `operator` cannot be made: every system has"),
        ("access.user = \"docker\"", "the account `docker` cannot be made: a package of the image makes"),
    ] {
        let own = Own::new(recipe);
        let found = own.findings();
        assert!(
            found.iter().any(|(kind, message, _)| kind == "error" && message.contains(says)),
            "{found:#?}"
        );
    }
    assert_eq!(Own::new("system.timezone = \"US/Pacific\"").findings(), []);
    let trixie =
        "system.timezone = \"US/Pacific\"\ndistribution.release = \"13\"\ndistribution.codename = \"trixie\"";
    let found = Own::new(trixie).findings();
    let hit = |(kind, message, hint): &(String, String, String)| {
        kind == "error"
            && message.contains("`US/Pacific` is not in tzdata of Debian 13")
            && hint.contains("tzdata-legacy")
    };
    assert!(found.iter().any(hit), "{found:#?}");
}
