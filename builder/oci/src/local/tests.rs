use super::LocalImage;
use crate::descriptor::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};
use crate::error::problem;
use crate::units::{Arch, Digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Files by name, of which a layout or an archive is made.
#[derive(Clone, Default)]
struct Sample {
    files: BTreeMap<String, Vec<u8>>,
    /// To be written as symbolic links.
    links: Vec<(String, String)>,
}

impl Sample {
    fn put(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.to_owned(), bytes.into());
    }

    fn blob(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Value {
        let bytes = bytes.into();
        let descriptor = Descriptor::of(media_type, &bytes);
        self.put(&format!("blobs/sha256/{}", descriptor.digest), bytes);
        serde_json::to_value(descriptor).expect("JSON")
    }

    fn image(&mut self, architecture: &str) -> Value {
        let layers: Vec<Value> = ["one", "two"].iter().map(|text| self.blob(OCI_LAYER, *text)).collect();
        let config = self.blob(OCI_CONFIG, config(architecture, &["one", "two"]).to_string());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        self.blob(OCI_MANIFEST, manifest.to_string())
    }

    fn layout(mut self, entries: &[Value]) -> Self {
        self.put("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        self.put("index.json", json!({"schemaVersion": 2, "manifests": entries}).to_string());
        self
    }

    fn folder(&self, at: &Path) -> PathBuf {
        let folder = at.join("layout");
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            std::fs::write(path, bytes).expect("writes");
        }
        folder
    }

    fn archive(&self, at: &Path) -> PathBuf {
        let path = at.join("image.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).expect("creates"));
        // Back to front: no order may be relied on.
        for (name, bytes) in self.files.iter().rev() {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes.as_slice()).expect("appends");
        }
        for (name, target) in &self.links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).expect("appends");
        }
        builder.into_inner().expect("ends");
        path
    }
}

fn config(architecture: &str, layers: &[&str]) -> Value {
    let ids: Vec<String> = layers.iter().map(|text| format!("sha256:{}", Digest::of(text))).collect();
    json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}})
}

fn annotated(mut entry: Value, name: &str, value: &str) -> Value {
    entry["annotations"][name] = value.into();
    entry
}

fn for_platform(mut entry: Value, architecture: &str) -> Value {
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

fn named(entry: Value, reference: &str) -> Value {
    annotated(entry, "io.containerd.image.name", reference)
}

fn open(path: &Path, reference: Option<&str>, arch: Arch) -> anyhow::Result<LocalImage> {
    LocalImage::open(path, reference.map(|text| text.parse().expect(text)).as_ref(), arch)
}

fn told(error: &anyhow::Error) -> String {
    let hint = problem(error).and_then(|problem| problem.hint.clone()).unwrap_or_default();
    format!("{error:#}\n{hint}")
}

fn assert_blobs(image: &LocalImage) {
    for blob in image.blobs() {
        let mut bytes = Vec::new();
        image.blob(blob).expect("opens").read_to_end(&mut bytes).expect("reads");
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (blob.digest, blob.size), "{}", blob.media_type);
    }
}

/// `docker save` of engines before 25: two images that share a layer.
fn saved() -> Sample {
    let mut sample = Sample::default();
    let mut items = Vec::new();
    for (tag, layers) in [("factory/pump:1", vec!["one", "two"]), ("factory/pump:2", vec!["one"])] {
        let text = config("amd64", &layers).to_string();
        let name = format!("{}.json", Digest::of(&text));
        sample.put(&name, text);
        let files: Vec<String> =
            layers.iter().map(|layer| format!("{tag}/{layer}/layer.tar").replace(':', "-")).collect();
        items.push(json!({"Config": name, "RepoTags": [tag], "Layers": files}));
    }
    sample.put("factory/pump-1/one/layer.tar", "one");
    sample.put("factory/pump-1/two/layer.tar", "two");
    sample.links.push(("factory/pump-2/one/layer.tar".into(), "../../pump-1/one/layer.tar".into()));
    sample.put("manifest.json", Value::from(items).to_string());
    sample
}

