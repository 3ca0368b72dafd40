//! Azure Key Vault, as far as a device reads its certificate there.
//!
//! ```text
//! GET /secrets/{name}[/{version}]?api-version=7.4       200 value: key and chain, PEM or PFX
//! GET /certificates/{name}[/{version}]?api-version=7.4  200 cer: the certificate alone, without its key
//! ```
//!
//! Shapes as in <https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret>.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::config::{Config, SecretContent, TENANT, VaultSecret};
use super::exchange::{Answer, Request, Site};
use super::identities::{Identities, Identity};
use super::log::Mark;
use super::tokens::{Refusal, Tokens, VAULT};

/// Longest name of a secret.
const LONGEST_NAME: usize = 127;
/// Length of a version, in hexadecimal digits.
const VERSION: usize = 32;

pub(super) struct Vault {
    tokens: Arc<Tokens>,
    identities: Arc<Identities>,
    secrets: Vec<VaultSecret>,
    name: String,
    /// Where tokens are to be had.
    authority: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Certificate,
}

impl Vault {
    pub(super) fn new(config: &Config, tokens: Arc<Tokens>, identities: Arc<Identities>) -> Self {
        Self {
            tokens,
            identities,
            secrets: config.vault_secrets.clone(),
            name: config.vault_name.clone(),
            authority: format!("https://{}/{TENANT}", config.token_name),
        }
    }

    /// Lets in who brings a token for a vault.
    fn admit(&self, request: &Request<'_>) -> Result<(), Box<Answer>> {
        let unauthorized = |why: &str| {
            let challenge = format!("Bearer authorization=\"{}\", resource=\"{VAULT}\"", self.authority);
            Box::new(error(401, "Unauthorized", why).header("www-authenticate", challenge))
        };
        let token = request.headers.credentials("Bearer").ok_or_else(|| unauthorized("no bearer token"))?;
        match self.tokens.check(token, VAULT, request.unix_seconds()) {
            Ok(()) => Ok(()),
            Err(Refusal::Unknown) => Err(unauthorized("a token that nobody here gave out")),
            Err(Refusal::Expired) => Err(unauthorized("an expired token")),
            Err(Refusal::Elsewhere) => Err(Box::new(error(403, "Forbidden", "a token for another audience"))),
        }
    }

    /// A secret that is no certificate, such as a password.
    fn text(&self, text: &str, name: &str, version: Option<&str>) -> Answer {
        let version = version.map_or_else(|| "0".repeat(VERSION), str::to_owned);
        let id = format!("https://{}/secrets/{name}/{version}", self.name);
        let attributes =
            json!({ "enabled": true, "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90 });
        Answer::json(200, json!({ "value": text, "id": id, "attributes": attributes }))
    }

    fn secret(&self, identity: &Identity, name: &str, version: Option<&str>, pfx: bool) -> Answer {
        let value = if pfx { BASE64_STANDARD.encode(&identity.pfx) } else { identity.pem.clone() };
        let body = json!({
            "value": value,
            "contentType": content_type(pfx),
            "id": self.id("secrets", identity, name, version),
            "managed": true,
            "attributes": attributes(identity),
            "kid": self.id("keys", identity, name, version),
        });
        Answer::json(200, body).mark(Some(Mark::SecretRead))
    }

    fn certificate(&self, identity: &Identity, name: &str, version: Option<&str>, pfx: bool) -> Answer {
        let thumbprint = Sha1::digest(&identity.certificate);
        let body = json!({
            "id": self.id("certificates", identity, name, version),
            "kid": self.id("keys", identity, name, version),
            "sid": self.id("secrets", identity, name, version),
            "x5t": BASE64_URL_SAFE_NO_PAD.encode(thumbprint),
            "cer": BASE64_STANDARD.encode(&identity.certificate),
            "contentType": content_type(pfx),
            "attributes": attributes(identity),
        });
        Answer::json(200, body)
    }

    /// An object's identifier; the version is the one asked for, else the only one there is.
    fn id(&self, kind: &str, identity: &Identity, name: &str, version: Option<&str>) -> String {
        let digest = identity.thumbprint.to_string();
        let version = version.unwrap_or_else(|| digest.get(..VERSION).unwrap_or(&digest));
        format!("https://{}/{kind}/{name}/{version}", self.name)
    }
}

impl Site for Vault {
    /// Wrong is certificate and key of another registration id.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        let segments = request.segments().unwrap_or_default();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (kind, name, version) = match *segments.as_slice() {
            ["secrets", name] | ["secrets", name, ""] => (Kind::Secret, name, None),
            ["secrets", name, version] => (Kind::Secret, name, Some(version)),
            ["certificates", name] | ["certificates", name, ""] => (Kind::Certificate, name, None),
            ["certificates", name, version] => (Kind::Certificate, name, Some(version)),
            _ => return error(404, "NotFound", "no such path"),
        };
        if request.method != "GET" {
            return error(405, "MethodNotAllowed", "expected GET");
        }
        if let Err(refusal) = self.admit(request) {
            return *refusal;
        }
        if !request.parameter("api-version").as_deref().is_some_and(api_version) {
            return error(400, "BadParameter", "the query lacks api-version=7.4");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
            return error(400, "BadParameter", "a secret's name has 1 to 127 letters, digits and `-`");
        }
        if version.is_some_and(|it| it.len() != VERSION || !it.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return error(400, "BadParameter", "a version has 32 hexadecimal digits");
        }
        // A name that is stated wins over a pattern that it fits.
        let stated = |it: &&VaultSecret| it.pattern == name;
        let found = self
            .secrets
            .iter()
            .find(stated)
            .map(|it| (it, ""))
            .or_else(|| self.secrets.iter().find_map(|it| Some((it, id_in(&it.pattern, name)?))));
        let Some((secret, id)) = found else { return not_found(kind, name) };
        let pfx = match &secret.content {
            SecretContent::Text(text) if kind == Kind::Secret => return self.text(text, name, version),
            SecretContent::Text(_) => return not_found(kind, name),
            other => *other == SecretContent::Pfx,
        };
        match self.identities.get(id, request.now, wrong) {
            Ok(identity) if kind == Kind::Secret => self.secret(&identity, name, version, pfx).note(id),
            Ok(identity) => self.certificate(&identity, name, version, pfx).note(id),
            Err(why) => not_found(kind, name).note(why),
        }
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        let code = match status {
            404 => "SecretNotFound",
            429 => "Throttled",
            _ => "InternalServerError",
        };
        error(status, code, note)
    }
}

