//! From what was seen to a report: the checks after the machine went off, and whether all is well.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use super::checks::{Check, SUPERBLOCK, digest, ext4_size, fat_has, find_any, partition_size, secret_lines};
use super::copy::Copy;
use super::image::{Image, Stamp};
use super::inside::Run;
use super::report::{ImageFacts, MachineFacts, Report, SimulatorFacts};
use super::{IDENTITY, PRIVATE_KEY};
use crate::sim::Service;
use crate::sim::log::{Entry, Mark};
use crate::sim::pki::DeviceCertificate;
use crate::units::ByteSize;

/// What stands in a report's log for a line with a piece of the key.
const REDACTED: &str = "[a line with a piece of the device's private key was removed here]";

/// A file system that ends this much before its partition's end has grown as far as it can: less than one group of
/// ext4 blocks, 128 MiB, may stay unused.
const UNUSED_MAX: u64 = ByteSize::mib(128).0;

/// Everything that a verdict needs.
pub struct Evidence<'a> {
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
    /// Where and how long is the console's log.
    pub console: &'a std::path::Path,
}

/// Looks at what is left, and judges.
///
/// # Errors
/// When a file cannot be read; what it holds never is an error.
pub fn report(evidence: &Evidence<'_>, machine: MachineFacts, timeout: f64) -> Result<Report> {
    let run = evidence.run;
    let image = evidence.image;
    let checks = vec![
        image_unaltered(evidence)?,
        image_as_built(evidence)?,
        one_registration(evidence),
        shut_down(run),
        secrets_wiped(evidence)?,
        root_grew(evidence)?,
        no_secret_told(evidence)?,
    ];
    let mut report = Report {
        provisioned: run.failure.is_none(),
        passed: false,
        reason: run.failure.clone(),
        seconds: run
            .seconds
            .iter()
            .map(|(milestone, at)| (*milestone, (at * 1000.0).round() / 1000.0))
            .collect(),
        timeout,
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
pub fn redact(text: &str, key_pem: &str) -> String {
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
    let found = digest(&evidence.image.path)?;
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

fn shut_down(run: &Run) -> Check {
    const NAME: &str = "shut-down";
    match run.shut_down {
        Some(true) => Check::new(NAME, true, "the guest shut down when asked"),
        // The machine proved what it had to: a slow service at its end is no failure of provisioning.
        Some(false) => Check::skipped(NAME, "the guest did not shut down in time and was switched off"),
        None => Check::skipped(NAME, "the machine was switched off after the failure"),
    }
}

fn secrets_wiped(evidence: &Evidence<'_>) -> Result<Check> {
    const NAME: &str = "secrets-wiped";
    if evidence.run.failure.is_some() {
        return Ok(Check::skipped(NAME, "first boot keeps the identity until it succeeds"));
    }
    let fat = evidence.image.partition("fat")?;
    let path = evidence.copy.read("fat.raw", fat.offset, fat.size)?;
    let secrets = secret_lines(&evidence.device.key_pem);
    let found = find_any(&path, &secrets)?;
    let file = format!("{IDENTITY}/{PRIVATE_KEY}");
    let listed = fat_has(&path, fat.size, &file);
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    Ok(match listed {
        Err(error) => Check::new(NAME, false, format!("{error:#}")),
        Ok(true) => Check::new(NAME, false, format!("{file} is still on the FAT partition")),
        Ok(false) if found > 0 => Check::new(
            NAME,
            false,
            format!("{file} is gone, but the key's bytes are still on the FAT partition"),
        ),
        Ok(false) => Check::new(NAME, true, "the key is nowhere on the FAT partition"),
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
        (false, Some(false)) => Ok(Check::skipped(NAME, format!("{detail}; the guest was switched off"))),
        _ => Ok(Check::new(NAME, full, detail)),
    }
}

fn no_secret_told(evidence: &Evidence<'_>) -> Result<Check> {
    let told = find_any(evidence.console, &secret_lines(&evidence.device.key_pem))? > 0;
    let detail = if told { "the console shows the private key" } else { "the console shows no key" };
    Ok(Check::new("no-secret-told", !told, detail))
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
fn kind(entry: &Entry) -> String {
    match (entry.service, entry.status) {
        (Service::Dns | Service::Ntp, _) | (_, None) => entry.service.to_string(),
        (service, Some(status)) => format!("{service} {status}"),
    }
}
