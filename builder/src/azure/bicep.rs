//! A deployment as Bicep. <https://learn.microsoft.com/azure/azure-resource-manager/bicep/file>

use std::fmt::Write as _;

use super::model::{Deployment, Module, Resource, Value};

/// The text of `main.bicep`, or of a module's file.
pub(super) fn write(deployment: &Deployment) -> String {
    let mut text =
        format!("// {}\n// Written by edgepress azure; azuredeploy.json says the same.\n", deployment.title);
    text.push_str("targetScope = 'resourceGroup'\n");
    for parameter in &deployment.parameters {
        let default = match &parameter.default {
            None => String::new(),
            Some(value) => format!(" = {}", value_text(value, 0)),
        };
        let _ = write!(
            text,
            "\n@description({})\nparam {} {}{default}\n",
            quoted(parameter.description),
            parameter.name,
            parameter.kind
        );
    }
    for resource in &deployment.resources {
        text.push_str(&resource_text(resource));
    }
    for module in &deployment.modules {
        text.push_str(&module_text(module));
    }
    if !deployment.outputs.is_empty() {
        text.push('\n');
    }
    for (name, value) in &deployment.outputs {
        let _ = writeln!(text, "output {name} string = {}", value_text(value, 0));
    }
    text
}

fn resource_text(resource: &Resource) -> String {
    let mut fields = Vec::new();
    fields.extend(resource.parent.map(|parent| ("parent", Raw::Symbol(parent))));
    fields.extend(resource.scope.map(|scope| ("scope", Raw::Symbol(scope))));
    fields.push(("name", Raw::Value(&resource.name)));
    fields.extend(resource.fields.iter().map(|(name, value)| (*name, Raw::Value(value))));
    let mut text = format!(
        "\n// {}\nresource {} '{}@{}' {}= {{\n",
        resource.comment,
        resource.symbol,
        resource.kind,
        resource.api,
        if resource.existing { "existing " } else { "" }
    );
    for (name, value) in fields {
        let value = match value {
            Raw::Symbol(symbol) => symbol.to_owned(),
            Raw::Value(value) => value_text(value, 1),
        };
        let _ = writeln!(text, "  {name}: {value}");
    }
    text.push_str("}\n");
    text
}

fn module_text(module: &Module) -> String {
    let params = Value::Object(module.arguments.clone());
    format!(
        "\n// {}\nmodule {} {} = {{\n  name: {}\n  params: {}\n}}\n",
        module.comment,
        module.symbol,
        quoted(module.file),
        value_text(&module.name, 1),
        value_text(&params, 1)
    )
}

enum Raw<'a> {
    Symbol(&'static str),
    Value(&'a Value),
}

fn value_text(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth + 1);
    let end = "  ".repeat(depth);
    match value {
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::List(all) if all.is_empty() => "[]".to_owned(),
        Value::List(all) => {
            let lines: String =
                all.iter().map(|value| format!("{pad}{}\n", value_text(value, depth + 1))).collect();
            format!("[\n{lines}{end}]")
        }
        Value::Object(all) if all.is_empty() => "{}".to_owned(),
        Value::Object(all) => {
            let line =
                |(name, value): &(&str, Value)| format!("{pad}{name}: {}\n", value_text(value, depth + 1));
            format!("{{\n{}{end}}}", all.iter().map(line).collect::<String>())
        }
        Value::Joined(all) => {
            let part = |value: &Value| match value {
                Value::Text(text) => escaped(text),
                other => format!("${{{}}}", value_text(other, depth)),
            };
            format!("'{}'", all.iter().map(part).collect::<String>())
        }
        other => expression(other),
    }
}

fn expression(value: &Value) -> String {
    match value {
        Value::Parameter(name) => (*name).to_owned(),
        Value::GroupLocation => "resourceGroup().location".to_owned(),
        Value::Id(symbol) => format!("{symbol}.id"),
        Value::Principal(symbol) => format!("{symbol}.identity.principalId"),
        Value::Role(id) => {
            format!("subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{id}')")
        }
        Value::Guid(all) => {
            let parts: Vec<_> = all.iter().map(|value| value_text(value, 0)).collect();
            format!("guid({})", parts.join(", "))
        }
        Value::IfEmpty(name, both) => {
            let [empty, other] = both.each_ref().map(|value| value_text(value, 0));
            format!("empty({name}) ? {empty} : {other}")
        }
        other => value_text(other, 0),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", escaped(text))
}

/// The characters that mean something within quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'").replace("${", "\\${")
}

#[cfg(test)]
mod tests {
    use super::value_text;
    use crate::azure::model::Value;

    #[test]
    fn values() {
        let joined = |all| Value::Joined(all);
        for (value, text) in [
            (Value::text("it's ${x} \\"), "'it\\'s \\${x} \\\\'"),
            (Value::Number(30), "30"),
            (Value::List(vec![]), "[]"),
            (joined(vec![Value::Id("network"), Value::text("/subnets/a")]), "'${network.id}/subnets/a'"),
            (joined(vec![Value::Parameter("vmName"), Value::text("-nic")]), "'${vmName}-nic'"),
            (Value::Object(vec![("a", Value::Bool(true))]), "{\n  a: true\n}"),
            (Value::Guid(vec![Value::Id("vault"), Value::text("x")]), "guid(vault.id, 'x')"),
            (
                Value::IfEmpty("from", Box::new([Value::text("*"), Value::Parameter("from")])),
                "empty(from) ? '*' : from",
            ),
        ] {
            assert_eq!(value_text(&value, 0), text);
        }
    }
}
