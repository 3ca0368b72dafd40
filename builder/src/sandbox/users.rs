//! User and group maps: which ids of the host a sandbox sees.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, User};
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::host;

/// Ids that an image can use: 0 to 65534 (nobody), as policy in Debian and Ubuntu.
const IDS: u32 = 65536;

/// Which users a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Users {
    /// 65,536 of them: what a root tree needs. Root maps them one to one, an ordinary user from its subuid range.
    Range,
    /// Only the caller, who is root inside.
    Own,
}

/// Writes the uid and gid map of the process `pid`, which waits in its new user namespace.
pub(super) fn write_maps(pid: u32, users: Users) -> Result<()> {
    let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
    match users {
        Users::Range if uid == 0 => {
            write(pid, "uid_map", &format!("0 0 {IDS}"))?;
            write(pid, "gid_map", &format!("0 0 {IDS}"))
        }
        Users::Range => {
            let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
            let name = name.as_deref().unwrap_or("");
            map_range("newuidmap", pid, uid, subordinate("/etc/subuid", name, uid)?)?;
            map_range("newgidmap", pid, gid, subordinate("/etc/subgid", name, uid)?)
        }
        Users::Own => {
            if uid != 0 {
                write(pid, "setgroups", "deny")?;
            }
            write(pid, "uid_map", &format!("0 {uid} 1"))?;
            write(pid, "gid_map", &format!("0 {gid} 1"))
        }
    }
}

fn write(pid: u32, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    fs::write(&path, text).with_context(|| format!("writing {path}"))
}

fn map_range(program: &str, pid: u32, own: u32, (start, count): (u32, u32)) -> Result<()> {
    let mut command: Command = host::command(program)?;
    command.args([pid, 0, own, 1, 1, start, count.min(IDS - 1)].map(|number| number.to_string()));
    host::run(&mut command).map(drop)
}

/// The caller's range in /etc/subuid or /etc/subgid, first id and count.
fn subordinate(path: &str, name: &str, uid: u32) -> Result<(u32, u32)> {
    let text = fs::read_to_string(Path::new(path)).unwrap_or_default();
    find_range(&text, name, uid).ok_or_else(|| {
        let who = if name.is_empty() { uid.to_string() } else { name.to_owned() };
        Problem::work(format!("{path} gives `{who}` no range of 65,535 ids, which a root tree needs"))
            .hint(format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}"))
            .into()
    })
}

/// Lines are `name-or-uid:first:count` (subuid(5)); the first that is large enough counts.
fn find_range(text: &str, name: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        let mine = (!name.is_empty() && owner == name) || owner == uid.to_string();
        (mine && count >= IDS - 1).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::find_range;

    #[test]
    fn ranges() {
        let text = "# a comment\nanna:100000:65536\n\nben:x:65536\nben:200000:10\n1002:300000:65535\nben:400000:65536\n";
        assert_eq!(find_range(text, "anna", 1000), Some((100_000, 65536)));
        assert_eq!(find_range(text, "ben", 1001), Some((400_000, 65536)));
        assert_eq!(find_range(text, "carl", 1002), Some((300_000, 65535)));
        assert_eq!(find_range(text, "", 7), None);
    }
}
