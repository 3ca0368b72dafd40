//! Container images that are on the device before its first contact with a network: as `docker save` archives, which
//! any engine loads at first boot.
//!
//! ```text
//! manifest.json   [{"Config": "<hash>.json", "RepoTags": ["name:tag"], "Layers": ["<hash>.tar"]}]
//! <hash>.json     entry point, architecture, digest of the layer
//! <hash>.tar      files
//! ```
//! The format is that of the Docker image specification v1.2, section "Combined Image JSON + Filesystem Changeset".

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::engine_store;
use crate::error::Problem;
use crate::oci;
use crate::recipe::types::{Engine, Preload};
use crate::tree::Root;
use crate::units::{Arch, Digest, Sha256};

/// Folder of the archives in the image; first boot loads and removes them.
pub(crate) const FOLDER: &str = "/var/lib/edgepress/images";

/// What a member of a tar is filled up to.
const BLOCK: u64 = 512;

/// One image to preload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Reference with tag.
    pub name: String,
    /// Architecture of the files in it.
    pub arch: Arch,
    /// Where it comes from.
    pub from: PreloadSource,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PreloadSource {
    /// A `docker save` archive on the host, with its digest.
    Archive(PathBuf, Digest),
    /// Files of the tree: path in the container → path in the tree.
    Tree {
        /// The files.
        files: BTreeMap<String, String>,
        /// Entry point.
        entrypoint: Vec<String>,
    },
    /// Blobs of the store, as a registry has them.
    Pulled(engine_store::Image),
}

/// File name of the `at`-th archive.
pub(crate) fn archive_name(at: usize, name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("{at:02}-{plain}.tar")
}

/// File names of the archives of a recipe's images; none where they are in the engine's store.
pub(crate) fn archive_names(engine: &Engine) -> Vec<String> {
    match engine.preload {
        Preload::Store => Vec::new(),
        Preload::Load => {
            engine.images.iter().enumerate().map(|(at, image)| archive_name(at, &image.name)).collect()
        }
    }
}

/// Bytes that the engine needs beside the archives while it loads them: a copy of one, and the layers of all.
///
/// # Errors
/// When the tree cannot be read.
pub(crate) fn room_to_load(root: &Root) -> Result<u64> {
    let mut room = 0u64;
    for entry in root.list(FOLDER)? {
        let size = root.lstat(Path::new(FOLDER).join(entry.name))?.map_or(0, |meta| meta.size);
        room = room.saturating_add(size.saturating_mul(2));
    }
    Ok(room)
}

/// Does the recipe put images into the engine's store?
pub(crate) fn in_store(engine: &Engine) -> bool {
    engine.preload == Preload::Store && !engine.images.is_empty()
}

impl Image {
    /// What its content depends on, and never where it lies.
    pub(crate) fn input(&self) -> (&str, Arch, Digest) {
        let content = match &self.from {
            PreloadSource::Archive(_, digest) => *digest,
            PreloadSource::Tree { files, entrypoint } => Digest::of_json(&(files, entrypoint)),
            PreloadSource::Pulled(image) => image.input(),
        };
        (&self.name, self.arch, content)
    }

    /// The image as the engine will have it, where it is made of blobs of the store.
    pub(crate) fn pulled(&self) -> Option<&engine_store::Image> {
        match &self.from {
            PreloadSource::Pulled(image) => Some(image),
            PreloadSource::Archive(..) | PreloadSource::Tree { .. } => None,
        }
    }

    /// The file of the host that it is copied from; none where it is made of the tree's own files.
    pub(crate) fn archive(&self) -> Option<&Path> {
        match &self.from {
            PreloadSource::Archive(file, _) => Some(file),
            PreloadSource::Tree { .. } | PreloadSource::Pulled(_) => None,
        }
    }

    /// Puts the image's archive, of number `at`, into the tree.
    ///
    /// # Errors
    /// The file that is missing, or cannot be written.
    pub(crate) fn preload(&self, root: &Root, at: usize, epoch: u64) -> Result<()> {
        self.put(root, at, epoch).with_context(|| format!("preloading the container image {}", self.name))
    }

