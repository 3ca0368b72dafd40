//! What an initramfs holds: its names, and the text of its scripts.
//!
//! ```text
//! [cpio, uncompressed: microcode] [zeros] [cpio, compressed]
//! cpio newc: header of 110 bytes in ASCII, name, padding to 4, content, padding to 4; the last name is TRAILER!!!
//! ```
//! Format: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`. Compressed with gzip, Zstandard or xz it
//! is read; with lz4, lzo, lzma or bzip2 it is said that it is not. Nothing that a file claims is believed: sizes, counts and
//! what comes out of a decompressor are bounded.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};

/// More than any initramfs unpacks to, bytes.
const LARGEST: u64 = 4 << 30;
const MOST_NAMES: usize = 500_000;
/// Longest name (PATH_MAX).
const LONGEST_NAME: usize = 4096;
/// Longest script that is kept, bytes, and how many bytes of them in all.
const SCRIPT_MAX: u64 = 64 << 10;
const SCRIPTS_MAX: usize = 4 << 20;
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// Memory and window as for whole images: see `format::decode`.
const XZ_MEMORY: u64 = 256 << 20;
const WINDOW_LOG_MAX: u32 = 27;

/// First bytes of what is compressed.
const COMPRESSED: [(&[u8], &str); 7] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x5d, 0, 0], "lzma"),
    (b"BZh", "bzip2"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Initramfs {
    /// Paths of all files and folders.
    pub names: BTreeSet<String>,
    /// The text of what lies in `scripts/` and `conf/`, one after the other.
    pub scripts: String,
}

impl Initramfs {
    /// Reads the file of an initramfs.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut cursor = Cursor::new(bytes);
        let at = found.archives(&mut cursor)?;
        let Some(at) = at else { return Ok(found) };
        let rest = &bytes[usize::try_from(at).unwrap_or(bytes.len()).min(bytes.len())..];
        let kind = COMPRESSED.iter().find(|(magic, _)| rest.starts_with(magic)).map(|(_, kind)| *kind);
        let unpacked: Box<dyn Read + '_> = match kind {
            Some("gzip") => Box::new(flate2::read::MultiGzDecoder::new(rest)),
            Some("zstd") => Box::new(zstd(rest)?),
            Some("xz") => Box::new(xz(rest)?),
            Some(kind) => return Err(format!("it is compressed with {kind}, which is not read here")),
            None => return Err("it is no archive (cpio)".into()),
        };
        match found.archives(&mut Counted { inner: unpacked.take(LARGEST), at: 0 })? {
            None => Ok(found),
            Some(_) => Err("it is no archive (cpio)".into()),
        }
    }

    /// Reads archives, with zeros between them, to the end or to where something else begins: that is returned.
    fn archives<R: Read + Position>(&mut self, stream: &mut R) -> Result<Option<u64>, String> {
        loop {
            let mut magic = [0; 6];
            let mut at = stream.position();
            while magic[0] == 0 {
                at = stream.position();
                if stream.read(&mut magic[..1]).map_err(unreadable)? == 0 {
                    return Ok(None);
                }
            }
            // What is shorter is no archive.
            let whole = stream.read_exact(&mut magic[1..]).is_ok();
            if !whole || !(magic == *b"070701" || magic == *b"070702") {
                return Ok(Some(at));
            }
            self.archive(stream)?;
        }
    }

    /// One archive, behind its first magic number.
    fn archive<R: Read>(&mut self, stream: &mut R) -> Result<(), String> {
        loop {
            let mut header = [0; HEADER - 6];
            stream.read_exact(&mut header).map_err(unreadable)?;
            let field = |number: usize| hexadecimal(&header[8 * number..8 * number + 8]);
            let (size, length) = (field(6)?, field(11)? as usize);
            if length == 0 || length > LONGEST_NAME || self.names.len() >= MOST_NAMES {
                return Err("it has impossible names".into());
            }
            let mut name = vec![0; length];
            stream.read_exact(&mut name).map_err(unreadable)?;
            name.pop();
            skip(stream, padding(HEADER as u64 + length as u64))?;
            let name = String::from_utf8_lossy(&name).into_owned();
            if name == TRAILER {
                return Ok(());
            }
            self.content(stream, &name, size)?;
            skip(stream, padding(size))?;
            self.names.insert(name);
            let mut magic = [0; 6];
            stream.read_exact(&mut magic).map_err(unreadable)?;
            if magic != *b"070701" && magic != *b"070702" {
                return Err("it is damaged".into());
            }
        }
    }

    fn content<R: Read>(&mut self, stream: &mut R, name: &str, size: u64) -> Result<(), String> {
        let script = name.starts_with("scripts/") || name.starts_with("conf/");
        if !script || size > SCRIPT_MAX || self.scripts.len() > SCRIPTS_MAX {
            return skip(stream, size);
        }
        let mut text = Vec::new();
        let count = stream.take(size).read_to_end(&mut text).map_err(unreadable)?;
        self.scripts.push_str(&String::from_utf8_lossy(&text));
        self.scripts.push('\n');
        if count as u64 == size { Ok(()) } else { Err("it is cut off".into()) }
    }

    /// Is there a module of this name? `-` and `_` are one to the kernel.
    pub(crate) fn has_module(&self, module: &str) -> bool {
        self.names.iter().any(|name| module_of(name).is_some_and(|name| name == module))
    }
}

