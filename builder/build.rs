//! Compiles the native helper (see `src/foreign`), a program of its own that edgepress carries inside.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "native-helper/main.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join("native-helper");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "native_helper", "--target", &variable("TARGET")]);
    rustc.args([
        "-C",
        "opt-level=2",
        "-C",
        "panic=abort",
        "-C",
        "strip=symbols",
        "-C",
        "relocation-model=static",
    ]);
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none"] {
        rustc.args(["-C", &format!("link-arg={argument}")]);
    }
    // Of the flags for everything else only this one: a helper without a standard library takes few of them.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| flag.starts_with("--sysroot=")));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.arg("-o").arg(&out).arg(SOURCE).status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("compiling {SOURCE} failed: {other:?}"),
    }
}
