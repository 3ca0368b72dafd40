//! `edgepress check` as a user runs it: exit status, standard output, standard error.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

use crate::support::{project, scratch};

fn repository() -> PathBuf {
    project().canonicalize().expect("the repository")
}

fn check(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("edgepress").expect("the program");
    // Not the user's own: what is in that would decide what is found.
    command.env("EDGEPRESS_STORE", scratch("recipe/store"));
    command.current_dir(folder).arg("check").args(arguments).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A recipe of one's own in a temporary folder, over the repository's base for Debian 12.
struct Own(tempfile::TempDir);

impl Own {
    fn new(rest: &str) -> Self {
        let own = Self(tempfile::tempdir().expect("a temporary folder"));
        let demo = repository().join("recipes/demo.toml");
        own.file("r.toml", &format!("name = \"own\"\nextends = \"{}\"\n{rest}", demo.display()));
        own
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("a file");
    }

    fn check(&self, arguments: &[&str]) -> Output {
        check(self.0.path(), &[&["r.toml"], arguments].concat())
    }

    /// The findings as JSON: (severity, message with hint).
    fn findings(&self) -> Vec<(String, String)> {
        let output = self.check(&["--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let part = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let all = report["findings"].as_array().expect("findings");
        all.iter().map(|f| (part(f, "severity"), part(f, "message") + " " + &part(f, "hint"))).collect()
    }
}

#[test]
fn the_recipes_of_the_repository_are_good() {
    let (id_scope, country) = ("provisioning.id_scope=0ne00123456", "network.wifi.country=DE");
    let vault = "provisioning.certificate.vault=https://factory.vault.azure.net";
    for arguments in [
        &["recipes/demo.toml"][..],
        &["recipes/demo-arm64.toml"],
        &["recipes/demo-bios.toml"],
        &["recipes/debian-12-raspberry-pi.toml"],
        &["recipes/debian-12-azure.toml"],
        &["recipes/ubuntu-24.04-azure.toml", "--set", id_scope, "--set", vault],
        &["recipes/raspberry-pi-os-12.toml", "--set", id_scope, "--set", country],
        &["recipes/ubuntu-24.04-raspberry-pi.toml", "--set", id_scope],
        &["recipes/ubuntu-24.04.toml", "--set", "provisioning.id_scope=0ne00123456"],
        &["recipes/ubuntu-24.04.toml", "--set", "provisioning.id_scope=0ne00123456", "--arch", "aarch64"],
    ] {
        let output = check(&repository(), arguments);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}\n{shown}");
    }
    let demo = check(&repository(), &["recipes/demo.toml"]);
    assert_eq!(text(&demo.stdout), "recipes/demo.toml: demo for x86_64: good\n");
    let card = check(&repository(), &["recipes/debian-12-raspberry-pi.toml"]);
    let good = "recipes/debian-12-raspberry-pi.toml: debian-12-raspberry-pi for aarch64: good\n";
    // A note on the boot chain may go before it: it depends on what is downloaded.
    assert!(text(&card.stdout).ends_with(good), "{}", text(&card.stdout));
}

#[test]
fn the_shipped_recipe_with_wifi_wants_a_country() {
    let scope = ["--set", "provisioning.id_scope=0ne00123456"];
    let output = check(&repository(), &[&["recipes/raspberry-pi-os-12.toml"][..], &scope].concat());
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stdout);
    assert!(said.contains("`network.wifi.country` is empty"), "{said}");
    assert!(said.ends_with("raspberry-pi-os-12 for aarch64: 1 error\n"), "{said}");
}

/// What `check` says of a recipe over one of the shipped ones must hold `says`, as an error.
fn assert_refused(parent: &str, recipe: &str, says: &str) {
    let own = Own::new("");
    let path = repository().join("recipes").join(parent);
    own.file("r.toml", &format!("name = \"own\"\nextends = \"{}\"\n{recipe}", path.display()));
    own.file("short.key", "hunter2\n");
    own.file("mine/boot/firmware/usercfg.txt", "x");
    let found = own.findings();
    let hit = found.iter().any(|(kind, text)| kind == "error" && text.contains(says));
    assert!(hit, "{parent}: {recipe}: {found:#?}");
    assert!(found.iter().all(|(_, text)| !text.contains("hunter2")));
}

#[test]
fn cards_that_would_not_boot_are_refused() {
    for (recipe, says) in [
        (
            "target.raspberry_pi.models = [\"5\"]",
            "model 5 does not boot with linux-image-arm64 drop `5` from",
        ),
        (
            "target.raspberry_pi.models = [\"zero-2\"]",
            "model zero-2 has no Ethernet, and Debian no firmware for its radio drop",
        ),
        (
            "packages.install = [\"=\", \"jq\"]",
            "no kernel is installed: `packages.install` names no kernel package for example linux-image-arm64",
        ),
        (
            "packages.install = [\"=\", \"linux-image-cloud-arm64\"]",
            "model 3 does not boot with linux-image-cloud-arm64 install `linux-image-arm64`, or drop",
        ),
        (
            "packages.install = [\"=\", \"linux-image-amd64\"]",
            "is for amd64, and the image for arm64 install `linux-image-arm64`",
        ),
        (
            "packages.install = [\"grub-efi-amd64-signed\"]",
            "`grub-efi-amd64-signed` is for amd64, and the image for arm64 install `grub-efi-arm64-signed`",
        ),
        (
            "packages.install = [\"intel-microcode\"]",
            "`intel-microcode` is for amd64, and the image for arm64 leave it out",
        ),
        ("target.initramfs = \"none\"", "find no root without an initramfs"),
        ("target.raspberry_pi.overlays = [\"disable-bt\"]", "no device tree overlays"),
        ("overlays = [\"mine\"]", "the device never sees /boot/firmware/usercfg.txt of an overlay"),
    ] {
        assert_refused("debian-12-raspberry-pi.toml", recipe, says);
    }
}

#[test]
fn cards_without_a_kernel_or_network_for_a_model_are_refused() {
    let pi_os = "raspberry-pi-os-12.toml";
    let ubuntu = "ubuntu-24.04-raspberry-pi.toml";
    for (parent, recipe, says) in [
        (
            pi_os,
            "packages.install = [\"=\", \"linux-image-rpi-2712\"]",
            "model 3 does not boot with linux-image-rpi-2712 install `linux-image-rpi-v8`",
        ),
        (pi_os, "provisioning.overrides = false", "the identity may not bring one"),
        (pi_os, "network.wifi.ssid = \"a\"\nnetwork.wifi.key_file = \"no.key\"", "no.key does not exist"),
        (
            pi_os,
            "network.wifi.ssid = \"a\"\nnetwork.wifi.key_file = \"short.key\"",
            "short.key is no key of a Wi-Fi network",
        ),
        (
            ubuntu,
            "packages.install = [\"linux-generic\"]\ntarget.raspberry_pi.models = [\"zero-2\"]",
            "zero-2 has no Ethernet",
        ),
    ] {
        assert_refused(parent, recipe, says);
    }
}

#[test]
fn the_two_kernels_of_raspberry_pi_os_are_no_surprise() {
    let sets = ["provisioning.id_scope=0ne00123456", "network.wifi.country=DE"];
    let output = check(
        &repository(),
        &["recipes/raspberry-pi-os-12.toml", "--json", "--set", sets[0], "--set", sets[1]],
    );
    assert!(!text(&output.stdout).contains("more than one kernel"), "{}", text(&output.stdout));
}

#[test]
fn the_shipped_recipe_wants_an_id_scope() {
    let output = check(&repository(), &["recipes/ubuntu-24.04.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("recipes/ubuntu-24.04.toml:"), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("`provisioning.id_scope`: it is empty, and DPS needs it"));
}

#[test]
fn mistakes_are_named_and_the_status_is_2() {
    let own = Own::new("[packages]\ninstal = [\"jq\"]\n");
    let output = own.check(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stdout),
        "error: r.toml:4:1: unknown key `instal` in `packages`\n   |\n 4 | instal = [\"jq\"]\n   | ^^^^^^\n   \
         = expected one of `install`, `recommends`, `debs`, `sources`, `remove`, `keep_keys`\n   = hint: did you mean `install`?\n\n\
         r.toml: 1 error\n"
    );
    assert_eq!(text(&output.stderr), "error: r.toml has an error\n");
}

#[test]
fn unknown_variables_of_templates_are_named() {
    let own = Own::new("overlays = [\"mine\"]\n");
    own.file("mine/etc/motd.tera", "Welcome to\n{{ recipe.nmae }}\n");
    let found = own.findings();
    let hit = found.iter().find(|(severity, _)| severity == "error").expect("an error");
    assert!(
        hit.1.ends_with("mine/etc/motd.tera:2: unknown variable `recipe.nmae` did you mean `recipe.name`?"),
        "{hit:?}"
    );
}

/// What is refused or warned of in a recipe that can be loaded.
#[test]
fn findings() {
    let debian_13 = "edge.from = \"archive\"\n[distribution]\nrelease = \"13\"\ncodename = \"trixie\"\n[archives.debian]\nsuites = [\"trixie\"]";
    let ubuntu_26 = "edge.from = \"archive\"\n[distribution]\nid = \"ubuntu\"\nrelease = \"26.04\"\ncodename = \"resolute\"";
    for (recipe, severity, says) in [
        (debian_13, "error", "no build of aziot-edge for Debian 13"),
        (ubuntu_26, "error", "no build of aziot-edge for Ubuntu 26.04"),
        ("edge.from = \"archive\"", "warning", "no archive has the runtime"),
        ("distribution.codename = \"bullseye\"", "error", "is called `bookworm`"),
        ("edge.version = \"1.5\"", "warning", "ended in November 2026"),
        ("engine.packages = [\"=\"]", "error", "no container engine"),
        ("engine.packages = [\"=\", \"docker.io=29.1.0-1\"]", "error", "1.44 and newer only"),
        (
            "engine.metadata_access = true\nprovisioning.certificate = { from = \"key-vault\", vault = \"https://v.vault.azure.net\" }",
            "warning",
            "every module can read the device's key",
        ),
        ("packages.install = [\"linux-image-amd64\"]", "warning", "more than one kernel"),
        ("packages.install = [\"=\", \"jq\"]", "error", "no kernel"),
        ("target.arch = \"aarch64\"", "error", "install `linux-image-cloud-arm64`"),
        ("packages.sources = [\"=\"]", "error", "has `aziot-edge`"),
        ("packages.sources = [\"nowhere\"]", "error", "nowhere does not exist"),
        ("packages.debs = [{ file = \"no.deb\" }]", "error", "no.deb does not exist"),
        ("packages.debs = [{ file = \"r.toml\" }]", "error", "is no Debian package: it is a text file"),
        ("access.ssh_keys = [\"no.pub\"]", "error", "no.pub does not exist"),
        ("access.ssh_keys = [\"id\"]", "error", "is a private key"),
        ("overlays = [\"nowhere\"]", "error", "nowhere does not exist"),
        ("provisioning.id_scope = \"\"", "error", "DPS needs it"),
        ("provisioning.id_scope = \"0ne\"", "error", "no ID scope"),
        ("edge.agent_pull_policy = \"on-create\"", "warning", "asks the registry"),
        ("edge.agent_image = \"other:1\"", "error", "does not preload it"),
        ("edge.agent_storage = \"/var\"", "error", "the device's private key"),
        (
            "edge.agent_image = \"mcr.microsoft.com/azureiotedge-agent:1.5.40\"",
            "warning",
            "the tag `1.5.40`, and the runtime is 1.6",
        ),
    ] {
        let own = Own::new(recipe);
        own.file("id", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n");
        let found = own.findings();
        assert!(
            found.iter().any(|(kind, text)| kind == severity && text.contains(says)),
            "{recipe}: {found:#?}"
        );
        assert!(found.iter().all(|(_, text)| !text.contains("hunter2")));
        let failed = found.iter().any(|(kind, _)| kind == "error");
        assert_eq!(own.check(&[]).status.code(), Some(if failed { 2 } else { 0 }), "{recipe}");
    }
}

#[test]
fn a_config_toml_of_ones_own_is_linted() {
    let own = Own::new("overlays = [\"mine\"]\n");
    own.file("mine/etc/aziot/config.toml", "cloud_timeout_sec = 10\n[provisioning]\nsource = \"none\"\n");
    let found = own.findings();
    assert!(
        found.iter().any(|(_, text)| text.contains("`cloud_timeout_sec`: 10 is less than 70")),
        "{found:#?}"
    );
}

#[test]
fn the_smallest_recipe_of_the_reference_is_good() {
    let reference = std::fs::read_to_string(repository().join("docs/recipe.md")).expect("the reference");
    let block =
        reference.split("```toml\n").find(|block| block.starts_with("name    = \"gateway\"")).expect("it");
    let recipe = block.split("```").next().expect("its text");
    let base = repository().join("recipes/base/debian-12.toml");
    let own = Own::new("");
    own.file("r.toml", &recipe.replace("recipes/base/debian-12.toml", &base.display().to_string()));
    let output = own.check(&[]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn the_help_teaches() {
    let output = check(&repository(), &["--help"]);
    let help = text(&output.stdout);
    for part in ["Examples:", "edgepress check recipes/demo.toml", "--set <KEY=VALUE>", "Exit status"] {
        assert!(help.contains(part), "{part} in {help}");
    }
}
