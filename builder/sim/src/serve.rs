//! The connections: what carries requests to the services and answers back.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::RCODE;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dns::{self, Manner, Names};
use super::door::{Door, Seated, Standing};
use super::fault::{Faults, Trouble};
use super::hub::Hub;
use super::log::{Line, Log};
use super::ntp;
use super::service::Service;
use super::web::Web;

/// Slowed packets in flight at once; more are lost, as on any network.
const MOST_PACKETS: usize = 512;
/// Between two attempts where the system has no file descriptor left.
const BREATH: Duration = Duration::from_millis(50);
/// Time for a handshake, a request's header, or a DNS message over TCP.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Largest UDP packet that is read whole; what is longer is cut and then dropped as malformed.
const LARGEST_PACKET: usize = 4096;

/// Everything that the connections share.
pub(super) struct World {
    pub web: Web,
    /// Which devices are assigned: what the messaging ports ask.
    pub hub: Arc<Hub>,
    pub names: Names,
    pub faults: Faults,
    pub log: Log,
    pub clock_offset: time::Duration,
    door: Arc<Door>,
    packets: Arc<Semaphore>,
}

impl World {
    pub(super) fn new(web: Web, hub: Arc<Hub>, names: Names, log: Log, clock_offset: time::Duration) -> Self {
        let faults = Faults::new(log.started());
        let (door, packets) = (Arc::new(Door::new()), Arc::new(Semaphore::new(MOST_PACKETS)));
        Self { web, hub, names, faults, log, clock_offset, door, packets }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        now.checked_add(self.clock_offset).unwrap_or(now)
    }

    pub(super) fn note(&self, service: Service, peer: SocketAddr, what: &str, note: impl Into<String>) {
        self.log.add(service, peer, &Line { what: what.into(), note: note.into(), ..Line::default() });
    }
}

/// Accepts connections for ever; each runs `serve` on a task of its own, until it is done or has to make room for others.
pub(super) async fn accept<F>(
    world: Arc<World>,
    listener: TcpListener,
    service: Service,
    serve: impl Fn(Arc<World>, Seated, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of file descriptors, say: whoever does the least makes room, and is given the time for it.
            world.door.make_room();
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let taken = world.door.enter(peer.ip());
        let serving = serve(world.clone(), Seated::new(stream, taken.seat.clone()), peer);
        let world = world.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                why = taken.over() => world.note(service, peer, "connect", why),
            }
        });
    }
}

/// Reads until the other side closes, and says nothing.
pub(super) async fn swallow(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
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
        let Ok(slot) = world.packets.clone().try_acquire_owned() else { continue };
        let socket = socket.clone();
        tokio::spawn(async move {
            let _slot = slot;
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
    let truth = dns::reply(packet, &world.names, Manner::Well)?;
    let Way::Answer(trouble) = way(world, Service::Dns, peer, &truth.what) else { return None };
    let manner = match trouble {
        Some(Trouble::Throttled) => Manner::Failure(RCODE::Refused),
        Some(Trouble::Broken) => Manner::Failure(RCODE::ServerFailure),
        Some(Trouble::NotFound) => Manner::Failure(RCODE::NameError),
        Some(Trouble::Wrong) => Manner::Elsewhere,
        Some(Trouble::Garbage) => Manner::Garbage,
        _ => Manner::Well,
    };
    let reply = match manner {
        Manner::Well => truth,
        other => dns::reply(packet, &world.names, other)?,
    };
    let note = trouble.map_or(reply.note, |trouble| format!("fault: {trouble}"));
    let line = Line { what: reply.what, status: Some(reply.rcode), note, ..Line::default() };
    world.log.add(Service::Dns, peer, &line);
    Some((reply.bytes, delay_of(trouble)))
}

/// DNS over TCP: messages with a two-byte length before each.
pub(super) async fn dns_tcp(world: Arc<World>, mut stream: Seated, peer: SocketAddr) {
    let seat = stream.seat();
    while let Ok(Ok(length)) = timeout(PATIENCE, stream.read_u16()).await {
        let mut packet = vec![0; usize::from(length)];
        if !matches!(timeout(PATIENCE, stream.read_exact(&mut packet)).await, Ok(Ok(_))) {
            return;
        }
        let Some((reply, delay)) = dns_answer(&world, &packet, peer) else { return swallow(stream).await };
        tokio::time::sleep(delay).await;
        seat.stand(Standing::Served);
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
        Some(Trouble::Garbage) => ntp::Manner::Garbage,
        _ => ntp::Manner::Well,
    };
    let ahead = if trouble == Some(Trouble::Wrong) { ntp::WRONG } else { time::Duration::ZERO };
    let now = world.now();
    let reply = ntp::reply(packet, now.checked_add(ahead).unwrap_or(now), manner)?;
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
