//! Everything in the image that is no package: overlay files, the account, links, preloaded container images.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{chroot, images};
use crate::overlay::{Entry, Kind};
use crate::tree::Root;

/// What goes into the last layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {
    /// Rendered overlays, then what board and build add.
    pub entries: Vec<Entry>,
    /// The account that may log in.
    pub user: String,
    /// Its authorized_keys; empty: none.
    pub authorized_keys: String,
    /// Time zone, a name in /usr/share/zoneinfo.
    pub timezone: String,
    /// Container images to preload.
    pub images: Vec<images::Image>,
}

/// Groups that the account joins where they exist.
const GROUPS: [&str; 4] = ["sudo", "adm", "systemd-journal", "docker"];

impl Files {
    /// Lays everything over `root`.
    ///
    /// # Errors
    /// The file or account that could not be made.
    pub fn lay(&self, root: &Path, epoch: u64) -> Result<()> {
        write_entries(root, &self.entries)?;
        // The one link that depends on a value of the recipe: templates make files only.
        let zone = format!("/usr/share/zoneinfo/{}", self.timezone);
        link(root, Path::new("/etc/localtime"), Path::new(&zone))?;
        self.account(root, epoch)?;
        let tree = Root::open(root)?;
        for (at, image) in self.images.iter().enumerate() {
            image.preload(&tree, at, epoch)?;
        }
        Ok(())
    }

    /// One account, keys only: its password is locked, root's too, and sudo asks for none because there is none.
    fn account(&self, root: &Path, epoch: u64) -> Result<()> {
        let existing = group_names(root)?;
        let groups = GROUPS.into_iter().filter(|name| existing.contains(*name)).collect::<Vec<_>>().join(",");
        let mut add = chroot::command(root, epoch, "useradd")?;
        add.args([
            "--create-home",
            "--shell",
            "/bin/bash",
            "--groups",
            &groups,
            "--password",
            "!",
            &self.user,
        ]);
        chroot::run(&mut add, |_| {})?;
        let mut lock = chroot::command(root, epoch, "usermod")?;
        chroot::run(lock.args(["--password", "*", "root"]), |_| {})?;
        let sudo = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", self.user);
        write(root, Path::new("/etc/sudoers.d/edgepress"), 0o440, sudo.as_bytes())?;
        if self.authorized_keys.is_empty() {
            return Ok(());
        }
        let folder = PathBuf::from(format!("/home/{}/.ssh", self.user));
        write(root, &folder.join("authorized_keys"), 0o600, self.authorized_keys.as_bytes())?;
        fs::set_permissions(inside(root, &folder)?, fs::Permissions::from_mode(0o700))?;
        let owner = format!("{0}:{0}", self.user);
        let mut own = chroot::command(root, epoch, "chown")?;
        chroot::run(own.args(["--recursive", &owner]).arg(&folder), |_| {})
    }
}

fn group_names(root: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(root.join("etc/group")).context("reading the tree's /etc/group")?;
    Ok(text.lines().filter_map(|line| Some(line.split(':').next()?.to_owned())).collect())
}

/// Writes entries in order; folders that are missing are made 0755.
///
/// # Errors
/// The entry that could not be written.
pub fn write_entries(root: &Path, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        match &entry.kind {
            Kind::Directory => {
                let path = inside(root, &entry.path)?;
                fs::create_dir_all(&path)
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)))
                    .with_context(|| format!("creating {}", entry.path.display()))?;
            }
            Kind::File(content) => write(root, &entry.path, entry.mode, content)?,
            Kind::Symlink(target) => link(root, &entry.path, target)?,
        }
    }
    Ok(())
}

/// Replaces `path` of the tree by a file; a link of that name is replaced, not followed.
fn write(root: &Path, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let full = cleared(root, path)?;
    fs::write(&full, content)
        .and_then(|()| fs::set_permissions(&full, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("writing {}", path.display()))
}

fn link(root: &Path, path: &Path, target: &Path) -> Result<()> {
    let full = cleared(root, path)?;
    symlink(target, &full).with_context(|| format!("linking {}", path.display()))
}

fn cleared(root: &Path, path: &Path) -> Result<PathBuf> {
    let full = inside(root, path)?;
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating the folder of {}", path.display()))?;
    }
    if full.symlink_metadata().is_ok() {
        if full.is_dir() && !full.is_symlink() {
            bail!("{} is a folder in the image, and a file in an overlay", path.display());
        }
        fs::remove_file(&full).with_context(|| format!("replacing {}", path.display()))?;
    }
    Ok(full)
}

/// `path`, absolute in the image, as a path of the host, with the image's links in its folders followed inside the
/// tree: an absolute link must never lead to the host.
///
/// # Errors
/// When the path has a `..`, or links go in circles.
pub fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    resolve(root, path, false)
}

/// As [`inside`], and follows the last name too where it is a link.
///
/// # Errors
/// As [`inside`].
pub fn followed(root: &Path, path: &Path) -> Result<PathBuf> {
    resolve(root, path, true)
}

fn resolve(root: &Path, path: &Path, last: bool) -> Result<PathBuf> {
    const MOST_LINKS: usize = 40;
    let mut rest: Vec<PathBuf> = components(path)?;
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name.as_os_str() == ".." {
            at.pop();
            continue;
        }
        let full = root.join(&at).join(&name);
        let target = if rest.is_empty() && !last { None } else { fs::read_link(&full).ok() };
        let Some(target) = target else {
            at.push(name);
            continue;
        };
        links += 1;
        anyhow::ensure!(links <= MOST_LINKS, "the links on the way to {} go in circles", path.display());
        if target.is_absolute() {
            at = PathBuf::new();
        }
        let steps = target.components().filter_map(|component| match component {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        });
        rest.extend(steps.collect::<Vec<_>>().into_iter().rev());
    }
    Ok(root.join(at))
}

/// The names of a path, last first.
fn components(path: &Path) -> Result<Vec<PathBuf>> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(Ok(PathBuf::from(name))),
        Component::ParentDir => Some(Err(anyhow::anyhow!("{} leaves the image", path.display()))),
        _ => None,
    });
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.reverse();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::{inside, write};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    #[test]
    fn links_stay_inside() {
        let root = tempfile::tempdir().expect("temp dir");
        let root = root.path();
        fs::create_dir_all(root.join("usr/lib")).expect("folder");
        symlink("/usr", root.join("abs")).expect("link");
        symlink("usr/lib", root.join("lib")).expect("link");
        symlink("../../../../usr", root.join("usr/up")).expect("link");
        symlink("loop", root.join("loop")).expect("link");
        for (path, expected) in [
            ("/etc/x", "etc/x"),
            ("/abs/x", "usr/x"),
            ("/lib/x/y", "usr/lib/x/y"),
            ("/usr/up/x", "usr/x"),
            ("/lib", "lib"),
        ] {
            assert_eq!(inside(root, Path::new(path)).expect(path), root.join(expected));
        }
        assert!(inside(root, Path::new("/a/../b")).is_err());
        assert!(inside(root, Path::new("/loop/x")).is_err());
    }

    #[test]
    fn a_file_replaces_a_link() {
        let root = tempfile::tempdir().expect("temp dir");
        fs::write(root.path().join("other"), "old").expect("file");
        symlink("other", root.path().join("file")).expect("link");
        write(root.path(), Path::new("/file"), 0o600, b"new").expect("write");
        assert_eq!(fs::read(root.path().join("other")).expect("other"), b"old");
        let data = root.path().join("file").symlink_metadata().expect("file");
        assert!(data.is_file());
        assert_eq!(data.permissions().mode() & 0o777, 0o600);
    }
}
