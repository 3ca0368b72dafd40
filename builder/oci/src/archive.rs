//! Archives of `docker save` that have no layout inside (Docker Image Specification 1.2, "Combined Image JSON + Filesystem
//! Changeset Format").
//!
//! ```text
//! manifest.json     [{"Config": "77af….json", "RepoTags": ["factory/pump:1"], "Layers": ["5e0b…/layer.tar", …]}]
//! 77af….json        the configuration, named by its digest
//! 5e0b…/layer.tar   a layer, as a rule not packed; or a link to another one's
//! ```
//! They have no manifest as registries have it. One is made here, the same for the same archive; its digest is known nowhere
//! else.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

use crate::config::Config;
use crate::descriptor::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, MAX_CONFIG, MAX_MANIFEST, Packing,
};
use crate::error::Problem;
use crate::files::{Files, Piece};
use crate::local::{LocalImage, Place, absent, means};
use crate::manifest::{MAX_LAYERS, Manifest};
use crate::reference::Reference;
use crate::units::{Arch, Digest, Sha256};

const MANIFEST: &str = "manifest.json";

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The image of a name, or the only one.
pub(crate) fn find(files: &Arc<Files>, reference: Option<&Reference>, arch: Arch) -> Result<LocalImage> {
    let Some(bytes) = files.read(MANIFEST, MAX_MANIFEST)? else {
        return Err(Problem::input("it has neither manifest.json nor oci-layout")
            .hint("expected an archive of docker save, or an OCI layout (skopeo copy … oci:FOLDER)")
            .into());
    };
    let items: Vec<Item> =
        serde_json::from_slice(&bytes).map_err(|error| damaged(&format!("its manifest.json: {error}")))?;
    let item = chosen(files, items, reference)?;
    let bytes = files.read(&item.config, MAX_CONFIG)?;
    let bytes = bytes.ok_or_else(|| damaged("the configuration that it names is not in it"))?;
    named_by_digest(&item.config, &bytes)?;
    let config = Config::parse(&bytes)?;
    let names = item.layers.unwrap_or_default();
    if names.len() > MAX_LAYERS || names.len() != config.diff_ids.len() {
        let (known, there) = (config.diff_ids.len(), names.len());
        let why = format!("its configuration names {known} layers, and its manifest.json {there}");
        return Err(damaged(&why).into());
    }
    let mut places = BTreeMap::new();
    let mut layers = Vec::new();
    for (name, diff_id) in names.into_iter().zip(&config.diff_ids) {
        let found = files.file(&name)?.ok_or_else(|| damaged("a layer that it names is not in it"))?;
        let layer =
            layer(found, diff_id).with_context(|| format!("reading the layer {}", diff_id.short()))?;
        places.insert(layer.digest, Place::File(name));
        layers.push(layer);
    }
    image(files, bytes, &config, layers, places, arch)
}

fn image(
    files: &Arc<Files>,
    config_bytes: Vec<u8>,
    read: &Config,
    layers: Vec<Descriptor>,
    mut places: BTreeMap<Digest, Place>,
    arch: Arch,
) -> Result<LocalImage> {
    let config = Descriptor::of(DOCKER_CONFIG, &config_bytes);
    let made = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers});
    let bytes = made.to_string().into_bytes();
    let manifest = Descriptor::of(DOCKER_MANIFEST, &bytes);
    read.check(
        &Manifest { media_type: DOCKER_MANIFEST.into(), config: config.clone(), layers: layers.clone() },
        arch,
    )?;
    places.insert(config.digest, Place::Bytes(config_bytes));
    places.insert(manifest.digest, Place::Bytes(bytes));
    Ok(LocalImage { index: None, manifest, config, layers, files: files.clone(), places })
}

fn chosen(files: &Files, items: Vec<Item>, reference: Option<&Reference>) -> Result<Item> {
    let names = |item: &Item| item.repo_tags.clone().unwrap_or_default();
    let there: Vec<String> = items.iter().flat_map(names).collect();
    let mut found: Vec<Item> = match reference {
        Some(reference) if !there.is_empty() => {
            items.into_iter().filter(|item| names(item).iter().any(|name| means(name, reference))).collect()
        }
        _ => items,
    };
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(absent(files, reference, there).into()),
    }
}

/// A configuration's name is its digest: another content is damaged.
fn named_by_digest(name: &str, bytes: &[u8]) -> Result<(), Problem> {
    let stem = name.rsplit('/').next().unwrap_or_default();
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    match stem.parse::<Digest>() {
        Ok(named) if named != Digest::of(bytes) => {
            Err(damaged(&format!("its configuration {} has SHA-256 {}", named.short(), Digest::of(bytes))))
        }
        _ => Ok(()),
    }
}

/// A layer as it lies there. What is not packed has its diff id as its digest; of what is, the digest is found by reading it.
fn layer((mut piece, size): (Piece, u64), diff_id: &Digest) -> Result<Descriptor> {
    let mut start = [0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match piece.read(&mut start[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    let packing = Packing::told_by(&start[..filled]);
    let (digest, ending) = match packing {
        Packing::Plain => (*diff_id, ""),
        packed => {
            let mut hasher = Sha256::new();
            hasher.update(&start[..filled]);
            std::io::copy(&mut piece, &mut hasher)?;
            (hasher.finish(), if packed == Packing::Gzip { ".gzip" } else { ".zstd" })
        }
    };
    Ok(Descriptor { media_type: format!("{DOCKER_LAYER}{ending}"), digest, size })
}

fn damaged(why: &str) -> Problem {
    Problem::input(why).hint("make the archive anew with docker save, and copy it whole")
}
