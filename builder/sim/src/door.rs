//! Who is inside: every TCP connection has a seat, and when there are too many, the one that does the least gives up its own.
//!
//! ```text
//! accept ─► enter ─► seat: peer, standing, last byte ──► serve
//!             │ full                                       ▲ dropped: the connection closes
//!             └──► of the peer with the most seats, the one of lowest standing that has been quiet longest
//! ```
//!
//! So a new client always gets in, whatever others hold open: idle connections cost memory and file descriptors, of which there is
//! an end. A *standing* is what a connection has shown so far; those that showed nothing go first.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Connections at once: half of the file descriptors that a process usually has.
const MOST: usize = 512;
/// Of them, those of one address: the rest is for the others.
const MOST_OF_PEER: usize = 384;
/// A connection on which nothing came for this long is closed. MQTT's and AMQP's clients of a hub ping at least every 29 minutes.
const LONGEST_SILENCE: Duration = Duration::from_secs(30 * 60);

/// What a connection has shown, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It is open.
    Open = 0,
    /// TLS is spoken.
    Encrypted = 1,
    /// It has asked something that a device asks.
    Served = 2,
    /// It is being answered.
    Busy = 3,
}

/// The connections of one simulation.
pub(super) struct Door {
    most: usize,
    most_of_peer: usize,
    started: Instant,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Arc<Seat>>,
}

/// One connection's place.
pub(super) struct Seat {
    number: u64,
    peer: IpAddr,
    standing: AtomicU8,
    /// Milliseconds since the door was made.
    last: AtomicU64,
    started: Instant,
    gone: Notify,
}

impl Door {
    pub(super) fn new() -> Self {
        Self::with(MOST, MOST_OF_PEER)
    }

    fn with(most: usize, most_of_peer: usize) -> Self {
        Self { most, most_of_peer, started: Instant::now(), seats: Mutex::default() }
    }

    /// A seat for a newcomer, for which another is given up where there is none left.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Taken {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = seats.taken.values().filter(|seat| seat.peer == peer).count();
        if of_peer >= self.most_of_peer {
            seats.give_up(Some(peer));
        } else if seats.taken.len() >= self.most {
            seats.give_up(None);
        }
        let number = seats.next;
        seats.next += 1;
        let seat = Arc::new(Seat {
            number,
            peer,
            standing: AtomicU8::new(Standing::Open as u8),
            last: AtomicU64::new(millis(self.started)),
            started: self.started,
            gone: Notify::new(),
        });
        seats.taken.insert(number, seat.clone());
        Taken { door: self.clone(), seat }
    }

    /// Has one connection end, for there is no file descriptor for another; false where nobody is inside.
    pub(super) fn make_room(&self) -> bool {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).give_up(None)
    }
}

impl Seats {
    /// Ends a connection of this peer, or of the one that has the most.
    fn give_up(&mut self, of: Option<IpAddr>) -> bool {
        let Some(peer) = of.or_else(|| self.greediest()) else { return false };
        let of_peer = self.taken.values().filter(|seat| seat.peer == peer);
        let Some(number) = of_peer.min_by_key(|seat| seat.merit()).map(|seat| seat.number) else {
            return false;
        };
        // Its place counts from now on, not when its task has noticed.
        if let Some(seat) = self.taken.remove(&number) {
            seat.gone.notify_one();
        }
        true
    }

    fn greediest(&self) -> Option<IpAddr> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        self.taken.values().for_each(|seat| *counts.entry(seat.peer).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(peer, _)| peer)
    }
}

impl Seat {
    /// By what seats are given up, the lowest first.
    fn merit(&self) -> (u8, u64) {
        (self.standing.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed))
    }

    /// The connection has shown more, or has been answered.
    pub(super) fn stand(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.last.store(millis(self.started), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(millis(self.started).saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A seat while its connection is open.
pub(super) struct Taken {
    door: Arc<Door>,
    pub(super) seat: Arc<Seat>,
}

impl Taken {
    /// Until the connection has to end: the seat was given up, or nothing came for too long.
    pub(super) async fn over(&self) -> &'static str {
        loop {
            let left = LONGEST_SILENCE.saturating_sub(self.seat.silence());
            if left.is_zero() {
                return "closed: nothing came for half an hour";
            }
            tokio::select! {
                () = self.seat.gone.notified() => return "closed: too many connections, and this one did the least",
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.door.seats.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.seat.number);
    }
}

/// A connection with its seat, which knows when a byte last came.
pub(super) struct Seated {
    stream: TcpStream,
    seat: Arc<Seat>,
}

impl Seated {
    pub(super) fn new(stream: TcpStream, seat: Arc<Seat>) -> Self {
        Self { stream, seat }
    }

    pub(super) fn seat(&self) -> Arc<Seat> {
        self.seat.clone()
    }

    /// The address that was connected to.
    ///
    /// # Errors
    /// When the system does not know it.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.seat.touch();
        }
        done
    }
}

impl AsyncWrite for Seated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, Seat, Standing, Taken};
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn peer(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn inside(door: &Door) -> Vec<u64> {
        door.seats.lock().expect("seats").taken.keys().copied().collect()
    }

    /// At one's times, so that nothing depends on the clock.
    fn came(taken: &Taken, standing: Standing, last: u64) {
        let seat: &Seat = &taken.seat;
        seat.stand(standing);
        seat.last.store(last, Ordering::Relaxed);
    }

    #[test]
    fn who_shows_least_goes_first() {
        let door = Arc::new(Door::with(4, 4));
        let all: Vec<_> = (0..4).map(|_| door.enter(peer(1))).collect();
        came(&all[0], Standing::Served, 1);
        came(&all[1], Standing::Encrypted, 2);
        came(&all[2], Standing::Encrypted, 3);
        came(&all[3], Standing::Busy, 0);
        let mut later = Vec::new();
        // A newcomer that shows nothing goes before those that did.
        for expected in [vec![0, 2, 3, 4], vec![0, 2, 3, 5], vec![0, 2, 3, 6]] {
            later.push(door.enter(peer(1)));
            assert_eq!(inside(&door), expected);
        }
        later.iter().for_each(|taken| came(taken, Standing::Busy, 9));
        later.push(door.enter(peer(1)));
        assert_eq!(inside(&door), [0, 3, 6, 7]);
        // All are busy: the one that has been for longest.
        came(&all[0], Standing::Busy, 5);
        came(&later[3], Standing::Busy, 9);
        later.push(door.enter(peer(1)));
        assert_eq!(inside(&door), [0, 6, 7, 8]);
        drop((all, later));
        assert!(inside(&door).is_empty());
        assert!(!door.make_room());
    }

    #[test]
    fn one_peer_does_not_push_out_another() {
        let door = Arc::new(Door::with(6, 4));
        let one = door.enter(peer(2));
        let many: Vec<_> = (0..20).map(|_| door.enter(peer(1))).collect();
        assert_eq!(inside(&door).len(), 5, "the others' share stays free");
        let third: Vec<_> = (0..3).map(|_| door.enter(peer(3))).collect();
        let left = inside(&door);
        assert!(left.contains(&one.seat.number) && left.len() == 6);
        assert!(third.iter().all(|taken| left.contains(&taken.seat.number)));
        drop(many);
        assert_eq!(inside(&door).len(), 4);
    }

    #[tokio::test]
    async fn a_connection_hears_of_it() {
        let door = Arc::new(Door::with(1, 1));
        let first = door.enter(peer(1));
        let _second = door.enter(peer(1));
        assert!(first.over().await.contains("too many"));
    }
}
