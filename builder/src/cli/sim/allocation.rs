//! What the simulated DPS makes of a registration: arguments of `edgepress sim` and `edgepress test` alike.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::error::Problem;
use crate::sim::Allocation;

/// Largest payload that is read, bytes; a hub's custom allocation may return less.
const LARGEST: u64 = 64 << 10;

/// A custom allocation.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct AllocationArguments {
    /// The device id that DPS gives, `*` standing for the registration id, as a custom allocation may [default: *]
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    device_id: Option<String>,
    /// A JSON file that DPS returns to the device as its payload
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

impl AllocationArguments {
    /// What they describe.
    ///
    /// # Errors
    /// When the payload cannot be read, or is no JSON.
    pub(in crate::cli) fn allocation(&self) -> Result<Allocation> {
        let usual = Allocation::default();
        Ok(Allocation {
            device_id: self.device_id.clone().unwrap_or(usual.device_id),
            payload: self.payload.as_deref().map(payload).transpose()?,
        })
    }
}

fn payload(path: &Path) -> Result<Value> {
    let wrong = |why: String| {
        Problem::input(format!("the payload {} {why}", path.display()))
            .hint("name a file with what a custom allocation would return, as in {\"site\": \"north\"}")
    };
    let size = std::fs::metadata(path).map_err(|error| wrong(format!("cannot be read: {error}")))?.len();
    if size > LARGEST {
        return Err(wrong(format!("has {size} bytes: expected at most {LARGEST}")).into());
    }
    let text = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    Ok(serde_json::from_slice(&text).map_err(|error| wrong(format!("is no JSON: {error}")))?)
}

/// A hub's device id: letters, digits and a few signs, with at most one `*` for the registration id.
fn pattern(text: &str) -> Result<String, String> {
    // Without those of a path or a query, though a hub takes some of them.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:*".contains(c);
    if text.is_empty() || text.len() > 128 || !text.chars().all(plain) {
        return Err(format!(
            "`{text}` is no device id: letters, digits and -._: with one `*` for the registration id"
        ));
    }
    match text.matches('*').count() {
        0 | 1 => Ok(text.to_owned()),
        _ => Err(format!("`{text}` has more than one `*`")),
    }
}

#[cfg(test)]
mod tests {
    use super::{AllocationArguments, pattern};

    #[test]
    fn device_ids() {
        for good in ["*", "north-*", "north", "a.b:c_*"] {
            assert!(pattern(good).is_ok(), "{good}");
        }
        for bad in ["", "**", "a b", "a/b", "\u{e9}", &"x".repeat(129)] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn payloads() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("payload.json");
        let read = || {
            let arguments = AllocationArguments { device_id: None, payload: Some(path.clone()) };
            arguments.allocation().map(|it| it.payload).map_err(|error| error.to_string())
        };
        assert!(read().expect_err("not there").contains("payload.json cannot be read"));
        for (text, good) in [("{\"a\": 1}", true), ("[1]", true), ("", false), ("{", false)] {
            std::fs::write(&path, text).expect("write");
            assert_eq!(read().is_ok(), good, "{text}");
        }
        std::fs::write(&path, " ".repeat(70_000)).expect("write");
        assert!(read().expect_err("too large").contains("at most 65536"));
    }
}
