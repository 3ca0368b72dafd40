use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Blob, FOLDER, Image, NAMES, Name, ids, put, settle};
use crate::tree::{FileKind, Root};
use crate::units::Digest;

const EPOCH: u64 = 1_700_000_000;

/// A member of a layer: kind, name, content or link.
type Member<'a> = (tar::EntryType, &'a str, &'a str);

const FILE: tar::EntryType = tar::EntryType::Regular;
const FOLDER_ENTRY: tar::EntryType = tar::EntryType::Directory;
const HARD: tar::EntryType = tar::EntryType::Link;
const LINK: tar::EntryType = tar::EntryType::Symlink;

fn layer(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o4750 });
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header.set_mtime(EPOCH + 5);
        header.set_size(if *kind == FILE { content.len() as u64 } else { 0 });
        if matches!(kind, tar::EntryType::Char) {
            header.set_device_major(1).expect("major");
            header.set_device_minor(3).expect("minor");
        }
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if *kind != FILE {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_cksum();
        tar.append(&header, if *kind == FILE { content.as_bytes() } else { &[] }).expect("append");
    }
    tar.into_inner().expect("tar")
}

/// A host with blobs, and an image's root.
struct Bench {
    folder: tempfile::TempDir,
    root: Root,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join("root")).expect("root");
        let root = Root::open(&folder.path().join("root")).expect("open");
        Self { folder, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(FOLDER).join(path)
    }

    fn blob(&self, bytes: &[u8]) -> Blob {
        let digest = Digest::of(bytes);
        let path = self.folder.path().join(digest.to_string());
        fs::write(&path, bytes).expect("blob");
        Blob { path, digest }
    }

    /// An image of these tars, each compressed.
    fn image<const N: usize>(&self, name: &str, layers: [Vec<u8>; N]) -> Image {
        let made = layers.into_iter().map(|tar| {
            let blob = self.blob(&zstd::encode_all(&tar[..], 3).expect("zstd"));
            (format!("sha256:{}", Digest::of(tar)), blob)
        });
        let (diff_ids, layers): (Vec<String>, Vec<Blob>) = made.unzip();
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.blob(config.to_string().as_bytes());
        Image {
            names: vec![Name::of(name).expect("name")],
            id: config.digest,
            config: config.path,
            layers,
            origin: Some("registry.example/plant/tool".into()),
        }
    }

    /// The folder of the layer with this chain id.
    fn diff(&self, chain: &Digest) -> PathBuf {
        let cache = self.at(&format!("image/overlay2/layerdb/sha256/{chain}/cache-id"));
        self.at("overlay2").join(fs::read_to_string(cache).expect("cache-id")).join("diff")
    }
}

fn error(bench: &Bench, image: Image) -> String {
    format!("{:#}", put(&bench.root, &[image]).expect_err("refused"))
}

