//! edgeHub's desired properties: schema version, routes, and how long messages are kept.

use edgepress_base::finding::{clean, nearest};

use super::agent::version;
use super::rules::{
    HUB_CONFIG, HUB_MISSING, HUB_PART, HUB_SCHEMA, MQTT_BROKER, ROUTE_ADDRESS, ROUTE_EMPTY, ROUTE_FUNCTION,
    ROUTE_IGNORED, ROUTE_MODULE, ROUTE_OBJECT, ROUTE_PRIORITY, ROUTE_SOURCE, ROUTE_SYNTAX, STORE_FORWARD,
    STORE_LIMITS,
};
use super::{Linter, Want};
use crate::cursor::{Cursor, Twin};
use crate::json::{Node, Value};
use crate::model::HUB;
use crate::route::{self, FUNCTIONS, Route, Sink};

const ROUTES: &str = "routes";
const STORE: &str = "storeAndForwardConfiguration";
/// Highest number of a route's priority; 0 goes first (RouteSpec.cs).
const LAST_PRIORITY: u64 = 9;
/// The first minor version with storeLimits that the Azure CLI lets pass.
const FIRST_WITH_LIMITS: u32 = 3;
/// What sources of messages begin with.
const SOURCES: [&str; 3] = ["messages", "twinChangeNotifications", "*"];

pub(super) fn rules(lint: &mut Linter<'_>) {
    let manifest = lint.manifest;
    let Some(content) = manifest.content() else { return };
    let runs = manifest.module("edgeHub").filter(|module| module.is_system);
    let Some(hub) = manifest.twin(HUB).filter(|twin| twin.parts().next().is_some()) else {
        if runs.is_some() && !manifest.is_layered() {
            let message = "edgeHub runs, and `$edgeHub` with its `properties.desired` is missing";
            lint.hit_key(
                &HUB_CONFIG,
                &content,
                message,
                "add it with schemaVersion, routes and storeAndForwardConfiguration",
            );
        }
        return;
    };
    let routes = hub.children(&[ROUTES]);
    if runs.is_none() && !routes.is_empty() && !manifest.is_layered() {
        lint.hit_key(
            &HUB_MISSING,
            &hub.at,
            "there are routes, and no edgeHub",
            "add edgeHub to `systemModules`",
        );
    }
    let minor = schema(lint, &hub);
    if !hub.is_layered() {
        complete(lint, &hub, minor);
    }
    for (_, at) in routes {
        if lint.is_full() {
            break;
        }
        route_at(lint, &at, minor);
    }
    if let Some(at) = hub.find(&[STORE]) {
        store(lint, &at, minor);
    }
    if let Some(at) = hub.find(&["mqttBroker"]) {
        let message = "the MQTT broker was a preview of 1.2; this part is left as it is";
        lint.hit_key(&MQTT_BROKER, &at, message, "remove it, and use routes");
    }
}

/// The minor version, if it is one that edgeHub knows.
fn schema(lint: &mut Linter<'_>, hub: &Twin<'_>) -> Option<u32> {
    let at = hub.find(&["schemaVersion"])?;
    if !lint.has_type(&at, Want::Text) {
        return None;
    }
    let stated = at.node.as_str().unwrap_or_default();
    match version(stated).as_deref() {
        Some([1, minor @ 0..=3, ..]) => Some(*minor),
        _ => {
            let message = format!("edgeHub refuses schema version `{}`", clean(stated));
            lint.hit(&HUB_SCHEMA, &at, message, "write \"1.1\"");
            None
        }
    }
}

fn complete(lint: &mut Linter<'_>, hub: &Twin<'_>, minor: Option<u32>) {
    let Some(desired) = hub.find(&[]).filter(|at| at.node.is_object()) else { return };
    lint.unknown(&desired, &["schemaVersion", ROUTES, STORE, "mqttBroker", "integrity"]);
    if desired.get("schemaVersion").is_none() {
        lint.hit_key(&HUB_SCHEMA, &desired, "`schemaVersion` is missing", "write \"schemaVersion\": \"1.1\"");
    }
    for part in [ROUTES, STORE] {
        match desired.get(part) {
            Some(at) => {
                lint.has_type(&at, Want::Object);
            }
            None if minor != Some(0) => {
                lint.hit_key(
                    &HUB_PART,
                    &desired,
                    format!("`{part}` is missing"),
                    format!("write \"{part}\": {{ … }}"),
                );
            }
            None => {}
        }
    }
}

fn route_at(lint: &mut Linter<'_>, at: &Cursor<'_>, minor: Option<u32>) {
    if at.node.as_str().is_some() {
        return text(lint, at, minor);
    }
    if !at.node.is_object() {
        let message = format!("this is {}", at.node.kind());
        return lint.hit(
            &ROUTE_OBJECT,
            at,
            message,
            "write \"FROM … INTO …\", or { \"route\": \"FROM … INTO …\" }",
        );
    }
    if minor == Some(0) {
        let message = "schema version 1.0 takes routes as text alone";
        lint.hit(&ROUTE_OBJECT, at, message, "write \"schemaVersion\": \"1.1\" for $edgeHub");
    }
    lint.unknown(at, &["route", "priority", "timeToLiveSecs"]);
    match lint.typed(at, "route", Want::Text) {
        Some(route) => text(lint, &route, minor),
        None if at.get("route").is_none() => lint.hit(&ROUTE_OBJECT, at, "`route` is missing", ""),
        None => {}
    }
    if let Some(value) = at.get("priority") {
        let priority = value.node.as_number().and_then(serde_json::Number::as_u64);
        if priority.is_none_or(|priority| priority > LAST_PRIORITY) {
            lint.hit(
                &ROUTE_PRIORITY,
                &value,
                "this is no priority",
                "write a whole number from 0 (first) to 9",
            );
        }
    }
    if let Some(value) = lint.typed(at, "timeToLiveSecs", Want::Integer) {
        seconds(lint, &value, 0);
    }
}

