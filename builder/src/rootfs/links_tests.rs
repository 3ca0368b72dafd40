//! Links that lead out of a tree, planted at every path that a step touches, and at every folder on the way to it.
//!
//! The paths are those of `touched-paths.txt`, which `ci/touched-paths` records from builds under strace: what they named
//! below a root tree. Run it again when a step touches something new. Those of the small tree here come on top: boards
//! that the recorded recipe is not for look for some of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::guard::Allowed;
use super::images::{Image, PreloadSource};
use super::{clean, extract, guard, layer, package_keys};
use crate::chroot::Chroot;
use crate::disk::ids::Ids;
use crate::disk::survey::Survey;
use crate::event::Silent;
use crate::recipe::types::Recipe;
use crate::sandbox::confined::Limits;
use crate::tree::{Meta, Root};
use crate::units::{Arch, Digest};
use crate::{board, export, foreign, sbom};

/// In every file outside; nothing that a step reads or writes may hold it.
const MARK: &[u8] = b"precious-3f9c02d1";
const EPOCH: u64 = 1_700_000_000;
const KERNEL: &str = "6.1.0-50-arm64";

fn recipe(board: &str) -> Recipe {
    let text = format!(
        "name = 'x'\narchives = {{}}\ndistribution = {{ id = 'debian', release = '12', codename = 'bookworm' }}\n\
         target = {{ {board} }}\n\
         engine = {{ images = [{{ name = 'localhost/a:1', from_root = {{ '/sh' = '/bin/sh' }}, entrypoint = ['/sh'] }}] }}"
    );
    toml::from_str(&text).expect("recipe")
}

fn put(tree: &Path, path: &str, content: &[u8]) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    fs::write(path, content).expect("file");
}

/// A tree in which every step finds what it looks for.
fn small_tree(tree: &Path) {
    for folder in ["usr/lib", "usr/bin", "etc", "tmp", "var/lib/dpkg/info", "var/log", "var/cache/apt"] {
        fs::create_dir_all(tree.join(folder)).expect("folder");
    }
    for (link, to) in [("bin", "usr/bin"), ("lib", "usr/lib")] {
        symlink(to, tree.join(link)).expect("link");
    }
    put(tree, "usr/bin/sh", b"\x7fELF");
    put(tree, "usr/lib/os-release", b"ID=debian\n");
    symlink("../usr/lib/os-release", tree.join("etc/os-release")).expect("link");
    let status = "Package: sh\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n";
    put(tree, "var/lib/dpkg/status", status.as_bytes());
    put(tree, "var/lib/dpkg/info/sh.list", b"/.\n/usr/bin/sh\n");
    put(tree, "usr/share/doc/sh/copyright", b"prose\n");
    put(tree, "etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    put(tree, "etc/shadow", b"root:*:1\n");
    for name in
        ["etc/ssh/ssh_host_rsa_key", "var/lib/cloud/x/y", "var/log/dpkg.log", "etc/vendor.key", "etc/passwd-"]
    {
        put(tree, name, b"x");
    }
    put(tree, "usr/lib/shim/shimx64.efi.signed", b"shim");
    put(tree, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", b"..\0/EFI/debian\0..");
    for name in ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"] {
        put(tree, &format!("usr/lib/raspi-firmware/{name}"), b"x");
    }
    // An arm64 kernel, as the firmware makes one out.
    let mut kernel = vec![0; 64];
    kernel[56..60].copy_from_slice(b"ARM\x64");
    put(tree, &format!("boot/vmlinuz-{KERNEL}"), &kernel);
    put(tree, &format!("boot/initrd.img-{KERNEL}"), b"x");
    put(tree, &format!("usr/lib/modules/{KERNEL}/modules.dep"), b"x");
    for name in ["bcm2711-rpi-4-b.dtb", "bcm2837-rpi-3-b.dtb"] {
        put(tree, &format!("usr/lib/linux-image-{KERNEL}/broadcom/{name}"), b"x");
    }
}

/// What a package could hold for the tree.
fn package() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind) in [
        ("./etc/", tar::EntryType::Directory),
        ("./bin/tool", tar::EntryType::Regular),
        ("./var/lib/cloud/seed", tar::EntryType::Regular),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).expect("path");
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, &[][..]).expect("append");
    }
    tar.into_inner().expect("tar")
}

