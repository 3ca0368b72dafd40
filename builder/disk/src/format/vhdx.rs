//! VHDX: what is looked at before qemu-img reads one, and what is put in place of what qemu-img draws by lot.
//!
//! ```text
//!    0  "vhdxfile", who made it
//!   64K  header ─┐ the one with the higher number counts: ids of the file and of what it holds, where the log is
//!  128K  header ─┘
//!  192K  regions ─┐ twice the same: where the metadata and the table of blocks are
//!  256K  regions ─┘
//!        log       what has to be written again after a crash
//!        metadata  a table of items: block size, does it have a parent?; size of the disk; id of the disk
//!        BAT       where each block of the disk is
//!        blocks
//! ```
//! Source: "VHDX Format Specification" v2.00, Microsoft ([MS-VHDX]); numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

use super::table::Qemu;
use crate::disk::ids::Uuid;
use crate::units::Digest;

/// First bytes.
pub(super) const MAGIC: &[u8] = b"vhdxfile";

/// Blocks of 1 MiB: with the usual 32 MiB a sparse ext4, which has something everywhere, would fill most of them
/// (Microsoft's own advice for Linux, "Best Practices for running Linux on Hyper-V").
pub(super) static QEMU: Qemu =
    Qemu { driver: "vhdx", options: "subformat=dynamic,block_size=1048576", settle, look };

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Who made it, in UTF-16, and how much room there is for it.
const CREATOR: (u64, usize) = (8, 512);
const US: &str = "edgepress";
/// Places of the headers and of the two copies of the table of regions.
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const REGIONS: [u64; 2] = [192 * KIB, 256 * KIB];
/// So much of a header or of a metadata table's beginning has a meaning.
const SMALL: usize = 4096;
/// Length of a table of regions, and of one of metadata.
const TABLE: usize = 64 << 10;
/// Most entries of these tables.
const MOST: (u32, u16) = (2047, 2047);
/// Where a checksum stands in headers and tables of regions.
const SUM: usize = 4;
/// Where a header has its number, the ids of file and content, that of a log which is in use, the log's length, its place.
const NUMBER: usize = 8;
const FILE_ID: usize = 16;
const DATA_ID: usize = 32;
const LOG_ID: usize = 48;
const LOG_LENGTH: usize = 68;
const LOG_AT: usize = 72;
/// Longest log that is emptied: qemu-img's have 1 MiB.
const LOG_MAX: u32 = 64 << 20;

/// Regions and items, by the ids that the specification gives them.
const METADATA: &str = "8b7ca206-4790-4b9a-b8fe-575f050f886e";
const BAT: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";
const PARAMETERS: &str = "caa16737-fa36-4d43-b3b6-33f0aa44e76b";
const SIZE: &str = "2fa54224-cd1b-4876-b211-5dbed83bf4b8";
const DISK_ID: &str = "beca12ab-b2e6-4523-93ef-c309e000c746";
const SECTOR: &str = "8141bf1d-a96f-4709-ba47-f233a8faab5f";
const PARENT: &str = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c";
/// Bit of the parameters: it has a parent.
const HAS_PARENT: u32 = 2;

/// Longest table of blocks: qemu-img takes as much memory as the file says. A disk of 64 GiB needs 1 MiB.
const BAT_MAX: u64 = 64 << 20;

const CUT: &str = "it is cut off or damaged";

/// A part of the file: place and length.
type Part = (u64, u64);

/// A header: where it is, and its bytes.
type Header = (u64, Vec<u8>);

/// The disk's size. Refuses what leans on another file, what a crash has left unfinished, and what lies outside of the file.
fn look(file: &File, length: u64) -> Result<u64, &'static str> {
    let [Some((_, header)), _] = headers(file) else { return Err(CUT) };
    if header[LOG_ID..LOG_ID + 16] != [0; 16] {
        return Err("it was not closed: what its log says has to be written first");
    }
    let items = Items::of(file, length).ok_or(CUT)?;
    if items.find(PARENT).is_some() || items.word(file, PARAMETERS, 4).ok_or(CUT)? & HAS_PARENT != 0 {
        return Err("it is a layer over another file (a differencing disk)");
    }
    let block = u64::from(items.word(file, PARAMETERS, 0).ok_or(CUT)?);
    let sector = items.word(file, SECTOR, 0).ok_or(CUT)?;
    if !(MIB..=256 * MIB).contains(&block) || !block.is_power_of_two() || ![512, 4096].contains(&sector) {
        return Err("its blocks or sectors are of no known size");
    }
    let low = u64::from(items.word(file, SIZE, 0).ok_or(CUT)?);
    let high = u64::from(items.word(file, SIZE, 4).ok_or(CUT)?);
    Ok(high << 32 | low)
}

