//! `edgepress lock`, driven from outside: the real program and the host's apt against a small signed archive.

mod images;

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use edgepress::units::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::archive::{Archive, Fault, Key, SUITE, Server, control, write};

const DATES: &str = "Date: Thu, 01 Jan 2026 00:00:00 UTC\n";
const NOT_HERE: &str = "http://127.0.0.1:9/nothing";

/// A recipe, its archive and a store.
struct World {
    folder: TempDir,
    archive: Archive,
    key: Key,
    server: Server,
}

impl World {
    fn new() -> Self {
        let mut archive = Archive::new();
        archive.add("base", "1.0-1", "Essential: yes\n");
        archive.add("engine", "2:20.1+dfsg-1~deb12u1", "Depends: libengine (>= 2)\nRecommends: extra\n");
        archive.add("libengine", "2.0-1", "");
        archive.add("libengine", "1.0-1", "");
        archive.add("extra", "1", "Provides: mail-transport-agent\n");
        for name in ["shim-signed", "grub-efi-amd64-signed", "initramfs-tools", "zstd", "nftables"] {
            archive.add(name, "1", "");
        }
        let key = Key::new("archive");
        archive.publish(&key, DATES);
        let server = Server::new(archive.path());
        let world = Self { folder: tempfile::tempdir().expect("temporary folder"), archive, key, server };
        world.recipe(&world.key.fingerprint, "");
        for name in ["aziot-edge", "aziot-identity-service"] {
            let text = control(name, "0~test", "Depends: base\n");
            write(world.folder.path(), &format!("own/{name}/DEBIAN/control"), &text);
        }
        world
    }

    /// Writes the recipe; the address in it is one where nothing answers, so that the mirror must come from elsewhere.
    fn recipe(&self, fingerprint: &str, install: &str) {
        let text = format!(
            "name = \"test\"\n[distribution]\nid = \"debian\"\nrelease = \"12\"\ncodename = \"bookworm\"\n\
             [archives.debian]\nurl = \"{NOT_HERE}\"\nsuites = [\"{SUITE}\"]\ncomponents = [\"main\"]\n\
             key = {{ file = \"{}\", fingerprints = [\"{fingerprint}\"] }}\n\
             [target]\narch = \"x86_64\"\nboard = \"uefi\"\n\
             [packages]\ninstall = [{install}]\nsources = [\"own\"]\n\
             [engine]\npackages = [\"engine\"]\n[edge]\nfrom = \"packages\"\n",
            self.key.public.display()
        );
        write(self.folder.path(), "test.toml", &text);
    }

    /// `edgepress lock test.toml …` at the archive's address.
    fn lock(&self, more: &[&str]) -> Assert {
        self.run(&[more, &["--mirror", &format!("debian={}", self.server.url)]].concat())
    }

    /// `edgepress lock test.toml …` with no mirror named.
    fn run(&self, more: &[&str]) -> Assert {
        let mut command = Command::cargo_bin("edgepress").expect("the program");
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("no_proxy", "127.0.0.1").env("EDGEPRESS_STORE", "store");
        command.current_dir(self.folder.path()).args(["lock", "test.toml"]).args(more).assert()
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.path().join("test.lock")
    }

    fn lock_text(&self) -> String {
        fs::read_to_string(self.lock_file()).expect("reads the lock")
    }

    /// Number of blobs in the store, staged ones included.
    fn blobs(&self) -> usize {
        let mut folders = vec![self.folder.path().join("store/blobs"), self.folder.path().join("store/tmp")];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("lists").flatten() {
                match entry.file_type().expect("type").is_dir() {
                    true => folders.push(entry.path()),
                    false => count += usize::from(entry.file_name() != ".gate"),
                }
            }
        }
        count
    }
}

/// Blobs of the recipe's own packages.
const OWN: usize = 2;
/// Packages in the lock.
const LOCKED: usize = 8;

fn stderr(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

fn answer(assert: &Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stdout).expect("JSON")
}

/// Fails with `code`, and says each of `texts`.
#[track_caller]
fn refused(assert: Assert, code: i32, texts: &[&str]) {
    let assert = assert.code(code);
    let said = stderr(&assert);
    for text in texts {
        assert!(said.contains(text), "`{text}` is not in\n{said}");
    }
}

