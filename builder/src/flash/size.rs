//! How long the disk in a compressed file is, from the file's own structure, without unpacking it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// First bytes of a frame (RFC 8878, 3.1.1) and of one to be skipped (3.1.2), little-endian.
const FRAME: u32 = 0xfd2f_b528;
const SKIPPABLE: u32 = 0x184d_2a50;
/// A file of more frames and blocks is not walked through: 16 million blocks are 2 TB.
const MOST_STEPS: u32 = 1 << 24;

fn read<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

/// Why a structure cannot be followed to the file's end.
const DAMAGED: &str = "its structure does not reach to its end";

/// Of Zstandard; none where a frame does not say its length.
///
/// # Errors
/// When the file is cut off or damaged.
pub(crate) fn zst(file: &File, length: u64) -> Result<Option<u64>, &'static str> {
    let mut steps = 0;
    match frames(file, length, &mut steps) {
        Some(total) => Ok(total),
        // Too many to be followed.
        None if steps > MOST_STEPS => Ok(None),
        None => Err(DAMAGED),
    }
}

/// The sum of all frames, if each says its length; nothing where one cannot be followed.
fn frames(file: &File, length: u64, steps: &mut u32) -> Option<Option<u64>> {
    let (mut at, mut total) = (0_u64, Some(0_u64));
    while at < length {
        let magic = u32::from_le_bytes(read(file, at)?);
        if magic & !0xf == SKIPPABLE {
            at = at.checked_add(8 + u64::from(u32::from_le_bytes(read(file, at + 4)?)))?;
        } else if magic == FRAME {
            let content;
            (at, content) = frame(file, at + 4, steps)?;
            total = total.zip(content).and_then(|(total, content)| total.checked_add(content));
        } else {
            return None;
        }
        *steps += 1;
        if *steps > MOST_STEPS {
            return None;
        }
    }
    (at == length).then_some(total)
}

/// The end of a frame whose header is at `at`, and how long its content is, if it says so.
fn frame(file: &File, at: u64, steps: &mut u32) -> Option<(u64, Option<u64>)> {
    let [descriptor] = read::<1>(file, at)?;
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_at = at + 1 + u64::from(!single) + dictionary;
    let (content, width) = match descriptor >> 6 {
        0 if single => (Some(u64::from(read::<1>(file, size_at)?[0])), 1),
        0 => (None, 0),
        1 => (Some(u64::from(u16::from_le_bytes(read(file, size_at)?)) + 256), 2),
        2 => (Some(u64::from(u32::from_le_bytes(read(file, size_at)?))), 4),
        _ => (Some(u64::from_le_bytes(read(file, size_at)?)), 8),
    };
    let mut at = size_at + width;
    loop {
        let [a, b, c] = read::<3>(file, at)?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        // Kind 1 is one byte, so many times over.
        let stored = if header >> 1 & 3 == 1 { 1 } else { u64::from(header >> 3) };
        at = at.checked_add(3 + stored)?;
        *steps += 1;
        if *steps > MOST_STEPS {
            return None;
        }
        if header & 1 != 0 {
            break;
        }
    }
    let checksum = if descriptor & 4 != 0 { 4 } else { 0 };
    Some((at + checksum, content))
}

/// Streams of an xz file that are looked at; more are somebody's joke.
const MOST_STREAMS: u32 = 1 << 16;
/// An index is read whole; this one is of 300 million blocks.
const LARGEST_INDEX: u64 = 64 << 20;

/// Of xz (The .xz File Format 1.1.0, chapters 2.1.2 and 4): the sum of its streams' indexes, from the last to the first.
///
/// # Errors
/// When the file is cut off or damaged.
pub(crate) fn xz(file: &File, length: u64) -> Result<Option<u64>, &'static str> {
    streams(file, length).map(Some).ok_or(DAMAGED)
}

