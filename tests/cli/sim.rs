//! `edgepress sim`, driven from outside: the real program, a real TLS client, ports of this machine's choice.

mod hub;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use edgepress::sim::pki::{DeviceOptions, Pki};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::support::simulator::{SCOPE, Sim};

const DPS: &str = "global.azure-devices-provisioning.net";
const HUB: &str = "edgepress-simulator.azure-devices.net";
/// Long enough for the busiest machine; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(60);

impl Sim {
    fn pki(&self) -> Pki {
        Pki::open_or_create(&self.folder.path().join("pki")).expect("authorities")
    }

    /// A client that trusts the simulator and shows a certificate of this registration id.
    fn client(&self, id: &str, options: &DeviceOptions) -> Client {
        let device = self.pki().issue_device(id, options).expect("issue");
        Client::new(self.pki().server_ca_pem(), Some((&device.chain_pem, &device.key_pem)))
    }

    fn call(&self, client: &Client, method: &str, target: &str, body: &str) -> Answer {
        let hub = target.starts_with("/devices/");
        let (service, name) = if hub { ("hub", HUB) } else { ("dps", DPS) };
        client.call(self.address(service), name, method, target, body)
    }

    /// Takes a device to "assigned" and returns its registration's state; its two lines of the log are read.
    fn assign(&mut self, client: &Client, id: &str) -> Value {
        let operation =
            self.register(client, id).body["operationId"].as_str().expect("an operation").to_owned();
        let target = format!("/{SCOPE}/registrations/{id}/operations/{operation}?api-version=2021-06-01");
        let answer = self.call(client, "GET", &target, "");
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(self.line()["mark"], "dps-registered");
        assert_eq!(self.line()["mark"], "dps-assigned");
        answer.body["registrationState"].clone()
    }

    fn register(&self, client: &Client, id: &str) -> Answer {
        let target = format!("/{SCOPE}/registrations/{id}/register?api-version=2021-06-01");
        self.call(client, "PUT", &target, &format!(r#"{{"registrationId":"{id}"}}"#))
    }
}

struct Client(Arc<ClientConfig>);

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Client {
    fn new(ca_pem: &str, identity: Option<(&str, &str)>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("CA")).expect("CA");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(|one| one.expect("chain"));
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key");
                builder.with_client_auth_cert(chain.collect(), key).expect("identity")
            }
        };
        Self(Arc::new(config))
    }

    fn connect(&self, address: SocketAddr, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let connection =
            ClientConnection::new(self.0.clone(), name.to_owned().try_into().expect("server name"));
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        StreamOwned::new(connection.expect("TLS"), stream)
    }

    fn call(&self, address: SocketAddr, name: &str, method: &str, target: &str, body: &str) -> Answer {
        let mut stream = self.connect(address, name);
        let length = body.len();
        let if_match = if method == "PUT" && name == HUB { "If-Match: *\r\n" } else { "" };
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {name}\r\n{if_match}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("end of head");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("status");
        Answer {
            status,
            head: head.to_ascii_lowercase(),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }
}

