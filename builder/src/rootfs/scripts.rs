//! Do the programs exist that an overlay's scripts begin with (`#!`)? Asked when everything is in the tree.

use std::io::Read as _;
use std::path::Path;

use anyhow::Result;

use crate::error::Problem;
use crate::event::Sink;
use crate::tree::entry::{EntryKind, TreeEntry};
use crate::tree::{self, Root};

/// What the kernel reads of a script's first line (`BINPRM_BUF_SIZE`).
const FIRST_LINE: u64 = 256;
/// Where a program without a folder is looked for.
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Scripts here are for the device itself; elsewhere they may be for a container that brings a root of its own.
const OWN: [&str; 2] = ["/usr", "/etc"];

/// Looks at the executable files of overlays.
///
/// # Errors
/// Every script whose program the tree does not have.
pub(super) fn check(root: &Root, entries: &[TreeEntry], sink: &dyn Sink) -> Result<()> {
    let mut refused = Vec::new();
    for entry in entries {
        let Some(origin) = entry.origin.as_ref().filter(|_| entry.mode & 0o111 != 0) else { continue };
        let Some(program) = wanted(root, entry)?.filter(|program| !there(root, program)) else { continue };
        let what = format!("{} begins with `#!`, and the image has no {program}", origin.file.display());
        if OWN.iter().any(|folder| entry.path.starts_with(folder)) {
            refused.push(what);
        } else {
            sink.warn(format!("{what}: it cannot be started on the device"));
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Problem::input(refused.join("\n"))
        .hint("add the package that has the program to packages.install, or name another in the script's first line")
        .into())
}

/// The program that a script asks for; nothing for what is no script.
fn wanted(root: &Root, entry: &TreeEntry) -> Result<Option<String>> {
    if !matches!(entry.kind, EntryKind::Blob(_) | EntryKind::File(_)) {
        return Ok(None);
    }
    let Some(file) = root.open_file_nofollow(&entry.path)? else { return Ok(None) };
    let mut start = Vec::new();
    file.take(FIRST_LINE).read_to_end(&mut start)?;
    Ok(program(&String::from_utf8_lossy(&start)))
}

/// `#!/bin/sh -e`: `/bin/sh`; `#!/usr/bin/env python3`: `python3`.
fn program(text: &str) -> Option<String> {
    let line = text.strip_prefix("#!")?.lines().next()?;
    let mut words = line.split_whitespace();
    let program = words.next()?;
    if !program.ends_with("/env") {
        return Some(program.to_owned());
    }
    // Options of env(1), and variables that it sets.
    let named = words.find(|word| !word.starts_with('-') && !word.contains('='));
    Some(named.unwrap_or(program).to_owned())
}

fn there(root: &Root, program: &str) -> bool {
    let is_file = |path: &Path| {
        root.stat(path).is_ok_and(|meta| meta.is_some_and(|meta| meta.kind == tree::FileKind::File))
    };
    if program.contains('/') {
        return is_file(Path::new(program));
    }
    PATH.iter().any(|folder| is_file(&Path::new(folder).join(program)))
}

#[cfg(test)]
mod tests {
    use super::{check, program};
    use crate::event::Silent;
    use crate::tree::Root;
    use crate::tree::entry::{EntryKind, Origin, TreeEntry};

    #[test]
    fn first_lines() {
        for (text, wanted) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#! /bin/sh -e\n", Some("/bin/sh")),
            ("#!/usr/bin/env python3\n", Some("python3")),
            ("#!/usr/bin/env -S A=1 python3 -u\n", Some("python3")),
            ("#!/usr/bin/env\n", Some("/usr/bin/env")),
            ("#!\n", None),
            ("\x7fELF", None),
            ("", None),
        ] {
            assert_eq!(program(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_program_that_the_tree_has_not() {
        let folder = tempfile::tempdir().expect("a tree");
        let root = Root::open(folder.path()).expect("a root");
        root.write("/usr/bin/dash", 0o755, b"").expect("a program");
        root.symlink("dash", "/usr/bin/sh").expect("a link");
        root.symlink("usr/bin", "/bin").expect("a link");
        let entry = |path: &str, text: &str, mode| {
            root.write(path, mode, text.as_bytes()).expect("a script");
            let origin = Origin { file: format!("own{path}").into(), overlay: 0 };
            TreeEntry { path: path.into(), mode, kind: EntryKind::File(Vec::new()), origin: Some(origin) }
        };
        let mut entries = vec![
            entry("/usr/bin/good", "#!/bin/sh\n", 0o755),
            entry("/usr/bin/env-good", "#!/usr/bin/env sh\n", 0o755),
            entry("/usr/bin/data", "#!/bin/python\n", 0o644),
            entry("/opt/root/bin/x", "#!/bin/ash\n", 0o755),
        ];
        check(&root, &entries, &Silent).expect("all there, or not the device's own");
        entries.push(entry("/usr/bin/bad", "#!/usr/bin/env python3\n", 0o755));
        entries.push(entry("/etc/bad", "#!/usr/bin/perl -w\n", 0o755));
        let error = check(&root, &entries, &Silent).expect_err("two are missing").to_string();
        assert_eq!(
            error,
            "own/usr/bin/bad begins with `#!`, and the image has no python3\n\
             own/etc/bad begins with `#!`, and the image has no /usr/bin/perl"
        );
    }
}
