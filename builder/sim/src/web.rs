//! HTTP and HTTPS: which service a request is for, its fault, its answer, its line in the log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, UPGRADE, USER_AGENT};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::dns;
use super::door::{Seat, Seated, Standing};
use super::exchange::{Answer, Body, Headers, Request, Site};
use super::fault::Trouble;
use super::log::Line;
use super::serve::{PATIENCE, World, swallow};
use super::service::Service;
use super::tls::Client;

/// Largest request body.
const LARGEST_BODY: usize = 256 * 1024;
/// What a throttled client is told to wait, seconds.
const RETRY_AFTER: u32 = 5;
/// What a service answers that has lost its mind: the page of a captive portal, cut off, and bytes of no text.
const GARBAGE: &[u8] = b"<html><title>Welcome! Please sign in\0\xff\xfe\xfd";

/// The services over HTTP and how each is known.
pub(super) struct Web {
    sites: BTreeMap<Service, Arc<dyn Site>>,
    hosts: BTreeMap<Service, Host>,
}

/// An HTTPS service's names and certificates.
pub(super) struct Host {
    /// Lower case; `*` stands for any run of characters.
    pub names: Vec<String>,
    pub tls: Arc<ServerConfig>,
    /// With a certificate that nobody trusts.
    pub untrusted: Arc<ServerConfig>,
}

impl Host {
    fn certificate(&self, trouble: Option<Trouble>) -> Arc<ServerConfig> {
        if trouble == Some(Trouble::Untrusted) { self.untrusted.clone() } else { self.tls.clone() }
    }
}

impl Web {
    pub(super) fn new(sites: BTreeMap<Service, Arc<dyn Site>>, hosts: BTreeMap<Service, Host>) -> Self {
        Self { sites, hosts }
    }

    /// The certificate of a service, or the one that fits its trouble.
    pub(super) fn certificate(
        &self,
        service: Service,
        trouble: Option<Trouble>,
    ) -> Option<Arc<ServerConfig>> {
        self.hosts.get(&service).map(|host| host.certificate(trouble))
    }

    /// Whether a client that asks for this server name means this service, and no other that shares the listener.
    pub(super) fn is_named(&self, service: Service, name: &str) -> bool {
        let host = self.hosts.get(&service);
        host.is_some_and(|host| {
            host.names.iter().any(|known| dns::matches(known.as_bytes(), name.as_bytes()))
        })
    }

    /// The services that a client can mean by a server name: all where no one has that name.
    fn meant(&self, name: Option<&str>, listener: Service) -> Candidates {
        let named = |host: &Host| {
            name.is_some_and(|name| {
                host.names.iter().any(|known| dns::matches(known.as_bytes(), name.as_bytes()))
            })
        };
        let found: Vec<Service> =
            self.hosts.iter().filter(|(_, host)| named(host)).map(|(service, _)| *service).collect();
        match (found.first(), found.last()) {
            (Some(first), Some(last)) => Candidates { first: *first, rest: *last, all: found, named: true },
            _ => {
                let all = self.hosts.keys().copied().collect();
                Candidates { first: listener, rest: listener, all, named: false }
            }
        }
    }
}

/// The services that a connection's requests may be for.
#[derive(Debug, Clone)]
struct Candidates {
    /// Whose certificate is shown.
    first: Service,
    /// Whether the client asked for a name of ours.
    named: bool,
    /// Who answers where the path does not tell: of those that share a name, the last, which is the company's server.
    rest: Service,
    all: Vec<Service>,
}

impl Candidates {
    fn only(service: Service) -> Self {
        Self { first: service, rest: service, all: vec![service], named: false }
    }

    /// The service that a path is for.
    fn of(&self, path: &str) -> Service {
        owner(path).filter(|service| self.all.contains(service)).unwrap_or(self.rest)
    }
}

/// The service that such a path belongs to, wherever it is asked.
fn owner(path: &str) -> Option<Service> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match *segments.as_slice() {
        ["devices", _, "modules", ..] | ["$iothub", ..] => Some(Service::Hub),
        [".well-known", "est", ..] => Some(Service::Est),
        ["secrets" | "certificates", ..] => Some(Service::Vault),
        [_, "oauth2", "v2.0", "token"] => Some(Service::Token),
        [_, "registrations", ..] => Some(Service::Dps),
        _ => None,
    }
}

/// One connection, as its requests see it.
#[derive(Clone)]
struct Connection {
    world: Arc<World>,
    candidates: Candidates,
    peer: SocketAddr,
    client: Option<Arc<Client>>,
    seat: Arc<Seat>,
}

