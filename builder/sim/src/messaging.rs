//! The hub's messaging ports: MQTT over TLS (8883) and AMQP over TLS (5671), as far as a device that connects shows itself.
//!
//! ```text
//! device ── ClientHello, server name = the hub's ──► TLS
//!        ── MQTT 3.1.1 CONNECT: client id, user ────► CONNACK 0, and the mark `hub-messaging`
//!        ── or AMQP 1.0's header (SASL or plain) ───► the mark
//! ```
//!
//! A connection alone is no progress: a port scanner, or a device that asks for another hub, must not count as an agent that runs.
//! What follows is swallowed, but for MQTT's pings. Tokens are not looked at.
//!
//! MQTT: OASIS "MQTT Version 3.1.1", 3.1 and 3.2; a hub's client ids and users:
//! <https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub>. AMQP: OASIS "AMQP Version 1.0", part 2.2.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::door::{Seated, Standing};
use super::fault::Trouble;
use super::log::{Line, Mark};
use super::serve::{PATIENCE, World, swallow};
use super::service::Service;
use super::tls::Client;

/// Largest message of a hub, and so of what a client may send in one piece.
const LARGEST: usize = 256 * 1024;
/// MQTT's kinds of packets: the upper half of the first byte.
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;
/// AMQP's protocol header: plain, or SASL first.
const AMQP: [&[u8; 8]; 2] = [b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"];

/// One connection to a messaging port.
pub(super) async fn messaging(world: Arc<World>, stream: Seated, peer: SocketAddr, service: Service) {
    let port = stream.local_addr().map(|address| address.port()).unwrap_or_default();
    let trouble = world.faults.strike_handshake(service).or_else(|| world.faults.strike(service));
    let note =
        trouble.map_or_else(|| format!("port {port}"), |trouble| format!("port {port}, fault: {trouble}"));
    world.note(service, peer, "hub-messaging connect", note);
    match trouble {
        Some(Trouble::Silent) => return swallow(stream).await,
        Some(Trouble::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Trouble::Throttled | Trouble::Broken | Trouble::NotFound) => return,
        None | Some(Trouble::Untrusted | Trouble::Wrong | Trouble::Garbage) => {}
    }
    if let Err(note) = converse(&world, stream, peer, service, trouble).await {
        world.note(service, peer, "hub-messaging refused", note);
    }
}

/// TLS for the hub's name, then the protocol; or why this is no device that came to its hub.
async fn converse(
    world: &World,
    stream: Seated,
    peer: SocketAddr,
    service: Service,
    trouble: Option<Trouble>,
) -> Result<(), String> {
    let seat = stream.seat();
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = match timeout(PATIENCE, acceptor).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return Err(format!("no TLS: {error}")),
        Err(_) => return Err("no TLS handshake in time".into()),
    };
    let asked = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let Some(certificate) = world.web.certificate(Service::Hub, trouble) else { return Ok(()) };
    let handshake = timeout(PATIENCE, start.into_stream(certificate)).await;
    let Ok(Ok(mut stream)) = handshake else {
        return Err("the TLS handshake failed, or took too long".into());
    };
    seat.stand(Standing::Encrypted);
    match asked {
        None => return Err("the handshake names no server: whose hub is meant?".into()),
        Some(name) if !world.web.is_named(Service::Hub, &name) => {
            return Err(format!("{name} is not this hub"));
        }
        Some(_) => {}
    }
    let shown =
        stream.get_ref().1.peer_certificates().and_then(Client::of).and_then(|client| client.common_name);
    let (what, client) = match service {
        Service::Amqp => (amqp(&mut stream).await?, shown),
        _ => {
            let connect = mqtt(&mut stream).await?;
            let known = world.hub.knows(&connect.device);
            stream
                .write_all(&[CONNACK, 2, 0, if known { 0 } else { NOT_AUTHORISED }])
                .await
                .map_err(|error| said(&error))?;
            if !known {
                return Err(format!("MQTT: {} was not assigned to this hub", connect.device));
            }
            (format!("hub-messaging MQTT {}", connect.client_id), shown.or(Some(connect.device)))
        }
    };
    seat.stand(Standing::Served);
    world.log.add(service, peer, &Line { what, client, mark: Some(Mark::HubMessaging), ..Line::default() });
    match service {
        Service::Amqp => swallow(&mut stream).await,
        _ => pings(&mut stream).await,
    }
    let _ = stream.shutdown().await;
    Ok(())
}

/// CONNACK's return code 5.
const NOT_AUTHORISED: u8 = 5;

fn said(error: &std::io::Error) -> String {
    error.to_string()
}

async fn amqp(stream: &mut (impl AsyncRead + Unpin)) -> Result<String, String> {
    let mut header = [0; 8];
    match timeout(PATIENCE, stream.read_exact(&mut header)).await {
        Ok(Ok(_)) if AMQP.contains(&&header) => Ok("hub-messaging AMQP".into()),
        Ok(Ok(_)) => Err("no AMQP: its protocol header is missing".into()),
        Ok(Err(error)) => Err(format!("no AMQP: {error}")),
        Err(_) => Err("no AMQP: nothing came in time".into()),
    }
}

