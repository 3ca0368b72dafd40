//! A linter for `config.toml` that knows what the runtime refuses, and what it takes and then fails on.
//!
//! It works on any text, also one that a user's overlay brings. The rules are read off `iotedge config apply` 1.6 and the
//! identity service's parsers; each message gives the reason.

mod agent;
mod confine;
mod identity;
pub use identity::registration_id_is_legal;

use crate::finding::{Finding, Place, Severity, nearest};
use crate::recipe::tree::{Node, SourceText, Value};
use crate::recipe::types::Recipe;

/// Plain keys of the top level, which must stand before every table.
const TOP_VALUES: [&str; 13] = [
    "additional_info",
    "allow_elevated_docker_permissions",
    "auto_reprovisioning_mode",
    "aziot_max_requests",
    "cloud_retries",
    "cloud_timeout_sec",
    "dps_trust_bundle",
    "hostname",
    "imported_master_encryption_key",
    "iotedge_max_requests",
    "parent_hostname",
    "prefer_module_identity_cache",
    "trust_bundle_cert",
];
/// Tables of the top level.
const TOP_TABLES: [&str; 15] = [
    "agent",
    "aziot_keys",
    "cert_issuance",
    "connect",
    "edge_ca",
    "endpoints",
    "image_garbage_collection",
    "listen",
    "localid",
    "manifest_trust_bundle_cert",
    "moby_runtime",
    "preloaded_certs",
    "preloaded_keys",
    "provisioning",
    "tpm",
];
const WATCHDOG: &str = "watchdog";
/// Least and default value of `cloud_timeout_sec` (identityd refuses less).
const LEAST_TIMEOUT: i64 = 70;
/// Longest host name: a certificate's common name holds no more.
const LONGEST_HOSTNAME: usize = 64;
/// What findings call the text.
const FILE: &str = "config.toml";
const MODES: [&str; 3] = ["Dynamic", "AlwaysOnStartup", "OnErrorOnly"];

/// Everything that is wrong with the text of a config.toml, in its order. With the recipe that it will be installed by,
/// also what does not fit that.
pub fn lint(text: &str, recipe: Option<&Recipe>) -> Vec<Finding> {
    let source = SourceText::file(FILE, text, "/");
    let tree = match Node::parse(&source) {
        Ok(tree) => tree,
        Err(error) => return vec![syntax(text, &error)],
    };
    let mut linter = Linter { tree: &tree, source: text, recipe, findings: Vec::new() };
    top_level(&mut linter);
    hostname(&mut linter);
    identity::rules(&mut linter);
    agent::rules(&mut linter);
    confine::rules(&mut linter);
    everywhere(&mut linter, &tree, &mut Vec::new());
    let mut findings = linter.findings;
    findings.sort_by_key(|finding| finding.file_and_line().1);
    findings
}

fn syntax(text: &str, error: &Finding) -> Finding {
    let line = error.file_and_line().1.max(1);
    let stated = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let found = Finding::error(&error.message).at(Place::line(FILE, line));
    if stated.trim_start().starts_with("auto_reprovisioning_mode") {
        let hint = "put the mode in quotes: auto_reprovisioning_mode = \"Dynamic\"";
        return found.key("auto_reprovisioning_mode").hint(hint);
    }
    found.hint("correct the line: nothing of the file is read until it is TOML")
}

/// The text, what it is for, and what was found.
struct Linter<'a> {
    tree: &'a Node,
    /// The whole text.
    source: &'a str,
    recipe: Option<&'a Recipe>,
    findings: Vec<Finding>,
}

impl<'a> Linter<'a> {
    fn get(&self, key: &str) -> Option<&'a Node> {
        self.tree.at(&key.replace('.', "/"))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    fn line(&self, key: &str) -> usize {
        self.tree.place(&key.replace('.', "/")).line
    }

    fn error(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        let line = self.line(key);
        self.add(Severity::Error, key, line, message.into(), hint.into());
    }

    fn warning(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        let line = self.line(key);
        self.add(Severity::Warning, key, line, message.into(), hint.into());
    }

    fn add(&mut self, severity: Severity, key: &str, line: usize, message: String, hint: String) {
        let found = Finding { severity, ..Finding::error(message) };
        self.findings.push(found.at(Place::line(FILE, line)).key(key).hint(hint));
    }

    /// The value at `key` must be one of `known`, if it is there.
    fn one_of(&mut self, key: &str, known: &[&str]) {
        let Some(node) = self.get(key) else { return };
        if node.as_str().is_some_and(|text| known.contains(&text)) {
            return;
        }
        let found = node
            .as_str()
            .map_or_else(|| "this is not a string".into(), |text| format!("`{text}` is unknown"));
        let near = node.as_str().and_then(|text| nearest(text, known.iter().copied()));
        let hint = near.map_or_else(
            || format!("one of \"{}\"", known.join("\", \"")),
            |near| format!("write \"{near}\""),
        );
        self.error(key, found, hint);
    }

    /// The value at `key` must be an address with one of these schemes, if it is there.
    fn scheme(&mut self, key: &str, schemes: &[&str], reason: &str) {
        let Some(node) = self.get(key) else { return };
        let expected =
            format!("write {}", schemes.iter().map(|s| format!("{s}…")).collect::<Vec<_>>().join(" or "));
        match node.as_str() {
            Some(url) if schemes.iter().any(|scheme| url.starts_with(scheme)) => {}
            Some(url) if url.starts_with('/') => {
                self.error(key, format!("`{url}` is a path, and {reason}"), expected);
            }
            Some(_) => self.error(key, format!("the address has another scheme: {reason}"), expected),
            None => self.error(key, format!("this is not a string: {reason}"), expected),
        }
    }
}

