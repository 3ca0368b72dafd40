//! The identity-leak guard: looks through a finished root tree for what makes one machine, or opens one, before the tree
//! becomes an image that thousands of machines run; and through the root of a finished image, whoever made it.
//!
//! It names everything at once. What to look for is in [`super::guard_rules`], where it looks is a [`Tree`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::credentials::{ANYWHERE, IN_A_HOME};
use super::guard_rules::{
    AUTHORIZED_KEYS, ENGINE_STORE, NO_KEYS_UNDER, PKCS12, PRELOADED, PRIVATE_KEY, RULES, Rule, STORED, WIFI,
    is_key_store, lets_in, matches,
};
use crate::error::Problem;
use crate::finding::{Finding, Place, Severity};
use crate::tree::{self, Root};
use crate::units::Digest;

/// Folders at the top that are not looked through: packages' own (`usr`, but for `local`; documentation there is full of
/// example keys), and those that are empty but on a running machine.
const PASSED_BY: [&str; 11] =
    ["bin", "dev", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"];
const LOCAL: &str = "usr/local";
/// A larger file is no key; container images and databases need not be read.
const MOST_READ: u64 = 256 * 1024;

/// Deeper than any tree of a Linux system; a damaged file system may have folders that hold themselves.
const DEEPEST: usize = 64;

/// A root tree, in a folder or in an image. Paths are from its root.
pub trait Tree {
    /// The names in a folder; nothing when there is no folder of this path.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, Kind)>>;

    /// What a regular file holds; nothing of one with more than `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    fn content(&self, file: &Path, limit: u64) -> Result<Vec<u8>>;
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A link, a device, a socket.
    Other,
}

impl Tree for Root {
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, Kind)>> {
        let kind = |kind| match kind {
            tree::Kind::Folder => Kind::Folder,
            tree::Kind::File => Kind::File,
            _ => Kind::Other,
        };
        let entries = self.list_nofollow(folder)?;
        Ok(entries.into_iter().map(|entry| (entry.name, kind(entry.kind))).collect())
    }

    fn content(&self, file: &Path, limit: u64) -> Result<Vec<u8>> {
        let large = self.lstat(file)?.is_none_or(|meta| meta.size > limit);
        let file = if large { None } else { self.open_file_nofollow(file)? };
        let mut bytes = Vec::new();
        if let Some(file) = file {
            file.take(limit).read_to_end(&mut bytes).context("reading")?;
        }
        Ok(bytes)
    }
}

/// What a recipe brings into the tree on purpose.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// File names in `/var/lib/edgepress/images`.
    pub images: BTreeSet<String>,
    /// Images in the engine's own store. What they hold is theirs, keys among it: many bring those of their own tests.
    pub engine_store: bool,
    /// Digests of authorized_keys files.
    pub authorized_keys: BTreeSet<Digest>,
    /// Files with keys that are no secret, as paths on the device.
    pub keys: BTreeSet<PathBuf>,
    /// Digest of the one file that may hold a Wi-Fi network's key.
    pub wifi: Option<Digest>,
}

/// Something that must not be in a golden image: a file, or folder of many, by its path on the device. A warning where a
/// recipe may have brought it on purpose: only who knows the recipe can tell.
fn leak_at(path: &Path, what: impl Into<String>, hint: &str) -> Finding {
    let path = Path::new("/").join(path);
    Finding::error(what).at(Place::file(path.to_string_lossy())).hint(hint)
}

/// The path of a leak.
pub fn path_of(leak: &Finding) -> &Path {
    Path::new(leak.file_and_line().0)
}

fn sort(leaks: &mut [Finding]) {
    leaks.sort_by(|a, b| (path_of(a), &a.message, &a.hint).cmp(&(path_of(b), &b.message, &b.hint)));
}

/// All leaks in a tree, in the order of their paths.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn check(tree: &Root, allowed: &Allowed) -> Result<Vec<Finding>> {
    check_tree(tree, allowed)
}

/// As [`check`], of a tree wherever it lies.
///
/// # Errors
/// As [`check`].
pub fn check_tree(tree: &dyn Tree, allowed: &Allowed) -> Result<Vec<Finding>> {
    let mut guard = Guard { tree, allowed, leaks: Vec::new(), folders: BTreeMap::new() };
    guard.system(Guard::file)?;
    let mut leaks = guard.leaks;
    for ((folder, what, hint), count) in guard.folders {
        let what = if count == 1 { what.to_owned() } else { format!("{what} ({count} files)") };
        leaks.push(leak_at(Path::new(folder), what, hint));
    }
    sort(&mut leaks);
    Ok(leaks)
}

