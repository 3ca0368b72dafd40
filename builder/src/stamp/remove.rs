//! `edgepress stamp --remove`: takes an identity off again.
//!
//! A stamped image becomes what the golden one was. Without the golden image this is exact where edgepress made the
//! image and it was never started; whatever else happened to it, no secret stays. With it, every sector of the FAT
//! partition is the golden image's again.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::golden::{AUTHORITIES, FOLDER, identity_file, is_authority};
use super::output;
use super::patch::{MAGIC, Patch};
use crate::disk::patch::{Draft, Master};
use crate::disk::{self, sparse};
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::units::{Digest, counted};

/// Bytes compared at a time.
const CHUNK: u64 = 1 << 20;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Removed {
    /// The image or patch.
    pub path: PathBuf,
    /// Was it a patch, which is gone now?
    pub patch: bool,
    /// Files taken off the image.
    pub files: Vec<String>,
    /// Is the image bit for bit the golden one? Unknown where nothing says what that is.
    pub identical: Option<bool>,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.patch {
            return write!(f, "{path} is removed");
        }
        match self.files.as_slice() {
            [] => writeln!(f, "{path} holds no identity")?,
            files => writeln!(f, "taken off {path}: {}", files.join(", "))?,
        }
        f.write_str(match self.identical {
            Some(true) => "it is bit for bit the golden image",
            Some(false) => {
                "it differs from the golden image in other places: it was started, or other tools made its FAT \
                 (then --golden IMAGE restores it)"
            }
            None => "--golden IMAGE compares it with the golden image",
        })
    }
}

/// Removes a patch, or takes the identity off an image, in its place.
///
/// # Errors
/// When it is neither, cannot be written, or `golden` is another image.
pub(crate) fn remove(path: &Path, golden: Option<&Path>, sink: &dyn Sink) -> Result<Removed> {
    let mut magic = [0; MAGIC.len()];
    let mut file = File::open(path)
        .map_err(|error| Problem::input(format!("cannot open {}: {error}", path.display())))?;
    let is_patch = file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    if is_patch { remove_patch(path) } else { clean(path, golden, sink) }
}

fn place(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (folder.to_owned(), path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn remove_patch(path: &Path) -> Result<Removed> {
    Patch::read(path)?;
    let (folder, name) = place(path);
    output::forget(&folder, &name)?;
    fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    Ok(Removed { path: path.to_owned(), patch: true, files: Vec::new(), identical: None })
}

fn clean(path: &Path, golden: Option<&Path>, sink: &dyn Sink) -> Result<Removed> {
    let timer = std::time::Instant::now();
    sink.emit(Event::Started { step: "remove".into(), total: None, unit: Unit::Items });
    let master = Master::open(path)?;
    let found = master.look(identity)?;
    let changes = match golden {
        Some(golden) => restore(path, golden, &master)?,
        None => master.forget(&found)?,
    };
    write(path, &changes)?;
    let (folder, name) = place(path);
    let listed = output::forget(&folder, &name)?;
    let identical = match (golden, listed.and_then(|entry| entry.golden_sha256)) {
        (Some(golden), _) => Some(sparse::digest(path)? == sparse::digest(golden)?),
        (None, Some(known)) => Some(sparse::digest(path)? == known),
        (None, None) => {
            beside(path)?.map(|known| sparse::digest(path).map(|now| now == known)).transpose()?
        }
    };
    let outcome = counted(found.len() as u64, "file");
    sink.emit(Event::Finished { step: "remove".into(), seconds: timer.elapsed().as_secs_f64(), outcome });
    Ok(Removed { path: path.to_owned(), patch: false, files: found, identical })
}

/// The digest that a manifest beside an image has for it.
fn beside(path: &Path) -> Result<Option<Digest>> {
    match crate::image::Image::open(path) {
        Ok(image) => Ok(image.digest()),
        Err(_) => Ok(None),
    }
}

/// The files of an identity on a FAT partition, and the folder of authorities after what is in it.
fn identity(volume: &Draft<'_>) -> Result<Vec<String>> {
    let named = |name: &str| identity_file(name).is_some();
    let files = volume.list(FOLDER)?.into_iter().filter(|entry| !entry.folder && named(&entry.name));
    let mut paths: Vec<String> = files.map(|entry| format!("{FOLDER}/{}", entry.name)).collect();
    let below = format!("{FOLDER}/{AUTHORITIES}");
    let (ours, others): (Vec<_>, Vec<_>) =
        volume.list(&below)?.into_iter().partition(|entry| !entry.folder && is_authority(&entry.name));
    let any = !ours.is_empty();
    paths.extend(ours.into_iter().map(|entry| format!("{below}/{}", entry.name)));
    paths.extend((any && others.is_empty()).then_some(below));
    Ok(paths)
}

/// The golden image's sectors where the FAT partition differs.
fn restore(path: &Path, golden: &Path, master: &Master) -> Result<disk::patch::Patch> {
    let partition = master.partition();
    let twin = Master::open(golden)?;
    let (image, original) = (open(path)?, open(golden)?);
    let sizes = image.metadata()?.len() == original.metadata()?.len();
    if !sizes || twin.partition() != partition {
        let message = format!("{} was not made from {}", path.display(), golden.display());
        return Err(Problem::input(message)
            .hint("their partitions differ: name its own golden image")
            .into());
    }
    let mut runs = Vec::new();
    let mut at = partition.offset;
    let end = partition.offset + partition.size;
    while at < end {
        let count = usize::try_from(CHUNK.min(end - at))?;
        let mut bytes = [vec![0; count], vec![0; count]];
        image.read_exact_at(&mut bytes[0], at).with_context(|| format!("reading {}", path.display()))?;
        original.read_exact_at(&mut bytes[1], at).with_context(|| format!("reading {}", golden.display()))?;
        if bytes[0] != bytes[1] {
            let [_, before] = bytes;
            runs.push((at, before));
        }
        at += count as u64;
    }
    Ok(disk::patch::Patch { runs })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// Content lies behind tables and names: from the end, so that the secrets go first.
fn write(path: &Path, changes: &disk::patch::Patch) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    let file = file.with_context(|| format!("opening {} for writing", path.display()))?;
    for (offset, bytes) in changes.runs.iter().rev() {
        file.write_all_at(bytes, *offset).with_context(|| format!("writing {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("writing {}", path.display()))
}
