//! Bytes that make a file useless on the device, though it is all there: Windows line ends, byte order marks, programs
//! for another machine.
//!
//! ```text
//! #!/bin/sh\r\n      the kernel looks for a program of the name `/bin/sh\r`: 203/EXEC, "not found"
//! \xef\xbb\xbf#!     no script at all: a byte order mark comes before `#!`
//! ```
//! Most formats take a CR at the end of a line: systemd's (read_line() of its basic library), TOML, JSON, YAML, sudoers
//! (checked with visudo 1.9), sshd_config, authorized_keys, PEM. [`TRIPPED`] lists those that do not.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::finding::{Finding, Severity};
use crate::foreign::elf::Elf;
use crate::recipe::Loaded;
use crate::rootfs::guard_rules::matches;
use crate::units::Arch;

/// Most bytes of a file that are looked at: a longer one is no script.
pub(super) const LOOKED_AT: u64 = 1 << 20;
/// Deepest folder of a package source.
const DEEPEST: usize = 64;
/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Files by path from the root whose readers trip over a CR, and how.
const TRIPPED: &[(&str, Severity, &str)] = &[
    ("etc/pam.d/*", Severity::Error, "PAM takes the CR for part of a module's name, and nobody can log in"),
    ("etc/profile", Severity::Error, SHELL),
    ("etc/profile.d/*", Severity::Error, SHELL),
    ("etc/bash.bashrc", Severity::Error, SHELL),
    ("etc/skel/.*", Severity::Error, SHELL),
    ("root/.bash*", Severity::Error, SHELL),
    ("root/.profile", Severity::Error, SHELL),
    ("home/*/.bash*", Severity::Error, SHELL),
    ("home/*/.profile", Severity::Error, SHELL),
    ("etc/initramfs-tools/**", Severity::Error, SHELL),
    ("usr/share/initramfs-tools/**", Severity::Error, SHELL),
    ("etc/crontab", Severity::Error, CRON),
    ("etc/cron.d/*", Severity::Error, CRON),
    ("var/spool/cron/crontabs/*", Severity::Error, CRON),
    ("etc/modprobe.d/*", Severity::Error, "modprobe takes the CR for part of a name or value"),
    ("etc/modules", Severity::Error, "the CR becomes part of the module's name"),
    ("etc/default/*", Severity::Warning, "a shell that reads it has the CR in every value"),
];
const SHELL: &str = "the shell takes the CR for part of each line's last word";
const CRON: &str = "cron hands the CR to each command as part of its last word";

/// What is wrong with a file, to stand after its name, and what to do.
fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding::error(message).hint(hint)
}

/// A file to judge: of this machine, where it will be, and how it begins.
pub(super) struct Subject<'a> {
    /// The file, for messages.
    pub(super) file: &'a Path,
    /// Path in the image.
    pub(super) path: &'a Path,
    /// Is it executable there?
    pub(super) executable: bool,
    /// At most [`LOOKED_AT`] bytes.
    pub(super) bytes: &'a [u8],
}

/// Judges one file.
pub(super) fn judge(subject: &Subject<'_>, arch: Arch, findings: &mut Vec<Finding>) {
    let found = [order_mark(subject), first_line(subject), other_lines(subject), machine(subject, arch)];
    let Some(first) = found.into_iter().flatten().next() else { return };
    let message = format!("{} {}", subject.file.display(), first.message);
    findings.push(Finding { message, ..first });
}

/// Something before `#!`, which must be the first two bytes.
fn order_mark(subject: &Subject<'_>) -> Option<Finding> {
    let file = subject.file.display();
    let bytes = subject.bytes;
    if bytes.strip_prefix(MARK).is_some_and(|rest| rest.starts_with(b"#!")) {
        return Some(wrong(
            "has a byte order mark before `#!`, so that the system does not take it for a script",
            format!("save it as UTF-8 without BOM, or: sed -i '1s/^\\xef\\xbb\\xbf//' {file}"),
        ));
    }
    let wide = [&b"\xff\xfe#\0!\0"[..], b"\xfe\xff\0#\0!"].iter().any(|start| bytes.starts_with(start));
    wide.then(|| {
        wrong(
            "is a script in UTF-16, which no system starts",
            format!("iconv -f UTF-16 -t UTF-8 {file} > {file}.new, and take that"),
        )
    })
}

