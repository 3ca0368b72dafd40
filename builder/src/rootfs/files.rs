//! Everything in the image that is no package: overlay files, the account, links, preloaded container images.
//!
//! ```text
//! overlays, but the account's home ─► /etc/localtime ─► useradd (/etc/skel is whole by now) ─► overlays in the home,
//! which are the account's ─► authorized_keys ─► are the scripts' interpreters there? ─► images
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{images, login, scripts, zone};
use crate::chroot::Chroot;
use crate::error::Problem;
use crate::recipe::types::Preload;
use crate::tree::entry::{EntryKind, TreeEntry};
use crate::tree::{self, Root};
use crate::units::{Digest, Sha256};

/// What goes into the last layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Files {
    /// Overlays, then what board and build add.
    pub entries: Vec<TreeEntry>,
    /// The account that may log in.
    pub user: String,
    /// Its authorized_keys; empty: none.
    pub authorized_keys: String,
    /// Time zone, a name in /usr/share/zoneinfo.
    pub timezone: String,
    /// Where the recipe states values that the tree may refuse.
    pub places: Places,
    /// Container images to preload.
    pub images: Vec<images::Image>,
    /// How they come to the device.
    pub preload: Preload,
}

/// Places in the recipe, as in `demo.toml:12:8`, for messages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Of `access.user`.
    pub user: String,
    /// Of `system.timezone`.
    pub timezone: String,
}

impl Files {
    /// Lays everything over the tree; `blobs` are the store's, `scratch` is a folder for work that is thrown away.
    ///
    /// # Errors
    /// The file or account that could not be made.
    pub(crate) fn lay(&self, chroot: &Chroot<'_>, blobs: &Path, scratch: &Path) -> Result<()> {
        let root = chroot.root;
        let home = PathBuf::from(format!("/home/{}", self.user));
        let (at_home, others) = self.split(root, &home)?;
        write_entries(root, &others, blobs)?;
        zone::link(root, &self.timezone, &self.places.timezone)?;
        let account = login::make(chroot, (&self.user, &home), &self.places.user)?;
        write_entries(root, &at_home, blobs)?;
        account.own(root, at_home.iter().map(|entry| entry.path.as_path()))?;
        account.keys(root, &self.authorized_keys)?;
        scripts::check(root, &self.entries, chroot.sink)?;
        for (at, image) in self.images.iter().enumerate() {
            match self.preload {
                Preload::Store => image.store(root, scratch, chroot.epoch)?,
                Preload::Load => image.preload(root, at, chroot.epoch)?,
            }
        }
        Ok(())
    }

    /// What lies in the account's home, and what does not, by the names that the tree resolves.
    fn split(&self, root: &Root, home: &Path) -> Result<(Vec<TreeEntry>, Vec<TreeEntry>)> {
        let home = root.canonical(home)?;
        let mut split = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let inside = place(root, &entry.path)?.starts_with(&home);
            if inside { &mut split.0 } else { &mut split.1 }.push(entry.clone());
        }
        Ok(split)
    }
}

/// `path` with the links in its folders followed; the last name stands for itself.
fn place(root: &Root, path: &Path) -> Result<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path.to_owned()) };
    Ok(root.canonical(folder)?.join(name))
}

/// Writes entries in order; folders that are missing are made 0755, those that are there stay as they are. `blobs` are
/// the store's.
///
/// # Errors
/// The entry that could not be written, and the overlay's file that it is.
pub(crate) fn write_entries(root: &Root, entries: &[TreeEntry], blobs: &Path) -> Result<()> {
    let mut written: BTreeMap<PathBuf, &TreeEntry> = BTreeMap::new();
    for entry in entries {
        // A link that only the packages bring may make two names one: a later overlay decides, one alone cannot.
        let at = place(root, &entry.path)?;
        if let Some(other) = written.insert(at.clone(), entry)
            && let (Some(one), Some(two)) = (&other.origin, &entry.origin)
            && one.overlay == two.overlay
            && !(is_folder(other) && is_folder(entry))
        {
            let (one, two) = (one.file.display(), two.file.display());
            let message = format!("{one} and {two} have one name in the image, {}", at.display());
            return Err(Problem::input(message).hint("keep one of them").into());
        }
        fits(root, entry)?;
        write(root, entry, blobs).with_context(|| format!("laying {}", named(entry)))?;
    }
    Ok(())
}

fn is_folder(entry: &TreeEntry) -> bool {
    matches!(entry.kind, EntryKind::Directory | EntryKind::StatedDirectory)
}

fn noun(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory | EntryKind::StatedDirectory => "folder",
        EntryKind::File(_) | EntryKind::Blob(_) => "file",
        EntryKind::Symlink(_) => "symlink",
    }
}

/// The overlay's file, or the path of what edgepress makes itself.
fn named(entry: &TreeEntry) -> String {
    entry.origin.as_ref().map_or(&entry.path, |origin| &origin.file).display().to_string()
}

/// Refuses what cannot be laid because the image has something else of its name, or in place of its folders.
fn fits(root: &Root, entry: &TreeEntry) -> Result<()> {
    let refuse = |at: &Path, there: &str| {
        let what = noun(&entry.kind);
        Problem::input(format!(
            "{} cannot be laid: it is a {what}, and {} is {there} in the image",
            named(entry),
            at.display()
        ))
        .hint("give it another name in the overlay, or leave out the package that brings what is there")
    };
    for folder in entry.path.ancestors().skip(1) {
        match root.stat(folder)?.map(|meta| meta.kind) {
            None | Some(tree::FileKind::Folder) => {}
            Some(kind) => return Err(refuse(folder, kind.name()).into()),
        }
    }
    let there = if is_folder(entry) { root.stat(&entry.path)? } else { root.lstat(&entry.path)? };
    match there.map(|meta| meta.kind) {
        Some(tree::FileKind::Folder) if !is_folder(entry) => {
            Err(refuse(&entry.path, tree::FileKind::Folder.name()).into())
        }
        Some(kind) if is_folder(entry) && kind != tree::FileKind::Folder => {
            Err(refuse(&entry.path, kind.name()).into())
        }
        _ => Ok(()),
    }
}

fn write(root: &Root, entry: &TreeEntry, blobs: &Path) -> Result<()> {
    match &entry.kind {
        EntryKind::Directory => root.make_folders(&entry.path),
        EntryKind::StatedDirectory => {
            root.make_folders(&entry.path)?;
            root.set_mode(&entry.path, entry.mode)
        }
        EntryKind::File(content) => root.write(&entry.path, entry.mode, content),
        EntryKind::Blob(digest) => {
            let hex = digest.to_string();
            copy(&blobs.join(&hex[..2]).join(&hex), *digest, root.create(&entry.path, entry.mode)?)
        }
        EntryKind::Symlink(target) => root.symlink(target, &entry.path),
    }
}

/// Copies a blob piece by piece: memory stays flat whatever its size.
fn copy(blob: &Path, digest: Digest, mut to: File) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let mut from = File::open(blob).with_context(|| format!("opening {}", blob.display()))?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {}", blob.display())),
        };
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read]).context("writing it")?;
    }
    ensure!(
        hasher.finish() == digest,
        Problem::work(format!("the store is damaged: {} does not hold what its name says", blob.display()))
            .hint("remove that file, and build again: its content comes from an overlay")
    );
    Ok(())
}

#[cfg(test)]
mod tests;
