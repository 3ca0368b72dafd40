use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::facts::{Facts, Vhd};
use super::modules::{Fleet, Login};
use super::names::Names;
use super::version::Version;
use super::{arm, bicep, files, quoted};
use crate::units::{Arch, Digest};

fn facts(arch: Arch, built: bool, vault: bool) -> Facts {
    let vhd = Vhd {
        path: PathBuf::from("/out/factory-x86_64/factory.vhd"),
        virtual_size: 1200 << 20,
        upload_size: (1200 << 20) + 512,
        sha256: Digest::of("vhd"),
    };
    let version = if built { Version::of_epoch(1_795_332_720).expect("a time") } else { Version::FIRST };
    let vhd = built.then_some(vhd);
    Facts {
        name: "factory".into(),
        description: "A factory's gateways".into(),
        arch,
        generation: 2,
        names: Names::of("factory", version, vhd.as_ref().map(|vhd| &vhd.sha256)),
        version,
        vhd,
        vault: vault.then(|| "factory-keys".into()),
        secret: "edge-{{ registration_id }}".into(),
        registry_secret: vault.then(|| "registry".into()),
        registration_id: "{{ vm_name }}".into(),
        id_scope: "0ne00123456".into(),
        modules: Some(fleet()),
    }
}

fn fleet() -> Fleet {
    let login = |name: &str, address: &str, acr: Option<&str>| Login {
        name: name.into(),
        address: address.into(),
        variable: format!("REGISTRY_{}", name.to_uppercase()),
        acr: acr.map(str::to_owned),
        repositories: acr
            .into_iter()
            .flat_map(|_| ["line/pump".to_owned(), "line/valve".to_owned()])
            .collect(),
    };
    let logins =
        vec![login("own", "factory.azurecr.io", Some("factory")), login("plant", "plant.example:5000", None)];
    let credentials = |address: &str| json!({ "username": "", "password": "", "address": address });
    let manifest = json!({ "modulesContent": { "$edgeAgent": { "properties.desired": { "runtime": { "settings": {
        "registryCredentials": { "own": credentials("factory.azurecr.io"), "plant": credentials("plant.example:5000") } } } } } } });
    Fleet { manifest, logins }
}

fn all() -> impl Iterator<Item = Facts> {
    [(Arch::X86_64, true, true), (Arch::Aarch64, true, false), (Arch::X86_64, false, true)]
        .into_iter()
        .map(|(arch, built, vault)| facts(arch, built, vault))
}

fn texts(facts: &Facts) -> BTreeMap<&'static str, String> {
    files(facts).expect("files").into_iter().map(|file| (file.name, file.text)).collect()
}

fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The ARM template.
fn deployed(facts: &Facts) -> Json {
    parsed(&texts(facts)["azuredeploy.json"])
}

/// What stands in azure/golden; `EDGEPRESS_UPDATE_GOLDENS=1` writes it anew.
fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/azure/golden").join(name);
    if std::env::var_os("EDGEPRESS_UPDATE_GOLDENS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("write");
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text == expected, "{name} differs; EDGEPRESS_UPDATE_GOLDENS=1 writes it anew:\n{text}");
}

#[test]
fn the_files_of_an_image() {
    for file in files(&facts(Arch::X86_64, true, true)).expect("files") {
        golden(file.name, &file.text);
        assert_eq!(file.mode & 0o100 != 0, file.name.ends_with(".sh"));
    }
}

/// An image for a BIOS is of generation 1, which has no secure boot; one for UEFI stays of generation 2.
#[test]
fn each_generation_is_stated_everywhere() {
    for (generation, other) in [(1, 2), (2, 1)] {
        let facts = Facts { generation, ..facts(Arch::X86_64, true, true) };
        for file in files(&facts).expect("files") {
            let says = |number: u8| {
                let words = [
                    "hyperVGeneration: 'V",
                    "hyperVGeneration\": \"V",
                    "--hyper-v-generation V",
                    ", generation ",
                ];
                words.iter().filter(|words| file.text.contains(&format!("{words}{number}"))).count()
            };
            let told = ["main.bicep", "azuredeploy.json", "upload.sh", "README.md"].contains(&file.name);
            assert_eq!((says(generation), says(other)), (usize::from(told), 0), "{}", file.name);
            assert!(generation == 2 || !file.text.contains("TrustedLaunch"), "{}", file.name);
        }
    }
}

