//! Where the raw bytes of an image come from: the file itself, or a temporary one that it is unpacked into.
//!
//! ```text
//! raw, vhd       ─► the file, up to the disk's size
//! zst, xz, gz    ─► unpacked ─┐
//! qcow2          ─► qemu-img ─┴► a sparse temporary file without a name: nothing stays, however this ends
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::build::manifest::{FILE_NAME, Manifest};
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::format::{Container, VHD_FOOTER, decode, detect};
use crate::host;
use crate::prove::image::{raw_image, read_manifest};

/// Largest disk that is unpacked, bytes; a hostile file of a few KiB could claim any size.
pub const LARGEST: u64 = 64 << 30;
/// Bytes unpacked at a time.
const CHUNK: usize = 1 << 20;
/// Zeros of this length become a hole.
const HOLE: usize = 64 << 10;
const STEP: &str = "unpack";

/// An open image.
#[derive(Debug)]
pub struct Source {
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

impl Source {
    /// Opens an image, or the one in the folder that `edgepress build` made.
    ///
    /// # Errors
    /// A [`Problem`] when there is none, or it is damaged, or larger than [`LARGEST`].
    pub fn open(path: &Path, sink: &dyn Sink) -> Result<Self> {
        let (path, manifest) = find(path)?;
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let packed = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
        let container = detect(&file, packed).with_context(|| format!("reading {}", path.display()))?;
        let (file, size) = match container {
            Container::Raw => (file, packed),
            Container::Vhd => (file, packed - VHD_FOOTER),
            Container::Qcow2 => convert(&file, &path)?,
            _ => unpack(file, container, packed, &path, sink)?,
        };
        Ok(Self { path, container, packed, file, size, manifest })
    }

    /// The disk, to be read and sought in.
    pub fn disk(&self) -> Disk<'_> {
        Disk { file: &self.file, size: self.size, at: 0 }
    }
}

/// The bytes of a disk, without what its file has behind them.
#[derive(Debug)]
pub struct Disk<'a> {
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
        return Ok((path.join(in_folder(&manifest, path)?), Some(manifest)));
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

/// Other forms of the image, the cheapest to read first.
const FORMS: [&str; 5] = [".vhd", ".img.zst", ".img.gz", ".img.xz", ".qcow2"];

/// The raw image, or another form of it where that is not there.
fn in_folder(manifest: &Manifest, folder: &Path) -> Result<PathBuf> {
    let raw = raw_image(manifest, folder);
    if let Ok(raw) = &raw
        && folder.join(raw).is_file()
    {
        return Ok(raw.clone());
    }
    let plain = |file: &&PathBuf| file.components().count() == 1 && folder.join(file).is_file();
    let files: Vec<_> = manifest.outputs.iter().map(|output| &output.file).filter(plain).collect();
    let found =
        FORMS.iter().find_map(|form| files.iter().find(|file| file.to_string_lossy().ends_with(form)));
    match (found, raw) {
        (Some(file), _) => Ok((*file).clone()),
        (None, Err(error)) => Err(error),
        (None, Ok(raw)) => {
            let message = format!("cannot open the image {}: it is missing", folder.join(raw).display());
            Err(Problem::input(message).hint("build it again, or name the image itself").into())
        }
    }
}

/// Counts what is read of the compressed file, for the progress.
struct Counted {
    file: File,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn unpack(
    file: File,
    container: Container,
    packed: u64,
    path: &Path,
    sink: &dyn Sink,
) -> Result<(File, u64)> {
    let begin = Instant::now();
    sink.emit(Event::Started { step: STEP.into(), total: Some(packed), unit: Unit::Bytes });
    let count = Arc::new(AtomicU64::new(0));
    let counted = Counted { file, count: Arc::clone(&count) };
    let mut stream = decode::stream(counted, container, packed, path)?;
    let target = temporary()?;
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let filled = fill(&mut *stream, &mut buffer).map_err(|error| damaged(path, container, &error))?;
        if filled == 0 {
            break;
        }
        if size + filled as u64 > LARGEST {
            return Err(too_large(path).into());
        }
        write_sparse(&target, &buffer[..filled], size).map_err(no_room)?;
        size += filled as u64;
        let done = count.load(Ordering::Relaxed);
        sink.emit(Event::Progress { step: STEP.into(), done, message: String::new() });
    }
    target.set_len(size).map_err(no_room)?;
    let outcome = format!("{} MiB", size >> 20);
    let seconds = begin.elapsed().as_secs_f64();
    sink.emit(Event::Finished { step: STEP.into(), seconds, outcome });
    Ok((target, size))
}

