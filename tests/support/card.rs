//! Images made on the spot, sound ones: a card for a Raspberry Pi, and a disk for UEFI.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use edgepress::disk::fat::{self, LEAST};
use edgepress::disk::gpt::{self, ALIGN};
use edgepress::disk::ids::{Ids, VolumeId};
use edgepress::disk::mbr;
use edgepress::disk::overlay::{Overlay, Zeros};
use edgepress::units::{Arch, Digest};
use serde_json::{Value, json};

const ROOT: u64 = ALIGN + LEAST;
const ROOT_SIZE: u64 = 8 * ALIGN;
pub const SIZE: u64 = ROOT + ROOT_SIZE + ALIGN;
pub const CMDLINE: &str = "console=ttyS1,115200 root=PARTUUID=1a2b3c4d-02 rootwait\n";
pub const CONFIG: &str =
    "arm_64bit=1\nkernel=vmlinuz\ninitramfs initrd.img followkernel\nupstream_kernel=1\n";
/// The UUID of the root that [`Card::write`] makes.
pub const UUID: &str = "49494949-4949-4949-4949-494949494949";

/// An image in a folder of its own.
pub struct Card {
    pub folder: tempfile::TempDir,
    pub files: Vec<(String, Vec<u8>)>,
    /// The root's files; a link where the content begins with `-> `.
    pub root: Vec<(String, Vec<u8>)>,
}

impl Card {
    /// What models 3 and 4 boot.
    pub fn raspberry_pi() -> Self {
        let mut kernel = vec![0; 1 << 20];
        kernel[56..60].copy_from_slice(b"ARM\x64");
        let mut card =
            Self { folder: tempfile::tempdir().expect("temp dir"), files: Vec::new(), root: root() };
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

    pub fn uefi() -> Self {
        let mut card =
            Self { folder: tempfile::tempdir().expect("temp dir"), files: Vec::new(), root: root() };
        card.put("EFI/BOOT/BOOTX64.EFI", "MZ shim").put("EFI/BOOT/grubx64.efi", "MZ grub\0/EFI/debian\0");
        card.put("EFI/debian/grub.cfg", format!("search.fs_uuid {UUID} root\n"));
        card
    }

    pub fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.files.retain(|(known, _)| known != path);
        self.files.push((path.into(), content.into()));
        self
    }

    /// A file on the root.
    pub fn root(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.root.retain(|(known, _)| known != path);
        self.root.push((path.into(), content.into()));
        self
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("card.img")
    }

    /// Writes the image, with `table` to be put on it.
    pub fn write(&self, table: fn(&File)) {
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
        mke2fs(&self.path(), ROOT, ROOT_SIZE, &self.root);
        table(&image);
    }

    pub fn manifest(&self, models: &[&str]) {
        let provisioning = edgepress::recipe::types::Provisioning::default();
        let manifest = json!({
            "edgepress": "0.1.0", "name": "card", "description": "", "arch": "aarch64", "board": "raspberry-pi",
            "models": models, "inputs": {}, "kernels": [], "epoch": 0,
            "provisioning": serde_json::to_value(provisioning).expect("JSON"), "engine_dns": [], "partitions": [],
            "outputs": [{ "file": "card.img", "size": SIZE, "sha256": "ab".repeat(32) }], "seconds": {},
        });
        fs::write(self.folder.path().join("manifest.json"), manifest.to_string()).expect("manifest");
    }

    pub fn inspect(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        edgepress().arg(self.path()).args(arguments).assert()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = edgepress().arg(self.path()).arg("--json").args(arguments).output().expect("edgepress");
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }
}

/// Makes an ext4 file system of these files in an image.
pub fn mke2fs(image: &Path, offset: u64, size: u64, files: &[(String, Vec<u8>)]) {
    let tree = tempfile::tempdir().expect("folder");
    for (path, content) in files {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        match content.strip_prefix(b"-> ") {
            Some(target) => symlink(OsStr::from_bytes(target), path).expect("link"),
            None => fs::write(path, content).expect("file"),
        }
    }
    let mut find = std::process::Command::new("find");
    find.arg(tree.path()).args(["-exec", "touch", "-h", "-d", "@1700000000", "{}", "+"]);
    assert!(find.status().expect("find").success());
    let mut mke2fs = std::process::Command::new("mke2fs");
    // No path of this machine and no hour in it: what is compared differs only where a test wants it.
    mke2fs.env("E2FSPROGS_FAKE_TIME", "1700000000").env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-L", "root", "-U", UUID]);
    mke2fs.args(["-E", &format!("offset={offset},root_owner=0:0,hash_seed={UUID}"), "-d"]).arg(tree.path());
    let done = mke2fs.arg(image).arg(format!("{}k", size >> 10)).status().expect("mke2fs");
    assert!(done.success());
}