/// ARM's own rules for the shape of a template.
#[test]
fn the_template_has_the_shape_of_one() {
    for facts in all() {
        let texts = texts(&facts);
        let json = parsed(&texts["azuredeploy.json"]);
        for key in ["$schema", "contentVersion", "parameters", "resources", "outputs"] {
            assert!(!json[key].is_null(), "{key}");
        }
        let mut before = Vec::new();
        for resource in json["resources"].as_array().expect("resources") {
            let kind = resource["type"].as_str().expect("a type");
            let name = resource["name"].as_str().expect("a name");
            let api = resource["apiVersion"].as_str().expect("a version");
            assert!(api.len() == 10 && api.bytes().filter(|byte| *byte == b'-').count() == 2, "{api}");
            let placeless = ["Microsoft.Resources/deployments", "Microsoft.Network/virtualNetworks/subnets"]
                .contains(&kind);
            assert_eq!(resource["location"].is_null(), placeless, "{kind}");
            assert!(!name.is_empty() && resource["properties"].is_object());
            balanced(resource);
            for needed in resource["dependsOn"].as_array().into_iter().flatten() {
                let needed = needed.as_str().expect("an id");
                let of = needed.split('\'').nth(1).expect("a type");
                assert!(before.contains(&of.to_owned()), "{kind} needs {needed}");
            }
            before.push(kind.to_owned());
        }
        // Every parameter that is used is there, and none is stated in vain.
        let stated: BTreeSet<_> =
            json["parameters"].as_object().expect("parameters").keys().cloned().collect();
        assert_eq!(used(&json, "parameters('", "template"), stated);
        let parameters = parsed(&texts["azuredeploy.parameters.json"]);
        for (name, value) in parameters["parameters"].as_object().expect("parameters") {
            assert_eq!(json["parameters"][name]["defaultValue"], value["value"], "{name}");
        }
        assert!(json["parameters"]["sshPublicKey"]["defaultValue"].is_null(), "nobody's key is the default");
    }
}

/// What stands between `before` and the next quote, in all texts but those below the key `without`.
fn used(value: &Json, before: &str, without: &str) -> BTreeSet<String> {
    match value {
        Json::String(text) => {
            text.split(before).skip(1).filter_map(|rest| Some(rest.split('\'').next()?.to_owned())).collect()
        }
        Json::Array(all) => all.iter().flat_map(|value| used(value, before, without)).collect(),
        Json::Object(all) => all
            .iter()
            .filter(|(key, _)| *key != without)
            .flat_map(|(_, value)| used(value, before, without))
            .collect(),
        _ => BTreeSet::new(),
    }
}

/// Expressions are closed.
fn balanced(value: &Json) {
    match value {
        Json::String(text) if text.starts_with('[') && !text.starts_with("[[") => {
            let count = |sign| text.matches(sign).count();
            assert!(text.ends_with(']') && count('(') == count(')') && count('\'') % 2 == 0, "{text}");
        }
        Json::Array(all) => all.iter().for_each(balanced),
        Json::Object(all) => all.values().for_each(balanced),
        _ => {}
    }
}

/// Two texts that people read, one deployment.
#[test]
fn bicep_and_json_say_the_same() {
    for facts in all() {
        let texts = texts(&facts);
        let json = parsed(&texts["azuredeploy.json"]);
        same(&texts["main.bicep"], &json);
        let nested = |of: &&Json| of["type"] == "Microsoft.Resources/deployments";
        let nested: Vec<_> = json["resources"].as_array().expect("resources").iter().filter(nested).collect();
        assert_eq!(nested.len(), texts["main.bicep"].matches("\nmodule ").count());
        assert_eq!(nested.is_empty(), !texts.contains_key("vault-access.bicep"));
        for nested in nested {
            assert_eq!(nested["properties"]["expressionEvaluationOptions"]["scope"], "inner");
            let module = &nested["properties"]["template"];
            same(&texts["vault-access.bicep"], module);
            let keys = |of: &Json| of.as_object().expect("parameters").keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&nested["properties"]["parameters"]), keys(&module["parameters"]));
        }
    }
}

