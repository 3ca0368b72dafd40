//! Changes to the FAT partition of a finished image, as sectors: the image itself is only read.
//!
//! A device's identity goes into an image this way. The same few sectors can be written into a copy, laid over a
//! read-only image in QEMU, or streamed into a card behind the golden bytes.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::fat::{self, Volume};
use super::fat_undo;
use super::overlay::{Base as _, Overlay, Part, Snapshot};
use super::table::{self, Partition, Role};
use crate::error::Problem;

/// The FAT partition of an image, as it is.
type Shared = Arc<Snapshot<Part>>;

/// A volume of which the image keeps its old state.
pub type Draft<'a> = Volume<'a, Overlay<Shared>>;

/// Sectors that differ from the image they were made for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// Byte offset in the image, bytes; ascending, no two touch.
    pub runs: Vec<(u64, Vec<u8>)>,
}

impl Patch {
    /// Writes the sectors into a copy of the image.
    ///
    /// # Errors
    /// On a write error.
    pub fn apply_to(&self, copy: &File) -> Result<()> {
        for (offset, bytes) in &self.runs {
            copy.write_all_at(bytes, *offset).context("writing changed sectors into the image's copy")?;
        }
        Ok(())
    }

    /// [`Patch::apply_to`] a path.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub fn apply_to_path(&self, copy: &Path) -> Result<()> {
        let file = OpenOptions::new().write(true).open(copy);
        self.apply_to(&file.with_context(|| format!("opening {}", copy.display()))?)
    }

    /// How many bytes change.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// The FAT partition of an image, checked once and then only read: any number of patches are made from it, also by
/// several threads at a time.
pub struct Master {
    shared: Shared,
    partition: Partition,
}

impl Master {
    /// Finds the FAT partition of an image and checks its file system.
    ///
    /// # Errors
    /// A [`Problem`] when the image has no sound FAT partition; an error from reading.
    pub fn open(image: &Path) -> Result<Self> {
        let (mut device, partition) = open(image)?;
        fat::check(&mut device, partition.size)?;
        Ok(Self { shared: Arc::new(device.into_snapshot()), partition })
    }

