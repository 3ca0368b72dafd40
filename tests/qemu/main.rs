//! Real machines, emulated: images that boot in QEMU and are provisioned by simulated services. Takes minutes, and builds
//! from the store that the target `build` fills.

#[path = "../support/mod.rs"]
mod support;

mod arm64;
mod azure;
mod demo;
mod flash;
mod harm;
mod sources;