/// Types with versions, parameters with their types, which of them have a default, descriptions, outputs, and every plain
/// value of a property.
fn same(text: &str, json: &Json) {
    let words = |line: &str| line.split('\'').nth(1).expect("a type").to_owned();
    let resources = text.lines().filter(|line| line.starts_with("resource ") && !line.contains(" existing "));
    let of_json: Vec<_> = json["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter(|of| of["type"] != "Microsoft.Resources/deployments")
        .map(|of| {
            format!("{}@{}", of["type"].as_str().expect("type"), of["apiVersion"].as_str().expect("api"))
        })
        .collect();
    assert_eq!(resources.map(words).collect::<Vec<_>>(), of_json);
    let parameters = text.lines().filter_map(|line| line.strip_prefix("param ")).map(|line| {
        let mut words = line.split(' ');
        let [name, kind] = [words.next(), words.next()].map(|word| word.unwrap_or_default().to_owned());
        (name, kind, line.contains(" = "))
    });
    let of_json = json["parameters"].as_object().expect("parameters").iter().map(|(name, of)| {
        (name.clone(), of["type"].as_str().unwrap_or_default().to_owned(), !of["defaultValue"].is_null())
    });
    assert_eq!(parameters.collect::<BTreeSet<_>>(), of_json.collect());
    let outputs = text.lines().filter_map(|line| line.strip_prefix("output ")?.split(' ').next());
    let of_json = json["outputs"].as_object().into_iter().flat_map(|all| all.keys().map(String::as_str));
    assert_eq!(outputs.collect::<BTreeSet<_>>(), of_json.collect());
    for (key, value) in json["resources"].as_array().expect("resources").iter().flat_map(plain) {
        let stated = format!(" {key}: {value}\n");
        assert!(text.contains(&stated), "no{stated}in {text}");
    }
    for sign in [('{', '}'), ('[', ']'), ('(', ')')] {
        assert_eq!(text.matches(sign.0).count(), text.matches(sign.1).count(), "{text}");
    }
}

/// The properties whose values are no expressions, as Bicep writes them.
fn plain(value: &Json) -> Vec<(String, String)> {
    let Json::Object(all) = value else {
        return value.as_array().into_iter().flatten().flat_map(plain).collect();
    };
    let skipped = ["type", "apiVersion", "dependsOn", "template", "mode", "expressionEvaluationOptions"];
    let kept = all.iter().filter(|(key, value)| {
        !skipped.contains(&key.as_str())
            || (*key == "type" && value.as_str().is_some_and(|it| !it.contains('/')))
    });
    kept.flat_map(|(key, value)| match value {
        Json::String(text) if text.starts_with('[') => Vec::new(),
        Json::String(text) => vec![(key.clone(), bicep(text))],
        Json::Number(_) | Json::Bool(_) => vec![(key.clone(), value.to_string())],
        other => plain(other),
    })
    .collect()
}

#[test]
fn texts_in_quotes() {
    assert_eq!(bicep("it's ${x} \\"), "'it\\'s \\${x} \\\\'");
    assert_eq!(arm("it's \"[x]\""), "\"it's \\\"[x]\\\"\"");
    assert_eq!(arm("[x]"), "\"[[x]\"");
}

/// A VM that is made anew has another identity: the assignment's name must not be made of names alone.
#[test]
fn the_role_is_of_the_identity() {
    let json = deployed(&facts(Arch::X86_64, true, true));
    let resources = json["resources"].as_array().expect("resources");
    let access = resources.last().expect("resources");
    let role = &access["properties"]["template"]["resources"][0];
    assert_eq!(role["type"], "Microsoft.Authorization/roleAssignments");
    assert!(role["name"].as_str().expect("a name").contains("parameters('principalId')"), "{role}");
    let who = access["properties"]["parameters"]["principalId"]["value"].as_str().expect("who");
    assert!(who.contains("identity.principalId"), "{who}");
    let machine = "[resourceId('Microsoft.Compute/virtualMachines', parameters('vmName'))]";
    assert_eq!(access["dependsOn"], serde_json::json!([machine]));
}

/// With a role on the vault, whoever becomes one VM has the keys of all.
#[test]
fn a_vm_reads_its_own_secret_alone() {
    let json = deployed(&facts(Arch::X86_64, true, true));
    let access = json["resources"].as_array().and_then(|all| all.last()).expect("resources");
    let roles: Vec<_> =
        access["properties"]["template"]["resources"].as_array().expect("resources").iter().collect();
    assert_eq!(roles.len(), 1);
    let expected = "[format('Microsoft.KeyVault/vaults/{0}/secrets/{1}', parameters('vaultName'), parameters('secretName'))]";
    assert_eq!(roles[0]["scope"], expected);
    let name = roles[0]["name"].as_str().expect("a name");
    assert!(name.contains("parameters('secretName')"), "two secrets, two assignments: {name}");
    assert!(!json.to_string().contains("vaults/{0}'"), "nothing is for the whole vault");
}

#[test]
fn the_secret_is_the_one_that_first_boot_asks_for() {
    let default = |secret: &str, id: &str| {
        let facts =
            Facts { secret: secret.into(), registration_id: id.into(), ..facts(Arch::X86_64, true, true) };
        let json = deployed(&facts);
        json["parameters"]["secretName"]["defaultValue"].as_str().map(str::to_owned)
    };
    for (secret, id, expected) in [
        ("{{ registration_id }}", "{{ vm_name }}", Some("[parameters('vmName')]")),
        ("edge-{{registration_id}}", "{{vm_name}}", Some("[format('edge-{0}', parameters('vmName'))]")),
        (
            "a_{{ registration_id }}.b",
            "gw:{{ vm_name }}",
            Some("[format('a-gw-{0}-b', parameters('vmName'))]"),
        ),
        ("common", "{{ vm_name }}", Some("common")),
        ("{{ registration_id }}", "pump_7", Some("pump-7")),
        ("{{ registration_id }}", "{{ vm_id }}", None),
        ("{{ registration_id }}", "{{ serial }}-{{ vm_name }}", None),
        ("{{ registration_id }}", "", None),
    ] {
        assert_eq!(default(secret, id).as_deref(), expected, "{secret} of {id}");
    }
    let readme = |id: &str| {
        let facts = Facts { registration_id: id.into(), ..facts(Arch::X86_64, true, true) };
        let page = files(&facts).expect("files").into_iter().find(|file| file.name == "README.md");
        page.expect("README.md").text.matches(" secretName=SECRET\n").count()
    };
    assert_eq!(
        (readme("{{ vm_name }}"), readme("{{ vm_id }}")),
        (0, 2),
        "both commands state what has no default"
    );
}

#[test]
fn what_depends_on_architecture_and_source() {
    let text = |facts: &Facts| deployed(facts).to_string();
    let x64 = text(&facts(Arch::X86_64, true, true));
    let arm64 = text(&facts(Arch::Aarch64, true, false));
    for (what, in_x64) in [
        ("TrustedLaunchSupported", true),
        ("secureBootEnabled", true),
        ("\"x64\"", true),
        ("Microsoft.KeyVault/vaults", true),
        ("roleAssignments", true),
        ("\"Arm64\"", false),
    ] {
        assert_eq!((x64.contains(what), arm64.contains(what)), (in_x64, !in_x64), "{what}");
    }
    assert!(x64.contains("SystemAssigned") && arm64.contains("SystemAssigned"));
    assert!(!x64.contains("publicIPAddress\""), "no VM has an address of its own");
}

#[test]
fn paths_are_words() {
    assert_eq!(quoted("/a b/c's.vhd".as_ref()), "'/a b/c'\\''s.vhd'");
}
