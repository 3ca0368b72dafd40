//! The files of one layer, put into its folder as the engine's overlay2 driver puts them there.
//!
//! ```text
//! in the tar                       on the device (overlayfs)              in the tree, until the file system is made
//! etc/.wh.motd                     etc/motd, character device 0/0         etc/.wh.motd
//! srv/.wh..wh..opq                 srv has trusted.overlay.opaque = y     srv/.wh..wh..opq
//! dev/null (device node)           dev/null, character device 1/3         dev/.wh..wh.node.null
//! ```
//! The right column is what no user namespace can make, or what would hide files of the image itself while its layers are
//! stacked with overlayfs; [`crate::disk`] puts the middle one in its place. No tar has a file of such a name: the prefix
//! `.wh.` belongs to whiteouts (OCI image-spec, layer.md, "Whiteouts").
//!
//! Sources: moby pkg/archive/archive.go (`Unpack`, `createTarFile`), archive_linux.go (`ConvertRead`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use nix::errno::Errno;
use tar::EntryType;

use super::FOLDER;
use crate::disk::marker;
use crate::error::Problem;
use crate::oci::layer::Layer;
use crate::oci::tar_split::{self, Unpacked};
use crate::tree::{FileKind, Root};

/// What pax headers call an extended attribute (tar(5), "SCHILY.xattr").
const ATTRIBUTE: &str = "SCHILY.xattr.";
/// What is passed over is named, up to this number.
const MOST_PASSED: usize = 20;

/// Something of a layer that is not in the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Passed {
    /// The file in the container.
    pub path: PathBuf,
    /// What of it.
    pub what: String,
}

/// Unpacks the layer at `blob` into the folder of `cache`; the list of its headers goes to `list`.
pub(super) fn unpack(root: &Root, cache: &str, blob: &Path, list: File) -> Result<(Unpacked, Vec<Passed>)> {
    let diff = Path::new(FOLDER).join("overlay2").join(cache).join("diff");
    let mut target = Target {
        tree: root.subtree(diff)?,
        folders: BTreeMap::new(),
        latest: 0,
        whiteouts: BTreeSet::new(),
        passed: Vec::new(),
    };
    // No name and no time: equal lists make equal files.
    let mut list = GzEncoder::new(BufWriter::new(list), Compression::default());
    let unpacked = tar_split::disassemble(Layer::open(blob)?, &mut list, |entry| target.take(entry))?;
    let list = list.finish().context("writing the list of the layer's headers")?;
    list.into_inner().map_err(io::IntoInnerError::into_error)?.flush()?;
    target.settle()?;
    Ok((unpacked, target.passed))
}

type Entry<'a> = tar_split::Entry<'a, Layer>;

/// A layer's folder while it is filled.
struct Target {
    tree: Root,
    /// Their times are set at the end: every file that is put into one changes it.
    folders: BTreeMap<PathBuf, i64>,
    /// Latest time of a file: that of folders which the layer has no entry for.
    latest: i64,
    /// Names that are hidden by a marker.
    whiteouts: BTreeSet<PathBuf>,
    passed: Vec<Passed>,
}

impl Target {
    fn take(&mut self, entry: &mut Entry<'_>) -> Result<()> {
        let path = plain(&entry.path()?)?;
        self.latest = self.latest.max(time(entry.header())?);
        let name = path.file_name().unwrap_or_default().as_bytes();
        let prefix = marker::PREFIX.as_bytes();
        match name.strip_prefix(prefix) {
            // The top itself: the engine leaves it as it made it (archive.go, `Unpack`).
            _ if path.as_os_str().is_empty() => return Ok(()),
            // A name of AUFS's own, which no engine unpacks; but for the mark of an opaque folder.
            Some(rest) if rest.starts_with(prefix) && name != marker::OPAQUE.as_bytes() => {
                self.pass_over(&path, "a file of AUFS's own".to_owned());
                return Ok(());
            }
            Some([] | b"." | b"..") => bail!("it is a whiteout of no file"),
            Some(_) if name == marker::OPAQUE.as_bytes() => return self.mark(&path),
            Some(hidden) => {
                let hidden = path.with_file_name(OsStr::from_bytes(hidden));
                if self.tree.lstat(&hidden)?.is_some() {
                    bail!("the layer has the file and hides it");
                }
                self.mark(&path)?;
                self.whiteouts.insert(hidden);
                return Ok(());
            }
            None => {}
        }
        if self.whiteouts.remove(&path) {
            self.tree.remove(marker::whiteout(&path))?;
        }
        self.put(entry, &path)
    }

    fn pass_over(&mut self, path: &Path, what: String) {
        if self.passed.len() < MOST_PASSED {
            self.passed.push(Passed { path: path.to_owned(), what });
        }
    }

    fn mark(&self, path: &Path) -> Result<()> {
        marker::tellable(path)?;
        self.tree.write(path, 0, b"")?;
        self.tree.set_time(path, 0)
    }

