//! What is looked at after the machine went off: its disk, and the image.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::copy::Copy;
use crate::disk::{fat, table};

/// Shortest line of a PEM text that cannot be there by chance.
const TELLING: usize = 32;

/// The lines of a PEM text that make it secret: its base64, without the short last line.
pub(crate) fn secret_lines(pem: &str) -> Vec<&str> {
    let body = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    body.filter(|line| line.len() >= TELLING).collect()
}

/// Counts how many of `needles` are somewhere in the file; each of at most `1 << 20` bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn find_any(path: &Path, needles: &[&str]) -> Result<usize> {
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
pub(crate) fn fat_left(path: &Path, size: u64, folder: &str, files: &[&str]) -> Result<Vec<String>> {
    let file = File::options().read(true).write(true).open(path);
    let mut file = file.with_context(|| format!("opening {}", path.display()))?;
    let names = fat::look(&mut file, size, |volume| volume.list(folder))?.into_iter().map(|entry| entry.name);
    let left = |name: &String| {
        let name = name.to_ascii_lowercase();
        files.contains(&name.as_str()) || UNFINISHED.iter().any(|ending| name.ends_with(ending))
    };
    Ok(names.filter(left).map(|name| format!("{folder}/{name}")).collect())
}

/// Bytes at the start of a disk that hold its partition table.
const TABLE: u64 = 1 << 20;

/// The size in bytes of the partition that starts at `offset` of the copy; none if there is none.
///
/// # Errors
/// When the table cannot be read.
pub(crate) fn partition_size(copy: &Copy, offset: u64) -> Result<Option<u64>> {
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

    use super::{fat_left, find_any, secret_lines};
    use crate::disk::fat::{self, LEAST};
    use crate::disk::ids::VolumeId;

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
}
