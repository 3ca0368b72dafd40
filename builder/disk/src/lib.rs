//! Disks, and the forms in which they lie in a file. Whatever is read here may come from anybody.

pub mod disk;
pub mod format;

// Named here as in the program itself.
use edgepress_base::{error, event, host, tree, units};
