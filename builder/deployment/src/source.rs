//! A manifest's text, and where each byte of it stands in the file that its author wrote.
//!
//! ```text
//! template   "image": "${REGISTRY}/filter:1.0"
//! piece       copied──┘└─replaced─┘└──copied───
//! text       "image": "factory.azurecr.io/filter:1.0"
//! ```

use std::fmt;
use std::ops::Range;

use edgepress_base::finding::Place;

/// A stretch of the text that comes from one stretch of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it begins in the text.
    pub(crate) start: usize,
    /// What it comes from.
    pub(crate) from: Range<usize>,
    /// Byte for byte; otherwise every byte of it comes from all of `from`.
    pub(crate) copied: bool,
}

/// A text with the file that it comes from.
#[derive(Clone)]
pub(crate) struct SourceText {
    file: String,
    text: String,
    /// For what a template became: the template, and the pieces in their order.
    template: Option<(String, Vec<Piece>)>,
}

/// Without the text: it may hold passwords.
impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceText").field("file", &self.file).finish_non_exhaustive()
    }
}

impl SourceText {
    /// A file whose text is what its author wrote.
    pub(crate) fn plain(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into(), template: None }
    }

    pub(crate) fn rendered(file: &str, text: String, template: &str, pieces: Vec<Piece>) -> Self {
        Self { file: file.into(), text, template: Some((template.into(), pieces)) }
    }

    /// The file as the user named it.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The text: of a template, with its placeholders filled in.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Is it what became of a template?
    pub(crate) fn is_rendered(&self) -> bool {
        self.template.is_some()
    }

    /// The place of bytes of the text in the file that the author wrote.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        match &self.template {
            None => Place::of_span(&self.file, &self.text, span),
            Some((template, pieces)) => {
                let start = origin(pieces, span.start, false);
                // The last byte, not the one behind it: that may belong to what comes after.
                let end = origin(pieces, span.end.saturating_sub(1).max(span.start), true);
                Place::of_span(&self.file, template, &(start..end.max(start)))
            }
        }
    }
}

/// Where the byte at `at` of the text begins (or, for `behind`, ends) in the template.
fn origin(pieces: &[Piece], at: usize, behind: bool) -> usize {
    let index = pieces.partition_point(|piece| piece.start <= at).saturating_sub(1);
    let Some(piece) = pieces.get(index) else { return 0 };
    match (piece.copied, behind) {
        (true, _) => (piece.from.start + (at - piece.start) + usize::from(behind)).min(piece.from.end),
        (false, false) => piece.from.start,
        (false, true) => piece.from.end,
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, SourceText};

    #[test]
    fn what_was_filled_in_points_to_its_placeholder() {
        let template = "{\n \"a\": \"${X}/b\"}";
        let text = "{\n \"a\": \"long-value/b\"}";
        let hole = template.find("${X}").expect("placeholder");
        let pieces = vec![
            Piece { start: 0, from: 0..hole, copied: true },
            Piece { start: hole, from: hole..hole + 4, copied: false },
            Piece { start: hole + 10, from: hole + 4..template.len(), copied: true },
        ];
        let source = SourceText::rendered("t.json", text.into(), template, pieces);
        let place = |what: &str| {
            let start = text.find(what).expect("in the text");
            let place = source.place(&(start..start + what.len()));
            (place.line, place.column, place.width)
        };
        assert_eq!(place("long-value/b"), (2, 8, 6));
        assert_eq!(place("value"), (2, 8, 4));
        assert_eq!(place("/b"), (2, 12, 2));
        assert_eq!(source.place(&(500..700)).line, 2);
        assert!(!format!("{source:?}").contains("long-value"));
    }
}
