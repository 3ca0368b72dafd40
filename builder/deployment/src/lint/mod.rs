//! A linter for deployment manifests that knows what the Azure CLI, IoT Hub, edgeAgent, edgeHub and the engine refuse, and
//! what they take and then fail on. It needs no network.
//!
//! ```text
//! rules.rs      all rules: severity, what, why
//! document.rs   the JSON, modulesContent, twins, layered keys      agent.rs    edgeAgent, the runtime, credentials
//! modules.rs    a module's own properties                          images.rs   images, and what the recipe makes of them
//! options.rs    createOptions                                      hub.rs      edgeHub and its routes
//! ports.rs      ports that two modules want                        limits.rs   IoT Hub's limits for twins
//! reach.rs      what of its machine a module gets hold of
//! ```
//!
//! A new rule is a row in `rules.rs`, a check, and a case in `tests/`; then the page is written anew, as its test says.

mod agent;
mod document;
mod hub;
mod images;
mod limits;
mod modules;
mod options;
mod ports;
mod reach;
mod rules;

use std::collections::BTreeSet;
use std::ops::Range;

use edgepress_base::finding::{Finding, Place, nearest};
use edgepress_base::units::Arch;
use edgepress_oci::reference::Reference;

pub use rules::{RULES, Rule};

use crate::cursor::Cursor;
use crate::json::{Node, Value, origins};
use crate::model::Manifest;

/// Longest line that a finding shows, in bytes: in a longer one (a manifest on a single line) a secret may stand beside.
const SHOWN_LINE: usize = 512;
/// Findings that are told. What has more is no manifest, and each costs a look through the text.
const MOST: usize = 200;

/// What the manifest is for, as far as the caller knows.
#[derive(Debug, Clone)]
pub struct Context {
    /// The images that will be on the device before it starts, with their digests where those are known: a module that names
    /// its image by digest is content with nothing else. None where nobody said.
    pub preloaded: Option<BTreeSet<Reference>>,
    /// The image of edgeAgent that config.toml starts.
    pub bootstrap_agent: Option<Reference>,
    /// May modules be privileged or have added capabilities? (`allow_elevated_docker_permissions`)
    pub privileged_allowed: bool,
    /// The device's architecture.
    pub arch: Option<Arch>,
}

impl Default for Context {
    /// Nothing is known, and nothing forbidden.
    fn default() -> Self {
        Self { preloaded: None, bootstrap_agent: None, privileged_allowed: true, arch: None }
    }
}

/// Everything that is wrong with a manifest, in the order of its lines. `key` of a finding is a JSON pointer; within
/// createOptions it points to their string, and the message names the part of it.
pub fn lint(manifest: &Manifest, context: &Context) -> Vec<Finding> {
    let mut findings = manifest.notes.clone();
    findings.extend(hits(manifest, context).into_iter().map(|hit| hit.finding));
    findings
}

/// A finding, and the rule that found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The rule.
    pub rule: &'static Rule,
    /// What it found.
    pub finding: Finding,
}

/// What [`lint`] finds but for the notes of a template, each with its rule.
pub fn hits(manifest: &Manifest, context: &Context) -> Vec<Hit> {
    let mut linter = Linter { manifest, context, hits: Vec::new() };
    document::rules(&mut linter);
    agent::rules(&mut linter);
    for module in manifest.modules() {
        modules::rules(&mut linter, module);
        images::rules(&mut linter, module);
        options::rules(&mut linter, module);
    }
    ports::rules(&mut linter);
    hub::rules(&mut linter);
    limits::rules(&mut linter);
    let mut hits = linter.hits;
    let place = |hit: &Hit| hit.finding.place.as_ref().map_or((0, 0), |place| (place.line, place.column));
    hits.sort_by_key(place);
    hits
}

struct Linter<'a> {
    manifest: &'a Manifest,
    context: &'a Context,
    hits: Vec<Hit>,
}

/// The JSON types that a value may have.
#[derive(Clone, Copy)]
enum Want {
    Object,
    Text,
    Integer,
}

impl Want {
    fn is(self, node: &Node) -> bool {
        match self {
            Self::Object => node.is_object(),
            Self::Text => node.as_str().is_some(),
            Self::Integer => node.as_number().is_some_and(|number| number.is_i64() || number.is_u64()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Text => "a string",
            Self::Integer => "an integer",
        }
    }
}

impl Linter<'_> {
    /// About a value: its place, or that of its key where it has many lines.
    fn hit(
        &mut self,
        rule: &'static Rule,
        at: &Cursor<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.is_full() {
            return;
        }
        let whole = matches!(at.node.value, Value::Object(_) | Value::Array(_));
        let span = if whole { &at.key_span } else { &at.node.span };
        let place = self.place(at, span);
        self.add(rule, at, place, message.into(), hint.into());
    }

