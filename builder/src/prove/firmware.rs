//! UEFI firmware for QEMU, found through the descriptors that distributions install.
//!
//! Format: QEMU's `docs/interop/firmware.json`; the lookup order of its users is file name order, so that
//! `40-…` goes before `60-…`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::units::Arch;

/// Where the descriptors are, first come first served; this variable names another folder, and then only that.
pub(crate) const FOLDER_VARIABLE: &str = "EDGEPRESS_FIRMWARE";

const FOLDERS: &[&str] =
    &["/etc/qemu/firmware", "/usr/local/share/qemu/firmware", "/usr/share/qemu/firmware"];

/// Code and the template of its variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Firmware {
    /// Flash 0, read-only.
    pub code: Flash,
    /// Flash 1; each machine gets a copy.
    pub vars: Flash,
    /// Keys are enrolled and secure boot is on, which needs system management mode.
    pub secure: bool,
}

/// One flash file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flash {
    /// The file.
    #[serde(rename = "filename")]
    pub file: PathBuf,
    /// `raw` or `qcow2`.
    pub format: String,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "interface-types")]
    interfaces: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<Flash>,
    nvram_template: Option<Flash>,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// Finds firmware for `machine` (QEMU's short name, for example `q35`), with Microsoft's keys enrolled if `secure`.
///
/// # Errors
/// Names the package when there is none.
pub(crate) fn find(arch: Arch, machine: &str, secure: bool) -> Result<Firmware> {
    let folders = match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => vec![PathBuf::from(folder)],
        None => FOLDERS.iter().map(PathBuf::from).collect(),
    };
    find_in(&folders, arch, machine, secure)
}

fn find_in(folders: &[PathBuf], arch: Arch, machine: &str, secure: bool) -> Result<Firmware> {
    for folder in folders {
        for path in descriptors(folder)? {
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            // Other architectures' descriptors have mappings that this type does not know: not ours.
            let Ok(descriptor) = serde_json::from_slice::<Descriptor>(&text) else { continue };
            if let Some(firmware) = suits(descriptor, arch, machine, secure) {
                return Ok(firmware);
            }
        }
    }
    let (kind, package) = match (arch, secure) {
        (Arch::X86_64, false) => ("UEFI firmware", "ovmf"),
        (Arch::X86_64, true) => ("UEFI firmware with secure boot", "ovmf"),
        (Arch::Aarch64, _) => ("UEFI firmware", "qemu-efi-aarch64"),
    };
    let looked: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(Problem::work(format!("no {kind} for QEMU's {arch} machines in {}", looked.join(", ")))
        .hint(format!("install it: sudo apt-get install {package}"))
        .into())
}

fn descriptors(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn suits(descriptor: Descriptor, arch: Arch, machine: &str, secure: bool) -> Option<Firmware> {
    let has = |feature: &str| descriptor.features.iter().any(|word| word == feature);
    let targeted = descriptor.targets.iter().any(|target| {
        target.architecture == arch.to_string() && target.machines.iter().any(|glob| names(glob, machine))
    });
    let enrolled = has("secure-boot") && has("enrolled-keys");
    let wanted = if secure { enrolled } else { !has("secure-boot") && !has("requires-smm") };
    let uefi = descriptor.interfaces.iter().any(|interface| interface == "uefi");
    if !(uefi && targeted && wanted && descriptor.mapping.device == "flash") {
        return None;
    }
    let (code, vars) = (descriptor.mapping.executable?, descriptor.mapping.nvram_template?);
    (code.file.is_file() && vars.file.is_file()).then_some(Firmware { code, vars, secure })
}

/// Does a glob such as `pc-q35-*` or `virt-*` mean the machine `q35`, `virt`?
fn names(glob: &str, machine: &str) -> bool {
    let stem = glob.trim_end_matches('*').trim_end_matches('-');
    stem == machine || stem.strip_prefix("pc-") == Some(machine)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::find_in;
    use crate::error::problem;
    use crate::units::Arch;

    fn descriptor(folder: &Path, name: &str, machines: &[&str], features: &[&str]) {
        let file = |ending: &str| {
            let path = folder.join(format!("{name}.{ending}"));
            std::fs::write(&path, "x").expect("write");
            serde_json::json!({ "filename": path, "format": "raw" })
        };
        let text = serde_json::json!({
            "interface-types": ["uefi"], "features": features, "tags": [],
            "mapping": { "device": "flash", "executable": file("code"), "nvram-template": file("vars") },
            "targets": [{ "architecture": "x86_64", "machines": machines }],
        });
        std::fs::write(folder.join(format!("{name}.json")), text.to_string()).expect("write");
    }

    #[test]
    fn the_first_that_suits() {
        let folder = tempfile::tempdir().expect("temp dir");
        let at = folder.path();
        std::fs::write(at.join("10-broken.json"), "{").expect("write");
        descriptor(at, "20-i440", &["pc-i440fx-*"], &[]);
        descriptor(at, "30-ms", &["pc-q35-*"], &["secure-boot", "enrolled-keys", "requires-smm"]);
        descriptor(at, "40-empty", &["pc-q35-*"], &["secure-boot", "requires-smm"]);
        descriptor(at, "50-plain", &["pc-i440fx-*", "pc-q35-*"], &["acpi-s3"]);
        let folders = [PathBuf::from("/nowhere"), at.to_path_buf()];
        let plain = find_in(&folders, Arch::X86_64, "q35", false).expect("plain");
        assert_eq!(plain.code.file, at.join("50-plain.code"));
        let secure = find_in(&folders, Arch::X86_64, "q35", true).expect("secure");
        assert_eq!((secure.vars.file, secure.secure), (at.join("30-ms.vars"), true));
        let error = find_in(&folders, Arch::Aarch64, "virt", false).expect_err("none");
        let hint = problem(&error).and_then(|problem| problem.hint.clone()).expect("a hint");
        assert_eq!(hint, "install it: sudo apt-get install qemu-efi-aarch64");
    }

    #[test]
    fn a_descriptor_whose_files_are_gone_does_not_count() {
        let folder = tempfile::tempdir().expect("temp dir");
        descriptor(folder.path(), "50-plain", &["pc-q35-*"], &[]);
        std::fs::remove_file(folder.path().join("50-plain.vars")).expect("remove");
        let error = find_in(&[folder.path().to_path_buf()], Arch::X86_64, "q35", false).expect_err("none");
        assert!(error.to_string().contains("no UEFI firmware"), "{error}");
    }
}
