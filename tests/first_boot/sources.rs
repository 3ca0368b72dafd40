//! First boot on the host with every source of certificates, each against its simulator.

use edgepress::sim::fault::Fault;
use edgepress::sim::{SecretContent, Service, VaultSecret};

use crate::support::device::{Device, shells};
use crate::support::servers::{CERTIFICATE, FAT, KEY, World, assert_sound, lint_errors};

const EST_BY_FIRST_BOOT: &str = "from = \"est\"\nurl = \"https://localhost:{est}/.well-known/est\"\n\
                                 enrol = \"first-boot\"\nregistration_id = \"pump-7\"\n";
const EST_BY_RUNTIME: &str =
    "from = \"est\"\nurl = \"https://localhost:{est}/.well-known/est\"\nauto_renew = true\n";
const VAULT: &str = "from = \"key-vault\"\nvault = \"https://localhost:{vault}\"\nname = \"edge-{{ registration_id }}\"\n\
                     registration_id = \"pump-7\"\n";
const HTTPS: &str = "from = \"https\"\nurl = \"https://localhost:{files}/certs/{{ registration_id }}.pem\"\n\
                     registration_id = \"pump-7\"\n";

#[test]
fn est_enrols_with_a_bootstrap_certificate_under_every_shell() {
    let world = World::new();
    for shell in shells() {
        let mut device = world.device(shell);
        world.source(&device, EST_BY_FIRST_BOOT);
        world.give_bootstrap(&mut device);
        device.run();
        assert_sound(&device, "pump-7", &world);
        assert_eq!(device.mode(KEY), 0o600);
        assert!(!device.exists("var/lib/edgepress/enrolment"), "the key's other copy is left");
        device.assert_secrets_kept();
    }
}

#[test]
fn est_enrols_with_a_password() {
    let world = World::new();
    let mut device = world.device(vec!["sh".into()]);
    world.source(&device, EST_BY_FIRST_BOOT);
    world.give_password(&mut device);
    device.run();
    assert_sound(&device, "pump-7", &world);
    for name in ["bootstrap-password", "bootstrap-username"] {
        assert!(!device.exists(&format!("{FAT}/{name}")), "{name} is left");
    }
    device.assert_secrets_kept();
}

/// aziot-certd gets what it needs, and nobody is asked by first boot.
#[test]
fn est_is_left_to_the_runtime() {
    let world = World::new();
    for by_password in [false, true] {
        let mut device = world.device(vec!["sh".into()]);
        world.source(&device, EST_BY_RUNTIME);
        device.write(&format!("{FAT}/registration-id"), "pump-7\r\n");
        if by_password {
            world.give_password(&mut device);
        } else {
            world.give_bootstrap(&mut device);
        }
        device.run();
        let config = device.read("etc/aziot/config.toml");
        assert_eq!(lint_errors(&config), Vec::<String>::new(), "{config}");
        let parsed: toml::Table = config.parse().expect("config.toml");
        let attestation = &parsed["provisioning"]["attestation"];
        assert_eq!(attestation["registration_id"].as_str(), Some("pump-7"));
        assert_eq!(attestation["identity_cert"]["method"].as_str(), Some("est"));
        assert_eq!(attestation["identity_cert"]["auto_renew"]["rotate_key"].as_bool(), Some(true));
        let est = &parsed["cert_issuance"]["est"];
        assert_eq!(
            est["urls"]["default"].as_str(),
            Some(world.fill("https://localhost:{est}/.well-known/est").as_str())
        );
        let trusted = est["trusted_certs"][0].as_str().expect("an address");
        assert_eq!(device.read(trusted.trim_start_matches("file:///")), world.ca());
        let auth = est["auth"].as_table().expect("auth");
        assert_eq!(auth.contains_key("password"), by_password);
        if let Some(key) = auth.get("bootstrap_identity_pk") {
            let key = key.as_str().expect("an address").trim_start_matches("file:///");
            assert_eq!(device.mode(key), 0o600);
        }
        assert_eq!(device.mode("etc/aziot/config.toml"), 0o600);
        assert!(!device.exists(KEY) && !device.exists(&format!("{FAT}/bootstrap-key.pem")));
        assert!(world.requests(Service::Est).is_empty());
        device.assert_secrets_kept();
    }
}

