//! One reader, many writers: chunks are handed out to a queue for each target.
//!
//! ```text
//!            ┌─ queue ─► checker      digests; never left behind
//! reader ────┼─ queue ─► /dev/sda
//!   ▲        ├─ queue ─► /dev/sdb     slow: its queue holds the buffers that the reader waits for, while sda has nothing
//!   │        └─ queue ─► /dev/sdc     to do: it is *detached*, and goes on from there with a decoder of its own
//!  pool of buffers
//! ```
//! All queues share the pool's buffers, so memory is bounded whatever happens, and a target may fall behind by as much as
//! there is. Only when others have waited for [`Feed::patience`] is the slowest detached, once and for good: a slow card
//! costs the others that moment and no more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chunk::{Buffer, Chunk, Pool};
use super::verification::Verified;

/// How long the reader sleeps before it looks again who is in the way.
const LOOK: Duration = Duration::from_millis(20);
/// Chunks in a queue; most of an image may be zeros, which take no buffer.
const LONGEST: usize = 512;

/// The reason of a run that the user stopped.
pub(crate) const INTERRUPTED: &str = "interrupted";

/// What became of the image: all of it read and found to be what it must be, or why not.
pub(crate) type FlashOutcome = Result<Arc<Verified>, String>;

/// What a consumer is given.
pub(crate) enum Next {
    /// The next chunk.
    Chunk(Arc<Chunk>),
    /// It was too slow: it goes on by itself, with the chunk of this number.
    Detached(u64),
    /// There are no more.
    End,
    /// Nothing more will come, for this reason.
    Broken(String),
}

/// Nobody wants any more.
#[derive(Debug)]
pub(crate) struct Nobody;

