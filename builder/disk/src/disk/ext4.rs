//! The root file system: `mke2fs -d` fills it from the tree without a mount, `debugfs` settles its times.
//!
//! The same tree must give the same bytes. mke2fs is given every feature, number and seed by name, a configuration of
//! ours instead of the host's, a fixed time, and the C locale (it sorts each folder's names by it, so that the order in
//! which the host lists them does not matter; e2fsprogs 1.47.0 misc/create_inode.c). What is left is that it copies each
//! file's atime and ctime, which tell when the *build* touched it: those are set afterwards.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::ids::Ids;
use super::marker::{self, Marker};
use super::survey::{BLOCK, INODE, RESERVED_PERCENT, Survey, journal_of};
use crate::error::{Problem, problem};
use crate::host;

/// Named one by one so that the host's mke2fs.conf and the version of mke2fs decide nothing. Not among them, because
/// grub 2.06 or Linux 6.1 would not read the root: `metadata_csum_seed`, `orphan_file`, `large_dir`, `casefold`.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

const CONFIGURATION: &str = "\
[defaults]
	base_features = none
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
[fs_types]
	ext4 = {
		features = none
	}
";

/// One root file system to make.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// What it shall hold. Owners, modes and extended attributes are taken as this process sees them.
    pub tree: &'a Path,
    /// An existing file; the part of it that the file system takes must be a hole.
    pub image: &'a Path,
    /// Where in the image it begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// UUID and hash seed.
    pub ids: &'a Ids,
    /// Every time stamp, seconds since 1970; modification times stay unless they are later.
    pub epoch: u64,
    /// At most 16 bytes.
    pub label: &'a str,
}

/// Makes the file system.
///
/// # Errors
/// A [`Problem`] when the tree does not fit or the host's disk is full; the program's own words when mke2fs fails.
pub fn make(root: &Root<'_>, survey: &Survey) -> Result<()> {
    // The time fields of an ext4 inode have 32 signed bits and an extension that debugfs 1.47.0 does not set.
    anyhow::ensure!(i32::try_from(root.epoch).is_ok(), "the time stamp {} lies after 2038", root.epoch);
    let mut command = mke2fs(root, survey)?;
    host::run_with_input(&mut command, CONFIGURATION.as_bytes()).map_err(|error| explain(error, root))?;
    let found = marker::find(&crate::tree::Root::open(root.tree)?)?;
    replace(root, &found.markers)?;
    let newest = u64::try_from(found.newest.min(i32::MAX.into())).unwrap_or_default();
    settle_times(root, newest.max(root.epoch))
}

/// Puts in the markers' place what they stand for, then looks: debugfs returns 0 whatever happened.
fn replace(root: &Root<'_>, markers: &[Marker]) -> Result<()> {
    if markers.is_empty() {
        return Ok(());
    }
    let script = markers.iter().map(Marker::replace).collect::<Result<String>>()?;
    let said = debugfs(root, &["-w"], &script)?;
    let (looks, right): (Vec<_>, Vec<_>) =
        markers.iter().map(Marker::look).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let shown = debugfs(root, &[], &looks.concat())?;
    // Each answer follows its command, which debugfs repeats.
    let mut answers = shown.split("debugfs: ").skip(1);
    for (marker, right) in markers.iter().zip(right) {
        if !answers.next().is_some_and(|answer| answer.contains(&right)) {
            let said = host::tail(&said, 10);
            anyhow::bail!("debugfs did not replace the marker {}; it said:\n{said}", marker.path.display());
        }
    }
    Ok(())
}

