//! Enrolment over Secure Transport (RFC 7030), as Azure/iot-identity-service's certd and first boot use it.
//!
//! ```text
//! GET  /.well-known/est[/label]/cacerts         200 the enrolment CA and its root; asked by anybody
//! POST /.well-known/est[/label]/simpleenroll    200 a certificate for the PKCS#10 in the body
//! POST /.well-known/est[/label]/simplereenroll  200 the same, for a certificate that renews itself
//! ```
//!
//! Certificates come as base64 of a PKCS#7 without signatures. Who may enrol: a user by password, a bootstrap
//! certificate, or (certd's second step) a certificate that was enrolled before, also under another name. Such a certificate may
//! come without its intermediate, as certd shows it when it renews `est-id`, unless the server is a strict one.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use time::Duration;

use super::config::Config;
use super::exchange::{Answer, Body, Request, Site};
use super::log::Mark;
use super::pkcs;
use super::pki::{Pki, Requested};
use super::tls::{Client, Group};

/// Characters in a line of base64; certd puts the lines between PEM's own.
const LINE: usize = 64;
const PKCS7: &str = "application/pkcs7-mime; smime-type=certs-only";
const PKCS10: &str = "application/pkcs10";
const TEXT: &str = "text/plain; charset=utf-8";
const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_END: &str = "-----END ";

pub(super) struct Est {
    pki: Pki,
    authorities: Vec<CertificateDer<'static>>,
    group: Group,
    bootstrap: Group,
    /// `user:password` (secret).
    basic: Option<String>,
    bootstrap_may: bool,
    group_may: bool,
    life: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    CaCerts,
    Enrol,
    Renew,
}

/// A refusal: status, and why.
type Refused = (u16, String);

impl Est {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            pki: config.pki.clone(),
            // A server knows who issues for it; certd renews `est-id` with the leaf alone.
            group: match config.est_strict {
                true => Group::enrolment(&config.pki)?,
                false => Group::enrolment(&config.pki)?.knowing(config.pki.enrolment_authorities()?),
            },
            authorities: config.pki.enrolment_authorities()?,
            bootstrap: Group::bootstrap(&config.pki)?,
            basic: config.est_basic.as_ref().map(|(user, password)| format!("{user}:{password}")),
            bootstrap_may: config.est_bootstrap,
            group_may: config.est_group,
            life: config.est_life,
        })
    }

    fn enrol(&self, request: &Request<'_>, action: Action, mistaken: bool) -> Result<Answer, Refused> {
        let who = match action {
            Action::Renew => self.member(request)?,
            _ => self.admit(request)?,
        };
        let bad = |why: String| (400, why);
        let media_type = request.headers.content_type.unwrap_or_default();
        if !media_type.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case(PKCS10)) {
            return Err((415, format!("expected the content type {PKCS10}")));
        }
        let (der, remark) = decode(request.body).map_err(bad)?;
        let requested = Requested::read(&der).map_err(bad)?;
        let name = &requested.common_name;
        if action == Action::Renew && request.client.and_then(|it| it.common_name.as_ref()) != Some(name) {
            return Err((403, format!("{name} asked for, {who}: a renewal keeps its name")));
        }
        let certificate = self
            .pki
            .issue_requested(&requested, request.now, self.life, mistaken)
            .map_err(|error| (500, format!("{error:#}")))?;
        let mark = (action == Action::Enrol).then_some(Mark::EstEnrolled);
        Ok(certificates(&[certificate]).mark(mark).note(format!("for {name}, {who}{remark}")))
    }

    /// Lets in who may enrol, and says who it was.
    fn admit(&self, request: &Request<'_>) -> Result<String, Refused> {
        if let (Some(known), Some(shown)) = (&self.basic, request.headers.credentials("Basic")) {
            if same(known, shown) {
                return Ok("by password".into());
            }
            if request.client.is_none() {
                return Err((401, "wrong user or password".into()));
            }
        }
        let client = request.client.ok_or_else(|| (401, "neither password nor certificate".to_owned()))?;
        let now = request.unix_seconds();
        let bootstrap = self.bootstrap.check(client, now);
        if self.bootstrap_may && bootstrap.is_ok() {
            return Ok("by bootstrap certificate".into());
        }
        match self.group.check(client, now) {
            Ok(()) if self.group_may => Ok(format!("by the certificate of {}", name_of(client))),
            Ok(()) => Err((403, "certificates of the enrolment group may not enrol here".into())),
            Err(_) => Err((403, bootstrap.err().unwrap_or_else(|| "bootstrap may not enrol here".into()))),
        }
    }

    /// Lets in who may renew: a member of the enrolment group.
    fn member(&self, request: &Request<'_>) -> Result<String, Refused> {
        let client =
            request.client.ok_or_else(|| (401, "no certificate: a renewal shows its own".to_owned()))?;
        self.group.check(client, request.unix_seconds()).map_err(|why| (403, why))?;
        Ok(format!("by the certificate of {}", name_of(client)))
    }

    /// RFC 7030 leaves the form of errors open: plain text.
    fn refuse(&self, (status, why): Refused) -> Answer {
        let answer = Answer { status, ..Answer::bytes(TEXT, format!("{why}\n")) }.note(why);
        match status {
            401 if self.basic.is_some() => {
                answer.header("www-authenticate", r#"Basic realm="estrealm", charset="UTF-8""#)
            }
            _ => answer,
        }
    }
}

