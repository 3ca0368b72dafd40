//! Overlays: folders of files and templates that are laid over the root.
//!
//! ```text
//! overlays/base/etc/docker/daemon.json.tera ─► /etc/docker/daemon.json   rendered; nothing where only blanks remain
//!               usr/lib/edgepress/first-boot ─► the same path, 0755 because it is executable here
//!               etc/systemd/…/x.wants/y.service ─► a symlink, with its target as it is
//!               overlay.toml                  ─► not installed: [modes] with exceptions
//! ```
//!
//! Everything belongs to root. A later folder decides on a path that an earlier one also has; a template that renders
//! to nothing there takes the earlier file away.

mod tags;
mod template;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Problem, problem};
use crate::recipe::types::Recipe;
use crate::units::Digest;

pub use template::Context;

/// Settings of an overlay folder, not installed.
const SETTINGS: &str = "overlay.toml";
/// Ending of a template.
const TEMPLATE: &str = "tera";
/// Deepest folder of an overlay: a loop of bind mounts ends here.
const DEEPEST: usize = 64;

/// One thing to put into the image. Owner and group are root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute path in the image.
    pub path: PathBuf,
    /// Permission bits; those of a symlink are always 0777.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A folder that must be there. One that the packages made keeps its owner and mode.
    Directory,
    /// A file with this content.
    File(Vec<u8>),
    /// A symlink with this target.
    Symlink(PathBuf),
}

impl Entry {
    /// Digest of path, mode, kind and content, for cache keys.
    pub fn digest(&self) -> Digest {
        let (tag, content): (u8, &[u8]) = match &self.kind {
            Kind::Directory => (b'd', &[]),
            Kind::File(bytes) => (b'f', bytes),
            Kind::Symlink(target) => (b'l', target.as_os_str().as_encoded_bytes()),
        };
        let path = self.path.as_os_str().as_encoded_bytes();
        let mut hasher = Sha256::new();
        hasher.update([tag]);
        hasher.update(self.mode.to_be_bytes());
        hasher.update((path.len() as u64).to_be_bytes());
        hasher.update(path);
        hasher.update(content);
        Digest::from_hasher(hasher)
    }
}

/// Renders a recipe's overlays, sorted by path; `epoch` is the time stamp of the image in seconds since 1970.
///
/// # Errors
/// The first template or file that cannot be used, by name and line.
pub fn render(recipe: &Recipe, epoch: u64) -> Result<Vec<Entry>> {
    let (entries, problems) = render_all(recipe, epoch)?;
    match problems.into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(entries),
    }
}

/// As [`render`], with everything that is wrong instead of the first.
///
/// # Errors
/// When the context of the templates cannot be made.
pub fn render_all(recipe: &Recipe, epoch: u64) -> Result<(Vec<Entry>, Vec<Problem>)> {
    let context = Context::new(recipe, epoch)?;
    let mut tree = Tree { context: &context, files: BTreeMap::new(), problems: Vec::new() };
    for folder in &recipe.overlays {
        if let Err(error) = tree.lay(folder) {
            tree.problems.push(as_problem(&error));
        }
    }
    let entries = tree.entries();
    Ok((entries, tree.problems))
}

fn as_problem(error: &anyhow::Error) -> Problem {
    problem(error).cloned().unwrap_or_else(|| Problem::input(format!("{error:#}")))
}

/// What the overlays say about one path.
struct Stated {
    mode: u32,
    /// `None`: the template rendered to nothing.
    kind: Option<Kind>,
    /// The file in the work tree.
    from: PathBuf,
}

struct Tree<'a> {
    context: &'a Context,
    files: BTreeMap<PathBuf, Stated>,
    problems: Vec<Problem>,
}

/// `overlay.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    modes: BTreeMap<String, String>,
}

