//! What an image is called.
//!
//! ```text
//! registry.example:5000/factory/pump-reader:1.4@sha256:6c3c…    a reference
//! └──── registry ─────┘ └── repository ───┘ └┬┘ └── digest ──┘
//! └──────────────── name ─────────────────┘ tag
//!
//! familiar                canonical                               what messages and the engine call it; what is meant
//! debian                  docker.io/library/debian:latest
//! factory/pump:2          docker.io/factory/pump:2
//! localhost/pump          localhost/pump:latest
//! ```
//! The grammar is that of github.com/distribution/reference, which the docker engine uses. Two things are stricter here: a
//! digest is a SHA-256, and a registry without a dot or port (`Factory/pump`) is none, upper case or not: engines before 23
//! refuse it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::units::Digest;

/// The registry of references that name none.
pub const DOCKER_HUB: &str = "docker.io";
/// The tag of references that name neither tag nor digest.
pub const LATEST: &str = "latest";
/// Docker Hub's older name, which means the same.
const DOCKER_INDEX: &str = "index.docker.io";
/// Where Docker Hub's official images are.
const OFFICIAL: &str = "library/";
/// Characters of a name, registry included (`NameTotalLengthMax`).
const MAX_NAME: usize = 255;
/// Characters of a tag.
const MAX_TAG: usize = 128;
/// More than a name, a tag and a digest can have; nothing longer is looked at, nor shown.
const MAX_TEXT: usize = 512;
/// What a reference looks like, for hints.
const FORM: &str =
    "write it as NAME:TAG or NAME@sha256:DIGEST, for example registry.example/factory/pump:1.4";

/// A reference to an image, parsed. As text (also for serde) it is in its familiar form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, `HOST[:PORT]`; `docker.io` where none is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path at the registry, for example `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index, where one is named.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The tag that is pulled: none if there is a digest, which decides alone, otherwise `latest` unless one is named.
    pub fn pulled_tag(&self) -> Option<&str> {
        if self.digest.is_some() { None } else { Some(self.tag().unwrap_or(LATEST)) }
    }

    /// Registry and repository, for example `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name as the docker engine shows it, for example `debian`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DOCKER_HUB {
            return self.name();
        }
        let official = self.repository.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/'));
        official.unwrap_or(&self.repository).to_owned()
    }

    /// What is meant, in full: registry, repository, and tag (`latest` where neither tag nor digest is named) or digest or both.
    pub fn canonical(&self) -> String {
        let tag = self.tag().or(self.pulled_tag());
        self.written(self.name(), tag)
    }

    /// The familiar name with the tag (`latest` where neither tag nor digest is named) or digest or both: the key that the
    /// engine keeps an image under.
    pub fn familiar(&self) -> String {
        let tag = self.tag().or(self.pulled_tag());
        self.written(self.familiar_name(), tag)
    }

    /// The same image by its digest; the tag is kept.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Does edgeAgent take it as a module's image? It refuses a tag together with a digest.
    pub fn is_taken_by_edge_agent(&self) -> bool {
        self.tag.is_none() || self.digest.is_none()
    }

    fn written(&self, mut text: String, tag: Option<&str>) -> String {
        if let Some(tag) = tag {
            text += &format!(":{tag}");
        }
        if let Some(digest) = self.digest {
            text += &format!("@sha256:{digest}");
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(self.familiar_name(), self.tag()))
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|problem: Problem| match problem.hint {
            Some(hint) => format!("{}: {hint}", problem.message),
            None => problem.message,
        })
    }
}

impl FromStr for Reference {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        parse(text).map_err(|(what, hint)| {
            let shown: String = text.chars().take(MAX_TEXT).collect();
            Problem::input(format!("`{}` is no reference to an image: {what}", shown.escape_debug()))
                .hint(hint)
        })
    }
}

/// What is wrong, and what to do about it.
type Wrong = (String, String);

fn wrong<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err((what.into(), hint.into()))
}