#[test]
fn a_lock_names_every_package_and_no_mirror() {
    let world = World::new();
    world.lock(&[]).success();
    let mut expected = String::new();
    for (name, version) in [
        ("base", "1.0-1"),
        ("engine", "2:20.1+dfsg-1~deb12u1"),
        ("grub-efi-amd64-signed", "1"),
        ("initramfs-tools", "1"),
        ("libengine", "2.0-1"),
        ("nftables", "1"),
        ("shim-signed", "1"),
        ("zstd", "1"),
    ] {
        let path = format!("pool/{name}_{version}_all.deb");
        let bytes = fs::read(world.archive.path().join(&path)).expect("reads");
        expected.push_str(&format!(
            "\n[[arch.x86_64.package]]\nname = \"{name}\"\nversion = \"{version}\"\narchitecture = \"all\"\n\
             archive = \"debian\"\npath = \"{path}\"\nsize = {}\nsha256 = \"{}\"\n",
            bytes.len(),
            Digest::of(&bytes)
        ));
    }
    let text = world.lock_text();
    let (head, packages) = text.split_at(text.find("\n[[").expect("packages"));
    assert_eq!(packages, expected);
    let lines: Vec<&str> = head.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(lines[..2], ["format = 1", "[arch.x86_64]"]);
    assert!(lines[2].starts_with("inputs = \"") && lines.len() == 3, "{head}");
    assert!(!text.contains("127.0.0.1"), "{text}");

    // It fits: nothing is asked of the archive, and the file stays.
    world.server.requests("");
    let kept = answer(&world.run(&["--json"]).success());
    assert_eq!((kept["action"].as_str(), kept["packages"].as_u64()), (Some("kept"), Some(LOCKED as u64)));
    assert_eq!(world.lock_text(), text);
    assert_eq!(world.server.requests(""), [""; 0]);
}

#[test]
fn the_store_is_filled_once_and_then_enough() {
    let world = World::new();
    let first = answer(&world.lock(&["--fetch", "--json"]).success());
    assert_eq!(first["downloaded"], LOCKED);
    assert_eq!(world.blobs(), LOCKED + OWN);
    // No mirror now, and the recipe's own address leads nowhere.
    let second = answer(&world.run(&["--fetch", "--locked", "--json"]).success());
    assert_eq!(second["downloaded"], 0);
}

#[test]
fn an_interrupted_download_is_resumed_and_a_busy_server_asked_again() {
    let world = World::new();
    world.lock(&[]).success();
    world.server.fail("pool/zstd_1_all.deb", &[Fault::HangUp]);
    world.server.fail("pool/base_1.0-1_all.deb", &[Fault::Status(503)]);
    world.server.requests("");
    world.lock(&["--fetch"]).success();
    let size = fs::metadata(world.archive.path().join("pool/zstd_1_all.deb")).expect("metadata").len();
    let log = world.server.requests("pool/");
    let of = |name: &str| log.iter().filter(|line| line.contains(name)).cloned().collect::<Vec<_>>();
    let resumed = format!("pool/zstd_1_all.deb from {}", size / 2);
    assert_eq!(of("zstd"), ["pool/zstd_1_all.deb".to_owned(), resumed]);
    assert_eq!(of("base"), ["pool/base_1.0-1_all.deb"; 2]);
}

#[test]
fn a_wrong_file_is_refused_by_name_and_fetched_again_once() {
    let world = World::new();
    world.lock(&[]).success();
    for fault in [Fault::Tamper, Fault::Truncate] {
        let path = "pool/libengine_2.0-1_all.deb";
        world.server.fail(path, &[fault, fault]);
        world.server.requests("");
        let what = if fault == Fault::Tamper { "has SHA-256" } else { "is cut short" };
        let texts = [
            "warning: libengine 2.0-1 from ",
            what,
            "fetching it again",
            "it is refused",
            " hint: renew the lock",
        ];
        refused(world.lock(&["--fetch"]), 1, &texts);
        assert_eq!(world.server.requests(path), [path; 2]);
        let digest = Digest::of(fs::read(world.archive.path().join(path)).expect("reads")).to_string();
        assert!(!world.folder.path().join("store/blobs/sha256").join(&digest[..2]).join(&digest).exists());
    }
    world.server.fail("pool/libengine_2.0-1_all.deb", &[Fault::Tamper]);
    let said = stderr(&world.lock(&["--fetch"]).success());
    assert!(said.contains("fetching it again"), "{said}");
    assert_eq!(world.blobs(), LOCKED + OWN);
}

