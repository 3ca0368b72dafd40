//! The native tools: what packages' scripts call, as programs of this machine.
//!
//! They are an extracted tree, never configured, and never run but inside a tree that is being built, where their
//! libraries are bound in place (Debian's multiarch layout keeps them apart from the tree's own). Two changes are made
//! to them:
//! - Their loader is looked for in the build's own folder, so that no `/lib64` appears in a tree that has none.
//! - dpkg's programs have their architecture compiled in, a string of five letters, like the other one: it is replaced
//!   by the tree's.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::elf::Elf;
use crate::chroot::Chroot;
use crate::tree::{FileKind, Root};
use crate::units::Arch;

/// Packages whose programs scripts call, each with what it depends on. Those that a tree does not have are left out:
/// its scripts cannot call them either.
pub(crate) const PACKAGES: [&str; 45] = [
    "adduser",
    "apparmor",
    "base-passwd",
    "bash",
    "bsdutils",
    "ca-certificates",
    "coreutils",
    "cpio",
    "dash",
    "dbus",
    "debconf",
    "debianutils",
    "diffutils",
    "dpkg",
    "e2fsprogs",
    "file",
    "findutils",
    "gawk",
    "gettext-base",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "libpam-modules",
    "libpam-modules-bin",
    "login",
    "mawk",
    "mount",
    "ncurses-bin",
    "openssh-client",
    "openssh-server",
    "openssl",
    "passwd",
    "perl",
    "perl-base",
    "procps",
    "sed",
    "systemd",
    "tar",
    "udev",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// Programs that must run as the tree's own, each with its reason.
const NEVER: &[(&str, &str)] = &[
    ("usr/sbin/ldconfig", "reads the libraries of its own machine only"),
    ("usr/sbin/ldconfig.real", "Ubuntu's name of the same"),
    ("usr/sbin/iconvconfig", "looks in its own machine's library folder"),
    ("usr/bin/ldd", "runs the loader"),
    ("usr/bin/uname", "tells the machine"),
    ("usr/bin/arch", "tells the machine"),
    ("usr/bin/lscpu", "tells the machine"),
];

/// Folders that no program needs.
const UNNEEDED: [&str; 6] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/zoneinfo", "boot"];

/// A larger file is no program whose loader matters; each is read whole.
const MOST_PROGRAM: u64 = 256 << 20;

/// Programs that know their architecture.
const DPKG: [&str; 6] = ["dpkg", "dpkg-deb", "dpkg-divert", "dpkg-query", "dpkg-split", "dpkg-trigger"];

/// The name of an architecture's library folder (Debian Policy 9.1.1).
pub(crate) fn multiarch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-linux-gnu",
        Arch::Aarch64 => "aarch64-linux-gnu",
    }
}

/// Where programs of an architecture look for their loader (its psABI), and its file in the library folder.
fn loader(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("/lib64/ld-linux-x86-64.so.2", "ld-linux-x86-64.so.2"),
        Arch::Aarch64 => ("/lib/ld-linux-aarch64.so.1", "ld-linux-aarch64.so.1"),
    }
}

/// The loader as the tools look for it. No longer than what [`loader`] says: it takes that one's place in the files.
const LOADER: &str = "/.edgepress-build/loader";

/// Makes an extracted tree of this machine's packages into tools for building trees of `target`. A dpkg that is not as
/// expected, of a later release perhaps, is left out of them with a warning: the tree's own then runs in qemu-user.
///
/// # Errors
/// When the tree cannot be read or written.
pub(crate) fn prepare(chroot: &Chroot<'_>, target: Arch) -> Result<()> {
    let tree = chroot.root;
    for path in UNNEEDED.iter().chain(NEVER.iter().map(|(name, _)| name)) {
        tree.remove(path)?;
    }
    if let Err(error) = adopt_dpkg(chroot, target) {
        chroot.sink.warn(format!(
            "this release's dpkg runs in qemu-user, slowly: the native one cannot be used ({error:#})"
        ));
        for name in DPKG {
            tree.remove(Path::new("usr/bin").join(name))?;
        }
    }
    for folder in ["usr/bin", "usr/sbin", "usr/lib"] {
        redirect(tree, folder)?;
    }
    Ok(())
}

/// Has the native dpkg work for the tree's architecture.
fn adopt_dpkg(chroot: &Chroot<'_>, target: Arch) -> Result<()> {
    let tree = chroot.root;
    for name in DPKG {
        let path = Path::new("usr/bin").join(name);
        let bytes =
            tree.read(&path, MOST_PROGRAM)?.with_context(|| format!("reading {name}: it is not there"))?;
        let changed = with_architecture(&bytes, target).with_context(|| format!("changing {name}"))?;
        rewrite(tree, &path, &changed)?;
    }
    believe(chroot, target)
}

/// dpkg's own answer decides whether the change was what it should be. The tree of the tools has no `/lib64`, so its loader
/// is called by name.
fn believe(chroot: &Chroot<'_>, target: Arch) -> Result<()> {
    let libraries = Path::new("/usr/lib").join(multiarch(Arch::host()));
    let loader = libraries.join(loader(Arch::host()).1);
    let [loader, libraries] = [loader, libraries].map(|path| path.display().to_string());
    let ask = chroot.program(&loader);
    let ask = ask.args(["--library-path", &libraries, "/usr/bin/dpkg", "--print-architecture"]);
    let mut said = Vec::new();
    chroot.run(&ask, |line| said.push(line.to_owned()))?;
    ensure!(said == [target.debian()], "the native dpkg says that it is for {}", said.join(" "));
    Ok(())
}

