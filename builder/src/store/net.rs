//! Which proxy and which credentials a request gets.
//!
//! apt's settings come before the environment's, as in apt itself: `Acquire::<scheme>::Proxy::<host>`, then
//! `Acquire::<scheme>::Proxy`, then `<scheme>_proxy`. Credentials are those of apt's `auth.conf` (apt_auth.conf(5)).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use ureq::tls::{Certificate, RootCerts};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use url::Url;

use super::resolve::Remembering;
use crate::error::Problem;

/// A name server that says nothing for so long is given up.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that brings nothing for so long is given up; the download goes on over a new one.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that wants to be left alone for longer is asked again after this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Of a connection, each way.
const BUFFER: usize = 64 << 10;
/// Most redirects that are followed; archives use one, vendors' downloads two or three.
const REDIRECTS: usize = 6;
/// What apt writes for "no proxy".
const DIRECT: &str = "DIRECT";

/// Proxies and credentials.
#[derive(Clone, Default)]
pub struct Settings {
    /// apt's proxies: scheme, the host it is for (none: every host), address or `DIRECT`.
    pub proxies: Vec<(String, Option<String>, String)>,
    /// apt's credentials.
    pub credentials: Vec<Credential>,
    /// `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, by lower-case name.
    pub environment: BTreeMap<String, String>,
    /// Servers, `HOST` or `HOST:PORT`, that are trusted by these certificates (DER) and not by the system's authorities.
    pub authorities: BTreeMap<String, Vec<Vec<u8>>>,
}

/// One `machine` line of apt's auth.conf.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `host[:port][/path]`, with `scheme://` before it when it is for one scheme only.
    pub machine: String,
    /// User name.
    pub login: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, …)", self.machine)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's address may hold a password.
        write!(f, "Settings({} proxies, {:?})", self.proxies.len(), self.credentials)
    }
}

impl Settings {
    /// The environment's proxy variables.
    pub fn environment() -> BTreeMap<String, String> {
        let names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        let value = |name: &str| {
            // HTTP_PROXY is left alone, as curl does: a CGI server sets it from a request's header.
            let upper = (name != "http_proxy").then(|| std::env::var(name.to_uppercase()).ok()).flatten();
            std::env::var(name).ok().or(upper).filter(|value| !value.is_empty())
        };
        names.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
    }

    /// The proxy for an address.
    fn proxy(&self, url: &Url) -> Option<&str> {
        let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
        let of = |wanted: Option<&str>| {
            self.proxies
                .iter()
                .find(|(s, h, _)| s == scheme && h.as_deref() == wanted)
                .map(|(_, _, proxy)| proxy)
        };
        if let Some(proxy) = of(Some(host)).or_else(|| of(None)) {
            return (proxy != DIRECT && !proxy.is_empty()).then_some(proxy);
        }
        let variable = |name: &str| self.environment.get(name).map(String::as_str);
        if variable("no_proxy").is_some_and(|list| excluded(list, host)) {
            return None;
        }
        variable(&format!("{scheme}_proxy")).or_else(|| variable("all_proxy"))
    }

    /// The server's own authorities, where it has some.
    fn authorities(&self, url: &Url) -> Option<(&String, &Vec<Vec<u8>>)> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let with_port = self.authorities.get_key_value(&format!("{host}:{port}"));
        with_port.or_else(|| self.authorities.get_key_value(host).filter(|_| url.port().is_none()))
    }

    /// The value of the header `Authorization` for an address.
    fn authorization(&self, url: &Url) -> Option<String> {
        let own = (!url.username().is_empty()).then(|| (url.username(), url.password().unwrap_or_default()));
        let configured = || {
            let found = self.credentials.iter().find(|credential| credential.fits(url))?;
            Some((found.login.as_str(), found.password.as_str()))
        };
        let (login, password) = own.or_else(configured)?;
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{login}:{password}"));
        Some(format!("Basic {token}"))
    }
}

