//! The one account that may log in: made when everything that it starts with is in the tree, and owner of its home.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::chroot::Chroot;
use crate::error::Problem;
use crate::tree::Root;

/// Groups that the account joins where they exist. `iotedge`: the vendor's preinst adds the members of `sudo` to it, for
/// `iotedge list` without sudo; it ran before this account was there.
const GROUPS: [&str; 5] = ["sudo", "adm", "systemd-journal", "docker", "iotedge"];
/// Most bytes of passwd and group.
const LARGEST: u64 = 1 << 20;

/// The account in the tree.
pub(super) struct Account {
    home: PathBuf,
    uid: u32,
    gid: u32,
}

/// Makes the account `(name, home)` in the tree: keys only, its password is locked, root's
/// too, and sudo asks for none because there is none. `stated` is where the recipe names it.
///
/// # Errors
/// When the tree has the name already, as an account or a group; or useradd refuses.
pub(super) fn make(chroot: &Chroot<'_>, account: (&str, &Path), stated: &str) -> Result<Account> {
    let (root, (user, home)) = (chroot.root, account);
    let groups = names(root, "/etc/group")?;
    free(user, &names(root, "/etc/passwd")?, &groups, stated)?;
    let joined = GROUPS.into_iter().filter(|name| groups.contains(*name)).collect::<Vec<_>>().join(",");
    let place = home.display().to_string();
    let add = chroot.program("useradd").args(["--create-home", "--home-dir", &place, "--shell", "/bin/bash"]);
    chroot
        .run(&add.args(["--groups", &joined, "--password", "!", user]), |_| {})
        .with_context(|| format!("making the account `{user}`, which {stated} asks for"))?;
    chroot.run(&chroot.program("usermod").args(["--password", "*", "root"]), |_| {})?;
    let sudo = format!("{user} ALL=(ALL:ALL) NOPASSWD: ALL\n");
    root.write("/etc/sudoers.d/edgepress", 0o440, sudo.as_bytes())?;
    let (uid, gid) = ids(&text(root, "/etc/passwd")?, user)
        .with_context(|| format!("finding the account `{user}` in the tree's /etc/passwd"))?;
    let account = Account { home: home.to_owned(), uid, gid };
    // A package may have made it before there was the account.
    root.set_owner(root.canonical(home)?, uid, gid)?;
    Ok(account)
}

/// Is the name neither an account nor a group of the tree?
fn free(
    user: &str,
    accounts: &BTreeSet<String>,
    groups: &BTreeSet<String>,
    stated: &str,
) -> Result<(), Problem> {
    let there = match (accounts.contains(user), groups.contains(user)) {
        (true, _) => "an account",
        (false, true) => "a group",
        (false, false) => return Ok(()),
    };
    Err(Problem::input(format!("{stated}: the packages of the image have {there} `{user}` already"))
        .hint("take another name in access.user, for example `edge`"))
}

fn text(root: &Root, file: &str) -> Result<String> {
    root.read_text(file, LARGEST)?.with_context(|| format!("reading the tree's {file}: it is not there"))
}

fn names(root: &Root, file: &str) -> Result<BTreeSet<String>> {
    Ok(text(root, file)?.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect())
}

/// Numbers of user and group (passwd(5)).
fn ids(passwd: &str, user: &str) -> Option<(u32, u32)> {
    let accounts: BTreeMap<&str, Vec<&str>> = passwd
        .lines()
        .filter_map(|line| Some((line.split(':').next()?, line.split(':').collect())))
        .collect();
    let fields = accounts.get(user)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

impl Account {
    /// Gives the account what was laid at `paths` in its home, with the folders on the way there.
    ///
    /// # Errors
    /// When the owner cannot be set.
    pub(super) fn own<'p>(&self, root: &Root, paths: impl Iterator<Item = &'p Path>) -> Result<()> {
        let home = root.canonical(&self.home)?;
        for path in paths {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let whole = root.canonical(folder)?.join(name);
            for at in whole.ancestors().take_while(|at| at.starts_with(&home)) {
                if root.lstat(at)?.is_some() {
                    root.set_owner(at, self.uid, self.gid)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the account's authorized_keys; no keys, no file.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn keys(&self, root: &Root, keys: &str) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let folder = self.home.join(".ssh");
        let file = folder.join("authorized_keys");
        root.make_folders(&folder)?;
        root.set_mode(&folder, 0o700)?;
        root.write(&file, 0o600, keys.as_bytes())?;
        self.own(root, [file.as_path()].into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::{free, ids};

    #[test]
    fn names_that_the_tree_has_are_refused_by_the_recipes_line() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (accounts, groups) = (set(&["root", "backup"]), set(&["root", "operator", "backup"]));
        free("edge", &accounts, &groups, "r.toml:3:8").expect("a free name");
        for (user, there) in [("operator", "a group"), ("backup", "an account")] {
            let problem = free(user, &accounts, &groups, "r.toml:3:8").expect_err(user);
            let message = format!("r.toml:3:8: the packages of the image have {there} `{user}` already");
            assert_eq!(problem.message, message);
            assert!(problem.hint.is_some());
        }
    }

    #[test]
    fn numbers_of_an_account() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nedge:x:1000:1001::/home/edge:/bin/bash\nbad:x\n";
        assert_eq!(ids(passwd, "edge"), Some((1000, 1001)));
        assert_eq!(ids(passwd, "bad"), None);
        assert_eq!(ids(passwd, "nobody"), None);
    }
}
