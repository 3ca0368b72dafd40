//! Azure's instance metadata service: who the virtual machine is, and tokens for its managed identities.
//!
//! ```text
//! GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=…   200 {"access_token", …}
//! GET /metadata/instance?api-version=2021-02-01                           200 JSON
//! GET /metadata/instance/compute/name?api-version=2021-02-01&format=text  200 a leaf, as text
//! ```
//!
//! Every request needs the header `Metadata: true` and may not have come by a proxy. Shapes as in
//! <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service> and
//! <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::{Config, Metadata};
use super::exchange::{Answer, Request, Site};
use super::tokens::{Tokens, counterfeit};

/// How long a managed identity's token holds, seconds: a day.
const LIFE: u64 = 86_400;
/// Client id of the system-assigned identity.
const SYSTEM: &str = "3b7d52f6-1e0c-4f7a-9c66-2a8e41d0b95f";
const SUBSCRIPTION: &str = "c0ffee00-5a1b-4c3d-8e2f-9b7a6d5c4e3f";
const RESOURCE_GROUP: &str = "edgepress-simulator";
const TEXT: &str = "text/plain; charset=utf-8";

/// Grants the tokens of managed identities, for a virtual machine and for Arc.
pub(super) struct Managed {
    tokens: Arc<Tokens>,
    system: bool,
    users: Vec<String>,
}

impl Managed {
    pub(super) fn new(metadata: &Metadata, tokens: Arc<Tokens>) -> Self {
        Self { tokens, system: metadata.system_assigned, users: metadata.user_identities.clone() }
    }

    /// The answer to a request for a token; a `wrong` one is worth nothing.
    pub(super) fn token(&self, request: &Request<'_>, wrong: bool) -> Answer {
        let Some(resource) = request.parameter("resource").filter(|resource| !resource.is_empty()) else {
            return refuse(400, "AADSTS50001: The application named  was not found: `resource` is missing");
        };
        let identity = match self.identity(request) {
            Ok(identity) => identity,
            Err(why) => return refuse(400, why),
        };
        let now = request.unix_seconds();
        let token =
            if wrong { counterfeit() } else { self.tokens.grant(&resource, now, now.saturating_add(LIFE)) };
        let seconds = (LIFE - 1).to_string();
        let body = json!({
            "access_token": token,
            "client_id": identity,
            "expires_in": seconds,
            "expires_on": now.saturating_add(LIFE).to_string(),
            "ext_expires_in": seconds,
            "not_before": now.saturating_sub(300).to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        Answer::json(200, body).note(format!("a token of identity {identity}"))
    }

    /// The identity that is asked for; without a name the system's own, or the only one there is.
    fn identity(&self, request: &Request<'_>) -> Result<String, &'static str> {
        let keys = ["client_id", "object_id", "mi_res_id", "msi_res_id"];
        let asked = keys.into_iter().find_map(|key| request.parameter(key));
        match (asked, self.users.as_slice()) {
            (Some(asked), users) => {
                let known = |user: &String| user.eq_ignore_ascii_case(&asked);
                let system = self.system && asked.eq_ignore_ascii_case(SYSTEM);
                if system || users.iter().any(known) { Ok(asked) } else { Err("Identity not found") }
            }
            (None, _) if self.system => Ok(SYSTEM.to_owned()),
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err("Identity not found"),
            (None, _) => Err("Multiple user assigned identities exist, please specify the clientId / \
                              resourceId of the identity in the token request"),
        }
    }
}

/// Why a request is none that a metadata service takes, if so.
pub(super) fn improper(request: &Request<'_>) -> Option<Answer> {
    if request.headers.forwarded {
        return Some(refuse(400, "a request with X-Forwarded-For came by a proxy"));
    }
    if !request.headers.metadata.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Some(refuse(400, "Required metadata header not specified"));
    }
    if request.method != "GET" {
        return Some(refuse(405, "expected GET"));
    }
    (!request.has_api_version()).then(|| refuse(400, "Required query variable 'api-version' is missing"))
}

/// The service's own form of an error.
pub(super) fn refuse(status: u16, why: &str) -> Answer {
    let error = match status {
        404 => "not_found",
        429 => "too_many_requests",
        500.. => "unknown",
        _ => "invalid_request",
    };
    Answer::json(status, json!({"error": error, "error_description": why})).note(why)
}

/// The service.
pub(super) struct Instance {
    managed: Managed,
    machine: Value,
    nameless: Value,
}

impl Instance {
    pub(super) fn new(config: &Config, tokens: Arc<Tokens>) -> Self {
        let named = &config.metadata;
        let nameless = Metadata { vm_name: String::new(), ..named.clone() };
        Self { managed: Managed::new(named, tokens), machine: machine(named), nameless: machine(&nameless) }
    }
}

impl Site for Instance {
    /// Wrong is a token that is worth nothing; a machine without a name.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        if let Some(answer) = improper(request) {
            return answer;
        }
        let segments = request.segments().unwrap_or_default();
        let mut segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        // A path may end with a slash.
        if segments.last().is_some_and(|last| last.is_empty()) {
            segments.pop();
        }
        match segments.as_slice() {
            ["metadata", "identity", "oauth2", "token"] => self.managed.token(request, wrong),
            ["metadata", "instance", path @ ..] => {
                instance(if wrong { &self.nameless } else { &self.machine }, path, request)
            }
            _ => refuse(404, "no such path"),
        }
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        refuse(status, note)
    }
}