fn unix_line_ends(file: &Path) -> String {
    format!(
        "sed -i 's/\\r$//' {}; and where git made the line ends, `*  text eol=lf` in .gitattributes",
        file.display()
    )
}

/// `#!` and the program's path, to the end of the line.
fn first_line(subject: &Subject<'_>) -> Option<Finding> {
    let line = subject.bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let program = text.split_whitespace().next().unwrap_or_default();
    if text.ends_with('\r') {
        let message = format!(
            "has Windows line ends: it begins `#!{}\\r`, and the system looks for a program of that name, with the CR",
            text.trim_end().trim_start()
        );
        return Some(wrong(message, unix_line_ends(subject.file)));
    }
    if subject.executable && !program.starts_with('/') {
        let message = format!("begins `#!{}`, which names no program by its whole path", text.trim());
        return Some(wrong(message, "write it so: #!/usr/bin/env python3, or #!/bin/sh"));
    }
    None
}

/// Line ends behind the first line, where they matter.
fn other_lines(subject: &Subject<'_>) -> Option<Finding> {
    let at = subject.bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = subject.bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let inside = subject.path.strip_prefix("/").unwrap_or(subject.path);
    let tripped = TRIPPED.iter().find(|(pattern, ..)| matches(pattern, inside));
    let library = subject.path.extension().is_some_and(|ending| ending == "sh");
    let (severity, why) = match tripped {
        Some((_, severity, why)) => (*severity, *why),
        None if library => (Severity::Error, SHELL),
        // One such line may be meant, in a text that the script holds.
        None if subject.bytes.starts_with(b"#!") => (Severity::Warning, SHELL),
        None => return None,
    };
    let message = format!("has Windows line ends (line {line}): {why}");
    Some(Finding { severity, ..wrong(message, unix_line_ends(subject.file)) })
}

/// A program for another machine.
fn machine(subject: &Subject<'_>, arch: Arch) -> Option<Finding> {
    let built = Elf::parse(subject.bytes).filter(|_| subject.executable)?.arch()?;
    (built != arch).then(|| {
        wrong(
            format!("is a program for {built}, and the image is for {arch}"),
            format!("build it for {arch}, or leave it out of this recipe's overlays"),
        )
    })
}

/// Judges the sources of packages: what dpkg runs and reads, and what they install.
pub(super) fn sources(loaded: &Loaded, findings: &mut Vec<Finding>) {
    for folder in &loaded.recipe.packages.sources {
        let Ok(children) = fs::read_dir(folder) else { continue };
        let mut children: Vec<_> = children.flatten().map(|child| child.path()).collect();
        children.sort();
        for source in children.iter().filter(|child| child.join("DEBIAN/control").is_file()) {
            source_folder(source, Path::new("/"), 0, loaded.recipe.target.arch, findings);
        }
    }
}

fn source_folder(folder: &Path, inside: &Path, depth: usize, arch: Arch, findings: &mut Vec<Finding>) {
    let Ok(entries) = fs::read_dir(folder) else {
        let message = format!("the folder {} of a package source cannot be read", folder.display());
        return findings.push(Finding::error(message));
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (file, path) = (entry.path(), inside.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEEPEST => {
                source_folder(&file, &path, depth + 1, arch, findings);
            }
            Ok(kind) if kind.is_file() => source_file(&file, &path, arch, findings),
            _ => {}
        }
    }
}

fn source_file(file: &Path, path: &Path, arch: Arch, findings: &mut Vec<Finding>) {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|opened| {
        let mode = opened.metadata()?.permissions().mode();
        opened.take(LOOKED_AT).read_to_end(&mut bytes).map(|_| mode)
    });
    let mode = match read {
        Ok(mode) => mode,
        Err(error) => {
            return findings.push(Finding::error(format!("{} cannot be read: {error}", file.display())));
        }
    };
    let ours = path.starts_with("/DEBIAN");
    if ours && !bytes.starts_with(b"#!") && bytes.windows(2).any(|pair| pair == b"\r\n") {
        let message =
            format!("{} has Windows line ends, and dpkg takes the CR for part of each value", file.display());
        return findings.push(Finding::error(message).hint(unix_line_ends(file)));
    }
    let subject = Subject { file, path, executable: ours || mode & 0o111 != 0, bytes: &bytes };
    judge(&subject, arch, findings);
}

