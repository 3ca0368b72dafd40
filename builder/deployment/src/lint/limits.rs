//! IoT Hub's limits for the desired properties of a twin.
//!
//! Source: learn.microsoft.com, "Understand and use device twins in IoT Hub", sections "Tags and properties format" and
//! "Device twin size". A size there is that of all keys and values: text by its UTF-8 bytes (control characters do not
//! count), a number 8 bytes, a boolean 4.

use edgepress_base::finding::clean;

use super::Linter;
use super::rules::{TWIN_DEPTH, TWIN_INTEGER, TWIN_KEY, TWIN_SIZE, TWIN_VALUE};
use crate::cursor::Cursor;
use crate::json::{JsonMember, Node, Value};
use crate::options::chunk_number;

/// Largest desired properties of one twin, in bytes.
const TWIN: usize = 32 << 10;
/// Longest text, in bytes.
const TEXT: usize = 4 << 10;
/// Longest key, in bytes.
const KEY: usize = 1 << 10;
/// Objects within objects below the desired properties.
const DEPTH: usize = 10;
/// Integers lie between the negative of this and one less than it.
const INTEGER: i64 = 1 << 52;

pub(super) fn rules(lint: &mut Linter<'_>) {
    for twin in lint.manifest.twins() {
        let mut size = 0;
        for (path, at) in twin.parts() {
            size += path.iter().map(|part| part.len()).sum::<usize>() + bytes(at.node);
            walk(lint, at, path.len());
        }
        if size > TWIN {
            let message =
                format!("the desired properties have {size} bytes, more than the {TWIN} that IoT Hub takes");
            let hint =
                "shorten createOptions and variables, or have the module fetch what is long from elsewhere";
            lint.hit_key(&TWIN_SIZE, &twin.at, message, hint);
        }
    }
}

fn text_bytes(text: &str) -> usize {
    text.chars().filter(|c| !c.is_control()).map(char::len_utf8).sum()
}

fn bytes(node: &Node) -> usize {
    match &node.value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text_bytes(text),
        Value::Array(elements) => elements.iter().map(bytes).sum(),
        Value::Object(entries) => entries.iter().map(entry_bytes).sum(),
    }
}

/// createOptions that are an object become a text for IoT Hub.
fn entry_bytes(entry: &JsonMember) -> usize {
    let is_options = chunk_number(&entry.key).is_some() && entry.node.is_object();
    let value = if is_options { text_bytes(&entry.node.to_json().to_string()) } else { bytes(&entry.node) };
    text_bytes(&entry.key) + value
}

fn walk(lint: &mut Linter<'_>, at: &Cursor<'_>, depth: usize) {
    let rendered = lint.manifest.source.is_rendered();
    match &at.node.value {
        Value::Object(_) if depth > DEPTH => {
            let message = format!("this object is {depth} levels deep, more than {DEPTH}");
            return lint.hit_key(&TWIN_DEPTH, at, message, "make it flatter, or put it as JSON into a text");
        }
        Value::String(_) if rendered && at.pointer.ends_with("/settings/createOptions") => {}
        Value::String(text) if text.len() > TEXT => {
            let message =
                format!("this text has {} bytes, more than the {TEXT} that IoT Hub takes", text.len());
            lint.hit_key(&TWIN_VALUE, at, message, "shorten it; createOptions go on in createOptions01");
        }
        Value::Number(number) => {
            let outside = |value: i64| !(-INTEGER..INTEGER).contains(&value);
            if number.as_i64().is_some_and(outside) || (number.as_i64().is_none() && number.is_u64()) {
                let hint = "write it as a text";
                lint.hit(
                    &TWIN_INTEGER,
                    at,
                    "IoT Hub takes integers from -4503599627370496 to 4503599627370495",
                    hint,
                );
            }
        }
        _ => {}
    }
    // createOptions that are an object become a text for IoT Hub.
    for (name, value) in at.entries() {
        key(lint, name, &value);
        let is_options = chunk_number(name).is_some() && value.node.is_object();
        if !is_options {
            walk(lint, &value, depth + 1);
        }
    }
    for element in at.elements() {
        walk(lint, &element, depth + 1);
    }
}

fn key(lint: &mut Linter<'_>, name: &str, at: &Cursor<'_>) {
    let bad = name.chars().find(|c| ['.', '$', ' '].contains(c) || c.is_control());
    if let Some(bad) = bad {
        let message = format!("IoT Hub takes no `{}` in a key", clean(&bad.to_string()));
        lint.hit_key(
            &TWIN_KEY,
            at,
            message,
            "letters, digits, `_` and `-` are safe; for a variable with a dot many programs take `__`",
        );
    } else if name.len() > KEY {
        lint.hit_key(
            &TWIN_KEY,
            at,
            format!("this key has {} bytes, more than {KEY}", name.len()),
            "shorten it",
        );
    }
}
