//! The stand-in's services run on the host, against the simulators and an engine that is none: they end as the real ones do when
//! DPS refuses the device, and edged does to modules what the real one does.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edgepress::sim::pki::{DeviceOptions, Pki};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::{Value, json};

use crate::support::project;
use crate::support::simulator::{SCOPE, Sim};

/// Long enough for the busiest machine; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(90);

/// A device's root with nothing in it but the configuration and an identity.
struct Device {
    root: tempfile::TempDir,
    /// What it trusts.
    ca: PathBuf,
}

impl Device {
    fn bare(sim: &Sim) -> Self {
        let root = tempfile::tempdir().expect("temporary folder");
        Self { root, ca: sim.folder.path().join("pki/root.pem") }
    }

    /// One that enrols: with a bootstrap certificate, and a certificate for EST that is to be renewed at once.
    fn enrolling(sim: &Sim) -> Self {
        let device = Self::bare(sim);
        let pki = Pki::open_or_create(&sim.folder.path().join("pki")).expect("authorities");
        let bootstrap = pki.issue_bootstrap("line-3", &DeviceOptions::default()).expect("issue");
        device.write("b.pem", &bootstrap.chain_pem);
        device.write("b.key", &bootstrap.key_pem);
        device.write("ca.pem", &fs::read_to_string(&device.ca).expect("the root"));
        let uid = Uid::current();
        device.configure(
            "keyd",
            &format!("preloaded_keys = {{ b = \"file:///b.key\" }}\nprincipal = [{{ uid = {uid}, keys = [\"*\"] }}]\n"),
        );
        let est = sim.address("est").port();
        device.configure(
            "certd",
            &format!(
                "preloaded_certs = {{ b = \"file:///b.pem\", ca = \"file:///ca.pem\" }}\n\
                 principal = [{{ uid = {uid}, certs = [\"*\"] }}]\n[cert_issuance]\nest = {{ trusted_certs = [\"ca\"] }}\n\
                 [cert_issuance.device-id]\nmethod = \"est\"\nurl = \"https://localhost:{est}/.well-known/est\"\n\
                 common_name = \"edge-1\"\nbootstrap_identity_cert = \"b\"\nbootstrap_identity_pk = \"b\"\n\
                 identity_cert = \"est-id\"\nidentity_pk = \"est-id\"\n\
                 identity_auto_renew = {{ rotate_key = true, threshold = \"366day\", retry = \"1min\" }}\n"
            ),
        );
        let attestation = "identity_cert = \"device-id\", identity_pk = \"device-id\", registration_id = \"edge-1\", issued = true";
        device.identityd(sim, attestation);
        device
    }

    fn identityd(&self, sim: &Sim, attestation: &str) {
        let (uid, dps) = (Uid::current(), sim.address("dps").port());
        self.configure(
            "identityd",
            &format!(
                "hostname = \"x\"\ncloud_retries = 0\nprincipal = [{{ uid = {uid}, name = \"aziot-edge\" }}]\n\
                 [provisioning]\nsource = \"dps\"\nglobal_endpoint = \"https://localhost:{dps}\"\nscope_id = \"{SCOPE}\"\n\
                 attestation = {{ method = \"x509\", {attestation} }}\n"
            ),
        );
    }

    fn new(sim: &Sim, options: &DeviceOptions) -> Self {
        let device = Self::bare(sim);
        let pki = Pki::open_or_create(&sim.folder.path().join("pki")).expect("authorities");
        let identity = pki.issue_device("edge-1", options).expect("issue");
        device.write("id.pem", &identity.chain_pem);
        device.write("id.key", &identity.key_pem);
        let uid = Uid::current();
        let files =
            |what: &str, file: &str| format!("preloaded_{what} = {{ device-id = \"file:///{file}\" }}\n");
        let may = |what: &str| format!("principal = [{{ uid = {uid}, {what} = [\"*\"] }}]\n");
        let own = "cert_issuance = { aziot-edged-ca = { method = \"self_signed\", key = \"aziot-edged-ca\", expiry_days = 90 } }\n";
        device.configure("keyd", &[files("keys", "id.key"), may("keys")].concat());
        device.configure("certd", &[files("certs", "id.pem"), may("certs"), own.to_owned()].concat());
        device.identityd(sim, "identity_cert = \"device-id\", identity_pk = \"device-id\"");
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("write");
    }

    fn configure(&self, service: &str, text: &str) {
        self.write(&format!("etc/aziot/{service}/config.d/00-super.toml"), text);
        fs::create_dir_all(self.path(&format!("var/lib/aziot/{service}"))).expect("a folder");
    }

