use super::{boot_files, by_version, firmware_names, spare};
use crate::board::Definition as _;
use crate::board::raspberry_pi::RaspberryPi;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::problem;
use crate::recipe::types::{DistributionId, Initramfs, Model, Recipe};
use crate::tree::Root;
use crate::tree::entry::{EntryKind, TreeEntry};
use crate::units::Digest;
use std::cmp::Ordering;
use std::fs;
use std::path::Path;

const V: &str = "6.1.0-50-arm64";

fn recipe(id: DistributionId) -> Recipe {
    let mut recipe: Recipe = toml::from_str(
        "name = 'x'\narchives = {}\ndistribution = { id = 'debian', release = '12', codename = 'bookworm' }\n\
         target = { arch = 'aarch64', board = 'raspberry-pi', raspberry_pi = { models = ['3', '4'] } }",
    )
    .expect("recipe");
    recipe.distribution.id = id;
    recipe
}

fn ids() -> Ids {
    Ids { mbr: 0x1a2b_3c4d, ..Ids::from_seed(&Digest::of("board")) }
}

fn put(tree: &Path, path: &str) {
    let file = tree.join(path);
    fs::create_dir_all(file.parent().expect("folder")).expect("folder");
    fs::write(file, path).expect("file");
}

/// A tree with the firmware, kernels of these versions and what belongs to them.
fn tree(firmware: &str, device_trees: &str, versions: &[&str]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("temp folder");
    for name in
        ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat", "start_cd.elf", "start4x.elf"]
    {
        put(tree.path(), &format!("usr/lib/{firmware}/{name}"));
    }
    for version in versions {
        put(tree.path(), &format!("boot/vmlinuz-{version}"));
        put(tree.path(), &format!("boot/initrd.img-{version}"));
        for name in
            ["broadcom/bcm2711-rpi-4-b.dtb", "broadcom/bcm2837-rpi-3-b.dtb", "overlays/disable-bt.dtbo"]
        {
            put(tree.path(), &format!("{}/{name}", device_trees.replace("{}", version)));
        }
    }
    tree
}

fn debian_tree() -> tempfile::TempDir {
    tree("raspi-firmware", "usr/lib/linux-image-{}", &["6.1.0-9-arm64", V])
}

fn paths(files: &[FatFile]) -> Vec<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

fn text(files: &[FatFile], path: &str) -> String {
    let file = files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(file.content.clone()).expect("text")
}

