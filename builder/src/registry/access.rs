//! How one is let into a repository: by nothing, by name and password, or by a token, which ends sooner than a download may.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

use super::address::Address;
use super::token::{Asking, Token, basic};
use crate::error::Problem;
use crate::oci::challenge::{self, Bearer, Challenge};
use crate::oci::credentials::{Login, Secret};
use crate::store::net::{Answer, Client};

/// One repository, and what opens it.
pub(super) struct Access {
    pub(super) address: Address,
    pub(super) repository: String,
    login: Option<Login>,
    state: Mutex<State>,
}

/// What was found out.
#[derive(Default)]
struct State {
    /// What requests carry now.
    header: Option<Secret>,
    until: Option<Instant>,
    /// What the registry asked for last; a new token comes from there.
    bearer: Option<Bearer>,
}

impl State {
    fn take(&mut self, token: Token) -> Secret {
        (self.header, self.until) = (Some(token.header.clone()), Some(token.until));
        token.header
    }
}

impl Access {
    pub(super) fn new(address: Address, repository: String, login: Option<Login>) -> Self {
        let header = match &login {
            Some(Login::RegistryToken(token)) => Some(Secret::new(format!("Bearer {}", token.expose()))),
            _ => None,
        };
        Self { address, repository, login, state: Mutex::new(State { header, ..State::default() }) }
    }

    /// What the next request carries. A token that is about to end is replaced first.
    pub(super) fn header(&self, client: &Client) -> Result<Option<Secret>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.until.is_some_and(|until| until <= Instant::now())
            && let Some(bearer) = state.bearer.clone()
        {
            let token = self.asking(client).token(&bearer)?;
            return Ok(Some(state.take(token)));
        }
        Ok(state.header.clone())
    }

    /// What opens the repository after an answer 401 to a request with `sent`. Held while asking: of several downloads whose
    /// token has ended, one fetches the next.
    ///
    /// # Errors
    /// When nothing will: there is no login, or it is not taken.
    pub(super) fn renew(&self, client: &Client, answer: &Answer, sent: Option<&Secret>) -> Result<Secret> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(header) = state.header.as_ref().filter(|header| Some(*header) != sent) {
            return Ok(header.clone());
        }
        let headers = answer.headers().get_all("www-authenticate").iter();
        let wanted: Vec<Challenge> =
            headers.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let bearer = wanted.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Some(bearer.clone()),
            Challenge::Basic => None,
        });
        if let Some(bearer) = bearer {
            let token = self.asking(client).token(&bearer)?;
            state.bearer = Some(bearer);
            return Ok(state.take(token));
        }
        match &self.login {
            Some(Login::Password { user, password })
                if wanted.contains(&Challenge::Basic) && sent.is_none() =>
            {
                let header = basic(user, password);
                state.header = Some(header.clone());
                Ok(header)
            }
            _ => Err(self.denied(401).into()),
        }
    }

    fn asking<'a>(&'a self, client: &'a Client) -> Asking<'a> {
        let Self { address, repository, login, .. } = self;
        Asking { client, address, repository, login: login.as_ref() }
    }

    /// The registry says no, 401 or 403.
    pub(super) fn denied(&self, status: u16) -> Problem {
        let (host, repository) = (self.address.host(), &self.repository);
        let what = match (&self.login, status) {
            (None, _) => format!("{host} lets nobody pull {repository} without a login (HTTP {status})"),
            (Some(_), 401) => format!("{host} does not take the credentials for {repository} (HTTP 401)"),
            (Some(_), _) => {
                format!("{host} does not let these credentials pull {repository} (HTTP {status})")
            }
        };
        let hint = match self.login {
            None => format!(
                "docker login {host}, or name a file of credentials with --registry-auth; is the name right?"
            ),
            Some(_) => {
                format!("are they the right ones, and still good? docker login {host} writes them anew")
            }
        };
        Problem::work(what).hint(hint)
    }
}