/// A part of what is told about the machine: branches as JSON, leaves as text only, as the real service does.
fn instance(machine: &Value, path: &[&str], request: &Request<'_>) -> Answer {
    let step = |at: &'_ Value, name: &&str| -> Option<Value> {
        match at {
            Value::Array(all) => all.get(name.parse::<usize>().ok()?).cloned(),
            other => other.get(name).cloned(),
        }
    };
    let Some(found) = path.iter().try_fold(machine.clone(), |at, name| step(&at, name)) else {
        return refuse(404, "no such metadata");
    };
    let text = request.parameter("format").is_some_and(|format| format.eq_ignore_ascii_case("text"));
    match (found, text) {
        (branch @ (Value::Object(_) | Value::Array(_)), false) => Answer::json(200, branch),
        (Value::Object(branch), true) => Answer::bytes(TEXT, listing(branch.iter())),
        (Value::Array(all), true) => {
            let names: Vec<String> = (0..all.len()).map(|at| format!("{at}/")).collect();
            Answer::bytes(TEXT, names.join("\n"))
        }
        (_, false) => refuse(400, "a single value is given as text only: add format=text"),
        (Value::String(leaf), true) => Answer::bytes(TEXT, leaf),
        (leaf, true) => Answer::bytes(TEXT, leaf.to_string()),
    }
}

/// The names in a branch, those of branches with a slash.
fn listing<'a>(branch: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let name = |(name, value): (&String, &Value)| match value {
        Value::Object(_) | Value::Array(_) => format!("{name}/"),
        _ => name.clone(),
    };
    branch.map(name).collect::<Vec<_>>().join("\n")
}

