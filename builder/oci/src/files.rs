//! Files by name, of a folder or of a tar archive: what layouts and archives of images are made of.
//!
//! ```text
//! folder     oci-layout  index.json  blobs/sha256/…          opened inside the folder: no link leads out of it
//! archive    header, content, padding; header, …             read once from header to header; then content by its place
//!            a symbolic or hard link ─► another name of the archive; what leads out of it is refused
//! ```
//! The order of an archive's members does not count. Nothing of a content is in memory but what is asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use tar::EntryType;

use crate::error::Problem;
use crate::tree::Root;

/// Most members of an archive: an image has three a layer, and an archive many images.
const MAX_MEMBERS: usize = 100_000;
/// Most bytes of a name. Those of images have less than a hundred.
const MAX_NAME: u64 = 4096;
/// Most bytes of what precedes a member in the newer form of archives (pax).
const MAX_EXTENSIONS: u64 = 64 << 10;
/// Links that lead to links.
const MAX_LINKS: usize = 8;
/// How packed archives begin, and what unpacks them.
const PACKED: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gunzip --keep"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "unxz --keep"),
    (b"BZh", "bunzip2 --keep"),
];

/// Files by name.
#[derive(Debug)]
pub struct Files {
    /// What messages call it.
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder(Root),
    Archive(File, BTreeMap<String, Member>),
}

/// What an archive has under a name.
#[derive(Debug, PartialEq, Eq)]
enum Member {
    /// Bytes of the archive.
    Content { at: u64, size: u64 },
    /// The same as another name.
    Link(String),
}

impl Files {
    /// Those of a folder, or of a tar archive.
    ///
    /// # Errors
    /// When it cannot be read, is packed, cut short, or names what is not in it.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let kind = if path.is_dir() {
            Kind::Folder(Root::open(path).with_context(|| format!("opening {name}"))?)
        } else {
            let file = File::open(path).with_context(|| format!("opening {name}"))?;
            let members = members(&file, &name)?;
            Kind::Archive(file, members)
        };
        Ok(Self { name, kind })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file of this name and its size in bytes; nothing where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is a link that leads out or nowhere.
    pub fn file(&self, name: &str) -> Result<Option<(Piece, u64)>> {
        let name = inner(name).ok_or_else(|| self.leads_out(name))?;
        match &self.kind {
            Kind::Folder(root) => {
                let file =
                    root.open_file(&name).with_context(|| format!("opening {name} of {}", self.name))?;
                let Some(file) = file else { return Ok(None) };
                let size =
                    file.metadata().with_context(|| format!("looking at {name} of {}", self.name))?.len();
                Ok(Some((Piece { file, at: 0, left: size }, size)))
            }
            Kind::Archive(file, members) => {
                let Some((at, size)) = self.content(members, name)? else { return Ok(None) };
                let file = file.try_clone().with_context(|| format!("opening {} again", self.name))?;
                Ok(Some((Piece { file, at, left: size }, size)))
            }
        }
    }

    /// The whole of a small file; nothing where there is none.
    ///
    /// # Errors
    /// As [`Files::file`]; when it has more than `most` bytes.
    pub fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some((mut piece, size)) = self.file(name)? else { return Ok(None) };
        if size > most {
            let message = format!("{name} of {} has {size} bytes, and {most} is the most", self.name);
            return Err(Problem::input(message).hint("is it an archive or layout of an image?").into());
        }
        let mut bytes = Vec::new();
        piece.read_to_end(&mut bytes).with_context(|| format!("reading {name} of {}", self.name))?;
        Ok(Some(bytes))
    }

    fn content(&self, members: &BTreeMap<String, Member>, mut name: String) -> Result<Option<(u64, u64)>> {
        for _ in 0..MAX_LINKS {
            match members.get(&name) {
                None => return Ok(None),
                Some(Member::Content { at, size }) => return Ok(Some((*at, *size))),
                Some(Member::Link(to)) => name.clone_from(to),
            }
        }
        Err(broken(&self.name, &format!("`{}` is a link that leads nowhere", name.escape_debug())).into())
    }

    fn leads_out(&self, name: &str) -> Problem {
        let name: String = name.chars().take(100).collect();
        broken(&self.name, &format!("it names `{}`, which is not in it", name.escape_debug()))
    }
}

/// The content of one file, read from its place.
#[derive(Debug)]
pub struct Piece {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it was"));
        }
        (self.at, self.left) = (self.at + count as u64, self.left - count as u64);
        Ok(count)
    }
}

fn broken(name: &str, why: &str) -> Problem {
    Problem::input(format!("{name} cannot be used: {why}"))
        .hint("make it anew, for example with docker save or skopeo copy, and copy it whole")
}

/// A name inside: without `.`, and nothing for what is absolute or goes up.
fn inner(name: &str) -> Option<String> {
    let parts = name.split('/').filter(|part| *part != "." && !part.is_empty());
    let plain: Vec<&str> = parts.collect();
    let inside = !name.starts_with('/') && !plain.contains(&"..") && !plain.is_empty();
    inside.then(|| plain.join("/"))
}

