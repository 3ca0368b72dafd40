//! Loading recipes from a temporary folder: merging, overriding, paths, and everything that is refused.

use std::path::{Path, PathBuf};

use super::{Loaded, load};
use crate::error::{ProblemKind, problem};
use crate::recipe::types::Recipe;
use crate::units::{Arch, ByteSize};

const WHOLE: &str = r#"
name = "whole"
[distribution]
id = "debian"
release = "12"
codename = "bookworm"
[archives.debian]
url = "http://ftp.debian.org/debian"
suites = ["bookworm"]
components = ["main"]
key = { fingerprints = ["B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8"], file = "/usr/share/keyrings/k.gpg" }
[target]
arch = "x86_64"
board = "uefi"
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        for (name, text) in files {
            let path = folder.path(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().expect("the folder").join(name)
    }

    fn load(&self, sets: &[&str], arch: Option<Arch>) -> Result<Loaded, String> {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        load(&self.path("r.toml"), &sets, arch).map_err(|error| {
            assert_eq!(problem(&error).map(|problem| problem.kind), Some(ProblemKind::Input), "{error:#}");
            error.to_string().replace(&format!("{}/", self.path("").display()).replace("//", "/"), "")
        })
    }
}

fn recipe(text: &str, sets: &[&str]) -> Result<Recipe, String> {
    let folder =
        Folder::new(&[("base.toml", WHOLE), ("r.toml", &format!("extends = \"base.toml\"\n{text}"))]);
    folder.load(sets, None).map(|loaded| loaded.recipe)
}

#[test]
fn a_chain_is_merged_and_its_paths_are_absolute() {
    let folder = Folder::new(&[
        (
            "a/base.toml",
            &format!(
                "overlays = [\"../over\"]\n{WHOLE}\n[packages]\ninstall = [\"apt\", \"jq\"]\nsources = [\"src\"]"
            ),
        ),
        (
            "b/mid.toml",
            "name = \"mid\"\nextends = \"../a/base.toml\"\n[packages]\ninstall = [\"=\", \"curl\"]",
        ),
        (
            "r.toml",
            "name = \"top\"\nextends = \"b/mid.toml\"\noverlays = [\"own\"]\n[packages]\ninstall = [\"curl\", \"nano\"]\ndebs = [{ file = \"x.deb\" }]",
        ),
    ]);
    let loaded = folder.load(&["access.ssh_keys=['/k.pub']"], Some(Arch::Aarch64)).expect("loaded");
    let recipe = &loaded.recipe;
    assert_eq!(recipe.name, "top");
    assert_eq!(recipe.target.arch, Arch::Aarch64);
    assert_eq!(recipe.packages.install, ["curl", "nano"]);
    assert_eq!(recipe.overlays, [folder.path("over"), folder.path("own")]);
    assert_eq!(recipe.packages.sources, [folder.path("a/src")]);
    assert_eq!(recipe.packages.debs[0].file, Some(folder.path("x.deb")));
    assert_eq!(recipe.access.ssh_keys, [Path::new("/k.pub")]);
    assert_eq!(recipe.extends, Some(folder.path("b/mid.toml")));
    assert_eq!(loaded.files, ["r.toml", "b/mid.toml", "a/base.toml"].map(|name| folder.path(name)));
    assert!(loaded.place("packages/install/0").to_string().ends_with("b/mid.toml:4:17"));
}

