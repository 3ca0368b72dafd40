//! What edgeAgent makes of a module's image, before the engine sees it.
//!
//! ```text
//! registry.example/factory/pump:1.4          as it is
//! registry.example/factory/pump              gets ":latest"
//! registry.example/factory/pump@sha256:…     as it is
//! registry.example/factory/pump:1.4@sha256:… refused
//! $upstream:8000/factory/pump:1.4            `$upstream` becomes the parent device
//! ```
//!
//! Read off DockerConfig.cs, NestedEdgeParentUrlParser.cs and DockerUtil.cs of Azure/iotedge.

use edgepress_oci::reference::Reference;

/// Docker Hub's address in credentials, for images that name no registry.
pub(crate) const DOCKER_HUB_ADDRESS: &str = "https://index.docker.io/v1/";
/// The parent of a device in a hierarchy.
const UPSTREAM: &str = "$upstream";

/// An image as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// A reference that the engine takes, too.
    Reference(Reference),
    /// One at the parent device, which is known on the device alone.
    Upstream,
    /// Nothing, or white space.
    Empty,
    /// A placeholder that nobody filled in.
    Placeholder,
    /// A tag and a digest: edgeAgent refuses it.
    TagAndDigest(Reference),
    /// What edgeAgent's own pattern refuses, or the engine.
    Wrong {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// Reads an image as edgeAgent does: white space around it does not count.
pub(crate) fn read(image: &str) -> Image {
    let image = image.trim();
    if image.is_empty() {
        return Image::Empty;
    }
    if crate::template::has_placeholder(image) {
        return Image::Placeholder;
    }
    if image.starts_with('$') {
        return upstream(image);
    }
    match image.parse::<Reference>() {
        Ok(reference) if reference.is_taken_by_edge_agent() => Image::Reference(reference),
        Ok(reference) => Image::TagAndDigest(reference),
        Err(problem) => Image::Wrong { message: problem.message, hint: problem.hint },
    }
}

/// `$upstream:PORT/…`: without a port edgeAgent leaves the `$`, and then refuses it.
fn upstream(image: &str) -> Image {
    let rest = image.strip_prefix(UPSTREAM).and_then(|rest| rest.strip_prefix(':'));
    if rest.is_some_and(|rest| rest.starts_with(|c: char| ('1'..='9').contains(&c)) && rest.contains('/')) {
        return Image::Upstream;
    }
    let message = "it begins with `$` and is no image at the parent device".to_owned();
    Image::Wrong { message, hint: Some("write $upstream:PORT/NAME:TAG, with the port".into()) }
}

/// The address that credentials must have to be used for this image; none where edgeAgent looks for none.
pub(crate) fn credentials_address(image: &str) -> Option<&str> {
    let (first, _) = image.trim().split_once('/')?;
    Some(if first.contains(['.', ':']) { first } else { DOCKER_HUB_ADDRESS })
}

#[cfg(test)]
mod tests {
    use super::{DOCKER_HUB_ADDRESS, Image, credentials_address, read};

    #[test]
    fn images_are_taken_as_edge_agent_takes_them() {
        let digest = "a".repeat(64);
        for good in ["debian", " mcr.microsoft.com/azureiotedge-hub:1.5 ", "localhost:5000/a/b:1", "u/x"] {
            assert!(matches!(read(good), Image::Reference(_)), "{good}");
        }
        assert!(matches!(read(&format!("a/b@sha256:{digest}")), Image::Reference(_)));
        assert!(matches!(read(&format!("a/b:1@sha256:{digest}")), Image::TagAndDigest(_)));
        assert_eq!(read("$upstream:8000/x:1"), Image::Upstream);
        assert_eq!(read(" "), Image::Empty);
        assert_eq!(read("${REGISTRY}/x:1"), Image::Placeholder);
        for wrong in ["$upstream/x:1", "$parent:8000/x", "Factory/Pump:1", "a:1:2", "a b", "x:"] {
            assert!(matches!(read(wrong), Image::Wrong { .. }), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_looked_for_by_the_first_part() {
        for (image, address) in [
            ("debian:12", None),
            ("user/x", Some(DOCKER_HUB_ADDRESS)),
            ("factory.azurecr.io/x:1", Some("factory.azurecr.io")),
            ("localhost:5000/x", Some("localhost:5000")),
        ] {
            assert_eq!(credentials_address(image), address, "{image}");
        }
    }
}
