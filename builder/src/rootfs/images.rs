//! Container images that are on the device before its first contact with a network: as `docker save` archives, which
//! any engine loads at first boot.
//!
//! ```text
//! manifest.json   [{"Config": "<hash>.json", "RepoTags": ["name:tag"], "Layers": ["<hash>.tar"]}]
//! <hash>.json     entry point, architecture, digest of the layer
//! <hash>.tar      files
//! ```
//! The format is that of the Docker image specification v1.2, section "Combined Image JSON + Filesystem Changeset".

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Problem;
use crate::tree::Root;
use crate::units::{Arch, Digest};

/// Folder of the archives in the image; first boot loads and removes them.
pub const FOLDER: &str = "/var/lib/edgepress/images";

/// The largest file that a container made from files of the tree may have: its archive is put together in memory.
const MOST_FILE: u64 = 64 << 20;

/// One image to preload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Reference with tag.
    pub name: String,
    /// Architecture of the files in it.
    pub arch: Arch,
    /// Where it comes from.
    pub from: Source,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A `docker save` archive on the host, with its digest.
    Archive(PathBuf, Digest),
    /// Files of the tree: path in the container → path in the tree.
    Tree {
        /// The files.
        files: BTreeMap<String, String>,
        /// Entry point.
        entrypoint: Vec<String>,
    },
}

/// File name of the `at`-th archive.
pub fn archive_name(at: usize, name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("{at:02}-{plain}.tar")
}

impl Image {
    /// The file of the host that it is copied from; none where it is made of the tree's own files.
    pub fn archive(&self) -> Option<&Path> {
        match &self.from {
            Source::Archive(file, _) => Some(file),
            Source::Tree { .. } => None,
        }
    }

    /// Puts the image's archive into the tree.
    ///
    /// # Errors
    /// The file that is missing, or cannot be written.
    pub fn preload(&self, root: &Root, at: usize, epoch: u64) -> Result<()> {
        self.put(root, at, epoch).with_context(|| format!("preloading the container image {}", self.name))
    }

    fn put(&self, root: &Root, at: usize, epoch: u64) -> Result<()> {
        root.make_folders(FOLDER)?;
        root.set_mode(FOLDER, 0o700)?;
        let path = Path::new(FOLDER).join(archive_name(at, &self.name));
        match &self.from {
            Source::Archive(file, _) => {
                let mut from = File::open(file).with_context(|| format!("opening {}", file.display()))?;
                let mut to = root.create(&path, 0o600)?;
                std::io::copy(&mut from, &mut to).map(drop).context("copying")
            }
            Source::Tree { files, entrypoint } => {
                let layer = layer(root, files, epoch)?;
                let archive = archive(&self.name, self.arch, entrypoint, &layer, epoch)?;
                root.create(&path, 0o600)?.write_all(&archive).context("writing")
            }
        }
    }
}

/// The tar of the container's only layer.
fn layer(root: &Root, files: &BTreeMap<String, String>, epoch: u64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders = std::collections::BTreeSet::from([PathBuf::new()]);
    for (target, source) in files {
        let target = target.trim_start_matches('/');
        let folder = Path::new(target).parent().unwrap_or(Path::new(""));
        for missing in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if folders.insert(missing.to_owned()) {
                append(
                    &mut tar,
                    &format!("{}/", missing.display()),
                    tar::EntryType::Directory,
                    0o755,
                    &[],
                    epoch,
                )?;
            }
        }
        let content = root.read(source, MOST_FILE)?.ok_or_else(|| {
            Problem::input(format!("engine.images takes {source} from the image's root: there is none"))
                .hint("add the package that has it to packages.install")
        })?;
        append(&mut tar, target, tar::EntryType::Regular, 0o755, &content, epoch)?;
    }
    tar.into_inner().context("finishing the layer")
}

fn archive(name: &str, arch: Arch, entrypoint: &[String], layer: &[u8], epoch: u64) -> Result<Vec<u8>> {
    let diff = Digest::of(layer);
    let created = time::OffsetDateTime::from_unix_timestamp(i64::try_from(epoch)?)?
        .format(&time::format_description::well_known::Rfc3339)?;
    let config = serde_json::to_vec(&json!({
        "architecture": arch.debian(),
        "os": "linux",
        "created": created,
        "config": { "Entrypoint": entrypoint, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
        "history": [{ "created": created, "created_by": "edgepress" }],
    }))?;
    let config_name = format!("{}.json", Digest::of(&config));
    let layer_name = format!("{diff}.tar");
    let manifest =
        serde_json::to_vec(&json!([{ "Config": config_name, "RepoTags": [name], "Layers": [layer_name] }]))?;
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in
        [("manifest.json", manifest.as_slice()), (&config_name, &config), (&layer_name, layer)]
    {
        append(&mut tar, path, tar::EntryType::Regular, 0o644, content, epoch)?;
    }
    tar.into_inner().context("finishing the archive")
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
    epoch: u64,
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).with_context(|| format!("adding {path}"))
}

#[cfg(test)]
mod tests {
    use super::{Image, Source, archive_name};
    use crate::tree::Root;
    use crate::units::Arch;
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Read as _;

    fn image() -> Image {
        let files =
            BTreeMap::from([("/bin/sh".into(), "/bin/busybox".into()), ("/agent.sh".into(), "/a".into())]);
        let entrypoint = vec!["/bin/sh".into(), "/agent.sh".into()];
        Image {
            name: "localhost/agent:1".into(),
            arch: Arch::X86_64,
            from: Source::Tree { files, entrypoint },
        }
    }

    #[test]
    fn an_image_from_files_of_the_tree() {
        let root = tempfile::tempdir().expect("temp dir");
        fs::create_dir_all(root.path().join("usr/bin")).expect("folder");
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).expect("link");
        std::os::unix::fs::symlink("/usr/bin/real", root.path().join("usr/bin/busybox")).expect("link");
        fs::write(root.path().join("usr/bin/real"), "ELF").expect("busybox");
        fs::write(root.path().join("a"), "script").expect("script");
        image().preload(&Root::open(root.path()).expect("open"), 0, 1_700_000_000).expect("preload");
        let path = root.path().join("var/lib/edgepress/images").join(archive_name(0, "localhost/agent:1"));
        let bytes = fs::read(path).expect("archive");
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().expect("tar") {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            if name == "manifest.json" {
                let manifest: serde_json::Value = serde_json::from_slice(&content).expect("json");
                assert_eq!(manifest[0]["RepoTags"][0], "localhost/agent:1");
            }
            names.push(name);
        }
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_missing_file_is_named() {
        let root = tempfile::tempdir().expect("temp dir");
        let error = image().preload(&Root::open(root.path()).expect("open"), 0, 0).expect_err("missing");
        assert!(format!("{error:#}").contains("takes /a from the image's root"), "{error:#}");
    }
}
