//! A company's own server, from which a device fetches its certificate and key.
//!
//! ```text
//! GET /<anything>/{id}[.pem]  200 key and chain in one PEM
//! GET /<anything>/{id}.pfx    200 the same as PFX
//! ```
//!
//! Given to whoever shows a bootstrap certificate or the bearer token.

use std::sync::Arc;

use super::config::Config;
use super::exchange::{Answer, Request, Site};
use super::identities::Identities;
use super::log::Mark;
use super::tls::Group;

const PEM: &str = "application/x-pem-file";
const PFX: &str = "application/x-pkcs12";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) struct Files {
    identities: Arc<Identities>,
    bootstrap: Group,
    /// Secret.
    token: Option<String>,
}

impl Files {
    pub(super) fn new(config: &Config, identities: Arc<Identities>) -> anyhow::Result<Self> {
        let bootstrap = Group::bootstrap(&config.pki)?;
        Ok(Self { identities, bootstrap, token: config.files_token.clone() })
    }

    /// Lets in who may fetch, and says who it was.
    fn admit(&self, request: &Request<'_>) -> Result<&'static str, (u16, String)> {
        let shown = request.headers.credentials("Bearer");
        if shown.is_some() && shown == self.token.as_deref() {
            return Ok("by token");
        }
        match (request.client, shown) {
            (None, None) => Err((401, "neither token nor certificate".into())),
            (None, Some(_)) => Err((403, "wrong token".into())),
            (Some(client), _) => match self.bootstrap.check(client, request.unix_seconds()) {
                Ok(()) => Ok("by bootstrap certificate"),
                Err(why) => Err((403, why)),
            },
        }
    }
}

impl Site for Files {
    /// Wrong is certificate and key of another registration id.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        if request.method != "GET" {
            return refuse(405, "expected GET");
        }
        let who = match self.admit(request) {
            Ok(who) => who,
            Err((status, why)) => return refuse(status, &why),
        };
        let segments = request.segments().unwrap_or_default();
        let Some((name, folders)) = segments.split_last() else { return refuse(404, "no such path") };
        if folders.is_empty() {
            return refuse(404, "expected a folder and a file, as in /devices/edge-1.pem");
        }
        let (id, pfx) = match name.strip_suffix(".pfx") {
            Some(id) => (id, true),
            None => (name.strip_suffix(".pem").unwrap_or(name), false),
        };
        match self.identities.get(id, request.now, wrong) {
            Ok(identity) => {
                let answer = match pfx {
                    true => Answer::bytes(PFX, identity.pfx.clone()),
                    false => Answer::bytes(PEM, identity.pem.clone()),
                };
                answer.mark(Some(Mark::IdentityServed)).note(format!("for {id}, {who}"))
            }
            Err(why) => refuse(404, &why),
        }
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        refuse(status, note)
    }
}

fn refuse(status: u16, why: &str) -> Answer {
    let answer = Answer { status, ..Answer::bytes(TEXT, format!("{why}\n")) }.note(why);
    if status == 401 { answer.header("www-authenticate", "Bearer realm=\"devices\"") } else { answer }
}

#[cfg(test)]
mod tests {
    use super::Files;
    use crate::config::Config;
    use crate::exchange::tests::request;
    use crate::exchange::{Body, Headers, Request, Site as _};
    use crate::identities::Identities;
    use crate::log::Mark;
    use crate::pki::{DeviceOptions, Pki};
    use crate::tls::Client;
    use crate::tls::tests::client;
    use std::sync::Arc;

    fn world() -> (tempfile::TempDir, Config, Files) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = Config::new(Pki::open_or_create(folder.path()).expect("authorities"));
        let files = Files::new(&config, Arc::new(Identities::new(config.pki.clone()))).expect("the server");
        (folder, config, files)
    }

    #[test]
    fn who_may_fetch() {
        let (_folder, config, files) = world();
        let good = DeviceOptions::default();
        let bootstrap = |options| client(&config.pki.issue_bootstrap("line-3", options).expect("issue"));
        let device = client(&config.pki.issue_device("edge-1", &good).expect("issue"));
        let token = format!("Bearer {}", config.files_token.as_deref().expect("token"));
        let (shown, expired) = (bootstrap(&good), bootstrap(&DeviceOptions::expired()));
        for (client, authorization, status) in [
            (None, None, 401),
            (None, Some("Bearer x"), 403),
            (None, Some("Basic x"), 401),
            (None, Some(token.as_str()), 200),
            (Some(&shown), None, 200),
            (Some(&shown), Some("Bearer x"), 200),
            (Some(&device), None, 403),
            (Some(&device), Some(token.as_str()), 200),
            (Some(&expired), None, 403),
        ] {
            let client: Option<&Client> = client;
            let headers = Headers { authorization, ..Headers::default() };
            let answer =
                files.answer(&Request { headers, client, ..request("GET", "/devices/edge-1.pem", "") });
            assert_eq!(answer.status, status, "{authorization:?}: {}", answer.note);
            assert_eq!(answer.mark, (status == 200).then_some(Mark::IdentityServed));
            assert!(!answer.note.contains("PRIVATE") && !answer.note.contains(&token[7..]));
        }
    }

    #[test]
    fn what_is_served() {
        let (_folder, config, files) = world();
        let shown = config.pki.issue_bootstrap("x", &DeviceOptions::default()).expect("issue");
        let shown = client(&shown);
        let ask = |method, path| Request { client: Some(&shown), ..request(method, path, "") };
        let bytes = |path| match files.answer(&ask("GET", path)).body {
            Body::Bytes(media_type, bytes) => (media_type, bytes),
            other => panic!("{other:?}"),
        };
        let (media_type, pem) = bytes("/a/b/edge-1");
        assert_eq!((media_type, &pem), ("application/x-pem-file", &bytes("/edge/edge-1.pem").1));
        assert_eq!(bytes("/a/edge-1.pfx").0, "application/x-pkcs12");
        assert_ne!(files.wrong(&ask("GET", "/a/edge-1")).body, Body::Bytes(media_type, pem));
        for (method, path, status) in
            [("GET", "/edge-1", 404), ("GET", "/a/", 404), ("GET", "/a/.pem", 404), ("PUT", "/a/b", 405)]
        {
            assert_eq!(files.answer(&ask(method, path)).status, status, "{path}");
        }
    }
}
