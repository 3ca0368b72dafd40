//! The connections: what carries requests to the services and answers back.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, UPGRADE};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use simple_dns::RCODE;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::dns::Names;
use super::dps::Dps;
use super::exchange::{Answer, Request};
use super::fault::{Faults, Trouble};
use super::hub::Hub;
use super::log::{Line, Log, Mark};
use super::tls::Client;
use super::{Service, dns, dps, hub, ntp};

/// Connections and slowed packets in flight at once; more wait.
const MOST_AT_ONCE: usize = 512;
/// Time for a handshake, a request's header, or a DNS message over TCP.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest request body.
const LARGEST_BODY: usize = 256 * 1024;
/// Largest UDP packet that is read whole; what is longer is cut and then dropped as malformed.
const LARGEST_PACKET: usize = 4096;
/// What a throttled client is told to wait, seconds.
const RETRY_AFTER: u32 = 5;

/// Everything that the connections share.
pub(super) struct World {
    pub dps: Dps,
    pub hub: Arc<Hub>,
    pub names: Names,
    pub faults: Faults,
    pub log: Log,
    pub clock_offset: time::Duration,
    pub dps_name: String,
    pub hub_name: String,
    pub dps_tls: Arc<ServerConfig>,
    pub hub_tls: Arc<ServerConfig>,
    slots: Semaphore,
}

impl World {
    pub(super) fn new(
        dps: Dps,
        hub: Arc<Hub>,
        names: Names,
        log: Log,
        clock_offset: time::Duration,
        (dps_name, dps_tls): (String, Arc<ServerConfig>),
        (hub_name, hub_tls): (String, Arc<ServerConfig>),
    ) -> Self {
        let (faults, slots) = (Faults::default(), Semaphore::new(MOST_AT_ONCE));
        Self { dps, hub, names, faults, log, clock_offset, dps_name, hub_name, dps_tls, hub_tls, slots }
    }

    fn now(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        now.checked_add(self.clock_offset).unwrap_or(now)
    }

    fn note(&self, service: Service, peer: SocketAddr, what: &str, note: impl Into<String>) {
        self.log.add(service, peer, &Line { what: what.into(), note: note.into(), ..Line::default() });
    }

    fn tls(&self, service: Service) -> Arc<ServerConfig> {
        match service {
            Service::Dps => self.dps_tls.clone(),
            _ => self.hub_tls.clone(),
        }
    }
}

/// Accepts connections for ever; each runs `serve` on a task of its own.
pub(super) async fn accept<F>(
    world: Arc<World>,
    listener: TcpListener,
    serve: impl Fn(Arc<World>, TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of file descriptors, say: give connections the time to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let serving = serve(world.clone(), stream, peer);
        let world = world.clone();
        tokio::spawn(async move {
            let _slot = world.slots.acquire().await;
            serving.await;
        });
    }
}

/// HTTPS of DPS and hub: by the name that the client asks for, else that of the listener.
pub(super) async fn https(world: Arc<World>, stream: TcpStream, peer: SocketAddr, listener: Service) {
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = match timeout(PATIENCE, acceptor).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return world.note(listener, peer, "connect", format!("no TLS: {error}")),
        Err(_) => return world.note(listener, peer, "connect", "no TLS handshake in time"),
    };
    let asked = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let service = match asked {
        Some(name) if name == world.dps_name => Service::Dps,
        Some(name) if name == world.hub_name => Service::Hub,
        _ => listener,
    };
    if world.faults.strike_silent(service) {
        world.note(service, peer, "connect", "fault: silent");
        return swallow(start.io).await;
    }
    let stream = match timeout(PATIENCE, start.into_stream(world.tls(service))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return world.note(service, peer, "connect", format!("TLS handshake failed: {error}"));
        }
        Err(_) => return world.note(service, peer, "connect", "TLS handshake not finished in time"),
    };
    let client = stream.get_ref().1.peer_certificates().and_then(Client::of).map(Arc::new);
    let handler = service_fn(move |request| respond(world.clone(), service, peer, client.clone(), request));
    // The error is the client's: it went away or spoke no HTTP; what it asked for is logged already.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

type Response = hyper::Response<Full<Bytes>>;