/// Every step of this library that works below a tree: name, what came of it, and everything that it brought out.
fn steps(tree: &Path, out: &Path) -> Vec<(&'static str, Result<String>)> {
    let root = Root::open(tree).expect("open");
    let ids = Ids::from_seed(&Digest::of("x"));
    let limits = Limits::default();
    let scratch = tempfile::tempdir().expect("folder");
    let chroot = Chroot { root: &root, folder: tree, epoch: EPOCH, limits, sink: &Silent };
    let uefi = recipe("arch = 'x86_64', board = 'uefi'");
    let pi = recipe("arch = 'aarch64', board = 'raspberry-pi', raspberry_pi = { models = ['3', '4'] }");
    let files = BTreeMap::from([("/sh".to_owned(), "/bin/sh".to_owned())]);
    let image = Image {
        name: "localhost/a:1".into(),
        arch: Arch::X86_64,
        from: PreloadSource::Tree { files, entrypoint: vec!["/sh".into()] },
    };
    let boot = |recipe: &Recipe| {
        let files = board::of(recipe.target.board).boot_files(&root, recipe, &ids)?;
        Ok(files.iter().map(|file| String::from_utf8_lossy(&file.content).into_owned()).collect())
    };
    vec![
        ("extract", extract::unpack(package().as_slice(), &root).map(|()| String::new())),
        ("keys", package_keys::remove(&root, &["/etc/vendor.key".into()]).map(|()| String::new())),
        ("scrub", clean::scrub(&root).map(|()| String::new())),
        ("early guard", package_keys::refuse(&root, &[]).map(|()| String::new())),
        ("guard", guard::check(&root, &Allowed::default()).map(|leaks| format!("{leaks:?}"))),
        ("kernels", layer::kernels(&root).map(|names| names.concat())),
        ("preload", image.preload(&root, 0, EPOCH).map(|()| String::new())),
        ("engine's store", image.store(&root, scratch.path(), EPOCH).map(|()| String::new())),
        ("uefi", boot(&uefi)),
        ("raspberry pi", boot(&pi)),
        ("sbom", sbom::collect(&root, &uefi.engine).map(|all| format!("{all:?}"))),
        ("leftovers", foreign::refuse_leftovers(&root, Arch::host().other()).map(|()| String::new())),
        ("survey", Survey::of(&root).map(|survey| format!("{survey:?}"))),
        ("tar", export::root::pack(&root, out, EPOCH).map(|packed| format!("{packed:?}"))),
        ("tools", foreign::tools::prepare(&chroot, Arch::host().other()).map(|()| String::new())),
        ("times", clean::clamp_times(&root, EPOCH).map(|()| String::new())),
    ]
}

/// Beside the tree: a folder and files that must stay as they are.
struct Canary(PathBuf);

