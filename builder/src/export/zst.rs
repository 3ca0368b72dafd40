//! Zstandard in frames that can be unpacked singly, with a table at the end that says where each begins.
//!
//! ```text
//! frame │ frame │ … │ skippable frame: (packed size, unpacked size) of each │ number of frames, 0, magic
//! ```
//! Any decoder reads it as one stream (RFC 8878, section 3.1). The table is that of Zstandard's "seekable format" 0.1
//! (contrib/seekable_format/zstd_seekable_compression_format.md in its sources).

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, Result};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::consume::{Hashed, Whole};
use super::frames::{self, Packed, Packer};
use super::pass::Chunk;

/// zstd's own default; the next 12 % of size cost five times the work: see docs/formats.md.
const LEVEL: i32 = 3;
const SKIPPABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
/// Bytes at the end of the table: number of frames, descriptor, magic.
const FOOTER: usize = 9;

/// Writes the file.
pub(super) fn write(chunks: Receiver<Chunk>, path: &Path, threads: NonZeroUsize) -> Result<Whole> {
    let mut out = Hashed::create(path)?;
    let mut table: Vec<u8> = Vec::new();
    frames::pack(chunks, threads, &Frames, |packed| {
        out.write_all(&packed.bytes).with_context(|| format!("writing {}", path.display()))?;
        table.extend(u32::try_from(packed.bytes.len())?.to_le_bytes());
        table.extend(u32::try_from(packed.length)?.to_le_bytes());
        Ok(())
    })?;
    out.write_all(&seek_table(&table)?).with_context(|| format!("writing {}", path.display()))?;
    Ok(out.finish())
}

fn seek_table(entries: &[u8]) -> Result<Vec<u8>> {
    let mut table = SKIPPABLE.to_le_bytes().to_vec();
    table.extend(u32::try_from(entries.len() + FOOTER)?.to_le_bytes());
    table.extend(entries);
    table.extend(u32::try_from(entries.len() / 8)?.to_le_bytes());
    // No checksums in the table: each frame has its own.
    table.push(0);
    table.extend(SEEKABLE.to_le_bytes());
    Ok(table)
}

struct Frames;

impl Packer for Frames {
    type State = Compressor<'static>;

    fn start(&self) -> Result<Self::State> {
        let mut compressor = Compressor::new(LEVEL).context("starting Zstandard")?;
        compressor.set_parameter(CParameter::ChecksumFlag(true)).context("starting Zstandard")?;
        Ok(compressor)
    }

    fn pack(&self, compressor: &mut Self::State, bytes: &[u8]) -> Result<Packed> {
        let packed = compressor.compress(bytes).context("compressing")?;
        Ok(Packed { bytes: Arc::new(packed), length: bytes.len(), crc: crc32fast::Hasher::new() })
    }
}