/// The keys in a tree that is mounted somewhere on a machine, nobody knows where.
///
/// # Errors
/// As [`check`].
pub fn check_keys(tree: &dyn Tree) -> Result<Vec<Finding>> {
    let mut guard = Guard { tree, allowed: &Allowed::default(), leaks: Vec::new(), folders: BTreeMap::new() };
    // Perhaps another root, as with A and B.
    if tree.list(Path::new("usr"))?.is_empty() {
        guard.folder(Path::new(""), Guard::key)?;
    } else {
        guard.system(Guard::key)?;
    }
    sort(&mut guard.leaks);
    Ok(guard.leaks)
}

/// Refuses a tree that leaks.
///
/// # Errors
/// A [`Problem`] that names every leak.
pub fn refuse(leaks: &[Finding]) -> Result<()> {
    if leaks.is_empty() {
        return Ok(());
    }
    let one = |leak: &Finding| {
        let hint = leak.hint.as_deref().unwrap_or_default();
        format!("\n  {}: {}; {hint}", path_of(leak).display(), leak.message)
    };
    let list: String = leaks.iter().map(one).collect();
    let message = format!("the root tree holds what must not be in an image for many devices:{list}");
    Err(Problem::input(message)
        .hint("look where it comes from: a package, an overlay, or a preloaded file")
        .into())
}

struct Guard<'a> {
    tree: &'a dyn Tree,
    allowed: &'a Allowed,
    leaks: Vec<Finding>,
    /// Leaks of rules for whole folders, counted: a docker store has thousands of files.
    folders: BTreeMap<(&'static str, &'static str, &'static str), usize>,
}

/// What is done with each file.
type Look<G> = fn(&mut G, &Path) -> Result<()>;

