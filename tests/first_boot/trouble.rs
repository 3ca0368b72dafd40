//! First boot in trouble, on the host: disks, partitions, clocks and services that are not as they should be; and what
//! the device tells those who ask.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

use time::{Duration, OffsetDateTime};

use crate::support::device::{Device, library, shells};
use crate::support::pki::Identity;
use crate::support::project;

const FAT: &str = "boot/efi/edgepress";
const CERTIFICATE: &str = "var/secrets/aziot/certs/device-id.pem";
const KEY: &str = "var/secrets/aziot/keys/device-id.key.pem";

fn given(id: &str) -> (Device, Identity) {
    let (mut device, identity) = (Device::new(), Identity::new(id));
    device.give(&identity.chain(), &identity.key);
    (device, identity)
}

fn assert_provisioned(device: &Device, identity: &Identity) {
    let story = device.story();
    assert_eq!(device.read(CERTIFICATE), identity.chain(), "{story}");
    assert_eq!(device.read(KEY), identity.key, "{story}");
    assert!(!device.exists(&format!("{FAT}/private-key.pem")), "{story}");
    assert!(device.exists("var/lib/edgepress/provisioned"), "{story}");
    assert_eq!(device.state()["state"], "done", "{story}");
    device.assert_secrets_kept();
}

