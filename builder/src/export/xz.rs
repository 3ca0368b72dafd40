//! xz in blocks, several at a time; the file is the one that `xz -6 -T0` makes.

use std::io::{BufWriter, Write as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, Result};
use liblzma::stream::{Check, MtStreamBuilder};
use liblzma::write::XzEncoder;

use super::consume::{Hashed, Whole};
use super::pass::{self, Chunk};

/// As Raspberry Pi OS images have it.
const PRESET: u32 = 6;
/// Three times the dictionary of the preset, as xz itself takes it. Fixed, so that the file does not depend on the
/// number of threads.
const BLOCK: u64 = 24 << 20;
/// Each takes 150 MiB.
const MOST_THREADS: u32 = 8;

/// Writes the file.
pub(super) fn write(chunks: &Receiver<Chunk>, path: &Path, threads: NonZeroUsize) -> Result<Whole> {
    let context = || format!("writing {}", path.display());
    let threads = u32::try_from(threads.get()).unwrap_or(MOST_THREADS).min(MOST_THREADS);
    // Before the threads are there: they take it over.
    pass::stand_back();
    let mut builder = MtStreamBuilder::new();
    builder.preset(PRESET).check(Check::Crc64).block_size(BLOCK).threads(threads);
    let stream = builder.encoder().context("starting xz")?;
    let out = BufWriter::with_capacity(1 << 20, Hashed::create(path)?);
    let mut encoder = XzEncoder::new_stream(out, stream);
    for chunk in chunks {
        chunk.pieces().try_for_each(|piece| encoder.write_all(piece)).with_context(context)?;
    }
    let out = encoder.finish().with_context(context)?;
    let out = out.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(context)?;
    Ok(out.finish())
}
