//! Nothing of the machine that builds may be in an image for another.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::elf::Elf;
use super::tools::multiarch;
use crate::error::Problem;
use crate::rootfs::mounts::RESERVED;
use crate::units::Arch;

/// Refuses a finished tree for `arch` in which something of this machine is left: the build's own folder, or programs
/// and libraries of this machine's architecture that no package brought.
///
/// # Errors
/// Names every such file; or the tree cannot be read.
pub fn refuse_leftovers(root: &Path, arch: Arch) -> Result<()> {
    if arch == Arch::host() {
        return Ok(());
    }
    let mut found = Vec::new();
    walk(root, Path::new(""), &mut found)?;
    if !found.is_empty() {
        let owned = owned(root)?;
        found.retain(|path| !owned.contains(path));
    }
    if root.join(RESERVED).symlink_metadata().is_ok() {
        found.push(PathBuf::from(RESERVED));
    }
    let libraries = Path::new("usr/lib").join(multiarch(Arch::host()));
    if root.join(&libraries).read_dir().is_ok_and(|mut entries| entries.next().is_none()) {
        found.push(libraries);
    }
    if found.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = found.iter().map(|path| format!("/{}", path.display())).collect();
    Err(Problem::work(format!(
        "the {arch} image holds files of the machine that builds ({}), which no package brought: {}",
        Arch::host(),
        names.join(", ")
    ))
    .into())
}

/// Programs and libraries of this machine's architecture, as paths in the tree.
fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(folder);
    for entry in fs::read_dir(&full).with_context(|| format!("listing {}", full.display()))? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, folder.join(entry.file_name()));
        if kind.is_dir() {
            walk(root, &path, found)?;
        } else if kind.is_file() && is_ours(&entry.path())? {
            found.push(path);
        }
    }
    Ok(())
}

fn is_ours(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(64).read_to_end(&mut head).with_context(|| format!("reading {}", path.display()))?;
    Ok(Elf::parse(&head).and_then(|elf| elf.arch()) == Some(Arch::host()))
}

/// Every path that dpkg's database lists; folders that merged-/usr turned into links are named both ways.
fn owned(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let folder = root.join("var/lib/dpkg/info");
    let mut owned = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "list") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            for line in text.lines() {
                let line = line.trim_start_matches('/');
                owned.insert(PathBuf::from(line));
                owned.insert(Path::new("usr").join(line));
            }
        }
    }
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::refuse_leftovers;
    use crate::foreign::elf::tests::program;
    use crate::units::Arch;
    use std::fs;

    #[test]
    fn leftovers_are_named_and_packages_files_are_not() {
        let root = tempfile::tempdir().expect("temp dir");
        let other = if Arch::host() == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        let own = if Arch::host() == Arch::X86_64 { 62 } else { 183 };
        for folder in ["usr/bin", "usr/lib/tool", "var/lib/dpkg/info"] {
            fs::create_dir_all(root.path().join(folder)).expect("folder");
        }
        fs::write(root.path().join("usr/lib/tool/blob"), program(own, b"", b"")).expect("file");
        fs::write(root.path().join("var/lib/dpkg/info/tool.list"), "/.\n/lib\n/lib/tool/blob\n")
            .expect("list");
        fs::write(root.path().join("usr/bin/sh"), program(245 - own, b"", b"")).expect("file");
        refuse_leftovers(root.path(), other).expect("a package's own");
        fs::write(root.path().join("usr/bin/left"), program(own, b"", b"")).expect("file");
        fs::create_dir(root.path().join(".edgepress-build")).expect("folder");
        let error = refuse_leftovers(root.path(), other).expect_err("leftovers");
        assert!(error.to_string().ends_with("brought: /usr/bin/left, /.edgepress-build"), "{error}");
        refuse_leftovers(root.path(), Arch::host()).expect("of this machine");
    }
}
