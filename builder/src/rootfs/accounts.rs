//! The users and groups that Azure IoT Edge needs, asserted after its packages are in.
//!
//! aziot-edge adds its user to groups only as far as these exist at that moment, and says nothing when they do not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::error::Problem;
use crate::tree::Root;

/// Most bytes of passwd and group.
const LARGEST: u64 = 1 << 20;

/// User → groups that it must be in, beside its own. From the packages' maintainer scripts at 1.6.
const MEMBERSHIPS: &[(&str, &[&str])] = &[
    ("aziotks", &[]),
    ("aziottpm", &[]),
    ("aziotcs", &["aziotks"]),
    ("aziotid", &["aziotcs", "aziotks", "aziottpm"]),
    ("iotedge", &["docker", "systemd-journal", "aziotcs", "aziotks", "aziotid"]),
];

/// Users whose numbers are fixed: containers run under them.
const FIXED: &[(&str, u32)] = &[("edgeagentuser", 13622), ("edgehubuser", 13623)];

/// Looks into the tree's passwd and group.
///
/// # Errors
/// All that is missing, at once.
pub(crate) fn assert(root: &Root) -> Result<()> {
    let read = |file: &str| {
        let text = root.read_text(file, LARGEST)?;
        text.with_context(|| format!("reading the tree's {file}: it is not there"))
    };
    let missing = missing(&read("/etc/passwd")?, &read("/etc/group")?);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Problem::work(format!("the runtime's users are not as it needs them:\n  {}", missing.join("\n  ")))
        .hint("the packages aziot-identity-service and aziot-edge make them: is their version one that edgepress knows?")
        .into())
}

fn missing(passwd: &str, group: &str) -> Vec<String> {
    let ids: BTreeMap<&str, &str> =
        passwd.lines().filter_map(|line| Some((field(line, 0)?, field(line, 2)?))).collect();
    let members: BTreeMap<&str, BTreeSet<&str>> = group
        .lines()
        .filter_map(|line| Some((field(line, 0)?, field(line, 3)?.split(',').collect())))
        .collect();
    let users = MEMBERSHIPS
        .iter()
        .map(|(user, _)| *user)
        .chain(FIXED.iter().map(|(user, _)| *user))
        .filter(|user| !ids.contains_key(user))
        .map(|user| format!("no user {user}"));
    let memberships = MEMBERSHIPS.iter().flat_map(|(user, groups)| {
        let in_group = |group: &str| members.get(group).is_some_and(|members| members.contains(user));
        let absent = groups.iter().filter(move |group| !in_group(group));
        absent.map(move |group| format!("{user} is not in group {group}"))
    });
    let fixed = FIXED.iter().filter_map(|(user, id)| {
        let actual = ids.get(user)?;
        (*actual != id.to_string()).then(|| format!("{user} has uid {actual}, not {id}"))
    });
    users.chain(memberships).chain(fixed).collect()
}

fn field(line: &str, at: usize) -> Option<&str> {
    line.split(':').nth(at)
}

#[cfg(test)]
mod tests {
    use super::missing;

    const PASSWD: &str = "aziotks:x:1:1::/:/bin/false\naziottpm:x:2:2::/:/x\naziotcs:x:3:3::/:/x\naziotid:x:4:4::/:/x\n\
        iotedge:x:5:5::/:/x\nedgeagentuser:x:13622:13622::/:/x\nedgehubuser:x:13623:13623::/:/x\n";
    const GROUP: &str = "docker:x:9:iotedge\nsystemd-journal:x:8:iotedge\naziotks:x:1:aziotcs,aziotid,iotedge\n\
        aziottpm:x:2:aziotid\naziotcs:x:3:aziotid,iotedge\naziotid:x:4:iotedge\n";

    #[test]
    fn complete() {
        assert!(missing(PASSWD, GROUP).is_empty());
    }

    #[test]
    fn everything_missing_is_named() {
        let found =
            missing(&PASSWD.replace("13622:", "77:"), &GROUP.replace("docker:x:9:iotedge", "docker:x:9:"));
        assert_eq!(found, ["iotedge is not in group docker", "edgeagentuser has uid 77, not 13622"]);
        assert_eq!(missing("", "").len(), 7 + 9);
        assert_eq!(missing("garbage", ":::").len(), 7 + 9);
    }
}
