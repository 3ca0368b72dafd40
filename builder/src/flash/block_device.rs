//! What is written to: a device or a file, past the page cache where that can be had.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};

use super::chunk::ALIGN;

/// Written through the page cache, so much may wait there.
const DIRTY: u64 = 16 << 20;

/// No machine has larger pages: 64 KiB on some ARM.
const PAGES: u64 = 64 << 10;

/// A target's input and output. The tests have one that fails on purpose.
pub(crate) trait BlockDevice: Send + Sync {
    /// Writes some of the bytes; says how many.
    ///
    /// # Errors
    /// What the device says.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;

    /// Reads some bytes, from the medium itself; says how many.
    ///
    /// # Errors
    /// What the device says.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Makes a range zero without writing it, where the system warrants that it then reads as zeros; false where it
    /// does not.
    ///
    /// # Errors
    /// What the device says.
    fn zero(&self, range: Range<u64>) -> io::Result<bool>;

    /// Returns when everything that was written lies on the medium.
    ///
    /// # Errors
    /// What the device says.
    fn sync(&self) -> io::Result<()>;
}

/// A block device or file.
pub(crate) struct Disk {
    file: File,
    /// A file that was emptied holds nothing but holes.
    blank: bool,
    /// Can it be read and written past the page cache?
    direct: bool,
    /// Is that switched on now? An unaligned end of the image switches it off.
    on: AtomicBool,
    /// Bytes that wait in the page cache.
    dirty: AtomicU64,
    no_holes: AtomicBool,
}

impl Disk {
    /// Opens a target for writing; a block device so that nobody else can have it for himself (open(2): `O_EXCL`). A file
    /// must exist. Nothing is changed yet.
    ///
    /// # Errors
    /// When it cannot be opened, `EBUSY` where it is in use.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let device = std::fs::metadata(path)?.file_type().is_block_device();
        let flags = if device { libc::O_EXCL } else { 0 };
        Ok(Self::of(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?))
    }

    /// Makes a file, for nobody else's eyes: an identity may come into it.
    ///
    /// # Errors
    /// When it cannot be made, or is there by now.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut disk = Self::of(options.read(true).write(true).create_new(true).mode(0o600).open(path)?);
        disk.blank = true;
        Ok(disk)
    }

    fn of(file: File) -> Self {
        // O_DIRECT for open(2) makes a file before it says that it cannot.
        let flags = fcntl(&file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        let set = |flags: OFlag| fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT));
        let direct = flags.and_then(set).is_ok();
        let (dirty, no_holes) = (AtomicU64::default(), AtomicBool::default());
        Self { file, blank: false, direct, on: direct.into(), dirty, no_holes }
    }

    /// What was opened, whatever its name leads to by now.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Gives an empty file its length; finds out of any other file whether it could be emptied. Neither loses a byte.
    ///
    /// # Errors
    /// When the file system has no room for such a file, or nobody may empty this one (it is swapped to).
    pub(crate) fn reserve(&mut self, length: u64) -> io::Result<()> {
        let data = self.file.metadata()?;
        match data.len() {
            _ if !data.is_file() => {}
            0 => {
                self.file.set_len(length)?;
                self.blank = true;
            }
            now => self.file.set_len(now)?,
        }
        Ok(())
    }

    /// Empties a file and makes it so long; leaves a device as it is.
    ///
    /// # Errors
    /// When the file system does not let us.
    pub(crate) fn empty(&mut self, length: u64) -> io::Result<()> {
        if !self.blank && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
            self.file.set_len(length)?;
            self.blank = true;
        }
        Ok(())
    }

    /// Takes the length away again that [`Disk::reserve`] gave to an empty file.
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.blank) {
            // Nothing was written to it; a length that stays is no harm.
            self.file.set_len(0).ok();
        }
    }

    /// Past the page cache for this access? Both kinds use one file, because a device can be had exclusively only once.
    fn choose(&self, aligned: bool) -> io::Result<bool> {
        let want = self.direct && aligned;
        if self.on.swap(want, Ordering::Relaxed) != want {
            let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
            let flags = if want { flags | OFlag::O_DIRECT } else { flags - OFlag::O_DIRECT };
            fcntl(&self.file, FcntlArg::F_SETFL(flags))?;
        }
        Ok(want)
    }

    fn forget(&self, at: u64, length: usize) -> io::Result<()> {
        let pages = pages(at, length);
        let (at, length) = (pages.start as libc::off_t, (pages.end - pages.start) as libc::off_t);
        posix_fadvise(&self.file, at, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }
}

