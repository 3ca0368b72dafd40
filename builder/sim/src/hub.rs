//! The IoT hub's registry as a device's identity service uses it (api-version 2017-11-08-preview).
//!
//! ```text
//! GET    /devices/{device}/modules            200 array
//! GET    /devices/{device}/modules/{module}   200, 404
//! PUT    /devices/{device}/modules/{module}   200; without If-Match only where there is none yet, else 409
//! DELETE /devices/{device}/modules/{module}   204, 404
//! ```
//!
//! Only a device that DPS assigned is known, by the SHA-256 of its certificate, and it sees only itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::exchange::{Answer, Request, Site, hex};
use super::log::Mark;
use super::tls::random;
use edgepress_base::units::Digest;

/// The hub's own limit of modules for a device.
const MOST_MODULES: usize = 50;
/// Longest module id.
const LONGEST_ID: usize = 128;
/// The edge runtime's module identity that identityd asks for first.
const AGENT: &str = "$edgeAgent";
/// Where a hub speaks AMQP and MQTT over web sockets.
const WEB_SOCKET: &str = "/$iothub/websocket";
/// 100 ns intervals from year 1 to 1970, from which generation ids are counted.
const TICKS_TO_1970: i128 = 621_355_968_000_000_000;

#[derive(Default)]
pub(super) struct Hub {
    devices: Mutex<BTreeMap<String, Device>>,
}

struct Device {
    thumbprint: Digest,
    modules: BTreeMap<String, Module>,
}

struct Module {
    generation_id: String,
    etag: String,
    managed_by: Value,
    authentication: Value,
}

impl Module {
    fn new(generation: i128) -> Self {
        let no_keys = json!({"primaryKey": null, "secondaryKey": null});
        let no_thumbprints = json!({"primaryThumbprint": null, "secondaryThumbprint": null});
        Self {
            generation_id: generation.to_string(),
            etag: etag(),
            managed_by: Value::Null,
            authentication: json!({"type": "none", "symmetricKey": no_keys, "x509Thumbprint": no_thumbprints}),
        }
    }

    fn json(&self, device: &str, id: &str) -> Value {
        json!({
            "moduleId": id,
            "deviceId": device,
            "generationId": self.generation_id,
            "etag": self.etag,
            "managedBy": self.managed_by,
            "connectionState": "Disconnected",
            "connectionStateUpdatedTime": "0001-01-01T00:00:00",
            "lastActivityTime": "0001-01-01T00:00:00",
            "cloudToDeviceMessageCount": 0,
            "authentication": self.authentication,
        })
    }
}

fn etag() -> String {
    hex(&random::<6>())
}

impl Hub {
    /// Takes in a device that DPS assigned; its modules stay when it comes again.
    pub(super) fn enrol(&self, device: &str, thumbprint: Digest) {
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 100 + TICKS_TO_1970;
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let edge_modules = || {
            let ids = [AGENT, "$edgeHub"].into_iter().zip(now..);
            ids.map(|(id, generation)| (id.to_owned(), Module::new(generation))).collect()
        };
        devices
            .entry(device.to_owned())
            .or_insert_with(|| Device { thumbprint, modules: edge_modules() })
            .thumbprint = thumbprint;
    }

    /// Whether a device was assigned to this hub.
    pub(super) fn knows(&self, device: &str) -> bool {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).contains_key(device)
    }
}

impl Site for Hub {
    /// Wrong is that the device is not there.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        if wrong {
            return error(request, 404, "DeviceNotFound", "device not found");
        }
        // AMQP and MQTT over web sockets: that it asks this hub for one is all that is simulated.
        if request.path == WEB_SOCKET {
            let asked = request.headers.upgrade && request.named;
            let note = match asked {
                true => "hub-messaging connect (web socket)",
                false => "no web socket: it needs an Upgrade, and the hub's name in the TLS handshake",
            };
            let answer = Answer { status: if asked { 503 } else { 400 }, ..Answer::default() };
            return answer.mark(asked.then_some(Mark::HubMessaging)).note(note);
        }
        let segments = request.segments().unwrap_or_default();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (device_id, module) = match *segments.as_slice() {
            ["devices", device, "modules"] => (device, None),
            ["devices", device, "modules", module] => (device, Some(module)),
            _ => return error(request, 404, "ResourceNotFound", "no such path"),
        };
        if !request.has_api_version() {
            return error(request, 400, "InvalidProtocolVersion", "the query lacks an api-version");
        }
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let known = devices.get_mut(device_id);
        let device = match (request.client, known) {
            (None, _) => return unauthorized(request, "no client certificate"),
            (_, None) => return unauthorized(request, "this device was not assigned to this hub"),
            (Some(client), Some(device)) if client.thumbprint == device.thumbprint => device,
            _ => return unauthorized(request, "not the certificate that the device registered with"),
        };
        match (request.method, module) {
            ("GET", None) => {
                let modules: Vec<Value> =
                    device.modules.iter().map(|(id, module)| module.json(device_id, id)).collect();
                Answer::json(200, modules.into())
            }
            ("GET", Some(id)) => match device.modules.get(id) {
                Some(module) => found(module, device_id, id),
                None => module_not_found(request, id),
            },
            ("PUT", Some(id)) => put(request, device, device_id, id),
            ("DELETE", Some(id)) => match device.modules.remove(id) {
                Some(_) => Answer { status: 204, ..Answer::default() },
                None => module_not_found(request, id),
            },
            _ => error(request, 405, "MethodNotAllowed", "expected GET, PUT or DELETE"),
        }
    }

    fn failure(&self, request: &Request<'_>, status: u16, note: &str) -> Answer {
        let code = match status {
            404 => "ResourceNotFound",
            429 => "ThrottlingException",
            _ => "ServerError",
        };
        error(request, status, code, note)
    }
}

