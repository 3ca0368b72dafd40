//! What is looked at after the machine went off: its disk, and the image.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::copy::Copy;
use crate::colour::Colour;
use crate::disk::{fat, table};
use crate::units::{Digest, Sha256};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A short name: `image-unaltered`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be: the test fails, even with all milestones reached.
    Failed,
    /// Could not be told, or does not apply.
    Skipped,
}

impl Outcome {
    /// The word for it, at the right of `width` columns, in its colour where that is wanted.
    pub fn word(self, width: usize, colour: bool) -> String {
        let (word, its) = match self {
            Self::Passed => ("ok", Colour::Green),
            Self::Failed => ("FAILED", Colour::Red),
            Self::Skipped => ("skipped", Colour::Yellow),
        };
        its.paint(&format!("{word:>width$}"), colour)
    }
}

impl Check {
    /// Passed or failed.
    pub fn new(name: &str, passed: bool, detail: impl Into<String>) -> Self {
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        Self { name: name.to_owned(), outcome, detail: detail.into() }
    }

    /// Could not be told, and why.
    pub fn skipped(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), outcome: Outcome::Skipped, detail: detail.into() }
    }
}

/// The digest of a whole file.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<Digest> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Shortest line of a PEM text that cannot be there by chance.
const TELLING: usize = 32;

/// The lines of a PEM text that make it secret: its base64, without the short last line.
pub fn secret_lines(pem: &str) -> Vec<&str> {
    let body = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    body.filter(|line| line.len() >= TELLING).collect()
}

/// Counts how many of `needles` are somewhere in the file; each of at most `1 << 20` bytes.
///
/// # Errors
/// When it cannot be read.
pub fn find_any(path: &Path, needles: &[&str]) -> Result<usize> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or(0);
    let mut found = vec![false; needles.len()];
    let mut window = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
        if count == 0 {
            return Ok(found.iter().filter(|found| **found).count());
        }
        // What may be the beginning of a needle stays in the window.
        window.drain(..window.len().saturating_sub(longest));
        window.extend_from_slice(&buffer[..count]);
        for (found, needle) in found.iter_mut().zip(needles) {
            *found |= contains(&window, needle.as_bytes());
        }
    }
}

