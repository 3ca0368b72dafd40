//! Real machines, emulated: images that boot in QEMU and are provisioned by simulated services.
//!
//! Takes minutes, and needs qemu-system-x86, qemu-system-arm, ovmf, qemu-efi-aarch64 and qemu-utils besides what `edgepress
//! build` needs.

#![allow(unreachable_pub, reason = "the support module is a part of each test target")]

#[path = "../support/mod.rs"]
mod support;

mod arm64;
mod azure;
mod bios;
mod demo;
mod fault_injection;
mod flash;
mod modules;
mod share;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use assert_cmd::Command;
use serde_json::Value;

use crate::share::Share;
use crate::support::{project, store};

/// Seconds that a boot may take: several times the default, for the machine that runs the tests is shared.
const LIMIT: u32 = 600;

/// Folder of this run's images and reports; what an old run left goes first.
fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let folder = support::scratch("qemu");
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("making a folder");
        folder
    })
}

/// With the store that the target `build` fills: where it ran before, layers are there.
fn edgepress() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.env("EDGEPRESS_STORE", store()).current_dir(project());
    command
}

/// Builds a recipe of the project and returns the folder with the image.
fn build(recipe: &str, arch: &str) -> PathBuf {
    let recipe_file = format!("recipes/{recipe}.toml");
    edgepress().args(["build", &recipe_file, "--out"]).arg(scratch()).assert().success();
    scratch().join(format!("{recipe}-{arch}"))
}

/// The folder of the demo's image, which is built once and which nobody may write to.
fn demo() -> &'static Path {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    DEMO.get_or_init(|| build("demo", "x86_64"))
}

/// Boots an image in a machine with one processor, which an emulated boot keeps busy, and returns the report, whatever
/// came of it.
fn boot(image: &Path, report: &str, arguments: &[&str]) -> Value {
    let _share = Share::take(1);
    test(image, report, LIMIT, &[&["--cpus", "1"], arguments].concat())
}

/// As [`boot`], in a machine with as many processors as it has by default, of which so many are `busy`.
fn boot_by_default(image: &Path, report: &str, limit: u32, busy: usize) -> Value {
    let _share = Share::take(busy);
    test(image, report, limit, &[])
}

fn test(image: &Path, report: &str, limit: u32, arguments: &[&str]) -> Value {
    let folder = scratch().join(report);
    let mut command = edgepress();
    command.arg("test").arg(image).args(["--timeout", &limit.to_string()]).arg("--report").arg(&folder);
    let output = command.args(arguments).output().expect("edgepress test");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = fs::read_to_string(folder.join("report.json")).unwrap_or_else(|_| panic!("no report: {said}"));
    serde_json::from_str(&text).expect("JSON")
}
