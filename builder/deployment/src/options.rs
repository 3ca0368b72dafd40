//! createOptions: what the engine is told when it makes a module's container, as JSON in a string that is cut into chunks.
//!
//! ```text
//! "createOptions":   "{\"HostConfig\":{\"Bin"     joined in the order of the numbers, from 01 to 99 without a gap
//! "createOptions01": "ds\":[\"/data:/data\"]}}"
//! ```
//!
//! Chunks are edgeAgent's `ChunkedValue` (edge-util, JsonEx.cs). The places of what is inside lead to the text of the
//! manifest, through escapes and over chunks.

use std::ops::Range;

use crate::cursor::Cursor;
use crate::json::{Fault, Node, origins, parse, parse_loosely};

/// The key of the first chunk, and what those of the others begin with.
pub(crate) const KEY: &str = "createOptions";
/// Longest chunk that edgeAgent and the tools write, in characters (`TwinValueMaxSize`).
pub(crate) const CHUNK: usize = 512;
/// Chunks that edgeAgent reads (`TwinValueMaxChunks`).
pub(crate) const MOST_CHUNKS: usize = 100;

/// The createOptions of one module.
#[derive(Debug, Clone, Default)]
pub(crate) struct CreateOptions {
    /// What they say; nothing where they are absent or empty.
    pub(crate) node: Option<Node>,
    /// The pointer of the first chunk, if there is one.
    pub(crate) pointer: Option<String>,
    /// They are an object of the manifest itself, not a string.
    pub(crate) is_object: bool,
    /// Why they are not JSON; with a node, edgeAgent's reader takes them all the same.
    pub(crate) fault: Option<Fault>,
}

/// Is it a chunk's key? Its number then: 0 for the one without.
pub(crate) fn chunk_number(key: &str) -> Option<Result<usize, ()>> {
    let start = key.get(..KEY.len()).filter(|start| start.eq_ignore_ascii_case(KEY))?;
    let digits = &key[start.len()..];
    let number = || digits.parse::<usize>().ok().filter(|number| *number > 0).ok_or(());
    Some(if digits.is_empty() { Ok(0) } else { number() })
}

/// The chunks of a module's settings in the order in which edgeAgent joins them: by their keys, whatever the case.
pub(crate) fn chunks<'a>(settings: &Cursor<'a>) -> Vec<(&'a str, Cursor<'a>)> {
    let mut chunks: Vec<_> = settings.entries().filter(|(key, _)| chunk_number(key).is_some()).collect();
    chunks.sort_by_key(|(key, _)| key.to_ascii_uppercase());
    chunks
}

impl CreateOptions {
    /// Reads those of a module's settings in `text`.
    pub(crate) fn read(text: &str, settings: &Cursor<'_>) -> Self {
        let chunks = chunks(settings);
        let pointer = chunks.first().map(|(_, at)| at.pointer.clone());
        if let [(_, at)] = chunks.as_slice()
            && at.node.is_object()
        {
            return Self { node: Some(at.node.clone()), pointer, is_object: true, fault: None };
        }
        let (joined, places) = join(text, &chunks);
        // What edgeAgent takes for none at all (DockerConfig.GetCreateOptions).
        if joined.trim().is_empty() || joined.eq_ignore_ascii_case("null") {
            return Self { pointer, ..Self::default() };
        }
        let moved = |span: &Range<usize>| moved(&places, span);
        match parse(&joined) {
            Ok(mut node) => {
                node.relocate(&moved);
                Self { node: Some(node), pointer, ..Self::default() }
            }
            Err(fault) => {
                let fault = Some(Fault { span: moved(&fault.span), ..fault });
                let node = parse_loosely(&joined).map(|mut node| {
                    node.relocate(&moved);
                    node
                });
                Self { node, pointer, is_object: false, fault }
            }
        }
    }
}

/// The chunks as one text, and for each byte of it (and one more) the byte of the manifest that it comes from.
fn join(text: &str, chunks: &[(&str, Cursor<'_>)]) -> (String, Vec<usize>) {
    let (mut joined, mut places) = (String::new(), Vec::new());
    for (_, at) in chunks {
        let Some(chunk) = at.node.as_str() else { continue };
        let literal = text.get(at.node.span.clone()).unwrap_or_default();
        let origins = origins(literal).into_iter().map(|origin| at.node.span.start + origin);
        places.truncate(joined.len());
        places.extend(origins);
        joined.push_str(chunk);
    }
    (joined, places)
}

fn moved(places: &[usize], span: &Range<usize>) -> Range<usize> {
    let place = |at: usize| places.get(at).or(places.last()).copied().unwrap_or_default();
    let start = place(span.start);
    start..place(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::{CreateOptions, chunk_number, chunks};
    use crate::cursor::Cursor;
    use crate::json::parse;

    fn read(text: &str) -> CreateOptions {
        let root = parse(text).expect("JSON");
        CreateOptions::read(text, &Cursor::root(&root))
    }

    #[test]
    fn places_lead_through_escapes_and_over_chunks() {
        let text =
            r#"{"image": "x", "createOptions": "{\"Env\":[\"\u00e9=", "createOptions01": "1\"],\"Cmd\":7}"}"#;
        let options = read(text);
        let node = options.node.expect("options");
        assert_eq!(node.get("Env").expect("Env").elements()[0].as_str(), Some("é=1"));
        let cmd = node.entry("Cmd").expect("Cmd");
        assert_eq!(&text[cmd.key_span.clone()], r#"\"Cmd\""#);
        assert_eq!(&text[cmd.node.span.clone()], "7");
        assert_eq!(options.pointer.as_deref(), Some("/createOptions"));
    }

    #[test]
    fn what_is_no_json_has_a_place() {
        let text = r#"{"createOptions": "{\"Env\": oops}"}"#;
        let options = read(text);
        assert!(options.node.is_none());
        let fault = options.fault.expect("a fault");
        let loose = read(r#"{"createOptions": "{'Env': []}"}"#);
        assert!(loose.fault.is_some() && loose.node.is_some_and(|node| node.get("Env").is_some()));
        assert!(
            text[fault.span.start - 1..].starts_with("oops") || text[fault.span.start..].starts_with("oops")
        );
        for none in
            [r#"{"createOptions": ""}"#, r#"{"createOptions": "NULL"}"#, r#"{"createOptions": null}"#, "{}"]
        {
            let options = read(none);
            assert!(options.node.is_none() && options.fault.is_none(), "{none}");
        }
        assert!(read(r#"{"createOptions": {"Env": []}}"#).is_object);
    }

    #[test]
    fn chunks_are_joined_by_their_keys() {
        let text = r#"{"createOptions02": "c", "CreateOptions": "a", "createoptions01": "b"}"#;
        let root = parse(text).expect("JSON");
        let keys: Vec<&str> = chunks(&Cursor::root(&root)).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["CreateOptions", "createoptions01", "createOptions02"]);
        assert_eq!(chunk_number("createOptions07"), Some(Ok(7)));
        assert_eq!(chunk_number("createOptionsX"), Some(Err(())));
        assert_eq!(chunk_number("createOptions00"), Some(Err(())));
        assert_eq!(chunk_number("image"), None);
    }
}
