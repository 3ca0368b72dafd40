//! What is written to, and everything that must be right about it before anything is written.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::system::{Below, Device, Node, Number, System};
use crate::error::Problem;

/// Bytes of a sector, as the partition tables of images count them.
const SECTOR: u64 = 512;
const NO_CARD: &str =
    "a file among the devices lies in memory and is no card (is the card in? lsblk lists them)";

/// What kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetKind {
    /// A disk or card.
    Disk,
    /// A loop device: somebody made it for this.
    Loop,
    /// A file.
    File,
}

/// A target as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Target {
    /// As it was named.
    pub path: PathBuf,
    /// What it is.
    pub kind: TargetKind,
    /// Its maker's name of it.
    pub model: Option<String>,
    /// Its serial.
    pub serial: Option<String>,
    /// Bytes that it holds; a file without any becomes as long as the image.
    pub size: u64,
    /// How it is connected.
    pub transport: String,
}

/// What may be written to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// Also disks that are built in.
    pub fixed: bool,
    /// Files that do not exist are made.
    pub create: bool,
}

/// A target and what tells it from others, and all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// It.
    pub target: Target,
    /// What it is, by whatever name; a file that is not there yet has a number of its name's.
    pub node: Node,
    /// What the kernel knows of a device.
    pub device: Option<Device>,
    /// What a loop device is made of.
    pub below: Vec<Below>,
    /// A file that is not there yet.
    pub missing: bool,
    /// Why it cannot be written to.
    pub wrong: Vec<String>,
}

/// What targets are looked at with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look<'a> {
    /// Bytes of the image.
    pub size: u64,
    /// What may be written to.
    pub rules: Rules,
    /// Who is asked about devices.
    pub system: &'a System,
}

impl Look<'_> {
    /// Looks at all targets; nothing is written or made.
    ///
    /// # Errors
    /// One [`Problem`] with everything that is wrong with any of them.
    pub(crate) fn all(&self, paths: &[PathBuf], image: &Path) -> Result<Vec<Candidate>> {
        let image = fs::metadata(image).ok().map(|data| Node::of(&data));
        let mut found: Vec<Candidate> = Vec::new();
        let mut wrong = Vec::new();
        let mut seen: BTreeMap<Node, PathBuf> = BTreeMap::new();
        for path in paths {
            let mut one = match self.find(path) {
                Ok(one) => one,
                Err(reason) => {
                    wrong.push(format!("{}: {reason}", path.display()));
                    continue;
                }
            };
            let own: Vec<Node> = [one.node].into_iter().chain(one.below.iter().map(|it| it.node)).collect();
            if image.is_some_and(|image| own.contains(&image)) {
                one.wrong.push("it is the image itself".into());
            }
            for node in own {
                if let Some(other) = seen.insert(node, path.clone()) {
                    one.wrong.push(format!("it is the same as {}", other.display()));
                }
            }
            wrong.extend(one.wrong.iter().map(|reason| format!("{}: {reason}", path.display())));
            found.push(one);
        }
        if wrong.is_empty() {
            return Ok(found);
        }
        let message =
            format!("nothing was written, because not every target can be:\n  {}", wrong.join("\n  "));
        Err(Problem::input(message).hint("name only targets that may be overwritten whole").into())
    }

    fn find(&self, path: &Path) -> Result<Candidate, String> {
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.rules.create => self.new_file(path),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err("it does not exist (--create makes a file)".into())
            }
            data => self.describe(path, &data.map_err(|error| error.to_string())?),
        }
    }

    /// A target that is there: what `data` says of it, of its name or of what was opened.
    ///
    /// # Errors
    /// Says why it can be none.
    pub(crate) fn describe(&self, path: &Path, data: &Metadata) -> Result<Candidate, String> {
        match Node::of(data) {
            Node::Disk(number) => self.device(path, number),
            Node::File(..) if data.is_file() => Ok(self.file(path, data)),
            Node::File(..) => Err("it is neither a disk nor a file".into()),
        }
    }

    fn device(&self, path: &Path, number: Number) -> Result<Candidate, String> {
        let node = Node::Disk(number);
        let device = self.system.device(number).map_err(|error| format!("{error:#}"))?;
        let mut wrong = judge(&device, self.size, self.rules);
        let loops = |node, but: &str| {
            let others = self.system.loops(node).into_iter().filter(|name| name != but);
            others.map(|name| format!("it is in use: {name} is made of it")).collect::<Vec<_>>()
        };
        wrong.extend(loops(node, ""));
        // Who writes to a loop device writes to what is below it.
        let below = self.system.below(&device);
        let mut above = &device.name;
        for it in &below {
            let judged = it.device.iter().flat_map(|device| unfit(device, self.rules));
            let reasons = judged.chain(loops(it.node, above));
            wrong
                .extend(reasons.map(|reason| format!("what it is made of, {}: {reason}", it.path.display())));
            above = it.device.as_ref().map_or(above, |device| &device.name);
        }
        let target = Target {
            path: path.to_owned(),
            kind: if device.transport == "loop" { TargetKind::Loop } else { TargetKind::Disk },
            model: device.model.clone(),
            serial: device.serial.clone(),
            size: device.size,
            transport: device.transport.into(),
        };
        Ok(Candidate { target, node, device: Some(device), below, missing: false, wrong })
    }

    fn file(&self, path: &Path, data: &Metadata) -> Candidate {
        let (node, size) = (Node::of(data), self.size);
        let mut wrong = Vec::new();
        if data.len() > 0 && data.len() < size {
            wrong.push(format!("it has {} bytes and the image {size} (an empty file grows)", data.len()));
        }
        let loops = self.system.loops(node);
        wrong.extend(loops.iter().map(|name| format!("it is in use: {name} is made of it")));
        let folder = fs::canonicalize(path).ok().and_then(|path| Some(path.parent()?.to_owned()));
        if self.among_devices(&folder.unwrap_or_default(), data) {
            wrong.push(NO_CARD.into());
        }
        let target = file(path, data.len());
        Candidate { target, node, device: None, below: Vec::new(), missing: false, wrong }
    }

    /// A file that is not there yet, told from others by its folder and a number for its name.
    fn new_file(&self, path: &Path) -> Result<Candidate, String> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let unusable = |error| format!("{}: {error}", folder.display());
        let data = fs::metadata(folder).map_err(unusable)?;
        if self.among_devices(&fs::canonicalize(folder).map_err(unusable)?, &data) {
            return Err(format!("it does not exist, and is not made: {NO_CARD}"));
        }
        let name = path.file_name().ok_or("it has no name")?.as_encoded_bytes();
        let folder = format!("{}:{}:", data.dev(), data.ino());
        let sum = crate::units::Digest::of([folder.as_bytes(), name].concat()).0;
        let half = |at: usize| sum[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let node = Node::File(half(0), half(8));
        let (target, below) = (file(path, 0), Vec::new());
        Ok(Candidate { target, node, device: None, below, missing: true, wrong: Vec::new() })
    }

    /// Where the names of devices are, and a file is most likely a card that was pulled out. `/dev/shm` is for files.
    fn among_devices(&self, folder: &Path, data: &Metadata) -> bool {
        let below = folder.starts_with("/dev") && !folder.starts_with("/dev/shm");
        below || self.system.is_devtmpfs(data.dev())
    }
}

