//! Builds from Debian's archive, for this architecture and another, and the output formats.

#![allow(unreachable_pub, reason = "the support module is a part of each test target")]

#[path = "../support/mod.rs"]
mod support;

mod arm64;
mod demo;
mod export;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use assert_cmd::cargo::CommandCargoExt as _;

use crate::support::project;

/// Folder of this run's stores and images. What an old run left goes first: that the builds have to make is a part of
/// what is tested. The store stays for the target `qemu`.
fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let folder = support::scratch("build");
        if folder.exists() {
            // Trees in an old store belong to users that only edgepress can remove.
            for store in ["store", "second", "killed"].map(|name| folder.join(name)) {
                edgepress(&store).args(["store", "prune", "--all"]).output().expect("prune");
            }
            fs::remove_dir_all(&folder).expect("removing an old run's folder");
        }
        fs::create_dir_all(&folder).expect("making a folder");
        folder
    })
}

fn edgepress(store: &Path) -> Command {
    let mut command = Command::cargo_bin("edgepress").expect("the binary");
    command.env("EDGEPRESS_STORE", store).current_dir(project());
    command
}
