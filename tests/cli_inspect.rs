//! `edgepress inspect` on images made here: sound ones, broken ones, and what is none.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use assert_cmd::Command;
use edgepress::disk::fat::{self, LEAST};
use edgepress::disk::gpt::{self, ALIGN};
use edgepress::disk::ids::{Ids, VolumeId};
use edgepress::disk::mbr;
use edgepress::disk::overlay::{Overlay, Zeros};
use edgepress::units::{Arch, Digest};
use predicates::str::contains;
use serde_json::{Value, json};

const ROOT: u64 = ALIGN + LEAST;
const SIZE: u64 = ROOT + 2 * ALIGN;
const CMDLINE: &str = "console=ttyS1,115200 root=PARTUUID=1a2b3c4d-02 rootwait\n";
const CONFIG: &str = "arm_64bit=1\nkernel=vmlinuz\ninitramfs initrd.img followkernel\nupstream_kernel=1\n";
/// The UUID of the root that [`Card::write`] makes.
const UUID: &str = "49494949-4949-4949-4949-494949494949";

/// An image in a folder of its own.
struct Card {
    folder: tempfile::TempDir,
    files: Vec<(String, Vec<u8>)>,
}

impl Card {
    /// What models 3 and 4 boot.
    fn raspberry_pi() -> Self {
        let mut kernel = vec![0; 1 << 20];
        kernel[56..60].copy_from_slice(b"ARM\x64");
        let mut card = Self { folder: tempfile::tempdir().expect("temp dir"), files: Vec::new() };
        card.put("config.txt", CONFIG).put("cmdline.txt", CMDLINE);
        card.put("vmlinuz", kernel).put("initrd.img", [7; 100]);
        for name in [
            "bootcode.bin",
            "start.elf",
            "fixup.dat",
            "start4.elf",
            "fixup4.dat",
            "bcm2837-rpi-3-b.dtb",
            "bcm2837-rpi-3-b-plus.dtb",
            "bcm2711-rpi-4-b.dtb",
            "bcm2711-rpi-400.dtb",
            "bcm2711-rpi-cm4-io.dtb",
        ] {
            card.put(name, [1; 10]);
        }
        card
    }

    fn uefi() -> Self {
        let mut card = Self { folder: tempfile::tempdir().expect("temp dir"), files: Vec::new() };
        card.put("EFI/BOOT/BOOTX64.EFI", "MZ shim").put("EFI/BOOT/grubx64.efi", "MZ grub");
        card.put("EFI/debian/grub.cfg", format!("search.fs_uuid {UUID} root\n"));
        card
    }

    fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.files.retain(|(known, _)| known != path);
        self.files.push((path.into(), content.into()));
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("card.img")
    }

    /// Writes the image, with `table` to be put on it.
    fn write(&self, table: fn(&File)) {
        let image = File::create(self.path()).expect("image");
        image.set_len(SIZE).expect("size");
        let mut device = Overlay::new(Zeros, LEAST);
        fat::format(&mut device, LEAST, VolumeId(0x1234_5678), "BOOT", 0, |volume| {
            self.files.iter().try_for_each(|(path, content)| volume.write(path, content))
        })
        .expect("format");
        for (at, bytes) in device.changes().expect("changes") {
            image.write_all_at(&bytes, ALIGN + at).expect("write");
        }
        let mut superblock = [0; 1024];
        superblock[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        superblock[0x4..0x8].copy_from_slice(&1024_u32.to_le_bytes());
        superblock[0x68..0x78].copy_from_slice(&[0x49; 16]);
        superblock[0x78..0x7c].copy_from_slice(b"root");
        image.write_all_at(&superblock, ROOT + 1024).expect("write");
        table(&image);
    }

    fn manifest(&self, models: &[&str]) {
        let provisioning = edgepress::recipe::types::Provisioning::default();
        let manifest = json!({
            "edgepress": "0.1.0", "name": "card", "description": "", "arch": "aarch64", "board": "raspberry-pi",
            "models": models, "inputs": {}, "kernels": [], "epoch": 0,
            "provisioning": serde_json::to_value(provisioning).expect("JSON"), "engine_dns": [], "partitions": [],
            "outputs": [{ "file": "card.img", "size": SIZE, "sha256": "ab".repeat(32) }], "seconds": {},
        });
        fs::write(self.folder.path().join("manifest.json"), manifest.to_string()).expect("manifest");
    }

    fn inspect(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        edgepress().arg(self.path()).args(arguments).assert()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = edgepress().arg(self.path()).arg("--json").args(arguments).output().expect("edgepress");
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }
}

fn edgepress() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.arg("inspect");
    command
}

fn with_mbr(image: &File) {
    let part = |kind, offset, size| mbr::Partition { kind, offset, size, active: false };
    let partitions = vec![part(mbr::FAT32_LBA, ALIGN, LEAST), part(mbr::LINUX, ROOT, ALIGN)];
    mbr::write(image, SIZE, &mbr::Table { disk_id: 0x1a2b_3c4d, partitions }).expect("table");
}

fn with_gpt(image: &File) {
    let ids = Ids::from_seed(&Digest::of("inspect"));
    let part = |kind, guid, offset, size| gpt::Partition { kind, guid, offset, size, name: String::new() };
    let partitions = vec![
        part(gpt::ESP, ids.fat_partition, ALIGN, LEAST),
        part(gpt::root_type(Arch::X86_64), ids.root_partition, ROOT, ALIGN),
    ];
    gpt::write(image, SIZE, &gpt::Table { disk: ids.disk, partitions }).expect("table");
}

