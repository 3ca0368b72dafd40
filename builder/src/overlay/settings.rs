//! `overlay.toml`: what the files of an overlay cannot say of themselves.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::error::Problem;

/// Settings of an overlay folder, not installed.
pub(super) const FILE: &str = "overlay.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    modes: BTreeMap<String, String>,
}

/// The modes that an `overlay.toml` states, if there is one: path in the image → permission bits.
///
/// # Errors
/// When the file cannot be read, or states something else.
pub(super) fn modes(file: &Path) -> Result<BTreeMap<PathBuf, u32>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let name = file.display();
    let settings: Settings = toml::from_str(&text).map_err(|error| {
        Problem::input(format!(
            "{name} is not what an overlay's settings look like: {}",
            error.to_string().trim_end()
        ))
        .hint("it holds one table, [modes], for example \"/etc/secret\" = \"0600\"")
    })?;
    settings.modes.into_iter().map(|(path, mode)| one_mode(file, &path, &mode)).collect()
}

fn one_mode(file: &Path, path: &str, mode: &str) -> Result<(PathBuf, u32)> {
    let clean = Path::new("/").join(path);
    let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777);
    let legal = clean.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match bits {
        Some(bits) if legal => Ok((clean.components().collect(), bits)),
        _ => {
            let message = format!("{}: bad mode: {path:?} = {mode:?}", file.display());
            Err(Problem::input(message)
                .hint("a path of the image and an octal mode: \"/etc/secret\" = \"0600\"")
                .into())
        }
    }
}
