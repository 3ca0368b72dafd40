//! Which files of a system are packages' own, by dpkg's database: in `usr` alone, where nothing else is needed.
//!
//! Packages bring example and test keys, the same for everybody who has the package. What a package's script made, and
//! what an overlay laid there, is in no list.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::guard::{PathKind, Tree};

const LISTS: &str = "var/lib/dpkg/info";
const DIVERSIONS: &str = "var/lib/dpkg/diversions";
const USR: &str = "usr";
/// Not packages', though below `usr` (hier(7)).
const LOCAL: &str = "usr/local";
/// Names at the top that are folders of `usr` on a merged system; packages list their files by either name.
const MERGED: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];
/// The longest list of a package that is read; those of Debian's largest have 8 MiB.
const MOST_LIST: u64 = 64 << 20;

/// The files of packages.
pub(super) struct Packaged {
    /// As a merged system has them; nothing where there is no database.
    files: Option<HashSet<PathBuf>>,
    /// A system without dpkg: whose `usr` is cannot be known.
    all: bool,
}

impl Packaged {
    /// No file is a package's.
    pub(super) fn nothing() -> Self {
        Self { files: None, all: false }
    }

    /// By the database in a tree. Where there is none, all of `usr` counts as packages' own.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(tree: &dyn Tree) -> Result<Self> {
        let mut files = HashSet::new();
        let mut found = false;
        for (name, kind) in tree.list(Path::new(LISTS))? {
            let path = Path::new(LISTS).join(name);
            if kind == PathKind::File && path.extension().is_some_and(|ending| ending == "list") {
                found = true;
                lines(tree, &path, |line| {
                    files.extend(merged(line).filter(|path| path.starts_with(USR)));
                })?;
            }
        }
        // From, to, by whom: what another package has at `from` lies at `to`.
        let mut diversions = Vec::new();
        lines(tree, Path::new(DIVERSIONS), |line| diversions.push(merged(line)))?;
        for three in diversions.chunks_exact(3) {
            if let (Some(from), Some(to)) = (&three[0], &three[1])
                && files.contains(from)
            {
                files.insert(to.clone());
            }
        }
        Ok(Self { files: found.then_some(files), all: !found })
    }

    /// Is a file a package's?
    pub(super) fn has(&self, path: &Path) -> bool {
        if path.starts_with(LOCAL) {
            return false;
        }
        let Some(path) = merged(Path::new("/").join(path).as_os_str().as_bytes()) else { return false };
        if !path.starts_with(USR) {
            return false;
        }
        match &self.files {
            Some(files) => {
                files.contains(&path) || source_of(&path).is_some_and(|path| files.contains(&path))
            }
            None => self.all,
        }
    }
}

/// Python's scripts of packages write what they compiled beside the source, constants and all.
fn source_of(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| folder.ends_with("__pycache__"))?.parent()?;
    let name = path.file_name()?.to_str()?.strip_suffix(".pyc")?;
    let (name, _) = name.split_once(".cpython-")?;
    Some(folder.join(format!("{name}.py")))
}

/// A path from the root, by the name that is no link on a merged system.
fn merged(line: &[u8]) -> Option<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(line)).strip_prefix("/").ok()?;
    let first = path.components().next()?;
    let is_merged = MERGED.iter().any(|name| first.as_os_str() == *name);
    Some(if is_merged { Path::new(USR).join(path) } else { path.to_owned() })
}

fn lines(tree: &dyn Tree, path: &Path, mut each: impl FnMut(&[u8])) -> Result<()> {
    let context = || format!("reading /{}", path.display());
    let Some(file) = tree.open(path).with_context(context)? else { return Ok(()) };
    let mut file = BufReader::new(file.take(MOST_LIST));
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).with_context(context)? > 0 {
        each(line.trim_ascii_end());
        line.clear();
    }
    Ok(())
}
