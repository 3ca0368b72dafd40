//! Names that packages give to accounts and groups: the recipe's account cannot have them.
//!
//! The build looks into the tree itself; this finds a name before anything is downloaded.

use crate::finding::Finding;
use crate::recipe::Loaded;

/// Debian 13's base-passwd 3.6.7, `passwd.master` and `group.master`, and what older releases had there beside: accounts
/// and groups of every image.
const BASE: [&str; 43] = [
    "root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy",
    "www-data", "backup", "list", "irc", "nobody", "adm", "tty", "disk", "kmem", "dialout", "fax", "voice",
    "cdrom", "floppy", "tape", "sudo", "audio", "dip", "operator", "src", "shadow", "utmp", "video", "sasl",
    "plugdev", "staff", "users", "nogroup", "gnats", "crontab", "wheel",
];
/// Accounts and groups that the packages of nearly every image make: the runtime and the engine (from their maintainer
/// scripts at 1.6), systemd and its kin (from their sysusers.d and postinst in Debian 12 and 13, Ubuntu 24.04), Raspberry
/// Pi OS (raspberrypi-sys-mods).
const PACKAGES: [&str; 46] = [
    "aziotks",
    "aziottpm",
    "aziotcs",
    "aziotid",
    "iotedge",
    "edgeagentuser",
    "edgehubuser",
    "docker",
    "containerd",
    "systemd-journal",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesync",
    "systemd-coredump",
    "systemd-oom",
    "systemd-bus-proxy",
    "messagebus",
    "sshd",
    "ssh",
    "input",
    "sgx",
    "clock",
    "kvm",
    "render",
    "netdev",
    "bluetooth",
    "polkitd",
    "rdma",
    "lxd",
    "syslog",
    "uuidd",
    "tcpdump",
    "landscape",
    "pollinate",
    "tss",
    "usbmux",
    "avahi",
    "chrony",
    "ntp",
    "dnsmasq",
    "gpio",
    "i2c",
    "spi",
    "ssl-cert",
    "dhcpcd",
    "admin",
];

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let user = &loaded.recipe.access.user;
    let Some(whose) = taken(user) else { return };
    let message = format!("the account `{user}` cannot be made: {whose} an account or a group of that name");
    findings.push(
        Finding::error(message)
            .expected("a name of your own, for example `edge`")
            .hint(format!("taken are {}, and what else the packages of the image make", BASE.join(", ")))
            .at(loaded.place("access/user")),
    );
}

/// Who has the name, if it is taken.
fn taken(user: &str) -> Option<&'static str> {
    if BASE.contains(&user) {
        return Some("every system has");
    }
    let systemd = user.starts_with("systemd-");
    (systemd || PACKAGES.contains(&user)).then_some("a package of the image makes")
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn names_that_are_taken() {
        for name in
            ["operator", "docker", "backup", "www-data", "staff", "users", "sudo", "iotedge", "systemd-x"]
        {
            assert!(taken(name).is_some(), "{name}");
        }
        for name in ["edge", "ops", "pi", "ubuntu", "factory", "operators"] {
            assert!(taken(name).is_none(), "{name}");
        }
    }
}
