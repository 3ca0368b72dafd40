//! The identity-leak guard: looks through a finished root tree for what makes one machine, or opens one, before the tree
//! becomes an image that thousands of machines run; and through the root of a finished image, whoever made it.
//!
//! It names everything at once. What to look for is in [`super::guard_rules`], where it looks is a [`Tree`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::credentials::IN_A_HOME;
use super::guard_rules::{
    AUTHORIZED_KEYS, ENGINE_STORE, NO_KEYS_UNDER, PRELOADED, RULES, Rule, STORED, WIFI, by_ending, lets_in,
    matches, secret_rule,
};
use super::packaged::Packaged;
use super::secrets;
use crate::error::Problem;
use crate::finding::{Finding, Place, Severity};
use crate::tree::{self, Root};
use crate::units::Digest;

/// Folders at the top where the kernel mounts what is no file.
const PASSED_BY: [&str; 3] = ["dev", "proc", "sys"];
/// As much of a file is read for a rule by its path; what a file holds anywhere is searched to its end.
const MOST_READ: u64 = 4 << 20;

/// Deeper than any tree of a Linux system; a damaged file system may have folders that hold themselves.
const DEEPEST: usize = 64;

/// A root tree, in a folder or in an image. Paths are from its root.
pub(crate) trait Tree {
    /// The names in a folder; nothing when there is no folder of this path.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, PathKind)>>;

    /// A regular file to be read piece by piece; nothing when there is none of this path.
    ///
    /// # Errors
    /// When it cannot be read.
    fn open(&self, file: &Path) -> Result<Option<Box<dyn Read + '_>>>;
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A link, a device, a socket.
    Other,
}

impl Tree for Root {
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, PathKind)>> {
        let kind = |kind| match kind {
            tree::FileKind::Folder => PathKind::Folder,
            tree::FileKind::File => PathKind::File,
            _ => PathKind::Other,
        };
        let entries = self.list_nofollow(folder)?;
        Ok(entries.into_iter().map(|entry| (entry.name, kind(entry.kind))).collect())
    }

    fn open(&self, file: &Path) -> Result<Option<Box<dyn Read + '_>>> {
        Ok(self.open_file_nofollow(file)?.map(|file| Box::new(file) as Box<dyn Read>))
    }
}

/// What a recipe brings into the tree on purpose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed {
    /// File names in `/var/lib/edgepress/images`.
    pub images: BTreeSet<String>,
    /// Images in the engine's own store. What they hold is theirs, keys among it: many bring those of their own tests.
    pub engine_store: bool,
    /// Digests of authorized_keys files.
    pub authorized_keys: BTreeSet<Digest>,
    /// Files with keys that are no secret, as paths on the device.
    pub keys: BTreeSet<PathBuf>,
    /// Digest of the one file that may hold a Wi-Fi network's key.
    pub wifi: Option<Digest>,
}

/// Something that must not be in a golden image: a file, or folder of many, by its path on the device. A warning where a
/// recipe may have brought it on purpose: only who knows the recipe can tell.
fn leak_at(path: &Path, what: impl Into<String>, hint: &str) -> Finding {
    let path = Path::new("/").join(path);
    Finding::error(what).at(Place::file(path.to_string_lossy())).hint(hint)
}

/// The path of a leak.
pub(crate) fn path_of(leak: &Finding) -> &Path {
    Path::new(leak.file_and_line().0)
}

fn sort(leaks: &mut [Finding]) {
    leaks.sort_by(|a, b| (path_of(a), &a.message, &a.hint).cmp(&(path_of(b), &b.message, &b.hint)));
}

/// All leaks in a tree, in the order of their paths.
///
/// # Errors
/// When a folder or file cannot be read.
pub(crate) fn check(tree: &Root, allowed: &Allowed) -> Result<Vec<Finding>> {
    check_tree(tree, allowed)
}

/// As [`check`], of a tree wherever it lies.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_tree(tree: &dyn Tree, allowed: &Allowed) -> Result<Vec<Finding>> {
    let mut guard = Guard::of(tree, allowed, Packaged::of(tree)?);
    guard.system(Guard::file)?;
    Ok(guard.all())
}

/// As [`check`], of what is no system but laid over one: nothing in it is a package's.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_overlay(tree: &dyn Tree, allowed: &Allowed) -> Result<Vec<Finding>> {
    let mut guard = Guard::of(tree, allowed, Packaged::nothing());
    guard.folder(Path::new(""), Guard::file)?;
    Ok(guard.all())
}

/// The keys in a tree that is mounted somewhere on a machine, nobody knows where.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_keys(tree: &dyn Tree) -> Result<Vec<Finding>> {
    let allowed = Allowed::default();
    // Perhaps another root, as with A and B.
    if tree.list(Path::new("usr"))?.is_empty() {
        let mut guard = Guard::of(tree, &allowed, Packaged::nothing());
        guard.folder(Path::new(""), Guard::key)?;
        Ok(guard.all())
    } else {
        let mut guard = Guard::of(tree, &allowed, Packaged::of(tree)?);
        guard.system(Guard::key)?;
        Ok(guard.all())
    }
}

/// Refuses a tree that leaks.
///
/// # Errors
/// A [`Problem`] that names every leak.
pub(crate) fn refuse(leaks: &[Finding]) -> Result<()> {
    if leaks.is_empty() {
        return Ok(());
    }
    let one = |leak: &Finding| {
        let hint = leak.hint.as_deref().unwrap_or_default();
        format!("\n  {}: {}; {hint}", path_of(leak).display(), leak.message)
    };
    let list: String = leaks.iter().map(one).collect();
    let message = format!("the root tree holds what must not be in an image for many devices:{list}");
    Err(Problem::input(message)
        .hint("look where it comes from: a package, an overlay, or a preloaded file")
        .into())
}

