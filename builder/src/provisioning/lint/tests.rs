//! One line of a table for each trap: a change to a good file, and what must be said about it.

use super::lint;
use crate::finding::{Finding, Severity};

const GOOD: &str = include_str!("good.toml");

/// The good file with `old` replaced; the table would be wrong if `old` were not in it.
fn changed(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

fn expect(text: &str, severity: Severity, key: &str, says: &str) {
    let found = lint(text, None);
    let of_key = |f: &Finding| f.key.as_deref().unwrap_or_default() == key;
    let hit = |f: &&Finding| f.severity == severity && of_key(f) && f.message.contains(says);
    assert!(found.iter().any(|finding| hit(&finding)), "{severity} {key} {says}\nin {found:#?}\nof\n{text}");
    let line = found.iter().find(hit).map_or(0, |finding| finding.file_and_line().1);
    assert!(line >= 1 && line <= text.lines().count() + 1, "{key} is on line {line}");
}

#[test]
fn a_good_file_has_no_findings() {
    assert_eq!(lint(GOOD, None), []);
}

#[test]
fn errors() {
    let attestation = "method = \"x509\"\nidentity_cert = \"file:///var/secrets/aziot/certs/device-id.pem\"\nidentity_pk = \"file:///var/secrets/aziot/keys/device-id.key.pem\"";
    let cert = "\"file:///var/secrets/aziot/certs/device-id.pem\"";
    let renew = |table: &str| format!("{{ method = \"est\", common_name = \"a\", auto_renew = {table} }}");
    for (old, new, key, says) in [
        ("= 70", "= 10", "cloud_timeout_sec", "less than 70"),
        ("= 70", "= \"70\"", "cloud_timeout_sec", "not a number"),
        ("cloud_retries = 1", "cloud_retries = -1", "cloud_retries", "number of retries"),
        ("\"Dynamic\"", "Dynamic", "auto_reprovisioning_mode", "not TOML"),
        ("\"Dynamic\"", "\"dynamic\"", "auto_reprovisioning_mode", "unknown"),
        ("\"Dynamic\"", "true", "auto_reprovisioning_mode", "not a string"),
        ("cloud_retries", "cloud_retry", "cloud_retry", "no such key"),
        ("cloud_retries = 1", "parent_hostname = \"p\"", "parent_hostname", "refuses DPS"),
        ("cloud_retries = 1", "hostname = \"1edge\"", "hostname", "RFC 1035"),
        ("cloud_retries = 1", "trust_bundle_cert = \"/etc/ca.pem\"", "trust_bundle_cert", "file: URL"),
        ("source = \"dps\"", "source = \"dsp\"", "provisioning.source", "unknown"),
        ("source = \"dps\"\n", "", "provisioning.source", "missing"),
        ("https://global", "http://global", "provisioning.global_endpoint", "not encrypted"),
        ("https://global", "global", "provisioning.global_endpoint", "not an https address"),
        ("0ne00123456", "", "provisioning.id_scope", "empty"),
        ("0ne00123456", "0ab1234C5D6", "provisioning.id_scope", "no ID scope"),
        ("0ne00123456", "0ne0012345", "provisioning.id_scope", "no ID scope"),
        ("id_scope = \"0ne00123456\"\n", "", "provisioning.id_scope", "missing"),
        ("0ne00123456", "<SCOPE>", "provisioning.id_scope", "placeholder"),
        ("0ne00123456", "ADD_DPS_ID_SCOPE_HERE", "provisioning.id_scope", "placeholder"),
        ("\"x509\"", "\"x.509\"", "provisioning.attestation.method", "unknown"),
        (attestation, "method = \"tpm\"", "provisioning.attestation.registration_id", "missing"),
        (
            "method = \"x509\"",
            "method = \"x509\"\nregistration_id = \"a\"",
            "provisioning.attestation.registration_id",
            "deletes the private key",
        ),
        (cert, "\"/certs/a.pem\"", "provisioning.attestation.identity_cert", "is a path"),
        (cert, "\"pkcs11:token=a\"", "provisioning.attestation.identity_cert", "another scheme"),
        (cert, "7", "provisioning.attestation.identity_cert", "not a string"),
        (
            "\"file:///var/secrets/aziot/keys/device-id.key.pem\"",
            "\"https://vault/key\"",
            "provisioning.attestation.identity_pk",
            "another scheme",
        ),
        (
            "identity_pk = \"file:///var/secrets/aziot/keys/device-id.key.pem\"",
            "",
            "provisioning.attestation.identity_pk",
            "needs its key",
        ),
        (
            cert,
            &renew("{ rotate_key = true }"),
            "provisioning.attestation.identity_cert.auto_renew",
            "threshold, retry is missing",
        ),
        (
            cert,
            &renew("{ rotate_key = true, threshold = \"soon\", retry = \"4%\" }"),
            "provisioning.attestation.identity_cert.auto_renew.threshold",
            "no period",
        ),
        (cert, "{ method = \"est\" }", "provisioning.attestation.identity_cert", "common_name"),
        (
            cert,
            "{ method = \"local_ca\", common_name = \"a\" }",
            "provisioning.attestation.identity_cert.method",
            "[cert_issuance.local_ca] is missing",
        ),
        (
            "auto_generated_edge_ca_expiry_days = 90",
            "cert = \"file:///ca.pem\"",
            "edge_ca.pk",
            "without `pk`",
        ),
        (
            "auto_generated_edge_ca_expiry_days = 90",
            "auto_generated_edge_ca_expiry_days = \"90\"",
            "edge_ca.auto_generated_edge_ca_expiry_days",
            "number of days",
        ),
        ("\"never\"", "\"On-Create\"", "agent.imagePullPolicy", "unknown"),
        ("\"edgeAgent\"", "\"agent\"", "agent.name", "edgeAgent"),
        (
            "{ HostConfig = { Binds = [\"/var/lib/agent:/var/lib/agent\"] } }",
            "'{\"HostConfig\":{}}'",
            "agent.config.createOptions",
            "not JSON",
        ),
        (
            "\"/var/lib/agent:/var/lib/agent\"",
            "\"/var/lib/agent:/var/lib/agent\", \"/run/aziot:/run/aziot:ro\"",
            "agent.config.createOptions",
            "sign with the device's key",
        ),
        (
            "{ HostConfig = {",
            "{ HostConfig = { Mounts = [{ Type = \"bind\", Source = \"/var/opt/azcmagent/tokens\", Target = \"/t\" }],",
            "agent.config.createOptions",
            "Azure Arc",
        ),
        ("image = \"mcr.microsoft.com/azureiotedge-agent:1.6.1\"\n", "", "agent.config.image", "no image"),
        ("storageFolder =", "Retries = 3\nstorageFolder =", "agent.env.Retries", "must be a string"),
        ("unix://", "http://", "moby_runtime.uri", "unix socket"),
        (
            "uri = ",
            "cloud_timeout_sec = 80\nuri = ",
            "moby_runtime.cloud_timeout_sec",
            "belongs to the top level",
        ),
        (
            "[moby_runtime]",
            "[tpm]\nauth_key_index = \"0x00\"\n[moby_runtime]",
            "tpm.auth_key_index",
            "integer",
        ),
        (
            "[moby_runtime]",
            "[connect]\nworkload_uri = \"http://x\"\n[moby_runtime]",
            "connect.workload_uri",
            "unix socket",
        ),
    ] {
        expect(&changed(old, new), Severity::Error, key, says);
    }
    expect("", Severity::Error, "provisioning", "missing");
}

#[test]
fn warnings() {
    for (old, new, key, says) in [
        ("cloud_retries = 1", "hostname = \"gateway\"", "hostname", "every device"),
        ("[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\n", "", "edge_ca", "missing"),
        ("agent:1.6.1", "agent", "agent.config.image", "another image every day"),
        (
            "{ HostConfig = {",
            "{ HostConfig = { NetworkMode = \"host\",",
            "agent.config.createOptions",
            "the machine's own network",
        ),
        (
            "{ HostConfig = {",
            "{ HostConfig = { Privileged = true,",
            "agent.config.createOptions",
            "privilege",
        ),
        ("storageFolder = \"/var/lib/agent\"\n", "", "agent.env.storageFolder", "lost with its container"),
        (
            "storageFolder = \"/var/lib/agent\"",
            "storageFolder = \"/tmp\"",
            "agent.config.createOptions",
            "not a folder of the host",
        ),
        (
            "storageFolder =",
            "https_proxy = \"http://p:1\"\nstorageFolder =",
            "agent.env.UpstreamProtocol",
            "WebSockets",
        ),
        (
            "\"file:///var/secrets/aziot/certs/device-id.pem\"",
            "{ method = \"est\", common_name = \"a\", url = \"http://e\", auto_renew = { rotate_key = true, threshold = \"80%\", retry = \"4%\" } }",
            "provisioning.attestation.identity_cert.auto_renew",
            "individual enrolment",
        ),
        (
            "\"file:///var/secrets/aziot/certs/device-id.pem\"",
            "{ method = \"est\", common_name = \"a\", url = \"http://e\" }",
            "provisioning.attestation.identity_cert.url",
            "not encrypted",
        ),
    ] {
        expect(&changed(old, new), Severity::Warning, key, says);
    }
    let elsewhere =
        GOOD.replace("global.azure-devices-provisioning.net", "dps.example").replace("0ne0", "0cn0");
    expect(&elsewhere, Severity::Warning, "provisioning.id_scope", "no ID scope");
    let symmetric = changed(
        "method = \"x509\"",
        "method = \"symmetric_key\"\nregistration_id = \"a\"\nsymmetric_key = { value = \"c2VjcmV0\" }",
    );
    expect(&symmetric, Severity::Warning, "provisioning.attestation.symmetric_key.value", "every device");
    assert!(lint(&symmetric, None).iter().all(|finding| !finding.to_string().contains("c2VjcmV0")));
}

#[test]
fn the_recipe_decides_on_preloading_and_proxy() {
    let mut recipe = crate::recipe::test_recipe();
    let find = |text: &str, recipe: &_, key: &str| {
        lint(text, Some(recipe))
            .into_iter()
            .find(|finding| finding.key.as_deref() == Some(key))
            .map(|f| f.severity)
    };
    let policy = "agent.imagePullPolicy";
    assert_eq!(find(GOOD, &recipe, policy), Some(Severity::Error), "never, but not preloaded");
    recipe.engine.images.push(crate::recipe::types::EngineImage {
        name: "mcr.microsoft.com/azureiotedge-agent:1.6.1".into(),
        file: Some("/agent.tar".into()),
        from_root: Default::default(),
        entrypoint: Vec::new(),
    });
    assert_eq!(find(GOOD, &recipe, policy), None);
    let on_create = changed("\"never\"", "\"on-create\"");
    assert_eq!(find(&on_create, &recipe, policy), Some(Severity::Warning));
    let proxy = "agent.env.https_proxy";
    let with_proxy = changed(
        "storageFolder =",
        "https_proxy = \"http://a:1\"\nUpstreamProtocol = \"AmqpWs\"\nstorageFolder =",
    );
    assert_eq!(find(&with_proxy, &recipe, proxy), Some(Severity::Warning));
    recipe.network.proxy =
        Some(crate::recipe::types::Proxy { https: "http://b:1".into(), no_proxy: Vec::new() });
    assert_eq!(find(&with_proxy, &recipe, proxy), Some(Severity::Error));
    assert_eq!(find(GOOD, &recipe, proxy), Some(Severity::Error));
}

#[test]
fn any_text_is_read() {
    for at in 0..GOOD.len() {
        lint(&GOOD[..at], None);
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = b"[]{}\"=.\n7"[at % 9];
        lint(&String::from_utf8_lossy(&bytes), None);
    }
    for text in ["a".repeat(10_000), "[".repeat(10_000), "a = [".repeat(2_000), "a.".repeat(5_000) + "b = 1"]
    {
        lint(&text, None);
    }
}

/// First boot replaces the table line by line.
#[test]
fn a_login_of_the_agents_registry() {
    let login = "serveraddress = \"plant.example\"\nusername = \"u\"\npassword = \"hunter22\"\n";
    for header in ["[agent.config.auth]", "  [ agent . config . auth ] # ours"] {
        let text = format!("{GOOD}\n{header}\n{login}");
        expect(&text, Severity::Warning, "agent.config.auth.password", "every image has this password");
        assert!(lint(&text, None).iter().all(|found| found.severity == Severity::Warning), "{text}");
    }
    let text = format!("{GOOD}\n[agent.\"config\".auth]\n{login}");
    expect(&text, Severity::Error, "agent.config.auth", "a second one");
    assert!(lint(&text, None).iter().all(|found| !found.to_string().contains("hunter22")));
}
