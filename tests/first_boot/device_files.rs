//! What is on the device, checked on the host: the overlay's templates, its shell scripts and units, and the stand-in
//! runtime's sources and configuration parser.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use edgepress::recipe::types::{
    Access, Disk, Edge, Engine, EngineLog, Network, Preload, Provisioning, Proxy, System,
};
use serde_json::{Value, json};

use crate::support::project;

fn base() -> PathBuf {
    project().join("overlays/base")
}

/// Every file below a folder, sorted; symbolic links are not followed.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The context of templates, with a recipe that says nothing of its own.
fn context() -> Value {
    json!({
        "recipe": {
            "engine": Engine::default(), "edge": Edge::default(), "provisioning": Provisioning::default(),
            "network": Network::default(), "system": System::default(), "disk": Disk::default(),
            "access": Access::default(),
        },
        "arch": "x86_64", "debian_arch": "amd64", "vars": {}, "config_toml": "hostname = \"a\"\n",
        "source_toml": "from = \"partition\"\n", "source_ca": "",
        "epoch": 1_700_000_000, "board": { "fat_mount": "/boot/efi" },
    })
}

fn render(name: &str, context: &Value) -> String {
    let text = fs::read_to_string(base().join(name)).expect(name);
    let context = tera::Context::from_value(context.clone()).expect("a context");
    tera::Tera::one_off(&text, &context, false).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

fn daemon_json(engine: &Engine) -> Value {
    let mut context = context();
    context["recipe"]["engine"] = json!(engine);
    serde_json::from_str(&render("etc/docker/daemon.json.tera", &context)).expect("daemon.json")
}

#[test]
fn every_template_renders_with_a_recipe_of_defaults() {
    let base = base();
    let templates: Vec<_> =
        files(&base).into_iter().filter(|path| path.extension().is_some_and(|e| e == "tera")).collect();
    assert!(templates.len() > 10);
    for path in templates {
        let name = path.strip_prefix(&base).expect("below").to_str().expect("UTF-8").to_owned();
        let text = render(&name, &context());
        let optional = name.contains("proxy") || name.contains("source-ca");
        assert_eq!(text.trim().is_empty(), optional, "{name}: {text:?}");
        assert!(text.trim().is_empty() || text.ends_with('\n'), "{name} has no last newline");
    }
}

#[test]
fn containers_ask_the_host_for_names_unless_told_otherwise() {
    let engine = Engine::default();
    let mut expected = json!({
        "bip": "172.17.0.1/16", "dns": ["172.17.0.1"], "log-driver": "json-file",
        "log-opts": { "max-size": "10m", "max-file": "3" },
    });
    assert_eq!(daemon_json(&Engine { preload: Preload::Load, ..engine.clone() }), expected);
    // The driver whose store the preloaded images are in.
    expected["storage-driver"] = "overlay2".into();
    expected["features"] = json!({ "containerd-snapshotter": false });
    assert_eq!(daemon_json(&engine), expected);
    let listener = render("etc/systemd/resolved.conf.d/edgepress.conf.tera", &context());
    assert!(listener.contains("DNSStubListenerExtra=172.17.0.1\n"), "{listener}");

    let dns = vec!["10.0.0.53".parse().expect("an address")];
    let told = Engine { dns, preload: Preload::Load, ..Engine::default() };
    let expected = json!({
        "dns": ["10.0.0.53"], "log-driver": "json-file", "log-opts": { "max-size": "10m", "max-file": "3" },
    });
    assert_eq!(daemon_json(&told), expected);
    let mut context = context();
    context["recipe"]["engine"] = json!(told);
    assert_eq!(render("etc/systemd/resolved.conf.d/edgepress.conf.tera", &context).trim(), "");
}

#[test]
fn journald_takes_no_size_limits() {
    let log = EngineLog { driver: "journald".into(), ..EngineLog::default() };
    let found = daemon_json(&Engine { log, ..Engine::default() });
    assert_eq!(found["log-driver"], "journald");
    assert!(found.get("log-opts").is_none(), "{found}");
}

#[test]
fn a_proxy_reaches_every_service_alike() {
    let mut context = context();
    let proxy = Proxy {
        https: "http://proxy.example:3128/%7Ea".into(),
        no_proxy: vec!["a.example".into(), "10.0.0.0/8".into()],
    };
    context["recipe"]["network"] = json!(Network { proxy: Some(proxy), wifi: None });
    for service in ["docker", "aziot-edged", "aziot-identityd", "aziot-certd"] {
        let name = format!("etc/systemd/system/{service}.service.d/edgepress-proxy.conf.tera");
        // systemd reads %7 as a specifier, so the sign is doubled.
        let expected = "[Service]\nEnvironment=\"HTTPS_PROXY=http://proxy.example:3128/%%7Ea\"\n\
                        Environment=\"NO_PROXY=a.example,10.0.0.0/8\"\n";
        assert_eq!(render(&name, &context), expected);
    }
}

#[test]
fn constants_of_first_boot_are_shell() {
    let mut context = context();
    context["recipe"]["provisioning"]["overrides"] = json!(false);
    let text = render("usr/lib/edgepress/first-boot.conf.tera", &context);
    for line in ["EP_USER='edge'", "EP_OVERRIDES=no", "EP_EPOCH=1700000000", "EP_FAT_MOUNT='/boot/efi'"] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

/// The FAT partition of a card is mounted elsewhere, and its person must find the same names in the help as in the code.
#[test]
fn first_boot_finds_the_partition_of_a_card() {
    let mut context = context();
    context["board"]["fat_mount"] = json!("/boot/firmware");
    let text = render("usr/lib/edgepress/first-boot.conf.tera", &context);
    assert!(text.lines().any(|line| line == "EP_FAT_MOUNT='/boot/firmware'"), "{text}");
    let library = base().join("usr/lib/edgepress");
    for script in files(&library) {
        let text = fs::read_to_string(&script).expect("a script");
        assert!(!text.contains("/boot/efi"), "{} knows one board only", script.display());
    }
    let source = fs::read_to_string(library.join("fat.sh")).expect("the source");
    let help = fs::read_to_string(project().join("docs/first-boot.md")).expect("the help");
    for name in ["certificate.pem", "private-key.pem", "registration-id", "hostname", "hosts", "endpoint"]
        .into_iter()
        .chain([
            "authorized_keys",
            "wifi-ssid",
            "wifi-key",
            "registry-address",
            "registry-username",
            "registry-password",
            "symmetric-key",
            "source-ca.pem",
            "bootstrap-key.pem",
        ])
        .chain(["bootstrap-certificate.pem", "bootstrap-username", "bootstrap-password", "bootstrap-token"])
    {
        assert!(source.contains(name) && help.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn time_servers_and_limits_reach_systemd() {
    let mut context = context();
    context["recipe"]["system"]["ntp"] = json!(["a.example", "b.example"]);
    let text = render("etc/systemd/timesyncd.conf.d/edgepress.conf.tera", &context);
    assert!(text.starts_with("[Time]\nNTP=a.example b.example\n"), "{text}");
    let journal = render("etc/systemd/journald.conf.d/edgepress.conf.tera", &context);
    assert!(journal.contains("\nSystemMaxUse=64M\n"), "{journal}");
    context["recipe"]["disk"]["grow"] = json!(false);
    assert_eq!(render("usr/lib/edgepress/grow.conf.tera", &context).trim(), "");
}

/// First boot calls `iotedge config apply`, which waits for aziot-edged: ordered before it, it would wait for itself.
#[test]
fn first_boot_is_not_ordered_before_the_runtime() {
    let system = base().join("etc/systemd/system");
    let unit = fs::read_to_string(system.join("edgepress-first-boot.service")).expect("the unit");
    let before: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("Before=")).collect();
    assert_eq!(before, ["shutdown.target"]);
    assert!(!unit.lines().any(|line| line == "Type=oneshot"), "{unit}");
    assert!(unit.contains("ConditionPathExists=|!/var/lib/edgepress/provisioned"));
    let gate = fs::read_to_string(system.join("aziot-edged.service.d/edgepress.conf")).expect("the drop-in");
    assert!(gate.contains("ConditionPathExists=/etc/aziot/edged/config.d/00-super.toml"));
    assert!(!gate.contains("edgepress-first-boot"), "{gate}");
}

/// No container runs without the rules that keep it from the machine's identity.
/// The script in a folder of its own, with programs that only leave a mark.
fn package_keys(folder: &Path, programs: &[(&str, &str)]) -> Output {
    let text = fs::read_to_string(base().join("usr/lib/edgepress/package-keys")).expect("script");
    let script = folder.join("package-keys");
    let etc = format!("{}/etc/", folder.display());
    fs::write(&script, text.replace("/etc/", &etc)).expect("script");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).expect("folder");
    for (name, body) in programs.iter().chain(&[("chown", "")]) {
        fs::write(bin.join(name), format!("#!/bin/sh\n{}\n", body.replace("/etc/", &etc))).expect("program");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("mode");
    }
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    Command::new(&script).env("PATH", path).output().expect("starts")
}

#[test]
fn keys_of_packages_are_made_where_they_are_missing() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |path: &str| folder.path().join("etc").join(path);
    for name in ["ssl/private", "ssl/certs", "munge", "iscsi"] {
        fs::create_dir_all(at(name)).expect("folder");
    }
    // What a power cut left of a key counts as none.
    fs::write(at("ssl/private/ssl-cert-snakeoil.key"), "-----BEGIN PRIV").expect("half a key");
    let certify = "openssl req -new -x509 -nodes -newkey rsa:2048 -subj /CN=x -out /etc/ssl/certs/ssl-cert-snakeoil.pem \
        -keyout /etc/ssl/private/ssl-cert-snakeoil.key 2>/dev/null; echo made >>/etc/log";
    let programs = [
        ("make-ssl-cert", certify),
        ("mungekey", "echo munge >\"$3\"; echo made >>/etc/log"),
        ("iscsi-iname", "echo iqn.x"),
    ];
    let said = package_keys(folder.path(), &programs);
    assert_success(&said);
    assert_eq!(fs::read_to_string(at("munge/munge.key")).expect("key"), "munge\n");
    assert_eq!(fs::read_to_string(at("iscsi/initiatorname.iscsi")).expect("name"), "InitiatorName=iqn.x\n");
    let mode = at("munge/munge.key").metadata().expect("key").permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    let key = fs::read(at("ssl/private/ssl-cert-snakeoil.key")).expect("key");
    assert!(key.len() > 1000 && !at("bind").exists());
    // Whole keys stay.
    assert_success(&package_keys(folder.path(), &programs));
    assert_eq!(fs::read_to_string(at("log")).expect("log"), "made\nmade\n");
    assert_eq!(fs::read(at("ssl/private/ssl-cert-snakeoil.key")).expect("key"), key);
}

#[test]
fn one_package_s_trouble_does_not_keep_others_without_keys() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["munge", "iscsi"] {
        fs::create_dir_all(folder.path().join("etc").join(name)).expect("folder");
    }
    let said = package_keys(folder.path(), &[("mungekey", "exit 3"), ("iscsi-iname", "echo iqn.x")]);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&said.stderr), "could not make the keys of: munge\n");
    assert!(folder.path().join("etc/iscsi/initiatorname.iscsi").exists());
    assert!(!folder.path().join("etc/munge/munge.key").exists());
}

