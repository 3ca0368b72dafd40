//! Tokens: what a registry sends us elsewhere for.
//!
//! ```text
//! registry  401 WWW-Authenticate: Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"
//! password        GET  REALM?service=…&scope=…&account=…           Authorization: Basic …    ─► {"token": …, "expires_in": 300}
//! no login        GET  REALM?service=…&scope=…                                               ─►
//! identity token  POST REALM  grant_type=refresh_token&…                                     ─► {"access_token": …}
//! Entra's token   POST https://REGISTRY/oauth2/exchange  grant_type=access_token&…           ─► {"refresh_token": …}, then as above
//! ```

use std::time::{Duration, Instant};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use url::Url;

use super::address::Address;
use super::ask::{Again, body, persist, unless_busy, unreachable};
use crate::error::Problem;
use crate::oci::challenge::Bearer;
use crate::oci::credentials::{Login, Secret};
use crate::store::net::{Answer, Client, Extras, shown};

/// What we call ourselves to token servers.
const CLIENT: &str = "edgepress";
/// Most bytes of a token server's answer. Tokens have a few KiB.
const MAX_ANSWER: u64 = 256 << 10;
/// How long a token is good if nothing is said ("Token Authentication", `expires_in`).
const DEFAULT_LIFE: u64 = 60;
/// No token is kept for longer: it is cheap to ask again.
const LONGEST_LIFE: u64 = 24 * 3600;
/// So long before its end a token is not used any more: a request takes a while.
const MARGIN: Duration = Duration::from_secs(5);

/// A token that opens a repository for a while.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The header `Authorization`.
    pub header: Secret,
    /// Until when it is used.
    pub until: Instant,
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Exchanged {
    refresh_token: String,
}

/// Who asks, and where.
pub(super) struct Asking<'a> {
    pub client: &'a Client,
    pub address: &'a Address,
    pub repository: &'a str,
    pub login: Option<&'a Login>,
}