fn content_type(pfx: bool) -> &'static str {
    if pfx { "application/x-pkcs12" } else { "application/x-pem-file" }
}

fn attributes(identity: &Identity) -> Value {
    json!({
        "enabled": true,
        "nbf": identity.not_before,
        "exp": identity.not_after,
        "created": identity.created,
        "updated": identity.created,
        "recoveryLevel": "Recoverable+Purgeable",
        "recoverableDays": 90,
    })
}

/// The registration id that a name holds where the pattern has its `*`.
fn id_in<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let (before, after) = pattern.split_once('*')?;
    name.strip_prefix(before)?.strip_suffix(after).filter(|id| !id.is_empty())
}

/// `7.4`, `7.5-preview.1`, `2025-07-01`.
fn api_version(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text.split_once("-preview").map_or(text, |(version, _)| version);
    match plain.split_once('.') {
        Some((major, minor)) => digits(major) && digits(minor),
        None => plain.len() == 10 && plain.split('-').filter(|part| digits(part)).count() == 3,
    }
}

fn not_found(kind: Kind, name: &str) -> Answer {
    let (code, what) = match kind {
        Kind::Secret => ("SecretNotFound", "secret"),
        Kind::Certificate => ("CertificateNotFound", "certificate"),
    };
    error(404, code, &format!("A {what} with (name/id) {name} was not found in this key vault."))
}

/// The vault's own form of an error.
fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, json!({"error": {"code": code, "message": message}})).note(message)
}

#[cfg(test)]
mod tests {
    use super::{Vault, api_version, id_in};
    use crate::config::{Config, SecretContent, VaultSecret};
    use crate::exchange::tests::{json, request};
    use crate::exchange::{Answer, Headers, Request, Site as _};
    use crate::identities::Identities;
    use crate::log::Mark;
    use crate::pki::Pki;
    use crate::tokens::{Tokens, VAULT};
    use std::sync::Arc;

    const QUERY: &str = "api-version=7.4";
    const FOREVER: u64 = u64::MAX;

