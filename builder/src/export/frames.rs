//! Chunks packed by several threads, each chunk for itself, and written in their order.
//!
//! ```text
//! chunks ─► dispatch ─► jobs ─► threads ─┐ each has a slot of its own for the answer
//!               └─────► order of slots ──┴─► write
//! ```
//! Both queues are bounded, so that one slow chunk cannot make the others pile up behind it.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use super::pass::{self, CHUNK, Chunk};

/// A chunk, packed.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    /// What goes into the file.
    pub bytes: Arc<Vec<u8>>,
    /// Bytes that were packed.
    pub length: usize,
    /// CRC-32 of these, for formats that need it.
    pub crc: crc32fast::Hasher,
}

/// How one chunk is packed, the same way at all times.
pub(super) trait Packer: Sync {
    /// What a thread keeps from one chunk to the next.
    type State;

    /// A thread begins.
    fn start(&self) -> Result<Self::State>;

    /// Packs one chunk for itself.
    fn pack(&self, state: &mut Self::State, bytes: &[u8]) -> Result<Packed>;
}

type Job = (Chunk, SyncSender<Result<Packed>>);

/// Packs all chunks and hands them to `write` in order.
pub(super) fn pack<P: Packer>(
    chunks: Receiver<Chunk>,
    threads: NonZeroUsize,
    packer: &P,
    mut write: impl FnMut(Packed) -> Result<()>,
) -> Result<()> {
    let zeros = OnceLock::new();
    thread::scope(|scope| {
        let (jobs, queue) = sync_channel::<Job>(threads.get());
        // Owned by the threads alone: when they are gone, nobody waits for a place in the queue.
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.get() {
            let (queue, zeros) = (Arc::clone(&queue), &zeros);
            scope.spawn(move || work(packer, &queue, zeros));
        }
        drop(queue);
        let (slots, answers) = sync_channel(2 * threads.get());
        scope.spawn(move || dispatch(&chunks, &jobs, &slots));
        // By value: when writing fails, the dispatcher must see that nobody takes answers any more.
        for answer in answers {
            write(answer.recv().context("waiting for a thread that packs")??)?;
        }
        Ok(())
    })
}

fn dispatch(chunks: &Receiver<Chunk>, jobs: &SyncSender<Job>, slots: &SyncSender<Receiver<Result<Packed>>>) {
    for chunk in chunks {
        let (answer, slot) = sync_channel(1);
        if slots.send(slot).is_err() || jobs.send((chunk, answer)).is_err() {
            return;
        }
    }
}

fn work<P: Packer>(packer: &P, queue: &Mutex<Receiver<Job>>, zeros: &OnceLock<Packed>) {
    pass::stand_back();
    let mut state = packer.start();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((chunk, answer)) = job else { return };
        let packed = match &mut state {
            Ok(state) => one(packer, state, &chunk, zeros),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        // Nobody waits for it where writing has failed.
        let _ = answer.send(packed);
    }
}

/// A whole chunk of zeros is packed once; an image has hundreds of them.
fn one<P: Packer>(
    packer: &P,
    state: &mut P::State,
    chunk: &Chunk,
    zeros: &OnceLock<Packed>,
) -> Result<Packed> {
    match &chunk.data {
        Some(bytes) => packer.pack(state, bytes),
        None if chunk.length == CHUNK => {
            if let Some(packed) = zeros.get() {
                return Ok(packed.clone());
            }
            let packed = packer.pack(state, &vec![0; CHUNK])?;
            Ok(zeros.get_or_init(|| packed).clone())
        }
        None => packer.pack(state, &vec![0; chunk.length]),
    }
}
