//! apt's failures in the user's words: which archive or package, why, and what to do.

use std::collections::BTreeSet;

use anyhow::Result;

use super::apt::Origin;
use crate::error::Problem;
use crate::recipe::types::Recipe;

/// Names this similar (Jaro-Winkler) to an unknown one are worth suggesting.
const SIMILAR: f64 = 0.85;
const SUGGESTIONS: usize = 3;

/// What went wrong in `apt-get update`; nothing if nothing did.
pub(crate) fn update(stdout: &str, stderr: &str, success: bool, origins: &[Origin]) -> Option<Problem> {
    for line in stderr.lines() {
        if let Some(rest) = line.strip_prefix("E: Release file for ") {
            return Some(dated(rest, origins));
        }
    }
    if let Some((place, why)) = failures(stdout).into_iter().find(|(place, _)| !place.starts_with("file:/")) {
        return Some(refused(&place, &why, origins));
    }
    let lines: Vec<&str> =
        stderr.lines().filter(|line| line.starts_with("E: ") || line.starts_with("W: ")).collect();
    (!success).then(|| Problem::work(format!("the package archives cannot be read:\n{}", lines.join("\n"))))
}

/// `Err:2 PLACE` and the indented line after it, which says why.
fn failures(stdout: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut lines = stdout.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, place)) = line.strip_prefix("Err:").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let why = lines.next_if(|line| line.starts_with(' ')).map(str::trim).unwrap_or_default();
        all.push((place.to_owned(), why.to_owned()));
    }
    all
}

fn role<'a>(place: &str, origins: &'a [Origin]) -> &'a str {
    let fits = |origin: &&Origin| {
        place.strip_prefix(&origin.url).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ' ']))
    };
    let found = origins.iter().filter(fits).max_by_key(|origin| origin.url.len());
    found.map_or("?", |origin| origin.role.as_str())
}

/// `URL is expired (invalid since 1d 2h). …` or `URL is not valid yet (…)`.
fn dated(rest: &str, origins: &[Origin]) -> Problem {
    let (url, what) = rest.split_once(' ').unwrap_or((rest, ""));
    let what = what.split(". ").next().unwrap_or(what);
    let role = role(url, origins);
    let problem = Problem::work(format!("the archive `{role}`: its Release file {url} {what}"));
    if what.contains("not valid yet") {
        problem.hint("is this machine's clock right?")
    } else {
        problem.hint(format!(
            "the mirror has stopped being updated, or this clock is ahead: try another with --mirror {role}=URL"
        ))
    }
}

fn refused(place: &str, why: &str, origins: &[Origin]) -> Problem {
    let role = role(place, origins);
    let is = |texts: &[&str]| texts.iter().any(|text| why.contains(text));
    let archive = format!("the archive `{role}` ({})", place.split(" InRelease").next().unwrap_or(place));
    let mirror = format!("--mirror {role}=URL");
    if is(&["NO_PUBKEY", "couldn't be verified", "Missing key", "not live until"]) {
        Problem::work(format!("{archive} is signed with another key than the recipe pins: {why}"))
            .hint(format!("if the archive has changed its key, put the new one in archives.{role}.key"))
    } else if is(&["EXPKEYSIG", "KEYEXPIRED", "key is expired"]) {
        Problem::work(format!("{archive} is signed with a key that has expired: {why}"))
            .hint(format!("get the archive's renewed key and put it in archives.{role}.key"))
    } else if is(&["BADSIG", "signatures were invalid", "Clearsigned file isn't valid", "not signed"]) {
        Problem::work(format!("{archive} has no valid signature: {why}"))
            .hint(format!("a proxy or mirror alters it: try another with {mirror}"))
    } else if is(&["404", "410", "File not found"]) {
        Problem::work(format!("{archive} does not exist there: {why}"))
            .hint(format!("check archives.{role}.url and suites, or name a mirror that has it with {mirror}"))
    } else if is(&["Hash Sum mismatch", "unexpected size", "Mirror sync"]) {
        Problem::work(format!("{archive} is being updated, or is altered on the way: {why}"))
            .hint(format!("try again in a few minutes, or another mirror with {mirror}"))
    } else {
        Problem::work(format!("{archive} cannot be reached: {why}")).hint(format!(
            "check the network and the proxy (apt's Acquire::http::Proxy, http_proxy), or try another with {mirror}"
        ))
    }
}

/// What the archives have; asked only where it helps to explain.
pub(crate) trait Archives {
    /// All package names.
    ///
    /// # Errors
    /// When apt does not tell.
    fn known(&self) -> Result<BTreeSet<String>>;

