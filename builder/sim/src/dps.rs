//! The Device Provisioning Service, device side, X.509 enrolment group (api-version 2021-06-01).
//!
//! ```text
//! PUT  /{scope}/registrations/{id}/register         202 {"operationId", "status": "assigning"}
//! GET  /{scope}/registrations/{id}/operations/{op}  202 assigning (as often as told), then 200 assigned
//! POST /{scope}/registrations/{id}                  200 the registration's state (status look-up)
//! ```
//!
//! Shapes as in <https://learn.microsoft.com/rest/api/iot-dps/device/runtime-registration> and as
//! Azure/iot-identity-service reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::config::Allocation;
use super::exchange::{Answer, Request, Site, hex, uuid};
use super::hub::Hub;
use super::log::Mark;
use super::tls::{Client, Group, random};
use edgepress_base::units::Digest;

/// What DPS tells a device to wait between polls, seconds; identityd ignores it and waits 5 s.
const RETRY_AFTER: u32 = 3;
/// Error of a registration that failed.
const FAILED: u32 = 400_209;
/// Longest registration id that DPS takes.
const LONGEST_ID: usize = 128;

pub(super) struct Dps {
    group: Group,
    /// The only scope known; any where there is none.
    id_scope: Option<String>,
    hub_name: String,
    allocation: Allocation,
    assigning_polls: u32,
    hub: Arc<Hub>,
    registrations: Mutex<BTreeMap<String, Registration>>,
}

struct Registration {
    operation_id: String,
    thumbprint: Digest,
    polls_left: u32,
    assigned: bool,
    doomed: bool,
    created: String,
    updated: String,
    etag: String,
}

impl Dps {
    pub(super) fn new(
        group: Group,
        id_scope: Option<String>,
        hub_name: String,
        allocation: Allocation,
        assigning_polls: u32,
        hub: Arc<Hub>,
    ) -> Self {
        Self { group, id_scope, hub_name, allocation, assigning_polls, hub, registrations: Mutex::default() }
    }

    /// Lets in who may register as `id` in `scope`.
    fn admit<'a>(&self, request: &Request<'a>, scope: &str, id: &str) -> Result<&'a Client, Box<Answer>> {
        let refuse =
            |status, code, message, note: &str| Box::new(error(request, status, code, message, note));
        if scope.is_empty() || self.id_scope.as_deref().is_some_and(|known| known != scope) {
            return Err(refuse(404, 404_002, "ID scope not found", &format!("unknown ID scope {scope}")));
        }
        if !valid_id(id) {
            return Err(refuse(400, 400_004, "Invalid registration ID", "registration id not allowed"));
        }
        let client =
            request.client.ok_or_else(|| refuse(401, 401_002, "Unauthorized", "no client certificate"))?;
        self.group
            .check(client, request.unix_seconds())
            .map_err(|reason| refuse(401, 401_002, "Invalid certificate", &reason))?;
        if client.common_name.as_deref() != Some(id) {
            let note = format!("registration id {id} is not the common name {}", request.shown());
            return Err(refuse(401, 401_002, "Unauthorized", &note));
        }
        Ok(client)
    }

    fn register(&self, request: &Request<'_>, id: &str, client: &Client, doomed: bool) -> Answer {
        let body: Option<Value> = serde_json::from_slice(request.body).ok();
        if body.as_ref().and_then(|body| body.get("registrationId")).and_then(Value::as_str) != Some(id) {
            let note = "the body is not JSON with the path's registrationId";
            return error(request, 400, 400_000, "Bad request", note);
        }
        let operation_id = format!("4.{}.{}", hex(&random::<8>()), uuid());
        let answer = json!({"operationId": operation_id, "status": "assigning"});
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        let created = registrations.get(id).map_or_else(|| request.time(), |known| known.created.clone());
        let registration = Registration {
            operation_id,
            thumbprint: client.thumbprint,
            polls_left: self.assigning_polls,
            assigned: false,
            doomed,
            created,
            updated: request.time(),
            etag: hex(&random::<12>()),
        };
        registrations.insert(id.to_owned(), registration);
        Answer::json(202, answer)
            .header("retry-after", RETRY_AFTER.to_string())
            .mark(Some(Mark::DpsRegistered))
    }

    fn poll(&self, request: &Request<'_>, id: &str, operation: &str, doomed: bool) -> Answer {
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        let known = registrations.get_mut(id).filter(|known| known.operation_id == operation);
        let Some(registration) = known else {
            return error(request, 404, 404_203, "Operation not found", "no such operation");
        };
        if registration.polls_left > 0 {
            registration.polls_left -= 1;
            let state = json!({"registrationId": id, "status": "assigning"});
            return Answer::json(
                202,
                json!({"operationId": operation, "status": "assigning", "registrationState": state}),
            )
            .header("retry-after", RETRY_AFTER.to_string());
        }
        if registration.doomed || doomed {
            return failed(request, id, operation, registration);
        }
        if !registration.assigned {
            registration.assigned = true;
            registration.updated = request.time();
            self.hub.enrol(&self.allocation.device_id(id), registration.thumbprint);
        }
        let state = self.state(id, registration);
        let answer = json!({"operationId": operation, "status": "assigned", "registrationState": state});
        Answer::json(200, answer).mark(Some(Mark::DpsAssigned))
    }

    fn look(&self, request: &Request<'_>, id: &str) -> Answer {
        let registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        match registrations.get(id) {
            Some(registration) if registration.assigned => Answer::json(200, self.state(id, registration)),
            _ => error(request, 404, 404_201, "Registration not found", "not assigned yet"),
        }
    }

    fn state(&self, id: &str, registration: &Registration) -> Value {
        let mut state = json!({
            "x509": {"enrollmentGroupId": "edgepress-simulator"},
            "registrationId": id,
            "createdDateTimeUtc": registration.created,
            "assignedHub": self.hub_name,
            "deviceId": self.allocation.device_id(id),
            "status": "assigned",
            "substatus": "initialAssignment",
            "lastUpdatedDateTimeUtc": registration.updated,
            "etag": registration.etag,
        });
        if let Some(payload) = &self.allocation.payload {
            state["payload"] = payload.clone();
        }
        state
    }
}

