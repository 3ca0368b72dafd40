use edgepress_base::finding::Severity;

use super::{Values, has_placeholder};
use crate::lint::{Context, lint};
use crate::model::Manifest;

const TEMPLATE: &str = include_str!("../lint/good.template.json");
const VALUES: &str = "REGISTRY=factory.azurecr.io\nPASSWORD=hunter2\nTTL=7200\nTAG=1.5\nMODULES.filter.amd64=factory.azurecr.io/filter:0.0.1-amd64\n";

fn values(text: &str) -> Values {
    Values::parse("d.env", text).expect("values")
}

#[test]
fn a_good_template_becomes_a_good_manifest() {
    let manifest = Manifest::from_template("t.json", TEMPLATE, &values(VALUES)).expect("a manifest");
    assert_eq!(lint(&manifest, &Context::default()), []);
    let json = manifest.to_json();
    let hub =
        &json["modulesContent"]["$edgeAgent"]["properties.desired"]["systemModules"]["edgeHub"]["settings"];
    let options = hub["createOptions"].as_str().expect("a string");
    assert!(options.starts_with("{\"HostConfig\":"), "{options}");
    assert_eq!(json.get("$schema-template"), None);
    // What was written passes as a manifest, too, and says the same.
    let written = json.to_string();
    let again = Manifest::parse("d.json", &written).expect("a manifest");
    assert_eq!(lint(&again, &Context::default()), []);
    assert_eq!(again.images(), manifest.images());
    assert_eq!(again.modules()[1].create_options(), manifest.modules()[1].create_options());
    assert_eq!(
        json["modulesContent"]["$edgeHub"]["properties.desired"]["storeAndForwardConfiguration"]["timeToLiveSecs"],
        7200
    );
    assert_eq!(manifest.registry_credentials()[0].password(), "hunter2");
}

#[test]
fn long_options_are_cut_into_chunks() {
    let long = "x".repeat(1200);
    let text =
        TEMPLATE.replace("\"/var/lib/filter:/data\"", &format!("\"/var/lib/filter:/data\", \"/{long}é:/x\""));
    assert_ne!(text, TEMPLATE);
    let manifest = Manifest::from_template("t.json", &text, &values(VALUES)).expect("a manifest");
    let again = Manifest::parse("d.json", &manifest.to_json().to_string()).expect("a manifest");
    assert_eq!(lint(&again, &Context::default()), []);
    let filter = |manifest: &Manifest| manifest.module("filter").expect("filter").binds.clone();
    assert_eq!(filter(&again), filter(&manifest));
    assert_eq!(filter(&again).len(), 2);
    // Those that are a text in the template, too.
    let options = format!("{{\\\"Env\\\":[\\\"A={}\\\"]}}", "y".repeat(5000));
    let text = TEMPLATE
        .replace("{ \"HostConfig\": { \"Binds\": [\"/var/lib/filter:/data\"] } }", &format!("\"{options}\""));
    assert_ne!(text, TEMPLATE);
    let manifest = Manifest::from_template("t.json", &text, &values(VALUES)).expect("a manifest");
    assert_eq!(lint(&manifest, &Context::default()), []);
    let again = Manifest::parse("d.json", &manifest.to_json().to_string()).expect("a manifest");
    assert_eq!(lint(&again, &Context::default()), []);
}

#[test]
fn what_is_missing_is_told_all_at_once() {
    let found = Manifest::from_template("t.json", TEMPLATE, &values("REGISTRI=x\nPASSWORD=hunter2\n"))
        .expect_err("missing");
    let messages: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.iter().all(|finding| finding.severity == Severity::Error && finding.file_and_line().1 > 1));
    let all = messages.join("\n");
    for says in
        ["`${REGISTRY}` has no value", "did you mean `REGISTRI`", "`${TTL}`", "filled in by iotedgedev"]
    {
        assert!(all.contains(says), "{says} is not in\n{all}");
    }
    assert!(!all.contains("hunter2"));
}

#[test]
fn a_template_is_known_by_its_name_or_its_values() {
    let object = "{\"modulesContent\": {\"$edgeAgent\": {\"properties.desired\": {\"systemModules\": {\"edgeHub\": {\"settings\": {\"createOptions\": {}}}}}}}}";
    let told = |file, values: Option<&Values>| {
        let manifest = Manifest::of(file, object, values).expect("a manifest");
        lint(&manifest, &Context::default())
            .iter()
            .any(|finding| finding.message.contains("must be a string"))
    };
    assert!(told("deployment.json", None));
    assert!(!told("deployment.template.json", None) && !told("deployment.json", Some(&Values::none())));
}

#[test]
fn the_environment_fills_in_nothing() {
    assert!(std::env::var("PATH").is_ok());
    let found =
        Manifest::from_template("t.json", "{\"a\": \"${PATH}\"}", &Values::none()).expect_err("missing");
    assert!(found[0].to_string().contains("`${PATH}` has no value"));
}

#[test]
fn what_nobody_uses_is_told() {
    let more = format!("{VALUES}UNUSED=hunter2\n");
    let manifest = Manifest::from_template("t.json", TEMPLATE, &values(&more)).expect("a manifest");
    let found = lint(&manifest, &Context::default());
    let [finding] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((finding.key.as_deref(), finding.file_and_line()), (Some("UNUSED"), ("d.env", 6)));
    assert!(!finding.to_string().contains("hunter2"));
    let many: String = (0..9).map(|number| format!("UNUSED{number}=1\n")).collect();
    let manifest =
        Manifest::from_template("t.json", TEMPLATE, &values(&format!("{VALUES}{many}"))).expect("a manifest");
    let found = lint(&manifest, &Context::default());
    assert!(found.len() == 1 && found[0].message.contains("9 of the names: UNUSED0, UNUSED1"), "{found:?}");
}

#[test]
fn findings_lead_to_the_template() {
    let text = VALUES.replace("TAG=1.5", "TAG=1.5:wrong");
    let manifest = Manifest::from_template("t.json", TEMPLATE, &values(&text)).expect("a manifest");
    let found = lint(&manifest, &Context::default());
    let place = found[0].place.as_ref().expect("a place");
    assert!(place.text.contains("${TAG}"), "{found:?}");
    let shown: String = found.iter().map(ToString::to_string).collect();
    assert!(!shown.contains("hunter2"));
}

#[test]
fn values_are_escaped_within_strings_alone() {
    let text = "{\"a\": \"x${A}\", \"b\": ${B}, \"c\": \"\\\"${A}\"}";
    let values = values("A=\"q\\\"\\\\\"\nB={\"n\":1}\n");
    let manifest = Manifest::from_template("t.json", text, &values).expect("a manifest");
    let json = manifest.to_json();
    assert_eq!((json["a"].as_str(), json["c"].as_str()), (Some("xq\"\\"), Some("\"q\"\\")));
    assert_eq!(json["b"]["n"], 1);
}

#[test]
fn placeholders_are_told_from_other_text() {
    for yes in ["${A}", "x${A.b<c>}y", "${${A}"] {
        assert!(has_placeholder(yes), "{yes}");
    }
    for no in ["$A", "$upstream", "${}", "${A", "{A}", "${a\"}"] {
        assert!(!has_placeholder(no), "{no}");
    }
    let bomb = "${A}".repeat(100);
    let big = Values::parse("d.env", &format!("A={}", "x".repeat(60_000))).expect("values");
    let found = Manifest::from_template("t.json", &format!("\"{bomb}\""), &big).expect_err("too long");
    assert!(found[0].message.contains("longer"));
}
