//! Images of any form, opened: with the manifest beside them, unpacked where they lie in a container, and the root file system
//! in them read where it lies.

pub(crate) mod root;
pub(crate) mod scratch;
pub(crate) mod source;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::disk::Partition;
use crate::disk::sparse;
use crate::error::Problem;
use crate::event::Sink;
use crate::format::unpack::unpack;
use crate::format::{Container, Form, Format, detect};
use crate::manifest::{FILE_NAME, Manifest, Output};
use crate::units::Digest;

/// Far above any manifest: a limit for a file that is not one.
const MANIFEST_MAX: u64 = 16 << 20;

/// An image and its manifest.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// The raw image, absolute; one that lies in a container only after [`Image::unpack`].
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// What the image was made from.
    pub manifest: Manifest,
    /// The file as it was named, absolute.
    file: PathBuf,
    container: Container,
}

/// What changes when somebody writes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Image {
    /// Opens `path`: an image, or the folder that `edgepress build` made.
    ///
    /// # Errors
    /// When image or manifest is missing or unreadable, or the one does not fit the other.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| {
            Problem::input(format!("cannot open the image {}: {error}", path.display()))
                .hint("`edgepress build RECIPE` prints the path of the image that it made")
        })?;
        let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
        let folder = if metadata.is_dir() { path.clone() } else { folder_of(&path) };
        let manifest = read_manifest(&folder.join(FILE_NAME))?;
        let path = if metadata.is_dir() { folder.join(disk_image(&manifest, &folder)?) } else { path };
        let unusable = |error: std::io::Error| {
            Problem::input(format!("cannot open the image {}: {error}", path.display()))
        };
        let file = File::open(&path).map_err(unusable)?;
        let size = file.metadata().map_err(unusable)?.len();
        let container = detect(&file, size).with_context(|| format!("reading {}", path.display()))?;
        let image = Self { file: path.clone(), path, size, manifest, container };
        if image.is_raw() {
            image.check_size()?;
        }
        Ok(image)
    }

    /// Is it the disk itself, in no container?
    pub(crate) fn is_raw(&self) -> bool {
        self.container == Container::Raw
    }

    /// Makes a raw image that lies in a container one in `folder`, with holes, and goes on with that one; leaves a raw
    /// image as it is.
    ///
    /// # Errors
    /// When it cannot be unpacked, its digest is not that in the manifest, or it does not fit the manifest.
    pub(crate) fn unpack(&mut self, folder: &Path, sink: &dyn Sink) -> Result<()> {
        if self.is_raw() {
            return Ok(());
        }
        let path = folder.join(format!("{}.img", self.name()));
        let file = File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let size = unpack(&self.file, &file, sink)?;
        let known = self.listed().and_then(|output| output.raw);
        if let Some(raw) = known
            && sparse::digest(&path)? != raw.sha256
        {
            let message =
                format!("{} does not hold the disk that its {FILE_NAME} speaks of", self.file.display());
            return Err(Problem::input(message).hint("build it again: it was damaged or exchanged").into());
        }
        (self.path, self.size) = (path, size);
        self.check_size()
    }

    /// The file's name without what says its format: `demo` of demo.img.zst.
    pub(crate) fn name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        name.split_once('.').map_or(name.as_ref(), |(name, _)| name).to_owned()
    }

    /// The folder that holds image and manifest.
    pub(crate) fn folder(&self) -> PathBuf {
        folder_of(&self.file)
    }

    /// The partition with this role (`fat`, `root`).
    ///
    /// # Errors
    /// When the manifest has none.
    pub(crate) fn partition(&self, role: &str) -> Result<&Partition> {
        self.manifest.partitions.iter().find(|partition| partition.role == role).ok_or_else(|| {
            let manifest = self.folder().join(FILE_NAME);
            Problem::input(format!("{} names no partition with the role `{role}`", manifest.display())).into()
        })
    }

    /// The disk's digest as the manifest has it; none for an image that the manifest does not list, or only as a file.
    pub(crate) fn digest(&self) -> Option<Digest> {
        let listed = self.listed()?;
        listed.raw.map(|raw| raw.sha256).or_else(|| self.is_raw().then_some(listed.sha256))
    }

    fn listed(&self) -> Option<&Output> {
        let name = self.file.file_name()?;
        self.manifest.outputs.iter().find(|output| output.file == name)
    }

    /// What changes when somebody writes to the image.
    ///
    /// # Errors
    /// When the image is gone.
    pub(crate) fn stamp(&self) -> Result<Stamp> {
        let data = fs::metadata(&self.path).with_context(|| format!("looking at {}", self.path.display()))?;
        Ok(Stamp {
            inode: (data.dev(), data.ino()),
            size: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    fn check_size(&self) -> Result<()> {
        let ends = self.manifest.partitions.iter().map(|part| part.offset.saturating_add(part.size));
        let least = ends.max().unwrap_or(0);
        if self.size >= least && self.size > 0 && self.size.is_multiple_of(512) {
            return Ok(());
        }
        Err(Problem::input(format!(
            "{} is {} bytes long: expected whole sectors of 512 bytes, and at least {least} bytes for the partitions \
             in its {FILE_NAME}",
            self.path.display(),
            self.size
        ))
        .hint("a copy that was cut off cannot boot")
        .into())
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

/// Reads the manifest beside an image.
///
/// # Errors
/// When it is missing or no manifest.
pub(crate) fn read_manifest(path: &Path) -> Result<Manifest> {
    let unusable = |why: String| {
        Problem::input(format!("the image's manifest {} cannot be used: {why}", path.display()))
            .hint("`edgepress build` writes it beside the image: keep the two together")
    };
    let size = fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
    if size > MANIFEST_MAX {
        return Err(unusable(format!("it is {size} bytes long")).into());
    }
    let text = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()).into())
}

/// The image of the folder that a manifest lies in: the raw one, or else the form of it that unpacks fastest.
///
/// # Errors
/// A [`Problem`] when none is listed, or none of those is there.
pub(crate) fn disk_image(manifest: &Manifest, folder: &Path) -> Result<PathBuf> {
    let names: Vec<_> = manifest.outputs.iter().filter_map(Output::plain_name).collect();
    let listed =
        |form: &'static Form| names.iter().find(|name| form.is_name_of(&name.to_string_lossy())).copied();
    let mut known = Format::opened().into_iter().filter_map(listed).peekable();
    let Some(first) = known.peek().copied() else {
        let message = format!("{} lists no image", folder.join(FILE_NAME).display());
        return Err(Problem::input(message).hint("add `img` to target.formats and build again").into());
    };
    let there = known.find(|name| folder.join(name).is_file());
    Ok(there.cloned().ok_or_else(|| {
        Problem::input(format!("cannot open the image {}: it is missing", folder.join(first).display()))
            .hint("build it again, or name the image itself")
    })?)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::{Path, PathBuf};

    use super::Image;
    use crate::error::{ProblemKind, problem};

    /// A manifest with a FAT and a root partition of 1 MiB each; the image is 4 MiB long.
    pub(crate) fn manifest_text() -> String {
        serde_json::json!({
            "edgepress": "0.1.0", "name": "demo", "description": "", "arch": "x86_64", "board": "uefi",
            "inputs": {}, "kernels": ["6.1.0-1-amd64"], "epoch": 1_700_000_000,
            "provisioning": serde_json::to_value(crate::recipe::types::Provisioning::default()).expect("plain"),
            "engine_dns": ["1.1.1.1"],
            "partitions": [
                { "role": "fat", "offset": 1 << 20, "size": 1 << 20, "uuid": "1234-5678" },
                { "role": "root", "offset": 2 << 20, "size": 1 << 20, "uuid": "" },
            ],
            "outputs": [{ "file": "demo.img", "size": 4 << 20, "sha256": "ab".repeat(32) }],
            "seconds": {},
        })
        .to_string()
    }

    fn folder(manifest: Option<&str>, image: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temp dir");
        if let Some(text) = manifest {
            std::fs::write(folder.path().join("manifest.json"), text).expect("write");
        }
        let path = folder.path().join("demo.img");
        std::fs::File::create(&path).and_then(|file| file.set_len(image)).expect("make");
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        let error = Image::open(path).expect_err("refused");
        assert_eq!(problem(&error).expect("a problem").kind, ProblemKind::Input);
        error.to_string()
    }

    #[test]
    fn opens_an_image_or_its_folder() {
        let (folder, path) = folder(Some(&manifest_text()), 4 << 20);
        let image = Image::open(&path).expect("opens");
        assert_eq!(image.path, Image::open(folder.path()).expect("opens").path);
        assert_eq!(image.partition("fat").expect("fat").offset, 1 << 20);
        assert!(image.partition("swap").is_err());
        assert_eq!(image.digest().expect("listed").to_string(), "ab".repeat(32));
    }

    #[test]
    fn a_packed_image_is_unpacked_and_checked() {
        use crate::event::Silent;
        use crate::units::Digest;
        let folder = tempfile::tempdir().expect("temp dir");
        let mut raw = vec![0; 4 << 20];
        raw[3 << 20..].fill(7);
        std::fs::write(folder.path().join("demo.img.zst"), zstd::encode_all(&raw[..], 1).expect("zst"))
            .expect("write");
        let manifest = |digest: Digest| {
            let listed = serde_json::json!({ "file": "demo.img.zst", "format": "img.zst", "size": 1,
                "sha256": "cd".repeat(32), "raw": { "size": raw.len(), "sha256": digest } });
            let mut manifest: serde_json::Value = serde_json::from_str(&manifest_text()).expect("json");
            manifest["outputs"] = serde_json::json!([listed]);
            std::fs::write(folder.path().join("manifest.json"), manifest.to_string()).expect("write");
        };
        manifest(Digest::of(&raw));
        let mut image = Image::open(folder.path()).expect("opens");
        assert!(!image.is_raw() && image.name() == "demo");
        let scratch = tempfile::tempdir().expect("temp dir");
        image.unpack(scratch.path(), &Silent).expect("unpacks");
        assert_eq!((image.size, image.digest()), (4 << 20, Some(Digest::of(&raw))));
        assert!(std::fs::read(&image.path).expect("read") == raw);
        assert_eq!(image.folder(), folder.path().canonicalize().expect("path"));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&image.path.metadata().expect("metadata"));
        assert!(blocks * 512 < 2 << 20, "holes were filled");
        manifest(Digest::of("other"));
        let mut image = Image::open(folder.path()).expect("opens");
        let error = image.unpack(tempfile::tempdir().expect("dir").path(), &Silent).expect_err("other bytes");
        assert!(
            error.to_string().ends_with("does not hold the disk that its manifest.json speaks of"),
            "{error}"
        );
    }

    #[test]
    fn a_write_changes_the_stamp() {
        let (_folder, path) = folder(Some(&manifest_text()), 4 << 20);
        let image = Image::open(&path).expect("opens");
        let before = image.stamp().expect("stamp");
        assert_eq!(image.stamp().expect("stamp"), before);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(5 << 20))
            .expect("grow");
        assert_ne!(image.stamp().expect("stamp"), before);
    }

    #[test]
    fn refusals_name_the_file() {
        assert!(
            refusal(Path::new("/nowhere/demo.img")).starts_with("cannot open the image /nowhere/demo.img")
        );
        let (_kept, path) = folder(None, 4 << 20);
        assert!(refusal(&path).contains("manifest.json cannot be used: No such file"));
        let (_kept, path) = folder(Some("{\"edgepress\": 3}"), 4 << 20);
        assert!(refusal(&path).contains("invalid type"));
        let (_kept, path) = folder(Some(&manifest_text()), 2 << 20);
        assert!(refusal(&path).contains("at least 3145728 bytes"));
        let outside = manifest_text().replace("demo.img", "../demo.img");
        let (kept, _path) = folder(Some(&outside), 4 << 20);
        assert!(refusal(kept.path()).contains("lists no image"));
    }
}