fn text(lint: &mut Linter<'_>, at: &Cursor<'_>, minor: Option<u32>) {
    let stated = at.node.as_str().unwrap_or_default();
    if stated.trim().is_empty() {
        if minor != Some(0) {
            lint.hit(&ROUTE_EMPTY, at, "the route is empty", "remove it");
        }
        return;
    }
    match route::parse(stated) {
        Ok(route) => parsed(lint, at, &route),
        Err(fault) => {
            let hint = "for example: FROM /messages/modules/NAME/outputs/* INTO $upstream";
            let exact = Node { value: Value::Null, span: lint.within(at, &fault.span) };
            let exact = Cursor { node: &exact, ..at.clone() };
            lint.hit(&ROUTE_SYNTAX, &exact, format!("the route does not parse: {}", fault.message), hint);
        }
    }
}

fn parsed(lint: &mut Linter<'_>, at: &Cursor<'_>, route: &Route) {
    if let Some(ignored) = &route.ignored {
        let message = format!("edgeHub ignores what follows: `{}`", clean(ignored));
        lint.hit(&ROUTE_IGNORED, at, message, "a condition stands before INTO");
    }
    if !route
        .source
        .first()
        .is_some_and(|first| SOURCES.iter().any(|known| known.eq_ignore_ascii_case(first)))
    {
        let first = route.source.first().map(String::as_str).unwrap_or_default();
        let message = format!("no message comes from `/{}`", clean(first));
        lint.hit(&ROUTE_SOURCE, at, message, "write /messages/* or /messages/modules/NAME/outputs/*");
    }
    for function in &route.functions {
        if !FUNCTIONS.iter().any(|known| known.eq_ignore_ascii_case(function)) {
            let hint = nearest(function, FUNCTIONS)
                .map_or_else(String::new, |near| format!("did you mean `{near}`?"));
            lint.hit(&ROUTE_FUNCTION, at, format!("conditions have no function `{}`", clean(function)), hint);
        }
    }
    if let Sink::Module { documented: false, .. } = &route.sink {
        let message = "the sink is not of the form /modules/NAME/inputs/INPUT: edgeHub takes the second and the fourth part";
        lint.hit(&ROUTE_ADDRESS, at, message, "write BrokeredEndpoint(\"/modules/NAME/inputs/INPUT\")");
    }
    if lint.manifest.is_layered() {
        return;
    }
    let sink = if let Sink::Module { module, .. } = &route.sink { Some(module.as_str()) } else { None };
    for name in route.from_module().into_iter().chain(sink) {
        if lint.manifest.module(name).is_none() {
            let names = lint.manifest.modules().iter().map(|module| module.name.as_str());
            let hint = nearest(name, names)
                .map_or_else(String::new, |near| format!("did you mean `{}`?", clean(near)));
            lint.hit(&ROUTE_MODULE, at, format!("the manifest has no module `{}`", clean(name)), hint);
        }
    }
}

fn seconds(lint: &mut Linter<'_>, at: &Cursor<'_>, least: i64) {
    let number = at.node.as_number().and_then(serde_json::Number::as_i64);
    let most = if least < 0 { i64::from(i32::MAX) } else { i64::from(u32::MAX) };
    if !number.is_some_and(|number| (least..=most).contains(&number)) {
        lint.hit(
            &STORE_FORWARD,
            at,
            "this is out of range",
            format!("write a number of seconds up to {most}"),
        );
    }
}

fn store(lint: &mut Linter<'_>, at: &Cursor<'_>, minor: Option<u32>) {
    lint.unknown(at, &["timeToLiveSecs", "storeLimits"]);
    if let Some(value) = lint.typed(at, "timeToLiveSecs", Want::Integer) {
        seconds(lint, &value, i64::from(i32::MIN));
    }
    if at.node.is_object() && at.get("timeToLiveSecs").is_none() {
        let message = "`timeToLiveSecs` is missing, and counts as 0: no message waits for a connection";
        lint.hit_key(&HUB_PART, at, message, "write \"timeToLiveSecs\": 7200");
    }
    let Some(limits) = lint.typed(at, "storeLimits", Want::Object) else { return };
    if minor.is_some_and(|minor| minor < FIRST_WITH_LIMITS) {
        let message = "the Azure CLI refuses storeLimits with this schema version";
        lint.hit_key(
            &STORE_LIMITS,
            &limits,
            message,
            "write \"schemaVersion\": \"1.3\" for $edgeHub, or set it in the portal",
        );
    }
    lint.unknown(&limits, &["maxSizeBytes"]);
    if let Some(value) = lint.typed(&limits, "maxSizeBytes", Want::Integer)
        && value.node.as_number().and_then(serde_json::Number::as_i64).is_none()
    {
        lint.hit(&STORE_FORWARD, &value, "this is out of range", "write a number of bytes below 2^63");
    }
}
