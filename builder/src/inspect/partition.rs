//! The partitions of an image: what each holds, which the firmware reads, which is the root.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::FileFacts;
use super::file_system::{self, FileSystem};
use crate::board::raspberry_pi::chain::RootPartition;
use crate::disk::fat;
use crate::disk::overlay::{self, Overlay};
use crate::disk::table::{self, Role, Table};
use crate::error::Problem;
use crate::image::root::{self as ext4, Part};
use crate::image::source::OpenImage;

/// How deep folders are read, and how many files: no boot partition has more.
const DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 20_000;
/// Most bytes that are read before the first partition: a boot loader has 1 MiB at most there.
const HEAD_MAX: u64 = 1 << 20;

/// One partition and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Partition {
    /// Its entry in the table.
    #[serde(flatten)]
    pub entry: table::Partition,
    /// Its file system, if it is one that is known here.
    pub file_system: Option<FileSystem>,
}

/// The partitions of an image.
pub(super) fn read(image: &File, table: &Table) -> Result<Vec<Partition>> {
    let partition = |entry: &table::Partition| {
        let file_system = file_system::read(image, entry.offset)
            .with_context(|| format!("reading partition {} of the image", entry.number))?;
        Ok(Partition { entry: entry.clone(), file_system })
    };
    table.partitions.iter().map(partition).collect()
}

/// What an image's kernel must find as its root; nothing where the table has none.
///
/// # Errors
/// When the image cannot be read, or has no partition table.
pub(crate) fn root_partition(image: &Path) -> Result<Option<RootPartition>> {
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    Ok(root(&read(&file, &table::read(&file)?)?))
}

/// What the command line's `root=` can be held against.
pub(super) fn root(partitions: &[Partition]) -> Option<RootPartition> {
    let root = partitions.iter().find(|partition| partition.entry.role == Some(Role::Root))?;
    let system = root.file_system.as_ref();
    Some(RootPartition {
        number: root.entry.number,
        partitions: partitions.iter().map(|partition| partition.entry.number).max()?,
        partuuid: root.entry.partuuid.clone(),
        uuid: system.map(|system| system.uuid.clone()),
        label: system.map(|system| system.label.clone()),
    })
}

/// The bytes before the first partition: where a BIOS finds a boot loader.
pub(super) fn head(source: &OpenImage, partitions: &[Partition]) -> Result<Vec<u8>> {
    let first = partitions.iter().map(|partition| partition.entry.offset).min().unwrap_or(HEAD_MAX);
    let length = first.min(HEAD_MAX).min(source.size);
    let mut head = vec![0; usize::try_from(length).context("reading the first sectors")?];
    let read = source.file.read_exact_at(&mut head, 0);
    read.with_context(|| format!("reading the first sectors of {}", source.path.display()))?;
    Ok(head)
}

/// The partition that the firmware reads.
pub(super) fn fat_of(partitions: &[Partition]) -> Option<&Partition> {
    partitions.iter().find(|partition| partition.entry.role == Some(Role::Fat))
}

/// A FAT file system of an image; nothing is ever written to that.
pub(super) type Volume<'a> = fat::Volume<'a, Overlay<overlay::Part>>;

/// Lets `look` read a FAT partition.
///
/// # Errors
/// A [`Problem`] when its file system is damaged; whatever `look` returns.
pub(crate) fn look_at_fat<T>(
    source: &OpenImage,
    entry: &table::Partition,
    look: impl FnOnce(&Volume<'_>) -> Result<T>,
) -> Result<T> {
    let file = source.file.try_clone().with_context(|| format!("reading {}", source.path.display()))?;
    let mut device = Overlay::new(overlay::Part { file, start: entry.offset }, entry.size);
    fat::look(&mut device, entry.size, look)
}

/// The partition that holds the root, if that is ext4: the one with a system's folders, for /boot may be ext4 too.
pub(super) fn root_of(source: &OpenImage, partitions: &[Partition]) -> Result<Option<Partition>> {
    let ext4 = |partition: &&Partition| partition.file_system.as_ref().is_some_and(FileSystem::is_ext4);
    let mut candidates: Vec<_> = partitions.iter().filter(ext4).collect();
    // What its table calls a root is looked at first.
    candidates.sort_by_key(|partition| partition.entry.role != Some(Role::Root));
    if let [only] = candidates[..] {
        return Ok(Some(only.clone()));
    }
    for candidate in &candidates {
        let system = ext4::look(vec![part(source, candidate)?], |roots| {
            let folder = |name| Ok::<_, anyhow::Error>(roots[0].stat(Path::new(name))?.is_some());
            Ok(folder("etc")? && folder("usr")?)
        });
        // One that cannot be read is told of where it is read for itself.
        if system.unwrap_or(false) {
            return Ok(Some((*candidate).clone()));
        }
    }
    Ok(candidates.first().map(|first| (*first).clone()))
}

/// Where a partition lies.
pub(super) fn part(source: &OpenImage, partition: &Partition) -> Result<Part> {
    let file = source.file.try_clone().with_context(|| format!("reading {}", source.path.display()))?;
    Ok(Part { file, offset: partition.entry.offset, size: partition.entry.size })
}

/// The part of an image that holds its root, if that is ext4.
///
/// # Errors
/// When the image cannot be read.
pub(super) fn root_part(source: &OpenImage, partitions: &[Partition]) -> Result<Option<Part>> {
    root_of(source, partitions)?.map(|root| part(source, &root)).transpose()
}

/// All files, sorted by path.
pub(super) fn list<D: std::io::Read + std::io::Write + std::io::Seek>(
    volume: &fat::Volume<'_, D>,
) -> Result<Vec<FileFacts>> {
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in volume.list(&folder)? {
            let path = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            if !entry.folder {
                files.push(FileFacts { path, size: entry.size });
            } else if depth < DEPTH_MAX {
                folders.push((path, depth + 1));
            }
            if files.len() + folders.len() > FILES_MAX {
                return Err(Problem::input(format!("the FAT partition has over {FILES_MAX} files")).into());
            }
        }
    }
    files.sort();
    Ok(files)
}
