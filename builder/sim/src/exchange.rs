//! A request and its answer, apart from any connection: what the services over HTTP are functions of.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;
use time::OffsetDateTime;

use super::log::{Mark, rfc3339};
use super::tls::{Client, random};

/// A service over HTTP.
pub(super) trait Site: Send + Sync {
    /// Answers one request; with `wrong`, by something well-formed that a device must notice.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer;

    /// The service's own form of an error that is not the request's fault: 404, 429 or 500.
    fn failure(&self, request: &Request<'_>, status: u16, note: &str) -> Answer;

    /// The right answer.
    fn answer(&self, request: &Request<'_>) -> Answer {
        self.answer_as(request, false)
    }

    /// A well-formed answer that is wrong.
    fn wrong(&self, request: &Request<'_>) -> Answer {
        self.answer_as(request, true)
    }
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub method: &'a str,
    /// As sent, percent-encoded.
    pub path: &'a str,
    pub query: &'a str,
    pub headers: Headers<'a>,
    pub body: &'a [u8],
    pub client: Option<&'a Client>,
    /// Whether the TLS handshake asked for a name of the service's.
    pub named: bool,
    /// Time of the simulated world.
    pub now: OffsetDateTime,
}

/// The headers that services look at.
#[derive(Clone, Copy, Default)]
pub(super) struct Headers<'a> {
    pub if_match: Option<&'a str>,
    /// Secret.
    pub authorization: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub metadata: Option<&'a str>,
    /// `x-ms-version`: the wireserver's protocol.
    pub ms_version: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    /// Whether there is an `X-Forwarded-For`.
    pub forwarded: bool,
    /// Whether there is an `Upgrade`.
    pub upgrade: bool,
}

/// Nothing of them: what they hold may be secret.
impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers")
    }
}

impl Headers<'_> {
    /// The credentials of an `Authorization` of this scheme, whose name may be written in any case.
    pub(super) fn credentials(&self, scheme: &str) -> Option<&str> {
        let (name, credentials) = self.authorization?.trim().split_once(' ')?;
        name.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
    }
}

impl Request<'_> {
    /// A value of the query or of a form, decoded; the first where there are several.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The path's segments, decoded; nothing where one is not UTF-8.
    pub(super) fn segments(&self) -> Option<Vec<String>> {
        self.path.strip_prefix('/')?.split('/').map(decode).collect()
    }

    /// Whether the query names an API version of the right form (`2021-06-01`, `2017-11-08-preview`).
    pub(super) fn has_api_version(&self) -> bool {
        self.query.split('&').filter_map(|pair| pair.strip_prefix("api-version=")).any(|version| {
            let date = version.strip_suffix("-preview").unwrap_or(version);
            date.len() == 10
                && date.bytes().enumerate().all(|(at, byte)| match at {
                    4 | 7 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                })
        })
    }

    /// The common name that the client showed, or why there is none.
    pub(super) fn shown(&self) -> &str {
        match self.client {
            None => "no client certificate",
            Some(client) => client.common_name.as_deref().unwrap_or("no common name"),
        }
    }

    pub(super) fn unix_seconds(&self) -> u64 {
        u64::try_from(self.now.unix_timestamp()).unwrap_or_default()
    }

    pub(super) fn time(&self) -> String {
        rfc3339(self.now)
    }
}

/// What an answer holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Body {
    #[default]
    Empty,
    Json(Value),
    /// Of this media type.
    Bytes(&'static str, Cow<'static, [u8]>),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Body,
    pub headers: Vec<(&'static str, String)>,
    pub mark: Option<Mark>,
    /// For the log: why.
    pub note: String,
}

impl Answer {
    pub(super) fn json(status: u16, body: Value) -> Self {
        Self { status, body: Body::Json(body), ..Self::default() }
    }

    /// 200 with a body of another kind than JSON.
    pub(super) fn bytes(media_type: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: Body::Bytes(media_type, Cow::Owned(bytes.into())), ..Self::default() }
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn mark(mut self, mark: Option<Mark>) -> Self {
        self.mark = mark;
        self
    }

    #[must_use]
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

fn decode(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(16 * high + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// A random identifier in the form of a UUID (version 4).
pub(super) fn uuid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Answer, Body, Headers, Request, decode, uuid};
    use serde_json::Value;
    use time::OffsetDateTime;

    /// A request without body or certificate.
    pub(crate) fn request<'a>(method: &'a str, path: &'a str, version: &'a str) -> Request<'a> {
        let now = OffsetDateTime::now_utc();
        Request {
            method,
            path,
            query: version,
            headers: Headers::default(),
            body: b"",
            client: None,
            named: true,
            now,
        }
    }

    /// The JSON of an answer.
    pub(crate) fn json(answer: &Answer) -> &Value {
        match &answer.body {
            Body::Json(value) => value,
            other => panic!("no JSON: {other:?}"),
        }
    }

    #[test]
    fn credentials_are_read() {
        for (header, expected) in [
            ("Bearer abc", Some("abc")),
            ("bEARER  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearerabc", None),
            ("Bearer", None),
            ("", None),
        ] {
            let headers = Headers { authorization: Some(header), ..Headers::default() };
            assert_eq!(headers.credentials("Bearer"), expected, "{header}");
            assert!(!format!("{headers:?}").contains("abc"));
        }
    }

    #[test]
    fn queries_are_read() {
        let request = request("GET", "/", "a=1&resource=https%3A%2F%2Fvault.azure.net&a=2&b");
        assert_eq!(request.parameter("resource").as_deref(), Some("https://vault.azure.net"));
        assert_eq!(request.parameter("a").as_deref(), Some("1"));
        assert_eq!(request.parameter("b").as_deref(), Some(""));
        assert_eq!(request.parameter("c"), None);
    }

    #[test]
    fn paths_are_decoded() {
        for (text, expected) in [
            ("%24edgeAgent", Some("$edgeAgent")),
            ("$edgeAgent", Some("$edgeAgent")),
            ("a%2fb", Some("a/b")),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%ff", None),
            ("", Some("")),
        ] {
            assert_eq!(decode(text).as_deref(), expected, "{text}");
        }
        assert_eq!(request("GET", "/a/%24b", "").segments(), Some(vec!["a".into(), "$b".into()]));
        assert_eq!(request("GET", "*", "").segments(), None);
    }

    #[test]
    fn api_versions_are_recognised() {
        for (query, expected) in [
            ("api-version=2021-06-01", true),
            ("x=1&api-version=2017-11-08-preview", true),
            ("", false),
            ("api-version=", false),
            ("api-version=latest", false),
            ("api-version=2021-06-1x", false),
            ("api-version=2021-06-é", false),
        ] {
            assert_eq!(request("GET", "/", query).has_api_version(), expected, "{query}");
        }
    }

    #[test]
    fn uuids_differ() {
        assert_ne!(uuid(), uuid());
        assert_eq!(uuid().len(), 36);
    }
}
