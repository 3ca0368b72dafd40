//! Steps and their keys: why something was made again, or was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::files;
use crate::store::Store;
use crate::store::layers::Record;
use crate::units::Digest;

/// Version of what the steps do: a change here makes every layer anew. It is part of every key.
const STEPS_VERSION: &str = "3";

/// A step's name and everything that its result depends on: input → digest or value, never a path or a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// Name and inputs.
    pub record: Record,
}

impl Step {
    /// A step that depends on `inputs`.
    pub(crate) fn new(name: &str, inputs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut inputs: BTreeMap<String, String> = inputs.into_iter().collect();
        inputs.insert("edgepress steps".into(), STEPS_VERSION.into());
        Self { record: Record { step: name.into(), inputs } }
    }

    /// The key: equal inputs, equal key.
    pub(crate) fn key(&self) -> Digest {
        Digest::of_json(&self.record)
    }
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Explained {
    /// The step's name.
    pub step: String,
    /// Its key.
    pub key: Digest,
    /// The result was there already.
    pub hit: bool,
    /// Inputs that differ from the last build of this recipe, one line each.
    pub changed: Vec<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Inputs of the last build of a recipe, by step.
#[derive(Debug, Default)]
pub(crate) struct History {
    file: PathBuf,
    last: BTreeMap<String, Record>,
    now: BTreeMap<String, Record>,
}

impl History {
    /// Reads what the last build of `recipe` for `arch` left in the store; a file that cannot be read counts as none.
    pub(crate) fn open(store: &Store, recipe: &Path, arch: &str) -> Self {
        let id = Digest::of(format!("{} {arch}", recipe.display())).short();
        let file = store.steps_dir().join(format!("{id}.json"));
        let last =
            fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, last, now: BTreeMap::new() }
    }

    /// Remembers the step, and says what is new about it.
    pub(crate) fn changes(&mut self, step: &Step) -> Vec<String> {
        let changed = match self.last.get(&step.record.step) {
            None => vec!["first build of this recipe with this store".into()],
            Some(last) => differences(&last.inputs, &step.record.inputs),
        };
        self.now.insert(step.record.step.clone(), step.record.clone());
        changed
    }

    /// Keeps this build's inputs for the next.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        // For the builder alone: among the inputs are digests of files with a Wi-Fi's key, which could be guessed by them.
        files::write(&self.file, 0o600, &serde_json::to_vec(&self.now)?)
    }
}

fn differences(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let short = |text: &str| if text.len() == 64 { text[..12].to_owned() } else { text.to_owned() };
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{name}: gone"));
    let other = new.iter().filter_map(|(name, value)| match old.get(name) {
        None => Some(format!("{name}: new")),
        Some(before) if before != value => Some(format!("{name}: {} → {}", short(before), short(value))),
        Some(_) => None,
    });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::{Step, differences};

    fn step(inputs: &[(&str, &str)]) -> Step {
        Step::new("base", inputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn equal_inputs_make_equal_keys_in_any_order() {
        assert_eq!(step(&[("a", "1"), ("b", "2")]).key(), step(&[("b", "2"), ("a", "1")]).key());
        assert_ne!(step(&[("a", "1")]).key(), step(&[("a", "2")]).key());
        assert_ne!(step(&[("a", "1")]).key(), step(&[]).key());
    }

    #[test]
    fn differences_are_named() {
        let old = step(&[("gone", "1"), ("same", "1"), ("other", &"0".repeat(64))]).record.inputs;
        let new = step(&[("same", "1"), ("new", "1"), ("other", &"1".repeat(64))]).record.inputs;
        let expected = ["gone: gone", "new: new", "other: 000000000000 → 111111111111"];
        assert_eq!(differences(&old, &new), expected);
    }
}
