//! Debian's short names of licences as SPDX expressions.
//!
//! ```text
//! GPL-1+ or Artistic, and Expat   ─►  (GPL-1.0-or-later OR Artistic-1.0) AND MIT
//! GPL-2 with Linux-syscall-note exception  ─►  GPL-2.0-only WITH Linux-syscall-note
//! public-domain                   ─►  LicenseRef-… (SPDX lists no such licence)
//! ```
//! The names and the grammar are those of Debian's machine-readable copyright file, version 1.0, section 7.2: `and`
//! binds more strongly than `or`, and a comma before either makes it bind less strongly than both. A name is mapped only
//! where it says one licence and its version; nothing is guessed from a text.

use std::fmt;

/// Longest list of names that is read as such; more is a text in the wrong place.
const MOST_WORDS: usize = 64;

/// Names that Debian writes otherwise than SPDX, in lower case.
const ALIASES: &[(&str, &str)] = &[
    ("expat", "MIT"),
    ("mit/x11", "MIT"),
    ("cc0", "CC0-1.0"),
    ("openldap-2.8", "OLDAP-2.8"),
    ("oldap-2.8", "OLDAP-2.8"),
    ("artistic", "Artistic-1.0"),
    ("artistic-1", "Artistic-1.0"),
    ("artistic-2", "Artistic-2.0"),
    ("apache-1", "Apache-1.0"),
    ("apache-2", "Apache-2.0"),
    ("mpl-1", "MPL-1.0"),
    ("mpl-2", "MPL-2.0"),
    ("bsl-1", "BSL-1.0"),
    ("bsd-2-clause-netbsd", "BSD-2-Clause"),
    ("psf-2", "PSF-2.0"),
    ("python-2", "Python-2.0"),
    ("zlib/libpng", "Zlib"),
];

/// What follows `with`, without the word `exception`, in lower case.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("linux-syscall-note", "Linux-syscall-note"),
    ("bison", "Bison-exception-2.2"),
    ("libtool", "Libtool-exception"),
    ("texinfo", "Texinfo-exception"),
    ("font", "Font-exception-2.0"),
    ("classpath", "Classpath-exception-2.0"),
    ("gcc-runtime-library", "GCC-exception-3.1"),
    ("llvm", "LLVM-exception"),
];

/// Licences put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// One licence, maybe with an exception: an SPDX id or a reference.
    One(String),
    /// All of them apply.
    All(Vec<Expression>),
    /// The user chooses.
    Any(Vec<Expression>),
}

impl Expression {
    /// All of `parts` apply; nothing is said twice.
    pub(crate) fn all(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut flat: Vec<Self> = Vec::new();
        for part in parts {
            let inner = if let Self::All(inner) = part { inner } else { vec![part] };
            for part in inner {
                if !flat.contains(&part) {
                    flat.push(part);
                }
            }
        }
        if flat.len() > 1 { Some(Self::All(flat)) } else { flat.pop() }
    }

    fn any(parts: Vec<Self>) -> Self {
        let mut flat: Vec<Self> = Vec::new();
        for part in parts {
            if !flat.contains(&part) {
                flat.push(part);
            }
        }
        match flat.len() {
            1 => flat.remove(0),
            _ => Self::Any(flat),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, word) = match self {
            Self::One(name) => return f.write_str(name),
            Self::All(parts) => (parts, " AND "),
            Self::Any(parts) => (parts, " OR "),
        };
        for (at, part) in parts.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { word })?;
            match part {
                Self::One(name) => f.write_str(name)?,
                inner => write!(f, "({inner})")?,
            }
        }
        Ok(())
    }
}

