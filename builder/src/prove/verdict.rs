//! From what was seen to a report: the checks after the machine went off, and whether all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::azure::{self, Vm};
use super::checks::{fat_left, find_any, partition_size, secret_lines};
use super::copy::Copy;
use super::device::{self, CONSUMED, IDENTITY};
use super::fault_injection::Injection;
use super::inside::Run;
use super::machine::Machine;
use super::milestone::Milestone;
use super::report::{
    Conditions, ImageFacts, MachineFacts, PowerCut, Report, SimulatorFacts, rounded, rounded_all,
};
use super::root::{self, Root};
use crate::disk::sparse;
use crate::disk::superblock::{SUPERBLOCK, ext4_size};
use crate::image::{Image, Stamp};
use crate::recipe::types::Attestation;
use crate::sim::Service;
use crate::sim::log::{LogEntry, Mark};
use crate::sim::pki::DeviceCertificate;
use crate::units::ByteSize;
use crate::verdict::Check;

/// What stands in a report's log for a line with a piece of the key.
const REDACTED: &str = "[a line with a piece of the device's private key was removed here]";

/// A file system that ends this much before its partition's end has grown as far as it can: less than one group of
/// ext4 blocks, 128 MiB, may stay unused.
const UNUSED_MAX: u64 = ByteSize::mib(128).0;

/// Everything that a verdict needs.
pub(super) struct Evidence<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its state before the test.
    pub before: Stamp,
    /// The copy that the machine wrote to.
    pub copy: &'a Copy,
    /// The identity that it had.
    pub device: &'a DeviceCertificate,
    /// What was seen.
    pub run: &'a Run,
    /// The VM that it was, in a simulated Azure.
    pub vm: Option<&'a Vm>,
    /// What was done to the device.
    pub injection: &'a Injection,
    /// The console's log, and that of the boot before a power cut.
    pub consoles: [&'a Path; 2],
}

/// Looks at what is left, and judges.
///
/// # Errors
/// When a file cannot be read; what it holds never is an error.
pub(super) fn report(
    evidence: &Evidence<'_>,
    machine: MachineFacts,
    conditions: Conditions,
    timeout: f64,
) -> Result<Report> {
    let run = evidence.run;
    let image = evidence.image;
    let mut checks = vec![
        image_unaltered(evidence)?,
        image_as_built(evidence)?,
        one_registration(evidence),
        shut_down(run, machine.machine),
        secrets_wiped(evidence)?,
        root_grew(evidence)?,
        no_secret_told(evidence)?,
    ];
    checks.extend(root_checks(evidence)?);
    if machine.secure_boot {
        checks.push(secure_boot(evidence)?);
    }
    let goal = device::goal(&image.manifest.provisioning);
    if image.manifest.provisioning.certificate.attestation() == Attestation::Tpm {
        checks.push(tpm(evidence)?);
    }
    let mut report = Report {
        provisioned: run.failure.is_none() && goal == Milestone::AgentRunning,
        goal,
        passed: false,
        reason: run.failure.clone(),
        seconds: rounded_all(&run.seconds),
        timeout,
        ended: Some(rounded(run.ended)).filter(|ended| *ended > 0.0),
        processor: run.processor,
        power_cut: PowerCut::of(evidence.injection, run.cut.as_ref()),
        conditions,
        checks,
        image: ImageFacts {
            file: image.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            name: image.manifest.name.clone(),
            sha256: image.digest(),
            built_by: image.manifest.edgepress.clone(),
            kernels: image.manifest.kernels.clone(),
        },
        machine,
        simulator: SimulatorFacts {
            registration_id: evidence.device.registration_id.clone(),
            requests: requests(run),
        },
        console_tail: run.tail.iter().map(|line| redact(line, &evidence.device.key_pem)).collect(),
        edgepress: env!("CARGO_PKG_VERSION").to_owned(),
    };
    if report.reason.is_none() {
        let failed: Vec<_> =
            report.failed_checks().map(|check| format!("{}: {}", check.name, check.detail)).collect();
        report.reason = (!failed.is_empty()).then(|| failed.join("; "));
    }
    report.passed = report.reason.is_none();
    Ok(report)
}

/// Removes every line that holds a piece of the key.
pub(super) fn redact(text: &str, key_pem: &str) -> String {
    let secrets = secret_lines(key_pem);
    let clean = |line: &str| !secrets.iter().any(|secret| line.contains(secret));
    if clean(text) {
        return text.to_owned();
    }
    text.split('\n').map(|line| if clean(line) { line } else { REDACTED }).collect::<Vec<_>>().join("\n")
}