/// The queues.
pub(crate) struct Feed {
    pool: Arc<Pool>,
    patience: Duration,
    targets: usize,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

struct State {
    slots: Vec<Slot>,
    ended: bool,
    outcome: Option<FlashOutcome>,
}

#[derive(Default)]
struct Slot {
    queue: VecDeque<Arc<Chunk>>,
    /// First chunk that it did not get.
    detached: Option<u64>,
    gone: bool,
    idle: Option<Instant>,
}

impl Slot {
    fn attached(&self) -> bool {
        !self.gone && self.detached.is_none()
    }
}

impl Feed {
    /// For so many targets, numbered from 0, and a checker.
    pub(crate) fn new(targets: usize, buffers: usize, patience: Duration) -> Self {
        let slots = (0..=targets).map(|_| Slot::default()).collect();
        Self {
            pool: Pool::new(buffers),
            patience,
            targets,
            state: Mutex::new(State { slots, ended: false, outcome: None }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        }
    }

    /// The checker's number.
    pub(crate) fn checker(&self) -> usize {
        self.targets
    }

    /// Everybody shall stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Was it stopped?
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A buffer for the next chunk.
    ///
    /// # Errors
    /// When no target is left.
    pub(crate) fn buffer(&self) -> Result<Buffer, Nobody> {
        loop {
            self.wanted(&self.state())?;
            if let Some(buffer) = self.pool.take(LOOK) {
                return Ok(buffer);
            }
            self.relieve(&mut self.state());
        }
    }

    fn wanted(&self, state: &State) -> Result<(), Nobody> {
        // A target that is detached still waits for the image's digest.
        let any = state.slots[..self.targets].iter().any(|slot| !slot.gone);
        if any && !self.stopped() { Ok(()) } else { Err(Nobody) }
    }

    /// Hands a chunk to everybody.
    ///
    /// # Errors
    /// When no target is left.
    pub(crate) fn push(&self, chunk: &Arc<Chunk>) -> Result<(), Nobody> {
        let mut state = self.state();
        loop {
            self.wanted(&state)?;
            if state.slots.iter().all(|slot| slot.queue.len() < LONGEST) {
                break;
            }
            self.relieve(&mut state);
            state = self.wait(state);
        }
        for slot in state.slots.iter_mut().filter(|slot| slot.attached()) {
            slot.queue.push_back(chunk.clone());
            slot.idle = None;
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Detaches the slowest, if others have nothing to do because of it.
    fn relieve(&self, state: &mut State) {
        let (targets, checker) = state.slots.split_at_mut(self.targets);
        let bored = |slot: &Slot| slot.idle.is_some_and(|since| since.elapsed() >= self.patience);
        if !targets.iter().any(|slot| slot.attached() && bored(slot)) {
            return;
        }
        let slowest = targets.iter_mut().filter(|slot| slot.attached()).max_by_key(|slot| slot.queue.len());
        // Where the checker is as far behind, it is the processor that everybody waits for.
        let behind = checker.first().map_or(0, |checker| checker.queue.len());
        if let Some(slot) = slowest.filter(|slot| slot.queue.len() > behind) {
            slot.detached = slot.queue.front().map(|chunk| chunk.index);
            slot.queue.clear();
            self.changed.notify_all();
        }
    }

    /// No chunk comes any more.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// States what became of the image; the first word counts.
    pub(crate) fn settle(&self, outcome: FlashOutcome) {
        self.state().outcome.get_or_insert(outcome);
        self.changed.notify_all();
    }

    fn reason(&self, state: &State) -> Option<String> {
        let stopped = self.stopped().then(|| INTERRUPTED.to_owned());
        stopped.or_else(|| state.outcome.as_ref().and_then(|outcome| outcome.as_ref().err().cloned()))
    }

    /// Why nobody shall go on, if it came to that. Waits for nothing.
    pub(crate) fn broken(&self) -> Option<String> {
        self.reason(&self.state())
    }

    /// What a consumer does next. Waits for it.
    pub(crate) fn next(&self, slot: usize) -> Next {
        let mut state = self.state();
        loop {
            if let Some(reason) = self.reason(&state) {
                return Next::Broken(reason);
            }
            let ended = state.ended;
            let own = &mut state.slots[slot];
            if let Some(from) = own.detached {
                return Next::Detached(from);
            }
            if let Some(chunk) = own.queue.pop_front() {
                return Next::Chunk(chunk);
            }
            if ended {
                return Next::End;
            }
            own.idle.get_or_insert_with(Instant::now);
            state = self.wait(state);
        }
    }

    /// A target wants no more.
    pub(crate) fn leave(&self, slot: usize) {
        let mut state = self.state();
        state.slots[slot].gone = true;
        state.slots[slot].queue.clear();
        self.changed.notify_all();
    }

    /// What became of the image. Waits for it.
    pub(crate) fn outcome(&self) -> FlashOutcome {
        let mut state = self.state();
        loop {
            if self.stopped() {
                return Err(INTERRUPTED.into());
            }
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state = self.wait(state);
        }
    }

    /// Buffers that were ever needed at once.
    #[cfg(test)]
    pub(crate) fn buffers(&self) -> usize {
        self.pool.made()
    }
}

#[cfg(test)]
mod tests {
    use super::{Feed, Next};
    use crate::flash::chunk::Chunk;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    const MOMENT: Duration = Duration::from_millis(30);

    fn push(feed: &Feed, index: u64) -> bool {
        let Ok(mut buffer) = feed.buffer() else { return false };
        buffer[0] = 1;
        feed.push(&Arc::new(Chunk::new(index, 9, buffer, None))).is_ok()
    }

    /// One target takes nothing, the other everything: the first is detached, and the memory is what it may be.
    #[test]
    fn a_target_that_sleeps_is_left_behind() {
        let feed = Feed::new(2, 4, MOMENT);
        let taken = thread::scope(|scope| {
            scope.spawn(|| {
                (0..50).for_each(|index| assert!(push(&feed, index)));
                feed.end();
            });
            scope.spawn(|| while let Next::Chunk(_) = feed.next(feed.checker()) {});
            let mut taken = Vec::new();
            while let Next::Chunk(chunk) = feed.next(1) {
                taken.push(chunk.index);
            }
            taken
        });
        assert!(taken.into_iter().eq(0..50));
        assert!(matches!(feed.next(0), Next::Detached(0)));
        assert!(feed.buffers() <= 4);
    }

    #[test]
    fn who_waits_for_nobody_waits_on() {
        // A single slow target is not detached: nobody else has anything to do.
        let feed = Feed::new(1, 3, Duration::ZERO);
        thread::scope(|scope| {
            scope.spawn(|| {
                (0..5).for_each(|index| assert!(push(&feed, index)));
                feed.end();
            });
            scope.spawn(|| while let Next::Chunk(_) = feed.next(feed.checker()) {});
            thread::sleep(MOMENT);
            for index in 0..5 {
                let Next::Chunk(chunk) = feed.next(0) else { panic!("no chunk") };
                assert_eq!(chunk.index, index);
            }
            assert!(matches!(feed.next(0), Next::End));
        });
    }

    #[test]
    fn without_targets_the_reader_ends() {
        let feed = Feed::new(2, 3, MOMENT);
        feed.leave(0);
        assert!(push(&feed, 0));
        feed.leave(1);
        assert!(!push(&feed, 1) && feed.broken().is_none());
        feed.settle(Err("the file is damaged".into()));
        assert_eq!(feed.broken().as_deref(), Some("the file is damaged"));
        assert!(matches!(feed.next(0), Next::Broken(_)));
        assert_eq!(feed.outcome().err().as_deref(), Some("the file is damaged"));
        feed.stop();
        assert!(matches!(feed.next(1), Next::Broken(_)));
    }
}