    /// Starts services; the last one's end is the end.
    fn start(&self, services: &[&str]) -> Child {
        let folder = |package: &str| {
            project().join("tests/standin").join(package).join("usr/lib/aziot-standin").display().to_string()
        };
        Command::new("python3")
            .args(["-B".as_ref(), project().join("tests/support/standin.py").as_os_str()])
            .args(services)
            .env("PYTHONPATH", [folder("aziot-identity-service"), folder("aziot-edge")].join(":"))
            .env("STANDIN_ROOT", self.root.path())
            .env("SSL_CERT_FILE", &self.ca)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3")
    }

    /// What the engine was asked to do so far, besides questions.
    fn asked(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("engine.json")).unwrap_or_else(|_| "[]".into());
        serde_json::from_str(&text).expect("JSON")
    }
}

fn end(mut child: Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    // The harness ends its services when it is asked to.
    kill(pid, Signal::SIGTERM).expect("asking it to end");
    child.wait().expect("the end");
}

/// Reads lines until one contains this; the lines so far.
fn until(child: &mut Child, wanted: &str) -> Vec<String> {
    let mut source = BufReader::new(child.stdout.as_mut().expect("standard output"));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = source.read_line(&mut line).expect("a line");
        assert!(read > 0, "`{wanted}` was never said: {lines:#?}");
        lines.push(line.trim_end().to_owned());
        if line.contains(wanted) {
            return lines;
        }
    }
}

/// The real one's journal, as far as the device reads it: an error with its causes, a backtrace, exit status 1.
#[test]
fn a_refused_device_s_identity_service_exits_with_the_reason() {
    let sim = Sim::start(&[]);
    let device = Device::new(&sim, &DeviceOptions::wrong_ca());
    let mut child = device.start(&["keyd", "certd", "identityd"]);
    let mut said = String::new();
    child.stdout.take().expect("standard output").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("the end").code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let at =
        lines.iter().position(|line| line.ends_with("[ERR!] - service encountered an error")).expect(&said);
    assert!(lines[at].starts_with("<3>20") && lines[at].contains("Z [ERR!] - "), "{}", lines[at]);
    assert!(lines[at + 1].ends_with("[ERR!] - caused by: DPS client error"), "{said}");
    assert!(lines[at + 2].ends_with("[ERR!] - caused by: Invalid certificate"), "{said}");
    let backtrace = &lines[at + 3..];
    assert!((15..=25).contains(&backtrace.len()), "{said}");
    assert!(backtrace.iter().all(|line| !line.contains("caused by")), "{said}");
    assert!(!device.path("var/lib/aziot/identityd/device_info").exists());
    assert_eq!(device_shows(&said), "Invalid certificate");
}

