//! `edgepress inspect` on images made here: sound ones, broken ones, and what is none.

mod azure;
mod leaks;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use edgepress::disk::fat::LEAST;
use edgepress::disk::gpt::ALIGN;
use edgepress::disk::mbr;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::{Value, json};

use crate::support::card::{CMDLINE, CONFIG, Card, SIZE, STATUS, UUID, edgepress, with_gpt, with_mbr};

#[test]
fn a_card_for_two_models() {
    let card = Card::raspberry_pi();
    card.write(with_mbr);
    let before = fs::read(card.path()).expect("image");
    card.inspect(&["--model", "3", "--model", "4"])
        .success()
        .stdout(contains("MBR, disk 1a2b3c4d"))
        .stdout(contains("fat32  BOOT        1234-5678 ("))
        .stdout(contains(format!("ext4   root        {UUID} (")))
        .stdout(contains("used of 33 MiB)  PARTUUID=1a2b3c4d-01"))
        .stdout(contains("used of 8192 KiB)  PARTUUID=1a2b3c4d-02"))
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
        json!({ "name": "boot-chain", "outcome": "passed", "detail": "sound for model 4" })
    );
    card.manifest(&["4", "5"]);
    edgepress().arg(card.folder.path()).assert().code(1).stderr(contains("broken for model 5"));
}

#[test]
fn a_time_zone_that_is_not_there() {
    let zone = "usr/share/zoneinfo/Europe/Berlin";
    for (localtime, content, fault) in [
        ("-> /usr/share/zoneinfo/Europe/Berlin", "TZif2", None),
        ("-> ../usr/share/zoneinfo/Europe/Berlin", "TZif2", None),
        ("-> /usr/share/zoneinfo/Etc/UTC", "TZif2", None),
        ("TZif2", "", None),
        (
            "-> /usr/share/zoneinfo/Europe/Paris",
            "TZif2",
            Some("leads to /usr/share/zoneinfo/Europe/Paris, which is not there"),
        ),
        (
            "-> /usr/share/zoneinfo/Europe/Berlin",
            "",
            Some("leads to /usr/share/zoneinfo/Europe/Berlin, which is no time zone"),
        ),
        ("-> /etc/localtime", "", Some("cannot be read: ")),
        ("", "", Some("is no time zone")),
    ] {
        let mut card = Card::raspberry_pi();
        card.root("etc/localtime", localtime).root(zone, content);
        card.write(with_mbr);
        match fault {
            None => drop(card.inspect(&["--model", "3"]).success()),
            Some(fault) => {
                let assert = card.inspect(&["--model", "3"]).code(1);
                assert.stderr(contains("time-zone: /etc/localtime ").and(contains(fault)));
            }
        }
    }
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
    fs::write(card.path(), b"short").expect("write");
    card.inspect(&[])
        .code(2)
        .stderr(contains("this is no disk image but a text file"))
        .stderr(contains("hint: fetch"));
    for bytes in [&b""[..], &garbage, &[0; 4096]] {
        fs::write(card.path(), bytes).expect("write");
        card.inspect(&[])
            .code(2)
            .stderr(contains("is no disk image"))
            .stderr(contains("hint: inspect reads disks"));
    }
    // A table, and behind it nothing that is a file system.
    let image = File::create(card.path()).expect("image");
    image.set_len(SIZE).expect("size");
    image.write_all_at(&garbage, ALIGN).expect("write");
    with_mbr(&image);
    card.inspect(&[]).code(1).stdout(contains("boot-chain          FAILED"));
}

#[test]
fn what_is_installed() {
    let card = Card::uefi();
    card.write(with_gpt);
    let output = card.inspect(&["--packages"]).success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for line in [
        "system       Debian GNU/Linux 12 (bookworm)",
        "kernel       6.1.0  (boots)",
        "engine       containerd 1.6.20",
        "runtime      aziot-edge 1.5.1",
        "packages     2\n",
        "  multi-user.target: ssh.service",
        "first boot   golden",
        "password = \"(masked)\"",
        "identity-leak           ok",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("SECRET"), "{said}");
    let report = card.json(&[]);
    assert_eq!(
        report["system"]["packages"][1],
        json!({"name": "containerd", "architecture": "amd64", "version": "1.6.20"})
    );
    assert_eq!(report["azure"], Value::Null, "nothing says that it is for Azure");
    assert!(!report.to_string().contains("SECRET"));
}

/// All of it, as a person sees it.
#[test]
fn the_whole_text() {
    let card = Card::uefi();
    card.write(with_gpt);
    let output = card.inspect(&[]).success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let said = said.replace(&card.path().display().to_string(), "card.img");
    let (head, rest) = said.split_once("\n\nFAT partition").expect("two parts");
    assert_eq!(head.lines().count(), 3, "the disk and two partitions: {head}");
    assert_eq!(format!("FAT partition{rest}"), WHOLE_TEXT);
}