async fn respond(
    world: Arc<World>,
    service: Service,
    peer: SocketAddr,
    client: Option<Arc<Client>>,
    request: hyper::Request<Incoming>,
) -> Result<Response, hyper::http::Error> {
    let (head, body) = request.into_parts();
    // Without a server name (a client that goes by address), the path tells the services apart.
    let service = match head.uri.path() {
        path if path.starts_with("/devices/") || path.starts_with("/$iothub/") => Service::Hub,
        _ => service,
    };
    let what = format!("{} {}", head.method, head.uri.path());
    let line =
        Line { what, client: client.as_ref().and_then(|it| it.common_name.clone()), ..Line::default() };
    let trouble = world.faults.strike(service);
    match trouble {
        Some(Trouble::Silent) => {
            world.log.add(service, peer, &Line { note: "fault: silent".into(), ..line });
            match std::future::pending::<Infallible>().await {}
        }
        Some(Trouble::Slow(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err((status, note)) => {
            world.log.add(service, peer, &Line { status: Some(status), note, ..line });
            return http_response(Answer { status, ..Answer::default() });
        }
    };
    let request = Request {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        if_match: head.headers.get(IF_MATCH).and_then(|value| value.to_str().ok()),
        body: &body,
        client: client.as_deref(),
        now: world.now(),
    };
    let upgrade = head.headers.contains_key(UPGRADE);
    let mut answer = answer(&world, service, &request, trouble, upgrade);
    if let Some(Trouble::Slow(_)) = trouble {
        answer.note = format!("{} fault: slow", answer.note).trim_start().to_owned();
    }
    let (status, mark, note) = (Some(answer.status), answer.mark, answer.note.clone());
    world.log.add(service, peer, &Line { status, mark, note, ..line });
    http_response(answer)
}

/// A body of bounded size within bounded time, or the status and reason of the refusal.
async fn read(body: Incoming) -> Result<Bytes, (u16, String)> {
    match timeout(PATIENCE, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err((413, format!("body: {error}"))),
        Ok(Err(error)) => Err((400, format!("body: {error}"))),
        Err(_) => Err((408, "body not sent in time".into())),
    }
}

fn answer(
    world: &World,
    service: Service,
    request: &Request<'_>,
    trouble: Option<Trouble>,
    upgrade: bool,
) -> Answer {
    match (service, trouble) {
        (Service::Dps, Some(Trouble::Throttled)) => dps::throttled(request, RETRY_AFTER),
        (Service::Dps, Some(Trouble::Broken)) => dps::broken(request),
        (Service::Dps, _) => world.dps.answer(request),
        (_, Some(Trouble::Throttled)) => hub::throttled(request, RETRY_AFTER),
        (_, Some(Trouble::Broken)) => hub::broken(request),
        // AMQP and MQTT over web sockets: that it connects is all that is simulated.
        _ if upgrade || request.path.starts_with("/$iothub/websocket") => {
            let note = "hub-messaging connect (web socket)";
            Answer { status: 503, ..Answer::default() }.mark(Some(Mark::HubMessaging)).note(note)
        }
        _ => world.hub.answer(request),
    }
}

fn http_response(answer: Answer) -> Result<Response, hyper::http::Error> {
    let mut builder = hyper::Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            builder = builder.header(HeaderName::from_static(name), value);
        }
    }
    match answer.body {
        None => builder.body(Full::default()),
        Some(body) => builder
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .body(Full::from(body.to_string().into_bytes())),
    }
}

