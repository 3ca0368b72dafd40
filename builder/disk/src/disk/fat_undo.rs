//! Files taken off a FAT file system so that nothing of them stays.
//!
//! An ordinary removal frees clusters and marks names. Here the clusters become zeros, the names too, a folder that had
//! grown becomes as short as before, and the information sector says what it said: a file system that `fatfs` made and
//! that only got these files is bit for bit what it was. (One that somebody else wrote to may differ from its old
//! self where nobody can know what stood there, never by keeping a file.)

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result};

use super::fat;
use super::fat_check::{DELETED, ENTRY_BYTES, Geometry, folders, read};

/// End of a chain, as `fatfs` writes it.
const END: u32 = 0x0fff_ffff;
/// Offsets in the information sector: free clusters, the next free one (Microsoft's specification 1.03, page 22).
const INFO_FREE: u64 = 488;
const INFO_NEXT: u64 = 492;
const UNKNOWN: u32 = u32::MAX;

/// Removes these files, and these folders where they are empty by then (so folders stand after what is in them).
///
/// # Errors
/// When the file system is not sound, a folder is not empty, or on a read or write error.
pub(super) fn forget<D: Read + Write + Seek>(device: &mut D, size: u64, paths: &[String]) -> Result<()> {
    let before = State::read(device, size)?;
    // A removal is written into the folder's own time: it keeps the one that it has.
    let top = paths.first().and_then(|path| path.split('/').next()).unwrap_or_default();
    let epoch = fat::look_checked(device, |volume| volume.modified(top))?.unwrap_or(0);
    fat::change_checked(device, size, epoch, |volume| paths.iter().try_for_each(|path| volume.remove(path)))?;
    let mut after = State::read(device, size)?;
    let written: Vec<_> =
        after.folders.iter().filter(|folder| !before.folders.contains(folder)).cloned().collect();
    for folder in written {
        after.tidy(device, &folder)?;
    }
    after.clear_freed(device, &before.table)
}

/// A folder's first cluster, and what it holds.
type Folder = (u32, Vec<u8>);

struct State {
    geometry: Geometry,
    table: Vec<u32>,
    folders: Vec<Folder>,
}

impl State {
    fn read<D: Read + Seek>(device: &mut D, size: u64) -> Result<Self> {
        let (geometry, found) = folders(device, size)?;
        let table = geometry.table(device)?;
        let mut state = Self { geometry, table, folders: Vec::new() };
        for folder in found {
            let mut content = Vec::new();
            for cluster in state.chain(folder.first) {
                let offset = state.geometry.offset(cluster);
                content.extend(read(device, offset, state.geometry.cluster_bytes)?);
            }
            state.folders.push((folder.first, content));
        }
        Ok(state)
    }

    /// The clusters of a file or folder; [`folders`] has made sure that it ends.
    fn chain(&self, first: u32) -> Vec<u32> {
        let next = |cluster: &u32| self.table.get(*cluster as usize).copied().filter(|next| *next >= 2);
        let in_range = |cluster: &u32| (*cluster as usize) < self.table.len();
        std::iter::successors(Some(first), next).take_while(in_range).collect()
    }

    /// Clears the names that were removed from a folder, and the clusters that only they took.
    fn tidy<D: Read + Write + Seek>(&mut self, device: &mut D, (first, content): &Folder) -> Result<()> {
        let slots = tidied(content);
        let clusters = self.chain(*first);
        let bytes = usize::try_from(self.geometry.cluster_bytes)?;
        for (cluster, content) in clusters.iter().zip(slots.chunks(bytes)) {
            write(device, self.geometry.offset(*cluster), content)?;
        }
        let used = slots.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let kept = used / bytes + 1;
        if let Some((last, spare)) =
            clusters.get(kept - 1).zip(clusters.get(kept..)).filter(|(_, s)| !s.is_empty())
        {
            self.set(device, *last, END)?;
            spare.iter().try_for_each(|cluster| self.set(device, *cluster, 0))?;
        }
        Ok(())
    }

    /// Changes an entry of every copy of the table.
    fn set<D: Write + Seek>(&mut self, device: &mut D, cluster: u32, value: u32) -> Result<()> {
        self.table[cluster as usize] = if value == END { UNKNOWN } else { value };
        let width = if self.geometry.wide { 4 } else { 2 };
        for copy in 0..self.geometry.tables {
            let table = self.geometry.table_offset + copy * self.geometry.table_bytes;
            write(device, table + u64::from(cluster) * width, &value.to_le_bytes()[..width as usize])?;
        }
        Ok(())
    }