impl Asking<'_> {
    /// A token for what the registry demands.
    ///
    /// # Errors
    /// When the token server is not to be trusted with credentials, cannot be reached, or gives none.
    pub(super) fn token(&self, bearer: &Bearer) -> Result<Token> {
        let realm = self.realm(&bearer.realm)?;
        let pull = format!("repository:{}:pull", self.repository);
        let scope = bearer.scope.as_deref().unwrap_or(&pull);
        let service = bearer.service.as_deref().unwrap_or_default();
        let answer = match self.login {
            Some(Login::IdentityToken(token)) => {
                let refresh = self.refresh_token(token)?;
                self.post(
                    &realm,
                    &[
                        ("grant_type", "refresh_token"),
                        ("service", service),
                        ("client_id", CLIENT),
                        ("scope", scope),
                        ("refresh_token", refresh.expose()),
                    ],
                )?
            }
            Some(Login::Password { user, password }) => {
                self.get(&realm, service, scope, Some((user, password)))?
            }
            Some(Login::RegistryToken(_)) | None => self.get(&realm, service, scope, None)?,
        };
        let granted: Granted = self.read(&realm, answer)?;
        let Some(token) = granted.token.or(granted.access_token).filter(|token| !token.is_empty()) else {
            return Err(self.odd(&realm, "there is no token in its answer").into());
        };
        let life = Duration::from_secs(granted.expires_in.unwrap_or(DEFAULT_LIFE).min(LONGEST_LIFE));
        let until = Instant::now() + life.saturating_sub(MARGIN);
        Ok(Token { header: Secret::new(format!("Bearer {token}")), until })
    }

    /// The token server's address. It gets credentials: without TLS only where the registry itself goes without.
    fn realm(&self, text: &str) -> Result<Url> {
        let refused = |why: &str| {
            Problem::work(format!("the registry {} sends us for a token to {why}", self.address.host()))
                .hint("is it the right registry? Nothing was sent there")
        };
        let realm = Url::parse(text).map_err(|_| refused("what is no address"))?;
        match realm.scheme() {
            "https" => Ok(realm),
            "http" if self.address.is_plain() => Ok(realm),
            _ => Err(refused(&format!("{}, which is not https", plain(&realm))).into()),
        }
    }

    fn get(&self, realm: &Url, service: &str, scope: &str, login: Option<(&str, &Secret)>) -> Result<Answer> {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if !service.is_empty() {
                query.append_pair("service", service);
            }
            // A scope is a list: each of its words is a parameter of its own.
            for word in scope.split_whitespace() {
                query.append_pair("scope", word);
            }
            if let Some((user, _)) = login {
                query.append_pair("account", user).append_pair("client_id", CLIENT);
            }
        }
        let header = login.map(|(user, password)| basic(user, password));
        let extras = Extras { authorization: header.as_ref().map(Secret::expose), ..Extras::default() };
        self.sent(realm, || self.client.get_with(&url, 0, &extras))
    }

    fn post(&self, url: &Url, form: &[(&str, &str)]) -> Result<Answer> {
        self.sent(url, || self.client.post(url, form))
    }

    fn sent(&self, url: &Url, send: impl Fn() -> Result<Answer, ureq::Error>) -> Result<Answer> {
        let answer = persist(|| send().map_err(Again::Failed).and_then(unless_busy));
        let answer = answer.map_err(|error| unreachable("a token", &plain(url), error))?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            status @ (400 | 401 | 403) => Err(self.denied(url, status).into()),
            status => Err(self.odd(url, &format!("it answers {status}")).into()),
        }
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, url: &Url, answer: Answer) -> Result<T> {
        let bytes = body(answer, MAX_ANSWER).map_err(|why| self.odd(url, &why))?;
        // Not with the parser's own words: they may quote a token.
        serde_json::from_slice(&bytes)
            .map_err(|_| self.odd(url, "its answer is not the JSON expected").into())
    }

    /// A token of Entra (Azure's directory) becomes one of the registry; what the registry gave out is one already.
    fn refresh_token(&self, token: &Secret) -> Result<Secret> {
        if !is_entra(token.expose()) {
            return Ok(token.clone());
        }
        let url = self.address.base().join("oauth2/exchange").map_err(anyhow::Error::from)?;
        let form = [
            ("grant_type", "access_token"),
            ("service", self.address.host()),
            ("access_token", token.expose()),
        ];
        let answer = self.post(&url, &form)?;
        let exchanged: Exchanged = self.read(&url, answer)?;
        Ok(Secret::new(exchanged.refresh_token))
    }

    fn denied(&self, url: &Url, status: u16) -> Problem {
        let host = self.address.host();
        let (server, repository) = (plain(url), self.repository);
        match self.login {
            None => Problem::work(format!(
                "{host} lets nobody pull {repository} without a login ({server} answers {status})"
            ))
            .hint(format!(
                "docker login {host}, or name a file of credentials with --registry-auth; is the name right?"
            )),
            Some(_) => Problem::work(format!(
                "{host} does not take the credentials for {repository} ({server} answers {status})"
            ))
            .hint(format!("are they still good? docker login {host} writes them anew")),
        }
    }

    fn odd(&self, url: &Url, why: &str) -> Problem {
        Problem::work(format!(
            "no token for {}/{}: {} is odd, {why}",
            self.address.host(),
            self.repository,
            plain(url)
        ))
        .hint("try again; if it stays so, ask who runs the registry")
    }
}

/// The header of user name and password (RFC 7617).
pub(super) fn basic(user: &str, password: &Secret) -> Secret {
    let token = STANDARD.encode(format!("{user}:{}", password.expose()));
    Secret::new(format!("Basic {token}"))
}

/// An address without what may be secret in it.
fn plain(url: &Url) -> String {
    shown(url).split('?').next().unwrap_or_default().to_owned()
}

/// Is it a token of Entra, and not of a registry? Its issuer says so; nothing else in it is read.
fn is_entra(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        iss: String,
    }
    let payload = token.split('.').nth(1).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let claims: Option<Claims> = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let issuers =
        ["https://sts.windows.net/", "https://login.microsoftonline.", "https://sts.chinacloudapi.cn/"];
    claims.is_some_and(|claims| issuers.iter().any(|issuer| claims.iss.starts_with(issuer)))
}

#[cfg(test)]
mod tests {
    use super::{URL_SAFE_NO_PAD, is_entra};
    use base64::Engine as _;

    #[test]
    fn entras_tokens_are_known_by_their_issuer() {
        let token = |claims: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(claims));
        assert!(is_entra(&token(r#"{"iss":"https://sts.windows.net/tenant/","aud":"x"}"#)));
        for other in [r#"{"iss":"Azure Container Registry"}"#, r#"{"aud":"x"}"#, "[]", ""] {
            assert!(!is_entra(&token(other)), "{other}");
        }
        assert!(!is_entra("") && !is_entra("a.b.c") && !is_entra("opaque"));
    }
}
