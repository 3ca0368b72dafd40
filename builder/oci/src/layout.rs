//! OCI layouts: images as a folder, or an archive of one (image-spec 1.1, image-layout.md).
//!
//! ```text
//! oci-layout            {"imageLayoutVersion": "1.0.0"}
//! index.json            an index, by names: annotations org.opencontainers.image.ref.name, io.containerd.image.name
//! blobs/sha256/HEX      indexes, manifests, configurations, layers
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;

use crate::config::Config;
use crate::descriptor::{BlobKind, Descriptor, MAX_CONFIG, MAX_MANIFEST};
use crate::error::Problem;
use crate::files::Files;
use crate::local::{LocalImage, Place, absent, means};
use crate::manifest::{Document, Index, IndexEntry, Manifest};
use crate::reference::Reference;
use crate::units::{Arch, Digest};

const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
/// Most bytes of the mark.
const MAX_MARK: u64 = 4096;

/// Is it a layout?
pub(crate) fn is_one(files: &Files) -> Result<bool> {
    Ok(files.read(MARK, MAX_MARK)?.is_some() && files.file(INDEX)?.is_some())
}

/// Where a layout has a blob.
pub(crate) fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// The image of a name, or the only one, for an architecture.
pub(crate) fn find(files: &Arc<Files>, reference: Option<&Reference>, arch: Arch) -> Result<LocalImage> {
    let bytes = files.read(INDEX, MAX_MANIFEST)?.unwrap_or_default();
    let Document::Index(index) = Document::parse(&bytes, None)? else {
        return Err(Problem::input("its index.json is a manifest and no index")
            .hint("make the layout anew")
            .into());
    };
    let entries = named(files, index, reference)?;
    let mut places = BTreeMap::new();
    let (index, manifest, found) = chosen(files, entries, arch, &mut places)?;
    let config = Config::parse(&small(files, &found.config, MAX_CONFIG, &mut places)?)?;
    config.check(&found, arch)?;
    for layer in &found.layers {
        let name = place(&layer.digest);
        let size = files.file(&name)?.map(|(_, size)| size);
        if size != Some(layer.size) {
            return Err(wrong_size(&name, layer.size, size).into());
        }
        places.insert(layer.digest, Place::File(name));
    }
    let Manifest { config, layers, .. } = found;
    Ok(LocalImage { index, manifest, config, layers, files: files.clone(), places })
}

/// The entries that bear the name. Where none is named, the only image is meant whatever it is called.
fn named(files: &Files, index: Index, reference: Option<&Reference>) -> Result<Index> {
    // A whole reference says more than the tag that engines write beside it.
    let name = |entry: &IndexEntry| entry.image_name.clone().or_else(|| entry.ref_name.clone());
    let there: Vec<String> = index.entries.iter().filter_map(name).collect();
    let found: Vec<IndexEntry> = match reference {
        Some(reference) if !there.is_empty() => {
            let fits = |entry: &&IndexEntry| name(entry).is_some_and(|name| means(&name, reference));
            index.entries.iter().filter(fits).cloned().collect()
        }
        _ => {
            let mut distinct = there.clone();
            distinct.sort();
            distinct.dedup();
            if distinct.len() > 1 { Vec::new() } else { index.entries.clone() }
        }
    };
    if found.is_empty() {
        return Err(absent(files, reference, there).into());
    }
    Ok(Index { entries: found, ..index })
}

type Chosen = (Option<Descriptor>, Descriptor, Manifest);

/// Down to the manifest: an entry may be that, or an index of its own.
fn chosen(files: &Files, index: Index, arch: Arch, places: &mut BTreeMap<Digest, Place>) -> Result<Chosen> {
    let (own, entries) = match index.entries.as_slice() {
        [only] if only.descriptor.kind() == BlobKind::Index => {
            let bytes = small(files, &only.descriptor, MAX_MANIFEST, places)?;
            match Document::parse(&bytes, Some(&only.descriptor.media_type))? {
                Document::Index(inner) => (Some(only.descriptor.clone()), inner),
                Document::Manifest(_) => return Err(not_as_said().into()),
            }
        }
        _ => (None, index),
    };
    let manifest = match entries.entries.as_slice() {
        // Its configuration says what it is for.
        [only] if own.is_none() && only.descriptor.kind() == BlobKind::Manifest => only.descriptor.clone(),
        _ => entries.choose(arch)?.clone(),
    };
    let bytes = small(files, &manifest, MAX_MANIFEST, places)?;
    match Document::parse(&bytes, Some(&manifest.media_type))? {
        Document::Manifest(found) => Ok((own, manifest, found)),
        Document::Index(_) => Err(not_as_said().into()),
    }
}

fn not_as_said() -> Problem {
    Problem::input("an index of it names a manifest that is none, or an index that is none")
        .hint("make it anew")
}

/// A small blob, checked.
fn small(
    files: &Files,
    blob: &Descriptor,
    most: u64,
    places: &mut BTreeMap<Digest, Place>,
) -> Result<Vec<u8>> {
    let name = place(&blob.digest);
    let Some(bytes) = files.read(&name, most)? else { return Err(wrong_size(&name, blob.size, None).into()) };
    if bytes.len() as u64 != blob.size {
        return Err(wrong_size(&name, blob.size, Some(bytes.len() as u64)).into());
    }
    let found = Digest::of(&bytes);
    if found != blob.digest {
        return Err(Problem::input(format!("{name} has SHA-256 {found}"))
            .hint("it is damaged; copy or make it anew")
            .into());
    }
    places.insert(blob.digest, Place::Bytes(bytes.clone()));
    Ok(bytes)
}

fn wrong_size(name: &str, expected: u64, found: Option<u64>) -> Problem {
    let found = found.map_or("is not there".to_owned(), |size| format!("has {size} bytes"));
    Problem::input(format!("{name} {found}, and {expected} bytes are expected"))
        .hint("it is incomplete; copy it whole, or make it anew")
}
