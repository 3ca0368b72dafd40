//! The recipe's own packages: is each a package, for which architecture, and does the image get it? What is left out is
//! named. The judge of each is [`local`]'s, as in a build.

use std::path::{Path, PathBuf};

use crate::error::{Problem, problem};
use crate::finding::Finding;
use crate::lock::local::{self, Fit};
use crate::packages::control::Control;
use crate::packages::deb::Deb;
use crate::recipe::Loaded;
use crate::recipe::types::{self, EdgeSource};

/// The packages of the runtime.
const RUNTIME: [&str; 2] = ["aziot-identity-service", "aziot-edge"];

/// A package that the image gets.
struct Own {
    name: String,
    origin: PathBuf,
    /// The recipe's key that names it.
    key: String,
}

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let mut own = Vec::new();
    for (at, deb) in recipe.packages.debs.iter().enumerate() {
        own.extend(one_deb(loaded, &format!("packages/debs/{at}"), deb, findings));
    }
    for (at, folder) in recipe.packages.sources.iter().enumerate() {
        own.extend(sources(loaded, &format!("packages/sources/{at}"), folder, findings));
    }
    twice(loaded, &own, findings);
    if recipe.edge.from == EdgeSource::Packages {
        for name in RUNTIME.iter().filter(|name| !own.iter().any(|own| own.name == **name)) {
            let message = format!(
                "`edge.from` is \"packages\", and neither packages.debs nor packages.sources has `{name}`"
            );
            findings.push(Finding::error(message).at(loaded.place("edge/from")));
        }
    }
}

fn add(loaded: &Loaded, key: &str, problem: Problem, findings: &mut Vec<Finding>) {
    let found = Finding { hint: problem.hint, ..Finding::error(problem.message) };
    findings.push(found.at(loaded.place(key)));
}

/// An entry of `packages.debs`. Of one that is yet to be downloaded only the name is known, from its address.
fn one_deb(loaded: &Loaded, key: &str, deb: &types::Deb, findings: &mut Vec<Finding>) -> Option<Own> {
    let wanted = deb.arch.is_none_or(|arch| arch == loaded.recipe.target.arch);
    let Some(file) = &deb.file else {
        let url = deb.url.as_deref()?;
        let name = url.rsplit('/').next()?.split('_').next()?.to_owned();
        return wanted.then(|| Own { name, origin: url.into(), key: key.to_owned() });
    };
    let key = format!("{key}/file");
    if !super::files::exists(loaded, &key, file, "package", findings) {
        return None;
    }
    let control = match Deb::read(file) {
        Ok(deb) => deb.control,
        Err(error) => {
            let hint = problem(&error).and_then(|problem| problem.hint.clone());
            let found = Finding { hint, ..Finding::error(format!("{error:#}")) };
            findings.push(found.at(loaded.place(&key)));
            return None;
        }
    };
    if let Some(expected) = &deb.sha256
        && let Err(problem) = local::same_digest(file, expected)
    {
        add(loaded, &key, problem, findings);
    }
    let fits = fits(loaded, &key, &control, file, deb.arch.is_some(), findings);
    (wanted && fits).then(|| Own { name: control.package, origin: file.clone(), key })
}

/// Does the image get it? A `stated` architecture that is another than the package's is a mistake; else one that is for
/// another machine is left out, with a word.
fn fits(
    loaded: &Loaded,
    key: &str,
    control: &Control,
    origin: &Path,
    stated: bool,
    findings: &mut Vec<Finding>,
) -> bool {
    let arch = loaded.recipe.target.arch;
    match local::fit(control, arch, origin) {
        Err(problem) => add(loaded, key, problem, findings),
        Ok(Fit::Here) => return true,
        // One of several entries, each for its architecture.
        Ok(Fit::Elsewhere) if stated => {}
        Ok(Fit::Elsewhere) => {
            let message = local::left_out(control, arch, origin);
            findings.push(Finding::warning(message).at(loaded.place(key)));
        }
    }
    false
}

/// A folder of package sources: the packages in it, and a word for each child folder that is none.
fn sources(loaded: &Loaded, key: &str, folder: &Path, findings: &mut Vec<Finding>) -> Vec<Own> {
    let (sources, others) = match local::source_folders(folder) {
        Ok(found) => found,
        Err(error) => {
            findings.push(
                Finding::error(format!("{error:#}"))
                    .expected("child folders with a file DEBIAN/control, one for each package")
                    .at(loaded.place(key)),
            );
            return Vec::new();
        }
    };
    for other in others {
        let message = format!("{} is passed over: it has no DEBIAN/control", other.display());
        let hint = "each child folder of packages.sources is one package; a .deb goes into packages.debs";
        findings.push(Finding::warning(message).hint(hint).at(loaded.place(key)));
    }
    let mut own = Vec::new();
    for source in sources {
        match local::source_control(&source) {
            Err(problem) => add(loaded, key, problem, findings),
            Ok(control) => {
                if fits(loaded, key, &control, &source, false, findings) {
                    own.push(Own { name: control.package, origin: source, key: key.to_owned() });
                }
            }
        }
    }
    own
}

fn twice(loaded: &Loaded, own: &[Own], findings: &mut Vec<Finding>) {
    for (at, package) in own.iter().enumerate() {
        if let Some(first) = own[..at].iter().find(|first| first.name == package.name) {
            add(loaded, &package.key, local::twice(&package.name, &first.origin, &package.origin), findings);
        }
    }
}