const WHOLE_TEXT: &str = "\
FAT partition: 3 files
        7 B  EFI/BOOT/BOOTX64.EFI
       20 B  EFI/BOOT/grubx64.efi
       57 B  EFI/debian/grub.cfg

identity: none, as a golden image should be

loaders: EFI/BOOT/BOOTX64.EFI, EFI/BOOT/grubx64.efi
root looked for: 49494949-4949-4949-4949-494949494949 (EFI/debian/grub.cfg)

system       Debian GNU/Linux 12 (bookworm)
kernel       6.1.0  (boots)
engine       containerd 1.6.20
runtime      aziot-edge 1.5.1
packages     2  (--packages lists them)
units        1 enabled; 0 more that packages start always
  multi-user.target: ssh.service
first boot   golden

/etc/aziot/config.toml, without comments, secrets masked
  [provisioning]
  source = \"dps\"

  [agent.config.auth]
  username = \"puller\"
  password = \"(masked)\"

to be known: right if the recipe brings it, for only the recipe tells
  /etc/aziot/config.toml: it holds secrets: agent.config.auth.password

boot-chain              ok  the loaders are there, and the root that they look for
identity-leak           ok  nothing of one device, nothing that opens one
";

#[test]
fn a_configuration_that_is_none_is_not_shown() {
    let mut card = Card::uefi();
    card.root("etc/aziot/config.toml", "password = \"SECRET\" and more");
    card.write(with_gpt);
    let output = card.inspect(&[]).success().stdout(contains("config.toml cannot be read: it is no TOML"));
    assert!(!String::from_utf8_lossy(&output.get_output().stdout).contains("SECRET"));
}

/// The footer of a fixed VHD.
fn footer(size: u64) -> [u8; 512] {
    let mut footer = [0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].fill(0xff);
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[63] = 2;
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

fn text(path: &Path) -> &str {
    path.to_str().expect("path")
}

fn qemu_img(arguments: &[&str]) {
    let status = std::process::Command::new("qemu-img").args(arguments).status();
    assert!(status.expect("qemu-img").success(), "{arguments:?}");
}

fn packed(folder: &Path, raw: &[u8]) -> Vec<PathBuf> {
    let path = |name: &str| folder.join(name);
    fs::write(path("card.zst"), zstd::encode_all(raw, 1).expect("zst")).expect("write");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(raw).expect("gz");
    fs::write(path("card.gz"), gz.finish().expect("gz")).expect("write");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(raw).expect("xz");
    fs::write(path("card.xz"), xz.finish().expect("xz")).expect("write");
    fs::write(path("card.vhd"), [raw, &footer(raw.len() as u64)[..]].concat()).expect("write");
    for (format, options) in
        [("qcow2", "compat=1.1"), ("vhdx", "subformat=dynamic"), ("vmdk", "subformat=streamOptimized")]
    {
        let to = path(&format!("card.{format}"));
        let from = path("card.img");
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, text(&from), text(&to)]);
    }
    ["zst", "gz", "xz", "vhd", "qcow2", "vhdx", "vmdk"].map(|ending| path(&format!("card.{ending}"))).to_vec()
}

#[test]
fn every_container_holds_the_same() {
    let card = Card::uefi();
    card.write(with_gpt);
    let mut plain = card.json(&[]);
    let raw = fs::read(card.path()).expect("image");
    let forget = |report: &mut Value| {
        let report = report.as_object_mut().expect("object");
        ["image", "container", "packed", "azure", "error", "verdicts"].map(|key| report.remove(key))
    };
    forget(&mut plain);
    for path in packed(card.folder.path(), &raw) {
        let output = edgepress().arg(&path).arg("--json").output().expect("edgepress");
        let mut report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let known = forget(&mut report);
        assert_eq!(report, plain, "{}", path.display());
        let ending = path.extension().expect("ending").to_string_lossy().into_owned();
        assert_eq!(known[1], Some(json!(ending)));
        edgepress().arg(card.path()).arg(&path).assert().success().stdout(contains("bit-identical"));
    }
}

