//! What is wrong with a fleet, by file, line and column. No finding ever repeats a secret.

use std::fmt;

use serde::Serialize;

use crate::finding::{Finding, Severity};

/// More are counted and not kept: a fleet of any size takes the same memory.
const MOST: usize = 1000;

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
            writeln!(f, "{}", finding.labelled())?;
        }
        match self.errors + self.warnings - self.findings.len() {
            0 => Ok(()),
            more => writeln!(f, "… and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Findings, MOST};
    use crate::finding::{Finding, Place};

    #[test]
    fn thousands_are_counted() {
        let place = Place::line("fleet.csv", 7);
        let finding = Finding::error("wrong").at(place).key("serial").hint("do it right");
        assert_eq!(finding.labelled(), "error: fleet.csv:7: `serial`: wrong\n   = hint: do it right");
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