/// The compiled-in architecture stands once, as a string of its own.
fn with_architecture(bytes: &[u8], target: Arch) -> Result<Vec<u8>> {
    let old = format!("\0{}\0", Arch::host().debian());
    let new = format!("\0{}\0", target.debian());
    ensure!(old.len() == new.len(), "the names of the architectures differ in length");
    let mut places = bytes
        .windows(old.len())
        .enumerate()
        .filter(|(_, window)| *window == old.as_bytes())
        .map(|(at, _)| at);
    let (Some(at), None) = (places.next(), places.next()) else {
        bail!("it does not name its architecture just once");
    };
    let mut bytes = bytes.to_owned();
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    Ok(bytes)
}

/// Replaces the loader in every program below a folder.
fn redirect(tree: &Root, folder: &str) -> Result<()> {
    tree.walk(folder, &mut |path, meta| {
        if meta.kind != FileKind::File || meta.size > MOST_PROGRAM {
            return Ok(());
        }
        let bytes = tree.read(path, MOST_PROGRAM)?.unwrap_or_default();
        with_loader(&bytes).map_or(Ok(()), |changed| rewrite(tree, path, &changed))
    })
}

fn with_loader(bytes: &[u8]) -> Option<Vec<u8>> {
    let elf = Elf::parse(bytes)?;
    if elf.arch()? != Arch::host() || elf.interpreter()? != loader(Arch::host()).0.as_bytes() {
        return None;
    }
    let (start, end) = elf.interpreter_place()?;
    let mut changed = bytes.to_owned();
    let place = changed.get_mut(start..end)?;
    place.fill(0);
    place.get_mut(..LOADER.len())?.copy_from_slice(LOADER.as_bytes());
    Some(changed)
}

/// In place: hard links and modes stay.
fn rewrite(tree: &Root, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = tree.rewrite(path)?.with_context(|| format!("writing {}: it is not there", path.display()))?;
    (&file).write_all(bytes).with_context(|| format!("writing {}", path.display()))
}

/// Puts the loader where the tools look for it, in the build's own folder.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn link_loader(root: &Root) -> Result<()> {
    let target = format!("native/usr/lib/{}/{}", multiarch(Arch::host()), loader(Arch::host()).1);
    root.symlink(target, LOADER)
}

#[cfg(test)]
mod tests {
    use super::{LOADER, PACKAGES, loader, prepare, with_architecture, with_loader};
    use crate::chroot::Chroot;
    use crate::chroot::mounts::RESERVED;
    use crate::event::{Event, Sink};
    use crate::foreign::elf::Elf;
    use crate::foreign::elf::tests::program;
    use crate::sandbox::confined::Limits;
    use crate::tree::Root;
    use crate::units::Arch;
    use std::fs;
    use std::sync::Mutex;

    const OWN: u8 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

    #[test]
    fn the_loader_fits_in_its_place() {
        assert!(LOADER.starts_with(&format!("/{RESERVED}/")));
        for arch in [Arch::X86_64, Arch::Aarch64] {
            assert!(LOADER.len() <= loader(arch).0.len(), "{arch}");
        }
        let path = format!("{}\0", loader(Arch::host()).0);
        let bytes = program(OWN, path.as_bytes(), b"rest");
        let changed = with_loader(&bytes).expect("changed");
        assert_eq!(changed.len(), bytes.len());
        assert!(changed.ends_with(b"\0rest"));
        assert_eq!(Elf::parse(&changed).expect("ELF").interpreter(), Some(LOADER.as_bytes()));
        assert_eq!(with_loader(&changed), None, "once is enough");
        assert_eq!(with_loader(b"#!/bin/sh"), None);
    }

    #[test]
    fn the_architecture_is_replaced_where_it_stands_alone() {
        let (host, other) = match Arch::host() {
            Arch::X86_64 => ("amd64", Arch::Aarch64),
            Arch::Aarch64 => ("arm64", Arch::X86_64),
        };
        let text = format!("x\0linux-{host}\0{host}\0y");
        let changed = with_architecture(text.as_bytes(), other).expect("changed");
        assert_eq!(changed, format!("x\0linux-{host}\0{}\0y", other.debian()).as_bytes());
        for bad in [format!("\0{host}\0.\0{host}\0"), format!("{host}s")] {
            assert!(with_architecture(bad.as_bytes(), other).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_dpkg_that_cannot_be_changed_is_left_out_with_a_warning() {
        struct Said(Mutex<Vec<String>>);
        impl Sink for Said {
            fn emit(&self, event: Event) {
                if let Event::Warning { text } = event {
                    self.0.lock().expect("lock").push(text);
                }
            }
        }
        let tree = tempfile::tempdir().expect("temp dir");
        let programs = tree.path().join("usr/bin");
        fs::create_dir_all(&programs).expect("folder");
        for name in ["dpkg", "dpkg-query", "sed", "uname"] {
            fs::write(programs.join(name), program(OWN, b"", b"no architecture")).expect("program");
        }
        let said = Said(Mutex::default());
        let root = Root::open(tree.path()).expect("open");
        let limits = Limits::default();
        let chroot = Chroot { root: &root, folder: tree.path(), epoch: 0, limits, sink: &said };
        prepare(&chroot, Arch::host().other()).expect("goes on");
        let left: Vec<_> =
            fs::read_dir(&programs).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(left, ["sed"]);
        let said = said.0.into_inner().expect("lock");
        assert!(
            said.len() == 1 && said[0].contains("it does not name its architecture just once"),
            "{said:?}"
        );
    }

    #[test]
    fn packages_are_sorted() {
        assert!(PACKAGES.is_sorted());
    }
}
