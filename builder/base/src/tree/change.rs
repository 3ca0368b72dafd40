//! What writes into a tree.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use xattr::FileExt as _;

use super::{FileKind, Root, found, shown};

/// Mode of folders that are made because something is written into them.
const FOLDER_MODE: u32 = 0o755;

impl Root {
    /// Makes `path` and the folders on the way to it, followed, as far as they are missing, with mode 0755 whatever the
    /// umask; those that are there stay as they are. Where a link on the way leads to nothing, what it stands for is made.
    ///
    /// # Errors
    /// When something on the way is no folder.
    pub fn make_folders(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = self.canonical(path)?;
        let mut at = PathBuf::from("/");
        for name in path.components().skip(1) {
            at.push(name);
            if !self.make_folder(&at, FOLDER_MODE)? && !self.is_folder(&at) {
                bail!("{} is no folder in the image", shown(&at));
            }
        }
        Ok(())
    }

    /// Makes one folder, of exactly this mode; false where something has its name already.
    ///
    /// # Errors
    /// When the folder that it belongs in is missing.
    pub fn make_folder(&self, path: impl AsRef<Path>, mode: u32) -> Result<bool> {
        let path = path.as_ref();
        let context = || format!("creating the folder {}", shown(path));
        let (folder, name) = self.folder_of(path).with_context(context)?;
        match mkdirat(&folder, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => return Ok(false),
            other => other.with_context(context)?,
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&folder, name, flags, Mode::empty())
            .and_then(|made| fchmod(made, Mode::from_bits_truncate(mode)))
            .with_context(context)?;
        Ok(true)
    }

    /// A new regular file of exactly this mode, to be written; folders on the way are made. A file or link of its name is
    /// replaced.
    ///
    /// # Errors
    /// When a folder has its name.
    pub fn create(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let context = || format!("creating {}", shown(path));
        let (folder, name) = self.cleared(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).with_context(context)?;
        fchmod(&file, Mode::from_bits_truncate(mode)).with_context(context)?;
        Ok(file.into())
    }

    /// As [`Self::create`], with this content.
    ///
    /// # Errors
    /// As [`Self::create`], and when the disk is full.
    pub fn write(&self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<()> {
        let path = path.as_ref();
        self.create(path, mode)?.write_all(content).with_context(|| format!("writing {}", shown(path)))
    }

    /// Empties a regular file, followed, which keeps its owner and mode; false where there is none.
    ///
    /// # Errors
    /// When it is no regular file, or may not be written.
    pub fn truncate(&self, path: impl AsRef<Path>) -> Result<bool> {
        Ok(self.rewrite(path)?.is_some())
    }

    /// A regular file, followed, emptied, to be written anew: names, owner and mode stay; nothing where there is none.
    ///
    /// # Errors
    /// As [`Self::truncate`].
    pub fn rewrite(&self, path: impl AsRef<Path>) -> Result<Option<File>> {
        self.file(path.as_ref(), OFlag::O_WRONLY | OFlag::O_TRUNC)
    }

    /// A link of name `link` that says `target`; folders on the way are made, a file or link of its name is replaced.
    ///
    /// # Errors
    /// When a folder has its name.
    pub fn symlink(&self, target: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let link = link.as_ref();
        let (folder, name) = self.cleared(link)?;
        symlinkat(target.as_ref(), &folder, name).with_context(|| format!("linking {}", shown(link)))
    }

    /// Another name, `link`, for the file `original`, which is not followed; replaces as [`Self::symlink`] does.
    ///
    /// # Errors
    /// When there is no `original`, or it is a folder.
    pub fn hard_link(&self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let (original, link) = (original.as_ref(), link.as_ref());
        let context = || format!("linking {} to {}", shown(link), shown(original));
        let (from, old) = self.folder_of(original).with_context(context)?;
        let same = self.lstat(original)?.map(|meta| meta.id);
        ensure!(same.is_some(), "linking {}: there is no {}", shown(link), shown(original));
        if same == self.lstat(link)?.map(|meta| meta.id) {
            return Ok(());
        }
        let (to, new) = self.cleared(link)?;
        linkat(from, old, to, new, AtFlags::empty()).with_context(context)
    }

    /// A named pipe or device node (of number `device`) of this mode; replaces as [`Self::symlink`] does.
    ///
    /// # Errors
    /// When `kind` is neither, or the kernel refuses, as it does for devices in a user namespace.
    pub fn make_node(&self, path: impl AsRef<Path>, kind: FileKind, mode: u32, device: u64) -> Result<()> {
        let path = path.as_ref();
        let kind = match kind {
            FileKind::Fifo => SFlag::S_IFIFO,
            FileKind::Block => SFlag::S_IFBLK,
            FileKind::Char => SFlag::S_IFCHR,
            other => bail!("creating {}: {} is no node", shown(path), other.name()),
        };
        let (folder, name) = self.cleared(path)?;
        let context = || format!("creating {}", shown(path));
        let mode = Mode::from_bits_truncate(mode);
        mknodat(&folder, name, kind, mode, device).with_context(context)?;
        if kind == SFlag::S_IFIFO {
            // Whatever the umask; to open a device might be to use it.
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(&folder, name, flags, Mode::empty())
                .and_then(|made| fchmod(made, mode))
                .with_context(context)?;
        }
        Ok(())
    }

    /// Gives a file another name, in place of what has it.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (old_folder, old) = self.folder_of(from)?;
        let (new_folder, new) = self.folder_of(to)?;
        renameat(old_folder, old, new_folder, new)
            .with_context(|| format!("renaming {} to {}", shown(from), shown(to)))
    }

