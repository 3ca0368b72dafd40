//! What README and docs/ say is held against the program and the repository: every command line of `edgepress` is one,
//! every path of the repository exists, every link has an end. (Tests only.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::Cli;

/// Folders of the repository by which a path is known for one of it.
const FOLDERS: [&str; 6] = ["builder/", "ci/", "docs/", "overlays/", "recipes/", "tests/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README and all pages: name and text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs");
    let mut paths: Vec<_> = docs.map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    paths.push(root().join("README.md"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("text"))).collect()
}

/// The lines of code blocks that a shell could be given, continued ones joined.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut block: Option<&str> = None;
    let mut begun = String::new();
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language) };
            continue;
        }
        let line = match block {
            Some("sh") => line,
            Some("console") => line.strip_prefix("$ ").unwrap_or_default(),
            Some("yaml") => line.trim_start_matches([' ', '-']).trim_start_matches("run: "),
            _ => continue,
        };
        match line.strip_suffix('\\') {
            Some(part) => begun.push_str(part),
            None => lines.push(std::mem::take(&mut begun) + line),
        }
    }
    lines
}

/// Commands in the running text: `edgepress …`.
fn inline(text: &str) -> Vec<String> {
    let prose = text.split("```").step_by(2);
    let code =
        prose.flat_map(|prose| prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")));
    code.filter(|code| code.starts_with("edgepress ")).collect()
}

/// The words of each simple command of a line, as a shell would split them; comments and redirections are left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&') => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    all.push(words);
    all.into_iter().map(program).filter(|words| !words.is_empty()).collect()
}

/// Without what stands before the program and behind its arguments.
fn program(words: Vec<String>) -> Vec<String> {
    let assigned = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let before = |word: &String| word == "sudo" || assigned(word);
    let words = words.into_iter().skip_while(before);
    words.take_while(|word| !word.starts_with(['<', '>']) && !word.starts_with("2>")).collect()
}

fn is_edgepress(word: &str) -> bool {
    ["edgepress", "./edgepress", "target/release/edgepress", "$(command -v edgepress)"].contains(&word)
}

/// What is wrong with a command line of edgepress, if anything.
fn wrong(words: &[String]) -> Option<String> {
    let elided = |word: &&String| !word.contains('…') && *word != "...";
    let kept: Vec<&String> = words.iter().filter(elided).collect();
    // A verb alone is a name, as in "`edgepress flash`".
    let partial = kept.len() < words.len() || kept.len() <= 3;
    match Cli::try_parse_from(&kept) {
        Ok(_) => None,
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
            ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::InvalidValue
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                if partial =>
            {
                None
            }
            _ => Some(error.to_string()),
        },
    }
}

#[test]
fn every_command_line_is_one() {
    let mut found = 0;
    let mut faults = Vec::new();
    for (path, text) in pages() {
        let lines = shell_lines(&text).into_iter().chain(inline(&text));
        for words in lines.flat_map(|line| commands(&line)) {
            if is_edgepress(&words[0]) && words.len() > 1 {
                found += 1;
                faults.extend(
                    wrong(&words).map(|why| format!("{}: {}: {why}", path.display(), words.join(" "))),
                );
            }
        }
    }
    assert!(found > 80, "{found} command lines alone were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_path_exists() {
    let mut faults = BTreeSet::new();
    let mut found = 0;
    for (page, text) in pages() {
        let part_of_a_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        for word in text.split(|c: char| !part_of_a_path(c)) {
            let word = word.trim_start_matches("./").trim_end_matches(['.', '-']);
            if !FOLDERS.iter().any(|folder| word.starts_with(folder) && word != *folder) {
                continue;
            }
            found += 1;
            // `recipes/x.lock` is made by a build.
            if !word.ends_with(".lock") && !root().join(word).exists() {
                faults.insert(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(found > 50, "{found} paths alone were found");
    assert!(faults.is_empty(), "{faults:#?}");
}

/// As the page's heading is linked to: GitHub's rule.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept: String = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect();
    kept.replace(' ', "-")
}

#[test]
fn every_link_has_an_end() {
    let mut faults = Vec::new();
    for (page, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let folder = page.parent().expect("a folder");
            let target = if file.is_empty() { page.clone() } else { folder.join(file) };
            let there = target.exists()
                && (place.is_empty() || {
                    let text = std::fs::read_to_string(&target).unwrap_or_default();
                    text.lines().any(|line| line.starts_with('#') && anchor(line) == place)
                });
            if !there {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn lines_are_read_as_a_shell_reads_them() {
    let words = |line: &str| commands(line).into_iter().map(|words| words.join("|")).collect::<Vec<_>>();
    assert_eq!(
        words("A=1 sudo \"$(command -v edgepress)\" x 'a b' \"c d\" >out # e"),
        ["$(command -v edgepress)|x|a b|c d"]
    );
    assert_eq!(
        words("cd x && edgepress check y | jq '.a | .b'"),
        ["cd|x", "edgepress|check|y", "jq|.a | .b"]
    );
    assert_eq!(shell_lines("```sh\na \\\n  b\n```\nno\n```console\n$ c\nout\n```\n"), ["a   b", "c", ""]);
    let why = |line: &str| wrong(&commands(line)[0]);
    assert_eq!(why("edgepress flash … --to /dev/sdb"), None);
    assert!(why("edgepress flash … --tooo /dev/sdb").is_some_and(|why| why.contains("--tooo")));
    assert!(why("edgepress flush x").is_some());
    assert_eq!(anchor("## `extends`: one recipe over another"), "extends-one-recipe-over-another");
}

/// The recipes that a page shows whole: with a parent of the repository, as one in its root would name it.
fn recipes(text: &str) -> Vec<String> {
    let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block.to_owned()).filter(|block| block.contains("extends = \"recipes/")).collect()
}

#[test]
fn every_recipe_loads() {
    let folder = tempfile::tempdir().expect("folder");
    let mut found = 0;
    for (page, text) in pages() {
        for recipe in recipes(&text) {
            found += 1;
            let parent = format!("extends = \"{}/recipes/", root().display());
            let path = folder.path().join("recipe.toml");
            std::fs::write(&path, recipe.replace("extends = \"recipes/", &parent)).expect("write");
            if let Err(error) = crate::recipe::load(&path, &[], None) {
                panic!("{}: {error:#}\n{recipe}", page.display());
            }
        }
    }
    assert!(found >= 5, "{found} recipes alone were found");
}