    /// The versions of a package, as `apt-cache madison` prints them.
    ///
    /// # Errors
    /// When apt does not tell.
    fn versions(&self, name: &str) -> Result<String>;

    /// Names of the packages that provide a virtual one.
    ///
    /// # Errors
    /// When apt does not tell.
    fn providers(&self, name: &str) -> Result<Vec<String>>;

    /// All package names for the other architecture.
    ///
    /// # Errors
    /// When an archive cannot be read.
    fn elsewhere(&self) -> Result<BTreeSet<String>>;
}

/// What went wrong in `apt-get install`.
///
/// # Errors
/// Those of `archives`.
pub(crate) fn install(
    stdout: &str,
    stderr: &str,
    recipe: &Recipe,
    archives: &impl Archives,
) -> Result<Problem> {
    let errors: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    let unknown: Vec<&str> = errors
        .iter()
        .filter_map(|line| line.strip_prefix("Unable to locate package "))
        .chain(errors.iter().filter_map(|line| quoted(line, "Package ", " has no installation candidate")))
        .collect();
    if !unknown.is_empty() {
        return unknown_packages(&unknown, recipe, archives);
    }
    let version = errors.iter().find_map(|line| {
        let (version, name) = line.strip_prefix("Version '")?.split_once("' for '")?;
        Some((version, name.strip_suffix("' was not found")?))
    });
    if let Some((version, name)) = version {
        let there = listed(&archives.versions(name)?);
        return Ok(Problem::input(format!(
            "{}: there is no version {version} of `{name}`",
            asked_by(recipe, name)
        ))
        .hint(format!("the archives have: {there}")));
    }
    let detail = match stdout.find("The following packages have unmet dependencies:") {
        Some(at) => stdout[at..].trim_end(),
        None => stderr.trim_end(),
    };
    Ok(Problem::input(format!("the packages of the recipe cannot be installed together\n{detail}"))
        .hint("remove one side of the conflict, or add the archive that has what is missing"))
}

fn quoted<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    line.strip_prefix(before)?.strip_suffix(after)?.strip_prefix('\'')?.strip_suffix('\'')
}

/// Names that no archive has a package of.
///
/// # Errors
/// Those of `archives`.
pub(crate) fn unknown_packages(
    unknown: &[&str],
    recipe: &Recipe,
    archives: &impl Archives,
) -> Result<Problem> {
    let known = archives.known()?;
    // That it cannot be asked is no reason to say nothing of the rest.
    let elsewhere = archives.elsewhere().unwrap_or_default();
    let other = recipe.target.arch.other();
    let mut lines = Vec::new();
    let mut hints = Vec::new();
    for name in unknown {
        let there = listed(&archives.versions(name)?);
        let providers = archives.providers(name)?;
        if there.is_empty() && !providers.is_empty() {
            let place = asked_by(recipe, name);
            lines.push(format!("{place}: `{name}` is a virtual package: which one is meant must be said"));
            hints.push(format!("instead of {name}, one that provides it: {}", shortened(&providers)));
        } else if there.is_empty() && elsewhere.contains(*name) {
            let (own, other) = (recipe.target.arch.debian(), other.debian());
            let place = asked_by(recipe, name);
            lines.push(format!("{place}: `{name}` is there for {other} only, and the image is for {own}"));
            hints.push(format!("leave {name} out, or name what takes its place on {own}"));
        } else if there.is_empty() {
            lines.push(format!("{}: no archive has a package `{name}`", asked_by(recipe, name)));
            let near = nearest(name, &known);
            if !near.is_empty() {
                hints.push(format!("instead of {name}: {}?", near.join(", ")));
            }
        } else {
            lines.push(format!("{}: no version of `{name}` fits", asked_by(recipe, name)));
            let asked = if name.starts_with("aziot-") {
                format!(" (edge.version = \"{}\")", recipe.edge.version)
            } else {
                String::new()
            };
            hints.push(format!("of {name} there is: {there}{asked}"));
        }
    }
    let searched: Vec<String> = recipe
        .archives
        .iter()
        .map(|(role, archive)| {
            format!("{role} ({} {})", archive.suites.join(" "), archive.components.join(" "))
        })
        .collect();
    lines.push(format!("searched for {}: {}", recipe.target.arch.debian(), searched.join(", ")));
    let problem = Problem::input(lines.join("\n"));
    Ok(if hints.is_empty() {
        problem.hint("add the archive that has it under [archives]")
    } else {
        problem.hint(hints.join("; "))
    })
}

