//! First boot on the host: the very script that the image carries, under a root prefix, with fake programs around it.

use edgepress::stamp::names::label;
use time::{Duration, OffsetDateTime};

use crate::support::device::{Device, shells};
use crate::support::pki::Identity;

const FAT: &str = "boot/efi/edgepress";
const CERTIFICATE: &str = "var/secrets/aziot/certs/device-id.pem";
const KEY: &str = "var/secrets/aziot/keys/device-id.key.pem";

/// Nothing of an identity is in place.
fn assert_untouched(device: &Device) {
    for path in [CERTIFICATE, KEY, "var/lib/edgepress/provisioned"] {
        assert!(!device.exists(path), "{path} is there\n{}", device.story());
    }
    assert!(!device.read("world/calls").contains("iotedge"), "{}", device.story());
}

fn assert_done(device: &Device, identity: &Identity, id: &str) {
    assert_in_place(device, identity, id);
    let done = format!("edgepress: first boot: done: registration id {id}, hub hub.example\n");
    assert!(device.console().ends_with(&done), "{}", device.story());
}

fn assert_in_place(device: &Device, identity: &Identity, id: &str) {
    let story = device.story();
    assert_eq!(device.read(CERTIFICATE), identity.chain(), "{story}");
    assert_eq!(device.read(KEY), identity.key, "{story}");
    assert!(!device.exists(&format!("{FAT}/private-key.pem")), "{story}");
    assert!(!device.exists(&format!("{FAT}/wiping.tmp")), "{story}");
    assert!(device.exists("var/lib/edgepress/provisioned"), "{story}");
    assert_eq!(device.state()["state"], "done", "{story}");
    assert_eq!(device.state()["registration_id"], id, "{story}");
    device.assert_secrets_kept();
}

#[test]
fn a_device_gets_its_identity_under_every_shell() {
    for shell in shells() {
        let mut device = Device::with_shell(shell);
        let identity = Identity::new("dev-01");
        device.give(&identity.chain(), &identity.key);
        device.run();
        assert_done(&device, &identity, "dev-01");
        for (path, mode) in [
            ("var/secrets", 0o755),
            ("var/secrets/aziot", 0o755),
            ("var/secrets/aziot/certs", 0o750),
            ("var/secrets/aziot/keys", 0o750),
            (CERTIFICATE, 0o640),
            (KEY, 0o600),
            ("etc/hosts", 0o644),
            ("etc/hostname", 0o644),
            ("var/lib/edgepress/state", 0o644),
        ] {
            assert_eq!(device.mode(path), mode, "{path}");
        }
        assert_eq!(device.read("etc/hostname"), "dev-01\n");
        assert_eq!(device.read("proc/sys/kernel/hostname"), "dev-01\n");
        assert!(device.read("etc/hosts").contains("127.0.1.1 dev-01\n"));
        assert!(!device.read("etc/hosts").contains("127.0.1.1 edge\n"));
    }
}

/// identityd deletes a key whose certificate it cannot read, so the certificate comes first, durably; and nothing is
/// applied before both are there, nor wiped before it is applied.
#[test]
fn steps_come_in_the_safe_order() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device.run();
    let calls = device.read("world/calls");
    let at = |text: &str| calls.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{calls}"));
    let root = device.path("").display().to_string();
    let order = [
        format!("install -d -o root -g aziotcs -m 0750 {root}var/secrets/aziot/certs"),
        format!("install -d -o root -g aziotks -m 0750 {root}var/secrets/aziot/keys"),
        format!(
            "install -o aziotcs -g aziotcs -m 0640 {root}run/edgepress-first-boot/identity/certificate.pem"
        ),
        format!("sync {root}{CERTIFICATE}.new"),
        format!("mv -f {root}{CERTIFICATE}.new"),
        format!(
            "install -o aziotks -g aziotks -m 0600 {root}run/edgepress-first-boot/identity/private-key.pem"
        ),
        format!("sync {root}{KEY}.new"),
        format!("mv -f {root}{KEY}.new"),
        "iotedge config apply".to_owned(),
        "dd if=/dev/zero".to_owned(),
        format!("sync {root}var/lib/edgepress/configured.new"),
        format!("sync {root}var/lib/edgepress/provisioned.new"),
    ];
    for pair in order.windows(2) {
        assert!(at(&pair[0]) < at(&pair[1]), "{} is not before {}\n{calls}", pair[0], pair[1]);
    }
}