/// Puts ids that follow from `id` in place of those that are random, and takes out what the log still has of them.
fn settle(file: &File, id: Uuid) -> Result<()> {
    let [Some(last), Some(first)] = headers(file) else { anyhow::bail!("it has not two headers") };
    ensure!(last.1[LOG_ID..LOG_ID + 16] == [0; 16], "it was not closed");
    let length = file.metadata()?.len();
    let items = Items::of(file, length).context("it has no metadata")?;
    let derive = |label: &str| Uuid::from_digest(Digest::of(format!("edgepress vhdx {label} {id}"))).to_gpt();
    let (place, size) = items.find(DISK_ID).context("it has no id")?;
    ensure!(size == 16, "its id is {size} bytes long");
    file.write_all_at(&derive("disk"), place)?;
    let mut creator = vec![0; CREATOR.1];
    for (place, unit) in creator.chunks_exact_mut(2).zip(US.encode_utf16()) {
        place.copy_from_slice(&unit.to_le_bytes());
    }
    file.write_all_at(&creator, CREATOR.0)?;
    let (log, log_length) = (long(&last.1, LOG_AT), word(&last.1, LOG_LENGTH));
    let end = log.checked_add(log_length.into());
    ensure!(
        log >= MIB && log_length <= LOG_MAX && end.is_some_and(|end| end <= length),
        "its log is nowhere"
    );
    file.write_all_at(&vec![0; log_length as usize], log)?;
    // Numbers begin anywhere; only which is higher means something.
    for (number, (place, mut header)) in [(1_u64, first), (2, last)] {
        header[NUMBER..NUMBER + 8].copy_from_slice(&number.to_le_bytes());
        header[FILE_ID..FILE_ID + 16].copy_from_slice(&derive("file"));
        header[DATA_ID..DATA_ID + 16].copy_from_slice(&derive("data"));
        header[SUM..SUM + 4].fill(0);
        let sum = crc32c(&header);
        header[SUM..SUM + 4].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&header, place)?;
    }
    Ok(())
}

/// The whole headers, the one that counts first.
fn headers(file: &File) -> [Option<Header>; 2] {
    let read = |at: u64| Some((at, summed(file, at, SMALL, b"head")?));
    let [one, other] = HEADERS.map(read);
    let number = |header: &Option<Header>| header.as_ref().map(|(_, bytes)| long(bytes, NUMBER));
    if number(&one) >= number(&other) { [one, other] } else { [other, one] }
}

/// A part that begins with its name and has a checksum, if that is right.
fn summed(file: &File, at: u64, length: usize, name: &[u8]) -> Option<Vec<u8>> {
    let bytes = part(file, (at, length as u64)).ok()?;
    let mut plain = bytes.clone();
    plain[SUM..SUM + 4].fill(0);
    (bytes.starts_with(name) && word(&bytes, SUM) == crc32c(&plain)).then_some(bytes)
}

/// The items of the metadata, by id.
struct Items(Vec<(Uuid, Part)>);

