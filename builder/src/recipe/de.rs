//! From the merged tree to typed values, with errors that say where, what was expected and what was meant.
//!
//! serde stops at the first error; here the offending value is then taken out of the tree and reading starts again,
//! so that one run names everything that is wrong.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{KeyValue, Node, Origin, Value};
use crate::finding::Finding;

/// Most errors named in one run.
const MOST_ERRORS: usize = 50;

/// Reads a typed value out of a tree.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read<T: DeserializeOwned>(tree: &Node) -> Result<T, Vec<Finding>> {
    let mut found = Vec::new();
    let mut pruned: Vec<Vec<String>> = Vec::new();
    let mut rest = tree.clone();
    for _ in 0..MOST_ERRORS {
        let mut error = match T::deserialize(&rest) {
            Ok(value) if found.is_empty() => return Ok(value),
            Ok(_) => break,
            Err(error) => error,
        };
        error.path.reverse();
        let missing = matches!(error.what, What::Missing(_));
        let of_our_making = pruned.iter().any(|path| path.split_last().is_some_and(|(_, t)| t == error.path));
        if !(missing && of_our_making) {
            found.push(error.finding(&rest));
        }
        if error.path.is_empty() {
            break;
        }
        rest.remove(&error.path);
        pruned.push(error.path);
    }
    Err(found)
}

/// What is wrong.
#[derive(Debug)]
enum What {
    UnknownKey { key: String, known: &'static [&'static str] },
    UnknownVariant { text: String, known: &'static [&'static str] },
    Missing(&'static str),
    Type { found: String, expected: String },
    Value { found: String, expected: String },
    Other(String),
}

/// What to do where `key` is missing in the table at `path`. A parent is named only for what it states.
fn missing(path: &[String], key: &str) -> String {
    match (path.first().map_or(key, String::as_str), key) {
        ("name", _) => "state a name for the image: name = \"gateway\"".into(),
        ("target", "target") => {
            "say which machine the image is for: [target] with arch = \"x86_64\" and board = \"uefi\"".into()
        }
        ("target", "arch") => "state `arch`: \"x86_64\" or \"aarch64\"".into(),
        ("target", "board") => "state `board`: \"uefi\" or \"raspberry-pi\"".into(),
        // All of it, or tables that a parent's would complete.
        ("distribution", _) | ("archives", "archives") => format!(
            "state `{key}`, or extend a recipe that does, as edgepress's recipes/base/debian-12.toml does (`extends` is a \
             path from this recipe's folder)"
        ),
        _ => format!("state `{key}`"),
    }
}

/// One error; `path` is collected innermost step first.
#[derive(Debug)]
pub struct Error {
    what: What,
    origin: Option<Origin>,
    path: Vec<String>,
}

impl Error {
    fn new(what: What) -> Self {
        Self { what, origin: None, path: Vec::new() }
    }

    fn wrong_type(node: &Node, expected: impl Into<String>) -> Self {
        Self::new(What::Type { found: describe(node), expected: expected.into() }).at(node)
    }

    /// The error is in `node`, unless it is already known to be deeper.
    fn at(mut self, node: &Node) -> Self {
        if self.origin.is_some() {
            return self;
        }
        self.origin = Some(node.origin.clone());
        match &mut self.what {
            // serde buffers tagged tables, and reports their keys without a place.
            What::UnknownKey { key, .. } => {
                if let Some(entry) = node.entry(key) {
                    self.origin = Some(entry.origin.clone());
                    self.path.push(key.clone());
                }
            }
            What::Other(message) if scalar(node) && !message.contains(stated(node)) => {
                *message = format!("{}: {message}", describe(node));
            }
            _ => {}
        }
        self
    }

