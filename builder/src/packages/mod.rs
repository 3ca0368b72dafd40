//! Debian packages as files: their control data, and their contents.

pub mod bounds;
pub mod control;
pub mod deb;
mod other;
