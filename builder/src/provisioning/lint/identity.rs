//! Rules on who the device is: provisioning, attestation, certificates and their renewal.

use url::Url;

use super::Linter;
use crate::recipe::tree::{Node, Value};

/// The public DPS; sovereign clouds have their own names, and scopes that begin otherwise.
const GLOBAL_DPS: &str = "azure-devices-provisioning.net";
const CERTIFICATE: &[&str] = &["file://"];
const KEY: &[&str] = &["file://", "pkcs11:"];
const CERTIFICATE_REASON: &str = "a certificate must be a file: URL";
const KEY_REASON: &str = "a private key must be a file: or pkcs11: URL";

pub(super) fn rules(lint: &mut Linter<'_>) {
    if lint.get("provisioning").is_none() {
        let hint = "add [provisioning] with source = \"dps\"";
        return lint.error(
            "provisioning",
            "the table is missing, and without it the device has no identity",
            hint,
        );
    }
    match lint.text("provisioning.source") {
        Some("dps") => dps(lint),
        Some("manual") => manual(lint),
        Some("none") => {}
        _ if lint.get("provisioning.source").is_none() => {
            lint.error("provisioning.source", "the key is missing", "\"dps\", \"manual\" or \"none\"");
        }
        _ => lint.one_of("provisioning.source", &["dps", "manual", "none"]),
    }
    issuance(lint);
    edge_ca(lint);
    renewals(lint);
}

fn manual(lint: &mut Linter<'_>) {
    if lint.get("provisioning.connection_string").is_some() {
        let message =
            "a connection string is one device's secret, and every device made from the image would have it";
        lint.error("provisioning.connection_string", message, "use source = \"dps\"");
    }
    if lint.get("provisioning.authentication").is_some() {
        certificate_or_issued(lint, "provisioning.authentication");
    }
}

fn dps(lint: &mut Linter<'_>) {
    if lint.get("parent_hostname").is_some() {
        let message = "identityd refuses DPS together with a parent: a nested device is provisioned manually";
        lint.error("parent_hostname", message, "remove it, or use source = \"manual\"");
    }
    endpoint(lint);
    id_scope(lint);
    if lint.get("provisioning.attestation").is_none() {
        let message = "the table is missing: DPS must be told how the device proves who it is";
        return lint.error("provisioning.attestation", message, "add it with method = \"x509\"");
    }
    lint.one_of("provisioning.attestation.method", &["x509", "tpm", "symmetric_key"]);
    match lint.text("provisioning.attestation.method") {
        Some("x509") => certificate_or_issued(lint, "provisioning.attestation"),
        Some("tpm") => registration_id(lint),
        Some("symmetric_key") => {
            registration_id(lint);
            symmetric_key(lint);
        }
        Some(_) => {}
        None if lint.get("provisioning.attestation.method").is_some() => {}
        None => lint.error(
            "provisioning.attestation.method",
            "the key is missing",
            "\"x509\", \"tpm\" or \"symmetric_key\"",
        ),
    }
}

fn endpoint(lint: &mut Linter<'_>) {
    let key = "provisioning.global_endpoint";
    let global = "\"https://global.azure-devices-provisioning.net\"";
    let Some(node) = lint.get(key) else {
        return lint.error(key, "the key is missing", format!("write {global}"));
    };
    match node.as_str().and_then(|text| Url::parse(text).ok()) {
        Some(url) if url.scheme() == "https" && url.has_host() => {}
        Some(url) if url.scheme() == "http" => {
            lint.error(
                key,
                "the endpoint is not encrypted (http), and DPS does not answer there",
                "write https://",
            );
        }
        _ => lint.error(key, "this is not an https address", format!("write {global}")),
    }
}

fn id_scope(lint: &mut Linter<'_>) {
    let key = "provisioning.id_scope";
    let Some(node) = lint.get(key) else {
        return lint.error(
            key,
            "the key is missing, and DPS needs it",
            "copy the ID scope from the overview of the DPS instance",
        );
    };
    let hint = "copy the ID scope from the overview of the DPS instance; it looks like 0ne00123456";
    match node.as_str() {
        None => lint.error(key, "this is not a string", hint),
        Some("") => lint.error(key, "it is empty, and DPS needs it", hint),
        Some(scope) if well_formed_scope(scope) || super::placeholder(scope) => {}
        Some(scope) => {
            let message = format!("`{scope}` is no ID scope: `0ne` and 8 hex digits");
            let global =
                lint.text("provisioning.global_endpoint").is_some_and(|url| url.contains(GLOBAL_DPS));
            if global { lint.error(key, message, hint) } else { lint.warning(key, message, hint) }
        }
    }
}

