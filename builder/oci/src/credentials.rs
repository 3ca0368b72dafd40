//! Whom a registry knows us as: the file that `docker login` and `podman login` write.
//!
//! ```text
//! {"auths":       {"registry.example": {"auth": "dXNlcjpwYXNz"},             base64 of user:password
//!                  "x.azurecr.io":     {"auth": "…", "identitytoken": "…"},    az acr login
//!                  "https://index.docker.io/v1/": {}},                         Docker Hub; empty: the store has it
//!  "credHelpers": {"y.example": "ecr-login"},                                  docker-credential-ecr-login
//!  "credsStore":  "secretservice"}                                             docker-credential-secretservice, for all others
//! ```
//! A key may name a part of a registry (`registry.example/factory`, podman's); the longest that fits is taken.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde::Deserialize;

use crate::error::Problem;
use crate::host;
use crate::reference::DOCKER_HUB;

/// Folder of docker's configuration, where it is not `~/.docker`.
const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
/// What docker calls Docker Hub in these files and to helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other names of Docker Hub.
const HUB_NAMES: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];
/// User name that says: the secret is an identity token (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";
/// Most bytes of such a file, and of a helper's answer. Tokens have a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to send it where it belongs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How one logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// By user name and password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: Secret,
    },
    /// By a token that the registry's token server takes for another one (OAuth's refresh token).
    IdentityToken(Secret),
    /// By a token that the registry itself takes.
    RegistryToken(Secret),
}

/// What such a file has. The default has nothing: every registry is asked without a name.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// By registry, or part of it.
    logins: BTreeMap<String, Login>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Credentials {
    /// Reads `explicit`; without it `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, which may be absent.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(explicit: Option<&Path>) -> Result<Self> {
        let Some(path) = explicit.map(Path::to_owned).or_else(default_file) else {
            return Ok(Self::default());
        };
        if explicit.is_none() && !path.exists() {
            return Ok(Self::default());
        }
        let file = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut text = String::new();
        let read = file.take(MAX_FILE).read_to_string(&mut text);
        read.with_context(|| format!("reading {}", path.display()))?;
        Ok(Self::parse(&text, &path.display().to_string())?)
    }

    /// Reads the text of such a file; `name` is what messages call it.
    ///
    /// # Errors
    /// When it is none. Nothing of its content is repeated.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problem> {
        let file: File = serde_json::from_str(text).map_err(|error| {
            // The error's own text may quote a value.
            let (line, column) = (error.line(), error.column());
            Problem::input(format!("{name} cannot be read: line {line}, column {column} is not as expected"))
                .hint("docker login writes it anew")
        })?;
        let mut logins = BTreeMap::new();
        for (key, auth) in file.auths {
            let login = auth.login().map_err(|why| {
                Problem::input(format!("{name}: the entry `{key}` {why}"))
                    .hint(format!("write it anew: docker login {}", normal(&key)))
            })?;
            if let Some(login) = login {
                logins.insert(normal(&key), login);
            }
        }
        let helpers = file.helpers.into_iter().map(|(key, helper)| (normal(&key), helper)).collect();
        Ok(Self { logins, helpers, store: file.store.filter(|name| !name.is_empty()) })
    }

    /// How one logs in at a registry (`HOST[:PORT]`) for a repository. Asks the credential helper that is for it.
    ///
    /// # Errors
    /// When a helper fails.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>> {
        let registry = normal(registry);
        if let Some(helper) = self.helpers.get(&registry).or(self.store.as_ref())
            && let Some(login) = ask(helper, &registry)?
        {
            return Ok(Some(login));
        }
        let mut key = format!("{registry}/{repository}");
        loop {
            if let Some(login) = self.logins.get(&key) {
                return Ok(Some(login.clone()));
            }
            match key.rfind('/') {
                Some(at) => key.truncate(at),
                None => return Ok(None),
            }
        }
    }
}