async fn mqtt(stream: &mut (impl AsyncRead + Unpin)) -> Result<Connect, String> {
    let first = async {
        // Whoever speaks something else may not send as much as its bytes would announce.
        match stream.read_u8().await.map_err(|error| said(&error))? & 0xf0 {
            CONNECT => body(stream).await,
            _ => Err("the first packet is no CONNECT".into()),
        }
    };
    match timeout(PATIENCE, first).await {
        Ok(body) => body.and_then(|body| Connect::parse(&body)).map_err(|why| format!("no MQTT: {why}")),
        Err(_) => Err("no MQTT: nothing came in time".into()),
    }
}

/// Answers pings until the client leaves.
async fn pings(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    while let Ok(kind) = stream.read_u8().await
        && body(stream).await.is_ok()
    {
        match kind & 0xf0 {
            DISCONNECT => return,
            PINGREQ if stream.write_all(&[PINGRESP, 0]).await.is_err() => return,
            _ => {}
        }
    }
}

/// A packet's body, of which the first byte has been read.
async fn body(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, String> {
    let mut length = 0_usize;
    // At most four bytes, seven bits each, the least first.
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await.map_err(|error| said(&error))?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if length > LARGEST {
                return Err(format!("a packet of {length} bytes"));
            }
            // As it comes, not as it is announced: the client's number alone takes no memory.
            let mut body = Vec::new();
            let read =
                stream.take(length as u64).read_to_end(&mut body).await.map_err(|error| said(&error))?;
            return if read == length { Ok(body) } else { Err("it ends within a packet".into()) };
        }
    }
    Err("a packet's length has more than four bytes".into())
}

/// Who connects.
#[derive(Debug, PartialEq)]
struct Connect {
    /// `device`, or `device/module`.
    client_id: String,
    /// The device of it.
    device: String,
}

impl Connect {
    /// Of a CONNECT's body: `MQTT`, level 4, flags, keep-alive, client id, will (topic, message), user, password.
    fn parse(body: &[u8]) -> Result<Self, String> {
        let mut rest = Fields(body);
        if rest.field()? != b"MQTT" || rest.byte()? != 4 {
            return Err("not version 3.1.1, which a hub speaks".into());
        }
        let flags = rest.byte()?;
        rest.take(2)?;
        let client_id = rest.text()?;
        if flags & 0x04 != 0 {
            rest.field()?;
            rest.field()?;
        }
        if flags & 0x80 == 0 {
            return Err("no user: a hub asks for HUB/DEVICE/?api-version=…".into());
        }
        let user = rest.text()?;
        let device = client_id.split('/').next().unwrap_or_default().to_owned();
        // HUB/DEVICE[/MODULE]/?api-version=…: the client id with the hub before.
        let named = user.split_once('/').and_then(|(_, rest)| rest.split_once("/?").map(|(id, _)| id));
        if device.is_empty() || named != Some(client_id.as_str()) {
            return Err(format!("the user does not name the client id {client_id} as a hub asks for it"));
        }
        Ok(Self { client_id, device })
    }
}

/// The rest of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("CONNECT ends too soon")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// Bytes with their length in two bytes before.
    fn field(&mut self) -> Result<&'a [u8], String> {
        let length = usize::from(self.byte()?) << 8 | usize::from(self.byte()?);
        self.take(length)
    }

    fn text(&mut self) -> Result<String, String> {
        let field = self.field()?;
        String::from_utf8(field.to_vec()).map_err(|_| "a text in CONNECT is not UTF-8".into())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Connect, body};

    /// A whole CONNECT packet.
    pub(crate) fn connect(client_id: &str, user: &str) -> Vec<u8> {
        let field = |text: &str| {
            let length = u16::try_from(text.len()).expect("short");
            [&length.to_be_bytes()[..], text.as_bytes()].concat()
        };
        let body =
            [&field("MQTT")[..], &[4, 0xc2, 0, 240], &field(client_id), &field(user), &field("secret")]
                .concat();
        let length = u8::try_from(body.len()).expect("short");
        assert!(length < 128);
        [&[0x10, length][..], &body].concat()
    }

    #[test]
    fn who_connects() {
        let user = "hub.example/edge-1/$edgeAgent/?api-version=2018-06-30";
        let whole = connect("edge-1/$edgeAgent", user);
        let body = &whole[2..];
        let expected = Connect { client_id: "edge-1/$edgeAgent".into(), device: "edge-1".into() };
        assert_eq!(Connect::parse(body), Ok(expected));
        let length_of_password = 2 + "secret".len();
        for cut in 0..body.len() - length_of_password {
            assert!(Connect::parse(&body[..cut]).is_err(), "{cut}");
        }
        for (client_id, user) in [
            ("edge-2/$edgeAgent", user),
            ("", "hub.example//?api-version=1"),
            ("edge-1", "edge-1"),
            ("edge-1", ""),
        ] {
            assert!(Connect::parse(&connect(client_id, user)[2..]).is_err(), "{client_id} {user}");
        }
        let mut older = body.to_vec();
        older[6] = 3;
        assert!(Connect::parse(&older).is_err());
    }

    #[tokio::test]
    async fn packets_have_bounds() {
        let read = async |bytes: &[u8]| body(&mut &*bytes).await;
        assert_eq!(read(&[0]).await, Ok(vec![]));
        assert_eq!(read(&[2, 7, 8, 9]).await, Ok(vec![7, 8]));
        for bad in [&[][..], &[3, 1], &[0x80, 0x80, 0x80, 0x80, 1], &[0xff, 0xff, 0x7f]] {
            assert!(read(bad).await.is_err(), "{bad:?}");
        }
    }
}
