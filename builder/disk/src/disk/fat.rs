//! FAT file systems: made for our images, read and changed in any image.
//!
//! The file system itself is the crate `fatfs`; this adds what it lacks: fixed times and names (so that the same files
//! give the same bytes), errors that are not lost when a file is dropped, and a check before it reads a file system
//! that others made ([`super::fat_check`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use time::OffsetDateTime;

use super::fat_check;
use super::gpt::SECTOR;
use super::ids::VolumeId;
use crate::error::Problem;

/// The least size of a FAT32 file system: 65525 clusters of one sector, two tables of 512 sectors, 8 reserved sectors,
/// rounded up to a MiB. With fewer clusters readers take it for FAT16.
pub const LEAST: u64 = 33 * 1024 * 1024;
/// With fewer clusters it would not be FAT32 (Microsoft's specification: 65525); some more, for tools that count otherwise.
const LEAST_CLUSTERS: u64 = 65_536;

/// One file for a FAT partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatFile {
    /// Path from the top, with `/`.
    pub path: String,
    /// What it holds.
    pub content: Vec<u8>,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatEntry {
    /// Its name.
    pub name: String,
    /// Is it a folder?
    pub folder: bool,
    /// Bytes; 0 for a folder.
    pub size: u64,
}

/// An open FAT file system on a device.
pub struct Volume<'a, D: Read + Write + Seek> {
    fs: FileSystem<&'a mut D>,
    /// Was a folder made, whose beginning must be mended?
    new_folder: Cell<bool>,
}

