//! What the kernel knows of block devices: who they are, and who uses them.
//!
//! ```text
//! /sys/dev/block/8:16 ─► /sys/devices/pci…/usb1/1-2/…/block/sdb     size, ro, removable, device/{model,serial,…}
//!                                                       ├─ holders/     a mapping, RAID or volume group on it
//!                                                       ├─ diskseq      counts on when another medium is put in
//!                                                       ├─ queue/       logical_block_size
//!                                                       └─ sdb1/        partition, dev, holders/
//! /sys/class/block/loop* ─► loop/backing_file
//! /proc/self/mountinfo, /proc/swaps
//! ```
//! Devices are told apart by their numbers, never by their names: `/dev/sda` is a prefix of `/dev/sdaa`.
//! Sources: Documentation/ABI/testing/sysfs-block and proc(5).

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::stat::{major, minor};

/// Numbers of a block device: major, minor.
pub(crate) type Number = (u32, u32);

/// Loop devices over loop devices are followed so far.
const DEEPEST: usize = 8;

/// What a name leads to, told from others whatever they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// A block device.
    Disk(Number),
    /// A file: its file system's number, and its own.
    File(u64, u64),
}

impl Node {
    /// Of what was found.
    pub(crate) fn of(data: &Metadata) -> Self {
        if data.file_type().is_block_device() {
            return Self::Disk(numbers(data.rdev()));
        }
        Self::File(data.dev(), data.ino())
    }
}

fn numbers(device: u64) -> Number {
    (major(device) as u32, minor(device) as u32)
}

/// What a loop device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Below {
    /// Its name.
    pub path: PathBuf,
    /// What it is.
    pub node: Node,
    /// What the kernel knows of it, if it is a device.
    pub device: Option<Device>,
}

/// The kernel's view; the tests have folders of their own.
#[derive(Debug, Clone)]
pub(crate) struct System {
    sys: PathBuf,
    proc: PathBuf,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The kernel's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a sector, as its partition table counts them.
    pub sector: u64,
    /// Another number than before is another medium; kernels before 5.15 do not count.
    pub sequence: Option<u64>,
    /// The disk that it is a partition of.
    pub partition_of: Option<String>,
    /// Its maker's name of it.
    pub model: Option<String>,
    /// Its serial.
    pub serial: Option<String>,
    /// How it is connected.
    pub transport: &'static str,
    /// Its medium can be taken out, or it says so.
    pub removable: bool,
    /// Its write protection is on.
    pub read_only: bool,
    /// What a loop device is made of.
    pub backing: Option<PathBuf>,
    /// Why it must not be written: who uses it or a partition of it.
    pub users: Vec<String>,
}

impl Default for System {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

impl System {
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { sys: root.join("sys"), proc: root.join("proc") }
    }

    /// The device with these numbers.
    ///
    /// # Errors
    /// When the kernel does not tell of it.
    pub(crate) fn device(&self, (major, minor): Number) -> Result<Device> {
        let link = self.sys.join(format!("dev/block/{major}:{minor}"));
        let folder = fs::canonicalize(&link).with_context(|| format!("looking at {}", link.display()))?;
        let name = name_of(&folder);
        let partition = folder.join("partition").exists();
        let partition_of = if partition { folder.parent().map(name_of) } else { None };
        let removable = text(&folder.join("removable")).as_deref() == Some("1");
        let number = |name: &str| text(&folder.join(name)).and_then(|text| text.parse::<u64>().ok());
        Ok(Device {
            // In units of 512 bytes, whatever its sectors are.
            size: number("size").unwrap_or(0) * 512,
            sector: number("queue/logical_block_size").unwrap_or(512),
            sequence: number("diskseq"),
            partition_of,
            model: model(&folder),
            serial: serial(&folder),
            transport: transport(&folder, &name),
            removable,
            read_only: text(&folder.join("ro")).as_deref() == Some("1"),
            backing: backing(&folder),
            users: self.users(&folder),
            name,
        })
    }

    /// What a loop device is made of, and what that is made of in its turn.
    pub(crate) fn below(&self, device: &Device) -> Vec<Below> {
        let mut found = Vec::new();
        let mut next = device.backing.clone();
        while let Some(path) = next.take().filter(|_| found.len() < DEEPEST) {
            let Some(node) = self.node(&path) else { break };
            let device = match node {
                Node::Disk(number) => self.device(number).ok(),
                Node::File(..) => None,
            };
            next = device.as_ref().and_then(|device| device.backing.clone());
            found.push(Below { path, node, device });
        }
        found
    }

