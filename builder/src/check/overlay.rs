//! Will everything that the overlays hold be on the device, and be of use there?
//!
//! Whatever is laid where the device mounts something else, what the build removes or writes itself, what would leak,
//! and files that a tool left behind: all by name, with what does the job instead.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::scripts::{self, LOOKED_AT, Subject};
use crate::board::{self, wifi};
use crate::disk::ids::Ids;
use crate::finding::{Finding, Place};
use crate::overlay::{Laid, What};
use crate::recipe::Loaded;
use crate::rootfs::guard::{self, PathKind, Tree};
use crate::rootfs::{clean, images};
use crate::ssh;
use crate::units::Digest;

/// Most names in one finding.
const NAMED: usize = 5;

/// Folders that the device makes anew at each boot: why, and what puts something there.
const VOLATILE: [(&str, &str, &str); 5] = [
    (
        "/run",
        "the device makes it anew at each boot (so too /var/run and /var/lock, its other names)",
        "let systemd-tmpfiles make it at each boot: a line such as `f /run/site/x 0644 root root - content` in \
         /usr/lib/tmpfiles.d/site.conf; or RuntimeDirectory= in the unit that needs it",
    ),
    (
        "/tmp",
        "the device empties it at each boot",
        "lay it under /usr/share, and let systemd-tmpfiles copy it: `C /tmp/x - - - - /usr/share/site/x` in \
         /usr/lib/tmpfiles.d/site.conf",
    ),
    (
        "/dev",
        "the kernel mounts its devices there",
        "make links and permissions with a udev rule in /etc/udev/rules.d, nodes with tmpfiles.d",
    ),
    (
        "/proc",
        "the kernel mounts its own files there",
        "settings of the kernel go into /etc/sysctl.d/site.conf",
    ),
    (
        "/sys",
        "the kernel mounts its own files there",
        "let systemd-tmpfiles write it at each boot: `w /sys/x - - - - value` in /usr/lib/tmpfiles.d/site.conf",
    ),
];
const FAT_HINT: &str =
    "lines of config.txt go into target.raspberry_pi.config, kernel arguments into target.cmdline";

/// What editors, file managers and version control leave in folders: names, and endings of names.
const LEFT_BEHIND: [&str; 9] = [
    ".git",
    ".gitignore",
    ".gitattributes",
    ".svn",
    ".hg",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX",
];
const LEFT_ENDINGS: [&str; 5] = ["~", ".swp", ".swo", ".orig", ".rej"];

pub(super) fn check(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) -> Result<()> {
    hidden(loaded, laid, findings);
    removed(loaded, laid, findings);
    written_anyway(loaded, laid, findings);
    left_behind(laid, findings);
    homes(loaded, laid, findings);
    for one in laid.iter().filter(|one| one.is_file()) {
        let bytes = one.beginning(LOOKED_AT)?;
        let executable = one.mode & 0o111 != 0;
        let subject = Subject { file: &one.origin.file, path: &one.path, executable, bytes: &bytes };
        scripts::judge(&subject, loaded.recipe.target.arch, findings);
        special_bits(one, findings);
    }
    leaks(loaded, laid, findings)
}

fn at(laid: &Laid) -> Place {
    Place::file(laid.origin.file.display().to_string())
}

/// Some names, and how many more.
fn names(paths: &[&Laid]) -> String {
    let shown: Vec<String> = paths.iter().take(NAMED).map(|one| one.path.display().to_string()).collect();
    match paths.len().checked_sub(NAMED).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", shown.join(", ")),
        None => shown.join(", "),
    }
}

/// What lies under a mount point of the device would never be seen.
fn hidden(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) {
    let fat = board::of(loaded.recipe.target.board).fat_mount();
    let mounts = VOLATILE.into_iter().chain([(fat, "the FAT partition is mounted there", FAT_HINT)]);
    for (mount, why, hint) in mounts {
        let below: Vec<&Laid> =
            laid.iter().filter(|one| one.path.starts_with(mount) && one.path != Path::new(mount)).collect();
        let Some(first) = below.first() else { continue };
        let message = format!("the device never sees {} of an overlay, below {mount}: {why}", names(&below));
        findings.push(Finding::error(message).hint(hint).at(at(first)));
    }
}

/// What the build takes out of every layer, whoever brought it.
fn removed(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) {
    let fat = board::of(loaded.recipe.target.board).fat_mount();
    for one in laid.iter().filter(|one| !one.path.starts_with(fat)) {
        if let Some(reason) = clean::removes(&one.path) {
            let message = format!("the build removes {} of an overlay: {reason}", one.path.display());
            findings.push(
                Finding::error(message)
                    .hint("give it another name, or let tmpfiles.d or a unit make it on the device")
                    .at(at(one)),
            );
        }
    }
}

/// What edgepress writes over it.
fn written_anyway(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let home = format!("/home/{}", recipe.access.user);
    let mut written: BTreeMap<PathBuf, &str> = BTreeMap::from([
        (PathBuf::from("/etc/localtime"), "state system.timezone"),
        (PathBuf::from("/etc/sudoers.d/edgepress"), "give it another name in /etc/sudoers.d"),
    ]);
    if !recipe.access.ssh_keys.is_empty() {
        let file = Path::new(&home).join(".ssh/authorized_keys");
        written.insert(file, "name the keys in access.ssh_keys");
    }
    // What is wrong with these is said elsewhere; the paths do not depend on the identifiers.
    for entry in board::root_files(recipe, &Ids::from_seed(&Digest::of(""))).unwrap_or_default() {
        if !matches!(entry.kind, crate::tree::entry::EntryKind::Directory) {
            let hint = match entry.path.to_str() {
                Some("/etc/fstab") => {
                    "mount more by a unit: /etc/systemd/system/srv-data.mount for /srv/data"
                }
                _ => "leave it out: the recipe states what is in it",
            };
            written.insert(entry.path, hint);
        }
    }
    for one in laid {
        if let Some(hint) = written.get(&one.path) {
            let message = format!("edgepress writes {} itself, over that of an overlay", one.path.display());
            findings.push(Finding::error(message).hint(*hint).at(at(one)));
        }
    }
}

