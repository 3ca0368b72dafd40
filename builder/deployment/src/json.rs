//! JSON in which every key and every value knows where it stands.
//!
//! ```text
//! {"a": [1, "x"]}      object 0..15
//!  ^^^                 key    1..4     entries in their order, those of one name twice included
//!       ^^^^^^^^       array  6..14
//!            ^^^       string 10..13   with its quotes; the value has its escapes resolved
//! ```
//!
//! serde_json decides what is JSON (strictly, at most 128 levels deep), jsonc-parser tells the places.

use std::fmt;
use std::ops::Range;

use jsonc_parser::ast;
use jsonc_parser::{CollectOptions, ParseOptions};
use serde_json::Number;

/// Longest text that is read, in bytes: more than 50 modules with twins of 32 KiB.
pub const LONGEST: usize = 2 << 20;

/// Levels of objects and arrays in texts that are read loosely.
const DEEPEST: usize = 128;
/// Pointers of this length, in bytes, are not made longer.
const LONGEST_POINTER: usize = 512;

/// A value and where it stands, in bytes of the text.
#[derive(Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its bytes.
    pub span: Range<usize>,
}

/// A JSON value.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string, its escapes resolved.
    String(String),
    /// An array.
    Array(Vec<Node>),
    /// An object: its entries in the order of the text.
    Object(Vec<JsonMember>),
}

/// A key and its value.
#[derive(Clone, PartialEq)]
pub struct JsonMember {
    /// The key, its escapes resolved.
    pub key: String,
    /// The bytes of the key, with its quotes.
    pub key_span: Range<usize>,
    /// The value.
    pub node: Node,
}

/// Why a text is no JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong; quotes nothing of the text, which may hold secrets.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
}

/// What kind of value and where: not what it holds, which may be a secret.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}", self.kind(), self.span)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(kind(self))
    }
}

