//! One layer of a container image as it lies in a registry or an archive: a tar, often compressed.
//!
//! ```text
//! blob (gzip, zstd or plain) ─► Layer::open ─► bytes of the tar, counted and hashed (the *diff id*)
//! ```
//! What a blob is compressed with is told by its first bytes: see [`Packing::told_by`].

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::bufread::MultiGzDecoder;

use crate::descriptor::Packing;

/// A layer may unpack to this many times its own size: file systems come to 2 to 5 times, a bomb of zeros to 1,000.
const MOST_TIMES: u64 = 100;
/// And to so much in any case: a layer that is one sparse file is legal.
const SMALL: u64 = 256 << 20;
/// Largest window of a zstd frame, as a power of two: what `zstd -d` takes without being asked (128 MiB), which the engine
/// has as its limit too.
const WINDOW_LOG: u32 = 27;

/// The bytes of a layer's tar.
pub struct Layer {
    bytes: Box<dyn Read + Send>,
    left: u64,
    most: u64,
}

impl Layer {
    /// Opens the blob at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let size = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
        Self::new(file, size).with_context(|| format!("reading {}", path.display()))
    }

    /// A layer of `size` bytes as it lies in the registry.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(blob: impl Read + Send + 'static, size: u64) -> Result<Self> {
        let mut blob = BufReader::with_capacity(1 << 17, blob);
        let bytes: Box<dyn Read + Send> = match Packing::told_by(blob.fill_buf()?) {
            Packing::Gzip => Box::new(MultiGzDecoder::new(blob)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(blob)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
            Packing::Plain => Box::new(blob),
        };
        let most = size.saturating_mul(MOST_TIMES).max(SMALL);
        Ok(Self { bytes, left: most, most })
    }
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let message = format!(
                "it unpacks to more than {} MiB, {MOST_TIMES} times its size: a file system does not, a bomb does",
                self.most >> 20
            );
            io::Error::new(io::ErrorKind::FileTooLarge, message)
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::Layer;

    fn unpacked(blob: Vec<u8>) -> std::io::Result<u64> {
        let size = blob.len() as u64;
        let mut layer = Layer::new(std::io::Cursor::new(blob), size).expect("open");
        std::io::copy(&mut layer, &mut std::io::sink())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("write");
        encoder.finish().expect("finish")
    }

    #[test]
    fn compression_is_told_by_the_first_bytes() {
        let text = b"a tar, as far as this goes".repeat(100);
        // pigz and eStargz write several members.
        let members = [gzip(&text[..1000]), gzip(&text[1000..])].concat();
        for blob in [text.clone(), gzip(&text), members, zstd::encode_all(&text[..], 3).expect("zstd")] {
            let size = blob.len() as u64;
            let mut read = Vec::new();
            let mut layer = Layer::new(std::io::Cursor::new(blob), size).expect("open");
            layer.read_to_end(&mut read).expect("read");
            assert!(read == text);
        }
        assert_eq!(unpacked(Vec::new()).expect("empty"), 0);
    }

    #[test]
    fn a_cut_blob_is_an_error() {
        let blob = gzip(&b"text".repeat(1000));
        unpacked(blob[..blob.len() - 3].to_vec()).expect_err("gzip");
        let blob = zstd::encode_all(&b"text".repeat(1000)[..], 3).expect("zstd");
        unpacked(blob[..blob.len() - 3].to_vec()).expect_err("zstd");
    }

    #[test]
    fn a_bomb_is_stopped() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("encoder");
        let size = 300 << 20;
        std::io::copy(&mut std::io::repeat(0).take(size), &mut encoder).expect("write");
        let error = unpacked(encoder.finish().expect("finish")).expect_err("a bomb");
        assert!(error.to_string().contains("more than 256 MiB"), "{error}");
    }
}
