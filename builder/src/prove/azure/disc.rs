//! A disc with one file in its root: ISO 9660 at its plainest (ECMA-119), which Linux mounts beside the UDF of real ones.
//!
//! ```text
//! sector 16 volume │ 17 end of volumes │ 18, 19 path tables │ 20 root folder │ 21… the file
//! ```

use anyhow::{Context as _, Result, ensure};

/// Bytes of a sector, and of a logical block.
const SECTOR: usize = 2048;
const VOLUME: usize = 16;
const END: usize = 17;
const PATHS_LITTLE: usize = 18;
const PATHS_BIG: usize = 19;
const ROOT: usize = 20;
const FILE: usize = 21;

/// Length of the record of a folder that names itself: one byte of name.
const FOLDER_RECORD: usize = 34;
/// Of a path table with nothing but the root.
const PATHS: u32 = 10;
/// 1 January 2025, midnight UTC, as records have it: years since 1900, month, day, hour, minute, second, zone.
const DATE: [u8; 7] = [125, 1, 1, 0, 0, 0, 0];
/// A date that is not stated, in the volume's longer form.
const NO_DATE: [u8; 17] = *b"0000000000000000\0";

/// The disc, with a file of this name (capitals, digits, `-` and one dot; Linux shows it in lower case) in its root.
///
/// # Errors
/// When name or content are too long.
pub(super) fn image(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    ensure!(name.len() <= 30, "the name {name} is too long for a disc");
    let size = u32::try_from(content.len()).context("a file for a disc")?;
    let sectors = FILE + content.len().div_ceil(SECTOR).max(1);
    let mut disc = vec![0; sectors * SECTOR];
    let blocks = u32::try_from(sectors).context("a disc")?;
    put(&mut disc, VOLUME, 0, &volume(blocks));
    put(&mut disc, END, 0, b"\xffCD001\x01");
    for (sector, big) in [(PATHS_LITTLE, false), (PATHS_BIG, true)] {
        put(&mut disc, sector, 0, &paths(big));
    }
    let (own, parent) = (folder(b"\0"), folder(b"\x01"));
    let file = record(FILE, size, 0, format!("{name};1").as_bytes());
    put(&mut disc, ROOT, 0, &[own, parent, file].concat());
    put(&mut disc, FILE, 0, content);
    Ok(disc)
}

fn put(disc: &mut [u8], sector: usize, at: usize, bytes: &[u8]) {
    let start = sector * SECTOR + at;
    disc[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Numbers stand twice, in both orders of their bytes.
fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

const fn sector(at: usize) -> u32 {
    at as u32
}

fn record(extent: usize, size: u32, flags: u8, name: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 33];
    record[2..10].copy_from_slice(&both32(sector(extent)));
    record[10..18].copy_from_slice(&both32(size));
    record[18..25].copy_from_slice(&DATE);
    record[25] = flags;
    // The volume's number in its set: 1, in both orders.
    record[28..32].copy_from_slice(&[1, 0, 0, 1]);
    record[32] = name.len() as u8;
    record.extend(name);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = record.len() as u8;
    record
}

/// The root by the name `0` (itself) or `1` (its parent, which it is as well).
fn folder(name: &[u8]) -> Vec<u8> {
    const IS_FOLDER: u8 = 2;
    record(ROOT, SECTOR as u32, IS_FOLDER, name)
}

fn paths(big: bool) -> Vec<u8> {
    let (extent, parent) = match big {
        true => (sector(ROOT).to_be_bytes(), 1_u16.to_be_bytes()),
        false => (sector(ROOT).to_le_bytes(), 1_u16.to_le_bytes()),
    };
    [&[1, 0][..], &extent, &parent, &[0, 0]].concat()
}

fn volume(blocks: u32) -> Vec<u8> {
    let mut volume = vec![0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| volume[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x01CD001\x01");
    // Names that are not stated are blanks.
    for (at, length) in [(8, 64), (190, 512), (702, 111)] {
        put(at, &vec![b' '; length]);
    }
    put(40, b"EDGEPRESS_AZURE");
    put(80, &both32(blocks));
    // One volume in the set, this is the first, and its blocks have 2048 bytes.
    put(120, &[1, 0, 0, 1]);
    put(124, &[1, 0, 0, 1]);
    put(128, &[0, 8, 8, 0]);
    put(132, &both32(PATHS));
    put(140, &sector(PATHS_LITTLE).to_le_bytes());
    put(148, &sector(PATHS_BIG).to_be_bytes());
    let root = folder(b"\0");
    debug_assert_eq!(root.len(), FOLDER_RECORD);
    put(156, &root);
    for at in [813, 830, 847, 864] {
        put(at, &NO_DATE);
    }
    put(881, &[1]);
    volume
}

#[cfg(test)]
mod tests {
    use super::{FILE, ROOT, SECTOR, image};
    use crate::host;

    #[test]
    fn a_disc() {
        let content = vec![b'x'; SECTOR + 1];
        let disc = image("OVF-ENV.XML", &content).expect("a disc");
        assert_eq!(disc.len(), (FILE + 2) * SECTOR);
        assert_eq!(&disc[FILE * SECTOR..][..content.len()], content);
        let folder = &disc[ROOT * SECTOR..];
        // Three records, each as long as it says, the last one the file.
        let second = usize::from(folder[0]);
        let third = second + usize::from(folder[second]);
        assert_eq!(&folder[third + 33..third + 46], b"OVF-ENV.XML;1");
        assert_eq!(&folder[third + 10..third + 14], 2049_u32.to_le_bytes());
        assert_eq!(&folder[third + 14..third + 18], 2049_u32.to_be_bytes());
        assert!(image("A-NAME-THAT-IS-LONGER-THAN-THIRTY.X", b"").is_err());
    }

    #[test]
    fn it_is_taken_for_one() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), image("OVF-ENV.XML", b"text").expect("a disc")).expect("write");
        let mut command = host::command("blkid").expect("util-linux");
        let said = host::run(command.args(["-p", "-o", "value", "-s", "TYPE"]).arg(file.path()));
        assert_eq!(String::from_utf8_lossy(&said.expect("blkid")).trim(), "iso9660");
    }
}