/// Fills the buffer, less only at the end.
fn fill(stream: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match stream.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn write_sparse(target: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    for (at, piece) in (offset..).step_by(HOLE).zip(bytes.chunks(HOLE)) {
        if piece.iter().any(|byte| *byte != 0) {
            target.write_all_at(piece, at)?;
        }
    }
    Ok(())
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

fn damaged(path: &Path, container: Container, error: &io::Error) -> Problem {
    Problem::input(format!("{} is a damaged {container} file: {error}", path.display()))
        .hint("fetch it again, and compare it with its SHA256SUMS")
}

fn too_large(path: &Path) -> Problem {
    Problem::input(format!("{} holds a disk of more than {} GiB", path.display(), LARGEST >> 30))
        .hint("unpack it yourself and inspect the raw image")
}

fn no_room(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Problem::work("there is no room to unpack the image")
                .hint("name a folder with more room in TMPDIR")
                .into()
        }
        _ => anyhow::Error::new(error).context("writing the unpacked image"),
    }
}

/// A qcow2's head (QEMU's `docs/interop/qcow2.txt`): 104 bytes, big endian.
struct Qcow2 {
    size: u64,
}

impl Qcow2 {
    /// Refuses what would make qemu-img open another file: an image may come from anybody.
    fn parse(head: &[u8; 104]) -> Result<Self, &'static str> {
        let long = |at: usize| head[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (version, crypt) = (long(0) & 0xffff_ffff, long(28) & 0xffff_ffff);
        if long(8) != 0 {
            return Err("it is a layer over another file (a backing file)");
        }
        if crypt != 0 {
            return Err("it is encrypted");
        }
        match version {
            2 => {}
            // Bit 2: the data lies in another file.
            3 if long(72) & 4 == 0 => {}
            3 => return Err("its data lies in another file"),
            _ => return Err("it is of an unknown version"),
        }
        Ok(Self { size: long(24) })
    }
}

fn convert(file: &File, path: &Path) -> Result<(File, u64)> {
    let refuse = |why: &str| {
        Problem::input(format!("the qcow2 {} is not read: {why}", path.display()))
            .hint("if you trust it: qemu-img convert -O raw IMAGE.qcow2 IMAGE.img, and inspect that")
    };
    let mut head = [0; 104];
    file.read_exact_at(&mut head, 0).map_err(|_| refuse("it is cut off"))?;
    let disk = Qcow2::parse(&head).map_err(refuse)?;
    if disk.size > LARGEST {
        return Err(too_large(path).into());
    }
    let target = temporary()?;
    target.set_len(disk.size).map_err(no_room)?;
    // As an absolute path, lest a name like `json:…` mean something to qemu-img.
    let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
    let out = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
    let mut command = host::command("qemu-img")?;
    command.args(["convert", "-n", "--target-is-zero", "-f", "qcow2", "-O", "raw"]).arg(&path).arg(out);
    host::run(&mut command)
        .map_err(|error| Problem::input(format!("{} is a damaged qcow2: {error:#}", path.display())))?;
    Ok((target, disk.size))
}

#[cfg(test)]
mod tests {
    use super::{HOLE, Qcow2, Source, write_sparse};
    use crate::error::{Kind, problem};
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
        let source = Source::open(&path, &Silent).expect("opens");
        assert_eq!((source.container, source.size), (Container::Zst, 8 << 20));
        let mut bytes = Vec::new();
        source.disk().read_to_end(&mut bytes).expect("read");
        assert!(bytes == disk);
        assert!(source.file.metadata().expect("stat").blocks() * 512 <= 2 * HOLE as u64);
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
        let error = Source::open(&path, &Silent).expect_err("cut");
        let problem = problem(&error).expect("a problem");
        assert_eq!(problem.kind, Kind::Input);
        assert!(problem.message.contains("is a damaged zst file"), "{problem}");
    }

    #[test]
    fn sparse_pieces() {
        let file = tempfile::tempfile().expect("file");
        let mut bytes = vec![0; 3 * HOLE + 5];
        bytes[2 * HOLE] = 1;
        write_sparse(&file, &bytes, 0).expect("write");
        assert_eq!(file.metadata().expect("stat").len(), 3 * HOLE as u64);
    }

    #[test]
    fn a_qcow2_that_reaches_for_other_files() {
        let mut head = [0; 104];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[31] = 9;
        assert_eq!(Qcow2::parse(&head).map(|disk| disk.size), Ok(9));
        for (at, bit, why) in
            [(15, 1, "backing"), (79, 4, "another file"), (35, 1, "encrypted"), (7, 7, "version")]
        {
            let mut head = head;
            head[at] = bit;
            assert!(Qcow2::parse(&head).is_err_and(|said| said.contains(why)), "{why}");
        }
    }
}