impl fmt::Debug for JsonMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.node)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Node {
    /// What it is, for a message: `an object`.
    pub fn kind(&self) -> &'static str {
        kind(&self.value)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = &self.value { Some(text) } else { None }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self.value { Some(value) } else { None }
    }

    /// A number.
    pub fn as_number(&self) -> Option<&Number> {
        if let Value::Number(number) = &self.value { Some(number) } else { None }
    }

    /// The entries of an object; none of anything else.
    pub fn entries(&self) -> &[JsonMember] {
        if let Value::Object(entries) = &self.value { entries } else { &[] }
    }

    /// The elements of an array; none of anything else.
    pub fn elements(&self) -> &[Node] {
        if let Value::Array(elements) = &self.value { elements } else { &[] }
    }

    /// Is it an object?
    pub fn is_object(&self) -> bool {
        matches!(self.value, Value::Object(_))
    }

    /// The entry of a key: of several, the last, as every reader of a manifest takes it.
    pub fn entry(&self, key: &str) -> Option<&JsonMember> {
        self.entries().iter().rev().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The same as serde_json's value.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::String(text) => text.clone().into(),
            Value::Array(elements) => elements.iter().map(Self::to_json).collect(),
            Value::Object(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()
            }
        }
    }

    /// Moves every place in it.
    pub(crate) fn relocate(&mut self, moved: &impl Fn(&Range<usize>) -> Range<usize>) {
        self.span = moved(&self.span);
        match &mut self.value {
            Value::Array(elements) => elements.iter_mut().for_each(|node| node.relocate(moved)),
            Value::Object(entries) => {
                for entry in entries {
                    entry.key_span = moved(&entry.key_span);
                    entry.node.relocate(moved);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// A pointer (RFC 6901) to `key` of what `parent` points to. Longer ones than any manifest has end in `…`: with a key of a
/// megabyte, all that stands below it would carry that along.
pub fn pointer(parent: &str, key: &str) -> String {
    if parent.len() >= LONGEST_POINTER {
        return parent.to_owned();
    }
    if parent.len() + key.len() < LONGEST_POINTER {
        return format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"));
    }
    // As long as it takes for what is below to stay the same.
    let shown: String = key.chars().take(LONGEST_POINTER).collect();
    format!("{parent}/{shown}…")
}

/// Reads a text. A byte order mark before it is allowed, as the Azure CLI allows it.
///
/// # Errors
/// The first thing that makes it no JSON, or too long or too deep.
pub fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > LONGEST {
        let message = format!("the text is longer than {} MiB", LONGEST >> 20);
        return Err(Fault { message, span: 0..0 });
    }
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let skipped = text.len() - body.len();
    let shifted =
        |fault: Fault| Fault { span: fault.span.start + skipped..fault.span.end + skipped, ..fault };
    let mut node = parse_body(body).map_err(shifted)?;
    if skipped > 0 {
        node.relocate(&|span| span.start + skipped..span.end + skipped);
    }
    Ok(node)
}

fn parse_body(body: &str) -> Result<Node, Fault> {
    serde_json::from_str::<serde_json::Value>(body).map_err(|error| fault(body, &error))?;
    tree(body, false)
}

/// Reads what edgeAgent's reader (Newtonsoft.Json) takes for JSON as well: comments, single quotes, names without quotes,
/// commas before a closing bracket.
pub(crate) fn parse_loosely(text: &str) -> Option<Node> {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        // serde_json's bound; jsonc-parser's own is deeper than a thread's stack need be.
        if depth > DEEPEST {
            return None;
        }
    }
    tree(text, true).ok()
}

fn tree(body: &str, loose: bool) -> Result<Node, Fault> {
    let options = ParseOptions {
        allow_comments: loose,
        allow_loose_object_property_names: loose,
        allow_trailing_commas: loose,
        allow_missing_commas: false,
        allow_single_quoted_strings: loose,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
    };
    let parsed = jsonc_parser::parse_to_ast(body, &CollectOptions::default(), &options).map_err(|error| {
        Fault { message: error.kind().to_string(), span: error.range().start..error.range().end }
    })?;
    let empty = || Fault { message: "there is no value".into(), span: 0..0 };
    convert(&parsed.value.ok_or_else(empty)?)
}

/// serde_json's error without its own words on the place.
fn fault(body: &str, error: &serde_json::Error) -> Fault {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    let line = body.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let start = (line + error.column().saturating_sub(1)).min(body.len());
    Fault { message, span: start..(start + 1).min(body.len()) }
}

fn convert(value: &ast::Value<'_>) -> Result<Node, Fault> {
    let (value, range) = match value {
        ast::Value::NullKeyword(null) => (Value::Null, null.range),
        ast::Value::BooleanLit(bool) => (Value::Bool(bool.value), bool.range),
        ast::Value::NumberLit(number) => {
            let span = number.range.start..number.range.end;
            let wrong = |error: serde_json::Error| Fault { message: error.to_string(), span };
            (Value::Number(number.value.parse().map_err(wrong)?), number.range)
        }
        ast::Value::StringLit(text) => (Value::String(text.value.clone().into_owned()), text.range),
        ast::Value::Array(array) => {
            let elements = array.elements.iter().map(convert).collect::<Result<_, _>>()?;
            (Value::Array(elements), array.range)
        }
        ast::Value::Object(object) => {
            let entries = object.properties.iter().map(entry).collect::<Result<_, _>>()?;
            (Value::Object(entries), object.range)
        }
    };
    Ok(Node { value, span: range.start..range.end })
}

fn entry(property: &ast::ObjectProp<'_>) -> Result<JsonMember, Fault> {
    let (key, range) = match &property.name {
        ast::ObjectPropName::String(text) => (text.value.clone().into_owned(), text.range),
        ast::ObjectPropName::Word(word) => (word.value.to_owned(), word.range),
    };
    Ok(JsonMember { key, key_span: range.start..range.end, node: convert(&property.value)? })
}

/// For each byte of a string's value the byte of the literal (with its quotes) that it comes from, and one more for the end.
pub(crate) fn origins(literal: &str) -> Vec<usize> {
    let mut origins = Vec::with_capacity(literal.len());
    let inside = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
    let mut at = 0;
    while let Some(c) = inside[at..].chars().next() {
        let (taken, bytes) = if c == '\\' { escape(&inside[at..]) } else { (c.len_utf8(), c.len_utf8()) };
        // Within a character that is written as it is, byte for byte.
        origins.extend((0..bytes).map(|byte| at + 1 + if taken == bytes { byte } else { 0 }));
        at = (at + taken).min(inside.len());
    }
    origins.push(at + 1);
    origins
}

/// How long an escape is, and how many bytes of UTF-8 it stands for.
fn escape(text: &str) -> (usize, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    match unit(0) {
        Some(0xd800..=0xdbff) => (12.min(text.len()), 4),
        Some(code) => (6, char::from_u32(code).map_or(3, char::len_utf8)),
        None => (2.min(text.len()), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, Value, origins, parse, parse_loosely, pointer};

    #[test]
    fn everything_knows_its_place() {
        let text = "\u{feff}{\n \"a~/b\": [1, \"\\u00e9\", null], \"c\": true, \"c\": {}}";
        let root = parse(text).expect("JSON");
        let first = &root.entries()[0];
        assert_eq!((first.key.as_str(), &text[first.key_span.clone()]), ("a~/b", "\"a~/b\""));
        let shown: Vec<&str> = first.node.elements().iter().map(|node| &text[node.span.clone()]).collect();
        assert_eq!(shown, ["1", "\"\\u00e9\"", "null"]);
        assert_eq!(first.node.elements()[1].as_str(), Some("é"));
        assert_eq!(root.entries().len(), 3);
        assert!(root.get("c").is_some_and(Node::is_object), "the last of two counts");
        assert_eq!(pointer("/x", "a~/b"), "/x/a~0~1b");
        assert_eq!(root.to_json()["a~/b"][1], "é");
    }

    #[test]
    fn pointers_have_an_end() {
        let long = pointer("/a", &"é".repeat(100_000));
        assert!(long.len() < 2000 && long.ends_with('…'));
        assert_eq!(pointer(&long, "b"), long);
    }

    #[test]
    fn what_is_no_json_says_where() {
        for (text, says, at) in [
            ("", "EOF", 0),
            ("{\"a\": }", "expected value", 6),
            ("{\n\"a\": 1,\n}", "trailing comma", 10),
            ("{'a': 1}", "key must be a string", 1),
            ("{\"a\": 1} x", "trailing characters", 9),
            ("// no\n{}", "expected value", 0),
            ("[1 2]", "expected `,` or `]`", 3),
            ("[01]", "invalid number", 2),
            ("[1e999]", "out of range", 5),
            ("\"\\ud800\"", "hex escape", 6),
            ("\"\n\"", "control character", 1),
        ] {
            let fault = parse(text).expect_err(text);
            assert!(fault.message.contains(says), "{text:?}: {fault:?}");
            assert!(fault.span.start.abs_diff(at) <= 1, "{text:?}: {fault:?}");
        }
    }

    #[test]
    fn loose_json_is_what_newtonsoft_reads() {
        for good in ["{'a': 1}", "{a: [1, 2,], /* c */ }", "// c\n{\"a\": \"it's\"}"] {
            assert!(
                parse(good).is_err() && parse_loosely(good).is_some_and(|node| node.is_object()),
                "{good}"
            );
        }
        for bad in ["", "{\"a\" 1}", "{\"a\": }", "[1 2]", "{", "{'a: 1}", &"[".repeat(100_000)] {
            assert!(parse_loosely(bad).is_none(), "{}", &bad[..bad.len().min(9)]);
        }
    }

    #[test]
    fn depth_and_length_have_an_end() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(100)).is_ok());
        for depth in [129, 600, 100_000] {
            assert!(parse(&nested(depth)).expect_err("too deep").message.contains("recursion"));
            assert!(parse(&"{\"a\":".repeat(depth)).is_err());
        }
        let long = format!("\"{}\"", "a".repeat(super::LONGEST));
        assert!(parse(&long).expect_err("too long").message.contains("longer"));
    }

    #[test]
    fn any_cut_and_any_change_has_an_answer() {
        let good = r#"{"a":[1,-2.5e3,"x\n\u00e9\ud83d\ude00",{"b":null,"c":[true,false]}],"d":""}"#;
        assert!(parse(good).is_ok());
        for end in (0..good.len()).filter(|end| good.is_char_boundary(*end)) {
            assert!(parse(&good[..end]).is_err(), "{}", &good[..end]);
            for wrong in ["\"", "{", "]", "\\", ",", "0", "é"] {
                // Whatever comes of it: an answer, with places inside the text.
                let changed = format!("{}{wrong}{}", &good[..end], &good[end + 1..]);
                if let Err(fault) = parse(&changed) {
                    assert!(fault.span.end <= changed.len(), "{changed}");
                }
            }
        }
    }

    #[test]
    fn bytes_of_a_string_have_an_origin() {
        for literal in [r#""a\"b\\c""#, r#""\u00e9x\ud83d\ude00y""#, "\"é😀\"", "\"\""] {
            let Value::String(text) = parse(literal).expect("JSON").value else { panic!("{literal}") };
            let origins = origins(literal);
            assert_eq!(origins.len(), text.len() + 1, "{literal}");
            assert_eq!(origins.last(), Some(&(literal.len() - 1)), "{literal}");
            for (at, c) in text.char_indices().filter(|(_, c)| c.is_ascii_lowercase()) {
                assert_eq!(literal.as_bytes()[origins[at]], c as u8, "{literal}");
            }
        }
    }

    #[test]
    fn debug_has_no_values() {
        let node = parse("{\"password\": \"hunter2\"}").expect("JSON");
        assert!(!format!("{node:?} {:?}", node.value).contains("hunter2"));
    }
}