impl Items {
    fn of(file: &File, length: u64) -> Option<Self> {
        let regions = REGIONS.iter().find_map(|at| summed(file, *at, TABLE, b"regi"))?;
        let count = Some(word(&regions, 8)).filter(|count| *count <= MOST.0)?;
        let entries = regions.get(16..)?.chunks_exact(32).take(count as usize);
        let regions: Vec<(Uuid, Part)> =
            entries.map(|entry| (guid(entry), (long(entry, 16), word(entry, 24).into()))).collect();
        let inside = |(at, size): &Part| *at >= MIB && at.checked_add(*size).is_some_and(|end| end <= length);
        if !regions.iter().all(|(_, part)| inside(part)) {
            return None;
        }
        let region =
            |id: &str| regions.iter().find(|(known, _)| known.to_string() == id).map(|(_, part)| *part);
        region(BAT).filter(|(_, size)| *size <= BAT_MAX)?;
        let (start, size) = region(METADATA)?;
        let table = part(file, (start, size.min(TABLE as u64))).ok()?;
        let count = u16::from_le_bytes([*table.get(10)?, *table.get(11)?]);
        if !table.starts_with(b"metadata") || count > MOST.1 {
            return None;
        }
        let entries = table.get(32..)?.chunks_exact(32).take(count.into());
        let item = |entry: &[u8]| (guid(entry), (start + u64::from(word(entry, 16)), word(entry, 20).into()));
        let items: Vec<_> = entries.map(item).collect();
        items.iter().all(|(_, part)| inside(part)).then_some(Self(items))
    }

    fn find(&self, id: &str) -> Option<Part> {
        self.0.iter().find(|(known, _)| known.to_string() == id).map(|(_, part)| *part)
    }

    /// A word in an item.
    fn word(&self, file: &File, id: &str, at: u64) -> Option<u32> {
        let (place, _) = self.find(id).filter(|(_, size)| at + 4 <= *size)?;
        part(file, (place + at, 4)).ok().map(|bytes| word(&bytes, 0))
    }
}