#[test]
fn a_key_vault_gives_pem_and_pfx_to_a_managed_identity() {
    for content in [SecretContent::Pem, SecretContent::Pfx] {
        let world = World::with(|config| {
            config.vault_secrets = vec![VaultSecret { pattern: "edge-*".into(), content: content.clone() }];
        });
        let device = world.device(vec!["sh".into()]);
        world.source(&device, VAULT);
        device.run();
        assert_sound(&device, "pump-7", &world);
    }
}

const REGISTRY: &str = "registry_address = \"factory.azurecr.io\"\nregistry_username = \"line-{{ registration_id }}\"\n\
                        registry_secret = \"registry\"\n";
/// Whatever a registry may make of a password, and a shell or TOML might read out of it.
const PASSWORD: &str = r#"p\a"s's$(w)`o` r%d\n=#[x]+/"#;

fn vault_with_password(password: &str) -> World {
    World::with(|config| {
        let secret = |pattern: &str, content| VaultSecret { pattern: pattern.into(), content };
        config.vault_secrets = vec![
            secret("edge-*", SecretContent::Pem),
            secret("registry", SecretContent::Text(password.into())),
        ];
    })
}

/// The login that the runtime's configuration has.
fn login(device: &Device) -> Option<toml::Table> {
    let config: toml::Table = device.read("etc/aziot/config.toml").parse().expect("config.toml is TOML");
    Some(config.get("agent")?.get("config")?.get("auth")?.as_table().expect("a table").clone())
}

#[test]
fn a_key_vault_gives_the_login_of_a_registry_under_every_shell() {
    let world = vault_with_password(PASSWORD);
    for shell in shells() {
        let device = world.device(shell);
        world.source(&device, &format!("{VAULT}{REGISTRY}"));
        device.run();
        assert_sound(&device, "pump-7", &world);
        let found = login(&device).expect("a login");
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("serveraddress"), "factory.azurecr.io");
        assert_eq!((text("username"), text("password")), ("line-pump-7".into(), PASSWORD.into()));
        assert_eq!(device.mode("etc/aziot/config.toml"), 0o600);
        for said in ["dev/console", "world/stdout", "world/stderr", "world/calls", "var/lib/edgepress/state"]
        {
            assert!(!device.read(said).contains("$(w)"), "{said}");
        }
    }
}

#[test]
fn a_login_of_the_partition_counts_before_the_vault_s() {
    let world = vault_with_password(PASSWORD);
    let mut device = world.device(vec!["sh".into()]);
    world.source(&device, &format!("{VAULT}{REGISTRY}"));
    device.give_registry("plant.example", "own", "hunter22");
    device.run();
    assert_eq!(login(&device).expect("a login")["serveraddress"].as_str(), Some("plant.example"));
}

#[test]
fn a_device_waits_for_a_login_that_the_vault_lacks() {
    for (secret, password, says) in [
        ("elsewhere", PASSWORD, "has no secret elsewhere (404)"),
        ("registry", "two\nlines", "the secret registry is no password: registry-password holds 2 lines"),
        ("registry", "", "the secret registry is no password: it is empty"),
    ] {
        let world = vault_with_password(password);
        let device = world.device(vec!["sh".into()]);
        world.source(
            &device,
            &format!("{VAULT}{}", REGISTRY.replace("\"registry\"", &format!("\"{secret}\""))),
        );
        device.start().until(says);
        assert_eq!(login(&device), None, "{secret}");
        assert!(!device.exists(KEY), "{secret}: nothing is in place before all is there");
    }
}

