use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{FileKind, Root};

/// A tree, and beside it what no method may reach.
struct Trap {
    folder: tempfile::TempDir,
    root: Root,
}

impl Trap {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir_all(folder.path().join("tree/etc")).expect("tree");
        fs::create_dir_all(folder.path().join("outside/sub")).expect("outside");
        for name in ["outside/file", "outside/sub/file"] {
            fs::write(folder.path().join(name), "precious").expect("file");
        }
        let root = Root::open(&folder.path().join("tree")).expect("open");
        Self { folder, root }
    }

    fn host(&self, path: &str) -> PathBuf {
        self.folder.path().join("tree").join(path)
    }

    /// Links to the outside as an overlay can bring them: by its path, and by many steps up.
    fn plant(&self) {
        let outside = self.folder.path().join("outside");
        let up = Path::new(&"../".repeat(40)).join(outside.strip_prefix("/").expect("absolute"));
        symlink(&outside, self.host("absolute")).expect("link");
        symlink(&up, self.host("relative")).expect("link");
        symlink(outside.join("file"), self.host("etc/file-link")).expect("link");
        symlink(up.join("file"), self.host("etc/file-link-up")).expect("link");
    }

    fn intact(&self) {
        let outside = self.folder.path().join("outside");
        let names: Vec<_> = ["file", "sub"].map(|name| outside.join(name)).into();
        let mut found: Vec<_> =
            fs::read_dir(&outside).expect("outside").map(|entry| entry.expect("entry").path()).collect();
        found.sort();
        assert_eq!(found, names);
        for name in ["file", "sub/file"] {
            assert_eq!(fs::read_to_string(outside.join(name)).expect("file"), "precious");
            let data = outside.join(name).metadata().expect("file");
            assert_eq!((data.mode() & 0o777, data.nlink()), (0o644, 1));
        }
        let inside = fs::read_dir(self.folder.path()).expect("folder").count();
        assert_eq!(inside, 2, "something was made beside the tree");
    }
}

#[test]
fn nothing_outside_is_read() {
    let trap = Trap::new();
    trap.plant();
    let root = &trap.root;
    for path in [
        "absolute/file",
        "relative/file",
        "etc/file-link",
        "etc/file-link-up",
        "../outside/file",
        "/../../outside/file",
        "etc/../../outside/file",
    ] {
        assert_eq!(root.stat(path).expect(path), None, "{path}");
        assert!(root.open_file(path).expect(path).is_none(), "{path}");
        assert_eq!(root.read(path, 100).expect(path), None, "{path}");
        assert!(root.handle(path).is_err(), "{path}");
    }
    for path in ["absolute", "relative", "absolute/sub", "../outside", ".."] {
        let names: Vec<_> = root.list(path).expect(path).into_iter().map(|entry| entry.name).collect();
        assert!(!names.iter().any(|name| name == "file"), "{path}: {names:?}");
    }
    let mut seen = Vec::new();
    let mut visit = |path: &Path, _: &super::Meta| {
        seen.push(path.display().to_string());
        Ok(())
    };
    root.walk("", &mut visit).expect("walk");
    assert_eq!(seen, ["absolute", "etc", "etc/file-link", "etc/file-link-up", "relative"]);
}