    /// Names of the loop devices that are made of this, or of a partition of it.
    pub(crate) fn loops(&self, node: Node) -> Vec<String> {
        let mut nodes = vec![node];
        if let Node::Disk((major, minor)) = node {
            let parts = list(&self.sys.join(format!("dev/block/{major}:{minor}")));
            let parts = parts.iter().filter(|part| part.join("partition").exists());
            nodes.extend(parts.filter_map(|part| number(part)).map(Node::Disk));
        }
        let made_of = |folder: &PathBuf| {
            backing(folder).and_then(|path| self.node(&path)).is_some_and(|node| nodes.contains(&node))
        };
        let loops = list(&self.sys.join("class/block")).into_iter().filter(made_of);
        loops.map(|folder| name_of(&folder)).collect()
    }

    /// What a path leads to: by the kernel's name of a device, else by its node.
    fn node(&self, path: &Path) -> Option<Node> {
        let named = path.to_str().and_then(|path| self.number_of(path)).map(Node::Disk);
        named.or_else(|| fs::metadata(path).ok().map(|data| Node::of(&data)))
    }

    /// Is the file system of this number the one that the kernel keeps the nodes of devices in?
    pub(crate) fn is_devtmpfs(&self, device: u64) -> bool {
        let table = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        table.lines().any(|line| {
            let number = line.split(' ').nth(2).and_then(parse);
            let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
            number == Some(numbers(device)) && kind == Some("devtmpfs")
        })
    }

