//! From the raw image to the files that are handed on, in one pass.
//!
//! ```text
//!             chunks of 4 MiB, ┌─► digests of the block map's ranges
//! raw image ─► shared, through ├─► frames of Zstandard  ─┐ several at a time,
//!  data only   bounded queues  ├─► deflate for gzip     ─┘ written in order
//!           │                  └─► xz, several blocks at a time
//!           ├► SHA-256 of the disk (and of the VHD, which is the disk and a footer)
//!           └► copied in the kernel to the VHD, where the raw image stays too;  qemu-img makes qcow2, …
//! ```
//! Who hashes the disk has to go through its holes too, alone and in order, and there is a large one at the end of most
//! images. So it reads for itself and runs ahead of those that compress, who find what it read in the page cache; waiting
//! for them, it would hash that hole when nobody else has anything left to do.
//!
//! Holes are not read. What is made is the same whatever the number of cores. Memory: the chunks under way, at most
//! 4 MiB × (10 + 4 × cores), and for each core what a compressor needs (Zstandard 4 MiB, deflate 0.3 MiB, xz 150 MiB).

pub(crate) mod root;
pub mod vhd;

mod consume;
mod frames;
mod gz;
mod pass;
mod qemu;
mod xz;
mod zst;

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::{self, Scope, ScopedJoinHandle};

use anyhow::{Context as _, Result};

use crate::disk::{allocation, sparse};
use crate::event::{Event, Sink, Unit};
use crate::format::bmap::{self, Bmap};
use crate::format::{Format, Holds, Made, Packing};
use crate::units::{Digest, Sha256};
use consume::Whole;
use pass::Lines;

/// The step's name.
pub const STEP: &str = "export";

/// What is to be made of a raw image.
#[derive(Debug)]
pub struct Request<'a> {
    /// The raw image, whole and not changed meanwhile.
    pub raw: &'a Path,
    /// Format and file of each. A [`Format::Vhd`] whose file is the raw image itself becomes it: the footer is appended.
    /// [`Format::Img`] and [`Format::TarZst`] are none of a disk image's copies and not made here.
    pub targets: Vec<(Format, PathBuf)>,
    /// What the VHD's footer says; from its id come also those that formats of qemu-img have.
    pub vhd: vhd::Identity,
    /// How many threads compress; the result does not depend on it.
    pub threads: NonZeroUsize,
}

/// A file that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Its format.
    pub format: Format,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// What came of it.
#[derive(Debug)]
pub struct ExportOutcome {
    /// Bytes of the raw image.
    pub size: u64,
    /// SHA-256 of the raw image.
    pub sha256: Digest,
    /// The files, in the order of the request.
    pub files: Vec<Exported>,
}

/// As many threads as this machine runs at a time.
pub fn threads() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Makes the files.
///
/// # Errors
/// When the image cannot be read or a file cannot be written; a program that is missing.
pub fn run(request: &Request<'_>, sink: &dyn Sink) -> Result<ExportOutcome> {
    let raw = request.raw.display();
    let image = File::open(request.raw).with_context(|| format!("opening {raw}"))?;
    let size = image.metadata().with_context(|| format!("looking at {raw}"))?.len();
    sink.emit(Event::Started { step: STEP.into(), total: Some(size), unit: Unit::Bytes });
    let wants_map = request.targets.iter().any(|(format, _)| format.form().holds == Holds::Map);
    let ranges = wants_map.then(|| allocation::mapped(&image, size)).transpose();
    let ranges = ranges.with_context(|| format!("mapping {raw}"))?;
    let message = request.targets.iter().map(|(format, _)| format.to_string()).collect::<Vec<_>>().join(", ");
    let progress = |done| {
        sink.emit(Event::Progress { step: STEP.into(), done, message: message.clone() });
    };
    let made = thread::scope(|scope| Products::make(scope, request, (&image, size), ranges, progress))?;
    made.finish(request, size)
}

/// What makes one file, on a thread of its own; what is made of digests alone comes later.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    lines: &mut Lines,
    request: &'scope Request<'_>,
    (format, path): &'scope (Format, PathBuf),
) -> ScopedJoinHandle<'scope, Result<Option<Whole>>> {
    let threads = request.threads;
    match format.form().made {
        Made::Pass(packing) => {
            let chunks = lines.add();
            let write = move || match packing {
                Packing::Zst => zst::write(chunks, path, threads),
                Packing::Gz => gz::write(chunks, path, threads),
                Packing::Xz => xz::write(&chunks, path, threads),
            };
            scope.spawn(move || write().map(Some))
        }
        Made::Qemu(program) => {
            scope.spawn(move || qemu::convert(program, request.raw, path, request.vhd.id).map(Some))
        }
        Made::Footer if path != request.raw => {
            scope.spawn(move || sparse::fill(request.raw, path).map(|()| None))
        }
        Made::Footer | Made::Itself | Made::Map | Made::Tree => scope.spawn(|| Ok(None)),
    }
}

/// What the pass yields.
struct Products {
    hasher: Sha256,
    map: Option<Vec<bmap::Mapped>>,
    files: Vec<Option<Whole>>,
}

impl Products {
    /// Starts all consumers, then reads the image, so many bytes long.
    fn make<'scope>(
        scope: &'scope Scope<'scope, '_>,
        request: &'scope Request<'_>,
        (image, size): (&'scope File, u64),
        ranges: Option<Vec<Range<u64>>>,
        progress: impl Fn(u64),
    ) -> Result<Self> {
        let mut lines = Lines::default();
        let map = ranges.map(|ranges| {
            let chunks = lines.add();
            scope.spawn(move || consume::ranges(&chunks, ranges))
        });
        let files: Vec<_> =
            request.targets.iter().map(|target| start(scope, &mut lines, request, target)).collect();
        let (hasher, read) = if lines.is_empty() {
            (sparse::hash(image, size, progress), Ok(()))
        } else {
            let hasher = scope.spawn(move || sparse::hash(image, size, |_| ()));
            let read = lines.read(image, size, progress);
            (joined(hasher), read)
        };
        let map = map.map(joined);
        // All of them, before the first that failed is reported.
        let files: Vec<_> = files.into_iter().map(joined).collect();
        let context = || format!("reading {}", request.raw.display());
        read.with_context(context)?;
        let hasher = hasher.with_context(context)?;
        Ok(Self { hasher, map, files: files.into_iter().collect::<Result<_>>()? })
    }

    /// What is made of the digests: the map's file and the VHD's footer.
    fn finish(mut self, request: &Request<'_>, size: u64) -> Result<ExportOutcome> {
        let mut files = Vec::new();
        for ((format, path), whole) in request.targets.iter().zip(self.files) {
            let whole = match (format.form().made, whole) {
                (_, Some(whole)) => whole,
                (Made::Map, None) => {
                    let ranges = self.map.take().unwrap_or_default();
                    Whole::small(path, &Bmap { image_size: size, block_size: bmap::BLOCK, ranges }.to_xml())?
                }
                (Made::Footer, None) => vhd::finish(path, size, &request.vhd, self.hasher.clone())?,
                (Made::Itself | Made::Tree, None) => continue,
                (Made::Pass(_) | Made::Qemu(_), None) => {
                    anyhow::bail!("nothing was made for the format {format}")
                }
            };
            files.push(Exported { format: *format, size: whole.size, sha256: whole.sha256 });
        }
        Ok(ExportOutcome { size, sha256: self.hasher.finish(), files })
    }
}

fn joined<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests;
