//! `edgepress azure` as a user meets it: what it writes, and what its script does with an Azure that is none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::project;

const MIB: usize = 1 << 20;

fn edgepress(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgepress")).args(arguments).output().expect("edgepress")
}

fn recipe(name: &str) -> String {
    project().join("recipes").join(name).display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// What `edgepress build` makes of a recipe for Azure, with a disk of one MiB.
fn built(folder: &Path) -> PathBuf {
    let built = folder.join("it's built");
    fs::create_dir_all(&built).expect("a folder");
    let mut vhd = vec![0; MIB + 512];
    let footer = &mut vhd[MIB..];
    footer[..8].copy_from_slice(b"conectix");
    footer[48..56].copy_from_slice(&(MIB as u64).to_be_bytes());
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    fs::write(built.join("factory.vhd"), &vhd).expect("write");
    let digest = edgepress::units::Digest::of(&vhd).to_string();
    let manifest = json!({
        "edgepress": "0.1.0", "name": "factory", "description": "A factory", "arch": "x86_64", "board": "uefi",
        "inputs": {}, "kernels": [], "epoch": 1_795_332_720, "config_toml": "", "engine_dns": [], "partitions": [],
        "provisioning": {
            "id_scope": "0ne00123456", "registration_id": "{{ vm_name }}",
            "certificate": {
                "from": "key-vault", "vault": "https://factory-keys.vault.azure.net",
                "registry_address": "plant.azurecr.io", "registry_username": "devices",
                "registry_secret": "registry-{{ registration_id }}",
            },
        },
        "outputs": [{"file": "factory.vhd", "size": vhd.len(), "sha256": digest}],
        "seconds": {},
    });
    fs::write(built.join("manifest.json"), manifest.to_string()).expect("write");
    built
}

#[test]
fn from_a_recipe_and_not_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("azure");
    let recipe = recipe("debian-12-azure.toml");
    let output = edgepress(&["azure", &recipe, "--out", path(&out), "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["image"], &said["upload_size"]), (&json!("debian-12-azure"), &Value::Null));
    assert_eq!(said["vault"], "edgepress-demo");
    let names = [
        "upload.sh",
        "main.bicep",
        "vault-access.bicep",
        "azuredeploy.json",
        "azuredeploy.parameters.json",
        "dps.sh",
        "README.md",
    ];
    assert_eq!(said["files"], json!(names));
    let mode = |name: &str| fs::metadata(out.join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!((mode("upload.sh"), mode("main.bicep")), (0o755, 0o644));
    assert_eq!(fs::read_dir(&out).expect("list").count(), names.len(), "nothing is left over");

    fs::write(out.join("README.md"), "mine").expect("write");
    let again = edgepress(&["azure", &recipe, "--out", path(&out)]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("is there already") && text(&again.stderr).contains("--force"));
    assert_eq!(fs::read_to_string(out.join("README.md")).expect("read"), "mine");
    let forced = edgepress(&["azure", &recipe, "--out", path(&out), "--force"]);
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    assert_ne!(fs::read_to_string(out.join("README.md")).expect("read"), "mine");
}

#[test]
fn a_version_can_be_stated_and_the_disk_tells_the_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let built = built(folder.path());
    let manifest: Value =
        serde_json::from_slice(&fs::read(built.join("manifest.json")).expect("read")).expect("JSON");
    let digest = &manifest["outputs"][0]["sha256"].as_str().expect("a digest")[..8];
    let out = folder.path().join("azure");
    let of = |options: &[&str]| {
        let mut arguments = vec!["azure", path(&built), "--out", path(&out), "--force", "--json"];
        arguments.extend(options);
        edgepress(&arguments)
    };
    for (options, version) in [(&[][..], "2026.1122.732"), (&["--version", "1.40.0"], "1.40.0")] {
        let output = of(options);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(said["version"], version);
        let parameters = fs::read(out.join("azuredeploy.parameters.json")).expect("read");
        let parameters: Value = serde_json::from_slice(&parameters).expect("JSON");
        assert_eq!(parameters["parameters"]["imageVersion"]["value"], version);
        let disk = format!("factory-{}-{digest}", version.replace('.', "-"));
        assert_eq!(parameters["parameters"]["diskName"]["value"], disk.as_str());
        assert!(fs::read_to_string(out.join("upload.sh")).expect("read").contains(&format!("disk='{disk}'")));
    }
    let output = of(&["--version", "1.4"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("three numbers"), "{}", text(&output.stderr));
}

#[test]
fn what_azure_does_not_take_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("azure");
    let refused = |input: &str, said: &str| {
        let output = edgepress(&["azure", input, "--out", path(&out)]);
        assert_eq!(output.status.code(), Some(2), "{input}");
        assert!(text(&output.stderr).contains(said), "{input}: {}", text(&output.stderr));
        assert!(!out.exists(), "{input}: something was written");
    };
    refused(&recipe("demo.toml"), "makes no VHD");
    refused(path(&folder.path().join("nothing")), "cannot open");
    refused(path(folder.path()), "manifest.json");
    let built = built(folder.path());
    let manifest = fs::read_to_string(built.join("manifest.json")).expect("read");
    for (from, to, said) in [
        ("factory.vhd", "factory.img", "holds no VHD"),
        ("0ne00123456", "0ne'; rm -rf /", "ID scope has characters"),
        ("{\"", "[\"", "is no manifest"),
    ] {
        fs::write(built.join("manifest.json"), manifest.replace(from, to)).expect("write");
        refused(path(&built), said);
    }
    fs::write(built.join("manifest.json"), &manifest).expect("write");
    fs::write(built.join("factory.vhd"), [0; MIB + 512]).expect("write");
    refused(path(&built), "it has no footer");
}

#[test]
fn scripts_are_clean() {
    let folder = tempfile::tempdir().expect("a folder");
    let inputs =
        [("built", path(&built(folder.path())).to_owned()), ("recipe", recipe("debian-12-azure.toml"))];
    for (name, input) in inputs {
        let out = folder.path().join(name);
        let output = edgepress(&["azure", &input, "--out", path(&out)]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let mut command = Command::new("shellcheck");
        let checked = command.args(["upload.sh", "dps.sh"]).current_dir(&out).output().expect("shellcheck");
        assert!(checked.status.success(), "{name}: {}", text(&checked.stdout));
    }
}

/// `az` and `azcopy` as far as the scripts use them: states that are files, and a log of what was asked. With
/// `EDGEPRESS_AZ_LINES` its arguments go into that file as well, for ci/az-commands.
const AZ: &str = r#"#!/bin/sh
[ -z "$EDGEPRESS_AZ_LINES" ] || printf '%s\0' "$#" "$@" >>"$EDGEPRESS_AZ_LINES"
cd "$WORLD" || exit 9
printf 'az %s\n' "$*" >>log
case "$*" in
    'account show --query user.type'*) cat kind ;;
    'account show --query user.name'*) echo application ;;
    'account show'*) [ -e login ] && echo subscription || exit 1 ;;
    'group exists'*) [ -e group ] && echo true || echo false ;;
    'group create'*) : >group ;;
    'disk list'*diskState*) cat state 2>/dev/null || : ;;
    'disk list'*sha256*) cat sha256 2>/dev/null || : ;;
    'disk list'*uploaded*) cat uploaded 2>/dev/null || : ;;
    'disk create'*) echo ReadyToUpload >state; printf '%s' "$*" | sed 's/.*edgepress-sha256=\([0-9a-f]*\).*/\1/' >sha256 ;;
    'disk grant-access'*) echo ActiveUpload >state; echo 'https://disk.example/?sig=secret' ;;
    'disk revoke-access'*) echo Unattached >state ;;
    'disk update'*) echo yes >uploaded ;;
    'ad signed-in-user show'*) echo me ;;
    'ad sp show --id application'*) echo it ;;
    'extension show'*) ;;
    'iot dps show'*) echo 0ne00123456 ;;
    'iot dps certificate show'*) [ -e authority ] ;;
    'iot dps certificate create'*) : >authority ;;
    'iot dps enrollment-group show'*) [ -e enrolment ] ;;
    'iot dps enrollment-group create'*) : >enrolment ;;
    'keyvault show'*RbacAuthorization*) echo true ;;
    'keyvault show'*) [ -e vault ] && echo /vaults/factory-keys ;;
    'keyvault create'*) : >vault ;;
    'role assignment create'*) ;;
    'iot edge deployment create'* | 'iot edge set-modules'*)
        while [ "$1" != --content ]; do shift; done
        cp "$2" content ;;
    'iot edge deployment list'*) echo older ;;
    'iot edge deployment delete'* | 'iot hub device-twin update'*) ;;
    'acr scope-map show'* | 'acr token show'*) [ -e token ] ;;
    'acr scope-map create'* | 'acr scope-map update'*) ;;
    'acr token create'*) : >token ;;
    'acr token credential generate'*) echo hunter23 ;;
    'keyvault secret set'*)
        while [ $# -gt 0 ] && [ "$1" != --file ]; do shift; done
        cp "${2:-/dev/null}" secret
        [ -s refusals ] || exit 0
        head -n 1 refusals >&2
        sed -i 1d refusals
        exit 1 ;;
    *) exit 8 ;;
