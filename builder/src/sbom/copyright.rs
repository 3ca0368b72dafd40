//! What a package's copyright file says of its licences.
//!
//! Read are machine-readable files only (`Format: …/copyright-format/1.0/`):
//!
//! ```text
//! Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
//!
//! Files: *                        ┐ the licence of some files
//! License: GPL-2+ or Foo          ┘ first line: short names; then, maybe, the text
//!
//! License: Foo                    ┐ the text of a name
//!  Do what you like with it.      ┘
//! ```
//! In the other files a licence is prose, and whatever a program reads from prose is a guess: such a package's licence
//! counts as not known.

use std::collections::BTreeMap;

use super::licence::{self, Expression};
use crate::packages::control::{Paragraph, paragraphs};
use crate::units::Digest;

/// Licences that SPDX does not list, by their reference.
pub(crate) type Texts = BTreeMap<String, Text>;

/// A licence that SPDX does not list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Text {
    /// Its short name in the copyright file; empty where it has none.
    pub name: String,
    /// Its text; where the file has none, a sentence that says so.
    pub text: String,
}

/// The licences that apply to a package's files, as an SPDX expression; texts of licences that SPDX does not list are
/// added to `texts`. Nothing where the file is not machine-readable.
pub(crate) fn declared(package: &str, file: &str, texts: &mut Texts) -> Option<String> {
    if !file.trim_start().get(..6).is_some_and(|start| start.eq_ignore_ascii_case("Format")) {
        return None;
    }
    let all = paragraphs(file).ok()?;
    let named =
        |paragraph: &&Paragraph| paragraph.get("Files").is_none() && paragraph.get("License").is_some();
    let standalone: BTreeMap<String, &str> = all
        .iter()
        .filter(named)
        .filter_map(|paragraph| {
            let (name, text) = parts(paragraph.get("License")?);
            Some((name.to_ascii_lowercase(), text))
        })
        .collect();
    let of_files = all.iter().filter(|paragraph| paragraph.get("Files").is_some());
    let licences = of_files.filter_map(|paragraph| paragraph.get("License"));
    let expressions: Vec<Expression> = licences
        .map(|licence| {
            let (names, text) = parts(licence);
            let mut reference = |name: &str| {
                let own = standalone.get(&name.to_ascii_lowercase()).copied().unwrap_or_default();
                refer(package, name, if own.is_empty() { text } else { own }, texts)
            };
            licence::expression(names, &mut reference)
                .unwrap_or_else(|| Expression::One(refer(package, "", licence.trim(), texts)))
        })
        .collect();
    Expression::all(expressions).map(|expression| expression.to_string())
}

/// First line and the rest.
fn parts(licence: &str) -> (&str, &str) {
    let (first, rest) = licence.split_once('\n').unwrap_or((licence, ""));
    // The name may stand on a line of its own below an empty one.
    match (first.trim(), rest.trim()) {
        ("", rest) if !rest.is_empty() => parts(rest),
        parts => parts,
    }
}

/// A reference for a licence, the same for the same name and text: many packages share one.
fn refer(package: &str, name: &str, text: &str, texts: &mut Texts) -> String {
    let text = match text {
        "" => {
            format!("The copyright file of the Debian package {package} names this licence without its text.")
        }
        text => unescaped(text),
    };
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let digest = &Digest::of(format!("{name}\n{text}")).short()[..8];
    let reference = match plain {
        "" => format!("LicenseRef-{digest}"),
        plain => format!("LicenseRef-{plain}-{digest}"),
    };
    texts.entry(reference.clone()).or_insert_with(|| Text { name: name.to_owned(), text });
    reference
}

/// A line with nothing but a dot stands for an empty one (policy 5.6.13).
fn unescaped(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| if line == "." { "" } else { line }).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Texts, declared};

    const FILE: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
        Upstream-Name: x\nLicense: summary\n\n\
        Files: *\nCopyright: me\nLicense: GPL-2+\n\n\
        Files: a b\nCopyright: me\nLicense: Expat or public-domain\n\n\
        Files: c\nCopyright: me\nLicense: public-domain\n Anyone may.\n .\n Really.\n\n\
        Files: d\nCopyright: me\nLicense:\n Permission to use this is granted to all who ask, and to others\n\n\
        License: public-domain\n It is everybody's.\n";

    #[test]
    fn licences_of_all_files_and_texts_of_the_unlisted() {
        let mut texts = Texts::new();
        let licence = declared("x", FILE, &mut texts).expect("a licence");
        let start = "GPL-2.0-or-later AND (MIT OR LicenseRef-public-domain-";
        assert!(licence.starts_with(start), "{licence}");
        let found: Vec<(&str, &str)> =
            texts.values().map(|text| (text.name.as_str(), text.text.as_str())).collect();
        assert!(found.contains(&("public-domain", "It is everybody's.")), "{found:?}");
        assert!(
            found.iter().any(|(name, text)| name.is_empty() && text.starts_with("Permission")),
            "{found:?}"
        );
        assert_eq!(texts.len(), 2, "{found:?}");
        spdx::Expression::parse(&licence).expect("an SPDX expression");
    }

    #[test]
    fn prose_is_not_guessed_at() {
        let mut texts = Texts::new();
        assert_eq!(declared("x", "This is free software under the GPL, version 2.\n", &mut texts), None);
        assert_eq!(declared("x", "Format: 1.0\nno colon on this line\n", &mut texts), None);
        assert_eq!(declared("x", "Format: 1.0\n\nFiles: *\nCopyright: me\n", &mut texts), None);
        assert_eq!(declared("x", "", &mut texts), None);
        assert!(texts.is_empty());
    }

    #[test]
    fn damaged_files_do_no_harm() {
        for at in 0..FILE.len() {
            let mut bytes = FILE.as_bytes().to_vec();
            bytes[at] ^= 0x15;
            for bytes in [&bytes[..], &FILE.as_bytes()[..at]] {
                let text = String::from_utf8_lossy(bytes);
                let licence = declared("x", &text, &mut Texts::new());
                let valid = licence.as_ref().is_none_or(|licence| spdx::Expression::parse(licence).is_ok());
                assert!(valid, "{licence:?} at {at}");
            }
        }
    }
}
