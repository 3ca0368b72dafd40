//! Is this a disk from which a machine could start? Judged by its beginning alone, before a card is touched.
//!
//! ```text
//! sector 0   MBR: 55 AA, four entries that are sane ─┐ one of the two, and partitions
//! sector 1   GPT: its header and its entries, whole ─┘ that begin inside the image
//! ```
//! The backup of a GPT is no help: it lies at the image's end, and firmware looks for it at the card's. The MBR of others
//! may hold what ours never does (extended partitions, overlapping ones of a hybrid ISO), so its entries are judged one by
//! one.

use std::io::{self, Read, Seek, SeekFrom};

use super::foreign::{self, Foreign};
use crate::disk::gpt;
use crate::disk::mbr;
use crate::error::{Problem, problem};

/// So much of a disk is looked at: both tables, however many entries a GPT has that is believed ([`gpt::read`]).
pub const HEAD: usize = (1 << 20) + (64 << 10);

/// What a disk's beginning says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// A disk with a partition table; how far its partitions reach, bytes.
    Disk {
        /// End of the last partition.
        end: u64,
    },
    /// Something else, that is known.
    Foreign(Foreign),
    /// No disk, and why not.
    Unknown(String),
}

/// Judges a disk of `size` bytes by as much of its beginning as there is, up to [`HEAD`].
pub fn judge(head: &[u8], size: u64) -> Judged {
    let why = match (primary_gpt(head, size), mbr::reach(head, size)) {
        (Ok(end), _) | (_, Ok(end)) => return Judged::Disk { end },
        (Err(gpt), Err(mbr::Doubt::Protective)) => format!("its MBR protects a GPT, and {gpt}"),
        (_, Err(mbr::Doubt::Other(why))) => why,
    };
    match foreign::known(head, &[]) {
        Some(foreign) => Judged::Foreign(foreign),
        None if head.is_empty() => Judged::Unknown("it holds nothing".into()),
        None if head.iter().all(|byte| *byte == 0) => {
            Judged::Unknown("it is blank where a partition table would be".into())
        }
        None => Judged::Unknown(why),
    }
}

/// Refuses what is no disk, naming what it is; says how far its partitions reach.
///
/// # Errors
/// A [`Problem`].
pub fn disk(head: &[u8], size: u64, name: &str) -> Result<u64, Problem> {
    match judge(head, size) {
        Judged::Disk { end } => Ok(end),
        Judged::Foreign(Foreign { what, hint }) => {
            Err(Problem::input(format!("{name} holds {what}, and no disk that a machine starts from"))
                .hint(hint))
        }
        Judged::Unknown(why) => {
            Err(Problem::input(format!("{name} holds no disk that a machine starts from: {why}"))
                .hint("name the image of a whole disk, with its partition table"))
        }
    }
}

fn primary_gpt(head: &[u8], size: u64) -> Result<u64, String> {
    // Partitions behind the image's end are for the caller to judge.
    let table = gpt::read_primary(Beginning { head, size: u64::MAX / 2, at: 0 });
    let table = table.map_err(|error| match problem(&error) {
        Some(problem) => problem.message.clone(),
        None => format!("it cannot be read: {error:#}"),
    })?;
    let outside = table.partitions.iter().find(|part| part.offset >= size);
    match (outside, table.partitions.iter().map(|part| part.offset.saturating_add(part.size)).max()) {
        (Some(part), _) => Err(format!(
            "its partition at byte {} begins behind the image's {size} bytes: it was cut off",
            part.offset
        )),
        (None, None) => Err("its GPT has no partitions".into()),
        (None, Some(end)) => Ok(end),
    }
}

/// A disk of which only the beginning is there; the rest reads as zeros.
struct Beginning<'a> {
    head: &'a [u8],
    size: u64,
    at: u64,
}

impl Read for Beginning<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = usize::try_from(self.at).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        buffer[count..].fill(0);
        self.at += buffer.len() as u64;
        Ok(buffer.len())
    }
}

impl Seek for Beginning<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(back) => self.size.saturating_add_signed(back),
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
        };
        Ok(self.at)
    }
}