impl Credential {
    fn fits(&self, url: &Url) -> bool {
        let (scheme, machine) = match self.machine.split_once("://") {
            Some((scheme, machine)) => (scheme, machine),
            // Without a scheme apt sends them over https only.
            None => ("https", self.machine.as_str()),
        };
        let (host, path) = machine.split_once('/').unwrap_or((machine, ""));
        let (host, port) = match host.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            // Without a port they are for every port.
            None => (host, url.port()),
        };
        let below = |prefix: &str| url.path().trim_start_matches('/').starts_with(prefix);
        scheme == url.scheme() && url.host_str() == Some(host) && port == url.port() && below(path)
    }
}

/// Is the host named by a `no_proxy` list?
fn excluded(list: &str, host: &str) -> bool {
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.trim_start_matches("*.").trim_start_matches('.');
        let parent = host.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        entry == "*" || parent
    })
}

/// Words of an auth.conf: `machine M login L password P`, in any layout; `#` begins a comment.
pub(crate) fn parse_credentials(text: &str) -> Vec<Credential> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut words = lines.flat_map(str::split_whitespace);
    let mut all: Vec<Credential> = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        match (word, all.last_mut()) {
            ("machine", _) => {
                all.push(Credential { machine: value(), login: String::new(), password: String::new() });
            }
            ("login", Some(last)) => last.login = value(),
            ("password", Some(last)) => last.password = value(),
            _ => {}
        }
    }
    all
}

/// An answer with its body still to be read.
pub(crate) type Answer = ureq::http::Response<ureq::Body>;

/// What a request says besides its address.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extras<'a> {
    /// Is only the head of the answer wanted?
    pub head: bool,
    /// Media types that are taken, the best first.
    pub accept: &'a [&'a str],
    /// The header `Authorization`. Only the server that was asked gets it, and none that it redirects to.
    pub authorization: Option<&'a str>,
}

/// The proxy, and the server whose authorities are its own.
type Way = (Option<String>, Option<String>);

/// Makes requests; keeps connections open for the next one.
pub(crate) struct Client {
    settings: Settings,
    agents: Mutex<BTreeMap<Way, ureq::Agent>>,
}

