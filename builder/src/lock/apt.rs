//! The host's apt in a private folder tree.
//!
//! ```text
//! <staging>/
//!   apt.conf              named by APT_CONFIG; points everything below at this tree, main and parts of the host away
//!   sources.d/*.sources   the recipe's archives, each signed by keys/<n>.gpg; the recipe's own packages
//!   preferences           pins the runtime's version, prefers the recipe's own packages
//!   status                empty: nothing is installed
//!   local/                a flat archive of the recipe's own packages (their control data is enough)
//!   state/ cache/         what apt downloads and computes
//! ```
//! Only proxies and credentials are the host's: it may have switched off the check of expiry dates, or have commands
//! run at each update.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::host::HostApt;
use super::index::{Index, parse_uris};
use super::{explain, keys};
use crate::error::Problem;
use crate::host;
use crate::lock::local::LocalDeb;
use crate::recipe::types::{EdgeSource, Recipe};
use crate::store::Store;
use crate::store::staging::Staging;

/// One archive as apt is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Role in the recipe.
    pub role: String,
    /// Address without a slash at its end.
    pub url: String,
    /// Suites.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
}

/// A private apt; gone when it is dropped.
pub(crate) struct Apt<'a> {
    _staging: Staging,
    /// The tree, by a path that apt's files can hold; see [`plain`].
    root: PathBuf,
    _alias: Option<TempDir>,
    recipe: &'a Recipe,
    debs: &'a [LocalDeb],
    origins: Vec<Origin>,
}