    /// Puts the image, if it is made of the tree's own files, into the engine's store in the tree; `scratch` is a folder of
    /// this machine for work that is thrown away.
    ///
    /// # Errors
    /// As [`Self::preload`].
    pub(crate) fn store(&self, root: &Root, scratch: &Path, epoch: u64) -> Result<()> {
        let PreloadSource::Tree { files, entrypoint } = &self.from else { return Ok(()) };
        let made = || -> Result<()> {
            let layer = Layer { root, files, epoch };
            let (path, config) = (scratch.join("container-layer.tar"), scratch.join("container-config.json"));
            let mut tally = Tally { to: File::create(&path)?, hasher: Sha256::new(), size: 0 };
            layer.write(&mut tally)?;
            let digest = tally.hasher.finish();
            let text = configuration(self.arch, entrypoint, &digest, epoch)?;
            fs::write(&config, &text)?;
            let names = vec![engine_store::Name::of(&self.name)?];
            let layers = vec![engine_store::Blob { path, digest }];
            let id = Digest::of(&text);
            engine_store::put(root, &[engine_store::Image { names, id, config, layers, origin: None }])
                .map(drop)
        };
        made().with_context(|| format!("preloading the container image {}", self.name))
    }

    fn put(&self, root: &Root, at: usize, epoch: u64) -> Result<()> {
        root.make_folders(FOLDER)?;
        root.set_mode(FOLDER, 0o700)?;
        let path = Path::new(FOLDER).join(archive_name(at, &self.name));
        let to = root.create(&path, 0o600)?;
        match &self.from {
            PreloadSource::Archive(file, digest) => copy(file, digest, to),
            PreloadSource::Pulled(image) => {
                let mut to = BufWriter::new(to);
                pulled(image, epoch, &mut to)?;
                to.flush().context("writing")
            }
            PreloadSource::Tree { files, entrypoint } => {
                let layer = Layer { root, files, epoch };
                let mut to = BufWriter::new(to);
                archive(&self.name, self.arch, entrypoint, &layer, &mut to)?;
                to.flush().context("writing")
            }
        }
    }
}

/// Copies an archive piece by piece, and sees that it is the one that the step's key was made from.
fn copy(file: &Path, digest: &Digest, to: File) -> Result<()> {
    let from = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let mut tally = Tally { to, hasher: Sha256::new(), size: 0 };
    io::copy(&mut BufReader::new(from), &mut tally).context("copying")?;
    if tally.hasher.finish() == *digest {
        return Ok(());
    }
    Err(Problem::input(format!("{} was written to while the image was built", file.display()))
        .hint("build again when it is whole")
        .into())
}

/// Passes on what is written, and knows its digest and size.
struct Tally<W> {
    to: W,
    hasher: Sha256,
    size: u64,
}

impl<W: io::Write> io::Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The container's only layer. It is written twice, once for its digest, so that memory stays flat whatever the files are.
struct Layer<'a> {
    root: &'a Root,
    files: &'a BTreeMap<String, String>,
    epoch: u64,
}

impl Layer<'_> {
    /// Writes it as a tar.
    fn write(&self, to: &mut impl io::Write) -> Result<()> {
        let mut tar = tar::Builder::new(to);
        let mut folders = BTreeSet::from([PathBuf::new()]);
        for (target, source) in self.files {
            let target = target.trim_start_matches('/');
            let folder = Path::new(target).parent().unwrap_or(Path::new(""));
            for missing in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
                if folders.insert(missing.to_owned()) {
                    let name = format!("{}/", missing.display());
                    let mut header = header(tar::EntryType::Directory, 0o755, 0, self.epoch);
                    tar.append_data(&mut header, &name, io::empty())
                        .with_context(|| format!("adding {name}"))?;
                }
            }
            let content = self.root.open_file(source)?.ok_or_else(|| {
                Problem::input(format!("engine.images takes {source} from the image's root: there is none"))
                    .hint("add the package that has it to packages.install")
            })?;
            let size = content.metadata().with_context(|| format!("reading {source}"))?.len();
            let mut header = header(tar::EntryType::Regular, 0o755, size, self.epoch);
            tar.append_data(&mut header, target, content.take(size))
                .with_context(|| format!("adding {target}"))?;
        }
        tar.finish().context("finishing the layer")
    }
}

