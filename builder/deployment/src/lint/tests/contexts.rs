//! Rules that depend on what the caller knows.

use std::collections::BTreeSet;

use edgepress_base::units::Arch;

use super::{GOOD, changed, expect, found};
use crate::lint::Context;

/// The rules that have their cases here.
pub(super) const RULES: [&str; 7] = [
    "preloaded-pulled",
    "never-preloaded",
    "bootstrap-agent",
    "privileged",
    "image-arch",
    "private-place-forbidden",
    "host-rights-forbidden",
];

fn names(text: &str, context: &Context) -> Vec<&'static str> {
    found(text, context).iter().map(|hit| hit.rule.name).collect()
}

fn preloaded(images: &[&str]) -> Context {
    let images: BTreeSet<_> = images.iter().map(|image| image.parse().expect("a reference")).collect();
    Context { preloaded: Some(images), ..Context::default() }
}

#[test]
fn preloaded_images_are_not_pulled_and_others_are() {
    let sensor = "factory.azurecr.io/sensor:2.1-amd64";
    assert_eq!(names(GOOD, &preloaded(&[sensor])), Vec::<&str>::new());
    let hub = "mcr.microsoft.com/azureiotedge-hub:1.5";
    expect(GOOD, &preloaded(&[sensor, hub]), "preloaded-pulled", "/edgeHub/settings/image", "is preloaded");
    expect(GOOD, &preloaded(&[]), "never-preloaded", "/sensor/settings/image", "is never pulled");
    // By digest, whatever the tag; by tag, whatever the digest.
    let digest = "sha256:0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let locked = format!("factory.azurecr.io/filter:7@{digest}");
    expect(
        GOOD,
        &preloaded(&[sensor, &locked]),
        "preloaded-pulled",
        "/filter/settings/image",
        "is preloaded",
    );
    let other = format!("factory.azurecr.io/other@{digest}");
    let tagged = format!("{sensor}@{digest}");
    assert_eq!(
        names(GOOD, &preloaded(&[&tagged, &other, "factory.azurecr.io/filter:7"])),
        Vec::<&str>::new()
    );
    // Names that mean the same are the same.
    let debian = changed(GOOD, "factory.azurecr.io/sensor:2.1-amd64", "debian:12");
    assert_eq!(names(&debian, &preloaded(&["docker.io/library/debian:12"])), Vec::<&str>::new());
}

#[test]
fn edge_agent_is_the_one_that_config_toml_starts() {
    let context = |image: &str| Context {
        bootstrap_agent: Some(image.parse().expect("a reference")),
        ..Context::default()
    };
    assert_eq!(names(GOOD, &context("mcr.microsoft.com/azureiotedge-agent:1.5")), Vec::<&str>::new());
    let other = context("mcr.microsoft.com/azureiotedge-agent:1.4");
    expect(GOOD, &other, "bootstrap-agent", "/edgeAgent/settings/image", "azureiotedge-agent:1.4");
}

#[test]
fn privileges_are_refused_where_the_recipe_forbids_them() {
    let forbidden = Context { privileged_allowed: false, ..Context::default() };
    assert_eq!(names(GOOD, &forbidden), Vec::<&str>::new());
    for added in [r#"\"Privileged\":true,"#, r#"\"CapAdd\":[\"NET_ADMIN\"],"#, r#"\"privileged\":true,"#] {
        let text =
            changed(GOOD, r#"\"Binds\":[\"filter-data"#, &format!(r#"{added}\"Binds\":[\"filter-data"#));
        assert!(!names(&text, &Context::default()).contains(&"privileged"), "{added}");
        expect(&text, &forbidden, "privileged", "/filter/settings/createOptions", "forbids");
    }
    let no = changed(GOOD, r#"\"Binds\":[\"filter-data"#, r#"\"Privileged\":false,\"Binds\":[\"filter-data"#);
    assert_eq!(names(&no, &forbidden), Vec::<&str>::new());
}

/// aziot-edged takes none of this away.
#[test]
fn the_machine_is_kept_from_modules_where_privileges_are_forbidden() {
    let forbidden = Context { privileged_allowed: false, ..Context::default() };
    for (added, rule) in [
        (r#"\"PidMode\":\"host\","#, "host-rights-forbidden"),
        (r#"\"Devices\":[{\"PathOnHost\":\"/dev/nvme0n1\"}],"#, "host-rights-forbidden"),
        (
            r#"\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/etc/aziot\",\"Target\":\"/x\"}],"#,
            "private-place-forbidden",
        ),
        (
            r#"\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/var/run/docker.sock\",\"Target\":\"/x\"}],"#,
            "private-place-forbidden",
        ),
    ] {
        let text =
            changed(GOOD, r#"\"Binds\":[\"filter-data"#, &format!(r#"{added}\"Binds\":[\"filter-data"#));
        assert_eq!(names(&text, &forbidden), [rule], "{added}");
    }
    // What a module may well have.
    for added in [
        r#"\"Devices\":[{\"PathOnHost\":\"/dev/ttyUSB0\"},{\"PathOnHost\":\"/dev/video0\"}],"#,
        r#"\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/etc/localtime\",\"Target\":\"/x\"}],"#,
        r#"\"SecurityOpt\":[\"no-new-privileges\"],\"PidMode\":\"\",\"DeviceCgroupRules\":[\"c 188:* rwm\"],"#,
    ] {
        let text =
            changed(GOOD, r#"\"Binds\":[\"filter-data"#, &format!(r#"{added}\"Binds\":[\"filter-data"#));
        assert_eq!(names(&text, &forbidden), Vec::<&str>::new(), "{added}");
        assert_eq!(names(&text, &Context::default()), Vec::<&str>::new(), "{added}");
    }
}

#[test]
fn an_image_is_for_the_devices_architecture() {
    let on = |arch| Context { arch: Some(arch), ..Context::default() };
    assert_eq!(names(GOOD, &on(Arch::X86_64)), Vec::<&str>::new());
    expect(GOOD, &on(Arch::Aarch64), "image-arch", "/sensor/settings/image", "`amd64`");
    for (image, fits) in [
        ("arm64v8/debian:12", false),
        ("factory.azurecr.io/sensor-arm32v7:1", false),
        ("factory.azurecr.io/sensor:1-linux-x64", true),
        ("factory.azurecr.io/charm64:1", true),
        ("factory.azurecr.io/sensor:arm64-amd64", true),
    ] {
        let text = changed(GOOD, "factory.azurecr.io/sensor:2.1-amd64", image);
        let told = names(&text, &on(Arch::X86_64)).contains(&"image-arch");
        assert_eq!(told, !fits, "{image}");
    }
}
