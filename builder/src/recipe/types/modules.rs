//! The modules of a device: their deployment manifest.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The deployment manifest of the devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Modules {
    /// The manifest as the portal, the Azure CLI or iotedgedev write it, or a `*.template.json` of iotedgedev, relative to
    /// the recipe. It is checked, and the images of its modules are preloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<PathBuf>,
    /// What stands for the `${NAME}` of a template: a file of lines `NAME=value`, a `*.json` or a `*.toml`, relative to the
    /// recipe. The environment is never asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<PathBuf>,
    /// May modules be privileged, or have capabilities added?
    pub privileged: bool,
    /// Are the modules' images put into the device image? If not, the device pulls them.
    pub preload: bool,
}

impl Default for Modules {
    fn default() -> Self {
        Self { manifest: None, values: None, privileged: true, preload: true }
    }
}
