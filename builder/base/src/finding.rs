//! Something that is wrong with what a user wrote or an image holds: how bad, where, what, and what to do. Where the place
//! is known to the column, the source line is shown, with a caret under the offending text.
//!
//! ```text
//! demo.toml:12:1: unknown key `instal` in `packages`
//!    |
//! 12 | instal = ["jq"]
//!    | ^^^^^^
//!    = expected one of `install`, `recommends`, `debs`, `sources`, `remove`, `keep_keys`
//!    = hint: did you mean `install`?
//! ```

use std::fmt;

use serde::Serialize;

/// Longest piece of a source line that is shown, in characters.
const SHOWN_LINE: usize = 120;
/// Longest piece of a file's text within a message, in characters.
const SHOWN_TEXT: usize = 60;
/// Least similarity (Jaro-Winkler, 0 to 1) of a name that is worth suggesting.
const SIMILAR: f64 = 0.75;

/// A line with one of these words is not shown: it may hold what nobody should read in a log.
const SECRETS: [&str; 4] = ["password", "passwd", "secret", "token"];

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// No image can be made, or it would not come up.
    Error,
    /// It works, but will bite later.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A place in a file (or in an argument of the command line).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file as the user named it, or `--set`.
    pub file: String,
    /// Line, from 1; 0 where the place is an argument or the file as a whole.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: usize,
    /// Column in characters, from 1; 0 where it is the line as a whole.
    #[serde(skip_serializing_if = "is_zero")]
    pub column: usize,
    /// The source line; empty where it must not be shown (it may hold a secret).
    #[serde(skip)]
    pub text: String,
    /// Characters to underline.
    #[serde(skip)]
    pub width: usize,
}

impl Place {
    /// A file as a whole.
    pub fn file(file: impl Into<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, text: String::new(), width: 0 }
    }

    /// A line of a file, without an excerpt.
    pub fn line(file: impl Into<String>, line: usize) -> Self {
        Self { file: file.into(), line, column: 0, text: String::new(), width: 0 }
    }

    /// The place of the bytes `span` of `text`; spans that reach over the end of a line are cut there. A line that may
    /// hold a secret is left out.
    pub fn of_span(file: impl Into<String>, text: &str, span: &std::ops::Range<usize>) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_boundary(text, span.end.clamp(start, line_end));
        let line = text[line_start..line_end].trim_end_matches('\r');
        let place = Self {
            file: file.into(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: line.to_owned(),
            width: text[start..end].trim_end().chars().count().max(1),
        };
        if may_hold_secret(line) { place.hidden() } else { place }
    }

    /// Without the source line, which may hold a secret.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.text.clear();
        self
    }

    /// The line to show and the caret's column in it: control characters become spaces, long lines are cut.
    fn excerpt(&self) -> (String, usize) {
        let skip = if self.column > SHOWN_LINE / 2 { self.column - SHOWN_LINE / 4 } else { 0 };
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let shown: String = self.text.chars().skip(skip).take(SHOWN_LINE).map(clean).collect();
        (shown, self.column.saturating_sub(1) - skip.min(self.column.saturating_sub(1)))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn may_hold_secret(line: &str) -> bool {
    let lower = line.to_lowercase();
    let credentials = line.split("://").skip(1).any(|rest| rest.contains('@'));
    credentials || SECRETS.iter().any(|word| lower.contains(word))
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line if self.column == 0 => write!(f, "{}:{line}", self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// One thing that is wrong, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Where, if it has a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Box<Place>>,
    /// The key of a settings file, or a table's column, that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is wrong, naming the offending text.
    pub message: String,
    /// What was expected there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// An error without a place.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: None,
            key: None,
            message: message.into(),
            expected: None,
            hint: None,
        }
    }

    /// A warning without a place.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// With a place.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Self {
        self.place = place.into().map(Box::new);
        self
    }

    /// About a key or column.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With what was expected.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The file that it is in, and the line there; empty and 0 where it has no place.
    pub fn file_and_line(&self) -> (&str, usize) {
        self.place.as_ref().map_or(("", 0), |place| (&place.file, place.line))
    }

    /// As it is shown, with the severity before it.
    pub fn labelled(&self) -> String {
        format!("{}: {self}", self.severity)
    }

    /// Suggests the known name that is nearest to `wrong`, if one is near.
    #[must_use]
    pub fn suggest<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(wrong, known) {
            Some(name) => self.hint(format!("did you mean `{name}`?")),
            None => self,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gutter = "  ".to_owned();
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "`{key}`: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(place) = self.place.as_ref().filter(|place| !place.text.is_empty()) {
            let number = if place.line == 0 { String::new() } else { place.line.to_string() };
            gutter = " ".repeat(number.len().max(2));
            let (line, column) = place.excerpt();
            let room = line.chars().count().saturating_sub(column).max(1);
            let carets = "^".repeat(place.width.min(room));
            write!(f, "\n{gutter} |\n{number:>2} | {line}\n{gutter} | {}{carets}", " ".repeat(column))?;
        }
        if let Some(expected) = &self.expected {
            write!(f, "\n{gutter} = expected {expected}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{gutter} = hint: {hint}")?;
        }
        Ok(())
    }
}

/// Text of a file that anybody may have written, fit for a message: short, without control characters.
pub fn clean(text: &str) -> String {
    let mut shown: String =
        text.chars().take(SHOWN_TEXT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN_TEXT).is_some() {
        shown.push('…');
    }
    shown
}

/// The known name nearest to a wrong one, if any is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score = |name: &str| strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase());
    let scored = known.into_iter().map(|name| (score(name), name)).filter(|(score, _)| *score >= SIMILAR);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::{Finding, Place, nearest};

    #[test]
    fn carets_stand_under_the_text() {
        let text = "a = 1\r\nköy = \"wrong\"\n";
        let start = text.find('"').expect("in the text");
        let place = Place::of_span("r.toml", text, &(start..start + 7));
        let shown = Finding::error("bad").at(place).expected("a number").to_string();
        assert_eq!(
            shown,
            "r.toml:2:7: bad\n   |\n 2 | köy = \"wrong\"\n   |       ^^^^^^^\n   = expected a number"
        );
    }

    #[test]
    fn any_span_is_safe() {
        let text = "é\nü = 1";
        for start in 0..12 {
            for end in 0..12 {
                let place = Place::of_span("x", text, &(start..end));
                assert!(place.line >= 1 && !Finding::error("e").at(place).to_string().is_empty());
            }
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let text = format!("{}HERE", " ".repeat(5000));
        let shown = Finding::error("e").at(Place::of_span("x", &text, &(5000..5004))).to_string();
        assert!(shown.contains("HERE") && shown.contains("^^^^") && shown.len() < 400, "{shown}");
    }

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(nearest("instal", ["install", "debs"]), Some("install"));
        assert_eq!(nearest("Board", ["board"]), Some("board"));
        assert_eq!(nearest("zzz", ["install", "debs"]), None);
    }
}