fn image_unaltered(evidence: &Evidence<'_>) -> Result<Check> {
    let same = evidence.image.stamp()? == evidence.before;
    let detail =
        if same { "size, times and inode are as before" } else { "the image changed during the test" };
    Ok(Check::new("image-unaltered", same, detail))
}

fn image_as_built(evidence: &Evidence<'_>) -> Result<Check> {
    const NAME: &str = "image-as-built";
    let Some(expected) = evidence.image.digest() else {
        return Ok(Check::skipped(NAME, "the manifest does not list this file"));
    };
    let found = sparse::digest(&evidence.image.path)?;
    let detail = if found == expected {
        format!("SHA-256 {} as in the manifest", found.short())
    } else {
        format!("SHA-256 is {}, in the manifest {}", found.short(), expected.short())
    };
    Ok(Check::new(NAME, found == expected, detail))
}

fn one_registration(evidence: &Evidence<'_>) -> Check {
    const NAME: &str = "one-registration";
    let id = &evidence.device.registration_id;
    let registered = evidence.run.entries.iter().filter(|entry| entry.mark == Some(Mark::DpsRegistered));
    let clients: BTreeSet<_> = registered.map(|entry| entry.client.as_deref().unwrap_or("nobody")).collect();
    if clients.is_empty() {
        return Check::skipped(NAME, "nothing registered");
    }
    let told = evidence.run.registration_id.as_deref();
    let list = clients.iter().copied().collect::<Vec<_>>().join(", ");
    let right = list == *id && told.is_none_or(|told| told == id);
    let detail = match told {
        Some(told) if told != id => {
            format!("{list} registered, and first boot says {told}; the identity is {id}")
        }
        _ if right => format!("{id}, with its certificate"),
        _ => format!("{list} registered; the identity is {id}"),
    };
    Check::new(NAME, right, detail)
}

/// What is on the root, where faults were injected and in a simulated Azure.
fn root_checks(evidence: &Evidence<'_>) -> Result<Vec<Check>> {
    let injected = *evidence.injection != Injection::default();
    let mut names = if injected { root::NAMES.to_vec() } else { Vec::new() };
    names.extend(evidence.vm.iter().flat_map(|_| azure::checks::NAMES));
    if names.is_empty() || evidence.run.failure.is_some() {
        let why = "the machine did not get that far";
        return Ok(names.into_iter().map(|name| Check::skipped(name, why)).collect());
    }
    let offset = evidence.image.partition("root")?.offset;
    let root = match Root::take(evidence.copy, offset) {
        Ok(root) => root,
        Err(error) => return Ok(vec![Check::new(names[0], false, format!("{error:#}"))]),
    };
    let id = &evidence.device.registration_id;
    let mut checks = Vec::new();
    if injected {
        let installed = device::installed_by_first_boot(&evidence.image.manifest.provisioning);
        checks.extend(root.checks(id, installed)?);
    } else {
        root.replay()?;
    }
    if let Some(vm) = evidence.vm {
        checks.extend(azure::checks::checks(vm, id, &evidence.run.entries, &root)?);
    }
    std::fs::remove_file(root.path()).with_context(|| format!("removing {}", root.path().display()))?;
    Ok(checks)
}

fn shut_down(run: &Run, machine: Machine) -> Check {
    const NAME: &str = "shut-down";
    match run.shut_down {
        Some(true) => Check::new(NAME, true, "the guest shut down when asked"),
        Some(false) if !machine.has_power_button() => Check::skipped(
            NAME,
            "this machine has no power button: it had time to write, then was switched off",
        ),
        // The machine proved what it had to: a slow service at its end is no failure of provisioning.
        Some(false) => Check::skipped(NAME, "the guest did not shut down in time and was switched off"),
        None if run.failure.is_none() => {
            Check::skipped(NAME, "the power was cut a second time, when the device was provisioned")
        }
        None => Check::skipped(NAME, "the machine was switched off after the failure"),
    }
}

/// The lines of a key that tell what only its owner knows. The others are the public key, which stands in the
/// certificate as well, and now and then in the same characters.
fn private_lines(device: &DeviceCertificate) -> Vec<&str> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(device.chain_pem.as_bytes()).filter_map(Result::ok).collect();
    let public = |line: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(line).unwrap_or_default();
        let within =
            |certificate: &CertificateDer<'_>| certificate.windows(bytes.len()).any(|part| part == bytes);
        !bytes.is_empty() && certificates.iter().any(within)
    };
    secret_lines(&device.key_pem).into_iter().filter(|line| !public(line)).collect()
}