    fn below(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    fn finding(&self, tree: &Node) -> Finding {
        let place = self.origin.as_ref().map_or_else(|| tree.origin.place(), Origin::place);
        let path = self.path.join(".");
        let within = |path: &str| if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        let finding = match &self.what {
            What::UnknownKey { key, known } => {
                let table = self.path.split_last().map(|(_, table)| table.join(".")).unwrap_or_default();
                let message = format!("unknown key `{key}`{}", within(&table));
                let finding = Finding::error(message);
                let finding = if known.is_empty() { finding } else { finding.expected(one_of(known)) };
                finding.suggest(key, known.iter().copied())
            }
            What::UnknownVariant { text, known } => {
                Finding::error(format!("bad value for `{path}`: `{text}`"))
                    .expected(one_of(known))
                    .suggest(text, known.iter().copied())
            }
            What::Missing(key) => Finding::error(format!("the key `{key}` is missing{}", within(&path)))
                .hint(missing(&self.path, key)),
            What::Type { found, expected } => {
                Finding::error(format!("wrong type for `{path}`: {found}")).expected(plain(expected))
            }
            What::Value { found, expected } => {
                Finding::error(format!("bad value for `{path}`: {found}")).expected(plain(expected))
            }
            What::Other(message) => Finding::error(format!("bad value for `{path}`: {message}")),
        };
        finding.at(place)
    }
}

/// serde's words for types, in a user's.
fn plain(expected: &str) -> String {
    match expected {
        "a boolean" => "`true` or `false`".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "a sequence" => "an array".into(),
        "a map" => "a table".into(),
        "path string" => "a path, as a string".into(),
        other => other.into(),
    }
}

fn one_of(known: &[&str]) -> String {
    match known {
        [one] => format!("`{one}`"),
        many => format!("one of `{}`", many.join("`, `")),
    }
}

fn scalar(node: &Node) -> bool {
    !matches!(node.value, Value::Array(_) | Value::Table(_))
}

/// The value as the file has it, without quotes.
fn stated(node: &Node) -> &str {
    node.as_str().unwrap_or(node.origin.text())
}

/// The value as an error names it.
fn describe(node: &Node) -> String {
    match &node.value {
        Value::String(text) if text.chars().count() > 80 => "a long string".into(),
        Value::String(text) => format!("the string {text:?}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number:?}"),
        Value::Boolean(yes) => format!("`{yes}`"),
        Value::Datetime(time) => format!("the time {time}"),
        Value::Array(_) => "an array".into(),
        Value::Table(_) => "a table".into(),
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(What::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Type { found: found.to_string(), expected: expected.to_string() })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Value { found: found.to_string(), expected: expected.to_string() })
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownVariant { text: variant.into(), known })
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { key: field.into(), known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = match &self.value {
            Value::String(text) | Value::Datetime(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(yes) => visitor.visit_bool(*yes),
            Value::Array(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Table(entries) => visitor.visit_map(Entries { entries, next: 0 }),
        };
        result.map_err(|error| match error.what {
            What::Type { expected, .. } if error.origin.is_none() => Error::wrong_type(self, expected),
            What::Value { expected, .. } if error.origin.is_none() => {
                Error::new(What::Value { found: describe(self), expected }).at(self)
            }
            _ => error.at(self),
        })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // The shell ate the quotes: `--set edge.version=1.6` means the text.
        if self.origin.source.argument && scalar(self) && self.as_str().is_none() {
            return visitor.visit_str(self.origin.text()).map_err(|error: Error| error.at(self));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Error> {
        v.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.entries().is_none() {
            return Err(Error::wrong_type(self, "a table"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !matches!(self.value, Value::Array(_)) {
            return Err(Error::wrong_type(self, "an array"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(text) = self.as_str() else { return Err(Error::wrong_type(self, one_of(variants))) };
        let variant: StrDeserializer<'_, Error> = text.into_deserializer();
        visitor.visit_enum(variant).map_err(|error| error.at(self))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let at = self.next;
        let Some(item) = self.items.get(at) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.at(item).below(at.to_string()))
    }
}

struct Entries<'a> {
    entries: &'a [KeyValue],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        let key = seed.deserialize(key).map_err(|mut error| {
            error.origin = Some(entry.origin.clone());
            error.below(&entry.key)
        })?;
        self.next += 1;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let entry = self.next.checked_sub(1).and_then(|at| self.entries.get(at));
        let entry = entry.ok_or_else(|| Error::new(What::Other("a value before its key".into())))?;
        seed.deserialize(&entry.node).map_err(|error| error.at(&entry.node).below(&entry.key))
    }
}
