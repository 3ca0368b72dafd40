//! What a registry that refuses a request wants: header `WWW-Authenticate` of a 401 (RFC 9110, 11.6.1).
//!
//! ```text
//! Bearer realm="https://auth.example/token",service="registry.example",scope="repository:factory/pump:pull"
//! Basic realm="Registry"
//! └ scheme └ parameters
//! ```
//! *Bearer*: a token, fetched from `realm` for `service` and `scope` (distribution, "Token Authentication Specification").

/// Most bytes of a header that are looked at. Servers and proxies take 8 to 16 KiB of all headers together.
const MAX_HEADER: usize = 8 << 10;

/// One way to show who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// With a token of another server.
    Bearer(Bearer),
    /// With user name and password.
    Basic,
}

/// Where a token comes from, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Address of the token server.
    pub realm: String,
    /// What the token server calls the registry.
    pub service: Option<String>,
    /// What the token is to allow.
    pub scope: Option<String>,
    /// Why a token that was sent is refused: `invalid_token`, `insufficient_scope`.
    pub error: Option<String>,
}

/// The challenges of a header, in order. Schemes unknown here, and Bearer without a realm, are left out; what is no header at
/// all has none.
pub fn parse(header: &str) -> Vec<Challenge> {
    if header.len() > MAX_HEADER {
        return Vec::new();
    }
    let mut scanner = Scanner(header);
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    loop {
        scanner.skip(|c| c == ',' || c.is_ascii_whitespace());
        let name = scanner.token();
        if name.is_empty() {
            break;
        }
        scanner.skip(|c| c.is_ascii_whitespace());
        // A word with `=` behind it is a parameter of the scheme before it; one without is the next scheme.
        match scanner.value() {
            Some(value) => match found.last_mut() {
                Some((_, parameters)) => parameters.push((name.to_ascii_lowercase(), value)),
                None => break,
            },
            None => found.push((name.to_ascii_lowercase(), Vec::new())),
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(&scheme, &parameters)).collect()
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let value =
        |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer(Bearer {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
            error: value("error"),
        })),
        _ => None,
    }
}

/// What is still to be read of a header.
struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(what);
    }

    /// Characters of a token (RFC 9110, 5.6.2).
    fn token(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c));
        let (token, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        token
    }

    /// `=` and a word, or text in quotes.
    fn value(&mut self) -> Option<String> {
        let rest = self.0.strip_prefix('=')?;
        self.0 = rest;
        self.skip(|c| c.is_ascii_whitespace());
        match self.0.strip_prefix('"') {
            Some(rest) => {
                self.0 = rest;
                Some(self.quoted())
            }
            None => {
                let end = self.0.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(self.0.len());
                let (word, rest) = self.0.split_at(end);
                self.0 = rest;
                Some(word.to_owned())
            }
        }
    }

    /// Up to the closing quote; `\` takes the next character as it is.
    fn quoted(&mut self) -> String {
        let (mut text, mut escaped) = (String::new(), false);
        for (at, c) in self.0.char_indices() {
            match c {
                '"' if !escaped => {
                    self.0 = &self.0[at + 1..];
                    return text;
                }
                '\\' if !escaped => escaped = true,
                c => {
                    text.push(c);
                    escaped = false;
                }
            }
        }
        self.0 = "";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Bearer, Challenge, parse};

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>, error: Option<&str>) -> Challenge {
        let [service, scope, error] = [service, scope, error].map(|text| text.map(String::from));
        Challenge::Bearer(Bearer { realm: realm.into(), service, scope, error })
    }

    #[test]
    fn what_registries_send() {
        let pull = Some("repository:samalba/my-app:pull,push");
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:samalba/my-app:pull,push""#,
                vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"), pull, None)],
            ),
            (
                r#"Bearer realm="https://x.azurecr.io/oauth2/token", service="x.azurecr.io", error="invalid_token""#,
                vec![bearer(
                    "https://x.azurecr.io/oauth2/token",
                    Some("x.azurecr.io"),
                    None,
                    Some("invalid_token"),
                )],
            ),
            (r#"Basic realm="Registry""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, BEARER REALM = "https://a/\"t" , Basic realm=x"#,
                vec![bearer("https://a/\"t", None, None, None), Challenge::Basic],
            ),
            (
                "Bearer realm=https://a/t?x=1,service=s",
                vec![bearer("https://a/t?x=1", Some("s"), None, None)],
            ),
            (r#"Bearer realm="https://unclosed"#, vec![bearer("https://unclosed", None, None, None)]),
            (r#"Bearer service="x""#, vec![]),
            ("Digest realm=\"x\", nonce=\"y\"", vec![]),
            ("realm=\"x\"", vec![]),
            ("", vec![]),
            ("\u{0}\u{1f433}", vec![]),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    #[test]
    fn any_header_comes_to_an_end() {
        let whole =
            r#"Bearer realm="https://auth/token",service="a\"b",scope="repository:x:pull", Basic realm="y""#;
        for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            parse(&whole[..at]);
            parse(&whole[at..]);
            for other in ["=", "\"", "\\", ",", " ", "\u{e9}", "=\""] {
                parse(&format!("{}{other}{}", &whole[..at], &whole[at..]));
            }
        }
        assert_eq!(parse(&"Basic ,".repeat(100_000)), []);
        assert_eq!(parse(&"Basic,".repeat(1000)).len(), 1000);
    }
}
