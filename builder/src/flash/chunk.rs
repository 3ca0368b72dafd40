//! A piece of the image on its way to the devices, and the bounded memory that pieces live in.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a chunk: what is held back to the end is just the first one.
pub(crate) const CHUNK: usize = 1 << 20;
/// Alignment of memory, places and lengths that reading and writing past the page cache asks for (open(2), `O_DIRECT`: the
/// logical block size, which is 4096 at most; flash pages are no smaller).
pub(crate) const ALIGN: usize = 4096;
/// A shorter gap between two parts that are written is written as well: cards like long writes.
const GAP: usize = 32 << 10;
/// Zeros are looked for in pieces of this length.
const PIECE: usize = 64 << 10;

/// Memory whose first byte is aligned.
#[derive(Default)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// [`CHUNK`] zeros; the default has no bytes at all.
    pub(crate) fn new() -> Self {
        let memory = vec![0; CHUNK + ALIGN];
        // Without an answer the memory is as good as any other, for writes through the page cache.
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start: if start < ALIGN { start } else { 0 }, length: CHUNK }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// So many buffers and no more, however many chunks are on their way.
pub(crate) struct Pool {
    state: Mutex<Free>,
    returned: Condvar,
    most: usize,
}

struct Free {
    buffers: Vec<Aligned>,
    made: usize,
}

impl Pool {
    /// Buffers are made when they are first needed.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let state = Mutex::new(Free { buffers: Vec::new(), made: 0 });
        Arc::new(Self { state, returned: Condvar::new(), most })
    }

    fn state(&self) -> MutexGuard<'_, Free> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer, with whatever it last held; none if all are on their way for that long.
    pub(crate) fn take(self: &Arc<Self>, patience: Duration) -> Option<Buffer> {
        let mut free = self.state();
        if free.buffers.is_empty() && free.made < self.most {
            free.made += 1;
            free.buffers.push(Aligned::new());
        }
        if free.buffers.is_empty() {
            let waited = self.returned.wait_timeout(free, patience);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        free.buffers.pop().map(|memory| Buffer { memory: Some(memory), pool: self.clone() })
    }

    /// Buffers that were ever made: the most that were on their way at once.
    #[cfg(test)]
    pub(crate) fn made(&self) -> usize {
        self.state().made
    }
}

/// A buffer of a pool, to which it returns.
pub(crate) struct Buffer {
    memory: Option<Aligned>,
    pool: Arc<Pool>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.state().buffers.extend(self.memory.take());
        self.pool.returned.notify_one();
    }
}

/// What of a chunk is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Extents {
    /// Parts that are written, ascending and apart, multiples of [`ALIGN`] but for the image's end.
    pub data: Vec<Range<usize>>,
    /// Must the rest read as zeros, or may the device's old content stay there (a block map says so)?
    pub zeros: bool,
}

impl Extents {
    /// Of bytes without a block map: all that are not zero.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let pieces = bytes.chunks(PIECE).enumerate().filter(|(_, piece)| !is_zero(piece));
        let data = pieces.map(|(at, piece)| at * PIECE..at * PIECE + piece.len());
        Self { data: join(data, bytes.len()), zeros: true }
    }

    /// Of a block map: what of it lies in the chunk of `length` bytes at `start`.
    pub(crate) fn mapped(ranges: &[Range<u64>], start: u64, length: usize) -> Self {
        let end = start + length as u64;
        let first = ranges.partition_point(|range| range.end <= start);
        let here = ranges[first..].iter().take_while(|range| range.start < end);
        let data = here
            .map(|range| (range.start.max(start) - start) as usize..(range.end.min(end) - start) as usize);
        Self { data: join(data, length), zeros: false }
    }

    /// With these parts as well.
    #[must_use]
    pub(crate) fn with(&self, more: impl Iterator<Item = Range<usize>>, length: usize) -> Self {
        let mut data: Vec<_> = self.data.iter().cloned().chain(more).collect();
        data.sort_by_key(|range| range.start);
        Self { data: join(data.into_iter(), length), zeros: self.zeros }
    }

    /// The parts that are not written.
    pub(crate) fn rest(&self, length: usize) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut rest = Vec::new();
        for range in self.data.iter().chain([&(length..length)]) {
            if at < range.start {
                rest.push(at..range.start);
            }
            at = range.end;
        }
        rest
    }
}

