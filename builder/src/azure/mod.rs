//! `edgepress azure`: everything that puts an image into a subscription, as files for people to read and run.
//!
//! ```text
//! recipe or built folder ─► facts ─► templates/ ─┬► main.bicep, vault-access.bicep
//!                                                ├► azuredeploy.json, azuredeploy.parameters.json: the same
//!                                                └► upload.sh, dps.sh, modules.sh, README.md
//! ```
//! Nothing here speaks to Azure.

mod facts;
mod modules;
mod names;
mod vault;
mod version;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;
use tera::Tera;

use self::facts::Facts;
pub(crate) use self::version::Version;
use crate::error::Problem;
use crate::files;
use crate::units::Arch;

/// What to write, and where.
#[derive(Debug, Clone)]
pub(crate) struct AzureOptions {
    /// A recipe, or what `edgepress build` made of one.
    pub input: PathBuf,
    /// The folder to write to; made where it is not there.
    pub out: PathBuf,
    /// The image's version; none: the image's own time.
    pub version: Option<Version>,
    /// Replace files that are there.
    pub force: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AzureOutcome {
    /// The folder.
    pub folder: PathBuf,
    /// The files in it, in the order in which they are needed.
    pub files: Vec<String>,
    /// The image's name in the gallery.
    pub image: String,
    /// Its version.
    pub version: Version,
    /// Bytes to upload, footer included; none where only the recipe is known.
    pub upload_size: Option<u64>,
    /// The vault that VMs read, if any.
    pub vault: Option<String>,
}

impl fmt::Display for AzureOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{}", self.folder.join(file).display())?;
        }
        match self.upload_size {
            Some(size) => write!(f, "{} {}: {size} bytes to upload; ", self.image, self.version)?,
            None => write!(f, "{}: not built yet; ", self.image)?,
        }
        write!(f, "nothing was done in Azure: README.md tells the order")
    }
}

/// Files that not every image has: of one that reads a vault, and of one whose recipe names a manifest.
const VAULT_ACCESS: &str = "vault-access.bicep";
const MODULES: &str = "modules.sh";

/// What is written, in the order in which it is needed.
const TEMPLATES: [(&str, &str); 8] = [
    ("upload.sh", include_str!("templates/upload.sh.tera")),
    ("main.bicep", include_str!("templates/main.bicep.tera")),
    (VAULT_ACCESS, include_str!("templates/vault-access.bicep.tera")),
    ("azuredeploy.json", include_str!("templates/azuredeploy.json.tera")),
    ("azuredeploy.parameters.json", include_str!("templates/azuredeploy.parameters.json.tera")),
    ("dps.sh", include_str!("templates/dps.sh.tera")),
    (MODULES, include_str!("templates/modules.sh.tera")),
    ("README.md", include_str!("templates/README.md.tera")),
];

/// A file to be written.
struct File {
    name: &'static str,
    text: String,
    mode: u32,
}

/// Writes the files; all or, when one is there already, none.
///
/// # Errors
/// A [`Problem`] when there is nothing that Azure takes, or something is in the way.
pub(crate) fn azure(options: &AzureOptions) -> Result<AzureOutcome> {
    let facts = Facts::of(&options.input, options.version)?;
    let files = files(&facts)?;
    refuse_existing(options, &files)?;
    fs::create_dir_all(&options.out).with_context(|| format!("creating {}", options.out.display()))?;
    for file in &files {
        publish(&options.out, file)?;
    }
    Ok(AzureOutcome {
        folder: options.out.clone(),
        files: files.iter().map(|file| file.name.to_owned()).collect(),
        image: facts.names.image,
        version: facts.version,
        upload_size: facts.vhd.map(|vhd| vhd.upload_size),
        vault: facts.vault,
    })
}

fn refuse_existing(options: &AzureOptions, files: &[File]) -> Result<()> {
    let there = files.iter().map(|file| options.out.join(file.name)).find(|path| path.exists());
    match there {
        Some(path) if !options.force => Err(Problem::input(format!("{} is there already", path.display()))
            .hint("name another folder with --out, or replace the files with --force")
            .into()),
        _ => Ok(()),
    }
}

fn files(facts: &Facts) -> Result<Vec<File>> {
    let mut files = render(facts)?;
    if let Some(fleet) = &facts.modules {
        let text = serde_json::to_string_pretty(&fleet.manifest)?;
        // Variables of modules may be secrets.
        files.push(File { name: "deployment.json", text: format!("{text}\n"), mode: 0o600 });
    }
    Ok(files)
}

