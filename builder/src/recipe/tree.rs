//! A TOML document as a tree in which every key and value remembers the file and the bytes that it came from, so
//! that an error found after several files were merged still names the right one.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::finding::{Finding, Place};

/// A text that values come from.
#[derive(Debug)]
pub struct SourceText {
    /// How errors name it: the path as the user would type it, or the option of the command line.
    pub name: String,
    /// All of it.
    pub text: String,
    /// The folder that relative paths in it start from.
    pub folder: PathBuf,
    /// Is it an argument of the command line? Its numbers may then stand where text is wanted (`edge.version=1.6`).
    pub argument: bool,
}

impl SourceText {
    /// A file's text.
    pub fn file(name: impl Into<String>, text: impl Into<String>, folder: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into(), folder: folder.into(), argument: false })
    }

    /// An option's argument.
    pub fn argument(name: &str, text: impl Into<String>, folder: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into(), folder: folder.into(), argument: true })
    }
}

/// Bytes of a source.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The text.
    pub source: Arc<SourceText>,
    /// The bytes.
    pub span: Range<usize>,
}

impl Origin {
    /// As a place to show.
    pub fn place(&self) -> Place {
        let mut place = Place::of_span(&self.source.name, &self.source.text, &self.span);
        if self.source.argument {
            place.line = 0;
        }
        place
    }

    /// The bytes themselves.
    pub fn text(&self) -> &str {
        self.source.text.get(self.span.clone()).unwrap_or_default()
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub origin: Origin,
    /// What.
    pub value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub enum Value {
    /// A string.
    String(String),
    /// An integer.
    Integer(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Boolean(bool),
    /// A date or time, as written.
    Datetime(String),
    /// An array.
    Array(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<KeyValue>),
}

/// A key of a table with its value.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// The key, unquoted.
    pub key: String,
    /// Where the key stands.
    pub origin: Origin,
    /// The value.
    pub node: Node,
}

impl Node {
    /// Parses a whole document.
    ///
    /// # Errors
    /// What the TOML parser did not understand, with its place.
    pub fn parse(source: &Arc<SourceText>) -> Result<Self, Finding> {
        let document = DeTable::parse(&source.text).map_err(|error| syntax(source, &error))?;
        let span = document.span();
        let entries = table(source, document.into_inner())?;
        Ok(Self { origin: Origin { source: source.clone(), span }, value: Value::Table(entries) })
    }

    /// A table that holds only `key`.
    pub fn wrap(self, key: String, origin: Origin) -> Self {
        let outer = origin.clone();
        Self { origin: outer, value: Value::Table(vec![KeyValue { key, origin, node: self }]) }
    }

    /// The entries, if this is a table.
    pub fn entries(&self) -> Option<&Vec<KeyValue>> {
        if let Value::Table(entries) = &self.value { Some(entries) } else { None }
    }

    /// The entry of a key, if this is a table that has it.
    pub fn entry(&self, key: &str) -> Option<&KeyValue> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// The child of a table or array: `step` is a key or an index.
    pub fn child(&self, step: &str) -> Option<&Self> {
        match &self.value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => self.entry(step).map(|entry| &entry.node),
        }
    }

    /// The node at `path` (steps separated by `/`), or `None`.
    pub fn at(&self, path: &str) -> Option<&Self> {
        steps(path).try_fold(self, |node, step| node.child(&step))
    }

    /// The place of the node at `path` (steps separated by `/`); where that is not stated, of the nearest node around it.
    pub fn place(&self, path: &str) -> Place {
        let mut node = self;
        for step in steps(path) {
            match node.child(&step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.origin.place()
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = &self.value { Some(text) } else { None }
    }

    /// Removes what stands at `path`; is there nothing, does nothing.
    pub fn remove(&mut self, path: &[String]) {
        let Some((step, rest)) = path.split_first() else { return };
        match &mut self.value {
            Value::Table(entries) if rest.is_empty() => entries.retain(|entry| entry.key != *step),
            Value::Table(entries) => {
                entries.iter_mut().filter(|e| e.key == *step).for_each(|e| e.node.remove(rest));
            }
            Value::Array(items) => match step.parse::<usize>() {
                Ok(at) if at < items.len() && rest.is_empty() => drop(items.remove(at)),
                Ok(at) if at < items.len() => items[at].remove(rest),
                _ => {}
            },
            _ => {}
        }
    }

    /// Calls `change` on every node whose path matches `pattern`, where `*` stands for any key or index.
    pub fn for_each(&mut self, pattern: &[&str], change: &mut dyn FnMut(&mut Self)) {
        let Some((step, rest)) = pattern.split_first() else { return change(self) };
        match &mut self.value {
            Value::Table(entries) => entries
                .iter_mut()
                .filter(|entry| *step == "*" || entry.key == *step)
                .for_each(|entry| entry.node.for_each(rest, change)),
            Value::Array(items) if *step == "*" => {
                items.iter_mut().for_each(|item| item.for_each(rest, change));
            }
            _ => {}
        }
    }
}

/// The steps of a path: between `/`, with `~1` for a `/` in a key (as in a JSON pointer).
fn steps(path: &str) -> impl Iterator<Item = String> {
    path.split('/').filter(|step| !step.is_empty()).map(|step| step.replace("~1", "/"))
}

fn syntax(source: &Arc<SourceText>, error: &toml::de::Error) -> Finding {
    let span = error.span().unwrap_or(0..0);
    let place = Origin { source: source.clone(), span }.place();
    Finding::error(format!("not TOML: {}", error.message().trim_end().replace('\n', ": "))).at(place)
}

fn table(source: &Arc<SourceText>, table: DeTable<'_>) -> Result<Vec<KeyValue>, Finding> {
    let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| {
        let origin = Origin { source: source.clone(), span: key.span() };
        Ok(KeyValue { key: key.into_inner().into_owned(), origin, node: node(source, value)? })
    };
    table.into_iter().map(entry).collect()
}

fn node(source: &Arc<SourceText>, value: Spanned<DeValue<'_>>) -> Result<Node, Finding> {
    let origin = Origin { source: source.clone(), span: value.span() };
    let number = |origin: &Origin| {
        let message = format!("the number `{}` is too large", origin.text());
        Finding::error(message).at(origin.place())
    };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(digits) => {
            Value::Integer(i64::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| number(&origin))?)
        }
        DeValue::Float(digits) => Value::Float(digits.as_str().parse().map_err(|_| number(&origin))?),
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| node(source, item)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(entries) => Value::Table(table(source, entries)?),
    };
    Ok(Node { origin, value })
}

/// `path`, made absolute from `folder`, without `.` and `..`.
pub(crate) fn absolute(folder: &Path, path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Node, SourceText, absolute};

