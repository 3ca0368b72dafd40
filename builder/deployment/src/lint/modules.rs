//! A module's own properties: its name, when it runs, its environment.

use edgepress_base::finding::{clean, nearest};

use super::rules::{
    AGENT_KEY, ENV_NAME, ENV_PLACE, ENV_VALUE, MODULE_NAME, MODULE_PART, MODULE_RESERVED, MODULE_TYPE,
    PULL_POLICY, RESTART_POLICY, RESTART_POLICY_MISSING, Rule, STARTUP_ORDER, STARTUP_SCHEMA, STATUS,
    UNKNOWN_KEY, WORD_CASE,
};
use super::{Linter, Want};
use crate::cursor::Cursor;
use crate::model::module::Words;
use crate::model::{AGENT, Module, ModuleKind, PullPolicy, RestartPolicy, Status};
use crate::options::chunk_number;

const KNOWN: [&str; 8] =
    ["version", "type", "status", "restartPolicy", "imagePullPolicy", "startupOrder", "env", "settings"];
/// What edgeAgent itself does not have.
const NOT_OF_AGENT: [&str; 4] = ["status", "restartPolicy", "startupOrder", "version"];
/// Longest name of a module (IoT Hub, identity registry).
const LONGEST_NAME: usize = 128;

pub(super) fn rules(lint: &mut Linter<'_>, module: &Module) {
    let Some(at) = lint.manifest.at(module) else { return };
    name(lint, module, &at);
    if !lint.has_type(&at, Want::Object) {
        return;
    }
    lint.unknown(&at, &KNOWN);
    lint.typed(&at, "version", Want::Text);
    parts(lint, module, &at);
    word::<RestartPolicy>(lint, &at, "restartPolicy", &RESTART_POLICY);
    word::<Status>(lint, &at, "status", &STATUS);
    word::<PullPolicy>(lint, &at, "imagePullPolicy", &PULL_POLICY);
    startup(lint, module, &at);
    env(lint, &at);
    settings(lint, &at);
}

fn name(lint: &mut Linter<'_>, module: &Module, at: &Cursor<'_>) {
    if module.is_system {
        return;
    }
    let name = module.name.as_str();
    if ["edgeagent", "edgehub", "$edgeagent", "$edgehub"].contains(&name.to_ascii_lowercase().as_str()) {
        let message =
            "edgeAgent and edgeHub stand under `systemModules`, and nothing else may have their names";
        return lint.hit_key(&MODULE_RESERVED, at, message, "move it there, or give it another name");
    }
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && (2..=LONGEST_NAME).contains(&name.len());
    if !good {
        let message = format!("`{}` is no name for a module", clean(name));
        lint.hit_key(
            &MODULE_NAME,
            at,
            message,
            "2 to 128 letters, digits, `_` and `-`; a letter or digit first",
        );
    }
}

fn parts(lint: &mut Linter<'_>, module: &Module, at: &Cursor<'_>) {
    let needed: &[&str] = if module.kind == ModuleKind::Agent {
        &["type", "settings"]
    } else {
        &["type", "status", "settings"]
    };
    for key in needed.iter().filter(|key| at.get(key).is_none()) {
        lint.hit_key(&MODULE_PART, at, format!("`{key}` is missing"), "");
    }
    if let Some(kind) = at.get("type")
        && lint.has_type(&kind, Want::Text)
        && kind.node.as_str() != Some("docker")
    {
        lint.hit(&MODULE_TYPE, &kind, "edgeAgent knows the type `docker` alone", "write \"docker\"");
    }
    if module.kind == ModuleKind::Agent {
        for key in NOT_OF_AGENT {
            if let Some(value) = at.get(key) {
                let message = format!("edgeAgent has no `{key}`: it always runs, and starts first");
                lint.hit_key(&AGENT_KEY, &value, message, "remove it");
            }
        }
    } else if at.get("restartPolicy").is_none() {
        let hint = "write \"restartPolicy\": \"always\"";
        lint.hit_key(&RESTART_POLICY_MISSING, at, "`restartPolicy` is missing", hint);
    }
}

