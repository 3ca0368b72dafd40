//! What the manifest alone tells: rule, old text, new text, end of the key, part of the message.

mod agent;
mod container;
mod hub;

use agent::{AGENT, DOCUMENT, MODULES};
use container::{IMAGES, OPTIONS};
use hub::{HUB, LAYERS};

use super::{GOOD, LAYERED, changed, expect, look};
use crate::lint::Context;

/// A rule, and a change to the good manifest that it must find.
pub(super) type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

pub(super) fn all() -> Vec<Case> {
    let long = ["module-count", "options-long", "twin-size", "twin-value", "twin-depth"];
    let long = long.map(|rule| (rule, "", "", "", ""));
    [DOCUMENT, AGENT, MODULES, IMAGES, OPTIONS, HUB, LAYERS, &long].concat()
}

#[test]
fn each_mistake_is_found() {
    let cases = [DOCUMENT, AGENT, MODULES, IMAGES, OPTIONS, HUB].concat();
    let missed = cases.into_iter().filter_map(|(rule, old, new, key, says)| {
        look(&changed(GOOD, old, new), &Context::default(), rule, key, says).err()
    });
    assert_eq!(missed.collect::<Vec<_>>().join("\n\n"), "");
}

#[test]
fn each_mistake_of_a_layer_is_found() {
    for (rule, old, new, key, says) in LAYERS {
        expect(&changed(LAYERED, old, new), &Context::default(), rule, key, says);
    }
}

#[test]
fn what_is_too_much_is_found() {
    let twin = |value: &str| changed(GOOD, "\"windows\": [1, 2]", &format!("\"windows\": {value}"));
    let context = Context::default();
    let values = (0..9).map(|number| format!("\"v{number}\": \"{}\"", "x".repeat(4000)));
    let large = format!("{{{}}}", values.collect::<Vec<_>>().join(","));
    expect(&twin(&large), &context, "twin-size", "/filter", "more than the 32768");
    let nested = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    expect(&twin(&nested(11)), &context, "twin-depth", "/a/a", "more than 10");
    assert_eq!(super::found(&twin(&nested(10)), &context), []);
    expect(&twin(&format!("\"{}\"", "é".repeat(2049))), &context, "twin-value", "/windows", "4098 bytes");
    let one = r#""m0": {"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "a:1"}},"#;
    let modules: String = (0..49).map(|number| one.replace("m0", &format!("m{number}"))).collect();
    let many = changed(GOOD, "\"sensor\": {", &format!("{modules}\"sensor\": {{"));
    expect(&many, &context, "module-count", "/modules", "51 modules");
    let long = format!("filter-data:/data\\\",\\\"/{}:/x", "y".repeat(600));
    expect(
        &changed(GOOD, "filter-data:/data", &long),
        &context,
        "options-long",
        "/createOptions",
        "more than 512",
    );
}