impl Site for Est {
    /// Wrong is a certificate for another key than the one asked for.
    fn answer_as(&self, request: &Request<'_>, mistaken: bool) -> Answer {
        let Some(action) = action(request.path) else { return self.refuse((404, "no such path".into())) };
        let method = if action == Action::CaCerts { "GET" } else { "POST" };
        if request.method != method {
            return self.refuse((405, format!("expected {method}")));
        }
        let answer = match action {
            Action::CaCerts => Ok(certificates(&self.authorities)),
            _ => self.enrol(request, action, mistaken),
        };
        answer.unwrap_or_else(|refused| self.refuse(refused))
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        self.refuse((status, note.to_owned()))
    }
}

fn action(path: &str) -> Option<Action> {
    let segments: Vec<&str> = path.strip_prefix("/.well-known/est/")?.split('/').collect();
    let name = match *segments.as_slice() {
        [name] => name,
        [label, name] if !label.is_empty() => name,
        _ => return None,
    };
    match name {
        "cacerts" => Some(Action::CaCerts),
        "simpleenroll" => Some(Action::Enrol),
        "simplereenroll" => Some(Action::Renew),
        _ => None,
    }
}

fn name_of(client: &Client) -> &str {
    client.common_name.as_deref().unwrap_or("no common name")
}

/// Whether base64 of Basic is of these `user:password`.
fn same(known: &str, shown: &str) -> bool {
    BASE64_STANDARD.decode(shown).is_ok_and(|shown| shown == known.as_bytes())
}

/// The DER of a base64 body; the remark says what was tolerated.
fn decode(body: &[u8]) -> Result<(Vec<u8>, &'static str), String> {
    let text = std::str::from_utf8(body).map_err(|_| "the body is not base64: DER must be encoded")?;
    let armoured = text.trim_start().starts_with(PEM_BEGIN);
    let lines = text.lines().filter(|line| !(line.starts_with(PEM_BEGIN) || line.starts_with(PEM_END)));
    let encoded: String = lines.flat_map(|line| line.chars()).filter(|c| !c.is_ascii_whitespace()).collect();
    if encoded.is_empty() {
        return Err("the body is empty: expected base64 of a PKCS#10 request".into());
    }
    let der = BASE64_STANDARD.decode(encoded).map_err(|error| format!("the body is not base64: {error}"))?;
    let remark = "; tolerated: PEM's first and last line, which RFC 7030 does not have";
    Ok((der, if armoured { remark } else { "" }))
}

