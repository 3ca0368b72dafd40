//! What reads a tree: facts of a name, contents, folders, attributes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use xattr::FileExt as _;

use super::{Root, found, shown};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    Block,
    /// A character device; overlayfs marks what a layer removed with one of number 0:0.
    Char,
}

/// Facts of a file, as of stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Time of the last change, seconds since 1970.
    pub mtime: i64,
    /// Names that the file has.
    pub links: u64,
    /// Device and number, which together make out a file.
    pub id: (u64, u64),
    /// Of a device node: the number of its device.
    pub device: u64,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name.
    pub name: OsString,
    /// What it stands for; a link is not followed.
    pub kind: FileKind,
}

impl Root {
    /// Facts of `path`, followed; nothing where there is no such file.
    ///
    /// # Errors
    /// When links go in circles.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Meta>> {
        self.facts(path.as_ref(), OFlag::empty())
    }

    /// Facts of `path`; nothing where there is no such name.
    ///
    /// # Errors
    /// When links on the way go in circles.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Option<Meta>> {
        self.facts(path.as_ref(), OFlag::O_NOFOLLOW)
    }

    /// Whether `path`, followed, is there; false where it cannot be looked at.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.stat(path).is_ok_and(|found| found.is_some())
    }

    /// Whether `path`, followed, is a folder; false where it cannot be looked at.
    pub fn is_folder(&self, path: impl AsRef<Path>) -> bool {
        self.stat(path).is_ok_and(|found| found.is_some_and(|meta| meta.kind == FileKind::Folder))
    }

    fn facts(&self, path: &Path, flags: OFlag) -> Result<Option<Meta>> {
        let look = || -> nix::Result<Option<FileStat>> {
            found(self.at(path, OFlag::O_PATH | flags))?.map(fstat).transpose()
        };
        Ok(look().with_context(|| format!("looking at {}", shown(path)))?.map(|data| Meta::of(&data)))
    }

    /// Where a link leads, as it stands in it; nothing where `path` is no link.
    ///
    /// # Errors
    /// When links on the way go in circles.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>> {
        let path = path.as_ref();
        let look = || -> nix::Result<Option<PathBuf>> {
            let Some(handle) = found(self.at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW))? else {
                return Ok(None);
            };
            if Meta::of(&fstat(&handle)?).kind != FileKind::Link {
                return Ok(None);
            }
            Ok(Some(readlinkat(handle, "")?.into()))
        };
        look().with_context(|| format!("reading the link {}", shown(path)))
    }

    /// Opens a regular file, followed, to be read; nothing where there is none.
    ///
    /// # Errors
    /// When it is no regular file, or may not be read.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        self.file(path.as_ref(), OFlag::O_RDONLY)
    }

    /// As [`Self::open_file`]; a link is refused.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_file_nofollow(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        self.file(path.as_ref(), OFlag::O_RDONLY | OFlag::O_NOFOLLOW)
    }

    /// A regular file with these flags. Anything else is not even opened: a pipe would wait for its other end for ever,
    /// and some devices act when they are opened.
    pub(super) fn file(&self, path: &Path, flags: OFlag) -> Result<Option<File>> {
        let context = || format!("opening {}", shown(path));
        let Some(meta) = self.facts(path, flags & OFlag::O_NOFOLLOW)? else { return Ok(None) };
        ensure!(meta.kind == FileKind::File, "{} is {}, not a regular file", shown(path), meta.kind.name());
        let quiet = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(found(self.at(path, flags | quiet)).with_context(context)?.map(File::from))
    }

    /// What a regular file holds, followed; nothing where there is none.
    ///
    /// # Errors
    /// When it is no regular file, holds more than `most` bytes, or cannot be read.
    pub fn read(&self, path: impl AsRef<Path>, most: u64) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1))
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading {}", shown(path)))?;
        ensure!(bytes.len() as u64 <= most, "{} is larger than {most} bytes", shown(path));
        Ok(Some(bytes))
    }

    /// As [`Self::read`], of a text; what is not UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_text(&self, path: impl AsRef<Path>, most: u64) -> Result<Option<String>> {
        let bytes = self.read(path, most)?;
        Ok(bytes.map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }

    /// The names in a folder, followed, ascending by their bytes; none where there is no such folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn list(&self, folder: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.entries(folder.as_ref(), OFlag::empty())
    }

    /// As [`Self::list`]; a link to a folder is none.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn list_nofollow(&self, folder: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.entries(folder.as_ref(), OFlag::O_NOFOLLOW)
    }

    fn entries(&self, folder: &Path, flags: OFlag) -> Result<Vec<DirEntry>> {
        let handle = match self.at(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY | flags) {
            // O_NOFOLLOW's word for a link.
            Err(Errno::ELOOP) if flags.contains(OFlag::O_NOFOLLOW) => None,
            other => found(other).with_context(|| format!("listing {}", shown(folder)))?,
        };
        let Some(handle) = handle else { return Ok(Vec::new()) };
        names(handle).with_context(|| format!("listing {}", shown(folder)))
    }

    /// Calls `visit` with everything below `folder`, which is not followed: path from the root, and facts. A folder comes
    /// before what is in it; names ascend.
    ///
    /// # Errors
    /// What cannot be read, or the visitor's.
    pub fn walk(
        &self,
        folder: impl AsRef<Path>,
        visit: &mut dyn FnMut(&Path, &Meta) -> Result<()>,
    ) -> Result<()> {
        let mut rest: Vec<PathBuf> = self.below(folder.as_ref())?;
        while let Some(path) = rest.pop() {
            // Gone meanwhile: nothing to see.
            let Some(meta) = self.lstat(&path)? else { continue };
            visit(&path, &meta)?;
            if meta.kind == FileKind::Folder {
                rest.extend(self.below(&path)?);
            }
        }
        Ok(())
    }

    /// Paths of what is in a folder, last first.
    fn below(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let entries = self.list_nofollow(folder)?;
        Ok(entries.into_iter().rev().map(|entry| folder.join(entry.name)).collect())
    }

    /// Extended attributes of a regular file or folder, names ascending; anything else has none that an image could hold
    /// (xattr(7)).
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn attributes(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, Vec<u8>)>> {
        let path = path.as_ref();
        let Some(file) = self.with_attributes(path)? else { return Ok(Vec::new()) };
        let read = || -> std::io::Result<Vec<(OsString, Vec<u8>)>> {
            let mut all = Vec::new();
            for name in file.list_xattr()? {
                if let Some(value) = file.get_xattr(&name)? {
                    all.push((name, value));
                }
            }
            all.sort();
            Ok(all)
        };
        read().with_context(|| format!("reading the attributes of {}", shown(path)))
    }

    /// A handle on a regular file or folder, to be asked for attributes or given a mode.
    pub(super) fn with_attributes(&self, path: &Path) -> Result<Option<File>> {
        let Some(meta) = self.lstat(path)? else { return Ok(None) };
        if !matches!(meta.kind, FileKind::File | FileKind::Folder) {
            return Ok(None);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let handle = found(self.at(path, flags)).with_context(|| format!("opening {}", shown(path)))?;
        Ok(handle.map(File::from))
    }
}

