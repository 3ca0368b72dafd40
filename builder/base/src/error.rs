//! How a failure reaches the user: what, where, and on a line of its own what to do next.

use std::fmt;

use serde::Serialize;

use crate::finding::Finding;

/// Whose fault it is decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The work failed: exit code 1.
    Work,
    /// The command line, recipe or another input is wrong: exit code 2.
    Input,
}

/// An error with a way out. Put into an [`anyhow::Error`]; `main` prints the chain, then the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whose fault.
    pub kind: ProblemKind,
    /// What went wrong and where; may hold several lines.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The same one by one, with their places, where the message speaks of several or of a line.
    pub findings: Vec<Finding>,
}

impl Problem {
    /// The work failed.
    pub fn work(message: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Work, message: message.into(), hint: None, findings: Vec::new() }
    }

    /// An input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Input, ..Self::work(message) }
    }

    /// The same failure where no work was begun yet: with the exit code of a wrong input.
    pub fn to_input(error: anyhow::Error) -> anyhow::Error {
        let known = problem(&error);
        if known.is_some_and(|problem| problem.kind == ProblemKind::Input) {
            return error;
        }
        let hint = known.and_then(|problem| problem.hint.clone());
        let findings = known.map(|problem| problem.findings.clone()).unwrap_or_default();
        Self { hint, findings, ..Self::input(format!("{error:#}")) }.into()
    }

    /// With a line on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With what is wrong, one by one.
    #[must_use]
    pub fn findings<'a>(mut self, findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        self.findings.extend(findings.into_iter().cloned());
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

#[cfg(test)]
mod tests {
    use super::{Problem, ProblemKind, problem};
    use anyhow::Context as _;

    #[test]
    fn before_work_began() {
        let locked = Problem::work("it is locked").hint("wait");
        for (error, message, hint) in [
            (anyhow::anyhow!("no room").context("opening x"), "opening x: no room", None),
            (
                Err::<(), _>(locked).context("opening y").expect_err("an error"),
                "opening y: it is locked",
                Some("wait"),
            ),
            (Problem::input("z is wrong").into(), "z is wrong", None),
        ] {
            let error = Problem::to_input(error);
            assert_eq!(format!("{error:#}"), message);
            let problem = problem(&error).expect("a problem");
            assert_eq!((problem.kind, problem.hint.as_deref()), (ProblemKind::Input, hint));
        }
    }
}
