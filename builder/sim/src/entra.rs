//! The token endpoint of Microsoft Entra ID, for clients that sign with a certificate.
//!
//! ```text
//! POST /{tenant}/oauth2/v2.0/token    200 {"token_type", "expires_in", "access_token"}
//!     grant_type=client_credentials & client_id & scope=https://vault.azure.net/.default
//!     & client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer & client_assertion
//! ```
//!
//! <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>; errors have the numbers of
//! Entra's messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use url::form_urlencoded;

use super::assertion::Assertion;
use super::config::Config;
use super::exchange::{Answer, Request, Site, uuid};
use super::tls::{Client, Group};
use super::tokens::{Tokens, counterfeit};
use edgepress_base::error::Problem;

/// How long a token holds, seconds.
const LIFE: u64 = 3599;
const GRANT: &str = "client_credentials";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// What a scope ends with that asks for all that a client may.
const DEFAULT: &str = "/.default";

pub(super) struct Entra {
    tokens: Arc<Tokens>,
    name: String,
    /// Certificates (DER) by client id; without any, the bootstrap authority's.
    clients: BTreeMap<String, CertificateDer<'static>>,
    bootstrap: Group,
}

/// A refusal: status, OAuth's word, the number of Entra's message, and the message.
struct Refused(u16, &'static str, u32, String);

impl Entra {
    pub(super) fn new(config: &Config, tokens: Arc<Tokens>) -> anyhow::Result<Self> {
        let certificate = |(id, pem): (&String, &String)| {
            let read = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
                Problem::input(format!("the certificate of the client {id} cannot be read: {error}"))
                    .hint("give the client's certificate in PEM form")
            });
            Ok::<_, anyhow::Error>((id.clone(), read?))
        };
        Ok(Self {
            tokens,
            name: config.token_name.clone(),
            clients: config.token_clients.iter().map(certificate).collect::<Result<_, _>>()?,
            bootstrap: Group::bootstrap(&config.pki)?,
        })
    }

    fn grant(&self, request: &Request<'_>, tenant: &str, wrong: bool) -> Result<Answer, Refused> {
        let form: BTreeMap<_, _> = form_urlencoded::parse(request.body).collect();
        let parameter = |name: &str| {
            form.get(name).map(AsRef::as_ref).filter(|value: &&str| !value.is_empty()).ok_or_else(|| {
                let why = format!("The request body must contain the following parameter: '{name}'");
                Refused(400, "invalid_request", 900_144, why)
            })
        };
        if parameter("grant_type")? != GRANT {
            let why = format!("expected the grant type {GRANT}");
            return Err(Refused(400, "unsupported_grant_type", 70_003, why));
        }
        let (client_id, scope) = (parameter("client_id")?, parameter("scope")?);
        let Some(audience) = scope.strip_suffix(DEFAULT).filter(|audience| !audience.contains(' ')) else {
            let why = format!("expected one scope that ends with {DEFAULT}");
            return Err(Refused(400, "invalid_scope", 1_002_012, why));
        };
        if parameter("client_assertion_type")? != ASSERTION {
            let why = format!("expected the client_assertion_type {ASSERTION}");
            return Err(Refused(400, "invalid_request", 7_000_218, why));
        }
        let remark = self.authenticate(request, tenant, client_id, parameter("client_assertion")?)?;
        let now = request.unix_seconds();
        let token =
            if wrong { counterfeit() } else { self.tokens.grant(audience, now, now.saturating_add(LIFE)) };
        let body = json!({
            "token_type": "Bearer",
            "expires_in": LIFE,
            "ext_expires_in": LIFE,
            "access_token": token,
        });
        Ok(Answer::json(200, body)
            .header("cache-control", "no-store, no-cache")
            .note(format!("a token for client {client_id}{remark}")))
    }

    /// Checks the client's assertion; the remark says what the real Entra would not have taken.
    fn authenticate(
        &self,
        request: &Request<'_>,
        tenant: &str,
        client_id: &str,
        assertion: &str,
    ) -> Result<&'static str, Refused> {
        let refused = |(code, why)| Refused(401, "invalid_client", code, why);
        let assertion = Assertion::read(assertion).map_err(refused)?;
        if self.clients.is_empty() {
            let brought = assertion.certificates();
            let chain: Vec<CertificateDer<'_>> =
                brought.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
            let client = Client::of(&chain).ok_or_else(|| {
                refused((700_027, "no client is registered, and the header brings no x5c".into()))
            })?;
            self.bootstrap
                .check(&client, request.unix_seconds())
                .map_err(|why| refused((700_027, format!("the certificate in x5c: {why}"))))?;
            assertion.verify(&chain[0]).map_err(refused)?;
        } else {
            let certificate = self.clients.get(client_id).ok_or_else(|| {
                let why = format!("Application with identifier '{client_id}' was not found in the directory");
                Refused(400, "unauthorized_client", 700_016, why)
            })?;
            assertion.verify(certificate).map_err(refused)?;
        }
        let ours = |address: &str| self.is_endpoint(address, tenant);
        assertion.check(client_id, ours, request.unix_seconds()).map_err(refused)?;
        let remark = "; ES256, which the real Entra does not take: use RS256 or PS256 there";
        Ok(if assertion.beyond_entra() { remark } else { "" })
    }

    /// Whether an address is this endpoint's, at whatever port.
    fn is_endpoint(&self, address: &str, tenant: &str) -> bool {
        let Some((host, path)) = address.strip_prefix("https://").and_then(|rest| rest.split_once('/'))
        else {
            return false;
        };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.eq_ignore_ascii_case(&self.name) && path == format!("{tenant}/oauth2/v2.0/token")
    }
}