#[test]
fn a_lock_whose_digest_is_not_the_file_s_is_refused() {
    let world = World::new();
    world.lock(&[]).success();
    let text = world.lock_text();
    let at = text.find("sha256 = \"").expect("a digest") + 10;
    fs::write(world.lock_file(), format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]))
        .expect("writes");
    let texts = ["base 1.0-1 from ", "has SHA-256", &"0".repeat(64), "it is refused"];
    refused(world.lock(&["--fetch"]), 1, &texts);
}

#[test]
fn files_that_the_archive_has_deleted_are_named_with_the_way_out() {
    let mut world = World::new();
    world.lock(&[]).success();
    for name in ["zstd", "shim-signed"] {
        world.archive.remove(name, "1");
        world.archive.add(name, "2", "");
    }
    let texts = [
        "the archive no longer has what the lock names",
        "shim-signed 1 (HTTP 404: ",
        "zstd 1 (HTTP 404: ",
        "edgepress lock --update",
        "--mirror debian=URL",
    ];
    refused(world.lock(&["--fetch"]), 1, &texts);
    world.archive.publish(&world.key, DATES);
    let updated = answer(&world.lock(&["--update", "--fetch", "--json"]).success());
    assert_eq!(updated["action"], "updated");
    assert_eq!(updated["changed"]["zstd"], serde_json::json!(["1", "2"]));
}

#[test]
fn an_archive_signed_with_another_key_is_refused() {
    let world = World::new();
    let other = Key::new("other");
    world.archive.publish(&other, DATES);
    let texts =
        ["the archive `debian`", "signed with another key than the recipe pins", "archives.debian.key"];
    refused(world.lock(&[]), 1, &texts);
    assert!(!world.lock_file().exists());

    // A pinned fingerprint that the key file does not have.
    world.recipe(&other.fingerprint, "");
    let texts = ["no key has the pinned fingerprint", &other.fingerprint, &world.key.fingerprint];
    refused(world.lock(&[]), 2, &texts);
}

#[test]
fn an_expired_release_file_is_refused_whatever_the_host_has_switched_off() {
    let world = World::new();
    world.archive.publish(&world.key, &format!("{DATES}Valid-Until: Fri, 02 Jan 2026 00:00:00 UTC\n"));
    let apt = world.folder.path().join("apt.conf");
    fs::write(&apt, "Acquire::Check-Valid-Until \"false\";\n").expect("writes");
    let mut command = Command::cargo_bin("edgepress").expect("the program");
    command.env("APT_CONFIG", apt).env("no_proxy", "127.0.0.1").current_dir(world.folder.path());
    let mirror = format!("debian={}", world.server.url);
    let assert = command.args(["lock", "test.toml", "--store", "store", "--mirror", &mirror]).assert();
    refused(assert, 1, &["the archive `debian`", "is expired (invalid since", "--mirror debian=URL"]);

    world.archive.publish(&world.key, "Date: Thu, 01 Jan 2099 00:00:00 UTC\n");
    refused(world.lock(&[]), 1, &["is not valid yet", "clock"]);
}

#[test]
fn a_mirror_that_is_not_there_is_named() {
    let world = World::new();
    refused(
        world.run(&[]),
        1,
        &["the archive `debian` (http://127.0.0.1:9/nothing bookworm)", "cannot be reached"],
    );
    let texts = ["recipe has no archive `nowhere`", "its archives are: debian"];
    refused(world.run(&["--mirror", "nowhere=http://x.example/"]), 2, &texts);
    refused(world.run(&["--mirror", "debian"]), 2, &["expected NAME=URL"]);
}

