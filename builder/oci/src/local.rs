//! Images that lie in files: what layouts and archives have in common.
//!
//! ```text
//! folder   OCI layout                         skopeo copy … oci:FOLDER, buildx --output type=oci,tar=false
//! archive  docker save, with a layout inside  engines from 25 on
//!          docker save, without               engines before; skopeo copy … docker-archive:FILE
//!          OCI layout, as tar                 skopeo copy … oci-archive:FILE, buildx --output type=oci
//! ```

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::descriptor::Descriptor;
use crate::error::Problem;
use crate::files::{Files, Piece};
use crate::reference::Reference;
use crate::units::{Arch, Digest};
use crate::{archive, layout};

/// References that are named in a message.
const MAX_SHOWN: usize = 12;

/// An image for one architecture, and where its blobs are. Sizes are checked; digests of layers are not yet: whoever reads
/// them must.
#[derive(Debug)]
pub struct LocalImage {
    /// The index that it was chosen from, where there is one of its own digest.
    pub index: Option<Descriptor>,
    /// The manifest; of archives that have none, one that is made here of what they have.
    pub manifest: Descriptor,
    /// The configuration; its digest is the image's id.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    pub(crate) files: Arc<Files>,
    pub(crate) places: BTreeMap<Digest, Place>,
}

/// Where a blob is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In the file of this name.
    File(String),
    /// Here: it was read, or made.
    Bytes(Vec<u8>),
}

/// A blob's bytes, as they come.
pub enum Blob {
    /// Of a file.
    File(Piece),
    /// Of memory.
    Bytes(Cursor<Vec<u8>>),
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(piece) => piece.read(buffer),
            Self::Bytes(bytes) => bytes.read(buffer),
        }
    }
}

impl LocalImage {
    /// The image in a layout or an archive: the one of this name, or the only one; for this architecture.
    ///
    /// # Errors
    /// When it is none of both, damaged or cut short; when the image is not in it, or not for the architecture.
    pub fn open(path: &Path, reference: Option<&Reference>, arch: Arch) -> Result<Self> {
        let files = Arc::new(Files::open(path)?);
        let found = if layout::is_one(&files)? {
            layout::find(&files, reference, arch)
        } else {
            archive::find(&files, reference, arch)
        };
        found.with_context(|| format!("reading the image in {}", path.display()))
    }

    /// All blobs, from the index down.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.index.iter().chain([&self.manifest, &self.config]).chain(&self.layers)
    }

    /// Opens a blob of this image.
    ///
    /// # Errors
    /// When it is not one, or cannot be opened.
    pub fn blob(&self, blob: &Descriptor) -> Result<Blob> {
        let place = self.places.get(&blob.digest);
        match place.with_context(|| format!("looking for the blob {}", blob.digest.short()))? {
            Place::Bytes(bytes) => Ok(Blob::Bytes(Cursor::new(bytes.clone()))),
            Place::File(name) => {
                let found = self.files.file(name)?;
                let (piece, _) = found.with_context(|| format!("opening {name} of {}", self.files.name()))?;
                Ok(Blob::File(piece))
            }
        }
    }
}

/// An image that is not there, and those that are.
pub(crate) fn absent(files: &Files, reference: Option<&Reference>, mut there: Vec<String>) -> Problem {
    let name = files.name();
    there.sort();
    there.dedup();
    let (count, more) = (there.len(), if there.len() > MAX_SHOWN { ", …" } else { "" });
    there.truncate(MAX_SHOWN);
    let there = if count == 0 { "none by name".to_owned() } else { format!("{}{more}", there.join(", ")) };
    match reference {
        Some(reference) => Problem::input(format!("{name} has no image {reference}; it has {there}"))
            .hint("name one of those, or save the image again under this name"),
        None => {
            Problem::input(format!("{name} has several images: {there}")).hint("name the one that is meant")
        }
    }
}

/// Does a name that an archive or layout gives mean the reference? It may be a whole reference, or a tag alone.
pub(crate) fn means(name: &str, reference: &Reference) -> bool {
    let same =
        |other: Reference| other.name() == reference.name() && other.pulled_tag() == reference.pulled_tag();
    let is_name = name.contains(['/', ':']);
    let tag = reference.tag().or(reference.pulled_tag());
    if is_name { name.parse::<Reference>().is_ok_and(same) } else { Some(name) == tag }
}

#[cfg(test)]
mod tests;