fn certificates(certificates: &[CertificateDer<'static>]) -> Answer {
    let encoded = BASE64_STANDARD.encode(pkcs::certificates_only(certificates));
    let mut body = Vec::with_capacity(encoded.len() + encoded.len() / LINE + 1);
    for line in encoded.as_bytes().chunks(LINE) {
        body.extend_from_slice(line);
        body.push(b'\n');
    }
    Answer { status: 200, body: Body::Bytes(PKCS7, body.into()), ..Answer::default() }
        .header("content-transfer-encoding", "base64")
}

#[cfg(test)]
mod tests {
    use super::{Est, LINE};
    use crate::config::Config;
    use crate::exchange::tests::request;
    use crate::exchange::{Answer, Body, Headers, Request, Site as _};
    use crate::log::Mark;
    use crate::pki::{DeviceOptions, Pki};
    use crate::tls::Client;
    use crate::tls::tests::client;
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use rcgen::{CertificateParams, DnType, IsCa, KeyPair};
    use time::{Duration, OffsetDateTime};
    use x509_parser::certificate::X509Certificate;
    use x509_parser::der_parser::parse_der;
    use x509_parser::prelude::FromDer as _;

    const ENROL: &str = "/.well-known/est/simpleenroll";
    const RENEW: &str = "/.well-known/est/simplereenroll";
    /// A request by `openssl req -new -newkey rsa:2048 -nodes -subj /CN=edge-rsa -outform DER`.
    const RSA: &str = "
        MIICWDCCAUACAQAwEzERMA8GA1UEAwwIZWRnZS1yc2EwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDEHL
        qBaxwWcfwwc8NawGAd0bc/LkzUWUEx1gqY4OgVFYd5Td9CT4/si2pljoebqu2018ZMi0tRzljQNNfUmyty2sLL8tyh
        Fq5eRVp1RrsxcUjwVRvITHEG/JQeIjfl5U6JFluwOcdiNNZ2PoN7kYTrpzMHB+ZkAZY66WzfajlESPtzNBsvHnchEs
        nfRi3pZS6+H2usThebSbSTVcdOp9VHQdBIq5ps7aw/efdzARuAil6ikvRjXqzhXGnKfocna0yMSNU7h+on0eT6cErc
        XRj9gYFqCExVU85v+2i67JQWuECklvsLNSaHJpGSnOUSDq+MBNY8sG9YeVasF9IvdHyZAgMBAAGgADANBgkqhkiG9w
        0BAQsFAAOCAQEACcQF0Vt4bvc7XCsxO7zFiWCQt9vCDeumf5vownrA5w0oiCj6UTiqM93lnDu1pW/1V53UJCfOI+Ik
        CL5ifUkQAwHQWcSfWXcPs+/89lfSds3sVexWZaG8oZpRCrnKnpTay6i/9Ts5ebPnOYwDJCFPR1d2sfCm2tls67Fpn/
        DBEjBJFsZGZZVIcc+PgmD2TBQiEN0q6mRgiAcjKKg5sRPIZyWh19TQCGee4WEPz+ZVuVdLZiwEI8g7kr9eEnVVHZzi
        N2//+jVocYfsdOng1YFzKfmXB9fmubkf5kN9AIDsNxNOf10KECR707DGsGnJmCoXebHk3djy3PRhA/IlCX17hw==
    ";

    fn world(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Config, Est) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = Config::new(Pki::open_or_create(folder.path()).expect("authorities"));
        change(&mut config);
        let est = Est::new(&config).expect("the server");
        (folder, config, est)
    }

    /// A request for a certificate of this name, P-256.
    fn asked(name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("key");
        BASE64_STANDARD.encode(params.serialize_request(&key).expect("request").der())
    }

    fn basic(config: &Config) -> String {
        let (user, password) = config.est_basic.clone().expect("user");
        format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
    }

    fn post<'a>(
        path: &'a str,
        body: &'a str,
        authorization: Option<&'a str>,
        client: Option<&'a Client>,
    ) -> Request<'a> {
        let content_type = Some("application/pkcs10");
        let headers = Headers { authorization, content_type, ..Headers::default() };
        Request { headers, client, body: body.as_bytes(), ..request("POST", path, "") }
    }

    /// The certificates in an answer.
    fn certificates(answer: &Answer) -> Vec<Vec<u8>> {
        let Body::Bytes(media_type, body) = &answer.body else { panic!("{answer:?}") };
        assert_eq!(answer.status, 200, "{}", answer.note);
        assert!(media_type.starts_with("application/pkcs7-mime"), "{media_type}");
        let text = std::str::from_utf8(body).expect("text");
        assert!(text.ends_with('\n') && text.lines().all(|line| line.len() <= LINE));
        let der = BASE64_STANDARD.decode(text.replace('\n', "")).expect("base64");
        let (_, parsed) = parse_der(&der).expect("PKCS#7");
        let content = parsed.as_sequence().expect("ContentInfo")[1].as_slice().expect("[0]").to_vec();
        let (_, signed) = parse_der(&content).expect("SignedData");
        let mut rest = signed.as_sequence().expect("SignedData")[3].as_slice().expect("[0]").to_vec();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (more, _) = X509Certificate::from_der(&rest).expect("certificate");
            let length = rest.len() - more.len();
            found.push(rest.drain(..length).collect());
        }
        found
    }

    fn subject(der: &[u8]) -> String {
        X509Certificate::from_der(der).expect("certificate").1.subject().to_string()
    }

    #[test]
    fn anybody_may_ask_for_the_authorities() {
        let (_folder, _, est) = world(|_| ());
        for path in ["/.well-known/est/cacerts", "/.well-known/est/factory-7/cacerts"] {
            let found = certificates(&est.answer(&request("GET", path, "")));
            let names: Vec<String> = found.iter().map(|der| subject(der)).collect();
            assert_eq!(
                names,
                ["CN=edgepress simulator enrolment CA", "CN=edgepress simulator enrolment root"]
            );
        }
        for (method, path, status) in [
            ("POST", "/.well-known/est/cacerts", 405),
            ("GET", ENROL, 405),
            ("GET", "/.well-known/est/fullcmc", 404),
            ("GET", "/.well-known/est//cacerts", 404),
            ("GET", "/cacerts", 404),
        ] {
            assert_eq!(est.answer(&request(method, path, "")).status, status, "{method} {path}");
        }
    }

    #[test]
    fn a_certificate_is_what_was_asked_for() {
        let (_folder, config, est) = world(|config| config.est_life = Duration::minutes(10));
        let basic = basic(&config);
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for (name, body, encipher) in
            [("edge-rsa", RSA.to_owned(), true), ("edge-1", asked("edge-1", |_| ()), false)]
        {
            let answer = est.answer(&post(ENROL, &body, Some(&basic), None));
            assert_eq!(answer.mark, Some(Mark::EstEnrolled));
            assert_eq!(answer.note, format!("for {name}, by password"));
            assert_eq!(answer.headers, [("content-transfer-encoding", "base64".to_owned())]);
            let found = certificates(&answer);
            assert_eq!(found.len(), 1);
            let (_, certificate) = X509Certificate::from_der(&found[0]).expect("certificate");
            assert_eq!(certificate.subject().to_string(), format!("CN={name}"));
            let usage = certificate.key_usage().expect("extension").expect("usage").value;
            assert_eq!((usage.digital_signature(), usage.key_encipherment()), (true, encipher));
            let purposes = certificate.extended_key_usage().expect("extension").expect("purposes").value;
            assert!(purposes.client_auth && !purposes.server_auth);
            let (start, end) = (certificate.validity().not_before, certificate.validity().not_after);
            assert!((now - 65..=now - 55).contains(&start.timestamp()), "a tenth back");
            assert!((now + 595..=now + 605).contains(&end.timestamp()));
        }
    }

    #[test]
    fn who_may_enrol() {
        let (_folder, config, est) = world(|_| ());
        let (_other, _, strict) = world(|config| {
            config.est_basic = None;
            config.est_bootstrap = false;
            config.est_group = false;
        });
        let good = DeviceOptions::default();
        let bootstrap = |options| client(&config.pki.issue_bootstrap("line-3", options).expect("issue"));
        let device = |options| client(&config.pki.issue_device("est-id", options).expect("issue"));
        let (shown, strange) = (bootstrap(&good), bootstrap(&DeviceOptions::wrong_ca()));
        let (id, expired) = (device(&good), device(&DeviceOptions::expired()));
        let right = basic(&config);
        let (body, wrong) = (asked("edge-1", |_| ()), "Basic ZGV2aWNlOng=");
        for (authorization, client, status) in [
            (None, None, 401),
            (Some(wrong), None, 401),
            (Some("Basic %"), None, 401),
            (Some("Bearer x"), None, 401),
            (Some(right.as_str()), None, 200),
            (None, Some(&shown), 200),
            (Some(wrong), Some(&shown), 200),
            (None, Some(&id), 200),
            (None, Some(&strange), 403),
            (None, Some(&expired), 403),
            (Some(right.as_str()), Some(&strange), 200),
        ] {
            let asked = post(ENROL, &body, authorization, client);
            let answer = est.answer(&asked);
            assert_eq!(answer.status, status, "{}", answer.note);
            let challenged = answer.headers.iter().any(|(name, _)| *name == "www-authenticate");
            assert_eq!(challenged, status == 401);
            assert!(!answer.note.contains(&config.est_basic.as_ref().expect("user").1));
            let refused = strict.answer(&asked);
            assert_eq!(refused.status, if client.is_none() { 401 } else { 403 }, "{}", refused.note);
        }
    }

    #[test]
    fn a_renewal_keeps_its_name() {
        let (_folder, config, est) = world(|config| config.est_group = false);
        let good = DeviceOptions::default();
        let own = client(&config.pki.issue_device("edge-1", &good).expect("issue"));
        let bootstrap = client(&config.pki.issue_bootstrap("edge-1", &good).expect("issue"));
        let expired = client(&config.pki.issue_device("edge-1", &DeviceOptions::expired()).expect("issue"));
        let (same, other) = (asked("edge-1", |_| ()), asked("edge-2", |_| ()));
        let basic = basic(&config);
        for (body, authorization, client, status) in [
            (&same, None, Some(&own), 200),
            (&other, None, Some(&own), 403),
            (&same, None, Some(&bootstrap), 403),
            (&same, None, Some(&expired), 403),
            (&same, Some(basic.as_str()), None, 401),
        ] {
            let answer = est.answer(&post(RENEW, body, authorization, client));
            assert_eq!((answer.status, answer.mark), (status, None), "{}", answer.note);
        }
    }

    #[test]
    fn bad_requests_are_refused() {
        let (_folder, config, est) = world(|_| ());
        let basic = basic(&config);
        let good = asked("edge-1", |_| ());
        let mut forged = BASE64_STANDARD.decode(&good).expect("base64");
        let at = forged.windows(6).position(|six| six == b"edge-1").expect("name");
        forged[at] = b'E';
        let forged = BASE64_STANDARD.encode(forged);
        let authority = asked("edge-1", |params| {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        });
        let p384 = {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
            let request = CertificateParams::default().serialize_request(&key).expect("request");
            BASE64_STANDARD.encode(request.der())
        };
        let long = asked(&"x".repeat(65), |_| ());
        let nameless = asked("", |params| params.distinguished_name = rcgen::DistinguishedName::new());
        for (body, why) in [
            ("", "empty"),
            ("%", "not base64"),
            ("AAAA", "not a PKCS#10"),
            (&good[..good.len() - 8], "not a PKCS#10"),
            (&forged, "signature"),
            (&authority, "for a CA"),
            (&p384, "expected"),
            (&long, "1 to 64"),
            (&nameless, "one common name"),
        ] {
            let answer = est.answer(&post(ENROL, body, Some(&basic), None));
            assert_eq!(answer.status, 400, "{why}");
            assert!(answer.note.contains(why), "{}", answer.note);
        }
        let typed = Headers {
            content_type: Some("application/json"),
            authorization: Some(&basic),
            ..Headers::default()
        };
        let answer = est.answer(&Request { headers: typed, ..post(ENROL, &good, None, None) });
        assert_eq!(answer.status, 415);

        let armoured =
            format!("-----BEGIN CERTIFICATE REQUEST-----\r\n{good}\r\n-----END CERTIFICATE REQUEST-----\r\n");
        let answer = est.answer(&post(ENROL, &armoured, Some(&basic), None));
        assert_eq!(answer.status, 200);
        assert!(answer.note.contains("tolerated"), "{}", answer.note);
    }

    /// certd renews `est-id` with the leaf alone: the server has issued it and knows by whom.
    #[test]
    fn a_leaf_without_its_intermediate_renews_itself_unless_the_server_is_strict() {
        for strict in [false, true] {
            let (_folder, config, est) = world(|config| config.est_strict = strict);
            let device = config.pki.issue_device("edge-1", &DeviceOptions::default()).expect("issue");
            let leaf = client(&device).leaf_alone();
            let body = asked("edge-1", |_| ());
            for path in [ENROL, RENEW] {
                let answer = est.answer(&post(path, &body, None, Some(&leaf)));
                assert_eq!(answer.status, if strict { 403 } else { 200 }, "{path}: {}", answer.note);
            }
            let other = config.pki.issue_device("edge-1", &DeviceOptions::wrong_ca()).expect("issue");
            let other = client(&other).leaf_alone();
            assert_eq!(est.answer(&post(RENEW, &body, None, Some(&other))).status, 403);
        }
    }

    #[test]
    fn a_wrong_certificate_is_for_another_key() {
        let (_folder, config, est) = world(|_| ());
        let (basic, body) = (basic(&config), asked("edge-1", |_| ()));
        let asked = post(ENROL, &body, Some(&basic), None);
        let key = |answer: &Answer| {
            let found = certificates(answer);
            let (_, certificate) = X509Certificate::from_der(&found[0]).expect("certificate");
            (subject(&found[0]), certificate.public_key().subject_public_key.data.to_vec())
        };
        let (right, wrong) = (key(&est.answer(&asked)), key(&est.wrong(&asked)));
        assert_eq!(right.0, wrong.0);
        assert_ne!(right.1, wrong.1);
        assert_eq!(right, key(&est.answer(&asked)));
    }
}