#[test]
fn a_layout_as_folder_and_as_archive() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sample = Sample::default();
    let (amd, arm) = (sample.image("amd64"), sample.image("arm64"));
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
                       "manifests": [for_platform(amd.clone(), "amd64"), for_platform(arm, "arm64")]});
    let both = sample.blob(OCI_INDEX, index.to_string());
    let entries = [
        named(both.clone(), "docker.io/factory/pump:1"),
        annotated(amd.clone(), "org.opencontainers.image.ref.name", "old"),
    ];
    let sample = sample.layout(&entries);
    for path in [sample.folder(folder.path()), sample.archive(folder.path())] {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let image = open(&path, Some("factory/pump:1"), arch).expect("opens");
            assert_eq!(serde_json::to_value(&image.index).expect("JSON"), both);
            assert_eq!(image.layers.len(), 2);
            assert_blobs(&image);
        }
        let image = open(&path, Some("factory/pump:old"), Arch::X86_64).expect("by its tag");
        assert_eq!((serde_json::to_value(&image.manifest).expect("JSON"), image.index), (amd.clone(), None));
        for (name, arch, what) in [
            (
                Some("factory/pump:2"),
                Arch::X86_64,
                "has no image factory/pump:2; it has docker.io/factory/pump:1, old",
            ),
            (None, Arch::X86_64, "has several images"),
            (Some("factory/pump:old"), Arch::Aarch64, "is for linux/amd64, not for aarch64"),
        ] {
            let error = told(&open(&path, name, arch).expect_err(what));
            assert!(error.contains(what), "{error}");
        }
    }
    // The only image is meant whatever it is called.
    let only = Sample { files: sample.files.clone(), links: vec![] };
    let only = only.layout(&[amd]);
    let path = only.archive(folder.path());
    for name in [None, Some("registry.example/x:9")] {
        assert_blobs(&open(&path, name, Arch::X86_64).expect("the only one"));
    }
}

#[test]
fn images_of_the_same_tag_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sample = Sample::default();
    // As engines from 25 on save several images: the whole reference, and the tag beside it.
    let entries: Vec<Value> = [("docker.io/factory/pump:1", "amd64"), ("docker.io/factory/tank:1", "arm64")]
        .into_iter()
        .map(|(name, architecture)| {
            annotated(named(sample.image(architecture), name), "org.opencontainers.image.ref.name", "1")
        })
        .collect();
    let path = sample.layout(&entries).archive(folder.path());
    for (name, arch, entry) in
        [("factory/pump:1", Arch::X86_64, &entries[0]), ("factory/tank:1", Arch::Aarch64, &entries[1])]
    {
        let image = open(&path, Some(name), arch).expect(name);
        assert_eq!(format!("sha256:{}", image.manifest.digest), entry["digest"]);
    }
    let error = told(&open(&path, Some("factory/valve:1"), Arch::X86_64).expect_err("not there"));
    assert!(error.contains("it has docker.io/factory/pump:1, docker.io/factory/tank:1"), "{error}");
}

#[test]
fn an_archive_of_older_engines() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = saved().archive(folder.path());
    let image = open(&path, Some("docker.io/factory/pump:1"), Arch::X86_64).expect("opens");
    assert_eq!(
        (image.manifest.media_type.as_str(), image.config.media_type.as_str()),
        (DOCKER_MANIFEST, DOCKER_CONFIG)
    );
    assert_eq!(
        image.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>(),
        [Digest::of("one"), Digest::of("two")]
    );
    assert_blobs(&image);
    let again = open(&path, Some("factory/pump:1"), Arch::X86_64).expect("opens");
    assert_eq!(again.manifest, image.manifest);
    assert_blobs(&open(&path, Some("factory/pump:2"), Arch::X86_64).expect("a layer by a link"));
    for (name, arch, what) in [
        (None, Arch::X86_64, "has several images: factory/pump:1, factory/pump:2"),
        (Some("factory/tank:1"), Arch::X86_64, "has no image factory/tank:1"),
        (Some("factory/pump:1"), Arch::Aarch64, "is for linux/amd64, not for aarch64"),
    ] {
        let error = told(&open(&path, name, arch).expect_err(what));
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn packed_layers_have_digests_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    for (magic, ending) in
        [(&[0x1f, 0x8b, 8, 0, 0][..], ".gzip"), (&[0x28, 0xb5, 0x2f, 0xfd, 0], ".zstd"), (b"x", "")]
    {
        let mut sample = saved();
        sample.put("factory/pump-1/two/layer.tar", magic);
        let image =
            open(&sample.archive(folder.path()), Some("factory/pump:1"), Arch::X86_64).expect("opens");
        let layer = &image.layers[1];
        assert!(layer.media_type.ends_with(&format!("tar{ending}")), "{layer:?}");
        // Of a plain one the configuration's word is taken: who reads it finds out.
        let expected = if ending.is_empty() { Digest::of("two") } else { Digest::of(magic) };
        assert_eq!((layer.digest, layer.size), (expected, magic.len() as u64));
    }
}

