//! The values of a template's placeholders: a file that the user names.
//!
//! ```text
//! deployment.env                       deployment.toml              deployment.json
//! # a comment                          REGISTRY = "f.azurecr.io"    { "REGISTRY": "f.azurecr.io",
//! REGISTRY=f.azurecr.io                TTL = 7200                     "TTL": 7200,
//! export PASSWORD="with \"quotes\""    "MODULES.filter" = "f…:1"      "MODULES.filter": "f…:1" }
//! ```

use std::collections::BTreeMap;
use std::fmt;

use edgepress_base::finding::{Finding, Place};

use crate::json;

/// Longest value, in bytes: IoT Hub's longest string value is 4 KB, createOptions in chunks are longer.
const LONGEST_VALUE: usize = 64 << 10;
/// Longest name, in bytes.
pub(super) const LONGEST_NAME: usize = 256;
/// Most names of a file.
const MOST: usize = 1000;

/// The values of placeholders, by name.
#[derive(Clone)]
pub struct Values {
    file: String,
    values: BTreeMap<String, Stated>,
    pub(super) notes: Vec<Finding>,
}

#[derive(Clone)]
struct Stated {
    text: String,
    line: usize,
}

/// Names alone.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values")
            .field("file", &self.file)
            .field("names", &self.values.keys())
            .finish_non_exhaustive()
    }
}

impl Values {
    /// No values at all, for a template without placeholders.
    pub fn none() -> Self {
        Self { file: String::new(), values: BTreeMap::new(), notes: Vec::new() }
    }

    /// Reads a file of values: JSON and TOML by the ending of its name, otherwise lines of `NAME=value`.
    ///
    /// # Errors
    /// Everything that cannot be read; no finding shows a value or a line of the file, which may hold secrets.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Finding>> {
        let mut reader = Reader { values: Self { file: file.into(), ..Self::none() }, wrong: Vec::new() };
        if text.len() > json::LONGEST {
            reader.wrong(
                1,
                "the file is too long for a file of values",
                "state what the template needs, and no more",
            );
            return Err(reader.wrong);
        }
        let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        match ending.as_str() {
            "json" => reader.json(text),
            "toml" => reader.toml(text),
            _ => reader.lines(text),
        }
        if reader.wrong.is_empty() { Ok(reader.values) } else { Err(reader.wrong) }
    }

    /// The file as the user named it; empty for none.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// A name as it is stated here, and its value.
    pub(super) fn get(&self, name: &str) -> Option<(&str, &str)> {
        self.values.get_key_value(name).map(|(name, stated)| (name.as_str(), stated.text.as_str()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Where a name is stated.
    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.values.get(name).map(|stated| Place::line(&self.file, stated.line))
    }
}

struct Reader {
    values: Values,
    wrong: Vec<Finding>,
}

impl Reader {
    fn wrong(&mut self, line: usize, message: impl Into<String>, hint: &str) {
        let finding = Finding::error(message).at(Place::line(&self.values.file, line));
        self.wrong.push(finding.hint(hint));
    }

    fn add(&mut self, name: &str, text: String, line: usize) {
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || "{}\"$".contains(c))
        {
            return self.wrong(
                line,
                "this is no name of a placeholder",
                "write NAME=value, without spaces in NAME",
            );
        }
        if text.len() > LONGEST_VALUE || self.values.values.len() >= MOST {
            let message =
                format!("a value of more than {} KiB, or more than {MOST} of them", LONGEST_VALUE >> 10);
            return self.wrong(line, message, "state what the template needs, and no more");
        }
        let place = Place::line(&self.values.file, line);
        if self.values.values.insert(name.to_owned(), Stated { text, line }).is_some() {
            let finding = Finding::warning("it is stated twice; the last one counts").at(place);
            self.values.notes.push(finding.key(name));
        }
    }

    fn lines(&mut self, text: &str) {
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let stated = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let Some((name, value)) = stated.split_once('=') else {
                self.wrong(index + 1, "a line without `=`", "write NAME=value, one on a line");
                continue;
            };
            match unquoted(value.trim()) {
                Some(value) => self.add(name.trim_end(), value, index + 1),
                None => self.wrong(
                    index + 1,
                    "a quoted value without its end",
                    "end it with the same quote, on the same line",
                ),
            }
        }
    }

    fn json(&mut self, text: &str) {
        let line = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        let root = match json::parse(text) {
            Ok(root) => root,
            Err(fault) => return self.wrong(line(fault.span.start), fault.message, "write one JSON object"),
        };
        if !root.is_object() {
            return self.wrong(1, "this is no JSON object", "write { \"NAME\": \"value\", … }");
        }
        for entry in root.entries().iter().take(MOST + 1) {
            let at = line(entry.key_span.start);
            match entry.node.to_json() {
                serde_json::Value::String(text) => self.add(&entry.key, text, at),
                value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                    self.add(&entry.key, value.to_string(), at);
                }
                _ => self.wrong(
                    at,
                    format!("the value is {}", entry.node.kind()),
                    "write text, a number, true or false",
                ),
            }
        }
    }

    fn toml(&mut self, text: &str) {
        let line = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        let table = match toml::from_str::<BTreeMap<String, toml::Spanned<toml::Value>>>(text) {
            Ok(table) => table,
            Err(error) => {
                let at = line(error.span().map_or(0, |span| span.start));
                // Its first line alone: the others quote the file.
                return self.wrong(
                    at,
                    error.message().lines().next().unwrap_or_default(),
                    "write NAME = \"value\"",
                );
            }
        };
        for (name, value) in table.into_iter().take(MOST + 1) {
            let at = line(value.span().start);
            match value.into_inner() {
                toml::Value::String(text) => self.add(&name, text, at),
                value @ (toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_)) => {
                    self.add(&name, value.to_string(), at);
                }
                _ => self.wrong(
                    at,
                    "the value is a table, an array or a date",
                    "write text, a number, true or false",
                ),
            }
        }
    }
}