fn top_level(lint: &mut Linter<'_>) {
    let entries = lint.tree.entries().map(Vec::as_slice).unwrap_or_default();
    let known = || TOP_VALUES.into_iter().chain(TOP_TABLES).chain([WATCHDOG]);
    for entry in entries.iter().filter(|entry| known().all(|name| name != entry.key)) {
        let hint = match nearest(&entry.key, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "remove it, or move it into the table that it belongs to".into(),
        };
        lint.error(&entry.key, "no such key exists at the top level, and the runtime would ignore it", hint);
    }
    lint.one_of("auto_reprovisioning_mode", &MODES);
    if let Some(node) = lint.get("cloud_timeout_sec") {
        match node.value {
            Value::Integer(LEAST_TIMEOUT..) => {}
            Value::Integer(seconds) => lint.error(
                "cloud_timeout_sec",
                format!("{seconds} is less than 70, which the parser refuses (although the shipped template says 10)"),
                "70 or more",
            ),
            _ => lint.error("cloud_timeout_sec", "this is not a number", "a whole number, 70 or more"),
        }
    }
    if let Some(node) = lint.get("cloud_retries")
        && !matches!(node.value, Value::Integer(0..=4_294_967_295))
    {
        lint.error("cloud_retries", "this is not a number of retries", "a whole number, 0 or more");
    }
    for key in ["allow_elevated_docker_permissions", "prefer_module_identity_cache"] {
        if lint.get(key).is_some_and(|node| !matches!(node.value, Value::Boolean(_))) {
            lint.error(key, "this is not a boolean", "`true` or `false`");
        }
    }
    if lint.get("tpm.auth_key_index").is_some_and(|node| !matches!(node.value, Value::Integer(0..))) {
        let message = "the parser wants an integer (although the shipped template shows a string)";
        lint.error("tpm.auth_key_index", message, "write it without quotes, for example 0x00_01_00");
    }
    lint.scheme("trust_bundle_cert", &["file://"], "the trust bundle must be a file: URL");
}

fn hostname(lint: &mut Linter<'_>) {
    let Some(node) = lint.get("hostname") else { return };
    let Some(name) = node.as_str() else {
        return lint.error("hostname", "this is not a string", "leave it out");
    };
    let reason = if name.parse::<std::net::IpAddr>().is_ok() {
        None
    } else if name.len() > LONGEST_HOSTNAME {
        Some("it is longer than 64 characters, which no certificate holds")
    } else if !name.split('.').all(label) {
        Some("its labels must begin with a letter, and hold letters, digits and `-` only (RFC 1035)")
    } else {
        None
    };
    match reason {
        Some(reason) => lint.error("hostname", format!("`{name}` is refused: {reason}"), "leave it out: it is filled in from the machine's own"),
        None => lint.warning(
            "hostname",
            "every device made from the image would say that it has this name, and `iotedge check` fails where the machine's differs",
            "leave it out: `iotedge config apply` fills in the machine's own",
        ),
    }
}

/// One label of a host name by RFC 1035.
pub fn label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// What no value may be, wherever it stands: a placeholder; and plain keys of the top level that slid under a table.
fn everywhere(lint: &mut Linter<'_>, node: &Node, path: &mut Vec<String>) {
    let line = node.origin.place().line;
    match &node.value {
        Value::Table(entries) => {
            for entry in entries {
                let line = entry.origin.place().line;
                path.push(entry.key.clone());
                if path.len() > 1 && slid(path) {
                    let message = format!(
                        "it belongs to the top level, but stands below `[{}]`",
                        path[..path.len() - 1].join(".")
                    );
                    let hint = "move it before the first table".to_owned();
                    lint.add(Severity::Error, &path.join("."), line, message, hint);
                }
                everywhere(lint, &entry.node, path);
                path.pop();
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                path.push(at.to_string());
                everywhere(lint, item, path);
                path.pop();
            }
        }
        Value::String(text) if placeholder(text) => {
            let message = "a placeholder was left in".to_owned();
            lint.add(Severity::Error, &path.join("."), line, message, "write the real value".to_owned());
        }
        _ => {}
    }
}

/// Is this the path of a key that only the top level knows, in a table of the runtime's own?
fn slid(path: &[String]) -> bool {
    let free = ["preloaded_keys", "preloaded_certs", "additional_info"];
    let name = path.last().map(String::as_str).unwrap_or_default();
    TOP_VALUES.contains(&name) && name != "hostname" && !path.iter().any(|part| free.contains(&part.as_str()))
}

/// Values as the shipped template and tutorials have them before somebody fills them in.
fn placeholder(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    let bracketed = text.find('<').zip(text.rfind('>')).is_some_and(|(open, close)| open < close);
    bracketed
        || text.contains("{{")
        || text.contains("}}")
        || ["REPLACE_ME", "REPLACE-ME", "CHANGEME", "CHANGE_ME", "TODO"].contains(&upper.as_str())
        || ["YOUR_", "YOUR-", "ADD_", "INSERT_", "ENTER_"].iter().any(|start| upper.starts_with(start))
        || upper.ends_with("_HERE")
}

#[cfg(test)]
mod tests;