/// Ascending parts, widened to whole [`ALIGN`]s, those that nearly touch as one.
fn join(parts: impl Iterator<Item = Range<usize>>, length: usize) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for part in parts {
        let wide = part.start / ALIGN * ALIGN..part.end.next_multiple_of(ALIGN).min(length);
        match all.last_mut() {
            Some(last) if wide.start <= last.end + GAP => last.end = last.end.max(wide.end),
            _ => all.push(wide),
        }
    }
    all
}

/// Nothing but zeros?
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Words of 16 bytes: the compiler makes it as fast as memory is.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// One chunk of the image.
pub(crate) struct Chunk {
    /// Which, from 0.
    pub index: u64,
    /// Its bytes; all of them are [`CHUNK`] long but the last.
    pub length: usize,
    /// None where all are zero.
    bytes: Option<Buffer>,
    /// What of it is written.
    pub extents: Extents,
}

/// What chunks without bytes hold.
pub(crate) static ZEROS: LazyLock<Aligned> = LazyLock::new(Aligned::new);

impl Chunk {
    /// `mapped` is the block map in bytes.
    pub(crate) fn new(index: u64, length: usize, buffer: Buffer, mapped: Option<&[Range<u64>]>) -> Self {
        let found = Extents::of(&buffer[..length]);
        let bytes = (!found.data.is_empty()).then_some(buffer);
        let extents = mapped.map_or(found, |ranges| Extents::mapped(ranges, index * CHUNK as u64, length));
        Self { index, length, bytes, extents }
    }

    /// Where it begins in the image.
    pub(crate) fn start(&self) -> u64 {
        self.index * CHUNK as u64
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().map_or(&ZEROS[..self.length], |bytes| &bytes[..self.length])
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one part is what is expected, not a run of numbers")]
mod tests {
    use super::{ALIGN, Aligned, CHUNK, Chunk, Extents, GAP, PIECE, Pool, is_zero};
    use std::time::Duration;

    #[test]
    fn memory_is_aligned_and_bounded() {
        assert_eq!(Aligned::new().as_ptr().align_offset(ALIGN), 0);
        let pool = Pool::new(2);
        let now = Duration::from_millis(1);
        let (first, second) = (pool.take(now).expect("one"), pool.take(now).expect("two"));
        assert!(pool.take(now).is_none());
        drop(first);
        assert!(pool.take(now).is_some());
        drop(second);
        assert_eq!(pool.made(), 2);
    }

    #[test]
    fn zeros_are_not_written() {
        let mut bytes = vec![0; 5 * PIECE + 100];
        assert_eq!(Extents::of(&bytes), Extents { data: vec![], zeros: true });
        bytes[5 * PIECE + 99] = 1;
        bytes[7] = 1;
        let found = Extents::of(&bytes);
        assert_eq!(found.data, [0..PIECE, 5 * PIECE..5 * PIECE + 100]);
        assert_eq!(found.rest(bytes.len()), [PIECE..5 * PIECE]);
        assert!(is_zero(&[0; 33]) && !is_zero(&bytes[..9]) && !is_zero(&bytes[5 * PIECE..]));
        let pool = Pool::new(1);
        let mut buffer = pool.take(Duration::ZERO).expect("a buffer");
        buffer.fill(0);
        let chunk = Chunk::new(3, 1000, buffer, None);
        assert!(pool.take(Duration::ZERO).is_some(), "zeros keep no buffer");
        assert_eq!((chunk.bytes(), chunk.start()), (&[0; 1000][..], 3 * CHUNK as u64));
    }

    #[test]
    fn a_block_map_says_what_is_written() {
        let mib = CHUNK as u64;
        let ranges = [0..4096, mib - 4096..mib + 8192, mib + 100_000..3 * mib + 5];
        let at = |index: u64, length| Extents::mapped(&ranges, index * mib, length).data;
        assert_eq!(at(0, CHUNK), [0..4096, CHUNK - 4096..CHUNK]);
        assert_eq!(at(1, CHUNK), [0..8192, 98_304..CHUNK]);
        assert_eq!(at(2, CHUNK), [0..CHUNK]);
        assert_eq!(at(3, 5), [0..5]);
        assert!(at(4, 5).is_empty());
        let near = Extents::mapped(&[0..4096, 4096 + GAP as u64..40_960 + 4096], 0, CHUNK);
        assert_eq!(near.data, [0..45_056]);
        let more = near.with([CHUNK - 512..CHUNK].into_iter(), CHUNK);
        assert_eq!(more.data, [0..45_056, CHUNK - 4096..CHUNK]);
    }
}
