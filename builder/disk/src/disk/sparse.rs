//! Files with holes: hashed without reading the holes, copied without filling them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::units::{Digest, Sha256};

const BUFFER: usize = 1024 * 1024;

/// The SHA-256 of a file's bytes, holes included.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(path: &Path) -> Result<Digest> {
    digest_open(path).with_context(|| format!("hashing {}", path.display()))
}

fn digest_open(path: &Path) -> Result<Digest> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok(hash(&file, size, |_| ())?.finish())
}

/// Hashes the first `size` bytes of a file, holes included but not read; `progress` is told how many are done.
///
/// # Errors
/// When the file cannot be read or is shorter.
pub fn hash(file: &File, size: u64, progress: impl Fn(u64)) -> Result<Sha256> {
    let mut hasher = Sha256::new();
    let mut done = 0;
    let mut buffer = vec![0; BUFFER];
    for data in data_ranges(file, size)? {
        hasher.zeros(data.start - done);
        done = data.start;
        while done < data.end {
            let chunk = buffer.len().min(usize::try_from(data.end - done).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..chunk], done)?;
            hasher.update(&buffer[..chunk]);
            done += chunk as u64;
            progress(done);
        }
    }
    hasher.zeros(size - done);
    progress(size);
    Ok(hasher)
}

/// Copies a file; its holes stay holes. The target must not exist.
///
/// # Errors
/// When the target exists, or on a read or write error.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_open(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// Makes an existing file the copy of another; holes stay holes.
///
/// # Errors
/// On a read or write error.
pub fn fill(from: &Path, to: &Path) -> Result<()> {
    fill_open(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn fill_open(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).truncate(true).open(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    for data in data_ranges(&source, size)? {
        copy_range(&source, &target, data)?;
    }
    Ok(())
}

/// The kernel copies (`io::copy` calls copy_file_range(2)), and where the file system can, both files share the bytes from
/// then on.
fn copy_range(mut source: &File, mut target: &File, range: Range<u64>) -> Result<()> {
    source.seek(SeekFrom::Start(range.start))?;
    target.seek(SeekFrom::Start(range.start))?;
    let length = range.end - range.start;
    let copied = io::copy(&mut source.take(length), &mut target)?;
    anyhow::ensure!(copied == length, "the file became shorter while it was read");
    Ok(())
}

fn copy_open(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create_new(true).open(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    for data in data_ranges(&source, size)? {
        copy_range(&source, &target, data)?;
    }
    Ok(())
}

/// The parts of a file of `size` bytes that are no holes, in order.
///
/// # Errors
/// When the file cannot be sought in.
pub fn data_ranges(file: &File, size: u64) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, at, Whence::SeekData) {
            // No data from here to the end.
            Err(Errno::ENXIO) => break,
            // A file system without the call: all of it is data.
            Err(Errno::EINVAL | Errno::ENOTSUP) => at,
            found => found?,
        };
        let end = match seek(file, start, Whence::SeekHole) {
            Err(Errno::EINVAL | Errno::ENOTSUP | Errno::ENXIO) => size,
            found => found?.min(size),
        };
        if end <= start {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

fn seek(file: &File, at: u64, whence: Whence) -> nix::Result<u64> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, at, whence).map(i64::unsigned_abs)
}

#[cfg(test)]
mod tests {
    use super::{copy, data_ranges, digest, fill};
    use crate::units::Digest;
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    type Data = &'static [(u64, &'static [u8])];

    /// (size, data as (offset, bytes))
    const SHAPES: &[(u64, Data)] = &[
        (0, &[]),
        (3 << 20, &[]),
        (5 << 20, &[(0, b"start"), ((2 << 20) + 17, &[3; 9000])]),
        ((1 << 20) + 5, &[(1 << 20, b"tail!")]),
    ];

    #[test]
    fn digests_and_copies_are_those_of_the_bytes() {
        let folder = tempfile::tempdir().expect("temp folder");
        for (number, (size, data)) in SHAPES.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let file = File::create_new(&path).expect("create");
            file.set_len(*size).expect("size");
            for (offset, bytes) in *data {
                file.write_all_at(bytes, *offset).expect("write");
            }
            let bytes = std::fs::read(&path).expect("read");
            assert_eq!(digest(&path).expect("digest"), Digest::of(&bytes), "{number}");
            let twin = folder.path().join(format!("{number}-copy"));
            copy(&path, &twin).expect("copy");
            assert_eq!(std::fs::read(&twin).expect("read"), bytes, "{number}");
            let blocks = |path| std::fs::metadata(path).expect("metadata").blocks();
            assert!(blocks(&twin) <= blocks(&path), "{number}: holes were filled");
            assert!(copy(&path, &twin).is_err(), "a file was overwritten");
            std::fs::write(&twin, vec![9; 99_999]).expect("other content");
            fill(&path, &twin).expect("fill");
            assert_eq!(std::fs::read(&twin).expect("read"), bytes, "{number}");
            assert!(blocks(&twin) <= blocks(&path), "{number}: holes were filled");
        }
    }

    #[test]
    fn ranges_cover_all_data() {
        let file = tempfile::tempfile().expect("temp file");
        file.set_len(8 << 20).expect("size");
        file.write_all_at(&[1; 10], 3 << 20).expect("write");
        let ranges = data_ranges(&file, 8 << 20).expect("ranges");
        assert!(ranges.iter().any(|range| range.contains(&(3 << 20))));
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