/// Where a link leads that stands at `name`; nothing where it leads out.
fn linked(name: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/').filter(|part| *part != "." && !part.is_empty()) {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// All members of an archive that count, by name.
fn members(mut file: &File, name: &str) -> Result<BTreeMap<String, Member>> {
    let length = file.metadata().with_context(|| format!("looking at {name}"))?.len();
    unpacked(file, name)?;
    file.seek(SeekFrom::Start(0)).with_context(|| format!("reading {name}"))?;
    let mut archive = tar::Archive::new(file);
    let mut found = Members { name, length, members: BTreeMap::new() };
    let entries = archive.entries_with_seek().with_context(|| format!("reading {name}"))?;
    // Long names are read here: the crate takes as much memory for one as its header says.
    let mut before = Before::default();
    for entry in entries.raw(true) {
        let entry =
            entry.map_err(|error| broken(name, &format!("it is no tar archive, or damaged: {error}")))?;
        found.add(entry, &mut before)?;
    }
    if found.members.is_empty() {
        return Err(broken(name, "it has no files").into());
    }
    Ok(found.members)
}

fn unpacked(file: &File, name: &str) -> Result<()> {
    let mut start = [0; 8];
    let count = file.read_at(&mut start, 0).with_context(|| format!("reading {name}"))?;
    match PACKED.iter().find(|(magic, _)| start[..count].starts_with(magic)) {
        None => Ok(()),
        Some((_, program)) => Err(Problem::input(format!("{name} is packed, and is read where it lies"))
            .hint(format!("unpack it first: {program} {name}"))
            .into()),
    }
}

/// What stands before a member and is about it.
#[derive(Default)]
struct Before {
    name: Option<String>,
    link: Option<String>,
}

struct Members<'a> {
    name: &'a str,
    length: u64,
    members: BTreeMap<String, Member>,
}

impl Members<'_> {
    fn add(&mut self, mut entry: tar::Entry<'_, &File>, before: &mut Before) -> Result<()> {
        let broken = |why: &str| broken(self.name, why);
        let (at, size, kind) = (entry.raw_file_position(), entry.size(), entry.header().entry_type());
        if at.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(broken("it is cut short").into());
        }
        match kind {
            EntryType::GNULongName => {
                before.name = Some(text(&mut entry, MAX_NAME).map_err(|why| broken(&why))?);
            }
            EntryType::GNULongLink => {
                before.link = Some(text(&mut entry, MAX_NAME).map_err(|why| broken(&why))?);
            }
            EntryType::XHeader => extensions(&mut entry, before).map_err(|why| broken(&why))?,
            EntryType::GNUSparse => return Err(broken("a file in it has holes").into()),
            kind => {
                let before = std::mem::take(before);
                let link = entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let name =
                    before.name.unwrap_or_else(|| String::from_utf8_lossy(&entry.path_bytes()).into_owned());
                let link = before.link.or(link).unwrap_or_default();
                self.keep(&name, kind, &link, Member::Content { at, size })?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, name: &str, kind: EntryType, link: &str, content: Member) -> Result<()> {
        let shown: String = name.chars().take(100).collect();
        let broken = |what: &str| broken(self.name, &format!("`{}` {what}", shown.escape_debug()));
        let is_link = kind.is_symlink() || kind.is_hard_link();
        if !(is_link || kind.is_file() || kind.is_contiguous()) {
            return Ok(());
        }
        let inside = inner(name).ok_or_else(|| broken("is outside of it"))?;
        let member = match kind {
            _ if !is_link => content,
            // A hard link's target is a name of the archive.
            EntryType::Link => Member::Link(inner(link).ok_or_else(|| broken("is a link that leads out"))?),
            _ => Member::Link(linked(&inside, link).ok_or_else(|| broken("is a link that leads out"))?),
        };
        if self.members.len() >= MAX_MEMBERS {
            return Err(broken("is one member too many").into());
        }
        // Which of two is meant would depend on who reads.
        match self.members.insert(inside, member) {
            None => Ok(()),
            Some(_) => Err(broken("is in it twice").into()),
        }
    }
}

fn text(entry: &mut impl Read, most: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    entry.take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > most {
        return Err("a name in it is too long".to_owned());
    }
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Reads what a pax header says about the member behind it.
fn extensions(entry: &mut tar::Entry<'_, &File>, before: &mut Before) -> Result<(), String> {
    let size = entry.size();
    if size > MAX_EXTENSIONS {
        return Err(format!("what precedes a member has {size} bytes"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    for extension in tar::PaxExtensions::new(&bytes) {
        let extension = extension.map_err(|error| error.to_string())?;
        let value = String::from_utf8_lossy(extension.value_bytes()).into_owned();
        match extension.key_bytes() {
            b"path" => before.name = Some(value),
            b"linkpath" => before.link = Some(value),
            // Only of 8 GiB and more; the place of the next header would hang on it.
            b"size" => return Err("a member in it has more than 8 GiB".to_owned()),
            key if key.starts_with(b"GNU.sparse.") => return Err("a file in it has holes".to_owned()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
