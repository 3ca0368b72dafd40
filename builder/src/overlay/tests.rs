//! Overlay folders are made in a temporary folder and rendered.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Entry, Kind, leaves_root, render};

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

    fn render(&self, folders: &[&str]) -> Result<Vec<Entry>, String> {
        let mut recipe = crate::recipe::test_recipe();
        recipe.overlays = folders.iter().map(|folder| self.0.path().join(folder)).collect();
        let root = format!("{}/", self.0.path().display());
        render(&recipe, 7).map_err(|error| error.to_string().replace(&root, ""))
    }
}

fn shown(entries: &[Entry]) -> Vec<String> {
    let line = |entry: &Entry| {
        let (path, mode) = (entry.path.display(), entry.mode);
        match &entry.kind {
            Kind::Directory => format!("{path} {mode:o} folder"),
            Kind::File(bytes) => format!("{path} {mode:o} {}", String::from_utf8_lossy(bytes)),
            Kind::Symlink(target) => format!("{path} {mode:o} -> {}", target.display()),
        }
    };
    entries.iter().map(line).collect()
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
            "/etc 755 folder",
            "/etc/a.conf 644 mine",
            "/etc/b.conf 644 test 7",
            "/etc/link 777 -> ../usr/bin/tool",
            "/usr 700 folder",
            "/usr/secret 600 s",
        ]
    );
}

#[test]
fn what_cannot_be_laid_over_an_image() {
    type Make = fn(&Folder);
    let cases: [(&str, Make); 7] = [
        ("the overlay base is not a folder", |_| {}),
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
    assert_eq!(error, "own/etc/x/y needs the folder /etc/x, which is a file or symlink in base/etc/x");
}

#[test]
fn digests_tell_entries_apart() {
    let entry = |path: &str, mode, kind| Entry { path: path.into(), mode, kind }.digest();
    let all = [
        entry("/a", 0o644, Kind::File(b"b".into())),
        entry("/a", 0o600, Kind::File(b"b".into())),
        entry("/ab", 0o644, Kind::File(Vec::new())),
        entry("/a", 0o644, Kind::Symlink("b".into())),
        entry("/a", 0o644, Kind::Directory),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
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