#[test]
fn a_power_cut_at_any_step_of_a_login_from_a_vault_is_survived() {
    let world = vault_with_password(PASSWORD);
    assert_survives(&world, &format!("{VAULT}{REGISTRY}"), false, |device| {
        assert_eq!(login(device).expect("a login")["password"].as_str(), Some(PASSWORD));
    });
}

#[test]
fn a_key_vault_lets_an_application_s_certificate_in() {
    let world = World::with_application("11111111-2222-3333-4444-555555555555");
    let mut device = world.device(vec!["sh".into()]);
    let text = format!(
        "{VAULT}token = \"client-certificate\"\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n\
         tenant = \"contoso.example\"\nauthority = \"https://localhost:{{token}}\"\n"
    );
    // By address: `localhost` is the token endpoint's name here.
    world.source(&device, &text.replace("localhost:{vault}", "127.0.0.1:{vault}"));
    world.give_application(&mut device);
    device.run();
    assert_sound(&device, "pump-7", &world);
    assert!(!device.exists(&format!("{FAT}/bootstrap-key.pem")));
    device.assert_secrets_kept();
}

#[test]
fn a_key_vault_lets_an_arc_machine_in() {
    let world = World::with_arc();
    let device = world.device(vec!["sh".into()]);
    world.source(&device, &format!("{VAULT}token = \"arc\"\n"));
    device.run();
    assert_sound(&device, "pump-7", &world);
}

#[test]
fn a_server_of_one_s_own_lets_a_token_or_a_certificate_in() {
    let world = World::new();
    for by_token in [true, false] {
        let mut device = world.device(vec!["sh".into()]);
        world.source(&device, HTTPS);
        if by_token {
            world.give_token(&mut device);
        } else {
            world.give_bootstrap(&mut device);
        }
        device.run();
        assert_sound(&device, "pump-7", &world);
        assert!(!device.exists(&format!("{FAT}/bootstrap-token")));
        device.assert_secrets_kept();
    }
}

#[test]
fn a_symmetric_key_comes_to_its_place() {
    let mut device = Device::new();
    device.write(
        &format!("{FAT}/source.toml"),
        "from = \"symmetric-key\"\nhostname = \"p-{{ registration_id }}\"\n",
    );
    device.write(&format!("{FAT}/registration-id"), "pump-7\n");
    device.give_secret("symmetric-key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\r\n");
    device.run();
    let key = "var/secrets/aziot/keys/device-id.symmetric";
    assert_eq!(device.read(key), "01234567890123456789012345678901");
    assert_eq!(device.mode(key), 0o600);
    assert_eq!(device.read("etc/hostname"), "p-pump-7\n");
    assert!(!device.exists(&format!("{FAT}/symmetric-key")));
    let config = device.read("etc/aziot/config.toml");
    assert_eq!(lint_errors(&config), Vec::<String>::new(), "{config}");
    assert!(
        config.contains("registration_id = \"pump-7\"\nsymmetric_key = { uri = \"file:///var/secrets/"),
        "{config}"
    );
}