impl Auth {
    fn login(self) -> Result<Option<Login>, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Login::RegistryToken(Secret(self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Login::IdentityToken(Secret(self.identitytoken))));
        }
        if self.auth.is_empty() {
            let there = !self.username.is_empty() && !self.password.is_empty();
            return Ok(
                there.then_some(Login::Password { user: self.username, password: Secret(self.password) })
            );
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(self.auth.trim());
        let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or("has an `auth` that is not base64 of text")?;
        let (user, password) = text.split_once(':').ok_or("has an `auth` that is not USER:PASSWORD")?;
        // docker itself pads old entries with zero bytes.
        let password = password.trim_end_matches('\0');
        Ok(Some(Login::Password { user: user.to_owned(), password: Secret(password.to_owned()) }))
    }
}

/// A key as we compare it: without scheme, without the version of the protocol behind it, and Docker Hub by one name.
fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, rest) = key.split_once('/').map_or((key, None), |(host, rest)| (host, Some(rest)));
    let host = if HUB_NAMES.contains(&host) { DOCKER_HUB } else { host };
    rest.map_or(host.to_owned(), |rest| format!("{host}/{rest}"))
}

fn default_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder(DOCKER_CONFIG).or_else(|| Some(folder("HOME")?.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

/// Asks a helper, which may be any program of that name on the PATH (docker-credential-helpers, "Development").
fn ask(helper: &str, registry: &str) -> Result<Option<Login>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if helper.is_empty() || !helper.chars().all(plain) {
        return Err(Problem::input("the docker configuration names a credential helper that cannot be one")
            .hint("credsStore and credHelpers have the part behind `docker-credential-`")
            .into());
    }
    let program = format!("docker-credential-{helper}");
    let path = host::program(&program).map_err(|_| {
        Problem::work(format!("{program}, which has the credentials for {registry}, is not installed")).hint(
            "install it, or write a file of credentials without credsStore and credHelpers, and name that",
        )
    })?;
    answer_of(&path, registry).with_context(|| format!("asking {program} for the credentials for {registry}"))
}

/// What a helper says; nothing where it knows no login.
fn answer_of(program: &Path, registry: &str) -> Result<Option<Login>> {
    let (status, answer) = run(program, if registry == DOCKER_HUB { HUB_KEY } else { registry })?;
    let hint = || format!("run `{} get` by hand, with {registry} on its standard input", program.display());
    if !status.success() {
        // The one answer that is defined: there is no login for this registry.
        if String::from_utf8_lossy(&answer).contains("credentials not found") {
            return Ok(None);
        }
        return Err(Problem::work(format!("it failed: {status}")).hint(hint()).into());
    }
    let helped: Helped = serde_json::from_slice(&answer)
        .map_err(|_| Problem::work("its answer is not the JSON expected").hint(hint()))?;
    let secret = Secret(helped.secret);
    Ok(match helped.username.as_str() {
        _ if secret.0.is_empty() => None,
        TOKEN_USER => Some(Login::IdentityToken(secret)),
        _ => Some(Login::Password { user: helped.username, password: secret }),
    })
}

/// Runs a helper. Its answer goes nowhere but to its caller: not into an error, as by the runner of [`host`].
fn run(program: &Path, key: &str) -> Result<(ExitStatus, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting it")?;
    // A helper that does not read its input says in its answer what is wrong.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(key.as_bytes()));
    let mut answer = Vec::new();
    let stdout = child.stdout.take().context("opening its standard output")?;
    let read = stdout.take(MAX_FILE).read_to_end(&mut answer);
    let status = child.wait().context("waiting for it")?;
    read.context("reading its answer")?;
    Ok((status, answer))
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Login, Secret};
    use std::os::unix::fs::PermissionsExt as _;

    const FILE: &str = r#"{
        "auths": {
            "registry.example": {"auth": "dXNlcjpwYXM6cw=="},
            "https://registry.example/factory": {"username": "factory", "password": "geheim"},
            "x.azurecr.io": {"auth": "MDAwMDo=", "identitytoken": "idt"},
            "tok.example:5000": {"registrytoken": "regt"},
            "https://index.docker.io/v1/": {"auth": "aHViOmh1YnBhc3M="},
            "empty.example": {}
        },
        "HttpHeaders": {"User-Agent": "x"}
    }"#;

    fn password(user: &str, password: &str) -> Login {
        Login::Password { user: user.into(), password: Secret::new(password) }
    }

    #[test]
    fn the_login_of_a_registry() {
        let credentials = Credentials::parse(FILE, "config.json").expect("parses");
        let identity = Login::IdentityToken(Secret::new("idt"));
        let token = Login::RegistryToken(Secret::new("regt"));
        for (registry, repository, expected) in [
            ("registry.example", "pump", Some(password("user", "pas:s"))),
            ("registry.example", "factory/pump", Some(password("factory", "geheim"))),
            ("registry.example", "factory2/pump", Some(password("user", "pas:s"))),
            ("registry.example:5000", "pump", None),
            ("x.azurecr.io", "pump", Some(identity)),
            ("tok.example:5000", "pump", Some(token)),
            ("docker.io", "library/debian", Some(password("hub", "hubpass"))),
            ("empty.example", "x", None),
            ("other.example", "x", None),
        ] {
            let found = credentials.find(registry, repository).expect(registry);
            assert_eq!(found, expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credentials = Credentials::parse(FILE, "config.json").expect("parses");
        let shown = format!("{credentials:?}");
        for secret in ["pas:s", "geheim", "idt", "regt", "hubpass"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        for (text, what) in [
            (
                r#"{"auths": {"a.example": {"auth": "geheim!"}}}"#,
                "a.example` has an `auth` that is not base64",
            ),
            (r#"{"auths": {"a.example": {"auth": "Z2VoZWlt"}}}"#, "not USER:PASSWORD"),
            (r#"{"auths": {"a.example": {"auth": 1234567}}}"#, "line 1, column"),
            (r#"{"auths": {"a.example": "geheim"}}"#, "line 1, column"),
            ("geheim", "cannot be read"),
        ] {
            let error = Credentials::parse(text, "config.json").expect_err(what);
            assert!(error.message.contains(what) && error.hint.is_some(), "{error}");
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
            assert!(!format!("{error:?}").contains("1234567"), "{error:?}");
        }
    }

    #[test]
    fn helpers_are_asked_and_their_answers_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = r#"{"ServerURL":"x","Username":"<token>","Secret":"idt"}"#;
        for (number, (script, expected)) in [
            // As docker does: Docker Hub is asked for by its old address.
            (
                r#"read key; echo "{\"Username\":\"$1\",\"Secret\":\"$key\"}""#.to_owned(),
                Ok(Some(password("get", super::HUB_KEY))),
            ),
            (format!("cat >/dev/null; echo '{token}'"), Ok(Some(Login::IdentityToken(Secret::new("idt"))))),
            ("echo 'credentials not found in native keychain'; exit 1".to_owned(), Ok(None)),
            ("echo geheim; exit 1".to_owned(), Err("it failed: exit status: 1")),
            ("echo geheim".to_owned(), Err("not the JSON expected")),
            ("exec 0<&-; yes geheim".to_owned(), Err("it failed: ")),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("changes");
            match (super::answer_of(&path, "docker.io"), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(expected)) => {
                    let shown = format!("{error:?}");
                    assert!(shown.contains(expected) && !shown.contains("geheim"), "{shown}");
                }
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn helpers_that_cannot_be_are_refused() {
        for (file, what) in [
            (r#"{"credsStore": "../../bin/sh"}"#, "cannot be one"),
            (r#"{"credHelpers": {"a.example": "edgepress-absent"}}"#, "not installed"),
        ] {
            let credentials = Credentials::parse(file, "config.json").expect("parses");
            let error = credentials.find("a.example", "x").expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        }
        let credentials = Credentials::parse(r#"{"credHelpers": {"a.example": "x"}}"#, "f").expect("parses");
        assert_eq!(credentials.find("b.example", "x").expect("none"), None);
    }
}
