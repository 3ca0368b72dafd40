use std::fs;
use std::path::Path;

use serde_json::Value;

use super::origin::{Archive, Origin, Origins};
use super::{Bill, Container, Inventory, Package, collect, person};
use crate::recipe::types::Engine;
use crate::tree::Root;
use crate::units::{Arch, Digest};

const STATUS: &str = "Package: libc6\nStatus: install ok installed\nMaintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>\n\
    Architecture: amd64\nSource: glibc\nVersion: 2.36-9+deb12u10\nDescription: GNU C Library\n more\n\
    Homepage: https://www.gnu.org/software/libc/libc.html\n\n\
    Package: bash\nStatus: install ok installed\nMaintainer: Matthias Klose <doko@debian.org>\nArchitecture: amd64\n\
    Source: bash (5.2.15-2)\nVersion: 5.2.15-2+b13\nPre-Depends: libc6 (>= 2.36)\nDepends: absent | shell\n\
    Provides: shell\nDescription: GNU Bourne Again SHell\n\n\
    Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
    Package: aziot-edge\nStatus: install ok installed\nMaintainer: Me <me@plant.example>\nArchitecture: amd64\n\
    Version: 0~standin\nDepends: bash\nDescription: stand-in\n";
const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n\
    Files: *\nCopyright: FSF\nLicense: GPL-3+ or fancy\n\nLicense: fancy\n As you like.\n";

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
    fs::write(path, text).expect("file");
}

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    put(root, "var/lib/dpkg/status", STATUS);
    put(root, "usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n");
    fs::create_dir_all(root.join("etc")).expect("folder");
    std::os::unix::fs::symlink("../usr/lib/os-release", root.join("etc/os-release")).expect("link");
    put(root, "usr/share/doc/base/copyright", COPYRIGHT);
    std::os::unix::fs::symlink("base", root.join("usr/share/doc/bash")).expect("link");
    put(root, "usr/share/doc/libc6/copyright", "This is prose.\n");
    folder
}

fn inventory() -> Inventory {
    collect(&Root::open(tree().path()).expect("open"), &Engine::default()).expect("an inventory")
}

fn origins() -> Origins {
    let archive = Archive { namespace: "debian".into(), vendor: "Debian".into(), repository: None };
    let deb = |version: &str, archive: Option<Archive>| Origin {
        version: version.into(),
        sha256: Digest::of(version),
        url: archive.as_ref().map(|_| format!("http://ftp.debian.org/debian/pool/{version}.deb")),
        archive,
    };
    Origins::from([
        ("bash".to_owned(), deb("5.2.15-2+b13", Some(archive.clone()))),
        ("libc6".to_owned(), deb("another version", Some(archive))),
        ("aziot-edge".to_owned(), deb("0~standin", None)),
    ])
}

fn documents(inventory: &Inventory) -> [Value; 2] {
    let origins = origins();
    let bill = Bill {
        name: "demo",
        description: "a demo",
        arch: Arch::X86_64,
        sha256: Digest::of("image"),
        epoch: 1_700_000_000,
        inventory,
        origins: &origins,
    };
    let documents = bill.documents().expect("documents");
    assert_eq!(documents, bill.documents().expect("documents"), "two documents differ");
    documents.map(|(_, text)| serde_json::from_slice(&text).expect("JSON"))
}

#[test]
fn inventory_of_a_tree() {
    let inventory = inventory();
    assert_eq!((inventory.system.id.as_str(), inventory.system.version.as_str()), ("debian", "12"));
    let names: Vec<&str> = inventory.packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(names, ["aziot-edge", "bash", "libc6"], "sorted, and without what is only configured");
    let bash = &inventory.packages[1];
    assert_eq!((bash.source.as_str(), bash.source_version.as_str()), ("bash", "5.2.15-2"));
    let licence = bash.licence.as_deref().expect("a licence");
    assert!(licence.starts_with("GPL-3.0-or-later OR LicenseRef-fancy-"), "{licence}");
    assert_eq!(bash.depends, [1, 2], "itself by a name that it provides, and libc6");
    assert_eq!(inventory.packages[2].licence, None);
    assert_eq!(inventory.texts.values().map(|text| text.text.as_str()).collect::<Vec<_>>(), ["As you like."]);
}