/// Makes a FAT32 file system on a device of zeros of `size` bytes and lets `fill` write to it; files get the time
/// `epoch` (seconds since 1970, in UTC).
///
/// # Errors
/// When the size is below [`LEAST`], or the label has more than 11 characters, or on a write error; whatever `fill`
/// returns.
pub fn format<D: Read + Write + Seek>(
    device: &mut D,
    size: u64,
    id: VolumeId,
    label: &str,
    epoch: u64,
    fill: impl FnOnce(&Volume<'_, D>) -> Result<()>,
) -> Result<()> {
    anyhow::ensure!(size >= LEAST, "{size} bytes are too few for a FAT32 file system");
    let mut padded = [b' '; 11];
    anyhow::ensure!(label.len() <= padded.len() && label.is_ascii(), "`{label}` is no FAT label");
    padded[..label.len()].copy_from_slice(label.to_ascii_uppercase().as_bytes());
    let sectors = u32::try_from(size / SECTOR).context("making a FAT file system of over 2 TiB")?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .total_sectors(sectors)
        .bytes_per_sector(SECTOR as u16)
        .bytes_per_cluster(cluster(size))
        .volume_id(id.0)
        .volume_label(padded);
    fatfs::format_volume(&mut *device, options).context("making a FAT file system")?;
    change(device, size, epoch, fill)
}

/// Bytes of a cluster: the most, up to 4 KiB, with which it is FAT32. Firmware reads kernels of 30 MB through these.
fn cluster(size: u64) -> u32 {
    let enough = |bytes: &u32| {
        let bytes = u64::from(*bytes);
        // Two tables of four bytes for each cluster, and the reserved sectors.
        size.saturating_sub(2 * 4 * (size / bytes) + 32 * SECTOR) / bytes >= LEAST_CLUSTERS
    };
    [4096, 2048, 1024].into_iter().find(enough).unwrap_or(512)
}

/// Lets `change` work on a file system of whatever origin on a device of `size` bytes; files written get the time `epoch`.
///
/// # Errors
/// A [`Problem`] when it is no FAT file system, or a damaged one; on a write error; whatever `change` returns.
pub fn change<D: Read + Write + Seek>(
    device: &mut D,
    size: u64,
    epoch: u64,
    change: impl FnOnce(&Volume<'_, D>) -> Result<()>,
) -> Result<()> {
    fat_check::check(device, size)?;
    change_checked(device, size, epoch, change)
}

/// As [`change`], of a file system that [`check`] has found sound: for many changes of the same one.
///
/// # Errors
/// As [`change`].
pub fn change_checked<D: Read + Write + Seek>(
    device: &mut D,
    size: u64,
    epoch: u64,
    change: impl FnOnce(&Volume<'_, D>) -> Result<()>,
) -> Result<()> {
    let volume = Volume::mount(device, epoch)?;
    change(&volume)?;
    if volume.close()? { fat_check::mend_dots(device, size) } else { Ok(()) }
}

/// Checks that a file system of whatever origin is sound.
///
/// # Errors
/// A [`Problem`] when it is no FAT file system, or a damaged one.
pub fn check<D: Read + Seek>(device: &mut D, size: u64) -> Result<()> {
    fat_check::check(device, size)
}

/// Lets `look` read a file system of whatever origin on a device of `size` bytes.
///
/// # Errors
/// A [`Problem`] when it is no FAT file system, or a damaged one; whatever `look` returns.
pub fn look<D: Read + Write + Seek, T>(
    device: &mut D,
    size: u64,
    look: impl FnOnce(&Volume<'_, D>) -> Result<T>,
) -> Result<T> {
    fat_check::check(device, size)?;
    look_checked(device, look)
}

/// As [`look`], at a file system that [`check`] has found sound.
///
/// # Errors
/// As [`look`].
pub fn look_checked<D: Read + Write + Seek, T>(
    device: &mut D,
    look: impl FnOnce(&Volume<'_, D>) -> Result<T>,
) -> Result<T> {
    look(&Volume::mount(device, 0)?)
}

impl<'a, D: Read + Write + Seek> Volume<'a, D> {
    fn mount(device: &'a mut D, epoch: u64) -> Result<Self> {
        device.rewind()?;
        let options = FsOptions::new().time_provider(clock(epoch));
        let fs = FileSystem::new(device, options).context("opening the FAT file system")?;
        Ok(Self { fs, new_folder: Cell::new(false) })
    }

    /// The volume id.
    pub fn id(&self) -> VolumeId {
        VolumeId(self.fs.volume_id())
    }

    /// What a folder holds (`""` is the top), sorted by name; nothing when it is not there.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn list(&self, folder: &str) -> Result<Vec<FatEntry>> {
        let context = || format!("reading folder {folder} of the FAT partition");
        let root = self.fs.root_dir();
        let dir = match folder.trim_matches('/') {
            "" => root,
            path => match root.open_dir(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                dir => dir.with_context(context)?,
            },
        };
        let mut entries = Vec::new();
        for entry in dir.iter() {
            let entry = entry.with_context(context)?;
            let name = entry.file_name();
            if name != "." && name != ".." {
                entries.push(FatEntry { name, folder: entry.is_dir(), size: entry.len() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// When something in the top folder was last written, seconds since 1970; nothing when it is not there.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn modified(&self, name: &str) -> Result<Option<u64>> {
        for entry in self.fs.root_dir().iter() {
            let entry = entry.context("reading the top folder of the FAT partition")?;
            if entry.file_name().eq_ignore_ascii_case(name) {
                return Ok(Some(unix_time(entry.modified())));
            }
        }
        Ok(None)
    }

    /// What a file holds, or nothing when it is not there.
    ///
    /// # Errors
    /// When it has more than `limit` bytes, is a folder, or the device cannot be read.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let context = || format!("reading {path} of the FAT partition");
        let file = match self.fs.root_dir().open_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(context)?,
        };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).with_context(context)?;
        if content.len() as u64 > limit {
            let message = format!("{path} on the FAT partition has more than {limit} bytes");
            return Err(Problem::input(message).into());
        }
        Ok(Some(content))
    }

    /// Writes a file, replacing what is there, and makes the folders above it.
    ///
    /// # Errors
    /// When the file system is full, the name is not possible, or on a write error.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let context = || format!("writing {path} ({} bytes) to the FAT partition", content.len());
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            let root = self.fs.root_dir();
            match root.open_dir(&path[..at]) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    root.create_dir(&path[..at]).with_context(context)?;
                    self.new_folder.set(true);
                }
                folder => drop(folder.with_context(context)?),
            }
        }
        let mut file = self.fs.root_dir().create_file(path).with_context(context)?;
        file.truncate().with_context(context)?;
        file.write_all(content).with_context(context)?;
        // Dropping the file would flush it too, and lose the error.
        file.flush().with_context(context)
    }

    /// Removes a file or an empty folder, if it is there.
    ///
    /// # Errors
    /// When a folder is not empty, or on a write error.
    pub fn remove(&self, path: &str) -> Result<()> {
        match self.fs.root_dir().remove(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("removing {path} from the FAT partition")),
        }
    }

    /// Writes what is still in memory, and says whether a folder was made. Dropping the volume does so too, and loses
    /// the error.
    fn close(self) -> Result<bool> {
        // Counts the free clusters, so that no reader has to scan the table for them.
        self.fs.stats().context("counting free clusters of the FAT partition")?;
        self.fs.unmount().context("closing the FAT file system")?;
        Ok(self.new_folder.get())
    }
}

