//! Templates: tera without anything that differs between two runs, and errors that name file and line.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};
use tera::Tera;

use super::tags;
use crate::board;
use crate::error::Problem;
use crate::finding::nearest;
use crate::provisioning::config::ConfigToml;
use crate::provisioning::source::{self, DeviceSource};
use crate::recipe::types::Recipe;

/// What templates can name: `recipe`, `arch`, `debian_arch`, `vars`, `config_toml`, `source_toml`, `source_ca`, `epoch`
/// and `board`.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    values: tera::Context,
    names: Value,
}

/// Facts on the board that the recipe does not state.
#[derive(Debug, Serialize)]
struct BoardFacts {
    fat_mount: &'static str,
}

impl Context {
    /// The context that a recipe makes; `epoch` is the image's time stamp in seconds since 1970.
    ///
    /// # Errors
    /// When the recipe cannot be written as JSON or TOML, or the source's authorities cannot be read.
    pub(crate) fn new(recipe: &Recipe, epoch: u64) -> Result<Self> {
        let names = json!({
            "recipe": serde_json::to_value(recipe).context("writing the recipe for templates")?,
            "arch": recipe.target.arch.to_string(),
            "debian_arch": recipe.target.arch.debian(),
            "vars": recipe.vars,
            "config_toml": ConfigToml::from_recipe(recipe).render(&recipe.name)?,
            "source_toml": DeviceSource::of(&recipe.provisioning).render(),
            "source_ca": source_ca(recipe)?,
            "epoch": epoch,
            "board": BoardFacts { fat_mount: board::of(recipe.target.board).fat_mount() },
        });
        let values = tera::Context::from_value(names.clone()).context("preparing the values of templates")?;
        Ok(Self { values, names })
    }

    /// Renders one template, or nothing where only blanks remain. `file` names it in errors.
    ///
    /// # Errors
    /// What is wrong with the template, with its line.
    pub(crate) fn render(&self, file: &Path, template: &[u8]) -> Result<Option<Vec<u8>>> {
        let name = file.display().to_string();
        let text = std::str::from_utf8(template)
            .map_err(|_| Problem::input(format!("the template {name} is not UTF-8")))?;
        if let Some(problem) = tags::unknown_key(&name, text) {
            return Err(problem.into());
        }
        let mut tera = Tera::default();
        tera.autoescape_on(Vec::new());
        // The environment differs from machine to machine, and an image must not.
        tera.register_function(
            "get_env",
            |_: &std::collections::HashMap<String, Value>| -> tera::Result<Value> {
                Err(tera::Error::msg(
                    "get_env does not exist here: state the value in the recipe, under [vars]",
                ))
            },
        );
        tera.add_raw_template(&name, text).map_err(|error| syntax(&name, &error))?;
        let rendered = tera.render(&name, &self.values).map_err(|error| self.failed(&name, text, &error))?;
        Ok((!rendered.trim().is_empty()).then(|| rendered.into_bytes()))
    }

    /// A template that was understood, and could not be rendered.
    fn failed(&self, name: &str, text: &str, error: &tera::Error) -> Problem {
        let causes = causes(error);
        let unknown = causes.iter().find_map(|cause| between(cause, "Variable `", "` not found"));
        let Some(variable) = unknown else {
            let last = causes.iter().rev().find(|cause| !cause.starts_with("Failed to render"));
            let reason = last
                .map_or("it cannot be rendered", String::as_str)
                .replace(&format!(" while rendering '{name}'"), "");
            let line = mentioned(&causes)
                .and_then(|word| tags::line_of(text, word))
                .map_or(String::new(), |line| format!(":{line}"));
            return Problem::input(format!("{name}{line}: {reason}"));
        };
        let line = tags::line_of(text, variable).map_or(String::new(), |line| format!(":{line}"));
        let problem = Problem::input(format!("{name}{line}: unknown variable `{variable}`"));
        match self.similar(variable) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint("known are recipe, arch, debian_arch, vars, config_toml, source_toml, source_ca, epoch and board",
            ),
        }
    }

    /// The known variable that is nearest to an unknown one: the first wrong step is replaced.
    fn similar(&self, variable: &str) -> Option<String> {
        let mut good: Vec<&str> = Vec::new();
        let mut value = &self.names;
        for step in variable.split('.') {
            match value.get(step) {
                Some(next) => {
                    good.push(step);
                    value = next;
                }
                None => {
                    good.push(nearest(step, value.as_object()?.keys().map(String::as_str))?);
                    return Some(good.join("."));
                }
            }
        }
        None
    }
}

