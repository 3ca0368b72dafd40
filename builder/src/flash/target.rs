//! What is written to, and everything that must be right about it before anything is written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::stat::{major, minor};
use serde::Serialize;

use super::medium::Disk;
use super::system::{Device, Number, System};
use crate::error::Problem;

/// What kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A disk or card.
    Disk,
    /// A loop device: somebody made it for this.
    Loop,
    /// A file.
    File,
}

/// A target as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// As it was named.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
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
pub struct Rules {
    /// Also disks that are built in.
    pub fixed: bool,
    /// Files that do not exist are made.
    pub create: bool,
}

/// A target and what tells it from others, and all that is wrong with it.
struct Found {
    target: Target,
    /// Device and inode, or the device's own numbers.
    identity: (u64, u64),
    /// The file below a loop device.
    backing: Option<(u64, u64)>,
    wrong: Vec<String>,
}

/// Looks at all targets; nothing is written or made.
///
/// # Errors
/// One [`Problem`] with everything that is wrong with any of them.
pub fn look(
    paths: &[PathBuf],
    image: &Path,
    size: u64,
    rules: Rules,
    system: &System,
) -> Result<Vec<Target>> {
    let image = fs::metadata(image).ok().map(|data| (data.dev(), data.ino()));
    let mut found: Vec<Found> = Vec::new();
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    for path in paths {
        let mut one = match find(path, size, rules, system) {
            Ok(one) => one,
            Err(reason) => {
                wrong.push(format!("{}: {reason}", path.display()));
                continue;
            }
        };
        let own = [Some(one.identity), one.backing];
        if own.contains(&image) && image.is_some() {
            one.wrong.push("it is the image itself".into());
        }
        for identity in own.into_iter().flatten() {
            if let Some(other) = seen.insert(identity, path.clone()) {
                one.wrong.push(format!("it is the same as {}", other.display()));
            }
        }
        wrong.extend(one.wrong.iter().map(|reason| format!("{}: {reason}", path.display())));
        found.push(one);
    }
    if wrong.is_empty() {
        return Ok(found.into_iter().map(|found| found.target).collect());
    }
    let message = format!("nothing was written, because not every target can be:\n  {}", wrong.join("\n  "));
    Err(Problem::input(message).hint("name only targets that may be overwritten whole").into())
}

fn find(path: &Path, size: u64, rules: Rules, system: &System) -> Result<Found, String> {
    let data = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && rules.create => return new_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err("it does not exist (--create makes a file)".into());
        }
        data => data.map_err(|error| error.to_string())?,
    };
    if data.is_file() {
        let mut wrong = Vec::new();
        if data.len() > 0 && data.len() < size {
            wrong.push(format!("it has {} bytes and the image {size} (an empty file grows)", data.len()));
        }
        let target = file(path, data.len());
        return Ok(Found { target, identity: (data.dev(), data.ino()), backing: None, wrong });
    }
    if !data.file_type().is_block_device() {
        return Err("it is neither a disk nor a file".into());
    }
    let number = (major(data.rdev()) as u32, minor(data.rdev()) as u32);
    let device = system.device(number).map_err(|error| format!("{error:#}"))?;
    Ok(block(path, number, device, size, rules))
}

