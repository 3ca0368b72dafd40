//! What a recipe can have, by the JSON Schema that is generated from its types.

#[cfg(test)]
mod published;

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::types::Recipe;

/// Is `path` (steps from the recipe's top level) one that a recipe can have? If not: which step is unknown, and what could
/// stand there.
pub(crate) fn unknown_step(path: &[&str]) -> Option<(usize, Vec<String>)> {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let root = SCHEMA.get_or_init(|| schemars::schema_for!(Recipe).to_value());
    let mut nodes = vec![root];
    for (at, step) in path.iter().enumerate() {
        let variants = variants(root, &nodes);
        let index = step.parse::<usize>().is_ok();
        let mut next: Vec<&Value> = Vec::new();
        for node in &variants {
            next.extend(node.get("properties").and_then(|all| all.get(*step)));
            next.extend(node.get("additionalProperties").filter(|rest| rest.is_object()));
            next.extend(node.get("items").filter(|_| index));
            if node.as_bool() == Some(true) || node.get("additionalProperties") == Some(&json!(true)) {
                return None; // any value: nothing below it is known
            }
        }
        if next.is_empty() {
            let tables = variants.iter().filter_map(|node| node.get("properties")?.as_object());
            return Some((at, tables.flat_map(|table| table.keys().cloned()).collect()));
        }
        nodes = next;
    }
    None
}

/// The schemas that `nodes` refer to and are made of.
fn variants<'a>(root: &'a Value, nodes: &[&'a Value]) -> Vec<&'a Value> {
    let mut all: Vec<&Value> = Vec::new();
    let mut open = nodes.to_vec();
    while let Some(node) = open.pop() {
        all.push(node);
        let reference = node.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
        open.extend(reference.and_then(|pointer| root.pointer(pointer)));
        for list in ["anyOf", "oneOf", "allOf"] {
            open.extend(node.get(list).and_then(Value::as_array).into_iter().flatten());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::published::json_schema;
    use super::unknown_step;

    #[test]
    fn paths_that_a_recipe_can_have() {
        for (path, unknown) in [
            ("network.proxy.https", None),
            ("archives.anything.key.file", None),
            ("archives.anything.urls.aarch64", None),
            ("engine.images.0.name", None),
            ("provisioning.certificate.from", None),
            ("vars.anything.below", None),
            ("disk.size", None),
            ("netwrok", Some(0)),
            ("network.prxy", Some(1)),
            ("archives.anything.keys", Some(2)),
            ("disk.size.bytes", Some(2)),
            ("engine.images.0.nmae", Some(3)),
        ] {
            let steps: Vec<&str> = path.split('.').collect();
            assert_eq!(unknown_step(&steps).map(|(at, _)| at), unknown, "{path}");
        }
    }

    #[test]
    fn the_committed_schema_is_the_types() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipe.schema.json");
        if std::env::var_os("EDGEPRESS_UPDATE_GOLDENS").is_some() {
            std::fs::write(&file, json_schema()).expect("writing the schema");
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == json_schema(),
            "docs/recipe.schema.json has drifted from the types; \
             regenerate it: EDGEPRESS_UPDATE_GOLDENS=1 cargo test --lib recipe::schema"
        );
    }

    #[test]
    fn children_may_leave_keys_to_their_parents() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema()).expect("JSON");
        assert!(schema.get("required").is_none());
        assert!(schema["$defs"]["Target"].get("required").is_none());
        assert_eq!(schema["$defs"]["EngineImage"]["required"], serde_json::json!(["name"]));
        assert_eq!(schema["additionalProperties"], serde_json::json!(false));
    }
}