fn streams(file: &File, length: u64) -> Option<u64> {
    let (mut end, mut total) = (length, 0_u64);
    for _ in 0..MOST_STREAMS {
        if end == 0 {
            return Some(total);
        }
        if end < 12 {
            return None;
        }
        let footer: [u8; 12] = read(file, end - 12)?;
        // Between streams lie zeros, four at a time.
        if footer[8..] == [0; 4] {
            end -= 4;
            continue;
        }
        if &footer[10..] != b"YZ" {
            return None;
        }
        let stored = u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]]);
        let index_length = (u64::from(stored) + 1) * 4;
        let index_at = (end - 12).checked_sub(index_length)?;
        if index_length > LARGEST_INDEX {
            return None;
        }
        let mut index = vec![0; index_length as usize];
        file.read_exact_at(&mut index, index_at).ok()?;
        let (packed, content) = records(&index)?;
        total = total.checked_add(content)?;
        // The stream's header has 12 bytes.
        end = index_at.checked_sub(packed)?.checked_sub(12)?;
    }
    None
}

/// What an index says of its blocks: bytes in the file, bytes unpacked.
fn records(index: &[u8]) -> Option<(u64, u64)> {
    let mut rest = index.strip_prefix(&[0])?;
    let count = varint(&mut rest)?;
    let (mut packed, mut content) = (0_u64, 0_u64);
    for _ in 0..count {
        packed = packed.checked_add(varint(&mut rest)?.checked_next_multiple_of(4)?)?;
        content = content.checked_add(varint(&mut rest)?)?;
    }
    Some((packed, content))
}

/// A number of up to nine bytes, seven bits each, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in 0..9 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << (7 * shift);
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{xz, zst};
    use std::fs::File;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(bytes).expect("write");
        file
    }

    fn zst_of(bytes: &[u8]) -> Option<u64> {
        zst(&file(bytes), bytes.len() as u64).ok().flatten()
    }

    fn xz_of(bytes: &[u8]) -> Option<u64> {
        xz(&file(bytes), bytes.len() as u64).ok().flatten()
    }

    fn disk(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 999 % 251) as u8).collect()
    }

    fn zst_bytes(length: usize) -> Vec<u8> {
        zstd::bulk::compress(&disk(length), 3).expect("zst")
    }

    fn xz_bytes(length: usize) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(&disk(length)).expect("xz");
        encoder.finish().expect("xz")
    }

    #[test]
    fn frames_and_blocks_add_up() {
        for length in [0, 1, 255, 256, 70_000, 3_000_000] {
            assert_eq!(zst_of(&zst_bytes(length)), Some(length as u64), "{length}");
            assert_eq!(xz_of(&xz_bytes(length)), Some(length as u64), "{length}");
        }
        let skip = [&0x184d_2a5e_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let joined = [zst_bytes(300_000), skip, zst_bytes(5)].concat();
        assert_eq!(zst_of(&joined), Some(300_005));
        let joined = [xz_bytes(300_000), vec![0; 8], xz_bytes(5), vec![0; 4]].concat();
        assert_eq!(xz_of(&joined), Some(300_005));
        // A stream from a pipe does not know its length.
        let piped = zstd::encode_all(disk(999).as_slice(), 3).expect("zst");
        assert_eq!(zst(&file(&piped), piped.len() as u64), Ok(None));
        assert!(zst(&file(&piped), piped.len() as u64 - 1).is_err(), "cut");
    }

    #[test]
    fn no_bytes_are_believed() {
        let (zst, xz) = (zst_bytes(400_000), xz_bytes(400_000));
        for cut in 0..100 {
            let keep = |bytes: &[u8]| bytes[..bytes.len() * cut / 100].to_vec();
            assert!(cut == 0 || zst_of(&keep(&zst)).is_none(), "{cut}");
            assert!(cut == 0 || xz_of(&keep(&xz)).is_none(), "{cut}");
        }
        for at in (0..zst.len().min(xz.len())).chain(xz.len() - 40..xz.len()) {
            for bytes in [&zst, &xz] {
                let mut bytes = bytes.clone();
                let place = at.min(bytes.len() - 1);
                bytes[place] ^= 0xff;
                zst_of(&bytes);
                xz_of(&bytes);
            }
        }
    }
}
