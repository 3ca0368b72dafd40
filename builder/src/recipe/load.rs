//! Loading: a recipe and its ancestors are read, laid over each other, overridden from the command line, typed,
//! and checked.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::tree::{Node, SourceText, Value, absolute};
use super::types::Recipe;
use super::{de, merge, modules, validate};
use crate::error::Problem;
use crate::finding::{Finding, Place, nearest};
use crate::units::Arch;

/// Most bytes of a recipe file; the largest sensible one is a hundred times smaller.
const LARGEST: u64 = 1 << 20;

/// Where a recipe holds paths, which are relative to the file that states them.
const PATHS: [&[&str]; 10] = [
    &["overlays", "*"],
    &["packages", "debs", "*", "file"],
    &["packages", "sources", "*"],
    &["access", "ssh_keys", "*"],
    &["engine", "images", "*", "file"],
    &["archives", "*", "key", "file"],
    &["network", "wifi", "key_file"],
    &["modules", "manifest"],
    &["modules", "values"],
    &["provisioning", "certificate", "ca"],
];

/// A recipe, merged and typed, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The recipe; every path in it is absolute.
    pub recipe: Recipe,
    /// The recipe's file and its ancestors, nearest first, absolute.
    pub files: Vec<PathBuf>,
    /// The recipe's file as the user named it.
    pub path: PathBuf,
    tree: Node,
}

impl Loaded {
    /// Where the value at `key` (steps separated by `/`, as in `packages/debs/0/file`) is stated: the file, line and
    /// column, in whichever of the files that was.
    pub fn place(&self, key: &str) -> Place {
        self.tree.place(key)
    }
}

/// Loads the recipe at `path`, with its ancestors, `--set` arguments (`key.path=value`) and an overriding architecture.
///
/// # Errors
/// A [`Problem`] that names everything that is wrong with it, by file, line and column.
pub fn load(path: &Path, sets: &[String], arch: Option<Arch>) -> Result<Loaded> {
    load_or_list(path, sets, arch).map_err(|found| {
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        Problem::input(shown.join("\n\n")).findings(&found).into()
    })
}

/// As [`load`], with the findings one by one.
///
/// # Errors
/// Everything that is wrong with the recipe.
pub fn load_or_list(path: &Path, sets: &[String], arch: Option<Arch>) -> Result<Loaded, Vec<Finding>> {
    let chain = read_chain(path).map_err(|found| vec![found])?;
    let files = chain.iter().map(|link| link.file.clone()).collect();
    let parents_first = chain
        .into_iter()
        .rev()
        .map(|link| link.tree)
        .reduce(|base, over| merge::lay(merge::alone(base), over));
    let merged = parents_first.map(merge::alone).ok_or_else(Vec::new)?;
    let tree = override_from_arguments(merged, sets, arch)?;
    let mut recipe: Recipe = de::read(&tree)?;
    let found = validate::validate(&recipe, &tree);
    modules::add_images(&mut recipe);
    if found.is_empty() { Ok(Loaded { recipe, files, path: path.to_owned(), tree }) } else { Err(found) }
}

/// One file of the chain of `extends`.
struct Link {
    file: PathBuf,
    name: String,
    tree: Node,
}

/// Reads a recipe and its ancestors, nearest first.
fn read_chain(path: &Path) -> Result<Vec<Link>, Finding> {
    let mut chain = vec![read_file(path, &[])?];
    while let Some(last) = chain.last()
        && let Some(parent) = last.tree.child("extends")
    {
        let Some(stated) = parent.as_str() else {
            return Err(Finding::error("wrong type for `extends`")
                .expected("the path of one recipe, as a string")
                .at(parent.origin.place()));
        };
        let file = absolute(&parent.origin.source.folder, stated);
        let shown = Path::new(&last.name).parent().unwrap_or(Path::new("")).join(stated);
        let names: Vec<&str> = chain.iter().map(|link| link.name.as_str()).collect();
        let next = read_file(&clean(&shown, &file), &names).map_err(|found| {
            if found.place.is_none() { missing_parent(found, parent, stated, &file) } else { found }
        })?;
        if let Some(start) = chain.iter().position(|link| link.file == next.file) {
            let circle: Vec<&str> = names[start..].iter().copied().chain([names[start]]).collect();
            let message = format!("recipes extend each other in a circle: {}", circle.join(" → "));
            return Err(Finding::error(message).at(parent.origin.place()));
        }
        chain.push(next);
    }
    for link in &mut chain {
        resolve_paths(&mut link.tree);
    }
    Ok(chain)
}

/// The shorter of two names of a file: as reached from the path that the user typed, or absolute.
fn clean(shown: &Path, file: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for part in shown.components() {
        match part {
            std::path::Component::ParentDir if short.file_name().is_none() => return file.to_owned(),
            std::path::Component::ParentDir => drop(short.pop()),
            other => short.push(other),
        }
    }
    short
}

