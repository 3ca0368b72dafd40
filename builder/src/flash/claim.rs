//! Targets are held before the user is asked: what he agrees to is what is written to.
//!
//! ```text
//! look ─► open, each for itself alone ─► look at what is open ─► the user agrees ─► look once more ─► lengths ─► empty
//! └──────────────────────────────── nothing is lost until here ────────────────────────────────┘
//! ```
//! A name like /dev/sdb may lead to another disk a moment later, and a device's numbers belong to another; what is open stays
//! what it was, and nobody else can mount it or take it for a volume group (`O_EXCL`). A card that is changed in its reader is
//! told by the kernel's count of media.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::block_device::Disk;
use super::system::{Below, Node};
use super::target::{Candidate, Look, Target, TargetKind};
use crate::error::Problem;

const CHANGED: &str = "it is not what it was a moment ago (another card?)";

/// Targets that nobody else can have any more, until this is dropped.
pub(crate) struct Held<'a> {
    look: Look<'a>,
    all: Vec<One>,
}

/// One of them.
struct One {
    found: Candidate,
    /// None of a file that is yet to be made.
    disk: Option<Disk>,
    /// The disks that a loop device is made of.
    below: Vec<File>,
}

impl<'a> Held<'a> {
    /// Looks at all targets, and opens those that are there. Nothing is written or made.
    ///
    /// # Errors
    /// One [`Problem`] with everything that is wrong with any of them.
    pub(crate) fn new(look: Look<'a>, paths: &[PathBuf], image: &Path) -> Result<Self> {
        let (mut all, mut wrong) = (Vec::new(), Vec::new());
        for found in look.all(paths, image)? {
            let name = found.target.path.display().to_string();
            match One::open(found, &look) {
                Ok(one) => all.push(one),
                Err(reason) => wrong.push(format!("{name}: {reason}")),
            }
        }
        refuse(&wrong)?;
        Ok(Self { look, all })
    }

    /// They, in the order in which they were named.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.all.iter().map(|one| one.found.target.clone()).collect()
    }

    /// Once the user has agreed: makes the files that are missing, gives all files their length, and empties them. Before
    /// the first is emptied, it is known that all can be.
    ///
    /// # Errors
    /// A [`Problem`] when one is not any more what it was, or cannot be had: then nothing was changed.
    pub(crate) fn begin(mut self) -> Result<Vec<Begun>> {
        let mut wrong = Vec::new();
        for one in &mut self.all {
            if let Err(reason) = one.ready(&self.look) {
                wrong.push(format!("{}: {reason}", one.found.target.path.display()));
            }
        }
        if !wrong.is_empty() {
            self.all.iter_mut().for_each(One::undo);
        }
        refuse(&wrong)?;
        let begin = |one: One| {
            let Candidate { target, .. } = one.found;
            let mut disk = one.disk.context("it was not made")?;
            let length = target.size.max(self.look.size);
            disk.empty(length).with_context(|| format!("emptying {}", target.path.display()))?;
            Ok(Begun { disk, _below: one.below })
        };
        self.all.into_iter().map(begin).collect()
    }
}

/// A target that may be written.
pub(crate) struct Begun {
    /// It.
    pub disk: Disk,
    _below: Vec<File>,
}

impl One {
    fn open(found: Candidate, look: &Look<'_>) -> Result<Self, String> {
        if found.missing {
            return Ok(Self { found, disk: None, below: Vec::new() });
        }
        let path = &found.target.path;
        let disk = Disk::open(path).map_err(|error| said(&error))?;
        let data = disk.metadata().map_err(|error| said(&error))?;
        let open = look.describe(path, &data)?;
        if open.node != found.node {
            return Err(CHANGED.into());
        }
        if !open.wrong.is_empty() {
            return Err(open.wrong.join("; "));
        }
        let below = open.below.iter().filter(|below| below.device.is_some()).map(exclusive);
        Ok(Self { below: below.collect::<Result<_, _>>()?, found: open, disk: Some(disk) })
    }

    /// Nothing is lost by this yet.
    fn ready(&mut self, look: &Look<'_>) -> Result<(), String> {
        let Target { path, size, .. } = &self.found.target;
        let disk = match &mut self.disk {
            Some(disk) => {
                let data = disk.metadata().map_err(|error| said(&error))?;
                if look.describe(path, &data)? != self.found {
                    return Err(CHANGED.into());
                }
                disk
            }
            none => none.insert(Disk::create(path).map_err(|error| said(&error))?),
        };
        disk.reserve(look.size.max(*size)).map_err(|error| said(&error))
    }

