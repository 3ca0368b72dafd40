//! `[publish]`: addresses.

use super::{Found, http};
use crate::recipe::types::Recipe;

pub(super) fn check(recipe: &Recipe, found: &mut Found<'_>) {
    let publish = &recipe.publish;
    for (key, value, local) in [
        ("publish/url", &publish.url, true),
        ("publish/icon", &publish.icon, true),
        ("publish/website", &publish.website, false),
    ] {
        let Some(value) = value else { continue };
        let good = http(value) || (local && value.starts_with("file:///"));
        let expected = if local {
            "an http or https address without a password, query or fragment, or one that starts with file:///"
        } else {
            super::HTTP
        };
        found.check(good, key, value, expected);
    }
}