/// Runs one of the commands that people type on the device.
fn command(device: &Device, name: &str, arguments: &[&str], input: &str) -> Output {
    let program = project().join("overlays/base/usr/bin").join(name);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", device.path("world/bin").display());
    let typed = device.path("world/typed");
    std::fs::write(&typed, input).expect("input");
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", path)])
        .env("EP_ROOT", device.path(""))
        .stdin(Stdio::from(std::fs::File::open(typed).expect("input")))
        // A cut of the power takes the whole group.
        .process_group(0)
        .output()
        .expect(name)
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn a_full_disk_is_said_and_waited_for() {
    let (device, identity) = given("dev-01");
    device.write("world/full", "");
    {
        let mut running = device.start();
        running.until("error: the identity could not be written: install: No space left on device");
        assert!(device.exists(&format!("{FAT}/private-key.pem")), "wiped too early");
        assert_eq!(device.live_state()["state"], "error");
        device.remove("world/full");
        assert!(running.end().success());
    }
    assert_provisioned(&device, &identity);
}

/// The runtime gets its identity; only the wiping has to wait.
#[test]
fn a_write_protected_partition_is_wiped_once_it_can_be() {
    let (device, identity) = given("dev-01");
    device.write("world/read-only", "boot/efi");
    {
        let mut running = device.start();
        running.until("error: the key could not be wiped from the FAT partition (is it write-protected?)");
        assert!(device.read("world/calls").contains("iotedge config apply"));
        assert!(!device.exists("var/lib/edgepress/provisioned"));
        device.remove("world/read-only");
        assert!(running.end().success());
    }
    assert_provisioned(&device, &identity);
}

#[test]
fn dps_may_be_down_for_long() {
    let (device, identity) = given("dev-01");
    device.write(
        "world/unassigned",
        r#"{"message":"global.azure-devices-provisioning.net: attempt 2: timed out"}"#,
    );
    {
        let mut running = device.start();
        running.until("waiting: DPS has not assigned a hub yet: global.azure-devices-provisioning.net: attempt 2: timed out");
        assert!(
            device.exists("var/lib/edgepress/configured") && !device.exists("var/lib/edgepress/provisioned")
        );
        assert_eq!(device.state()["state"], "waiting");
        let applied = device.read("world/calls").matches("iotedge config apply").count();
        assert_eq!(applied, 1, "the runtime is left alone while it tries");
    }
    // The machine was switched off meanwhile: it goes on watching, and configures nothing again.
    {
        let mut running = device.start();
        running.until("waiting: DPS has not assigned a hub yet");
        device.remove("world/unassigned");
        assert!(running.end().success());
    }
    assert_eq!(device.read("world/calls").matches("iotedge config apply").count(), 1);
    assert_provisioned(&device, &identity);
    assert!(device.console().ends_with("done: registration id dev-01, hub hub.example\n"));
}

/// DPS refuses the first identity for good: a better one on the partition takes its place.
#[test]
fn another_identity_can_come_while_dps_refuses_the_first() {
    let (device, _) = given("dev-01");
    let second = Identity::new("dev-02");
    device.write("world/unassigned", r#"{"message":"DPS answered 401"}"#);
    {
        let mut running = device.start();
        running.until("waiting: DPS has not assigned a hub yet: DPS answered 401");
        device.write(&format!("{FAT}/certificate.pem"), second.chain());
        device.write(&format!("{FAT}/private-key.pem"), &second.key);
        // systemd starts it again.
        assert!(!running.end().success());
    }
    assert!(device.console().ends_with("another identity came: starting over\n"), "{}", device.console());
    device.remove("world/unassigned");
    device.run();
    assert_provisioned(&device, &second);
}

/// A clock that is ahead makes every certificate look expired: nothing is judged before a time server was heard.
#[test]
fn a_clock_in_the_future_waits_for_a_time_server() {
    let (device, identity) = given("dev-01");
    let later = OffsetDateTime::now_utc() + Duration::days(40 * 365);
    device.write("world/now", format!("{}\n", later.unix_timestamp()));
    device.remove("run/systemd/timesync/synchronized");
    {
        let mut running = device.start();
        running.until("waiting: the clock is not set");
        device.remove("world/now");
        device.write("run/systemd/timesync/synchronized", "");
        assert!(running.end().success());
    }
    assert!(!device.console().contains("refused"), "{}", device.console());
    assert_provisioned(&device, &identity);
}

#[test]
fn the_status_tells_people_and_scripts() {
    let (device, _identity) = given("dev-01");
    let status = |device: &Device, arguments: &[&str]| command(device, "edgepress-status", arguments, "");
    let begun = status(&device, &[]);
    assert_eq!((begun.status.code(), said(&begun)), (Some(4), "state             unknown\n".to_owned()));
    device.write("world/unassigned", r#"{"message":"busy"}"#);
    {
        let mut running = device.start();
        running.until("has not assigned a hub yet");
        let waiting = status(&device, &[]);
        assert_eq!(waiting.status.code(), Some(3));
        let text = said(&waiting);
        for line in [
            "state             waiting",
            "waits for         DPS has not assigned a hub yet: busy",
            "registration id   dev-01",
            "certificate       CN=dev-01",
            "last error        DPS has not",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "no {line:?} in\n{text}");
        }
        device.remove("world/unassigned");
        assert!(running.end().success());
    }
    let done = status(&device, &["--json"]);
    assert_eq!(done.status.code(), Some(0));
    let found: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((&found["state"], &found["hub"]), (&"provisioned".into(), &"hub.example".into()));
    assert_eq!(found["certificate"]["subject"], "CN=dev-01");
    assert!(
        found["warning"].as_str().is_some_and(|text| text.starts_with("the certificate ends in 29 days")),
        "{found}"
    );
    assert!(found["certificate"]["expires"].as_str().is_some_and(|text| text.starts_with("20")), "{found}");
    // After a restart only the state on the disk is left.
    device.remove("run/edgepress-state");
    assert_eq!(status(&device, &[]).status.code(), Some(0));
    assert_eq!(status(&device, &["--jason"]).status.code(), Some(2));
    let refused = Device::new();
    refused.write("var/lib/edgepress/state", "{\"state\":\"refused\",\"reason\":\"no\"}\n");
    assert_eq!(status(&refused, &[]).status.code(), Some(1));
}

/// As aziot-identityd 1.6 writes it when it ends; systemd's own lines are told apart by their identifier.
#[test]
fn a_refusal_by_dps_is_shown() {
    let (device, _identity) = given("dev-01");
    let frames: String = (0..20)
        .map(|at| format!("  {at:2}: aziot_identityd::main\n             at /src/error.rs:{at}\n"))
        .collect();
    device.write(
        "world/journal",
        format!(
            "<6>2026-11-26T10:00:00Z [INFO] - Provisioning starting. Reason: Startup\n\
             <3>2026-11-26T10:00:06Z [ERR!] - service encountered an error\n\
             <3>2026-11-26T10:00:06Z [ERR!] - caused by: DPS client error\n\
             <3>2026-11-26T10:00:06Z [ERR!] - caused by: Invalid certificate\n\
             <3>2026-11-26T10:00:06Z [ERR!] - {frames}"
        ),
    );
    // The service is gone: nobody answers at its socket.
    device.write("world/unassigned", "");
    {
        let mut running = device.start();
        running.until("waiting: DPS has not assigned a hub yet: Invalid certificate");
    }
    let calls = device.read("world/calls");
    assert!(calls.contains("journalctl --identifier aziot-identityd"), "{calls}");
}

/// 5 s come from the unit itself; the first failure is not waited for, a wanted stop begins anew.
#[test]
fn pauses_grow_with_each_failure_in_a_row() {
    let device = Device::new();
    device.write("run/.keep", "");
    let sleep = device.path("world/bin/sleep");
    std::fs::write(&sleep, "#!/bin/sh\necho \"$1\"\n").expect("a fake");
    std::fs::set_permissions(&sleep, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let script = library().join("pause-after-failures");
    let run = |what: &str, result: &str| {
        let path = format!("{}:/usr/bin:/bin", device.path("world/bin").display());
        let output = Command::new("sh")
            .arg(&script)
            .arg(what)
            .env_clear()
            .env("PATH", path)
            .env("SERVICE_RESULT", result)
            .env("EP_ROOT", device.path(""))
            .output()
            .expect("sh");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(run("wait", ""), "");
    let mut pauses = Vec::new();
    for _ in 0..9 {
        run("count", "exit-code");
        pauses.push(run("wait", ""));
    }
    assert_eq!(pauses, ["", "5", "15", "35", "75", "155", "300", "300", "300"]);
    let marked = device.path("run/edgepress-identityd-failures");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&marked).expect("counted").set_modified(old).expect("time");
    run("count", "exit-code");
    assert_eq!(run("wait", ""), "", "the last failure was long ago");
    run("count", "success");
    assert!(!marked.exists());
}

/// What is left on the partition of the identity before does not name the next one, and a person's own lines stay.
#[test]
fn a_registration_id_of_the_identity_before_is_none_of_the_next() {
    let (device, _) = given("dev-01");
    device.write(&format!("{FAT}/registration-id"), "dev-01\n");
    device.run();
    let hosts = device.read("etc/hosts");
    device.write("etc/hosts", format!("{hosts}10.1.1.1 printer\n"));
    assert!(command(&device, "edgepress-reprovision", &["--yes"], "").status.success());
    let second = Identity::new("dev-02");
    device.write(&format!("{FAT}/certificate.pem"), second.chain());
    device.write(&format!("{FAT}/private-key.pem"), &second.key);
    device.write(&format!("{FAT}/hosts"), "10.0.0.5 hub\n");
    device.run();
    assert_provisioned_as(&device, "dev-02");
    let hosts = device.read("etc/hosts");
    assert!(
        hosts.contains("127.0.1.1 dev-02\n10.0.0.5 hub\n") && hosts.ends_with("10.1.1.1 printer\n"),
        "{hosts}"
    );
    assert!(!hosts.contains("dev-01"), "{hosts}");
    // Checksums of secrets stand in both.
    for name in ["installed", "former"] {
        assert_eq!(device.mode(&format!("var/lib/edgepress/{name}")), 0o600, "{name}");
    }
    // A new one is one again, and so is the old one where nothing else came.
    assert!(command(&device, "edgepress-reprovision", &["--yes"], "").status.success());
    device.write(&format!("{FAT}/source.toml"), "from = \"tpm\"\nregistration_id = \"x-{{ serial }}\"\n");
    device.write(&format!("{FAT}/registration-id"), "dev-03\n");
    device.write("dev/tpmrm0", "");
    device.write("world/owner", "aziottpm 660\n");
    device.run();
    assert_provisioned_as(&device, "dev-03");
    assert!(command(&device, "edgepress-reprovision", &["--yes"], "").status.success());
    device.run();
    assert_provisioned_as(&device, "dev-03");
    // With another source its template counts.
    assert!(command(&device, "edgepress-reprovision", &["--yes"], "").status.success());
    device.write("proc/device-tree/serial-number", b"10000000abcdef01\0");
    device.write(&format!("{FAT}/source.toml"), "from = \"tpm\"\nregistration_id = \"y-{{ serial }}\"\n");
    device.run();
    assert_provisioned_as(&device, "y-10000000abcdef01");
}

fn assert_provisioned_as(device: &Device, id: &str) {
    assert!(device.exists("var/lib/edgepress/provisioned"), "{}", device.story());
    assert_eq!(device.state()["registration_id"].as_str(), Some(id), "{}", device.story());
}

#[test]
fn a_device_can_be_provisioned_anew() {
    for shell in shells() {
        let mut device = Device::with_shell(shell);
        let (first, second) = (Identity::new("dev-01"), Identity::new("dev-01"));
        device.give(&first.chain(), &first.key);
        device.run();
        assert_provisioned(&device, &first);
        device.write("var/lib/aziot/identityd/device_info", "{}");
        device.write("var/lib/aziot/keyd/keys/x.key", "k");

        let asked = command(&device, "edgepress-reprovision", &[], "no\n");
        assert_eq!(asked.status.code(), Some(1));
        assert!(said(&asked).contains("nothing was changed"), "{}", said(&asked));
        assert!(device.exists(KEY) && device.exists("var/lib/edgepress/provisioned"));

        let done = command(&device, "edgepress-reprovision", &[], "yes\n");
        assert!(done.status.success(), "{}", said(&done));
        for path in [
            KEY,
            CERTIFICATE,
            "var/lib/edgepress/provisioned",
            "var/lib/edgepress/configured",
            "var/lib/edgepress/reset",
            "var/lib/aziot/identityd/device_info",
            "var/lib/aziot/keyd/keys/x.key",
            "etc/aziot/edged/config.d/00-super.toml",
        ] {
            assert!(!device.exists(path), "{path} is left");
        }
        let calls = device.read("world/calls");
        assert!(calls.contains("docker rm --force c0ffee"), "{calls}");
        assert!(calls.contains("systemctl start --no-block edgepress-first-boot.service"), "{calls}");

        device.give(&second.chain(), &second.key);
        device.run();
        assert_provisioned(&device, &second);
    }
}

/// The power goes at any moment of the reset: what is left of the old identity is gone after the next start.
#[test]
fn a_power_cut_amid_a_reset_is_survived() {
    let (first, second) = (Identity::new("dev-01"), Identity::new("dev-01"));
    let mut cuts = 0;
    loop {
        let mut device = Device::new();
        device.give(&first.chain(), &first.key);
        device.run();
        device.write("world/calls", "");
        device.write("world/cut", format!("{}\n", cuts + 1));
        let whole = command(&device, "edgepress-reprovision", &["--yes"], "").status.success();
        device.remove("world/cut");
        if whole {
            break;
        }
        cuts += 1;
        // Before the mark nothing has changed; after it nothing of the old identity is gone on with.
        if device.exists("var/lib/edgepress/reset") || !device.exists("var/lib/edgepress/provisioned") {
            device.give(&second.chain(), &second.key);
            device.run();
            assert_provisioned(&device, &second);
        } else {
            assert_eq!(device.read(KEY), first.key, "cut {cuts}");
        }
    }
    assert!(cuts > 10, "only {cuts} calls were cut: the fakes are not used");
}
