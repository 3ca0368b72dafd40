//! Descriptors: what a blob is, which, and how large. And the kinds of blobs there are.
//!
//! ```text
//! {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:9834…", "size": 32654}
//! ```
//! *media type*: OCI's (image-spec 1.1, media-types.md) or Docker's (distribution, "Image Manifest Version 2, Schema 2").
//! *blob*: bytes that are named by their digest: an index, a manifest, a configuration, or a *layer*, a tar archive of what
//! changed in the files, packed or not.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Problem;
use crate::units::Digest;

/// Most bytes of an index or manifest: what registries take (distribution's `maxManifestBodySize`).
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Most bytes of a configuration. It is kept in memory, and has kilobytes as a rule; a long history makes it larger.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Most bytes of a layer as it is packed: what no device's disk would take, so that sums of sizes mean something.
pub const MAX_LAYER: u64 = 64 << 30;

/// What a blob is, which, and how large; in documents as OCI writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its media type.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Its SHA-256.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Descriptor {
    /// Of these bytes.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self { media_type: media_type.into(), digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    /// What it describes.
    pub fn kind(&self) -> BlobKind {
        BlobKind::of(&self.media_type)
    }

    /// As a layer: how it is packed.
    ///
    /// # Errors
    /// When it is no layer that may be put onto a device, or too large to be one.
    pub fn packing(&self) -> Result<Packing, Problem> {
        let (media_type, digest) = (shown(&self.media_type), self.digest.short());
        match self.kind() {
            BlobKind::Layer(packing) if self.size <= MAX_LAYER => Ok(packing),
            BlobKind::Layer(_) => {
                let message = format!("the layer {digest} states a size of {} bytes", self.size);
                Err(Problem::input(message)
                    .hint(format!("layers of more than {} GiB are not taken", MAX_LAYER >> 30)))
            }
            BlobKind::ForeignLayer => {
                let message =
                    format!("the layer {digest} may not be distributed by registries ({media_type})");
                Err(Problem::input(message)
                    .hint("Windows base images have such layers; name an image for Linux"))
            }
            _ => Err(Problem::input(format!("the layer {digest} is of a kind unknown here: {media_type}"))
                .hint("taken are tar archives, plain or packed by gzip or zstd; is this a container image?")),
        }
    }
}

/// Kinds of blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// A list of manifests, one an architecture.
    Index,
    /// A manifest: one image.
    Manifest,
    /// A manifest of schema 1, which lists its layers without their sizes and has a signature in it.
    Schema1,
    /// An image's configuration.
    Config,
    /// A layer.
    Layer(Packing),
    /// A layer that is only to be had elsewhere.
    ForeignLayer,
    /// Something else.
    Other,
}

/// How a layer's tar archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Not at all: its digest is the *diff id*.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// Told by a blob's first bytes, as the engine does it (moby pkg/archive, `DetectCompression`): media types are wrong
    /// often enough. gzip: RFC 1952, 2.3.1; zstd: RFC 8878, 3.1.1.
    pub fn told_by(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's configuration of an image.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's layer, not packed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's configuration of an image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer, not packed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// What a registry is asked for, the best first: header `Accept`.
pub const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];

impl BlobKind {
    /// By media type; parameters behind a `;` do not count.
    pub fn of(media_type: &str) -> Self {
        let plain = media_type.split(';').next().unwrap_or_default().trim();
        match plain {
            OCI_INDEX | DOCKER_INDEX => Self::Index,
            OCI_MANIFEST | DOCKER_MANIFEST => Self::Manifest,
            OCI_CONFIG | DOCKER_CONFIG => Self::Config,
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Self::Schema1,
            _ => Self::layer(plain),
        }
    }

