//! The sockets of a whole simulation; what is said over TLS is tested with a real client in `tests/cli/sim.rs`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::fault::{Fault, Trouble};
use super::log::LogEntry;
use super::pki::Pki;
use super::{Addresses, Config, Service, Simulation};
use edgepress_base::error::problem;

/// Long enough for the busiest machine; only a failing test waits for it.
const LONG: Duration = Duration::from_secs(30);

fn world() -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut config = Config::new(Pki::open_or_create(&folder.path().join("pki")).expect("authorities"));
    for service in Service::ALL {
        config.addresses = config.addresses.with(service, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    }
    (folder, config)
}

fn ask(simulation: &Simulation, service: Service, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.set_read_timeout(Some(patience)).expect("timeout");
    socket.send_to(packet, simulation.addr(service)).expect("send");
    let mut reply = [0; 2048];
    let length = socket.recv(&mut reply).ok()?;
    Some(reply[..length].to_vec())
}

fn next(entries: &Receiver<LogEntry>) -> LogEntry {
    entries.recv_timeout(LONG).expect("an entry in time")
}

/// `A? pool.ntp.org`.
const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04pool\x03ntp\x03org\0\0\x01\0\x01";

#[test]
fn names_over_udp_and_tcp() {
    let (_folder, config) = world();
    let simulation = Simulation::start(config).expect("start");
    let entries = simulation.subscribe();
    let by_udp = ask(&simulation, Service::Dns, QUERY, LONG).expect("reply");
    assert_eq!(by_udp[..2], QUERY[..2]);
    assert_eq!(by_udp[by_udp.len() - 4..], [127, 0, 0, 1]);

    let mut stream = TcpStream::connect(simulation.addr(Service::Dns)).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    for _ in 0..2 {
        let length = u16::try_from(QUERY.len()).expect("short").to_be_bytes();
        stream.write_all(&[&length[..], QUERY].concat()).expect("send");
        let mut reply = vec![0; by_udp.len() + 2];
        stream.read_exact(&mut reply).expect("reply");
        assert_eq!(reply[2..], by_udp);
    }
    for _ in 0..3 {
        let entry = next(&entries);
        assert_eq!((entry.what.as_str(), entry.status), ("A pool.ntp.org", Some(0)));
        assert_eq!(entry.note, "127.0.0.1");
    }
}

#[test]
fn time_with_its_offset_and_its_faults() {
    let (_folder, mut config) = world();
    config.clock_offset = time::Duration::days(365);
    config.faults = vec![(Service::Ntp, Fault::first(1, Trouble::Throttled))];
    let simulation = Simulation::start(config).expect("start");
    let entries = simulation.subscribe();
    let mut packet = [0; 48];
    packet[0] = 0x23;
    let rate = ask(&simulation, Service::Ntp, &packet, LONG).expect("reply");
    assert_eq!(&rate[12..16], b"RATE");
    let reply = ask(&simulation, Service::Ntp, &packet, LONG).expect("reply");
    let seconds = u32::from_be_bytes(reply[40..44].try_into().expect("4 bytes"));
    let expected = time::OffsetDateTime::now_utc().unix_timestamp() + 365 * 86_400 + 2_208_988_800;
    let ahead = i64::from(seconds) - (expected & 0xffff_ffff);
    assert!((-60..=1).contains(&ahead), "{ahead} s");

    simulation.set_fault(Service::Ntp, Some(Fault::first(1, Trouble::Silent)));
    assert!(ask(&simulation, Service::Ntp, &packet, Duration::from_millis(200)).is_none());
    simulation.set_fault(Service::Ntp, Some(Fault::first(1, Trouble::Slow(Duration::from_millis(100)))));
    let before = std::time::Instant::now();
    assert!(ask(&simulation, Service::Ntp, &packet, LONG).is_some());
    assert!(before.elapsed() >= Duration::from_millis(100));
    let notes: Vec<String> = (0..4).map(|_| next(&entries).note).collect();
    assert_eq!(notes, ["fault: 429", "", "fault: silent", "fault: slow by 0.1 s"]);
}