/// The versions of `apt-cache madison`'s lines ` name | version | archive`.
fn listed(madison: &str) -> String {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let mut all: Vec<&str> = Vec::new();
    for version in versions {
        if !all.contains(&version) {
            all.push(version);
        }
    }
    all.join(", ")
}

/// The first names of a list, which for `mail-transport-agent` would fill a screen.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// The packages under `Reverse Provides:` of `apt-cache showpkg`: lines `NAME VERSION (= …)`, in its order, once each.
pub(crate) fn providers(showpkg: &str) -> Vec<String> {
    let listed = showpkg.lines().skip_while(|line| !line.starts_with("Reverse Provides:")).skip(1);
    let mut all: Vec<String> = Vec::new();
    for name in listed.filter_map(|line| line.split_whitespace().next()) {
        if !all.iter().any(|own| own == name) {
            all.push(name.to_owned());
        }
    }
    all.sort();
    all
}

fn nearest<'a>(wrong: &str, known: &'a BTreeSet<String>) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> =
        known.iter().map(|name| (strsim::jaro_winkler(wrong, name), name.as_str())).collect();
    scored.retain(|(score, _)| *score >= SIMILAR);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

/// The recipe's key that asks for a package.
fn asked_by(recipe: &Recipe, name: &str) -> &'static str {
    let bare = |entry: &String| entry.split('=').next() == Some(name);
    if recipe.packages.install.iter().any(bare) {
        "packages.install"
    } else if recipe.engine.packages.iter().any(bare) {
        "engine.packages"
    } else if name.starts_with("aziot-") {
        "edge"
    } else {
        "target.board"
    }
}

#[cfg(test)]
mod tests {
    use super::{Archives, Origin, install, providers, shortened, unknown_packages, update};
    use crate::lock::tests::recipe;
    use anyhow::Result;
    use std::collections::BTreeSet;

    fn origins() -> Vec<Origin> {
        let origin = |role: &str| Origin {
            role: role.into(),
            url: format!("http://m.example/{role}"),
            suites: vec!["bookworm".into()],
            components: vec!["main".into()],
        };
        vec![origin("debian"), origin("debian-security")]
    }

    #[test]
    fn explains_what_apt_get_update_says() {
        let at = "http://m.example/debian-security bookworm-security";
        for (why, expected, hint) in [
            (
                "The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 6ED0E7B82643E131",
                "is signed with another key than the recipe pins",
                "archives.debian-security.key",
            ),
            (
                "Could not connect to m.example:80. - connect (111: Connection refused)",
                "cannot be reached",
                "--mirror",
            ),
            ("404  Not Found [IP: 192.0.2.1 80]", "does not exist there", "archives.debian-security.url"),
            ("The following signatures were invalid: BADSIG 6ED0 x", "has no valid signature", "--mirror"),
            (
                "The following signatures were invalid: EXPKEYSIG 6ED0 x",
                "is signed with a key that has expired",
                "renewed",
            ),
            ("Hash Sum mismatch", "is being updated", "a few minutes"),
        ] {
            let stdout =
                format!("Hit:1 http://m.example/debian bookworm InRelease\nErr:2 {at} InRelease\n  {why}\n");
            let problem = update(&stdout, "E: more\n", false, &origins()).expect("a problem");
            let start = format!("the archive `debian-security` ({at}) {expected}");
            assert!(problem.message.starts_with(&start), "{problem}");
            assert!(problem.hint.as_deref().is_some_and(|text| text.contains(hint)), "{problem:?}");
        }
    }

    #[test]
    fn explains_dates() {
        let stderr = "E: Release file for http://m.example/debian/dists/bookworm-updates/InRelease is expired \
            (invalid since 40d 22h 8min 6s). Updates for this repository will not be applied.\n";
        let problem = update("Err:1 x\n", stderr, false, &origins()).expect("a problem");
        let expected = "the archive `debian`: its Release file \
            http://m.example/debian/dists/bookworm-updates/InRelease is expired (invalid since 40d 22h 8min 6s)";
        assert_eq!(problem.message, expected);
    }

    #[test]
    fn success_is_no_problem_and_an_unknown_failure_is_shown() {
        let own = "Err:3 file:/x ./ Packages\n  Method gave a blank filename\n";
        assert_eq!(update(own, "", true, &origins()), None);
        let problem = update("", "N: note\nE: something new\n", false, &origins()).expect("a problem");
        assert_eq!(problem.message, "the package archives cannot be read:\nE: something new");
    }