/// What the device's own script makes of such a journal: the line that a person sees on the console and in the status.
fn device_shows(journal: &str) -> String {
    let script = project().join("overlays/base/usr/lib/edgepress/runtime.sh");
    let mut child = Command::new("sh")
        .args(["-c", ". \"$0\"; last_cause"])
        .arg(script)
        .env("EP_ROOT", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    child.stdin.take().expect("standard input").write_all(journal.as_bytes()).expect("write");
    let said = child.wait_with_output().expect("the end");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

/// edged as the real one starts: an authority of its own, the modules of another device away, a socket for edgeAgent, which is an
/// end point of the modules' network. A second start of the same device stops its modules and keeps them.
#[test]
fn edged_looks_after_its_modules() {
    let sim = Sim::start(&["--hub", "hub.invalid", "--device-id", "north-*"]);
    let device = Device::new(&sim, &DeviceOptions::default());
    device.configure(
        "edged",
        &format!(
            "hostname = \"x\"\nagent = {{ name = \"edgeAgent\", type = \"docker\", imagePullPolicy = \"never\", \
             config = {{ image = \"localhost/agent:1\" }} }}\n\
             moby_runtime = {{ uri = \"unix://{}\", network = \"azure-iot-edge\" }}\n",
            device.path("var/run/docker.sock").display()
        ),
    );
    let owned = json!({"net.azure-devices.edge.owner": "Microsoft.Azure.Devices.Edge.Agent"});
    let container = |name: &str, labels: &Value| json!({"Id": name, "Names": [format!("/{name}")], "Labels": labels, "Image": "x", "State": "running", "Status": "Up"});
    let containers = json!({"edgeAgent": container("edgeAgent", &owned), "other": container("other", &owned),
        "stranger": container("stranger", &json!({}))});
    device.write("containers.json", &containers.to_string());

    let mut child = device.start(&["keyd", "certd", "identityd", "edged"]);
    let lines = until(&mut child, "Watchdog checking Edge runtime status").join("\n");
    for said in
        ["Device is north-edge-1 on hub.invalid", "Created new Edge CA certificate", "Removed all modules"]
    {
        assert!(lines.contains(said), "{said}: {lines}");
    }
    let asked: Vec<(String, String)> = device
        .asked()
        .iter()
        .map(|one| (one[0].as_str().expect("a method").into(), one[1].as_str().expect("a path").into()))
        .collect();
    let has =
        |method: &str, path: &str| asked.iter().any(|(m, p)| (m.as_str(), p.as_str()) == (method, path));
    assert!(has("POST", "networks/create"), "{asked:?}");
    for name in ["edgeAgent", "other"] {
        assert!(has("POST", &format!("containers/{name}/stop")), "{asked:?}");
        assert!(has("DELETE", &format!("containers/{name}")), "{asked:?}");
    }
    assert!(!asked.iter().any(|(_, path)| path.contains("stranger")), "not the runtime's: {asked:?}");
    end(child);

    // The second life: nothing is removed, and the authority is the first one's.
    let authority =
        fs::read(device.path("var/lib/aziot/certd/certs/aziotedgedca.cer")).expect("an authority");
    let mut child = device.start(&["keyd", "certd", "identityd", "edged"]);
    let lines = until(&mut child, "Watchdog checking Edge runtime status").join("\n");
    for said in
        ["Using existing Edge CA certificate", "Device information has not changed", "All modules stopped"]
    {
        assert!(lines.contains(said), "{said}: {lines}");
    }
    assert!(!device.asked().iter().any(|one| one[0] == "DELETE"));
    assert_eq!(
        fs::read(device.path("var/lib/aziot/certd/certs/aziotedgedca.cer")).expect("an authority"),
        authority
    );
    end(child);
}

/// What edgeAgent's container is made of, and its own workload socket, which is there before it starts.
#[test]
fn edge_agent_s_container_is_as_the_real_one_makes_it() {
    let root = tempfile::tempdir().expect("temporary folder");
    let program = r#"
import json, os, stat, edged, workload
config = {"hostname": "h", "agent": {"config": {"image": "a:1", "createOptions": {"HostConfig": {"Binds": ["/x:/x"]}}}},
          "moby_runtime": {"network": {"name": "azure-iot-edge"}}}
device = {"hubName": "hub.example", "gatewayHost": "hub.example", "deviceId": "d"}
made = edged.specification(config, device, "7")
sockets = workload.Sockets(lambda: {"modules": []})
sockets.listen("edgeAgent")
print(json.dumps(made))
"#;
    let folder = |package: &str| {
        project().join("tests/standin").join(package).join("usr/lib/aziot-standin").display().to_string()
    };
    let output = Command::new("python3")
        .args(["-B", "-c", program])
        .env("PYTHONPATH", [folder("aziot-identity-service"), folder("aziot-edge")].join(":"))
        .env("STANDIN_ROOT", root.path())
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    let made: Value = said
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(made["NetworkingConfig"]["EndpointsConfig"], json!({"azure-iot-edge": {}}));
    assert!(made["HostConfig"]["NetworkMode"].is_null(), "{made}");
    let own = root.path().join("var/lib/aziot/edged/mnt/edgeAgent.sock");
    let binds = made["HostConfig"]["Binds"].as_array().expect("binds");
    assert!(binds.contains(&"/x:/x".into()), "the recipe's binds stay: {made}");
    assert!(binds.contains(&format!("{}:/var/run/iotedge/workload.sock", own.display()).into()), "{made}");
    let data = fs::metadata(&own).expect("a socket of edgeAgent's own");
    assert!(data.file_type().is_socket() && data.permissions().mode() & 0o777 == 0o666);
    assert_eq!(made["Labels"]["net.azure-devices.edge.original-image"], "a:1");
}

/// certd's certificate for EST is renewed by the one before it, which it shows without its intermediate; a strict server refuses.
#[test]
fn certd_renews_what_it_enrols_with() {
    for strict in [false, true] {
        let mut sim = Sim::start(if strict { &["--est-strict"] } else { &[] });
        let device = Device::enrolling(&sim);
        let child = device.start(&["keyd", "certd", "identityd"]);
        let statuses: Vec<u64> = std::iter::from_fn(|| Some(sim.line()))
            .filter(|entry| entry["what"].as_str().is_some_and(|what| what.ends_with("/simpleenroll")))
            .take(3)
            .map(|entry| entry["status"].as_u64().expect("a status"))
            .collect();
        // est-id by the bootstrap certificate, the device's by est-id with its chain, est-id by its leaf alone.
        assert_eq!(statuses, [200, 200, if strict { 403 } else { 200 }]);
        end(child);
    }
}

/// Reading lines has no end of its own where a service hangs: this test's own time is looked at.
#[test]
fn the_services_answer_in_time() {
    let sim = Sim::start(&[]);
    let device = Device::new(&sim, &DeviceOptions::default());
    let began = Instant::now();
    let mut child = device.start(&["keyd", "certd", "identityd"]);
    until(&mut child, "Starting server...");
    let said = Command::new("curl")
        .args(["--silent", "--fail", "--max-time", "30", "--data", "{}", "--unix-socket"])
        .arg(device.path("run/aziot/identityd.sock"))
        .arg("http://localhost/identities/device")
        .output()
        .expect("curl");
    let answer: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(answer["spec"]["deviceId"], "edge-1");
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    end(child);
}
