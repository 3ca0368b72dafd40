//! The bill as SPDX 2.3 (ISO/IEC 5962 is 2.2.1), in JSON.
//!
//! ```text
//! document ─DESCRIBES─► image ─CONTAINS─► distribution, packages, container images
//!                                         package ─DEPENDS_ON─► package
//! ```
//! Licences are those that copyright files declare; nobody has concluded anything, and files were not analysed.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Bill, Container, Package, person};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const SYSTEM: &str = "SPDXRef-Distribution";
const UNKNOWN: &str = "NOASSERTION";
/// What marks the name of a group rather than a person.
const GROUPS: [&str; 8] =
    ["team", "group", "developers", "maintainers", "project", "ubuntu", "ltd", "corporation"];

/// The document.
///
/// # Errors
/// When the image's time stamp is none.
pub(crate) fn document(bill: &Bill<'_>) -> Result<Value> {
    let inventory = bill.inventory;
    let mut packages = vec![image(bill), system(bill)];
    packages.extend(inventory.packages.iter().map(|found| package(bill, found)));
    packages.extend(inventory.images.iter().enumerate().map(|(at, image)| container(image, at)));
    let texts = inventory.texts.iter().map(|(reference, text)| {
        let mut entry = Map::from_iter([
            ("licenseId".to_owned(), json!(reference)),
            ("extractedText".to_owned(), json!(text.text)),
        ]);
        put(&mut entry, "name", &text.name);
        Value::Object(entry)
    });
    let version = spdx::license_version();
    let body = json!({
        "creationInfo": {
            "created": bill.time()?,
            "creators": [format!("Tool: edgepress-{}", env!("CARGO_PKG_VERSION"))],
            // The list's major and minor number; the third has no place in the field.
            "licenseListVersion": version.splitn(3, '.').take(2).collect::<Vec<_>>().join("."),
        },
        "packages": packages,
        "hasExtractedLicensingInfos": texts.collect::<Vec<_>>(),
        "relationships": relationships(bill),
    });
    let name = format!("{}-{}", bill.name, bill.arch);
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        // The form that the specification (6.5) recommends; nothing is to be found there.
        "documentNamespace": format!("https://spdx.org/spdxdocs/{name}-{}", bill.uuid("spdx", &body)),
    });
    if let (Value::Object(document), Value::Object(body)) = (&mut document, body) {
        document.extend(body);
    }
    Ok(document)
}

/// What every package says of itself here.
fn entry(id: &str, name: &str, version: &str, purpose: &str) -> Map<String, Value> {
    let mut entry = Map::from_iter([("SPDXID".to_owned(), json!(id)), ("name".to_owned(), json!(name))]);
    put(&mut entry, "versionInfo", version);
    put(&mut entry, "primaryPackagePurpose", purpose);
    for (name, value) in [
        ("supplier", UNKNOWN),
        ("downloadLocation", UNKNOWN),
        ("licenseConcluded", UNKNOWN),
        ("licenseDeclared", UNKNOWN),
        ("copyrightText", UNKNOWN),
    ] {
        put(&mut entry, name, value);
    }
    entry.insert("filesAnalyzed".into(), json!(false));
    entry
}

fn image(bill: &Bill<'_>) -> Value {
    let mut entry = entry(IMAGE, bill.name, &bill.version(), "FIRMWARE");
    put(&mut entry, "summary", bill.description);
    entry.insert("checksums".into(), checksum(&bill.sha256));
    Value::Object(entry)
}

fn system(bill: &Bill<'_>) -> Value {
    let system = &bill.inventory.system;
    let name = if system.id.is_empty() { "linux" } else { &system.id };
    let mut entry = entry(SYSTEM, name, &system.version, "OPERATING-SYSTEM");
    put(&mut entry, "summary", &system.name);
    Value::Object(entry)
}

