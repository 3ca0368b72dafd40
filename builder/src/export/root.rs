//! The root file system's files as a tar, compressed with Zstandard in frames.
//!
//! Names ascend, owners are the image's, times are those of the image, hard links, devices, capabilities and user
//! attributes are kept: the same tree gives the same bytes. It is what a container's base, a chroot or a network boot is
//! made of; the FAT partition is not in it.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::pass::{CHUNK, Chunk};
use super::{joined, threads, zst};
use crate::rootfs::layer::Stack;
use crate::units::Digest;

/// Writes the tar; runs in a sandbox, where the tree's owners are those of the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootJob {
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
pub struct Packed {
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Bytes of the tar in it.
    pub raw_size: u64,
    /// SHA-256 of the tar in it.
    pub raw_sha256: Digest,
}

impl RootJob {
    /// Writes the file.
    ///
    /// # Errors
    /// What cannot be read of the tree, or written.
    pub fn make(&self) -> Result<Packed> {
        let stack = Stack::read_only(&self.lowers, &self.scratch)?;
        pack(stack.root(), &self.out, self.epoch)
    }
}

fn pack(root: &Path, out: &Path, epoch: u64) -> Result<Packed> {
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

fn write(root: &Path, cutter: Cutter, epoch: u64) -> Result<(u64, Digest)> {
    let mut tree = Tree { root, tar: Builder::new(cutter), epoch, seen: HashMap::new() };
    tree.folder(Path::new(""))?;
    let mut cutter = tree.tar.into_inner().context("finishing the tar")?;
    cutter.flush().context("finishing the tar")?;
    Ok((cutter.size, Digest::from_hasher(cutter.hasher)))
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

struct Tree<'a> {
    root: &'a Path,
    tar: Builder<Cutter>,
    epoch: u64,
    /// First name of each file that has several.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl Tree<'_> {
    /// Adds what is in a folder, by its path from the root.
    fn folder(&mut self, folder: &Path) -> Result<()> {
        let full = self.root.join(folder);
        let context = || format!("reading folder {}", full.display());
        let entries = fs::read_dir(&full).with_context(context)?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<_>>>()
            .with_context(context)?;
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            let path = folder.join(name);
            let full = self.root.join(&path);
            let data = full.symlink_metadata().with_context(|| format!("looking at {}", full.display()))?;
            self.entry(&path, &full, &data).with_context(|| format!("adding {}", path.display()))?;
            if data.is_dir() {
                self.folder(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, full: &Path, data: &Metadata) -> Result<()> {
        let kind = data.file_type();
        // A socket is nothing without its server.
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = self.header(data);
        if !kind.is_dir() && data.nlink() > 1 {
            if let Some(first) = self.seen.get(&(data.dev(), data.ino())) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.tar.append_link(&mut header, path, first)?);
            }
            self.seen.insert((data.dev(), data.ino()), path.to_owned());
        }
        let attributes = attributes(full)?;
        if !attributes.is_empty() {
            self.tar.append_pax_extensions(
                attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
            )?;
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return Ok(self.tar.append_link(&mut header, path, fs::read_link(full)?)?);
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(data.len());
            return Ok(self.tar.append_data(&mut header, path, File::open(full)?)?);
        }
        let mut name = path.as_os_str().to_owned();
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            name.push("/");
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else {
            header.set_entry_type(if kind.is_block_device() { EntryType::Block } else { EntryType::Char });
            header.set_device_major(u32::try_from(nix::sys::stat::major(data.rdev()))?)?;
            header.set_device_minor(u32::try_from(nix::sys::stat::minor(data.rdev()))?)?;
        }
        Ok(self.tar.append_data(&mut header, Path::new(&name), io::empty())?)
    }

    fn header(&self, data: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(data.mode() & 0o7777);
        header.set_uid(data.uid().into());
        header.set_gid(data.gid().into());
        header.set_mtime(u64::try_from(data.mtime()).unwrap_or(0).min(self.epoch));
        header.set_size(0);
        header
    }
}

/// Extended attributes that belong to the image, under the names that GNU tar and bsdtar know. Others are the build's
/// (overlayfs) or the host's.
fn attributes(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in xattr::list(path)? {
        let Some(name) = name.to_str().filter(|name| {
            *name == "security.capability"
                || (name.starts_with("user.") && !name.starts_with("user.overlay."))
        }) else {
            continue;
        };
        if let Some(value) = xattr::get(path, name)? {
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::pack;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const EPOCH: u64 = 1_700_000_000;

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
            let packed = pack(&tree, &out, EPOCH).expect("pack");
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