#[derive(Debug)]
struct Clock(DateTime);

impl TimeProvider for Clock {
    fn get_current_date(&self) -> Date {
        self.0.date
    }

    fn get_current_date_time(&self) -> DateTime {
        self.0
    }
}

/// `fatfs` wants a clock that lives for ever; each distinct time is leaked once.
fn clock(epoch: u64) -> &'static Clock {
    static CLOCKS: Mutex<BTreeMap<u64, &'static Clock>> = Mutex::new(BTreeMap::new());
    let mut clocks = CLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    clocks.entry(epoch).or_insert_with(|| Box::leak(Box::new(Clock(dos_time(epoch)))))
}

/// FAT knows the years 1980 to 2107; other times are moved to their nearest.
fn dos_time(epoch: u64) -> DateTime {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_198;
    let seconds = i64::try_from(epoch).unwrap_or(LAST).clamp(FIRST, LAST);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let date = Date {
        year: u16::try_from(moment.year()).unwrap_or(1980).max(1980),
        month: u16::from(u8::from(moment.month())),
        day: u16::from(moment.day()),
    };
    let (hour, min, sec) = moment.to_hms();
    let time = Time { hour: u16::from(hour), min: u16::from(min), sec: u16::from(sec), millis: 0 };
    DateTime { date, time }
}