#[test]
fn what_cannot_be_installed_is_explained() {
    let world = World::new();
    world.recipe(&world.key.fingerprint, "\"enginee\"");
    refused(world.lock(&[]), 2, &["packages.install: no archive has a package `enginee`", "enginee: engine"]);
    // apt's own words for "remove", "install" and "whatever matches", and a name that only other packages provide.
    for name in ["extra-", "extra+", "extr.", "mail-transport-agent"] {
        world.recipe(&world.key.fingerprint, &format!("\"{name}\""));
        refused(world.lock(&[]), 2, &["packages.install: ", &format!("`{name}`"), " hint: instead of"]);
        assert!(!world.lock_file().exists(), "{name}");
    }
    world.recipe(&world.key.fingerprint, "\"libengine=1.0-1\"");
    refused(world.lock(&[]), 2, &["cannot be installed together", "engine : Depends: libengine (>= 2)"]);
    world.recipe(&world.key.fingerprint, "\"libengine=3\"");
    refused(world.lock(&[]), 2, &["there is no version 3 of `libengine`", "the archives have: 2.0-1, 1.0-1"]);
}

#[test]
fn the_runtime_from_an_archive_is_taken_at_the_version_asked_for() {
    let mut world = World::new();
    for version in ["1.5.9-1", "1.6.0-1", "1.6.1-1", "1.60.0-1"] {
        world.archive.add("aziot-edge", version, "Depends: aziot-identity-service\n");
        world.archive.add("aziot-identity-service", version, "");
    }
    world.archive.publish(&world.key, DATES);
    let recipe = fs::read_to_string(world.folder.path().join("test.toml")).expect("reads");
    let recipe =
        recipe.replace("sources = [\"own\"]\n", "").replace("from = \"packages\"", "version = \"VERSION\"");
    for (asked, edge, identity) in
        [("1.6", "1.6.1-1", "1.6.1-1"), ("1.5.9-1", "1.5.9-1", "1.5.9-1"), ("1.6.0-1", "1.6.0-1", "1.6.1-1")]
    {
        write(world.folder.path(), "test.toml", &recipe.replace("VERSION", asked));
        world.lock(&["--update"]).success();
        let text = world.lock_text();
        for (name, version) in [("aziot-edge", edge), ("aziot-identity-service", identity)] {
            assert!(
                text.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")),
                "{asked}: {text}"
            );
        }
    }
    write(world.folder.path(), "test.toml", &recipe.replace("VERSION", "1.4"));
    refused(
        world.lock(&[]),
        2,
        &["edge: no version of `aziot-edge` fits", "1.60.0-1, 1.6.1-1", "edge.version = \"1.4\""],
    );
}

#[test]
fn a_lock_that_no_longer_fits_is_renewed_or_refused() {
    let world = World::new();
    refused(world.lock(&["--locked"]), 2, &["has no section for x86_64", "edgepress lock RECIPE"]);
    world.lock(&[]).success();
    // Configuration is not what a lock depends on.
    world.lock(&["--locked", "--set", "system.hostname=other"]).success();
    world.recipe(&world.key.fingerprint, "\"extra\"");
    let before = world.lock_text();
    refused(world.lock(&["--locked"]), 2, &["no longer fits the recipe"]);
    assert_eq!(world.lock_text(), before);
    let renewed = world.lock(&["--json"]).success();
    assert!(stderr(&renewed).contains("test.lock no longer fits the recipe: renewing it"));
    assert_eq!(answer(&renewed)["added"], serde_json::json!({ "extra": "1" }));
}

#[test]
fn overrides_of_packages_leave_the_recipe_s_lock_alone() {
    let world = World::new();
    world.lock(&[]).success();
    let before = world.lock_text();
    let texts = ["--set changes which packages are wanted", " hint: write the change into the recipe"];
    for more in [&["--update"][..], &[]] {
        let set = ["--set", "packages.install=[\"extra\"]"];
        refused(world.lock(&[&set, more].concat()), 2, &texts);
        assert_eq!(world.lock_text(), before);
    }
}

#[test]
fn one_architecture_leaves_the_other_s_section_alone() {
    let world = World::new();
    world.lock(&[]).success();
    let other = "\n[arch.aarch64]\ninputs = \"INPUTS\"\npackage = []\n".replace("INPUTS", &"a".repeat(64));
    fs::write(world.lock_file(), world.lock_text() + &other).expect("writes");
    world.lock(&["--update"]).success();
    let text = world.lock_text();
    assert!(text.contains("[arch.aarch64]") && text.contains(&"a".repeat(64)), "{text}");
    assert!(text.contains("name = \"engine\""), "{text}");
}