/// Reads until the other side closes, and says nothing.
async fn swallow(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// The hub's messaging ports: that a device connects is logged at once, TLS is spoken if the client does, and
/// what it then sends is swallowed.
pub(super) async fn messaging(world: Arc<World>, stream: TcpStream, peer: SocketAddr, service: Service) {
    let port = stream.local_addr().map(|address| address.port()).unwrap_or_default();
    let trouble = world.faults.strike(service);
    let note =
        trouble.map_or_else(|| format!("port {port}"), |trouble| format!("port {port}, fault: {trouble}"));
    let what = String::from("hub-messaging connect");
    world.log.add(service, peer, &Line { what, mark: Some(Mark::HubMessaging), note, ..Line::default() });
    match trouble {
        Some(Trouble::Throttled | Trouble::Broken) => return,
        Some(Trouble::Silent) => return swallow(stream).await,
        Some(Trouble::Slow(delay)) => tokio::time::sleep(delay).await,
        None => {}
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(world.tls(Service::Hub));
    // A client that never speaks keeps its connection: it may only want to know that the port is open.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let client = stream.get_ref().1.peer_certificates().and_then(Client::of);
    let client = client.and_then(|client| client.common_name);
    world.log.add(service, peer, &Line { what: "hub-messaging TLS".into(), client, ..Line::default() });
    swallow(&mut stream).await;
    let _ = stream.shutdown().await;
}

/// What is left of a packet's answer once the trouble is dealt with.
enum Way {
    Answer(Option<Trouble>),
    Nothing,
}

fn way(world: &World, service: Service, peer: SocketAddr, what: &str) -> Way {
    match world.faults.strike(service) {
        Some(Trouble::Silent) => {
            world.note(service, peer, what, "fault: silent");
            Way::Nothing
        }
        other => Way::Answer(other),
    }
}

/// A reply, and how long to hold it back.
type Delayed = (Vec<u8>, Duration);

/// A UDP service: `answer` makes the reply, a task of its own sends it, so that a slow one holds up no other.
pub(super) async fn udp(
    world: Arc<World>,
    socket: UdpSocket,
    answer: fn(&World, &[u8], SocketAddr) -> Option<Delayed>,
) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; LARGEST_PACKET];
    loop {
        // An error here is an earlier packet's that found no one; the socket is as good as before.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Some((reply, delay)) = answer(&world, &buffer[..length], peer) else { continue };
        if delay.is_zero() {
            let _ = socket.send_to(&reply, peer).await;
            continue;
        }
        let (world, socket) = (world.clone(), socket.clone());
        tokio::spawn(async move {
            let _slot = world.slots.acquire().await;
            tokio::time::sleep(delay).await;
            let _ = socket.send_to(&reply, peer).await;
        });
    }
}

fn delay_of(trouble: Option<Trouble>) -> Duration {
    match trouble {
        Some(Trouble::Slow(delay)) => delay,
        _ => Duration::ZERO,
    }
}

/// One DNS message, over UDP or TCP.
pub(super) fn dns_answer(world: &World, packet: &[u8], peer: SocketAddr) -> Option<Delayed> {
    // A packet that is no query counts as none, and uses up no fault.
    let truth = dns::reply(packet, &world.names, None)?;
    let Way::Answer(trouble) = way(world, Service::Dns, peer, &truth.what) else { return None };
    let failure = match trouble {
        Some(Trouble::Throttled) => Some(RCODE::Refused),
        Some(Trouble::Broken) => Some(RCODE::ServerFailure),
        _ => None,
    };
    let reply = match failure {
        None => truth,
        some => dns::reply(packet, &world.names, some)?,
    };
    let note = trouble.map_or(reply.note, |trouble| format!("fault: {trouble}"));
    let line = Line { what: reply.what, status: Some(reply.rcode), note, ..Line::default() };
    world.log.add(Service::Dns, peer, &line);
    Some((reply.bytes, delay_of(trouble)))
}

/// DNS over TCP: messages with a two-byte length before each.
pub(super) async fn dns_tcp(world: Arc<World>, mut stream: TcpStream, peer: SocketAddr) {
    while let Ok(Ok(length)) = timeout(PATIENCE, stream.read_u16()).await {
        let mut packet = vec![0; usize::from(length)];
        if !matches!(timeout(PATIENCE, stream.read_exact(&mut packet)).await, Ok(Ok(_))) {
            return;
        }
        let Some((reply, delay)) = dns_answer(&world, &packet, peer) else { return swallow(stream).await };
        tokio::time::sleep(delay).await;
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

/// One NTP request.
pub(super) fn ntp_answer(world: &World, packet: &[u8], peer: SocketAddr) -> Option<Delayed> {
    ntp::reply(packet, world.now(), ntp::Manner::Well)?;
    let Way::Answer(trouble) = way(world, Service::Ntp, peer, "time") else { return None };
    let manner = match trouble {
        Some(Trouble::Throttled) => ntp::Manner::Rate,
        Some(Trouble::Broken) => ntp::Manner::Unsynchronised,
        _ => ntp::Manner::Well,
    };
    let reply = ntp::reply(packet, world.now(), manner)?;
    world.note(
        Service::Ntp,
        peer,
        "time",
        trouble.map_or_else(String::new, |trouble| format!("fault: {trouble}")),
    );
    Some((reply.to_vec(), delay_of(trouble)))
}

/// Whether an address can be told to a device.
pub(super) fn tellable(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
}