/// A file that is not there yet, told from others by its folder and a number for its name.
fn new_file(path: &Path) -> Result<Found, String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let data = fs::metadata(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let name = path.file_name().ok_or("it has no name")?.as_encoded_bytes();
    let folder = format!("{}:{}:", data.dev(), data.ino());
    let sum = crate::units::Digest::of([folder.as_bytes(), name].concat()).0;
    let half = |at: usize| sum[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok(Found { target: file(path, 0), identity: (half(0), half(8)), backing: None, wrong: Vec::new() })
}

fn file(path: &Path, size: u64) -> Target {
    let transport = "file".into();
    Target { path: path.to_owned(), kind: Kind::File, model: None, serial: None, size, transport }
}

fn block(path: &Path, number: Number, device: Device, size: u64, rules: Rules) -> Found {
    let kind = if device.transport == "loop" { Kind::Loop } else { Kind::Disk };
    let mut wrong = Vec::new();
    if let Some(disk) = &device.partition_of {
        wrong.push(format!("it is a partition; the whole disk is {disk}"));
    }
    wrong.extend(device.users.iter().map(|user| format!("it is in use: {user}")));
    let removable = device.removable || ["usb", "mmc"].contains(&device.transport);
    if kind == Kind::Disk && !removable && !rules.fixed {
        wrong.push(format!(
            "it is a built-in disk ({}); --even-if-not-removable overwrites it all the same",
            device.transport
        ));
    }
    if device.read_only {
        wrong.push("it is write-protected (the card's switch?)".into());
    }
    match device.size {
        0 => wrong.push("it has no medium".into()),
        has if has < size => wrong.push(format!("it holds {has} bytes and the image has {size}")),
        _ => {}
    }
    let backing =
        device.backing.and_then(|path| fs::metadata(path).ok()).map(|data| (data.dev(), data.ino()));
    let target = Target {
        path: path.to_owned(),
        kind,
        model: device.model,
        serial: device.serial,
        size: device.size,
        transport: device.transport.into(),
    };
    // No file has a device of number 0.
    let identity = (0, u64::from(number.0) << 32 | u64::from(number.1));
    Found { target, identity, backing, wrong }
}

/// Opens all targets, so that none can be taken away any more; files that are missing are made. Nothing is written yet.
///
/// # Errors
/// One [`Problem`] with all that cannot be opened.
pub fn open(targets: &[Target]) -> Result<Vec<Disk>> {
    let mut wrong = Vec::new();
    let mut open = Vec::new();
    for target in targets {
        match open_one(target) {
            Ok(disk) => open.push(disk),
            Err(reason) => wrong.push(format!("{}: {reason}", target.path.display())),
        }
    }
    if wrong.is_empty() {
        return Ok(open);
    }
    let message =
        format!("nothing was written, because not every target can be opened:\n  {}", wrong.join("\n  "));
    Err(Problem::input(message)
        .hint("close what uses them; a device takes root, or membership of its group")
        .into())
}

fn open_one(target: &Target) -> Result<Disk, String> {
    if target.kind == Kind::File && !target.path.exists() {
        // An identity may come into it.
        create(&target.path).map_err(|error| error.to_string())?;
    }
    Disk::open(&target.path).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => "it is in use: somebody has it open for himself (a mapping, RAID, ZFS?)".into(),
        Some(libc::EROFS) => "it is write-protected".into(),
        Some(libc::ENOMEDIUM) => "it has no medium".into(),
        _ => error.to_string(),
    })
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::{Kind, Rules, block, look, open};
    use crate::flash::system::{Device, System};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    fn card() -> Device {
        Device {
            name: "sdb".into(),
            size: 1000,
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
        block(Path::new("/dev/sdb"), (8, 16), device, 1000, Rules::default()).wrong
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
        assert!(block(Path::new("/dev/x"), (259, 0), device, 1000, fixed).wrong.is_empty());
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
            look(&paths, &at("image"), 100, rules, &System::default()).map_err(|error| error.to_string())
        };
        let refused = |names: &[&str], rules| look(names, rules).expect_err("refused");
        let found = look(&["a", "large", "new"], create).expect("all good");
        assert!(found.iter().all(|target| target.kind == Kind::File) && !at("new").exists());
        assert!(refused(&["new"], Rules::default()).ends_with("it does not exist (--create makes a file)"));
        let several = refused(&["also", "small", "a", "link"], create);
        for expected in ["also: it is the image itself", "small: it has 99 bytes", "link: it is the same as "]
        {
            assert!(several.contains(expected), "{several}");
        }
        assert!(refused(&["new", "./new"], create).contains("it is the same as"));
        assert!(refused(&[""], create).contains("neither a disk nor a file"), "a folder");
        assert_eq!(open(&found).expect("open").len(), 3);
        assert!(at("new").exists());
    }
}