    fn put(&mut self, entry: &mut Entry<'_>, path: &Path) -> Result<()> {
        let kind = entry.header().entry_type();
        let there = self.tree.lstat(path)?.map(|meta| meta.kind);
        if there.is_some() && !(there == Some(FileKind::Folder) && kind == EntryType::Directory) {
            self.tree.remove(path)?;
        }
        let link = entry.link_name()?.map(|name| name.into_owned());
        let link = || link.clone().ok_or_else(|| anyhow!("the archive does not say where the link leads"));
        let mode = entry.header().mode()? & 0o7777;
        match kind {
            EntryType::Directory => {
                if let Some(above) = path.parent() {
                    self.tree.make_folders(above)?;
                }
                self.tree.make_folder(path, mode)?;
                self.folders.insert(path.to_owned(), time(entry.header())?);
            }
            EntryType::Symlink => self.tree.symlink(link()?, path)?,
            EntryType::Link => return self.tree.hard_link(plain(&link()?)?, path),
            EntryType::Fifo => self.tree.make_node(path, FileKind::Fifo, mode, 0)?,
            EntryType::Block | EntryType::Char => return self.node(entry.header(), path),
            EntryType::Regular | EntryType::Continuous => {
                let mut file = self.tree.create(path, mode)?;
                io::copy(entry, &mut file)?;
            }
            // Of the whole archive, not of a file.
            EntryType::XGlobalHeader => return Ok(()),
            other => bail!("it is a tar entry of type {other:?}"),
        }
        self.own(entry, path)
    }

    /// Owner, then mode (a change of owner takes set-uid away), then attributes (it takes capabilities too), then time.
    fn own(&mut self, entry: &mut Entry<'_>, path: &Path) -> Result<()> {
        let (uid, gid) = owner(entry.header())?;
        self.tree.set_owner(path, uid, gid).map_err(|error| foreign_owner(error, uid, gid))?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory) {
            self.tree.set_mode(path, entry.header().mode()? & 0o7777)?;
            self.attributes(entry, path)?;
        }
        self.tree.set_time(path, time(entry.header())?)
    }

    fn attributes(&mut self, entry: &mut Entry<'_>, path: &Path) -> Result<()> {
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension.context("reading its extended header")?;
            let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(ATTRIBUTE)) else {
                continue;
            };
            let Err(error) = self.tree.set_attribute(path, name, extension.value_bytes()) else { continue };
            let errno = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
            // As the engine does where the file system, or its rights, do not suffice.
            if !errno
                .is_some_and(|number| [Errno::EOPNOTSUPP, Errno::EPERM].contains(&Errno::from_raw(number)))
            {
                return Err(error);
            }
            let what = format!("the extended attribute {name}, which cannot be set here");
            self.pass_over(path, what);
        }
        Ok(())
    }

    /// A device node, as a marker.
    fn node(&self, header: &tar::Header, path: &Path) -> Result<()> {
        marker::tellable(path)?;
        let (uid, gid) = owner(header)?;
        let node = marker::Node {
            block: header.entry_type() == EntryType::Block,
            major: header.device_major()?.unwrap_or_default(),
            minor: header.device_minor()?.unwrap_or_default(),
            mode: header.mode()? & 0o7777,
            uid,
            gid,
            mtime: header.mtime()?,
        };
        self.tree.write(marker::node(path), 0, node.to_string().as_bytes())?;
        self.tree.set_time(marker::node(path), 0)
    }

    /// Sets the times of all folders. One that the layer has no entry for is made because something is put into it, as the
    /// engine does, which gives it the time of day.
    fn settle(&self) -> Result<()> {
        for hidden in &self.whiteouts {
            if self.tree.lstat(hidden)?.is_some() {
                bail!("the layer hides {}, and has files in it", hidden.display());
            }
        }
        let time = |path: &Path| self.folders.get(path).copied().unwrap_or(self.latest);
        let mut folders = vec![PathBuf::new()];
        self.tree.walk("", &mut |path, meta| {
            if meta.kind == FileKind::Folder {
                folders.push(path.to_owned());
            }
            Ok(())
        })?;
        folders.iter().try_for_each(|path| self.tree.set_time(path, time(path)))
    }
}

/// Seconds since 1970.
fn time(header: &tar::Header) -> Result<i64> {
    Ok(i64::try_from(header.mtime()?)?)
}

fn owner(header: &tar::Header) -> Result<(u32, u32)> {
    Ok((u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?))
}

fn foreign_owner(error: anyhow::Error, uid: u32, gid: u32) -> anyhow::Error {
    if uid < 1 << 16 && gid < 1 << 16 {
        return error;
    }
    let message =
        format!("{error:#}: it belongs to user {uid}, group {gid}, and a build has numbers below 65536");
    Problem::input(message)
        .hint("give its files another owner in the image, or use engine.preload = \"load\"")
        .into()
}

/// A path without `./` and the like; one that climbs is refused, as the engine does.
fn plain(path: &Path) -> Result<PathBuf> {
    if path.components().any(|part| part == Component::ParentDir) {
        bail!("its name leads out of the container");
    }
    Ok(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}
