//! What of a machine is no container's: folders with keys, sockets through which keys are used or containers made, devices.
//!
//! *Private*: a path that makes whoever has it the device, or root on it. A bind that is one, lies in one or holds one shows it
//! to the container, whatever firewall there is.

use std::path::{Component, Path, PathBuf};

/// Private folders and sockets, and what they are. `/var/run` is `/run`.
const PRIVATE: [(&str, &str); 14] = [
    ("/var/secrets", "the device's private key"),
    ("/var/lib/aziot", "the runtime's keys"),
    ("/etc/aziot", "the runtime's configuration and secrets"),
    ("/run/aziot", "the sockets that sign with the device's key"),
    ("/var/opt/azcmagent", "what the agent of Azure Arc gives tokens for"),
    ("/var/lib/waagent", "the settings and certificates of Azure's agent"),
    ("/run/docker.sock", DOCKER),
    ("/run/docker", DOCKER),
    ("/run/containerd", DOCKER),
    ("/var/lib/docker", "the files of all modules"),
    ("/var/lib/containerd", "the files of all modules"),
    ("/boot", "the partition with a device's identity"),
    ("/etc/ssh", "the machine's SSH host keys"),
    ("/etc/shadow", "the passwords of the machine's accounts"),
];
const DOCKER: &str = "the engine, and with it the machine";

/// Devices that hold the machine's memory or disks, or its TPM, by the beginnings of their names (the kernel's
/// Documentation/admin-guide/devices.txt). Serial ports, cameras and the like are not among them.
const DEVICES: [(&str, &str); 15] = [
    ("mem", "the machine's memory"),
    ("kmem", "the machine's memory"),
    ("port", "the machine's memory"),
    ("tpm", "the TPM, which signs with the device's key"),
    ("sd", DISKS),
    ("hd", DISKS),
    ("vd", DISKS),
    ("xvd", DISKS),
    ("nvme", DISKS),
    ("mmcblk", DISKS),
    ("md", DISKS),
    ("dm-", DISKS),
    ("mapper", DISKS),
    ("disk", DISKS),
    ("block", DISKS),
];
const DISKS: &str = "the machine's disks, whatever the rights of files are";

/// The private place that a bind of `source` shows, and what it is.
pub fn place(source: &str) -> Option<(&'static str, &'static str)> {
    let clean = clean(source);
    PRIVATE
        .into_iter()
        .find(|(private, _)| clean.starts_with(private) || Path::new(private).starts_with(&clean))
}

/// What a container has of a machine that is given this device, if it is more than the device. A folder gives all in it.
pub fn device(path: &str) -> Option<&'static str> {
    let clean = clean(path);
    if Path::new("/dev").starts_with(&clean) {
        return Some("all devices, the machine's disks among them");
    }
    let name = clean.strip_prefix("/dev").ok()?.components().next()?.as_os_str().to_str()?;
    // Whole names, or followed by what counts disks: not /dev/media0, /dev/mdio.
    DEVICES
        .into_iter()
        .find(|(begin, _)| name.strip_prefix(begin).is_some_and(|rest| counts(begin, rest)))
        .map(|(_, what)| what)
}

fn counts(begin: &str, rest: &str) -> bool {
    let digits = rest.starts_with(|c: char| c.is_ascii_digit());
    match begin {
        "sd" | "hd" | "vd" | "xvd" => {
            let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
            (1..=2).contains(&letters.len()) && letters.bytes().all(|byte| byte.is_ascii_lowercase())
        }
        "nvme" | "mmcblk" | "md" | "dm-" => digits,
        "tpm" => digits || rest.starts_with("rm"),
        _ => rest.is_empty(),
    }
}

/// Is it the engine's socket, by either name?
pub fn is_engine_socket(source: &str) -> bool {
    clean(source) == Path::new("/run/docker.sock")
}

/// Without `.`, `..` and doubled slashes, and by the name that is no link.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
        if clean == Path::new("/var/run") {
            clean = PathBuf::from("/run");
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::{device, place};

    #[test]
    fn what_a_bind_shows() {
        for (source, shown) in [
            ("/", "/var/secrets"),
            ("/var", "/var/secrets"),
            ("/var/lib/aziot/keyd/keys", "/var/lib/aziot"),
            ("/var/run", "/run/aziot"),
            ("/var/run/docker.sock", "/run/docker.sock"),
            ("/srv/../var//run/./aziot", "/run/aziot"),
            ("/var/opt/azcmagent/tokens", "/var/opt/azcmagent"),
            ("/boot/efi", "/boot"),
            ("/etc", "/etc/aziot"),
            ("/var/lib/docker/volumes", "/var/lib/docker"),
        ] {
            assert_eq!(place(source).map(|(private, _)| private), Some(shown), "{source}");
        }
        for source in [
            "/var/lib/edgepress/agent",
            "/iotedge/storage",
            "/var/secretsx",
            "/etc/localtime",
            "/run/iotedge",
            "/run/udev",
        ] {
            assert_eq!(place(source), None, "{source}");
        }
    }

    #[test]
    fn devices() {
        for path in [
            "/dev/mem",
            "/dev/sda",
            "/dev/sda1",
            "/dev//sdab",
            "/dev/nvme0n1",
            "/dev/mmcblk0p2",
            "/dev/dm-0",
            "/dev/mapper/x",
            "/dev/disk/by-id/x",
            "/dev/tpm0",
            "/dev/tpmrm0",
            "/dev",
            "/dev/x/../vda",
        ] {
            assert!(device(path).is_some(), "{path}");
        }
        for path in [
            "/dev/ttyUSB0",
            "/dev/video0",
            "/dev/media0",
            "/dev/i2c-1",
            "/dev/memory_bandwidth",
            "/dev/mdio",
            "/dev/dri",
            "/dev/gpiochip0",
            "/dev/snd",
            "/dev/shm",
        ] {
            assert_eq!(device(path), None, "{path}");
        }
    }
}