fn secrets_wiped(evidence: &Evidence<'_>) -> Result<Check> {
    const NAME: &str = "secrets-wiped";
    if evidence.run.failure.is_some() {
        return Ok(Check::skipped(NAME, "first boot keeps the identity until it succeeds"));
    }
    let fat = evidence.image.partition("fat")?;
    let path = evidence.copy.read("fat.raw", fat.offset, fat.size)?;
    let found = find_any(&path, &private_lines(evidence.device))?;
    let left = fat_left(&path, fat.size, IDENTITY, &CONSUMED);
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    Ok(match left {
        Err(error) => Check::new(NAME, false, format!("{error:#}")),
        Ok(left) if !left.is_empty() => {
            let verb = if left.len() > 1 { "are" } else { "is" };
            Check::new(NAME, false, format!("{} {verb} still on the FAT partition", left.join(", ")))
        }
        Ok(_) if found > 0 => {
            Check::new(NAME, false, "the key's file is gone, but its bytes are still on the FAT partition")
        }
        Ok(_) => Check::new(NAME, true, "the key is nowhere on the FAT partition"),
    })
}

fn root_grew(evidence: &Evidence<'_>) -> Result<Check> {
    const NAME: &str = "root-grew";
    let Ok(root) = evidence.image.partition("root") else {
        return Ok(Check::skipped(NAME, "the manifest names no root partition"));
    };
    if evidence.run.failure.is_some() {
        return Ok(Check::skipped(NAME, "the machine did not get that far"));
    }
    let size = match partition_size(evidence.copy, root.offset) {
        Ok(Some(size)) => size,
        Ok(None) => return Ok(Check::new(NAME, false, "the root partition is gone")),
        Err(error) => return Ok(Check::new(NAME, false, format!("{error:#}"))),
    };
    if size == root.size {
        return Ok(Check::skipped(
            NAME,
            "the root partition has its old size: does the recipe say disk.grow = false?",
        ));
    }
    let (offset, length) = SUPERBLOCK;
    let block = evidence.copy.read("superblock.raw", root.offset + offset, length)?;
    let system = std::fs::read(&block).with_context(|| format!("reading {}", block.display()))?;
    let system = match ext4_size(&system) {
        Ok(system) => system,
        Err(error) => return Ok(Check::new(NAME, false, format!("{error:#}"))),
    };
    let full = size > root.size && system <= size && size - system < UNUSED_MAX;
    let mib = |bytes: u64| bytes >> 20;
    let detail =
        format!("partition {} to {} MiB, file system {} MiB", mib(root.size), mib(size), mib(system));
    // A guest that was switched off may not have written the superblock back.
    match (full, evidence.run.shut_down) {
        (false, Some(false) | None) => {
            Ok(Check::skipped(NAME, format!("{detail}; the guest was switched off")))
        }
        _ => Ok(Check::new(NAME, full, detail)),
    }
}

fn no_secret_told(evidence: &Evidence<'_>) -> Result<Check> {
    let secrets = secret_lines(&evidence.device.key_pem);
    let mut told = false;
    for console in evidence.consoles {
        told |= find_any(console, &secrets)? > 0;
    }
    let detail = if told { "the console shows the private key" } else { "the console shows no key" };
    Ok(Check::new("no-secret-told", !told, detail))
}

/// What first boot says when the TPM's device belongs to the service that opens it.
const TPM: &[&str] = &["edgepress: first boot: the TPM is there: /dev/tpmrm0 belongs to aziottpm, mode 660"];

fn tpm(evidence: &Evidence<'_>) -> Result<Check> {
    let found = find_any(evidence.consoles[0], TPM)? > 0;
    let detail =
        if found { "/dev/tpmrm0 belongs to aziottpm, mode 660" } else { "first boot found no usable TPM" };
    Ok(Check::new("tpm", found, detail))
}

/// What the kernel and its boot stub say once the firmware has checked their signatures.
const SECURE: &[&str] = &["UEFI Secure Boot is enabled", "secureboot: Secure boot enabled"];

fn secure_boot(evidence: &Evidence<'_>) -> Result<Check> {
    let found = find_any(evidence.consoles[0], SECURE)? > 0;
    let detail =
        if found { "the kernel says that it is on" } else { "the kernel does not say that it is on" };
    Ok(Check::new("secure-boot", found, detail))
}

/// Service and kind of request → how often.
fn requests(run: &Run) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for entry in &run.entries {
        *counts.entry(kind(entry)).or_insert(0) += 1;
    }
    counts
}

/// The service and, for those that speak HTTP, the answer.
fn kind(entry: &LogEntry) -> String {
    match (entry.service, entry.status) {
        (Service::Dns | Service::Ntp, _) | (_, None) => entry.service.to_string(),
        (service, Some(status)) => format!("{service} {status}"),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