/// Most of a partition is zeros: the first byte is looked for alone.
fn contains(window: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = window[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if window[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// Endings of files on the FAT partition that first boot had begun to write, or to wipe.
const UNFINISHED: [&str; 2] = [".new", ".tmp"];

/// What of `files`, or of anything unfinished, is in a folder of the FAT file system of `size` bytes, which is checked
/// before; by path.
///
/// # Errors
/// When it is none, or a damaged one.
pub fn fat_left(path: &Path, size: u64, folder: &str, files: &[&str]) -> Result<Vec<String>> {
    let file = File::options().read(true).write(true).open(path);
    let mut file = file.with_context(|| format!("opening {}", path.display()))?;
    let names = fat::look(&mut file, size, |volume| volume.list(folder))?.into_iter().map(|entry| entry.name);
    let left = |name: &String| {
        let name = name.to_ascii_lowercase();
        files.contains(&name.as_str()) || UNFINISHED.iter().any(|ending| name.ends_with(ending))
    };
    Ok(names.filter(left).map(|name| format!("{folder}/{name}")).collect())
}

/// Bytes of an ext4 file system's superblock that are read here, at 1,024 bytes from its start.
pub const SUPERBLOCK: (u64, u64) = (1024, 1024);

/// How many bytes an ext4 file system spans, from its superblock.
///
/// Format: the kernel's `Documentation/filesystems/ext4/super.rst`.
///
/// # Errors
/// When it is none.
pub fn ext4_size(superblock: &[u8]) -> Result<u64> {
    let word = |at: usize| -> Result<u64> {
        let bytes = superblock.get(at..at + 4).context("reading a superblock: it is cut off")?;
        Ok(u64::from(u32::from_le_bytes(bytes.try_into()?)))
    };
    ensure!(word(0x38)? & 0xffff == 0xef53, "reading a superblock: it is not ext4's");
    let (low, high) = (word(0x4)?, word(0x150)?);
    let wide = word(0x60)? & 0x80 != 0;
    let shift = word(0x18)?;
    ensure!(shift <= 6, "reading a superblock: blocks of 2^{shift} KiB");
    let blocks = if wide { high << 32 | low } else { low };
    blocks.checked_mul(1024 << shift).context("reading a superblock: too many blocks")
}

/// Bytes at the start of a disk that hold its partition table.
const TABLE: u64 = 1 << 20;

/// The size in bytes of the partition that starts at `offset` of the copy; none if there is none.
///
/// # Errors
/// When the table cannot be read.
pub fn partition_size(copy: &Copy, offset: u64) -> Result<Option<u64>> {
    let path = copy.read("table.raw", 0, TABLE)?;
    let file = File::options().read(true).write(true).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    // A reader wants to know that no partition lies outside the disk.
    file.set_len(copy.length())?;
    let table = table::read(&file)?;
    Ok(table.partitions.iter().find(|partition| partition.offset == offset).map(|partition| partition.size))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{digest, ext4_size, fat_left, find_any, secret_lines};
    use crate::disk::fat::{self, LEAST};
    use crate::disk::ids::VolumeId;
    use crate::units::Digest;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        file.write_all(bytes).expect("write");
        file
    }

    #[test]
    fn needles_across_the_window() {
        let mut bytes = vec![b'n'; 3 << 20];
        bytes[(1 << 20) - 3..(1 << 20) + 3].copy_from_slice(b"needle");
        bytes.extend_from_slice(b"last");
        let file = file(&bytes);
        assert_eq!(find_any(file.path(), &["needle", "last", "lost", ""]).expect("read"), 2);
        assert_eq!(find_any(file.path(), &[]).expect("read"), 0);
        assert_eq!(digest(file.path()).expect("read"), Digest::of(&bytes));
    }

    #[test]
    fn secrets_of_a_key() {
        let line = "MHcCAQEEIABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let pem = format!(
            "-----BEGIN EC PRIVATE KEY-----\r\n{line}\r\nshort==\r\n-----END EC PRIVATE KEY-----\r\n"
        );
        assert_eq!(secret_lines(&pem), [line]);
    }

    #[test]
    fn files_on_fat() {
        let file = file(&[]);
        file.as_file().set_len(LEAST).expect("size");
        let open = || std::fs::File::options().read(true).write(true).open(file.path()).expect("open");
        fat::format(&mut open(), LEAST, VolumeId(7), "ESP", 0, |volume| {
            for name in ["private-key.pem", "README.txt", "wiping.tmp"] {
                volume.write(&format!("edgepress/{name}"), b"key")?;
            }
            volume.write("empty/README.txt", b"")
        })
        .expect("format");
        let left = |folder, files: &[&str]| fat_left(file.path(), LEAST, folder, files).expect("read");
        let files = ["private-key.pem", "certificate.pem"];
        assert_eq!(left("edgepress", &files), ["edgepress/private-key.pem", "edgepress/wiping.tmp"]);
        assert_eq!(left("edgepress", &[]), ["edgepress/wiping.tmp"]);
        assert_eq!(left("empty", &files), Vec::<String>::new());
        assert!(fat_left(self::file(&[0; 4096]).path(), 4096, "x", &[]).is_err());
    }

    #[test]
    fn sizes_of_ext4() {
        let mut block = vec![0; 1024];
        block[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        block[0x4..0x8].copy_from_slice(&1000_u32.to_le_bytes());
        block[0x18] = 2;
        assert_eq!(ext4_size(&block).expect("narrow"), 4_096_000);
        block[0x150] = 1;
        assert_eq!(ext4_size(&block).expect("narrow"), 4_096_000);
        block[0x60] = 0x80;
        assert_eq!(ext4_size(&block).expect("wide"), ((1_u64 << 32) + 1000) * 4096);
        block[0x18] = 200;
        assert!(ext4_size(&block).is_err());
        assert!(ext4_size(&[0; 1024]).is_err());
        assert!(ext4_size(&block[..0x100]).is_err());
    }
}