/// What is done to a sample; it is given the name of a file that counts.
type Change = fn(&mut Sample, &str);

#[test]
fn archives_that_lie_or_lack_something_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let changes: [(Change, &str); 7] = [
        (|it, _| it.remove("manifest.json"), "neither manifest.json nor oci-layout"),
        (|it, _| it.put("manifest.json", "[{"), "its manifest.json: EOF"),
        (|it, config| it.remove(config), "the configuration that it names is not in it"),
        (|it, _| it.damage("rootfs"), "has SHA-256"),
        (|it, _| it.remove("factory/pump-1/two/layer.tar"), "a layer that it names is not in it"),
        (
            |it, _| it.replace("manifest.json", r#""factory/pump-1/one/layer.tar","#, ""),
            "names 2 layers, and its manifest.json 1",
        ),
        (|it, _| it.replace("manifest.json", "factory/pump-1/one", "../pump-1/one"), "which is not in it"),
    ];
    for (change, what) in changes {
        let mut sample = saved();
        let config = format!("{}.json", Digest::of(config("amd64", &["one", "two"]).to_string()));
        change(&mut sample, &config);
        // Damage may meet the other image's configuration, which comes first by name.
        let path = sample.archive(folder.path());
        let found = ["factory/pump:1", "factory/pump:2"].map(|name| open(&path, Some(name), Arch::X86_64));
        let errors: Vec<String> = found.iter().filter_map(|found| found.as_ref().err()).map(told).collect();
        assert!(errors.iter().any(|error| error.contains(what)), "{what} is not in: {errors:?}");
    }
}

#[test]
fn layouts_that_lie_or_lack_something_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let changes: [(Change, &str); 5] = [
        (|it, _| it.put("index.json", "{}"), "neither an index nor a manifest"),
        (|it, layer| it.remove(layer), "is not there, and 3 bytes are expected"),
        (|it, layer| it.put(layer, "longer"), "has 6 bytes, and 3 bytes are expected"),
        (|it, _| it.damage("\"config\""), "has SHA-256"),
        (|it, _| it.damage("\"rootfs\""), "has SHA-256"),
    ];
    for (change, what) in changes {
        let mut sample = Sample::default();
        let entry = sample.image("amd64");
        let mut sample = sample.layout(&[entry]);
        change(&mut sample, &format!("blobs/sha256/{}", Digest::of("one")));
        let error = told(&open(&sample.archive(folder.path()), None, Arch::X86_64).expect_err(what));
        assert!(error.contains(what), "{what} is not in: {error}");
    }
}

impl Sample {
    fn remove(&mut self, name: &str) {
        self.files.remove(name).expect(name);
    }

    fn replace(&mut self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.files[name].clone()).expect("text");
        assert!(text.contains(from), "{text}");
        self.put(name, text.replace(from, to));
    }

    /// Makes a letter of the first document that has this text a capital.
    fn damage(&mut self, has: &str) {
        let files = self.files.iter_mut().filter(|(name, _)| name.len() > 64);
        let mut found = files.filter(|(_, bytes)| String::from_utf8_lossy(bytes).contains(has));
        let (_, bytes) = found.next().expect("such a blob");
        let at = bytes.windows(5).position(|part| part == b"linux" || part == b"schem").expect("a word");
        bytes[at] ^= 0x20;
    }
}
