//! Checking a recipe without a network: does it describe an image that can exist, and that will come up?

mod accounts;
mod board;
mod boot_chain;
mod combination;
mod files;
mod modules;
mod overlay;
mod packages;
mod scripts;

use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::board::raspberry_pi::chain::Chain;
use crate::finding::{Finding, Place, Severity};
use crate::overlay::{Laid, render_all};
use crate::provisioning::{config::ConfigToml, lint};
use crate::recipe::{Loaded, load_or_list, zones};
use crate::units::Arch;

/// The time stamp that templates are rendered with for a check: what they make of it is not looked at.
const ANY_EPOCH: u64 = 1_700_000_000;

/// What a check found: everything at once, errors first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The recipe's file as the user named it.
    pub recipe: String,
    /// The recipe's name, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The architecture, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// Number of errors.
    pub errors: usize,
    /// Number of warnings.
    pub warnings: usize,
    /// Every finding.
    pub findings: Vec<Finding>,
    /// The boot chain of each model of a Raspberry Pi, made from the locked packages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<Chain>,
    /// What could not be checked, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    fn new(recipe: &Path, loaded: Option<&Loaded>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.severity);
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            recipe: recipe.display().to_string(),
            name: loaded.map(|loaded| loaded.recipe.name.clone()),
            arch: loaded.map(|loaded| loaded.recipe.target.arch),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            findings,
            chains: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{}: {finding}\n", finding.severity)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}\n")?;
        }
        let sound: Vec<String> =
            self.chains.iter().filter(|chain| chain.sound()).map(|chain| chain.model.to_string()).collect();
        if !sound.is_empty() {
            writeln!(f, "boot chain: sound for model {}\n", sound.join(", "))?;
        }
        let plural =
            |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let verdict = match (self.errors, self.warnings) {
            (0, 0) => "good".to_owned(),
            (0, warnings) => format!("good, with {}", plural(warnings, "warning")),
            (errors, 0) => plural(errors, "error"),
            (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        };
        match (&self.name, self.arch) {
            (Some(name), Some(arch)) => write!(f, "{}: {name} for {arch}: {verdict}", self.recipe),
            _ => write!(f, "{}: {verdict}", self.recipe),
        }
    }
}

/// Loads and checks the recipe at `path`; what is wrong with loading it is in the report too.
///
/// # Errors
/// When the check itself cannot be made.
pub(crate) fn check_path(path: &Path, sets: &[String], arch: Option<Arch>) -> Result<Report> {
    match load_or_list(path, sets, arch) {
        Ok(loaded) => {
            let mut findings = findings(&loaded)?;
            let followed = boot_chain::follow(&loaded, &mut findings)?;
            let report = Report::new(&loaded.path, Some(&loaded), findings);
            Ok(Report { chains: followed.chains, notes: followed.note.into_iter().collect(), ..report })
        }
        Err(findings) => Ok(Report::new(path, None, findings)),
    }
}

/// Checks a recipe that could be loaded.
///
/// # Errors
/// When the check itself cannot be made.
pub(crate) fn check(loaded: &Loaded) -> Result<Report> {
    Ok(Report::new(&loaded.path, Some(loaded), findings(loaded)?))
}

fn findings(loaded: &Loaded) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    combination::check(loaded, &mut findings);
    board::check(loaded, &mut findings);
    files::check(loaded, &mut findings);
    packages::check(loaded, &mut findings);
    accounts::check(loaded, &mut findings);
    modules::check(loaded, &mut findings);
    zones::check(loaded, &mut findings);
    scripts::sources(loaded, &mut findings);
    let (laid, problems) = render_all(&loaded.recipe, ANY_EPOCH)?;
    findings.extend(
        problems.into_iter().map(|problem| Finding { hint: problem.hint, ..Finding::error(problem.message) }),
    );
    overlay::check(loaded, &laid, &mut findings)?;
    config_toml(loaded, &laid, &mut findings)?;
    Ok(findings)
}

/// Lints the generated config.toml, and every one that an overlay installs in other words.
fn config_toml(loaded: &Loaded, laid: &[Laid], findings: &mut Vec<Finding>) -> Result<()> {
    let recipe = &loaded.recipe;
    let generated = ConfigToml::from_recipe(recipe).render(&recipe.name)?;
    let installed: Vec<(&Path, String)> =
        laid.iter().filter_map(|one| installed_config(one).transpose()).collect::<Result<_>>()?;
    for (path, text) in installed.iter().filter(|(_, text)| text.trim() != generated.trim()) {
        findings.extend(lint::lint(text, Some(recipe)).into_iter().map(|finding| {
            let place = Place::line(path.display().to_string(), finding.file_and_line().1);
            of_config(finding).at(place)
        }));
    }
    if installed.is_empty() || installed.iter().any(|(_, text)| text.trim() == generated.trim()) {
        findings.extend(lint::lint(&generated, Some(recipe)).into_iter().map(|finding| {
            let stated = finding.key.as_deref().and_then(stated_at).unwrap_or("provisioning");
            of_config(finding).at(loaded.place(stated))
        }));
    }
    Ok(())
}

/// Most bytes of a config.toml.
const LARGEST_CONFIG: u64 = 1 << 20;

fn installed_config(laid: &Laid) -> Result<Option<(&Path, String)>> {
    let named = laid.path.file_name().is_some_and(|name| name == "config.toml");
    let ours = laid
        .path
        .components()
        .any(|part| ["aziot", "edgepress"].iter().any(|name| part.as_os_str() == *name));
    if !(named && ours && laid.is_file()) {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&laid.beginning(LARGEST_CONFIG)?).into_owned();
    Ok(Some((&laid.path, text)))
}

/// The place is the recipe's or the overlay's: the message says that the key is config.toml's.
fn of_config(finding: Finding) -> Finding {
    let key = finding.key.map(|key| format!("`{key}`: ")).unwrap_or_default();
    Finding { key: None, message: format!("config.toml: {key}{}", finding.message), ..finding }
}

/// The recipe's key that a key of the generated config.toml is made from.
fn stated_at(key: &str) -> Option<&'static str> {
    Some(match key {
        "auto_reprovisioning_mode" => "provisioning/auto_reprovisioning",
        "cloud_timeout_sec" => "provisioning/cloud_timeout_sec",
        "cloud_retries" => "provisioning/cloud_retries",
        "provisioning.global_endpoint" => "provisioning/global_endpoint",
        "provisioning.id_scope" => "provisioning/id_scope",
        "agent.imagePullPolicy" => "edge/agent_pull_policy",
        "agent.config.image" => "edge/agent_image",
        "agent.config.createOptions" => "edge/agent_storage",
        key if key.starts_with("agent.env") => "edge/agent_env",
        _ => return None,
    })
}
