//! The bounds within which a package's files are read: whoever made the package does not decide how much memory or disk
//! that takes here.
//!
//! ```text
//! data.tar.xz ─► decompressor ─► Bounded ─► tar reader ─► tree
//!                                  │ counts bytes against what the control file announces
//!                                  └ looks at each tar header: what would be held in memory, or be no bytes at all
//! ```
//! *announced*: `Installed-Size`, KiB, an estimate (Debian Policy 5.6.20): contents are rounded up, names are not in it.

use std::io::{self, Read};

use super::control::Control;

const BLOCK: usize = 512;
/// A name of a tar archive that does not fit its header stands in a block of its own, which is read into memory. A path
/// has 4096 bytes at most.
const MOST_NAME: u64 = 64 << 10;
/// What the estimate may be wrong by, beside a half of itself: blocks of small files, headers.
const MARGIN: u64 = 32 << 20;
/// For a package that announces nothing.
const UNANNOUNCED: u64 = 512 << 20;
/// Such a package may still be large where it is so when compressed: no real one unpacks to so many times its size.
const MOST_RATIO: u64 = 32;

/// The bytes that a package's files may have, as a tar archive.
pub(crate) fn most(control: &Control, compressed: u64) -> u64 {
    let announced = control.fields.get("Installed-Size").and_then(|text| text.trim().parse::<u64>().ok());
    match announced {
        Some(kib) => kib.saturating_mul(1024 + 512).saturating_add(MARGIN).max(compressed.saturating_mul(2)),
        None => UNANNOUNCED.max(compressed.saturating_mul(MOST_RATIO)),
    }
}

/// What a package does that unpacks to more than [`most`]; its kind is [`io::ErrorKind::FileTooLarge`].
pub(crate) fn too_large(most: u64) -> io::Error {
    let message = format!("its files have more than {} MiB, which it does not announce", most >> 20);
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

/// What to do about a package that is [`too_large`].
pub(crate) const TOO_LARGE_HINT: &str =
    "leave it out; or, if it is to be so large, have its control file state Installed-Size, in KiB";

/// A tar archive of files that is passed on while it keeps within bounds.
pub(crate) struct Bounded<R> {
    reader: R,
    most: u64,
    left: u64,
    /// Bytes of the present file, with its padding, that are still to come.
    content: u64,
    header: [u8; BLOCK],
    /// Bytes of `header` that were read, and that were passed on.
    filled: usize,
    passed: usize,
}

impl<R: Read> Bounded<R> {
    /// Ends a tar archive after `most` bytes with an error.
    pub(crate) fn new(reader: R, most: u64) -> Self {
        Self { reader, most, left: most, content: 0, header: [0; BLOCK], filled: BLOCK, passed: BLOCK }
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| too_large(self.most))?;
        Ok(())
    }

    /// Reads the next header whole, or what there is of one.
    fn next_header(&mut self) -> io::Result<()> {
        (self.filled, self.passed) = (0, 0);
        while self.filled < BLOCK {
            match self.reader.read(&mut self.header[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.filled == BLOCK && self.header.iter().any(|byte| *byte != 0) {
            self.content = content_of(&self.header)?;
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.passed == self.filled && self.content == 0 {
            self.next_header()?;
        }
        let count = if self.passed < self.filled {
            let count = (self.filled - self.passed).min(buffer.len());
            buffer[..count].copy_from_slice(&self.header[self.passed..self.passed + count]);
            self.passed += count;
            count
        } else {
            let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
            let count = if most == 0 { 0 } else { self.reader.read(&mut buffer[..most])? };
            self.content -= count as u64;
            count
        };
        self.count(count)?;
        Ok(count)
    }
}

/// Bytes that follow a header, padded; an error for what dpkg does not unpack either (its `tar_extractor`), and for a
/// name that would be held in memory and is none.
fn content_of(header: &[u8; BLOCK]) -> io::Result<u64> {
    let size = tar::Header::from_byte_slice(header).entry_size()?;
    match header[156] {
        0 | b'0' => {}
        b'L' | b'K' if size <= MOST_NAME => {}
        // Links, folders, devices and pipes have no content, whatever their header says.
        b'1'..=b'6' if size == 0 => {}
        b'1'..=b'6' => return Err(invalid("something in it that is no file has content")),
        b'L' | b'K' => return Err(invalid("it holds a name of more than 64 KiB")),
        kind => {
            let kind = char::from(kind).escape_default();
            return Err(invalid(&format!("it holds a tar entry of type `{kind}`, which dpkg does not know")));
        }
    }
    size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| invalid("a size in it is impossible"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::{Bounded, MARGIN, UNANNOUNCED, most};
    use crate::packages::control::Control;
    use std::io::{ErrorKind, Read};

    fn header(kind: u8, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("name").expect("path");
        header.set_size(size);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn error(bytes: &[u8], most: u64) -> std::io::Error {
        std::io::copy(&mut Bounded::new(bytes, most), &mut std::io::sink()).expect_err("refused")
    }

    #[test]
    fn an_archive_passes_unchanged() {
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["short".to_owned(), "long/".repeat(60)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1000);
            builder.append_data(&mut header, name, &[7; 1000][..]).expect("append");
        }
        let bytes = builder.into_inner().expect("tar");
        for step in [1, 7, 512, 4096] {
            let mut reader = Bounded::new(bytes.as_slice(), bytes.len() as u64);
            let (mut out, mut buffer) = (Vec::<u8>::new(), vec![0; step]);
            loop {
                match reader.read(&mut buffer).expect("read") {
                    0 => break,
                    count => out.extend(&buffer[..count]),
                }
            }
            assert!(out == bytes, "in steps of {step}");
        }
        assert_eq!(error(&bytes, bytes.len() as u64 - 1).kind(), ErrorKind::FileTooLarge);
    }

    /// None of these needs the bytes that it announces: memory must not be taken for them either.
    #[test]
    fn headers_that_lie() {
        for (kind, size, expected) in [
            (b'L', 3 << 30, "a name of more than 64 KiB"),
            (b'K', 1 << 20, "a name of more than 64 KiB"),
            (b'x', 1 << 20, "type `x`"),
            (b'g', 10, "type `g`"),
            (b'S', 0, "type `S`"),
            (b'\n', 0, "type `\\n`"),
            (b'2', 5, "no file has content"),
        ] {
            let error = error(&header(kind, size), u64::MAX).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut bad = header(b'0', 0);
        bad[124..136].fill(0xff);
        error(&bad, u64::MAX);
    }

    #[test]
    fn what_a_package_may_unpack_to() {
        let control = |more: &str| {
            let text = format!("Package: a\nVersion: 1\nArchitecture: all\n{more}");
            Control::parse(&text).expect("control")
        };
        assert_eq!(most(&control(""), 1 << 20), UNANNOUNCED);
        assert_eq!(most(&control(""), 1 << 30), 32 << 30);
        assert_eq!(most(&control("Installed-Size: 2048\n"), 0), (3 << 20) + MARGIN);
        assert_eq!(most(&control("Installed-Size: much\n"), 0), UNANNOUNCED);
        assert_eq!(most(&control(&format!("Installed-Size: {}\n", u64::MAX)), 0), u64::MAX);
    }
}