    fn world() -> (tempfile::TempDir, Arc<Tokens>, Vault) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = Config::new(Pki::open_or_create(folder.path()).expect("authorities"));
        config.vault_secrets = vec![
            VaultSecret { pattern: "pfx-*".into(), content: SecretContent::Pfx },
            VaultSecret { pattern: "edge-*-cert".into(), content: SecretContent::Pem },
            VaultSecret {
                pattern: "edge-registry-cert".into(),
                content: SecretContent::Text("geheim".into()),
            },
        ];
        let tokens = Arc::new(Tokens::default());
        let identities = Arc::new(Identities::new(config.pki.clone()));
        let vault = Vault::new(&config, tokens.clone(), identities);
        (folder, tokens, vault)
    }

    fn get(vault: &Vault, token: Option<&str>, path: &str, query: &str) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers = Headers { authorization: bearer.as_deref(), ..Headers::default() };
        vault.answer(&Request { headers, ..request("GET", path, query) })
    }

    #[test]
    fn a_secret_is_key_and_chain_and_stays_the_same() {
        let (_folder, tokens, vault) = world();
        let token = tokens.grant(VAULT, 0, FOREVER);
        let read = |path: &str| get(&vault, Some(&token), path, QUERY);
        let answer = read("/secrets/edge-7-cert");
        assert_eq!((answer.status, answer.mark, answer.note.as_str()), (200, Some(Mark::SecretRead), "7"));
        let body = json(&answer);
        let value = body["value"].as_str().expect("value");
        assert!(value.contains("BEGIN PRIVATE KEY") && value.contains("BEGIN CERTIFICATE"));
        assert_eq!(body["contentType"], "application/x-pem-file");
        let version = "0123456789abcdef0123456789abcdef";
        let again = read(&format!("/secrets/edge-7-cert/{version}"));
        assert_eq!(json(&again)["value"], value);
        assert!(json(&again)["id"].as_str().is_some_and(|id| id.ends_with(version)));
        assert_ne!(json(&read("/secrets/edge-8-cert"))["value"], value);

        // One that is stated by its name.
        let text = read("/secrets/edge-registry-cert");
        assert_eq!((text.status, text.mark, &json(&text)["value"]), (200, None, &"geheim".into()));
        assert_eq!(read("/certificates/edge-registry-cert").status, 404);

        assert_eq!(json(&read("/secrets/pfx-7"))["contentType"], "application/x-pkcs12");
        let public = read("/certificates/edge-7-cert");
        assert_eq!((public.status, public.mark), (200, None));
        assert!(json(&public)["cer"].is_string() && json(&public)["value"].is_null());
    }

    #[test]
    fn a_wrong_secret_is_anothers() {
        let (_folder, tokens, vault) = world();
        let bearer = format!("Bearer {}", tokens.grant(VAULT, 0, FOREVER));
        let headers = Headers { authorization: Some(&bearer), ..Headers::default() };
        let request = Request { headers, ..request("GET", "/secrets/edge-7-cert", QUERY) };
        let (right, wrong) = (vault.answer(&request), vault.wrong(&request));
        assert_eq!(wrong.status, 200);
        assert_ne!(json(&right)["value"], json(&wrong)["value"]);
    }

    #[test]
    fn tokens_and_names_are_checked() {
        let (_folder, tokens, vault) = world();
        let good = tokens.grant(VAULT, 0, FOREVER);
        let expired = tokens.grant(VAULT, 0, 1);
        let elsewhere = tokens.grant("https://management.azure.com/", 0, FOREVER);
        let path = "/secrets/edge-7-cert";
        for (token, path, query, status) in [
            (None, path, QUERY, 401),
            (Some("x"), path, QUERY, 401),
            (Some(expired.as_str()), path, QUERY, 401),
            (Some(elsewhere.as_str()), path, QUERY, 403),
            (Some(good.as_str()), path, "", 400),
            (Some(good.as_str()), "/secrets/a_b", QUERY, 400),
            (Some(good.as_str()), "/secrets/edge-7-cert/1", QUERY, 400),
            (Some(good.as_str()), "/secrets/other", QUERY, 404),
            (Some(good.as_str()), "/certificates/other", QUERY, 404),
            (Some(good.as_str()), "/keys/edge-7-cert", QUERY, 404),
        ] {
            let answer = get(&vault, token, path, query);
            assert_eq!(answer.status, status, "{path} {query}: {}", answer.note);
            assert_eq!(answer.headers.len(), usize::from(status == 401));
            assert!(json(&answer)["error"]["code"].is_string());
        }
        let answer = get(&vault, None, path, QUERY);
        let challenge = &answer.headers[0].1;
        assert!(challenge.starts_with("Bearer authorization=\"https://login.microsoftonline.com/"));
        assert!(challenge.ends_with("resource=\"https://vault.azure.net\""), "{challenge}");
    }

    #[test]
    fn patterns_and_versions() {
        for (pattern, name, id) in [
            ("*", "edge-1", Some("edge-1")),
            ("a-*", "a-b", Some("b")),
            ("a-*", "a-", None),
            ("*-a", "b-a", Some("b")),
            ("a*a", "a", None),
            ("a", "a", None),
        ] {
            assert_eq!(id_in(pattern, name), id, "{pattern} {name}");
        }
        for (text, good) in
            [("7.4", true), ("7.5-preview.1", true), ("2025-07-01", true), ("7", false), ("", false)]
        {
            assert_eq!(api_version(text), good, "{text}");
        }
    }
}
