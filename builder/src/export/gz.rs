//! gzip as one member, deflated by several threads.
//!
//! Each chunk is deflated without looking at the one before and ends on a whole byte (a "full flush"), so that the
//! pieces, one after the other, are one deflate stream; an empty last block ends it. Several members would be easier,
//! but not every flashing tool reads on after the first. RFC 1951 and 1952.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, Result};
use flate2::{Compress, Compression, FlushCompress};

use super::consume::{Hashed, Whole};
use super::frames::{self, Packed, Packer};
use super::pass::Chunk;

/// Magic, deflate, no flags, no time, no hint, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block that is empty, in the fixed code.
const END: [u8; 2] = [3, 0];

/// Writes the file.
pub(super) fn write(chunks: Receiver<Chunk>, path: &Path, threads: NonZeroUsize) -> Result<Whole> {
    let context = || format!("writing {}", path.display());
    let mut out = Hashed::create(path)?;
    out.write_all(&HEADER).with_context(context)?;
    let mut crc = crc32fast::Hasher::new();
    let mut length: u64 = 0;
    frames::pack(chunks, threads, &Pieces, |packed| {
        crc.combine(&packed.crc);
        length += packed.length as u64;
        out.write_all(&packed.bytes).with_context(context)
    })?;
    out.write_all(&END).with_context(context)?;
    out.write_all(&crc.finalize().to_le_bytes()).with_context(context)?;
    // Its size modulo 2^32, as the format has it.
    out.write_all(&length.to_le_bytes()[..4]).with_context(context)?;
    Ok(out.finish())
}

struct Pieces;

impl Packer for Pieces {
    type State = Compress;

    fn start(&self) -> Result<Self::State> {
        Ok(Compress::new(Compression::default(), false))
    }

    fn pack(&self, deflate: &mut Self::State, bytes: &[u8]) -> Result<Packed> {
        const STEP: usize = 256 << 10;
        deflate.reset();
        let mut packed = Vec::with_capacity(bytes.len() / 2 + STEP);
        loop {
            let read = usize::try_from(deflate.total_in())?;
            deflate.compress_vec(&bytes[read..], &mut packed, FlushCompress::Full).context("compressing")?;
            // Room that is left over means that nothing waits to be written.
            if packed.len() < packed.capacity() && deflate.total_in() == bytes.len() as u64 {
                break;
            }
            packed.reserve(STEP);
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(bytes);
        Ok(Packed { bytes: Arc::new(packed), length: bytes.len(), crc })
    }
}