fn file(path: &Path, size: u64) -> Target {
    let transport = "file".into();
    Target { path: path.to_owned(), kind: TargetKind::File, model: None, serial: None, size, transport }
}

/// Why a device cannot be written to.
fn judge(device: &Device, size: u64, rules: Rules) -> Vec<String> {
    let mut wrong = unfit(device, rules);
    if device.read_only {
        wrong.push("it is write-protected (the card's switch?)".into());
    }
    match device.size {
        0 => wrong.push("it has no medium".into()),
        has if has < size => wrong.push(format!("it holds {has} bytes and the image has {size}")),
        _ => {}
    }
    wrong
}

/// Why it cannot, of a loop device's own disk as well.
fn unfit(device: &Device, rules: Rules) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(disk) = &device.partition_of {
        wrong.push(format!("it is a partition; the whole disk is {disk}"));
    }
    wrong.extend(device.users.iter().map(|user| format!("it is in use: {user}")));
    // Somebody made a loop device for this; what it is made of is judged besides.
    let removable = device.removable || ["usb", "mmc", "loop"].contains(&device.transport);
    if !removable && !rules.fixed {
        wrong.push(format!(
            "it is a built-in disk ({}); --even-if-not-removable overwrites it all the same",
            device.transport
        ));
    }
    if device.sector != SECTOR {
        wrong.push(format!(
            "its sectors have {} bytes, and the image's partition table counts in {SECTOR}: nothing would boot from it \
             (some disks and USB bridges can be switched)",
            device.sector
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Look, Rules, TargetKind, judge};
    use crate::flash::system::{Device, System, tests::loops};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    fn card() -> Device {
        Device {
            name: "sdb".into(),
            size: 1000,
            sector: 512,
            sequence: None,
            partition_of: None,
            model: None,
            serial: None,
            transport: "usb",
            removable: false,
            read_only: false,
            backing: None,
            users: Vec::new(),
        }
    }

    fn wrong(change: impl Fn(&mut Device)) -> Vec<String> {
        let mut device = card();
        change(&mut device);
        judge(&device, 1000, Rules::default())
    }

    #[test]
    fn what_a_disk_must_not_be() {
        assert_eq!(wrong(|_| {}), [""; 0]);
        for (found, expected) in [
            (wrong(|it| it.size = 999), "it holds 999 bytes and the image has 1000"),
            (wrong(|it| it.size = 0), "it has no medium"),
            (wrong(|it| it.read_only = true), "it is write-protected"),
            (wrong(|it| it.partition_of = Some("sdb".into())), "the whole disk is sdb"),
            (wrong(|it| it.users.push("sdb1 is swap".into())), "it is in use: sdb1 is swap"),
            (wrong(|it| it.sector = 4096), "its sectors have 4096 bytes"),
            (wrong(|it| it.transport = "ata"), "--even-if-not-removable"),
            (wrong(|it| it.transport = "virtio"), "it is a built-in disk (virtio)"),
        ] {
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
        assert_eq!(wrong(|it| it.transport = "mmc"), [""; 0]);
        assert_eq!(wrong(|it| (it.transport, it.removable) = ("ata", true)), [""; 0]);
        assert_eq!(wrong(|it| it.transport = "loop"), [""; 0]);
        let fixed = Rules { fixed: true, create: false };
        let device = Device { transport: "nvme", ..card() };
        assert!(judge(&device, 1000, fixed).is_empty());
    }

    #[test]
    fn files_are_what_they_are_by_whatever_name() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        for (name, size) in [("image", 100), ("a", 0), ("large", 100), ("small", 99)] {
            fs::write(at(name), vec![0; size]).expect("write");
        }
        symlink(at("a"), at("link")).expect("link");
        symlink(at("image"), at("also")).expect("link");
        let create = Rules { create: true, fixed: false };
        let look = |names: &[&str], rules| {
            let paths: Vec<PathBuf> = names.iter().map(|name| at(name)).collect();
            let look = Look { size: 100, rules, system: &System::default() };
            look.all(&paths, &at("image")).map_err(|error| error.to_string())
        };
        let refused = |names: &[&str], rules| look(names, rules).expect_err("refused");
        let found = look(&["a", "large", "new"], create).expect("all good");
        assert!(found.iter().all(|found| found.target.kind == TargetKind::File) && !at("new").exists());
        assert!(refused(&["new"], Rules::default()).ends_with("it does not exist (--create makes a file)"));
        let several = refused(&["also", "small", "a", "link"], create);
        for expected in ["also: it is the image itself", "small: it has 99 bytes", "link: it is the same as "]
        {
            assert!(several.contains(expected), "{several}");
        }
        assert!(refused(&["new", "./new"], create).contains("it is the same as"));
        assert!(refused(&[""], create).contains("neither a disk nor a file"), "a folder");
        assert_eq!(found.iter().map(|found| found.missing).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_file_among_devices_is_no_card() {
        let create = Rules { create: true, fixed: false };
        let look = Look { size: 100, rules: create, system: &System::default() };
        let wrong = |path: &str| look.find(Path::new(path)).expect_err("refused");
        for path in ["/dev/edgepress-sdz", "/dev/../dev/edgepress-sdz", "/proc/self/root/dev/edgepress-sdz"] {
            assert!(wrong(path).contains("lies in memory and is no card"), "{path}: {}", wrong(path));
        }
        assert!(!look.among_devices(Path::new("/dev/shm"), &fs::metadata("/").expect("root")));
    }

    /// What a loop device is made of is written to: the rules are the same, and it is known again.
    #[test]
    fn below_loop_devices() {
        let folder = tempfile::tempdir().expect("folder");
        let (file, other) = (folder.path().join("disk.img"), folder.path().join("other"));
        fs::write(&file, [0; 100]).expect("write");
        let (_machine, system) = loops(&file);
        let look = Look { size: 100, rules: Rules::default(), system: &system };
        let device = |number| look.device(Path::new("/dev/x"), number).expect("a device");
        let wrong = |found: Candidate| found.wrong;
        // loop1 is made of sdc, loop2 of its partition.
        assert_eq!(
            wrong(device((7, 1))),
            [
                "what it is made of, /dev/sdc: it is in use: sdc1 is mounted on /mnt/a b",
                "what it is made of, /dev/sdc: it is in use: sdc2 is swap",
                "what it is made of, /dev/sdc: it is in use: loop2 is made of it"
            ]
        );
        assert!(
            wrong(device((7, 2))).contains(
                &"what it is made of, /dev/sdc1: it is a partition; the whole disk is sdc".to_owned()
            )
        );
        assert!(wrong(device((8, 32))).contains(&"it is in use: loop1 is made of it".to_owned()));
        // loop4 of loop3, loop3 of a file.
        assert_eq!(wrong(device((7, 3))), ["it is in use: loop4 is made of it"]);
        assert_eq!(wrong(device((7, 4))), [""; 0]);
        let refused = look.all(std::slice::from_ref(&file), &other).expect_err("refused").to_string();
        assert!(refused.ends_with("disk.img: it is in use: loop3 is made of it"), "{refused}");
    }
}