#[test]
fn names_and_time_can_be_wrong() {
    let (_folder, mut config) = world();
    config.faults = vec![
        (Service::Dns, Fault::first(1, Trouble::Wrong)),
        (Service::Dns, Fault::first(1, Trouble::NotFound)),
        (Service::Dns, Fault::first(1, Trouble::Garbage)),
        (Service::Ntp, Fault::first(1, Trouble::Wrong)),
        (Service::Ntp, Fault::first(1, Trouble::Garbage)),
    ];
    let simulation = Simulation::start(config).expect("start");
    let dns = || ask(&simulation, Service::Dns, QUERY, LONG).expect("reply");
    assert!(dns().ends_with(&[192, 0, 2, 1]));
    assert_eq!(dns()[3] & 15, 3, "no such name");
    assert_eq!(dns()[..4], [0, 7, 0xff, 0xff]);
    assert!(dns().ends_with(&[127, 0, 0, 1]));
    let mut packet = [0; 48];
    packet[0] = 0x23;
    let ntp = || ask(&simulation, Service::Ntp, &packet, LONG).expect("reply");
    let now = time::OffsetDateTime::now_utc().unix_timestamp() + 2_208_988_800;
    let years = |reply: Vec<u8>| {
        let told = u32::from_be_bytes(reply[40..44].try_into().expect("4 bytes"));
        (i64::from(told) - (now & 0xffff_ffff)) as f64 / (365.25 * 86_400.0)
    };
    assert!((4.9..5.1).contains(&years(ntp())));
    assert_eq!(ntp()[0] & 7, 7, "no server's mode");
    assert!(years(ntp()).abs() < 0.1);
}

#[test]
fn faults_that_cannot_strike_are_refused() {
    for (service, trouble, message) in [
        (Service::Dns, Trouble::Untrusted, "dns cannot have the fault `untrusted`"),
        (Service::Metadata, Trouble::Broken, "metadata is given the fault `500`, but is left off"),
    ] {
        let (_folder, mut config) = world();
        config.faults = vec![(service, Fault::always(trouble))];
        let error = Simulation::start(config).expect_err("refused");
        assert_eq!(problem(&error).expect("a problem").message, message);
    }
}

#[test]
fn a_bare_connection_to_the_messaging_ports_is_no_progress() {
    let (_folder, config) = world();
    let simulation = Simulation::start(config).expect("start");
    let entries = simulation.subscribe();
    for service in [Service::Mqtt, Service::Amqp] {
        let mut stream = TcpStream::connect(simulation.addr(service)).expect("connect");
        let entry = next(&entries);
        assert_eq!((entry.service, entry.mark), (service, None));
        assert_eq!(entry.what, "hub-messaging connect");
        assert_eq!(entry.note, format!("port {}", simulation.addr(service).port()));
        assert_eq!(entry.peer, stream.local_addr().expect("address"));
        stream.write_all(b"\x10\x00AMQP no TLS").expect("send");
        let entry = next(&entries);
        assert_eq!((entry.what.as_str(), entry.mark), ("hub-messaging refused", None));
        assert!(entry.note.starts_with("no TLS"), "{}", entry.note);
    }
}

#[test]
fn what_is_no_tls_is_logged() {
    let (_folder, config) = world();
    let simulation = Simulation::start(config).expect("start");
    let entries = simulation.subscribe();
    let mut stream = TcpStream::connect(simulation.addr(Service::Dps)).expect("connect");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("send");
    let entry = next(&entries);
    assert_eq!((entry.service, entry.what.as_str()), (Service::Dps, "connect"));
    assert!(entry.note.starts_with("no TLS"), "{}", entry.note);
}

#[test]
fn a_port_in_use_is_named_and_free_again_at_the_end() {
    let (_folder, config) = world();
    let simulation = Simulation::start(config.clone()).expect("start");
    for service in config.services() {
        let taken = simulation.addr(service);
        let mut second = config.clone();
        second.addresses = second.addresses.with(service, taken);
        let error = Simulation::start(second).expect_err("in use");
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.contains(&format!("{taken} for {service}")), "{}", problem.message);
        assert!(problem.hint.is_some());
    }
    let taken = simulation.addr(Service::Mqtt);
    drop(simulation);
    let mut again = config;
    again.addresses = again.addresses.with(Service::Mqtt, taken);
    Simulation::start(again).expect("the port is free again");
}

#[test]
fn an_address_that_cannot_be_told_is_refused() {
    let (_folder, mut config) = world();
    config.addresses = Addresses::all_at(Ipv4Addr::UNSPECIFIED);
    let error = Simulation::start(config).expect_err("refused");
    assert!(problem(&error).is_some_and(|problem| problem.hint.is_some()));
}