fn word<T: Words>(lint: &mut Linter<'_>, at: &Cursor<'_>, key: &str, rule: &'static Rule) {
    let Some(value) = at.get(key) else { return };
    if !lint.has_type(&value, Want::Text) {
        return;
    }
    let stated = value.node.as_str().unwrap_or_default();
    let known: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
    if known.contains(&stated) {
        return;
    }
    let all = format!("one of \"{}\"", known.join("\", \""));
    if let Some(right) = known.iter().find(|word| word.eq_ignore_ascii_case(stated)) {
        let message = format!("the Azure CLI refuses `{}`", clean(stated));
        lint.hit(&WORD_CASE, &value, message, format!("write \"{right}\""));
    } else {
        let hint =
            nearest(stated, known.iter().copied()).map_or(all, |near| format!("did you mean \"{near}\"?"));
        lint.hit(rule, &value, format!("`{}` is unknown", clean(stated)), hint);
    }
}

fn startup(lint: &mut Linter<'_>, module: &Module, at: &Cursor<'_>) {
    let Some(value) = at.get("startupOrder") else { return };
    if module.kind == ModuleKind::Agent {
        return;
    }
    if module.startup_order.is_none() {
        let message = format!("this is {}", value.node.kind());
        return lint.hit(
            &STARTUP_ORDER,
            &value,
            message,
            "write a whole number from 0 to 4294967295; lower ones start first",
        );
    }
    let schema = lint.manifest.twin(AGENT).and_then(|agent| agent.find(&["schemaVersion"]));
    if schema.is_some_and(|at| at.node.as_str() == Some("1.0")) {
        let message = "schema version 1.0 has no startupOrder";
        lint.hit_key(&STARTUP_SCHEMA, &value, message, "write \"schemaVersion\": \"1.1\" for $edgeAgent");
    }
}

fn typed<'c>(lint: &mut Linter<'_>, at: &Cursor<'c>, key: &str) -> Option<Cursor<'c>> {
    let value = at.get(key)?;
    lint.has_type(&value, Want::Object).then_some(value)
}

fn env(lint: &mut Linter<'_>, at: &Cursor<'_>) {
    let Some(env) = typed(lint, at, "env") else { return };
    for (name, variable) in env.entries() {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = "a variable cannot have this name";
            lint.hit_key(
                &ENV_NAME,
                &variable,
                message,
                "letters, digits and `_`; the value stands in \"value\"",
            );
        }
        let value = variable.get("value");
        let scalar = |at: &Cursor<'_>| {
            at.node.as_str().is_some() || at.node.as_number().is_some() || at.node.as_bool().is_some()
        };
        if !value.as_ref().is_some_and(scalar) {
            let message = match value {
                Some(value) => format!("its value is {}", value.node.kind()),
                None if variable.node.is_object() => "it has no `value`".to_owned(),
                None => format!("this is {}", variable.node.kind()),
            };
            lint.hit_key(&ENV_VALUE, &variable, message, "write { \"value\": \"…\" }");
        } else if variable.node.entries().len() > 1 {
            lint.unknown(&variable, &["value"]);
        }
    }
}

fn settings(lint: &mut Linter<'_>, at: &Cursor<'_>) {
    let Some(settings) = typed(lint, at, "settings") else { return };
    let known = ["image", "createOptions", "digest"];
    for (key, value) in settings.entries() {
        if key.eq_ignore_ascii_case("env") {
            let message = "edgeAgent reads variables beside `settings`, not in it";
            lint.hit_key(&ENV_PLACE, &value, message, "move it one level up");
        } else if !known.contains(&key) && chunk_number(key).is_none() {
            let hint = match nearest(key, known.into_iter().chain(KNOWN)) {
                Some(near) if KNOWN.contains(&near) => format!("`{near}` belongs one level up"),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here are `{}`", known.join("`, `")),
            };
            lint.hit_key(&UNKNOWN_KEY, &value, "nobody reads this key", hint);
        }
    }
}
