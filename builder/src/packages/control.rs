//! Paragraphs of `Field: value` lines (deb822), the format of control files, package indices and apt's sources.
//!
//! ```text
//! Package: foo            ┐
//! Description: short      │ one paragraph
//!  a continuation line    ┘
//!                           an empty line between paragraphs
//! Package: bar
//! ```

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is wrong with a control file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    /// A line that is neither a field nor the continuation of one.
    #[error("line {0} is neither `Field: value` nor a continuation line")]
    Line(usize),
    /// A field that every package must have.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// There is no paragraph at all.
    #[error("there is no control paragraph")]
    Empty,
    /// A field that stands more than once: one reader would take the first, another the last.
    #[error("the field `{0}` is there twice")]
    Twice(String),
    /// A value that a package's name or version may not have.
    #[error("`{1}` is not a {0}")]
    Value(&'static str, String),
}

/// Fields of one paragraph in file order; names keep their case and are compared without it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paragraph(pub Vec<(String, String)>);

impl Paragraph {
    /// The value of a field; continuation lines are joined with line feeds, comments are dropped.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// All paragraphs of a text.
///
/// # Errors
/// The number of the first line that does not fit.
pub(crate) fn paragraphs(text: &str) -> Result<Vec<Paragraph>, Malformed> {
    let mut all = Vec::new();
    let mut current = Paragraph::default();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            if !current.0.is_empty() {
                all.push(std::mem::take(&mut current));
            }
        } else if line.starts_with([' ', '\t']) {
            let (_, value) = current.0.last_mut().ok_or(Malformed::Line(index + 1))?;
            value.push('\n');
            value.push_str(line.trim());
        } else {
            let (name, value) = line.split_once(':').ok_or(Malformed::Line(index + 1))?;
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(Malformed::Line(index + 1));
            }
            current.0.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    if !current.0.is_empty() {
        all.push(current);
    }
    Ok(all)
}

/// The control data of one package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// `Package`.
    pub package: String,
    /// `Version`, with its epoch.
    pub version: String,
    /// `Architecture` (`amd64`, `arm64`, `all`).
    pub architecture: String,
    /// `Essential: yes`.
    pub essential: bool,
    /// `Priority`, empty where there is none.
    pub priority: String,
    /// Every field, these included.
    pub fields: Paragraph,
}

/// Fields by which packages depend on and exclude each other.
pub(crate) const RELATIONS: [&str; 8] =
    ["Pre-Depends", "Depends", "Recommends", "Conflicts", "Breaks", "Replaces", "Provides", "Multi-Arch"];

impl Control {
    /// Reads the text of a file `DEBIAN/control`.
    ///
    /// # Errors
    /// The line that does not fit, or the field that is missing.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        Self::of(paragraphs(text)?.into_iter().next().ok_or(Malformed::Empty)?)
    }

    fn of(fields: Paragraph) -> Result<Self, Malformed> {
        for (at, (name, _)) in fields.0.iter().enumerate() {
            if fields.0[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(Malformed::Twice(name.clone()));
            }
        }
        let need = |name| fields.get(name).filter(|value| !value.is_empty()).ok_or(Malformed::Missing(name));
        let (package, version) = (need("Package")?.to_owned(), need("Version")?.to_owned());
        if !is_package_name(&package) {
            return Err(Malformed::Value("package name", package));
        }
        if !is_version(&version) {
            return Err(Malformed::Value("version", version));
        }
        Ok(Self {
            package,
            version,
            architecture: need("Architecture")?.to_owned(),
            essential: fields.get("Essential").is_some_and(|value| value.eq_ignore_ascii_case("yes")),
            priority: fields.get("Priority").unwrap_or_default().to_owned(),
            fields,
        })
    }

    /// The value of a field, for example `Depends`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// Can it be installed on a system of this Debian architecture?
    pub(crate) fn fits(&self, debian_arch: &str) -> bool {
        self.architecture == "all" || self.architecture == debian_arch
    }
}

/// Architectures of Debian, its ports and Ubuntu (`dpkg-architecture -L` has also those that nobody ever built).
const ARCHITECTURES: [&str; 27] = [
    "alpha",
    "amd64",
    "arc",
    "arm64",
    "armel",
    "armhf",
    "hppa",
    "hurd-amd64",
    "hurd-i386",
    "i386",
    "ia64",
    "kfreebsd-amd64",
    "kfreebsd-i386",
    "loong64",
    "m68k",
    "mips",
    "mips64el",
    "mipsel",
    "powerpc",
    "ppc64",
    "ppc64el",
    "riscv64",
    "s390x",
    "sh4",
    "sparc64",
    "x32",
    "amd64v3",
];

/// Is this an architecture that some machine has? `any` is none: it stands in *source* packages, for "build it for each".
pub(crate) fn is_architecture(name: &str) -> bool {
    name == "all" || ARCHITECTURES.contains(&name)
}

/// Is this a name that Debian policy (5.6.7) allows? Such a name is safe in a path and on a command line.
pub(crate) fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

/// Is this a version by its characters (policy 5.6.12)?
pub(crate) fn is_version(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::{Control, Malformed, paragraphs};

    const CONTROL: &str = "Package: libc6\nVersion: 1:2.36-9+deb12u10\nArchitecture: amd64\nessential: yes\n\
        Depends: libgcc-s1,\n libcrypt1 (>= 1:4.4)\n# a comment\nDescription: library\n .\n more\n";

    #[test]
    fn reads_a_control_file() {
        let control = Control::parse(CONTROL).expect("parses");
        assert_eq!((control.package.as_str(), control.version.as_str()), ("libc6", "1:2.36-9+deb12u10"));
        assert!(control.essential && control.fits("amd64") && !control.fits("arm64"));
        assert_eq!(control.get("depends"), Some("libgcc-s1,\nlibcrypt1 (>= 1:4.4)"));
        assert_eq!(control.get("Pre-Depends"), None);
    }

    #[test]
    fn paragraphs_are_split_at_empty_lines() {
        let all = paragraphs("\n\nA: 1\n\n \nB: 2\r\nC:\n x\n").expect("parses");
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].get("B"), all[1].get("C")), (Some("2"), Some("\nx")));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("", Malformed::Empty),
            (" continuation first", Malformed::Line(1)),
            ("Package: a\nno colon here", Malformed::Line(2)),
            (": no name", Malformed::Line(1)),
            ("Package: a\nArchitecture: all", Malformed::Missing("Version")),
            ("Package: a\nVersion: 1\nArchitecture:", Malformed::Missing("Architecture")),
            ("Package: ../a\nVersion: 1\nArchitecture: all", Malformed::Value("package name", "../a".into())),
            ("Package: a\nVersion: 1\nArchitecture: all\npackage: b", Malformed::Twice("package".into())),
            ("Package: a\nVersion: 1 2\nArchitecture: all", Malformed::Value("version", "1 2".into())),
        ] {
            assert_eq!(Control::parse(text), Err(expected), "{text}");
        }
    }
}
