//! How a failure reaches the user: what, where, and on a line of its own what to do next.

use std::fmt;

/// Whose fault it is decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The work failed: exit code 1.
    Work,
    /// The command line, recipe or another input is wrong: exit code 2.
    Input,
}

/// An error with a way out. Put into an [`anyhow::Error`]; `main` prints the chain, then the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whose fault.
    pub kind: Kind,
    /// What went wrong and where; may hold several lines.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Problem {
    /// The work failed.
    pub fn work(message: impl Into<String>) -> Self {
        Self { kind: Kind::Work, message: message.into(), hint: None }
    }

    /// An input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, message: message.into(), hint: None }
    }

    /// With a line on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// The problem in an error's chain, if there is one.
pub fn problem(error: &anyhow::Error) -> Option<&Problem> {
    error.chain().find_map(|cause| cause.downcast_ref::<Problem>())
}
