//! What all of edgepress rests on, and what rests on nothing of it.

pub mod certificate;
pub mod colour;
pub mod error;
pub mod event;
pub mod files;
pub mod finding;
pub mod host;
pub mod interrupt;
pub mod tree;
pub mod units;
