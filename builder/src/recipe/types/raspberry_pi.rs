//! The table `[target.raspberry_pi]`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The models, and the settings that become config.txt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RaspberryPi {
    /// Models that the image must boot on; `check`, `build` and `inspect` follow the boot chain of each.
    pub models: Vec<Model>,
    /// A console on the serial port (GPIO 14 and 15), 115200 baud. On models 3, 4 and Zero 2 it fixes the core's clock.
    pub serial: bool,
    /// Bluetooth; without it the better UART is free.
    pub bluetooth: bool,
    /// Memory of the GPU, MiB; models 3 and Zero 2 only (later ones share it with the processors).
    pub gpu_memory: Option<u32>,
    /// Device tree overlays with their parameters, as in config.txt: `"i2c-rtc,ds3231"`.
    pub overlays: Vec<String>,
    /// Device tree parameters: `"i2c_arm=on"`.
    pub parameters: Vec<String>,
    /// Further lines for the end of config.txt.
    pub config: Vec<String>,
}

impl Default for RaspberryPi {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            serial: true,
            bluetooth: true,
            gpu_memory: None,
            overlays: Vec::new(),
            parameters: Vec::new(),
            config: Vec::new(),
        }
    }
}

/// A model of the Raspberry Pi that runs 64-bit systems, with the variants that boot the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Model {
    /// 3 B and 3 B+.
    #[serde(rename = "3")]
    Pi3,
    /// 4 B, 400 and Compute Module 4.
    #[serde(rename = "4")]
    Pi4,
    /// 5, 500 and Compute Module 5.
    #[serde(rename = "5")]
    Pi5,
    /// Zero 2 W; no Ethernet.
    #[serde(rename = "zero-2")]
    Zero2,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pi3 => "3",
            Self::Pi4 => "4",
            Self::Pi5 => "5",
            Self::Zero2 => "zero-2",
        })
    }
}