esac
"#;
const SLEEP: &str = "#!/bin/sh\necho \"sleep $1\" >>\"$WORLD/log\"\n";
const AZCOPY: &str = "#!/bin/sh\ncd \"$WORLD\" || exit 9\necho \"azcopy $1\" >>log\n[ ! -e broken ]\n";

/// A folder of programs, and the state of what they pretend to be.
struct World(PathBuf);

impl World {
    fn new(folder: &Path) -> Self {
        let world = Self(folder.join("world"));
        fs::create_dir_all(world.0.join("bin")).expect("a folder");
        for (name, program) in [("az", AZ), ("azcopy", AZCOPY), ("sleep", SLEEP)] {
            let file = world.0.join("bin").join(name);
            fs::write(&file, program).expect("write");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        world
    }

    fn put(&self, name: &str) {
        fs::write(self.0.join(name), "").expect("write");
    }

    fn run(&self, script: &Path, arguments: &[&str]) -> Output {
        self.run_with(script, arguments, &[])
    }

    fn run_with(&self, script: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let own = self.0.join("bin").display().to_string();
        let search = std::env::var("PATH").expect("PATH");
        let mut command = Command::new(script);
        command.args(arguments).env("PATH", format!("{own}:{search}")).env("WORLD", &self.0);
        command.envs(variables.iter().copied());
        command.output().expect("the script")
    }

    /// What was asked since the last time.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.join("log")).unwrap_or_default();
        fs::remove_file(self.0.join("log")).ok();
        log.lines().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect()
    }
}