impl<'a> Apt<'a> {
    /// Lays out the tree.
    ///
    /// # Errors
    /// When a key is missing or not the pinned one, or the store cannot be written.
    pub(crate) fn new(
        recipe: &'a Recipe,
        debs: &'a [LocalDeb],
        origins: Vec<Origin>,
        host: &HostApt,
        store: &Store,
    ) -> Result<Self> {
        let staging = store.staging("apt")?;
        let (root, alias) = plain(staging.path())?;
        let apt = Self { _staging: staging, root: root.clone(), _alias: alias, recipe, debs, origins };
        for folder in ["etc", "keys", "local", "sources.d", "state/lists/partial", "cache/archives/partial"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        apt.write("status", "")?;
        apt.write("preferences", &preferences(recipe, debs))?;
        apt.write("apt.conf", &configuration(&root, recipe, host))?;
        // Proxies may hold passwords.
        fs::set_permissions(root.join("apt.conf"), fs::Permissions::from_mode(0o600))?;
        apt.write_sources(store)?;
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn write_sources(&self, store: &Store) -> Result<()> {
        for (number, origin) in self.origins.iter().enumerate() {
            let key = &self.recipe.archives.get(&origin.role).context("an archive without an entry")?.key;
            let ring = self.path(&format!("keys/{number}.gpg"));
            keys::write(&ring, &keys::keyring(&origin.role, key, store)?)?;
            let text = source(origin, self.recipe.target.arch.debian(), &ring)?;
            self.write(&format!("sources.d/{number}.sources"), &text)?;
        }
        if !self.debs.is_empty() {
            let packages = local_index(self.debs);
            self.write("local/Packages", &packages)?;
            self.write("local/Release", &local_release(&packages))?;
            let local = self.path("local");
            let text = format!("Types: deb\nURIs: file:{}\nSuites: ./\nTrusted: yes\n", local.display());
            self.write("sources.d/local.sources", &text)?;
        }
        Ok(())
    }

    /// Has these versions chosen where an archive has them.
    ///
    /// # Errors
    /// When the tree cannot be written.
    pub(crate) fn prefer<'v>(&self, versions: impl Iterator<Item = (&'v str, &'v str)>) -> Result<()> {
        let pin =
            |(name, version)| format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n");
        self.write("preferences", &versions.map(pin).collect::<String>())
    }

    /// Names of all packages that the archives have; virtual ones are not among them.
    ///
    /// # Errors
    /// When apt does not tell.
    pub(crate) fn known(&self) -> Result<BTreeSet<String>> {
        Ok(texts(&self.run("apt-cache", &["pkgnames"])?).0.lines().map(String::from).collect())
    }

    /// Downloads and verifies the indices.
    ///
    /// # Errors
    /// Says which archive cannot be used and why.
    pub(crate) fn update(&self) -> Result<()> {
        let output = self.run("apt-get", &["update"])?;
        let (stdout, stderr) = texts(&output);
        match explain::update(&stdout, &stderr, output.status.success(), &self.origins) {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
    }

    /// Addresses of all that must be installed for `names`, essential packages included; the recipe's own packages
    /// are not among them.
    ///
    /// # Errors
    /// Says what is unknown, or why it cannot be installed together. `elsewhere` is asked then for all package names
    /// for the other architecture.
    pub(crate) fn resolve(
        &self,
        names: &[String],
        elsewhere: &dyn Fn() -> Result<BTreeSet<String>>,
    ) -> Result<Vec<String>> {
        let archives = Asked { apt: self, elsewhere };
        let known = self.known()?;
        let bare = names.iter().map(|name| name.split('=').next().unwrap_or(name));
        // apt reads arguments in a little language: `x-` removes x, `x.` is an expression, a virtual name becomes one of
        // its providers, all without a word. A name that a package has is taken as that name only.
        let unknown: Vec<&str> = bare.filter(|name| !known.contains(*name)).collect();
        if !unknown.is_empty() {
            return Err(explain::unknown_packages(&unknown, self.recipe, &archives)?.into());
        }
        let mut arguments = vec!["install", "--yes", "--print-uris", "?essential"];
        arguments.extend(names.iter().map(String::as_str));
        let output = self.run("apt-get", &arguments)?;
        let (stdout, stderr) = texts(&output);
        if !output.status.success() {
            return Err(explain::install(&stdout, &stderr, self.recipe, &archives)?.into());
        }
        let local = format!("file:{}/", self.path("local").display());
        Ok(parse_uris(&stdout).into_iter().filter(|uri| !uri.starts_with(&local)).collect())
    }

    /// The indices that apt keeps, in the order of the archives.
    ///
    /// # Errors
    /// When apt does not tell.
    pub(crate) fn indices(&self) -> Result<Vec<Index>> {
        let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(FILENAME)";
        let output = self.run("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
        let (stdout, stderr) = texts(&output);
        if !output.status.success() {
            return Err(Problem::work(format!("apt-get indextargets failed:\n{}", stderr.trim())).into());
        }
        let mut all = Vec::new();
        for origin in &self.origins {
            for line in stdout.lines() {
                let fields: Vec<&str> = line.splitn(4, '|').collect();
                if let [base, release, component, file] = fields[..]
                    && origin.has(base, release, component)
                {
                    all.push(Index { role: origin.role.clone(), base: base.to_owned(), file: file.into() });
                }
            }
        }
        Ok(all)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command: Command = host::command(program)?;
        command.env("APT_CONFIG", self.path("apt.conf")).env("LC_ALL", "C").env_remove("LANGUAGE");
        host::output(command.stdin(std::process::Stdio::null()).args(arguments))
    }
}

/// The path itself where it says nothing to apt, else a link to it that does not: white space, commas, quotation marks
/// and more end or change a value in apt's files, and none can be quoted everywhere.
fn plain(path: &Path) -> Result<(PathBuf, Option<TempDir>)> {
    let says_nothing = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.to_str().is_some_and(|text| text.chars().all(says_nothing)) {
        return Ok((path.to_owned(), None));
    }
    let folder = tempfile::Builder::new().prefix("edgepress-apt.").tempdir().context("making a folder")?;
    let link = folder.path().join("tree");
    symlink(path, &link).with_context(|| format!("linking {}", link.display()))?;
    Ok((link, Some(folder)))
}

struct Asked<'a> {
    apt: &'a Apt<'a>,
    elsewhere: &'a dyn Fn() -> Result<BTreeSet<String>>,
}

impl explain::Archives for Asked<'_> {
    fn known(&self) -> Result<BTreeSet<String>> {
        self.apt.known()
    }

    fn versions(&self, name: &str) -> Result<String> {
        Ok(texts(&self.apt.run("apt-cache", &["madison", name])?).0)
    }

    fn providers(&self, name: &str) -> Result<Vec<String>> {
        Ok(explain::providers(&texts(&self.apt.run("apt-cache", &["showpkg", name])?).0))
    }

    fn elsewhere(&self) -> Result<BTreeSet<String>> {
        (self.elsewhere)()
    }
}

impl Origin {
    fn has(&self, base: &str, release: &str, component: &str) -> bool {
        // apt writes file:///x as file:/x.
        let mine = self.url.replacen("file://", "file:", 1);
        let flat = self.components.is_empty() || self.suites.iter().any(|suite| suite.ends_with('/'));
        base.trim_end_matches('/') == mine
            && self.suites.iter().any(|suite| suite == release)
            && (flat || self.components.iter().any(|own| own == component))
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn configuration(root: &Path, recipe: &Recipe, host: &HostApt) -> String {
    let root = root.display();
    let arch = recipe.target.arch.debian();
    let mut text = format!(
        "Dir \"{root}\";\nDir::State \"{root}/state\";\nDir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\nDir::Log \"{root}/state\";\nDir::Etc \"{root}/etc\";\n\
         Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
         Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{root}/sources.d\";\n\
         Dir::Etc::preferences \"{root}/preferences\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::Etc::trusted \"/dev/null\";\nDir::Etc::trustedparts \"/dev/null\";\n\
         Dir::Etc::netrc \"{}\";\nDir::Etc::netrcparts \"{}\";\n\
         APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n",
        readable(&host.netrc[0]),
        readable(&host.netrc[1]),
    );
    text.push_str(&format!("APT::Install-Recommends \"{}\";\n", recipe.packages.recommends));
    text.push_str(FIXED);
    for (scheme, of, proxy) in &host.proxies {
        let of = of.as_ref().map(|host| format!("::{host}")).unwrap_or_default();
        text.push_str(&format!("Acquire::{scheme}::Proxy{of} \"{proxy}\";\n"));
    }
    text
}

/// Settings that are the same for every recipe.
const FIXED: &str = r#"APT::Install-Suggests "false";
APT::Solver "internal";
APT::Get::Always-Include-Phased-Updates "true";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Color "0";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Check-Valid-Until "true";
Acquire::Check-Date "true";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::PDiffs "false";
"#;

/// A path for apt's configuration, if this user may read what is there.
fn readable(path: &Path) -> String {
    let may = nix::unistd::access(path, nix::unistd::AccessFlags::R_OK).is_ok();
    if may { path.display().to_string() } else { "/dev/null".to_owned() }
}

fn source(origin: &Origin, arch: &str, keyring: &Path) -> Result<String> {
    let words = origin.suites.iter().chain(&origin.components);
    if let Some(bad) = words.clone().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
        let message = format!("archives.{}: `{bad}` is neither a suite nor a component", origin.role);
        return Err(Problem::input(message).into());
    }
    let components = match origin.components.join(" ") {
        none if none.is_empty() => none,
        some => format!("Components: {some}\n"),
    };
    Ok(format!(
        "Types: deb\nURIs: {}\nSuites: {}\n{components}Architectures: {arch}\nSigned-By: {}\n",
        origin.url,
        origin.suites.join(" "),
        keyring.display()
    ))
}

/// Pins: the recipe's own packages before any archive's, the runtime at the version asked for.
fn preferences(recipe: &Recipe, debs: &[LocalDeb]) -> String {
    let mut text = String::new();
    if !debs.is_empty() {
        let names: Vec<&str> = debs.iter().map(|deb| deb.name.as_str()).collect();
        text.push_str(&format!("Package: {}\nPin: origin \"\"\nPin-Priority: 1001\n\n", names.join(" ")));
    }
    if recipe.edge.from == EdgeSource::Archive {
        for (name, version) in runtime_pins(&recipe.edge.version) {
            // The second record forbids every other version: the first that matches decides (apt_preferences(5)).
            text.push_str(&format!(
                "Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n\
                 Package: {name}\nPin: version *\nPin-Priority: -1\n\n"
            ));
        }
    }
    text
}

/// Version patterns of the runtime's packages. `1.6` and `1.6.1` are lines; with a Debian revision (`1.6.1-1`) it is
/// that version of aziot-edge, and the same line of aziot-identity-service, which counts its patches by itself.
fn runtime_pins(version: &str) -> [(&'static str, String); 2] {
    let line = |version: &str| format!("/^{}([.~+-]|$)/", version.replace('.', "\\.").replace('+', "\\+"));
    let (edge, identity) = match version.split_once('-') {
        None => (line(version), line(version)),
        Some((upstream, _)) => {
            let minor: Vec<&str> = upstream.split('.').take(2).collect();
            (version.to_owned(), line(&minor.join(".")))
        }
    };
    [("aziot-edge", edge), ("aziot-identity-service", identity)]
}

/// The index of the recipe's own packages.
fn local_index(debs: &[LocalDeb]) -> String {
    let mut text = String::new();
    for deb in debs {
        for (name, value) in &deb.control.fields.0 {
            // The names below are ours to say.
            if !["Filename", "Size", "SHA256"].iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                text.push_str(&format!("{name}: {}\n", value.replace('\n', "\n ")));
            }
        }
        text.push_str(&format!(
            "Filename: ./{}.deb\nSize: {}\nSHA256: {}\n\n",
            deb.name, deb.size, deb.sha256
        ));
    }
    text
}

/// Without a Release file apt looks for every compression of the index and reports each as an error.
fn local_release(packages: &str) -> String {
    let digest = crate::units::Digest::of(packages);
    format!("Date: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n {digest} {} Packages\n", packages.len())
}

#[cfg(test)]
mod tests {
    use super::{HostApt, Origin, configuration, preferences, runtime_pins, source};
    use crate::lock::tests::recipe;
    use std::path::Path;