#[test]
fn the_engine_waits_for_the_firewall() {
    let system = base().join("etc/systemd/system");
    let gate = fs::read_to_string(system.join("docker.service.d/edgepress.conf")).expect("the drop-in");
    for line in ["Requires=edgepress-firewall.service", "After=edgepress-firewall.service"] {
        assert!(gate.lines().any(|found| found == line), "{gate}");
    }
    let unit = fs::read_to_string(system.join("edgepress-firewall.service")).expect("the unit");
    let rules = "usr/lib/edgepress/firewall.nft";
    for line in [format!("ConditionPathExists=/{rules}"), format!("ExecStart=/usr/sbin/nft -f /{rules}")] {
        assert!(unit.lines().any(|found| found == line), "{unit}");
    }
    assert!(base().join(format!("{rules}.tera")).is_file());
}

/// Links that enable units point at units of this overlay or of systemd.
#[test]
fn enabled_units_exist() {
    let system = base().join("etc/systemd/system");
    let mut links = 0;
    for entry in fs::read_dir(&system).expect("units").map(|entry| entry.expect("an entry").path()) {
        if entry.extension().is_none_or(|ending| ending != "wants") {
            continue;
        }
        for link in fs::read_dir(&entry).expect("wants").map(|link| link.expect("a link").path()) {
            let target = fs::read_link(&link).expect("a symbolic link");
            assert_eq!(target.file_name(), link.file_name(), "{}", link.display());
            let own = entry.join(&target).is_file();
            assert!(own || target.starts_with("/usr/lib/systemd/system"), "{} dangles", link.display());
            links += 1;
        }
    }
    assert!(links >= 8);
}

