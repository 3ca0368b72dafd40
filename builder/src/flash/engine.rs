//! The threads: one reads and unpacks, one computes digests, one for each device writes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::block_device::BlockDevice;
use super::chunk::Chunk;
use super::feed::{Feed, Next, Nobody};
use super::source::{FlashImage, Hashed};
use super::verification::{Verification, Verified};
use super::writer::{self, Job, Watch, Work, WriteFailure};
use crate::format::decode::fill;
use crate::stamp::patch::Patch;

/// Buffers of a MiB for everybody, and for each target besides. With what decoders, read-back and first MiB take (6 MiB,
/// and 2 MiB a target) it stays below 64 MB and 8 MB a target.
const BUFFERS: usize = 24;
const BUFFERS_PER_TARGET: usize = 4;
/// So long others wait for a slow target before it is left behind; once per slow target. Cards that are good stop for a
/// quarter of a second now and then, to erase.
const PATIENCE: Duration = Duration::from_millis(500);

/// A device that is written.
pub(crate) struct Target<'a> {
    /// It.
    pub device: &'a dyn BlockDevice,
    /// Its size, bytes.
    pub size: u64,
    /// Its identity.
    pub patch: Option<&'a Patch>,
    /// Where secrets lie on it, bytes: wiped if it fails.
    pub secrets: Vec<Range<u64>>,
    /// Who is told; `done` once, at the end.
    pub watch: &'a dyn Watch,
}

/// What came of one device.
pub(crate) type Result<T = Arc<Verified>> = std::result::Result<T, WriteFailure>;

/// Queues for so many targets.
pub(crate) fn feed(targets: usize) -> Feed {
    Feed::new(targets, BUFFERS + targets * BUFFERS_PER_TARGET, PATIENCE)
}

/// Writes the image to all targets; `done` is called on each one's thread as soon as it is over.
pub(crate) fn write(
    source: &FlashImage,
    targets: &[Target<'_>],
    verify: bool,
    feed: &Feed,
    done: &(dyn Fn(usize, &Work, &Result) + Sync),
) {
    let hashed = Mutex::new(None);
    thread::scope(|scope| {
        scope.spawn(|| {
            match read(source, feed) {
                Ok(Some(read)) => *hashed.lock().unwrap_or_else(PoisonError::into_inner) = Some(read),
                Ok(None) => {}
                Err(error) => feed.settle(Err(format!("reading the image: {error:#}"))),
            }
            feed.end();
        });
        scope.spawn(|| {
            if let Some(outcome) = check(source, feed, &hashed) {
                feed.settle(outcome);
            }
        });
        for (slot, target) in targets.iter().enumerate() {
            scope.spawn(move || {
                let Target { device, size, patch, ref secrets, watch } = *target;
                let job = Job { device, size, patch, secrets, feed, slot, source, verify, watch };
                let mut work = Work::default();
                let result = writer::run(&job, &mut work);
                done(slot, &work, &result);
            });
        }
    });
}

/// Reads the image to its end; none where nobody wanted all of it.
fn read(source: &FlashImage, feed: &Feed) -> anyhow::Result<Option<Hashed>> {
    let (mut stream, hashed) = source.read()?;
    let mapped = source.mapped();
    for index in 0.. {
        let Ok(mut buffer) = feed.buffer() else { return Ok(None) };
        let length = fill(&mut stream, &mut buffer)?;
        // A decoder says only at its very end whether what it gave was whole: reading goes on until it gives nothing.
        if length == 0 {
            break;
        }
        let chunk = Arc::new(Chunk::new(index, length, buffer, mapped.as_deref()));
        if let Err(Nobody) = feed.push(&chunk) {
            return Ok(None);
        }
    }
    Ok(Some(hashed))
}

/// Looks at every chunk, and says what became of the image; nothing where not all of it was read.
fn check(
    source: &FlashImage,
    feed: &Feed,
    hashed: &Mutex<Option<Hashed>>,
) -> Option<std::result::Result<Arc<Verified>, String>> {
    let mut check = Verification::new(source);
    loop {
        match feed.next(feed.checker()) {
            Next::Chunk(chunk) => {
                if let Err(reason) = check.take(&chunk) {
                    return Some(Err(reason));
                }
            }
            Next::End => break,
            Next::Broken(_) | Next::Detached(_) => return None,
        }
    }
    let hashed = hashed.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    Some(check.finish(hashed))
}