fn package(bill: &Bill<'_>, package: &Package) -> Value {
    let mut entry = entry(&package_id(package), &package.name, &package.version, "");
    let origin = bill.origin(package);
    let who = actor(&package.maintainer);
    match origin.and_then(|origin| origin.archive.as_ref()) {
        Some(archive) => put(&mut entry, "supplier", &format!("Organization: {}", archive.vendor)),
        None => put(&mut entry, "supplier", who.as_deref().unwrap_or(UNKNOWN)),
    }
    put(&mut entry, "originator", who.as_deref().unwrap_or(UNKNOWN));
    if let Some(origin) = origin {
        entry.insert("checksums".into(), checksum(&origin.sha256));
        put(&mut entry, "downloadLocation", origin.url.as_deref().unwrap_or(UNKNOWN));
    }
    put(&mut entry, "homepage", package.website().unwrap_or_default());
    let Package { source, source_version, .. } = package;
    put(&mut entry, "sourceInfo", &format!("built from the Debian source package {source} {source_version}"));
    put(&mut entry, "summary", &package.summary);
    put(&mut entry, "licenseDeclared", package.licence.as_deref().unwrap_or(UNKNOWN));
    entry.insert("externalRefs".into(), reference(&bill.purl(package)));
    Value::Object(entry)
}

fn container(image: &Container, at: usize) -> Value {
    let (name, tag) = image.parts();
    let mut entry = entry(&container_id(at), name, tag, "CONTAINER");
    entry.insert("checksums".into(), checksum(&image.sha256));
    if let Some(purl) = image.purl() {
        entry.insert("externalRefs".into(), reference(&purl));
    }
    Value::Object(entry)
}

fn relationships(bill: &Bill<'_>) -> Vec<Value> {
    let packages = &bill.inventory.packages;
    let mut list = vec![relation(DOCUMENT, "DESCRIBES", IMAGE), relation(IMAGE, "CONTAINS", SYSTEM)];
    list.extend(packages.iter().map(|package| relation(IMAGE, "CONTAINS", &package_id(package))));
    list.extend((0..bill.inventory.images.len()).map(|at| relation(IMAGE, "CONTAINS", &container_id(at))));
    for package in packages {
        let id = package_id(package);
        let others = package.depends.iter().filter_map(|number| packages.get(*number)).map(package_id);
        list.extend(others.filter(|other| *other != id).map(|other| relation(&id, "DEPENDS_ON", &other)));
    }
    list
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Identifiers have letters, digits, `.` and `-`. A `+` becomes `.2B`, which no package name holds: theirs are in lower
/// case.
fn package_id(package: &Package) -> String {
    let text = format!("{}-{}", package.name, package.architecture);
    let safe = text.chars().map(|c| match c {
        '.' | '-' => c.to_string(),
        c if c.is_ascii_alphanumeric() => c.to_string(),
        c => format!(".{:02X}", u32::from(c)),
    });
    format!("SPDXRef-Package-{}", safe.collect::<String>())
}

fn container_id(at: usize) -> String {
    format!("SPDXRef-ContainerImage-{at}")
}

/// A maintainer as SPDX wants it: a person or an organisation. Debian does not say which; a mailing list or the name of a
/// group is taken for the latter.
fn actor(maintainer: &str) -> Option<String> {
    let (name, address) = person(maintainer);
    if name.is_empty() {
        return None;
    }
    let lower = name.to_lowercase();
    let group = address.contains("@lists.")
        || address.contains("@tracker.")
        || lower.split(|c: char| !c.is_alphanumeric()).any(|word| GROUPS.contains(&word));
    let kind = if group { "Organization" } else { "Person" };
    // Round brackets are the field's own syntax.
    let name: String = name.chars().filter(|c| !matches!(c, '(' | ')')).collect();
    Some(if address.is_empty() { format!("{kind}: {name}") } else { format!("{kind}: {name} ({address})") })
}

fn checksum(digest: &crate::units::Digest) -> Value {
    json!([{ "algorithm": "SHA256", "checksumValue": digest }])
}

fn reference(purl: &str) -> Value {
    json!([{ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl }])
}

fn put(entry: &mut Map<String, Value>, name: &str, value: &str) {
    if !value.is_empty() {
        entry.insert(name.to_owned(), json!(value));
    }
}
