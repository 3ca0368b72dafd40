//! The lines of a ledger that anything may have happened to, without ever holding more than one of them.
//!
//! ext4 and XFS leave zeros where a file had grown and its bytes were not on the disk when the power went: a hole, or written
//! ones, of any length. Of a run of zeros its beginning stands for all.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::vec::IntoIter;

use anyhow::Result;

use super::again;
use crate::disk::sparse;

/// Zeros that a run is shortened to.
pub(super) const ZEROS: usize = 4096;
/// Most bytes of a line that is kept as it is, whatever other program wrote it.
const LONGEST: usize = 16 << 20;

/// The lines of a file, without their ends.
pub(super) struct Lines<R>(R);

/// What a file holds, its holes shortened.
pub(super) struct Data {
    file: File,
    ranges: IntoIter<Range<u64>>,
    /// Where the last range ended, and the file does.
    at: u64,
    size: u64,
    /// Bytes left of the range, and zeros of the hole before it.
    left: u64,
    zeros: usize,
}

/// The lines of a ledger; nothing of it is moved for that.
///
/// # Errors
/// When the file cannot be opened again.
pub(super) fn lines(file: &File) -> Result<Lines<BufReader<Data>>> {
    let file = File::open(again(file))?;
    let size = file.metadata()?.len();
    let ranges = sparse::data_ranges(&file, size)?.into_iter();
    Ok(Lines(BufReader::new(Data { file, ranges, at: 0, size, left: 0, zeros: 0 })))
}

impl Data {
    /// The next hole and what follows it; nothing at the end.
    fn next(&mut self) -> io::Result<Option<()>> {
        let range = self.ranges.next().unwrap_or(self.size..self.size);
        if self.at == self.size {
            return Ok(None);
        }
        self.zeros = usize::try_from(range.start - self.at).map_or(ZEROS, |hole| hole.min(ZEROS));
        self.left = range.end - range.start;
        self.at = range.end;
        self.file.seek(SeekFrom::Start(range.start))?;
        Ok(Some(()))
    }
}

impl Read for Data {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.zeros == 0 && self.left == 0 {
            if self.next()?.is_none() {
                return Ok(0);
            }
        }
        if self.zeros > 0 {
            let count = self.zeros.min(buffer.len());
            buffer[..count].fill(0);
            self.zeros -= count;
            return Ok(count);
        }
        let count = (&self.file).take(self.left).read(buffer)?;
        // Somebody cut the file: what is not there is not waited for.
        self.left = if count == 0 { 0 } else { self.left - count as u64 };
        if count == 0 && !buffer.is_empty() { self.read(buffer) } else { Ok(count) }
    }
}

impl<R: BufRead> Lines<R> {
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (mut line, mut run, mut any) = (Vec::new(), 0, false);
        loop {
            let bytes = self.0.fill_buf()?;
            if bytes.is_empty() {
                return Ok(any.then_some(line));
            }
            any = true;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            for byte in part {
                run = if *byte == 0 { run + 1 } else { 0 };
                if run <= ZEROS {
                    line.push(*byte);
                }
            }
            let used = part.len() + usize::from(end.is_some());
            self.0.consume(used);
            if end.is_some() {
                return Ok(Some(line));
            }
            if line.len() > LONGEST {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has no end"));
            }
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, Lines, ZEROS, lines};
    use std::io::{Seek as _, SeekFrom, Write as _};

    #[test]
    fn zeros_of_any_length_are_few() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"one\n\ntwo").expect("write");
        file.seek(SeekFrom::Start(3 << 30)).expect("a hole");
        file.write_all(&vec![0; 100_000]).expect("written zeros");
        file.write_all(b"{\n").expect("write");
        file.set_len(6 << 30).expect("a hole at the end");
        let all: Vec<_> = lines(&file).expect("opens").map(|line| line.expect("a line")).collect();
        let zeros = vec![0; ZEROS];
        assert_eq!(all, [b"one".to_vec(), Vec::new(), [b"two", &zeros[..], b"{"].concat(), zeros.clone()]);
    }

    #[test]
    fn a_line_without_an_end_is_not_held() {
        let text = vec![b'x'; LONGEST + 100_000];
        let mut lines = Lines(&text[..]);
        assert!(lines.next().expect("a line").is_err());
        let all: Vec<_> = Lines(&b"a\nb"[..]).map(|line| line.expect("a line")).collect();
        assert_eq!(all, [b"a", b"b"]);
    }
}
