//! The verdict identity-leak: what must not be on two devices, wherever it lies.

use predicates::str::contains;
use serde_json::json;

use crate::support::card::{BOOT, BOOT_SIZE, Card, mke2fs, with_boot_and_data, with_gpt};

#[test]
fn an_identity_is_told_and_never_shown() {
    let mut card = Card::uefi();
    card.put("edgepress/private-key.pem", "SECRET").put("edgepress/certificate.pem", "SECRET");
    card.write(with_gpt);
    let output = card.inspect(&[]).success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(
        said.contains("identity: certificate.pem, private-key.pem: this image belongs to one device"),
        "{said}"
    );
    assert!(!said.contains("SECRET"));
    assert_eq!(card.json(&[])["identity"], json!(["certificate.pem", "private-key.pem"]));
}

#[test]
fn leaks_are_named_with_their_fix() {
    let mut card = Card::uefi();
    card.root("etc/ssh/ssh_host_rsa_key", "key").root("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    card.root("var/lib/edgepress/configured", "pump-7\n").put("userconf.txt", "pi:$6$x");
    card.root("home/edge/.ssh/authorized_keys", "ssh-ed25519 AAAA ops\n");
    card.write(with_gpt);
    card.inspect(&[])
        .code(1)
        .stdout(contains("identity-leak       FAILED"))
        .stdout(contains("/etc/machine-id: a machine id; empty the file"))
        .stdout(contains("/etc/ssh/ssh_host_rsa_key: an SSH host key; remove it"))
        .stdout(contains("userconf.txt: an account and its password"))
        .stdout(contains("first boot   configured as pump-7"))
        .stdout(contains("/home/edge/.ssh/authorized_keys: SSH keys that may log in"))
        .stderr(contains("identity-leak: "));
}

#[test]
fn a_device_in_the_configuration() {
    let mut card = Card::uefi();
    let manual =
        "[provisioning]\nsource = \"manual\"\nconnection_string = \"HostName=h;SharedAccessKey=SECRET\"\n";
    card.root("etc/aziot/config.toml", manual);
    card.write(with_gpt);
    let output = card
        .inspect(&[])
        .code(1)
        .stdout(contains("/etc/aziot/config.toml: a secret of a device in the runtime's configuration; "));
    assert!(!String::from_utf8_lossy(&output.get_output().stdout).contains("SECRET"));
}

/// A terminal takes what an image's names hold for commands.
#[test]
fn names_of_an_image_are_no_commands() {
    let mut card = Card::uefi();
    card.root("etc/ssh/ssh_host_\u{1b}]0;owned\u{7}", "key");
    card.write(with_gpt);
    let output = card.inspect(&[]).code(1).stderr(contains("]0;owned"));
    for stream in [&output.get_output().stdout, &output.get_output().stderr] {
        assert!(!stream.contains(&0x1b) && !stream.contains(&0x07));
    }
}

/// A disk of a server: /boot is the first that looks like a root, and something else lies behind the root.
#[test]
fn the_root_is_where_the_system_is() {
    let mut card = Card::uefi();
    card.root("etc/ssh/ssh_host_rsa_key", "key");
    card.write(with_boot_and_data);
    let (grub, key) =
        (("grub/grub.cfg".to_owned(), b"x".to_vec()), ("plant/Key.pfx".to_owned(), b"x".to_vec()));
    mke2fs(&card.path(), BOOT, BOOT_SIZE, &[grub.clone(), key]);
    card.inspect(&[])
        .code(1)
        .stdout(contains("Debian GNU/Linux 12"))
        .stderr(contains("/etc/ssh/ssh_host_rsa_key: an SSH host key"))
        .stderr(contains("partition 2, /plant/Key.pfx: a key store (PKCS #12, Java's)"));
    card.root.retain(|(path, _)| !path.contains("ssh_host"));
    card.write(with_boot_and_data);
    mke2fs(&card.path(), BOOT, BOOT_SIZE, &[grub]);
    let verdict = "identity-leak           ok  nothing of one device, nothing that opens one; not looked through: partition 4 \
                   (unknown)";
    card.inspect(&[]).success().stdout(contains(verdict));
}

#[test]
fn golden_and_stamped() {
    let mut card = Card::uefi();
    card.write(with_gpt);
    card.inspect(&["--golden"]).success();
    card.inspect(&["--stamped"]).code(1).stderr(contains("it has no identity"));
    card.put("edgepress/private-key.pem", "SECRET");
    card.write(with_gpt);
    card.inspect(&[]).code(1).stderr(contains("holds half an identity"));
    card.put("edgepress/certificate.pem", "SECRET");
    card.write(with_gpt);
    card.inspect(&["--stamped"]).success();
    card.inspect(&["--golden"]).code(1).stderr(contains("edgepress stamp --remove"));
    // A device's own settings, as Windows names them.
    let mut card = Card::uefi();
    card.put("edgepress/Authorized_Keys.txt", "ssh-ed25519 AAAA stranger\n");
    card.write(with_gpt);
    card.inspect(&["--golden"]).code(1).stderr(contains("an identity (authorized_keys)"));
}