impl Site for Dps {
    /// Answers one request; a registration that is `doomed` ends as failed.
    fn answer_as(&self, request: &Request<'_>, doomed: bool) -> Answer {
        let segments = request.segments().unwrap_or_default();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (scope, id, action) = match *segments.as_slice() {
            [scope, "registrations", id] => (scope, id, Action::Look),
            [scope, "registrations", id, "register"] => (scope, id, Action::Register),
            [scope, "registrations", id, "operations", operation] => (scope, id, Action::Poll(operation)),
            _ => return error(request, 404, 404_000, "Resource not found", "no such path"),
        };
        if request.method != action.method() {
            let note = format!("expected {}", action.method());
            return error(request, 405, 405_000, "Method not allowed", &note);
        }
        if !request.has_api_version() {
            return error(
                request,
                400,
                400_000,
                "Invalid api-version",
                "the query lacks api-version=2021-06-01",
            );
        }
        let client = match self.admit(request, scope, id) {
            Ok(client) => client,
            Err(refusal) => return *refusal,
        };
        match action {
            Action::Register => self.register(request, id, client, doomed),
            Action::Poll(operation) => self.poll(request, id, operation, doomed),
            Action::Look => self.look(request, id),
        }
    }

    fn failure(&self, request: &Request<'_>, status: u16, note: &str) -> Answer {
        let (code, message) = match status {
            404 => (404_000, "Resource not found"),
            429 => (429_001, "Operations are being throttled for this tenant"),
            _ => (500_000, "Internal server error"),
        };
        error(request, status, code, message, note)
    }
}

#[derive(Clone, Copy)]
enum Action<'a> {
    Register,
    Poll(&'a str),
    Look,
}

impl Action<'_> {
    fn method(self) -> &'static str {
        match self {
            Self::Register => "PUT",
            Self::Poll(_) => "GET",
            Self::Look => "POST",
        }
    }
}

/// Letters, digits and `-._:`, the last one a letter, a digit or `-`.
pub(super) fn valid_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    id.len() <= LONGEST_ID
        && id.bytes().all(plain)
        && id.bytes().last().is_some_and(|last| last.is_ascii_alphanumeric() || last == b'-')
}

/// DPS's own form of an error.
fn error(request: &Request<'_>, status: u16, code: u32, message: &str, note: &str) -> Answer {
    let body = json!({
        "errorCode": code,
        "trackingId": uuid(),
        "message": message,
        "timestampUtc": request.time(),
    });
    Answer::json(status, body).note(note)
}

