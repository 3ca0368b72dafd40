//! Reads one overlay folder: what it has, by its own names.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::laid::What;
use super::lay::{leaves_root, read_limited, readable};
use super::{Context, as_problem, settings};
use crate::error::Problem;

/// Ending of a template.
const TEMPLATE: &str = "tera";
/// Deepest folder of an overlay: a loop of bind mounts ends here.
const DEEPEST: usize = 64;
/// Most bytes of a template, which is held in memory.
const LARGEST_TEMPLATE: u64 = 1 << 20;
/// By convention what keeps an empty folder in git, which holds files only. The folder is meant.
const KEEPERS: [&str; 2] = [".gitkeep", ".keep"];

/// One thing of an overlay folder.
pub(super) struct Found {
    /// Path in the image by the overlay's own names.
    pub(super) path: PathBuf,
    /// Permission bits by the convention of overlays.
    pub(super) mode: u32,
    /// What it is.
    pub(super) what: What,
    /// The file in the work tree.
    pub(super) from: PathBuf,
}

/// What an overlay folder has.
#[derive(Default)]
pub(super) struct Read {
    /// Files, symlinks, and folders with nothing in them.
    pub(super) found: Vec<Found>,
    /// Every folder.
    pub(super) folders: BTreeSet<PathBuf>,
}

/// Reads the overlay `folder`; what cannot be laid over an image is among the problems.
pub(super) fn folder(folder: &Path, context: &Context, problems: &mut Vec<Problem>) -> Result<Read> {
    let mut reader = Reader { context, problems, read: Read::default() };
    reader.walk(folder, Path::new("/"), 0)?;
    Ok(reader.read)
}

struct Reader<'a> {
    context: &'a Context,
    problems: &'a mut Vec<Problem>,
    read: Read,
}

impl Reader<'_> {
    fn walk(&mut self, folder: &Path, inside: &Path, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            let message = format!("the overlay folder {} is nested too deep", folder.display());
            return Err(Problem::input(message).into());
        }
        let reading = || format!("reading the overlay folder {}", folder.display());
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .with_context(reading)?
            .collect::<Result<_, _>>()
            .with_context(reading)?;
        names.retain(|entry| !KEEPERS.iter().any(|name| entry.file_name() == *name));
        if names.is_empty() && depth > 0 {
            let (path, from) = (inside.to_owned(), folder.to_owned());
            self.read.found.push(Found { path, mode: 0o755, what: What::Folder, from });
        }
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            if depth == 0 && entry.file_name() == settings::FILE {
                continue;
            }
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let message = format!("the file name {} is not UTF-8", entry.path().display());
                self.problems.push(Problem::input(message));
                continue;
            };
            if entry.file_type().with_context(reading)?.is_dir() {
                let inside = inside.join(name);
                // One folder that cannot be read must not hide what the others have.
                if let Err(error) = self.walk(&entry.path(), &inside, depth + 1) {
                    self.problems.push(as_problem(&error));
                }
                self.read.folders.insert(inside);
            } else {
                match self.take(&entry.path(), inside, name) {
                    Ok(found) => self.read.found.push(found),
                    Err(error) => self.problems.push(as_problem(&error)),
                }
            }
        }
        Ok(())
    }

    /// Takes one file or symlink.
    fn take(&self, file: &Path, inside: &Path, name: &str) -> Result<Found> {
        let meta = file.symlink_metadata().with_context(|| format!("reading {}", file.display()))?;
        let template = name.strip_suffix(TEMPLATE).and_then(|name| name.strip_suffix('.'));
        let path = inside.join(template.unwrap_or(name));
        let refuse = |what: &str| Problem::input(format!("{} {what}", file.display()));
        let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let found = |mode, what| Found { path, mode, what, from: file.to_owned() };
        if meta.file_type().is_symlink() {
            if template.is_some() {
                return Err(refuse("is a symlink, and a template cannot be one").into());
            }
            let target = std::fs::read_link(file).with_context(|| format!("reading {}", file.display()))?;
            if leaves_root(inside, &target) {
                return Err(refuse(&format!("points out of the image, to {}", target.display())).into());
            }
            return Ok(found(0o777, What::Symlink(target)));
        }
        if !meta.is_file() {
            let fix =
                "folders, files and symlinks can be laid over an image: make it with tmpfiles.d or a unit";
            return Err(refuse("is a device, pipe or socket").hint(fix).into());
        }
        let what = match template {
            Some("") => return Err(refuse("is a template without a name").into()),
            Some(_) => {
                let bytes = read_limited(file, LARGEST_TEMPLATE)?;
                self.context.render(file, &bytes)?.map_or(What::Nothing, What::Rendered)
            }
            None => What::File(readable(file)?),
        };
        Ok(found(mode, what))
    }
}