#[test]
fn a_device_registers_and_asks_for_its_agent() {
    let mut sim = Sim::start(&["--assigning", "1"]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    let answer = sim.register(&client, "edge-1");
    assert_eq!((answer.status, &answer.body["status"]), (202, &"assigning".into()));
    assert!(answer.head.contains("\r\nretry-after: 3"), "{}", answer.head);
    let operation = answer.body["operationId"].as_str().expect("operation").to_owned();
    let poll = format!("/{SCOPE}/registrations/edge-1/operations/{operation}?api-version=2021-06-01");
    assert_eq!(sim.call(&client, "GET", &poll, "").status, 202);
    let modules = "/devices/edge-1/modules?api-version=2017-11-08-preview";
    assert_eq!(sim.call(&client, "GET", modules, "").status, 401, "not assigned yet");
    let answer = sim.call(&client, "GET", &poll, "");
    assert_eq!((answer.status, &answer.body["status"]), (200, &"assigned".into()));
    assert_eq!(answer.body["registrationState"]["assignedHub"], HUB);

    let answer = sim.call(&client, "GET", modules, "");
    assert_eq!((answer.status, answer.body.as_array().map(Vec::len)), (200, Some(2)));
    let agent = "/devices/edge-1/modules/%24edgeAgent?api-version=2017-11-08-preview";
    let answer = sim.call(&client, "GET", agent, "");
    assert!(answer.body["generationId"].is_string());
    let secret = "c2VjcmV0IGtleSBvZiB0aGUgYWdlbnQ=";
    let body = format!(
        r#"{{"moduleId":"$edgeAgent","deviceId":"edge-1","authentication":{{"type":"sas","symmetricKey":{{"primaryKey":"{secret}"}}}}}}"#
    );
    let answer = sim.call(&client, "PUT", agent, &body);
    assert_eq!((answer.status, &answer.body["authentication"]["type"]), (200, &"sas".into()));

    let expected = [
        (202, "dps-registered"),
        (202, ""),
        (401, ""),
        (200, "dps-assigned"),
        (200, ""),
        (200, "agent-identity"),
        (200, "agent-identity"),
    ];
    let mut before = 0.0;
    for (status, mark) in expected {
        let entry = sim.line();
        assert_eq!(entry["event"], "request");
        assert_eq!(entry["status"], status, "{entry}");
        assert_eq!(entry["mark"].as_str().unwrap_or_default(), mark, "{entry}");
        assert_eq!(entry["client"], "edge-1");
        assert!(!entry.to_string().contains(secret));
        let seconds = entry["seconds"].as_f64().expect("seconds");
        assert!(seconds >= before);
        before = seconds;
    }
}

#[test]
fn strangers_are_refused_by_dps_itself() {
    let mut sim = Sim::start(&[]);
    for (what, id, options, note) in [
        ("wrong CA", "edge-1", DeviceOptions::wrong_ca(), "wrong CA"),
        ("expired", "edge-1", DeviceOptions::expired(), "expired"),
        ("not yet valid", "edge-1", DeviceOptions::not_yet_valid(), "not valid yet"),
        ("another's", "edge-2", DeviceOptions::default(), "is not the common name edge-2"),
    ] {
        let answer = sim.register(&sim.client(id, &options), "edge-1");
        assert_eq!((answer.status, &answer.body["errorCode"]), (401, &401_002.into()), "{what}");
        let entry = sim.line();
        assert!(entry["note"].as_str().is_some_and(|text| text.contains(note)), "{what}: {entry}");
    }
    let nobody = Client::new(sim.pki().server_ca_pem(), None);
    let answer = sim.register(&nobody, "edge-1");
    assert_eq!((answer.status, &answer.body["errorCode"]), (401, &401_002.into()));
    let entry = sim.line();
    assert_eq!((&entry["note"], &entry["client"]), (&"no client certificate".into(), &Value::Null));

    let client = sim.client("edge-1", &DeviceOptions::default());
    let target = "/0ne99999999/registrations/edge-1/register?api-version=2021-06-01";
    assert_eq!(sim.call(&client, "PUT", target, r#"{"registrationId":"edge-1"}"#).status, 404);
    assert_eq!(sim.register(&client, "edge-1").status, 202);
}

#[test]
fn a_client_that_does_not_trust_the_simulator_is_told_in_the_log() {
    let mut sim = Sim::start(&[]);
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    let other = Pki::open_or_create(elsewhere.path()).expect("authorities");
    let client = Client::new(other.server_ca_pem(), None);
    let mut stream = client.connect(sim.address("dps"), DPS);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect_err("the certificate is not trusted");
    let entry = sim.line();
    assert!(entry["note"].as_str().is_some_and(|note| note.contains("handshake failed")), "{entry}");
}

#[test]
fn without_a_server_name_the_path_tells_the_services_apart() {
    let mut sim = Sim::start(&[]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    let address = sim.address("dps");
    for (path, service) in [("/devices/edge-1/modules", "hub"), ("/0ne1/registrations/edge-1", "dps")] {
        client.call(address, "127.0.0.1", "GET", path, "");
        assert_eq!(sim.line()["service"], service);
    }
    // The name decides where there is one, whatever the port.
    client.call(address, HUB, "GET", "/nothing", "");
    assert_eq!(sim.line()["service"], "hub");
}

#[test]
fn an_oversized_body_is_refused() {
    let mut sim = Sim::start(&[]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    let target = format!("/{SCOPE}/registrations/edge-1/register?api-version=2021-06-01");
    let answer = sim.call(&client, "PUT", &target, &"x".repeat(256 * 1024 + 1));
    assert_eq!(answer.status, 413);
    assert_eq!(sim.line()["status"], 413);
}

#[test]
fn faults_strike_as_often_as_told() {
    let sim = Sim::start(&["--fault", "dps=429:2", "--fault", "hub=500:1"]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    for _ in 0..2 {
        let answer = sim.register(&client, "edge-1");
        assert_eq!((answer.status, &answer.body["errorCode"]), (429, &429_001.into()));
        assert!(answer.head.contains("\r\nretry-after: 5"), "{}", answer.head);
    }
    assert_eq!(sim.register(&client, "edge-1").status, 202);
    let modules = "/devices/edge-1/modules?api-version=2017-11-08-preview";
    assert_eq!(sim.call(&client, "GET", modules, "").status, 500);
    assert_eq!(sim.call(&client, "GET", modules, "").status, 401);
}

#[test]
fn slow_and_silent_services() {
    let mut sim = Sim::start(&["--fault", "dps=slow:300ms:1", "--fault", "hub=silent:1"]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    let before = Instant::now();
    assert_eq!(sim.register(&client, "edge-1").status, 202);
    assert!(before.elapsed() >= Duration::from_millis(300));
    assert_eq!(sim.line()["note"], "fault: slow");

    let mut stream = client.connect(sim.address("hub"), HUB);
    stream.sock.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    let error = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect_err("no handshake");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    assert_eq!(sim.line()["note"], "fault: silent");
    let modules = "/devices/edge-1/modules?api-version=2017-11-08-preview";
    assert_eq!(sim.call(&client, "GET", modules, "").status, 401);
}

#[test]
fn a_port_in_use_is_an_error_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = taken.local_addr().expect("address").port();
    let folder = tempfile::tempdir().expect("temporary folder");
    assert_cmd::Command::new(cargo_bin("edgepress"))
        .args(["sim", "--port-offset", "20000", "--port", &format!("dps={port}"), "--dir"])
        .arg(folder.path().join("pki"))
        .assert()
        .code(1)
        .stderr(predicates::str::contains(format!("cannot listen at 127.0.0.1:{port} for dps")))
        .stderr(predicates::str::contains("hint: another program uses port"));
}

#[test]
fn bad_arguments_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (arguments, message) in [
        (&["--fault", "dps=418"][..], "`418` is not a fault"),
        (&["--fault", "imds=429"], "unknown service `imds`"),
        (&["--fault", "metadata=untrusted"], "metadata cannot have the fault `untrusted`"),
        (&["--vault-secret", "edge"], "needs one `*`"),
        (&["--port-offset", "60000"], "beyond 65535"),
        (&["--listen", "0.0.0.0"], "cannot listen at 0.0.0.0"),
        (&["--issue", "edge-1"], "--out"),
    ] {
        assert_cmd::Command::new(cargo_bin("edgepress"))
            .arg("sim")
            .args(arguments)
            .arg("--dir")
            .arg(folder.path().join("pki"))
            .assert()
            .code(2)
            .stderr(predicates::str::contains(message));
    }
}

#[test]
fn an_issued_identity_is_what_first_boot_takes_and_dps_lets_in() {
    let sim = Sim::start(&[]);
    let out = sim.folder.path().join("stick");
    let issue = |id: &str, out: &Path, more: &[&str]| {
        assert_cmd::Command::new(cargo_bin("edgepress"))
            .args(["sim", "--issue", id, "--listen", "127.0.0.1", "--dir"])
            .arg(sim.folder.path().join("pki"))
            .arg("--out")
            .arg(out)
            .args(more)
            .assert()
    };
    issue("edge-7", &out, &[]).success();
    issue("edge-7", &out, &[]).code(2).stderr(predicates::str::contains("exists already"));
    let read = |out: &Path, file: &str| fs::read_to_string(out.join("edgepress").join(file)).expect(file);
    assert_eq!(read(&out, "registration-id"), "edge-7\n");
    let hosts = read(&out, "hosts");
    for name in [DPS, HUB, "est.edgepress.example"] {
        assert!(hosts.contains(&format!("127.0.0.1 {name}\n")), "{hosts}");
    }
    let key = fs::metadata(out.join("edgepress/private-key.pem")).expect("key").permissions().mode();
    assert_eq!(key & 0o777, 0o600);
    let client = |out: &Path| {
        let (chain, key) = (read(out, "certificate.pem"), read(out, "private-key.pem"));
        Client::new(&read(out, "ca/simulator.pem"), Some((&chain, &key)))
    };
    assert_eq!(sim.register(&client(&out), "edge-7").status, 202);

    let flawed = sim.folder.path().join("flawed");
    issue("edge-7", &flawed, &["--flaw", "expired"]).success();
    assert_eq!(sim.register(&client(&flawed), "edge-7").status, 401);
}

#[test]
fn ctrl_c_ends_it_with_the_log_on_disk() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let log = folder.path().join("log.jsonl");
    let mut sim = Sim::start(&["--log", log.to_str().expect("UTF-8")]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    sim.register(&client, "edge-1");
    let pid = Pid::from_raw(i32::try_from(sim.child.id()).expect("pid"));
    kill(pid, Signal::SIGINT).expect("signal");
    assert!(sim.child.wait().expect("end").success());
    let mut rest = String::new();
    sim.stdout.read_to_string(&mut rest).expect("standard output");
    let shown: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(shown.len(), 1);
    let kept = fs::read_to_string(&log).expect("log");
    let mut kept: Value = serde_json::from_str(kept.trim()).expect("one entry");
    kept["event"] = "request".into();
    assert_eq!(shown[0], kept);
}