fn well_formed_scope(scope: &str) -> bool {
    scope
        .strip_prefix("0ne")
        .is_some_and(|rest| rest.len() == 8 && rest.chars().all(|c| c.is_ascii_hexdigit()))
}

fn registration_id(lint: &mut Linter<'_>) {
    let key = "provisioning.attestation.registration_id";
    match lint.get(key).map(Node::as_str) {
        Some(Some(id)) if registration_id_is_legal(id) || super::placeholder(id) => {}
        Some(_) => lint.error(
            key,
            "this is no registration id",
            "letters, digits and `-._:`, ending in a letter or digit, at most 128",
        ),
        None => lint.error(key, "the key is missing: nothing else says who the device is", "state it"),
    }
}

/// The rule of DPS for registration ids: letters, digits and `-._:`, ending in a letter, digit or `-`, at most 128.
pub fn registration_id_is_legal(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c))
        && id.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-')
}

fn symmetric_key(lint: &mut Linter<'_>) {
    let key = "provisioning.attestation.symmetric_key";
    let Some(table) = lint.get(key) else {
        return lint.error(key, "the key is missing", "symmetric_key = { uri = \"file:///…\" }");
    };
    if let Some(value) = table.child("value") {
        use base64::Engine as _;
        let valid = value.as_str().is_some_and(|text| {
            base64::engine::general_purpose::STANDARD.decode(text).is_ok_and(|key| !key.is_empty())
        });
        if !valid {
            lint.error(
                &format!("{key}.value"),
                "this is not base64",
                "copy the primary key of the enrolment",
            );
        }
        let message = "the key itself stands in the file, and every device made from the image would have it";
        lint.warning(
            &format!("{key}.value"),
            message,
            "use symmetric_key = { uri = \"file:///…\" } and a file made at first boot",
        );
    } else if table.child("uri").is_none() {
        lint.error(key, "it has neither `value` nor `uri`", "symmetric_key = { uri = \"file:///…\" }");
    }
    lint.scheme(&format!("{key}.uri"), KEY, KEY_REASON);
}

/// A table with an identity certificate: static (`identity_cert`, `identity_pk`) or issued by a method.
fn certificate_or_issued(lint: &mut Linter<'_>, table: &str) {
    let key = format!("{table}.identity_cert");
    let private = format!("{table}.identity_pk");
    let Some(node) = lint.get(&key) else {
        if lint.text(&format!("{table}.method")) == Some("x509") {
            lint.error(&key, "the key is missing", "a file: URL, or a table with a method");
        }
        return;
    };
    if node.entries().is_some() {
        return issued(lint, &key);
    }
    lint.scheme(&key, CERTIFICATE, CERTIFICATE_REASON);
    if lint.get(&private).is_none() {
        lint.error(&private, "a certificate from a file needs its key", "a file: or pkcs11: URL");
    }
    lint.scheme(&private, KEY, KEY_REASON);
    let id = format!("{table}.registration_id");
    if lint.get(&id).is_some() {
        let message =
            "with a registration id, identityd deletes the private key when it cannot read the certificate";
        lint.error(&id, message, "remove it: the certificate's common name is taken");
    }
}

/// A certificate that the device asks for: EST, a local CA, or itself.
fn issued(lint: &mut Linter<'_>, key: &str) {
    let method = format!("{key}.method");
    match lint.get(&method) {
        Some(_) => lint.one_of(&method, &["est", "local_ca", "self_signed"]),
        None => lint.error(&method, "the key is missing", "\"est\", \"local_ca\" or \"self_signed\""),
    }
    let names =
        lint.get(&format!("{key}.common_name")).is_some() || lint.get(&format!("{key}.subject")).is_some();
    if !names {
        let message = "neither `common_name` nor `subject` says whom the certificate is for";
        lint.error(key, message, "common_name = the registration id");
    }
    let url = format!("{key}.url");
    if lint.text(&url).is_some_and(|url| url.starts_with("http://")) {
        lint.warning(&url, "EST over http is not encrypted, and `iotedge check` warns", "write https://");
    }
    if lint.text(&method) == Some("local_ca") && lint.get("cert_issuance.local_ca").is_none() {
        lint.error(
            &method,
            "a local CA is asked, but [cert_issuance.local_ca] is missing",
            "add it with cert and pk",
        );
    }
    if lint.get(&format!("{key}.auto_renew")).is_some() {
        let message = "with an individual enrolment the renewed certificate is not the enrolled one, and DPS refuses the device";
        lint.warning(&format!("{key}.auto_renew"), message, "keep it only with an enrolment group");
    }
}

