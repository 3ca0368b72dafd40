//! A deployment as an ARM template: JSON with expressions in brackets.
//! <https://learn.microsoft.com/azure/azure-resource-manager/templates/syntax>

use serde_json::{Map, Value as Json, json};

use super::model::{Deployment, Module, Resource, Value};

const SCHEMA: &str = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#";
const PARAMETERS: &str = "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#";

/// The type and version of a deployment within one.
const NESTED: (&str, &str) = ("Microsoft.Resources/deployments", "2022-09-01");

/// `azuredeploy.json`.
pub(super) fn write(deployment: &Deployment) -> Json {
    let parameters: Map<String, Json> = deployment
        .parameters
        .iter()
        .map(|parameter| {
            let mut of = Map::from_iter([("type".to_owned(), parameter.kind.into())]);
            if let Some(value) = &parameter.default {
                of.insert("defaultValue".into(), json(deployment, value));
            }
            of.insert("metadata".into(), json!({"description": parameter.description}));
            (parameter.name.to_owned(), Json::Object(of))
        })
        .collect();
    let own = deployment.resources.iter().filter(|resource| !resource.existing);
    let mut resources: Vec<Json> = own.map(|resource| write_resource(deployment, resource)).collect();
    resources.extend(deployment.modules.iter().map(|module| write_module(deployment, module)));
    let outputs: Map<String, Json> = deployment
        .outputs
        .iter()
        .map(|(name, value)| {
            ((*name).to_owned(), json!({"type": "string", "value": json(deployment, value)}))
        })
        .collect();
    json!({
        "$schema": SCHEMA,
        "contentVersion": "1.0.0.0",
        "metadata": {"description": format!("{} Written by edgepress azure; the Bicep says the same.", deployment.title)},
        "parameters": parameters,
        "resources": resources,
        "outputs": outputs,
    })
}

/// `azuredeploy.parameters.json`: what somebody may want to change. What has no default, and the place, are left out:
/// README.md's commands state them. The place must be the disk's, and the group, whose place is the default, may be elsewhere.
pub(super) fn parameters(deployment: &Deployment) -> Json {
    let stated = deployment.parameters.iter().filter_map(|parameter| match parameter.default.as_ref()? {
        Value::Text(text) => Some((parameter.name.to_owned(), json!({"value": text}))),
        Value::Number(number) => Some((parameter.name.to_owned(), json!({"value": number}))),
        _ => None,
    });
    json!({
        "$schema": PARAMETERS,
        "contentVersion": "1.0.0.0",
        "parameters": Map::from_iter(stated),
    })
}

fn write_resource(deployment: &Deployment, resource: &Resource) -> Json {
    let mut of = Map::new();
    of.insert("type".into(), resource.kind.into());
    of.insert("apiVersion".into(), resource.api.into());
    if let Some(scope) = resource.scope.and_then(|symbol| deployment.resource(symbol)) {
        let names = names(deployment, scope);
        of.insert("scope".into(), bracketed(&format_call(&path_of(scope.kind), &names)).into());
    }
    let names = names(deployment, resource);
    let name = match names.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        many => format_call(&vec!["{}"; many.len()].join("/"), many),
    };
    of.insert("name".into(), unless_plain(&name));
    for (field, value) in &resource.fields {
        of.insert((*field).into(), json(deployment, value));
    }
    let needed = depends_on(deployment, &deployment.needs(resource));
    if !needed.is_empty() {
        of.insert("dependsOn".into(), needed.into());
    }
    Json::Object(of)
}

/// A resource's path within its group, with `{}` where its names go: `A.B/c/{}/d/{}` of the type `A.B/c/d`.
fn path_of(kind: &str) -> String {
    let mut parts = kind.split('/');
    let provider = parts.next().unwrap_or_default();
    parts.fold(provider.to_owned(), |path, part| format!("{path}/{part}/{{}}"))
}

/// With the scope `inner` a template's expressions are its own: its parameters are values by then, and may make names.
fn write_module(deployment: &Deployment, module: &Module) -> Json {
    let arguments = module.arguments.iter();
    let arguments: Map<String, Json> = arguments
        .map(|(name, value)| ((*name).to_owned(), json!({"value": json(deployment, value)})))
        .collect();
    json!({
        "type": NESTED.0,
        "apiVersion": NESTED.1,
        "name": json(deployment, &module.name),
        "properties": {
            "expressionEvaluationOptions": {"scope": "inner"},
            "mode": "Incremental",
            "parameters": arguments,
            "template": write(&module.deployment),
        },
        "dependsOn": depends_on(deployment, &module.needs()),
    })
}

/// The ids of what must be made before.
fn depends_on(deployment: &Deployment, symbols: &[&str]) -> Vec<String> {
    let needed = symbols.iter().filter_map(|symbol| deployment.resource(symbol));
    needed.filter(|needed| !needed.existing).map(|needed| bracketed(&id(deployment, needed))).collect()
}