impl Client {
    /// With these proxies and credentials.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, agents: Mutex::default() }
    }

    /// Asks for `url` from byte `from` on, following redirects. Any other status is an answer.
    ///
    /// # Errors
    /// When there is no answer; when a redirect leads from https to anything else, or there are too many.
    pub(crate) fn get(&self, url: &Url, from: u64) -> Result<Answer, ureq::Error> {
        self.get_with(url, from, &Extras::default())
    }

    /// As [`Client::get`], saying more.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn get_with(&self, url: &Url, from: u64, extras: &Extras<'_>) -> Result<Answer, ureq::Error> {
        let (mut url, mut extras) = (url.clone(), *extras);
        for _ in 0..=REDIRECTS {
            let answer = self.ask(&url, from, &extras)?;
            let Some(next) = redirected(&url, &answer)? else { return Ok(answer) };
            if next.origin() != url.origin() {
                extras.authorization = None;
            }
            url = next;
        }
        Err(ureq::Error::TooManyRedirects)
    }

    /// Sends a form and follows no redirect: a form has secrets in it.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) fn post(&self, url: &Url, form: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
        self.agent(url)?.post(url.as_str()).send_form(form.iter().copied())
    }

    fn ask(&self, url: &Url, from: u64, extras: &Extras<'_>) -> Result<Answer, ureq::Error> {
        let agent = self.agent(url)?;
        let mut plain = url.clone();
        // Cannot fail: an address with a host takes both.
        let _ = (plain.set_username(""), plain.set_password(None));
        let mut request = if extras.head { agent.head(plain.as_str()) } else { agent.get(plain.as_str()) };
        if let Some(value) =
            extras.authorization.map(String::from).or_else(|| self.settings.authorization(url))
        {
            request = request.header("Authorization", value);
        }
        if !extras.accept.is_empty() {
            request = request.header("Accept", extras.accept.join(", "));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    fn agent(&self, url: &Url) -> Result<ureq::Agent, ureq::Error> {
        let (proxy, authorities) = (self.settings.proxy(url), self.settings.authorities(url));
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (proxy.map(String::from), authorities.map(|(server, _)| server.clone()));
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let roots = ureq::tls::TlsConfig::builder().root_certs(roots(authorities)).build();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Followed by us: each address has its own proxy and credentials, and none may leave https.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(RESOLVE_TIMEOUT))
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .user_agent(concat!("edgepress/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy.map(ureq::Proxy::new).transpose()?)
            .tls_config(roots)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .build();
        let resolver = Remembering::new(DefaultResolver::default());
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

/// Whom a server is trusted by.
fn roots(authorities: Option<(&String, &Vec<Vec<u8>>)>) -> RootCerts {
    let Some((_, certificates)) = authorities else { return RootCerts::PlatformVerifier };
    let own = certificates.iter().map(|der| Certificate::from_der(der).to_owned());
    RootCerts::new_with_certs(&own.collect::<Vec<_>>())
}

/// How long a server wants to be left alone (header `Retry-After`, in seconds), [`LONGEST_WAIT`] at most.
pub(crate) fn retry_after(answer: &Answer) -> Option<Duration> {
    let value = answer.headers().get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Where a redirect leads; nothing for an answer that is none.
fn redirected(from: &Url, answer: &Answer) -> Result<Option<Url>, ureq::Error> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
    let Some(location) = location else { return Ok(None) };
    next(from, location).map(Some)
}

/// The address of a redirect. Only what began without https may go on without it, and no server names a file of ours.
fn next(from: &Url, location: &str) -> Result<Url, ureq::Error> {
    let to = from.join(location).map_err(|error| ureq::Error::BadUri(error.to_string()))?;
    match to.scheme() {
        "https" => Ok(to),
        "http" if from.scheme() == "http" => Ok(to),
        // Behind a `?` may be a signature that opens the file to whoever has it.
        _ => Err(ureq::Error::RequireHttpsOnly(shown(&to).split('?').next().unwrap_or_default().to_owned())),
    }
}

/// An address without user name and password, for messages.
pub(crate) fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    let _ = (plain.set_username(""), plain.set_password(None));
    plain.to_string()
}

/// The address of `path` below the archive or folder `base`.
///
/// # Errors
/// When `base` is no address that files can be fetched from.
pub(crate) fn join(base: &str, path: &str) -> Result<Url> {
    let mut url = parse(base)?;
    url.path_segments_mut().ok().context("adding to an address")?.pop_if_empty().extend(path.split('/'));
    Ok(url)
}

/// Parses an address of the kinds that files are fetched from: `http`, `https` and `file`.
///
/// # Errors
/// When it is none.
pub(crate) fn parse(text: &str) -> Result<Url> {
    match Url::parse(text) {
        Ok(url) if ["http", "https", "file"].contains(&url.scheme()) => Ok(url),
        Ok(_) => Err(Problem::input(format!("the address `{text}` is of a kind that cannot be fetched"))
            .hint("expected http://, https:// or file://")
            .into()),
        Err(error) => Err(Problem::input(format!("`{text}` is not an address: {error}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Credential, Settings, join, next, parse, parse_credentials, shown};

    fn settings() -> Settings {
        let proxy =
            |scheme: &str, host: Option<&str>, to: &str| (scheme.into(), host.map(String::from), to.into());
        Settings {
            proxies: vec![
                proxy("http", None, "http://apt:3142/"),
                proxy("http", Some("near.example"), "DIRECT"),
            ],
            credentials: parse_credentials(
                "# comment\nmachine private.example/debian login me password s3cret\n\
                 machine http://plain.example\n  login you password word # more\nnonsense",
            ),
            environment: [
                ("https_proxy", "http://env:8080"),
                ("no_proxy", "localhost,.corp.example, 10.0.0.1"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            authorities: [("own.example".to_owned(), vec![]), ("own.example:5000".to_owned(), vec![])].into(),
        }
    }

    #[test]
    fn authorities_of_its_own_are_a_servers_and_a_ports() {
        for (url, expected) in [
            ("https://own.example/v2/", Some("own.example")),
            ("https://own.example:5000/v2/", Some("own.example:5000")),
            ("https://own.example:5001/v2/", None),
            ("https://other.example/", None),
        ] {
            let settings = settings();
            let found = settings.authorities(&parse(url).expect(url));
            assert_eq!(found.map(|(server, _)| server.as_str()), expected, "{url}");
        }
    }

    #[test]
    fn picks_the_proxy_as_apt_does() {
        for (url, expected) in [
            ("http://mirror.example/debian", Some("http://apt:3142/")),
            ("http://near.example/debian", None),
            ("https://mirror.example/debian", Some("http://env:8080")),
            ("https://a.corp.example/debian", None),
            ("https://corp.example/debian", None),
            ("https://notcorp.example/debian", Some("http://env:8080")),
            ("https://10.0.0.1/debian", None),
        ] {
            assert_eq!(settings().proxy(&parse(url).expect(url)), expected, "{url}");
        }
    }

    #[test]
    fn credentials_go_only_where_they_belong() {
        for (url, expected) in [
            ("https://private.example/debian/pool/a.deb", Some("Basic bWU6czNjcmV0")),
            ("https://private.example/other", None),
            ("http://private.example/debian/", None),
            ("https://private.example:8443/debian/", Some("Basic bWU6czNjcmV0")),
            ("http://plain.example/x", Some("Basic eW91OndvcmQ=")),
            ("https://own:pw@anywhere.example/x", Some("Basic b3duOnB3")),
        ] {
            assert_eq!(settings().authorization(&parse(url).expect(url)).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = format!("{:?}", settings());
        assert!(!text.contains("s3cret") && !text.contains("word"), "{text}");
        let credential = Credential { machine: "m".into(), login: "l".into(), password: "hidden".into() };
        assert!(!format!("{credential:?}").contains("hidden"));
        assert_eq!(shown(&parse("https://u:p@h.example/x").expect("parses")), "https://h.example/x");
    }

    #[test]
    fn a_redirect_never_leaves_https() {
        for (from, location, expected) in [
            ("https://a.example/x/y", "z", Some("https://a.example/x/z")),
            ("https://a.example/x", "https://b.example/z", Some("https://b.example/z")),
            ("http://a.example/x", "//b.example/z", Some("http://b.example/z")),
            ("http://a.example/x", "https://b.example/z", Some("https://b.example/z")),
            ("https://a.example/x", "http://a.example/x", None),
            ("http://a.example/x", "file:///etc/passwd", None),
            ("https://a.example/x", "ftp://a.example/x", None),
            ("https://a.example/x", "https://", None),
        ] {
            let found = next(&parse(from).expect(from), location).ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{from} {location}");
        }
    }

    #[test]
    fn joins_paths_to_bases() {
        for (base, path, expected) in [
            ("http://h/debian", "pool/a_1%3a2+b~c.deb", "http://h/debian/pool/a_1%253a2+b~c.deb"),
            ("http://h/debian/", "./a b.deb", "http://h/debian/a%20b.deb"),
            ("file:///srv/m", "pool/x.deb", "file:///srv/m/pool/x.deb"),
        ] {
            assert_eq!(join(base, path).expect(base).as_str(), expected);
        }
        assert!(join("ftp://h/debian", "x").is_err() && join("debian", "x").is_err());
    }
}