    fn undo(&mut self) {
        let Candidate { target, missing, .. } = &self.found;
        match &mut self.disk {
            Some(_) if *missing => drop(fs::remove_file(&target.path)),
            Some(disk) if target.kind == TargetKind::File => disk.release(),
            _ => {}
        }
    }
}

/// A disk that a loop device is made of: held as well, so that nobody takes it for himself.
fn exclusive(below: &Below) -> Result<File, String> {
    let Below { path, node, .. } = below;
    let failed = |reason: String| format!("what it is made of, {}: {reason}", path.display());
    let open = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path);
    let file = open.map_err(|error| failed(said(&error)))?;
    let data = file.metadata().map_err(|error| failed(said(&error)))?;
    if Node::of(&data) == *node { Ok(file) } else { Err(failed(CHANGED.into())) }
}

fn said(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "it is in use: somebody has it open for himself (a mapping, RAID, ZFS?)".into(),
        Some(libc::EROFS) => "it is write-protected".into(),
        Some(libc::ENOMEDIUM) => "it has no medium".into(),
        _ => error.to_string(),
    }
}

fn refuse(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    let message =
        format!("nothing was written, because not every target can be opened:\n  {}", wrong.join("\n  "));
    let hint = "close what uses them; a device takes root, or membership of its group";
    Err(Problem::input(message).hint(hint).into())
}

#[cfg(test)]
mod tests {
    use super::{Held, Look};
    use crate::error::problem;
    use crate::flash::system::System;
    use crate::flash::target::Rules;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs;
    use std::os::fd::AsRawFd as _;
    use std::path::{Path, PathBuf};

    const SIZE: u64 = 100;

    /// In a folder with an empty file, one that is written over, and a name that is free.
    struct Case {
        folder: tempfile::TempDir,
        system: System,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            fs::write(folder.path().join("empty"), "").expect("write");
            fs::write(folder.path().join("full"), [7; 200]).expect("write");
            Self { folder, system: System::default() }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn hold(&self, more: &[&Path]) -> Held<'_> {
            let names = ["full", "empty", "new"].map(|name| self.at(name));
            let paths: Vec<PathBuf> = names.into_iter().chain(more.iter().map(|path| path.into())).collect();
            let rules = Rules { create: true, fixed: false };
            let look = Look { size: SIZE, rules, system: &self.system };
            Held::new(look, &paths, Path::new("/")).expect("held")
        }

        fn untouched(&self) {
            assert_eq!(fs::read(self.at("full")).expect("read"), [7; 200]);
            assert_eq!(fs::read(self.at("empty")).expect("read"), [0; 0]);
            assert!(!self.at("new").exists());
        }
    }

    #[test]
    fn files_are_emptied_when_all_is_settled() {
        let case = Case::new();
        let held = case.hold(&[]);
        assert_eq!(held.targets().len(), 3);
        case.untouched();
        assert_eq!(held.begin().expect("begun").len(), 3);
        for (name, length) in [("full", 200), ("empty", 100), ("new", 100)] {
            assert_eq!(fs::read(case.at(name)).expect("read"), vec![0; length], "{name}");
        }
    }

    #[test]
    fn one_that_cannot_be_emptied_leaves_all_as_they_are() {
        let case = Case::new();
        let sealed = memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING).expect("a file in memory");
        fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).expect("sealed");
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        let error = case.hold(&[Path::new(&path)]).begin().err().expect("refused");
        assert!(problem(&error).is_some(), "nothing was begun: exit code 2");
        assert!(error.to_string().contains(&format!("{path}: Operation not permitted")), "{error:#}");
        case.untouched();
    }

    #[test]
    fn what_changed_since_it_was_agreed_to_is_refused() {
        let case = Case::new();
        let held = case.hold(&[]);
        fs::write(case.at("new"), "somebody's").expect("write");
        let error = held.begin().err().expect("refused").to_string();
        assert!(error.contains("new: File exists"), "{error}");
        fs::remove_file(case.at("new")).expect("remove");
        case.untouched();

        let held = case.hold(&[]);
        fs::write(case.at("full"), [7; 300]).expect("write");
        let error = held.begin().err().expect("refused").to_string();
        assert!(error.ends_with("full: it is not what it was a moment ago (another card?)"), "{error}");
        assert_eq!(fs::read(case.at("full")).expect("read"), [7; 300]);

        // Another file by that name: what was agreed to is what is written to.
        let held = case.hold(&[]);
        fs::rename(case.at("full"), case.at("moved")).expect("rename");
        fs::write(case.at("full"), "somebody's").expect("write");
        held.begin().expect("begun");
        assert_eq!(fs::read(case.at("full")).expect("read"), b"somebody's");
        assert_eq!(fs::read(case.at("moved")).expect("read"), [0; 300]);
    }
}
