//! Extracts the files of .debs into a tree, decompressing several at a time.
//!
//! ```text
//! worker 0: package 0, 2, 4 … ─► pieces ─┐
//! worker 1: package 1, 3, 5 … ─► pieces ─┴─► writer: one package after the other, in the order of the list
//! ```
//! What waits between them is a few pieces, whatever a package holds: no package decides how much memory this takes.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use tar::{Entry, EntryType};

use super::packages::DebFile;
use crate::error::Problem;
use crate::packages::bounds::TOO_LARGE_HINT;
use crate::packages::deb;
use crate::tree::{FileKind, Root};

/// A piece of a decompressed archive.
const PIECE: usize = 256 << 10;
/// Pieces of each worker that wait for the writer.
const AHEAD: usize = 16;
/// More workers would not be faster, for one process writes; and each may need a decoder's memory.
const MOST_WORKERS: usize = 4;

/// What a worker hands over: pieces of one archive, then an empty one; or why it cannot be read.
type Piece = Result<Vec<u8>>;

/// Extracts `debs` in order. Ownership, modes, times and hard links are the archive's; links that the tree already
/// has in place of folders (merged /usr) are followed.
///
/// # Errors
/// Names the package that cannot be read or written, or unpacks to more than it announces.
pub(super) fn all(debs: &[(&DebFile, PathBuf)], root: &Root) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    thread::scope(|scope| {
        let queues: Vec<_> = (0..workers)
            .map(|worker| {
                let (sender, receiver) = sync_channel(AHEAD);
                scope.spawn(move || {
                    let mut own = debs.iter().skip(worker).step_by(workers);
                    // An error means that the writer has given up.
                    own.try_for_each(|(_, path)| decompress(path, &sender)).ok()
                });
                receiver
            })
            .collect();
        for (at, (deb, _)) in debs.iter().enumerate() {
            let mut pieces = Pieces { queue: &queues[at % workers], piece: Vec::new(), at: 0, ended: false };
            unpack(&mut pieces, root).and_then(|()| pieces.drain()).map_err(|error| refused(error, deb))?;
        }
        Ok(())
    })
}

/// Whether the package is at fault, or something else.
fn refused(error: anyhow::Error, deb: &DebFile) -> anyhow::Error {
    let too_large = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::FileTooLarge);
    let what = format!("extracting package {} {}", deb.name, deb.version);
    if too_large {
        return Problem::work(format!("{what}: {error:#}")).hint(TOO_LARGE_HINT).into();
    }
    error.context(what)
}

fn decompress(path: &Path, pieces: &SyncSender<Piece>) -> Result<()> {
    let read = || -> Result<()> {
        let mut data = deb::open_data(path)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            data.by_ref().take(PIECE as u64).read_to_end(&mut piece).context("decompressing its files")?;
            let last = piece.is_empty();
            pieces.send(Ok(piece)).map_err(|_| GivenUp)?;
            if last {
                return Ok(());
            }
        }
    };
    match read() {
        Err(error) if !error.is::<GivenUp>() => Ok(pieces.send(Err(error)).map_err(|_| GivenUp)?),
        other => other,
    }
}

/// Nobody waits for more pieces.
#[derive(Debug, thiserror::Error)]
#[error("the writer has given up")]
struct GivenUp;

