//! What every system's scripts find and a tree has not yet: who this machine is, and that `localhost` is an address.
//!
//! Overlays and first boot write these files later. While packages' scripts run there are plain ones, as every tool that
//! makes trees has them (not mounted over: packages replace them by links of their own); afterwards only what a script
//! made of them stays.

use std::path::Path;

use anyhow::Result;

use crate::tree::{FileKind, Root};

const HOSTNAME: &str = "/etc/hostname";

/// More is no file of this kind.
const MOST: u64 = 1 << 20;

/// The files that were made here, and their text.
pub(crate) struct Names(Vec<(&'static str, String)>);

impl Names {
    /// Makes those that the tree has not.
    ///
    /// # Errors
    /// When the tree cannot be written.
    pub(crate) fn install(root: &Root, hostname: &str) -> Result<Self> {
        let hosts =
            format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n");
        let files = [
            (HOSTNAME, format!("{hostname}\n")),
            ("/etc/hosts", hosts),
            // No server, said in words: resolvers take an absent or empty file for "ask this machine".
            ("/etc/resolv.conf", "# no network while the image is made\n".to_owned()),
        ];
        let mut made = Vec::new();
        for (path, text) in files {
            if root.lstat(path)?.is_none() {
                root.write(path, 0o644, text.as_bytes())?;
                made.push((path, text));
            }
        }
        Ok(Self(made))
    }

    /// Takes them away, and the copies that scripts keep of what they replace (systemd-resolved does); lines that a script
    /// added stay, and so does whatever a script put in a file's place.
    ///
    /// # Errors
    /// When the tree cannot be written.
    pub(crate) fn remove(self, root: &Root) -> Result<()> {
        for (path, text) in self.0 {
            // A name alone is what many files hold for reasons of their own.
            if path != HOSTNAME {
                remove_copies(root, path, &text)?;
            }
            if root.lstat(path)?.is_none_or(|meta| meta.kind != FileKind::File) {
                continue;
            }
            let now = root.read_text(path, MOST)?.unwrap_or_default();
            let others = others(&now, &text);
            if others.is_empty() {
                root.remove(path)?;
            } else if others != now {
                root.write(path, 0o644, others.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn remove_copies(root: &Root, original: &str, text: &str) -> Result<()> {
    let mut as_long = Vec::new();
    root.walk("/etc", &mut |path, meta| {
        if meta.kind == FileKind::File && meta.size == text.len() as u64 && path != Path::new(original) {
            as_long.push(path.to_owned());
        }
        Ok(())
    })?;
    for path in as_long {
        if root.read_text(&path, MOST)?.as_deref() == Some(text) {
            root.remove(&path)?;
        }
    }
    Ok(())
}

/// The lines of `now` that are not among `ours`.
fn others(now: &str, ours: &str) -> String {
    let ours: Vec<&str> = ours.lines().collect();
    now.split_inclusive('\n').filter(|line| !ours.contains(&line.trim_end_matches('\n'))).collect()
}

#[cfg(test)]
mod tests {
    use super::Names;
    use crate::tree::Root;

    #[test]
    fn nothing_stays_but_what_scripts_made() {
        let folder = tempfile::tempdir().expect("temp dir");
        let root = Root::open(folder.path()).expect("root");
        root.write("/etc/hostname", 0o644, b"own\n").expect("a package's own");
        let names = Names::install(&root, "gateway").expect("installs");
        let hosts = root.read_text("/etc/hosts", 4096).expect("reads").expect("there");
        assert!(hosts.contains("127.0.1.1 gateway\n") && hosts.contains("127.0.0.1 localhost\n"), "{hosts}");
        root.make_folders("/etc/resolvconf").expect("makes");
        root.rename("/etc/resolv.conf", "/etc/resolvconf/original").expect("a package keeps it");
        root.write("/etc/mailname", 0o644, b"gateway\n").expect("a package's own");
        root.symlink("../run/stub", "/etc/resolv.conf").expect("a package's link");
        root.write("/etc/hosts", 0o644, format!("{hosts}10.0.0.1 added\n").as_bytes())
            .expect("a script's line");
        names.remove(&root).expect("removes");
        let read = |path: &str| root.read_text(path, 4096).expect("reads");
        assert_eq!(read("/etc/hostname").as_deref(), Some("own\n"));
        assert_eq!(read("/etc/hosts").as_deref(), Some("10.0.0.1 added\n"));
        assert!(!root.exists("/etc/resolvconf/original") && root.exists("/etc/mailname"));
        assert!(root.read_link("/etc/resolv.conf").expect("reads").is_some());
        root.remove("/etc/hosts").expect("removes");
        Names::install(&root, "gateway").expect("installs").remove(&root).expect("removes");
        assert!(!root.exists("/etc/hosts"));
    }
}