#[test]
fn text_files_may_come_from_windows() {
    let mut device = Device::new();
    let identity = Identity::new("Dev_01.factory");
    let crlf = |text: &str| text.replace('\n', "\r\n");
    device.give(&format!("\u{feff}{}", crlf(&identity.chain())), crlf(&identity.key).trim_end());
    // As PowerShell's `>` writes it: UTF-16 with a byte order mark; and as Notepad names it.
    let utf16: Vec<u8> = "\u{feff}Dev_01.factory\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    device.write(&format!("{FAT}/registration-id.txt"), utf16);
    device.run();
    assert_done(&device, &identity, "Dev_01.factory");
    assert_eq!(device.read("etc/hostname"), "dev-01-factory\n");
}

#[test]
fn host_names_are_legal() {
    // Of what is too long the end is not cut: that may be all that tells two devices apart.
    let (long, other) = (format!("{}1", "x".repeat(63)), format!("{}2", "x".repeat(63)));
    let (long_host, other_host) = (label(&long), label(&other));
    assert_ne!(long_host, other_host);
    for (id, host) in [
        ("0042", "edge-0042"),
        ("A:b.C-", "a-b-c"),
        (long.as_str(), long_host.as_str()),
        (other.as_str(), other_host.as_str()),
    ] {
        let mut device = Device::new();
        let identity = Identity::new(id);
        device.give(&identity.chain(), &identity.key);
        device.run();
        assert_eq!(device.read("etc/hostname"), format!("{host}\n"));
    }
}

#[test]
fn overrides_reach_their_places() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device.write("home/edge/.ssh/authorized_keys", "ssh-ed25519 AAAA recipe\n");
    device
        .write(&format!("{FAT}/authorized_keys"), "# ops\r\nssh-ed25519 BBBB ops\r\nssh-ed25519 AAAA recipe");
    device.write(
        &format!("{FAT}/hosts"),
        "10.0.0.5 hub.example dps.example\r\nrm -rf / ; $(reboot)\r\nnonsense\r\n",
    );
    device.write(&format!("{FAT}/endpoint"), "https://dps.example:8443\r\n");
    device.write(&format!("{FAT}/hostname"), "Pump-7\r\n");
    device.write(&format!("{FAT}/ca/plant.pem"), format!("{}{}", identity.root, identity.intermediate));
    device.run();
    assert_done(&device, &identity, "dev-01");
    assert_eq!(
        device.read("home/edge/.ssh/authorized_keys"),
        "ssh-ed25519 AAAA recipe\nssh-ed25519 BBBB ops\n"
    );
    assert_eq!(
        (device.mode("home/edge/.ssh"), device.mode("home/edge/.ssh/authorized_keys")),
        (0o700, 0o600)
    );
    assert!(device.read("world/calls").contains("chown -R 1000:1000"));
    let hosts = device.read("etc/hosts");
    let ours = "127.0.1.1 pump-7\n10.0.0.5 hub.example dps.example\n# End of what the identity brought.\n";
    assert!(hosts.ends_with(ours), "{hosts}");
    let not_taken = device.state()["not_taken"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(
        not_taken.starts_with("hosts, line 2 (an address") && not_taken.contains("line 3"),
        "{not_taken}"
    );
    let config = device.read("etc/aziot/config.toml");
    let parsed: toml::Table = config.parse().expect("config.toml");
    assert_eq!(parsed["provisioning"]["global_endpoint"].as_str(), Some("https://dps.example:8443"));
    assert_eq!(parsed["provisioning"]["id_scope"].as_str(), Some("0ne00123456"));
    assert_eq!(device.mode("etc/aziot/config.toml"), 0o600);
    let trusted = "usr/local/share/ca-certificates/edgepress-1";
    assert_eq!(device.read(&format!("{trusted}-1.crt")), identity.root);
    assert_eq!(device.read(&format!("{trusted}-2.crt")), identity.intermediate);
    // What update-ca-certificates would have made.
    let store = device.path("etc/ssl/certs");
    for (name, pem) in [("edgepress-1-1", &identity.root), ("edgepress-1-2", &identity.intermediate)] {
        let link = std::fs::read_link(store.join(format!("{name}.pem"))).expect("a link by name");
        assert_eq!(link.to_str(), Some(format!("/usr/local/share/ca-certificates/{name}.crt").as_str()));
        let hashed = std::fs::read_dir(&store).expect("the store").filter_map(Result::ok).filter(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_str() == Some(&format!("{name}.pem")))
        });
        assert_eq!(hashed.count(), 1, "{name} has one link by hash");
        assert!(device.read("etc/ssl/certs/ca-certificates.crt").contains(pem.as_str()));
    }
    assert!(device.read("etc/ssl/certs/ca-certificates.crt").starts_with("the distribution's\n"));
}

