//! Lays overlay folders over each other: which file decides on which path of the image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use super::laid::{Laid, What};
use super::names::Names;
use super::read::Found;
use super::{Context, read, settings};
use crate::error::Problem;
use crate::tree::entry::Origin;
use crate::units::Arch;

/// The overlays laid so far.
pub(super) struct Laying<'a> {
    context: &'a Context,
    fixed: Names,
    names: Names,
    files: BTreeMap<PathBuf, Laid>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Laying<'a> {
    pub(super) fn new(context: &'a Context, arch: Arch) -> Self {
        let names = Names::of_image(arch);
        Self { context, fixed: names.clone(), names, files: BTreeMap::new(), problems: Vec::new() }
    }

    /// Lays one overlay folder over what is there.
    pub(super) fn add(&mut self, folder: &Path, overlay: usize) -> Result<()> {
        if !folder.is_dir() {
            let what = if folder.exists() { "is not a folder" } else { "does not exist" };
            return Err(Problem::input(format!("the overlay {} {what}", folder.display()))
                .hint("a path in a recipe is one from the folder of the file that states it")
                .into());
        }
        let read = read::folder(folder, self.context, &mut self.problems)?;
        let mut own = BTreeMap::new();
        // Links first: the names of everything else may lead through them.
        let (links, rest): (Vec<Found>, Vec<Found>) =
            read.found.into_iter().partition(|found| matches!(found.what, What::Symlink(_)));
        for found in links.into_iter().chain(rest) {
            if let Err(problem) = self.take(found, overlay, &mut own) {
                self.problems.push(problem);
            }
        }
        let file = folder.join(settings::FILE);
        self.modes(&file, settings::modes(&file)?, &read.folders, overlay, &mut own);
        for (path, laid) in own {
            self.put(path, laid);
        }
        Ok(())
    }

    /// Takes one thing of an overlay by its name in the image.
    fn take(
        &mut self,
        found: Found,
        overlay: usize,
        own: &mut BTreeMap<PathBuf, Laid>,
    ) -> Result<(), Problem> {
        let Found { path, mode, what, from } = found;
        let refuse = |what: String| Problem::input(format!("{} {what}", from.display()));
        let resolved = match what {
            What::Folder => self.names.resolve_all(&path),
            _ => self.names.resolve(&path),
        };
        let Some(resolved) = resolved else {
            return Err(refuse("lies behind symlinks of the overlays that go in circles".into()));
        };
        if let Some(there) = self.fixed.link(&resolved) {
            return match &what {
                What::Symlink(target) if self.same_place(&resolved, target) => Ok(()),
                What::Nothing => Ok(()),
                _ => Err(refuse(format!(
                    "cannot be laid: {} is a link to {} in every image",
                    resolved.display(),
                    there.display()
                ))),
            };
        }
        let file = matches!(what, What::Rendered(_) | What::File(_));
        let private = file && parents(&resolved).iter().any(|folder| is_private(folder));
        let mode = if private { mode & 0o700 } else { mode };
        let laid =
            Laid { path: resolved.clone(), mode, what, origin: Origin { file: from.clone(), overlay } };
        match own.get(&resolved) {
            Some(other) if other.what == What::Folder && laid.what == What::Folder => return Ok(()),
            Some(other) => {
                return Err(refuse(format!(
                    "and {} have one name in the image, {}",
                    other.origin.file.display(),
                    resolved.display()
                ))
                .hint("keep one of them"));
            }
            None => {}
        }
        if let What::Symlink(target) = &laid.what {
            self.names.learn(&resolved, target);
        }
        own.insert(resolved, laid);
        Ok(())
    }

    /// Does a link to `target` at `path` lead where the image's own link there does?
    fn same_place(&self, path: &Path, target: &Path) -> bool {
        let mut with = self.fixed.clone();
        with.learn(path, target);
        with.resolve_all(path) == self.fixed.resolve_all(path)
    }

    /// Applies `[modes]`; `folders` are those that the overlay has, by its own names.
    fn modes(
        &mut self,
        file: &Path,
        modes: BTreeMap<PathBuf, u32>,
        folders: &BTreeSet<PathBuf>,
        overlay: usize,
        own: &mut BTreeMap<PathBuf, Laid>,
    ) {
        let folders: BTreeSet<PathBuf> =
            folders.iter().filter_map(|folder| self.names.resolve_all(folder)).collect();
        let mut stated = BTreeMap::new();
        for (path, mode) in modes {
            let refuse = |what: &str| {
                Problem::input(format!("{}: [modes] names {}{what}", file.display(), path.display()))
            };
            let whole = self.names.resolve_all(&path).filter(|whole| folders.contains(whole));
            let Some(resolved) = whole.or_else(|| self.names.resolve(&path)) else { continue };
            if let Some(other) = stated.insert(resolved.clone(), path.clone()) {
                self.problems.push(refuse(&format!(" and {}, which are one", other.display())));
                continue;
            }
            match own.get_mut(&resolved) {
                Some(Laid { what: What::Symlink(_), .. }) => {
                    self.problems.push(refuse(", which is a symlink: its target has a mode, it has none"));
                }
                Some(laid) => {
                    laid.mode = mode;
                    if laid.what == What::Folder {
                        laid.what = What::StatedFolder;
                    }
                }
                None if folders.contains(&resolved) => {
                    let origin = Origin { file: file.to_owned(), overlay };
                    let laid = Laid { path: resolved.clone(), mode, what: What::StatedFolder, origin };
                    own.insert(resolved, laid);
                }
                None => self.problems.push(
                    refuse(", which the overlay does not have")
                        .hint("name a path as it is in the image, without `.tera`"),
                ),
            }
        }
    }

    /// A later overlay decides.
    fn put(&mut self, path: PathBuf, laid: Laid) {
        match &laid.what {
            What::Nothing => {
                self.files.remove(&path);
                return self.names.forget(&path);
            }
            // It asks for a folder, whatever its mode.
            What::Folder if self.files.get(&path).is_some_and(|there| there.noun() == "folder") => return,
            What::Symlink(_) => {}
            _ => self.names.forget(&path),
        }
        self.files.insert(path, laid);
    }

    /// The private folders of homes, as ssh and gpg insist.
    fn close_private(&mut self) {
        let inside: Vec<(PathBuf, Origin)> = self
            .files
            .values()
            .flat_map(|laid| {
                let own = parents(&laid.path).into_iter().filter(|folder| is_private(folder));
                own.map(|folder| (folder, laid.origin.clone()))
            })
            .collect();
        for (path, origin) in inside {
            let laid = Laid { path: path.clone(), mode: 0o700, what: What::StatedFolder, origin };
            self.files.entry(path).or_insert(laid);
        }
    }

    /// Everything to install, by its path.
    pub(super) fn finish(mut self) -> (Vec<Laid>, Vec<Problem>) {
        self.close_private();
        for laid in self.files.values() {
            let above = parents(&laid.path).into_iter().filter_map(|parent| self.files.get(&parent));
            for other in above.filter(|other| other.noun() != "folder") {
                self.problems.push(
                    Problem::input(format!(
                        "{} needs the folder {}, which is a {} in {}",
                        laid.origin.file.display(),
                        other.path.display(),
                        other.noun(),
                        other.origin.file.display()
                    ))
                    .hint("take one of them out of its overlay, or give it another name"),
                );
            }
        }
        (self.files.into_values().collect(), self.problems)
    }
}