    fn layer(media_type: &str) -> Self {
        if [
            "application/vnd.oci.image.layer.nondistributable.",
            "application/vnd.docker.image.rootfs.foreign.",
        ]
        .iter()
        .any(|foreign| media_type.starts_with(foreign))
        {
            return Self::ForeignLayer;
        }
        let rest = media_type.strip_prefix(OCI_LAYER).or_else(|| media_type.strip_prefix(DOCKER_LAYER));
        match rest {
            Some("") => Self::Layer(Packing::Plain),
            Some("+gzip" | ".gzip") => Self::Layer(Packing::Gzip),
            Some("+zstd" | ".zstd") => Self::Layer(Packing::Zstd),
            _ => Self::Other,
        }
    }
}

/// A media type for messages: what a registry wrote has any length.
pub(crate) fn shown(media_type: &str) -> String {
    let start: String = media_type.chars().take(100).collect();
    start.escape_debug().to_string()
}

/// `sha256:` and 64 lower-case hex digits.
///
/// # Errors
/// When it is something else.
pub fn parse_digest(text: &str) -> Result<Digest, String> {
    let hex = text
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    let bad = || format!("`{}` is no SHA-256 digest: expected sha256: and 64 hex digits", shown(text));
    hex.and_then(|hex| hex.parse().ok()).ok_or_else(bad)
}

/// A digest as registries and manifests write it, `sha256:…`.
pub fn written_digest(digest: &Digest) -> String {
    format!("sha256:{digest}")
}

fn write_digest<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&written_digest(digest))
}

pub(crate) fn read_digest<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    parse_digest(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::{BlobKind, Descriptor, MAX_LAYER, Packing, parse_digest};
    use crate::units::Digest;

    #[test]
    fn kinds_by_media_type() {
        let layer = |packing| BlobKind::Layer(packing);
        for (text, kind) in [
            ("application/vnd.oci.image.index.v1+json", BlobKind::Index),
            ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", BlobKind::Manifest),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", BlobKind::Schema1),
            ("application/vnd.docker.container.image.v1+json", BlobKind::Config),
            ("application/vnd.oci.image.layer.v1.tar", layer(Packing::Plain)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", layer(Packing::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", layer(Packing::Zstd)),
            ("application/vnd.docker.image.rootfs.diff.tar", layer(Packing::Plain)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", layer(Packing::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", layer(Packing::Zstd)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", BlobKind::ForeignLayer),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", BlobKind::ForeignLayer),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", BlobKind::Other),
            ("application/json", BlobKind::Other),
            ("", BlobKind::Other),
        ] {
            assert_eq!(BlobKind::of(text), kind, "{text}");
        }
    }

    #[test]
    fn what_is_no_layer_is_refused_by_name() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (media_type, size, what) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1, "may not be distributed"),
            (
                "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                1,
                "kind unknown here: application/vnd.cncf",
            ),
            (gzip, MAX_LAYER + 1, "states a size of"),
        ] {
            let descriptor = Descriptor { size, ..Descriptor::of(media_type, b"x") };
            let error = descriptor.packing().expect_err(media_type);
            assert!(error.message.contains(what) && error.hint.is_some(), "{error:?}");
        }
        assert_eq!(Descriptor::of(gzip, b"x").packing(), Ok(Packing::Gzip));
    }

    #[test]
    fn as_documents_write_them() {
        let descriptor = Descriptor::of("a/b", b"x");
        let text = serde_json::to_string(&descriptor).expect("writes");
        assert_eq!(text, format!(r#"{{"mediaType":"a/b","digest":"sha256:{}","size":1}}"#, Digest::of("x")));
        assert_eq!(serde_json::from_str::<Descriptor>(&text).expect("reads"), descriptor);
        for bad in [text.replace("sha256:", "sha512:"), text.replace("\"size\":1", "\"size\":-1")] {
            assert!(serde_json::from_str::<Descriptor>(&bad).is_err(), "{bad}");
        }
        let plus = format!("sha256:+{}", "a".repeat(63));
        assert!(parse_digest(&plus).is_err() && parse_digest(&"a".repeat(64)).is_err());
    }
}