    #[test]
    fn values_remember_their_place() {
        let source = SourceText::file("r.toml", "a = 1\n[b]\nc = [\n  'x',\n  { d = true },\n]\n", "/r");
        let tree = Node::parse(&source).expect("TOML");
        for (path, place) in [
            ("a", "r.toml:1:5"),
            ("b/c/0", "r.toml:4:3"),
            ("b/c/1/d", "r.toml:5:9"),
            ("b/c/7", "r.toml:3:5"),
            ("b/nothing", "r.toml:2:1"),
        ] {
            assert_eq!(tree.place(path).to_string(), place, "{path}");
        }
    }

    #[test]
    fn syntax_errors_have_a_place() {
        for text in ["a = ", "a = 99999999999999999999", "a = 1\na = 2", "= 3", "[a\n", "a = \"\u{0}\""] {
            let error = Node::parse(&SourceText::file("r.toml", text, "/")).expect_err(text);
            assert!(error.to_string().starts_with("r.toml:"), "{error}");
        }
    }

    #[test]
    fn nodes_are_removed_by_path() {
        let mut tree = Node::parse(&SourceText::file("r", "a = [1, {b = 2, c = 3}]", "/")).expect("TOML");
        tree.remove(&["a".into(), "1".into(), "b".into()]);
        assert!(tree.at("a/1/b").is_none() && tree.at("a/1/c").is_some());
        tree.remove(&["a".into(), "9".into()]);
        tree.remove(&["a".into(), "0".into()]);
        assert!(tree.at("a/0/c").is_some());
    }

    #[test]
    fn paths_are_made_absolute_and_clean() {
        for (path, clean) in [("../x/./y", "/a/x/y"), ("/etc/x", "/etc/x"), ("../../../..", "/")] {
            assert_eq!(absolute(Path::new("/a/b"), path), Path::new(clean));
        }
    }
}