struct Guard<'a> {
    tree: &'a dyn Tree,
    allowed: &'a Allowed,
    packaged: Packaged,
    leaks: Vec<Finding>,
    /// Leaks of rules for whole folders, counted: a docker store has thousands of files.
    folders: BTreeMap<(&'static str, &'static str, &'static str), usize>,
}

/// What is done with each file.
type Look<G> = fn(&mut G, &Path) -> Result<()>;

impl<'a> Guard<'a> {
    fn of(tree: &'a dyn Tree, allowed: &'a Allowed, packaged: Packaged) -> Self {
        Self { tree, allowed, packaged, leaks: Vec::new(), folders: BTreeMap::new() }
    }

    /// All that was found, sorted.
    fn all(self) -> Vec<Finding> {
        let mut leaks = self.leaks;
        for ((folder, what, hint), count) in self.folders {
            let what = if count == 1 { what.to_owned() } else { format!("{what} ({count} files)") };
            leaks.push(leak_at(Path::new(folder), what, hint));
        }
        sort(&mut leaks);
        leaks
    }

    /// Everything but packages' own.
    fn system(&mut self, look: Look<Self>) -> Result<()> {
        for (name, kind) in self.tree.list(Path::new(""))? {
            match kind {
                PathKind::Folder if PASSED_BY.iter().any(|folder| name == *folder) => {}
                PathKind::Folder => self.folder(Path::new(&name), look)?,
                PathKind::File => look(self, Path::new(&name))?,
                PathKind::Other => {}
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path, look: Look<Self>) -> Result<()> {
        ensure!(path.components().count() <= DEEPEST, "{} is nested too deep", path.display());
        for (name, kind) in self.tree.list(path)? {
            let path = path.join(name);
            match kind {
                PathKind::Folder if ENGINE_STORE.iter().any(|folder| path == Path::new(folder)) => {
                    if !self.allowed.engine_store {
                        self.leak(&path, &STORED);
                    }
                }
                PathKind::Folder => self.folder(&path, look)?,
                PathKind::File if !self.packaged.has(&path) => look(self, &path)?,
                PathKind::File | PathKind::Other => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let mut content = None;
        for rule in RULES.iter().chain(IN_A_HOME).filter(|rule| matches(rule.pattern, path)) {
            if (rule.holds)(self.content(path, &mut content)?) {
                match rule.pattern.strip_suffix("/**").filter(|folder| !folder.starts_with('~')) {
                    Some(folder) => *self.folders.entry((folder, rule.what, rule.hint)).or_default() += 1,
                    None => self.leak(path, rule),
                }
                return Ok(());
            }
        }
        if lets_in(path) {
            let digest = Digest::of(self.content(path, &mut content)?);
            if !self.allowed.authorized_keys.contains(&digest) {
                self.leak(path, &AUTHORIZED_KEYS);
            }
            return Ok(());
        }
        if matches(WIFI.pattern, path) {
            let bytes = self.content(path, &mut content)?;
            if (WIFI.holds)(bytes) && self.allowed.wifi != Some(Digest::of(bytes)) {
                self.leak(path, &WIFI);
            }
            return Ok(());
        }
        if matches(PRELOADED.pattern, path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !self.allowed.images.contains(name.as_ref()) {
                self.leak(path, &PRELOADED);
            }
            return Ok(());
        }
        self.key(path)
    }

    fn key(&mut self, path: &Path) -> Result<()> {
        if path.starts_with(NO_KEYS_UNDER) || self.allowed.keys.contains(&Path::new("/").join(path)) {
            return Ok(());
        }
        let rule = self.judge(path).with_context(|| format!("looking into /{}", path.display()))?;
        if let Some(rule) = rule {
            self.leak(path, rule);
        }
        Ok(())
    }

    /// What a file is by what it holds.
    fn judge(&self, path: &Path) -> Result<Option<&'static Rule>> {
        let Some(file) = self.tree.open(path)? else { return Ok(None) };
        match secrets::find(file)? {
            Some(secret) => Ok(Some(secret_rule(secret))),
            None => match self.tree.open(path)? {
                Some(file) => Ok(by_ending(path, file)?),
                None => Ok(None),
            },
        }
    }

    fn leak(&mut self, path: &Path, rule: &Rule) {
        let meant = [&AUTHORIZED_KEYS, &WIFI, &PRELOADED, &STORED];
        let perhaps_meant = meant.iter().any(|meant| meant.what == rule.what);
        let severity = if perhaps_meant { Severity::Warning } else { Severity::Error };
        self.leaks.push(Finding { severity, ..leak_at(path, rule.what, rule.hint) });
    }

    /// The file's content, read once; of a large file the beginning.
    fn content<'c>(&self, path: &Path, content: &'c mut Option<Vec<u8>>) -> Result<&'c [u8]> {
        if content.is_none() {
            let context = || format!("looking into /{}", path.display());
            let mut bytes = Vec::new();
            if let Some(file) = self.tree.open(path).with_context(context)? {
                file.take(MOST_READ).read_to_end(&mut bytes).with_context(context)?;
            }
            *content = Some(bytes);
        }
        Ok(content.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
