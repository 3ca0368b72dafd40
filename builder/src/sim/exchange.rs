//! A request and its answer, apart from any connection: what DPS and hub are functions of.

use serde_json::Value;
use time::OffsetDateTime;

use super::log::{Mark, rfc3339};
use super::tls::{Client, random};

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub method: &'a str,
    /// As sent, percent-encoded.
    pub path: &'a str,
    pub query: &'a str,
    /// The `If-Match` header.
    pub if_match: Option<&'a str>,
    pub body: &'a [u8],
    pub client: Option<&'a Client>,
    /// Time of the simulated world.
    pub now: OffsetDateTime,
}

impl Request<'_> {
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

/// An answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Option<Value>,
    pub headers: Vec<(&'static str, String)>,
    pub mark: Option<Mark>,
    /// For the log: why.
    pub note: String,
}

impl Answer {
    pub(super) fn json(status: u16, body: Value) -> Self {
        Self { status, body: Some(body), ..Self::default() }
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
    use super::{Request, decode, uuid};
    use time::OffsetDateTime;

    /// A request without body or certificate.
    pub(in crate::sim) fn request<'a>(method: &'a str, path: &'a str, version: &'a str) -> Request<'a> {
        let now = OffsetDateTime::now_utc();
        Request { method, path, query: version, if_match: None, body: b"", client: None, now }
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
