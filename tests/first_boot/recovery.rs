//! First boot on the host, in states that are hard to get out of: half-wiped partitions, wrong clocks, a machine that does
//! not know its name yet, a reset that the power cut short.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use time::{Duration, OffsetDateTime};

use crate::support::device::{Device, library};
use crate::support::pki::Identity;

const FAT: &str = "boot/efi/edgepress";
const KEY: &str = "var/secrets/aziot/keys/device-id.key.pem";

/// A device whose TPM proves who it is: nothing of the source's own lies on the partition.
fn device_with_tpm(registration_id: &str) -> Device {
    let device = Device::new();
    let source = format!("from = \"tpm\"\nregistration_id = \"{registration_id}\"\n");
    device.write(&format!("{FAT}/source.toml"), source);
    device.write("dev/tpmrm0", "");
    device.write("world/owner", "aziottpm 660\n");
    device
}

/// On a machine that is slow beyond measure systemd gives up waiting for the partition's device, and mounts nothing when it
/// comes: first boot asks for it again, also long after it went on without.
#[test]
fn a_partition_that_comes_late_is_mounted_and_its_identity_taken() {
    let device = Device::new();
    let identity = Identity::new("pump-7");
    let mounts = device.read("proc/mounts");
    device.write("proc/mounts", "/dev/vda2 / ext4 rw 0 0\n");
    let mut running = device.start();
    running.until("waiting: the FAT partition is not mounted at /boot/efi");
    let asked = || device.read("world/calls").matches("systemctl start --no-block boot-efi.mount").count();
    running.until_true("the mount is asked for, patience over", || asked() > 6);
    device.write(&format!("{FAT}/certificate.pem"), identity.chain());
    device.write(&format!("{FAT}/private-key.pem"), &identity.key);
    device.write("world/mounts", mounts);
    assert!(running.end().success());
    assert_eq!(device.read("var/lib/edgepress/configured"), "pump-7\n", "{}", device.story());
}

/// The power goes before each of the programs that wipe the Wi-Fi's key; a network's name without its key is no reason
/// to refuse what is in place already.
#[test]
fn a_half_wiped_partition_is_no_incomplete_identity() {
    let prepared = || {
        let mut device = device_with_tpm("pump-7");
        device.made_for_wifi("");
        device.give_wifi(b"site", "a secret of the site");
        device
    };
    let whole = prepared();
    whole.run();
    let calls = whole.read("world/calls");
    let wipes = calls.lines().position(|call| call.starts_with("dd ")).expect("a wipe");
    for cut in wipes..wipes + 4 {
        let device = prepared();
        device.write("world/cut", cut.to_string());
        assert!(!device.start().end().success(), "the power did not go");
        device.remove("world/cut");
        fs::remove_dir_all(device.path("run/edgepress-first-boot")).expect("a folder of this boot");
        device.run();
        for name in ["wifi-key", "wifi-ssid", "wiping.tmp"] {
            assert!(
                !device.exists(&format!("{FAT}/{name}")),
                "cut {cut}: {name} is left\n{}",
                device.story()
            );
        }
        device.assert_secrets_kept();
    }
}

#[test]
fn keys_are_taken_and_wiped_under_the_names_that_notepad_gives_them() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.write(&format!("{FAT}/certificate.pem.txt"), identity.chain());
    device.give_secret("private-key.pem.txt", &identity.key);
    device.run();
    assert_eq!(device.read(KEY), identity.key);
    for name in ["private-key.pem.txt", "certificate.pem.txt"] {
        assert!(!device.exists(&format!("{FAT}/{name}")), "{name} is left");
    }
    device.assert_secrets_kept();
}

/// Its key is in place and wiped from the partition: there is no other copy to wait for.
#[test]
fn an_own_certificate_that_expired_by_a_wrong_clock_is_good_again() {
    let device = Device::new();
    let identity = Identity::new("dev-01");
    device.write("var/secrets/aziot/certs/device-id.pem", identity.chain());
    device.write(KEY, &identity.key);
    let later = OffsetDateTime::now_utc() + Duration::days(2000);
    device.write("world/now", later.unix_timestamp().to_string());
    let mut running = device.start();
    running.until("waiting: no identity in edgepress/ on the FAT partition");
    assert!(device.console().contains("refused: the certificate expired"), "{}", device.story());
    device.remove("world/now");
    assert!(running.end().success(), "{}", device.story());
}

/// Answers so many requests with 500 and the rest with a name.
fn metadata(failures: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for (at, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let read = stream.read(&mut [0; 4096]).expect("a request");
            assert!(read > 0, "no request");
            let answer = if at < failures {
                "HTTP/1.1 500 Not Now\r\nRetry-After: 08\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\npump/7"
            };
            stream.write_all(answer.as_bytes()).expect("an answer");
        }
    });
    address
}

/// Longer than the five passes after which the partition is looked at again.
#[test]
fn a_name_that_comes_late_is_waited_for() {
    let mut device = device_with_tpm("{{ vm_name }}");
    device.env("EP_METADATA", &metadata(7));
    device.run();
    // With a digest of the name, of which a sign was left out: printf %s pump/7 | sha256sum
    assert_eq!(device.state()["registration_id"], "pump7-6cd14a09094a", "{}", device.story());
}

/// The mark of a reset counts even where the old identity is still complete.
#[test]
fn a_reset_that_the_power_cut_short_is_finished() {
    let mut device = Device::new();
    let old = Identity::new("dev-01");
    device.give(&old.chain(), &old.key);
    device.run();
    let config = device.read("etc/aziot/config.toml");
    let registry = "[agent.config.auth]\n# From the identity of this device:\npassword = \"old\"";
    let est = "[cert_issuance.est.auth]\npassword = \"old\"";
    device.write("etc/aziot/config.toml", format!("{config}\n{registry}\n{est}\n"));
    device.write("var/lib/edgepress/reset", "");
    let new = Identity::new("dev-02");
    device.give(&new.chain(), &new.key);
    device.run();
    assert_eq!(device.read(KEY), new.key);
    assert_eq!(device.state()["registration_id"], "dev-02");
    assert!(!device.exists("var/lib/edgepress/reset"));
    let config = device.read("etc/aziot/config.toml");
    assert!(!config.contains("password") && config.contains("device-id.key.pem"), "{config}");
    device.assert_secrets_kept();
}

/// A pinned authority is the only one: curl's `cacert` alone leaves the system's folder in force.
#[test]
fn a_source_s_own_authorities_are_the_only_ones() {
    let script = ". \"$0/web.sh\"; SOURCE_CA=/ca.pem S_from=https; credentials /nowhere";
    let output = Command::new("sh").args(["-euc", script]).arg(library()).output().expect("sh");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "cacert = \"/ca.pem\"\ncapath = \"/dev/null\"\n",
        "{output:?}"
    );
}
