//! A Raspberry Pi 3 B. QEMU runs no GPU firmware, so this does what the firmware does: it follows the boot chain on the
//! image's FAT partition and loads what that names, and nothing else. What is missing fails here as it does on hardware.
//!
//! ```text
//! image: FAT ─► chain ─► kernel (unpacked), initramfs (joined), device tree ─► private folder ─► -kernel -initrd -dtb
//! ```
//! The device tree stays as it is: overlays and parameters are not applied. What QEMU cannot do is left out by
//! arguments that are added to the command line: [`NO_WATCHDOG`], and two of the four processors ([`RUNNING`]). There is no clock with a battery, as on the
//! board: QEMU's `-rtc` means nothing to this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Arguments, Boot};
use crate::board::files::Files;
use crate::board::raspberry_pi::chain::{self, Chain, kernel};
use crate::disk::patch;
use crate::inspect;
use crate::recipe::types::Model;
use crate::units::ByteSize;

pub(super) const PROGRAM: &str = "qemu-system-aarch64";
pub(super) const NAME: &str = "raspi3b";
/// QEMU accepts no more.
pub(super) const CPUS: u32 = 4;
/// QEMU accepts no other.
pub(super) const MEMORY: ByteSize = ByteSize::mib(1024);
/// Seconds: four slow processors are always emulated.
pub(super) const TIMEOUT: f64 = 240.0;

/// How many of the processors run. Until the kernel calls them, all but the first turn in a loop that takes QEMU's one
/// big lock each time round: three of them held up the start of the kernel by 20 s on two cores (QEMU 7.2).
const RUNNING: u32 = 2;

/// QEMU's model of the power management resets the machine as soon as its watchdog is started, instead of when it runs
/// out (QEMU 7.2 hw/misc/bcm2835_powermgt.c), so systemd is told not to start it.
const NO_WATCHDOG: &str = "systemd.watchdog_sec=0";

/// What the firmware would have put into memory, as files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// The kernel, unpacked.
    pub kernel: PathBuf,
    /// All files of the initramfs, joined.
    pub initramfs: Option<PathBuf>,
    /// The device tree.
    pub device_tree: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
    /// Where the console is.
    pub console: Port,
}

/// A serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Port {
    /// The better one, Linux' `ttyAMA0`.
    First,
    /// The mini UART, Linux' `ttyS0` (`ttyS1` under upstream kernels).
    Mini,
}

/// Follows the chain on the image's FAT partition and puts what it names into `folder`; nothing, if the board would not
/// boot.
///
/// # Errors
/// When the image or a file cannot be read, or `folder` not be written to.
pub(crate) fn load(image: &Path, folder: &Path) -> Result<(Chain, Option<Loaded>)> {
    let root = inspect::root_partition(image)?;
    patch::look(image, |volume| {
        let chain = chain::follow(volume, Model::Pi3, root.as_ref());
        let loaded = if chain.sound() { Some(write(volume, &chain, folder)?) } else { None };
        Ok((chain, loaded))
    })
}

fn write(files: &dyn Files, chain: &Chain, folder: &Path) -> Result<Loaded> {
    let read = |path: &str| files.read(path).with_context(|| format!("reading {path} off the FAT partition"));
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let kernel = chain.kernel.as_deref().context("a sound chain has a kernel")?;
    let tree = chain.device_tree.as_deref().context("a sound chain has a device tree")?;
    let mut initramfs = Vec::new();
    for (path, _) in &chain.initramfs {
        initramfs.extend(read(path)?);
    }
    Ok(Loaded {
        kernel: write("kernel", &kernel::unpacked(read(kernel)?)?)?,
        initramfs: if initramfs.is_empty() { None } else { Some(write("initramfs", &initramfs)?) },
        device_tree: write("device-tree", &read(tree)?)?,
        cmdline: chain.cmdline.clone(),
        console: match chain.serial_console() {
            Some(name) if name.starts_with("ttyS") => Port::Mini,
            _ => Port::First,
        },
    })
}

/// What keeps the board from booting, in one line.
pub(crate) fn obstacles(chain: &Chain) -> Option<String> {
    let errors: Vec<_> = chain.errors().map(|finding| finding.message.as_str()).collect();
    let model = chain.model;
    (!errors.is_empty()).then(|| format!("model {model} would not start the kernel: {}", errors.join("; ")))
}

