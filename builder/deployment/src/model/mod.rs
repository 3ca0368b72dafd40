//! The deployment manifest: which modules edgeAgent runs, and what edgeHub does with their messages.
//!
//! ```text
//! { "content": {                              around what a deployment of a fleet has; a single device has it bare
//!     "modulesContent": {
//!       "$edgeAgent": { "properties.desired": { schemaVersion, runtime, systemModules { edgeAgent, edgeHub }, modules } },
//!       "$edgeHub":   { "properties.desired": { schemaVersion, routes, storeAndForwardConfiguration } },
//!       "NAME":       { "properties.desired": { … } }          the twin of a module
//! } } }
//! ```
//! A *layered* manifest lies over others: it has keys such as `properties.desired.modules.NAME`, and need not be complete.

pub(crate) mod container;
pub(crate) mod module;

use std::fmt;

use edgepress_base::finding::{Finding, Severity};
use edgepress_oci::reference::Reference;

pub use container::{Bind, HostPort, Protocol};
pub use module::{Module, ModuleKind, PullPolicy, RestartPolicy, Status};

use crate::cursor::{Cursor, Twin};
use crate::json::{Fault, Node, parse};
use crate::source::SourceText;
use crate::template::{self, Values};

/// The key of edgeAgent's twin.
pub(crate) const AGENT: &str = "$edgeAgent";
/// The key of edgeHub's twin.
pub(crate) const HUB: &str = "$edgeHub";
/// Modules that are read: far more than a deployment may have.
const MOST_MODULES: usize = 1000;
const MODULES_CONTENT: &str = "modulesContent";

/// A deployment manifest. What is wrong with it, [`lint`](crate::lint::lint) tells; the queries here give what can be read.
#[derive(Clone)]
pub struct Manifest {
    pub(crate) source: SourceText,
    pub(crate) root: Node,
    pub(crate) modules: Vec<Module>,
    layered: bool,
    /// What was found while the template was filled in.
    pub(crate) notes: Vec<Finding>,
}

/// The file and the modules' names: values may be secrets.
impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.modules.iter().map(|module| module.name.as_str()).collect();
        f.debug_struct("Manifest")
            .field("file", &self.source.file())
            .field("modules", &names)
            .finish_non_exhaustive()
    }
}

/// The credentials of one registry in a manifest.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryCredentials {
    /// What the manifest calls them.
    pub name: String,
    /// The registry, as images name it.
    pub address: String,
    /// The user.
    pub username: String,
    password: String,
}

impl RegistryCredentials {
    /// The password. It goes to the registry and nowhere else.
    pub fn password(&self) -> &str {
        &self.password
    }
}