/// The authorities that may vouch for the certificate source's server; empty where the recipe names none.
fn source_ca(recipe: &Recipe) -> Result<String> {
    let Some(file) = recipe.provisioning.certificate.ca() else { return Ok(String::new()) };
    source::read_authorities(file)
}

fn causes(error: &tera::Error) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
}

/// The parser's own message has the line in it: ` --> 3:5`.
fn syntax(name: &str, error: &tera::Error) -> Problem {
    let text = causes(error).pop().unwrap_or_default();
    let line = between(&text, "--> ", "\n").unwrap_or("1:1");
    let reason = text.lines().rev().find_map(|line| line.trim().strip_prefix("= ")).unwrap_or(&text);
    Problem::input(format!("{name}:{line}: the template is not understood: {reason}"))
}

/// What a failed filter, function or test is called.
fn mentioned(causes: &[String]) -> Option<&str> {
    causes.iter().find_map(|cause| cause.split('\'').nth(1).filter(|word| !word.contains('/')))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let from = text.find(start)? + start.len();
    let to = text[from..].find(end)? + from;
    Some(&text[from..to])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Context;
    use crate::error::problem;

    fn render(template: &str) -> Result<String, String> {
        let mut recipe = crate::recipe::test_recipe();
        recipe.vars.insert("site".into(), "Ulm & <Neu-Ulm>".into());
        let context = Context::new(&recipe, 1_700_000_000).expect("a context");
        match context.render(Path::new("a/b.tera"), template.as_bytes()) {
            Ok(text) => Ok(text.map(|text| String::from_utf8(text).expect("UTF-8")).unwrap_or_default()),
            Err(error) => {
                let hint = problem(&error).and_then(|problem| problem.hint.clone()).unwrap_or_default();
                Err(format!("{error} | {hint}"))
            }
        }
    }

    #[test]
    fn the_context() {
        for (template, rendered) in [
            ("{{ recipe.name }} {{ arch }} {{ debian_arch }} {{ epoch }}", "test x86_64 amd64 1700000000"),
            ("{{ vars.site }}", "Ulm & <Neu-Ulm>"),
            ("{{ board.fat_mount }} {{ recipe.system.journal_max }}", "/boot/efi 64M"),
            (
                "{{ recipe.engine.log | json_encode }}",
                r#"{"driver":"json-file","max_size":"10m","max_files":3}"#,
            ),
            ("{% if recipe.network.proxy %}p{% endif %}\n \t\n", ""),
        ] {
            assert_eq!(render(template).as_deref(), Ok(rendered), "{template}");
        }
        assert!(render("{{ config_toml }}").expect("rendered").contains("[provisioning.attestation]"));
    }

    #[test]
    fn errors_name_file_and_line() {
        for (template, message) in [
            (
                "a\n\n{{ recipe.nmae }}\n",
                "a/b.tera:3: unknown variable `recipe.nmae` | did you mean `recipe.name`?",
            ),
            (
                "{# nothing #}\n{{ nothing }}",
                "a/b.tera:2: unknown variable `nothing` | known are recipe, arch, debian_arch, vars, config_toml, source_toml, source_ca, epoch and board",
            ),
            (
                "nothing {{ recipe.name }}\n{%- if true -%}\n{{ nothing }}{% endif %}",
                "a/b.tera:3: unknown variable `nothing` | known are recipe, arch, debian_arch, vars, config_toml, source_toml, source_ca, epoch and board",
            ),
            (
                "\n{% if recipe.netwrok.proxy %}x{% endif %}",
                "a/b.tera:2: unknown variable `recipe.netwrok.proxy` | did you mean `recipe.network.proxy`?",
            ),
            ("{{ vars.sitte }}", "a/b.tera:1: unknown variable `vars.sitte` | did you mean `vars.site`?"),
        ] {
            assert_eq!(render(template).as_ref().map_err(String::as_str), Err(message));
        }
        for (template, start, part) in [
            ("\n{{ recipe.name", "a/b.tera:2:", "not understood"),
            ("\n{% if %}", "a/b.tera:2:", "not understood"),
            ("\n{{ get_env(name='HOME') }}", "a/b.tera:2:", "state the value in the recipe"),
            ("\n{{ recipe.name | shout }}", "a/b.tera:2:", "shout"),
            ("{% include 'x' %}", "a/b.tera", "x"),
        ] {
            let error = render(template).expect_err(template);
            assert!(error.starts_with(start) && error.contains(part), "{error}");
        }
    }
}
