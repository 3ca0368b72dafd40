//! The arrows between the top-level modules: none leads back, and docs/architecture.md shows them as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::project;

/// For each module those that it names in code that is no test.
type Arrows = BTreeMap<String, BTreeSet<String>>;

const BEGIN: &str = "<!-- modules: written by tests/cli/architecture.rs -->\n";
const END: &str = "<!-- end -->";
/// Crates that are one module each.
const ONE_EACH: [&str; 3] = ["deployment", "oci", "sim"];

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// A file's code without its comments and its tests.
fn code(path: &Path) -> String {
    let stem = path.file_stem().expect("name").to_string_lossy();
    if stem == "tests" || stem.ends_with("_tests") {
        return String::new();
    }
    let text = fs::read_to_string(path).expect("source");
    let tests = text.match_indices("#[cfg(test)]\n").find(|(at, mark)| {
        let item = text[at + mark.len()..].lines().next().unwrap_or_default();
        item.contains("mod ") && item.ends_with('{')
    });
    let text = tests.map_or(text.as_str(), |(at, _)| &text[..at]);
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// The first names of what stands behind `crate::`, or one of our crates: one, or those of a list in braces.
fn names(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let marks = ["crate::", "edgepress_base::", "edgepress_disk::"];
    for (at, mark) in marks.iter().flat_map(|mark| code.match_indices(mark)) {
        let rest = &code[at + mark.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut first = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => first = true,
                c if first && !c.is_whitespace() => {
                    names.insert(word(&list[at..]));
                    first = false;
                }
                _ => {}
            }
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// A module: its folder or file, and its first sentence.
struct Module {
    path: PathBuf,
    what: String,
    home: &'static str,
}

/// Every module of the program and of the crates below it.
fn modules() -> BTreeMap<String, Module> {
    let mut modules = BTreeMap::new();
    for (home, folder) in [("", "builder/src"), ("base", "builder/base/src"), ("disk", "builder/disk/src")] {
        for entry in fs::read_dir(project().join(folder)).expect("sources") {
            let path = entry.expect("entry").path();
            let name = path.file_stem().expect("name").to_string_lossy().into_owned();
            let file = if path.is_dir() { path.join("mod.rs") } else { path.clone() };
            if !["lib", "main"].contains(&name.as_str()) && file.exists() {
                let path = if path.is_dir() { path } else { path.with_extension("") };
                modules.insert(name, Module { path, what: first_sentence(&file), home });
            }
        }
    }
    for home in ONE_EACH {
        let path = project().join("builder").join(home).join("src");
        let what = first_sentence(&path.join("lib.rs"));
        modules.insert(home.into(), Module { path, what, home });
    }
    modules
}

fn first_sentence(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("source");
    let lines = text.lines().map_while(|line| line.strip_prefix("//! "));
    let text = lines.collect::<Vec<_>>().join(" ");
    let end = text.find(". ").unwrap_or(text.trim_end_matches('.').len());
    text[..end].to_owned()
}

fn arrows(modules: &BTreeMap<String, Module>) -> Arrows {
    let of = |(name, module): (&String, &Module)| {
        let mut files = vec![module.path.with_extension("rs")];
        if module.path.is_dir() {
            sources(&module.path, &mut files);
        }
        let files = files.iter().filter(|file| file.exists());
        let text = files.map(|file| code(file)).fold(String::new(), |all, code| all + &code);
        // Within such a crate, `crate::` names its own modules.
        let text = if ONE_EACH.contains(&name.as_str()) { text.replace("crate::", "") } else { text };
        let mut named = names(&text);
        let crates = ONE_EACH.into_iter().filter(|home| text.contains(&format!("edgepress_{home}::")));
        named.extend(crates.map(String::from));
        named.retain(|other| other != name && modules.contains_key(other));
        (name.clone(), named)
    };
    modules.iter().map(of).collect()
}

/// A way from a module back to itself.
fn cycle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(arrows: &Arrows, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let Some(here) = way.last().cloned() else { return false };
        for next in &arrows[&here] {
            if let Some(at) = way.iter().position(|name| name == next) {
                way.drain(..at);
                way.push(next.clone());
                return true;
            }
            if done.contains(next) {
                continue;
            }
            way.push(next.clone());
            if walk(arrows, way, done) {
                return true;
            }
            way.pop();
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        (!done.contains(start) && walk(arrows, &mut way, &mut done)).then_some(way)
    })
}

/// How far a module lies above those that rest on nothing.
fn height(arrows: &Arrows, name: &str) -> usize {
    arrows[name].iter().map(|below| 1 + height(arrows, below)).max().unwrap_or(0)
}

/// Everything below a module.
fn below(arrows: &Arrows, name: &str) -> BTreeSet<String> {
    arrows[name].iter().flat_map(|next| below(arrows, next).into_iter().chain([next.clone()])).collect()
}

/// The table: from the top to what rests on nothing; an arrow that others imply is left out.
fn picture(modules: &BTreeMap<String, Module>, arrows: &Arrows) -> String {
    let mut rows: Vec<(usize, &String)> = modules.keys().map(|name| (height(arrows, name), name)).collect();
    rows.sort_by_key(|(height, name)| (usize::MAX - height, *name));
    let mut table =
        String::from("| layer | module | crate | what it is | rests on |\n| --- | --- | --- | --- | --- |\n");
    for (height, name) in rows {
        let implied: BTreeSet<String> = arrows[name].iter().flat_map(|next| below(arrows, next)).collect();
        let own: Vec<&str> =
            arrows[name].iter().filter(|next| !implied.contains(*next)).map(String::as_str).collect();
        let Module { what, home, .. } = &modules[name];
        table += &format!("| {height} | `{name}` | {home} | {what} | {} |\n", own.join(", "));
    }
    table
}

#[test]
fn no_arrow_leads_back() {
    let arrows = arrows(&modules());
    // That something is read at all.
    assert!(arrows["cli"].contains("recipe") && arrows["rootfs"].contains("sandbox"), "{arrows:?}");
    if let Some(way) = cycle(&arrows) {
        panic!("modules rest on each other: {}", way.join(" → "));
    }
}

#[test]
fn a_cycle_is_found() {
    let arrow = |from: &str, to: &[&str]| (from.to_owned(), to.iter().map(ToString::to_string).collect());
    let arrows: Arrows =
        [arrow("a", &["b", "d"]), arrow("b", &["c"]), arrow("c", &["b"]), arrow("d", &[])].into();
    assert_eq!(cycle(&arrows), Some(["b", "c", "b"].map(String::from).into()));
    let code = "use crate::{disk::fat, event::{Event, Sink}, tree};\nlet x = crate::units::Arch::X86_64;";
    assert_eq!(names(code), ["disk", "event", "tree", "units"].map(String::from).into());
}

#[test]
fn the_picture_is_true() {
    let modules = modules();
    let arrows = arrows(&modules);
    if cycle(&arrows).is_some() {
        return; // The other test tells.
    }
    let path = project().join("docs/architecture.md");
    let page = fs::read_to_string(&path).expect("docs/architecture.md");
    let (before, rest) = page.split_once(BEGIN).expect("the mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the mark where the table ends");
    let expected = format!("{before}{BEGIN}{}{END}{after}", picture(&modules, &arrows));
    if std::env::var_os("EDGEPRESS_UPDATE_GOLDENS").is_some() {
        fs::write(&path, expected).expect("docs/architecture.md");
        return;
    }
    assert!(
        page == expected,
        "the table in docs/architecture.md is out of date; write it anew: EDGEPRESS_UPDATE_GOLDENS=1 cargo test --test cli architecture::"
    );
}