#[test]
fn modules_reach_a_fleet_and_passwords_only_the_hub() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = r#"{ "modulesContent": { "$edgeAgent": { "properties.desired": {
        "schemaVersion": "1.1", "runtime": { "type": "docker", "settings": { "registryCredentials": {
            "own": { "username": "u", "password": "hunter22", "address": "factory.azurecr.io" } } } },
        "systemModules": {}, "modules": { "pump": { "settings": { "image": "factory.azurecr.io/line/pump:7" } } } } } } }"#;
    fs::write(folder.path().join("deployment.json"), manifest).expect("write");
    let parent = fs::canonicalize(recipe("debian-12-azure.toml")).expect("the recipe");
    let toml = format!(
        "name = \"factory\"\nextends = \"{}\"\n[modules]\nmanifest = \"deployment.json\"\n",
        parent.display()
    );
    let file = folder.path().join("factory.toml");
    fs::write(&file, toml).expect("write");
    let out = folder.path().join("azure");
    let output = edgepress(&["azure", path(&file), "--out", path(&out)]);
    assert!(output.status.success(), "{}", text_of(&output));
    for file in fs::read_dir(&out).expect("list") {
        let file = file.expect("an entry").path();
        assert!(!fs::read_to_string(&file).expect("text").contains("hunter22"), "{}", file.display());
    }
    let mode = fs::metadata(out.join("deployment.json")).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let checked =
        Command::new("shellcheck").arg("modules.sh").current_dir(&out).output().expect("shellcheck");
    assert!(checked.status.success(), "{}", text(&checked.stdout));

    let world = World::new(folder.path());
    world.put("login");
    let script = out.join("modules.sh");
    let refused = world.run(&script, &["fleet", "hub"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text_of(&refused).contains("REGISTRY_OWN_USERNAME is not set"), "{}", text_of(&refused));
    let made = world.run(&script, &["token", "factory"]);
    assert_eq!(
        text(&made.stdout),
        "export REGISTRY_OWN_USERNAME='factory' REGISTRY_OWN_PASSWORD='hunter23'\n",
        "{}",
        text_of(&made)
    );
    world.log();
    let known = [("REGISTRY_OWN_USERNAME", "factory"), ("REGISTRY_OWN_PASSWORD", "hunter23")];
    let sent = world.run_with(&script, &["fleet", "hub"], &known);
    assert!(sent.status.success(), "{}", text_of(&sent));
    let content: Value =
        serde_json::from_slice(&fs::read(world.0.join("content")).expect("sent")).expect("JSON");
    let settings = &content["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"];
    let login =
        serde_json::json!({ "username": "factory", "password": "hunter23", "address": "factory.azurecr.io" });
    assert_eq!(settings["registryCredentials"]["own"], login);
    assert!(!fs::read_to_string(world.0.join("log")).expect("log").contains("hunter23"), "in an argument");
    let log = world.log();
    let asked = |what: &str| log.iter().any(|line| line == what);
    assert!(asked("az iot edge") && !asked("az iot hub"), "{log:?}");
    assert!(text_of(&sent).contains("removing the older deployment older"), "{}", text_of(&sent));
    let again = world.run(&script, &["token", "factory"]);
    assert!(again.status.success(), "{}", text_of(&again));
    assert!(world.run_with(&script, &["device", "hub", "pump-7"], &known).status.success());
    assert!(world.run(&script, &["tag", "hub", "pump-7"]).status.success());
    assert_eq!(world.run(&script, &["token", "other"]).status.code(), Some(2));
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("azure");
    let built = built(folder.path());
    assert!(edgepress(&["azure", path(&built), "--out", path(&out)]).status.success());
    let (world, script) = (World::new(folder.path()), out.join("upload.sh"));
    let upload = || world.run(&script, &["edge", "westeurope"]);

    assert_eq!(world.run(&script, &["edge"]).status.code(), Some(2));
    let output = upload();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("nobody is logged in"));
    world.put("login");
    world.put("broken");
    world.log();

    let output = upload();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("run this again"));
    let log = world.log();
    assert!(log.contains(&"az group create".into()) && log.contains(&"az disk create".into()), "{log:?}");
    assert!(!log.contains(&"az disk revoke-access".into()), "half a disk must not count as one: {log:?}");

    fs::remove_file(world.0.join("broken")).expect("mended");
    let output = upload();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(said.contains("waits for its bytes") && !said.contains("sig=secret"), "{said}");
    let log = world.log();
    assert!(!log.contains(&"az disk create".into()) && log.ends_with(&["az disk update".into()]), "{log:?}");

    let output = upload();
    assert!(output.status.success() && text(&output.stderr).contains("uploaded already"));
    assert!(!world.log().iter().any(|line| line.starts_with("azcopy")));

    fs::write(world.0.join("sha256"), "another").expect("write");
    let output = upload();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another image"));

    let vhd = built.join("factory.vhd");
    let mut bytes = fs::read(&vhd).expect("read");
    bytes[0] ^= 1;
    fs::write(&vhd, bytes).expect("write");
    assert!(text(&upload().stderr).contains("is damaged"));
}