fn part(file: &File, (at, length): Part) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn guid(entry: &[u8]) -> Uuid {
    let bytes = entry.get(..16).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    Uuid::from_gpt(bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|long| long.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// CRC-32C (Castagnoli), bit by bit: a few tables of 64 KiB are all that is summed.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ (POLYNOMIAL * (sum & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        DISK_ID, HEADERS, LOG_ID, MIB, PARAMETERS, REGIONS, SIZE, SMALL, SUM, TABLE, crc32c, look, settle,
    };
    use crate::disk::ids::Uuid;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    const METADATA_AT: u64 = 3 * MIB;
    const ITEMS: [(&str, &[u8]); 4] = [
        (PARAMETERS, &[0, 0, 0x10, 0, 0, 0, 0, 0]),
        (SIZE, &[0, 0, 0x50, 0, 0, 0, 0, 0]),
        (DISK_ID, &[9; 16]),
        (super::SECTOR, &[0, 2, 0, 0]),
    ];

    fn gpt(id: &str) -> [u8; 16] {
        let hex: String = id.chars().filter(|c| *c != '-').collect();
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
        Uuid(std::array::from_fn(byte)).to_gpt()
    }

    fn write_summed(file: &File, at: u64, mut bytes: Vec<u8>) {
        bytes[SUM..SUM + 4].fill(0);
        let sum = crc32c(&bytes);
        bytes[SUM..SUM + 4].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&bytes, at).expect("write");
    }

    fn header(number: u8, log_id: u8) -> Vec<u8> {
        let mut header = vec![0; SMALL];
        header[..4].copy_from_slice(b"head");
        header[8] = number;
        header[16..48].fill(number);
        header[LOG_ID] = log_id;
        header[68..72].copy_from_slice(&(MIB as u32).to_le_bytes());
        header[72..80].copy_from_slice(&MIB.to_le_bytes());
        header
    }

    fn regions(length: u32) -> Vec<u8> {
        let mut table = vec![0; TABLE];
        table[..4].copy_from_slice(b"regi");
        table[8] = 2;
        for (place, (id, at)) in
            table[16..].chunks_exact_mut(32).zip([(super::BAT, 2 * MIB), (super::METADATA, METADATA_AT)])
        {
            place[..16].copy_from_slice(&gpt(id));
            place[16..24].copy_from_slice(&at.to_le_bytes());
            place[24..28].copy_from_slice(&length.to_le_bytes());
        }
        table
    }

    /// Four MiB: a disk of 5 MiB, of which nothing is there.
    fn vhdx() -> File {
        let file = tempfile::tempfile().expect("file");
        file.set_len(4 * MIB).expect("size");
        file.write_all_at(super::MAGIC, 0).expect("write");
        // What an older header says of a log does not count.
        write_summed(&file, HEADERS[0], header(7, 1));
        write_summed(&file, HEADERS[1], header(8, 0));
        REGIONS.iter().for_each(|at| write_summed(&file, *at, regions(MIB as u32)));
        let mut table = vec![0; TABLE + 64];
        table[..8].copy_from_slice(b"metadata");
        table[10] = ITEMS.len() as u8;
        for (at, (id, bytes)) in ITEMS.iter().enumerate() {
            let place = TABLE + 16 * at;
            let entry = &mut table[32 * (at + 1)..][..32];
            entry[..16].copy_from_slice(&gpt(id));
            entry[16..20].copy_from_slice(&(place as u32).to_le_bytes());
            entry[20..24].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            table[place..place + bytes.len()].copy_from_slice(bytes);
        }
        file.write_all_at(&table, METADATA_AT).expect("write");
        file
    }

    #[test]
    fn castagnoli() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_disk_of_its_own() {
        assert_eq!(look(&vhdx(), 4 * MIB), Ok(5 * MIB));
    }

    #[test]
    fn what_is_refused() {
        let refusal = |change: &dyn Fn(&File)| {
            let file = vhdx();
            change(&file);
            let length = file.metadata().expect("length").len();
            look(&file, length).expect_err("refused")
        };
        let write =
            |at: u64, bytes: &'static [u8]| move |file: &File| file.write_all_at(bytes, at).expect("write");
        let item = |at: u64| METADATA_AT + TABLE as u64 + 16 * at;
        let layer = "it is a layer over another file (a differencing disk)";
        assert_eq!(refusal(&write(item(0) + 4, &[2])), layer);
        // The id of the disk's own id becomes that of a parent's locator.
        let locator = |file: &File| file.write_all_at(&gpt(super::PARENT), METADATA_AT + 96).expect("write");
        assert_eq!(refusal(&locator), layer);
        let unfinished = |file: &File| write_summed(file, HEADERS[1], header(8, 1));
        assert!(refusal(&unfinished).starts_with("it was not closed"));
        assert!(refusal(&write(item(0), &[0, 0, 0x30])).contains("no known size"));
        assert!(refusal(&write(item(3), &[0, 3])).contains("no known size"));
        // Tables that reach out of the file, and one that would take 4 GiB of memory.
        let huge = |file: &File| REGIONS.iter().for_each(|at| write_summed(file, *at, regions(u32::MAX)));
        assert_eq!(refusal(&huge), super::CUT);
        assert_eq!(refusal(&write(METADATA_AT + 32 + 16, &[0xff; 4])), super::CUT);
        assert_eq!(refusal(&write(METADATA_AT + 10, &[0xff, 0xff])), super::CUT);
        for keep in [0, 100, 64 << 10, 200 << 10, MIB, 4 * MIB - 1] {
            assert_eq!(refusal(&|file: &File| file.set_len(keep).expect("cut")), super::CUT, "{keep}");
        }
        let rotten = |file: &File| HEADERS.iter().for_each(|at| write(*at + 99, b"x")(file));
        assert_eq!(refusal(&rotten), super::CUT);
    }

    #[test]
    fn what_is_random_follows_from_the_image() {
        let bytes = |file: &File| {
            let mut bytes = vec![0; 4 << 20];
            file.read_exact_at(&mut bytes, 0).expect("read");
            bytes
        };
        let (one, other) = (vhdx(), vhdx());
        // The same file, made at another time.
        other.write_all_at(&[4; 16], METADATA_AT + TABLE as u64 + 32).expect("write");
        other.write_all_at(b"loge 4", MIB + 4096).expect("write");
        other.write_all_at(b"Q\0E\0M\0U\0 \x001\x001\0", 8).expect("write");
        write_summed(&other, HEADERS[0], header(77, 0));
        write_summed(&other, HEADERS[1], header(78, 0));
        let clean = |file: &File| write_summed(file, HEADERS[0], header(7, 0));
        clean(&one);
        for file in [&one, &other] {
            settle(file, Uuid([1; 16])).expect("settles");
            assert_eq!(look(file, 4 * MIB), Ok(5 * MIB));
        }
        assert!(bytes(&one) == bytes(&other), "it still differs");
        settle(&other, Uuid([2; 16])).expect("settles");
        assert!(bytes(&one) != bytes(&other), "two images have one id");
    }
}
