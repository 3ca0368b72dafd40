//! The root file system's files as a tar, compressed with Zstandard in frames.
//!
//! Names ascend, owners are the image's, times are those of the image, hard links, devices, capabilities and user
//! attributes are kept: the same tree gives the same bytes. It is what a container's base, a chroot or a network boot is
//! made of; the FAT partition is not in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use super::pass::{CHUNK, Chunk};
use super::{joined, threads, zst};
use crate::disk::marker::{self, Node, What};
use crate::event::Sink;
use crate::rootfs::layer::Stack;
use crate::sandbox::Job;
use crate::tree::{FileKind, Meta, Root};
use crate::units::{Digest, Sha256};

/// Writes the tar; runs in a sandbox, where the tree's owners are those of the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootJob {
    /// Trees of the layers, bottom first.
    pub lowers: Vec<PathBuf>,
    /// Folder to stack them at.
    pub scratch: PathBuf,
    /// The file to write.
    pub out: PathBuf,
    /// Latest time stamp, seconds since 1970.
    pub epoch: u64,
}

/// A tar that was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Bytes of the tar in it.
    pub raw_size: u64,
    /// SHA-256 of the tar in it.
    pub raw_sha256: Digest,
}

impl Job for RootJob {
    const NAME: &'static str = "root";
    type Answer = Packed;

    fn doing(&self) -> String {
        "packing the root tree".into()
    }

    fn execute(&self, _: &dyn Sink) -> Result<Packed> {
        self.make()
    }
}

impl RootJob {
    /// Writes the file.
    ///
    /// # Errors
    /// What cannot be read of the tree, or written.
    pub(crate) fn make(&self) -> Result<Packed> {
        let stack = Stack::read_only(&self.lowers, &self.scratch)?;
        pack(&stack.tree()?, &self.out, self.epoch)
    }
}

pub(crate) fn pack(root: &Root, out: &Path, epoch: u64) -> Result<Packed> {
    let (sender, chunks) = sync_channel(2);
    thread::scope(|scope| {
        let file = scope.spawn(|| zst::write(chunks, out, threads()));
        let cutter =
            Cutter { chunks: sender, buffer: Vec::with_capacity(CHUNK), hasher: Sha256::new(), size: 0 };
        let tar = write(root, cutter, epoch);
        // When the file cannot be written, the tar cannot either: the first has the reason.
        let file = joined(file)?;
        let (raw_size, raw_sha256) = tar?;
        Ok(Packed { size: file.size, sha256: file.sha256, raw_size, raw_sha256 })
    })
}

fn write(root: &Root, cutter: Cutter, epoch: u64) -> Result<(u64, Digest)> {
    let found = marker::find(root)?;
    let latest = u64::try_from(found.newest).unwrap_or_default().max(epoch);
    let opaque = found.markers.iter().filter(|one| one.what == What::Opaque);
    let opaque = opaque.filter_map(|one| one.path.parent().map(Path::to_owned)).collect();
    let markers = found.markers.into_iter().map(|one| (one.path, one.what)).collect();
    let mut tree = Tree { root, tar: Builder::new(cutter), latest, seen: HashMap::new(), markers, opaque };
    tree.all()?;
    let mut cutter = tree.tar.into_inner().context("finishing the tar")?;
    cutter.flush().context("finishing the tar")?;
    Ok((cutter.size, cutter.hasher.finish()))
}

