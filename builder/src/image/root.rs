//! The root file system of an image, read where it lies: no mount, no root.
//!
//! The crate `ext4-view` reads ext4. The image may come from anybody, so around it stand bounds: the superblock must fit the
//! partition, links are followed here (the crate would allocate whatever length a link claims), files are read up to a
//! size, and all of it runs on a thread of its own: a panic there is an error here, and when nothing moves any more the
//! thread is given up.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata};

use crate::disk::superblock::{SUPERBLOCK, ext4_size};
use crate::rootfs::guard::{PathKind, Tree};
use crate::units::{Digest, Sha256};

/// A link longer than a path is none (PATH_MAX).
const LONGEST_LINK: u64 = 4095;
/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Names that are looked at in one image; a full server has a tenth of it.
const MOST_NAMES: u64 = 4_000_000;
/// Block groups of a file system: 128 TiB at 128 MiB each.
const MOST_GROUPS: u64 = 1 << 20;
/// A file system that gives nothing for so long gives nothing any more.
const STUCK: Duration = Duration::from_secs(60);
/// Name of the threads on which file systems are read; a panic there prints nothing.
const THREAD: &str = "ext4";
/// Bytes read at a time.
pub(crate) const CHUNK: usize = 64 << 10;

/// Where a file system lies: a part of a file, bytes.
#[derive(Debug)]
pub(crate) struct Part {
    /// The raw image.
    pub file: File,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

impl Part {
    fn read_exact(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let end = at.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, self.offset + at)
    }
}

impl Ext4Read for Part {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_exact(start_byte, dst)?)
    }
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `-`, `d`, `l`, `b`, `c`, `p` or `s`, as ls(1) has it.
    pub kind: char,
    /// Bytes.
    pub size: u64,
    /// Permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of its content: seconds since 1970.
    pub modified: i64,
}

impl From<&Metadata> for Stat {
    fn from(data: &Metadata) -> Self {
        let kind = match data.file_type() {
            FileType::Regular => '-',
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::BlockDevice => 'b',
            FileType::CharacterDevice => 'c',
            FileType::Fifo => 'p',
            FileType::Socket => 's',
        };
        let (size, mode, uid, gid) = (data.len(), data.mode(), data.uid(), data.gid());
        Self { kind, size, mode, uid, gid, modified: data.modified().seconds() }
    }
}

/// An open root file system. Paths are from its root, with or without a leading `/`.
pub(crate) struct Root {
    fs: Ext4,
    /// Moves whenever something was read.
    pulse: Arc<AtomicU64>,
    names: Cell<u64>,
    /// Folders that are reached without a link.
    plain: RefCell<HashSet<PathBuf>>,
}

/// Lets `look` read the file systems in `parts`, each of which must be ext4.
///
/// # Errors
/// When one cannot be opened or read, whatever is wrong with it; whatever `look` returns.
pub(crate) fn look<T: Send + 'static>(
    parts: Vec<Part>,
    look: impl FnOnce(&[Root]) -> Result<T> + Send + 'static,
) -> Result<T> {
    silence();
    let pulse = Arc::new(AtomicU64::new(0));
    let (send, receive) = channel();
    let moves = Arc::clone(&pulse);
    let work = move || {
        let roots: Result<Vec<_>> =
            parts.into_iter().map(|part| Root::open(part, Arc::clone(&moves))).collect();
        // Nobody listens any more when this took too long.
        send.send(roots.and_then(|roots| look(&roots))).ok();
    };
    std::thread::Builder::new().name(THREAD.into()).spawn(work).context("starting a thread")?;
    let mut last = 0;
    loop {
        match receive.recv_timeout(STUCK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => bail!("the file system is damaged: its reader failed"),
            Err(RecvTimeoutError::Timeout) => {
                let now = pulse.load(Ordering::Relaxed);
                ensure!(now != last, "the file system is damaged: reading it comes to no end");
                last = now;
            }
        }
    }
}