/// HTTPS: by the name that the client asks for, else by the path, else that of the listener.
pub(super) async fn https(world: Arc<World>, stream: Seated, peer: SocketAddr, listener: Service) {
    let seat = stream.seat();
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = match timeout(PATIENCE, acceptor).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return world.note(listener, peer, "connect", format!("no TLS: {error}")),
        Err(_) => return world.note(listener, peer, "connect", "no TLS handshake in time"),
    };
    let asked = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let candidates = world.web.meant(asked.as_deref(), listener);
    let service = candidates.first;
    let trouble = world.faults.strike_handshake(service);
    if trouble == Some(Trouble::Silent) {
        world.note(service, peer, "connect", "fault: silent");
        return swallow(start.io).await;
    }
    let Some(certificate) = world.web.certificate(service, trouble) else { return };
    let stream = match timeout(PATIENCE, start.into_stream(certificate)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let fault = trouble.map_or_else(String::new, |trouble| format!("fault: {trouble}; "));
            let note = format!("{fault}TLS handshake failed: {error}");
            return world.note(service, peer, "connect", note);
        }
        Err(_) => return world.note(service, peer, "connect", "TLS handshake not finished in time"),
    };
    let client = stream.get_ref().1.peer_certificates().and_then(Client::of).map(Arc::new);
    seat.stand(Standing::Encrypted);
    converse(Connection { world, candidates, peer, client, seat }, stream).await;
}

/// Plain HTTP.
pub(super) async fn http(world: Arc<World>, stream: Seated, peer: SocketAddr, service: Service) {
    let (candidates, seat) = (Candidates::only(service), stream.seat());
    converse(Connection { world, candidates, peer, client: None, seat }, stream).await;
}

