//! Images that come out of files instead of a registry.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Resolved;
use crate::oci::local::LocalImage;
use crate::oci::reference::Reference;
use crate::store::Store;
use crate::units::Arch;

/// Copies an image out of an OCI layout (a folder, or an archive of one) or an archive of `docker save` into the store: the one
/// of this name; the only one, if there is one alone and without a name.
///
/// # Errors
/// When it is none of both, is damaged or cut short, has no such image, or one for another architecture; when a layer is not
/// what its digest says.
pub fn take(path: &Path, reference: &Reference, arch: Arch, store: &Store) -> Result<Resolved> {
    let image = LocalImage::open(path, Some(reference), arch)?;
    for blob in image.blobs().filter(|blob| !store.has_blob(&blob.digest)) {
        let copied = image.blob(blob).and_then(|bytes| store.insert_reader(bytes, Some(blob.digest)));
        copied.with_context(|| format!("copying the blob {} of {}", blob.digest.short(), path.display()))?;
    }
    let LocalImage { index, manifest, config, layers, .. } = image;
    Ok(Resolved { reference: reference.clone(), index, manifest, config, layers })
}
