//! Laying one recipe over another: the rule that docs/recipe.md states for tables, values and arrays.

use std::path::Path;

use super::tree::{KeyValue, Node, Origin, SourceText, Value};
use crate::finding::Finding;

/// First element of an array that replaces its parent's instead of adding to it.
pub(super) const REPLACE: &str = "=";

/// Lays `over` over `base`: tables key by key, arrays added, anything else replaced.
pub(super) fn lay(base: Node, over: Node) -> Node {
    let Node { origin, value } = over;
    let value = match (base.value, value) {
        (Value::Table(base), Value::Table(over)) => Value::Table(tables(base, over, lay)),
        (Value::Array(base), Value::Array(over)) => Value::Array(arrays(base, over)),
        (_, over) => settle(over),
    };
    Node { origin, value }
}

/// Lays an argument of `--set` over `base`: as [`lay`], but an array replaces.
pub(super) fn set(base: Node, over: Node) -> Node {
    let Node { origin, value } = over;
    let value = match (base.value, value) {
        (Value::Table(base), Value::Table(over)) => Value::Table(tables(base, over, set)),
        (_, over) => settle(over),
    };
    Node { origin, value }
}

/// A tree without a parent: its arrays replace nothing.
pub(super) fn alone(tree: Node) -> Node {
    Node { value: settle(tree.value), ..tree }
}

fn tables(mut base: Vec<KeyValue>, over: Vec<KeyValue>, join: fn(Node, Node) -> Node) -> Vec<KeyValue> {
    for entry in over {
        match base.iter_mut().find(|known| known.key == entry.key) {
            Some(known) => {
                let below = std::mem::replace(&mut known.node.value, Value::Boolean(false));
                known.node = join(Node { origin: known.node.origin.clone(), value: below }, entry.node);
                known.origin = entry.origin;
            }
            None => base.push(KeyValue { node: alone(entry.node), ..entry }),
        }
    }
    base
}

fn arrays(mut base: Vec<Node>, over: Vec<Node>) -> Vec<Node> {
    if replaces(&over) {
        return over.into_iter().skip(1).collect();
    }
    let known = base.len();
    let new: Vec<Node> =
        over.into_iter().filter(|item| !base[..known].iter().any(|old| same(old, item))).collect();
    base.extend(new);
    base
}

fn replaces(items: &[Node]) -> bool {
    items.first().and_then(Node::as_str) == Some(REPLACE)
}

/// Takes the marks of [`REPLACE`] out of a value that replaces nothing.
fn settle(value: Value) -> Value {
    match value {
        Value::Array(items) if replaces(&items) => Value::Array(items.into_iter().skip(1).collect()),
        Value::Table(entries) => Value::Table(
            entries.into_iter().map(|entry| KeyValue { node: alone(entry.node), ..entry }).collect(),
        ),
        other => other,
    }
}

/// Equal plain values; tables and arrays are never the same.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::String(a), Value::String(b)) | (Value::Datetime(a), Value::Datetime(b)) => a == b,
        (Value::Integer(a), Value::Integer(b)) => a == b,
        (Value::Boolean(a), Value::Boolean(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        _ => false,
    }
}

/// Parses an argument `key.path=value` into a tree with that one value; text that is no TOML value is a string.
///
/// # Errors
/// When the key path cannot be read.
pub(super) fn argument(option: &str, text: &str, folder: &Path) -> Result<Node, Finding> {
    let source = SourceText::argument(option, text, folder);
    let one_line = !text.contains('\n') && !text.trim_start().starts_with('[');
    if one_line
        && let Ok(tree) = Node::parse(&source)
        && tree.entries().is_some_and(|all| all.len() == 1)
    {
        return Ok(tree);
    }
    let bad = || {
        Finding::error(format!("`{option} {text}` has no key path before `=`"))
            .expected(format!("{option} KEY.PATH=VALUE"))
    };
    let (path, value) = text.split_once('=').ok_or_else(bad)?;
    let keys = Node::parse(&SourceText::argument(option, format!("{path}=0"), folder)).map_err(|_| bad())?;
    let span = path.len() + 1..text.len();
    let leaf = Node { origin: Origin { source, span }, value: Value::String(value.to_owned()) };
    replace_leaf(keys, &leaf).ok_or_else(bad)
}

