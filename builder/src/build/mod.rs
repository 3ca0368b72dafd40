//! The steps from recipe to image, and their keys.

pub mod manifest;
pub mod steps;