    /// Sets the permission bits of a regular file or folder, followed.
    ///
    /// # Errors
    /// When it is missing, or anything else.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        let followed = self.canonical(path)?;
        let file = self.with_attributes(&followed)?;
        let file = file.with_context(|| format!("setting the mode of {}: no file or folder", shown(path)))?;
        fchmod(&file, Mode::from_bits_truncate(mode))
            .with_context(|| format!("setting the mode of {}", shown(path)))
    }

    /// Sets owner and group.
    ///
    /// # Errors
    /// When it is missing, or the number has no place in this user namespace.
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        let path = path.as_ref();
        let (folder, name) = self.folder_of(path)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&folder, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            .with_context(|| format!("setting the owner of {}", shown(path)))
    }

    /// Sets the times of last use and change, in seconds since 1970; of the root itself too.
    ///
    /// # Errors
    /// When it is missing.
    pub fn set_time(&self, path: impl AsRef<Path>, seconds: i64) -> Result<()> {
        let path = path.as_ref();
        let time = TimeSpec::new(seconds, 0);
        let set = |folder: OwnedFd, name: &Path| {
            utimensat(folder.as_fd(), name, &time, &time, UtimensatFlags::NoFollowSymlink)
        };
        let context = || format!("setting the time of {}", shown(path));
        if path.file_name().is_none() {
            let root = self.at(Path::new(""), OFlag::O_PATH | OFlag::O_DIRECTORY).with_context(context)?;
            return set(root, Path::new(".")).with_context(context);
        }
        let (folder, name) = self.folder_of(path)?;
        set(folder, Path::new(name)).with_context(context)
    }

    /// Sets an extended attribute of a regular file or folder.
    ///
    /// # Errors
    /// When it is neither, or the file system refuses.
    pub fn set_attribute(&self, path: impl AsRef<Path>, name: &str, value: &[u8]) -> Result<()> {
        let path = path.as_ref();
        let context = || format!("setting the attribute {name} of {}", shown(path));
        let file = self.with_attributes(path)?.with_context(context)?;
        file.set_xattr(name, value).with_context(context)
    }

    /// The folder of `path`, made where it is missing, in which nothing has its name any more.
    fn cleared<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let (parent, _) = super::split(path)?;
        self.make_folders(parent).with_context(|| format!("creating the folder of {}", shown(path)))?;
        let (folder, name) = self.folder_of(path)?;
        match found(unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir)) {
            Err(Errno::EISDIR) => {
                bail!("{} is a folder in the image, and a file is wanted there", shown(path))
            }
            other => other.with_context(|| format!("replacing {}", shown(path)))?,
        };
        Ok((folder, name))
    }
}
