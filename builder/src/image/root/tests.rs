//! A small file system made by mke2fs, whole and damaged.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Part, Root, look};
use crate::host;
use crate::inspect::{leaks, system};
use crate::rootfs::guard::{Allowed, PathKind};
use crate::units::Digest;

const SIZE: u64 = 512 << 10;
/// The file system begins here, as a partition does.
const OFFSET: u64 = 8192;

/// An image with a tree of every kind of thing; `features` as mke2fs has them.
fn image(features: &str) -> File {
    let tree = tempfile::tempdir().expect("folder");
    let top = tree.path();
    fs::create_dir_all(top.join("etc/deep/er")).expect("folder");
    fs::create_dir_all(top.join("var/lib/dpkg")).expect("folder");
    fs::write(top.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").expect("file");
    fs::write(top.join("var/lib/dpkg/status"), "Package: a\nStatus: install ok installed\nVersion: 1\n")
        .expect("file");
    fs::write(top.join("etc/large"), vec![7; 20_000]).expect("file");
    fs::set_permissions(top.join("etc/large"), fs::Permissions::from_mode(0o4750)).expect("mode");
    symlink("/etc/deep", top.join("absolute")).expect("link");
    symlink("../../large", top.join("etc/deep/er/relative")).expect("link");
    symlink("round", top.join("round")).expect("link");
    symlink("x".repeat(200), top.join("long")).expect("link");
    (0..40).for_each(|number| fs::write(top.join(format!("etc/deep/{number}")), "x").expect("file"));
    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(OFFSET + SIZE).expect("size");
    let mut mke2fs = host::command("mke2fs").expect("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-N", "96", "-O", features, "-d"]);
    mke2fs.arg(top).args(["-E", &format!("offset={OFFSET},root_owner=0:0")]).arg(image.path());
    host::run(mke2fs.arg(format!("{}k", SIZE >> 10))).expect("mke2fs");
    image.into_file()
}

fn part(image: &File) -> Part {
    Part { file: image.try_clone().expect("file"), offset: OFFSET, size: SIZE }
}

fn with<T: Send + 'static>(image: &File, see: impl FnOnce(&Root) -> Result<T> + Send + 'static) -> Result<T> {
    look(vec![part(image)], |roots| see(&roots[0]))
}

#[test]
fn what_is_there_is_read() {
    let image = image("^has_journal");
    with(&image, |root| {
        let stat = root.stat(Path::new("/etc/large"))?.expect("there");
        assert_eq!((stat.kind, stat.size, stat.mode), ('-', 20_000, 0o4750));
        assert_eq!(root.digest(Path::new("etc/large"))?, Digest::of(vec![7; 20_000]));
        for path in ["absolute/er/relative", "/absolute/../deep/er/relative", "etc/deep/er/relative"] {
            assert_eq!(root.end(Path::new(path))?.as_deref(), Some(Path::new("/etc/large")), "{path}");
        }
        assert_eq!(root.link(Path::new("absolute"))?.as_deref(), Some(Path::new("/etc/deep")));
        assert_eq!(root.link(Path::new("long"))?.map(|target| target.as_os_str().len()), Some(200));
        assert!(root.stat(Path::new("long"))?.is_none());
        assert!(root.stat(Path::new("round")).is_err());
        assert!(root.stat(Path::new("etc/large/x"))?.is_none());
        assert_eq!(root.list(Path::new("etc/deep"))?.len(), 41);
        assert_eq!(root.list(Path::new("etc/large"))?, []);
        assert!(root.list(Path::new("etc"))?.contains(&("deep".into(), PathKind::Folder)));
        assert!(root.read(Path::new("etc/large"), 19_999).is_err());
        assert_eq!(root.read(Path::new("etc/deep"), 10)?, None);
        Ok(())
    })
    .expect("reads");
}

/// As much as an inspection does, and every file.
fn everything(root: &Root) -> Result<u64> {
    leaks::on_root(root, &system::look(root, None)?, &Allowed::default())?;
    leaks::elsewhere(root, "partition 3")?;
    let mut folders = vec![std::path::PathBuf::from("/")];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        anyhow::ensure!(folder.components().count() < 20, "too deep");
        for (name, kind) in root.list(&folder)? {
            let path = folder.join(name);
            match kind {
                PathKind::Folder => folders.push(path),
                PathKind::File => {
                    bytes += root.read(&path, 1 << 20)?.map_or(0, |content| content.len() as u64);
                }
                PathKind::Other => drop(root.link(&path)?),
            }
        }
    }
    Ok(bytes)
}

/// Without checksums, so that what is damaged is met, not refused.
#[test]
fn damage_is_an_error_at_most() {
    for features in ["^has_journal,^metadata_csum", "^has_journal,^metadata_csum,^extent,^64bit"] {
        let image = image(features);
        assert!(with(&image, everything).expect("sound") > 20_000);
        let mut bytes = vec![0; SIZE as usize];
        image.read_exact_at(&mut bytes, OFFSET).expect("read");
        // Everything but empty space and the large file's content.
        let telling = |at: &usize| ![0, 7].contains(&bytes[*at]);
        let places: Vec<usize> = (1024..bytes.len()).filter(telling).collect();
        let (begin, mut damaged) = (Instant::now(), 0);
        for (turn, at) in places.iter().step_by(places.len().div_ceil(600)).enumerate() {
            let flipped = bytes[*at] ^ [1, 0x80, 0xff, 0x10][turn % 4];
            image.write_all_at(&[flipped], OFFSET + *at as u64).expect("write");
            damaged += usize::from(with(&image, everything).is_err());
            image.write_all_at(&[bytes[*at]], OFFSET + *at as u64).expect("write");
        }
        assert!(damaged > 10, "{damaged} of {} damages were met", places.len());
        assert!(begin.elapsed() < Duration::from_secs(120), "reading damaged file systems takes for ever");
    }
}

#[test]
fn a_cut_file_system() {
    let image = image("^has_journal");
    for size in [0, 1000, 1500, 3000, 40_000, SIZE - 1024] {
        let part = || Part { size, ..part(&image) };
        assert!(look(vec![part()], |_| Ok(())).is_err(), "{size}");
    }
    let short = tempfile::tempfile().expect("file");
    let mut head = vec![0; 4096];
    image.read_exact_at(&mut head, OFFSET).expect("read");
    short.write_all_at(&head, OFFSET).expect("write");
    assert!(with(&short, everything).is_err());
}

#[test]
fn a_panic_is_an_error() {
    let image = image("^has_journal");
    let error = with::<()>(&image, |_| panic!("as a reader of file systems may")).expect_err("an error");
    assert!(error.to_string().contains("its reader failed"), "{error}");
}