#[test]
fn a_damaged_lock_is_named_with_its_line() {
    let world = World::new();
    world.lock(&[]).success();
    let text = world.lock_text().replacen("size = ", "size = x", 1);
    let line = text.lines().position(|line| line.starts_with("size = x")).expect("damaged") + 1;
    fs::write(world.lock_file(), text).expect("writes");
    refused(
        world.lock(&[]),
        2,
        &["test.lock is not a lock that can be used", &format!("line {line}"), " hint: "],
    );
}

#[test]
fn a_broken_package_of_the_recipe_s_own_is_named() {
    let world = World::new();
    let deb = fs::read(world.archive.path().join("pool/extra_1_all.deb")).expect("reads");
    fs::write(world.folder.path().join("own.deb"), &deb[..deb.len() / 2]).expect("writes");
    let recipe = fs::read_to_string(world.folder.path().join("test.toml")).expect("reads");
    let recipe = recipe.replace("sources = ", "debs = [{ file = \"own.deb\" }]\nsources = ");
    write(world.folder.path(), "test.toml", &recipe);
    refused(world.lock(&[]), 1, &["own.deb is not a whole Debian package"]);
    fs::write(world.folder.path().join("own.deb"), &deb).expect("writes");
    world.lock(&[]).success();
    assert!(!world.lock_text().contains("\"extra\""), "the recipe's own packages are not in the lock");
}

#[test]
fn what_the_image_does_not_get_for_its_architecture_is_said() {
    let world = World::new();
    let control = control("tool", "1", "").replace("Architecture: all", "Architecture: ARCHITECTURE");
    let tool = |architecture: &str| {
        write(world.folder.path(), "own/tool/DEBIAN/control", &control.replace("ARCHITECTURE", architecture));
    };
    for architecture in ["any", "amd46"] {
        tool(architecture);
        refused(world.lock(&[]), 2, &["own/tool", architecture, "`all`", "`amd64`"]);
    }
    tool("arm64");
    let said = stderr(&world.lock(&[]).success());
    assert!(said.contains("`tool`") && said.contains("is left out: it is for arm64"), "{said}");
}

#[test]
fn a_store_s_path_may_have_any_character() {
    let world = World::new();
    let odd = "a store, with: \"marks\" %41 é";
    world.lock(&["--store", odd]).success();
    assert!(world.lock_text().contains("name = \"engine\""));
}

#[test]
fn a_damaged_store_is_named_and_mended() {
    let world = World::new();
    world.lock(&["--fetch"]).success();
    let digest =
        Digest::of(fs::read(world.archive.path().join("pool/zstd_1_all.deb")).expect("reads")).to_string();
    let blob = world.folder.path().join("store/blobs/sha256").join(&digest[..2]).join(&digest);
    fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("opens for writing");
    let mut bytes = fs::read(&blob).expect("reads");
    bytes[100] ^= 1;
    fs::write(&blob, bytes).expect("damages");
    let verify = || {
        let mut command = Command::cargo_bin("edgepress").expect("the program");
        command
            .current_dir(world.folder.path())
            .args(["--json", "store", "--store", "store", "verify"])
            .assert()
    };
    let found = verify().code(1);
    assert_eq!(answer(&found)["damaged"][0]["path"], blob.display().to_string());
    assert!(stderr(&found).contains("was damaged: 1 removed"));
    assert_eq!(answer(&verify().success())["blobs"]["count"], LOCKED + OWN - 1);
    assert_eq!(answer(&world.lock(&["--fetch", "--json"]).success())["downloaded"], 1);
}

#[test]
fn the_store_is_shown_and_pruned() {
    let world = World::new();
    world.lock(&["--fetch"]).success();
    let store = |more: &[&str]| {
        let mut command = Command::cargo_bin("edgepress").expect("the program");
        command.current_dir(world.folder.path()).args(["--json", "store", "--store", "store"]);
        answer(&command.args(more).assert().success())
    };
    assert_eq!(store(&[])["blobs"]["count"], LOCKED + OWN);
    assert_eq!(store(&["prune", "--older-than", "1"])["blobs"]["count"], 0);
    assert_eq!(store(&["prune", "--all"])["blobs"]["count"], LOCKED + OWN);
    assert_eq!(world.blobs(), 0);
}