fn put(request: &Request<'_>, device: &mut Device, device_id: &str, id: &str) -> Answer {
    let body: Value = match serde_json::from_slice(request.body) {
        Ok(body @ Value::Object(_)) => body,
        _ => return error(request, 400, "ArgumentInvalid", "the body is not a JSON object"),
    };
    let differs = |key: &str, value: &str| body.get(key).and_then(Value::as_str) != Some(value);
    if differs("moduleId", id) || differs("deviceId", device_id) {
        return error(request, 400, "ArgumentInvalid", "the body's moduleId or deviceId is not the path's");
    }
    if !valid_id(id) {
        return error(request, 400, "ArgumentInvalid", "module id not allowed");
    }
    let count = device.modules.len();
    match (device.modules.get(id), request.headers.if_match.map(|tag| tag.trim_matches('"'))) {
        (Some(_), None) => {
            return error(request, 409, "ModuleAlreadyExistsOnDevice", "an update needs If-Match");
        }
        (None, Some(_)) => return module_not_found(request, id),
        (Some(module), Some(tag)) if tag != "*" && tag != module.etag => {
            return error(request, 412, "PreconditionFailed", "If-Match names another ETag");
        }
        (None, None) if count >= MOST_MODULES => {
            return error(request, 403, "TooManyModulesOnDevice", "too many modules");
        }
        _ => {}
    }
    let ticks = request.now.unix_timestamp_nanos() / 100 + TICKS_TO_1970;
    let module = device.modules.entry(id.to_owned()).or_insert_with(|| Module::new(ticks));
    module.etag = etag();
    if let Some(authentication @ Value::Object(_)) = body.get("authentication") {
        module.authentication = authentication.clone();
    }
    if let Some(managed_by) = body.get("managedBy") {
        module.managed_by = managed_by.clone();
    }
    found(module, device_id, id)
}

fn found(module: &Module, device: &str, id: &str) -> Answer {
    Answer::json(200, module.json(device, id))
        .header("etag", format!("\"{}\"", module.etag))
        .mark((id == AGENT).then_some(Mark::AgentIdentity))
}

fn valid_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-:.+%_#*?!(),=@;$'".contains(&byte);
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(plain)
}

fn unauthorized(request: &Request<'_>, note: &str) -> Answer {
    error(request, 401, "IotHubUnauthorizedAccess", note)
}

fn module_not_found(request: &Request<'_>, id: &str) -> Answer {
    error(request, 404, "ModuleNotFound", &format!("no module {id}"))
}

/// The hub's own form of an error.
fn error(request: &Request<'_>, status: u16, code: &str, note: &str) -> Answer {
    let tracking = hex(&random::<16>());
    let body = json!({
        "Message": format!("ErrorCode:{code};{note}"),
        "ExceptionMessage": format!("Tracking ID:{tracking}-G:0-TimeStamp:{}", request.time()),
    });
    Answer::json(status, body).header("iothub-errorcode", code).note(note)
}

#[cfg(test)]
mod tests {
    use super::{Hub, Mark, Request};
    use crate::exchange::tests::{json, request};
    use crate::exchange::{Body, Headers, Site as _};
    use crate::tls::Client;
    use rustls::pki_types::CertificateDer;

    const VERSION: &str = "api-version=2017-11-08-preview";