#[test]
fn a_tpm_must_be_there_and_belong_to_its_service() {
    let device = Device::new();
    device.write(&format!("{FAT}/source.toml"), "from = \"tpm\"\nregistration_id = \"{{ serial }}\"\n");
    device.write("sys/class/dmi/id/product_serial", "SN 42/7\n");
    {
        let mut running = device.start();
        running.until("waiting: the machine has no TPM 2.0 (/dev/tpmrm0)");
        device.write("world/owner", "root 600\n");
        device.write("dev/tpmrm0", "");
        running.until("waiting: /dev/tpmrm0 belongs to root (mode 600), not to aziottpm (660)");
        device.write("world/owner", "aziottpm 660\n");
        assert!(running.end().success());
    }
    let config = device.read("etc/aziot/config.toml");
    assert_eq!(lint_errors(&config), Vec::<String>::new(), "{config}");
    assert!(config.contains("method = \"tpm\"\nregistration_id = \"SN427-8275b7a7c467\"\n"), "{config}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (text, reason) in [
        ("from = \"ets\"", "there is no source 'ets'"),
        ("from = \"est\"", "source.toml: the url is missing"),
        ("from = \"est\"\nurl = \"http://est.example\"", "'http://est.example' is no https:// address"),
        ("from = \"est\"\nurl = \"https://est.example\"\nenrol = \"me\"", "enrol = 'me' is neither"),
        ("from = \"key-vault\"\nvault = \"https://v\"\ntoken = \"x\"", "token = 'x' is unknown"),
        ("# a comment\n\nform = \"est\"", "source.toml, line 3: unknown key 'form'"),
        (
            "from = \"https\"\nurl = \"https://x/$(reboot)\"",
            "line 2: the value has a character that it cannot have",
        ),
    ] {
        let device = Device::new();
        device.write(&format!("{FAT}/source.toml"), text);
        let mut running = device.start();
        running.until("edgepress: first boot: refused: ");
        assert!(device.console().contains(reason), "{text}: {}", device.console());
    }
}

#[test]
fn an_image_that_forbids_overrides_keeps_its_source() {
    let world = World::new();
    let mut device = world.device(vec!["sh".into()]);
    device.constants("no", 1_000_000_000);
    device.write("usr/lib/edgepress/source.toml", world.fill(EST_BY_FIRST_BOOT));
    device.write("usr/lib/edgepress/source-ca.pem", world.ca());
    device.write(&format!("{FAT}/source.toml"), "from = \"https\"\nurl = \"https://evil.example/x\"\n");
    world.give_bootstrap(&mut device);
    device.run();
    assert_sound(&device, "pump-7", &world);
}

#[test]
fn what_is_missing_is_named() {
    let world = World::new();
    for (text, files, reason) in [
        (EST_BY_FIRST_BOOT, &[][..], "no bootstrap credentials for est in edgepress/ on the FAT partition"),
        (
            EST_BY_FIRST_BOOT,
            &["bootstrap-username"][..],
            "no bootstrap-password in edgepress/ on the FAT partition",
        ),
        (
            HTTPS,
            &["bootstrap-key.pem"][..],
            "no bootstrap-certificate.pem in edgepress/ on the FAT partition",
        ),
        (
            "from = \"symmetric-key\"\n",
            &["registration-id"][..],
            "no symmetric-key in edgepress/ on the FAT partition",
        ),
        ("from = \"tpm\"\n", &[][..], "no registration-id in edgepress/ on the FAT partition"),
    ] {
        let device = world.device(vec!["sh".into()]);
        world.source(&device, text);
        for name in files {
            device.write(
                &format!("{FAT}/{name}"),
                "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n",
            );
        }
        device.start().until(&format!("waiting: {reason}"));
    }
}