#[test]
fn shell_scripts_pass_shellcheck() {
    if Command::new("shellcheck").arg("--version").output().is_err() {
        eprintln!("skipped: shellcheck is not installed");
        return;
    }
    let folders = [base().join("usr"), project().join("tests/standin")];
    let scripts: Vec<_> =
        folders.iter().flat_map(|folder| files(folder)).filter(|path| is_shell(path)).collect();
    assert!(scripts.len() > 10, "{scripts:?}");
    let output = Command::new("shellcheck").args(["-s", "sh"]).args(&scripts).current_dir(project()).output();
    assert_success(&output.expect("shellcheck"));
}

fn is_shell(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("#!/bin/sh") || first == "#!/bin/busybox sh" || first == "# shellcheck shell=sh"
}

fn assert_success(output: &Output) {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}\n{}{}", output.status, text[0], text[1]);
}

/// Runs Python with the stand-in's modules, without leaving compiled files beside them.
fn python(program: &str, input: &str) -> Output {
    let standin = project().join("tests/standin");
    let folders = ["aziot-identity-service", "aziot-edge"]
        .map(|package| standin.join(package).join("usr/lib/aziot-standin").display().to_string());
    Command::new("python3")
        .args(["-B", "-c", program, input])
        .env("PYTHONPATH", folders.join(":"))
        .output()
        .expect("python3")
}

