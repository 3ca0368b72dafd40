//! The JSON Schema of a recipe file for editors and other tools, which a test compares with docs/recipe.schema.json.

use schemars::Schema;
use schemars::transform::{RecursiveTransform, Transform as _};
use serde_json::{Map, Value, json};

use crate::recipe::merge::REPLACE;
use crate::recipe::types::Recipe;

/// Definitions that stand in arrays of tables only: these are never merged, so what they need must be in place.
const WHOLE: [&str; 2] = ["Deb", "EngineImage"];

/// The schema as text, ready for `docs/recipe.schema.json`.
///
/// It accepts a file that extends another: what the merged recipe needs, a child may leave to its parent. An array
/// may begin with `"="`.
pub(super) fn json_schema() -> String {
    let mut schema = schemars::schema_for!(Recipe);
    relax_required(&mut schema);
    RecursiveTransform(allow_replace_mark).transform(&mut schema);
    name_architectures(&mut schema);
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

/// Other names of the architectures, which serde takes and schemars leaves out.
fn name_architectures(schema: &mut Schema) {
    let names =
        schema.get_mut("$defs").and_then(|defs| defs.get_mut("Arch")?.get_mut("oneOf")?.as_array_mut());
    let Some(names) = names else { return };
    for (alias, arch) in [("amd64", "x86_64"), ("x86-64", "x86_64"), ("arm64", "aarch64")] {
        names.push(
            json!({ "description": format!("The same as `{arch}`."), "type": "string", "const": alias }),
        );
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