fn json(deployment: &Deployment, value: &Value) -> Json {
    match value {
        // A bracket at the beginning would make an expression of it.
        Value::Text(text) if text.starts_with('[') => format!("[{text}").into(),
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => (*number).into(),
        Value::Bool(yes) => (*yes).into(),
        Value::List(all) => all.iter().map(|value| json(deployment, value)).collect(),
        Value::Object(all) => {
            let pairs = all.iter().map(|(name, value)| ((*name).to_owned(), json(deployment, value)));
            Json::Object(pairs.collect())
        }
        other => bracketed(&expression(deployment, other)).into(),
    }
}

/// Expressions stand in brackets.
fn bracketed(expression: &str) -> String {
    format!("[{expression}]")
}

/// A quoted text alone is no expression but a text.
fn unless_plain(expression: &str) -> Json {
    match expression.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(text) if !text.contains('\'') => text.into(),
        _ => bracketed(expression).into(),
    }
}

fn expression(deployment: &Deployment, value: &Value) -> String {
    let of = |symbol: &str| deployment.resource(symbol);
    match value {
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => format!("{yes}()"),
        Value::Parameter(name) => format!("parameters('{name}')"),
        Value::GroupLocation => "resourceGroup().location".to_owned(),
        Value::Id(symbol) => of(symbol).map_or_else(String::new, |resource| id(deployment, resource)),
        Value::Principal(symbol) => of(symbol).map_or_else(String::new, |resource| {
            format!(
                "reference({}, '{}', 'Full').identity.principalId",
                id(deployment, resource),
                resource.api
            )
        }),
        Value::Role(role) => {
            format!("subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{role}')")
        }
        Value::Guid(all) => {
            let parts: Vec<_> = all.iter().map(|value| expression(deployment, value)).collect();
            format!("guid({})", parts.join(", "))
        }
        Value::IfEmpty(name, both) => {
            let [empty, other] = both.each_ref().map(|value| expression(deployment, value));
            format!("if(empty(parameters('{name}')), {empty}, {other})")
        }
        Value::Joined(all) => joined(deployment, all),
        // Lists and objects are JSON, and no expression of ours holds one.
        Value::List(_) | Value::Object(_) => "null()".to_owned(),
    }
}

fn joined(deployment: &Deployment, all: &[Value]) -> String {
    let mut text = String::new();
    let mut arguments = Vec::new();
    for value in all {
        match value {
            Value::Text(part) => text.push_str(part),
            other => {
                text.push_str("{}");
                arguments.push(expression(deployment, other));
            }
        }
    }
    format_call(&text, &arguments)
}

/// `format('{0}/{1}', a, b)`, of a text with `{}` where the arguments go.
fn format_call(text: &str, arguments: &[String]) -> String {
    let mut numbered = String::new();
    for (at, part) in text.split("{}").enumerate() {
        if at > 0 {
            numbered.push_str(&format!("{{{}}}", at - 1));
        }
        numbered.push_str(&part.replace('\'', "''"));
    }
    format!("format('{numbered}', {})", arguments.join(", "))
}

/// The parts of a resource's name, the outermost first.
fn names(deployment: &Deployment, resource: &Resource) -> Vec<String> {
    deployment.line(resource).iter().map(|resource| expression(deployment, &resource.name)).collect()
}

fn id(deployment: &Deployment, resource: &Resource) -> String {
    format!("resourceId('{}', {})", resource.kind, names(deployment, resource).join(", "))
}

#[cfg(test)]
mod tests {
    use super::{format_call, json, path_of};
    use crate::azure::model::{Deployment, Resource, Value};

    fn deployment() -> Deployment {
        let resource = |symbol, kind, parent| Resource {
            symbol,
            kind,
            api: "2024-01-01",
            name: Value::text(symbol),
            parent,
            scope: None,
            existing: false,
            fields: Vec::new(),
            comment: "",
        };
        Deployment {
            title: "A test.".into(),
            parameters: Vec::new(),
            resources: vec![resource("outer", "A.B/c", None), resource("inner", "A.B/c/d", Some("outer"))],
            modules: Vec::new(),
            outputs: Vec::new(),
        }
    }

    #[test]
    fn values() {
        let deployment = deployment();
        for (value, text) in [
            (Value::text("[x]"), "[[x]"),
            (Value::Id("inner"), "[resourceId('A.B/c/d', 'outer', 'inner')]"),
            (
                Value::Joined(vec![Value::Id("outer"), Value::text("/x's")]),
                "[format('{0}/x''s', resourceId('A.B/c', 'outer'))]",
            ),
            (
                Value::Principal("outer"),
                "[reference(resourceId('A.B/c', 'outer'), '2024-01-01', 'Full').identity.principalId]",
            ),
            (
                Value::IfEmpty("from", Box::new([Value::text("*"), Value::Parameter("from")])),
                "[if(empty(parameters('from')), '*', parameters('from'))]",
            ),
        ] {
            assert_eq!(json(&deployment, &value), text);
        }
        assert_eq!(path_of("A.B/c/d"), "A.B/c/{}/d/{}");
        assert_eq!(format_call("{}/{}", &["a".into(), "b".into()]), "format('{0}/{1}', a, b)");
    }
}