    /// About a key.
    fn hit_key(
        &mut self,
        rule: &'static Rule,
        at: &Cursor<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.is_full() {
            return;
        }
        let place = self.place(at, &at.key_span);
        self.add(rule, at, place, message.into(), hint.into());
    }

    fn add(&mut self, rule: &'static Rule, at: &Cursor<'_>, place: Place, message: String, hint: String) {
        // Keys are anybody's, and a terminal obeys some characters.
        let shown = |pointer: &str| pointer.replace(char::is_control, "\u{fffd}");
        let (key, message) = match at.within {
            Some(outer) if at.pointer.is_empty() => (shown(outer), message),
            Some(outer) => (shown(outer), format!("`{}` in createOptions: {message}", shown(&at.pointer))),
            None => (shown(&at.pointer), message),
        };
        let mut finding = Finding { severity: rule.severity, ..Finding::error(message) }.at(place);
        if !key.is_empty() {
            finding = finding.key(key);
        }
        if !hint.is_empty() {
            finding = finding.hint(hint);
        }
        self.hits.push(Hit { rule, finding });
    }

    /// The place of bytes of a string's value.
    fn within(&self, at: &Cursor<'_>, inner: &Range<usize>) -> Range<usize> {
        let literal = self.manifest.source.text().get(at.node.span.clone()).unwrap_or_default();
        let origins = origins(literal);
        let place = |byte: usize| {
            at.node.span.start + origins.get(byte).or(origins.last()).copied().unwrap_or_default()
        };
        place(inner.start)..place(inner.end)
    }

    /// Is enough told?
    fn is_full(&self) -> bool {
        self.hits.len() >= MOST
    }

    /// The place, without its line where that may hold a secret.
    fn place(&self, at: &Cursor<'_>, span: &Range<usize>) -> Place {
        let place = self.manifest.source.place(span);
        let pointer = at.within.unwrap_or(&at.pointer);
        let secret = ["/env", "/registryCredentials"].iter().any(|part| pointer.contains(part));
        let own_twin = pointer.contains("/modulesContent/") && !pointer.contains("/modulesContent/$");
        let variables = place.text.contains("Env\\\"");
        if secret || own_twin || variables || place.text.len() > SHOWN_LINE { place.hidden() } else { place }
    }

    /// The value of a key if it has the right type; otherwise a finding, if it is there at all.
    fn typed<'c>(&mut self, at: &Cursor<'c>, key: &str, want: Want) -> Option<Cursor<'c>> {
        let value = at.get(key)?;
        self.has_type(&value, want).then_some(value)
    }

    fn has_type(&mut self, at: &Cursor<'_>, want: Want) -> bool {
        let good = want.is(at.node);
        if !good {
            let message = format!("this is {}, and must be {}", at.node.kind(), want.name());
            self.hit(&rules::WRONG_TYPE, at, message, "");
        }
        good
    }

    /// Keys that nobody reads.
    fn unknown(&mut self, at: &Cursor<'_>, known: &[&str]) {
        for (key, value) in at.entries().filter(|(key, _)| !known.contains(key)) {
            if self.is_full() {
                return;
            }
            let hint = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here are `{}`", known.join("`, `")),
            };
            self.hit_key(&rules::UNKNOWN_KEY, &value, "nobody reads this key", hint);
        }
    }
}

/// Keys that stand twice in one object, wherever that is.
fn duplicates(lint: &mut Linter<'_>, at: &Cursor<'_>) {
    let mut seen = BTreeSet::new();
    for (key, value) in at.entries() {
        if !seen.insert(key) {
            let message = "this key stands twice in its object; the last one counts";
            lint.hit_key(&rules::DUPLICATE_KEY, &value, message, "remove one of them");
        }
        duplicates(lint, &value);
    }
    for value in at.elements() {
        duplicates(lint, &value);
    }
}

/// Values as tutorials and templates have them before somebody fills them in.
fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    let upper = text.to_ascii_uppercase();
    crate::template::has_placeholder(text)
        || (text.starts_with('<') && text.ends_with('>'))
        || (text.starts_with("{{") && text.ends_with("}}"))
        || ["YOUR_", "YOUR-", "REPLACE_ME", "REPLACE-ME", "CHANGEME", "CHANGE_ME"]
            .iter()
            .any(|start| upper.starts_with(start))
}

#[cfg(test)]
mod tests;