/// `.ssh` or `.gnupg` of root or of an account in /home.
fn is_private(folder: &Path) -> bool {
    let named = folder.file_name().is_some_and(|name| name == ".ssh" || name == ".gnupg");
    let home = folder.parent().unwrap_or(Path::new("/"));
    named && (home == Path::new("/root") || home.parent() == Some(Path::new("/home")))
}

/// The folders above a path of the image, without the root.
pub(super) fn parents(path: &Path) -> Vec<PathBuf> {
    path.ancestors().skip(1).filter(|parent| parent.file_name().is_some()).map(Path::to_owned).collect()
}

/// Does a symlink in the folder `inside` climb over the root? The kernel would stop there; a program on the host would not.
pub(super) fn leaves_root(inside: &Path, target: &Path) -> bool {
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

/// Opens a file of an overlay to see that it can be read, and returns its size.
pub(super) fn readable(file: &Path) -> Result<u64> {
    let opened = File::open(file).map_err(|error| {
        Problem::input(format!("{} cannot be read: {error}", file.display()))
            .hint("whoever builds must be able to read every file of an overlay")
    })?;
    let size = opened.metadata().with_context(|| format!("reading {}", file.display()))?.len();
    Ok(size)
}

/// A template, or a file that the build reads whole.
pub(super) fn read_limited(file: &Path, limit: u64) -> Result<Vec<u8>> {
    let size = readable(file)?;
    if size > limit {
        let message = format!(
            "the template {} has {size} bytes, more than the {limit} that are rendered",
            file.display()
        );
        return Err(Problem::input(message)
            .hint("leave out `.tera`: a file without it may have any size")
            .into());
    }
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}
