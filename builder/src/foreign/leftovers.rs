//! Nothing of the machine that builds may be in an image for another.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::elf::Elf;
use super::tools::multiarch;
use crate::chroot::mounts::RESERVED;
use crate::error::Problem;
use crate::tree::{FileKind, Root};
use crate::units::Arch;

/// A list of files of dpkg's: far above the longest of Debian.
const MOST_LIST: u64 = 64 << 20;

/// Refuses a finished tree for `arch` in which something of this machine is left: the build's own folder, or programs
/// and libraries of this machine's architecture that no package brought.
///
/// # Errors
/// Names every such file; or the tree cannot be read.
pub(crate) fn refuse_leftovers(root: &Root, arch: Arch) -> Result<()> {
    if arch == Arch::host() {
        return Ok(());
    }
    let mut found = ours(root)?;
    if !found.is_empty() {
        let owned = owned(root)?;
        found.retain(|path| !owned.contains(path));
    }
    if root.lstat(RESERVED)?.is_some() {
        found.push(PathBuf::from(RESERVED));
    }
    let libraries = Path::new("usr/lib").join(multiarch(Arch::host()));
    if root.is_folder(&libraries) && root.list(&libraries)?.is_empty() {
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
fn ours(root: &Root) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    root.walk("", &mut |path, meta| {
        if meta.kind == FileKind::File && is_ours(root, path)? {
            found.push(path.to_owned());
        }
        Ok(())
    })?;
    Ok(found)
}

fn is_ours(root: &Root, path: &Path) -> Result<bool> {
    let Some(file) = root.open_file_nofollow(path)? else { return Ok(false) };
    let mut head = Vec::new();
    file.take(64).read_to_end(&mut head).with_context(|| format!("reading /{}", path.display()))?;
    Ok(Elf::parse(&head).and_then(|elf| elf.arch()) == Some(Arch::host()))
}

/// Every path that dpkg's database lists; folders that merged-/usr turned into links are named both ways.
fn owned(root: &Root) -> Result<BTreeSet<PathBuf>> {
    let folder = Path::new("var/lib/dpkg/info");
    let mut owned = BTreeSet::new();
    for entry in root.list(folder)? {
        let path = folder.join(entry.name);
        if path.extension().is_some_and(|ending| ending == "list") {
            let text = root.read_text(&path, MOST_LIST)?.unwrap_or_default();
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
    use crate::tree::Root;
    use crate::units::Arch;
    use std::fs;

    #[test]
    fn leftovers_are_named_and_packages_files_are_not() {
        let root = tempfile::tempdir().expect("temp dir");
        let tree = Root::open(root.path()).expect("open");
        let other = if Arch::host() == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        let own = if Arch::host() == Arch::X86_64 { 62 } else { 183 };
        for folder in ["usr/bin", "usr/lib/tool", "var/lib/dpkg/info"] {
            fs::create_dir_all(root.path().join(folder)).expect("folder");
        }
        fs::write(root.path().join("usr/lib/tool/blob"), program(own, b"", b"")).expect("file");
        fs::write(root.path().join("var/lib/dpkg/info/tool.list"), "/.\n/lib\n/lib/tool/blob\n")
            .expect("list");
        fs::write(root.path().join("usr/bin/sh"), program(245 - own, b"", b"")).expect("file");
        refuse_leftovers(&tree, other).expect("a package's own");
        fs::write(root.path().join("usr/bin/left"), program(own, b"", b"")).expect("file");
        fs::create_dir(root.path().join(".edgepress-build")).expect("folder");
        let error = refuse_leftovers(&tree, other).expect_err("leftovers");
        assert!(error.to_string().ends_with("brought: /usr/bin/left, /.edgepress-build"), "{error}");
        refuse_leftovers(&tree, Arch::host()).expect("of this machine");
    }
}
