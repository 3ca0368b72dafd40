//! Container images as bytes: what they are called, what they are made of, and what a registry asks for. No network and no
//! store; whatever is read here may come from anybody.

pub mod layer;
pub mod reference;
pub mod tar_split;

// Named here as in the program itself.
use edgepress_base::{error, units};