const CONFIG_TOML: &str =
    "[provisioning]\nsource = \"dps\"\n\n[agent.config.auth]\nusername = \"puller\"\npassword = \"SECRET\"\n";
pub const STATUS: &str = "Package: aziot-edge\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.5.1\n\n\
                      Package: containerd\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.6.20\n\n\
                      Package: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n";

/// A root that is sound.
fn root() -> Vec<(String, Vec<u8>)> {
    let grub = format!("menuentry 'x' {{\n\tlinux ${{links}}vmlinuz root=UUID={UUID} ro quiet\n}}\n");
    let file = |path: &str, content: &str| (path.to_owned(), content.as_bytes().to_vec());
    vec![
        file("etc/os-release", "-> ../usr/lib/os-release"),
        file("usr/lib/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
        file("etc/machine-id", ""),
        file("etc/fstab", &format!("UUID={UUID} / ext4 defaults 0 1\n")),
        file("etc/aziot/config.toml", CONFIG_TOML),
        file(
            "etc/systemd/system/multi-user.target.wants/ssh.service",
            "-> /usr/lib/systemd/system/ssh.service",
        ),
        file("var/lib/dpkg/status", STATUS),
        file("boot/vmlinuz", "-> vmlinuz-6.1.0"),
        file("boot/vmlinuz-6.1.0", "kernel"),
        file("boot/grub/grub.cfg", &grub),
        file("usr/lib/modules/6.1.0/modules.dep", "kernel/fs/udf/udf.ko:\n"),
        file("usr/lib/edgepress/first-boot", "#!/bin/sh\n"),
    ]
}

/// `edgepress inspect`.
pub fn edgepress() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepress"));
    command.arg("inspect");
    command
}

pub fn with_mbr(image: &File) {
    let part = |kind, offset, size| mbr::Partition { kind, offset, size, active: false };
    let partitions = vec![part(mbr::FAT32_LBA, ALIGN, LEAST), part(mbr::LINUX, ROOT, ROOT_SIZE)];
    mbr::write(image, SIZE, &mbr::Table { disk_id: 0x1a2b_3c4d, partitions }).expect("table");
}

pub fn with_gpt(image: &File) {
    let ids = Ids::from_seed(&Digest::of("inspect"));
    let part = |kind, guid, offset, size| gpt::Partition { kind, guid, offset, size, name: String::new() };
    let partitions = vec![
        part(gpt::ESP, ids.fat_partition, ALIGN, LEAST),
        part(gpt::root_type(Arch::X86_64), ids.root_partition, ROOT, ROOT_SIZE),
    ];
    gpt::write(image, SIZE, &gpt::Table { disk: ids.disk, partitions }).expect("table");
}

/// Where the file system for /boot lies: second in the table, behind the root on the disk.
pub const BOOT: u64 = SIZE;
pub const BOOT_SIZE: u64 = 4 * ALIGN;

/// As servers have it: /boot by itself, which the table calls a root too, and a partition without a known file system.
pub fn with_boot_and_data(image: &File) {
    let ids = Ids::from_seed(&Digest::of("inspect"));
    let part = |kind, guid, offset, size| gpt::Partition { kind, guid, offset, size, name: String::new() };
    let (boot, root) = (gpt::root_type(Arch::Aarch64), gpt::root_type(Arch::X86_64));
    let partitions = vec![
        part(gpt::ESP, ids.fat_partition, ALIGN, LEAST),
        part(boot, ids.vhd, BOOT, BOOT_SIZE),
        part(root, ids.root_partition, ROOT, ROOT_SIZE),
        part(root, ids.hash_seed, BOOT + BOOT_SIZE, ALIGN),
    ];
    let size = BOOT + BOOT_SIZE + 2 * ALIGN;
    image.set_len(size).expect("size");
    gpt::write(image, size, &gpt::Table { disk: ids.disk, partitions }).expect("table");
}
