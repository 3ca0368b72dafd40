//! The files of two roots.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::Change;
use crate::image::root::{CHUNK, Root, Stat};
use crate::rootfs::guard::PathKind;
use crate::rootfs::guard_rules::ENGINE_STORE;

/// Folders nested deeper are damage.
const DEEPEST: usize = 128;

/// Files that differ, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Files {
    /// Only in the second image.
    pub added: Vec<String>,
    /// Only in the first.
    pub removed: Vec<String>,
    /// In both, and not the same.
    pub changed: Vec<Changed>,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Changed {
    /// Its path.
    pub path: String,
    /// What of it.
    pub changes: Vec<Change>,
}

impl Files {
    /// Does nothing differ?
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    pub(super) fn push(&mut self, path: String, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.changed.push(Changed { path, changes });
        }
    }
}

/// Notes two values that are not the same.
pub(super) fn differ<T: PartialEq + ToString>(changes: &mut Vec<Change>, what: &str, a: &T, b: &T) {
    if a != b {
        changes.push(Change { what: what.into(), a: Some(a.to_string()), b: Some(b.to_string()) });
    }
}

/// Walks both roots at once. The engine's store is left out: it holds whole systems, and the images in it are compared by
/// their ids.
///
/// # Errors
/// When one of them cannot be read.
pub(super) fn compare(a: &Root, b: &Root) -> Result<Files> {
    let mut files = Files::default();
    let mut folders = vec![PathBuf::from("/")];
    while let Some(folder) = folders.pop() {
        ensure!(folder.components().count() <= DEEPEST, "{} is nested too deep", folder.display());
        let names = |root: &Root| -> Result<BTreeMap<OsString, PathKind>> {
            let stored = |name: &OsString| {
                ENGINE_STORE.iter().any(|store| folder.join(name) == Path::new("/").join(store))
            };
            Ok(root.list(&folder)?.into_iter().filter(|(name, _)| !stored(name)).collect())
        };
        let (in_a, in_b) = (names(a)?, names(b)?);
        for (name, kind) in &in_a {
            let path = folder.join(name);
            match in_b.get(name) {
                None => all(a, &path, *kind, &mut files.removed)?,
                Some(other) if other == kind => {
                    files.push(path.display().to_string(), changes(a, b, &path)?);
                    if *kind == PathKind::Folder {
                        folders.push(path);
                    }
                }
                Some(_) => files.push(path.display().to_string(), changes(a, b, &path)?),
            }
        }
        for (name, kind) in in_b.iter().filter(|(name, _)| !in_a.contains_key(*name)) {
            all(b, &folder.join(name), *kind, &mut files.added)?;
        }
    }
    files.added.sort();
    files.removed.sort();
    files.changed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// A path and everything below it.
fn all(root: &Root, path: &Path, kind: PathKind, list: &mut Vec<String>) -> Result<()> {
    ensure!(path.components().count() <= DEEPEST, "{} is nested too deep", path.display());
    list.push(path.display().to_string());
    if kind == PathKind::Folder {
        for (name, kind) in root.list(path)? {
            all(root, &path.join(name), kind, list)?;
        }
    }
    Ok(())
}

fn changes(a: &Root, b: &Root, path: &Path) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let (Some(one), Some(other)) = (a.lstat(path)?, b.lstat(path)?) else { return Ok(changes) };
    differ(&mut changes, "kind", &one.kind, &other.kind);
    differ(&mut changes, "mode", &format!("{:04o}", one.mode), &format!("{:04o}", other.mode));
    differ(&mut changes, "owner", &owner(&one), &owner(&other));
    differ(&mut changes, "time", &one.modified, &other.modified);
    if one.kind != other.kind {
        return Ok(changes);
    }
    match one.kind {
        'l' => {
            let target = |root: &Root| -> Result<String> {
                Ok(root.link(path)?.unwrap_or_default().display().to_string())
            };
            differ(&mut changes, "target", &target(a)?, &target(b)?);
        }
        '-' => {
            differ(&mut changes, "size", &one.size, &other.size);
            if one.size != other.size || !same_content(a, b, path)? {
                differ(&mut changes, "sha256", &a.digest(path)?, &b.digest(path)?);
            }
        }
        _ => {}
    }
    Ok(changes)
}

fn owner(stat: &Stat) -> String {
    format!("{}:{}", stat.uid, stat.gid)
}

fn same_content(a: &Root, b: &Root, path: &Path) -> Result<bool> {
    let (mut a, mut b) = (a.open_file(path)?, b.open_file(path)?);
    let mut buffers = [vec![0; CHUNK], vec![0; CHUNK]];
    loop {
        let [one, other] = &mut buffers;
        let (count, other_count) = (a.fill(one)?, b.fill(other)?);
        if count != other_count || one[..count] != other[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}