/// A table that is sane, for tests of what is done with disks.
#[cfg(test)]
fn sign(disk: &mut [u8]) {
    let sectors = u32::try_from(disk.len() / 512 - 1).expect("small");
    disk[446..510].fill(0);
    disk[450] = mbr::LINUX;
    disk[454..458].copy_from_slice(&1_u32.to_le_bytes());
    disk[458..462].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

#[cfg(test)]
mod tests {
    use super::{HEAD, Judged, disk, judge, sign};
    use crate::disk::gpt::{self, ALIGN, ESP, Partition, Table};
    use crate::disk::ids::Ids;
    use crate::units::Digest;
    use std::io::Cursor;

    const SIZE: u64 = 8 * ALIGN;

    fn with_gpt() -> Vec<u8> {
        let ids = Ids::from_seed(&Digest::of("judge"));
        let esp = Partition {
            kind: ESP,
            guid: ids.fat_partition,
            offset: ALIGN,
            size: 5 * ALIGN,
            name: "EFI".into(),
        };
        let mut disk = Cursor::new(vec![0; SIZE as usize]);
        gpt::write(&mut disk, SIZE, &Table { disk: ids.disk, partitions: vec![esp] }).expect("table");
        let mut bytes = disk.into_inner();
        bytes.truncate(HEAD);
        bytes
    }

    fn with_mbr() -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        sign(&mut bytes);
        bytes
    }

    fn said(head: &[u8], size: u64) -> String {
        disk(head, size, "x.img").map(|end| end.to_string()).unwrap_or_else(|error| error.message)
    }

    #[test]
    fn disks() {
        assert_eq!(judge(&with_gpt(), SIZE), Judged::Disk { end: 6 * ALIGN });
        assert_eq!(judge(&with_mbr(), SIZE), Judged::Disk { end: HEAD as u64 });
        // Without the MBR that protects it, and with one of Linux's hybrids.
        let mut bare = with_gpt();
        bare[..512].fill(0);
        assert_eq!(judge(&bare, SIZE), Judged::Disk { end: 6 * ALIGN });
        // As the images of distributions for CDs and sticks have it: the first partition holds the second, and begins at 0.
        let mut hybrid = with_mbr();
        hybrid[446] = 0x80;
        hybrid[454..458].fill(0);
        hybrid[462..478]
            .copy_from_slice(&[0, 0xfe, 0xff, 0xff, 0xef, 0xfe, 0xff, 0xff, 9, 0, 0, 0, 8, 0, 0, 0]);
        hybrid[0..2].copy_from_slice(b"ER");
        assert!(matches!(judge(&hybrid, SIZE), Judged::Disk { .. }));
        // An extended partition, as old installations have it.
        let mut extended = with_mbr();
        extended[466] = 0x05;
        extended[470..478].copy_from_slice(&[9, 0, 0, 0, 9, 0, 0, 0]);
        assert!(matches!(judge(&extended, SIZE), Judged::Disk { .. }));
    }

    #[test]
    fn no_disks() {
        assert!(said(&[0; 4096], 4096).ends_with("it is blank where a partition table would be"));
        assert_eq!(said(b"{}", 2), "x.img holds a JSON document, and no disk that a machine starts from");
        let mut damaged = with_gpt();
        damaged[600] ^= 1;
        assert!(said(&damaged, SIZE).contains("its MBR protects a GPT, and "), "{}", said(&damaged, SIZE));
        let expected = format!("begins behind the image's {ALIGN} bytes: it was cut off");
        assert!(said(&with_gpt(), ALIGN).ends_with(&expected), "{}", said(&with_gpt(), ALIGN));
        type Change = fn(&mut [u8]);
        for (change, expected) in [
            ((|disk| disk[510] = 0) as Change, "no MBR and no GPT"),
            (|disk| disk[446] = 0x7f, "neither active nor inactive"),
            (|disk| disk[446..462].fill(0), "no partitions"),
            (|disk| disk[458..462].fill(0), "has no length"),
            (|disk| disk[454..458].fill(0xff), "begins behind the image's"),
        ] {
            let mut disk = with_mbr();
            disk[600] = 1;
            change(&mut disk);
            assert!(said(&disk, SIZE).contains(expected), "{expected}: {}", said(&disk, SIZE));
        }
    }

    #[test]
    fn no_beginning_panics() {
        let (gpt, mbr) = (with_gpt(), with_mbr());
        for length in (0..2048).chain([16 << 10, 17 << 10, HEAD]) {
            judge(&gpt[..length], SIZE);
            judge(&mbr[..length], length as u64);
        }
        for at in 446..1200 {
            for bytes in [&gpt, &mbr] {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0xff;
                judge(&bytes, SIZE);
            }
        }
    }
}