#[test]
fn cyclonedx() {
    let [document, _] = documents(&inventory());
    assert_eq!(document["specVersion"], "1.6");
    assert_eq!(document["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let hash = &document["metadata"]["component"]["hashes"][0]["content"];
    assert_eq!(*hash, Digest::of("image").to_string());
    let components = document["components"].as_array().expect("components");
    let purls: Vec<&str> = components.iter().filter_map(|component| component["purl"].as_str()).collect();
    let local =
        format!("pkg:generic/aziot-edge@0~standin?arch=amd64&checksum=sha256:{}", Digest::of("0~standin"));
    let bash = "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2";
    // The lock's .deb of libc6 has another version: nothing is said of its origin.
    assert_eq!(purls, [local.as_str(), bash, "pkg:generic/libc6@2.36-9%2Bdeb12u10?arch=amd64"]);
    let edges = document["dependencies"].as_array().expect("a graph");
    let of =
        |name: &str| edges.iter().find(|edge| edge["ref"] == name).expect("an edge")["dependsOn"].clone();
    assert_eq!(of(bash).as_array().map(Vec::len), Some(1), "not on itself");
    assert_eq!(of(&local)[0], bash);
    assert_eq!(of("image").as_array().map(Vec::len), Some(4));
}

#[test]
fn spdx() {
    let [_, document] = documents(&inventory());
    let packages = document["packages"].as_array().expect("packages");
    let bash = packages.iter().find(|package| package["name"] == "bash").expect("bash");
    assert_eq!(bash["supplier"], "Organization: Debian");
    assert_eq!(bash["originator"], "Person: Matthias Klose (doko@debian.org)");
    assert_eq!(bash["checksums"][0]["checksumValue"], Digest::of("5.2.15-2+b13").to_string());
    let libc = packages.iter().find(|package| package["name"] == "libc6").expect("libc6");
    assert_eq!(libc["originator"], "Organization: GNU Libc Maintainers (debian-glibc@lists.debian.org)");
    assert_eq!(libc["licenseDeclared"], "NOASSERTION");
    let extracted = document["hasExtractedLicensingInfos"][0]["licenseId"].as_str().expect("a reference");
    assert!(bash["licenseDeclared"].as_str().expect("a licence").contains(extracted));
    let relations = document["relationships"].as_array().expect("relations").iter();
    let depends: Vec<_> = relations.filter(|relation| relation["relationshipType"] == "DEPENDS_ON").collect();
    assert_eq!(depends.len(), 2, "{depends:?}");
}

#[test]
fn another_image_is_another_document() {
    let mut other = inventory();
    let first = documents(&other);
    other.packages[0] = Package { version: "1".into(), ..other.packages[0].clone() };
    let second = documents(&other);
    assert_ne!(first[0]["serialNumber"], second[0]["serialNumber"]);
    assert_ne!(first[1]["documentNamespace"], second[1]["documentNamespace"]);
}

#[test]
fn container_images() {
    let container = |name: &str, own| Container { name: name.into(), sha256: Digest::of(name), own };
    for (name, expected) in [
        ("redis:7", "pkg:docker/redis@7"),
        ("redis", "pkg:docker/redis@latest"),
        ("azure/iot/agent:1.6", "pkg:docker/azure/iot/agent@1.6"),
        (
            "mcr.microsoft.com/azureiotedge-agent:1.6.1",
            "pkg:docker/azureiotedge-agent@1.6.1?repository_url=mcr.microsoft.com",
        ),
        ("plant.example:5000/a/b", "pkg:docker/a/b@latest?repository_url=plant.example:5000"),
    ] {
        assert_eq!(container(name, false).purl().as_deref(), Some(expected));
    }
    assert_eq!(container("localhost/x:1", true).purl(), None);
}

#[test]
fn a_tree_without_a_package_database_is_an_error() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let error = collect(&Root::open(folder.path()).expect("open"), &Engine::default())
        .expect_err("nothing there")
        .to_string();
    assert!(error.contains("/var/lib/dpkg/status"), "{error}");
    assert_eq!(person("\"A, Inc.\" <a@b.example>"), ("A, Inc.", "a@b.example"));
    assert_eq!(person("nobody"), ("nobody", ""));
    assert_eq!(person("A <not an address>"), ("A", ""));
    for (homepage, good) in [
        ("https://www.gnu.org/software/libc/", true),
        ("", false),
        ("www.gnu.org", false),
        ("https://a.example/b c", false),
        ("https://a.example/<b>", false),
    ] {
        let package = Package { homepage: homepage.into(), ..Package::default() };
        assert_eq!(package.website().is_some(), good, "{homepage}");
    }
}
