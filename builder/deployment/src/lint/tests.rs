//! One line of a table for each mistake: a change to a good manifest, and what must be said about it.

mod cases;
mod contexts;

use std::collections::BTreeSet;

use super::{Context, Hit, RULES, Rule, hits, lint};
use crate::model::Manifest;

const GOOD: &str = include_str!("good.json");
/// A layered manifest that is as good as one can be.
const LAYERED: &str = r#"{
  "id": "layer",
  "content": { "modulesContent": {
    "$edgeAgent": { "properties.desired.modules.pump": {
      "type": "docker", "status": "running", "restartPolicy": "always",
      "settings": { "image": "factory.azurecr.io/pump:1" }
    } },
    "$edgeHub": { "properties.desired.routes.pump": "FROM /messages/modules/pump/* INTO $upstream" },
    "pump": { "properties.desired.speed": 3 }
  } },
  "targetCondition": "tags.x='y'", "priority": 10
}"#;

/// The text with `old` replaced; a case would be wrong if `old` were not in it.
fn changed(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old}");
    text.replacen(old, new, 1)
}

fn found(text: &str, context: &Context) -> Vec<Hit> {
    let manifest = Manifest::parse("d.json", text).unwrap_or_else(|found| panic!("{found:?}\n{text}"));
    hits(&manifest, context)
}

/// The finding of a rule: about this key, saying this, at a line that exists.
fn expect(text: &str, context: &Context, rule: &str, key: &str, says: &str) {
    if let Err(why) = look(text, context, rule, key, says) {
        panic!("{why}");
    }
}

fn look(text: &str, context: &Context, rule: &str, key: &str, says: &str) -> Result<(), String> {
    let found = found(text, context);
    let hit = found.iter().find(|hit| {
        let stated = hit.finding.key.as_deref().unwrap_or_default();
        hit.rule.name == rule && stated.ends_with(key) && hit.finding.message.contains(says)
    });
    let Some(Hit { rule, finding }) = hit else { return Err(format!("{rule} {key} {says}\nin {found:#?}")) };
    assert_eq!(finding.severity, rule.severity);
    let (file, line) = finding.file_and_line();
    assert!(file == "d.json" && line >= 1 && line <= text.lines().count(), "{finding}");
    let manifest = Manifest::parse("d.json", text).expect("JSON");
    let pointer = finding.key.clone().unwrap_or_default();
    assert!(manifest.root.to_json().pointer(&pointer).is_some(), "{pointer} leads nowhere");
    Ok(())
}

#[test]
fn a_good_manifest_has_no_findings() {
    let manifest = Manifest::parse("d.json", GOOD).expect("JSON");
    assert_eq!(lint(&manifest, &Context::default()), []);
}

#[test]
fn a_good_layer_is_only_told_that_it_is_one() {
    let names: Vec<&str> = found(LAYERED, &Context::default()).iter().map(|hit| hit.rule.name).collect();
    assert_eq!(names, ["layered-alone"]);
}

#[test]
fn every_rule_has_a_case() {
    let cases: BTreeSet<&str> = cases::all().iter().map(|case| case.0).chain(contexts::RULES).collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(rules.len(), RULES.len(), "two rules have one name");
    assert_eq!(rules.difference(&cases).collect::<Vec<_>>(), Vec::<&&str>::new(), "rules without a case");
    assert_eq!(cases.difference(&rules).collect::<Vec<_>>(), Vec::<&&str>::new(), "cases without a rule");
}

#[test]
fn places_are_exact() {
    let text = changed(GOOD, "\\\"HostPort\\\":\\\"8883\\\"", "\\\"HostPort\\\":\\\"seven\\\"");
    let found = found(&text, &Context::default());
    let [hit] = found.as_slice() else { panic!("{found:?}") };
    let place = hit.finding.place.as_ref().expect("a place");
    let line = text.lines().nth(place.line - 1).expect("the line");
    assert!(line[place.column - 1..].starts_with("\\\"seven\\\""), "{place:?}");
    assert_eq!(place.width, "\\\"seven\\\"".len());
    assert!(hit.finding.message.contains("`/HostConfig/PortBindings/8883~1tcp/0/HostPort` in createOptions"));
}

