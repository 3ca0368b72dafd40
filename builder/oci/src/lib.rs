//! Container images as bytes: what they are called, what they are made of, and what a registry asks for. No network and no
//! store; whatever is read here may come from anybody.

mod archive;
pub mod challenge;
pub mod config;
pub mod credentials;
pub mod descriptor;
pub mod files;
pub mod layer;
mod layout;
pub mod local;
pub mod manifest;
pub mod reference;
pub mod tar_split;

// Named here as in the program itself.
use edgepress_base::{error, host, tree, units};
