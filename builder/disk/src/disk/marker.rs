//! Files that a tree cannot hold as they shall be on the device, and what stands for them until its file system is made.
//!
//! ```text
//! .wh.NAME             a whiteout: NAME becomes a character device 0/0
//! .wh..wh..opq         the folder gets the attribute trusted.overlay.opaque = y
//! .wh..wh.node.NAME    a device node; says `c MAJOR MINOR MODE UID GID MTIME` (`b`: block), MODE in octal
//! ```
//! The first two are the whiteouts of the OCI image specification (layer.md); on the device they are those of overlayfs
//! (the kernel's Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"). They count only in
//! [`FOLDERS`], where an engine's layers are: anywhere else a file may have any name.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

use crate::tree::{FileKind, Root};

/// What a marker's name begins with.
pub const PREFIX: &str = ".wh.";
/// The marker of a folder that hides what is below it.
pub const OPAQUE: &str = ".wh..wh..opq";
const NODE: &str = ".wh..wh.node.";
/// Below it lie folders with markers.
pub const FOLDERS: &str = "var/lib/docker/overlay2";
/// Most bytes that a marker holds.
const LARGEST: u64 = 128;

/// The marker that hides `path`.
pub fn whiteout(path: &Path) -> PathBuf {
    named(path, PREFIX)
}

/// The marker of the device node `path`.
pub fn node(path: &Path) -> PathBuf {
    named(path, NODE)
}

fn named(path: &Path, prefix: &str) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// A device node to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, mode, uid, gid, mtime, .. } = self;
        let letter = if self.block { 'b' } else { 'c' };
        write!(f, "{letter} {major} {minor} {mode:o} {uid} {gid} {mtime}")
    }
}

impl FromStr for Node {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [letter, major, minor, mode, uid, gid, mtime] = words[..] else {
            bail!("`{text}` is no device node")
        };
        Ok(Self {
            block: letter == "b",
            major: major.parse()?,
            minor: minor.parse()?,
            mode: u32::from_str_radix(mode, 8)?,
            uid: uid.parse()?,
            gid: gid.parse()?,
            mtime: mtime.parse()?,
        })
    }
}

/// What a marker stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A whiteout of this name.
    Whiteout(OsString),
    /// The folder is opaque.
    Opaque,
    /// A device node of this name.
    Node(OsString, Node),
}

/// A marker in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Its path, from the tree's root, without `/` before it.
    pub path: PathBuf,
    /// What it stands for.
    pub what: What,
}

/// What a tree has in [`FOLDERS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// All markers, in the order of their paths.
    pub markers: Vec<Marker>,
    /// The latest time of a change, in seconds since 1970: files of an image's layers keep theirs.
    pub newest: i64,
}

/// Looks for markers in a tree.
///
/// # Errors
/// When a folder cannot be read, or a marker is none.
pub fn find(tree: &Root) -> Result<Found> {
    let (mut found, mut newest) = (Vec::new(), 0);
    if !tree.is_folder(FOLDERS) {
        return Ok(Found::default());
    }
    tree.walk(FOLDERS, &mut |path, meta| {
        newest = newest.max(meta.mtime);
        let name = path.file_name().unwrap_or_default();
        if meta.kind == FileKind::File && name.as_bytes().starts_with(PREFIX.as_bytes()) {
            let what = what(tree, path, name).with_context(|| format!("reading {}", path.display()))?;
            let path = path.strip_prefix("/").unwrap_or(path).to_owned();
            found.push(Marker { path, what });
        }
        Ok(())
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Found { markers: found, newest })
}

fn what(tree: &Root, path: &Path, name: &OsStr) -> Result<What> {
    let rest = |prefix: &str| name.as_bytes().strip_prefix(prefix.as_bytes()).map(OsStr::from_bytes);
    if name == OPAQUE {
        return Ok(What::Opaque);
    }
    if let Some(name) = rest(NODE) {
        let text = tree.read_text(path, LARGEST)?.context("reading a marker that is gone")?;
        return Ok(What::Node(name.to_owned(), text.parse()?));
    }
    let name = rest(PREFIX).unwrap_or_default();
    ensure!(!name.is_empty(), "it is a whiteout of no file");
    Ok(What::Whiteout(name.to_owned()))
}

impl Marker {
    /// debugfs(8) commands that put in its place what it stands for.
    ///
    /// # Errors
    /// A name that debugfs cannot be told.
    pub fn replace(&self) -> Result<String> {
        let folder = self.folder();
        let marker = quoted(self.path.file_name().unwrap_or_default())?;
        let begin = format!("cd {}\nrm {marker}\n", quoted(folder.as_os_str())?);
        Ok(match &self.what {
            What::Opaque => format!("{begin}ea_set . trusted.overlay.opaque y\n"),
            What::Whiteout(name) => {
                let name = quoted(name)?;
                format!("{begin}mknod {name} c 0 0\nsif {name} mode 0{CHARACTER:o}\n")
            }
            What::Node(name, node) => {
                let (name, Node { major, minor, uid, gid, mtime, .. }) = (quoted(name)?, node);
                let (letter, kind) = if node.block { ('b', BLOCK) } else { ('c', CHARACTER) };
                let mode = kind | node.mode;
                format!(
                    "{begin}mknod {name} {letter} {major} {minor}\nsif {name} mode 0{mode:o}\nsif {name} uid {uid}\n\
                     sif {name} gid {gid}\nsif {name} mtime @{mtime}\n"
                )
            }
        })
    }

    /// A debugfs command that shows what is in its place, and the line of the answer that tells that it is right.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub fn look(&self) -> Result<(String, String)> {
        let folder = self.folder();
        let stat = |name: &OsStr| {
            Ok::<_, anyhow::Error>(format!("stat {}\n", quoted(folder.join(name).as_os_str())?))
        };
        Ok(match &self.what {
            What::Opaque => {
                (format!("ea_list {}\n", quoted(folder.as_os_str())?), "trusted.overlay.opaque (1)".into())
            }
            What::Whiteout(name) => (stat(name)?, "Device major/minor number: 00:00".into()),
            What::Node(name, Node { major, minor, .. }) => {
                (stat(name)?, format!("Device major/minor number: {major:02}:{minor:02}"))
            }
        })
    }

    fn folder(&self) -> PathBuf {
        Path::new("/").join(self.path.parent().unwrap_or(Path::new("")))
    }
}

/// File types of an inode (the kernel's Documentation/filesystems/ext4/inodes.rst, `i_mode`).
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;

/// Can what stands at `path` be replaced by something else, when the file system is made?
///
/// # Errors
/// Names the path that cannot be told to debugfs.
pub fn tellable(path: &Path) -> Result<()> {
    quoted(path.as_os_str()).map(drop)
}

/// A name as debugfs reads it: in quotes, where a quote stands for itself twice (lib/ss/parse.c of e2fsprogs).
fn quoted(name: &OsStr) -> Result<String> {
    let text = name.to_str().filter(|text| !text.contains(['\n', '\0']));
    let text =
        text.with_context(|| format!("{}: no whiteout or device can have this name", name.display()))?;
    Ok(format!("\"{}\"", text.replace('"', "\"\"")))
}