#[test]
fn a_card_for_two_models() {
    let card = Card::raspberry_pi();
    card.write(with_mbr);
    let before = fs::read(card.path()).expect("image");
    card.inspect(&["--model", "3", "--model", "4"])
        .success()
        .stdout(contains("MBR, disk 1a2b3c4d"))
        .stdout(contains("fat32  BOOT        1234-5678  PARTUUID=1a2b3c4d-01"))
        .stdout(contains(format!("ext4   root        {UUID} (1024 KiB)  PARTUUID=1a2b3c4d-02")))
        .stdout(contains("identity: none"))
        .stdout(contains("firmware     bootcode.bin, start.elf, fixup.dat"))
        .stdout(contains("cmdline      console=ttyS1,115200 root=PARTUUID=1a2b3c4d-02 rootwait"))
        .stdout(contains("boot-chain              ok  sound for model 3, 4"));
    assert!(fs::read(card.path()).expect("image") == before, "the image was written to");
    // Nobody says which models: one must boot.
    card.inspect(&[]).success().stdout(contains("sound for model 3, 4; broken for model 5, zero-2"));
    card.inspect(&["--model", "5"])
        .code(1)
        .stdout(contains("the kernel's package brings no device tree for model 5"));
    card.inspect(&["--model", "6"]).code(2).stderr(contains("expected one of 3, 4, 5, zero-2"));
}

#[test]
fn the_manifest_names_the_models() {
    let card = Card::raspberry_pi();
    card.write(with_mbr);
    card.manifest(&["4"]);
    let report = card.json(&[]);
    assert_eq!(report["chains"].as_array().map(Vec::len), Some(1));
    assert_eq!((&report["board"], &report["arch"]), (&json!("raspberry-pi"), &json!("aarch64")));
    assert_eq!(report["chains"][0]["model"], "4");
    assert_eq!(report["chains"][0]["initramfs"], json!([["initrd.img", "follow-kernel"]]));
    assert!(report["chains"][0]["bytes_read"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    assert_eq!(report["partitions"][1]["file_system"]["label"], "root");
    assert_eq!(
        report["verdicts"][0],
        json!({
            "name": "boot-chain", "outcome": "passed", "detail": "sound for model 4",
        })
    );
    card.manifest(&["4", "5"]);
    edgepress().arg(card.folder.path()).assert().code(1).stderr(contains("broken for model 5"));
}

#[test]
fn a_kernel_that_is_not_there() {
    let mut card = Card::raspberry_pi();
    card.put("config.txt", CONFIG.replace("vmlinuz", "vmlinuz-6.1.0"));
    card.write(with_mbr);
    card.inspect(&["--model", "3"])
        .code(1)
        .stdout(contains("error: config.txt names the kernel vmlinuz-6.1.0, which is missing"))
        .stdout(contains("hint: on the FAT partition: vmlinuz"))
        .stderr(contains("boot-chain: broken for model 3; config.txt names the kernel"));
}

#[test]
fn a_root_on_another_disk() {
    let mut card = Card::raspberry_pi();
    card.put("cmdline.txt", CMDLINE.replace("1a2b3c4d", "00000000"));
    card.write(with_mbr);
    card.inspect(&["--model", "4"])
        .code(1)
        .stdout(contains("root=PARTUUID=00000000-02 is on another disk: the root partition is 1a2b3c4d-02"))
        .stdout(contains("hint: write root=PARTUUID=1a2b3c4d-02"));
}

#[test]
fn an_identity_is_told_and_never_shown() {
    let mut card = Card::uefi();
    card.put("edgepress/private-key.pem", "SECRET").put("edgepress/certificate.pem", "SECRET");
    card.write(with_gpt);
    let output = card.inspect(&[]).success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(
        said.contains("identity: certificate.pem, private-key.pem: this image belongs to one device"),
        "{said}"
    );
    assert!(!said.contains("SECRET"));
    assert_eq!(card.json(&[])["identity"], json!(["certificate.pem", "private-key.pem"]));
}

#[test]
fn uefi_loaders() {
    let mut card = Card::uefi();
    card.write(with_gpt);
    card.inspect(&[])
        .success()
        .stdout(contains("loaders: EFI/BOOT/BOOTX64.EFI, EFI/BOOT/grubx64.efi"))
        .stdout(contains("boot-chain              ok"));
    card.put("EFI/debian/grub.cfg", "search.fs_uuid 00000000-0000-4000-8000-000000000000 root\n");
    card.write(with_gpt);
    card.inspect(&[]).code(1).stderr(contains(format!("and the image has {UUID}")));
}

#[test]
fn what_is_no_image() {
    let card = Card::uefi();
    card.inspect(&[]).code(2).stderr(contains("cannot open the image"));
    let mut state = 1_u32;
    let garbage: Vec<u8> = (0..100_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for bytes in [&b""[..], b"short", &garbage, &[0; 4096]] {
        fs::write(card.path(), bytes).expect("write");
        card.inspect(&[])
            .code(2)
            .stderr(contains("is no disk image"))
            .stderr(contains("hint: inspect reads raw"));
    }
    // A table, and behind it nothing that is a file system.
    let image = File::create(card.path()).expect("image");
    image.set_len(SIZE).expect("size");
    image.write_all_at(&garbage, ALIGN).expect("write");
    with_mbr(&image);
    card.inspect(&[]).code(1).stdout(contains("boot-chain          FAILED"));
}
