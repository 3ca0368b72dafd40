//! The Raspberry Pi: its GPU reads config.txt off a FAT partition and starts what that names.

pub mod chain;
pub mod config_txt;
pub mod model;

use std::path::Path;

use anyhow::Result;

use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::overlay::Entry;
use crate::recipe::types::Recipe;

fn not_yet() -> anyhow::Error {
    Problem::input("the board raspberry-pi cannot be built yet").into()
}

/// See [`super::boot_files`].
///
/// # Errors
/// Always, so far.
pub fn boot_files(_tree: &Path, _recipe: &Recipe, _ids: &Ids) -> Result<Vec<FatFile>> {
    Err(not_yet())
}

/// See [`super::root_files`].
///
/// # Errors
/// Always, so far.
pub fn root_files(_recipe: &Recipe, _ids: &Ids) -> Result<Vec<Entry>> {
    Err(not_yet())
}

/// Bytes that an update needs beside what is there: the next kernel and its initramfs.
pub fn spare(_files: &[FatFile]) -> u64 {
    0
}
