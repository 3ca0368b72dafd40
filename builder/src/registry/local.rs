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

#[cfg(test)]
mod tests {
    use super::{Arch, Path, Reference, Store, take};
    use crate::error::problem;
    use crate::units::Digest;
    use serde_json::json;

    /// `docker save` of an image with one layer, which the configuration calls `claimed`.
    fn archive(path: &Path, layer: &[u8], claimed: &[u8]) {
        let ids = [format!("sha256:{}", Digest::of(claimed))];
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
        let items = json!([{"Config": "c.json", "RepoTags": ["factory/pump:1"], "Layers": ["l/layer.tar"]}]);
        let mut builder = tar::Builder::new(std::fs::File::create(path).expect("creates"));
        let (config, items) = (config.to_string(), items.to_string());
        for (name, bytes) in
            [("l/layer.tar", layer), ("c.json", config.as_bytes()), ("manifest.json", items.as_bytes())]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).expect("appends");
        }
        builder.into_inner().expect("ends");
    }

    #[test]
    fn a_configuration_that_lies_about_a_layer_is_found_out() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(Some(folder.path().join("store"))).expect("opens");
        let path = folder.path().join("image.tar");
        let reference: Reference = "factory/pump:1".parse().expect("parses");
        archive(&path, b"evil", b"good");
        let error = take(&path, &reference, Arch::X86_64, &store).expect_err("refused");
        let text = format!("{error:#}");
        assert!(
            text.contains("copying the blob") && text.contains(&Digest::of("evil").to_string()),
            "{text}"
        );
        assert!(problem(&error).is_some_and(|problem| problem.hint.is_some()));
        assert!(!store.has_blob(&Digest::of("evil")) && !store.has_blob(&Digest::of("good")));
        archive(&path, b"good", b"good");
        let taken = take(&path, &reference, Arch::X86_64, &store).expect("takes");
        assert!(taken.blobs().all(|blob| store.has_blob(&blob.digest)));
        assert_eq!(taken.layers[0].digest, Digest::of("good"));
        // Twice the same: the lock does not change.
        assert_eq!(take(&path, &reference, Arch::X86_64, &store).expect("takes"), taken);
    }
}