fn root_text(entries: &[TreeEntry], path: &str) -> Option<String> {
    let entry = entries.iter().find(|entry| entry.path == Path::new(path))?;
    match &entry.kind {
        EntryKind::File(content) => Some(String::from_utf8(content.clone()).expect("text")),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn debian_has_what_its_own_hook_would_write() {
    let tree = debian_tree();
    let mut recipe = recipe(DistributionId::Debian);
    recipe.target.cmdline = vec!["audit=0".into()];
    let files = boot_files(&Root::open(tree.path()).expect("open"), &recipe, &ids()).expect("files");
    let expected = [
        "bcm2711-rpi-4-b.dtb",
        "bcm2837-rpi-3-b.dtb",
        "bootcode.bin",
        "cmdline.txt",
        "config.txt",
        "fixup.dat",
        "fixup4.dat",
        "initrd.img-6.1.0-50-arm64",
        "start.elf",
        "start4.elf",
        "vmlinuz-6.1.0-50-arm64",
        "edgepress/README.txt",
    ];
    assert_eq!(paths(&files), expected);
    assert_eq!(text(&files, "vmlinuz-6.1.0-50-arm64"), "boot/vmlinuz-6.1.0-50-arm64");
    assert_eq!(
        text(&files, "config.txt"),
        "\
# Do not modify this file!
#
# It is automatically generated upon install or update of either the
# firmware or the Linux kernel.
#
# If you need to set boot-time parameters, do so via the
# /etc/default/raspi-firmware, /etc/default/raspi-firmware-custom or
# /etc/default/raspi-extra-cmdline files.

# Switch the CPU from ARMv7 into ARMv8 (aarch64) mode
arm_64bit=1

enable_uart=1
upstream_kernel=1

kernel=vmlinuz-6.1.0-50-arm64
# For details on the initramfs directive, see
# https://www.raspberrypi.org/forums/viewtopic.php?f=63&t=10532
initramfs initrd.img-6.1.0-50-arm64
"
    );
    assert_eq!(
        text(&files, "cmdline.txt"),
        " console=tty0 console=ttyS1,115200 root=PARTUUID=1a2b3c4d-02 rw fsck.repair=yes net.ifnames=0  rootwait \
         rootfstype=ext4 panic=30 audit=0\n"
    );
    let root = RaspberryPi.root_files(&recipe, &ids()).expect("root");
    let defaults = root_text(&root, "/etc/default/raspi-firmware").expect("defaults");
    for line in ["ROOTPART=\"PARTUUID=1a2b3c4d-02\"", "CONSOLES=\"tty0 ttyS1,115200\"", "CMA=0"] {
        assert!(defaults.lines().any(|found| found == line), "{line} in {defaults}");
    }
    let extra = root_text(&root, "/etc/default/raspi-extra-cmdline");
    assert_eq!(extra.as_deref(), Some("rootfstype=ext4 panic=30 audit=0\n"));
    assert_eq!(root_text(&root, "/etc/default/raspi-firmware-custom"), None);
}

#[test]
fn settings_reach_debians_hook_and_the_image_alike() {
    let tree = debian_tree();
    let mut recipe = recipe(DistributionId::Debian);
    let pi = &mut recipe.target.raspberry_pi;
    (pi.serial, pi.bluetooth, pi.gpu_memory) = (false, false, Some(32));
    pi.config = vec!["disable_splash=1".into()];
    let custom = "enable_uart=0\n[pi3]\ngpu_mem=32\n[all]\ndisable_splash=1\n";
    let files = boot_files(&Root::open(tree.path()).expect("open"), &recipe, &ids()).expect("files");
    let config = text(&files, "config.txt");
    let end = format!("\n\n# Inserted by /etc/default/raspi-firmware-custom\n{custom}");
    assert!(config.ends_with(&end), "{config}");
    assert!(text(&files, "cmdline.txt").starts_with(" console=tty0 root="));
    let root = RaspberryPi.root_files(&recipe, &ids()).expect("root");
    assert_eq!(root_text(&root, "/etc/default/raspi-firmware-custom").as_deref(), Some(custom));
    assert!(root_text(&root, "/etc/modprobe.d/edgepress-bluetooth.conf").is_some());
}

#[test]
fn raspberry_pi_os_has_a_kernel_for_each_flavour() {
    let versions = ["6.12.9+rpt-rpi-v8", "6.12.25+rpt-rpi-v8", "6.12.25+rpt-rpi-2712"];
    let tree = tree("raspi-firmware", "usr/lib/linux-image-{}", &versions);
    let mut recipe = recipe(DistributionId::RaspberryPiOs);
    recipe.target.initramfs = Initramfs::None;
    let pi = &mut recipe.target.raspberry_pi;
    pi.models = vec![Model::Pi3, Model::Pi5];
    (pi.bluetooth, pi.gpu_memory) = (false, Some(16));
    pi.parameters = vec!["i2c_arm=on".into()];
    pi.overlays = vec!["i2c-rtc,ds3231".into()];
    pi.config = vec!["disable_splash=1".into()];
    put(tree.path(), "usr/lib/raspi-firmware/fixup_cd.dat");
    let files = boot_files(&Root::open(tree.path()).expect("open"), &recipe, &ids()).expect("files");
    let names = paths(&files);
    for name in ["kernel8.img", "kernel_2712.img", "overlays/disable-bt.dtbo", "start_cd.elf", "fixup_cd.dat"]
    {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for name in ["initramfs8", "initramfs_2712", "start.elf", "start4.elf"] {
        assert!(!names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(text(&files, "kernel8.img"), "boot/vmlinuz-6.12.25+rpt-rpi-v8");
    assert_eq!(
        text(&files, "config.txt"),
        "\
# Written by edgepress. Updates replace the files beside this one, never this one.
arm_64bit=1
enable_uart=1
dtparam=watchdog=on
[pi5]
dtparam=uart0_console
[all]
[pi3]
gpu_mem=16
[all]
dtparam=i2c_arm=on
dtoverlay=disable-bt
dtoverlay=i2c-rtc,ds3231
disable_splash=1
"
    );
    assert_eq!(
        text(&files, "cmdline.txt"),
        "console=tty1 console=serial0,115200 root=PARTUUID=1a2b3c4d-02 ro fsck.repair=yes net.ifnames=0 rootwait \
         rootfstype=ext4 panic=30 cgroup_enable=memory\n"
    );
    let root = RaspberryPi.root_files(&recipe, &ids()).expect("root");
    let none = root_text(&root, "/etc/initramfs-tools/update-initramfs.conf").expect("a file");
    assert!(none.contains("\nupdate_initramfs=no\n"), "{none}");
    assert!(
        root_text(&root, "/etc/default/raspi-firmware").is_some_and(|text| text.contains("\nINITRAMFS=no\n"))
    );
    let swap = root.iter().find(|entry| entry.path.ends_with("dphys-swapfile.service"));
    assert_eq!(swap.map(|entry| &entry.kind), Some(&EntryKind::Symlink("/dev/null".into())));

    recipe.target.initramfs = Initramfs::Board;
    let files = boot_files(&Root::open(tree.path()).expect("open"), &recipe, &ids()).expect("files");
    assert_eq!(text(&files, "initramfs_2712"), "boot/initrd.img-6.12.25+rpt-rpi-2712");
    assert!(text(&files, "config.txt").contains("\narm_64bit=1\nauto_initramfs=1\n"));
}

#[test]
fn ubuntu_has_the_names_of_flash_kernel() {
    let tree = tree("linux-firmware-raspi", "usr/lib/firmware/{}/device-tree", &["6.8.0-1020-raspi"]);
    let files = boot_files(&Root::open(tree.path()).expect("open"), &recipe(DistributionId::Ubuntu), &ids())
        .expect("files");
    assert_eq!(text(&files, "initrd.img"), "boot/initrd.img-6.8.0-1020-raspi");
    assert!(paths(&files).contains(&"vmlinuz") && paths(&files).contains(&"bcm2711-rpi-4-b.dtb"));
    let config = text(&files, "config.txt");
    let named = "\nkernel=vmlinuz\ncmdline=cmdline.txt\ninitramfs initrd.img followkernel\n";
    assert!(config.contains(named), "{config}");
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    use DistributionId::{Debian, RaspberryPiOs, Ubuntu};
    for (id, remove, says, hint) in [
        (Debian, "usr/lib/raspi-firmware/start4.elf", "no firmware for a Raspberry Pi", "non-free-firmware"),
        (Ubuntu, "usr/lib/raspi-firmware", "no firmware", "add `linux-firmware-raspi`"),
        (Debian, "boot", "no kernel", "add `linux-image-arm64`"),
        (RaspberryPiOs, "nothing", "no kernel", "add `linux-image-rpi-v8`"),
        (Debian, "boot/initrd.img-6.1.0-50-arm64", "no initramfs", "add `initramfs-tools`"),
        (Debian, "usr/lib/linux-image-6.1.0-50-arm64", "brings no device tree", "linux-raspi"),
    ] {
        let tree = debian_tree();
        let doomed = tree.path().join(remove);
        let removed = fs::remove_dir_all(&doomed).or_else(|_| fs::remove_file(&doomed));
        assert!(removed.is_ok() || remove == "nothing", "{remove}");
        let error = boot_files(&Root::open(tree.path()).expect("open"), &recipe(id), &ids()).expect_err(says);
        let problem = problem(&error).expect("a problem");
        assert!(problem.message.contains(says), "{problem}");
        assert!(problem.hint.as_deref().is_some_and(|found| found.contains(hint)), "{problem:?}");
    }
}

#[test]
fn only_the_firmware_that_the_models_need() {
    let mut recipe = recipe(DistributionId::Debian);
    let pi = &mut recipe.target.raspberry_pi;
    pi.models = vec![Model::Pi5];
    assert!(firmware_names(&recipe).is_empty());
    for (models, size, config, expected) in [
        (vec![Model::Zero2], None, "", "bootcode.bin start.elf fixup.dat"),
        (vec![Model::Pi4], None, "", "start4.elf fixup4.dat"),
        (
            vec![Model::Pi3, Model::Pi4],
            Some(16),
            "",
            "bootcode.bin start_cd.elf fixup_cd.dat start4.elf fixup4.dat",
        ),
        (vec![Model::Pi4], None, "start_x=1", "start4x.elf fixup4x.dat"),
        (vec![Model::Pi4], None, "gpu_mem=16", "start4cd.elf fixup4cd.dat"),
        (vec![Model::Pi4], None, "start_file=my.elf", "start4.elf fixup4.dat my.elf"),
    ] {
        let pi = &mut recipe.target.raspberry_pi;
        (pi.models, pi.gpu_memory, pi.config) = (models, size, vec![config.to_owned()]);
        assert_eq!(firmware_names(&recipe).join(" "), expected);
    }
}

#[test]
fn the_next_kernel_finds_room() {
    let files =
        boot_files(&Root::open(debian_tree().path()).expect("open"), &recipe(DistributionId::Debian), &ids())
            .expect("files");
    let kernels = "boot/vmlinuz-6.1.0-50-arm64boot/initrd.img-6.1.0-50-arm64".len() as u64;
    assert_eq!(spare(&files), kernels + (24 << 20));
}

#[test]
fn the_root_is_mounted_by_partition_and_watched() {
    let root = RaspberryPi.root_files(&recipe(DistributionId::Ubuntu), &ids()).expect("root");
    let fstab = root_text(&root, "/etc/fstab").expect("fstab");
    assert!(fstab.contains("\nPARTUUID=1a2b3c4d-02\t/\text4\tnoatime,errors=remount-ro\t0\t1\n"), "{fstab}");
    assert!(fstab.contains("\nPARTUUID=1a2b3c4d-01\t/boot/firmware\tvfat\tumask=0077,"), "{fstab}");
    assert!(!fstab.contains("swap"));
    let watchdog = root_text(&root, "/etc/systemd/system.conf.d/edgepress-watchdog.conf").expect("a drop-in");
    assert!(watchdog.contains("\nRuntimeWatchdogSec=15s\n"), "{watchdog}");
}

#[test]
fn arguments_that_would_break_the_line_are_refused() {
    for argument in ["", "a b", "a\nroot=/dev/sda", "$(x)"] {
        let mut recipe = recipe(DistributionId::Debian);
        recipe.target.cmdline = vec![argument.into()];
        assert!(
            boot_files(&Root::open(debian_tree().path()).expect("open"), &recipe, &ids()).is_err(),
            "{argument:?}"
        );
        assert!(RaspberryPi.root_files(&recipe, &ids()).is_err(), "{argument:?}");
    }
}

#[test]
fn versions_are_in_the_order_of_sort() {
    for (a, b) in [
        ("6.1.0-9-arm64", "6.1.0-50-arm64"),
        ("6.1.0-50-arm64", "6.12.0-1-arm64"),
        ("6.1", "6.1.0"),
        ("", "a"),
        ("a1", "b1"),
    ] {
        assert_eq!(by_version(a, b), Ordering::Less, "{a} {b}");
        assert_eq!(by_version(b, a), Ordering::Greater, "{b} {a}");
    }
    assert_eq!(by_version("1.01", "1.1"), Ordering::Equal);
}