    /// Where the partition lies in the image.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Lets `change` work on the partition and returns what it changed. Files get the time `epoch`.
    ///
    /// # Errors
    /// When the image cannot be read; whatever `change` returns.
    pub fn make(&self, epoch: u64, change: impl FnOnce(&Draft<'_>) -> Result<()>) -> Result<Patch> {
        self.edit(|device, size| fat::change_checked(device, size, epoch, change))
    }

    /// As [`Master::make`], on the partition as an earlier patch leaves it; the result is both together.
    ///
    /// # Errors
    /// As [`Master::make`]; when the earlier patch changes more than the FAT partition, or leaves it damaged.
    pub fn make_over(
        &self,
        earlier: &[(u64, Vec<u8>)],
        epoch: u64,
        change: impl FnOnce(&Draft<'_>) -> Result<()>,
    ) -> Result<Patch> {
        self.edit(|device, size| {
            for (offset, bytes) in earlier {
                let at = offset.checked_sub(self.partition.offset).context("locating a changed sector")?;
                device.seek(SeekFrom::Start(at)).and_then(|_| device.write_all(bytes))?;
            }
            fat::change(device, size, epoch, change)
        })
    }

    /// As [`Master::make`], on the partition's bytes; `edit` is also given their number.
    pub(super) fn edit(&self, edit: impl FnOnce(&mut Overlay<Shared>, u64) -> Result<()>) -> Result<Patch> {
        let mut device = Overlay::new(Arc::clone(&self.shared), self.partition.size);
        edit(&mut device, self.partition.size)?;
        let changes = device.changes().context("reading the image's FAT partition")?;
        let runs = changes.into_iter().map(|(at, bytes)| (self.partition.offset + at, bytes)).collect();
        Ok(Patch { runs })
    }

    /// Removes files from the partition so that nothing of them stays: see [`fat_undo`]. Those that are not there are
    /// none of its business; folders that become empty are removed too, where they are among the paths.
    ///
    /// # Errors
    /// When the image cannot be read, or a folder to remove is not empty.
    pub fn forget(&self, paths: &[String]) -> Result<Patch> {
        self.edit(|device, size| fat_undo::forget(device, size, paths))
    }

    /// Lets `look` read the partition.
    ///
    /// # Errors
    /// When the image cannot be read; whatever `look` returns.
    pub fn look<T>(&self, look: impl FnOnce(&Draft<'_>) -> Result<T>) -> Result<T> {
        let mut device = Overlay::new(Arc::clone(&self.shared), self.partition.size);
        fat::look_checked(&mut device, look)
    }

    /// What the image has where a patch changes it: the same runs, with the old bytes.
    ///
    /// # Errors
    /// When the image cannot be read, or the patch changes more than the FAT partition.
    pub fn before(&self, patch: &Patch) -> Result<Patch> {
        let before = |(offset, bytes): &(u64, Vec<u8>)| {
            let at = offset.checked_sub(self.partition.offset).context("locating a changed sector")?;
            let mut old = vec![0; bytes.len()];
            self.shared.fill(&mut old, at).context("reading the image's FAT partition")?;
            Ok((*offset, old))
        };
        Ok(Patch { runs: patch.runs.iter().map(before).collect::<Result<_>>()? })
    }
}

/// Lets `change` work on the FAT partition of an image and returns what it changed. Files get the time `epoch`.
///
/// # Errors
/// A [`Problem`] when the image has no sound FAT partition; whatever `change` returns.
pub fn make(image: &Path, epoch: u64, change: impl FnOnce(&Draft<'_>) -> Result<()>) -> Result<Patch> {
    Master::open(image)?.make(epoch, change)
}

/// Lets `look` read the FAT partition of an image.
///
/// # Errors
/// As [`make`].
pub fn look<T>(image: &Path, look: impl FnOnce(&Draft<'_>) -> Result<T>) -> Result<T> {
    Master::open(image)?.look(look)
}

fn open(image: &Path) -> Result<(Overlay<Part>, Partition)> {
    let name = image.display();
    let file = File::open(image).with_context(|| format!("opening {name}"))?;
    let table = table::read(&file).with_context(|| format!("reading the partition table of {name}"))?;
    let partition = table.find(Role::Fat).cloned().ok_or_else(|| {
        let what = match table.kind {
            table::TableKind::Gpt => "EFI system partition",
            table::TableKind::Mbr => "FAT32 partition",
        };
        Problem::input(format!("{name} has no {what}")).hint("is it an image that edgepress built?")
    })?;
    Ok((Overlay::new(Part { file, start: partition.offset }, partition.size), partition))
}

#[cfg(test)]
mod tests {
    use super::{look, make};
    use crate::disk::fat::LEAST;
    use crate::disk::fat::tests::volume;
    use crate::disk::gpt::{self, ALIGN, ESP, Partition, Table};
    use crate::disk::ids::Ids;
    use crate::disk::mbr;
    use crate::units::Digest;
    use std::os::unix::fs::FileExt as _;
    use tempfile::NamedTempFile;

    fn image() -> NamedTempFile {
        let file = NamedTempFile::new().expect("temp file");
        let size = LEAST + 2 * ALIGN;
        file.as_file().set_len(size).expect("size");
        let ids = Ids::from_seed(&Digest::of("patch"));
        let esp =
            Partition { kind: ESP, guid: ids.fat_partition, offset: ALIGN, size: LEAST, name: "EFI".into() };
        gpt::write(file.as_file(), size, &Table { disk: ids.disk, partitions: vec![esp] }).expect("table");
        let fat = volume(LEAST, &[("edgepress/README.txt", b"put it here\n")]);
        file.as_file().write_all_at(&fat, ALIGN).expect("write");
        file
    }

    #[test]
    fn the_image_stays_and_the_copy_changes() {
        let image = image();
        let before = std::fs::read(image.path()).expect("read");
        let patch = make(image.path(), 1_700_000_000, |volume| {
            volume.write("edgepress/certificate.pem", b"-----BEGIN CERTIFICATE-----\n")?;
            volume.write("edgepress/ca/root.crt", b"-----BEGIN CERTIFICATE-----\n")
        })
        .expect("patch");
        assert_eq!(std::fs::read(image.path()).expect("read"), before);
        assert!(!patch.runs.is_empty() && patch.bytes() < 20_000, "{} bytes", patch.bytes());
        patch.apply_to_path(image.path()).expect("apply");
        let found = look(image.path(), |volume| volume.read("edgepress/ca/root.crt", 100)).expect("look");
        assert_eq!(found.as_deref(), Some(&b"-----BEGIN CERTIFICATE-----\n"[..]));
    }

    #[test]
    fn an_mbr_serves_too() {
        let image = image();
        let fat = mbr::Partition { kind: mbr::FAT32_LBA, offset: ALIGN, size: LEAST, active: false };
        let table = mbr::Table { disk_id: 7, partitions: vec![fat] };
        mbr::write(image.as_file(), LEAST + 2 * ALIGN, &table).expect("table");
        let patch = make(image.path(), 5, |volume| volume.write("edgepress/registration-id", b"x\n"));
        assert!(patch.expect("patch").runs.iter().all(|(at, _)| *at > ALIGN));
        let linux = mbr::Partition { kind: mbr::LINUX, ..table.partitions[0].clone() };
        let table = mbr::Table { disk_id: 7, partitions: vec![linux] };
        mbr::write(image.as_file(), LEAST + 2 * ALIGN, &table).expect("table");
        let error = look(image.path(), |_| Ok(())).expect_err("no partition");
        assert!(error.to_string().contains("no FAT32 partition"), "{error}");
    }

    #[test]
    fn no_change_is_an_empty_patch() {
        let image = image();
        let patch = make(image.path(), 5, |volume| volume.read("edgepress/README.txt", 99).map(drop));
        assert_eq!(patch.expect("patch").runs, []);
    }

    #[test]
    fn an_image_without_the_partition_is_an_input_problem() {
        let file = NamedTempFile::new().expect("temp file");
        file.as_file().set_len(4 << 20).expect("size");
        let table = Table { disk: Ids::from_seed(&Digest::of("x")).disk, partitions: Vec::new() };
        gpt::write(file.as_file(), 4 << 20, &table).expect("table");
        let error = look(file.path(), |_| Ok(())).expect_err("no partition");
        assert!(error.to_string().contains("no EFI system partition"), "{error}");
    }
}