/// The expression for a list of short names. `reference` gives the id for a name that SPDX does not list.
///
/// Returns nothing where the text is not such a list.
pub(crate) fn expression(text: &str, reference: &mut dyn FnMut(&str) -> String) -> Option<Expression> {
    let words: Vec<String> = text.split_whitespace().take(MOST_WORDS + 1).map(str::to_owned).collect();
    if words.is_empty() || words.len() > MOST_WORDS {
        return None;
    }
    let mut tokens = Vec::new();
    for word in words {
        let comma = word.ends_with(',');
        let plain = word.trim_end_matches(',').to_owned();
        match plain.to_ascii_lowercase().as_str() {
            "" => {}
            "and" | "and/or" | "or" if tokens.last() == Some(&Token::Comma) => {
                tokens.pop();
                tokens.push(Token::operator(&plain, true));
            }
            "and" | "and/or" | "or" => tokens.push(Token::operator(&plain, false)),
            _ => tokens.push(Token::Word(plain)),
        }
        if comma {
            tokens.push(Token::Comma);
        }
    }
    parse(&tokens, 0, reference)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Operator { all: bool, loose: bool },
    Comma,
}

impl Token {
    fn operator(word: &str, loose: bool) -> Self {
        Self::Operator { all: word.eq_ignore_ascii_case("and"), loose }
    }
}

/// Operators from the loosest to the strongest.
const LEVELS: [Token; 4] = [
    Token::Operator { all: false, loose: true },
    Token::Operator { all: true, loose: true },
    Token::Operator { all: false, loose: false },
    Token::Operator { all: true, loose: false },
];

fn parse(tokens: &[Token], level: usize, reference: &mut dyn FnMut(&str) -> String) -> Option<Expression> {
    let Some(operator) = LEVELS.get(level) else { return atom(tokens, reference) };
    let parts: Option<Vec<Expression>> =
        tokens.split(|token| token == operator).map(|part| parse(part, level + 1, reference)).collect();
    let mut parts = parts?;
    match operator {
        _ if parts.len() == 1 => parts.pop(),
        Token::Operator { all: true, .. } => Expression::all(parts),
        _ => Some(Expression::any(parts)),
    }
}

/// `NAME`, or `NAME with WORDS exception`.
fn atom(tokens: &[Token], reference: &mut dyn FnMut(&str) -> String) -> Option<Expression> {
    let words: Option<Vec<&str>> = tokens
        .iter()
        .map(|token| if let Token::Word(word) = token { Some(word.as_str()) } else { None })
        .collect();
    let words = words?;
    let known = match words.as_slice() {
        [name] => identifier(name),
        [name, with, exception @ ..] if with.eq_ignore_ascii_case("with") && !exception.is_empty() => {
            identifier(name).and_then(|id| Some(format!("{id} WITH {}", self::exception(&id, exception)?)))
        }
        _ => return None,
    };
    Some(Expression::One(known.unwrap_or_else(|| reference(&words.join(" ")))))
}

/// The SPDX id of a short name.
fn identifier(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, id)) = ALIASES.iter().find(|(alias, _)| *alias == lower) {
        return Some((*id).to_owned());
    }
    gnu(&lower).or_else(|| listed(name)).or_else(|| {
        let with = lower.find("-with-")?;
        let (base, words) = (name.get(..with)?, lower.get(with + "-with-".len()..)?);
        let id = gnu(&lower[..with]).or_else(|| listed(base))?;
        Some(format!("{id} WITH {}", exception(&id, &[words])?))
    })
}

/// An id of SPDX's list, whatever its case; not one that the list calls deprecated.
fn listed(name: &str) -> Option<String> {
    let found = spdx::identifiers::LICENSES.iter().find(|known| known.name.eq_ignore_ascii_case(name))?;
    let deprecated = spdx::license_id(found.name).is_none_or(spdx::LicenseId::is_deprecated);
    (!deprecated && found.name != "NOASSERTION" && found.name != "NONE").then(|| found.name.to_owned())
}

