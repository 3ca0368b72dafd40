//! Debian packages as files: their control data, and their contents.

pub(crate) mod bounds;
pub(crate) mod control;
pub(crate) mod deb;
mod other;