/// Panics on threads that read file systems are told as errors, not printed.
fn silence() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                before(info);
            }
        }));
    });
}

impl Root {
    fn open(part: Part, pulse: Arc<AtomicU64>) -> Result<Self> {
        plausible(&part)?;
        let fs =
            Ext4::load(Box::new(part)).map_err(|error| anyhow!("the file system is damaged: {error}"))?;
        Ok(Self { fs, pulse, names: Cell::new(0), plain: RefCell::new([PathBuf::from("/")].into()) })
    }

    /// What is at a path, links followed.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub(crate) fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        Ok(self.resolve(path, true)?.map(|(_, data)| Stat::from(&data)))
    }

    /// What is at a path, which may be a link.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub(crate) fn lstat(&self, path: &Path) -> Result<Option<Stat>> {
        Ok(self.resolve(path, false)?.map(|(_, data)| Stat::from(&data)))
    }

    /// The target of a link; nothing when there is none.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub(crate) fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        match self.resolve(path, false)? {
            Some((path, data)) if data.is_symlink() => Ok(Some(self.target(&path, &data)?)),
            _ => Ok(None),
        }
    }

    /// Where a path leads in the end; nothing when it leads nowhere.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub(crate) fn end(&self, path: &Path) -> Result<Option<PathBuf>> {
        Ok(self.resolve(path, true)?.map(|(path, _)| path))
    }

    /// The names in a folder, sorted; nothing when there is none.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub(crate) fn list(&self, folder: &Path) -> Result<Vec<(OsString, PathKind)>> {
        let Some((folder, _)) = self.resolve(folder, true)?.filter(|(_, data)| data.is_dir()) else {
            return Ok(Vec::new());
        };
        let context = || format!("reading {}", folder.display());
        let mut names = Vec::new();
        for entry in self.fs.read_dir(folder.as_path()).with_context(context)? {
            let entry = entry.with_context(context)?;
            self.names.set(self.names.get() + 1);
            ensure!(self.names.get() <= MOST_NAMES, "the file system has over {MOST_NAMES} names");
            let name = entry.file_name();
            let name = OsStr::from_bytes(name.as_ref());
            if name == "." || name == ".." {
                continue;
            }
            let plain = !name.is_empty() && !name.as_bytes().contains(&b'/');
            ensure!(plain, "{} has an entry with an impossible name", folder.display());
            let kind = match entry.file_type().with_context(context)? {
                FileType::Directory => PathKind::Folder,
                FileType::Regular => PathKind::File,
                _ => PathKind::Other,
            };
            names.push((name.to_owned(), kind));
        }
        self.alive();
        self.plain.borrow_mut().insert(folder);
        names.sort();
        Ok(names)
    }

    /// What a file holds, links followed; nothing when there is none.
    ///
    /// # Errors
    /// When it has more than `limit` bytes or cannot be read.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((path, data)) = self.resolve(path, true)? else { return Ok(None) };
        if data.file_type() != FileType::Regular {
            return Ok(None);
        }
        ensure!(data.len() <= limit, "{} has {} bytes, more than are read", path.display(), data.len());
        let mut bytes = vec![0; usize::try_from(data.len())?];
        let count = self.open_file(&path)?.fill(&mut bytes)?;
        bytes.truncate(count);
        Ok(Some(bytes))
    }

    /// [`Root::read`], as text; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// As [`Root::read`].
    pub(crate) fn text(&self, path: &str, limit: u64) -> Result<Option<String>> {
        let bytes = self.read(Path::new(path), limit)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A file to be read piece by piece.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(crate) fn open_file(&self, path: &Path) -> Result<Reader<'_>> {
        let (path, _) = self.resolve(path, true)?.with_context(|| format!("{} is gone", path.display()))?;
        let file = self.fs.open(path.as_path()).with_context(|| format!("reading {}", path.display()))?;
        Ok(Reader { root: self, file, path })
    }

    /// The digest of a file, however large.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn digest(&self, path: &Path) -> Result<Digest> {
        let mut file = self.open_file(path)?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK]);
        loop {
            match file.fill(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                count => hasher.update(&buffer[..count]),
            }
        }
    }

    fn alive(&self) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
    }

    /// Follows a path name by name, so that the crate never follows a link by itself.
    fn resolve(&self, path: &Path, follow_last: bool) -> Result<Option<(PathBuf, Metadata)>> {
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = names(path).collect();
        if let Some(parent) = path.parent().filter(|parent| self.plain.borrow().contains(&absolute(parent))) {
            at = absolute(parent);
            rest.drain(..rest.len().saturating_sub(1));
        }
        let mut links = 0;
        let mut data = None;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                data = None;
                continue;
            }
            let next = at.join(&name);
            let Some(found) = self.metadata(&next)? else { return Ok(None) };
            if found.is_symlink() && (follow_last || !rest.is_empty()) {
                links += 1;
                ensure!(links <= MOST_LINKS, "{} leads over more than {MOST_LINKS} links", path.display());
                let target = self.target(&next, &found)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                names(&target).rev().for_each(|name| rest.push_front(name));
                data = None;
                continue;
            }
            if !found.is_dir() && !rest.is_empty() {
                return Ok(None);
            }
            (at, data) = (next, Some(found));
        }
        let data = match data {
            Some(data) => Some(data),
            None => self.metadata(&at)?,
        };
        Ok(data.map(|data| (at, data)))
    }

    /// `path` leads over no link, but may be one.
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>> {
        match self.fs.symlink_metadata(path) {
            Ok(data) => Ok(Some(data)),
            Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
        }
    }

    fn target(&self, path: &Path, data: &Metadata) -> Result<PathBuf> {
        ensure!(data.len() <= LONGEST_LINK, "the link {} is impossibly long", path.display());
        let target = self.fs.read_link(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(PathBuf::from(OsString::from_vec(target.as_ref().to_vec())))
    }
}