/// What debugfs answers to a script.
fn debugfs(root: &Root<'_>, options: &[&str], script: &str) -> Result<String> {
    let mut command = clean(host::command("debugfs")?, root.epoch);
    let device = format!("{}?offset={}", root.image.display(), root.offset);
    let said =
        host::run_with_input(command.args(options).args(["-f", "/dev/stdin", &device]), script.as_bytes())?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn mke2fs(root: &Root<'_>, survey: &Survey) -> Result<Command> {
    let Root { offset, ids, .. } = root;
    // Inode tables that the kernel would clear at first mount are clear from the start. The journal lies in a hole: no
    // need to write its zeros.
    let extended = format!(
        "lazy_itable_init=0,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed={},offset={offset}",
        ids.hash_seed
    );
    let mut command = clean(host::command("mke2fs")?, root.epoch);
    // A file beside the image would stay there when the build is killed.
    command.env("MKE2FS_CONFIG", "/dev/stdin");
    command.args(["-q", "-F", "-t", "ext4", "-T", "ext4", "-O", FEATURES, "-E", &extended, "-G", "16"]);
    command.args(["-b", &BLOCK.to_string(), "-I", &INODE.to_string(), "-e", "remount-ro"]);
    command.args(["-N", &survey.inodes_of(root.size).to_string(), "-m", &RESERVED_PERCENT.to_string()]);
    command.args([
        "-J",
        &format!("size={}", journal_of(root.size) >> 20),
        "-L",
        root.label,
        "-U",
        &ids.root.to_string(),
    ]);
    command.arg("-d").arg(root.tree).arg(root.image).arg((root.size / BLOCK).to_string());
    Ok(command)
}

/// e2fsprogs without the host's settings, at a fixed time. Before 1.47.1 it knows only the first variable.
fn clean(mut command: Command, epoch: u64) -> Command {
    command.env_clear().env("LC_ALL", "C");
    command.env("E2FSPROGS_FAKE_TIME", epoch.to_string()).env("SOURCE_DATE_EPOCH", epoch.to_string());
    command
}

fn explain(error: anyhow::Error, root: &Root<'_>) -> anyhow::Error {
    let said = problem(&error).map(|problem| problem.message.clone()).unwrap_or_default();
    if said.contains("No space left on device") {
        let message = format!("no space left on the host while writing {}", root.image.display());
        return Problem::work(message).hint("free some space, or name another folder with --out").into();
    }
    if said.contains("Could not allocate") || said.contains("No free space in inode table") {
        let message = format!("the root tree does not fit into {} MiB:\n{said}", root.size >> 20);
        return Problem::input(message).hint("raise `size` (or `free`) in [disk] of the recipe").into();
    }
    error
}

/// Sets the times of all inodes with one debugfs, then reads them again: debugfs returns 0 whatever happened. Changes until
/// `newest` keep their time.
fn settle_times(root: &Root<'_>, newest: u64) -> Result<()> {
    let script = unsettled(root, newest)?;
    if script.is_empty() {
        return Ok(());
    }
    let said = debugfs(root, &["-w"], &script)?;
    if unsettled(root, newest)?.is_empty() {
        return Ok(());
    }
    anyhow::bail!("debugfs did not set the times of all inodes; it said:\n{}", host::tail(&said, 10))
}

/// debugfs commands for every time that is not as it should be.
fn unsettled(root: &Root<'_>, newest: u64) -> Result<String> {
    use std::fmt::Write as _;

    let file = File::open(root.image).with_context(|| format!("opening {}", root.image.display()))?;
    let mut script = String::new();
    let epoch = root.epoch;
    Inodes::open(&file, root.offset)?.each(|number, inode| {
        for (field, at, extra, keep_older) in TIMES {
            let seconds = u32_at(inode, at);
            let settled = u64::from(seconds) == epoch || (keep_older && u64::from(seconds) <= newest);
            if !settled {
                let _ = writeln!(script, "sif <{number}> {field} @{epoch}");
            }
            if u32_at(inode, extra) != 0 {
                let _ = writeln!(script, "sif <{number}> {field}_extra 0");
            }
        }
    })?;
    Ok(script)
}

/// Field, its offset and that of its extension in the inode, whether earlier times stay
/// (the kernel's Documentation/filesystems/ext4/inodes.rst).
const TIMES: [(&str, usize, usize, bool); 4] = [
    ("atime", 0x08, 0x8c, false),
    ("ctime", 0x0c, 0x84, false),
    ("mtime", 0x10, 0x88, true),
    ("crtime", 0x90, 0x94, false),
];

/// The inode tables of a file system that [`make`] has just written.
struct Inodes<'a> {
    file: &'a File,
    offset: u64,
    per_group: u64,
    groups: u64,
}

