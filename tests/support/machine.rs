//! An image that cannot boot, a firmware that is none and a QEMU that is a script: enough for everything about
//! `edgepress test` that is not the machine itself.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use edgepress::disk::fat::{self, LEAST};
use edgepress::disk::gpt::{self, ALIGN, ESP, Partition, Table};
use edgepress::disk::ids::Ids;
use edgepress::recipe::types::Provisioning;
use edgepress::units::Digest;
use serde_json::{Value, json};

use super::project;

/// The image's ID scope.
pub const SCOPE: &str = "0ne000A1B2C";

/// Far longer than any of these takes, and shorter than a person's patience.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Everything in a folder of its own, which also holds the runs' private folders.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// An image with an empty FAT partition, its manifest, firmware, and a folder for programs.
    pub fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().expect("temp dir") };
        for name in ["image", "tmp", "programs", "firmware"] {
            fs::create_dir(bench.path(name)).expect("folder");
        }
        bench.write_image();
        bench.write_manifest(|_| ());
        bench.write_firmware();
        let script = project().join("tests/support/qemu-system-x86_64");
        let script = script.canonicalize().expect("script");
        for name in ["qemu-system-x86_64", "qemu-system-aarch64"] {
            std::os::unix::fs::symlink(&script, bench.path("programs").join(name)).expect("link");
        }
        bench
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The image.
    pub fn image(&self) -> PathBuf {
        self.path("image/demo.img")
    }

    /// `edgepress test IMAGE`, its stand-in machine behaving as `machine` says.
    pub fn command(&self, machine: &str, arguments: &[&str]) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = [self.path("programs")].into_iter().chain(std::env::split_paths(&path));
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
        command.arg("test").arg(self.image()).args(arguments);
        command.env("PATH", std::env::join_paths(programs).expect("PATH"));
        command.env("TMPDIR", self.path("tmp")).env("EDGEPRESS_FIRMWARE", self.path("firmware"));
        command
            .env("EDGEPRESS_FAKE_MACHINE", machine)
            .env("EDGEPRESS_FAKE_SCOPE", SCOPE)
            .env("EDGEPRESS_FAKE_KEY", self.path("key.pem"));
        command
    }

    /// Runs it to its end; the machine's private folder must be gone then.
    pub fn run(&self, machine: &str, arguments: &[&str]) -> Output {
        let output = self.command(machine, arguments).output().expect("edgepress");
        assert_eq!(self.leftovers(), Vec::<String>::new(), "{}", text(&output.stderr));
        output
    }

    /// What is in the folder for temporary files.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("tmp")).expect("folder");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// A file of the report.
    pub fn report(&self, name: &str) -> String {
        let path = self.path("image/test-report").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// report.json.
    pub fn report_json(&self) -> Value {
        serde_json::from_str(&self.report("report.json")).expect("JSON")
    }

    /// Writes the manifest after `change`.
    pub fn write_manifest(&self, change: impl FnOnce(&mut Value)) {
        let provisioning = Provisioning { id_scope: SCOPE.into(), ..Provisioning::default() };
        let mut image = fs::File::open(self.image()).expect("image");
        let mut bytes = Vec::new();
        image.read_to_end(&mut bytes).expect("image");
        let mut manifest = json!({
            "edgepress": "0.1.0", "name": "demo", "description": "", "arch": "x86_64", "board": "uefi",
            "inputs": {}, "kernels": ["6.1.0-0-standin"], "epoch": 1_700_000_000,
            "provisioning": serde_json::to_value(provisioning).expect("JSON"),
            "engine_dns": ["1.1.1.1"],
            "partitions": [
                { "role": "fat", "offset": ALIGN, "size": LEAST, "uuid": "1234-5678" },
                { "role": "root", "offset": ALIGN + LEAST, "size": ALIGN, "uuid": "" },
            ],
            "outputs": [{ "file": "demo.img", "size": bytes.len(), "sha256": Digest::of(&bytes).to_string() }],
            "seconds": {},
        });
        change(&mut manifest);
        fs::write(self.path("image/manifest.json"), manifest.to_string()).expect("manifest");
    }

    fn write_image(&self) {
        let size = 2 * ALIGN + LEAST + ALIGN;
        let ids = Ids::from_seed(&Digest::of("bench"));
        let mut image = fs::File::create_new(self.image()).expect("image");
        image.set_len(size).expect("size");
        let esp =
            Partition { kind: ESP, guid: ids.fat_partition, offset: ALIGN, size: LEAST, name: "EFI".into() };
        gpt::write(&image, size, &Table { disk: ids.disk, partitions: vec![esp] }).expect("table");
        let path = self.path("fat");
        let mut file = fs::File::options().read(true).write(true).create_new(true).open(&path).expect("fat");
        file.set_len(LEAST).expect("size");
        fat::format(&mut file, LEAST, ids.fat, "ESP", 0, |_| Ok(())).expect("format");
        image.seek(SeekFrom::Start(ALIGN)).expect("seek");
        image.write_all(&fs::read(&path).expect("fat")).expect("write");
    }

    fn write_firmware(&self) {
        let file = |name: &str| {
            fs::write(self.path("firmware").join(name), "no code").expect("firmware");
            json!({ "filename": self.path("firmware").join(name), "format": "raw" })
        };
        let descriptor = json!({
            "interface-types": ["uefi"], "features": [], "tags": [],
            "mapping": { "device": "flash", "executable": file("code"), "nvram-template": file("vars") },
            "targets": [{ "architecture": "x86_64", "machines": ["pc-q35-*"] }],
        });
        fs::write(self.path("firmware/50-none.json"), descriptor.to_string()).expect("descriptor");
    }
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for what must come soon.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many processes run QEMU, or its stand-in, on a disk of this bench.
pub fn machines(bench: &Bench) -> usize {
    let disk = bench.path("tmp").to_str().expect("path").to_owned();
    let running = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = text(&line);
        line.contains("qemu-system-x86_64") && line.contains(&disk)
    };
    fs::read_dir("/proc").expect("/proc").flatten().filter(running).count()
}