/// Cuts what is written into chunks.
struct Cutter {
    chunks: SyncSender<Chunk>,
    buffer: Vec<u8>,
    hasher: Sha256,
    size: u64,
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend(&bytes[..count]);
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.chunks.send(Chunk::new(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A whiteout of overlayfs.
const WHITEOUT: Node = Node { block: false, major: 0, minor: 0, mode: 0, uid: 0, gid: 0, mtime: 0 };

struct Tree<'a> {
    root: &'a Root,
    tar: Builder<Cutter>,
    /// Seconds since 1970; no file is later.
    latest: u64,
    /// First name of each file that has several.
    seen: HashMap<(u64, u64), PathBuf>,
    /// What stands for whiteouts and device nodes.
    markers: BTreeMap<PathBuf, What>,
    /// Folders that hide what is below them.
    opaque: BTreeSet<PathBuf>,
}

impl Tree<'_> {
    /// Adds everything, folders before what is in them.
    fn all(&mut self) -> Result<()> {
        let root = self.root;
        root.walk("", &mut |path, meta| {
            self.entry(path, meta).with_context(|| format!("adding {}", path.display()))
        })
    }

    fn entry(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        // A socket is nothing without its server.
        if meta.kind == FileKind::Socket {
            return Ok(());
        }
        if let Some(what) = self.markers.get(path).cloned() {
            return self.marked(path, meta, &what);
        }
        let mut header = self.header(meta);
        if meta.kind != FileKind::Folder && meta.links > 1 {
            if let Some(first) = self.seen.get(&meta.id) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.tar.append_link(&mut header, path, first)?);
            }
            self.seen.insert(meta.id, path.to_owned());
        }
        let attributes = self.attributes(path)?;
        if !attributes.is_empty() {
            self.tar.append_pax_extensions(
                attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
            )?;
        }
        self.content(path, meta, header)
    }

    /// What a marker stands for.
    fn marked(&mut self, path: &Path, meta: &Meta, what: &What) -> Result<()> {
        let (name, node) = match what {
            What::Opaque => return Ok(()),
            What::Whiteout(name) => {
                (name, Node { mtime: u64::try_from(meta.mtime).unwrap_or(0), ..WHITEOUT })
            }
            What::Node(name, node) => (name, *node),
        };
        let mut header = self.header(meta);
        header.set_entry_type(if node.block { EntryType::Block } else { EntryType::Char });
        header.set_device_major(node.major)?;
        header.set_device_minor(node.minor)?;
        header.set_mode(node.mode);
        header.set_uid(node.uid.into());
        header.set_gid(node.gid.into());
        header.set_mtime(node.mtime.min(self.latest));
        Ok(self.tar.append_data(&mut header, path.with_file_name(name), io::empty())?)
    }

    fn content(&mut self, path: &Path, meta: &Meta, mut header: Header) -> Result<()> {
        let mut name = path.as_os_str().to_owned();
        match meta.kind {
            FileKind::Link => {
                header.set_entry_type(EntryType::Symlink);
                let target = self.root.read_link(path)?.context("reading the link: it is gone")?;
                return Ok(self.tar.append_link(&mut header, path, target)?);
            }
            FileKind::File => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(meta.size);
                let file = self.root.open_file_nofollow(path)?.context("opening it: it is gone")?;
                return Ok(self.tar.append_data(&mut header, path, file)?);
            }
            FileKind::Folder => {
                header.set_entry_type(EntryType::Directory);
                name.push("/");
            }
            FileKind::Fifo | FileKind::Socket => header.set_entry_type(EntryType::Fifo),
            FileKind::Block | FileKind::Char => {
                let block = meta.kind == FileKind::Block;
                header.set_entry_type(if block { EntryType::Block } else { EntryType::Char });
                header.set_device_major(u32::try_from(nix::sys::stat::major(meta.device))?)?;
                header.set_device_minor(u32::try_from(nix::sys::stat::minor(meta.device))?)?;
            }
        }
        Ok(self.tar.append_data(&mut header, Path::new(&name), io::empty())?)
    }

    fn header(&self, meta: &Meta) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode);
        header.set_uid(meta.uid.into());
        header.set_gid(meta.gid.into());
        header.set_mtime(u64::try_from(meta.mtime).unwrap_or(0).min(self.latest));
        header.set_size(0);
        header
    }

    /// Extended attributes that belong to the image, under the names that GNU tar and bsdtar know. Others are the
    /// build's (overlayfs) or the host's.
    fn attributes(&self, path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
        let own = |name: &str| {
            name == "security.capability" || (name.starts_with("user.") && !name.starts_with("user.overlay."))
        };
        let all = self.root.attributes(path)?.into_iter();
        let named = all.filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value)));
        let hides = self.opaque.contains(path).then(|| ("trusted.overlay.opaque".to_owned(), b"y".to_vec()));
        let named = named.filter(|(name, _)| own(name)).chain(hides);
        Ok(named.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::pack;
    use crate::tree::Root;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const EPOCH: u64 = 1_700_000_000;

    #[test]
    fn whiteouts_and_devices_are_in_it_as_the_device_has_them() {
        let folder = tempfile::tempdir().expect("folder");
        let diff = folder.path().join("tree/var/lib/docker/overlay2/0123/diff");
        fs::create_dir_all(diff.join("srv")).expect("folder");
        for (name, content) in
            [("srv/.wh..wh..opq", ""), (".wh.gone", ""), (".wh..wh.node.null", "c 1 3 666 0 7 9")]
        {
            fs::write(diff.join(name), content).expect("file");
        }
        let out = folder.path().join("root.tar.zst");
        fs::File::create(&out).expect("claimed");
        pack(&Root::open(&folder.path().join("tree")).expect("open"), &out, EPOCH).expect("pack");
        let raw = zstd::decode_all(fs::File::open(&out).expect("open")).expect("unpack");
        let mut archive = tar::Archive::new(raw.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().expect("tar") {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            let Some(name) = name.strip_prefix("var/lib/docker/overlay2/0123/diff/") else { continue };
            let attributes = entry.pax_extensions().expect("headers").into_iter().flatten();
            let attributes: Vec<String> =
                attributes.map(|one| one.expect("header").key().expect("name").to_owned()).collect();
            let header = entry.header();
            let device = header
                .entry_type()
                .is_character_special()
                .then(|| (header.device_major().expect("major"), header.device_minor().expect("minor")));
            seen.push((name.to_owned(), device, attributes.concat()));
        }
        seen.sort();
        let entry = |name: &str, device, attributes: &str| (name.to_owned(), device, attributes.to_owned());
        let pairs = |device: (u32, u32)| Some((Some(device.0), Some(device.1)));
        let opaque = "SCHILY.xattr.trusted.overlay.opaque";
        let expected = [
            entry("", None, ""),
            entry("gone", pairs((0, 0)), ""),
            entry("null", pairs((1, 3)), ""),
            entry("srv/", None, opaque),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_tree_is_packed_the_same_way_each_time() {
        let folder = tempfile::tempdir().expect("folder");
        let mut files = Vec::new();
        for (name, backwards) in [("one", false), ("two", true)] {
            let tree = folder.path().join(name);
            fs::create_dir_all(tree.join("etc/empty")).expect("folder");
            let mut names: Vec<u32> = (0..30).collect();
            if backwards {
                names.reverse();
            }
            for number in names {
                fs::write(tree.join(format!("etc/{number}")), vec![7; 300_000]).expect("write");
            }
            fs::write(tree.join("su"), "x").expect("write");
            fs::set_permissions(tree.join("su"), fs::Permissions::from_mode(0o4755)).expect("mode");
            fs::hard_link(tree.join("su"), tree.join("sudo")).expect("link");
            symlink("etc/1", tree.join("link")).expect("link");
            let long = "long/".repeat(60) + "name";
            fs::create_dir_all(tree.join(&long)).expect("folders");
            let out = folder.path().join(format!("{name}.tar.zst"));
            fs::File::create(&out).expect("claimed");
            let packed = pack(&Root::open(&tree).expect("open"), &out, EPOCH).expect("pack");
            let raw = zstd::decode_all(fs::File::open(&out).expect("open")).expect("unpack");
            assert_eq!(
                (packed.raw_size, packed.raw_sha256),
                (raw.len() as u64, crate::units::Digest::of(&raw))
            );
            assert_eq!(packed.sha256, crate::units::Digest::of(fs::read(&out).expect("read")));
            files.push(raw);
        }
        assert!(files[0] == files[1], "two tars of one tree differ");
        let mut archive = tar::Archive::new(files[0].as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().expect("tar") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").display().to_string();
            let header = entry.header();
            assert!(header.mtime().expect("time") <= EPOCH);
            let facts = (header.entry_type(), header.mode().expect("mode"));
            match path.as_str() {
                "su" => assert_eq!(facts, (tar::EntryType::Regular, 0o4755)),
                "sudo" => assert_eq!(entry.link_name().expect("link").expect("name").to_str(), Some("su")),
                "link" => assert_eq!(facts.0, tar::EntryType::Symlink),
                "etc/29" => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).expect("content");
                    assert!(content == vec![7; 300_000]);
                }
                _ => {}
            }
            seen.push(path);
        }
        assert!(
            seen.iter().any(|path| path.ends_with("long/name/")) && seen.contains(&"etc/empty/".to_owned())
        );
        assert_eq!(seen.len(), 1 + 1 + 30 + 3 + 61, "{seen:?}");
    }
}
