//! What tests of several kinds share: each of the four targets includes it once.
#![allow(dead_code, reason = "each target uses a part of it")]

pub mod archive;
pub mod card;
pub mod device;
pub mod machine;
pub mod pki;
pub mod plant;
pub mod registry;
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

/// What a device is told at build time, in `config.toml`.
pub const CONFIG_TOML: &str = r#"cloud_timeout_sec = 70

[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net"
id_scope = "0ne00123456"

[provisioning.attestation]
method = "x509"
identity_cert = "file:///var/secrets/aziot/certs/device-id.pem"
identity_pk = "file:///var/secrets/aziot/keys/device-id.key.pem"
"#;
