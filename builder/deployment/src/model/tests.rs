use super::{Manifest, ModuleKind, PullPolicy, RestartPolicy, Status};

const GOOD: &str = include_str!("../lint/good.json");

fn good() -> Manifest {
    Manifest::parse("d.json", GOOD).expect("a manifest")
}

#[test]
fn modules_are_read() {
    let manifest = good();
    let names: Vec<_> = manifest.modules().iter().map(|module| (module.name.as_str(), module.kind)).collect();
    let expected = [
        ("edgeAgent", ModuleKind::Agent),
        ("edgeHub", ModuleKind::Hub),
        ("sensor", ModuleKind::Custom),
        ("filter", ModuleKind::Custom),
    ];
    assert_eq!(names, expected);
    let hub = manifest.module("edgeHub").expect("edgeHub");
    let ports: Vec<String> = hub.host_ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["443/tcp", "8883/tcp"]);
    assert_eq!(hub.create_options()["HostConfig"]["PortBindings"]["443/tcp"][0]["HostPort"], "443");
    assert_eq!(hub.variable("StorageFolder"), Some("/iotedge/storage"));
    let sensor = manifest.module("sensor").expect("sensor");
    assert_eq!(
        (sensor.status, sensor.restart_policy),
        (Some(Status::Running), Some(RestartPolicy::OnFailure))
    );
    assert_eq!((sensor.pull_policy, sensor.startup_order), (PullPolicy::Never, None));
    assert_eq!(sensor.binds[0].source, "/srv/in");
    let filter = manifest.module("filter").expect("filter");
    assert_eq!(filter.env, [("THRESHOLD".into(), "25".into()), ("VERBOSE".into(), "true".into())]);
    assert_eq!((filter.startup_order, filter.version.as_deref()), (Some(2), Some("1.0")));
}

#[test]
fn images_and_credentials_are_listed() {
    let text = GOOD.replace("azureiotedge-hub:1.5", "azureiotedge-agent:1.5");
    let manifest = Manifest::parse("d.json", &text).expect("a manifest");
    let images: Vec<String> = manifest.images().iter().map(ToString::to_string).collect();
    assert_eq!(images.len(), 3, "{images:?}");
    assert_eq!(
        images[..2],
        ["mcr.microsoft.com/azureiotedge-agent:1.5", "factory.azurecr.io/sensor:2.1-amd64"]
    );
    let credentials = manifest.registry_credentials();
    assert_eq!(
        (credentials[0].address.as_str(), credentials[0].password()),
        ("factory.azurecr.io", "3q2-7wX0")
    );
    assert!(!format!("{credentials:?} {manifest:?} {:?}", manifest.modules()).contains("3q2-7wX0"));
}

#[test]
fn a_plain_manifest_stays_what_it_is() {
    let expected: serde_json::Value = serde_json::from_str(GOOD).expect("JSON");
    assert_eq!(good().to_json(), expected);
}

#[test]
fn layers_are_read() {
    let text = r#"{"content": {"modulesContent": {
        "$edgeAgent": {"properties.desired.modules.pump": {"settings": {"image": "a/b:1"}},
                       "properties.desired.runtime.settings.registryCredentials.r":
                         {"address": "r", "username": "u", "password": "p"}},
        "pump": {"properties.desired": {}}}}}"#;
    let manifest = Manifest::parse("d.json", text).expect("a manifest");
    assert!(manifest.is_layered() && !good().is_layered());
    assert_eq!(
        manifest.module("pump").expect("pump").pointer,
        "/content/modulesContent/$edgeAgent/properties.desired.modules.pump"
    );
    assert_eq!(manifest.images().len(), 1);
    assert_eq!(manifest.registry_credentials()[0].name, "r");
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    let found = Manifest::parse("d.json", "{\n  \"key\": \"hunter2\",,\n}").expect_err("no JSON");
    assert_eq!(found[0].file_and_line(), ("d.json", 2));
    assert!(found[0].message.contains("no JSON: key must be a string"), "{found:?}");
    assert!(!format!("{found:?}").contains("hunter2"));
}