/// `tree`, a chain of tables with one entry each, with another value at its end.
fn replace_leaf(tree: Node, leaf: &Node) -> Option<Node> {
    let at = |origin: Origin| Origin { source: leaf.origin.source.clone(), ..origin };
    match tree.value {
        Value::Table(entries) => {
            let [entry] = <[KeyValue; 1]>::try_from(entries).ok()?;
            let entry =
                KeyValue { key: entry.key, origin: at(entry.origin), node: replace_leaf(entry.node, leaf)? };
            Some(Node { origin: at(tree.origin), value: Value::Table(vec![entry]) })
        }
        _ => Some(leaf.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{alone, argument, lay, set};
    use crate::recipe::tree::{Node, SourceText, Value};

    fn tree(text: &str) -> Node {
        Node::parse(&SourceText::file("r.toml", text, "/")).expect("TOML")
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(yes) => yes.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Datetime(time) => time.clone(),
            Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Table(entries) => {
                let entry = |e: &super::KeyValue| format!("{}={}", e.key, show(&e.node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn the_rule() {
        for (base, over, merged) in [
            ("a = 1", "a = 2", "{a=2}"),
            ("a = 1", "b = 2", "{a=1 b=2}"),
            ("[t]\na = 1", "t.b = 2", "{t={a=1 b=2}}"),
            ("x = ['a', 'b']", "x = ['b', 'c']", "{x=[a b c]}"),
            ("x = ['a', 'b']", "x = ['=', 'c']", "{x=[c]}"),
            ("x = ['a']", "x = ['=']", "{x=[]}"),
            ("", "x = ['=', 'c']", "{x=[c]}"),
            ("x = ['=', 'c']", "", "{x=[c]}"),
            ("[[x]]\na = 1", "[[x]]\na = 1", "{x=[{a=1} {a=1}]}"),
            ("x = 1", "x = ['=', 2]", "{x=[2]}"),
            ("x = ['a']", "x = 's'", "{x=s}"),
            ("[t]\na = 1", "t = 3", "{t=3}"),
        ] {
            assert_eq!(show(&lay(alone(tree(base)), tree(over))), merged, "{base} / {over}");
        }
    }

    #[test]
    fn arguments_are_values_or_text() {
        for (text, read) in [
            ("a=1", "{a=1}"),
            ("a.b=true", "{a={b=true}}"),
            ("a.\"b.c\"=[1, 2]", "{a={b.c=[1 2]}}"),
            ("a=plain text", "{a=plain text}"),
            ("a=http://x/?y=z", "{a=http://x/?y=z}"),
            ("a=", "{a=}"),
            ("a=1\nb=2", "{a=1\nb=2}"),
        ] {
            assert_eq!(show(&argument("--set", text, Path::new("/")).expect(text)), read, "{text}");
        }
        for text in ["a", "=1", "a b=1", "[a]", ""] {
            assert!(argument("--set", text, Path::new("/")).is_err(), "{text}");
        }
    }

    #[test]
    fn an_argument_replaces_arrays() {
        let over = argument("--set", "t.x=['c']", Path::new("/")).expect("an argument");
        assert_eq!(show(&set(tree("t.x = ['a']\nt.y = 1"), over)), "{t={x=[c] y=1}}");
    }

    #[test]
    fn merged_values_keep_their_place() {
        let base = Node::parse(&SourceText::file("base.toml", "x = ['a']\n[t]\na = 1", "/")).expect("TOML");
        let merged = lay(base, tree("\n\nx = ['b']\nt.b = 2"));
        let places = ["x/0", "x/1", "t/a", "t/b"].map(|path| merged.place(path).to_string());
        assert_eq!(places, ["base.toml:1:6", "r.toml:3:6", "base.toml:3:5", "r.toml:4:7"]);
    }
}