/// The end of a registration that DPS could not carry out.
fn failed(request: &Request<'_>, id: &str, operation: &str, registration: &Registration) -> Answer {
    let state = json!({
        "registrationId": id,
        "createdDateTimeUtc": registration.created,
        "status": "failed",
        "errorCode": FAILED,
        "errorMessage": "The enrollment group's hub refused the device",
        "lastUpdatedDateTimeUtc": request.time(),
        "etag": registration.etag,
    });
    Answer::json(200, json!({"operationId": operation, "status": "failed", "registrationState": state}))
}

#[cfg(test)]
mod tests {
    use super::{Allocation, Answer, Dps, Mark, Request, valid_id};
    use crate::exchange::Site as _;
    use crate::exchange::tests::{json, request};
    use crate::hub::Hub;
    use crate::pki::{DeviceOptions, Pki};
    use crate::tls::{Client, Group};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use std::sync::Arc;

    const VERSION: &str = "api-version=2021-06-01";
    const BODY: &[u8] = br#"{"registrationId":"edge-1"}"#;

    fn client(pki: &Pki, id: &str, options: &DeviceOptions) -> Client {
        let device = pki.issue_device(id, options).expect("issue");
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(device.chain_pem.as_bytes())
            .map(|one| one.expect("PEM"))
            .collect();
        Client::of(&chain).expect("chain")
    }

    fn world(polls: u32) -> (tempfile::TempDir, Pki, Dps) {
        let (folder, pki, dps, _) = allocating(polls, Allocation::default());
        (folder, pki, dps)
    }

    fn allocating(polls: u32, allocation: Allocation) -> (tempfile::TempDir, Pki, Dps, Arc<Hub>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pki = Pki::open_or_create(folder.path()).expect("authorities");
        let group = Group::enrolment(&pki).expect("group");
        let scope = Some("0ne00000001".to_owned());
        let hub = Arc::new(Hub::default());
        let dps = Dps::new(group, scope, "hub.example".into(), allocation, polls, hub.clone());
        (folder, pki, dps, hub)
    }

    fn register<'a>(path: &'a str, client: Option<&'a Client>) -> Request<'a> {
        Request { body: BODY, client, ..request("PUT", path, VERSION) }
    }

    fn code(answer: &Answer) -> u64 {
        let body = json(answer);
        for key in ["trackingId", "message", "timestampUtc"] {
            assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        }
        body["errorCode"].as_u64().expect("code")
    }

    #[test]
    fn a_device_is_assigned_after_the_polls_it_takes() {
        let (_folder, pki, dps) = world(2);
        let client = client(&pki, "edge-1", &DeviceOptions::default());
        let answer = dps.answer(&register("/0ne00000001/registrations/edge-1/register", Some(&client)));
        assert_eq!((answer.status, answer.mark), (202, Some(Mark::DpsRegistered)));
        let operation = json(&answer)["operationId"].as_str().expect("id").to_owned();
        let path = format!("/0ne00000001/registrations/edge-1/operations/{operation}");
        let poll = Request { client: Some(&client), ..request("GET", &path, VERSION) };
        let look = Request { method: "POST", path: "/0ne00000001/registrations/edge-1", ..poll };
        for _ in 0..2 {
            let answer = dps.answer(&poll);
            let body = json(&answer);
            assert_eq!((answer.status, &body["status"]), (202, &"assigning".into()));
            assert_eq!(body["registrationState"]["registrationId"], "edge-1");
            assert_eq!(dps.answer(&look).status, 404);
        }
        for _ in 0..2 {
            let answer = dps.answer(&poll);
            let body = json(&answer);
            assert_eq!((answer.status, &body["status"]), (200, &"assigned".into()));
            let state = &body["registrationState"];
            assert_eq!(
                (&state["assignedHub"], &state["deviceId"]),
                (&"hub.example".into(), &"edge-1".into())
            );
            assert_eq!(answer.mark, Some(Mark::DpsAssigned));
            assert_eq!(json(&dps.answer(&look)), state);
        }
        let other = Request { path: "/0ne00000001/registrations/edge-1/operations/other", ..poll };
        assert_eq!(dps.answer(&other).status, 404);
    }