/// An archive of an image's blobs. Layers are unpacked: engines before 23 take none that zstd packed.
fn pulled(image: &engine_store::Image, epoch: u64, to: &mut impl io::Write) -> Result<()> {
    let mut config = Vec::new();
    File::open(&image.config)
        .context("opening its configuration")?
        .take(oci::descriptor::MAX_CONFIG)
        .read_to_end(&mut config)
        .context("reading its configuration")?;
    let layer_names: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.digest)).collect();
    let tagged = image.names.iter().filter(|name| !name.reference.contains('@'));
    let tags: Vec<&str> = tagged.map(|name| name.reference.as_str()).collect();
    let mut tar = begin(to, &tags, &config, &layer_names, epoch)?;
    let mut there = BTreeSet::new();
    for (layer, name) in image.layers.iter().zip(&layer_names) {
        // An image may have one layer twice, an empty one for example.
        if !there.insert(layer.digest) {
            continue;
        }
        // Once for its size, once for its bytes: memory stays flat.
        let size = io::copy(&mut oci::layer::Layer::open(&layer.path)?, &mut io::sink());
        let size = size.with_context(|| format!("unpacking its layer sha256:{}", layer.digest))?;
        let mut header = header(tar::EntryType::Regular, 0o644, size, epoch);
        tar.append_data(&mut header, name, oci::layer::Layer::open(&layer.path)?)
            .with_context(|| format!("adding {name}"))?;
    }
    tar.finish().context("finishing the archive")
}

/// The beginning of an archive: all but the layers.
fn begin<W: io::Write>(
    to: W,
    tags: &[&str],
    config: &[u8],
    layers: &[String],
    epoch: u64,
) -> Result<tar::Builder<W>> {
    let config_name = format!("{}.json", Digest::of(config));
    let manifest =
        serde_json::to_vec(&json!([{ "Config": config_name, "RepoTags": tags, "Layers": layers }]))?;
    let mut tar = tar::Builder::new(to);
    for (path, content) in [("manifest.json", manifest.as_slice()), (config_name.as_str(), config)] {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64, epoch);
        tar.append_data(&mut header, path, content).with_context(|| format!("adding {path}"))?;
    }
    Ok(tar)
}

