//! What came of looking at one thing: what `inspect`, `test` and `sign` print, and put into their reports.

use serde::{Deserialize, Serialize};

use crate::colour::Colour;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A short name: `image-unaltered`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be: the test fails, even with all milestones reached.
    Failed,
    /// Could not be told, or does not apply.
    Skipped,
}

impl Outcome {
    /// The word for it, at the right of `width` columns, in its colour where that is wanted.
    pub fn word(self, width: usize, colour: bool) -> String {
        let (word, its) = match self {
            Self::Passed => ("ok", Colour::Green),
            Self::Failed => ("FAILED", Colour::Red),
            Self::Skipped => ("skipped", Colour::Yellow),
        };
        its.paint(&format!("{word:>width$}"), colour)
    }
}

impl Check {
    /// Passed or failed.
    pub fn new(name: &str, passed: bool, detail: impl Into<String>) -> Self {
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        Self { name: name.to_owned(), outcome, detail: detail.into(), hint: None }
    }

    /// Passed.
    pub fn passed(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, true, detail)
    }

    /// Failed, and what to do about it.
    pub fn failed(name: &str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..Self::new(name, false, detail) }
    }

    /// Failed if there are faults, else `fine`.
    pub fn of(name: &str, faults: &[String], fine: impl Into<String>, hint: impl Into<String>) -> Self {
        if faults.is_empty() { Self::passed(name, fine) } else { Self::failed(name, faults.join("; "), hint) }
    }

    /// Could not be told, and why.
    pub fn skipped(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), outcome: Outcome::Skipped, detail: detail.into(), hint: None }
    }
}