    #[test]
    fn nothing_of_the_host_s_configuration_is_inherited() {
        let proxy = ("http".to_owned(), Some("near.example".to_owned()), "DIRECT".to_owned());
        let host = HostApt { proxies: vec![proxy], ..HostApt::default() };
        let text = configuration(Path::new("/x"), &recipe(), &host);
        for line in [
            "Dir::Etc::main \"/dev/null\";",
            "Dir::Etc::parts \"/dev/null\";",
            "Acquire::Check-Valid-Until \"true\";",
            "APT::Architectures { \"amd64\"; };",
            "Acquire::http::Proxy::near.example \"DIRECT\";",
            "APT::Install-Recommends \"false\";",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_source_names_archive_and_key() {
        let mut origin = Origin {
            role: "debian".into(),
            url: "http://m.example/debian".into(),
            suites: vec!["bookworm".into(), "bookworm-updates".into()],
            components: vec!["main".into()],
        };
        let text = source(&origin, "amd64", Path::new("/k.gpg")).expect("renders");
        let expected = "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nArchitectures: amd64\nSigned-By: /k.gpg\n";
        assert_eq!(text, expected);
        assert!(origin.has("http://m.example/debian/", "bookworm-updates", "main"));
        assert!(!origin.has("http://m.example/debian-security/", "bookworm", "main"));
        origin.suites.push("a\nTrusted: yes".into());
        assert!(source(&origin, "amd64", Path::new("/k.gpg")).is_err());
    }

    #[test]
    fn the_runtime_is_pinned() {
        for (version, edge, identity) in [
            ("1.6", "/^1\\.6([.~+-]|$)/", "/^1\\.6([.~+-]|$)/"),
            ("1.6.1-1", "1.6.1-1", "/^1\\.6([.~+-]|$)/"),
        ] {
            let pins = runtime_pins(version).map(|(_, pin)| pin);
            assert_eq!(pins, [edge.to_owned(), identity.to_owned()]);
        }
        assert!(preferences(&recipe(), &[]).is_empty());
        let mut archive = recipe();
        archive.edge.from = crate::recipe::types::EdgeSource::Archive;
        assert!(
            preferences(&archive, &[]).contains("Package: aziot-edge\nPin: version *\nPin-Priority: -1\n")
        );
    }
}
