//! How a verb failed, as the member `error` of the one JSON document on standard output, and as lines on standard error.
//!
//! ```json
//! {"error": {"message": "…", "hint": "…", "place": {"file": "r.toml", "line": 3, "column": 1}, "kind": "input", "exit_code": 2}}
//! ```

use std::fmt;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use serde::Serialize;
use serde_json::Value;

use crate::colour::Colour;
use crate::error::{self, problem};
use crate::finding::{Finding, Place};
use crate::interrupt;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// The work failed: exit code 1.
    Work,
    /// The command line, a recipe or another input is wrong: exit code 2.
    Input,
    /// The user stopped it: exit code 130.
    Interrupted,
}

impl Kind {
    fn exit_code(self) -> u8 {
        match self {
            Self::Work => 1,
            Self::Input => 2,
            Self::Interrupted => interrupt::EXIT_CODE,
        }
    }
}

/// How a verb failed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Failure {
    message: String,
    hint: Option<String>,
    /// Where: the first, if there are several.
    place: Option<Where>,
    kind: Kind,
    exit_code: u8,
    /// Where there are several: each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
}

/// A file's line, or an argument of the command line.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Where {
    File(Place),
    Argument { argument: String },
}

impl Failure {
    fn new(kind: Kind, message: String) -> Self {
        Self { message, hint: None, place: None, kind, exit_code: kind.exit_code(), findings: Vec::new() }
    }

    /// Of a verb that ended with an error.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        let Some(problem) = problem(error) else { return Self::new(Kind::Work, message) };
        let kind = match problem.kind {
            error::ProblemKind::Work => Kind::Work,
            error::ProblemKind::Input => Kind::Input,
        };
        let several = problem.findings.len() > 1;
        Self {
            hint: problem.hint.clone(),
            place: problem.findings.iter().find_map(|found| found.place.as_deref().cloned()).map(Where::File),
            findings: if several { problem.findings.clone() } else { Vec::new() },
            ..Self::new(kind, message)
        }
    }

    /// Of a command line that is none.
    pub(super) fn of_command_line(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        // What follows are tips, the usage, and where help is.
        let end = ["\n\n", "\nUsage:"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
        let tips: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).collect();
        let help = || "`edgepress --help`, or `edgepress VERB --help`, shows what there is".to_owned();
        let argument = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(name)) => Some(name.clone()),
            Some(ContextValue::Strings(names)) => names.first().cloned(),
            _ => None,
        };
        let message = match error.kind() {
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no verb is named".to_owned(),
            _ => text[..end].trim().to_owned(),
        };
        Self {
            hint: Some(if tips.is_empty() { help() } else { tips.join("; ") }),
            place: argument.map(|argument| Where::Argument { argument }),
            ..Self::new(Kind::Input, message)
        }
    }

    /// Of an answer that did not reach standard output.
    pub(super) fn lost(error: std::io::Error) -> Self {
        Self::of(&anyhow::Error::new(error).context("writing to standard output"))
    }

    /// Of a verb that the user stopped.
    pub(super) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted".to_owned())
    }

    /// The exit code.
    pub(super) fn exit_code(&self) -> ExitCode {
        self.exit_code.into()
    }

    /// Puts it into the document of a verb that had answered before, or makes one of it.
    pub(super) fn into_document(self, answer: Option<Value>) -> serde_json::Result<Value> {
        let error = serde_json::to_value(self)?;
        Ok(match answer {
            Some(Value::Object(mut members)) => {
                members.insert("error".to_owned(), error);
                Value::Object(members)
            }
            Some(other) => serde_json::json!({ "answer": other, "error": error }),
            None => serde_json::json!({ "error": error }),
        })
    }
}

/// For people; `{:#}`: in colour.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = f.alternate();
        write!(f, "{} {}", Colour::Red.paint("error:", colour), self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n {} {hint}", Colour::Cyan.paint("hint:", colour)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use serde_json::{Value, json};

    use super::Failure;
    use crate::error::Problem;
    use crate::finding::{Finding, Place};

    fn document(error: &anyhow::Error, answer: Option<Value>) -> Value {
        Failure::of(error).into_document(answer).expect("json")
    }

    #[test]
    fn an_error_without_an_answer() {
        let plain = anyhow::anyhow!("no room").context("writing x");
        let expected = json!({ "error": { "message": "writing x: no room", "hint": null, "place": null,
            "kind": "work", "exit_code": 1 } });
        assert_eq!(document(&plain, None), expected);
        let stopped = Failure::interrupted().into_document(None).expect("json");
        assert_eq!(
            (&stopped["error"]["kind"], &stopped["error"]["exit_code"]),
            (&"interrupted".into(), &130.into())
        );
    }

    #[test]
    fn an_error_with_places_is_a_member_of_the_answer() {
        let finding = |line: &usize| {
            Finding::error(format!("line {line}")).at(Place { column: 1, ..Place::line("r.toml", *line) })
        };
        let problem = |lines: &[usize]| {
            let findings: Vec<_> = lines.iter().map(finding).collect();
            let problem = Problem::input("wrong").hint("mend it").findings(&findings);
            Err::<(), _>(problem).context("reading r.toml").expect_err("an error")
        };
        let found = document(&problem(&[3]), Some(json!({ "errors": 1 })));
        assert_eq!(found["errors"], 1);
        assert_eq!(found["error"]["message"], "reading r.toml: wrong");
        assert_eq!(found["error"]["place"], json!({ "file": "r.toml", "line": 3, "column": 1 }));
        assert_eq!((&found["error"]["hint"], &found["error"]["exit_code"]), (&"mend it".into(), &2.into()));
        assert!(found["error"].get("findings").is_none(), "one is told once");
        let found = document(&problem(&[3, 4]), Some(json!([1])));
        assert_eq!(
            (&found["answer"], &found["error"]["findings"][1]["message"]),
            (&json!([1]), &"line 4".into())
        );
    }

    #[test]
    fn lines_for_people() {
        let failure = Failure::of(&Problem::work("it failed").hint("try again").into());
        assert_eq!(failure.to_string(), "error: it failed\n hint: try again");
        assert_eq!(
            format!("{failure:#}"),
            "\u{1b}[31merror:\u{1b}[0m it failed\n \u{1b}[36mhint:\u{1b}[0m try again"
        );
    }
}