/// Whole pages around a range: of those that are named in part the kernel drops none (posix_fadvise(2)).
fn pages(at: u64, length: usize) -> Range<u64> {
    at / PAGES * PAGES..(at + length as u64).next_multiple_of(PAGES)
}

fn aligned(bytes: &[u8], at: u64) -> bool {
    bytes.len().is_multiple_of(ALIGN)
        && at.is_multiple_of(ALIGN as u64)
        && bytes.as_ptr().align_offset(ALIGN) == 0
}

impl BlockDevice for Disk {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let direct = self.choose(aligned(bytes, at))?;
        let count = self.file.write_at(bytes, at)?;
        if !direct && self.dirty.fetch_add(count as u64, Ordering::Relaxed) > DIRTY {
            self.sync()?;
        }
        Ok(count)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        if !self.choose(aligned(bytes, at))? {
            // It was synced before it is read back, so that nothing keeps it in the cache.
            self.forget(at, bytes.len())?;
        }
        self.file.read_at(bytes, at)
    }

    /// A hole on a device is one that the kernel zeroes or refuses (fallocate(2), `FALLOC_FL_PUNCH_HOLE` on block devices:
    /// `blkdev_issue_zeroout` without a fallback); a discard that might read as anything is never used.
    fn zero(&self, range: Range<u64>) -> io::Result<bool> {
        if self.blank {
            return Ok(true);
        }
        if self.no_holes.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = range.end - range.start;
        match fallocate(&self.file, flags, range.start as libc::off_t, length as libc::off_t) {
            Ok(()) => Ok(true),
            // No whole blocks of the device.
            Err(nix::errno::Errno::EINVAL) => Ok(false),
            // Some bridges claim that they can and fail: then it is written, and a dead device says so there.
            Err(_) => {
                self.no_holes.store(true, Ordering::Relaxed);
                Ok(false)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.dirty.store(0, Ordering::Relaxed);
        self.file.sync_all()
    }
}

/// Writes all of the bytes.
///
/// # Errors
/// What the device says; a write of nothing is an error of kind [`io::ErrorKind::WriteZero`].
pub(crate) fn write_all(device: &dyn BlockDevice, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match device.write_at(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => (bytes, at) = (&bytes[count..], at + count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the buffer.
///
/// # Errors
/// What the device says; its end is an error of kind [`io::ErrorKind::UnexpectedEof`].
pub(crate) fn read_all(device: &dyn BlockDevice, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match device.read_at(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => (bytes, at) = (&mut bytes[count..], at + count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BlockDevice as _, Disk, PAGES, pages, read_all, write_all};
    use crate::flash::chunk::{ALIGN, Aligned, CHUNK};

    #[test]
    fn pages_are_forgotten_whole() {
        assert_eq!(pages(3 * PAGES, 100), 3 * PAGES..4 * PAGES);
        assert_eq!(pages(3 * PAGES - 1, 2), 2 * PAGES..4 * PAGES);
        assert_eq!(pages(0, 2 * PAGES as usize), 0..2 * PAGES);
    }

    #[test]
    fn aligned_or_not_the_bytes_arrive() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), vec![9; 3 * CHUNK]).expect("write");
        let mut disk = Disk::open(file.path()).expect("open");
        disk.reserve(2 * CHUNK as u64 + 100).expect("could be emptied");
        assert!(std::fs::read(file.path()).expect("read") == vec![9; 3 * CHUNK], "not before all can be");
        disk.empty(2 * CHUNK as u64 + 100).expect("empty");
        let mut buffer = Aligned::new();
        buffer.fill(7);
        write_all(&disk, &buffer, 0).expect("aligned");
        write_all(&disk, &buffer[..100], 2 * CHUNK as u64).expect("its end");
        write_all(&disk, &buffer[ALIGN..2 * ALIGN], CHUNK as u64).expect("aligned");
        assert!(disk.zero(CHUNK as u64..2 * CHUNK as u64).expect("a hole"));
        disk.sync().expect("sync");
        let found = std::fs::read(file.path()).expect("read");
        let expected = [vec![7; CHUNK + ALIGN], vec![0; CHUNK - ALIGN], vec![7; 100]].concat();
        assert!(found == expected);
        buffer.fill(0);
        read_all(&disk, &mut buffer[..100], 2 * CHUNK as u64).expect("its end");
        assert_eq!(buffer[..101], [vec![7; 100], vec![0]].concat());
        assert!(read_all(&disk, &mut buffer, 2 * CHUNK as u64).is_err(), "it ends before");
    }
}