/// The folder of the scripts, and a world in which somebody is logged in.
fn scripts(folder: &Path) -> (PathBuf, World) {
    let out = folder.join("azure");
    let output = edgepress(&["azure", path(&built(folder)), "--out", path(&out)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let world = World::new(folder);
    world.put("login");
    (out.join("dps.sh"), world)
}

/// A certificate, its key beside it; signed by another one, or by itself.
fn certificate(folder: &Path, name: &str, by: Option<&str>) -> PathBuf {
    let file = |name: &str, ending: &str| folder.join(format!("{name}.{ending}")).display().to_string();
    let (subject, key, own) = (format!("/CN={name}"), file(name, "key"), file(name, "pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]);
    openssl.args(["-subj", &subject, "-keyout", &key, "-out", &own]);
    if let Some(by) = by {
        openssl.args(["-CA", &file(by, "pem"), "-CAkey", &file(by, "key")]);
    }
    let output = openssl.output().expect("openssl");
    assert!(output.status.success(), "{}", text(&output.stderr));
    own.into()
}

#[test]
fn an_authority_is_a_root_or_an_intermediate() {
    let folder = tempfile::tempdir().expect("a folder");
    let (script, world) = scripts(folder.path());
    let root = certificate(folder.path(), "root", None);
    let line = certificate(folder.path(), "line", Some("root"));
    for (authority, by) in [(&root, "--root-ca-name factory"), (&line, "--certificate-path ")] {
        world.log();
        let output = world.run(&script, &["group", "edge", "edge-dps", path(authority)]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let log = fs::read_to_string(world.0.join("log")).expect("a log");
        let uploaded =
            log.lines().any(|line| line.contains("certificate create") && line.contains("--verified true"));
        assert!(uploaded && log.lines().last().is_some_and(|line| line.contains(by)), "{log}");
        fs::remove_file(world.0.join("authority")).expect("remove");
        fs::remove_file(world.0.join("enrolment")).expect("remove");
    }
    let output = world.run(&script, &["group", "edge", "edge-dps", path(&folder.path().join("line.key"))]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("holds a private key"));
}

#[test]
fn what_dps_and_the_vault_have_already_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let (script, world) = scripts(folder.path());
    let ca = certificate(folder.path(), "ca", None);
    for made in [true, false] {
        let output = world.run(&script, &["group", "edge", "edge-dps", path(&ca)]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).contains("making the enrolment group factory in edge-dps"), made);
    }
    fs::write(world.0.join("kind"), "user").expect("write");
    for made in [true, false] {
        let output = world.run(&script, &["vault", "edge", "westeurope"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let log = world.log();
        assert_eq!(log.contains(&"az keyvault create".into()), made, "{log:?}");
        assert!(log.ends_with(&["az role assignment".into()]), "{log:?}");
    }
}

#[test]
fn the_password_of_a_registry_is_no_argument() {
    let folder = tempfile::tempdir().expect("a folder");
    let (script, world) = scripts(folder.path());
    let stored = |id: &str, password: &str| {
        let search = format!("{}:{}", world.0.join("bin").display(), std::env::var("PATH").expect("PATH"));
        let mut command = assert_cmd::Command::new(&script);
        command.args(["registry", id]).env("PATH", search).env("WORLD", &world.0).write_stdin(password);
        command.output().expect("the script")
    };
    for password in ["it's \"$(hunter22)\"\n", "it's \"$(hunter22)\""] {
        let output = stored("factory_1", password);
        assert!(output.status.success(), "{}", text_of(&output));
        assert_eq!(fs::read_to_string(world.0.join("secret")).expect("stored"), password.trim_end());
        let log = fs::read_to_string(world.0.join("log")).expect("a log");
        assert!(log.contains("--name registry-factory-1 ") && !log.contains("hunter22"), "{log}");
        assert!(!text_of(&output).contains("hunter22"));
    }
    for (id, password, says) in [("factory-1", "", "no password came"), ("a b", "x", "is no registration id")]
    {
        let output = stored(id, password);
        assert_eq!(output.status.code(), Some(2));
        assert!(text_of(&output).contains(says), "{}", text_of(&output));
    }
}

#[test]
fn whoever_is_logged_in_may_fill_the_vault() {
    let folder = tempfile::tempdir().expect("a folder");
    let (script, world) = scripts(folder.path());
    let who = |kind: &str, arguments: &[&str]| {
        fs::write(world.0.join("kind"), kind).expect("write");
        let output = world.run(&script, &[&["vault", "edge", "westeurope"], arguments].concat());
        let log = fs::read_to_string(world.0.join("log")).expect("a log");
        world.log();
        let asked = log.lines().last().expect("a line").split_once("--assignee-object-id ");
        let asked = asked.map(|(_, who)| who.trim_end_matches(" --output none").to_owned());
        asked.ok_or_else(|| text(&output.stderr))
    };
    assert_eq!(who("user", &[]).as_deref(), Ok("me --assignee-principal-type User"));
    assert_eq!(who("servicePrincipal", &[]).as_deref(), Ok("it --assignee-principal-type ServicePrincipal"));
    assert_eq!(who("", &["another"]).as_deref(), Ok("another"));
    assert!(who("", &[]).expect_err("nobody").contains("state the object id"));
}

#[test]
fn a_role_that_does_not_count_yet_is_waited_for() {
    const RBAC: &str =
        "ERROR: (Forbidden) Caller is not authorized to perform action on resource. ForbiddenByRbac\n";
    let folder = tempfile::tempdir().expect("a folder");
    let (script, world) = scripts(folder.path());
    let certificate = certificate(folder.path(), "factory-1", None);
    let key = certificate.with_extension("key");
    let device = |refusals: &str| {
        fs::write(world.0.join("refusals"), refusals).expect("write");
        world.run(&script, &["device", "factory-1", path(&certificate), path(&key)])
    };
    let waits = |log: &[String]| log.iter().filter(|line| *line == "sleep 15").count();

    let output = device(&RBAC.repeat(2));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("a new role takes minutes to count"));
    assert_eq!(waits(&world.log()), 2);

    for (refusals, waited) in [
        (RBAC.repeat(100), 40),
        ("ERROR: (Forbidden) Client address is not authorized. ForbiddenByFirewall\n".into(), 0),
        ("ERROR: no such host\n".into(), 0),
    ] {
        let output = device(&refusals);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("ERROR: "), "Azure's own words: {}", text(&output.stderr));
        assert_eq!(waits(&world.log()), waited, "{refusals}");
    }
}