/// `file` is where the parent was looked for, `stated` how the recipe names it.
fn missing_parent(found: Finding, parent: &Node, stated: &str, file: &Path) -> Finding {
    let found = found.at(parent.origin.place());
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return found };
    let siblings: Vec<String> = std::fs::read_dir(folder)
        .map(|all| all.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    if let Some(near) = nearest(&name.to_string_lossy(), siblings.iter().map(String::as_str)) {
        return found.hint(format!("there is `{near}` in that folder"));
    }
    let looked = format!(
        "a path in a recipe is one from that recipe's own folder, so it was looked for at {}",
        file.display()
    );
    let known = elsewhere(stated, &parent.origin.source.folder);
    found.hint(match known {
        Some(known) => format!("{looked}; write extends = \"{}\"", known.display()),
        None => format!(
            "{looked}; for a copy of one of edgepress's recipes, write the whole path of the parent there: \
             extends = \"/…/edgepress/recipes/base/debian-12.toml\""
        ),
    })
}

/// Where a parent is that a copied recipe named from the folder it was copied from: in `recipes/` of a checkout that
/// the recipe, the current folder or this program lies in.
fn elsewhere(stated: &str, folder: &Path) -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    let here = std::env::current_dir().ok();
    let starts = [Some(folder), here.as_deref(), program.as_deref()];
    let above = starts.into_iter().flatten().flat_map(Path::ancestors);
    above
        .flat_map(|folder| [folder.join("recipes").join(stated), folder.join(stated)])
        .find_map(|file| file.canonicalize().ok().filter(|file| file.is_file()))
}

/// Reads one file; `children` are the recipes that led to it. A file that cannot be read has no place.
fn read_file(path: &Path, children: &[&str]) -> Result<Link, Finding> {
    let name = path.display().to_string();
    let chain = children.iter().copied().chain([name.as_str()]).collect::<Vec<_>>().join(" → ");
    let failed = |error: &std::io::Error| {
        let what = if children.is_empty() { "recipe" } else { "parent recipe" };
        let message = match error.kind() {
            ErrorKind::NotFound => format!("the {what} `{name}` does not exist"),
            _ => format!("the {what} `{name}` cannot be read: {error}"),
        };
        let message = if children.is_empty() { message } else { format!("{message} (the chain is {chain})") };
        Finding::error(message)
    };
    let file = path.canonicalize().map_err(|error| failed(&error))?;
    let text = read_text(&file).map_err(|error| failed(&error))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let source = SourceText::file(&name, text, folder);
    Ok(Link { tree: Node::parse(&source)?, file, name })
}

fn read_text(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    opened.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::other("it is larger than 1 MiB, which no recipe is"));
    }
    Ok(text)
}

/// Makes every path that a recipe states absolute.
fn resolve_paths(tree: &mut Node) {
    for pattern in PATHS.into_iter().chain([["extends"].as_slice()]) {
        tree.for_each(pattern, &mut |node| {
            let folder = node.origin.source.folder.clone();
            if let Value::String(path) = &mut node.value
                && path != merge::REPLACE
                && !path.is_empty()
            {
                *path = absolute(&folder, path).to_string_lossy().into_owned();
            }
        });
    }
}

fn override_from_arguments(tree: Node, sets: &[String], arch: Option<Arch>) -> Result<Node, Vec<Finding>> {
    let folder = std::env::current_dir().unwrap_or_default();
    let parse = |text: &String| merge::argument("--set", text, &folder);
    let (overs, failed): (Vec<_>, Vec<_>) = sets.iter().map(parse).partition(Result::is_ok);
    let mut overs: Vec<Node> = overs.into_iter().flatten().collect();
    let mut failed: Vec<Finding> = failed.into_iter().filter_map(Result::err).collect();
    failed.extend(overs.iter().filter_map(|over| over.entry("extends")).map(|entry| {
        Finding::error("`extends` cannot be set from the command line")
            .hint("write a small recipe that extends the other parent")
            .at(entry.origin.place())
    }));
    if !failed.is_empty() {
        return Err(failed);
    }
    overs.iter_mut().for_each(resolve_paths);
    let arch = arch.map(|arch| {
        let source = SourceText::argument("--arch", arch.to_string(), &folder);
        arch_node(&source)
    });
    Ok(overs.into_iter().chain(arch).fold(tree, merge::set))
}

fn arch_node(source: &Arc<SourceText>) -> Node {
    let origin = super::tree::Origin { source: source.clone(), span: 0..source.text.len() };
    let value = Value::String(source.text.clone());
    Node { origin: origin.clone(), value }.wrap("arch".into(), origin.clone()).wrap("target".into(), origin)
}
