//! What the engine keeps besides the layers' files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{FOLDER, Image, Stacked, stack};
use crate::oci::config::Config;
use crate::tree::Root;
use crate::units::Digest;

/// The driver's part of the store, and its modes (moby daemon/graphdriver/overlay2, image/fs.go, layer/filestore.go).
const FOLDERS: [(&str, u32); 9] = [
    ("", 0o710),
    ("overlay2", 0o710),
    ("overlay2/l", 0o710),
    ("image", 0o700),
    ("image/overlay2", 0o700),
    ("image/overlay2/layerdb", 0o700),
    ("image/overlay2/layerdb/sha256", 0o700),
    ("image/overlay2/imagedb/content/sha256", 0o700),
    ("image/overlay2/distribution", 0o700),
];
/// Where the names of the images are, in the root.
pub(crate) const NAMES: &str = "var/lib/docker/image/overlay2/repositories.json";
/// Most bytes of the list of names.
pub(super) const LARGEST_NAMES: u64 = 64 << 20;
/// Characters of a link's name (overlay2, `idLength`).
const LINK: usize = 26;
/// RFC 4648, 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn at(path: &str) -> PathBuf {
    PathBuf::from(FOLDER).join(path)
}

/// Makes the folders that all images share.
pub(super) fn folders(root: &Root) -> Result<()> {
    for (path, mode) in FOLDERS {
        let path = at(path);
        if let Some(above) = path.parent() {
            root.make_folders(above)?;
        }
        root.make_folder(&path, mode)?;
    }
    for path in ["image/overlay2/imagedb", "image/overlay2/imagedb/content"] {
        root.set_mode(at(path), 0o700)?;
    }
    Ok(())
}

/// The name of a layer's folder.
pub(super) fn cache(chain: &Digest) -> String {
    Digest::of(format!("overlay2 folder of {chain}")).to_string()
}

/// The short name that a layer's files are mounted by: the kernel takes one page of mount options.
fn link(chain: &Digest) -> String {
    let bytes = Digest::of(format!("overlay2 link of {chain}")).0;
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let letter = |at: usize| (0..5).fold(0, |value, next| value << 1 | usize::from(bit(at * 5 + next)));
    (0..LINK).map(|at| char::from(BASE32[letter(at)])).collect()
}

fn layer_folder(chain: &Digest) -> PathBuf {
    at("image/overlay2/layerdb/sha256").join(chain.to_string())
}

/// Is the layer in the store already?
pub(super) fn has(root: &Root, chain: &Digest) -> bool {
    root.exists(layer_folder(chain).join("cache-id"))
}

/// Makes a layer's folders.
pub(super) fn begin(root: &Root, layer: &Stacked<'_>, cache: &str) -> Result<()> {
    let folder = at("overlay2").join(cache);
    root.make_folder(&folder, 0o710)?;
    root.make_folder(folder.join("diff"), 0o755)?;
    root.make_folder(layer_folder(&layer.chain), 0o755)?;
    let link = link(&layer.chain);
    root.symlink(format!("../{cache}/diff"), at("overlay2/l").join(&link))?;
    root.write(folder.join("link"), 0o644, link.as_bytes())?;
    root.write(folder.join("committed"), 0o600, b"")?;
    if !layer.below.is_empty() {
        let lower: Vec<String> = layer.below.iter().map(|chain| format!("l/{}", self::link(chain))).collect();
        root.write(folder.join("lower"), 0o644, lower.join(":").as_bytes())?;
        root.make_folder(folder.join("work"), 0o700)?;
    }
    Ok(())
}

/// The file for the list of the layer's headers.
pub(super) fn tar_split(root: &Root, chain: &Digest) -> Result<File> {
    root.create(layer_folder(chain).join("tar-split.json.gz"), 0o644)
}

/// Writes down a layer that is unpacked; `cache-id` last, for [`has`] goes by it.
pub(super) fn finish(root: &Root, layer: &Stacked<'_>, cache: &str, size: u64) -> Result<()> {
    let folder = layer_folder(&layer.chain);
    root.write(folder.join("diff"), 0o644, format!("sha256:{}", layer.diff_id).as_bytes())?;
    root.write(folder.join("size"), 0o644, size.to_string().as_bytes())?;
    if let Some(parent) = layer.below.first() {
        root.write(folder.join("parent"), 0o644, format!("sha256:{parent}").as_bytes())?;
    }
    root.write(folder.join("cache-id"), 0o644, cache.as_bytes())
}