    struct Fixed(&'static str);

    impl Archives for Fixed {
        fn known(&self) -> Result<BTreeSet<String>> {
            Ok(["docker.io", "docker-doc", "bash"].map(String::from).into())
        }

        fn versions(&self, _: &str) -> Result<String> {
            Ok(self.0.to_owned())
        }

        fn providers(&self, name: &str) -> Result<Vec<String>> {
            Ok(if name == "mail-transport-agent" {
                vec!["exim4".into(), "postfix".into()]
            } else {
                Vec::new()
            })
        }

        fn elsewhere(&self) -> Result<BTreeSet<String>> {
            Ok(["arm-trusted-firmware-tools+".to_owned()].into())
        }
    }

    fn explained(stdout: &str, stderr: &str, madison: &'static str) -> (String, String) {
        let problem = install(stdout, stderr, &recipe(), &Fixed(madison)).expect("explains");
        (problem.message, problem.hint.unwrap_or_default())
    }

    fn unknown(name: &str) -> (String, String) {
        let mut recipe = recipe();
        recipe.packages.install.push(name.into());
        let problem = unknown_packages(&[name], &recipe, &Fixed("")).expect("explains");
        (problem.message, problem.hint.unwrap_or_default())
    }

    #[test]
    fn says_that_a_package_is_for_the_other_architecture() {
        let (message, hint) = unknown("arm-trusted-firmware-tools+");
        let expected = "packages.install: `arm-trusted-firmware-tools+` is there for arm64 only, and the image is for amd64\n";
        assert!(message.starts_with(expected), "{message}");
        assert!(hint.starts_with("leave arm-trusted-firmware-tools+ out"), "{hint}");
    }

    #[test]
    fn a_name_with_apt_s_marks_is_a_name() {
        for name in ["bash-", "bash+", "bas."] {
            let (message, hint) = unknown(name);
            let expected = format!("packages.install: no archive has a package `{name}`\n");
            assert!(message.starts_with(&expected), "{message}");
            assert!(hint.starts_with(&format!("instead of {name}: bash")), "{hint}");
        }
    }

    #[test]
    fn a_virtual_package_is_named_with_those_that_provide_it() {
        let (message, hint) = unknown("mail-transport-agent");
        assert!(message.contains("`mail-transport-agent` is a virtual package"), "{message}");
        assert_eq!(hint, "instead of mail-transport-agent, one that provides it: exim4, postfix");
        let showpkg = "Package: x\nReverse Depends: \n  a,x\nDependencies: \nProvides: \nReverse Provides: \n\
            postfix 3.7 (= )\nexim4 4.96 (= )\npostfix 3.6 (= )\n";
        assert_eq!(providers(showpkg), ["exim4", "postfix"]);
        assert!(providers("Package: x\nVersions: \n").is_empty());
        let many: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!(shortened(&many), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }

    #[test]
    fn names_unknown_packages_with_their_key_and_near_names() {
        let (message, hint) = explained("", "E: Unable to locate package docker.oi\n", "");
        assert!(message.starts_with("target.board: no archive has a package `docker.oi`\n"), "{message}");
        assert!(message.contains("searched for amd64: debian (bookworm bookworm-updates main)"), "{message}");
        assert!(hint.starts_with("instead of docker.oi: docker.io"), "{hint}");
        let (message, _) = explained("", "E: Unable to locate package systemd-sysv\n", "");
        assert!(message.starts_with("packages.install: "), "{message}");
    }

    #[test]
    fn says_which_versions_there_are() {
        let madison =
            " aziot-edge | 1.5.2-1 | http://m\n aziot-edge | 1.5.1-1 | http://m\n aziot-edge | 1.5.2-1 | x\n";
        let (message, hint) =
            explained("", "E: Package 'aziot-edge' has no installation candidate\n", madison);
        assert!(message.starts_with("edge: no version of `aziot-edge` fits"), "{message}");
        assert_eq!(hint, "of aziot-edge there is: 1.5.2-1, 1.5.1-1 (edge.version = \"1.6\")");
        let (message, hint) =
            explained("", "E: Version '9' for 'systemd-sysv' was not found\n", " a | 2 | b\n");
        assert_eq!(message, "packages.install: there is no version 9 of `systemd-sysv`");
        assert_eq!(hint, "the archives have: 2");
    }

    #[test]
    fn unmet_dependencies_are_apt_s_own_words() {
        let stdout = "Reading…\nThe following packages have unmet dependencies:\n a : Conflicts: b\n";
        let (message, _) =
            explained(stdout, "E: Unable to correct problems, you have held broken packages.\n", "");
        assert!(message.ends_with("have unmet dependencies:\n a : Conflicts: b"), "{message}");
    }
}
