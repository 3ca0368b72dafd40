//! Names as the image resolves them: two names of one file are one file.
//!
//! ```text
//! /lib/site/settings   ─► /usr/lib/site/settings    merged /usr: the first folder is a link
//! /var/run/site        ─► /run/site
//! /data/x              ─► /srv/data/x               where an overlay has the link data ─► srv/data
//! ```
//! Links that only the packages bring are not known here: `rootfs::files` resolves those in the tree.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::units::Arch;

/// Most links that the kernel follows on one path (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Links in place of folders that every image has: merged /usr (`rootfs::packages` makes them), and what base-files of
/// Debian and Ubuntu brings since the folder /run exists.
const EVERYWHERE: [(&str, &str); 5] = [
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/var/run", "/run"),
    ("/var/lock", "/run/lock"),
];
/// Where the loader lives, on 64-bit PCs only.
const LIB64: (&str, &str) = ("/lib64", "usr/lib64");

/// The links that are known so far.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Names {
    /// Those that every image has.
    pub(crate) fn of_image(arch: Arch) -> Self {
        let own = (arch == Arch::X86_64).then_some(LIB64);
        let links = EVERYWHERE.into_iter().chain(own);
        Self { links: links.map(|(name, target)| (name.into(), target.into())).collect() }
    }

    /// The target of the link at `path`, if one is known there.
    pub(crate) fn link(&self, path: &Path) -> Option<&Path> {
        self.links.get(path).map(PathBuf::as_path)
    }

    /// An overlay has a link at `path`, resolved as to its folder.
    pub(crate) fn learn(&mut self, path: &Path, target: &Path) {
        self.links.insert(path.to_owned(), target.to_owned());
    }

    /// An overlay has something else there.
    pub(crate) fn forget(&mut self, path: &Path) {
        self.links.remove(path);
    }

    /// `path` with the links in its folders followed; nothing when they go in circles.
    pub(crate) fn resolve(&self, path: &Path) -> Option<PathBuf> {
        self.follow(path, false)
    }

    /// As [`Self::resolve`], and the last name too where it is a link.
    pub(crate) fn resolve_all(&self, path: &Path) -> Option<PathBuf> {
        self.follow(path, true)
    }

    fn follow(&self, path: &Path, last: bool) -> Option<PathBuf> {
        let mut rest = steps(path);
        let mut at = PathBuf::from("/");
        let mut followed = 0;
        while let Some(step) = rest.pop() {
            if step.as_os_str() == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            match self.links.get(&next).filter(|_| last || !rest.is_empty()) {
                None => at = next,
                Some(target) => {
                    followed += 1;
                    if followed > MOST_LINKS {
                        return None;
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    rest.extend(steps(target));
                }
            }
        }
        Some(at)
    }
}

/// The names of a path, last first.
fn steps(path: &Path) -> Vec<PathBuf> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::Names;
    use crate::units::Arch;
    use std::path::{Path, PathBuf};

    fn resolved(names: &Names, path: &str) -> Option<String> {
        names.resolve(Path::new(path)).map(|path| path.display().to_string())
    }

    #[test]
    fn merged_folders_and_the_old_names_of_run() {
        let names = Names::of_image(Arch::X86_64);
        for (path, same) in [
            ("/lib/site/x", "/usr/lib/site/x"),
            ("/bin/x", "/usr/bin/x"),
            ("/sbin/x", "/usr/sbin/x"),
            ("/lib64/x", "/usr/lib64/x"),
            ("/var/run/site/x", "/run/site/x"),
            ("/var/lock/x", "/run/lock/x"),
            ("/lib", "/lib"),
            ("/library/x", "/library/x"),
            ("/usr/lib/x", "/usr/lib/x"),
        ] {
            assert_eq!(resolved(&names, path).as_deref(), Some(same));
        }
        assert_eq!(resolved(&Names::of_image(Arch::Aarch64), "/lib64/x").as_deref(), Some("/lib64/x"));
        assert_eq!(names.resolve_all(Path::new("/lib")), Some(PathBuf::from("/usr/lib")));
    }

    #[test]
    fn links_that_an_overlay_brings() {
        let mut names = Names::of_image(Arch::Aarch64);
        names.learn(Path::new("/data"), Path::new("srv/data"));
        names.learn(Path::new("/usr/lib/site"), Path::new("../../opt/site"));
        names.learn(Path::new("/a"), Path::new("/b"));
        names.learn(Path::new("/b"), Path::new("a"));
        for (path, same) in [
            ("/data/x/y", Some("/srv/data/x/y")),
            ("/lib/site/x", Some("/opt/site/x")),
            ("/data/../x", Some("/srv/x")),
            ("/a/x", None),
            ("/a", Some("/a")),
        ] {
            assert_eq!(resolved(&names, path).as_deref(), same, "{path}");
        }
        names.forget(Path::new("/data"));
        assert_eq!(resolved(&names, "/data/x").as_deref(), Some("/data/x"));
    }
}