/// The other way round; dates that no calendar has become 0.
fn unix_time(DateTime { date, time }: DateTime) -> u64 {
    let part = |number: u16| u8::try_from(number).unwrap_or(u8::MAX);
    let moment = || {
        let month = time::Month::try_from(part(date.month)).ok()?;
        let date = time::Date::from_calendar_date(i32::from(date.year), month, part(date.day)).ok()?;
        let moment = date.with_hms(part(time.hour), part(time.min), part(time.sec)).ok()?;
        u64::try_from(moment.assume_utc().unix_timestamp()).ok()
    };
    moment().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{FatEntry, LEAST, VolumeId, change, dos_time, format, look};
    use crate::disk::overlay::{Overlay, Zeros};
    use crate::host;
    use std::process::Command;

    const EPOCH: u64 = 1_700_000_000;

    /// The bytes of a volume of `size` bytes with some files.
    pub(crate) fn volume(size: u64, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut device = Overlay::new(Zeros, size);
        format(&mut device, size, VolumeId(0x1234_abcd), "EFI", EPOCH, |volume| {
            files.iter().try_for_each(|(path, content)| volume.write(path, content))
        })
        .expect("format");
        let mut bytes = vec![0; size as usize];
        for (offset, run) in device.changes().expect("changes") {
            bytes[offset as usize..offset as usize + run.len()].copy_from_slice(&run);
        }
        bytes
    }

    const FILES: &[(&str, &[u8])] = &[
        ("EFI/BOOT/BOOTX64.EFI", &[7; 100_000]),
        ("EFI/debian/grub.cfg", b"configfile\n"),
        ("edgepress/README.txt", b"put here\r\n"),
        ("edgepress/a rather long name.with.dots.pem", b"x"),
    ];

    #[test]
    fn clusters_are_as_large_as_they_can_be() {
        const MIB: u64 = 1 << 20;
        for (size, bytes) in [
            (33, 512),
            (64, 512),
            (80, 1024),
            (128, 1024),
            (160, 2048),
            (256, 2048),
            (260, 4096),
            (512, 4096),
        ] {
            assert_eq!(super::cluster(size * MIB), bytes, "{size} MiB");
        }
    }

    #[test]
    fn a_card_s_partition_takes_kernels() {
        let size = 256 << 20;
        let mut device = Overlay::new(Zeros, size);
        let kernel: Vec<u8> = (0..32u32 << 20).map(|at| (at >> 9) as u8).collect();
        let id = VolumeId(7);
        format(&mut device, size, id, "EDGEPRESS", EPOCH, |volume| volume.write("vmlinuz-6.1.0", &kernel))
            .expect("made");
        let read = look(&mut device, size, |volume| volume.read("vmlinuz-6.1.0", 64 << 20)).expect("read");
        assert!(read.as_deref() == Some(kernel.as_slice()));
    }

    #[test]
    fn other_tools_agree() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        for size in [LEAST, 64 << 20, 300 << 20] {
            std::fs::write(file.path(), volume(size, FILES)).expect("writing");
            if let Ok(fsck) = host::program("fsck.fat") {
                let output =
                    Command::new(fsck).args(["-n", "-v"]).arg(file.path()).output().expect("fsck.fat");
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{said}");
                assert!(said.contains("32 bit entries"), "{said}");
            }
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        assert_eq!(volume(LEAST, FILES), volume(LEAST, FILES));
    }

    #[test]
    fn reads_back_lists_replaces_removes() {
        let mut device = std::io::Cursor::new(volume(LEAST, FILES));
        change(&mut device, LEAST, EPOCH, |volume| {
            assert_eq!(volume.id().to_string(), "1234-ABCD");
            assert_eq!(volume.read("EFI/BOOT/BOOTX64.EFI", 1 << 20)?, Some(vec![7; 100_000]));
            assert_eq!(volume.read("efi/boot/bootx64.efi", 1 << 20)?.map(|c| c.len()), Some(100_000));
            assert!(volume.read("EFI/BOOT/BOOTX64.EFI", 99_999).is_err());
            assert!(volume.read("EFI", 99).is_err());
            assert_eq!(volume.read("EFI/none", 9)?, None);
            assert_eq!(volume.read("none/none", 9)?, None);
            let names =
                |folder| volume.list(folder).expect("list").into_iter().map(|e| e.name).collect::<Vec<_>>();
            assert_eq!(names(""), ["EFI", "edgepress"]);
            assert_eq!(names("edgepress"), ["README.txt", "a rather long name.with.dots.pem"]);
            assert_eq!(names("none"), [""; 0]);
            volume.write("edgepress/README.txt", b"shorter")?;
            volume.remove("EFI/debian/grub.cfg")?;
            volume.remove("EFI/debian/grub.cfg")?;
            assert!(volume.remove("EFI").is_err());
            Ok(())
        })
        .expect("change");
        look(&mut device, LEAST, |volume| {
            assert_eq!(volume.read("edgepress/README.txt", 99)?, Some(b"shorter".to_vec()));
            assert_eq!(volume.list("EFI/debian")?, []);
            let readme = FatEntry { name: "README.txt".into(), folder: false, size: 7 };
            assert!(volume.list("/edgepress/")?.contains(&readme));
            Ok(())
        })
        .expect("still sound");
    }

    #[test]
    fn a_full_volume_says_so() {
        let mut device = Overlay::new(Zeros, LEAST);
        let big = vec![1; LEAST as usize];
        let error = format(&mut device, LEAST, VolumeId(1), "EFI", EPOCH, |volume| volume.write("big", &big))
            .expect_err("too big");
        assert!(format!("{error:#}").contains("writing big (34603008 bytes)"), "{error:#}");
    }

    #[test]
    fn times_outside_of_what_fat_knows_are_moved() {
        for epoch in [315_532_800, EPOCH, 4_354_819_198] {
            assert_eq!(super::unix_time(dos_time(epoch)), epoch);
        }
        for (epoch, year) in [(0, 1980), (EPOCH, 2023), (u64::MAX, 2107)] {
            assert_eq!(dos_time(epoch).date.year, year);
        }
    }
}