#[test]
fn authorities_of_a_refused_identity_are_not_kept() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device.write(&format!("{FAT}/ca/old.pem"), &identity.intermediate);
    let route = device.read("proc/net/route");
    device.write("proc/net/route", "");
    {
        let mut running = device.start();
        running.until("waiting: no network");
        device.write(&format!("{FAT}/ca/old.pem"), &identity.root);
        while !device.read("world/calls").contains("update-ca-certificates --fresh") {
            running.until("waiting: no network");
        }
        device.write("proc/net/route", route);
        assert!(running.end().success());
    }
    assert_eq!(device.read("usr/local/share/ca-certificates/edgepress-1-1.crt"), identity.root);
}

#[test]
fn a_recipe_can_forbid_overrides() {
    let mut device = Device::new();
    device.constants("no", 1_000_000_000);
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    let before = device.read("etc/aziot/config.toml");
    for (name, text) in [
        ("authorized_keys", "ssh-ed25519 BBBB ops\n"),
        ("hosts", "10.0.0.5 hub.example\n"),
        ("endpoint", "https://evil.example\n"),
        ("hostname", "evil\n"),
        ("ca/evil.pem", "not looked at"),
    ] {
        device.write(&format!("{FAT}/{name}"), text);
    }
    device.run();
    assert_done(&device, &identity, "dev-01");
    assert_eq!(device.read("etc/aziot/config.toml"), before);
    assert_eq!(device.read("etc/hostname"), "dev-01\n");
    assert!(!device.read("etc/hosts").contains("hub.example"));
    assert!(!device.exists("home/edge/.ssh"));
    assert!(!device.exists("usr/local/share/ca-certificates"));
}

#[test]
fn it_waits_for_mount_identity_network_and_time_and_says_each_once() {
    let mut device = Device::new();
    let mounts = device.read("proc/mounts");
    let route = device.read("proc/net/route");
    device.write("proc/mounts", "/dev/vda2 / ext4 rw 0 0\n");
    device.write("proc/net/route", "Iface Destination Gateway Flags\n");
    device.remove("run/systemd/timesync/synchronized");
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    let held = device.read(&format!("{FAT}/private-key.pem"));
    device.remove(&format!("{FAT}/private-key.pem"));
    {
        let mut running = device.start();
        running.until("waiting: the FAT partition is not mounted at /boot/efi");
        device.write("proc/mounts", &mounts);
        running.until("waiting: no private-key.pem in edgepress/ on the FAT partition");
        device.remove(&format!("{FAT}/certificate.pem"));
        running.until("waiting: no identity in edgepress/ on the FAT partition");
        device.write(&format!("{FAT}/certificate.pem"), identity.chain());
        device.write(&format!("{FAT}/private-key.pem"), &held);
        running.until("waiting: no network: no default route");
        assert_eq!(device.state()["state"], "waiting");
        assert_eq!(device.state()["registration_id"], "dev-01");
        device.write("proc/net/route", &route);
        running.until("waiting: the clock is not set");
        assert_untouched(&device);
        device.write("run/systemd/timesync/synchronized", "");
        assert!(running.end().success());
    }
    assert_done(&device, &identity, "dev-01");
    let console = device.console();
    let mut lines: Vec<_> = console.lines().filter(|line| line.contains("waiting")).collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all, "a reason was said twice:\n{console}");
}