    /// A custom allocation names the device as it likes, and tells it something.
    #[test]
    fn a_device_may_be_called_otherwise_than_its_registration() {
        let payload = serde_json::json!({"site": "north"});
        let allocation = Allocation { device_id: "north-*-x".into(), payload: Some(payload.clone()) };
        let (_folder, pki, dps, hub) = allocating(0, allocation);
        let client = client(&pki, "edge-1", &DeviceOptions::default());
        let answer = dps.answer(&register("/0ne00000001/registrations/edge-1/register", Some(&client)));
        let operation = json(&answer)["operationId"].as_str().expect("id").to_owned();
        let path = format!("/0ne00000001/registrations/edge-1/operations/{operation}");
        let answer = dps.answer(&Request { client: Some(&client), ..request("GET", &path, VERSION) });
        let state = &json(&answer)["registrationState"];
        assert_eq!(
            (&state["deviceId"], &state["registrationId"]),
            (&"north-edge-1-x".into(), &"edge-1".into())
        );
        assert_eq!(state["payload"], payload);
        assert!(hub.knows("north-edge-1-x") && !hub.knows("edge-1"));
    }

    #[test]
    fn a_registration_can_fail() {
        let (_folder, pki, dps) = world(0);
        let client = client(&pki, "edge-1", &DeviceOptions::default());
        let register = register("/0ne00000001/registrations/edge-1/register", Some(&client));
        for doomed_at_register in [true, false] {
            let answer = if doomed_at_register { dps.wrong(&register) } else { dps.answer(&register) };
            let operation = json(&answer)["operationId"].as_str().expect("id");
            let path = format!("/0ne00000001/registrations/edge-1/operations/{operation}");
            let poll = Request { client: Some(&client), ..request("GET", &path, VERSION) };
            let answer = if doomed_at_register { dps.answer(&poll) } else { dps.wrong(&poll) };
            let body = json(&answer);
            assert_eq!((answer.status, answer.mark, &body["status"]), (200, None, &"failed".into()));
            assert_eq!(body["registrationState"]["errorCode"], 400_209);
        }
    }

    #[test]
    fn strangers_get_the_answers_of_dps() {
        let (_folder, pki, dps) = world(0);
        let path = "/0ne00000001/registrations/edge-1/register";
        let good = client(&pki, "edge-1", &DeviceOptions::default());
        for (what, client, path, status, expected) in [
            ("none", None, path, 401, 401_002),
            ("wrong CA", Some(client(&pki, "edge-1", &DeviceOptions::wrong_ca())), path, 401, 401_002),
            ("expired", Some(client(&pki, "edge-1", &DeviceOptions::expired())), path, 401, 401_002),
            ("early", Some(client(&pki, "edge-1", &DeviceOptions::not_yet_valid())), path, 401, 401_002),
            ("other name", Some(client(&pki, "edge-2", &DeviceOptions::default())), path, 401, 401_002),
            ("scope", Some(good.clone()), "/0ne1/registrations/edge-1/register", 404, 404_002),
            ("empty id", Some(good.clone()), "/0ne00000001/registrations//register", 400, 400_004),
            ("path", Some(good.clone()), "/0ne00000001/enrollments", 404, 404_000),
        ] {
            let answer = dps.answer(&register(path, client.as_ref()));
            assert_eq!((answer.status, code(&answer)), (status, expected), "{what}: {}", answer.note);
            assert!(!answer.note.is_empty(), "{what}");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        let (_folder, pki, dps) = world(0);
        let client = client(&pki, "edge-1", &DeviceOptions::default());
        let good = register("/0ne00000001/registrations/edge-1/register", Some(&client));
        for (status, request) in [
            (405, Request { method: "POST", ..good }),
            (400, Request { query: "", ..good }),
            (400, Request { body: b"", ..good }),
            (400, Request { body: b"{", ..good }),
            (400, Request { body: br#"{"registrationId":"edge-2"}"#, ..good }),
            (404, Request { path: "/%ff/registrations/edge-1/register", ..good }),
            (404, Request { path: "*", ..good }),
        ] {
            assert_eq!(dps.answer(&request).status, status, "{request:?}");
        }
    }

    #[test]
    fn registration_ids_are_checked() {
        for (id, valid) in
            [("edge-1", true), ("a.b_c:d-", true), ("", false), ("a.", false), ("a b", false), ("é", false)]
        {
            assert_eq!(valid_id(id), valid, "{id}");
        }
    }
}
