//! What tests of several kinds share: each of the four targets includes it once.
#![allow(dead_code, reason = "each target uses a part of it")]

pub mod archive;
pub mod card;
pub mod device;
pub mod machine;
pub mod pki;
pub mod plant;
pub mod report;
pub mod servers;
pub mod simulator;
pub mod sources;

use std::path::{Path, PathBuf};

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder below target/, so that it shares a file system with the checkout.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The store that the target `build` fills: what `qemu` builds finds its layers there.
pub fn store() -> PathBuf {
    scratch("build/store")
}
