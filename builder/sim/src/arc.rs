//! The metadata service of an Azure Arc agent: tokens for whoever can read a file of this machine.
//!
//! ```text
//! GET /metadata/identity/oauth2/token?api-version=2020-06-01&resource=…
//!     401 WWW-Authenticate: Basic realm=/path/to/<guid>.key    the file holds a key
//!     200 {"access_token", …}                                  with Authorization: Basic <the key>
//! ```
//!
//! As in <https://learn.microsoft.com/azure/azure-arc/servers/managed-identity-authentication>. A key is good once.

use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::config::Config;
use super::exchange::{Answer, Request, Site, hex, uuid};
use super::metadata::{Managed, improper, refuse};
use super::tls::random;
use super::tokens::Tokens;
use edgepress_base::error::Problem;

/// Challenges open at once; the oldest is forgotten and its file removed.
const MOST: usize = 16;

pub(super) struct Agent {
    managed: Managed,
    folder: PathBuf,
    open: Mutex<VecDeque<Challenge>>,
}

/// A key in a file, which is removed with it.
struct Challenge {
    path: PathBuf,
    /// Secret.
    key: String,
}

impl Drop for Challenge {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Challenge {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("{}.key", uuid()));
        let (first, second): ([u8; 32], [u8; 32]) = (random(), random());
        let key = format!("{}{}", hex(&first), hex(&second));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(key.as_bytes()));
        written.with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path, key })
    }
}

impl Agent {
    /// An agent that writes its challenges into `folder`, which must be there.
    pub(super) fn new(config: &Config, folder: &Path, tokens: Arc<Tokens>) -> Result<Self> {
        let folder = fs::canonicalize(folder).map_err(|error| {
            Problem::input(format!("Arc's challenges cannot be kept in {}: {error}", folder.display()))
                .hint("name a folder that exists, and that the device's programs can read")
        })?;
        Ok(Self { managed: Managed::new(&config.metadata, tokens), folder, open: Mutex::default() })
    }
}

impl Site for Agent {
    /// Wrong is a token that is worth nothing.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        if let Some(answer) = improper(request) {
            return answer;
        }
        if request.path.trim_end_matches('/') != "/metadata/identity/oauth2/token" {
            return refuse(404, "no such path");
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shown) = request.headers.credentials("Basic") else {
            return match Challenge::new(&self.folder) {
                Ok(challenge) => {
                    let realm = format!("Basic realm={}", challenge.path.display());
                    if open.len() >= MOST {
                        open.pop_front();
                    }
                    open.push_back(challenge);
                    refuse(401, "the challenge").header("www-authenticate", realm)
                }
                Err(error) => refuse(500, &format!("{error:#}")),
            };
        };
        let Some(at) = open.iter().position(|challenge| challenge.key == shown) else {
            return refuse(403, "not the contents of a challenge's file, or used before");
        };
        open.remove(at);
        self.managed.token(request, wrong)
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        refuse(status, note)
    }
}

#[cfg(test)]
mod tests {
    use super::{Agent, MOST};
    use crate::config::Config;
    use crate::exchange::tests::{json, request};
    use crate::exchange::{Headers, Request, Site as _};
    use crate::pki::Pki;
    use crate::tokens::{Tokens, VAULT};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    const PATH: &str = "/metadata/identity/oauth2/token";
    const QUERY: &str = "api-version=2020-06-01&resource=https://vault.azure.net";

    #[test]
    fn who_reads_the_file_gets_a_token_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let challenges = folder.path().join("tokens");
        let config = Config::new(Pki::open_or_create(&folder.path().join("pki")).expect("authorities"));
        let tokens = Arc::new(Tokens::default());
        assert!(Agent::new(&config, &challenges, tokens.clone()).is_err(), "no such folder");
        fs::create_dir(&challenges).expect("folder");
        let agent = Agent::new(&config, &challenges, tokens.clone()).expect("agent");
        let count = || fs::read_dir(&challenges).expect("list").count();

        let headers = Headers { metadata: Some("true"), ..Headers::default() };
        let ask = Request { headers, ..request("GET", PATH, QUERY) };
        assert_eq!(agent.answer(&Request { headers: Headers::default(), ..ask }).status, 400);
        let challenge = agent.answer(&ask);
        assert_eq!((challenge.status, challenge.headers[0].0), (401, "www-authenticate"));
        let path = challenge.headers[0].1.strip_prefix("Basic realm=").expect("realm");
        assert!(path.ends_with(".key"));
        assert_eq!(fs::metadata(path).expect("file").permissions().mode() & 0o777, 0o600);
        let key = fs::read_to_string(path).expect("key");
        assert!(!challenge.note.contains(&key));
        let with = |authorization| Headers { authorization: Some(authorization), ..headers };
        assert_eq!(agent.answer(&Request { headers: with("Basic x"), ..ask }).status, 403);
        let shown = format!("Basic {key}");
        let answer = agent.answer(&Request { headers: with(&shown), ..ask });
        let token = json(&answer)["access_token"].as_str().expect("token");
        assert_eq!(tokens.check(token, VAULT, ask.unix_seconds()), Ok(()));
        assert_eq!(count(), 0, "the file is gone");
        assert_eq!(agent.answer(&Request { headers: with(&shown), ..ask }).status, 403);

        for _ in 0..MOST + 3 {
            agent.answer(&ask);
        }
        assert_eq!(count(), MOST);
        drop(agent);
        assert_eq!(count(), 0);
    }
}