/// A module's name, from its file's path, with `_` for `-`.
pub(super) fn module_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, ending) = file.split_once(".ko")?;
    ["", ".xz", ".gz", ".zst"].contains(&ending).then(|| name.replace('-', "_"))
}

fn zstd(bytes: &[u8]) -> Result<impl Read + '_, String> {
    let mut decoder = zstd::Decoder::with_buffer(bytes).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    Ok(decoder)
}

fn xz(bytes: &[u8]) -> Result<impl Read + '_, String> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
        .map_err(|error| format!("it is damaged: {error}"))?;
    Ok(liblzma::bufread::XzDecoder::new_stream(bytes, stream))
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn unreadable(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it is cut off".into(),
        _ => format!("it is damaged: {error}"),
    }
}

fn hexadecimal(digits: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(digits).map_err(|_| "it is damaged")?;
    u64::from_str_radix(text, 16).map_err(|_| "it is damaged".into())
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(4) - length
}

fn skip<R: Read>(stream: &mut R, count: u64) -> Result<(), String> {
    let skipped = std::io::copy(&mut stream.take(count), &mut std::io::sink()).map_err(unreadable)?;
    if skipped == count { Ok(()) } else { Err("it is cut off".into()) }
}

/// Where a stream is.
trait Position {
    fn position(&self) -> u64;
}

impl Position for Cursor<&[u8]> {
    fn position(&self) -> u64 {
        Cursor::position(self)
    }
}

struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R> Position for Counted<R> {
    fn position(&self) -> u64 {
        self.at
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Initramfs, module_of};
    use std::io::Write as _;

    /// An archive of these files.
    pub(crate) fn cpio(files: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, text) in files.iter().chain([&("TRAILER!!!", "")]) {
            let sizes = [1, 0o100_644, 0, 0, 1, 0, text.len(), 0, 0, 0, 0, name.len() + 1, 0];
            bytes.extend(b"070701");
            sizes.iter().for_each(|size| bytes.extend(format!("{size:08x}").bytes()));
            bytes.extend(name.bytes().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(text.bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn forms() -> Vec<Vec<u8>> {
        let main = cpio(&[
            ("usr/lib/modules/6.1/kernel/drivers/hv/hv_vmbus.ko.xz", "x"),
            ("scripts/init-premount/delay", "ROOTDELAY=300\n"),
        ]);
        let mut early = cpio(&[("kernel/x86/microcode/GenuineIntel.bin", "12345")]);
        early.resize(early.len().next_multiple_of(512), 0);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&main).expect("gz");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&main).expect("xz");
        let packed = [
            main.clone(),
            gz.finish().expect("gz"),
            xz.finish().expect("xz"),
            zstd::encode_all(&main[..], 1).expect("zst"),
        ];
        packed.into_iter().map(|packed| [early.clone(), packed].concat()).collect()
    }

    #[test]
    fn every_form_is_read() {
        for bytes in forms() {
            let found = Initramfs::parse(&bytes).expect("parses");
            assert_eq!(found.names.len(), 3);
            assert!(found.has_module("hv_vmbus") && !found.has_module("nvme"));
            assert_eq!(found.scripts, "ROOTDELAY=300\n\n");
        }
    }

    #[test]
    fn what_is_not_read_is_said() {
        let said = |bytes: &[u8]| Initramfs::parse(bytes).expect_err("not read");
        assert_eq!(
            said(&[0x02, 0x21, 0x4c, 0x18, 0, 0, 0]),
            "it is compressed with lz4, which is not read here"
        );
        assert_eq!(said(b"hello world"), "it is no archive (cpio)");
        let huge = cpio(&[("a", "")]);
        let huge = String::from_utf8(huge).expect("ASCII").replacen("00000002", "7fffffff", 1);
        assert_eq!(said(huge.as_bytes()), "it has impossible names");
    }

    #[test]
    fn no_bytes_panic() {
        for bytes in forms() {
            for end in 0..bytes.len() {
                Initramfs::parse(&bytes[..end]).ok();
            }
            for at in 0..bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x41;
                Initramfs::parse(&bytes).ok();
            }
        }
    }

    #[test]
    fn modules_by_their_files() {
        assert_eq!(module_of("a/pci-hyperv.ko.zst").as_deref(), Some("pci_hyperv"));
        assert_eq!(module_of("nvme.ko").as_deref(), Some("nvme"));
        assert_eq!(module_of("a.ko/b"), None);
        assert_eq!(module_of("a.kox"), None);
    }
}