/// Whatever a server does, the device says it in one line and gets there in the end.
#[test]
fn servers_that_fail_are_asked_again() {
    let cases: &[(&str, &str, &str)] = &[
        (EST_BY_FIRST_BOOT, "est=429:2", "is busy (429)"),
        (EST_BY_FIRST_BOOT, "est=500:2", "answered 500"),
        (EST_BY_FIRST_BOOT, "est=404:1", "has nothing for this device (404)"),
        (EST_BY_FIRST_BOOT, "est=wrong:1", "no certificate of it belongs to the private key"),
        (EST_BY_FIRST_BOOT, "est=garbage:1", "answered something that cannot be used"),
        (EST_BY_FIRST_BOOT, "est=untrusted:1", "cannot be reached: (60)"),
        (VAULT, "vault=429:1", "is busy (429)"),
        (VAULT, "vault=500:1", "answered 500"),
        (VAULT, "vault=404:1", "has no secret edge-pump-7 (404)"),
        (VAULT, "vault=wrong:1", "gave a certificate that is not for pump-7"),
        (VAULT, "vault=garbage:1", "answered something that cannot be used"),
        (VAULT, "metadata=500:1", "no token for the vault: the instance metadata answered 500"),
        (
            VAULT,
            "metadata=404:1",
            "no token for the vault: the instance metadata has nothing for this device (404)",
        ),
        (VAULT, "metadata=garbage:1", "no token for the vault: the instance metadata answered something"),
        (VAULT, "metadata=wrong:1", "localhost refuses this device"),
        (HTTPS, "files=429:1", "is busy (429)"),
        (HTTPS, "files=wrong:1", "gave a certificate that is not for pump-7"),
        (HTTPS, "files=garbage:1", "answered something that cannot be used"),
    ];
    for (source, fault, reason) in cases {
        let world = World::with_faults(&[fault]);
        let mut device = world.device(vec!["sh".into()]);
        world.source(&device, source);
        if *source != VAULT {
            world.give_bootstrap(&mut device);
        }
        let mut running = device.start();
        running.until(reason);
        assert!(running.end().success(), "{fault}");
        assert_sound(&device, "pump-7", &world);
        assert!(device.console().contains("edgepress: first boot: waiting: "), "{fault}");
        assert_eq!(device.state()["state"], "done", "{fault}");
        assert!(device.state()["last_error"].as_str().is_some_and(|text| text.contains(reason)), "{fault}");
    }
}

/// A device that is throttled waits as long as it is told, and longer the more often it fails.
#[test]
fn a_server_that_is_down_is_not_asked_in_a_loop() {
    let world = World::with_faults(&["est=500"]);
    let mut device = world.device(vec!["sh".into()]);
    world.source(&device, EST_BY_FIRST_BOOT);
    world.give_bootstrap(&mut device);
    let mut running = device.start();
    running.until("answered 500");
    world.wait_for(Service::Est, 4);
    world.simulation.set_fault(Service::Est, None::<Fault>);
    assert!(running.end().success());
    assert_sound(&device, "pump-7", &world);
    let asked = world.times(Service::Est);
    let gaps: Vec<f64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // A pass sleeps 0.02 s here: 6, 11 and 16 of them at least.
    assert!(gaps[0] >= 0.12 && gaps[1] >= 0.22 && gaps[2] >= 0.32, "{gaps:?}");
    assert_eq!(
        device.console().matches("answered 500").count(),
        1,
        "a reason is said once\n{}",
        device.console()
    );
}

#[test]
fn a_power_cut_at_any_step_of_est_is_survived() {
    assert_survives_cuts(EST_BY_FIRST_BOOT, true);
}

#[test]
fn a_power_cut_at_any_step_of_a_key_vault_is_survived() {
    assert_survives_cuts(VAULT, false);
}

/// As for a certificate on the partition: at every cut the device can go on, and it ends with one sound identity.
fn assert_survives_cuts(source: &str, bootstrap: bool) {
    assert_survives(&World::new(), source, bootstrap, |_| ());
}

fn assert_survives(world: &World, source: &str, bootstrap: bool, and: impl Fn(&Device)) {
    let mut cuts = 0;
    loop {
        let mut device = world.device(vec!["sh".into()]);
        world.source(&device, source);
        if bootstrap {
            world.give_bootstrap(&mut device);
        }
        device.write("world/cut", format!("{}\n", cuts + 1));
        if device.start().end().success() {
            break;
        }
        cuts += 1;
        if device.exists(KEY) {
            assert!(device.exists(CERTIFICATE), "cut {cuts}: a key without its certificate");
        } else if bootstrap {
            assert!(device.exists(&format!("{FAT}/bootstrap-key.pem")), "cut {cuts}: nothing to go on with");
        }
        device.remove("world/cut");
        device.run();
        assert_sound(&device, "pump-7", world);
        and(&device);
        assert!(!device.exists(&format!("{FAT}/bootstrap-key.pem")), "cut {cuts}: a key is left");
    }
    assert!(cuts > 20, "only {cuts} calls were cut: the fakes are not used");
}
