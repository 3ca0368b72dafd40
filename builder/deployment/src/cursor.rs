//! Walking a manifest with the pointer at hand: a value, its JSON pointer, and the place of its key.
//!
//! The desired properties of a twin may lie in several pieces, as layered deployments write them:
//!
//! ```text
//! "$edgeAgent": {
//!   "properties.desired": { "modules": { "a": … } }       path [],               its value
//!   "properties.desired.modules.b": …                     path [modules, b],     its value
//! }
//! ```

use std::ops::Range;

use crate::json::{Node, pointer};

/// What the keys of desired properties begin with.
pub(crate) const DESIRED: &str = "properties.desired";

/// A value somewhere in a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    /// Its JSON pointer.
    pub(crate) pointer: String,
    /// The place of its key, or of itself where it has none.
    pub(crate) key_span: Range<usize>,
    /// The value.
    pub(crate) node: &'a Node,
    /// The pointer of the string that it stands in, for what is in createOptions.
    pub(crate) within: Option<&'a str>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { pointer: String::new(), key_span: node.span.clone(), node, within: None }
    }

    /// The root of JSON that stands in the string at `within`.
    pub(crate) fn embedded(node: &'a Node, within: &'a str) -> Self {
        Self { within: Some(within), ..Self::root(node) }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<Self> {
        let entry = self.node.entry(key)?;
        let key_span = entry.key_span.clone();
        Some(Self { pointer: pointer(&self.pointer, key), key_span, node: &entry.node, within: self.within })
    }

    /// The value of a key in whatever case, as the engine and edgeAgent read createOptions.
    pub(crate) fn get_any_case(&self, key: &str) -> Option<Self> {
        let entry = self.node.entries().iter().rev().find(|entry| entry.key.eq_ignore_ascii_case(key))?;
        self.get(&entry.key)
    }

    /// All keys and values of an object.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let (parent, within) = (self.pointer.clone(), self.within);
        self.node.entries().iter().map(move |entry| {
            let key_span = entry.key_span.clone();
            let pointer = pointer(&parent, &entry.key);
            (entry.key.as_str(), Self { pointer, key_span, node: &entry.node, within })
        })
    }

    /// All elements of an array.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Self> + use<'a> {
        let (parent, within) = (self.pointer.clone(), self.within);
        self.node.elements().iter().enumerate().map(move |(index, node)| {
            let pointer = format!("{parent}/{index}");
            Self { pointer, key_span: node.span.clone(), node, within }
        })
    }

    /// The value of a path.
    pub(crate) fn find(&self, path: &[&str]) -> Option<Self> {
        path.iter().try_fold(self.clone(), |at, key| at.get(key))
    }
}

/// The desired properties of one twin.
#[derive(Debug, Clone)]
pub(crate) struct Twin<'a> {
    /// The module, or `$edgeAgent`, `$edgeHub`.
    pub(crate) name: &'a str,
    /// The twin as a whole.
    pub(crate) at: Cursor<'a>,
    /// The pieces: below which path each belongs.
    parts: Vec<(Vec<&'a str>, Cursor<'a>)>,
}

impl<'a> Twin<'a> {
    pub(crate) fn new(name: &'a str, at: Cursor<'a>) -> Self {
        let part = |(key, value): (&'a str, Cursor<'a>)| {
            let rest = key.strip_prefix(DESIRED)?;
            let path = rest.strip_prefix('.').map(|path| path.split('.').collect());
            if rest.is_empty() { Some((Vec::new(), value)) } else { Some((path?, value)) }
        };
        let parts = at.entries().filter_map(part).collect();
        Self { name, at, parts }
    }

    /// Does it have keys of a layered deployment?
    pub(crate) fn is_layered(&self) -> bool {
        self.parts.iter().any(|(path, _)| !path.is_empty())
    }

    /// The pieces: below which path of the desired properties each belongs.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&[&'a str], &Cursor<'a>)> {
        self.parts.iter().map(|(path, at)| (path.as_slice(), at))
    }

    /// The value of a path; of several the last.
    pub(crate) fn find(&self, path: &[&str]) -> Option<Cursor<'a>> {
        let in_part = |(prefix, at): &(Vec<&'a str>, Cursor<'a>)| {
            path.strip_prefix(prefix.as_slice()).and_then(|rest| at.find(rest))
        };
        self.parts.iter().rev().find_map(in_part)
    }

    /// What is directly below a path, by name.
    pub(crate) fn children(&self, path: &[&str]) -> Vec<(&'a str, Cursor<'a>)> {
        let mut all = Vec::new();
        for (prefix, at) in &self.parts {
            if let Some(rest) = path.strip_prefix(prefix.as_slice()) {
                all.extend(at.find(rest).into_iter().flat_map(|at| at.entries()));
            } else if let Some((name, parent)) = prefix.split_last()
                && parent == path
            {
                all.push((*name, at.clone()));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{Cursor, Twin};
    use crate::json::parse;

    #[test]
    fn pieces_are_found_as_one() {
        let text = r#"{"properties.desired": {"modules": {"a": 1}, "x": {"y/z": [7]}},
            "properties.desired.modules.b": 2, "properties.desired.x.w.v": 3, "other": 4}"#;
        let root = parse(text).expect("JSON");
        let twin = Twin::new("$edgeAgent", Cursor::root(&root));
        assert!(twin.is_layered());
        let names: Vec<&str> = twin.children(&["modules"]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
        let found = |path: &[&str]| twin.find(path).map(|at| at.pointer);
        assert_eq!(found(&["modules", "b"]).as_deref(), Some("/properties.desired.modules.b"));
        assert_eq!(found(&["x", "w", "v"]).as_deref(), Some("/properties.desired.x.w.v"));
        assert_eq!(found(&["x", "y/z"]).as_deref(), Some("/properties.desired/x/y~1z"));
        assert_eq!(found(&["modules", "c"]), None);
        let array = twin.find(&["x", "y/z"]).expect("there");
        assert_eq!(
            array.elements().next().map(|at| at.pointer).as_deref(),
            Some("/properties.desired/x/y~1z/0")
        );
    }
}
