//! The host's programs that a build runs, looked for before its first step: minutes later is too late.

use anyhow::Result;
use nix::unistd::Uid;

use crate::format::Made;
use crate::host;
use crate::recipe::types::Recipe;

/// Looks for everything that building this recipe takes; qemu-user, which only other architectures take, is looked for by
/// `foreign`, and apt, which only a lock takes, by `lock`.
///
/// # Errors
/// Names what is not there, and the packages to install.
pub(super) fn look(recipe: &Recipe) -> Result<()> {
    host::programs(needed(recipe, Uid::effective().is_root()))
}

fn needed(recipe: &Recipe, root: bool) -> Vec<&'static str> {
    // The sandbox and what runs in it; the file system.
    let mut names = vec!["chroot", "ip", "mke2fs", "debugfs"];
    if !root {
        names.extend(["newuidmap", "newgidmap"]);
    }
    if !recipe.packages.sources.is_empty() {
        names.push("dpkg-deb");
    }
    if recipe.target.formats.iter().any(|format| matches!(format.form().made, Made::Qemu(_))) {
        names.push("qemu-img");
    }
    names
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::needed;
    use crate::recipe;

    #[test]
    fn what_is_needed_follows_from_the_recipe() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/demo.toml");
        let load = |sets: &[&str]| {
            let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
            recipe::load(&path, &sets, None).expect("a recipe").recipe
        };
        let demo = needed(&load(&[]), false);
        for name in ["chroot", "ip", "mke2fs", "newuidmap", "newgidmap", "dpkg-deb"] {
            assert!(demo.contains(&name), "{name}");
        }
        assert!(!demo.contains(&"qemu-img"), "the demo is made without it");
        assert!(needed(&load(&["target.formats=[\"qcow2\"]"]), false).contains(&"qemu-img"));
        assert!(!needed(&load(&[]), true).contains(&"newuidmap"), "root maps by itself");
    }
}