fn render(facts: &Facts) -> Result<Vec<File>> {
    let mut tera = Tera::default();
    tera.autoescape_on(Vec::new());
    tera.register_filter("bicep", |value: &Value, _: &HashMap<String, Value>| on_text(value, bicep));
    tera.register_filter("arm", |value: &Value, _: &HashMap<String, Value>| on_text(value, arm));
    tera.register_filter("json", |value: &Value, _: &HashMap<String, Value>| on_text(value, json));
    tera.add_raw_templates(TEMPLATES).context("reading a template")?;
    let context = context(facts);
    let wanted = |name: &str| match name {
        MODULES => facts.modules.is_some(),
        VAULT_ACCESS => facts.vault.is_some(),
        _ => true,
    };
    let names = TEMPLATES.iter().map(|(name, _)| *name).filter(|name| wanted(name));
    names
        .map(|name| {
            let text = tera.render(name, &context).with_context(|| format!("rendering {name}"))?;
            Ok(File { name, text, mode: if name.ends_with(".sh") { 0o755 } else { 0o644 } })
        })
        .collect()
}

fn on_text(value: &Value, write: fn(&str) -> String) -> tera::Result<Value> {
    value.as_str().map(|text| write(text).into()).ok_or_else(|| tera::Error::msg("this is no text"))
}

/// A string of Bicep, with the characters that mean something within quotes.
/// <https://learn.microsoft.com/azure/azure-resource-manager/bicep/data-types#strings>
fn bicep(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace("${", "\\${"))
}

/// A string of an ARM template: a bracket at the beginning would make an expression of it.
fn arm(text: &str) -> String {
    json(&format!("{}{text}", if text.starts_with('[') { "[" } else { "" }))
}

fn json(text: &str) -> String {
    Value::from(text).to_string()
}

fn context(facts: &Facts) -> tera::Context {
    let mut context = tera::Context::new();
    let names = &facts.names;
    for (name, value) in [
        ("name", &facts.name),
        ("description", &facts.description),
        ("version", &facts.version.to_string()),
        ("disk", &names.disk),
        ("gallery", &names.gallery),
        ("image", &names.image),
        ("vm", &names.vm),
        ("publisher", &names.publisher),
        ("sku", &names.sku),
        ("secret", &facts.secret),
        ("registration_id", &facts.registration_id),
        ("id_scope", &facts.id_scope),
    ] {
        context.insert(name, value);
    }
    context.insert("modules", &facts.modules.is_some());
    context.insert("logins", facts.modules.as_ref().map_or(&[][..], |fleet| &fleet.logins));
    context.insert("arch", &facts.arch.to_string());
    let (azure_arch, vm_size) = match facts.arch {
        Arch::X86_64 => ("x64", "Standard_B2s_v2"),
        Arch::Aarch64 => ("Arm64", "Standard_B2pls_v2"),
    };
    context.insert("azure_arch", azure_arch);
    context.insert("vm_size", vm_size);
    context.insert("disk_size", &facts.disk_size());
    context.insert("generation", &facts.generation);
    context.insert("trusted_launch", &facts.trusted_launch());
    context.insert("vault", &facts.vault);
    // What the template cannot tell of itself must be stated.
    let secrets = vault::secrets(facts);
    let unknown = secrets.iter().filter(|secret| secret.bicep.is_none());
    let arguments: String = unknown.map(|secret| format!(" {}=SECRET", secret.parameter)).collect();
    context.insert("secret_argument", &arguments);
    context.insert("secrets", &secrets);
    context.insert("registry_secret", &facts.registry_secret);
    let by_name = facts.registration_id == "{{ vm_name }}";
    context.insert("by_name", &by_name);
    context.insert("device", if by_name { names.vm.as_str() } else { "ID" });
    // In single quotes for a shell: a path may hold anything.
    let vhd = facts.vhd.as_ref();
    context.insert("vhd", &vhd.map(|vhd| quoted(&vhd.path)));
    context.insert("upload_size", &vhd.map(|vhd| vhd.upload_size));
    context.insert("virtual_size", &vhd.map(|vhd| vhd.virtual_size));
    context.insert("sha256", &vhd.map(|vhd| vhd.sha256.to_string()));
    context
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

fn publish(folder: &Path, file: &File) -> Result<()> {
    let path = folder.join(file.name);
    files::write(&path, file.mode, file.text.as_bytes())
}

#[cfg(test)]
mod tests;
