//! edgepress: a recipe goes in; a bootable, provisionable device image comes out.
//!
//! ```text
//! recipe ─► lock ─► store ─► rootfs ─► overlay ─► disk ─► export ─► <name>.img, … + manifest.json, sbom
//!                                                                    ├─► inspect, prove (QEMU + sim → report)
//!                                                                    ├─► stamp ─► flash (N cards, each its own)
//!                                                                    └─► azure (templates and scripts)
//! ```
//!
//! One folder per word of the design; `cli/` has one file per verb and nothing but argument parsing and
//! printing. Data flows one way: every step is a function from typed input to typed output, and its key is
//! computed from its inputs (see [`build`]).

mod azure;
mod board;
mod build;
mod check;
mod chroot;
pub mod cli;
pub mod export;
mod flash;
mod foreign;
mod identity;
mod image;
mod inspect;
mod jobs;
mod lock;
mod manifest;
mod os_list;
mod overlay;
mod packages;
mod prove;
pub mod provisioning;
pub mod recipe;
pub mod registry;
mod rootfs;
mod sandbox;
mod sbom;
pub mod sign;
mod ssh;
pub mod stamp;
pub mod store;
pub mod verdict;

// Crates of their own, so that the compiler guards what they may rest on; named here as if they were modules.
use edgepress_base::{certificate, colour, files, interrupt, tree};
pub use edgepress_base::{error, event, finding, host, units};
use edgepress_deployment as deployment;
pub use edgepress_disk::{disk, format};
pub use edgepress_oci as oci;
pub use edgepress_sim as sim;