#[cfg(test)]
mod tests {
    use super::{Subject, judge};
    use crate::finding::Severity::{Error, Warning};
    use crate::units::Arch;
    use std::path::Path;

    #[test]
    fn bytes_that_make_a_file_useless() {
        let elf = |machine: u8| {
            let mut bytes = vec![0; 64];
            bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            bytes[16] = 2;
            bytes[18] = machine;
            bytes
        };
        let cases: Vec<(&str, bool, Vec<u8>, Option<_>)> = vec![
            ("/usr/bin/x", true, b"#!/bin/sh\r\nset -e\r\n".to_vec(), Some((Error, "begins `#!/bin/sh\\r`"))),
            ("/usr/bin/x", false, b"#!/bin/sh\r\n".to_vec(), Some((Error, "begins `#!/bin/sh\\r`"))),
            ("/usr/bin/x", true, b"#!/bin/sh -e\r".to_vec(), Some((Error, "#!/bin/sh -e\\r"))),
            ("/usr/bin/x", true, b"#!/bin/sh\nset -e\r\n".to_vec(), Some((Warning, "(line 2)"))),
            ("/usr/bin/x", true, b"\xef\xbb\xbf#!/bin/sh\n".to_vec(), Some((Error, "byte order mark"))),
            ("/usr/bin/x", true, b"\xff\xfe#\0!\0/\0".to_vec(), Some((Error, "UTF-16"))),
            ("/usr/bin/x", true, b"#!python3\n".to_vec(), Some((Error, "by its whole path"))),
            ("/usr/bin/x", true, b"#!\n".to_vec(), Some((Error, "by its whole path"))),
            ("/usr/bin/x", true, b"#! /bin/sh\n".to_vec(), None),
            ("/usr/lib/site/lib.sh", false, b"a=1\r\n".to_vec(), Some((Error, "(line 1)"))),
            (
                "/etc/pam.d/sshd",
                false,
                b"# x\nauth required pam_unix.so\r\n".to_vec(),
                Some((Error, "(line 2)")),
            ),
            ("/etc/cron.d/site", false, b"* * * * * root x\r\n".to_vec(), Some((Error, "cron"))),
            ("/home/edge/.bashrc", false, b"a\r\n".to_vec(), Some((Error, "shell"))),
            ("/etc/default/site", false, b"A=1\r\n".to_vec(), Some((Warning, "every value"))),
            ("/etc/systemd/system/x.service", false, b"[Unit]\r\n".to_vec(), None),
            ("/etc/docker/daemon.json", false, b"{}\r\n".to_vec(), None),
            ("/opt/x.bin", false, b"\xef\xbb\xbf\r\n".to_vec(), None),
            ("/usr/bin/x", true, elf(183), Some((Error, "for aarch64, and the image is for x86_64"))),
            ("/usr/bin/x", true, elf(62), None),
            ("/usr/lib/firmware/x", false, elf(183), None),
            ("/usr/bin/x", true, Vec::new(), None),
        ];
        for (path, executable, bytes, expected) in cases {
            let mut found = Vec::new();
            let (file, path) = (Path::new("own/x"), Path::new(path));
            judge(&Subject { file, path, executable, bytes: &bytes }, Arch::X86_64, &mut found);
            let shown = format!("{}: {found:?}", path.display());
            assert_eq!(found.len(), usize::from(expected.is_some()), "{shown}");
            if let Some((severity, part)) = expected {
                assert!(found[0].severity == severity && found[0].message.contains(part), "{shown}");
                assert!(found[0].message.starts_with("own/x ") && found[0].hint.is_some(), "{shown}");
            }
        }
    }
}