#[test]
fn a_container_that_is_damaged_or_reaches_out() {
    let card = Card::uefi();
    card.write(with_gpt);
    let folder = card.folder.path();
    packed(folder, &fs::read(card.path()).expect("image"));
    for name in ["card.zst", "card.gz", "card.xz"] {
        let bytes = fs::read(folder.join(name)).expect("read");
        fs::write(folder.join("cut"), &bytes[..bytes.len() / 2]).expect("write");
        edgepress().arg(folder.join("cut")).assert().code(2).stderr(contains("is a damaged"));
    }
    for name in ["card.vhdx", "card.vmdk"] {
        let bytes = fs::read(folder.join(name)).expect("read");
        fs::write(folder.join("cut"), &bytes[..9000]).expect("write");
        edgepress().arg(folder.join("cut")).assert().code(2).stderr(contains("is not read: it is cut off"));
    }
    let layer = folder.join("layer");
    let create = |rest: &[&str]| {
        fs::remove_file(&layer).ok();
        qemu_img(&[&["create", "-q", "-f"], rest].concat());
        edgepress().arg(&layer).assert().code(2)
    };
    let card = card.path();
    create(&["qcow2", "-F", "raw", "-b", text(&card), text(&layer)]).stderr(contains("backing file"));
    let below = folder.join("below.vmdk");
    qemu_img(&["convert", "-O", "vmdk", text(&card), text(&below)]);
    edgepress().arg(&below).assert().success();
    create(&["vmdk", "-F", "vmdk", "-b", text(&below), text(&layer)])
        .stderr(contains("it is a layer over another file (a parent)"));
    // Its text names the file with the data.
    create(&["vmdk", "-o", "subformat=monolithicFlat", text(&layer), "64M"])
        .stderr(contains("is no disk image but a VMDK's descriptor, which names other files"));
}

#[test]
fn what_differs() {
    let (mut one, mut other) = (Card::uefi(), Card::uefi());
    other.put("EFI/debian/extra", "new").root("etc/hostname", "b\n").root("etc/added", "x");
    one.root("etc/hostname", "a\n").root("etc/removed/below", "x");
    other.root("boot/vmlinuz", "-> vmlinuz-6.2.0");
    other.root("var/lib/dpkg/status", STATUS.replace("1.5.1", "1.5.2"));
    one.write(with_gpt);
    other.write(with_gpt);
    let compare = || edgepress().arg(one.path()).arg(other.path()).assert();
    compare()
        .code(1)
        .stdout(contains("files of the FAT partition (1)\n  + EFI/debian/extra"))
        .stdout(contains("  - /etc/removed\n  - /etc/removed/below\n  + /etc/added\n"))
        .stdout(contains("~ /boot/vmlinuz: target vmlinuz-6.1.0 -> vmlinuz-6.2.0"))
        .stdout(contains("~ /etc/hostname: content"))
        .stdout(contains("~ aziot-edge:amd64 1.5.1 -> 1.5.2"))
        .stdout(contains("partition 2 (ext4): inode tables"))
        .stderr(contains("the images differ"));
    edgepress().arg(one.path()).arg(one.path()).assert().success().stdout(contains("bit-identical"));
    // One bit where no file is.
    fs::copy(one.path(), other.path()).expect("copy");
    let image = File::options().write(true).open(other.path()).expect("image");
    image.write_all_at(&[1], SIZE - ALIGN - 5).expect("write");
    let output = edgepress().arg(one.path()).arg(other.path()).assert().code(1);
    output
        .stdout(contains("all files are equal"))
        .stdout(contains("partition 2 (ext4): files and folders: 4 KiB from byte"));
}

/// A third partition in the last MiB.
fn with_another(image: &File) {
    let part = |kind, offset, end| mbr::Partition { kind, offset, size: end - offset, active: false };
    let (root, last) = (ALIGN + LEAST, SIZE - ALIGN);
    let partitions =
        vec![part(mbr::FAT32_LBA, ALIGN, root), part(mbr::LINUX, root, last), part(mbr::LINUX, last, SIZE)];
    mbr::write(image, SIZE, &mbr::Table { disk_id: 1, partitions }).expect("table");
}

#[test]
fn a_partition_that_nobody_looks_into() {
    let card = Card::uefi();
    card.write(with_another);
    let other = card.folder.path().join("other.img");
    let compared = |at: u64| {
        fs::copy(card.path(), &other).expect("copy");
        File::options().write(true).open(&other).expect("image").write_all_at(&[1], at).expect("write");
        let output = edgepress().arg(card.path()).arg(&other).assert().code(1);
        String::from_utf8_lossy(&output.get_output().stdout).into_owned()
    };
    let said = compared(SIZE - 5);
    assert!(
        said.contains("not compared file by file (1)\n  partition 3 (unknown): its bytes differ"),
        "{said}"
    );
    assert!(!said.contains("all files are equal"), "{said}");
    let said = compared(SIZE - ALIGN - 5);
    assert!(said.contains("all files are equal") && !said.contains("not compared"), "{said}");
}

#[test]
fn verified_against_its_list() {
    let card = Card::uefi();
    card.write(with_gpt);
    card.inspect(&["--verify"]).code(2).stderr(contains("there is no SHA256SUMS beside"));
    let digest = edgepress::disk::sparse::digest(&card.path()).expect("digest");
    fs::write(card.folder.path().join("SHA256SUMS"), format!("{digest}  card.img\n")).expect("write");
    card.inspect(&["--verify"]).success().stdout(contains("digests                 ok  1 of 1 files"));
    let image = File::options().write(true).open(card.path()).expect("image");
    image.write_all_at(&[1], SIZE - 2 * ALIGN).expect("write");
    card.inspect(&["--verify"]).code(1).stderr(contains("digests: card.img has SHA-256"));
}
