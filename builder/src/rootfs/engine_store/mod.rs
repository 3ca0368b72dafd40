//! The container engine's own store, written at build without an engine: the images are there as after `docker load`.
//!
//! ```text
//! /var/lib/docker/
//!   overlay2/CACHE/diff/…                    a layer's files                    CACHE: 64 hexadecimal digits
//!   overlay2/CACHE/{link,lower,work,committed}
//!   overlay2/l/LINK -> ../CACHE/diff                                            LINK: 26 letters and digits
//!   image/overlay2/layerdb/sha256/CHAIN/{cache-id,diff,size,parent,tar-split.json.gz}
//!   image/overlay2/imagedb/content/sha256/IMAGE                                 the configuration's bytes
//!   image/overlay2/distribution/…                                               which blob of a registry a layer was
//!   image/overlay2/repositories.json                                            names → IMAGE
//! ```
//! *diff id*: the digest of a layer's tar. *chain id*: the digest of a layer and all below it. *image id*: the digest of the
//! configuration. The engine takes any CACHE and LINK; here both come from the chain id, so that equal images make equal
//! stores. A layer that images share is there once.
//!
//! Sources: moby daemon/graphdriver/overlay2/overlay.go, layer/filestore.go, layer/layer.go (`createChainIDFromParent`),
//! image/fs.go, reference/store.go, distribution/metadata. What only a file system without mounts can hold, whiteouts
//! among it, is left for [`edgepress_disk`] as markers: see [`layer`].

mod layer;
mod metadata;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::oci::config::Config;
use crate::oci::descriptor::MAX_CONFIG;
use crate::oci::manifest::MAX_LAYERS;
use crate::oci::reference::Reference;
use crate::tree::Root;
use crate::units::Digest;

pub(crate) use self::layer::Passed;
pub(crate) use self::metadata::{NAMES, ids, settle};

/// Where the engine keeps its store.
pub(crate) const FOLDER: &str = "var/lib/docker";

/// More layers at once would not be faster: they are unpacked to one disk.
const MOST_WORKERS: usize = 4;

/// One image to put into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// The names that it has.
    pub names: Vec<Name>,
    /// Digest of its configuration, the image id.
    pub id: Digest,
    /// Its configuration.
    pub config: PathBuf,
    /// Its layers, lowest first.
    pub layers: Vec<Blob>,
    /// The repository it came from, whole (`docker.io/library/busybox`); none for one of an archive.
    pub origin: Option<String>,
}

/// A name as the engine keeps it: `busybox`, `busybox:1.36`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    /// Repository in its short form.
    pub repository: String,
    /// The same with a tag or a digest.
    pub reference: String,
}

impl Image {
    /// What its part of the store depends on, and never where the blobs lie.
    pub(crate) fn input(&self) -> Digest {
        let layers: Vec<Digest> = self.layers.iter().map(|layer| layer.digest).collect();
        Digest::of_json(&(&self.names, self.id, layers, &self.origin))
    }
}

impl Name {
    /// The name that the engine gives to what a recipe or a manifest calls `text`.
    ///
    /// # Errors
    /// When it is no reference.
    pub(crate) fn of(text: &str) -> Result<Self> {
        let reference: Reference = text.parse()?;
        Ok(Self { repository: reference.familiar_name(), reference: reference.familiar() })
    }
}

/// A layer as it is kept on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    /// The file: a tar, compressed or not.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
}

/// A layer in its stack.
#[derive(Debug, Clone)]
struct Stacked<'a> {
    blob: &'a Blob,
    diff_id: Digest,
    chain: Digest,
    /// Chain ids of the layers below, nearest first.
    below: Vec<Digest>,
}