pub(super) fn arguments(boot: &Boot, loaded: &Loaded, args: &mut Arguments) {
    args.option("-machine", NAME);
    args.option("-accel", "tcg,thread=multi");
    args.option("-global", format!("bcm2837.enabled-cpus={RUNNING}"));
    args.option("-kernel", &loaded.kernel);
    args.option("-dtb", &loaded.device_tree);
    if let Some(initramfs) = &loaded.initramfs {
        args.option("-initrd", initramfs);
    }
    args.option("-append", format!("{} {NO_WATCHDOG} maxcpus={RUNNING}", loaded.cmdline));
    // The copy is thrown away: nobody needs it to survive a crash of the host. When the power is cut, everything that a
    // card said it had written must be there: QEMU's card has no cache that a guest could flush.
    let cache = if boot.cut { "writethrough" } else { "unsafe" };
    args.paths("-drive", &format!("if=sd,cache={cache},format=qcow2,file="), &boot.disk);
    if loaded.console == Port::Mini {
        args.option("-serial", "null");
    }
    args.option("-serial", "chardev:console");
}

/// Of the board's own network adapter QEMU knows nothing; this one hangs on USB too. It is plugged in when the kernel is
/// long done with the USB controller: Linux' driver of it starts the controller a second time when it finds itself to be
/// the host, and forgets a device that it saw before that, which happens on a busy machine.
pub(super) fn network() -> Value {
    json!({ "driver": "usb-net", "id": "network", "netdev": "net0", "port": "1" })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::{Port, load, obstacles};
    use crate::disk::fat::{self, LEAST};
    use crate::disk::gpt::ALIGN;
    use crate::disk::ids::VolumeId;
    use crate::disk::mbr::{self, FAT32_LBA, LINUX};
    use crate::disk::overlay::{Overlay, Zeros};

    /// An image that model 3 boots, but for what `change` does to its files.
    fn image(path: &Path, change: impl Fn(&mut Vec<(&str, Vec<u8>)>)) {
        let mut kernel = vec![0; 4096];
        kernel[56..60].copy_from_slice(b"ARM\x64");
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&kernel).expect("gzip");
        let mut files: Vec<(&str, Vec<u8>)> = vec![
            ("config.txt", b"arm_64bit=1\nkernel=vmlinuz\ninitramfs a.gz,b.gz followkernel\n".to_vec()),
            ("cmdline.txt", b"console=serial0,115200 root=PARTUUID=0000002a-02 rootwait\n".to_vec()),
            ("vmlinuz", packed.finish().expect("gzip")),
            ("a.gz", b"first".to_vec()),
            ("b.gz", b"second".to_vec()),
            ("bcm2710-rpi-3-b.dtb", b"tree".to_vec()),
        ];
        files.extend(["bootcode.bin", "start.elf", "fixup.dat"].map(|name| (name, vec![1])));
        change(&mut files);
        let mut device = Overlay::new(Zeros, LEAST);
        fat::format(&mut device, LEAST, VolumeId(1), "BOOT", 0, |volume| {
            files.iter().try_for_each(|(path, content)| volume.write(path, content))
        })
        .expect("format");
        let image = File::create(path).expect("image");
        let size = LEAST + 2 * ALIGN;
        image.set_len(size).expect("size");
        for (at, bytes) in device.changes().expect("changes") {
            image.write_all_at(&bytes, ALIGN + at).expect("write");
        }
        let part = |kind, offset, size| mbr::Partition { kind, offset, size, active: false };
        let partitions = vec![part(FAT32_LBA, ALIGN, LEAST), part(LINUX, ALIGN + LEAST, ALIGN)];
        mbr::write(&image, size, &mbr::Table { disk_id: 42, partitions }).expect("table");
    }

    #[test]
    fn what_the_chain_names_is_loaded() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("card.img");
        image(&path, |_| ());
        let (chain, loaded) = load(&path, folder.path()).expect("load");
        assert_eq!(obstacles(&chain), None);
        let loaded = loaded.expect("sound");
        let read = |path: &Path| std::fs::read(path).expect("file");
        assert_eq!(read(&loaded.kernel).len(), 4096);
        assert_eq!(read(loaded.initramfs.as_deref().expect("initramfs")), b"firstsecond");
        assert_eq!(read(&loaded.device_tree), b"tree");
        assert_eq!(loaded.cmdline, "console=ttyS0,115200 root=PARTUUID=0000002a-02 rootwait");
        assert_eq!(loaded.console, Port::Mini);
        image(&path, |files| files[1].1 = b"console=ttyS0 console=ttyAMA0 root=/dev/mmcblk0p2".to_vec());
        assert_eq!(load(&path, folder.path()).expect("load").1.expect("sound").console, Port::First);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("card.img");
        image(&path, |files| files.retain(|(name, _)| *name != "vmlinuz"));
        let (chain, loaded) = load(&path, folder.path()).expect("load");
        assert_eq!(loaded, None);
        assert_eq!(
            obstacles(&chain).as_deref(),
            Some("model 3 would not start the kernel: config.txt names the kernel vmlinuz, which is missing")
        );
    }
}
