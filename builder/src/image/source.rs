//! Where the raw bytes of an image come from: the file itself, or a temporary one that it is unpacked into.
//!
//! ```text
//! raw, vhd      ─► the file, up to the disk's size
//! the others    ─► a sparse temporary file without a name: nothing stays, however this ends
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::error::Problem;
use crate::event::Sink;
use crate::format::unpack::unpack;
use crate::format::{Container, Way, detect};
use crate::image::{disk_image, read_manifest};
use crate::manifest::{FILE_NAME, Manifest};

/// An open image.
#[derive(Debug)]
pub(crate) struct OpenImage {
    /// The image's path.
    pub path: PathBuf,
    /// How the image lies in its file.
    pub container: Container,
    /// Bytes of the image's file.
    pub packed: u64,
    /// Holds the raw bytes, from its start.
    pub file: File,
    /// Bytes of the disk.
    pub size: u64,
    /// What built images have beside them, if it lists this one.
    pub manifest: Option<Manifest>,
}

impl OpenImage {
    /// Opens an image, or the one in the folder that `edgepress build` made.
    ///
    /// # Errors
    /// A [`Problem`] when there is none, or it is damaged, or larger than is unpacked.
    pub(crate) fn open(path: &Path, sink: &dyn Sink) -> Result<Self> {
        let (path, manifest) = find(path)?;
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let packed = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
        let container = detect(&file, packed).with_context(|| format!("reading {}", path.display()))?;
        let (file, size) = match container.read() {
            Way::Plain(behind) => (file, packed.saturating_sub(behind)),
            _ => {
                let target = temporary()?;
                let size = unpack(&path, &target, sink)?;
                (target, size)
            }
        };
        Ok(Self { path, container, packed, file, size, manifest })
    }

    /// The disk, to be read and sought in.
    pub(crate) fn disk(&self) -> Disk<'_> {
        Disk { file: &self.file, size: self.size, at: 0 }
    }
}

/// The bytes of a disk, without what its file has behind them.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    file: &'a File,
    size: u64,
    at: u64,
}

impl Read for Disk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// The image and its manifest, if there is one that lists it.
fn find(path: &Path) -> Result<(PathBuf, Option<Manifest>)> {
    let metadata = fs::metadata(path).map_err(|error| {
        Problem::input(format!("cannot open the image {}: {error}", path.display()))
            .hint("`edgepress build RECIPE` prints the path of the image that it made")
    })?;
    if metadata.is_dir() {
        let manifest = read_manifest(&path.join(FILE_NAME))?;
        return Ok((path.join(disk_image(&manifest, path)?), Some(manifest)));
    }
    if !metadata.is_file() {
        let message = format!("{} is neither a file nor a folder", path.display());
        return Err(Problem::input(message).hint("copy a device's content into a file first").into());
    }
    let beside = path.with_file_name(FILE_NAME);
    // Any folder may have a manifest.json: only one that names this file is its.
    let manifest = if beside.is_file() { read_manifest(&beside).ok() } else { None };
    let manifest = manifest.filter(|manifest| {
        manifest.outputs.iter().any(|output| Some(output.file.as_os_str()) == path.file_name())
    });
    Ok((path.to_owned(), manifest))
}

/// A file without a name: it is gone with the program, however that ends. Not in /tmp, which is memory on many machines.
fn temporary() -> Result<File> {
    let folder = match std::env::var_os("TMPDIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            Some(PathBuf::from("/var/tmp")).filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir)
        }
    };
    tempfile::tempfile_in(&folder).with_context(|| format!("making a temporary file in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::OpenImage;
    use crate::error::{ProblemKind, problem};
    use crate::event::Silent;
    use crate::format::Container;
    use std::fs;
    use std::io::{Read as _, Seek as _, SeekFrom};
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn unpacked_with_holes() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x");
        let mut disk = vec![0; 8 << 20];
        disk[3 << 20] = 7;
        fs::write(&path, zstd::encode_all(&disk[..], 1).expect("zst")).expect("write");
        let source = OpenImage::open(&path, &Silent).expect("opens");
        assert_eq!((source.container, source.size), (Container::Zst, 8 << 20));
        let mut bytes = Vec::new();
        source.disk().read_to_end(&mut bytes).expect("read");
        assert!(bytes == disk);
        assert!(source.file.metadata().expect("stat").blocks() * 512 <= 128 << 10);
        let mut view = source.disk();
        view.seek(SeekFrom::End(-1)).expect("seek");
        assert!(view.seek(SeekFrom::Current(-(9 << 20))).is_err());
    }

    #[test]
    fn a_cut_file_is_an_input_error() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x");
        let whole = zstd::encode_all(&vec![1; 1 << 20][..], 1).expect("zst");
        fs::write(&path, &whole[..whole.len() - 1]).expect("write");
        let error = OpenImage::open(&path, &Silent).expect_err("cut");
        let problem = problem(&error).expect("a problem");
        assert_eq!(problem.kind, ProblemKind::Input);
        assert!(problem.message.contains("is a damaged zst file"), "{problem}");
    }
}
