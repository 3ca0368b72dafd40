//! Exactly which packages go into an image, resolved by the host's apt in a private tree.

pub mod host;
pub mod types;