impl Guard<'_> {
    /// Everything but packages' own.
    fn system(&mut self, look: Look<Self>) -> Result<()> {
        for (name, kind) in self.tree.list(Path::new(""))? {
            let passed_by = PASSED_BY.iter().any(|folder| name == *folder);
            match kind {
                Kind::Folder if !passed_by => self.folder(Path::new(&name), look)?,
                Kind::File => look(self, Path::new(&name))?,
                Kind::Folder | Kind::Other => {}
            }
        }
        self.folder(Path::new(LOCAL), look)
    }

    fn folder(&mut self, path: &Path, look: Look<Self>) -> Result<()> {
        ensure!(path.components().count() <= DEEPEST, "{} is nested too deep", path.display());
        for (name, kind) in self.tree.list(path)? {
            let path = path.join(name);
            match kind {
                Kind::Folder if ENGINE_STORE.iter().any(|folder| path == Path::new(folder)) => {
                    if !self.allowed.engine_store {
                        self.leak(&path, &STORED);
                    }
                }
                Kind::Folder => self.folder(&path, look)?,
                Kind::File => look(self, &path)?,
                Kind::Other => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let mut content = None;
        for rule in RULES.iter().chain(IN_A_HOME).filter(|rule| matches(rule.pattern, path)) {
            if (rule.holds)(self.content(path, &mut content)?) {
                match rule.pattern.strip_suffix("/**").filter(|folder| !folder.starts_with('~')) {
                    Some(folder) => *self.folders.entry((folder, rule.what, rule.hint)).or_default() += 1,
                    None => self.leak(path, rule),
                }
                return Ok(());
            }
        }
        if lets_in(path) {
            let digest = Digest::of(self.content(path, &mut content)?);
            if !self.allowed.authorized_keys.contains(&digest) {
                self.leak(path, &AUTHORIZED_KEYS);
            }
            return Ok(());
        }
        if matches(WIFI.pattern, path) {
            let bytes = self.content(path, &mut content)?;
            if (WIFI.holds)(bytes) && self.allowed.wifi != Some(Digest::of(bytes)) {
                self.leak(path, &WIFI);
            }
            return Ok(());
        }
        if matches(PRELOADED.pattern, path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !self.allowed.images.contains(name.as_ref()) {
                self.leak(path, &PRELOADED);
            }
            return Ok(());
        }
        self.key_in(path, &mut content)
    }

    fn key(&mut self, path: &Path) -> Result<()> {
        self.key_in(path, &mut None)
    }

    fn key_in(&mut self, path: &Path, content: &mut Option<Vec<u8>>) -> Result<()> {
        if path.starts_with(NO_KEYS_UNDER) || self.allowed.keys.contains(&Path::new("/").join(path)) {
            return Ok(());
        }
        let rule = match self.content(path, content)? {
            _ if is_key_store(path) => &PKCS12,
            bytes if (PRIVATE_KEY.holds)(bytes) => &PRIVATE_KEY,
            bytes if (ANYWHERE.holds)(bytes) => &ANYWHERE,
            _ => return Ok(()),
        };
        self.leak(path, rule);
        Ok(())
    }

    fn leak(&mut self, path: &Path, rule: &Rule) {
        let meant = [&AUTHORIZED_KEYS, &WIFI, &PRELOADED, &STORED];
        let perhaps_meant = meant.iter().any(|meant| meant.what == rule.what);
        let severity = if perhaps_meant { Severity::Warning } else { Severity::Error };
        self.leaks.push(Finding { severity, ..leak_at(path, rule.what, rule.hint) });
    }

    /// The file's content, read once; nothing of a large file.
    fn content<'c>(&self, path: &Path, content: &'c mut Option<Vec<u8>>) -> Result<&'c [u8]> {
        if content.is_none() {
            let read = self.tree.content(path, MOST_READ);
            *content = Some(read.with_context(|| format!("looking into /{}", path.display()))?);
        }
        Ok(content.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowed, check_keys, path_of, refuse};
    use crate::error::problem;
    use crate::finding::Finding;
    use crate::rootfs::guard_rules::RULES;
    use crate::tree::Root;
    use crate::units::Digest;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n";

    fn put(tree: &Path, path: &str, content: &str) {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, content).expect("file");
    }

    fn check(tree: &Path, allowed: &Allowed) -> anyhow::Result<Vec<Finding>> {
        super::check(&Root::open(tree).expect("open"), allowed)
    }

    fn paths(tree: &Path, allowed: &Allowed) -> Vec<String> {
        check(tree, allowed).expect("walk").iter().map(|leak| path_of(leak).display().to_string()).collect()
    }

    /// A file for each rule; a rule without one here fails the test.
    #[test]
    fn every_rule_finds_what_it_is_for() {
        for rule in RULES {
            let tree = tempfile::tempdir().expect("temp folder");
            let file = rule.pattern.replace("**", "a/b").replace('*', "x");
            let content = match rule.pattern {
                "etc/iscsi/initiatorname.iscsi" => "InitiatorName=iqn.1993-08.org.debian:01:1234\n",
                "etc/shadow" => "root:$y$j9T$abc:1::::::\n",
                pattern if pattern.starts_with("etc/apt/auth") => "machine x login y password z\n",
                pattern if pattern.starts_with("etc/apt/sources") => "deb https://u:p@x/ y z\n",
                pattern if pattern.contains("NetworkManager/system") => "[wifi-security]\npsk=hunter22\n",
                "etc/wireguard/*" | "etc/systemd/network/*" => "[WireGuard]\nPrivateKey=AAAA\n",
                pattern if pattern.ends_with("config.json") => r#"{"auths":{"x":{}}}"#,
                "etc/aziot/config.toml" => "[cert_issuance.est.auth]\nusername = \"u\"\npassword = \"p\"\n",
                pattern if pattern.starts_with("etc/netplan") => "network: {x:\n  password: hunter22}\n",
                pattern if pattern.starts_with("var/lib/iwd") => "[Security]\nPassphrase=hunter22\n",
                pattern if pattern.starts_with("etc/cloud") => "users:\n- name: x\n  hashed_passwd: $6$x\n",
                _ => "0123456789abcdef0123456789abcdef\n",
            };
            put(tree.path(), &file, content);
            let leaks = check(tree.path(), &Allowed::default()).expect("walk");
            assert_eq!(leaks.len(), 1, "{}: {leaks:?}", rule.pattern);
            assert_eq!((leaks[0].message.as_str(), leaks[0].hint.as_deref()), (rule.what, Some(rule.hint)));
            let named = Path::new("/").join(rule.pattern.strip_suffix("/**").unwrap_or(&file));
            assert_eq!(path_of(&leaks[0]), named);
        }
    }

    #[test]
    fn a_clean_tree_passes() {
        let tree = tempfile::tempdir().expect("temp folder");
        let tree = tree.path();
        put(tree, "etc/machine-id", "");
        put(tree, "etc/shadow", "root:*:19000:0:99999:7:::\nedge:!:19000:0:99999:7:::\n");
        put(tree, "etc/apt/sources.list.d/debian.sources", "URIs: http://ftp.debian.org/debian\n");
        put(tree, "etc/systemd/network/80-wired.network", "[Match]\n");
        put(tree, "var/lib/dpkg/info/x.postinst", KEY);
        put(tree, "usr/share/doc/x/key.pem", KEY);
        put(tree, "etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nMIGHAgEAMBMGByqGSM49AgEG\n");
        put(tree, "var/lib/dhcp/dhclient.leases", "");
        for folder in ["var/lib/docker", "var/lib/aziot/keyd", "var/log/journal", "var/lib/cloud/data"] {
            fs::create_dir_all(tree.join(folder)).expect("folder");
        }
        fs::create_dir_all(tree.join("var/lib/dbus")).expect("folder");
        symlink("/etc/machine-id", tree.join("var/lib/dbus/machine-id")).expect("link");
        let leaks = check(tree, &Allowed::default()).expect("walk");
        assert_eq!(leaks, []);
        refuse(&leaks).expect("nothing to refuse");
    }

    #[test]
    fn private_keys_are_found_wherever_they_lie() {
        let tree = tempfile::tempdir().expect("temp folder");
        let tree = tree.path();
        let wanted = [
            "/boot/efi/edgepress/private-key.pem",
            "/data/app/Server.PFX",
            "/etc/ssl/private/ssl-cert-snakeoil.key",
            "/home/edge/.ssh/id_ed25519",
            "/key",
            "/opt/app/server.pfx",
            "/root/key",
            "/srv/key",
            "/usr/local/etc/key",
            "/var/lib/app/key",
        ];
        for path in wanted {
            put(tree, path.trim_start_matches('/'), KEY);
        }
        put(tree, "var/lib/app/large", &format!("{}{KEY}", "x".repeat(300_000)));
        assert_eq!(paths(tree, &Allowed::default()), wanted);
    }

    /// A second root has packages' examples, too; a data partition has none.
    #[test]
    fn keys_in_a_tree_of_unknown_use() {
        let tree = tempfile::tempdir().expect("temp folder");
        put(tree.path(), "lib/key", KEY);
        let found = || -> Vec<_> {
            let leaks = check_keys(&Root::open(tree.path()).expect("open")).expect("walk");
            leaks.iter().map(|leak| path_of(leak).display().to_string()).collect()
        };
        assert_eq!(found(), ["/lib/key"]);
        put(tree.path(), "usr/share/doc/x/key.pem", KEY);
        put(tree.path(), "etc/key", KEY);
        assert_eq!(found(), ["/etc/key"]);
    }

    #[test]
    fn what_the_recipe_names_is_allowed() {
        let tree = tempfile::tempdir().expect("temp folder");
        let tree = tree.path();
        put(tree, "home/edge/.ssh/authorized_keys", "ssh-ed25519 AAAA ops\n");
        put(tree, "root/.ssh/authorized_keys", "ssh-ed25519 BBBB somebody\n");
        put(tree, "opt/app/test.key", KEY);
        put(tree, "var/lib/edgepress/images/00-agent.tar", "tar");
        put(tree, "var/lib/edgepress/images/01-other.tar", "tar");
        let wifi = "network={\n\tpsk=0123\n}\n";
        put(tree, "etc/wpa_supplicant/wpa_supplicant-wlan0.conf", wifi);
        put(tree, "etc/wpa_supplicant/other.conf", "network={\n\tpsk=\"other\"\n}\n");
        put(tree, "etc/wpa_supplicant/open.conf", "country=DE\n# psk=none\n");
        let allowed = Allowed {
            engine_store: false,
            images: ["00-agent.tar".to_owned()].into(),
            authorized_keys: [Digest::of("ssh-ed25519 AAAA ops\n")].into(),
            keys: ["/opt/app/test.key".into()].into(),
            wifi: Some(Digest::of(wifi)),
        };
        let others = [
            "/etc/wpa_supplicant/other.conf",
            "/root/.ssh/authorized_keys",
            "/var/lib/edgepress/images/01-other.tar",
        ];
        assert_eq!(paths(tree, &allowed), others);
        assert_eq!(paths(tree, &Allowed::default()).len(), 7);
    }

    #[test]
    fn all_leaks_are_named_at_once() {
        let tree = tempfile::tempdir().expect("temp folder");
        put(tree.path(), "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        put(
            tree.path(),
            "opt/app/.env",
            "C=HostName=h;SharedAccessKey=0123456789abcdef0123456789abcdef0123456789a=\n",
        );
        put(tree.path(), "srv/app/.aws/credentials", "[default]\naws_secret_access_key = x\n");
        put(tree.path(), "var/lib/docker/containers/1/config.json", "{}");
        put(tree.path(), "var/lib/docker/volumes/metadata.db", "x");
        let error = refuse(&check(tree.path(), &Allowed::default()).expect("walk")).expect_err("leaks");
        let message = &problem(&error).expect("a problem").message;
        assert_eq!(
            message,
            "the root tree holds what must not be in an image for many devices:\n  \
             /etc/machine-id: a machine id; empty the file\n  \
             /opt/app/.env: a cloud's secret in plain text; have the device fetch or be given its own, or hand it to one \
             container at run time; whoever has the image has it\n  \
             /srv/app/.aws/credentials: keys of Amazon's cloud; remove it at the end of the build\n  \
             /var/lib/docker: containers, networks or volumes of docker (2 files); \
             preload images with engine.images"
        );
    }
}