impl<'a> Inodes<'a> {
    fn open(file: &'a File, offset: u64) -> Result<Self> {
        let mut superblock = [0; 1024];
        file.read_exact_at(&mut superblock, offset + 1024).context("reading the superblock")?;
        let magic = u32_at(&superblock, 0x38) & 0xffff;
        let (inodes, per_group) = (u64::from(u32_at(&superblock, 0)), u64::from(u32_at(&superblock, 0x28)));
        anyhow::ensure!(magic == 0xef53 && per_group > 0, "mke2fs wrote no ext4 superblock");
        Ok(Self { file, offset, per_group, groups: inodes / per_group })
    }

    /// Calls `visit` with the number and bytes of every inode in use.
    fn each(&self, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
        let mut table = vec![0; usize::try_from(self.per_group * INODE)?];
        for group in 0..self.groups {
            let mut descriptor = [0; 64];
            let at = self.offset + BLOCK + group * descriptor.len() as u64;
            self.file.read_exact_at(&mut descriptor, at).context("reading a group descriptor")?;
            let block = u64::from(u32_at(&descriptor, 0x08)) | u64::from(u32_at(&descriptor, 0x28)) << 32;
            self.file
                .read_exact_at(&mut table, self.offset + block * BLOCK)
                .context("reading an inode table")?;
            for (number, inode) in (group * self.per_group + 1..).zip(table.chunks_exact(INODE as usize)) {
                if inode.iter().any(|byte| *byte != 0) {
                    visit(number, inode);
                }
            }
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Root, Survey, make, marker, unsettled};
    use crate::disk::ids::Ids;
    use crate::error::problem;
    use crate::host;
    use crate::units::Digest;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::process::Command;

    const EPOCH: u64 = 1_700_000_000;
    const OFFSET: u64 = 3 << 20;

    /// A tree with a bit of everything; `backwards`: its names are created in the opposite order, so that the host lists
    /// them differently.
    pub(crate) fn tree(top: &Path, backwards: bool) {
        let mut names: Vec<String> =
            (0..400).map(|n| format!("file-{:03}-{}", n * 7919 % 1000, n % 7)).collect();
        if backwards {
            names.reverse();
        }
        for folder in ["big", "Etc", "etc"] {
            fs::create_dir_all(top.join(folder)).expect("folder");
        }
        for name in &names {
            fs::write(top.join("big").join(name), name.repeat(name.len())).expect("file");
        }
        fs::write(top.join("etc/a"), vec![7; 1 << 20]).expect("file");
        fs::hard_link(top.join("etc/a"), top.join("etc/b")).expect("hard link");
        symlink("etc/a", top.join("link")).expect("symlink");
        symlink("/".to_owned() + &"long/".repeat(30), top.join("long")).expect("symlink");
        fs::write(top.join("etc/secret name with spaces"), "x").expect("file");
        fs::set_permissions(top.join("etc/secret name with spaces"), fs::Permissions::from_mode(0o4600))
            .expect("mode");
    }

    fn build(tree: &Path, image: &Path) -> anyhow::Result<u64> {
        let ids = Ids::from_seed(&Digest::of("ext4"));
        let survey = Survey::of(&crate::tree::Root::open(tree)?)?;
        let size = survey.bytes_needed(8 << 20);
        File::create(image)?.set_len(OFFSET + size + (1 << 20))?;
        make(&Root { tree, image, offset: OFFSET, size, ids: &ids, epoch: EPOCH, label: "root" }, &survey)?;
        Ok(size)
    }

    fn debugfs(image: &Path, request: &str) -> String {
        let device = format!("{}?offset={OFFSET}", image.display());
        let mut command = host::command("debugfs").expect("e2fsprogs");
        String::from_utf8_lossy(&host::run(command.args(["-R", request, &device])).expect(request))
            .into_owned()
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let folder = tempfile::tempdir().expect("temp folder");
        let image = |name: &str, backwards| {
            let top = folder.path().join(name).join("tree");
            fs::create_dir_all(&top).expect("folder");
            tree(&top, backwards);
            let image = folder.path().join(name).join("disk.img");
            build(&top, &image).expect("image");
            fs::read(&image).expect("read")
        };
        let one = image("one", false);
        // ext4 counts whole seconds: the second tree shall be made in another one.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(one == image("the other", true), "two images of one tree differ");
    }

    #[test]
    fn the_tree_is_in_the_image() {
        let folder = tempfile::tempdir().expect("temp folder");
        let top = folder.path().join("tree");
        fs::create_dir(&top).expect("folder");
        tree(&top, false);
        File::open(top.join("etc/a")).expect("open").set_modified(std::time::UNIX_EPOCH).expect("time");
        let image = folder.path().join("disk.img");
        let size = build(&top, &image).expect("image");
        let stat = debugfs(&image, "stat etc/a");
        assert!(stat.contains("Links: 2") && stat.contains("Size: 1048576"), "{stat}");
        for time in ["ctime: 0x6553f100:00000000", "atime: 0x6553f100:00000000", "mtime: 0x00000000:00000000"]
        {
            assert!(stat.contains(time), "{time} in {stat}");
        }
        let stat = debugfs(&image, "stat \"etc/secret name with spaces\"");
        assert!(stat.contains("Mode:  04600"), "{stat}");
        assert!(debugfs(&image, "stat link").contains("Fast link dest: \"etc/a\""));
        let whole = fs::read(&image).expect("read");
        fs::write(&image, &whole[OFFSET as usize..][..size as usize]).expect("write");
        host::run(Command::new(host::program("e2fsck").expect("e2fsprogs")).args(["-f", "-n"]).arg(&image))
            .expect("e2fsck finds no fault");
    }

    /// File capabilities are extended attributes; setting them takes root.
    #[test]
    fn capabilities_are_kept() {
        let folder = tempfile::tempdir().expect("temp folder");
        let top = folder.path().join("tree");
        fs::create_dir(&top).expect("folder");
        fs::write(top.join("ping"), "x").expect("file");
        let Ok(setcap) = host::program("setcap") else { return };
        if host::run(Command::new(setcap).arg("cap_net_raw=ep").arg(top.join("ping"))).is_err() {
            return;
        }
        let image = folder.path().join("disk.img");
        build(&top, &image).expect("image");
        assert!(debugfs(&image, "ea_list ping").contains("security.capability"));
    }

    #[test]
    fn markers_become_what_they_stand_for() {
        let folder = tempfile::tempdir().expect("temp folder");
        let top = folder.path().join("tree");
        let diff = top.join("var/lib/docker/overlay2/0123/diff");
        fs::create_dir_all(diff.join("srv")).expect("folder");
        fs::create_dir_all(top.join("elsewhere")).expect("folder");
        let node =
            marker::Node { block: false, major: 1, minor: 3, mode: 0o666, uid: 0, gid: 7, mtime: EPOCH + 9 };
        for (name, content) in [
            (".wh.gone", String::new()),
            (".wh.a \"strange\" name", String::new()),
            ("srv/.wh..wh..opq", String::new()),
            (".wh..wh.node.null", node.to_string()),
            ("late", "x".into()),
        ] {
            fs::write(diff.join(name), content).expect("file");
        }
        fs::write(top.join("elsewhere/.wh.name"), "a file like any other").expect("file");
        let late = std::time::UNIX_EPOCH + std::time::Duration::from_secs(EPOCH + 100);
        File::open(diff.join("late")).expect("open").set_modified(late).expect("time");
        for name in [".wh.gone", ".wh.a \"strange\" name", "srv/.wh..wh..opq", ".wh..wh.node.null", "srv", ""]
        {
            File::open(diff.join(name)).expect("open").set_modified(std::time::UNIX_EPOCH).expect("time");
        }
        for above in diff.ancestors().take_while(|above| above.starts_with(&top)) {
            File::open(above).expect("open").set_modified(std::time::UNIX_EPOCH).expect("time");
        }
        let image = folder.path().join("disk.img");
        let size = build(&top, &image).expect("image");
        let inside = |name: &str| format!("\"/var/lib/docker/overlay2/0123/diff/{name}\"");
        for (name, expected) in [
            ("gone", "Type: character special    Mode:  0000"),
            ("a \"\"strange\"\" name", "Device major/minor number: 00:00"),
            ("null", "Type: character special    Mode:  0666"),
            ("null", "Device major/minor number: 01:03"),
            ("null", "Group:     7"),
            ("null", "mtime: 0x6553f109:00000000"),
            ("late", "mtime: 0x6553f164:00000000"),
        ] {
            let stat = debugfs(&image, &format!("stat {}", inside(name)));
            assert!(stat.contains(expected), "{name}: {expected} in {stat}");
        }
        let list = debugfs(&image, &format!("ea_list {}", inside("srv")));
        assert!(list.contains("trusted.overlay.opaque (1) = \"y\""), "{list}");
        let names = debugfs(&image, &format!("ls {}", inside("")))
            + &debugfs(&image, &format!("ls {}", inside("srv")));
        assert!(!names.contains(".wh."), "{names}");
        assert!(debugfs(&image, "cat /elsewhere/.wh.name").contains("like any other"));
        let whole = fs::read(&image).expect("read");
        fs::write(&image, &whole[OFFSET as usize..][..size as usize]).expect("write");
        host::run(Command::new(host::program("e2fsck").expect("e2fsprogs")).args(["-f", "-n"]).arg(&image))
            .expect("e2fsck finds no fault");
    }

    #[test]
    fn a_tree_that_does_not_fit_is_an_input_problem() {
        let folder = tempfile::tempdir().expect("temp folder");
        let top = folder.path().join("tree");
        fs::create_dir(&top).expect("folder");
        fs::write(top.join("large"), vec![1; 20 << 20]).expect("file");
        let image = folder.path().join("disk.img");
        let size = 28 << 20;
        File::create(&image).expect("image").set_len(OFFSET + size).expect("size");
        let ids = Ids::from_seed(&Digest::of("x"));
        let root =
            Root { tree: &top, image: &image, offset: OFFSET, size, ids: &ids, epoch: EPOCH, label: "root" };
        let survey = Survey::of(&crate::tree::Root::open(&top).expect("open")).expect("walk");
        assert!(survey.bytes_needed(0) > size);
        let error = make(&root, &survey).expect_err("too small");
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.starts_with("the root tree does not fit into 28 MiB"), "{problem}");
        assert!(problem.hint.as_deref().is_some_and(|hint| hint.contains("[disk]")));
    }

    #[test]
    fn times_that_are_not_settled_are_seen() {
        let folder = tempfile::tempdir().expect("temp folder");
        let top = folder.path().join("tree");
        fs::create_dir(&top).expect("folder");
        let image = folder.path().join("disk.img");
        let size = build(&top, &image).expect("image");
        let ids = Ids::from_seed(&Digest::of("ext4"));
        let root =
            Root { tree: &top, image: &image, offset: OFFSET, size, ids: &ids, epoch: EPOCH, label: "root" };
        assert_eq!(unsettled(&root, EPOCH).expect("read"), "");
        debugfs_write(&image, "sif <2> atime @5");
        assert_eq!(unsettled(&root, EPOCH).expect("read"), format!("sif <2> atime @{EPOCH}\n"));
    }

    fn debugfs_write(image: &Path, request: &str) {
        let device = format!("{}?offset={OFFSET}", image.display());
        let mut command = host::command("debugfs").expect("e2fsprogs");
        host::run(command.args(["-w", "-R", request, &device])).expect(request);
    }
}
