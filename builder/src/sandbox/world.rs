//! The part of the host that pid 1 of a sandbox sees while it makes a layer: the folders and files of the job, at their
//! own paths, and nothing else. Whatever goes wrong with a path of the tree cannot go wrong with the host's files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::bind::{bind, bind_read_only};

const NONE: Option<&str> = None;
/// Where the new root is put together; every system has the folder, and this namespace alone sees what is mounted there.
const AT: &str = "/tmp";
/// Device nodes that trees are given.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Room for folders and links of the new root; no content is written to it.
const ROOM: &str = "mode=0755,size=16m";

/// What a job needs of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// Folders and files to read.
    pub read: Vec<PathBuf>,
    /// Folders to write in.
    pub write: Vec<PathBuf>,
}

impl World {
    /// Makes it all there is. Called by pid 1, in a mount namespace of its own that has a `/proc`.
    ///
    /// # Errors
    /// The mount that the kernel refused.
    pub(crate) fn enter(&self) -> Result<()> {
        let new = Path::new(AT);
        // Opened before the mount hides what is in /tmp, where a store or a recipe may well be.
        let sources = self.sources()?;
        mount(Some("tmpfs"), new, Some("tmpfs"), MsFlags::MS_NOSUID, Some(ROOM))
            .context("mounting a new root")?;
        for source in &sources {
            source.show(new)?;
        }
        for folder in ["proc", "tmp"] {
            fs::create_dir_all(new.join(folder)).with_context(|| format!("creating /{folder}"))?;
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), &new.join("proc"), Some("proc"), flags, NONE).context("mounting /proc anew")?;
        drop(sources);
        chdir(new).context("entering the new root")?;
        pivot_root(".", ".").context("leaving the host's root")?;
        umount2(".", MntFlags::MNT_DETACH).context("unmounting the host's root")?;
        chdir("/").context("entering the new root")
    }

    fn sources(&self) -> Result<Vec<Source>> {
        let devices = DEVICES.map(|name| Path::new("/dev").join(name));
        let written = self.write.iter().chain(&devices).map(|path| Source::open(path, path, true));
        let read = self.read.iter().map(|path| Source::open(path, path, false));
        let own =
            loaded(&fs::read_to_string("/proc/self/maps").context("finding what this program is made of")?);
        let own = own.iter().map(|(from, at)| Source::open(from, at, false));
        written.chain(read).chain(own).collect()
    }
}

/// The files that this program is loaded from, and where: the new root has to start it again. From proc(5) `maps`, whose
/// lines end with a path; the loader itself is asked for by the short path that is written in programs.
fn loaded(maps: &str) -> BTreeSet<(PathBuf, PathBuf)> {
    let mut all = BTreeSet::new();
    for line in
        maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.contains('x')))
    {
        let Some(path) = line.find('/').map(|at| PathBuf::from(&line[at..])).filter(|path| path.is_file())
        else {
            continue;
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        if name.to_string_lossy().starts_with("ld-") {
            all.extend(["/lib", "/lib64"].map(|folder| (path.clone(), Path::new(folder).join(&name))));
        }
        all.insert((path.clone(), path));
    }
    all
}

/// Something of the host that is shown at its own path.
struct Source {
    path: PathBuf,
    file: File,
    folder: bool,
    write: bool,
}

impl Source {
    /// What is at `from`, to be shown at `at`.
    fn open(from: &Path, at: &Path, write: bool) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let opening = || format!("opening {}", from.display());
        let file = File::options().read(true).custom_flags(libc::O_PATH).open(from).with_context(opening)?;
        let folder = file.metadata().with_context(opening)?.is_dir();
        Ok(Self { path: at.to_owned(), file, folder, write })
    }

    fn show(&self, new: &Path) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        let at = new.join(self.path.strip_prefix("/").unwrap_or(&self.path));
        let folder = if self.folder { Some(at.as_path()) } else { at.parent() };
        if let Some(folder) = folder {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        if !self.folder && !at.exists() {
            fs::write(&at, b"").with_context(|| format!("creating {}", at.display()))?;
        }
        // The file itself, whatever has been mounted over its path.
        let from = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let shown = if self.write { bind(&from, &at) } else { bind_read_only(&from, &at) };
        shown.with_context(|| format!("showing {} to the sandbox", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::loaded;
    use std::path::{Path, PathBuf};

    #[test]
    fn the_loader_is_shown_where_programs_ask_for_it() {
        let folder = tempfile::tempdir().expect("temp dir");
        let file = |name: &str| folder.path().join(name);
        for name in ["ld-linux-x86-64.so.2", "libc.so.6"] {
            std::fs::write(file(name), "").expect("file");
        }
        let line =
            |mode: &str, path: &Path| format!("7f00-7f01 {mode} 00000000 fe:00 12 {}\n", path.display());
        let maps = line("r-xp", &file("ld-linux-x86-64.so.2"))
            + &line("r-xp", &file("libc.so.6"))
            + &line("r--p", &file("data"))
            + &line("r-xp", &file("gone (deleted)"))
            + "7ff0-7ff1 r-xp 00000000 00:00 0 [vdso]\n";
        let at: Vec<PathBuf> = loaded(&maps).into_iter().map(|(_, at)| at).collect();
        let name = "ld-linux-x86-64.so.2";
        let expected =
            [Path::new("/lib").join(name), Path::new("/lib64").join(name), file(name), file("libc.so.6")];
        assert_eq!(at.len(), expected.len());
        assert!(expected.iter().all(|path| at.contains(path)), "{at:?}");
    }
}
