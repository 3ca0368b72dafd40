//! The link /etc/localtime, made only to a zone that the tree has.

use std::io::Read as _;
use std::path::Path;

use anyhow::Result;

use crate::error::Problem;
use crate::finding::nearest;
use crate::recipe::zones::{self, FOLDER as ZONES};
use crate::tree::{FileKind, Root};

/// Links /etc/localtime to `zone`, which the recipe states at `stated`.
///
/// # Errors
/// When the tree has no such zone: with the nearest name, or the package that has it.
pub(super) fn link(root: &Root, zone: &str, stated: &str) -> Result<()> {
    let target = Path::new(ZONES).join(zone);
    // What leads over the old link would lead to itself.
    root.remove("/etc/localtime")?;
    if is_zone(root, &target)? {
        return root.symlink(&target, "/etc/localtime");
    }
    let known = names(root)?;
    if known.is_empty() && zones::is_utc(zone) {
        // No zones in the tree, and no link to nothing: without /etc/localtime the clock is UTC (tzset(3)).
        return Ok(());
    }
    let hint = if known.is_empty() {
        "add the package tzdata to packages.install, which has the zones".to_owned()
    } else if zones::is_old(zone) {
        zones::OLD_HINT.to_owned()
    } else {
        match nearest(zone, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => zones::EXPECTED.to_owned(),
        }
    };
    Err(Problem::input(format!("{stated}: the image has no time zone `{zone}`")).hint(hint).into())
}

/// Is it a zone's file? One that lies elsewhere is somebody's link: `localtime` leads to /etc/localtime, which would lead to
/// itself.
fn is_zone(root: &Root, target: &Path) -> Result<bool> {
    // Links that go in circles are no zone either.
    let Ok(path) = root.canonical(target) else { return Ok(false) };
    let is_file = root.stat(&path)?.is_some_and(|meta| meta.kind == FileKind::File);
    if !is_file || !path.starts_with(root.canonical(ZONES)?) {
        return Ok(false);
    }
    let Some(mut file) = root.open_file(&path)? else { return Ok(false) };
    let mut begin = Vec::new();
    file.by_ref().take(zones::MAGIC.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == zones::MAGIC)
}

/// The zones of the tree: `Etc/UTC`, `America/Argentina/Salta`.
fn names(root: &Root) -> Result<Vec<String>> {
    const DEEPEST: usize = 3;
    let mut names = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in root.list_nofollow(Path::new(ZONES).join(&folder))? {
            let name = format!("{folder}{}", entry.name.to_string_lossy());
            match entry.kind {
                FileKind::Folder if depth < DEEPEST => folders.push((name + "/", depth + 1)),
                FileKind::File | FileKind::Link if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
                    names.push(name);
                }
                _ => {}
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::link;
    use crate::error::problem;
    use crate::tree::Root;

    #[test]
    fn only_to_a_zone_that_is_there() {
        let folder = tempfile::tempdir().expect("a tree");
        let root = Root::open(folder.path()).expect("a root");
        let refused = |zone: &str| {
            let error = link(&root, zone, "r.toml:9:1").expect_err(zone);
            let hint = problem(&error).and_then(|problem| problem.hint.clone()).unwrap_or_default();
            format!("{error} | {hint}")
        };
        assert!(
            refused("Europe/Berlin")
                .ends_with("add the package tzdata to packages.install, which has the zones")
        );
        link(&root, "Etc/UTC", "").expect("the clock is UTC anyway");
        assert!(root.lstat("/etc/localtime").expect("look").is_none());

        root.write("/usr/share/zoneinfo/Europe/Berlin", 0o644, b"TZif2").expect("a zone");
        root.write("/usr/share/zoneinfo/Etc/UTC", 0o644, b"TZif2").expect("a zone");
        link(&root, "Europe/Berlin", "").expect("linked");
        let target = root.read_link("/etc/localtime").expect("look").expect("a link");
        assert_eq!(target.to_string_lossy(), "/usr/share/zoneinfo/Europe/Berlin");
        assert_eq!(
            refused("Europe/Berln"),
            "r.toml:9:1: the image has no time zone `Europe/Berln` | did you mean `Europe/Berlin`?"
        );
        assert!(refused("US/Pacific").contains("tzdata-legacy"));
        // Links: to another zone, out of the folder, in a circle; a file that is no zone.
        root.symlink("Berlin", "/usr/share/zoneinfo/Europe/Capital").expect("a link");
        link(&root, "Europe/Capital", "").expect("another name");
        root.symlink("/etc/localtime", "/usr/share/zoneinfo/localtime").expect("a link");
        root.symlink("Round", "/usr/share/zoneinfo/Round").expect("a link");
        root.write("/usr/share/zoneinfo/zone.tab", 0o644, b"DE\t").expect("a table");
        for zone in ["localtime", "Round", "zone.tab"] {
            assert!(refused(zone).contains(&format!("no time zone `{zone}`")), "{zone}");
        }
        for before in ["/usr/share/zoneinfo/localtime", "/usr/share/zoneinfo/Europe/Berlin"] {
            root.symlink(before, "/etc/localtime").expect("as the tree had it");
            assert!(refused("localtime").contains("no time zone `localtime`"), "{before}");
        }
        // A folder of zones is no zone.
        assert!(refused("Europe").contains("no time zone `Europe`"));
    }
}