/// A value without its quotes: `'as it is'`, `"with \" escaped"`, or bare up to ` #`.
fn unquoted(value: &str) -> Option<String> {
    let rest = match value.chars().next() {
        Some('\'') => return value[1..].split_once('\'').map(|(inside, _)| inside.to_owned()),
        Some('"') => &value[1..],
        _ => {
            let bare = value.split_once(" #").map_or(value, |(before, _)| before);
            return Some(bare.trim_end().to_owned());
        }
    };
    let mut inside = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(inside),
            '\\' => match chars.next()? {
                'n' => inside.push('\n'),
                't' => inside.push('\t'),
                c @ ('"' | '\\' | '$') => inside.push(c),
                c => inside.extend(['\\', c]),
            },
            c => inside.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Values;

    #[test]
    fn three_forms_say_the_same() {
        let env = "# c\nexport A=\"x \\\"y\\\"\" # c\nB = 7200 # c\n\nC='#$\\n'\nD=\nE=a#b=c\n";
        let toml = "A = 'x \"y\"'\nB = 7200\nC = '#$\\n'\nD = ''\nE = 'a#b=c'\n";
        let json = r##"{"A": "x \"y\"", "B": 7200, "C": "#$\\n", "D": "", "E": "a#b=c"}"##;
        for (file, text) in [("d.env", env), (".env", env), ("d.toml", toml), ("d.JSON", json)] {
            let values = Values::parse(file, text).expect(file);
            let all: Vec<_> = values.names().map(|name| values.get(name).expect("there").1).collect();
            assert_eq!(all, ["x \"y\"", "7200", "#$\\n", "", "a#b=c"], "{file}");
        }
        assert_eq!(
            Values::parse("e", "A=1\nB=2\n").expect("values").place("B").map(|place| place.line),
            Some(2)
        );
    }

    #[test]
    fn what_is_wrong_is_told_without_the_value() {
        for (file, text, says) in [
            ("d.env", "A=1\nhunter2\n", "without `=`"),
            ("d.env", "A=\"hunter2\n", "without its end"),
            ("d.env", "A B=hunter2\n", "no name"),
            ("d.env", "=hunter2\n", "no name"),
            ("d.json", "{\"A\": hunter2}", "expected value"),
            ("d.json", "[\"hunter2\"]", "no JSON object"),
            ("d.json", "{\"A\": [\"hunter2\"]}", "an array"),
            ("d.toml", "A = hunter2\n", ""),
            ("d.toml", "[A]\nB = 'hunter2'\n", "a table"),
        ] {
            let found = Values::parse(file, text).expect_err(text);
            let shown = format!("{found:?}\n{}", found.iter().map(ToString::to_string).collect::<String>());
            assert!(found.iter().any(|finding| finding.message.contains(says)), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let values = Values::parse("d.env", "A=hunter2\nA=hunter2\n").expect("values");
        assert_eq!(values.notes.len(), 1);
        assert!(!format!("{values:?}{:?}", values.notes).contains("hunter2"));
        assert!(Values::parse("d.env", &format!("A={}", "x".repeat(70_000))).is_err());
    }
}