async fn converse(connection: Connection, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let handler = service_fn(move |request| {
        let connection = connection.clone();
        async move {
            let seat = connection.seat.clone();
            seat.stand(Standing::Busy);
            let answer = respond(connection, request).await;
            seat.stand(Standing::Served);
            answer
        }
    });
    // The error is the client's: it went away or spoke no HTTP; what it asked for is logged already.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

type Response = hyper::Response<Full<Bytes>>;

async fn respond(
    connection: Connection,
    request: hyper::Request<Incoming>,
) -> Result<Response, hyper::http::Error> {
    let Connection { world, candidates, peer, client, seat: _ } = connection;
    let (head, body) = request.into_parts();
    let service = candidates.of(head.uri.path());
    let what = format!("{} {}", head.method, head.uri.path());
    let line =
        Line { what, client: client.as_ref().and_then(|it| it.common_name.clone()), ..Line::default() };
    let trouble = world.faults.strike(service);
    match trouble {
        Some(Trouble::Silent) => {
            world.log.add(service, peer, &Line { note: "fault: silent".into(), ..line });
            match std::future::pending::<Infallible>().await {}
        }
        Some(Trouble::Slow(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err((status, note)) => {
            world.log.add(service, peer, &Line { status: Some(status), note, ..line });
            return http_response(Answer { status, ..Answer::default() });
        }
    };
    let request = Request {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: headers(&head.headers),
        body: &body,
        client: client.as_deref(),
        named: candidates.named,
        now: world.now(),
    };
    let answer = match world.web.sites.get(&service) {
        Some(site) => answer(site.as_ref(), &request, trouble),
        None => Answer { status: 501, ..Answer::default() },
    };
    let (status, mark, note) = (Some(answer.status), answer.mark, answer.note.clone());
    world.log.add(service, peer, &Line { status, mark, note, ..line });
    http_response(answer)
}

fn headers(all: &HeaderMap) -> Headers<'_> {
    let text = |name: HeaderName| all.get(name).and_then(|value| value.to_str().ok());
    Headers {
        if_match: text(IF_MATCH),
        authorization: text(AUTHORIZATION),
        content_type: text(CONTENT_TYPE),
        metadata: text(HeaderName::from_static("metadata")),
        ms_version: text(HeaderName::from_static("x-ms-version")),
        user_agent: text(USER_AGENT),
        forwarded: all.contains_key("x-forwarded-for"),
        upgrade: all.contains_key(UPGRADE),
    }
}

/// A body of bounded size within bounded time, or the status and reason of the refusal.
async fn read(body: Incoming) -> Result<Bytes, (u16, String)> {
    match timeout(PATIENCE, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err((413, format!("body: {error}"))),
        Ok(Err(error)) => Err((400, format!("body: {error}"))),
        Err(_) => Err((408, "body not sent in time".into())),
    }
}

/// The service's answer, or what its trouble makes of it.
fn answer(site: &dyn Site, request: &Request<'_>, trouble: Option<Trouble>) -> Answer {
    let Some(trouble) = trouble else { return site.answer(request) };
    match trouble {
        Trouble::Throttled => {
            let answer = site.failure(request, 429, "fault: 429");
            return answer.header("retry-after", RETRY_AFTER.to_string());
        }
        Trouble::Broken => return site.failure(request, 500, "fault: 500"),
        Trouble::NotFound => return site.failure(request, 404, "fault: 404"),
        _ => {}
    }
    let mut answer = match trouble {
        Trouble::Wrong => site.wrong(request),
        Trouble::Garbage => garbage(site.answer(request)),
        _ => site.answer(request),
    };
    let name = if matches!(trouble, Trouble::Slow(_)) { "slow".into() } else { trouble.to_string() };
    answer.note = format!("{} fault: {name}", answer.note).trim_start().to_owned();
    answer
}

/// A good answer's status and type with what is none of that type; an error stays what it is.
fn garbage(answer: Answer) -> Answer {
    let media_type = match answer.body {
        Body::Bytes(media_type, _) => media_type,
        _ => JSON,
    };
    match answer.status {
        200..=299 => Answer { body: Body::Bytes(media_type, Cow::Borrowed(GARBAGE)), mark: None, ..answer },
        _ => answer,
    }
}

const JSON: &str = "application/json; charset=utf-8";

fn http_response(answer: Answer) -> Result<Response, hyper::http::Error> {
    let mut builder = hyper::Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            builder = builder.header(HeaderName::from_static(name), value);
        }
    }
    match answer.body {
        Body::Empty => builder.body(Full::default()),
        Body::Json(body) => {
            builder.header(CONTENT_TYPE, JSON).body(Full::from(body.to_string().into_bytes()))
        }
        Body::Bytes(media_type, bytes) => {
            builder.header(CONTENT_TYPE, media_type).body(Full::from(bytes.into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GARBAGE, Host, Web, answer};
    use crate::exchange::tests::request;
    use crate::exchange::{Answer, Body, Request, Site};
    use crate::fault::Trouble;
    use crate::log::Mark;
    use crate::pki::{Pki, server_names};
    use crate::service::Service;
    use crate::tls::server_config;
    use std::collections::BTreeMap;
    use time::OffsetDateTime;

    #[test]
    fn names_and_then_paths_tell_services_apart() {
        let certificate = Pki::issue_untrusted(&server_names(&["x"], &[]), OffsetDateTime::now_utc());
        let tls = server_config(certificate.expect("certificate")).expect("configuration");
        let host = |service, name: &str| {
            (service, Host { names: vec![name.into()], tls: tls.clone(), untrusted: tls.clone() })
        };
        let hosts = [
            host(Service::Dps, "dps.example"),
            host(Service::Hub, "hub.example"),
            host(Service::Est, "company.example"),
            host(Service::Vault, "*.vault.example"),
            host(Service::Token, "login.example"),
            host(Service::Files, "company.example"),
        ];
        let web = Web::new(BTreeMap::new(), BTreeMap::from(hosts));
        for (name, path, service) in [
            (Some("hub.example"), "/anything", Service::Hub),
            (Some("hub.example"), "/secrets/x", Service::Hub),
            (Some("a.vault.example"), "/", Service::Vault),
            (Some("company.example"), "/.well-known/est/cacerts", Service::Est),
            (Some("company.example"), "/devices/x/modules", Service::Files),
            (Some("other.example"), "/anything", Service::Dps),
            (None, "/anything", Service::Dps),
            (None, "/devices/x/modules/y", Service::Hub),
            (None, "/devices/x.pem", Service::Dps),
            (None, "/$iothub/websocket", Service::Hub),
            (None, "/.well-known/est/label/cacerts", Service::Est),
            (None, "/certificates/x", Service::Vault),
            (None, "/t/oauth2/v2.0/token", Service::Token),
            (None, "/s/registrations/x", Service::Dps),
        ] {
            assert_eq!(web.meant(name, Service::Dps).of(path), service, "{name:?} {path}");
        }
        assert_eq!(web.meant(Some("company.example"), Service::Dps).first, Service::Est);
    }

    /// Says what it was asked to be.
    struct Echo(u16);

    impl Site for Echo {
        fn answer_as(&self, _: &Request<'_>, wrong: bool) -> Answer {
            if wrong {
                return Answer::bytes("text/right", b"wrong");
            }
            Answer { status: self.0, ..Answer::bytes("text/right", b"right") }
                .mark(Some(Mark::SecretRead))
                .note("well")
        }

        fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
            Answer { status, ..Answer::default() }.note(note)
        }
    }

    #[test]
    fn troubles_make_their_answers() {
        let request = request("GET", "/", "");
        let body = |answer: &Answer| match &answer.body {
            Body::Bytes("text/right", bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        let slow = Trouble::Slow(std::time::Duration::ZERO);
        for (status, trouble, expected, content, note) in [
            (200, None, 200, &b"right"[..], "well"),
            (200, Some(Trouble::Throttled), 429, b"", "fault: 429"),
            (200, Some(Trouble::Broken), 500, b"", "fault: 500"),
            (200, Some(Trouble::NotFound), 404, b"", "fault: 404"),
            (200, Some(slow), 200, b"right", "well fault: slow"),
            (200, Some(Trouble::Wrong), 200, b"wrong", "fault: wrong"),
            (200, Some(Trouble::Garbage), 200, GARBAGE, "well fault: garbage"),
            (401, Some(Trouble::Garbage), 401, b"right", "well fault: garbage"),
        ] {
            let answer = answer(&Echo(status), &request, trouble);
            assert_eq!((answer.status, answer.note.as_str()), (expected, note));
            assert_eq!(body(&answer), content, "{note}");
            assert_eq!(answer.headers.len(), usize::from(expected == 429));
            assert_eq!(answer.mark.is_some(), content == b"right", "{note}");
        }
        assert!(serde_json::from_slice::<serde_json::Value>(GARBAGE).is_err());
    }
}
