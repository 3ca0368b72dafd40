//! Requests to a registry for small things: let in, tried again, and their failures in words.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Error, Result};
use ureq::ResponseExt as _;
use url::Url;

use super::Registry;
use super::access::Access;
use crate::error::Problem;
use crate::store::download::is_misleading;
use crate::store::net::{Answer, Extras, retry_after};
use crate::store::pace::{Pace, Paced};

/// How often a request is tried again.
const RETRIES: u32 = 4;
/// The wait before the first new attempt; it doubles each time.
const BACKOFF: Duration = Duration::from_millis(400);

/// Why there is no answer.
pub(super) enum Again {
    /// The server is in trouble, or has enough of us: its status, and how long it wants to be left alone.
    Busy(u16, Option<Duration>),
    /// It cannot be reached, or not be followed.
    Failed(ureq::Error),
    /// It does not let us in; no further attempt helps.
    Refused(Error),
}

/// An answer, unless a later request may get another one.
pub(super) fn unless_busy(answer: Answer) -> Result<Answer, Again> {
    match answer.status().as_u16() {
        status @ (408 | 425 | 429 | 500..=599) => Err(Again::Busy(status, retry_after(&answer))),
        _ => Ok(answer),
    }
}

/// Sends a request until there is an answer, or it has failed too often. What the server says about waiting is done.
pub(super) fn persist(send: impl Fn() -> Result<Answer, Again>) -> Result<Answer, Again> {
    for attempt in 0..RETRIES {
        let wait = match send() {
            Err(Again::Busy(_, wait)) => wait,
            Err(Again::Failed(error)) if !is_misleading(&error) => None,
            settled => return settled,
        };
        std::thread::sleep(wait.unwrap_or(BACKOFF * 2u32.pow(attempt)));
    }
    send()
}

/// The body of an answer, in memory.
///
/// # Errors
/// What is wrong with it: too large, or it does not come to its end.
pub(super) fn body(answer: Answer, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let reader = Paced::new(answer.into_body().into_reader(), Pace::default());
    reader.take(most + 1).read_to_end(&mut bytes).map_err(|error| format!("it breaks off: {error}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("it has more than {} KiB", most >> 10));
    }
    Ok(bytes)
}

/// The failure of a request that was tried to the end.
pub(super) fn unreachable(what: &str, from: &str, again: Again) -> Error {
    let (why, hint) = match again {
        Again::Refused(error) => return error,
        Again::Busy(429, _) => (
            "the registry has enough of our requests (HTTP 429)".to_owned(),
            "wait some minutes; with a login, registries allow more, and a mirror takes its own (--mirror)",
        ),
        Again::Busy(status, _) => (
            format!("the server is in trouble (HTTP {status})"),
            "try again later, or name a mirror with --mirror",
        ),
        Again::Failed(ureq::Error::RequireHttpsOnly(to)) => (
            format!("the registry sends us on from https to {to}"),
            "nothing was asked there; is it the right registry?",
        ),
        Again::Failed(error) if format!("{error:?}").contains("InvalidCertificate") => (
            format!("its certificate is not trusted: {error}"),
            "put the authority's certificate into /etc/docker/certs.d/HOST:PORT/ca.crt, or into the system's",
        ),
        Again::Failed(error) => (
            error.to_string(),
            "is it reachable? A proxy goes into https_proxy or http_proxy, a mirror into --mirror",
        ),
    };
    Problem::work(format!("{what} cannot be fetched from {from}: {why}")).hint(hint).into()
}

impl Registry {
    /// One request, let in: after a 401 once more, with what the registry wants.
    ///
    /// # Errors
    /// When there is no answer; the inner one when the registry lets us in by nothing that we have.
    pub(super) fn once(
        &self,
        access: &Access,
        url: &Url,
        from: u64,
        extras: Extras<'_>,
    ) -> Result<Result<Answer, ureq::Error>> {
        let mut header = access.header(&self.client)?;
        // Twice: the first 401 may answer a token that has just ended, or that another download has replaced meanwhile.
        for _ in 0..2 {
            let sent = header.as_ref();
            let with = Extras { authorization: sent.map(|it| it.expose()), ..extras };
            match self.client.get_with(url, from, &with) {
                // What a server elsewhere asks for, to which we were redirected, it does not get.
                Ok(answer) if answer.status() == 401 && is_own(url, &answer) => {
                    header = Some(access.renew(&self.client, &answer, sent)?);
                }
                other => return judged(access, url, other),
            }
        }
        let with = Extras { authorization: header.as_ref().map(|it| it.expose()), ..extras };
        judged(access, url, self.client.get_with(url, from, &with))
    }

    /// A request, let in and tried again. A 404 is an answer.
    pub(super) fn ask(&self, what: &str, access: &Access, url: &Url, extras: Extras<'_>) -> Result<Answer> {
        let answer = persist(|| match self.once(access, url, 0, extras) {
            Ok(Ok(answer)) => unless_busy(answer),
            Ok(Err(error)) => Err(Again::Failed(error)),
            Err(error) => Err(Again::Refused(error)),
        });
        let answer = answer.map_err(|again| unreachable(what, access.address.host(), again))?;
        match answer.status().as_u16() {
            200 | 404 => Ok(answer),
            status => Err(Problem::work(format!("{what}: {} answers {status}", access.address.host()))
                .hint("is it a registry of container images?")
                .into()),
        }
    }
}

/// Does the answer come from the server that was asked, and not from one that it redirected to?
fn is_own(url: &Url, answer: &Answer) -> bool {
    Url::parse(&answer.get_uri().to_string()).is_ok_and(|from| from.origin() == url.origin())
}

fn judged(
    access: &Access,
    url: &Url,
    answer: Result<Answer, ureq::Error>,
) -> Result<Result<Answer, ureq::Error>> {
    match answer {
        Ok(answer) if matches!(answer.status().as_u16(), 401 | 403) && is_own(url, &answer) => {
            Err(access.denied(answer.status().as_u16()).into())
        }
        other => Ok(other),
    }
}