#[test]
fn another_time_source_counts_too() {
    let mut device = Device::new();
    device.remove("run/systemd/timesync/synchronized");
    device.write("world/time-sync", "");
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device.run();
    assert_done(&device, &identity, "dev-01");
}

#[test]
fn the_clock_is_never_older_than_the_image() {
    let device = Device::new();
    device.constants("yes", 1_700_000_000);
    device.write("world/now", "3600\n");
    device.start().until("waiting: no identity");
    assert_eq!(device.read("world/now"), "1700000000\n");
}

#[test]
fn a_bad_identity_is_refused_and_a_better_one_taken() {
    let good = Identity::new("dev-01");
    let other = Identity::new("dev-01");
    let now = OffsetDateTime::now_utc();
    let expired = Identity::valid("dev-01", now - Duration::days(9), now - Duration::days(2));
    let nameless = Identity::new("");
    let odd = Identity::new("dev 01; reboot");
    type Case<'a> = (&'a str, &'a str, &'a str, Option<(&'a str, &'a str)>);
    let cases: &[Case<'_>] = &[
        (&good.chain(), &other.key, "the private key does not match the certificate", None),
        (&good.chain(), "scribble", "private-key.pem holds no key that can be read", None),
        ("scribble", &good.key, "certificate.pem holds no certificate that can be read", None),
        (&expired.chain(), &expired.key, "the certificate expired on", None),
        (&nameless.chain(), &nameless.key, "the certificate has no common name", None),
        (
            &odd.chain(),
            &odd.key,
            "the certificate's common name 'dev 01; reboot' is no registration id",
            None,
        ),
        (&format!("{}{}", good.leaf, good.root), &good.key, "certificate.pem is out of order", None),
        (&format!("{}{}", good.intermediate, good.leaf), &good.key, "", None),
        (&good.chain(), &good.key, "registration id 'dev-02' differs", Some(("registration-id", "dev-02"))),
        (&good.chain(), &good.key, "ca/plant.crt is no certificate", Some(("ca/plant.crt", "scribble"))),
        (
            &good.chain(),
            &good.key,
            "endpoint 'https://a'' is no https:// address",
            Some(("endpoint", "https://a\"\n")),
        ),
        (
            &good.chain(),
            &good.key,
            "endpoint 'http://dps.example' is no https:// address",
            Some(("endpoint", "http://dps.example")),
        ),
        (&good.chain(), &good.key, "hostname '-7_' is no host name", Some(("hostname", "-7_"))),
    ];
    for (certificate, key, reason, extra) in cases {
        let mut device = Device::new();
        device.give(certificate, key);
        if let Some((name, text)) = extra {
            device.write(&format!("{FAT}/{name}"), text);
        }
        {
            let mut running = device.start();
            running.until(&format!("edgepress: first boot: refused: {reason}"));
            assert_eq!(device.state()["state"], "refused");
            assert_untouched(&device);
            if let Some((name, _)) = extra {
                device.remove(&format!("{FAT}/{name}"));
            }
            // A person puts the right files there, one after the other.
            device.write(&format!("{FAT}/private-key.pem"), &good.key);
            device.write(&format!("{FAT}/certificate.pem"), good.chain());
            assert!(running.end().success());
        }
        assert_done(&device, &good, "dev-01");
    }
}

#[test]
fn a_protected_key_is_refused_without_a_question() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.write("plain.pem", &identity.key);
    let status = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:secret", "-in"])
        .arg(device.path("plain.pem"))
        .arg("-out")
        .arg(device.path("protected.pem"))
        .status()
        .expect("openssl");
    assert!(status.success());
    device.give(&identity.chain(), &device.read("protected.pem"));
    device.start().until("refused: private-key.pem, line ");
    assert_untouched(&device);
}

#[test]
fn a_key_beside_the_certificates_stays_out_of_the_readable_file() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.give(&format!("{}{}", identity.key, identity.chain()), &identity.key);
    device.run();
    assert_done(&device, &identity, "dev-01");
}

