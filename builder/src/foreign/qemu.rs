//! Finds a qemu-user that runs in any tree: one that needs no libraries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::elf::Elf;
use crate::error::Problem;
use crate::host;
use crate::units::Arch;

/// Finds the static qemu-user for programs of `arch`.
///
/// # Errors
/// Names the package to install when there is none.
pub(crate) fn find(arch: Arch) -> Result<PathBuf> {
    // Debian 12 and Ubuntu 24.04 have the first; later on the second is static too.
    let names = [format!("qemu-{arch}-static"), format!("qemu-{arch}")];
    let mut found = names.iter().filter_map(|name| host::program(name).ok());
    let fit = found.find_map(|path| is_static(&path).map(|fits| fits.then_some(path)).transpose());
    fit.transpose()?.ok_or_else(|| {
        Problem::work(format!(
            "building for {arch} on {} needs qemu-user, and no static one is installed (`{}`)",
            Arch::host(),
            names[0]
        ))
        .hint("install it: sudo apt-get install qemu-user-static")
        .into()
    })
}

fn is_static(path: &Path) -> Result<bool> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Elf::parse(&bytes).is_some_and(|elf| elf.arch() == Some(Arch::host()) && elf.interpreter().is_none()))
}

#[cfg(test)]
mod tests {
    use super::is_static;
    use crate::foreign::elf::tests::program;

    #[test]
    fn only_static_programs_of_this_machine() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let check = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).expect("write");
            is_static(file.path()).expect("read")
        };
        let (own, other) = if cfg!(target_arch = "x86_64") { (62, 183) } else { (183, 62) };
        let mut fixed = program(own, b"", b"");
        fixed[64] = 1;
        assert!(check(&fixed));
        assert!(!check(&program(own, b"/lib64/ld.so\0", b"")));
        fixed[18] = other;
        assert!(!check(&fixed));
        assert!(!check(b"#!/bin/sh\n"));
    }
}
