//! Trees with leaks, and without.

use super::{Allowed, check_keys, check_overlay, path_of, refuse};
use crate::error::problem;
use crate::finding::Finding;
use crate::rootfs::guard_rules::RULES;
use crate::tree::Root;
use crate::units::Digest;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n";

fn put(tree: &Path, path: &str, content: &str) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    fs::write(path, content).expect("file");
}

fn check(tree: &Path, allowed: &Allowed) -> anyhow::Result<Vec<Finding>> {
    super::check(&Root::open(tree).expect("open"), allowed)
}

fn paths(tree: &Path, allowed: &Allowed) -> Vec<String> {
    check(tree, allowed).expect("walk").iter().map(|leak| path_of(leak).display().to_string()).collect()
}

/// A file for each rule; a rule without one here fails the test.
#[test]
fn every_rule_finds_what_it_is_for() {
    for rule in RULES {
        let tree = tempfile::tempdir().expect("temp folder");
        let file = rule.pattern.replace("**", "a/b").replace('*', "x");
        let content = match rule.pattern {
            "etc/iscsi/initiatorname.iscsi" => "InitiatorName=iqn.1993-08.org.debian:01:1234\n",
            "etc/shadow" => "root:$y$j9T$abc:1::::::\n",
            pattern if pattern.starts_with("etc/apt/auth") => "machine x login y password z\n",
            pattern if pattern.starts_with("etc/apt/sources") => "deb https://u:p@x/ y z\n",
            pattern if pattern.contains("NetworkManager/system") => "[wifi-security]\npsk=hunter22\n",
            "etc/wireguard/*" | "etc/systemd/network/*" => "[WireGuard]\nPrivateKey=AAAA\n",
            pattern if pattern.ends_with("config.json") => r#"{"auths":{"x":{}}}"#,
            "etc/aziot/config.toml" => "[cert_issuance.est.auth]\nusername = \"u\"\npassword = \"p\"\n",
            pattern if pattern.starts_with("etc/netplan") => "network: {x:\n  password: hunter22}\n",
            pattern if pattern.starts_with("var/lib/iwd") => "[Security]\nPassphrase=hunter22\n",
            pattern if pattern.starts_with("etc/cloud") => "users:\n- name: x\n  hashed_passwd: $6$x\n",
            _ => "0123456789abcdef0123456789abcdef\n",
        };
        put(tree.path(), &file, content);
        let leaks = check(tree.path(), &Allowed::default()).expect("walk");
        assert_eq!(leaks.len(), 1, "{}: {leaks:?}", rule.pattern);
        assert_eq!((leaks[0].message.as_str(), leaks[0].hint.as_deref()), (rule.what, Some(rule.hint)));
        let named = Path::new("/").join(rule.pattern.strip_suffix("/**").unwrap_or(&file));
        assert_eq!(path_of(&leaks[0]), named);
    }
}

#[test]
fn a_clean_tree_passes() {
    let tree = tempfile::tempdir().expect("temp folder");
    let tree = tree.path();
    put(tree, "etc/machine-id", "");
    put(tree, "etc/shadow", "root:*:19000:0:99999:7:::\nedge:!:19000:0:99999:7:::\n");
    put(tree, "etc/apt/sources.list.d/debian.sources", "URIs: http://ftp.debian.org/debian\n");
    put(tree, "etc/systemd/network/80-wired.network", "[Match]\n");
    put(tree, "var/lib/dpkg/info/x.postinst", KEY);
    put(tree, "usr/share/doc/x/key.pem", KEY);
    put(tree, "etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nMIGHAgEAMBMGByqGSM49AgEG\n");
    put(tree, "var/lib/dhcp/dhclient.leases", "");
    for folder in ["var/lib/docker", "var/lib/aziot/keyd", "var/log/journal", "var/lib/cloud/data"] {
        fs::create_dir_all(tree.join(folder)).expect("folder");
    }
    fs::create_dir_all(tree.join("var/lib/dbus")).expect("folder");
    symlink("/etc/machine-id", tree.join("var/lib/dbus/machine-id")).expect("link");
    let leaks = check(tree, &Allowed::default()).expect("walk");
    assert_eq!(leaks, []);
    refuse(&leaks).expect("nothing to refuse");
}

