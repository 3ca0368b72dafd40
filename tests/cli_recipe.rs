//! `edgepress check` as a user runs it: exit status, standard output, standard error.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn check(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("edgepress").expect("the program");
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
    for arguments in [
        &["recipes/demo.toml"][..],
        &["recipes/ubuntu-24.04.toml", "--set", "provisioning.id_scope=0ne00123456"],
        &["recipes/ubuntu-24.04.toml", "--set", "provisioning.id_scope=0ne00123456", "--arch", "aarch64"],
    ] {
        let output = check(&repository(), arguments);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}\n{shown}");
    }
    let demo = check(&repository(), &["recipes/demo.toml"]);
    assert_eq!(text(&demo.stdout), "recipes/demo.toml: demo for x86_64: good\n");
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
         = expected one of `install`, `recommends`, `debs`, `sources`\n   = hint: did you mean `install`?\n\n\
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
        ("packages.install = [\"linux-image-amd64\"]", "warning", "more than one kernel"),
        ("packages.install = [\"=\", \"jq\"]", "error", "no kernel"),
        ("target.arch = \"aarch64\"", "error", "install `linux-image-cloud-arm64`"),
        ("packages.sources = [\"=\"]", "error", "has `aziot-edge`"),
        ("packages.sources = [\"nowhere\"]", "error", "nowhere does not exist"),
        ("packages.debs = [{ file = \"no.deb\" }]", "error", "no.deb does not exist"),
        ("packages.debs = [{ file = \"r.toml\" }]", "error", "is not a Debian package"),
        ("access.ssh_keys = [\"no.pub\"]", "error", "no.pub does not exist"),
        ("access.ssh_keys = [\"id\"]", "error", "is a private key"),
        ("overlays = [\"nowhere\"]", "error", "nowhere is not a folder"),
        ("provisioning.id_scope = \"\"", "error", "DPS needs it"),
        ("provisioning.id_scope = \"0ne\"", "error", "no ID scope"),
        ("edge.agent_pull_policy = \"on-create\"", "warning", "asks the registry"),
        ("edge.agent_image = \"other:1\"", "error", "does not preload it"),
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
    own.file("r.toml", &recipe.replace("base/debian-12.toml", &base.display().to_string()));
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
