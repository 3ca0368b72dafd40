//! Where certificates come from, as `edgepress sim` simulates it: asked by curl and judged by OpenSSL, as a device does.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::simulator::{SCOPE, Sim};
use crate::support::sources::{EST, FILES, IDENTITY, TOKEN, VAULT, World, strs};

#[test]
fn est_enrols_by_password() {
    let mut world = World::start(&[]);
    let password = fs::read_to_string(world.pki("est-password")).expect("password");
    let user = format!("device:{}", password.trim());
    let authorities = world.curl(&format!("{EST}/cacerts"), &[]);
    assert_eq!(authorities.status, 200);
    assert!(authorities.head.contains("content-transfer-encoding: base64"), "{}", authorities.head);
    assert!(authorities.head.contains("content-type: application/pkcs7-mime"), "{}", authorities.head);
    let found = world.shell(
        r#"openssl base64 -d -in body | openssl pkcs7 -inform DER -print_certs -out all.pem
        openssl verify -CAfile "$PKI/enrolment-root.pem" -untrusted all.pem "$PKI/enrolment-ca.pem" >/dev/null
        grep -c BEGIN all.pem
        # As certd reads it: PEM's lines put around the body.
        { echo "-----BEGIN PKCS7-----"; cat body; echo "-----END PKCS7-----"; } | openssl pkcs7 -noout"#,
    );
    assert_eq!(found, "2\n");
    world.entry(&[]);

    world.request("id", "edge-1", "rsa:2048");
    let refused = world.enrol("simpleenroll", "id", &[]);
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains("www-authenticate: basic realm="), "{}", refused.head);
    world.entry(&[]);
    assert_eq!(world.enrol("simpleenroll", "id", &["--user", "device:wrong"]).status, 401);
    world.entry(&["wrong:"]);
    assert_eq!(world.enrol("factory-7/simpleenroll", "id", &["--user", &user]).status, 200);
    world.take("id", "edge-1");
    let entry = world.entry(&[password.trim()]);
    assert_eq!((&entry["mark"], &entry["service"]), (&"est-enrolled".into(), &"est".into()));
    assert_eq!(entry["note"], "for edge-1, by password");

    // What it got is what DPS lets in.
    let url = format!(
        "https://global.azure-devices-provisioning.net/{SCOPE}/registrations/edge-1/register?api-version=2021-06-01"
    );
    let shown = ["--cert", "id.pem", "--key", "id.key"];
    let reply =
        world.curl(&url, &[&["-X", "PUT", "-d", r#"{"registrationId":"edge-1"}"#], &shown[..]].concat());
    assert_eq!(reply.status, 202, "{}", reply.text());
}

#[test]
fn est_enrols_by_certificate_and_renews() {
    let mut world = World::start(&["--est-life", "600"]);
    let shown = world.bootstrap("stick", &[]);
    let strange = world.bootstrap("strange", &["--flaw", "wrong-ca"]);
    world.request("est-id", "est-id", "ec -pkeyopt ec_paramgen_curve:P-256");
    world.request("id", "edge-1", "rsa:2048");
    world.request("renewed", "edge-1", "rsa:3072");

    let refused = world.enrol("simpleenroll", "est-id", &strs(&strange));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(world.entry(&[])["note"].as_str().is_some_and(|note| note.contains("wrong CA")));
    // certd's way: an identity for EST first, by which it then enrols the device.
    assert_eq!(world.enrol("simpleenroll", "est-id", &strs(&shown)).status, 200);
    world.take("est-id", "est-id");
    assert_eq!(world.entry(&[])["client"], "line-3");
    let own = ["--cert", "est-id.pem", "--key", "est-id.key"];
    assert_eq!(world.enrol("simplereenroll", "id", &own).status, 403, "another name");
    world.entry(&[]);
    assert_eq!(world.enrol("simpleenroll", "id", &own).status, 200);
    world.take("id", "edge-1");
    assert_eq!(world.entry(&[])["note"], "for edge-1, by the certificate of est-id");
    let own = ["--cert", "id.pem", "--key", "id.key"];
    assert_eq!(world.enrol("simplereenroll", "renewed", &own).status, 200);
    world.take("renewed", "edge-1");
    assert_eq!(world.entry(&[])["mark"], Value::Null, "a renewal is no first enrolment");
    world.shell(
        "openssl x509 -in renewed.pem -noout -checkend 500
        ! openssl x509 -in renewed.pem -noout -checkend 700",
    );
}

#[test]
fn the_vault_gives_pem_and_pfx_for_a_managed_identitys_token() {
    let password = tempfile::NamedTempFile::new().expect("a file");
    fs::write(password.path(), "geheim\nmore\n").expect("write");
    let registry = format!("registry={}", password.path().display());
    let secrets = ["pfx-*:pfx", "edge-*-cert", &registry];
    let arguments = ["--metadata"].into_iter().chain(secrets.iter().flat_map(|it| ["--vault-secret", *it]));
    let mut world = World::start(&arguments.collect::<Vec<_>>());
    let refused = world.curl(&format!("{VAULT}/secrets/edge-7-cert?api-version=7.4"), &[]);
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains(r#"resource="https://vault.azure.net""#), "{}", refused.head);
    world.entry(&[]);
    let token = world.token();
    world.entry(&[&token]);

    let reply = world.secret("edge-7-cert", &token);
    assert_eq!((reply.status, reply.string("contentType").as_str()), (200, "application/x-pem-file"));
    let value = reply.string("value");
    let entry = world.entry(&[&token, "PRIVATE", &value[40..80]]);
    assert_eq!((&entry["mark"], &entry["note"]), (&"secret-read".into(), &"7".into()));
    fs::write(world.path("both.pem"), &value).expect("write");
    world.shell(
        r#"openssl pkey -in both.pem -out key.pem
        openssl verify -purpose sslclient -CAfile "$PKI/enrolment-root.pem" -untrusted both.pem both.pem
        [ "$(openssl x509 -in both.pem -noout -pubkey)" = "$(openssl pkey -in key.pem -pubout)" ]
        [ "$(openssl x509 -in both.pem -noout -subject -nameopt RFC2253)" = "subject=CN=7" ]"#,
    );
    assert_eq!(world.secret("edge-7-cert", &token).string("value"), value);
    assert_eq!(world.secret("registry", &token).string("value"), "geheim");
    assert_eq!(world.secret("other", &token).json()["error"]["code"], "SecretNotFound");
    assert_eq!(world.secret("edge-7-cert", "x").status, 401);

    let reply = world.secret("pfx-7", &token);
    assert_eq!(reply.string("contentType"), "application/x-pkcs12");
    fs::write(world.path("pfx.b64"), reply.string("value")).expect("write");
    let bags = world.shell(
        r#"openssl base64 -d -A -in pfx.b64 -out id.pfx
        openssl pkcs12 -in id.pfx -passin pass: -nodes -out id.pem
        [ "$(openssl x509 -in id.pem -noout -pubkey)" = "$(openssl pkey -in both.pem -pubout)" ]
        openssl pkcs12 -in id.pfx -passin pass: -nokeys -clcerts | grep -c BEGIN
        openssl pkcs12 -in id.pfx -passin pass: -nokeys | grep -c BEGIN
        ! openssl pkcs12 -in id.pfx -passin pass:x -noout 2>/dev/null"#,
    );
    assert_eq!(bags, "1\n2\n", "the key's own certificate, and the chain");

    let url = format!("{VAULT}/certificates/edge-7-cert?api-version=7.4");
    let public = world.curl(&url, &["-H", &format!("Authorization: Bearer {token}")]);
    fs::write(world.path("cer.b64"), public.string("cer")).expect("write");
    world.shell(
        "openssl base64 -d -A -in cer.b64 | openssl x509 -inform DER -out cer.pem
        openssl x509 -in both.pem | cmp - cer.pem",
    );
}

/// An assertion made as a device makes it: base64url by openssl and tr, x5t from the fingerprint.
const ASSERTION: &str = r#"
url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
now=$(date +%s)
header=$(printf '{"alg":"%s","typ":"JWT","x5t":"%s"}' "$1" \
    "$(openssl x509 -in client.pem -outform DER | openssl dgst -sha1 -binary | url)" | url)
claims=$(printf '{"aud":"%s","iss":"app-1","sub":"app-1","jti":"%s","nbf":%s,"exp":%s}' \
    "$2" "$now" "$now" "$((now + 600))" | url)
shift 2
signature=$(printf %s "$header.$claims" | openssl dgst -sha256 -sign client.key "$@" -binary | url)
printf %s "$header.$claims.$signature"
"#;

#[test]
fn a_signed_assertion_is_worth_a_token() {
    let keys = tempfile::tempdir().expect("temporary folder");
    let certificate = keys.path().join("client.pem").to_str().expect("UTF-8").to_owned();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=factory",
            "-days",
            "2",
            "-keyout",
        ])
        .arg(keys.path().join("client.key"))
        .args(["-out", &certificate])
        .output()
        .expect("openssl");
    assert!(made.status.success());
    let mut world = World::start(&["--token-client", &format!("app-1={certificate}")]);
    for file in ["client.pem", "client.key"] {
        fs::copy(keys.path().join(file), world.path(file)).expect("copy");
    }
    let assertion = |world: &World, rest: &str| world.shell(&format!("set -- {rest}\n{ASSERTION}"));
    let ask = |world: &World, assertion: &str| {
        let form = [
            "grant_type=client_credentials".to_owned(),
            "client_id=app-1".to_owned(),
            "scope=https://vault.azure.net/.default".to_owned(),
            "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned(),
            format!("client_assertion={assertion}"),
        ];
        let arguments: Vec<&str> = form.iter().flat_map(|pair| ["--data-urlencode", pair.as_str()]).collect();
        world.curl(TOKEN, &arguments)
    };
    let padding = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32";
    for (rest, status) in [
        (format!("RS256 {TOKEN}"), 200),
        (format!("PS256 {TOKEN} {padding}"), 200),
        (format!("RS256 {TOKEN} {padding}"), 401),
        ("RS256 https://vault.azure.net".to_owned(), 401),
    ] {
        let assertion = assertion(&world, &rest);
        let reply = ask(&world, &assertion);
        assert_eq!(reply.status, status, "{rest}: {}", reply.text());
        world.entry(&[&assertion]);
        if status == 200 {
            let secret = world.secret("edge-1", &reply.string("access_token"));
            assert_eq!(
                (secret.status, secret.string("contentType").as_str()),
                (200, "application/x-pem-file")
            );
            world.entry(&[]);
        } else {
            assert_eq!(reply.json()["error"], "invalid_client");
        }
    }
}

#[test]
fn a_bootstrap_certificate_can_have_an_rsa_key() {
    let world = World::start(&[]);
    world.shell(
        "openssl req -new -newkey rsa:2048 -nodes -subj /CN=x -keyout client.key -out client.csr 2>/dev/null",
    );
    let made = world.issue("line-3", "stick", &["--bootstrap", "--csr", &world.path("client.csr")]);
    assert!(!made.join("bootstrap-key.pem").exists());
    fs::copy(made.join("bootstrap-certificate.pem"), world.path("client.pem")).expect("copy");
    let reply = world.curl(&format!("{FILES}/a/edge-1"), &["--cert", "client.pem", "--key", "client.key"]);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn instance_metadata_tells_who_the_machine_is() {
    let mut world = World::start(&[
        "--metadata",
        "--vm-name",
        "vm-9",
        "--user-identity",
        "11111111-2222-3333-4444-555555555555",
    ]);
    let path = "metadata/instance/compute/name?api-version=2021-02-01&format=text";
    assert_eq!(world.metadata("metadata", path, &[]).text(), "vm-9");
    let whole = world.metadata("metadata", "metadata/instance?api-version=2021-02-01", &[]);
    assert_eq!(whole.json()["compute"]["osProfile"]["computerName"], "vm-9");
    assert_eq!(world.metadata("metadata", path, &["-H", "X-Forwarded-For: 10.0.0.1"]).status, 400);
    let address = world.sim.address("metadata");
    assert_eq!(world.curl(&format!("http://{address}/{path}"), &[]).status, 400, "no header");
    let asked = |id: &str| {
        let query = format!("api-version=2018-02-01&resource=https://vault.azure.net&client_id={id}");
        world.metadata("metadata", &format!("{IDENTITY}?{query}"), &[])
    };
    assert_eq!(asked("11111111-2222-3333-4444-555555555555").status, 200);
    let unknown = asked("99999999-2222-3333-4444-555555555555");
    assert_eq!((unknown.status, unknown.string("error").as_str()), (400, "invalid_request"));
    assert_eq!(world.entry(&[])["what"], "GET /metadata/instance/compute/name");
    drop(world);
    let without = World::start(&[]);
    assert!(without.sim.listening["metadata"].is_null() && without.sim.listening["arc"].is_null());
}

#[test]
fn arc_gives_a_token_to_who_reads_its_file() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let tokens = folder.path().join("tokens");
    fs::create_dir(&tokens).expect("folder");
    let mut world = World::start(&["--arc-tokens", tokens.to_str().expect("UTF-8")]);
    let path = format!("{IDENTITY}?api-version=2020-06-01&resource=https://vault.azure.net");
    let challenge = world.metadata("arc", &path, &[]);
    assert_eq!(challenge.status, 401);
    let head = fs::read_to_string(world.path("head")).expect("head");
    let realm = head.lines().find_map(|line| line.split_once("Basic realm=")).expect("challenge").1.trim();
    assert!(Path::new(realm).starts_with(fs::canonicalize(&tokens).expect("folder")), "{realm}");
    let key = fs::read_to_string(realm).expect("key");
    world.entry(&[&key]);
    let shown = format!("Authorization: Basic {key}");
    let reply = world.metadata("arc", &path, &["-H", &shown]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let token = reply.string("access_token");
    world.entry(&[&key, &token]);
    assert_eq!(world.metadata("arc", &path, &["-H", &shown]).status, 403, "once");
    assert_eq!(world.secret("edge-1", &token).status, 200);
}

#[test]
fn the_companys_server_serves_by_token_and_by_certificate() {
    let mut world = World::start(&[]);
    let token = fs::read_to_string(world.pki("files-token")).expect("token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let url = format!("{FILES}/devices/edge-1.pem");
    assert_eq!(world.curl(&url, &[]).status, 401);
    assert_eq!(world.curl(&url, &["-H", "Authorization: Bearer x"]).status, 403);
    let by_token = world.curl(&url, &["-H", &bearer]);
    assert_eq!(by_token.status, 200);
    for _ in 0..2 {
        world.entry(&[]);
    }
    let entry = world.entry(&[token.trim(), "PRIVATE"]);
    assert_eq!((&entry["mark"], &entry["note"]), (&"identity-served".into(), &"for edge-1, by token".into()));
    let shown = world.bootstrap("stick", &[]);
    assert_eq!(world.curl(&url, &strs(&shown)).body, by_token.body);
    world.shell(
        r#"[ "$(openssl x509 -in body -noout -pubkey)" = "$(openssl pkey -in body -pubout)" ]
        mv body both.pem"#,
    );
    assert_eq!(world.curl(&format!("{FILES}/x/edge-1.pfx"), &strs(&shown)).status, 200);
    world.shell(
        r#"openssl pkcs12 -in body -passin pass: -nodes -out pfx.pem
        [ "$(openssl x509 -in pfx.pem -noout -pubkey)" = "$(openssl pkey -in both.pem -pubout)" ]"#,
    );
    let strange = world.bootstrap("strange", &["--flaw", "wrong-ca"]);
    assert_eq!(world.curl(&url, &strs(&strange)).status, 403);
}

#[test]
fn sources_can_be_wrong_and_mended() {
    let world = World::start(&[
        "--metadata",
        "--fault=est=wrong:1",
        "--fault=est=garbage:1",
        "--fault=est=untrusted:1",
        "--fault=vault=wrong:1",
        "--fault=vault=404:1",
        "--fault=vault=429:1",
        "--fault=vault=garbage:1",
        "--fault=files=wrong:1",
        "--fault=files=500@86400s",
        "--fault=metadata=garbage:1",
        "--fault=metadata=wrong:1",
    ]);
    let bootstrap = world.bootstrap("stick", &[]);
    let shown = strs(&bootstrap);
    world.request("id", "edge-1", "ec -pkeyopt ec_paramgen_curve:P-256");
    assert_eq!(world.enrol("simpleenroll", "id", &shown).status, 200);
    world.shell(
        r#"openssl base64 -d -in body | openssl pkcs7 -inform DER -print_certs -out wrong.pem
        [ "$(openssl x509 -in wrong.pem -noout -pubkey)" != "$(openssl pkey -in id.key -pubout)" ]"#,
    );
    let garbage = world.enrol("simpleenroll", "id", &shown);
    assert_eq!(garbage.status, 200);
    assert!(garbage.head.contains("application/pkcs7-mime"), "{}", garbage.head);
    world.shell("! openssl base64 -d -in body | openssl pkcs7 -inform DER -noout 2>/dev/null");
    let untrusted = world.curl_raw(&format!("{EST}/cacerts"), &[]);
    assert_eq!(untrusted.status.code(), Some(60), "curl trusts no such server");
    assert_eq!(world.enrol("simpleenroll", "id", &shown).status, 200);
    world.take("id", "edge-1");

    let query = "api-version=2018-02-01&resource=https://vault.azure.net";
    let garbage = world.metadata("metadata", &format!("{IDENTITY}?{query}"), &[]);
    assert_eq!((garbage.status, serde_json::from_slice::<Value>(&garbage.body).is_err()), (200, true));
    let (counterfeit, token) = (world.token(), world.token());
    fs::write(world.path("wrong.pem"), world.secret("edge-1", &token).string("value")).expect("write");
    let subject = world.shell("openssl x509 -in wrong.pem -noout -subject -nameopt RFC2253");
    assert_eq!(subject, "subject=CN=edge-1-other\n");
    let missing = world.secret("edge-1", &token);
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &"SecretNotFound".into()));
    let throttled = world.secret("edge-1", &token);
    assert_eq!(throttled.status, 429);
    assert!(throttled.head.contains("retry-after: 5"), "{}", throttled.head);
    let garbage = world.secret("edge-1", &token);
    assert_eq!((garbage.status, serde_json::from_slice::<Value>(&garbage.body).is_err()), (200, true));
    assert_eq!(world.secret("edge-1", &token).status, 200);
    assert_eq!(world.secret("edge-1", &counterfeit).status, 401, "a token that is worth nothing");

    let url = format!("{FILES}/a/edge-1");
    assert_eq!(world.curl(&url, &shown).status, 200);
    let subject = world.shell("openssl x509 -in body -noout -subject -nameopt RFC2253");
    assert_eq!(subject, "subject=CN=edge-1-other\n");
    for _ in 0..2 {
        assert_eq!(world.curl(&url, &shown).status, 500, "for a day");
    }
}

#[test]
fn all_can_be_at_one_address() {
    // An address that no other test has: what is below 127/8 is this machine's own.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.83.{high}.{}", low.max(1));
    let folder = tempfile::tempdir().expect("temporary folder");
    let tokens = folder.path().to_str().expect("UTF-8");
    let world = World::of(Sim::launch(&[
        "--listen",
        &address,
        "--port-offset",
        "20000",
        "--metadata",
        "--arc-tokens",
        tokens,
        "--without",
        "amqp",
    ]));
    for (service, port) in
        [("dps", 20_443), ("est", 20_443), ("files", 20_443), ("metadata", 20_080), ("arc", 60_342)]
    {
        assert_eq!(world.sim.listening[service], format!("{address}:{port}"));
    }
    assert!(world.sim.listening["amqp"].is_null());
    assert_eq!(world.curl(&format!("{EST}/cacerts"), &[]).status, 200);
    assert_eq!(world.curl(&format!("{FILES}/devices/modules/x"), &[]).status, 401, "the name decides");
    assert_eq!(world.curl(TOKEN, &["-X", "POST"]).json()["error"], "invalid_request");
    assert_eq!(world.secret("edge-1", &world.token()).status, 200);
    for (path, status) in
        [(".well-known/est/cacerts", 200), ("secrets/x", 401), ("0ne1/registrations/x", 405)]
    {
        let reply = world.curl(&format!("https://{address}:20443/{path}"), &[]);
        assert_eq!(reply.status, status, "{path}: without a name the path decides");
    }
}