/// One archive, as its worker hands it over.
struct Pieces<'a> {
    queue: &'a Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Pieces<'_> {
    /// Reads to the end: what follows a tar archive's last file is padding, and an error there is one too.
    fn drain(&mut self) -> Result<()> {
        io::copy(self, &mut io::sink()).map(drop).context("reading its files to the end")
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let piece = self.queue.recv().map_err(|_| io::Error::other("the decompressor has died"))?;
        self.piece = piece.map_err(|error| {
            let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
            io::Error::new(kind.unwrap_or(io::ErrorKind::Other), format!("{error:#}"))
        })?;
        self.at = 0;
        self.ended = self.piece.is_empty();
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.ended {
            self.next_piece()?;
        }
        let rest = &self.piece[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

pub(super) fn unpack(data: impl Read, root: &Root) -> Result<()> {
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = plain(&entry.path()?)?;
        // The root itself, `./`.
        if path.as_os_str().is_empty() {
            continue;
        }
        put(&mut entry, &path, root).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A path without `./` and the like; one that climbs is refused, for dpkg would put it elsewhere.
fn plain(path: &Path) -> Result<PathBuf> {
    if path.components().any(|part| part == Component::ParentDir) {
        bail!("it has a file of the name {}", path.display());
    }
    Ok(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}

fn put(entry: &mut Entry<'_, impl Read>, path: &Path, root: &Root) -> Result<()> {
    let header = entry.header();
    let (mode, device) = (header.mode()? & 0o7777, device(header)?);
    let link = entry.link_name()?.map(|name| name.into_owned());
    let link = || link.clone().ok_or_else(|| anyhow!("the archive does not say where the link leads"));
    match header.entry_type() {
        EntryType::Directory => {
            // merged /usr: the archive's folder `bin/` must not replace the tree's link `bin`.
            let there = root.lstat(path)?.map(|meta| meta.kind);
            if there == Some(FileKind::Link) && root.is_folder(path) {
                return Ok(());
            }
            if let Some(parent) = path.parent() {
                root.make_folders(parent)?;
            }
            root.make_folder(path, mode)?;
        }
        EntryType::Symlink => root.symlink(link()?, path)?,
        EntryType::Link => return root.hard_link(plain(&link()?)?, path),
        EntryType::Fifo => root.make_node(path, FileKind::Fifo, mode, 0)?,
        EntryType::Block => root.make_node(path, FileKind::Block, mode, device)?,
        EntryType::Char => root.make_node(path, FileKind::Char, mode, device)?,
        EntryType::Regular => {
            let mut file = root.create(path, mode)?;
            io::copy(entry, &mut file)?;
        }
        other => bail!("it is a tar entry of type {other:?}"),
    }
    own(entry.header(), path, root)
}

/// Owner, then mode (a change of owner takes set-uid away), then time.
fn own(header: &tar::Header, path: &Path, root: &Root) -> Result<()> {
    let (uid, gid) = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
    root.set_owner(path, uid, gid)?;
    if matches!(header.entry_type(), EntryType::Regular | EntryType::Directory) {
        root.set_mode(path, header.mode()? & 0o7777)?;
    }
    root.set_time(path, i64::try_from(header.mtime()?)?)
}

fn device(header: &tar::Header) -> Result<u64> {
    let number = |part: io::Result<Option<u32>>| Ok::<_, io::Error>(u64::from(part?.unwrap_or_default()));
    match header.entry_type() {
        EntryType::Block | EntryType::Char => {
            Ok(nix::sys::stat::makedev(number(header.device_major())?, number(header.device_minor())?))
        }
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::{DebFile, all, unpack};
    use crate::error::problem;
    use crate::tree::Root;
    use crate::units::Digest;
    use std::fs;
    use std::io::{Read, Write as _};
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::{Path, PathBuf};

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    }

    /// A tar with one entry of each kind; the builder would refuse some names, so these are set by hand.
    fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (kind, path, content) in entries {
            let file = kind.is_file();
            let mode = if kind.is_dir() { 0o750 } else { 0o4755 };
            let mut header = header(*kind, mode, if file { content.len() as u64 } else { 0 });
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            if !file {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, if file { content.as_bytes() } else { &[] }).expect("append");
        }
        tar.into_inner().expect("tar")
    }

    const DIR: tar::EntryType = tar::EntryType::Directory;
    const FILE: tar::EntryType = tar::EntryType::Regular;
    const LINK: tar::EntryType = tar::EntryType::Symlink;
    const HARD: tar::EntryType = tar::EntryType::Link;

    #[test]
    fn files_are_as_the_archive_has_them() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("usr/bin")).expect("folder");
        symlink("usr/bin", at("bin")).expect("link");
        let entries = [
            (DIR, "./", ""),
            (DIR, "./bin/", ""),
            (FILE, "./bin/su", "program"),
            (HARD, "./usr/bin/sudo", "./bin/su"),
            (LINK, "./etc/link", "/bin/su"),
            (DIR, "./opt/", ""),
            (tar::EntryType::Fifo, "./opt/pipe", ""),
        ];
        let root = Root::open(folder.path()).expect("open");
        unpack(archive(&entries).as_slice(), &root).expect("unpack");
        unpack(archive(&entries).as_slice(), &root).expect("over what is there");
        assert!(at("bin").is_symlink());
        let data = at("usr/bin/su").metadata().expect("file");
        assert_eq!((data.mode() & 0o7777, data.nlink(), data.mtime()), (0o4755, 2, 1_700_000_000));
        assert_eq!(data.ino(), at("usr/bin/sudo").metadata().expect("second name").ino());
        assert_eq!(fs::read_link(at("etc/link")).expect("link"), Path::new("/bin/su"));
        assert_eq!(at("opt").metadata().expect("folder").mode() & 0o7777, 0o750);
    }

    /// What an archive can do to get out: links in place of folders that it then writes through, names that climb.
    #[test]
    fn nothing_is_written_outside() {
        let folder = tempfile::tempdir().expect("folder");
        let outside = folder.path().join("outside");
        fs::create_dir_all(folder.path().join("tree")).expect("folder");
        fs::create_dir(&outside).expect("folder");
        fs::write(outside.join("file"), "precious").expect("file");
        let root = Root::open(&folder.path().join("tree")).expect("open");
        let link = outside.to_str().expect("text");
        let through = |name| vec![(LINK, "./way", link), (FILE, name, "evil"), (DIR, "./way/folder/", "")];
        unpack(archive(&through("./way/file")).as_slice(), &root).expect("inside");
        for (entries, expected) in [
            (vec![(FILE, "./../outside/file", "evil")], "a file of the name ./../outside/file"),
            (vec![(HARD, "./taken", "../outside/file")], "a file of the name ../outside/file"),
            (vec![(LINK, "./w", link), (HARD, "./taken", "./w/no")], "there is no"),
        ] {
            let error = unpack(archive(&entries).as_slice(), &root).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        unpack(archive(&[(FILE, outside.join("new").to_str().expect("text"), "x")]).as_slice(), &root)
            .expect("an absolute name is the tree's");
        let names: Vec<_> =
            fs::read_dir(&outside).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(fs::read(outside.join("file")).expect("file"), b"precious");
    }

    fn member(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
        writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, bytes.len())
            .expect("write");
        out.extend(bytes);
        out.resize(out.len() + bytes.len() % 2, b'\n');
    }

    /// A .deb whose one file has `size` zeros.
    fn deb(path: &Path, control: &str, size: u64) {
        let mut data = zstd::Encoder::new(Vec::new(), 1).expect("encoder");
        let mut header = header(FILE, 0o644, size);
        header.set_path("zeros").expect("path");
        header.set_cksum();
        data.write_all(header.as_bytes()).expect("write");
        std::io::copy(&mut std::io::repeat(0).take(size + 1024), &mut data).expect("write");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = super::tests::header(FILE, 0o644, control.len() as u64);
        tar.append_data(&mut header, "control", control.as_bytes()).expect("append");
        let mut out = b"!<arch>\n".to_vec();
        member(&mut out, "debian-binary", b"2.0\n");
        member(&mut out, "control.tar", &tar.into_inner().expect("tar"));
        member(&mut out, "data.tar.zst", &data.finish().expect("finish"));
        fs::write(path, out).expect("write");
    }

    #[test]
    fn a_package_that_unpacks_to_more_than_it_announces_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let root = Root::open(folder.path()).expect("open");
        let control = |more: &str| format!("Package: bomb\nVersion: 1\nArchitecture: all\n{more}");
        let extract = |control: &str, size| {
            let path = folder.path().join("bomb.deb");
            deb(&path, control, size);
            let file = DebFile { name: "bomb".into(), version: "1".into(), sha256: Digest::of("") };
            let list: Vec<(&DebFile, PathBuf)> = vec![(&file, path)];
            all(&list, &root)
        };
        extract(&control("Installed-Size: 10\n"), 10 << 10).expect("honest");
        assert_eq!(fs::metadata(folder.path().join("zeros")).expect("file").len(), 10 << 10);
        let error = extract(&control("Installed-Size: 10\n"), 40 << 20).expect_err("a bomb");
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.starts_with("extracting package bomb 1: "), "{problem}");
        assert!(problem.message.contains("more than 32 MiB, which it does not announce"), "{problem}");
        assert!(problem.hint.as_ref().expect("hint").contains("Installed-Size"));
    }
}
