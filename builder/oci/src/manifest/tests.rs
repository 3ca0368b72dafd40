use super::{Document, Index, Manifest};
use crate::descriptor::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};
use crate::units::{Arch, Digest};
use serde_json::{Value, json};

fn descriptor(media_type: &str, of: &str) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", Digest::of(of)), "size": of.len()})
}

fn entry(of: &str, platform: &Value) -> Value {
    let mut entry = descriptor(OCI_MANIFEST, of);
    entry["platform"] = platform.clone();
    entry
}

fn platform(text: &str) -> Value {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [os, architecture, variant] => json!({"os": os, "architecture": architecture, "variant": variant}),
        [os, architecture] => json!({"os": os, "architecture": architecture}),
        _ => Value::Null,
    }
}

fn index(platforms: &[&str]) -> Index {
    let entries: Vec<Value> = platforms.iter().map(|text| entry(text, &platform(text))).collect();
    let document = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    match parse(&document, Some(OCI_INDEX)).expect("parses") {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("an index"),
    }
}

fn manifest(layers: usize) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, "{}"),
           "layers": vec![descriptor(&format!("{OCI_LAYER}+gzip"), "x"); layers]})
}

fn parse(document: &Value, stated: Option<&str>) -> Result<Document, crate::error::Problem> {
    Document::parse(document.to_string().as_bytes(), stated)
}

#[test]
fn the_manifest_of_an_architecture() {
    let all = index(&[
        "unknown/unknown",
        "windows/amd64",
        "linux/arm/v7",
        "linux/amd64/v3",
        "linux/amd64",
        "linux/arm64/v8",
    ]);
    let chosen = |index: &Index, arch| index.choose(arch).map(|found| found.digest);
    assert_eq!(chosen(&all, Arch::X86_64), Ok(Digest::of("linux/amd64")));
    assert_eq!(chosen(&all, Arch::Aarch64), Ok(Digest::of("linux/arm64/v8")));
    assert_eq!(chosen(&index(&["linux/arm64"]), Arch::Aarch64), Ok(Digest::of("linux/arm64")));
    assert_eq!(chosen(&index(&["nothing"]), Arch::Aarch64), Ok(Digest::of("nothing")));
    for (there, expected) in [
        (vec!["linux/arm64/v8", "linux/arm/v7", "unknown/unknown"], "there is linux/arm/v7, linux/arm64/v8"),
        (vec!["linux/arm64/v9"], "there is linux/arm64/v9"),
        (vec!["nothing", "nothing"], "there is none that says"),
        (vec![], "there is none that says"),
    ] {
        let arch = if there == ["linux/arm64/v9"] { Arch::Aarch64 } else { Arch::X86_64 };
        let error = index(&there).choose(arch).expect_err("not there");
        assert!(error.message.contains(expected) && error.message.contains("linux/a"), "{error}");
    }
}

#[test]
fn manifests_of_both_families() {
    let found = parse(&manifest(2), None).expect("OCI");
    let Document::Manifest(Manifest { media_type, layers, .. }) = found else { panic!("a manifest") };
    assert_eq!((media_type.as_str(), layers.len()), (OCI_MANIFEST, 2));
    let mut docker = manifest(1);
    docker["mediaType"] = DOCKER_MANIFEST.into();
    docker["config"]["mediaType"] = DOCKER_CONFIG.into();
    docker["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
    let Ok(Document::Manifest(found)) = parse(&docker, Some(DOCKER_MANIFEST)) else { panic!("a manifest") };
    assert_eq!(found.size(), 3);
    // OCI lets the media type out; then what was stated counts.
    let mut bare = manifest(1);
    bare["mediaType"].take();
    let Ok(Document::Manifest(found)) = parse(&bare, Some(OCI_MANIFEST)) else { panic!("a manifest") };
    assert_eq!(found.media_type, OCI_MANIFEST);
}

#[test]
fn what_is_no_image_is_told_why() {
    let change = |change: &dyn Fn(&mut Value)| {
        let mut document = manifest(1);
        change(&mut document);
        document
    };
    for (document, stated, what) in [
        (json!({"schemaVersion": 1, "fsLayers": [], "history": []}), None, "schema 1"),
        (manifest(1), Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1"),
        (change(&|it| it["manifests"] = json!([])), None, "neither an index nor a manifest"),
        (manifest(1), Some(OCI_INDEX), "not what it says"),
        (change(&|it| it["mediaType"] = OCI_INDEX.into()), None, "not what it says"),
        (json!({"errors": []}), None, "neither"),
        (json!([1]), None, "cannot be read"),
        (
            change(&|it| it["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()),
            None,
            "no container image",
        ),
        (
            change(&|it| it["config"]["mediaType"] = "application/vnd.oci.empty.v1+json".into()),
            None,
            "no container image",
        ),
        (change(&|it| it["config"]["size"] = (9u64 << 20).into()), None, "configuration states"),
        (change(&|it| it["layers"][0]["size"] = u64::MAX.into()), None, "states a size"),
        (
            change(&|it| it["layers"][0]["digest"] = "sha256:../../etc/passwd".into()),
            None,
            "no SHA-256 digest",
        ),
        (
            change(&|it| {
                it["layers"][0]["mediaType"] =
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
            }),
            None,
            "may not be distributed",
        ),
        (manifest(126), None, "126 layers"),
    ] {
        let error = parse(&document, stated).expect_err(what);
        assert!(error.message.contains(what) && error.hint.is_some(), "{error:?}");
    }
    assert!(Document::parse(&vec![b' '; (4 << 20) + 1], None).expect_err("large").message.contains("4 MiB"));
    let deep = "[".repeat(100_000);
    assert!(Document::parse(deep.as_bytes(), None).is_err());
    let whole = manifest(1).to_string();
    assert!((0..whole.len()).all(|at| Document::parse(&whole.as_bytes()[..at], None).is_err()));
}

#[test]
fn a_large_manifest_is_not_asked_for() {
    let mut large = entry("linux/amd64", &platform("linux/amd64"));
    large["size"] = (5u64 << 20).into();
    let document = json!({"schemaVersion": 2, "manifests": [large]});
    let Ok(Document::Index(index)) = parse(&document, None) else { panic!("an index") };
    assert!(index.choose(Arch::X86_64).expect_err("refused").message.contains("5242880 bytes"));
    assert_eq!(Descriptor::of(OCI_CONFIG, b"{}").size, 2);
}
