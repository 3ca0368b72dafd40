//! Debian packages as files: their control data, their contents, and those that a recipe brings itself.

pub mod bounds;
pub mod control;
pub mod deb;
pub mod local;
