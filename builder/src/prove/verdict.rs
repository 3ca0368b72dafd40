//! From what was seen to a report: the checks after the machine went off, and whether all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::checks::{Check, SUPERBLOCK, digest, ext4_size, fat_left, find_any, partition_size, secret_lines};
use super::copy::Copy;
use super::harm::Harm;
use super::image::{Image, Stamp};
use super::inside::Run;
use super::machine::Machine;
use super::report::{Conditions, ImageFacts, MachineFacts, PowerCut, Report, SimulatorFacts, rounded_all};
use super::root::{self, Root};
use super::{CERTIFICATE, IDENTITY, PRIVATE_KEY};
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
    /// What was done to the device.
    pub harm: &'a Harm,
    /// The console's log, and that of the boot before a power cut.
    pub consoles: [&'a Path; 2],
}

/// Looks at what is left, and judges.
///
/// # Errors
/// When a file cannot be read; what it holds never is an error.
pub fn report(
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
    let mut report = Report {
        provisioned: run.failure.is_none(),
        passed: false,
        reason: run.failure.clone(),
        seconds: rounded_all(&run.seconds),
        timeout,
        power_cut: PowerCut::of(evidence.harm, run.cut.as_ref()),
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

/// What first boot left on the root, where harm was done to it.
fn root_checks(evidence: &Evidence<'_>) -> Result<Vec<Check>> {
    if *evidence.harm == Harm::default() {
        return Ok(Vec::new());
    }
    if evidence.run.failure.is_some() {
        let why = "the machine did not get that far";
        return Ok(root::NAMES.map(|name| Check::skipped(name, why)).to_vec());
    }
    let offset = evidence.image.partition("root")?.offset;
    let root = match Root::take(evidence.copy, offset) {
        Ok(root) => root,
        Err(error) => return Ok(vec![Check::new(root::NAMES[0], false, format!("{error:#}"))]),
    };
    let checks = root.checks(&evidence.device.registration_id)?;
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

fn secrets_wiped(evidence: &Evidence<'_>) -> Result<Check> {
    const NAME: &str = "secrets-wiped";
    if evidence.run.failure.is_some() {
        return Ok(Check::skipped(NAME, "first boot keeps the identity until it succeeds"));
    }
    let fat = evidence.image.partition("fat")?;
    let path = evidence.copy.read("fat.raw", fat.offset, fat.size)?;
    let secrets = secret_lines(&evidence.device.key_pem);
    let found = find_any(&path, &secrets)?;
    let left = fat_left(&path, fat.size, IDENTITY, &[PRIVATE_KEY, CERTIFICATE]);
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    Ok(match left {
        Err(error) => Check::new(NAME, false, format!("{error:#}")),
        Ok(left) if !left.is_empty() => {
            let verb = if left.len() > 1 { "are" } else { "is" };
            Check::new(NAME, false, format!("{} {verb} still on the FAT partition", left.join(", ")))
        }
        Ok(_) if found > 0 => Check::new(
            NAME,
            false,
            format!("{IDENTITY}/{PRIVATE_KEY} is gone, but the key's bytes are still on the FAT partition"),
        ),
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
fn kind(entry: &Entry) -> String {
    match (entry.service, entry.status) {
        (Service::Dns | Service::Ntp, _) | (_, None) => entry.service.to_string(),
        (service, Some(status)) => format!("{service} {status}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::path::PathBuf;

    use super::{Evidence, REDACTED, redact, report};
    use crate::disk::fat::{self, LEAST};
    use crate::disk::gpt::{self, ALIGN, ESP, Partition, Table};
    use crate::disk::ids::Ids;
    use crate::disk::patch;
    use crate::prove::checks::{Outcome, digest};
    use crate::prove::copy::Copy;
    use crate::prove::harm::Harm;
    use crate::prove::image::{Image, tests::manifest_text};
    use crate::prove::inside::Run;
    use crate::prove::report::{Conditions, MachineFacts, Report, tests::good};
    use crate::sim::log::Entry;
    use crate::sim::pki::{DeviceCertificate, DeviceOptions, Pki};
    use crate::units::{Arch, Digest};

    const ROOT: u64 = ALIGN + LEAST;

    /// An image with a FAT and a root partition of 1 MiB, its copy, and a run in which all went well.
    struct Scene {
        _folder: tempfile::TempDir,
        image: Image,
        copy: Copy,
        device: DeviceCertificate,
        run: Run,
        console: PathBuf,
        secure_boot: bool,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("temp dir");
            let path = folder.path().join("demo.img");
            let size = ROOT + 2 * ALIGN;
            let file = File::create_new(&path).expect("image");
            file.set_len(size).expect("size");
            file.write_all_at(&fat_bytes(), ALIGN).expect("write");
            gpt::write(&file, size, &table(ALIGN)).expect("table");
            let mut manifest: serde_json::Value = serde_json::from_str(&manifest_text()).expect("JSON");
            manifest["partitions"][0]["size"] = LEAST.into();
            manifest["partitions"][1]["offset"] = ROOT.into();
            manifest["outputs"][0]["sha256"] = digest(&path).expect("digest").to_string().into();
            std::fs::write(folder.path().join("manifest.json"), manifest.to_string()).expect("manifest");
            let image = Image::open(&path).expect("image");
            let copy = Copy::create(folder.path(), &path, size, false).expect("copy");
            let pki = Pki::open_or_create(&folder.path().join("pki")).expect("pki");
            let device = pki.issue_device("dev-1", &DeviceOptions::default()).expect("device");
            let run = Run {
                seconds: good().seconds,
                failure: None,
                tail: Vec::new(),
                registration_id: Some("dev-1".into()),
                shut_down: Some(true),
                cut: None,
                entries: vec![registration("dev-1")],
            };
            let console = folder.path().join("console.log");
            std::fs::write(&console, "[    1.000] nothing\n").expect("console");
            Self { _folder: folder, image, copy, device, run, console, secure_boot: false }
        }

        fn judge(&self) -> Report {
            self.judge_after(|| ())
        }

        fn judge_after(&self, test: impl FnOnce()) -> Report {
            let before = self.image.stamp().expect("stamp");
            test();
            let evidence = Evidence {
                image: &self.image,
                before,
                copy: &self.copy,
                device: &self.device,
                run: &self.run,
                harm: &Harm::default(),
                consoles: [&self.console, &self.console],
            };
            let machine = MachineFacts { secure_boot: self.secure_boot, ..good().machine };
            report(&evidence, machine, Conditions::default(), 180.0).expect("report")
        }

        /// What a guest writes that grew its root to the end of the disk.
        fn grow(&self) {
            let length = self.copy.length();
            let disk = tempfile::tempfile().expect("temp file");
            disk.set_len(length).expect("size");
            let size = (length - ROOT) / ALIGN * ALIGN - ALIGN;
            gpt::write(&disk, length, &table(size)).expect("table");
            let mut head = vec![0; 34 * 512];
            disk.read_exact_at(&mut head, 0).expect("read");
            let mut superblock = [0; 1024];
            superblock[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
            superblock[0x18] = 2;
            let blocks = u32::try_from(size / 4096).expect("small");
            superblock[0x4..0x8].copy_from_slice(&blocks.to_le_bytes());
            self.copy.write([(0, &head[..]), (ROOT + 1024, &superblock[..])]).expect("write");
        }
    }

    fn fat_bytes() -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("temp file");
        file.set_len(LEAST).expect("size");
        let ids = Ids::from_seed(&Digest::of("scene"));
        fat::format(&mut file, LEAST, ids.fat, "ESP", 0, |_| Ok(())).expect("format");
        let mut bytes = vec![0; usize::try_from(LEAST).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    fn table(root: u64) -> Table {
        let ids = Ids::from_seed(&Digest::of("scene"));
        let part = |kind, guid, offset, size| Partition { kind, guid, offset, size, name: String::new() };
        let fat = part(ESP, ids.fat_partition, ALIGN, LEAST);
        let root = part(gpt::root_type(Arch::X86_64), ids.root_partition, ROOT, root);
        Table { disk: ids.disk, partitions: vec![fat, root] }
    }

    fn registration(client: &str) -> Entry {
        serde_json::from_value(serde_json::json!({
            "seconds": 1.0, "time": "", "service": "dps", "peer": "10.99.0.1:5", "what": "PUT /register",
            "client": client, "status": 202, "mark": "dps-registered",
        }))
        .expect("entry")
    }

    fn outcome(report: &Report, name: &str) -> Outcome {
        report.checks.iter().find(|check| check.name == name).expect(name).outcome
    }

    #[test]
    fn all_is_well() {
        let scene = Scene::new();
        scene.grow();
        let report = scene.judge();
        assert!(report.provisioned && report.passed, "{report}");
        assert!(report.checks.iter().all(|check| check.outcome == Outcome::Passed), "{report}");
        assert_eq!(report.simulator.requests["dps 202"], 1);
    }

    #[test]
    fn a_root_that_stays_small_is_told() {
        assert_eq!(outcome(&Scene::new().judge(), "root-grew"), Outcome::Skipped);
        let scene = Scene::new();
        scene.grow();
        scene.copy.write([(ROOT + 1024 + 4, &256_u32.to_le_bytes()[..])]).expect("write");
        let report = scene.judge();
        assert_eq!(outcome(&report, "root-grew"), Outcome::Failed);
        assert!(report.provisioned && !report.passed);
    }

    #[test]
    fn a_key_that_is_left_fails() {
        let scene = Scene::new();
        let key = scene.device.key_pem.as_bytes();
        let listed =
            patch::make(&scene.image.path, 0, |volume| volume.write("edgepress/private-key.pem", key));
        let runs = listed.expect("patch").runs;
        scene.copy.write(runs.iter().map(|(at, bytes)| (*at, bytes.as_slice()))).expect("write");
        let report = scene.judge();
        assert!(report.reason.expect("a reason").contains("private-key.pem is still on the FAT partition"));

        let scene = Scene::new();
        let key = scene.device.key_pem.as_bytes();
        scene.copy.write([(ROOT - ALIGN, key)]).expect("write");
        let report = scene.judge();
        assert!(report.reason.expect("a reason").contains("the key's bytes are still on the FAT partition"));
    }

    #[test]
    fn an_image_that_is_written_to_fails() {
        let scene = Scene::new();
        let report = scene.judge_after(|| {
            let file = File::options().write(true).open(&scene.image.path).expect("open");
            file.write_all_at(b"x", ROOT).expect("write");
        });
        assert_eq!(outcome(&report, "image-unaltered"), Outcome::Failed);
        assert_eq!(outcome(&report, "image-as-built"), Outcome::Failed);
    }

    #[test]
    fn another_device_fails() {
        let mut scene = Scene::new();
        scene.run.entries.push(registration("dev-2"));
        assert_eq!(outcome(&scene.judge(), "one-registration"), Outcome::Failed);
        scene.run.entries = vec![registration("dev-1")];
        scene.run.registration_id = Some("dev-2".into());
        assert_eq!(outcome(&scene.judge(), "one-registration"), Outcome::Failed);
    }

    #[test]
    fn a_failed_boot_is_not_looked_into() {
        let mut scene = Scene::new();
        scene.run.failure = Some("the kernel panicked".into());
        scene.run.shut_down = None;
        let report = scene.judge();
        assert_eq!(report.reason.as_deref(), Some("the kernel panicked"));
        assert!(!report.provisioned && !report.passed);
        assert_eq!(outcome(&report, "secrets-wiped"), Outcome::Skipped);
    }

    #[test]
    fn secure_boot_must_show() {
        let mut scene = Scene::new();
        scene.secure_boot = true;
        assert_eq!(outcome(&scene.judge(), "secure-boot"), Outcome::Failed);
        std::fs::write(&scene.console, "[    9.1] EFI stub: UEFI Secure Boot is enabled.\n").expect("write");
        assert_eq!(outcome(&scene.judge(), "secure-boot"), Outcome::Passed);
    }

    #[test]
    fn keys_are_redacted() {
        let scene = Scene::new();
        let key = &scene.device.key_pem;
        let text = format!("before\n{key}after\n");
        let clean = redact(&text, key);
        assert!(clean.starts_with("before\n") && clean.ends_with("after\n") && clean.contains(REDACTED));
        assert!(
            key.lines()
                .filter(|line| line.len() >= 32 && !line.starts_with('-'))
                .all(|line| !clean.contains(line))
        );
        assert_eq!(redact("before\nafter", key), "before\nafter");
    }
}
