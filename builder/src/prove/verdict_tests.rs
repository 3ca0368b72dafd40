use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::{Evidence, REDACTED, redact, report};
use crate::disk::fat::{self, LEAST};
use crate::disk::gpt::{self, ALIGN, ESP, Partition, Table};
use crate::disk::ids::Ids;
use crate::disk::patch;
use crate::disk::sparse::digest;
use crate::host;
use crate::image::{Image, tests::manifest_text};
use crate::prove::copy::Copy;
use crate::prove::fault_injection::Injection;
use crate::prove::inside::Run;
use crate::prove::report::{Conditions, MachineFacts, Report, tests::good};
use crate::sim::log::LogEntry;
use crate::sim::pki::{DeviceCertificate, DeviceOptions, Pki};
use crate::units::{Arch, Digest};
use crate::verdict::Outcome;

const ROOT: u64 = ALIGN + LEAST;

/// An image with a FAT and a root partition of 1 MiB, its copy, and a run in which all went well.
struct Scene {
    folder: tempfile::TempDir,
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
        let copy = Copy::create(folder.path(), &path, size, false, []).expect("copy");
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
            ended: 65.5,
            processor: None,
        };
        let console = folder.path().join("console.log");
        std::fs::write(&console, "[    1.000] nothing\n").expect("console");
        Self { folder, image, copy, device, run, console, secure_boot: false }
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
            injection: &Injection::default(),
            vm: None,
            consoles: [&self.console, &self.console],
        };
        let machine = MachineFacts { secure_boot: self.secure_boot, ..good().machine };
        report(&evidence, machine, Conditions::default(), 180.0).expect("report")
    }

    /// What QEMU does for a guest that writes.
    fn write<'a>(&self, runs: impl IntoIterator<Item = (u64, &'a [u8])>) {
        let bytes = self.folder.path().join("bytes");
        for (offset, run) in runs {
            std::fs::write(&bytes, run).expect("write");
            let write = format!("write -q -s bytes {offset} {}", run.len());
            let mut command = host::command("qemu-io").expect("qemu-utils");
            command.current_dir(self.folder.path()).args(["-f", "qcow2", "-c", &write]).arg(self.copy.disk());
            let said = host::run(&mut command).expect("qemu-io");
            assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
        }
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
        self.write([(0, &head[..]), (ROOT + 1024, &superblock[..])]);
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

fn registration(client: &str) -> LogEntry {
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
    scene.write([(ROOT + 1024 + 4, &256_u32.to_le_bytes()[..])]);
    let report = scene.judge();
    assert_eq!(outcome(&report, "root-grew"), Outcome::Failed);
    assert!(report.provisioned && !report.passed);
}

#[test]
fn a_key_that_is_left_fails() {
    let scene = Scene::new();
    let key = scene.device.key_pem.as_bytes();
    let listed = patch::make(&scene.image.path, 0, |volume| volume.write("edgepress/private-key.pem", key));
    let runs = listed.expect("patch").runs;
    scene.write(runs.iter().map(|(at, bytes)| (*at, bytes.as_slice())));
    let report = scene.judge();
    assert!(report.reason.expect("a reason").contains("private-key.pem is still on the FAT partition"));

    let scene = Scene::new();
    let key = scene.device.key_pem.as_bytes();
    scene.write([(ROOT - ALIGN, key)]);
    let report = scene.judge();
    assert!(report.reason.expect("a reason").contains("its bytes are still on the FAT partition"));
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