#[test]
fn values_can_be_set() {
    let sets = [
        "edge.version=1.6",
        "disk.free=1G",
        "vars.site=Ulm",
        "engine.dns=['10.0.0.53']",
        "system.hostname=x",
    ];
    let recipe = recipe("[engine]\ndns = ['10.0.0.1']", &sets).expect("loaded");
    assert_eq!(recipe.edge.version, "1.6");
    assert_eq!(recipe.disk.free, ByteSize::mib(1024));
    assert_eq!(recipe.vars["site"], "Ulm");
    assert_eq!(recipe.engine.dns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.53"]);
}

/// What the whole message is, for the mistakes that everybody makes.
#[test]
fn messages() {
    for (text, sets, message) in [
        (
            "[packages]\ninstal = [\"jq\"]",
            &[][..],
            "r.toml:3:1: unknown key `instal` in `packages`\n   |\n 3 | instal = [\"jq\"]\n   | ^^^^^^\n   \
             = expected one of `install`, `recommends`, `debs`, `sources`, `remove`, `keep_keys`\n   = hint: did you mean `install`?",
        ),
        (
            "[packages]\nrecommends = \"yes\"",
            &[],
            "r.toml:3:14: wrong type for `packages.recommends`: the string \"yes\"\n   |\n 3 | recommends = \"yes\"\n   \
             |              ^^^^^\n   = expected `true` or `false`",
        ),
        (
            "[target]\nboard = \"ueif\"",
            &[],
            "r.toml:3:9: bad value for `target.board`: `ueif`\n   |\n 3 | board = \"ueif\"\n   |         ^^^^^^\n   \
             = expected one of `uefi`, `raspberry-pi`, `bios`\n   = hint: did you mean `uefi`?",
        ),
        (
            "[disk]\nfree = \"5X\"",
            &[],
            "r.toml:3:8: bad value for `disk.free`: `5X` is not a size: expected a whole number and B, K, M, G or T, \
             as in `512M`\n   |\n 3 | free = \"5X\"\n   |        ^^^^",
        ),
        (
            "",
            &["packges.install=['jq']"],
            "--set: unknown key `packges`\n   |\n   | packges.install=['jq']\n   | ^^^^^^^\n   = expected one of `name`, \
             `description`, `extends`, `distribution`, `archives`, `target`, `packages`, `engine`, `edge`, \
             `provisioning`, `network`, `system`, `disk`, `access`, `modules`, `publish`, `overlays`, `vars`\n   \
             = hint: did you mean `packages`?",
        ),
        (
            "[provisioning.certificate]\nfrom = \"partition\"\nvault = \"v\"",
            &[],
            "r.toml:4:1: unknown key `vault` in `provisioning.certificate`\n   |\n 4 | vault = \"v\"\n   | ^^^^^",
        ),
    ] {
        assert_eq!(recipe(text, sets).err().as_deref(), Some(message), "{text}");
    }
}

#[test]
fn everything_wrong_is_named_at_once() {
    let error =
        recipe("[disk]\nfre = 1\ngrow = 2\n[target]\nboard = 3\narch = \"x\"\n[system]\nntp = 'a'", &[]);
    let error = error.expect_err("wrong");
    for part in ["`fre`", "`disk.grow`", "`target.board`", "`target.arch`", "`system.ntp`"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(!error.contains("missing"), "what was taken out is not missing: {error}");
}

/// What types cannot say: the key that is named, and what the message must hold.
#[test]
fn values_that_are_refused() {
    let image = |rest: &str| format!("[[engine.images]]\nname = \"a:1\"\n{rest}");
    for (text, place, says) in [
        ("name = \"No\"".to_owned(), "r.toml:2:8", "lower-case"),
        ("description = \"a\\nb\"".into(), "r.toml:2:15", "one line"),
        ("access.user = \"Ops\"".into(), "r.toml:2:15", "beginning with a letter"),
        ("system.hostname = \"1st\"".into(), "r.toml:2:19", "beginning with a letter"),
        ("system.timezone = \"../etc/passwd\"".into(), "r.toml:2:19", "time zone"),
        ("system.journal_max = \"1M\"".into(), "r.toml:2:22", "at least 8M"),
        ("system.ntp = [\"a b\"]".into(), "r.toml:2:15", "host name"),
        ("target.modules = [\"a b\"]".into(), "r.toml:2:19", "kernel module"),
        ("target.cmdline = [\"a b\"]".into(), "r.toml:2:19", "kernel argument"),
        ("target.cmdline = [\"a=$(reboot)\"]".into(), "r.toml:2:19", "kernel argument"),
        ("target.formats = [\"=\"]".into(), "r.toml:2:18", "empty"),
        ("target.formats = [\"=\", \"vhd\", \"bmap\", \"vhd\"]".into(), "r.toml:2:39", "`vhd` twice"),
        ("target.formats = [\"=\", \"bmap\", \"qcow2\"]".into(), "r.toml:2:24", "nothing that it could be used with"),
        ("packages.install = [\"Jq\"]".into(), "r.toml:2:21", "package name"),
        ("packages.install = [\"jq=\"]".into(), "r.toml:2:21", "package name"),
        ("packages.install = [\"-o=Dir::x\"]".into(), "r.toml:2:21", "package name"),
        ("packages.debs = [{}]".into(), "r.toml:2:18", "neither `file` nor `url`"),
        ("packages.debs = [{ file = 'a', url = 'http://b' }]".into(), "r.toml:2:18", "both `file` and `url`"),
        ("packages.debs = [{ url = 'http://b/c.deb' }]".into(), "r.toml:2:18", "no `sha256`"),
        ("packages.debs = [{ url = 'http://b/c.deb', sha256 = 'ab' }]".into(), "r.toml:2:53", "64 hex"),
        ("packages.debs = [{ url = 'ftp://b/c.deb', sha256 = 'ab' }]".into(), "r.toml:2:26", "http"),
        (image("entrypoint = ['b']"), "r.toml:2:1", "without `from_root`"),
        (
            image("file = 'a'\nfrom_root = { \"/a\" = \"/b\" }\nentrypoint = ['/a']"),
            "r.toml:2:1",
            "both `file` and `from_root`",
        ),
        ("[[engine.images]]\nname = \"A/b:1\"".into(), "r.toml:3:8", "engine.images.name"),
        ("[[engine.images]]\nname = \"plain\"".into(), "r.toml:3:8", "with a tag"),
        (image("file = 'a'\nentrypoint = ['b']"), "r.toml:2:1", "without `from_root`"),
        (image("from_root = { \"/a\" = \"/b\" }"), "r.toml:2:1", "without `entrypoint`"),
        (image("from_root = { \"/a\" = \"../b\" }\nentrypoint = ['/a']"), "r.toml:4:22", "absolute path"),
        ("[[engine.images]]\nname = \"host:5000/a\"\nfile = 'a'".into(), "r.toml:3:8", "with a tag"),
        ("engine.log.driver = \"json\"".into(), "r.toml:2:21", "did you mean `json-file`"),
        ("engine.log.max_size = \"10\"".into(), "r.toml:2:23", "`10m`"),
        ("engine.dns = [\"dns.example\"]".into(), "r.toml:2:15", "dns.example"),
        ("edge.agent_storage = \"/a:b\"".into(), "r.toml:2:22", "absolute path"),
        ("provisioning.cloud_timeout_sec = 10".into(), "r.toml:2:34", "at least 70"),
        ("provisioning.global_endpoint = \"http://x\"".into(), "r.toml:2:32", "https"),
        ("disk.fat = \"1M\"".into(), "r.toml:2:12", "at least 33M"),
        ("disk.size = \"64M\"".into(), "r.toml:2:13", "no room"),
        ("archives.debian.url = \"debian\"".into(), "r.toml:2:23", "http"),
        ("archives.debian.key.url = \"https://x/k\"".into(), "base.toml:11:7", "both `file` and `url`"),
        ("archives.debian.key.fingerprints = [\"ab\"]".into(), "r.toml:2:37", "40 hex digits"),
        ("archives.debian.suites = [\"=\"]".into(), "r.toml:2:26", "is empty"),
        ("archives.\"De b\" = { url = 'http://a', suites = ['a'], components = ['b'], key = { file = 'k', fingerprints = ['B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8'] } }".into(), "r.toml:2:19", "a role"),
        ("network.proxy.https = \"ftp://x\"".into(), "r.toml:2:23", "proxy.example"),
        ("publish.url = \"ftp://x\"".into(), "r.toml:2:15", "starts with file:///"),
        ("publish.website = \"file:///x\"".into(), "r.toml:2:19", "http or https"),
    ] {
        let error = recipe(&text, &[]).expect_err(&text);
        let place = if place.starts_with("base") && !error.contains(place) { "r.toml:2" } else { place };
        assert!(error.contains(place) && error.contains(says), "{text}\nshould say {says} at {place}:\n{error}");
    }
}

/// The board's settings and Wi-Fi, on a recipe that is otherwise good.
#[test]
fn values_of_the_raspberry_pi_that_are_refused() {
    let pi =
        "target.board = \"raspberry-pi\"\ntarget.arch = \"aarch64\"\ntarget.raspberry_pi.models = [\"3\"]\n";
    assert!(recipe(pi, &[]).is_ok());
    let long = format!("target.raspberry_pi.overlays = [\"{}\"]", "x".repeat(89));
    for (text, says) in [
        (
            "target.raspberry_pi.gpu_memory = 8",
            "r.toml:5:34: bad value for `target.raspberry_pi.gpu_memory`: \"8\"",
        ),
        (
            "target.raspberry_pi.overlays = [\"a b\"]",
            "r.toml:5:33: bad value for `target.raspberry_pi.overlays.0`",
        ),
        (&long, "88 characters at most"),
        ("target.raspberry_pi.parameters = [\"\"]", "as after `dtparam=`"),
        ("target.raspberry_pi.config = [\"a\\nb\"]", "r.toml:5:31: bad value"),
        ("[network.wifi]\ncountry = \"de\"", "r.toml:6:11: bad value for `network.wifi.country`: \"de\""),
        ("[network.wifi]\ncountry = \"XX\"", "ISO 3166"),
        ("[network.wifi]\nssid = \"a\"", "`country` is missing"),
        ("[network.wifi]\ncountry = \"DE\"\nssid = \"\"", "1 to 32 bytes"),
        ("[network.wifi]\ncountry = \"DE\"\nssid = \"ééééééééééééééééé\"", "1 to 32 bytes"),
        (
            "[network.wifi]\ncountry = \"DE\"\nkey_file = \"k\"",
            "r.toml:7:12: `network.wifi.key_file` stands without",
        ),
    ] {
        let error = recipe(&format!("{pi}{text}"), &[]).expect_err(text);
        assert!(error.contains(says), "{text}\nshould say {says}:\n{error}");
    }
    for (text, says) in [
        ("target.board = \"raspberry-pi\"\ntarget.raspberry_pi.models = [\"3\"]", "is not for x86_64"),
        (
            "target.board = \"raspberry-pi\"\ntarget.arch = \"aarch64\"",
            "`target.raspberry_pi.models` is empty",
        ),
        ("target.raspberry_pi.models = [\"2\"]", "expected one of `3`, `4`, `5`, `zero-2`"),
        ("target.raspberry_pi.models = [\"3\"]", ": `target.raspberry_pi` is only for the board"),
        ("network.wifi.country = \"DE\"", "works on the board `raspberry-pi` only"),
        (
            "target.board = \"bios\"\ntarget.arch = \"aarch64\"",
            "the board `bios` is not for aarch64: only PCs have a BIOS",
        ),
        (
            "target.board = \"bios\"\ntarget.raspberry_pi.models = [\"3\"]",
            "is only for the board `raspberry-pi`, and this one is `bios`",
        ),
    ] {
        let error = recipe(text, &[]).expect_err(text);
        assert!(error.contains(says), "{text}\nshould say {says}:\n{error}");
    }
}

#[test]
fn secrets_are_not_repeated() {
    for text in [
        "network.proxy.https = \"http://user:hunter2@proxy:3128\"",
        "archives.debian.url = \"http://user:hunter2@mirror/debian\"",
        "packages.debs = [{ url = 'https://user:hunter2@x/c.deb', sha256 = 'ab' }]",
        "network.proxy.password = \"hunter2\"",
    ] {
        let error = recipe(text, &[]).expect_err(text);
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn parents() {
    let files = [("base.toml", WHOLE), ("r.toml", "extends = \"bsae.toml\"\n")];
    assert_eq!(
        Folder::new(&files).load(&[], None).err().as_deref(),
        Some(
            "r.toml:1:11: the parent recipe `bsae.toml` does not exist (the chain is r.toml → bsae.toml)\n   |\n \
             1 | extends = \"bsae.toml\"\n   |           ^^^^^^^^^^^\n   = hint: there is `base.toml` in that folder"
        )
    );
    let circle = [
        ("r.toml", "extends = \"a.toml\""),
        ("a.toml", "name = \"a\"\nextends = \"b.toml\""),
        ("b.toml", "extends = \"a.toml\""),
    ];
    assert_eq!(
        Folder::new(&circle).load(&[], None).err().as_deref(),
        Some(
            "b.toml:1:11: recipes extend each other in a circle: a.toml → b.toml → a.toml\n   |\n \
             1 | extends = \"a.toml\"\n   |           ^^^^^^^^"
        )
    );
    let own = Folder::new(&[("r.toml", "extends = \"r.toml\"")]).load(&[], None).expect_err("a circle");
    assert!(own.contains("circle: r.toml → r.toml"), "{own}");
    let list = Folder::new(&[("r.toml", "extends = [\"a\", \"b\"]")]).load(&[], None).expect_err("two");
    assert!(list.contains("r.toml:1:11: wrong type for `extends`"), "{list}");
    let broken = Folder::new(&[("r.toml", "extends = \"a.toml\""), ("a.toml", "name = ")]);
    assert!(broken.load(&[], None).expect_err("broken").starts_with("a.toml:1:"), "the parent is named");
    let absent = Folder::new(&[]).load(&[], None).expect_err("absent");
    assert_eq!(absent, "the recipe `r.toml` does not exist");
    // As edgepress's own recipes have it, from which it was copied: the checkout is found above the folder.
    let copied = Folder::new(&[
        ("recipes/base/x.toml", WHOLE),
        ("own/r.toml", "extends = \"base/x.toml\""),
        ("lost/r.toml", "extends = \"base/y.toml\""),
    ]);
    let hint = |recipe: &str| {
        let found = super::load_or_list(&copied.path(recipe), &[], None).expect_err("no parent");
        found[0].hint.clone().expect("a hint")
    };
    let (looked, there) = (copied.path("own/base/x.toml"), copied.path("recipes/base/x.toml"));
    let said = hint("own/r.toml");
    assert!(said.contains(&format!("looked for at {}", looked.display())), "{said}");
    assert!(said.ends_with(&format!("write extends = \"{}\"", there.display())), "{said}");
    assert!(hint("lost/r.toml").contains("write the whole path of the parent there"));
    let alone = Folder::new(&[("r.toml", "name = \"a\"")]).load(&[], None).expect_err("incomplete");
    assert!(alone.contains("the key `distribution` is missing") && alone.contains("extends"), "{alone}");
}

#[test]
fn a_mistake_in_a_parent_names_the_parent() {
    let files =
        [("base.toml", "\n[disk]\ngro = true\n"), ("r.toml", "extends = \"base.toml\"\n[disk]\ngrow = true")];
    let error = Folder::new(&files).load(&[], None).expect_err("wrong");
    assert!(error.starts_with("base.toml:3:1: unknown key `gro` in `disk`"), "{error}");
}

#[test]
fn arguments_that_are_refused() {
    for (set, says) in [
        ("name", "KEY.PATH=VALUE"),
        ("extends=x.toml", "cannot be set"),
        ("disk.grow=maybe", "`true` or `false`"),
        ("target.arch=arm", "aarch64"),
        ("provisioning.cloud_timeout_sec=1", "at least 70"),
    ] {
        let error = recipe("", &[set]).expect_err(set);
        assert!(error.contains(says) && error.contains("--set"), "{set}: {error}");
    }
}

#[test]
fn any_text_is_read() {
    let folder = Folder::new(&[]);
    for at in (0..WHOLE.len()).step_by(3) {
        let mut bytes = WHOLE.as_bytes().to_vec();
        bytes[at] = b"[]{}\"=.\n7\xff"[at % 10];
        std::fs::write(folder.path("r.toml"), bytes).expect("a file");
        let _: Result<_, String> = folder.load(&[], None);
    }
}

/// A parent is suggested only for what it states.
#[test]
fn hints_on_missing_keys() {
    let without = |lines: &str| {
        let text: String =
            WHOLE.lines().filter(|line| !lines.contains(line)).map(|line| format!("{line}\n")).collect();
        Folder::new(&[("r.toml", &text)]).load(&[], None).expect_err(lines)
    };
    let target = without("[target]\narch = \"x86_64\"\nboard = \"uefi\"");
    assert!(
        target.contains("hint: say which machine the image is for") && !target.contains("debian-12"),
        "{target}"
    );
    let arch = without("arch = \"x86_64\"");
    assert!(arch.contains("hint: state `arch`: \"x86_64\" or \"aarch64\""), "{arch}");
    let release = without("release = \"12\"");
    assert!(release.contains("recipes/base/debian-12.toml"), "{release}");
    let name = without("name = \"whole\"");
    assert!(name.contains("hint: state a name for the image"), "{name}");
}

#[test]
fn architectures_by_every_usual_name() {
    for (name, arch) in [
        ("x86_64", Arch::X86_64),
        ("x86-64", Arch::X86_64),
        ("amd64", Arch::X86_64),
        ("aarch64", Arch::Aarch64),
        ("arm64", Arch::Aarch64),
    ] {
        let text = WHOLE.replace("arch = \"x86_64\"", &format!("arch = \"{name}\""));
        let loaded = Folder::new(&[("r.toml", &text)]).load(&[], None).expect(name);
        assert_eq!((loaded.recipe.target.arch, name.parse()), (arch, Ok(arch)));
        assert_eq!(serde_json::to_value(arch).expect("JSON"), arch.to_string());
    }
    let text = WHOLE.replace("arch = \"x86_64\"", "arch = \"armhf\"");
    let error = Folder::new(&[("r.toml", &text)]).load(&[], None).expect_err("another");
    assert!(error.contains("bad value for `target.arch`: `armhf`"), "{error}");
}
