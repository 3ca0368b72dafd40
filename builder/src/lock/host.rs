//! What the host's own apt knows that we need: its mirrors, its proxies and its credentials. Nothing else of it is used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host;
use crate::packages::control::paragraphs;
use crate::store::net::{Settings, parse_credentials};

/// One `deb` line of the host's sources: one address, with suites and components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AptSource {
    /// Address of the archive, the part before `dists/`.
    pub url: String,
    /// Suites.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Is it the distribution's own, going by its key or the file it is in?
    pub own: bool,
}

/// The host's apt configuration, as far as it concerns us.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostApt {
    /// `ID` of /etc/os-release.
    pub id: String,
    /// What it installs from.
    pub sources: Vec<AptSource>,
    /// `Acquire::<scheme>::Proxy[::<host>]`.
    pub proxies: Vec<(String, Option<String>, String)>,
    /// File and folder with credentials.
    pub netrc: [PathBuf; 2],
}

impl HostApt {
    /// Reads it; what is not there is empty. A host without apt has no mirror to offer, and that is no error.
    pub(crate) fn read() -> Self {
        let dump = host::command("apt-config").and_then(|mut command| host::run(command.arg("dump")));
        let values = parse_dump(&String::from_utf8_lossy(&dump.unwrap_or_default()));
        let id = os_release_id(&fs::read_to_string("/etc/os-release").unwrap_or_default());
        let etc = Path::new("/etc/apt");
        let at = |key: &str, name: &str| etc.join(values.get(key).map_or(name, String::as_str));
        Self {
            sources: read_sources(etc, &id),
            proxies: proxies(&values),
            netrc: [at("Dir::Etc::netrc", "auth.conf"), at("Dir::Etc::netrcparts", "auth.conf.d")],
            id,
        }
    }

    /// Proxies and credentials for our own downloads.
    pub(crate) fn settings(&self) -> Settings {
        let files = std::iter::once(self.netrc[0].clone()).chain(with_ending(&self.netrc[1], &["conf"]));
        let texts = files.filter_map(|file| fs::read_to_string(file).ok());
        Settings {
            proxies: self.proxies.clone(),
            credentials: texts.flat_map(|text| parse_credentials(&text)).collect(),
            environment: Settings::environment(),
            authorities: BTreeMap::new(),
        }
    }
}

/// `KEY "VALUE";` lines of `apt-config dump`.
fn parse_dump(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, rest) = line.split_once(' ')?;
        let value = rest.trim().strip_prefix('"')?.strip_suffix("\";")?;
        Some((key.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn proxies(values: &BTreeMap<String, String>) -> Vec<(String, Option<String>, String)> {
    let proxy = |(key, value): (&String, &String)| {
        let rest = key.strip_prefix("Acquire::")?;
        let (scheme, host) = rest.split_once("::Proxy")?;
        let host = match host.strip_prefix("::") {
            None if host.is_empty() => None,
            Some(host) if !host.is_empty() => Some(host.to_owned()),
            _ => return None,
        };
        let fits = ["http", "https"].contains(&scheme) && !value.is_empty() && !value.contains(['"', '\n']);
        fits.then(|| (scheme.to_owned(), host, value.clone()))
    };
    values.iter().filter_map(proxy).collect()
}

fn os_release_id(text: &str) -> String {
    let id = text.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default();
    id.trim_matches(['"', '\'']).to_owned()
}

fn read_sources(etc: &Path, id: &str) -> Vec<AptSource> {
    let listed = with_ending(&etc.join("sources.list.d"), &["list", "sources"]);
    let files = std::iter::once(etc.join("sources.list")).chain(listed);
    let mut all = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let own_file = name == "sources.list" || name == format!("{id}.sources");
        let parse = if name.ends_with(".sources") { parse_deb822 } else { parse_one_line };
        all.extend(parse(&text, id, own_file));
    }
    all
}

fn with_ending(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted))
    };
    let mut files: Vec<PathBuf> = entries.filter(fits).collect();
    files.sort();
    files
}

/// Is a key file the distribution's own keyring?
fn own_key(signed_by: &str, id: &str) -> bool {
    signed_by.contains(&format!("/{id}-archive-"))
}