/// Puts the images into the store in the tree, beside those that are there. Returns what of their layers was passed over.
///
/// # Errors
/// Names the image whose configuration or layers are not what they should be.
pub(crate) fn put(root: &Root, images: &[Image]) -> Result<Vec<Passed>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    metadata::folders(root)?;
    let configs = images.iter().map(|image| read(image).with_context(|| named(image)));
    let configs: Vec<(Vec<u8>, Config)> = configs.collect::<Result<_>>()?;
    let mut layers: BTreeMap<Digest, (Stacked<'_>, &Image)> = BTreeMap::new();
    for (image, (_, config)) in images.iter().zip(&configs) {
        for layer in stack(image, config) {
            layers.entry(layer.chain).or_insert((layer, image));
        }
    }
    let layers: Vec<_> =
        layers.into_values().filter(|(layer, _)| !metadata::has(root, &layer.chain)).collect();
    let passed = unpack(root, &layers)?;
    for (image, (bytes, config)) in images.iter().zip(&configs) {
        metadata::image(root, image, bytes, config).with_context(|| named(image))?;
    }
    metadata::names(root, images)?;
    Ok(passed)
}

fn named(image: &Image) -> String {
    let name = image.names.first().map_or("without a name", |name| name.reference.as_str());
    format!("preloading the container image {name}")
}

/// The configuration, and its bytes.
fn read(image: &Image) -> Result<(Vec<u8>, Config)> {
    use std::io::Read as _;

    let mut bytes = Vec::new();
    let file = std::fs::File::open(&image.config).context("opening its configuration")?;
    file.take(MAX_CONFIG + 1).read_to_end(&mut bytes).context("reading its configuration")?;
    ensure!(bytes.len() as u64 <= MAX_CONFIG, "its configuration has more than {MAX_CONFIG} bytes");
    ensure!(Digest::of(&bytes) == image.id, "its configuration is not sha256:{}: it was changed", image.id);
    let config = Config::parse(&bytes)?;
    let (stated, there) = (config.diff_ids.len(), image.layers.len());
    ensure!(stated == there, "its configuration speaks of {stated} layers, and it has {there}");
    ensure!(there <= MAX_LAYERS, "it has {there} layers; the engine takes {MAX_LAYERS} at most");
    Ok((bytes, config))
}

/// The layers of an image with their chain ids.
fn stack<'a>(image: &'a Image, config: &Config) -> Vec<Stacked<'a>> {
    let chains = config.chain_ids();
    let layers = image.layers.iter().zip(&config.diff_ids).enumerate();
    let stacked = layers.map(|(at, (blob, diff_id))| Stacked {
        blob,
        diff_id: *diff_id,
        chain: chains[at],
        below: chains[..at].iter().rev().copied().collect(),
    });
    stacked.collect()
}

/// Unpacks the layers, several at a time: each has a folder of its own.
fn unpack(root: &Root, layers: &[(Stacked<'_>, &Image)]) -> Result<Vec<Passed>> {
    let next = AtomicUsize::new(0);
    let passed = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS).min(layers.len());
    let work = || -> Result<()> {
        while let Some((layer, image)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = one_layer(root, layer).with_context(|| named(image)).inspect_err(|_| {
                // The others end with the layer that they are at.
                next.store(layers.len(), Ordering::Relaxed);
            })?;
            passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(one);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = running
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
    })?;
    let mut passed = passed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    passed.sort();
    passed.dedup();
    Ok(passed)
}

fn one_layer(root: &Root, layer: &Stacked<'_>) -> Result<Vec<Passed>> {
    let cache = metadata::cache(&layer.chain);
    metadata::begin(root, layer, &cache)?;
    let unpacked = layer::unpack(root, &cache, &layer.blob.path, metadata::tar_split(root, &layer.chain)?);
    let (unpacked, passed) =
        unpacked.with_context(|| format!("unpacking its layer sha256:{}", layer.blob.digest))?;
    if unpacked.diff_id != layer.diff_id {
        let (is, stated) = (unpacked.diff_id, layer.diff_id);
        let message = format!("its layer unpacks to sha256:{is}, and its configuration says sha256:{stated}");
        let hint = "`edgepress store verify` tells whether the store is damaged; else the image is wrong: build it anew";
        return Err(Problem::input(message).hint(hint).into());
    }
    metadata::finish(root, layer, &cache, unpacked.size)?;
    Ok(passed)
}

#[cfg(test)]
mod tests;
