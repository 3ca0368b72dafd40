//! The bill as CycloneDX 1.6 (ECMA-424), in JSON.
//!
//! The image is the described component; packages, the distribution and container images are components beside each other,
//! and `dependencies` is dpkg's graph. A package's reference within the document is its package URL.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Bill, Container, Package, person};

const IMAGE: &str = "image";
const SYSTEM: &str = "distribution";

/// The document.
///
/// # Errors
/// When the image's time stamp is none.
pub(crate) fn document(bill: &Bill<'_>) -> Result<Value> {
    let inventory = bill.inventory;
    let references: Vec<String> = inventory.packages.iter().map(|package| bill.purl(package)).collect();
    let mut components = vec![system(bill)];
    components.extend(inventory.packages.iter().zip(&references).map(|(found, id)| package(bill, found, id)));
    components.extend(inventory.images.iter().enumerate().map(|(at, image)| container(image, at)));
    let body = json!({
        "metadata": metadata(bill)?,
        "components": components,
        "dependencies": dependencies(bill, &references),
    });
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", bill.uuid("cyclonedx", &body)),
        "version": 1,
    });
    if let (Value::Object(document), Value::Object(body)) = (&mut document, body) {
        document.extend(body);
    }
    Ok(document)
}

fn metadata(bill: &Bill<'_>) -> Result<Value> {
    let mut image = Map::from_iter([
        // What runs on a device from its first instruction on. The distribution in it is a component of its own: that is
        // where scanners look for its name.
        ("type".to_owned(), json!("firmware")),
        ("bom-ref".to_owned(), json!(IMAGE)),
        ("name".to_owned(), json!(bill.name)),
        ("version".to_owned(), json!(bill.version())),
    ]);
    put(&mut image, "description", bill.description);
    image.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": bill.sha256 }]));
    image.insert("properties".into(), json!([{ "name": "edgepress:architecture", "value": bill.arch }]));
    Ok(json!({
        "timestamp": bill.time()?,
        "lifecycles": [{ "phase": "build" }],
        "tools": { "components": [
            { "type": "application", "name": "edgepress", "version": env!("CARGO_PKG_VERSION") },
        ] },
        "component": image,
    }))
}

fn system(bill: &Bill<'_>) -> Value {
    let system = &bill.inventory.system;
    let mut component = Map::from_iter([
        ("type".to_owned(), json!("operating-system")),
        ("bom-ref".to_owned(), json!(SYSTEM)),
        ("name".to_owned(), json!(if system.id.is_empty() { "linux" } else { &system.id })),
    ]);
    put(&mut component, "version", &system.version);
    put(&mut component, "description", &system.name);
    Value::Object(component)
}

fn package(bill: &Bill<'_>, package: &Package, reference: &str) -> Value {
    let origin = bill.origin(package);
    let mut component =
        Map::from_iter([("type".to_owned(), json!("library")), ("bom-ref".to_owned(), json!(reference))]);
    match origin.and_then(|origin| origin.archive.as_ref()) {
        Some(archive) => drop(component.insert("supplier".into(), json!({ "name": archive.vendor }))),
        None if package.maintainer.is_empty() => {}
        None => drop(component.insert("supplier".into(), supplier(&package.maintainer))),
    }
    put(&mut component, "publisher", &package.maintainer);
    put(&mut component, "name", &package.name);
    put(&mut component, "version", &package.version);
    put(&mut component, "description", &package.summary);
    if let Some(origin) = origin {
        component.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": origin.sha256 }]));
    }
    if let Some(licence) = &package.licence {
        component
            .insert("licenses".into(), json!([{ "expression": licence, "acknowledgement": "declared" }]));
    }
    component.insert("purl".into(), json!(reference));
    let mut links = Vec::new();
    if let Some(url) = origin.and_then(|origin| origin.url.as_ref()) {
        links.push(json!({ "type": "distribution", "url": url }));
    }
    if let Some(url) = package.website() {
        links.push(json!({ "type": "website", "url": url }));
    }
    if !links.is_empty() {
        component.insert("externalReferences".into(), json!(links));
    }
    component.insert(
        "properties".into(),
        json!([
            { "name": "edgepress:deb:architecture", "value": package.architecture },
            { "name": "edgepress:deb:source", "value": package.source },
            { "name": "edgepress:deb:source-version", "value": package.source_version },
        ]),
    );
    Value::Object(component)
}

fn supplier(maintainer: &str) -> Value {
    match person(maintainer) {
        (name, "") => json!({ "name": name }),
        (name, address) => json!({ "name": name, "contact": [{ "email": address }] }),
    }
}

fn container(image: &Container, at: usize) -> Value {
    let (name, tag) = image.parts();
    let mut component = Map::from_iter([
        ("type".to_owned(), json!("container")),
        ("bom-ref".to_owned(), json!(container_reference(at))),
        ("name".to_owned(), json!(name)),
        ("version".to_owned(), json!(tag)),
        ("hashes".to_owned(), json!([{ "alg": "SHA-256", "content": image.sha256 }])),
    ]);
    if let Some(purl) = image.purl() {
        component.insert("purl".into(), json!(purl));
    }
    Value::Object(component)
}

fn container_reference(at: usize) -> String {
    format!("container-image-{at}")
}

/// The image holds everything; a package has what dpkg says it depends on.
fn dependencies(bill: &Bill<'_>, references: &[String]) -> Vec<Value> {
    let mut all = vec![SYSTEM.to_owned()];
    all.extend(references.iter().cloned());
    let containers: Vec<String> = (0..bill.inventory.images.len()).map(container_reference).collect();
    all.extend(containers.iter().cloned());
    let mut list = vec![json!({ "ref": IMAGE, "dependsOn": all }), json!({ "ref": SYSTEM })];
    for (package, reference) in bill.inventory.packages.iter().zip(references) {
        // dpkg lets a package name what it provides itself.
        let others = package.depends.iter().filter_map(|number| references.get(*number));
        let on: Vec<&String> = others.filter(|other| *other != reference).collect();
        let edge = json!({ "ref": reference, "dependsOn": on });
        list.push(if on.is_empty() { json!({ "ref": reference }) } else { edge });
    }
    list.extend(containers.iter().map(|reference| json!({ "ref": reference })));
    list
}

fn put(component: &mut Map<String, Value>, name: &str, value: &str) {
    if !value.is_empty() {
        component.insert(name.to_owned(), json!(value));
    }
}
