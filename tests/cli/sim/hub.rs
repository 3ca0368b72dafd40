//! The hub's messaging, what DPS makes of a registration, and a crowd at the door.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use edgepress::sim::pki::DeviceOptions;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use super::{DPS, HUB, LONG};
use crate::support::simulator::Sim;

/// MQTT's CONNECT, version 3.1.1, with user and password.
fn connect(client_id: &str, user: &str) -> Vec<u8> {
    let field =
        |text: &str| [&u16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat();
    let body =
        [&field("MQTT")[..], &[4, 0xc2, 0, 240], &field(client_id), &field(user), &field("secret")].concat();
    let length = body.len();
    let low = u8::try_from(length % 128).expect("seven bits");
    let packet = [0x10, 0x80 | low, u8::try_from(length / 128).expect("short")];
    [&packet[..], &body].concat()
}

/// Only a device of the hub, that asks for the hub by name and speaks as one, is an agent that runs.
#[test]
fn messaging_of_others_is_no_progress() {
    let mut sim = Sim::start(&[]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    sim.assign(&client, "edge-1");
    let user = |device: &str| format!("{HUB}/{device}/$edgeAgent/?api-version=2018-06-30");
    let good = connect("edge-1/$edgeAgent", &user("edge-1"));
    for (service, name, sent, note) in [
        ("mqtt", "localhost", good.clone(), "is not this hub"),
        ("mqtt", HUB, b"\x10\x00".to_vec(), "no MQTT"),
        ("mqtt", HUB, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no MQTT"),
        ("mqtt", HUB, connect("edge-2/$edgeAgent", &user("edge-2")), "edge-2 was not assigned"),
        ("mqtt", HUB, connect("edge-1/$edgeAgent", "edge-1"), "the user does not name"),
        ("amqp", HUB, good.clone(), "no AMQP"),
    ] {
        let mut stream = client.connect(sim.address(service), name);
        stream.write_all(&sent).expect("send");
        assert_eq!(sim.line()["what"], "hub-messaging connect");
        let entry = sim.line();
        assert_eq!((&entry["what"], &entry["mark"]), (&"hub-messaging refused".into(), &Value::Null));
        assert!(entry["note"].as_str().expect("a note").contains(note), "{entry}");
    }
}

/// The device is called otherwise than its registration, and only under that name has the hub its modules.
#[test]
fn a_custom_allocation() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let payload = folder.path().join("payload.json");
    std::fs::write(&payload, r#"{"site": "north"}"#).expect("write");
    let payload = payload.to_str().expect("UTF-8");
    let mut sim = Sim::start(&["--device-id", "north-*", "--payload", payload]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    let state = sim.assign(&client, "edge-1");
    assert_eq!((&state["deviceId"], &state["registrationId"]), (&"north-edge-1".into(), &"edge-1".into()));
    assert_eq!(state["payload"]["site"], "north");
    for (device, status) in [("north-edge-1", 200), ("edge-1", 401)] {
        let modules = format!("/devices/{device}/modules?api-version=2017-11-08-preview");
        assert_eq!(sim.call(&client, "GET", &modules, "").status, status, "{device}");
    }
}

/// Whatever others hold open, a new client gets in: 1,200 connections that say nothing, 300 that speak TLS and then nothing.
#[test]
fn a_new_client_gets_in_past_a_crowd() {
    // For this whole process, where others' tests run: never less than there was.
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, now.max(most.min(4096)), most).expect("more files");
    let sim = Sim::start(&[]);
    let idle = |service: &str| TcpStream::connect(sim.address(service)).expect("connect");
    let services = ["dps", "mqtt", "dns", "amqp"];
    let _silent: Vec<_> = (0..1200).map(|at| idle(services[at % services.len()])).collect();
    let other = sim.client("other", &DeviceOptions::default());
    let _encrypted: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = other.connect(sim.address("dps"), DPS);
            stream.conn.complete_io(&mut stream.sock).expect("a handshake, in spite of those before");
            stream
        })
        .collect();
    // Within the time that a client has, not when the others are timed out.
    let began = Instant::now();
    let client = sim.client("edge-1", &DeviceOptions::default());
    assert_eq!(sim.register(&client, "edge-1").status, 202);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn messaging_dns_and_time() {
    let mut sim = Sim::start(&["--name", "*.edge.test=10.1.2.3", "--clock-offset", "-86400"]);
    let client = sim.client("edge-1", &DeviceOptions::default());
    sim.assign(&client, "edge-1");
    let connect = connect("edge-1/$edgeAgent", &format!("{HUB}/edge-1/$edgeAgent/?api-version=2018-06-30"));
    let mut stream = client.connect(sim.address("mqtt"), HUB);
    stream.write_all(&connect).expect("TLS");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("CONNACK");
    assert_eq!(answer, [0x20, 2, 0, 0]);
    stream.write_all(&[0xc0, 0]).expect("PINGREQ");
    stream.read_exact(&mut answer[..2]).expect("PINGRESP");
    assert_eq!(answer[..2], [0xd0, 0]);
    assert_eq!(sim.line()["what"], "hub-messaging connect");
    let entry = sim.line();
    assert_eq!((&entry["mark"], &entry["service"]), (&"hub-messaging".into(), &"mqtt".into()));
    assert_eq!(
        (&entry["what"], &entry["client"]),
        (&"hub-messaging MQTT edge-1/$edgeAgent".into(), &"edge-1".into())
    );
    let mut stream = client.connect(sim.address("amqp"), HUB);
    stream.write_all(b"AMQP\x03\x01\0\0").expect("TLS");
    assert_eq!(sim.line()["what"], "hub-messaging connect");
    let entry = sim.line();
    assert_eq!((&entry["mark"], &entry["service"]), (&"hub-messaging".into(), &"amqp".into()));

    let mut stream = client.connect(sim.address("hub"), HUB);
    let head =
        "GET /$iothub/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("send");
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 503");
    let entry = sim.line();
    assert_eq!((&entry["mark"], &entry["service"]), (&"hub-messaging".into(), &"hub".into()));

    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.set_read_timeout(Some(LONG)).expect("timeout");
    let mut reply = [0; 512];
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01x\x04edge\x04test\0\0\x01\0\x01";
    socket.send_to(query, sim.address("dns")).expect("send");
    let length = socket.recv(&mut reply).expect("answer");
    assert_eq!(reply[length - 4..length], [10, 1, 2, 3]);
    assert_eq!(sim.line()["what"], "A x.edge.test");

    let mut request = [0; 48];
    request[0] = 0x23;
    socket.send_to(&request, sim.address("ntp")).expect("send");
    assert_eq!(socket.recv(&mut reply).expect("answer"), 48);
    let told = i64::from(u32::from_be_bytes(reply[40..44].try_into().expect("4 bytes"))) - 2_208_988_800;
    let behind = time::OffsetDateTime::now_utc().unix_timestamp() - told;
    assert!((86_400..86_460).contains(&behind), "{behind} s");
    assert_eq!(sim.line()["service"], "ntp");
}