fn parse(text: &str) -> Result<Reference, Wrong> {
    foreign(text)?;
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let (registry, rest) = split_registry(rest)?;
    let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
    check_path(path)?;
    let tag = tag.map(parse_tag).transpose()?;
    let official = registry == DOCKER_HUB && !path.contains('/');
    let repository = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return wrong(format!("its name has more than {MAX_NAME} characters"), FORM);
    }
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// What people write instead of a reference.
fn foreign(text: &str) -> Result<(), Wrong> {
    if text.is_empty() {
        return wrong("it is empty", FORM);
    }
    if text.len() > MAX_TEXT {
        return wrong(format!("it is longer than {MAX_TEXT} bytes"), FORM);
    }
    if text.contains(char::is_whitespace) {
        return wrong("it has white space in it", FORM);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return wrong(format!("it begins with `{scheme}://`"), format!("write {rest}"));
    }
    if text.starts_with("$upstream") {
        return wrong(
            "`$upstream` stands for the parent gateway, which only a device knows",
            "name the registry that the gateway has the image from",
        );
    }
    if text.contains(['$', '{', '<']) {
        return wrong(
            "a placeholder in it was not filled in",
            "write the value in its place, or give it to the template",
        );
    }
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return wrong(
            "it is an image's id, which registries do not know",
            "name the image: NAME:TAG or NAME@sha256:DIGEST",
        );
    }
    Ok(())
}

/// The registry (`docker.io` if there is none) and what follows it. The first part is a registry if it has a dot or a port,
/// or is `localhost`.
fn split_registry(text: &str) -> Result<(&str, &str), Wrong> {
    let Some((first, rest)) = text.split_once('/') else { return Ok((DOCKER_HUB, text)) };
    if first == DOCKER_INDEX {
        return Ok((DOCKER_HUB, rest));
    }
    if !(first == "localhost" || first.contains(['.', ':'])) {
        return Ok((DOCKER_HUB, text));
    }
    if !is_registry(first) {
        return wrong(
            format!("`{first}` is not the address of a registry"),
            "an address is HOST or HOST:PORT, without user name or path",
        );
    }
    Ok((first, rest))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            let digits = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if host.is_empty() || !host.bytes().all(digits) {
                return false;
            }
            (None, port)
        }
        None => {
            let at = text.find(':').unwrap_or(text.len());
            (Some(&text[..at]), &text[at..])
        }
    };
    let number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(number);
    port_fits && host.is_none_or(|host| host.split('.').all(label))
}

fn check_path(path: &str) -> Result<(), Wrong> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return wrong(
            format!("the name `{path}` has upper-case letters"),
            format!("registries know lower-case names only: {}", path.to_ascii_lowercase()),
        );
    }
    match path.split('/').find(|part| !is_component(part)) {
        None => Ok(()),
        Some("") => wrong("a part of its name is empty", FORM),
        Some(part) => wrong(
            format!("`{part}` is no part of a name"),
            "parts are a-z and 0-9, with `.`, `_`, `__` or any number of `-` between them",
        ),
    }
}

/// `[a-z0-9]+` with a separator between each two: `.`, `_`, `__`, or dashes.
fn is_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(word).filter(|text| !text.is_empty());
    part.starts_with(word)
        && part.ends_with(word)
        && separators
            .into_iter()
            .all(|text| matches!(text, "." | "_" | "__") || text.bytes().all(|b| b == b'-'))
}

fn parse_tag(tag: &str) -> Result<String, Wrong> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.len() > MAX_TAG {
        return wrong(format!("its tag has more than {MAX_TAG} characters"), FORM);
    }
    if !tag.starts_with(word) || !tag.chars().all(|c| word(c) || c == '.' || c == '-') {
        return wrong(
            format!("`{tag}` is no tag"),
            "a tag is letters, digits, `_`, `.` and `-`, and begins with none of the last two",
        );
    }
    Ok(tag.to_owned())
}

fn parse_digest(text: &str) -> Result<Digest, Wrong> {
    let Some(hex) = text.strip_prefix("sha256:") else {
        return wrong(
            format!("`{text}` is no SHA-256 digest"),
            "a digest is `sha256:` and 64 hex digits; others are not supported",
        );
    };
    let lower = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match hex.parse() {
        Ok(digest) if lower => Ok(digest),
        _ => wrong("its digest is not 64 lower-case hex digits", "copy it whole, from `sha256:` on"),
    }
}

#[cfg(test)]
mod tests;
