//! An image's configuration: what its files are for, and which layers they are.
//!
//! ```text
//! {"architecture": "arm64", "os": "linux", "variant": "v8",
//!  "config": {"Entrypoint": …},                                  not read here: the engine's
//!  "rootfs": {"type": "layers", "diff_ids": ["sha256:…", …]},     SHA-256 of each layer, unpacked, the lowest first
//!  "history": [{"created_by": "…", "empty_layer": true}, …]}
//! ```
//! Its SHA-256 is the image's id. *chain id*: of the lowest layer its diff id; of each above
//! `SHA-256("sha256:<chain id below> sha256:<diff id>")` (image-spec, config.md, "Layer ChainID").

use serde::Deserialize;

use crate::descriptor::{MAX_CONFIG, parse_digest};
use crate::error::Problem;
use crate::manifest::{MAX_LAYERS, Manifest, Platform};
use crate::units::{Arch, Digest};

/// The fields of an image's configuration that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the image is for.
    pub platform: Platform,
    /// Of each layer, unpacked, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// How it came to be.
    pub history: Vec<Step>,
}

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Step {
    /// The command.
    #[serde(default)]
    pub created_by: String,
    /// Did it change no file?
    #[serde(default)]
    pub empty_layer: bool,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(flatten)]
    platform: Platform,
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<Step>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is none, or larger than [`MAX_CONFIG`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(broken(&format!("it is larger than {} MiB", MAX_CONFIG >> 20)));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| broken(&error.to_string()))?;
        if raw.rootfs.kind != "layers" {
            return Err(broken("its file system is not made of layers"));
        }
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > MAX_LAYERS {
            return Err(broken(&format!("it names more than {MAX_LAYERS} layers")));
        }
        let diff_ids = diff_ids.iter().map(|text| parse_digest(text)).collect::<Result<_, _>>();
        Ok(Self {
            platform: raw.platform,
            diff_ids: diff_ids.map_err(|error| broken(&error))?,
            history: raw.history.unwrap_or_default(),
        })
    }

    /// Is it for this architecture, and does it know as many layers as the manifest?
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, manifest: &Manifest, arch: Arch) -> Result<(), Problem> {
        let Platform { os, architecture, .. } = &self.platform;
        if os != "linux" || architecture != arch.debian() {
            let found = crate::descriptor::shown(&format!("{os}/{architecture}"));
            return Err(Problem::input(format!(
                "the image is for {found}, not for {arch} (linux/{})",
                arch.debian()
            ))
            .hint("name an image, or a tag of it, that was built for this architecture"));
        }
        let (known, there) = (self.diff_ids.len(), manifest.layers.len());
        if known != there {
            return Err(broken(&format!("it names {known} layers, and the manifest has {there}")));
        }
        Ok(())
    }

    /// The chain id of each layer, the lowest first.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::new();
        for diff_id in &self.diff_ids {
            let id = match chain.last() {
                Some(below) => Digest::of(format!("sha256:{below} sha256:{diff_id}")),
                None => *diff_id,
            };
            chain.push(id);
        }
        chain
    }
}

fn broken(why: &str) -> Problem {
    Problem::input(format!("the image's configuration cannot be used: {why}"))
        .hint("build and push the image again; what made it did not write what it says")
}

#[cfg(test)]
mod tests {
    use super::Config;
    use crate::descriptor::{DOCKER_CONFIG, DOCKER_LAYER, Descriptor};
    use crate::manifest::Manifest;
    use crate::units::{Arch, Digest};

    fn text(layers: &[&str]) -> String {
        let ids: Vec<String> = layers.iter().map(|text| format!("\"sha256:{}\"", Digest::of(text))).collect();
        format!(
            r#"{{"architecture":"arm64","os":"linux","variant":"v8","config":{{"Cmd":["sh"]}},
                "history":[{{"created_by":"COPY x"}},{{"created_by":"ENV","empty_layer":true}}],
                "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        )
    }

    fn manifest(layers: usize) -> Manifest {
        let layer = Descriptor::of(DOCKER_LAYER, b"x");
        Manifest {
            media_type: String::new(),
            config: Descriptor::of(DOCKER_CONFIG, b"{}"),
            layers: vec![layer; layers],
        }
    }

    #[test]
    fn reads_what_counts() {
        let config = Config::parse(text(&["a", "b"]).as_bytes()).expect("reads");
        assert_eq!(config.diff_ids, [Digest::of("a"), Digest::of("b")]);
        assert!(!config.history[0].empty_layer && config.history[1].empty_layer);
        assert_eq!(config.check(&manifest(2), Arch::Aarch64), Ok(()));
        let second = Digest::of(format!("sha256:{} sha256:{}", Digest::of("a"), Digest::of("b")));
        assert_eq!(config.chain_ids(), [Digest::of("a"), second]);
    }

    #[test]
    fn a_config_that_lies_is_refused() {
        let config = Config::parse(text(&["a", "b"]).as_bytes()).expect("reads");
        let error = config.check(&manifest(3), Arch::Aarch64).expect_err("layers").message;
        assert!(error.contains("2 layers, and the manifest has 3"), "{error}");
        let error = config.check(&manifest(2), Arch::X86_64).expect_err("architecture").message;
        assert!(error.contains("for linux/arm64, not for x86_64"), "{error}");
        let many = text(&["a"; 126]);
        for (bytes, what) in [
            ("", "EOF"),
            ("[]", "invalid"),
            (r#"{"os":"linux"}"#, "rootfs"),
            (r#"{"rootfs":{"type":"dir","diff_ids":[]}}"#, "not made of layers"),
            (r#"{"rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#, "no SHA-256 digest"),
            (&many, "more than 125 layers"),
            (&"x".repeat((8 << 20) + 1), "larger than 8 MiB"),
        ] {
            let error = Config::parse(bytes.as_bytes()).expect_err(what);
            assert!(error.message.contains(what) && error.hint.is_some(), "{error:?}");
        }
        let whole = text(&["a"]);
        assert!((0..whole.len()).all(|at| Config::parse(&whole.as_bytes()[..at]).is_err()));
    }
}