    /// Who uses a disk or one of its partitions.
    fn users(&self, folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let (mounted, swaps) = (self.mounted(), self.swaps());
        let children = list(folder).into_iter().filter(|child| child.join("partition").exists());
        for part in [folder.to_owned()].into_iter().chain(children) {
            let name = name_of(&part);
            for holder in list(&part.join("holders")) {
                found.push(format!("{name} is held by {}", name_of(&holder)));
            }
            let Some(number) = number(&part) else { continue };
            let here = mounted.iter().filter(|(mounted, _)| *mounted == number);
            found.extend(here.map(|(_, place)| format!("{name} is mounted on {place}")));
            if swaps.contains(&number) {
                found.push(format!("{name} is swap"));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// What is mounted where, by the number of the file system and by its source: btrfs has numbers of its own.
    fn mounted(&self) -> Vec<(Number, String)> {
        let table = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        let mut found = Vec::new();
        for line in table.lines() {
            let mut fields = line.split(' ');
            let (Some(numbers), Some(place)) = (fields.nth(2).and_then(parse), fields.nth(1)) else {
                continue;
            };
            found.push((numbers, unescape(place)));
            let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
            let by_source = source.and_then(|source| self.number_of(&unescape(source)));
            found.extend(by_source.map(|number| (number, unescape(place))));
        }
        found
    }

    fn swaps(&self) -> Vec<Number> {
        let table = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        let names = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        names.filter_map(|name| self.number_of(&unescape(name))).collect()
    }

    /// The numbers of a node in /dev.
    fn number_of(&self, path: &str) -> Option<Number> {
        path.starts_with("/dev/").then_some(())?;
        // /dev/mapper/… and /dev/disk/by-…/… are links.
        let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        // The kernel has ! where a name in /dev has a slash.
        let name = resolved.strip_prefix("/dev").ok()?.to_string_lossy().replace('/', "!");
        number(&self.sys.join("class/block").join(name))
    }
}

fn parse(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn number(folder: &Path) -> Option<Number> {
    parse(&text(&folder.join("dev"))?)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

/// A file of one value; none where it is empty.
fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    // What a device says of itself may be anything: it comes onto terminals and into the ledger.
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The file or device that a loop device is made of.
fn backing(folder: &Path) -> Option<PathBuf> {
    let mut path = fs::read(folder.join("loop/backing_file")).ok()?;
    path.pop_if(|last| *last == b'\n');
    (!path.is_empty()).then(|| OsString::from_vec(path).into())
}

/// Spaces and the like stand as `\040` in the kernel's tables.
fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code.filter(|_| *first == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn model(folder: &Path) -> Option<String> {
    let device = folder.join("device");
    // SCSI, USB and NVMe have `model`; MMC and SD cards a `name`.
    let vendor = text(&device.join("vendor")).filter(|vendor| !vendor.starts_with("0x") && vendor != "ATA");
    let model = text(&device.join("model")).or_else(|| text(&device.join("name")));
    match (vendor, model) {
        (Some(vendor), Some(model)) => Some(format!("{vendor} {model}")),
        (vendor, model) => model.or(vendor),
    }
}

/// The card's, the disk's, or that of the USB device which it hangs on.
fn serial(folder: &Path) -> Option<String> {
    let own = [folder.join("serial"), folder.join("device/serial")];
    own.iter().find_map(|path| text(path)).or_else(|| {
        let usb = folder.ancestors().find(|folder| folder.join("idVendor").exists())?;
        text(&usb.join("serial"))
    })
}

fn transport(folder: &Path, name: &str) -> &'static str {
    let has = |part: &str| folder.iter().any(|found| found.to_string_lossy().starts_with(part));
    match () {
        () if name.starts_with("loop") => "loop",
        () if name.starts_with("mmcblk") => "mmc",
        () if has("usb") => "usb",
        () if has("nvme") => "nvme",
        () if has("ata") => "ata",
        () if has("virtio") => "virtio",
        () => "other",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Device, Node, System, unescape};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, text).expect("write");
    }

    /// A block device in a root of its own: name, numbers, place below /sys/devices.
    fn device(root: &Path, place: &str, number: &str, values: &[(&str, &str)]) {
        let folder = format!("sys/devices/{place}");
        put(root, &format!("{folder}/dev"), &format!("{number}\n"));
        for (name, value) in values {
            put(root, &format!("{folder}/{name}"), &format!("{value}\n"));
        }
        let name = place.rsplit('/').next().expect("a name");
        for link in [format!("sys/dev/block/{number}"), format!("sys/class/block/{name}")] {
            fs::create_dir_all(root.join(&link).parent().expect("parent")).expect("folder");
            symlink(root.join(&folder), root.join(&link)).expect("link");
        }
    }

    /// For the tests of targets: a loop device over a card that is in use, one over its partition, and one over a file.
    pub(crate) fn loops(file: &Path) -> (tempfile::TempDir, System) {
        let folder = machine();
        let root = folder.path();
        let made_of = |name: &str, number: &str, of: &str| {
            device(
                root,
                &format!("virtual/block/{name}"),
                number,
                &[("size", "8"), ("loop/backing_file", of)],
            );
        };
        made_of("loop1", "7:1", "/dev/sdc");
        made_of("loop2", "7:2", "/dev/sdc1");
        made_of("loop3", "7:3", file.to_str().expect("UTF-8"));
        made_of("loop4", "7:4", "/dev/loop3");
        let system = System::at(root);
        (folder, system)
    }

    const READER: &str = "pci0/usb1/1-2/1-2:1.0/host0/block/sdb";

    /// A machine with a disk that it runs from, two cards in readers, one of them in use, and a loop device.
    fn machine() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        let sized = |size| [("size", size), ("ro", "0"), ("removable", "0")];
        device(root, "pci0/ata1/host1/block/sda", "8:0", &sized("1000"));
        device(root, "pci0/ata1/host1/block/sda/sda2", "8:2", &[("partition", "2"), ("size", "900")]);
        device(root, READER, "8:16", &[("size", "2048"), ("ro", "1"), ("removable", "1")]);
        put(root, &format!("sys/devices/{READER}/queue/logical_block_size"), "4096\n");
        put(root, &format!("sys/devices/{READER}/diskseq"), "12\n");
        put(root, &format!("sys/devices/{READER}/device/vendor"), "Generic \n");
        put(root, &format!("sys/devices/{READER}/device/model"), "STORAGE \u{1b}[31mDEVICE\n");
        put(root, "sys/devices/pci0/usb1/1-2/idVendor", "0951\n");
        put(root, "sys/devices/pci0/usb1/1-2/serial", "E0D55\n");
        device(root, "platform/mmc0/mmc0:0001/block/mmcblk0", "179:0", &sized("4096"));
        put(root, "sys/devices/platform/mmc0/mmc0:0001/block/mmcblk0/device/name", "SC64G");
        put(root, "sys/devices/platform/mmc0/mmc0:0001/block/mmcblk0/device/serial", "0x1234abcd");
        device(root, "platform/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p1", "179:1", &[("partition", "1")]);
        put(root, "sys/devices/platform/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p1/holders/dm-0/x", "");
        device(root, "virtual/block/loop7", "7:7", &[("size", "8"), ("loop/backing_file", "/srv/x.img")]);
        // A name that begins like another's.
        device(root, "pci0/usb1/1-3/host9/block/sdaa", "65:160", &sized("4096"));
        device(root, "pci0/usb1/1-4/host8/block/sdc", "8:32", &sized("4096"));
        device(root, "pci0/usb1/1-4/host8/block/sdc/sdc1", "8:33", &[("partition", "1")]);
        device(root, "pci0/usb1/1-4/host8/block/sdc/sdc2", "8:34", &[("partition", "2")]);
        put(
            root,
            "proc/self/mountinfo",
            "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n23 1 0:30 / /mnt/a\\040b rw shared:1 - btrfs /dev/sdc1 rw\nnonsense\n",
        );
        put(
            root,
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/sdc2 partition 1 0 -2\n/swap\\040file file 1 0 -3\n",
        );
        folder
    }

    fn look(root: &Path, number: (u32, u32)) -> Device {
        System::at(root).device(number).expect("a device")
    }

    #[test]
    fn who_a_device_is() {
        let machine = machine();
        let card = look(machine.path(), (8, 16));
        assert_eq!(card.name, "sdb");
        assert_eq!((card.size, card.removable, card.read_only), (2048 * 512, true, true));
        assert_eq!((card.sector, card.sequence), (4096, Some(12)));
        // What is printed cannot move the terminal's cursor.
        assert_eq!(card.model.as_deref(), Some("Generic STORAGE [31mDEVICE"));
        assert_eq!((card.serial.as_deref(), card.transport), (Some("E0D55"), "usb"));
        let card = look(machine.path(), (179, 0));
        assert_eq!((card.model.as_deref(), card.serial.as_deref()), (Some("SC64G"), Some("0x1234abcd")));
        assert_eq!((card.transport, card.sector, card.sequence), ("mmc", 512, None));
        let part = look(machine.path(), (8, 2));
        assert_eq!(part.partition_of.as_deref(), Some("sda"));
        let made = look(machine.path(), (7, 7));
        assert_eq!((made.backing, made.transport), (Some("/srv/x.img".into()), "loop"));
        assert!(System::at(machine.path()).device((9, 9)).is_err());
    }

    #[test]
    fn who_uses_a_device() {
        let machine = machine();
        let users = |number| look(machine.path(), number).users;
        assert_eq!(users((8, 0)), ["sda2 is mounted on /"]);
        assert_eq!(users((8, 16)), [""; 0]);
        assert_eq!(users((65, 160)), [""; 0], "sdaa is not sda");
        assert_eq!(users((179, 0)), ["mmcblk0p1 is held by dm-0"]);
        // By the mount's source, and by the table of swaps.
        assert_eq!(users((8, 32)), ["sdc1 is mounted on /mnt/a b", "sdc2 is swap"]);
    }

    #[test]
    fn what_loop_devices_are_made_of() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let (_machine, system) = loops(file.path());
        let node = Node::of(&file.path().metadata().expect("file"));
        let below = |number| {
            let found = system.below(&system.device((7, number)).expect("a device"));
            found.into_iter().map(|below| below.node).collect::<Vec<_>>()
        };
        assert_eq!(below(1), [Node::Disk((8, 32))]);
        assert_eq!(below(4), [Node::Disk((7, 3)), node]);
        assert_eq!(below(7), [], "its file is not there");
        assert_eq!(system.loops(node), ["loop3"]);
        assert_eq!(system.loops(Node::Disk((8, 32))), ["loop1", "loop2"]);
        assert_eq!(system.loops(Node::Disk((8, 16))), [""; 0]);
    }

    #[test]
    fn where_nodes_of_devices_are() {
        let machine = machine();
        let table = "24 27 0:6 / /dev rw - devtmpfs devtmpfs rw\n25 24 0:23 / /dev/shm rw shared:1 - tmpfs tmpfs rw\n";
        fs::write(machine.path().join("proc/self/mountinfo"), table).expect("write");
        let system = System::at(machine.path());
        assert!(system.is_devtmpfs(6) && !system.is_devtmpfs(23) && !system.is_devtmpfs(7));
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\040b\134"), r"a b\");
        for text in ["\\", "\\0", "\\999", "é\\04", "\\777"] {
            unescape(text);
        }
    }
}