#[test]
fn an_image_of_two_layers() {
    let bench = Bench::new();
    let lower =
        layer(&[(FOLDER_ENTRY, "etc/", ""), (FILE, "etc/motd", "hello"), (HARD, "etc/again", "etc/motd")]);
    let upper = layer(&[
        (FOLDER_ENTRY, "etc/", ""),
        (FILE, "etc/.wh.motd", ""),
        (FOLDER_ENTRY, "srv/", ""),
        (FILE, "srv/.wh..wh..opq", ""),
        (tar::EntryType::Char, "dev/null", ""),
        (LINK, "srv/out", "/etc/passwd"),
        (FILE, ".wh..wh.plnk", ""),
    ]);
    let image = bench.image("registry.example/plant/tool:1", [lower.clone(), upper.clone()]);
    let passed = put(&bench.root, &[image]).expect("put");
    let passed: Vec<_> =
        passed.iter().map(|one| (one.path.to_str().expect("text"), one.what.as_str())).collect();
    assert_eq!(passed, [(".wh..wh.plnk", "a file of AUFS's own")]);

    let (below, diff) = (Digest::of(&lower), Digest::of(&upper));
    let chain = Digest::of(format!("sha256:{below} sha256:{diff}"));
    let file = bench.diff(&below).join("etc/motd");
    let meta = fs::metadata(&file).expect("file");
    assert_eq!((meta.mode() & 0o7777, meta.nlink(), meta.mtime()), (0o4750, 2, 1_700_000_005));
    let top = bench.diff(&chain);
    for marker in ["etc/.wh.motd", "srv/.wh..wh..opq"] {
        assert_eq!(fs::read(top.join(marker)).expect(marker), b"");
    }
    let node = fs::read_to_string(top.join("dev/.wh..wh.node.null")).expect("node");
    assert!(node.starts_with("c 1 3 4750 "), "{node}");
    assert!(!top.join(".wh..wh.plnk").exists());
    assert_eq!(fs::metadata(top.join("srv")).expect("folder").mtime(), 1_700_000_005, "set after its files");

    let db = format!("image/overlay2/layerdb/sha256/{chain}");
    let text = |path: &str| fs::read_to_string(bench.at(&format!("{db}/{path}"))).expect(path);
    assert_eq!(text("diff"), format!("sha256:{diff}"));
    assert_eq!(text("parent"), format!("sha256:{below}"));
    assert_eq!(text("size"), "0");
    assert!(!bench.at(&format!("image/overlay2/layerdb/sha256/{below}/parent")).exists());
    let cache = bench.at("overlay2").join(text("cache-id"));
    let link = fs::read_to_string(cache.join("link")).expect("link");
    let target = fs::read_link(bench.at("overlay2/l").join(&link)).expect("short name");
    assert_eq!(target, Path::new("..").join(text("cache-id")).join("diff"));
    let lower = fs::read_to_string(cache.join("lower")).expect("lower");
    assert!(bench.at("overlay2").join(&lower).join("etc/motd").exists(), "{lower}");
    assert!(cache.join("work").is_dir() && cache.join("committed").exists());
    assert_eq!(fs::metadata(bench.at("overlay2")).expect("folder").permissions().mode() & 0o777, 0o710);

    let names = ids(&bench.root.read(NAMES, 1 << 20).expect("read").expect("names")).expect("names");
    let id = names["registry.example/plant/tool:1"].strip_prefix("sha256:").expect("id");
    let config = fs::read(bench.at(&format!("image/overlay2/imagedb/content/sha256/{id}"))).expect("config");
    assert_eq!(Digest::of(&config).to_string(), id);
    let by_diff = format!("image/overlay2/distribution/v2metadata-by-diffid/sha256/{diff}");
    let sources: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.at(&by_diff)).expect("sources")).expect("JSON");
    assert_eq!(sources[0]["SourceRepository"], "registry.example/plant/tool");
}

#[test]
fn layers_are_shared_and_names_are_added() {
    let bench = Bench::new();
    let base = layer(&[(FILE, "base", "b")]);
    let one = bench.image("tool:1", [base.clone(), layer(&[(FILE, "one", "1")])]);
    let two = bench.image("tool:2", [base.clone(), layer(&[(FILE, "two", "2")])]);
    let three = bench.image("other", [base.clone()]);
    put(&bench.root, &[one.clone(), two]).expect("put");
    put(&bench.root, &[three, one]).expect("beside");
    let layers = fs::read_dir(bench.at("image/overlay2/layerdb/sha256")).expect("list").count();
    assert_eq!(layers, 3);
    let names = ids(&bench.root.read(NAMES, 1 << 20).expect("read").expect("names")).expect("names");
    assert_eq!(names.keys().collect::<Vec<_>>(), ["other:latest", "tool:1", "tool:2"]);
}

