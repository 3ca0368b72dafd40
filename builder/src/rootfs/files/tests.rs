//! Entries are laid over a small tree in a temporary folder.

use super::write_entries;
use crate::tree::Root;
use crate::tree::entry::{EntryKind, Origin, TreeEntry};
use crate::units::Digest;
use std::fs;
use std::path::Path;

struct Tree {
    folder: tempfile::TempDir,
    root: Root,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("root")).expect("a tree");
        let root = Root::open(&folder.path().join("root")).expect("a root");
        Self { folder, root }
    }

    fn lay(&self, entries: &[TreeEntry]) -> Result<(), String> {
        write_entries(&self.root, entries, &self.folder.path().join("blobs"))
            .map_err(|error| format!("{error:#}"))
    }

    fn mode(&self, path: &str) -> u32 {
        self.root.lstat(path).expect("look").expect(path).mode
    }

    fn text(&self, path: &str) -> String {
        self.root.read_text(path, 1 << 20).expect("read").expect(path)
    }
}

fn laid(path: &str, mode: u32, kind: EntryKind, overlay: usize) -> TreeEntry {
    let origin = Origin { file: format!("{overlay}{path}").into(), overlay };
    TreeEntry { path: path.into(), mode, kind, origin: Some(origin) }
}

fn file(path: &str, content: &str, overlay: usize) -> TreeEntry {
    laid(path, 0o644, EntryKind::File(content.into()), overlay)
}

#[test]
fn folders_that_are_there_keep_their_mode() {
    let tree = Tree::new();
    tree.root.make_folders("/var").expect("a folder");
    tree.root.make_folder("/root", 0o700).expect("a folder");
    tree.root.make_folder("/var/tmp", 0o1777).expect("a folder");
    tree.root.make_folder("/opt", 0o750).expect("a folder");
    tree.lay(&[
        file("/root/.bash_aliases", "x", 0),
        file("/var/tmp/note", "x", 0),
        file("/srv/new/x", "x", 0),
        laid("/root", 0o755, EntryKind::Directory, 0),
        laid("/var/lib/queue", 0o755, EntryKind::Directory, 0),
        laid("/opt", 0o2775, EntryKind::StatedDirectory, 0),
    ])
    .expect("laid");
    for (path, mode) in [
        ("/root", 0o700),
        ("/var/tmp", 0o1777),
        ("/srv", 0o755),
        ("/srv/new", 0o755),
        ("/var/lib/queue", 0o755),
        ("/opt", 0o2775),
        ("/root/.bash_aliases", 0o644),
    ] {
        assert_eq!(tree.mode(path), mode, "{path}");
    }
}

/// A link that only the packages bring makes two names one.
#[test]
fn the_later_overlay_decides_by_whichever_name() {
    let tree = Tree::new();
    tree.root.make_folders("/usr/share/vendor").expect("a folder");
    tree.root.symlink("usr/share/vendor", "/vendor").expect("a link");
    let (own, theirs) = ("/vendor/x", "/usr/share/vendor/x");
    tree.lay(&[file(theirs, "theirs", 0), file(own, "own", 1)]).expect("laid");
    assert_eq!(tree.text(theirs), "own");
    let error =
        tree.lay(&[file(theirs, "theirs", 0), file(own, "own", 0)]).expect_err("one overlay, two files");
    assert_eq!(error, "0/usr/share/vendor/x and 0/vendor/x have one name in the image, /usr/share/vendor/x");
}

#[test]
fn what_is_no_folder_is_called_what_it_is() {
    let tree = Tree::new();
    tree.root.write("/etc/x", 0o644, b"").expect("a file");
    tree.root.make_folders("/var/lib/site").expect("a folder");
    for (entry, says) in [
        (
            file("/etc/x/y", "", 0),
            "0/etc/x/y cannot be laid: it is a file, and /etc/x is a regular file in the image",
        ),
        (
            laid("/etc/x", 0o755, EntryKind::Directory, 0),
            "0/etc/x cannot be laid: it is a folder, and /etc/x is a regular file in the image",
        ),
        (
            laid("/var/lib/site", 0o777, EntryKind::Symlink("/srv".into()), 0),
            "0/var/lib/site cannot be laid: it is a symlink, and /var/lib/site is a folder in the image",
        ),
        (
            file("/var/lib/site", "", 0),
            "0/var/lib/site cannot be laid: it is a file, and /var/lib/site is a folder",
        ),
    ] {
        let error = tree.lay(&[entry]).expect_err(says);
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn a_file_replaces_a_link_and_a_link_a_file() {
    let tree = Tree::new();
    tree.root.write("/other", 0o644, b"old").expect("a file");
    tree.root.symlink("other", "/file").expect("a link");
    tree.lay(&[file("/file", "new", 0), laid("/other", 0o777, EntryKind::Symlink("file".into()), 0)])
        .expect("laid");
    assert_eq!(tree.text("/file"), "new");
    assert_eq!(tree.root.read_link("/other").expect("look").as_deref(), Some(Path::new("file")));
}

#[test]
fn contents_come_from_the_store_and_are_looked_at() {
    let tree = Tree::new();
    let digest = Digest::of("content");
    let hex = digest.to_string();
    let folder = tree.folder.path().join("blobs").join(&hex[..2]);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(&hex), "content").expect("a blob");
    let entry = laid("/opt/model", 0o755, EntryKind::Blob(digest), 0);
    tree.lay(std::slice::from_ref(&entry)).expect("laid");
    assert_eq!((tree.text("/opt/model"), tree.mode("/opt/model")), ("content".into(), 0o755));
    fs::write(folder.join(&hex), "c0ntent").expect("a blob");
    let error = tree.lay(&[entry]).expect_err("damaged");
    assert!(error.contains("laying 0/opt/model: the store is damaged"), "{error}");
}