#[test]
fn private_keys_are_found_wherever_they_lie() {
    let tree = tempfile::tempdir().expect("temp folder");
    let tree = tree.path();
    let wanted = [
        "/boot/efi/edgepress/private-key.pem",
        "/data/app/Server.PFX",
        "/etc/ssl/private/ssl-cert-snakeoil.key",
        "/home/edge/.ssh/id_ed25519",
        "/key",
        "/opt/app/server.pfx",
        "/root/key",
        "/srv/key",
        "/usr/local/etc/key",
        "/var/lib/app/key",
        "/var/lib/app/large",
    ];
    for path in wanted {
        put(tree, path.trim_start_matches('/'), KEY);
    }
    put(tree, "opt/app/server.pfx", "unknown");
    put(tree, "var/lib/app/large", &format!("{}{KEY}", "x".repeat(300_000)));
    assert_eq!(paths(tree, &Allowed::default()), wanted);
}

/// Whatever lies in `usr` and is in no package's list: a script of a package made it, or an overlay laid it there.
#[test]
fn in_usr_packages_files_alone_are_trusted() {
    let tree = tempfile::tempdir().expect("temp folder");
    let tree = tree.path();
    put(
        tree,
        "var/lib/dpkg/info/x:amd64.list",
        "/.\n/usr/share/x/example.pem\n/lib/x/test.key\n/usr/lib/x/moved.pem\n/usr/lib/x/keys.py\n",
    );
    put(tree, "var/lib/dpkg/diversions", "/usr/lib/x/moved.pem\n/usr/lib/x/moved.pem.distrib\ny\n");
    for path in [
        "usr/share/x/example.pem",
        "usr/lib/x/test.key",
        "usr/lib/x/moved.pem.distrib",
        "usr/lib/x/__pycache__/keys.cpython-311.opt-1.pyc",
    ] {
        put(tree, path, KEY);
    }
    assert_eq!(paths(tree, &Allowed::default()), [""; 0]);
    let wanted = [
        "/run/x/key",
        "/usr/lib/x/__pycache__/own.cpython-311.pyc",
        "/usr/lib/x/made.pem",
        "/usr/share/x/.env",
    ];
    for path in wanted {
        put(tree, path.trim_start_matches('/'), KEY);
    }
    put(tree, "usr/share/x/.env", "SharedAccessKey = q2w9ZbX0kT7mJ4vYtR1pLs8hNcE5gUaDfOi3KxQeB6A=\n");
    assert_eq!(paths(tree, &Allowed::default()), wanted);
    let keys = check_keys(&Root::open(tree).expect("open")).expect("walk");
    assert_eq!(keys.len(), wanted.len());
}

/// An overlay has no packages, whatever its folders are called.
#[test]
fn of_an_overlay_everything_is_looked_at() {
    let tree = tempfile::tempdir().expect("temp folder");
    let wanted = ["/dev/key", "/lib/site/key.pem", "/usr/share/site/key.pem", "/var/lib/site/key.pem"];
    for path in wanted {
        put(tree.path(), path.trim_start_matches('/'), KEY);
    }
    let leaks = check_overlay(&Root::open(tree.path()).expect("open"), &Allowed::default()).expect("walk");
    let found: Vec<_> = leaks.iter().map(|leak| path_of(leak).display().to_string()).collect();
    assert_eq!(found, wanted);
}

/// What only a file's name tells apart.
#[test]
fn keys_by_name_and_form() {
    let tree = tempfile::tempdir().expect("temp folder");
    let tree = tree.path();
    let raw = "q2w9ZbX0kT7mJ4vYtR1pLs8hNcE5gUaDfOi3KxQeB6A=\n";
    for path in ["etc/wireguard/wg0.pub", "etc/wireguard/publickey", "etc/x/digest", "opt/x/public.key"] {
        put(tree, path, raw);
    }
    // A store of certificates alone, as its beginning shows.
    let trusted = "\x30\x20\x02\x01\x03\x30\x1b\x06\x09\x2a\u{0}";
    let trusted: Vec<u8> = [&trusted.as_bytes()[..10], &[0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1, 0]].concat();
    fs::create_dir_all(tree.join("opt/x")).expect("folder");
    fs::write(tree.join("opt/x/trust.p12"), trusted).expect("file");
    put(tree, "opt/x/empty.p12", "");
    assert_eq!(paths(tree, &Allowed::default()), [""; 0]);
    let wanted = [
        "/etc/systemd/network/wg0-private",
        "/etc/wireguard/server.key",
        "/etc/wireguard/wg0",
        "/opt/x/device.key",
    ];
    for path in wanted {
        put(tree, path.trim_start_matches('/'), raw);
    }
    assert_eq!(paths(tree, &Allowed::default()), wanted);
}