#[test]
fn equal_images_make_equal_stores() {
    let store = || {
        let bench = Bench::new();
        let layers = [
            layer(&[(FILE, "a", "1"), (FOLDER_ENTRY, "d/", ""), (FILE, "implied/b", "2")]),
            layer(&[(FILE, "d/.wh.x", "")]),
        ];
        let image = bench.image("tool:1", layers);
        put(&bench.root, &[image]).expect("put");
        settle(&bench.root).expect("settle");
        let mut all = BTreeMap::new();
        bench
            .root
            .walk(FOLDER, &mut |path, meta| {
                let content =
                    if meta.kind == FileKind::File { bench.root.read(path, 1 << 20)? } else { None };
                all.insert(path.to_owned(), (meta.mode, meta.mtime, content, bench.root.read_link(path)?));
                Ok(())
            })
            .expect("walk");
        all
    };
    let one = store();
    // Another second: what has the time of day is told.
    let second = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    while std::time::SystemTime::now() < second {
        std::thread::yield_now();
    }
    assert_eq!(one, store());
    assert!(one.values().all(|(_, time, ..)| *time <= EPOCH as i64 + 5), "{one:#?}");
}

#[test]
fn a_file_takes_the_place_of_its_whiteout() {
    let bench = Bench::new();
    let tar = layer(&[(FILE, "a/.wh.x", ""), (FILE, "a/x", "new")]);
    put(&bench.root, &[bench.image("tool:1", [tar.clone()])]).expect("put");
    let diff = bench.diff(&Digest::of(&tar));
    assert!(diff.join("a/x").exists() && !diff.join("a/.wh.x").exists());
}

/// What an image can do to reach the host, or the device's own files.
#[test]
fn nothing_leaves_the_layers_folder() {
    let bench = Bench::new();
    let outside = bench.folder.path().join("outside");
    fs::create_dir(&outside).expect("folder");
    fs::write(outside.join("file"), "precious").expect("file");
    let link = outside.to_str().expect("text").to_owned();
    for members in [
        vec![(LINK, "way", link.as_str()), (FILE, "way/file", "evil")],
        vec![(LINK, "way", "../../../../../../../outside"), (FILE, "way/file", "evil")],
        vec![(FILE, "../../../../../../outside/file", "evil")],
        vec![(HARD, "taken", "../../../../../../outside/file")],
        vec![(LINK, "way", link.as_str()), (FILE, "way/.wh.file", "")],
    ] {
        let image = bench.image("tool:1", [layer(&members)]);
        put(&bench.root, &[image]).ok();
        assert_eq!(fs::read(outside.join("file")).expect("file"), b"precious", "{members:?}");
        assert_eq!(fs::read_dir(&outside).expect("list").count(), 1, "{members:?}");
    }
}

#[test]
fn bad_images_are_refused_by_name() {
    let bench = Bench::new();
    let good = layer(&[(FILE, "a", "1")]);
    let mut image = bench.image("tool:1", [good.clone()]);
    image.layers.push(image.layers[0].clone());
    let said = error(&bench, image);
    assert!(said.contains(
        "preloading the container image tool:1: its configuration speaks of 1 layers, and it has 2"
    ));

    let mut image = bench.image("tool:1", [good.clone()]);
    image.layers[0] = bench.blob(&layer(&[(FILE, "b", "2")]));
    let said = error(&bench, image);
    assert!(said.contains("and its configuration says sha256:"), "{said}");

    let mut image = bench.image("tool:1", [good.clone()]);
    image.layers[0] = bench.blob(&good[..700]);
    assert!(error(&bench, image).contains("unpacking its layer sha256:"));

    let image = bench.image("tool:1", [layer(&[(FILE, "a", "1"), (FILE, ".wh.a", "")])]);
    assert!(error(&bench, image).contains("the layer has the file and hides it"));
    let image = bench.image("tool:1", [layer(&[(FILE, ".wh.d", ""), (FILE, "d/a", "1")])]);
    assert!(error(&bench, image).contains("the layer hides d, and has files in it"));
    let image = bench.image("tool:1", [layer(&[(FILE, "a/.wh.", "")])]);
    assert!(error(&bench, image).contains("a whiteout of no file"));
    let mut image = bench.image("tool:1", [good]);
    fs::write(&image.config, "{}").expect("config");
    assert!(error(&bench, image.clone()).contains("its configuration is not sha256:"));
    image.id = Digest::of("{}");
    image.names[0].reference = "other:2".into();
    assert!(error(&bench, image).contains("other:2: the image"));
}
