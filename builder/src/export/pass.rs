//! The one reader: chunks of the raw image, each to everybody.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context as _, Result};

use crate::disk::sparse;

/// Bytes of a chunk, which is also what a frame of Zstandard holds: long enough to compress as well as one stream does,
/// short enough that a part of the image is read by unpacking little.
pub(super) const CHUNK: usize = 4 << 20;
/// Chunks that wait for a consumer.
const QUEUE: usize = 4;

/// Lets the digest of the disk go first: what it has not done when the others are ready, nobody can help it with. Without
/// the SHA extension it is the longest work of all.
///
/// On Linux the nice value is the calling thread's own (setpriority(2), "C library/kernel differences").
pub(super) fn stand_back() {
    // A third of the weight: enough here, and not so little that they starve beside other programs. As it was before
    // where it cannot be had.
    let _ = rustix::process::nice(5);
}

/// A part of the raw image; all are [`CHUNK`] long but the last.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// Bytes.
    pub length: usize,
    /// The bytes; absent: zeros.
    pub data: Option<Arc<Vec<u8>>>,
}

impl Chunk {
    /// A chunk of these bytes.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let length = bytes.len();
        let data = bytes.iter().any(|byte| *byte != 0).then(|| Arc::new(bytes));
        Self { length, data }
    }

    /// Its bytes in pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.range(0..self.length)
    }

    /// Some of its bytes in pieces.
    pub(super) fn range(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        // Short enough to stay in the fastest cache while a hole is hashed.
        const ZEROS: &[u8] = &[0; 16 << 10];
        let whole = self.data.as_deref().map(|bytes| &bytes[range.clone()]);
        let zeros = if whole.is_some() { 0 } else { range.len() };
        let pieces = (0..zeros).step_by(ZEROS.len()).map(move |at| &ZEROS[..ZEROS.len().min(zeros - at)]);
        whole.into_iter().chain(pieces)
    }
}

/// The queues to the consumers.
#[derive(Default)]
pub(super) struct Lines {
    queues: Vec<SyncSender<Chunk>>,
}

impl Lines {
    /// Whether nobody wants the bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// One more consumer.
    pub(super) fn add(&mut self) -> Receiver<Chunk> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.queues.push(sender);
        receiver
    }

    /// Reads the image from start to end. Ends early, without an error of its own, when a consumer has gone: that one
    /// has the error.
    pub(super) fn read(self, image: &File, size: u64, progress: impl Fn(u64)) -> Result<()> {
        let data = sparse::data_ranges(image, size).context("looking for holes")?;
        let mut next = 0;
        let mut at = 0;
        while at < size {
            let end = size.min(at + CHUNK as u64);
            while data.get(next).is_some_and(|range| range.end <= at) {
                next += 1;
            }
            let chunk = chunk(image, at..end, &data[next..])?;
            if self.queues.iter().any(|queue| queue.send(chunk.clone()).is_err()) {
                return Ok(());
            }
            at = end;
            progress(at);
        }
        Ok(())
    }
}

fn chunk(image: &File, span: Range<u64>, data: &[Range<u64>]) -> Result<Chunk> {
    let length = usize::try_from(span.end - span.start)?;
    let inside: Vec<_> = data.iter().take_while(|range| range.start < span.end).collect();
    if inside.is_empty() {
        return Ok(Chunk { length, data: None });
    }
    let mut bytes = vec![0; length];
    for range in inside {
        let (start, end) = (range.start.max(span.start), range.end.min(span.end));
        let place = usize::try_from(start - span.start)?..usize::try_from(end - span.start)?;
        image.read_exact_at(&mut bytes[place], start)?;
    }
    Ok(Chunk::new(bytes))
}
