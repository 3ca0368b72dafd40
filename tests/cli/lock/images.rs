//! Container images in the lock: a real registry, whose tags move.

use std::fs;

use super::{World, answer, refused, stderr};
use crate::support::registry::{Door, PASSWORD, Registry, USER, layout};

/// A registry with TLS and a password: the lock has digests, a tag that moves changes nothing unasked, and nothing is told.
#[test]
fn images_are_locked_by_digest() {
    let registry = Registry::start(Door::Basic);
    let world = World::new();
    let at = |name: &str| world.folder.path().join(name);
    let name = format!("{}/plant/tool:1", registry.address);
    let first = layout(&at("first"), 1, false);
    let second = layout(&at("second"), 2, false);
    registry.push(&at("first"), "plant/tool:1");
    let recipe = fs::read_to_string(at("test.toml")).expect("recipe");
    let with_image = format!("{recipe}[[engine.images]]\nname = \"{name}\"\n");
    fs::write(at("test.toml"), &with_image).expect("recipe");
    let ca = format!("{}={}", registry.address, registry.ca().display());
    let auth = serde_json::json!({ "auths": { registry.address.clone(): { "username": USER, "password": PASSWORD } } });
    fs::write(at("auth.json"), auth.to_string()).expect("credentials");
    let known = ["--registry-auth", "auth.json", "--registry-ca", &ca];
    let lock = |more: &[&str]| world.lock(&[more, &known].concat());

    refused(world.lock(&["--registry-ca", &ca]), 1, &["HTTP 401", "--registry-auth", &name]);
    let unused = lock(&["--mirror", "plant.example=https://mirror.example"]);
    refused(unused, 2, &["--mirror plant.example=", "its images come from", &registry.address]);
    assert!(!world.lock_file().exists(), "nothing half-made");
    let said = stderr(&lock(&[]).success()) + &world.lock_text();
    assert!(!said.contains(PASSWORD), "{said}");
    assert!(world.lock_text().contains(&format!("sha256:{first}")), "{}", world.lock_text());
    let made = world.lock_text();

    registry.push(&at("second"), "plant/tool:1");
    lock(&[]).success();
    lock(&["--locked"]).success();
    assert_eq!(world.lock_text(), made, "the tag has moved, and the lock stays");
    let fetched = answer(&lock(&["--fetch", "--json"]).success());
    assert!(fetched["blobs_downloaded"].as_u64().is_some_and(|count| count > 0), "{fetched:#}");
    assert_eq!(answer(&lock(&["--fetch", "--json"]).success())["blobs_downloaded"], 0);
    let updated = answer(&lock(&["--update", "--json"]).success());
    let change = &updated["changed"][format!("image {name}")];
    assert_eq!(change, &serde_json::json!([first.short(), second.short()]), "{updated:#}");

    fs::write(at("test.toml"), &recipe).expect("recipe");
    refused(lock(&["--locked"]), 2, &["the recipe no longer takes", &name, "edgepress lock"]);
    lock(&[]).success();
    assert!(!world.lock_text().contains(".image"), "{}", world.lock_text());
    let packages = |text: &str| text.matches("package]]").count();
    assert_eq!(packages(&world.lock_text()), packages(&made));
    fs::write(at("test.toml"), &with_image).expect("recipe");
    refused(lock(&["--locked"]), 2, &["it lacks", &name]);
}

/// Its images would be left out without a word.
#[test]
fn a_manifest_that_cannot_be_read_is_named() {
    let world = World::new();
    let at = |name: &str| world.folder.path().join(name);
    let recipe = fs::read_to_string(at("test.toml")).expect("recipe");
    fs::write(at("test.toml"), format!("{recipe}[modules]\nmanifest = \"deployment.json\"\n"))
        .expect("recipe");
    refused(world.lock(&[]), 2, &["deployment.json"]);
    fs::write(at("deployment.json"), "{\n  \"modulesContent\": {\n").expect("manifest");
    refused(world.lock(&[]), 2, &["deployment.json:"]);
    assert!(!world.lock_file().exists());
}
