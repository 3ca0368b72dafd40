//! The deployment manifest of Azure IoT Edge: typed, filled in from a template, linted. Pure: text and what surrounds it go
//! in, findings come out; no network, no files.
//!
//! ```text
//! deployment.json ───────────────┐
//! deployment.template.json ──┐   ▼
//! deployment.env ─► Values ──┴─► Manifest ──► modules, images, credentials, JSON for the Azure CLI
//!                                   │
//!                      Context ─────┴──► lint ──► findings
//! ```
//!
//! *Manifest*: which modules a device runs, and what their messages do. *Twin*: the desired properties of one of them.
//! *Template*: iotedgedev's form, with placeholders. *Layered*: over other manifests. *Rule*: one thing that the linter knows.

mod cursor;
mod image;
pub mod json;
pub mod lint;
pub mod model;
mod options;
pub mod private;
pub mod route;
mod source;
pub mod template;

pub use lint::{Context, RULES, lint};
pub use model::{Manifest, Module};
pub use template::Values;