/// Laid as they are, for all it is known they are meant.
fn left_behind(laid: &[Laid], findings: &mut Vec<Finding>) {
    let is_left = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        LEFT_BEHIND.contains(&name.as_ref())
            || LEFT_ENDINGS.iter().any(|ending| name.ends_with(ending))
            || (name.starts_with('#') && name.ends_with('#'))
            || name.starts_with(".#")
    };
    let left: Vec<&Laid> = laid.iter().filter(|one| one.path.iter().any(is_left)).collect();
    if let Some(first) = left.first() {
        let message =
            format!("left by an editor or by version control, and laid into the image: {}", names(&left));
        findings.push(Finding::warning(message).hint("remove it from the overlay").at(at(first)));
    }
}

/// The home of somebody who does not exist.
fn homes(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) {
    let user = &loaded.recipe.access.user;
    let mut others: BTreeMap<OsString, &Laid> = BTreeMap::new();
    for one in laid {
        let mut names = one.path.strip_prefix("/home").into_iter().flat_map(Path::iter);
        if let Some(name) = names.next().filter(|name| *name != user.as_str()) {
            others.entry(name.to_owned()).or_insert(one);
        }
    }
    for (name, one) in others {
        let message = format!(
            "{} belongs to root: the account of the image is `{user}`, not `{}`",
            one.path.display(),
            name.to_string_lossy()
        );
        let hint = format!("lay it under /home/{user}, or state access.user");
        findings.push(Finding::warning(message).hint(hint).at(at(one)));
    }
}

/// Set-uid and the like of the work tree do not travel: `[modes]` says what does.
fn special_bits(one: &Laid, findings: &mut Vec<Finding>) {
    let Ok(meta) = one.origin.file.metadata() else { return };
    let special = meta.permissions().mode() & 0o7000;
    if matches!(one.what, What::File(_)) && special != 0 && one.mode & 0o7000 == 0 {
        let message = format!(
            "{} is set-uid, set-gid or sticky here, and will be {:04o} in the image",
            one.origin.file.display(),
            one.mode
        );
        let hint =
            format!("if that is meant, state it in overlay.toml: \"{}\" = \"4755\"", one.path.display());
        findings.push(Finding::warning(message).hint(hint).at(at(one)));
    }
}

/// What the build's guard refuses, found by the guard itself.
fn leaks(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) -> Result<()> {
    let recipe = &loaded.recipe;
    // Files that cannot be read are findings of their own.
    let keys = ssh::joined(&recipe.access.ssh_keys).unwrap_or_default();
    let allowed = guard::Allowed {
        images: images::archive_names(&recipe.engine).into_iter().collect(),
        // Nobody has an overlay of it.
        engine_store: false,
        authorized_keys: [Digest::of(keys)].into(),
        keys: recipe.packages.keep_keys.iter().cloned().collect(),
        wifi: wifi::allowed(recipe.network.wifi.as_ref()).unwrap_or_default(),
    };
    for leak in guard::check_overlay(&Overlays::of(laid), &allowed)? {
        let path = guard::path_of(&leak);
        let message = format!("{} of an overlay is {}", path.display(), leak.message);
        let from = laid.iter().find(|one| one.path.starts_with(path)).map(at);
        findings.push(Finding { hint: leak.hint, ..Finding::error(message) }.at(from));
    }
    Ok(())
}

/// What the overlays hold, as a root tree of its own.
struct Overlays<'a> {
    folders: BTreeMap<PathBuf, BTreeMap<OsString, PathKind>>,
    files: BTreeMap<&'a Path, &'a Laid>,
}

impl<'a> Overlays<'a> {
    fn of(laid: &'a [Laid]) -> Self {
        let mut folders: BTreeMap<PathBuf, BTreeMap<OsString, PathKind>> = BTreeMap::new();
        let mut files = BTreeMap::new();
        for one in laid {
            let path = one.path.strip_prefix("/").unwrap_or(&one.path);
            let mut kind = match &one.what {
                What::Folder | What::StatedFolder => PathKind::Folder,
                What::Rendered(_) | What::File(_) => PathKind::File,
                What::Symlink(_) | What::Nothing => PathKind::Other,
            };
            files.insert(path, one);
            let mut at = path;
            while let (Some(folder), Some(name)) = (at.parent(), at.file_name()) {
                folders.entry(folder.to_owned()).or_default().entry(name.to_owned()).or_insert(kind);
                (at, kind) = (folder, PathKind::Folder);
            }
        }
        Self { folders, files }
    }
}

impl Tree for Overlays<'_> {
    fn list(&self, folder: &Path) -> Result<Vec<(OsString, PathKind)>> {
        let names = self.folders.get(folder).into_iter().flatten();
        Ok(names.map(|(name, kind)| (name.clone(), *kind)).collect())
    }

    fn open(&self, file: &Path) -> Result<Option<Box<dyn Read + '_>>> {
        match self.files.get(file) {
            Some(laid) => laid.open(),
            None => Ok(None),
        }
    }
}