/// Without user and password.
impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredentials").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Manifest {
    /// Reads a manifest as the tools take it.
    ///
    /// # Errors
    /// Why it is no JSON at all. Everything else is for [`lint`](crate::lint::lint) to tell.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Finding>> {
        Self::read(SourceText::plain(file, text), Vec::new())
    }

    /// Reads one of iotedgedev's templates, its placeholders filled in from `values` and from nowhere else.
    ///
    /// # Errors
    /// All placeholders without a value; why the result is no JSON.
    pub fn from_template(file: &str, text: &str, values: &Values) -> Result<Self, Vec<Finding>> {
        let (source, notes) = template::fill(file, text, values)?;
        Self::read(source, notes)
    }

    /// Reads a file of either kind: a template if there are values for it, or if it is called `*.template.json`.
    ///
    /// # Errors
    /// As those two.
    pub fn of(file: &str, text: &str, values: Option<&Values>) -> Result<Self, Vec<Finding>> {
        match values {
            Some(values) => Self::from_template(file, text, values),
            None if file.ends_with(template::ENDING) => Self::from_template(file, text, &Values::none()),
            None => Self::parse(file, text),
        }
    }

    fn read(source: SourceText, notes: Vec<Finding>) -> Result<Self, Vec<Finding>> {
        let root = parse(source.text()).map_err(|fault| vec![no_json(&source, &fault)])?;
        let mut manifest = Self { source, root, modules: Vec::new(), layered: false, notes };
        manifest.modules = manifest.read_modules();
        manifest.layered = manifest.twins().iter().any(Twin::is_layered);
        Ok(manifest)
    }

    fn read_modules(&self) -> Vec<Module> {
        let Some(agent) = self.twin(AGENT) else { return Vec::new() };
        let text = self.source.text();
        let system = agent.children(&["systemModules"]);
        let system = system.iter().map(|(name, at)| Module::read(text, name, true, at));
        let custom = agent.children(&["modules"]);
        let custom = custom.iter().map(|(name, at)| Module::read(text, name, false, at));
        system.chain(custom).take(MOST_MODULES).collect()
    }

    /// The file as the user named it.
    pub fn file(&self) -> &str {
        self.source.file()
    }

    /// The manifest as JSON, fit for `az iot edge set-modules`: of a template, with its values and with createOptions as
    /// strings in chunks. May hold secrets.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.root.to_json();
        if self.source.is_rendered() {
            template::finish(&mut json, &self.module_pointers());
        }
        json
    }

    fn module_pointers(&self) -> Vec<&str> {
        self.modules.iter().map(|module| module.pointer.as_str()).collect()
    }

    /// Does it lie over other deployments?
    pub fn is_layered(&self) -> bool {
        self.layered
    }

    /// All modules, those of the system first.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// A module by its name.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }

    /// The images of all modules, each once, in the order in which they first occur.
    pub fn images(&self) -> Vec<&Reference> {
        let mut images: Vec<&Reference> = Vec::new();
        for image in self.modules.iter().filter_map(|module| module.image.as_ref()) {
            if !images.contains(&image) {
                images.push(image);
            }
        }
        images
    }

    /// The credentials of registries, those that are complete.
    pub fn registry_credentials(&self) -> Vec<RegistryCredentials> {
        let read = |(name, at): (&str, Cursor<'_>)| {
            let text = |key| at.get(key).and_then(|at| at.node.as_str().map(str::to_owned));
            let (address, username, password) = (text("address")?, text("username")?, text("password")?);
            Some(RegistryCredentials { name: name.to_owned(), address, username, password })
        };
        self.credentials().into_iter().filter_map(read).collect()
    }

    pub(crate) fn credentials(&self) -> Vec<(&str, Cursor<'_>)> {
        let path = ["runtime", "settings", "registryCredentials"];
        self.twin(AGENT).map(|agent| agent.children(&path)).unwrap_or_default()
    }

    /// The object with the twins.
    pub(crate) fn content(&self) -> Option<Cursor<'_>> {
        let root = Cursor::root(&self.root);
        root.get(MODULES_CONTENT).or_else(|| root.find(&["content", MODULES_CONTENT]))
    }

    pub(crate) fn twins(&self) -> Vec<Twin<'_>> {
        self.content()
            .map(|at| at.entries().map(|(name, at)| Twin::new(name, at)).collect())
            .unwrap_or_default()
    }

    pub(crate) fn twin(&self, name: &str) -> Option<Twin<'_>> {
        let content = self.content()?;
        let entry = content.node.entry(name)?;
        Some(Twin::new(&entry.key, content.get(name)?))
    }

    /// What a module is in the manifest.
    pub(crate) fn at<'a>(&'a self, module: &Module) -> Option<Cursor<'a>> {
        let section = if module.is_system { "systemModules" } else { "modules" };
        self.twin(AGENT)?.find(&[section, &module.name])
    }
}

/// Without the line, unless it is a template's: nobody knows what stands in a text that is no JSON, and it may be a secret.
fn no_json(source: &SourceText, fault: &Fault) -> Finding {
    let place = source.place(&fault.span);
    let place = if source.is_rendered() { place } else { place.hidden() };
    let finding = Finding::error(format!("the manifest is no JSON: {}", fault.message)).at(place);
    finding.hint(
        "comments, trailing commas and single quotes are not allowed; `jq . FILE` shows what it makes of it",
    )
}

/// Is any of them an error?
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

#[cfg(test)]
mod tests;
