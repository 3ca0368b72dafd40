//! Overlay folders are made in a temporary folder and rendered.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::lay::leaves_root;
use super::{Laid, What, render, store};
use crate::tree::entry::{EntryKind, Origin, TreeEntry};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn render(&self, folders: &[&str]) -> Result<Vec<Laid>, String> {
        let mut recipe = crate::recipe::test_recipe();
        recipe.overlays = folders.iter().map(|folder| self.0.path().join(folder)).collect();
        let root = format!("{}/", self.0.path().display());
        render(&recipe, 7).map_err(|error| error.to_string().replace(&root, ""))
    }
}

fn shown(laid: &[Laid]) -> Vec<String> {
    let line = |one: &Laid| {
        let (path, mode) = (one.path.display(), one.mode);
        let text = || String::from_utf8(one.beginning(1 << 20).expect("content")).expect("text");
        match &one.what {
            What::Folder => format!("{path} {mode:o} folder"),
            What::StatedFolder => format!("{path} {mode:o} folder of this mode"),
            What::Symlink(target) => format!("{path} {mode:o} -> {}", target.display()),
            _ => format!("{path} {mode:o} {}", text()),
        }
    };
    laid.iter().map(line).collect()
}

#[test]
fn files_templates_and_links() {
    let folder = Folder::new();
    folder.file("base/etc/a.conf", "a");
    folder.file("base/etc/b.conf.tera", "{{ recipe.name }} {{ epoch }}");
    folder.file("base/etc/none.d/c.conf.tera", "{% if recipe.network.proxy %}x{% endif %}\n");
    folder.file("base/usr/secret", "s");
    folder.file("base/overlay.toml", "[modes]\n\"/usr/secret\" = \"0600\"\nusr = \"0700\"\n");
    let tool = folder.file("base/usr/bin/tool", "#!/bin/sh");
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o700)).expect("a mode");
    symlink("../usr/bin/tool", folder.0.path().join("base/etc/link")).expect("a symlink");
    folder.file("own/etc/a.conf", "mine");
    folder.file("own/usr/bin/tool.tera", " ");
    let entries = folder.render(&["base", "own"]).expect("rendered");
    assert_eq!(
        shown(&entries),
        [
            "/etc/a.conf 644 mine",
            "/etc/b.conf 644 test 7",
            "/etc/link 777 -> ../usr/bin/tool",
            "/usr 700 folder of this mode",
            "/usr/secret 600 s",
        ]
    );
}

#[test]
fn what_cannot_be_laid_over_an_image() {
    type Make = fn(&Folder);
    let cases: [(&str, Make); 7] = [
        ("the overlay base does not exist", |_| {}),
        ("base/x and base/x.tera have one name", |folder| {
            folder.file("base/x.tera", "1");
            folder.file("base/x", "2");
        }),
        ("points out of the image", |folder| {
            folder.file("base/etc/x", "1");
            symlink("../../../root", folder.0.path().join("base/etc/up")).expect("a symlink");
        }),
        ("is a device, pipe or socket", |folder| {
            folder.file("base/x", "1");
            let _ = std::os::unix::net::UnixListener::bind(folder.0.path().join("base/s")).expect("a socket");
        }),
        ("which the overlay does not have", |folder| {
            folder.file("base/x", "1");
            folder.file("base/overlay.toml", "[modes]\n\"/y\" = \"0600\"");
        }),
        ("bad mode", |folder| {
            folder.file("base/overlay.toml", "[modes]\n\"../x\" = \"0600\"");
        }),
        ("etc/x.tera:2: unknown variable `recipe.nothing`", |folder| {
            folder.file("base/etc/x.tera", "\n{{ recipe.nothing }}");
        }),
    ];
    for (says, make) in cases {
        let folder = Folder::new();
        make(&folder);
        let error = folder.render(&["base"]).expect_err(says);
        assert!(
            error.contains(says) || (says.contains(" and ") && error.contains("have one name")),
            "{error}"
        );
    }
}

#[test]
fn a_folder_is_not_laid_over_a_file() {
    let folder = Folder::new();
    folder.file("base/etc/x", "1");
    folder.file("own/etc/x/y", "2");
    let error = folder.render(&["base", "own"]).expect_err("a conflict");
    assert_eq!(error, "own/etc/x/y needs the folder /etc/x, which is a file in base/etc/x");
}