#[test]
fn a_route_is_pointed_to_where_it_goes_wrong() {
    let text = changed(
        GOOD,
        "INTO BrokeredEndpoint(\\\"/modules/filter/inputs/in\\\")",
        "INTO BrokeredEndpoint(\\\"/a\\\") ",
    );
    let found = found(&text, &Context::default());
    let [hit] = found.as_slice() else { panic!("{found:?}") };
    let place = hit.finding.place.as_ref().expect("a place");
    let line = text.lines().nth(place.line - 1).expect("the line");
    assert!(line[place.column - 1..].starts_with("\\\"/a\\\") \""), "{place:?}");
    assert_eq!(place.width, "\\\"/a\\\"".len());
}

#[test]
fn secrets_are_never_shown() {
    let secret = "hunter2";
    let with = |old: &str, new: &str| changed(GOOD, old, &new.replace("SECRET", secret));
    for text in [
        with("\"value\": 25", "\"value\": {\"x\": \"SECRET\"}"),
        with("\"value\": 25", "\"other\": \"SECRET\""),
        with("\"3q2-7wX0\"", "[\"SECRET\"]"),
        with("\"username\": \"pull\"", "\"user\": \"SECRET\""),
        with("\"Env\\\":[\\\"MODE=fast\\\"]", "\"Env\\\":{\\\"KEY\\\":\\\"SECRET\\\"}"),
        with("\"TemperatureThreshold\": 25", "\"a b\": \"SECRET\""),
        with("\"TemperatureThreshold\": 25", &format!("\"a\": \"SECRET{}\"", "x".repeat(5000))),
        with(
            "\"properties.desired\": {\n        \"TemperatureThreshold\": 25",
            "\"desired\": {\"x\": \"SECRET\"",
        ),
        with("\"VERBOSE\": { \"value\": true }", "\"VERBOSE\": \"SECRET\""),
        with("3q2-7wX0", "${SECRET}"),
        GOOD.replace('\n', " ")
            .replace("\"schemaVersion\": \"1.1\"", "\"schemaVersion\": \"9\"")
            .replace("3q2-7wX0", secret),
    ] {
        let found = found(&text, &Context::default());
        assert!(!found.is_empty(), "{text}");
        let shown: String = found.iter().map(|hit| format!("{}\n{:?}", hit.finding, hit)).collect();
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn all_is_told_at_once_in_order() {
    let mut text = GOOD.to_owned();
    for (old, new) in
        [("\"on-failure\"", "\"sometimes\""), ("v1.25", "new"), ("INTO $upstream", "TO $upstream")]
    {
        text = changed(&text, old, new);
    }
    let found = found(&text, &Context::default());
    let names: Vec<&str> = found.iter().map(|hit| hit.rule.name).collect();
    assert_eq!(names, ["docker-version", "restart-policy", "route-syntax"]);
}

#[test]
fn a_change_anywhere_has_an_answer() {
    // Whatever becomes of a manifest: an answer, no panic, places inside the text.
    let values = ["null", "[]", "{}", "7", "\"\"", "\"\u{1F600}$.\"", "true"];
    let colons: Vec<usize> = GOOD.match_indices("\": ").map(|(at, _)| at + 3).collect();
    assert!(colons.len() > 60);
    for (index, at) in colons.into_iter().enumerate() {
        let rest = &GOOD[at..];
        let end = rest.find([',', '\n']).unwrap_or(rest.len());
        let text = format!("{}{}{}", &GOOD[..at], values[index % values.len()], &rest[end..]);
        if let Ok(manifest) = Manifest::parse("d.json", &text) {
            lint(&manifest, &Context::default());
        }
        for text in [&GOOD[..at], &GOOD[at..]] {
            assert!(Manifest::parse("d.json", text).is_err());
        }
    }
    // And within strings: each eleventh byte another one.
    for (index, at) in (0..GOOD.len()).step_by(11).enumerate() {
        let new = [":", "$", "\\\\", "{", "/", "é", "0", "\\\"", "]", "."][index % 10];
        let text = format!("{}{new}{}", &GOOD[..at], &GOOD[at + 1..]);
        if let Ok(manifest) = Manifest::parse("d.json", &text) {
            lint(&manifest, &Context { privileged_allowed: false, ..Context::default() });
        }
    }
}

#[test]
fn the_page_has_all_rules() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/modules.md");
    let page = std::fs::read_to_string(&path).expect("docs/modules.md");
    let (before, rest) = page.split_once("lint/tests.rs -->\n").expect("the mark where the table begins");
    let (_, after) = rest.split_once("<!-- end -->").expect("the mark where the table ends");
    let row = |rule: &&Rule| format!("| {} | {} | {} |\n", rule.severity, rule.what, rule.why);
    let rows: String = RULES.iter().map(row).collect();
    let table = format!("| severity | what | why |\n| --- | --- | --- |\n{rows}");
    let expected = format!("{before}lint/tests.rs -->\n{table}<!-- end -->{after}");
    if std::env::var_os("EDGEPRESS_UPDATE_GOLDENS").is_some() {
        return std::fs::write(&path, expected).expect("docs/modules.md");
    }
    let hint = "EDGEPRESS_UPDATE_GOLDENS=1 cargo test -p edgepress-deployment the_page_has_all_rules";
    assert!(page == expected, "the table in docs/modules.md is out of date; write it anew: {hint}");
}

/// A text of 50 kB, made of pieces.
fn filled(start: &str, piece: &dyn Fn(usize) -> String, end: &str) -> String {
    let mut text = start.to_owned();
    let pieces = (0..).map(piece);
    for piece in pieces {
        text += &piece;
        if text.len() > 50_000 {
            break;
        }
    }
    text + end
}

/// Each of these is made of what costs most. What is quadratic in its length takes minutes, and nobody lands that.
#[test]
fn work_does_not_grow_faster_than_the_text() {
    let agent = r#"{"modulesContent": {"$edgeAgent": {"properties.desired": {"modules": {"#;
    let hub = r#"{"modulesContent": {"$edgeHub": {"properties.desired": {"routes": {"#;
    for text in [
        filled(agent, &|number| format!("\"m{number}\":{{}},"), "\"x\":{}}}}}}"),
        filled(r#"{"modulesContent": {"#, &|number| format!("\"m{number}\":{{}},"), "\"x\":{}}}"),
        filled(
            r#"{"modulesContent": {"#,
            &|number| format!("\"m{number}\":{{\"properties.desired.a\":1}},"),
            "\"x\":{}}}",
        ),
        filled(
            hub,
            &|number| format!("\"m{number}\":\"FROM /messages/modules/a{number}/* INTO $upstream\","),
            "\"x\":\"\"}}}}}",
        ),
        filled("{", &|number| format!("\"m{number}\":0,"), "\"x\":0}"),
        filled("{\"modulesContent\": \"", &|_| "${".into(), "\"}"),
        filled(
            &format!("{{\"{}\": {{", "k".repeat(20_000)),
            &|number| format!("\"a{number}\": 0,"),
            "\"a\": 0}}",
        ),
        filled(
            r#"{"modulesContent": {"a": {"properties.desired": ["#,
            &|_| "9007199254740992,".into(),
            "0]}}}",
        ),
    ] {
        let Ok(manifest) = Manifest::parse("d.json", &text) else { panic!("no JSON: {}…", &text[..90]) };
        assert!(lint(&manifest, &Context::default()).len() <= super::MOST);
        let values = crate::Values::none();
        assert!(Manifest::from_template("t.json", &text, &values).is_ok());
    }
}