/// Lines `deb [options] URL SUITE COMPONENT…` (sources.list(5)).
fn parse_one_line(text: &str, id: &str, own_file: bool) -> Vec<AptSource> {
    let line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(String::from);
        let (url, suite) = (words.next()?, words.next()?);
        let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let own = key.map_or(own_file, |key| own_key(key, id));
        Some(AptSource { url, suites: vec![suite], components: words.collect(), own })
    };
    text.lines().filter_map(line).filter(|source| is_http(&source.url)).collect()
}

/// Paragraphs with `Types`, `URIs`, `Suites`, `Components` (sources.list(5)).
fn parse_deb822(text: &str, id: &str, own_file: bool) -> Vec<AptSource> {
    let mut all = Vec::new();
    for paragraph in paragraphs(text).unwrap_or_default() {
        let words = |name: &str| -> Vec<String> {
            paragraph.get(name).unwrap_or_default().split_whitespace().map(String::from).collect()
        };
        let off = paragraph.get("Enabled").is_some_and(|value| ["no", "false", "0"].contains(&value));
        if off || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        let own = paragraph.get("Signed-By").map_or(own_file, |key| own_key(key, id));
        for url in words("URIs").into_iter().filter(|url| is_http(url)) {
            all.push(AptSource { url, suites: words("Suites"), components: words("Components"), own });
        }
    }
    all
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use super::{AptSource, os_release_id, parse_deb822, parse_dump, parse_one_line, proxies};

    fn source(url: &str, suites: &[&str], components: &[&str], own: bool) -> AptSource {
        let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        AptSource { url: url.into(), suites: strings(suites), components: strings(components), own }
    }

    #[test]
    fn reads_one_line_sources() {
        let text = "# comment\ndeb http://m.example/debian bookworm main contrib # more\n\
            deb-src http://m.example/debian bookworm main\ndeb cdrom:[Debian] bookworm main\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/microsoft.gpg] https://ms.example/prod bookworm main\n\
            deb [ signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] http://s.example/x s ./\n\
            deb [broken http://m.example x\ndebris\ndeb\ndeb http://only-url.example\n";
        assert_eq!(
            parse_one_line(text, "debian", true),
            [
                source("http://m.example/debian", &["bookworm"], &["main", "contrib"], true),
                source("https://ms.example/prod", &["bookworm"], &["main"], false),
                source("http://s.example/x", &["s"], &["./"], true),
            ]
        );
    }

    #[test]
    fn reads_deb822_sources() {
        let text = "Types: deb deb-src\n# snapshot\nURIs: http://a.example/debian http://b.example/debian\n\
            Suites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: x\nComponents: main\n\n\
            Types: deb-src\nURIs: http://src.example\nSuites: x\nComponents: main\n";
        let suites = ["bookworm", "bookworm-updates"];
        assert_eq!(
            parse_deb822(text, "debian", false),
            [
                source("http://a.example/debian", &suites, &["main"], true),
                source("http://b.example/debian", &suites, &["main"], true),
            ]
        );
        assert!(parse_deb822("no colon", "debian", true).is_empty());
    }

    #[test]
    fn takes_proxies_and_nothing_else_from_the_dump() {
        let text = "Acquire \"\";\nAcquire::http::Proxy \"http://apt:3142/\";\n\
            Acquire::http::Proxy::near.example \"DIRECT\";\nAcquire::https::Proxy \"\";\n\
            Acquire::http::Proxy-Auto-Detect \"/bin/x\";\nAcquire::Check-Valid-Until \"false\";\nbroken\nx \"\n";
        let found = proxies(&parse_dump(text));
        assert_eq!(
            found,
            [
                ("http".into(), None, "http://apt:3142/".into()),
                ("http".into(), Some("near.example".into()), "DIRECT".into()),
            ]
        );
    }

    #[test]
    fn reads_the_host_s_id() {
        assert_eq!(os_release_id("NAME=x\nVERSION_ID=\"12\"\nID=\"debian\"\n"), "debian");
        assert_eq!(os_release_id(""), "");
    }
}