/// A second root has packages' examples, too; a data partition has none.
#[test]
fn keys_in_a_tree_of_unknown_use() {
    let tree = tempfile::tempdir().expect("temp folder");
    put(tree.path(), "lib/key", KEY);
    let found = || -> Vec<_> {
        let leaks = check_keys(&Root::open(tree.path()).expect("open")).expect("walk");
        leaks.iter().map(|leak| path_of(leak).display().to_string()).collect()
    };
    assert_eq!(found(), ["/lib/key"]);
    put(tree.path(), "usr/share/doc/x/key.pem", KEY);
    put(tree.path(), "etc/key", KEY);
    assert_eq!(found(), ["/etc/key"]);
}

#[test]
fn what_the_recipe_names_is_allowed() {
    let tree = tempfile::tempdir().expect("temp folder");
    let tree = tree.path();
    put(tree, "home/edge/.ssh/authorized_keys", "ssh-ed25519 AAAA ops\n");
    put(tree, "root/.ssh/authorized_keys", "ssh-ed25519 BBBB somebody\n");
    put(tree, "opt/app/test.key", KEY);
    put(tree, "var/lib/edgepress/images/00-agent.tar", "tar");
    put(tree, "var/lib/edgepress/images/01-other.tar", "tar");
    let wifi = "network={\n\tpsk=0123\n}\n";
    put(tree, "etc/wpa_supplicant/wpa_supplicant-wlan0.conf", wifi);
    put(tree, "etc/wpa_supplicant/other.conf", "network={\n\tpsk=\"other\"\n}\n");
    put(tree, "etc/wpa_supplicant/open.conf", "country=DE\n# psk=none\n");
    let allowed = Allowed {
        engine_store: false,
        images: ["00-agent.tar".to_owned()].into(),
        authorized_keys: [Digest::of("ssh-ed25519 AAAA ops\n")].into(),
        keys: ["/opt/app/test.key".into()].into(),
        wifi: Some(Digest::of(wifi)),
    };
    let others = [
        "/etc/wpa_supplicant/other.conf",
        "/root/.ssh/authorized_keys",
        "/var/lib/edgepress/images/01-other.tar",
    ];
    assert_eq!(paths(tree, &allowed), others);
    assert_eq!(paths(tree, &Allowed::default()).len(), 7);
}

#[test]
fn all_leaks_are_named_at_once() {
    let tree = tempfile::tempdir().expect("temp folder");
    put(tree.path(), "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    put(
        tree.path(),
        "opt/app/.env",
        "C=HostName=h;SharedAccessKey=0123456789abcdef0123456789abcdef0123456789a=\n",
    );
    put(tree.path(), "srv/app/.aws/credentials", "[default]\naws_secret_access_key = x\n");
    put(tree.path(), "var/lib/docker/containers/1/config.json", "{}");
    put(tree.path(), "var/lib/docker/volumes/metadata.db", "x");
    let error = refuse(&check(tree.path(), &Allowed::default()).expect("walk")).expect_err("leaks");
    let message = &problem(&error).expect("a problem").message;
    assert_eq!(
        message,
        "the root tree holds what must not be in an image for many devices:\n  \
         /etc/machine-id: a machine id; empty the file\n  \
         /opt/app/.env: a cloud's secret in plain text; have the device fetch or be given its own, or hand it to one \
         container at run time; whoever has the image has it\n  \
         /srv/app/.aws/credentials: keys of Amazon's cloud; remove it at the end of the build\n  \
         /var/lib/docker: containers, networks or volumes of docker (2 files); \
         preload images with engine.images"
    );
}