impl Tree<'_> {
    /// Lays one overlay folder over what is there.
    fn lay(&mut self, folder: &Path) -> Result<()> {
        if !folder.is_dir() {
            return Err(Problem::input(format!("the overlay {} is not a folder", folder.display())).into());
        }
        let mut own = BTreeMap::new();
        self.walk(folder, Path::new("/"), 0, &mut own)?;
        let modes = modes(&folder.join(SETTINGS))?;
        let folders: Vec<PathBuf> = own.keys().flat_map(|path: &PathBuf| parents(path)).collect();
        for (path, mode) in modes {
            match own.get_mut(&path) {
                Some(stated) => stated.mode = mode,
                None if folders.contains(&path) => {
                    own.insert(
                        path,
                        Stated { mode, kind: Some(Kind::Directory), from: folder.join(SETTINGS) },
                    );
                }
                None => self.problems.push(
                    Problem::input(format!(
                        "{}: [modes] names {}, which the overlay does not have",
                        folder.join(SETTINGS).display(),
                        path.display()
                    ))
                    .hint("name a path as it is in the image, without `.tera`"),
                ),
            }
        }
        self.files.extend(own);
        Ok(())
    }

    fn walk(
        &mut self,
        folder: &Path,
        inside: &Path,
        depth: usize,
        own: &mut BTreeMap<PathBuf, Stated>,
    ) -> Result<()> {
        if depth > DEEPEST {
            return Err(Problem::input(format!(
                "the overlay folder {} is nested too deep",
                folder.display()
            ))
            .into());
        }
        let reading = || format!("reading the overlay folder {}", folder.display());
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .with_context(reading)?
            .collect::<Result<_, _>>()
            .with_context(reading)?;
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            if depth == 0 && entry.file_name() == SETTINGS {
                continue;
            }
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let message = format!("the file name {} is not UTF-8", entry.path().display());
                self.problems.push(Problem::input(message));
                continue;
            };
            if entry.file_type().with_context(reading)?.is_dir() {
                self.walk(&entry.path(), &inside.join(name), depth + 1, own)?;
            } else if let Err(error) = self.take(&entry.path(), inside, name, own) {
                self.problems.push(as_problem(&error));
            }
        }
        Ok(())
    }

    /// Takes one file or symlink.
    fn take(
        &self,
        file: &Path,
        inside: &Path,
        name: &str,
        own: &mut BTreeMap<PathBuf, Stated>,
    ) -> Result<()> {
        let meta = file.symlink_metadata().with_context(|| format!("reading {}", file.display()))?;
        let template = name.strip_suffix(TEMPLATE).and_then(|name| name.strip_suffix('.'));
        let path = inside.join(template.unwrap_or(name));
        let refuse = |what: &str| Problem::input(format!("{} {what}", file.display()));
        let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let stated = if meta.file_type().is_symlink() {
            if template.is_some() {
                return Err(refuse("is a symlink, and a template cannot be one").into());
            }
            let target = std::fs::read_link(file).with_context(|| format!("reading {}", file.display()))?;
            if leaves_root(inside, &target) {
                return Err(refuse(&format!("points out of the image, to {}", target.display())).into());
            }
            Stated { mode: 0o777, kind: Some(Kind::Symlink(target)), from: file.to_owned() }
        } else if !meta.is_file() {
            let fix =
                "folders, files and symlinks can be laid over an image: make it with tmpfiles.d or a unit";
            return Err(refuse("is a device, pipe or socket").hint(fix).into());
        } else {
            let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            let bytes = match template {
                Some("") => return Err(refuse("is a template without a name").into()),
                Some(_) => self.context.render(file, &bytes)?,
                None => Some(bytes),
            };
            Stated { mode, kind: bytes.map(Kind::File), from: file.to_owned() }
        };
        match own.insert(path, stated) {
            Some(other) => {
                Err(refuse(&format!("and {} have one name in the image", other.from.display())).into())
            }
            None => Ok(()),
        }
    }

    /// Everything to install, with the folders that it needs.
    fn entries(&mut self) -> Vec<Entry> {
        let mut all: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, stated) in &self.files {
            let Some(kind) = stated.kind.clone() else { continue };
            for parent in parents(path) {
                let entry = Entry { path: parent.clone(), mode: 0o755, kind: Kind::Directory };
                let made = all.entry(parent.clone()).or_insert(entry);
                if made.kind != Kind::Directory {
                    let other = self.files.get(&parent).map(|other| other.from.display().to_string());
                    self.problems.push(Problem::input(format!(
                        "{} needs the folder {}, which is a file or symlink in {}",
                        stated.from.display(),
                        parent.display(),
                        other.unwrap_or_default()
                    )));
                }
            }
            all.insert(path.clone(), Entry { path: path.clone(), mode: stated.mode, kind });
        }
        all.into_values().collect()
    }
}

/// The folders above a path of the image, without the root.
fn parents(path: &Path) -> Vec<PathBuf> {
    path.ancestors().skip(1).filter(|parent| parent.file_name().is_some()).map(Path::to_owned).collect()
}

/// Does a symlink in the folder `inside` climb over the root? The kernel would stop there; a program on the host would not.
fn leaves_root(inside: &Path, target: &Path) -> bool {
    let depth = inside.components().filter(|part| matches!(part, Component::Normal(_))).count();
    let mut depth = if target.is_absolute() { 0 } else { depth };
    for part in target.components() {
        match part {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    false
}

/// Reads the modes of an `overlay.toml`, if there is one.
fn modes(file: &Path) -> Result<BTreeMap<PathBuf, u32>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let name = file.display();
    let settings: Settings = toml::from_str(&text).map_err(|error| {
        Problem::input(format!(
            "{name} is not what an overlay's settings look like: {}",
            error.to_string().trim_end()
        ))
        .hint("it holds one table, [modes], for example \"/etc/secret\" = \"0600\"")
    })?;
    settings.modes.into_iter().map(|(path, mode)| one_mode(file, &path, &mode)).collect()
}

fn one_mode(file: &Path, path: &str, mode: &str) -> Result<(PathBuf, u32)> {
    let clean = Path::new("/").join(path);
    let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777);
    let legal = clean.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match bits {
        Some(bits) if legal => Ok((clean.components().collect(), bits)),
        _ => {
            let message = format!("{}: bad mode: {path:?} = {mode:?}", file.display());
            Err(Problem::input(message)
                .hint("a path of the image and an octal mode: \"/etc/secret\" = \"0600\"")
                .into())
        }
    }
}

#[cfg(test)]
mod tests;
