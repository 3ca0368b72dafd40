//! The link /etc/localtime, made only to a zone that the tree has.

use std::path::Path;

use anyhow::Result;

use crate::error::Problem;
use crate::finding::nearest;
use crate::recipe::zones;
use crate::tree::{Kind, Root};

/// Folder of the zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// Links /etc/localtime to `zone`, which the recipe states at `stated`.
///
/// # Errors
/// When the tree has no such zone: with the nearest name, or the package that has it.
pub fn link(root: &Root, zone: &str, stated: &str) -> Result<()> {
    let target = Path::new(ZONES).join(zone);
    if root.stat(&target)?.is_some_and(|meta| meta.kind == Kind::File) {
        return root.symlink(&target, "/etc/localtime");
    }
    let known = names(root)?;
    if known.is_empty() && zones::is_utc(zone) {
        // No zones in the tree, and no link to nothing: without /etc/localtime the clock is UTC (tzset(3)).
        return root.remove("/etc/localtime").map(drop);
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

/// The zones of the tree: `Etc/UTC`, `America/Argentina/Salta`.
fn names(root: &Root) -> Result<Vec<String>> {
    const DEEPEST: usize = 3;
    let mut names = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in root.list_nofollow(Path::new(ZONES).join(&folder))? {
            let name = format!("{folder}{}", entry.name.to_string_lossy());
            match entry.kind {
                Kind::Folder if depth < DEEPEST => folders.push((name + "/", depth + 1)),
                Kind::File | Kind::Link if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
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
        // A folder of zones is no zone.
        assert!(refused("Europe").contains("no time zone `Europe`"));
    }
}