impl Site for Entra {
    /// Wrong is a token that is worth nothing.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        let segments = request.segments().unwrap_or_default();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let tenant = match *segments.as_slice() {
            [tenant, "oauth2", "v2.0", "token"] if !tenant.is_empty() => tenant,
            _ => return refuse(request, &Refused(404, "invalid_request", 90_002, "no such path".into())),
        };
        if request.method != "POST" {
            let why = "Endpoint only accepts POST requests".into();
            return refuse(request, &Refused(405, "invalid_request", 900_561, why));
        }
        self.grant(request, tenant, wrong).unwrap_or_else(|refused| refuse(request, &refused))
    }

    fn failure(&self, request: &Request<'_>, status: u16, note: &str) -> Answer {
        let (word, code) = match status {
            404 => ("invalid_request", 90_002),
            429 => ("temporarily_unavailable", 90_025),
            _ => ("server_error", 90_033),
        };
        refuse(request, &Refused(status, word, code, note.to_owned()))
    }
}

/// Entra's own form of an error.
fn refuse(request: &Request<'_>, Refused(status, word, code, why): &Refused) -> Answer {
    let body = json!({
        "error": word,
        "error_description": format!("AADSTS{code}: {why}"),
        "error_codes": [code],
        "timestamp": request.time(),
        "trace_id": uuid(),
        "correlation_id": uuid(),
    });
    Answer::json(*status, body).note(format!("AADSTS{code}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::{ASSERTION, Entra};
    use crate::config::Config;
    use crate::exchange::tests::{json, request};
    use crate::exchange::{Answer, Request, Site as _};
    use crate::pki::{DeviceCertificate, DeviceOptions, Pki};
    use crate::tokens::{Refusal, Tokens, VAULT};
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use serde_json::{Value, json as value};
    use std::sync::Arc;
    use time::OffsetDateTime;
    use url::form_urlencoded;

    const PATH: &str = "/contoso/oauth2/v2.0/token";
    const ENDPOINT: &str = "https://login.microsoftonline.com/contoso/oauth2/v2.0/token";

    fn world(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Pki, Arc<Tokens>, Entra) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(folder.path()).expect("authorities");
        let mut config = Config::new(pki.clone());
        change(&mut config);
        let tokens = Arc::new(Tokens::default());
        let entra = Entra::new(&config, tokens.clone()).expect("endpoint");
        (folder, pki, tokens, entra)
    }

    fn now() -> i64 {
        OffsetDateTime::now_utc().unix_timestamp()
    }

    /// An assertion signed with ES256; `change` has its header and claims last.
    fn assertion(device: &DeviceCertificate, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let certificate = CertificateDer::from_pem_slice(device.chain_pem.as_bytes()).expect("certificate");
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut header = value!({
            "alg": "ES256",
            "x5t#S256": encode(&edgepress_base::units::Digest::of(&certificate).0),
            "x5c": [BASE64_STANDARD.encode(&certificate)],
        });
        let mut claims = value!({
            "aud": ENDPOINT, "iss": "client-1", "sub": "client-1", "jti": "1", "nbf": now(), "exp": now() + 600,
        });
        change(&mut header, &mut claims);
        let signed =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let key = PrivatePkcs8KeyDer::from_pem_slice(device.key_pem.as_bytes()).expect("key");
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &random)
            .expect("key");
        let signature = key.sign(&random, signed.as_bytes()).expect("signature");
        format!("{signed}.{}", encode(signature.as_ref()))
    }

    fn form(assertion: &str, change: &[(&str, &str)]) -> String {
        let usual = [
            ("grant_type", "client_credentials"),
            ("client_id", "client-1"),
            ("scope", "https://vault.azure.net/.default"),
            ("client_assertion_type", ASSERTION),
            ("client_assertion", assertion),
        ];
        let changed =
            |name: &str| change.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
        let pairs = usual.into_iter().map(|(name, value)| (name, changed(name).unwrap_or(value)));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }

    fn post(entra: &Entra, body: &str) -> Answer {
        entra.answer(&Request { body: body.as_bytes(), ..request("POST", PATH, "") })
    }

    #[test]
    fn a_signed_assertion_gets_a_token_for_the_vault() {
        let (_folder, pki, tokens, entra) = world(|_| ());
        let device = pki.issue_bootstrap("line-3", &DeviceOptions::default()).expect("issue");
        let body = form(&assertion(&device, |_, _| ()), &[]);
        let answer = post(&entra, &body);
        assert_eq!(answer.status, 200, "{}", answer.note);
        assert!(answer.note.contains("ES256"), "{}", answer.note);
        let body_json = json(&answer);
        assert_eq!((&body_json["token_type"], &body_json["expires_in"]), (&"Bearer".into(), &3599.into()));
        let token = body_json["access_token"].as_str().expect("token");
        let now = u64::try_from(now()).expect("after 1970");
        assert_eq!(tokens.check(token, VAULT, now), Ok(()));
        let wrong = entra.wrong(&Request { body: body.as_bytes(), ..request("POST", PATH, "") });
        let token = json(&wrong)["access_token"].as_str().expect("token");
        assert_eq!((wrong.status, tokens.check(token, VAULT, now)), (200, Err(Refusal::Unknown)));
        assert_eq!(entra.answer(&request("GET", PATH, "")).status, 405);
        assert_eq!(entra.answer(&request("POST", "/contoso/oauth2/token", "")).status, 404);
    }

    #[test]
    fn bad_assertions_are_refused() {
        let (_folder, pki, _, entra) = world(|_| ());
        let device = pki.issue_bootstrap("line-3", &DeviceOptions::default()).expect("issue");
        let stranger = pki.issue_bootstrap("line-3", &DeviceOptions::wrong_ca()).expect("issue");
        let good = assertion(&device, |_, _| ());
        let (signed, _) = good.rsplit_once('.').expect("signature");
        let (_, other) = assertion(&device, |_, claims| claims["jti"] = 2.into())
            .rsplit_once('.')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("signature");
        type Change = fn(&mut Value, &mut Value);
        let changed: [(&str, Change, u32); 14] = [
            ("iss", |_, claims| claims["iss"] = "x".into(), 700_021),
            ("sub", |_, claims| claims["sub"] = "x".into(), 700_021),
            ("aud", |_, claims| claims["aud"] = "https://vault.azure.net".into(), 700_023),
            ("aud", |_, claims| claims["aud"] = ENDPOINT.replace("contoso", "x").into(), 700_023),
            ("aud", |_, claims| claims["aud"] = ENDPOINT.replace("https", "http").into(), 700_023),
            ("aud", |_, claims| claims["aud"] = 7.into(), 700_023),
            ("expired", |_, claims| claims["exp"] = (now() - 600).into(), 700_024),
            ("too long", |_, claims| claims["exp"] = (now() + 2 * 86_400).into(), 700_024),
            ("early", |_, claims| claims["nbf"] = (now() + 3600).into(), 700_024),
            ("no exp", |_, claims| claims["exp"] = Value::Null, 50_027),
            ("alg none", |header, _| header["alg"] = "none".into(), 700_027),
            ("alg RS256", |header, _| header["alg"] = "RS256".into(), 700_027),
            ("thumbprint", |header, _| header["x5t#S256"] = "AAAA".into(), 700_027),
            ("no x5c", |header, _| header["x5c"] = value!([]), 700_027),
        ];
        let mut bad: Vec<(&str, String, u32)> = changed
            .into_iter()
            .map(|(what, change, code)| (what, assertion(&device, change), code))
            .collect();
        bad.extend([
            ("another CA", assertion(&stranger, |_, _| ()), 700_027),
            ("another's signature", format!("{signed}.{other}"), 700_027),
            ("cut", signed.to_owned(), 50_027),
            ("no JWT", "x".to_owned(), 50_027),
            ("no JSON", "eA.eA.eA".to_owned(), 50_027),
        ]);
        for (what, assertion, code) in bad {
            let answer = post(&entra, &form(&assertion, &[]));
            assert_eq!(answer.status, 401, "{what}: {}", answer.note);
            let body = json(&answer);
            assert_eq!(
                (&body["error"], &body["error_codes"][0]),
                (&"invalid_client".into(), &code.into()),
                "{what}"
            );
            assert!(body["error_description"].as_str().is_some_and(|it| it.starts_with("AADSTS")));
            assert!(!answer.note.contains(&assertion) || assertion.len() < 10, "{what}");
        }
        let ports = assertion(&device, |_, claims| {
            claims["aud"] = value!([ENDPOINT.replace(".com", ".com:10443")]);
        });
        assert_eq!(post(&entra, &form(&ports, &[])).status, 200, "whatever port it is forwarded from");
    }

    #[test]
    fn bad_forms_are_refused() {
        let (_folder, pki, _, entra) = world(|_| ());
        let device = pki.issue_bootstrap("line-3", &DeviceOptions::default()).expect("issue");
        let good = assertion(&device, |_, _| ());
        for (name, value, word) in [
            ("grant_type", "", "invalid_request"),
            ("grant_type", "password", "unsupported_grant_type"),
            ("client_id", "", "invalid_request"),
            ("scope", "", "invalid_request"),
            ("scope", "https://vault.azure.net", "invalid_scope"),
            ("scope", "a/.default b/.default", "invalid_scope"),
            ("client_assertion_type", "jwt", "invalid_request"),
            ("client_assertion", "", "invalid_request"),
        ] {
            let answer = post(&entra, &form(&good, &[(name, value)]));
            assert_eq!((answer.status, &json(&answer)["error"]), (400, &word.into()), "{name} {value}");
        }
        assert_eq!(post(&entra, "").status, 400);
    }

    #[test]
    fn registered_clients_need_no_x5c() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let elsewhere = Pki::open_or_create(folder.path()).expect("authorities");
        let device = elsewhere.issue_device("factory", &DeviceOptions::default()).expect("issue");
        let (_folder, pki, _, entra) = world(|config| {
            config.token_clients.insert("client-1".into(), device.chain_pem.clone());
        });
        let plain = assertion(&device, |header, _| header["x5c"] = value!([]));
        assert_eq!(post(&entra, &form(&plain, &[])).status, 200);
        let answer = post(&entra, &form(&plain, &[("client_id", "client-2")]));
        assert_eq!((answer.status, &json(&answer)["error"]), (400, &"unauthorized_client".into()));
        let bootstrap = pki.issue_bootstrap("line-3", &DeviceOptions::default()).expect("issue");
        assert_eq!(post(&entra, &form(&assertion(&bootstrap, |_, _| ()), &[])).status, 401);
        let mut config = Config::new(pki);
        config.token_clients.insert("client-1".into(), "no PEM".into());
        assert!(Entra::new(&config, Arc::default()).is_err());
    }
}