fn machine(of: &Metadata) -> Value {
    let resource = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/Microsoft.Compute/virtualMachines/{}",
        of.vm_name
    );
    let path = format!("/home/{}/.ssh/authorized_keys", of.admin_user);
    let keys: Vec<_> = of.public_keys.iter().map(|key| json!({"keyData": key, "path": path})).collect();
    json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud",
            "isHostCompatibilityLayerVm": "false",
            "location": "westeurope",
            "name": of.vm_name,
            // A custom image has no offer.
            "offer": "",
            "osProfile": {
                "adminUsername": of.admin_user,
                "computerName": of.vm_name,
                "disablePasswordAuthentication": "true",
            },
            "osType": "Linux",
            "placementGroupId": "",
            "platformFaultDomain": "0",
            "platformUpdateDomain": "0",
            "provider": "Microsoft.Compute",
            "publicKeys": keys,
            "publisher": "",
            "resourceGroupName": RESOURCE_GROUP,
            "resourceId": resource,
            "sku": "",
            "subscriptionId": SUBSCRIPTION,
            "tags": "",
            "tagsList": [],
            "userData": of.user_data.as_deref().map(|data| STANDARD.encode(data)).unwrap_or_default(),
            "version": "",
            "vmId": of.vm_id,
            "vmScaleSetName": "",
            "vmSize": "Standard_B2s",
            "zone": "",
        },
        "network": {
            "interface": [{
                "ipv4": {
                    "ipAddress": [{"privateIpAddress": "10.0.2.15", "publicIpAddress": ""}],
                    "subnet": [{"address": "10.0.2.0", "prefix": "24"}],
                },
                "ipv6": {"ipAddress": []},
                "macAddress": "525400123456",
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{Instance, LIFE, SYSTEM};
    use crate::config::Config;
    use crate::exchange::tests::{json, request};
    use crate::exchange::{Answer, Body, Headers, Request, Site as _};
    use crate::pki::Pki;
    use crate::tokens::{Refusal, Tokens, VAULT};
    use std::sync::Arc;

    const TOKEN: &str = "/metadata/identity/oauth2/token";
    const QUERY: &str = "api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    const HEADERS: Headers<'_> = Headers {
        if_match: None,
        authorization: None,
        content_type: None,
        metadata: Some("true"),
        ms_version: None,
        user_agent: None,
        forwarded: false,
        upgrade: false,
    };

    fn world(system: bool, users: &[&str]) -> (Arc<Tokens>, Instance) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = Config::new(Pki::open_or_create(folder.path()).expect("authorities"));
        config.metadata.system_assigned = system;
        config.metadata.user_identities = users.iter().map(|user| (*user).to_owned()).collect();
        let tokens = Arc::new(Tokens::default());
        (tokens.clone(), Instance::new(&config, tokens))
    }

    fn get(service: &Instance, path: &str, query: &str) -> Answer {
        service.answer(&Request { headers: HEADERS, ..request("GET", path, query) })
    }

    #[test]
    fn a_token_is_taken_by_the_vault() {
        let (tokens, service) = world(true, &[]);
        let asked = Request { headers: HEADERS, ..request("GET", TOKEN, QUERY) };
        let now = asked.unix_seconds();
        let answer = service.answer(&asked);
        let body = json(&answer);
        let token = body["access_token"].as_str().expect("token");
        assert_eq!(tokens.check(token, VAULT, now), Ok(()));
        assert_eq!(body["expires_on"], (now + LIFE).to_string());
        assert_eq!((&body["expires_in"], &body["client_id"]), (&"86399".into(), &SYSTEM.into()));
        for key in ["ext_expires_in", "not_before", "resource", "token_type"] {
            assert!(body[key].is_string(), "{key}");
        }
        assert!(!answer.note.contains(token));
        let wrong = service.wrong(&asked);
        let token = json(&wrong)["access_token"].as_str().expect("token");
        assert_eq!(tokens.check(token, VAULT, now), Err(Refusal::Unknown));
    }

    #[test]
    fn identities_are_found_by_their_ids() {
        for (system, users, asked, status) in [
            (true, &[][..], "", 200),
            (false, &[], "", 400),
            (false, &["a"], "", 200),
            (false, &["a", "b"], "", 400),
            (true, &["a", "b"], "&client_id=B", 200),
            (true, &["/sub/x"], "&mi_res_id=%2Fsub%2Fx", 200),
            (true, &["a"], "&object_id=c", 400),
            (false, &["a"], &format!("&client_id={SYSTEM}"), 400),
        ] {
            let (_, service) = world(system, users);
            let answer = get(&service, TOKEN, &format!("{QUERY}{asked}"));
            assert_eq!(answer.status, status, "{system} {users:?} {asked}: {}", answer.note);
            assert_eq!(json(&answer)["error"].is_string(), status == 400);
        }
    }

    #[test]
    fn improper_requests_are_refused() {
        let (_, service) = world(true, &[]);
        for (headers, method, query, status) in [
            (Headers::default(), "GET", QUERY, 400),
            (Headers { metadata: Some("false"), ..HEADERS }, "GET", QUERY, 400),
            (Headers { metadata: Some("True"), ..HEADERS }, "GET", QUERY, 200),
            (Headers { forwarded: true, ..HEADERS }, "GET", QUERY, 400),
            (HEADERS, "POST", QUERY, 405),
            (HEADERS, "GET", "resource=x", 400),
            (HEADERS, "GET", "api-version=2018-02-01", 400),
        ] {
            let answer = service.answer(&Request { headers, ..request(method, TOKEN, query) });
            assert_eq!(answer.status, status, "{method} {query}: {}", answer.note);
        }
        assert_eq!(get(&service, "/metadata/other", QUERY).status, 404);
    }

    #[test]
    fn the_machine_tells_about_itself() {
        let (_, service) = world(true, &[]);
        let version = "api-version=2021-02-01";
        let whole = get(&service, "/metadata/instance", version);
        assert_eq!(json(&whole)["compute"]["osProfile"]["computerName"], "edge-vm");
        assert_eq!(json(&get(&service, "/metadata/instance/compute/", version))["name"], "edge-vm");
        let text = |path: &str| match get(&service, path, &format!("{version}&format=text")) {
            Answer { status: 200, body: Body::Bytes(_, bytes), .. } => {
                String::from_utf8(bytes.into_owned()).expect("text")
            }
            other => other.status.to_string(),
        };
        assert_eq!(text("/metadata/instance/compute/name"), "edge-vm");
        assert_eq!(text("/metadata/instance/compute/vmId").len(), 36);
        assert_eq!(text("/metadata/instance/network/interface/0/macAddress"), "525400123456");
        assert_eq!(text("/metadata/instance"), "compute/\nnetwork/");
        assert_eq!(text("/metadata/instance/compute/userData"), "");
        assert_eq!(text("/metadata/instance/compute/publicKeys"), "");
        assert_eq!(text("/metadata/instance/network/interface"), "0/");
        for path in ["/metadata/instance/compute/nothing", "/metadata/instance/network/interface/1"] {
            assert_eq!(text(path), "404");
        }
        assert_eq!(get(&service, "/metadata/instance/compute/name", version).status, 400);
        let asked = Request { headers: HEADERS, ..request("GET", "/metadata/instance", version) };
        assert_eq!(json(&service.wrong(&asked))["compute"]["name"], "");
    }
}