/// GNU's licences: `gpl-2+`, `gplv3`, `lgpl-2.1-or-later`, `gfdl-niv-1.3+`. Without a version there is no id.
fn gnu(lower: &str) -> Option<String> {
    let families =
        [("agpl", "AGPL"), ("lgpl", "LGPL"), ("gpl", "GPL"), ("gfdl-niv", "GFDL"), ("gfdl", "GFDL")];
    let (prefix, family) = families.iter().find(|(prefix, _)| lower.starts_with(prefix))?;
    let rest = lower[prefix.len()..].trim_start_matches(['-', 'v']);
    let (rest, later) = match rest.strip_suffix('+').or_else(|| rest.strip_suffix("-or-later")) {
        Some(rest) => (rest, true),
        None => (rest.strip_suffix("-only").unwrap_or(rest), false),
    };
    let version = if rest.contains('.') { rest.to_owned() } else { format!("{rest}.0") };
    let niv = if *prefix == "gfdl-niv" { "-no-invariants" } else { "" };
    let id = format!("{family}-{version}{niv}-{}", if later { "or-later" } else { "only" });
    listed(&id)
}

fn exception(licence: &str, words: &[&str]) -> Option<String> {
    let text = words.join("-").to_ascii_lowercase();
    let text = text.trim_end_matches("-exception").trim_end_matches("-exceptions");
    // Autoconf's exception differs by the licence that it belongs to.
    if matches!(text, "autoconf" | "autoconf-data") {
        let version = if licence.starts_with("GPL-3") { "3.0" } else { "2.0" };
        return Some(format!("Autoconf-exception-{version}"));
    }
    EXCEPTIONS.iter().find(|(name, _)| *name == text).map(|(_, id)| (*id).to_owned())
}

#[cfg(test)]
mod tests {
    use super::expression;

    fn of(text: &str) -> Option<String> {
        let mut reference = |name: &str| format!("LicenseRef-{}", name.replace(' ', "-"));
        Some(expression(text, &mut reference)?.to_string())
    }

    #[test]
    fn names_and_grammar() {
        for (text, expected) in [
            ("GPL-2", "GPL-2.0-only"),
            ("GPL-2+", "GPL-2.0-or-later"),
            ("GPLv3+", "GPL-3.0-or-later"),
            ("LGPLv2.1+", "LGPL-2.1-or-later"),
            ("GPL-2.0-only", "GPL-2.0-only"),
            ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
            ("Expat", "MIT"),
            ("BSD-3-clause", "BSD-3-Clause"),
            ("curl", "curl"),
            ("GPL-1+ or Artistic", "GPL-1.0-or-later OR Artistic-1.0"),
            ("GPL-1+ or Artistic, and Expat", "(GPL-1.0-or-later OR Artistic-1.0) AND MIT"),
            ("ISC or Expat and Zlib", "ISC OR (MIT AND Zlib)"),
            ("GPL-2 with Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
            ("GPL-3+ with Autoconf exception", "GPL-3.0-or-later WITH Autoconf-exception-3.0"),
            ("GPL-3+-WITH-BISON-EXCEPTION", "GPL-3.0-or-later WITH Bison-exception-2.2"),
            ("Expat or MIT", "MIT"),
            ("public-domain and ISC", "LicenseRef-public-domain AND ISC"),
            ("LGPL-2.1+ with OpenSSL exception", "LicenseRef-LGPL-2.1+-with-OpenSSL-exception"),
            // No version, no id: what a reader would guess is not what the file says.
            ("GPL", "LicenseRef-GPL"),
            ("NONE", "LicenseRef-NONE"),
        ] {
            assert_eq!(of(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_of_names_is_refused() {
        for text in [
            "",
            "Permission to use, copy, modify, and distribute this software and its",
            "GPL-2 or",
            "and",
            "GPL-2, MIT",
            "GPL-2 with",
            ", and ,",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(of(&"a and ".repeat(10_000)), None);
    }

    #[test]
    fn every_mapped_name_is_on_the_list_of_spdx() {
        for (_, id) in super::ALIASES {
            assert!(spdx::license_id(id).is_some(), "{id}");
        }
        for (_, id) in super::EXCEPTIONS {
            assert!(spdx::exception_id(id).is_some(), "{id}");
        }
    }
}