impl Canary {
    const FILES: [&'static str; 4] = ["file", "folder/file", "folder/ssh_host_rsa_key", "folder/x.log"];

    fn new(at: PathBuf) -> Self {
        for name in Self::FILES {
            put(&at, name, MARK);
        }
        Self(at)
    }

    fn facts(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut rest = vec![self.0.clone()];
        while let Some(path) = rest.pop() {
            let data = path.symlink_metadata().expect("canary");
            let kept = (data.permissions(), data.modified().expect("time"), data.len());
            let content = if data.is_file() { fs::read(&path).expect("canary") } else { Vec::new() };
            all.insert(format!("{} {kept:?} {content:?}", path.display()));
            if data.is_dir() {
                rest.extend(fs::read_dir(&path).expect("canary").map(|entry| entry.expect("entry").path()));
            }
        }
        all
    }
}

/// Whether a file below holds the mark, no link being followed.
fn marked(path: &Path) -> bool {
    let data = path.symlink_metadata().expect("look");
    if data.is_dir() {
        return fs::read_dir(path).expect("list").any(|entry| marked(&entry.expect("entry").path()));
    }
    data.is_file() && holds_mark(&fs::read(path).expect("read"))
}

fn holds_mark(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

/// Every path of the list and of the small tree, and every folder on the way to one.
fn places(small: &Path) -> BTreeSet<PathBuf> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rootfs/touched-paths.txt");
    let list = fs::read_to_string(list).expect("the list");
    let paths = list.lines().filter(|line| !line.starts_with('#')).map(Path::new);
    let parts = paths.flat_map(|path| path.ancestors().filter(|part| !part.as_os_str().is_empty()));
    let mut places: BTreeSet<_> = parts.map(Path::to_owned).collect();
    let root = Root::open(small).expect("open");
    let mut add = |path: &Path, _: &Meta| {
        places.insert(path.to_owned());
        Ok(())
    };
    root.walk("", &mut add).expect("walk");
    places
}

#[test]
fn every_step_does_its_work_on_the_small_tree() {
    let folder = tempfile::tempdir().expect("folder");
    let tree = folder.path().join("tree");
    small_tree(&tree);
    let out = folder.path().join("out");
    fs::write(&out, "").expect("claimed");
    for (name, result) in steps(&tree, &out) {
        let Err(error) = result else { continue };
        // Its files were found and read; that they are no real firmware's is another matter.
        let read = name == "raspberry pi" && format!("{error:#}").contains("would not boot");
        assert!(read, "{name}: {error:#}");
    }
    assert!(places(&tree).len() > 200, "the list of paths is cut short");
}

/// Puts a link in the place of whatever is there; false where something on the way is no folder.
fn plant(tree: &Path, place: &Path, to: &Path) -> bool {
    let planted = tree.join(place);
    if fs::create_dir_all(planted.parent().expect("folder")).is_err() {
        return false;
    }
    if planted.is_dir() && !planted.is_symlink() {
        fs::remove_dir_all(&planted).expect("room for a link");
    } else if planted.symlink_metadata().is_ok() {
        fs::remove_file(&planted).expect("room for a link");
    }
    symlink(to, &planted).expect("plant");
    true
}

/// Runs every step; each may fail, and none may read or write outside.
fn run_steps(tree: &Path, out: &Path, place: &Path) {
    let mark = String::from_utf8_lossy(MARK).into_owned();
    fs::write(out, "").expect("claimed");
    for (step, result) in steps(tree, out) {
        let told = result.unwrap_or_else(|error| format!("{error:#}"));
        assert!(!told.contains(&mark), "{step} read through a link at {}", place.display());
    }
    // Cut short where the step ended early.
    let mut packed = Vec::new();
    let tar = zstd::Decoder::new(fs::File::open(out).expect("tar"));
    tar.and_then(|mut tar| tar.read_to_end(&mut packed)).ok();
    assert!(!holds_mark(&packed), "packed through a link at {}", place.display());
    assert!(!marked(tree), "something was copied through a link at {}", place.display());
}

#[test]
fn no_link_leads_a_step_out_of_the_tree() {
    let folder = tempfile::tempdir().expect("folder");
    let [tree, outside, out] = ["tree", "outside", "out"].map(|name| folder.path().join(name));
    let canary = Canary::new(outside.clone());
    let before = canary.facts();
    let up = Path::new(&"../".repeat(30)).join(outside.strip_prefix("/").expect("absolute"));
    small_tree(&tree);
    let places = places(&tree);
    fs::remove_dir_all(&tree).expect("again");
    for (at, place) in places.iter().enumerate() {
        // To a file and to a folder, each kind of link in turn: whichever a step expects there, it meets one.
        let [one, other] = if at % 2 == 0 { ["file", "folder"] } else { ["folder", "file"] };
        for to in [outside.join(one), up.join(other)] {
            small_tree(&tree);
            if plant(&tree, place, &to) {
                run_steps(&tree, &out, place);
                assert_eq!(canary.facts(), before, "with {} -> {}", place.display(), to.display());
            }
            fs::remove_dir_all(&tree).expect("again");
        }
    }
}
