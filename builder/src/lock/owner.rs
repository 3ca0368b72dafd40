//! Whose lock is it? The one beside a recipe belongs to the recipe as it is written. What `--set` overrides may need
//! other packages, and those are nothing to commit: such a build has a lock of its own beside its image.

use std::path::{Path, PathBuf};

use super::{file, inputs_digest};
use crate::lock::local::LocalDeb;
use crate::recipe;
use crate::recipe::types::Recipe;

/// The lock beside the recipe, if its packages are those that `recipe` asks for, which is the recipe with `sets` laid over
/// it; `debs` are its own packages. Nothing, where the overrides ask for others.
pub(crate) fn beside_recipe(
    path: &Path,
    sets: &[String],
    recipe: &Recipe,
    debs: &[LocalDeb],
) -> Option<PathBuf> {
    if sets.is_empty() {
        return Some(file::path(path, recipe));
    }
    // A recipe that says something only with the overrides has no lock as it is written.
    let written = recipe::load(path, &[], Some(recipe.target.arch)).ok()?.recipe;
    let own = |recipe: &Recipe| (recipe.packages.debs.clone(), recipe.packages.sources.clone());
    let same = own(&written) == own(recipe) && inputs_digest(&written, debs) == inputs_digest(recipe, debs);
    same.then(|| file::path(path, &written))
}

#[cfg(test)]
mod tests {
    use super::beside_recipe;
    use crate::recipe::load;

    const RECIPE: &str = r#"
        name = "mine"
        [distribution]
        id = "debian"
        release = "12"
        codename = "bookworm"
        [archives.debian]
        url = "http://ftp.debian.org/debian"
        suites = ["bookworm"]
        components = ["main"]
        key = { fingerprints = ["4CB50190207B4758A3F73A796ED0E7B82643E131"], file = "/key.gpg" }
        [target]
        arch = "x86_64"
        board = "uefi"
        [edge]
        from = "packages"
    "#;

    #[test]
    fn overrides_that_change_no_package_share_the_recipe_s_lock() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, RECIPE).expect("writes");
        for (set, shared) in [
            ("system.hostname=other", true),
            ("name=other", true),
            ("packages.install=[\"jq\"]", false),
            ("packages.recommends=true", false),
            ("packages.debs=[{ file = \"x.deb\" }]", false),
            ("archives.debian.suites=[\"bookworm-backports\"]", false),
        ] {
            let sets = [set.to_owned()];
            let recipe = load(&path, &sets, None).expect(set).recipe;
            let expected = shared.then(|| folder.path().join("mine.lock"));
            assert_eq!(beside_recipe(&path, &sets, &recipe, &[]), expected, "{set}");
        }
        let other = load(&path, &[], Some(crate::units::Arch::Aarch64)).expect("loads").recipe;
        assert!(beside_recipe(&path, &[], &other, &[]).is_some(), "an architecture has a section of its own");
    }
}
