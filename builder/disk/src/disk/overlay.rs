//! A block device in memory over a read-only base: what is written stays in memory until someone asks for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::gpt::SECTOR;

const PAGE: usize = 4096;

/// What lies under an [`Overlay`].
pub trait Base {
    /// Fills `buffer` from byte `offset`; bytes past the end are zero.
    ///
    /// # Errors
    /// When the medium cannot be read.
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// An empty medium.
#[derive(Debug)]
pub struct Zeros;

impl Base for Zeros {
    fn fill(&self, buffer: &mut [u8], _: u64) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }
}

/// A part of a file that begins at byte `start`.
#[derive(Debug)]
pub struct Part {
    /// Open for reading.
    pub file: File,
    /// Where the part begins.
    pub start: u64,
}

impl Base for Part {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], self.start + offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer[done..].fill(0);
        Ok(())
    }
}

impl<B: Base> Base for Arc<B> {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        B::fill(self, buffer, offset)
    }
}

/// A base of which the pages that were read once stay in memory; many overlays share it.
pub struct Snapshot<B> {
    base: B,
    pages: BTreeMap<u64, Page>,
}

impl<B: Base> Base for Snapshot<B> {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (page, from) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        match self.pages.get(&page) {
            // What crosses a page is rare: overlays ask for whole ones.
            Some(page) if from + buffer.len() <= PAGE => {
                buffer.copy_from_slice(&page.bytes[from..from + buffer.len()]);
                Ok(())
            }
            _ => self.base.fill(buffer, offset),
        }
    }
}

struct Page {
    bytes: Box<[u8; PAGE]>,
    written: bool,
}

/// Reads come from the base until written over; the base never changes.
pub struct Overlay<B> {
    base: B,
    size: u64,
    position: u64,
    pages: BTreeMap<u64, Page>,
}

impl<B: Base> Overlay<B> {
    /// A device of `size` bytes over `base`.
    pub fn new(base: B, size: u64) -> Self {
        Self { base, size, position: 0, pages: BTreeMap::new() }
    }

    /// The base, with the pages that were read; what was written is forgotten.
    pub fn into_snapshot(mut self) -> Snapshot<B> {
        self.pages.retain(|_, page| !page.written);
        Snapshot { base: self.base, pages: self.pages }
    }

    /// The sectors that differ from the base, as (offset, bytes) in ascending order; neighbours are joined.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn changes(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut before = [0; PAGE];
        for (index, page) in self.pages.iter().filter(|(_, page)| page.written) {
            let start = index * PAGE as u64;
            self.base.fill(&mut before, start)?;
            let sectors = page.bytes.chunks_exact(SECTOR as usize).zip(before.chunks_exact(SECTOR as usize));
            for (at, (now, before)) in (start..).step_by(SECTOR as usize).zip(sectors) {
                if now == before || at >= self.size {
                    continue;
                }
                match runs.last_mut() {
                    Some((offset, bytes)) if *offset + bytes.len() as u64 == at => {
                        bytes.extend_from_slice(now);
                    }
                    _ => runs.push((at, now.to_vec())),
                }
            }
        }
        Ok(runs)
    }

    /// The page under the position, and the part of it that `wanted` bytes from there take.
    fn here(&mut self, wanted: usize) -> io::Result<(&mut Page, std::ops::Range<usize>)> {
        let index = self.position / PAGE as u64;
        let from = (self.position % PAGE as u64) as usize;
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let to = from + wanted.min(PAGE - from).min(left);
        let page = match self.pages.entry(index) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let mut bytes = Box::new([0; PAGE]);
                self.base.fill(&mut bytes[..], index * PAGE as u64)?;
                entry.insert(Page { bytes, written: false })
            }
        };
        Ok((page, from..to))
    }
}

impl<B: Base> Read for Overlay<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size {
            return Ok(0);
        }
        let (page, range) = self.here(buffer.len())?;
        let count = range.len();
        buffer[..count].copy_from_slice(&page.bytes[range]);
        self.position += count as u64;
        Ok(count)
    }
}

impl<B: Base> Write for Overlay<B> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.position >= self.size {
            return Ok(0);
        }
        let (page, range) = self.here(bytes.len())?;
        let count = range.len();
        page.bytes[range].copy_from_slice(&bytes[..count]);
        page.written = true;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<B> Seek for Overlay<B> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::{Base as _, Overlay, Part, Zeros};
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    use std::sync::Arc;

    #[test]
    fn only_what_differs_is_a_change() {
        let mut device = Overlay::new(Zeros, 20_000);
        for (at, bytes) in [(5000, &b"abc"[..]), (4096, b""), (9000, &[0; 900]), (5119, b"de")] {
            device.seek(SeekFrom::Start(at)).expect("seek");
            device.write_all(bytes).expect("write");
        }
        let changes = device.changes().expect("changes");
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].0, changes[0].1.len()), (4608, 1024));
        assert_eq!(changes[0].1[392..395], *b"abc");
        assert_eq!(changes[0].1[511..513], *b"de");
    }

    #[test]
    fn a_snapshot_reads_as_its_base() {
        let mut file = tempfile::tempfile().expect("temp file");
        let bytes: Vec<u8> = (0..20_000u32).map(|at| (at / 7) as u8).collect();
        file.write_all(&bytes).expect("write");
        let mut device = Overlay::new(Part { file, start: 0 }, 20_000);
        let mut some = [0; 9000];
        device.seek(SeekFrom::Start(3000)).expect("seek");
        device.read_exact(&mut some).expect("read");
        device.seek(SeekFrom::Start(100)).expect("seek");
        device.write_all(b"forgotten").expect("write");
        let snapshot = Arc::new(device.into_snapshot());
        for (at, length) in [(0, 4096), (90, 30), (4096, 4096), (4000, 200), (16_000, 4000)] {
            let mut buffer = vec![0; length];
            snapshot.fill(&mut buffer, at as u64).expect("fill");
            assert_eq!(buffer, bytes[at..at + length], "{at}");
        }
        assert_eq!(Overlay::new(snapshot, 20_000).changes().expect("changes"), []);
    }

    #[test]
    fn it_ends_where_it_ends() {
        let mut device = Overlay::new(Zeros, 5000);
        device.seek(SeekFrom::Start(4990)).expect("seek");
        assert!(device.write_all(&[1; 11]).is_err());
        device.seek(SeekFrom::Start(4990)).expect("seek");
        let mut rest = Vec::new();
        assert_eq!(device.read_to_end(&mut rest).expect("read"), 10);
        assert!(device.seek(SeekFrom::Current(-6000)).is_err());
    }

    #[test]
    fn a_part_of_a_file_reads_zero_past_its_end() {
        let mut file = tempfile::tempfile().expect("temp file");
        file.write_all(b"0123456789").expect("write");
        let mut buffer = [9; 6];
        Part { file, start: 4 }.fill(&mut buffer, 2).expect("fill");
        assert_eq!(buffer, *b"6789\0\0");
    }
}
