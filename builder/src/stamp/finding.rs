//! What is wrong with a fleet, by file, line and column. No finding ever repeats a secret.

use std::fmt;

use serde::Serialize;

use crate::error;
pub use crate::recipe::diagnostic::Severity;

/// More are counted and not kept: a fleet of any size takes the same memory.
const MOST: usize = 1000;

/// One thing that is wrong, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1; 0 where it is the file or folder as a whole.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: usize,
    /// The column, or key; empty where it is none of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub column: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(line: &usize) -> bool {
    *line == 0
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}:", self.severity, self.file)?;
        if self.line != 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.column.is_empty() {
            write!(f, " `{}`:", self.column)?;
        }
        write!(f, " {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  = hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The place's column is a name in a fleet, and so part of the message.
impl From<&Finding> for error::Finding {
    fn from(found: &Finding) -> Self {
        let column = if found.column.is_empty() { String::new() } else { format!("`{}`: ", found.column) };
        let line = (found.line != 0).then_some(found.line);
        Self {
            place: Some(error::Place { file: found.file.clone(), line, column: None }),
            message: format!("{column}{}", found.message),
            hint: found.hint.clone(),
        }
    }
}

/// Everything found, in order.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// The first thousand.
    pub findings: Vec<Finding>,
    /// Number of errors, kept or not.
    pub errors: usize,
    /// Number of warnings, kept or not.
    pub warnings: usize,
}

impl Findings {
    /// The first error.
    pub fn first_error(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.severity == Severity::Error)
    }

    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        if self.findings.len() < MOST {
            self.findings.push(finding);
        }
    }

    /// Adds those of another list, in its order.
    pub fn append(&mut self, other: Self) {
        let kept = other.findings.len();
        self.findings.extend(other.findings.into_iter().take(MOST.saturating_sub(self.findings.len())));
        debug_assert!(kept <= MOST);
        self.errors += other.errors;
        self.warnings += other.warnings;
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        match self.errors + self.warnings - self.findings.len() {
            0 => Ok(()),
            more => writeln!(f, "… and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Findings, MOST, Severity};

    #[test]
    fn thousands_are_counted() {
        let finding = Finding {
            severity: Severity::Error,
            file: "fleet.csv".into(),
            line: 7,
            column: "serial".into(),
            message: "wrong".into(),
            hint: Some("do it right".into()),
        };
        assert_eq!(finding.to_string(), "error: fleet.csv:7: `serial`: wrong\n  = hint: do it right");
        let mut all = Findings::default();
        for _ in 0..MOST + 5 {
            let mut one = Findings::default();
            one.push(finding.clone());
            all.append(one);
        }
        assert_eq!((all.findings.len(), all.errors, all.warnings), (MOST, MOST + 5, 0));
        assert!(all.to_string().ends_with("… and 5 more\n"));
    }
}