/// Names of an open folder, ascending.
pub(super) fn names(folder: OwnedFd) -> nix::Result<Vec<DirEntry>> {
    let mut folder = Dir::from_fd(folder)?;
    let mut found = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push((OsString::from_vec(name.to_vec()), entry.file_type()));
        }
    }
    let kind = |name: &OsStr, told: Option<Type>| match told {
        Some(told) => Ok(FileKind::told(told)),
        // A file system that does not say (readdir(3), DT_UNKNOWN).
        None => fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|data| Meta::of(&data).kind),
    };
    let mut entries = found
        .into_iter()
        .map(|(name, told)| Ok(DirEntry { kind: kind(&name, told)?, name }))
        .collect::<nix::Result<Vec<_>>>()?;
    entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(entries)
}

impl FileKind {
    fn told(told: Type) -> Self {
        match told {
            Type::Directory => Self::Folder,
            Type::File => Self::File,
            Type::Symlink => Self::Link,
            Type::Fifo => Self::Fifo,
            Type::Socket => Self::Socket,
            Type::BlockDevice => Self::Block,
            Type::CharacterDevice => Self::Char,
        }
    }

    /// For messages, with its article.
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "a folder",
            Self::File => "a regular file",
            Self::Link => "a link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Block | Self::Char => "a device",
        }
    }
}

impl Meta {
    // The types differ from one architecture to the next.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    pub(super) fn of(data: &FileStat) -> Self {
        let bits = SFlag::from_bits_truncate(data.st_mode);
        let kind = match bits & SFlag::S_IFMT {
            SFlag::S_IFDIR => FileKind::Folder,
            SFlag::S_IFLNK => FileKind::Link,
            SFlag::S_IFIFO => FileKind::Fifo,
            SFlag::S_IFSOCK => FileKind::Socket,
            SFlag::S_IFBLK => FileKind::Block,
            SFlag::S_IFCHR => FileKind::Char,
            _ => FileKind::File,
        };
        Self {
            kind,
            mode: data.st_mode & 0o7777,
            uid: data.st_uid,
            gid: data.st_gid,
            size: data.st_size.max(0) as u64,
            mtime: data.st_mtime,
            links: data.st_nlink as u64,
            id: (data.st_dev, data.st_ino),
            device: data.st_rdev,
        }
    }
}