#[test]
fn the_stand_in_compiles() {
    let sources: Vec<_> = files(&project().join("tests/standin"))
        .into_iter()
        .filter(|path| {
            fs::read_to_string(path)
                .is_ok_and(|text| text.starts_with("#!/usr/bin/python3") || text.starts_with("\"\"\""))
        })
        .map(|path| path.display().to_string())
        .collect();
    assert!(sources.len() > 15, "{sources:?}");
    let program =
        "import sys\nfor path in sys.argv[1].split('\\n'): compile(open(path).read(), path, 'exec')";
    assert_success(&python(program, &sources.join("\n")));
}

const GOOD: &str = r#"
hostname = "dev-01"
auto_reprovisioning_mode = "Dynamic"
cloud_timeout_sec = 70
[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net"
id_scope = "0ne00123456"
[provisioning.attestation]
method = "x509"
identity_cert = "file:///var/secrets/aziot/certs/device-id.pem"
identity_pk = "file:///var/secrets/aziot/keys/device-id.key.pem"
[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "never"
[agent.config]
image = "example.com/agent:1"
[agent.config.createOptions.HostConfig]
Binds = ["/a:/b"]
[agent.env]
storageFolder = "/b \"quoted\" \\ é"
"#;

#[test]
fn the_stand_in_splits_a_good_configuration() {
    let program = "
import json, sys, tomllib, superconfig
parts = superconfig.split(superconfig.parse(sys.argv[1]), {'aziotid': 7, 'aziotcs': 8, 'iotedge': 9})
for name, part in parts.items():
    assert tomllib.loads(superconfig.dump(part)) == part, name
print(json.dumps(parts))";
    let output = python(program, GOOD);
    assert_success(&output);
    let parts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        parts["keyd"]["preloaded_keys"]["device-id"],
        "file:///var/secrets/aziot/keys/device-id.key.pem"
    );
    assert_eq!(
        parts["certd"]["preloaded_certs"]["device-id"],
        "file:///var/secrets/aziot/certs/device-id.pem"
    );
    assert_eq!(parts["identityd"]["provisioning"]["attestation"]["identity_cert"], "device-id");
    assert_eq!(parts["edged"]["agent"]["env"]["storageFolder"], "/b \"quoted\" \\ é");
}

/// The traps of the real parser, each refused with its place.
#[test]
fn the_stand_in_refuses_what_the_real_one_refuses() {
    let program = "
import sys, superconfig
try:
    superconfig.parse(sys.argv[1])
except superconfig.ConfigError as error:
    print(error)
else:
    print('accepted')";
    for (from, to, reason) in [
        (
            "cloud_timeout_sec = 70",
            "cloud_timeout_sec = 10",
            "cloud_timeout_sec: 10 is below the least value 70",
        ),
        ("\"Dynamic\"", "\"dynamic\"", "auto_reprovisioning_mode: unknown value"),
        ("\"Dynamic\"", "Dynamic", "could not parse config file"),
        ("cloud_timeout_sec = 70", "cloud_timeout_sec = \"70\"", "cloud_timeout_sec: invalid type"),
        ("cloud_timeout_sec = 70", "cloud_timeout_sec = true", "cloud_timeout_sec: invalid type"),
        (
            "\"dev-01\"\n",
            "\"dev-01\"\nparent_hostname = \"up\"\n",
            "parent_hostname: not with DPS provisioning",
        ),
        ("\"dev-01\"", "\"dev_01\"", "hostname: 'dev_01' is neither"),
        ("\"dev-01\"", "\"1dev\"", "hostname: '1dev' is neither"),
        ("id_scope = \"0ne00123456\"\n", "", "provisioning.id_scope: missing key"),
        ("id_scope", "scope_id", "provisioning.scope_id: unknown key"),
        ("\"x509\"", "\"x.509\"", "provisioning.attestation.method: unknown value"),
        ("\"https://global", "\"global", "provisioning.global_endpoint:"),
        ("\"file:///var/secrets/aziot/certs/device-id.pem\"", "\"/var/device-id.pem\"", "identity_cert:"),
        ("identity_pk = ", "identity_key = ", "identity_key: unknown key"),
        ("\"never\"", "\"if-missing\"", "agent.imagePullPolicy: unknown value"),
        ("[agent.env]\n", "[tpm]\nauth_key_index = \"1\"\n[agent.env]\n", "tpm.auth_key_index: invalid type"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let output = python(program, &GOOD.replacen(from, to, 1));
        assert_success(&output);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(reason), "{to}: {said}");
    }
    let plain = python(program, GOOD);
    assert_eq!(String::from_utf8_lossy(&plain.stdout), "accepted\n");
}

/// The reader of certificates agrees with openssl, and no cut of a certificate makes it fail in another way.
#[test]
fn the_stand_in_reads_certificates() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "9",
        ])
        .args(["-subj", "/O=Ex/CN=dev-01", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl");
    assert_success(&made);
    let program = "
import base64, sys, x509
text = open(sys.argv[1]).read()
leaf = x509.Leaf(text)
assert leaf.common_name == 'dev-01', leaf.common_name
assert round(leaf.ends - leaf.begins) == 9 * 86400
der = x509.pem_to_der(text)
for cut in range(len(der)):
    body = base64.b64encode(der[:cut]).decode()
    try:
        x509.Leaf(f'{x509.BEGIN}\\n{body}\\n{x509.END}\\n')
    except x509.CertificateError:
        pass";
    assert_success(&python(program, certificate.to_str().expect("UTF-8")));
}

#[test]
fn the_stand_in_packages_build() {
    let standin = project().join("tests/standin");
    for package in ["aziot-identity-service", "aziot-edge"] {
        let control = fs::read_to_string(standin.join(package).join("DEBIAN/control")).expect("control");
        for line in [format!("Package: {package}"), "Version: 0~standin".into(), "Architecture: all".into()] {
            assert!(control.lines().any(|found| found == line), "{package}: no {line}");
        }
        let folder = tempfile::TempDir::new().expect("a folder");
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(standin.join(package))
            .arg(folder.path())
            .output()
            .expect("dpkg-deb");
        assert_success(&built);
    }
}