/// Writes down an image: its configuration, and where its layers came from.
pub(super) fn image(root: &Root, image: &Image, bytes: &[u8], config: &Config) -> Result<()> {
    let content = at("image/overlay2/imagedb/content/sha256");
    root.write(content.join(image.id.to_string()), 0o600, bytes)?;
    let Some(origin) = &image.origin else { return Ok(()) };
    let folder = at("image/overlay2/distribution");
    for layer in stack(image, config) {
        let (blob, diff) = (layer.blob.digest, layer.diff_id);
        let by_blob = folder.join("diffid-by-digest/sha256").join(blob.to_string());
        root.write(by_blob, 0o644, format!("sha256:{diff}").as_bytes())?;
        let by_diff = folder.join("v2metadata-by-diffid/sha256").join(diff.to_string());
        // Several repositories may have it: the engine keeps a list, the last that was pulled at its end.
        let mut sources: Vec<serde_json::Value> = match root.read(&by_diff, LARGEST_NAMES)? {
            Some(text) => serde_json::from_slice(&text).context("reading where a layer came from")?,
            None => Vec::new(),
        };
        let source = json!({ "Digest": format!("sha256:{blob}"), "SourceRepository": origin, "HMAC": "" });
        if !sources.contains(&source) {
            sources.push(source);
        }
        root.write(by_diff, 0o644, &serde_json::to_vec(&sources)?)?;
    }
    Ok(())
}

/// `repositories.json`; the names are the engine's.
#[derive(Default, Serialize, Deserialize)]
struct Repositories {
    #[serde(rename = "Repositories")]
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

/// Gives what is no file of a layer the time of the newest file that is one: it depends on the images, and on nothing else.
///
/// # Errors
/// When the store cannot be read, or written.
pub(crate) fn settle(root: &Root) -> Result<()> {
    let mut paths =
        vec![PathBuf::new(), PathBuf::from("var"), PathBuf::from("var/lib"), PathBuf::from(FOLDER)];
    let mut newest = 0;
    root.walk(FOLDER, &mut |path, meta| {
        let mut parts = path.strip_prefix(FOLDER).unwrap_or(path).iter();
        let of_a_layer = parts.next() == Some("overlay2".as_ref()) && parts.nth(1) == Some("diff".as_ref());
        if of_a_layer {
            newest = newest.max(meta.mtime);
        } else {
            paths.push(path.to_owned());
        }
        Ok(())
    })?;
    paths.iter().try_for_each(|path| root.set_time(path, newest))
}

/// The images that a list of names knows: reference → digest of the configuration, `sha256:…`.
///
/// # Errors
/// When the text is no such list.
pub(crate) fn ids(text: &[u8]) -> Result<BTreeMap<String, String>> {
    let all: Repositories =
        serde_json::from_slice(text).context("reading the names of the images in the store")?;
    Ok(all.repositories.into_values().flatten().collect())
}

/// Adds the names of the images, in place of older ones.
pub(super) fn names(root: &Root, images: &[Image]) -> Result<()> {
    let mut all: Repositories = match root.read(NAMES, LARGEST_NAMES)? {
        Some(text) => {
            serde_json::from_slice(&text).context("reading the names of the images in the store")?
        }
        None => Repositories::default(),
    };
    for image in images {
        let id = format!("sha256:{}", image.id);
        for name in &image.names {
            let repository = all.repositories.entry(name.repository.clone()).or_default();
            repository.insert(name.reference.clone(), id.clone());
        }
    }
    root.write(NAMES, 0o600, &serde_json::to_vec(&all)?)
}

#[cfg(test)]
mod tests {
    use super::link;
    use crate::units::Digest;

    #[test]
    fn links_are_as_the_engine_makes_them() {
        let one = link(&Digest::of("one"));
        assert_eq!(one.len(), 26);
        assert!(one.bytes().all(|c| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c)), "{one}");
        assert_ne!(one, link(&Digest::of("two")));
    }
}