    fn if_match(tag: &str) -> Headers<'_> {
        Headers { if_match: Some(tag), ..Headers::default() }
    }

    fn client(byte: u8) -> Client {
        Client::of(&[CertificateDer::from(vec![byte])]).expect("chain")
    }

    #[test]
    fn an_assigned_device_manages_its_modules() {
        let hub = Hub::default();
        let client = client(1);
        hub.enrol("edge-1", client.thumbprint);
        let get = |path| {
            let answer = hub.answer(&Request { client: Some(&client), ..request("GET", path, VERSION) });
            (answer.status, answer.mark, json(&answer).clone())
        };
        let (status, _, list) = get("/devices/edge-1/modules");
        assert_eq!((status, list.as_array().map(Vec::len)), (200, Some(2)));
        let (status, mark, agent) = get("/devices/edge-1/modules/%24edgeAgent");
        assert_eq!((status, mark), (200, Some(Mark::AgentIdentity)));
        assert_eq!((&agent["moduleId"], &agent["deviceId"]), (&"$edgeAgent".into(), &"edge-1".into()));
        let generation = agent["generationId"].as_str().expect("generation").to_owned();
        assert!(generation.parse::<u64>().is_ok(), "{generation}");

        let body = br#"{"moduleId":"$edgeAgent","deviceId":"edge-1","managedBy":"IotEdge",
            "authentication":{"type":"sas","symmetricKey":{"primaryKey":"a","secondaryKey":"b"}}}"#;
        let path = "/devices/edge-1/modules/$edgeAgent";
        let put = Request { body, client: Some(&client), ..request("PUT", path, VERSION) };
        assert_eq!(hub.answer(&put).status, 409);
        assert_eq!(hub.answer(&Request { headers: if_match("\"x\""), ..put }).status, 412);
        let answer = hub.answer(&Request { headers: if_match("*"), ..put });
        assert_eq!((answer.status, answer.mark), (200, Some(Mark::AgentIdentity)));
        let (_, _, agent) = get(path);
        assert_eq!(agent["generationId"], generation.as_str());
        assert_eq!(agent["authentication"]["type"], "sas");
        assert_eq!(answer.body, Body::Json(agent));
    }

    #[test]
    fn modules_come_and_go() {
        let hub = Hub::default();
        let client = client(1);
        hub.enrol("edge-1", client.thumbprint);
        let path = "/devices/edge-1/modules/m";
        let body = br#"{"moduleId":"m","deviceId":"edge-1"}"#;
        let put = Request { body, client: Some(&client), ..request("PUT", path, VERSION) };
        let get = Request { method: "GET", ..put };
        let delete = Request { method: "DELETE", ..put };
        assert_eq!(hub.answer(&Request { headers: if_match("*"), ..put }).status, 404);
        assert_eq!(hub.answer(&put).status, 200);
        hub.enrol("edge-1", client.thumbprint);
        assert_eq!(hub.answer(&get).status, 200);
        assert_eq!(hub.answer(&delete).status, 204);
        assert_eq!(hub.answer(&delete).status, 404);
        assert_eq!(hub.answer(&get).status, 404);
        for body in [&b""[..], b"[]", br#"{"moduleId":"n","deviceId":"edge-1"}"#] {
            assert_eq!(hub.answer(&Request { body, ..put }).status, 400);
        }
        assert_eq!(hub.answer(&Request { method: "POST", ..put }).status, 405);
        for n in 0..60 {
            let path = format!("/devices/edge-1/modules/m{n}");
            let body = format!(r#"{{"moduleId":"m{n}","deviceId":"edge-1"}}"#);
            let answer = hub.answer(&Request { path: &path, body: body.as_bytes(), ..put });
            assert_eq!(answer.status, if n < 48 { 200 } else { 403 }, "{n}");
        }
    }

    #[test]
    fn a_web_socket_is_asked_for_by_name_and_upgrade() {
        let hub = Hub::default();
        let path = "/$iothub/websocket";
        for (upgrade, named, marked) in
            [(true, true, true), (false, true, false), (true, false, false), (false, false, false)]
        {
            let headers = Headers { upgrade, ..Headers::default() };
            let answer = hub.answer(&Request { headers, named, ..request("GET", path, "") });
            assert_eq!(answer.mark.is_some(), marked, "{upgrade} {named}");
            assert_eq!(answer.status, if marked { 503 } else { 400 });
        }
    }

    #[test]
    fn only_the_assigned_device_is_let_in() {
        let hub = Hub::default();
        let (mine, other) = (client(1), client(2));
        hub.enrol("edge-1", mine.thumbprint);
        let path = "/devices/edge-1/modules";
        for (client, path, query, status) in [
            (Some(&mine), path, VERSION, 200),
            (Some(&other), path, VERSION, 401),
            (None, path, VERSION, 401),
            (Some(&mine), "/devices/edge-2/modules", VERSION, 401),
            (Some(&mine), path, "", 400),
            (Some(&mine), "/devices/edge-1", VERSION, 404),
        ] {
            let answer = hub.answer(&Request { client, ..request("GET", path, query) });
            assert_eq!(answer.status, status, "{path}: {}", answer.note);
        }
        hub.enrol("edge-1", other.thumbprint);
        assert_eq!(hub.answer(&Request { client: Some(&mine), ..request("GET", path, VERSION) }).status, 401);
    }
}