    /// Overwrites every cluster that was in use before, and puts the information sector right.
    fn clear_freed<D: Read + Write + Seek>(&self, device: &mut D, before: &[u32]) -> Result<()> {
        let zeros = vec![0; usize::try_from(self.geometry.cluster_bytes)?];
        let pairs = (0..).zip(self.table.iter().zip(before));
        let freed: Vec<u32> = pairs
            .skip(2)
            .filter(|(_, (now, before))| **now == 0 && **before != 0)
            .map(|(at, _)| at)
            .collect();
        for cluster in &freed {
            write(device, self.geometry.offset(*cluster), &zeros)?;
        }
        let Some((info, first)) = self.geometry.info_offset.zip(freed.first()) else { return Ok(()) };
        let free = u32::try_from(self.table.iter().skip(2).filter(|entry| **entry == 0).count())?;
        write(device, info + INFO_FREE, &free.to_le_bytes())?;
        // Files are put where the last one ended: the first cluster that they got is where that was.
        let next = read(device, info + INFO_NEXT, 4)?;
        if u32_of(&next) > *first {
            write(device, info + INFO_NEXT, &first.to_le_bytes())?;
        }
        Ok(())
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(UNKNOWN, u32::from_le_bytes)
}

/// A folder's slots without removed names: zeros after the last one in use, else free ones.
fn tidied(content: &[u8]) -> Vec<u8> {
    let mut slots = content.to_vec();
    let mut used = 0;
    for (at, slot) in slots.chunks_exact_mut(ENTRY_BYTES).enumerate() {
        match slot[0] {
            0 => break,
            DELETED => slot[1..].fill(0),
            _ => used = at + 1,
        }
    }
    // A folder without files keeps the two free slots that `fat_check::mend_dots` left in it.
    let rest = if used == 2 && slots[0] == b'.' { used + 2 } else { used };
    if let Some(rest) = slots.get_mut(rest * ENTRY_BYTES..) {
        rest.fill(0);
    }
    slots
}

fn write<D: Write + Seek>(device: &mut D, offset: u64, bytes: &[u8]) -> Result<()> {
    device.seek(SeekFrom::Start(offset))?;
    device.write_all(bytes).context("writing the FAT partition")
}

#[cfg(test)]
mod tests {
    use super::forget;
    use crate::disk::fat::tests::volume;
    use crate::disk::fat::{LEAST, change, look};
    use std::io::Cursor;

    const EPOCH: u64 = 1_700_000_000;

    fn paths(files: &[(&str, Vec<u8>)]) -> Vec<String> {
        let mut paths: Vec<String> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
        paths.push("edgepress/ca".to_owned());
        paths
    }

    #[test]
    fn bit_for_bit_what_it_was() {
        // Clusters of 512 bytes and of 4 KiB; enough names for a folder of more than one cluster.
        let names: Vec<String> = (0..40).map(|n| format!("edgepress/a rather long name {n}.pem")).collect();
        let mut files: Vec<(&str, Vec<u8>)> = vec![
            ("edgepress/hostname", b"pump-7\n".to_vec()),
            ("edgepress/certificate.pem", vec![b'C'; 5000]),
            ("edgepress/ca/root.pem", vec![b'R'; 700]),
            ("edgepress/private-key.pem", vec![b'K'; 1700]),
        ];
        files.extend(names.iter().map(|name| (name.as_str(), vec![b'x'; 100])));
        for size in [LEAST, 260 << 20] {
            let golden =
                volume(size, &[("EFI/BOOT/BOOTX64.EFI", &[7; 9000]), ("edgepress/README.txt", b"here\r\n")]);
            let mut device = Cursor::new(golden.clone());
            change(&mut device, size, EPOCH, |volume| {
                files.iter().try_for_each(|(path, content)| volume.write(path, content))
            })
            .expect("stamped");
            assert!(*device.get_ref() != golden);
            forget(&mut device, size, &paths(&files)).expect("removed");
            let differs = device.get_ref().iter().zip(&golden).position(|(now, before)| now != before);
            assert_eq!(differs, None, "{size}: first difference");
        }
    }

    #[test]
    fn what_others_wrote_stays() {
        let mut device = Cursor::new(volume(LEAST, &[("edgepress/README.txt", b"here\r\n")]));
        change(&mut device, LEAST, EPOCH, |volume| {
            volume.write("edgepress/private-key.pem", &[b'K'; 1700])?;
            volume.write("edgepress/notes.txt", b"mine")?;
            volume.write("edgepress/ca/root.pem", &[b'R'; 700])
        })
        .expect("stamped");
        let mut paths = vec!["edgepress/private-key.pem".to_owned(), "edgepress/none".to_owned()];
        forget(&mut device, LEAST, &paths).expect("removed");
        assert!(!device.get_ref().windows(20).any(|bytes| bytes == [b'K'; 20]), "the key is still there");
        look(&mut device, LEAST, |volume| {
            assert_eq!(volume.read("edgepress/notes.txt", 9)?.as_deref(), Some(&b"mine"[..]));
            assert_eq!(volume.read("edgepress/ca/root.pem", 999)?.map(|pem| pem.len()), Some(700));
            assert_eq!(volume.read("edgepress/private-key.pem", 9)?, None);
            Ok(())
        })
        .expect("sound");
        paths.push("edgepress/ca".to_owned());
        assert!(forget(&mut device, LEAST, &paths).is_err(), "a folder that is not empty");
    }
}