#[test]
fn a_certificate_of_tomorrow_waits() {
    let mut device = Device::new();
    let now = OffsetDateTime::now_utc();
    let identity = Identity::valid("dev-01", now + Duration::days(1), now + Duration::days(9));
    device.give(&identity.chain(), &identity.key);
    {
        let mut running = device.start();
        running.until("waiting: the certificate is not valid before");
        assert_untouched(&device);
        device.write("world/now", format!("{}\n", (now + Duration::days(2)).unix_timestamp()));
        assert!(running.end().success());
    }
    assert_done(&device, &identity, "dev-01");
}

#[test]
fn a_failed_apply_is_an_error_and_is_tried_again() {
    for (world, reason) in [
        ("apply-fails", "error: iotedge config apply: apply went wrong"),
        ("apply-writes-nothing", "error: iotedge config apply left no configuration for keyd"),
        ("edged-down", "error: aziot-edged does not stay up"),
    ] {
        let mut device = Device::new();
        let identity = Identity::new("dev-01");
        device.give(&identity.chain(), &identity.key);
        device.write(&format!("world/{world}"), "");
        {
            let mut running = device.start();
            running.until(reason);
            assert_eq!(device.state()["state"], "error");
            assert!(device.exists(&format!("{FAT}/private-key.pem")), "wiped too early");
            device.remove(&format!("world/{world}"));
            assert!(running.end().success());
        }
        assert_done(&device, &identity, "dev-01");
    }
}

#[test]
fn it_never_runs_twice() {
    let mut device = Device::new();
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device.run();
    let (calls, console) = (device.read("world/calls"), device.console());
    let other = Identity::new("dev-02");
    device.give(&other.chain(), &other.key);
    device.run();
    assert_eq!((device.read("world/calls"), device.console()), (calls, console));
    assert_eq!(device.read(KEY), identity.key);
}

/// The power goes before each call of a program that changes something: afterwards the key exists in full somewhere,
/// no key is in place without its certificate, and the next boot gets to the end.
#[test]
fn a_power_cut_at_any_step_is_survived() {
    let identity = Identity::new("dev-01");
    let mut cuts = 0;
    loop {
        let mut device = Device::new();
        device.give(&identity.chain(), &identity.key);
        device.write(&format!("{FAT}/ca/plant.pem"), &identity.root);
        device.made_for_wifi("");
        device.give_wifi(b"shop", "hunter22");
        device.give_registry("plant.example", "devices", "hunter23");
        device.write("world/cut", format!("{}\n", cuts + 1));
        if device.start().end().success() {
            break;
        }
        cuts += 1;
        let whole = [KEY.to_owned(), format!("{FAT}/private-key.pem")]
            .iter()
            .any(|at| device.read(at) == identity.key);
        assert!(whole, "cut {cuts}: the key is lost\n{}", device.story());
        if device.exists(KEY) {
            assert_eq!(device.read(KEY), identity.key, "cut {cuts}: half a key");
            assert_eq!(
                device.read(CERTIFICATE),
                identity.chain(),
                "cut {cuts}: a key without its certificate"
            );
        }
        // Between the last mark and the last line only that line is lost.
        let marked = device.exists("var/lib/edgepress/provisioned");
        device.remove("world/cut");
        device.run();
        assert!(device.exists("usr/local/share/ca-certificates/edgepress-1-1.crt"), "cut {cuts}");
        let wifi = device.read("etc/wpa_supplicant/wpa_supplicant-wlan0.conf");
        assert!(wifi.contains("psk=\"hunter22\"\n}\n"), "cut {cuts}: {wifi}");
        let config = device.read("etc/aziot/config.toml");
        assert_eq!(config.matches("password = \"hunter23\"").count(), 1, "cut {cuts}: {config}");
        for secret in ["wifi-key", "registry-password"] {
            assert!(!device.exists(&format!("{FAT}/{secret}")), "cut {cuts}: {secret} is left");
        }
        if marked {
            assert_in_place(&device, &identity, "dev-01");
        } else {
            assert_done(&device, &identity, "dev-01");
        }
    }
    assert!(cuts > 30, "only {cuts} calls were cut: the fakes are not used");
}