/// An open file.
pub(crate) struct Reader<'a> {
    root: &'a Root,
    file: ext4_view::File,
    path: PathBuf,
}

impl Reader<'_> {
    /// Fills the buffer, less only at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let end = buffer.len().min(done + CHUNK);
            let count = self.file.read_bytes(&mut buffer[done..end]);
            match count.with_context(|| format!("reading {}", self.path.display()))? {
                0 => break,
                count => done += count,
            }
            self.root.alive();
        }
        Ok(done)
    }
}

impl Tree for Root {
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, PathKind)>> {
        // As on a disk: a folder that is a link is another's.
        match self.lstat(folder)? {
            Some(stat) if stat.kind == 'd' => Self::list(self, folder),
            _ => Ok(Vec::new()),
        }
    }

    fn open(&self, file: &Path) -> Result<Option<Box<dyn Read + '_>>> {
        match self.lstat(file)? {
            Some(stat) if stat.kind == '-' => Ok(Some(Box::new(self.open_file(file)?))),
            _ => Ok(None),
        }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.fill(buffer).map_err(std::io::Error::other)
    }
}

/// The names of a path, `..` among them.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

fn absolute(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// The crate allocates for as many block groups as a superblock claims.
fn plausible(part: &Part) -> Result<()> {
    let mut block = [0; SUPERBLOCK.1 as usize];
    part.read_exact(SUPERBLOCK.0, &mut block).context("reading the superblock")?;
    let size = ext4_size(&block)?;
    ensure!(size <= part.size, "the file system is {size} bytes long, its partition {}", part.size);
    let word =
        |at: usize| u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
    let group = word(0x20).checked_mul(1024 << word(0x18));
    let groups = group.filter(|group| *group > 0).map(|group| size.div_ceil(group));
    ensure!(
        groups.is_some_and(|groups| groups <= MOST_GROUPS),
        "the file system has impossible block groups"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
