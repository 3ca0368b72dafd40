//! The table `[publish]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the image will be offered; goes into `os_list.json`, never into the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Publish {
    /// Address of the folder that the files will be downloaded from, for example `https://downloads.example/gateway`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Address of an icon, 40 by 40 pixels, SVG or PNG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// Address of a page about the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
}
