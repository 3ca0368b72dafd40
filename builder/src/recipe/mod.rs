//! Recipes: loading, merging, checking.

mod de;
mod load;
mod merge;
pub(crate) mod modules;
pub(crate) mod schema;
pub(crate) mod support;
pub(crate) mod tree;
pub mod types;
mod validate;
pub(crate) mod zones;

#[cfg(test)]
mod tests;

pub use load::{Loaded, load, load_or_list};
#[cfg(test)]
use types::Recipe;

/// The smallest recipe, for tests of what works on recipes.
#[cfg(test)]
pub(crate) fn test_recipe() -> Recipe {
    let text = r#"
        name = "test"
        distribution = { id = "debian", release = "12", codename = "bookworm" }
        target = { arch = "x86_64", board = "uefi" }
        provisioning = { id_scope = "0ne00123456" }
        [archives]
    "#;
    toml::from_str(text).expect("the test recipe is a recipe")
}
