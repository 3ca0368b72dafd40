//! The JSON Schema of a recipe file, generated from the types, for editors and other tools.

use schemars::Schema;
use schemars::transform::{RecursiveTransform, Transform as _};
use serde_json::{Map, Value, json};

use super::merge::REPLACE;
use super::types::Recipe;

/// Definitions that stand in arrays of tables only: these are never merged, so what they need must be in place.
const WHOLE: [&str; 2] = ["Deb", "EngineImage"];

/// The schema as text, ready for `docs/recipe.schema.json`.
///
/// It accepts a file that extends another: what the merged recipe needs, a child may leave to its parent. An array
/// may begin with `"="`.
pub fn json_schema() -> String {
    let mut schema = schemars::schema_for!(Recipe);
    relax_required(&mut schema);
    RecursiveTransform(allow_replace_mark).transform(&mut schema);
    schema.insert("title".into(), json!("edgepress recipe"));
    let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text + "\n"
}

fn relax_required(schema: &mut Schema) {
    schema.remove("required");
    let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) else { return };
    for (name, definition) in definitions {
        if !WHOLE.contains(&name.as_str()) {
            relax(definition);
        }
    }
}

fn relax(definition: &mut Value) {
    let Some(object) = definition.as_object_mut() else { return };
    object.remove("required");
    // Without its tag, more than one variant fits a partial table.
    if let Some(mut variants) = object.remove("oneOf") {
        let tagged =
            variants.as_array().is_some_and(|all| all.iter().any(|one| one.get("properties").is_some()));
        if tagged {
            variants.as_array_mut().into_iter().flatten().for_each(relax);
        }
        object.insert(if tagged { "anyOf" } else { "oneOf" }.into(), variants);
    }
}

fn allow_replace_mark(schema: &mut Schema) {
    let Some(items) = schema.get_mut("items") else { return };
    if items.get("type") != Some(&json!("string")) || items.get("format").is_some() {
        let mark: Map<String, Value> = [
            ("const".to_owned(), json!(REPLACE)),
            ("description".to_owned(), json!("replaces the parent's array")),
        ]
        .into_iter()
        .collect();
        *items = json!({ "anyOf": [items.clone(), mark] });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::json_schema;

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