/// The configuration of an image of one layer.
fn configuration(arch: Arch, entrypoint: &[String], diff: &Digest, epoch: u64) -> Result<Vec<u8>> {
    let created = time::OffsetDateTime::from_unix_timestamp(i64::try_from(epoch)?)?
        .format(&time::format_description::well_known::Rfc3339)?;
    Ok(serde_json::to_vec(&json!({
        "architecture": arch.debian(),
        "os": "linux",
        "created": created,
        "config": { "Entrypoint": entrypoint, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
        "history": [{ "created": created, "created_by": "edgepress" }],
    }))?)
}

fn archive(
    name: &str,
    arch: Arch,
    entrypoint: &[String],
    layer: &Layer<'_>,
    to: &mut impl io::Write,
) -> Result<()> {
    let mut tally = Tally { to: io::sink(), hasher: Sha256::new(), size: 0 };
    layer.write(&mut tally)?;
    let (diff, size, epoch) = (tally.hasher.finish(), tally.size, layer.epoch);
    let config = configuration(arch, entrypoint, &diff, epoch)?;
    let layer_name = format!("{diff}.tar");
    let mut tar = begin(to, &[name], &config, std::slice::from_ref(&layer_name), epoch)?;
    let mut header = header(tar::EntryType::Regular, 0o644, size, epoch);
    header.set_path(&layer_name)?;
    header.set_cksum();
    let to = tar.get_mut();
    to.write_all(header.as_bytes()).context("writing")?;
    layer.write(to)?;
    let rest = usize::try_from(size.next_multiple_of(BLOCK) - size)?;
    to.write_all(&vec![0; rest]).context("writing")?;
    tar.finish().context("finishing the archive")
}

fn header(kind: tar::EntryType, mode: u32, size: u64, epoch: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::{FOLDER, Image, PreloadSource, archive_name};
    use crate::oci::local::LocalImage;
    use crate::rootfs::engine_store::{self, Blob, Name};
    use crate::tree::Root;
    use crate::units::{Arch, Digest};
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Read as _;
    use std::path::Path;

    fn image() -> Image {
        let files =
            BTreeMap::from([("/bin/sh".into(), "/bin/busybox".into()), ("/agent.sh".into(), "/a".into())]);
        let entrypoint = vec!["/bin/sh".into(), "/agent.sh".into()];
        Image {
            name: "localhost/agent:1".into(),
            arch: Arch::X86_64,
            from: PreloadSource::Tree { files, entrypoint },
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
            if let Some(digest) = name.strip_suffix(".tar") {
                assert_eq!(Digest::of(&content).to_string(), digest);
                let mut layer = tar::Archive::new(content.as_slice());
                let inside = layer.entries().expect("a layer").map(|entry| {
                    let mut entry = entry.expect("entry");
                    let mut text = String::new();
                    entry.read_to_string(&mut text).expect("text");
                    (entry.path().expect("path").display().to_string(), text)
                });
                let inside: Vec<_> = inside.collect();
                let expected = [("agent.sh", "script"), ("bin/", ""), ("bin/sh", "ELF")];
                assert_eq!(inside, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
            }
            names.push(name);
        }
        assert_eq!(names.len(), 3);
    }

    /// Its digest is in the key of the step, so it must be that of what is copied.
    #[test]
    fn an_archive_that_changes_meanwhile_is_refused() {
        let folder = tempfile::tempdir().expect("temp dir");
        fs::create_dir(folder.path().join("root")).expect("folder");
        let root = Root::open(&folder.path().join("root")).expect("open");
        let file = folder.path().join("agent.tar");
        fs::write(&file, "archive").expect("file");
        let from = PreloadSource::Archive(file.clone(), Digest::of("archive"));
        let image = Image { name: "agent:1".into(), arch: Arch::X86_64, from };
        image.preload(&root, 0, 0).expect("copied");
        assert_eq!(
            root.read(Path::new(FOLDER).join("00-agent-1.tar"), 99).expect("read").expect("there"),
            b"archive"
        );
        fs::write(&file, "another").expect("file");
        let error = format!("{:#}", image.preload(&root, 0, 0).expect_err("changed"));
        assert!(error.contains("agent.tar was written to while the image was built"), "{error}");
    }

    /// An image of a registry, for an engine that loads it: what it finds in the archive is what the registry had.
    #[test]
    fn blobs_become_an_archive() {
        let folder = tempfile::tempdir().expect("temp dir");
        let blob = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            let path = folder.path().join(digest.to_string());
            fs::write(&path, bytes).expect("blob");
            Blob { path, digest }
        };
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = super::header(tar::EntryType::Regular, 0o644, 4, 0);
        tar.append_data(&mut header, "etc/name", &b"tool"[..]).expect("append");
        let tar = tar.into_inner().expect("tar");
        let id = Digest::of(&tar);
        let config = blob(
            format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{id}","sha256:{id}"]}}}}"#
            )
            .as_bytes(),
        );
        let layer = blob(&zstd::encode_all(&tar[..], 3).expect("zstd"));
        let names = vec![
            Name::of("plant/tool:1").expect("name"),
            Name::of(&format!("plant/tool@sha256:{id}")).expect("name"),
        ];
        let pulled = engine_store::Image {
            names,
            id: config.digest,
            config: config.path,
            layers: vec![layer.clone(), layer],
            origin: None,
        };
        fs::create_dir(folder.path().join("root")).expect("folder");
        let root = Root::open(&folder.path().join("root")).expect("open");
        let image =
            Image { name: "plant/tool:1".into(), arch: Arch::X86_64, from: PreloadSource::Pulled(pulled) };
        image.preload(&root, 0, 0).expect("preload");
        let archive =
            folder.path().join("root/var/lib/edgepress/images").join(archive_name(0, "plant/tool:1"));
        let reference = "plant/tool:1".parse().expect("reference");
        let found = LocalImage::open(&archive, Some(&reference), Arch::X86_64).expect("an archive");
        assert_eq!(found.config.digest, config.digest);
        assert_eq!(found.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>(), [id, id]);
        let size = fs::metadata(&archive).expect("archive").len();
        assert_eq!(super::room_to_load(&root).expect("room"), 2 * size);
    }

    #[test]
    fn a_missing_file_is_named() {
        let root = tempfile::tempdir().expect("temp dir");
        let error = image().preload(&Root::open(root.path()).expect("open"), 0, 0).expect_err("missing");
        assert!(format!("{error:#}").contains("takes /a from the image's root"), "{error:#}");
    }
}
