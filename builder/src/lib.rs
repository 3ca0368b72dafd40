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

pub mod azure;
pub mod board;
pub mod build;
pub mod check;
pub mod chroot;
pub mod cli;
pub mod export;
pub mod flash;
pub mod foreign;
pub mod identity;
pub mod image;
pub mod inspect;
pub mod jobs;
pub mod lock;
pub mod manifest;
pub mod os_list;
pub mod overlay;
pub mod packages;
pub mod prove;
pub mod provisioning;
pub mod recipe;
pub mod registry;
pub mod rootfs;
pub mod sandbox;
pub mod sbom;
pub mod sign;
pub mod ssh;
pub mod stamp;
pub mod store;
pub mod verdict;

// Crates of their own, so that the compiler guards what they may rest on; named here as if they were modules.
pub use edgepress_base::{certificate, colour, error, event, files, finding, host, interrupt, tree, units};
pub use edgepress_deployment as deployment;
pub use edgepress_disk::{disk, format};
pub use edgepress_oci as oci;
pub use edgepress_sim as sim;