#[test]
fn digests_tell_entries_apart() {
    let entry = |path: &str, mode, kind| TreeEntry::own(path, mode, kind).digest();
    let later = |overlay| Some(Origin { file: "x".into(), overlay });
    let all = [
        entry("/a", 0o644, EntryKind::File(b"b".into())),
        entry("/a", 0o600, EntryKind::File(b"b".into())),
        entry("/ab", 0o644, EntryKind::File(Vec::new())),
        entry("/a", 0o644, EntryKind::Symlink("b".into())),
        entry("/a", 0o644, EntryKind::Blob(crate::units::Digest::of("b"))),
        entry("/a", 0o644, EntryKind::Directory),
        entry("/a", 0o644, EntryKind::StatedDirectory),
        TreeEntry { origin: later(1), ..TreeEntry::own("/a", 0o644, EntryKind::Directory) }.digest(),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    // Where the work tree lies makes no other image.
    let of = |file: &str| Origin { file: file.into(), overlay: 0 };
    let at = |file| {
        TreeEntry { origin: Some(of(file)), ..TreeEntry::own("/a", 0o644, EntryKind::Directory) }.digest()
    };
    assert_eq!(at("one"), at("two"));
}

#[test]
fn links_stay_inside() {
    for (inside, target, leaves) in [
        ("/etc", "../usr", false),
        ("/etc", "../../usr", true),
        ("/", "..", true),
        ("/a/b", "/../x", true),
        ("/a/b", "/x/../y", false),
        ("/a", "x/../../../y", true),
    ] {
        assert_eq!(leaves_root(Path::new(inside), Path::new(target)), leaves, "{inside} {target}");
    }
}

#[test]
fn one_file_by_two_names() {
    let folder = Folder::new();
    folder.file("vendor/usr/lib/site/settings", "vendor");
    folder.file("own/lib/site/settings", "own");
    folder.file("own/var/run/site/x", "x");
    let laid = folder.render(&["vendor", "own"]).expect("rendered");
    assert_eq!(shown(&laid), ["/run/site/x 644 x", "/usr/lib/site/settings 644 own"]);
    let laid = folder.render(&["own", "vendor"]).expect("rendered");
    assert_eq!(shown(&laid)[1], "/usr/lib/site/settings 644 vendor");

    folder.file("own/usr/lib/site/settings", "again");
    let error = folder.render(&["own"]).expect_err("a clash");
    assert!(
        error.contains("own/lib/site/settings") && error.contains("have one name in the image"),
        "{error}"
    );
    // Nothing there takes away what the other name brought.
    folder.file("none/lib/site/settings.tera", " ");
    assert_eq!(shown(&folder.render(&["vendor", "none"]).expect("rendered")), [] as [&str; 0]);
}

#[test]
fn links_of_overlays_are_followed() {
    let folder = Folder::new();
    let link = |target: &str, path: &str| {
        let path = folder.0.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        symlink(target, path).expect("a symlink");
    };
    link("srv/data", "one/data");
    folder.file("two/data/x", "two");
    folder.file("one/srv/data/x", "one");
    let laid = folder.render(&["one", "two"]).expect("rendered");
    assert_eq!(shown(&laid), ["/data 777 -> srv/data", "/srv/data/x 644 two"]);
    // The other way about, the link would stand where a folder with files is.
    let error = folder.render(&["two", "one"]).expect_err("a conflict");
    assert_eq!(error, "two/data/x needs the folder /data, which is a symlink in one/data");
    // As every image has it: nothing to do. Otherwise: not this link.
    link("usr/lib", "same/lib");
    link("/run", "same/var/run");
    folder.file("same/x", "x");
    assert_eq!(shown(&folder.render(&["same"]).expect("rendered")), ["/x 644 x"]);
    link("/opt/bin", "other/bin");
    let error = folder.render(&["other"]).expect_err("another link");
    assert_eq!(error, "other/bin cannot be laid: /bin is a link to usr/bin in every image");
    folder.file("file/sbin", "x");
    assert!(folder.render(&["file"]).expect_err("a file").contains("file/sbin cannot be laid"));
    link("b", "circle/a");
    link("a", "circle/b");
    folder.file("into/a/x", "x");
    assert!(folder.render(&["circle", "into"]).expect_err("a circle").contains("go in circles"));
}

#[test]
fn empty_folders_are_made() {
    let folder = Folder::new();
    for path in ["base/var/lib/site/queue", "base/lib/site", "base/usr/lib/site"] {
        std::fs::create_dir_all(folder.0.path().join(path)).expect("folders");
    }
    folder.file("base/srv/kept/.gitkeep", "");
    folder.file("base/overlay.toml", "[modes]\n\"var/lib/site/queue\" = \"1777\"\n");
    let expected =
        ["/srv/kept 755 folder", "/usr/lib/site 755 folder", "/var/lib/site/queue 1777 folder of this mode"];
    assert_eq!(shown(&folder.render(&["base"]).expect("rendered")), expected);
    // A later overlay that has the folder too does not take the mode away.
    std::fs::create_dir_all(folder.0.path().join("own/var/lib/site/queue")).expect("folders");
    assert_eq!(shown(&folder.render(&["base", "own"]).expect("rendered")), expected);
}

#[test]
fn modes_by_whichever_name() {
    let folder = Folder::new();
    folder.file("base/lib/site/x", "x");
    folder.file("base/overlay.toml", "[modes]\n\"usr/lib/site/x\" = \"0600\"\nlib = \"0711\"\n");
    let laid = folder.render(&["base"]).expect("rendered");
    assert_eq!(shown(&laid), ["/usr/lib 711 folder of this mode", "/usr/lib/site/x 600 x"]);
    folder.file("base/overlay.toml", "[modes]\n\"usr/lib/site/x\" = \"0600\"\n\"lib/site/x\" = \"0700\"\n");
    let error = folder.render(&["base"]).expect_err("twice");
    assert!(error.contains("which are one"), "{error}");
    symlink("x", folder.0.path().join("base/lib/site/y")).expect("a symlink");
    folder.file("base/overlay.toml", "[modes]\n\"lib/site/y\" = \"0600\"\n");
    assert!(folder.render(&["base"]).expect_err("a symlink").contains("which is a symlink"));
}

#[test]
fn private_folders_of_a_home() {
    let folder = Folder::new();
    folder.file("base/home/edge/.ssh/config", "x");
    folder.file("base/root/.ssh/known_hosts", "x");
    folder.file("base/etc/.ssh/x", "x");
    folder.file("base/overlay.toml", "[modes]\n\"root/.ssh/known_hosts\" = \"0644\"\n");
    assert_eq!(
        shown(&folder.render(&["base"]).expect("rendered")),
        [
            "/etc/.ssh/x 644 x",
            "/home/edge/.ssh 700 folder of this mode",
            "/home/edge/.ssh/config 600 x",
            "/root/.ssh 700 folder of this mode",
            "/root/.ssh/known_hosts 644 x",
        ]
    );
}

/// Whatever an overlay holds, what travels is a digest.
#[test]
fn contents_go_into_the_store() {
    let folder = Folder::new();
    let large = "x".repeat(3 << 20);
    folder.file("base/opt/model", &large);
    folder.file("base/opt/b.tera", "{{ recipe.name }}");
    folder.file("own/opt/a", "a");
    let kept = crate::store::Store::open(Some(folder.0.path().join("store"))).expect("a store");
    let laid = folder.render(&["base", "own"]).expect("rendered");
    let entries = store(&laid, &kept).expect("stored");
    let names: Vec<_> = entries.iter().map(|entry| entry.path.display().to_string()).collect();
    assert_eq!(names, ["/opt/b", "/opt/model", "/opt/a"], "earlier overlays first");
    assert!(entries.iter().all(|entry| matches!(entry.kind, EntryKind::Blob(_))));
    assert!(serde_json::to_vec(&entries).expect("JSON").len() < 2000);
    assert_eq!(entries[1].kind, EntryKind::Blob(crate::units::Digest::of(&large)));
    assert!(kept.has_blob(&crate::units::Digest::of("test")));
    assert_eq!(store(&laid, &kept).expect("again"), entries);
}

#[test]
fn a_template_is_no_larger_than_is_read() {
    let folder = Folder::new();
    folder.file("base/x.tera", &"x".repeat((1 << 20) + 1));
    let error = folder.render(&["base"]).expect_err("too large");
    assert!(error.starts_with("the template base/x.tera has 1048577 bytes"), "{error}");
}
