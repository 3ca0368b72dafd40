//! An image's file as a stream of the disk's raw bytes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Container, Packing, Way, detect};
use crate::error::Problem;

/// Bytes read from the file at a time.
const BUFFER: usize = 1 << 20;
/// Largest window of Zstandard that is unpacked (`zstd --long=27`); bounds what a hostile file can make us allocate.
const WINDOW_LOG_MAX: u32 = 27;
/// Most memory that unpacking xz may take (`xz -9` takes 65 MiB).
const XZ_MEMORY: u64 = 256 << 20;

/// The disk's bytes, from the first to the last, as a file of whatever container has them. A file that is cut off ends in
/// an error of kind [`io::ErrorKind::UnexpectedEof`], never in a short disk: a caller that reads to the end has all of it.
///
/// # Errors
/// When the file cannot be read; a [`Problem`] for one of qemu-img's, which has no order in which it could be streamed.
pub fn stream<R: Read + Send + 'static>(
    file: R,
    container: Container,
    size: u64,
    name: &Path,
) -> Result<Box<dyn Read + Send>> {
    let buffered = BufReader::with_capacity(BUFFER, file);
    Ok(match container.read() {
        Way::Plain(behind) => Box::new(Exactly { inner: buffered, left: size.saturating_sub(behind) }),
        Way::Packed(Packing::Zst) => {
            let mut decoder = zstd::Decoder::with_buffer(buffered)
                .with_context(|| format!("reading {}", name.display()))?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Way::Packed(Packing::Xz) => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                    .with_context(|| format!("reading {}", name.display()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(buffered, stream))
        }
        Way::Packed(Packing::Gz) => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Way::Qemu(_) | Way::Never => {
            let message =
                format!("{} is a {container}, which cannot be read from start to end", name.display());
            let hint = format!("make it raw: qemu-img convert -O raw IMAGE.{container} IMAGE.img");
            return Err(Problem::input(message).hint(hint).into());
        }
    })
}

/// Opens an image's file, and says what it is and the disk's stream.
///
/// # Errors
/// As [`stream`]; when the file cannot be opened.
pub fn open(path: &Path) -> Result<(Container, Box<dyn Read + Send>)> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let size = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    let container = detect(&file, size).with_context(|| format!("reading {}", path.display()))?;
    Ok((container, stream(file, container, size, path)?))
}

/// Reads until the buffer is full or the stream ends; says how much.
///
/// # Errors
/// When the stream cannot be read.
pub fn fill(stream: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match stream.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// So many bytes, not one fewer.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..room])?;
        if count == 0 && room > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::{Container, open};
    use crate::format::{VHD_COOKIE, VHD_FOOTER};
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::path::Path;

    fn disk() -> Vec<u8> {
        (0..3_u32 << 20).map(|at| if at < 1 << 20 { 0 } else { (at / 700) as u8 }).collect()
    }

    fn pack(disk: &[u8]) -> Vec<(Container, Vec<u8>)> {
        let mut vhd = disk.to_vec();
        let mut footer = [0; VHD_FOOTER as usize];
        footer[..8].copy_from_slice(VHD_COOKIE);
        footer[0x3f] = 2;
        vhd.extend(footer);
        let halves = disk.split_at(disk.len() / 2);
        let zst = |part| zstd::encode_all(part, 1).expect("zst");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(disk).expect("gz");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(disk).expect("xz");
        vec![
            (Container::Raw, disk.to_vec()),
            (Container::Vhd, vhd),
            (Container::Zst, [zst(halves.0), zst(halves.1)].concat()),
            (Container::Gz, gz.finish().expect("gz")),
            (Container::Xz, xz.finish().expect("xz")),
        ]
    }

    fn read(path: &Path) -> anyhow::Result<(Container, Vec<u8>)> {
        let (container, mut stream) = open(path)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok((container, bytes))
    }

    #[test]
    fn every_container_gives_the_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("named-like-nothing");
        for (container, bytes) in pack(&disk()) {
            fs::write(&path, &bytes).expect("write");
            let (found, raw) = read(&path).expect("read");
            assert_eq!(found, container);
            assert!(raw == disk(), "{container}: other bytes");
        }
    }

    #[test]
    fn a_compressed_file_that_is_cut_off_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("cut");
        for (container, bytes) in pack(&disk()).split_off(2) {
            for keep in [bytes.len() - 1, bytes.len() / 2, 7] {
                fs::write(&path, &bytes[..keep]).expect("write");
                assert!(read(&path).is_err(), "{container} cut to {keep} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn a_qcow2_has_no_order() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x");
        fs::write(&path, b"QFI\xfb\0\0\0\x03").expect("write");
        let error = open(&path).err().expect("no stream").to_string();
        assert!(error.ends_with("x is a qcow2, which cannot be read from start to end"), "{error}");
    }
}