fn issuance(lint: &mut Linter<'_>) {
    pair(lint, "cert_issuance.local_ca");
    let urls =
        lint.get("cert_issuance.est.urls").and_then(Node::entries).map(Vec::as_slice).unwrap_or_default();
    for entry in urls {
        if entry.node.as_str().is_some_and(|url| url.starts_with("http://")) {
            let key = format!("cert_issuance.est.urls.{}", entry.key);
            lint.warning(&key, "EST over http is not encrypted, and `iotedge check` warns", "write https://");
        }
    }
    if lint.get("cert_issuance.est.auth.password").is_some() {
        let message =
            "the EST password stands in the file, and every device made from the image would have it";
        let hint = "leave it out, and give it with the identity: bootstrap-username and bootstrap-password";
        lint.warning("cert_issuance.est.auth.password", message, hint);
    }
    let certificates = lint.get("cert_issuance.est.trusted_certs");
    if let Some(Value::Array(items)) = certificates.map(|node| &node.value) {
        for at in 0..items.len() {
            lint.scheme(&format!("cert_issuance.est.trusted_certs.{at}"), CERTIFICATE, CERTIFICATE_REASON);
        }
    }
}

fn edge_ca(lint: &mut Linter<'_>) {
    if lint.get("edge_ca").is_none() {
        let message =
            "the table is missing: the runtime makes a CA of its own, which no other machine trusts";
        return lint.warning(
            "edge_ca",
            message,
            "state your CA, or auto_generated_edge_ca_expiry_days to accept that",
        );
    }
    pair(lint, "edge_ca");
    let days = "edge_ca.auto_generated_edge_ca_expiry_days";
    if lint.get(days).is_some_and(|node| !matches!(node.value, Value::Integer(1..))) {
        lint.error(days, "this is not a number of days", "a whole number, 1 or more");
    }
    if lint.get("edge_ca.method").is_some() {
        lint.one_of("edge_ca.method", &["est", "local_ca", "self_signed"]);
    }
}

/// `cert` and `pk` of a table: both or neither, each with a scheme that fits.
fn pair(lint: &mut Linter<'_>, table: &str) {
    let (cert, key) = (format!("{table}.cert"), format!("{table}.pk"));
    match (lint.get(&cert).is_some(), lint.get(&key).is_some()) {
        (true, false) => lint.error(&key, "`cert` stands without `pk`", "state both"),
        (false, true) => lint.error(&cert, "`pk` stands without `cert`", "state both"),
        _ => {}
    }
    lint.scheme(&cert, CERTIFICATE, CERTIFICATE_REASON);
    lint.scheme(&key, KEY, KEY_REASON);
}

/// Every `auto_renew` and `identity_auto_renew` of the file.
fn renewals(lint: &mut Linter<'_>) {
    let mut found = Vec::new();
    collect(lint.tree, &mut Vec::new(), &mut found);
    for path in found {
        renewal(lint, &path);
    }
}

fn collect(node: &Node, path: &mut Vec<String>, found: &mut Vec<String>) {
    for entry in node.entries().into_iter().flatten() {
        path.push(entry.key.clone());
        // Keys with a dot in them (free tables) have no path here, and no renewal either.
        if entry.key.ends_with("auto_renew") && path.iter().all(|part| !part.contains(['.', '/'])) {
            found.push(path.join("."));
        }
        collect(&entry.node, path, found);
        path.pop();
    }
}

fn renewal(lint: &mut Linter<'_>, path: &str) {
    if lint.get(path).is_none_or(|node| node.entries().is_none()) {
        return lint.error(
            path,
            "this is not a table",
            "{ rotate_key = true, threshold = \"80%\", retry = \"4%\" }",
        );
    }
    let missing: Vec<&str> = ["rotate_key", "threshold", "retry"]
        .into_iter()
        .filter(|name| lint.get(&format!("{path}.{name}")).is_none())
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "the parser wants all of rotate_key, threshold and retry: {} is missing",
            missing.join(", ")
        );
        lint.error(path, message, "for example { rotate_key = true, threshold = \"80%\", retry = \"4%\" }");
    }
    let rotate = format!("{path}.rotate_key");
    if lint.get(&rotate).is_some_and(|node| !matches!(node.value, Value::Boolean(_))) {
        lint.error(&rotate, "this is not a boolean", "`true` or `false`");
    }
    for name in ["threshold", "retry"] {
        let key = format!("{path}.{name}");
        if lint.get(&key).is_some_and(|node| !node.as_str().is_some_and(period)) {
            lint.error(
                &key,
                "this is no period",
                "a percentage or a time, as in \"80%\", \"30min\", \"5day\"",
            );
        }
    }
}

/// `80%`, `30min`, `5day`, `2 hours`.
fn period(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.len() - unit.len();
    let units = ["%", "min", "mins", "minute", "minutes", "hour", "hours", "day", "days"];
    number > 0 && number < 10 && units.contains(&unit.trim())
}
