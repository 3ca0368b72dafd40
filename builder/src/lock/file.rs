//! The lock file as text: readable, diffable, one table per package.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::types::{FORMAT, Lock, Locked};
use crate::error::Problem;
use crate::files;
use crate::packages::control::{is_package_name, is_version};
use crate::recipe::types::Recipe;

const HEADER: &str = "# Exactly which packages go into the image; made by `edgepress lock`, renewed with `--update`.\n\
                      # Files are named by archive role and path: the mirror is chosen when they are fetched.\n\n";

/// Where a recipe's lock is: `<name>.lock` beside the recipe's file.
pub(crate) fn path(recipe_file: &Path, recipe: &Recipe) -> PathBuf {
    recipe_file.with_file_name(format!("{}.lock", recipe.name))
}

/// Reads a lock file; nothing where there is none.
///
/// # Errors
/// Names file, line and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Option<Lock>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    match parse(&text) {
        Ok(lock) => Ok(Some(lock)),
        Err(what) => {
            Err(Problem::input(format!("{} is not a lock that can be used: {what}", path.display()))
                .hint("make it anew: edgepress lock --update, or take back the file's last good version")
                .into())
        }
    }
}

/// Parses a lock and checks that what it says is safe to use.
///
/// # Errors
/// Says line and reason.
pub(crate) fn parse(text: &str) -> Result<Lock, String> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let tell = |error: toml::de::Error| match error.span() {
        Some(span) => format!("line {}: {}", line(text, span.start), error.message()),
        None => error.message().to_owned(),
    };
    let version: Version = toml::from_str(text).map_err(tell)?;
    if version.format != FORMAT {
        return Err(format!("it has format {}, this edgepress reads format {FORMAT}", version.format));
    }
    let lock: Lock = toml::from_str(text).map_err(tell)?;
    for section in lock.arch.values() {
        for packages in std::iter::once(&section.packages).chain(section.tools.values()) {
            for package in packages {
                check(package).map_err(|what| format!("the package `{}` has {what}", package.name))?;
            }
            if let Some(pair) = packages.windows(2).find(|pair| pair[0].name >= pair[1].name) {
                return Err(format!("the package `{}` is out of order or there twice", pair[1].name));
            }
        }
    }
    Ok(lock)
}

fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Names and paths go into addresses, messages and file names.
fn check(package: &Locked) -> Result<(), String> {
    let inside = Path::new(&package.path).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_package_name(&package.name) {
        Err("no package name that Debian allows".to_owned())
    } else if !is_version(&package.version) {
        Err(format!("the version `{}`, which is none", package.version))
    } else if package.path.is_empty() || package.path.contains(char::is_control) || !inside {
        Err(format!("the path `{}`, which is not one within an archive", package.path.escape_debug()))
    } else {
        Ok(())
    }
}

/// The text of a lock.
///
/// # Errors
/// None for a lock that [`parse`] accepts.
pub(crate) fn render(lock: &Lock) -> Result<String> {
    let body = toml::to_string(lock).context("writing the lock as TOML")?;
    Ok(format!("{HEADER}{body}"))
}

/// Replaces a lock file in one step.
///
/// # Errors
/// When its folder cannot be written.
pub(crate) fn write(path: &Path, lock: &Lock) -> Result<()> {
    files::write(path, 0o644, render(lock)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{parse, read, render, write};
    use crate::error::{ProblemKind, problem};
    use crate::lock::types::{FORMAT, Lock, Locked, Section};
    use crate::units::{Arch, Digest};

    fn lock() -> Lock {
        let package = |name: &str, path: &str| Locked {
            name: name.into(),
            version: "1:2.36-9+deb12u10".into(),
            architecture: "amd64".into(),
            archive: "debian".into(),
            path: path.into(),
            size: 7,
            sha256: Digest::of(name),
        };
        let packages = vec![package("a", "pool/a.deb"), package("libstdc++6", "pool/l/g++ 1~2.deb")];
        let tools = [(Arch::X86_64, vec![package("dash", "pool/dash.deb")])].into();
        let section =
            Section { inputs: Digest::of("inputs"), packages, tools: Default::default(), images: Vec::new() };
        let empty = Section { inputs: Digest::of("none"), packages: Vec::new(), tools, images: Vec::new() };
        Lock { format: FORMAT, arch: [(Arch::X86_64, section), (Arch::Aarch64, empty)].into() }
    }

    #[test]
    fn reads_what_it_writes() {
        let text = render(&lock()).expect("renders");
        assert_eq!(parse(&text), Ok(lock()));
        let shown = "\n[[arch.x86_64.package]]\nname = \"a\"\nversion = \"1:2.36-9+deb12u10\"\n\
            architecture = \"amd64\"\narchive = \"debian\"\npath = \"pool/a.deb\"\nsize = 7\nsha256 = \"";
        assert!(text.contains(shown), "{text}");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.lock");
        assert_eq!(read(&path).expect("reads"), None);
        for _ in 0..2 {
            write(&path, &lock()).expect("writes");
        }
        assert_eq!(read(&path).expect("reads"), Some(lock()));
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_damaged_lock_is_an_error_with_its_line() {
        let text = render(&lock()).expect("renders");
        for (from, to, expected) in [
            ("format = 1", "format = 2", "it has format 2, this edgepress reads format 1"),
            ("format = 1", "", "missing field `format`"),
            ("size = 7", "size = -7", "line "),
            ("size = 7", "size = 7\nextra = 1", "unknown field `extra`"),
            ("\nsha256 = \"ca97", "\nsha256 = \"zz97", "is not a SHA-256 digest"),
            ("pool/a.deb", "../../etc/shadow", "not one within an archive"),
            ("pool/a.deb", "/etc/shadow", "not one within an archive"),
            ("name = \"a\"", "name = \"a b\"", "no package name"),
            ("name = \"a\"", "name = \"z\"", "out of order"),
            ("pool/dash.deb", "/etc/shadow", "not one within an archive"),
            ("[[arch.x86_64", "[[arch.riscv", "riscv"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = parse(&text.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(expected), "{to}: {error}");
        }
        for length in 0..text.len() {
            let _ = parse(&text[..length]);
        }
    }

    #[test]
    fn the_error_names_the_file_and_is_the_user_s_to_mend() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "format = 1\n[arch.x86_64]\ninputs = 3\n").expect("writes");
        let error = read(file.path()).expect_err("damaged");
        let problem = problem(&error).expect("a problem");
        assert_eq!(problem.kind, ProblemKind::Input);
        assert!(problem.message.contains(&file.path().display().to_string()), "{problem}");
        assert!(problem.message.contains("line "), "{problem}");
    }
}