/// Every method that changes something, through each kind of link.
#[test]
fn nothing_outside_is_changed() {
    let change = |trap: &Trap, folder: &str| {
        let root = &trap.root;
        let at = |name: &str| format!("{folder}/{name}");
        // Whether these fail is told elsewhere; where they act is told here.
        root.truncate(at("file")).ok();
        root.remove(at("file")).ok();
        root.remove(at("sub")).ok();
        root.empty(folder).ok();
        root.set_mode(at("file"), 0o600).ok();
        root.set_owner(at("file"), 0, 0).ok();
        root.set_time(at("file"), 1).ok();
        root.set_attribute(at("file"), "user.x", b"x").ok();
        root.rename(at("file"), "etc/taken").ok();
        root.hard_link(at("file"), "etc/taken").ok();
        root.make_folders(at("new/er")).ok();
        root.make_folder(at("one"), 0o700).ok();
        root.write(at("written"), 0o644, b"x").ok();
        root.symlink("x", at("linked")).ok();
        root.make_node(at("pipe"), FileKind::Fifo, 0o600, 0).ok();
        fs::write(trap.host("etc/mine"), "x").expect("file");
        root.rename("etc/mine", at("moved")).ok();
        fs::write(trap.host("etc/mine"), "x").expect("file");
        root.hard_link("etc/mine", at("named")).ok();
    };
    for folder in ["absolute", "relative", "../outside", "etc/../../outside", "/../outside"] {
        let trap = Trap::new();
        trap.plant();
        change(&trap, folder);
        trap.intact();
    }
    let trap = Trap::new();
    trap.plant();
    for link in ["etc/file-link", "etc/file-link-up"] {
        trap.root.truncate(link).ok();
        trap.root.set_mode(link, 0o600).ok();
        trap.root.set_time(link, 1).expect("of the link");
        trap.root
            .set_owner(link, nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
            .expect(link);
        trap.root.write(link, 0o640, b"mine").expect("in place of the link");
        assert_eq!(fs::read(trap.host(link)).expect("file"), b"mine");
        assert!(trap.host(link).symlink_metadata().expect("file").is_file());
    }
    trap.intact();
}

#[test]
fn links_are_followed_inside() {
    let trap = Trap::new();
    let root = &trap.root;
    fs::create_dir_all(trap.host("data/cloud/instance")).expect("folder");
    fs::create_dir_all(trap.host("var/lib")).expect("folder");
    fs::write(trap.host("data/id"), "0123").expect("file");
    symlink("/data/cloud", trap.host("var/lib/cloud")).expect("link");
    symlink("../../../../../data/id", trap.host("etc/machine-id")).expect("link");
    assert_eq!(root.read_text("/etc/machine-id", 10).expect("read"), Some("0123".into()));
    assert_eq!(root.canonical("var/lib/cloud/instance").expect("path"), Path::new("/data/cloud/instance"));
    assert_eq!(root.canonical("etc/machine-id").expect("path"), Path::new("/data/id"));
    assert!(root.truncate("etc/machine-id").expect("truncate"));
    assert_eq!(fs::read(trap.host("data/id")).expect("file"), b"");
    root.empty("var/lib/cloud").expect("empty");
    assert!(trap.host("data/cloud").is_dir() && !trap.host("data/cloud/instance").exists());
    assert!(root.remove("var/lib/cloud").expect("remove"));
    assert!(trap.host("data/cloud").is_dir(), "the link itself is removed");
}

/// A link to a folder that the tree does not have yet: the device would find what it says, so that is what is made.
#[test]
fn folders_are_made_where_links_lead() {
    let trap = Trap::new();
    let root = &trap.root;
    symlink("/data/etc", trap.host("etc/conf.d")).expect("link");
    root.write("etc/conf.d/sub/x.conf", 0o640, b"x").expect("write");
    let made = trap.host("data/etc/sub/x.conf");
    assert_eq!(fs::read(&made).expect("file"), b"x");
    assert_eq!(made.metadata().expect("file").permissions().mode() & 0o7777, 0o640);
    assert_eq!(trap.host("data/etc").metadata().expect("folder").permissions().mode() & 0o7777, 0o755);
    fs::write(trap.host("etc/file"), "x").expect("file");
    let error = root.write("etc/file/x", 0o644, b"x").expect_err("a file on the way");
    assert!(format!("{error:#}").contains("/etc/file is no folder in the image"), "{error:#}");
}

#[test]
fn circles_end() {
    let trap = Trap::new();
    symlink("b", trap.host("a")).expect("link");
    symlink("a", trap.host("b")).expect("link");
    let root = &trap.root;
    assert!(root.stat("a").is_err() && root.canonical("a/x").is_err() && root.make_folders("a/x").is_err());
    assert!(root.lstat("a").expect("the link").is_some());
    assert!(root.remove("a").expect("the link"));
}

/// A pipe would wait for a writer, and some devices act when opened.
#[test]
fn only_regular_files_are_opened() {
    let trap = Trap::new();
    let root = &trap.root;
    root.make_node("etc/passwd", FileKind::Fifo, 0o622, 0).expect("pipe");
    let data = trap.host("etc/passwd").symlink_metadata().expect("pipe");
    assert!(data.file_type().is_fifo());
    assert_eq!(data.permissions().mode() & 0o777, 0o622);
    let error = root.read("etc/passwd", 100).expect_err("no file");
    assert_eq!(error.to_string(), "/etc/passwd is a named pipe, not a regular file");
    assert!(root.read("etc", 100).is_err() && root.truncate("etc/passwd").is_err());
    assert!(root.open_file_nofollow("etc/passwd").is_err());
    assert!(root.make_node("etc/x", FileKind::Socket, 0o600, 0).is_err());
}

#[test]
fn what_is_not_there() {
    let trap = Trap::new();
    let root = &trap.root;
    assert_eq!(root.lstat("no/such").expect("lstat"), None);
    assert!(root.open_file("no").expect("open").is_none() && !root.exists("no") && !root.is_folder("no"));
    assert!(root.list("no").expect("list").is_empty());
    assert!(!root.remove("no/such").expect("remove") && !root.truncate("no").expect("truncate"));
    assert_eq!(root.read_link("etc").expect("no link"), None);
    assert!(root.set_mode("no", 0o600).is_err() && root.rename("no", "x").is_err());
    for nameless in ["", "/", "..", "etc/.."] {
        assert!(root.write(nameless, 0o644, b"").is_err() && root.remove(nameless).is_err(), "{nameless}");
    }
    assert!(Root::open(&trap.host("no")).is_err());
}

#[test]
fn files_come_and_go() {
    let trap = Trap::new();
    let root = &trap.root;
    root.write("srv/a", 0o4755, b"a").expect("write");
    root.hard_link("srv/a", "srv/b").expect("link");
    root.hard_link("srv/a", "srv/b").expect("again");
    let [a, b] = ["srv/a", "srv/b"].map(|path| root.lstat(path).expect("lstat").expect("there"));
    assert_eq!((a.id, a.links, a.mode, a.size), (b.id, 2, 0o4755, 1));
    root.create("srv/b", 0o600).expect("anew").write_all(b"other").expect("write");
    assert_eq!(root.read("srv/a", 10).expect("read"), Some(b"a".to_vec()), "replaced, not written through");
    let mut text = String::new();
    root.open_file("srv/b").expect("open").expect("there").read_to_string(&mut text).expect("read");
    assert_eq!(text, "other");
    assert!(root.read("srv/b", 4).is_err() && root.read("srv/b", 5).is_ok());
    root.symlink("a", "srv/b").expect("in its place");
    assert_eq!(root.read_link("srv/b").expect("link"), Some(PathBuf::from("a")));
    assert!(root.open_file_nofollow("srv/b").is_err());
    root.rename("srv/a", "srv/c").expect("rename");
    root.set_time("srv/c", 1_700_000_000).expect("time");
    root.set_time("", 1_700_000_000).expect("time of the root");
    assert_eq!(trap.host("").metadata().expect("root").mtime(), 1_700_000_000);
    assert_eq!(root.stat("srv/c").expect("stat").expect("there").mtime, 1_700_000_000);
    let names: Vec<_> = root.list("srv").expect("list").into_iter().map(|e| (e.name, e.kind)).collect();
    assert_eq!(names, [("b".into(), FileKind::Link), ("c".into(), FileKind::File)]);
    assert!(root.write("srv", 0o644, b"").is_err(), "a folder is not replaced");
    assert!(root.remove("srv").expect("remove") && !trap.host("srv").exists());
}
