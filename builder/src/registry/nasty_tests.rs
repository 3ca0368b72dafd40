use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::server_tests::{Image, Request, Server, answer};
use super::{Registry, Resolved};
use crate::error::problem;
use crate::event::Silent;
use crate::oci::descriptor::{Descriptor, OCI_LAYER};
use crate::oci::reference::Reference;
use crate::store::Store;
use crate::units::{Arch, Digest};

const CHALLENGE: &str = r#"WWW-Authenticate: Bearer realm="http://REALM/token",service="reg",scope="repository:factory/pump:pull""#;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(Some(folder.path().join("store"))).expect("opens");
    (folder, store)
}

fn reference(text: &str) -> Reference {
    format!("registry.example/{text}").parse().expect(text)
}

fn resolve(registry: &Registry, text: &str, store: &Store) -> anyhow::Result<Resolved> {
    registry.resolve(&reference(text), Arch::X86_64, store)
}

/// All of it into the store.
fn pull(registry: &Registry, store: &Store) -> anyhow::Result<Resolved> {
    let found = resolve(registry, "factory/pump:1", store)?;
    registry.fetch(&[(&found.reference, found.blobs().collect())], store, "images", &Silent)?;
    Ok(found)
}

fn assert_whole(found: &Resolved, image: &Image, store: &Store) {
    assert_eq!((found.digest(), &found.manifest), (image.index.digest, &image.manifest));
    assert_eq!(found.layers, image.layers);
    for blob in found.blobs() {
        let bytes = std::fs::read(store.blob(&blob.digest).expect("in the store")).expect("reads");
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (blob.digest, blob.size));
    }
}

/// What is told, and that nothing secret is.
fn told(error: &anyhow::Error) -> String {
    let hint = problem(error).and_then(|problem| problem.hint.clone()).expect("a hint");
    let text = format!("{error:#}\n{hint}");
    for secret in ["geheim", "dG9rZW4", "Bearer t"] {
        assert!(!text.contains(secret) && !format!("{error:?}").contains(secret), "{error:?}");
    }
    text
}

#[test]
fn an_image_is_pulled_once_and_by_digest() {
    let image = Arc::new(Image::new());
    let served = image.clone();
    let server = Server::start(move |request, to| served.serve(request, to));
    let (registry, (_folder, store)) = (server.client(&json!({})), store());
    let found = pull(&registry, &store).expect("pulls");
    assert_whole(&found, &image, &store);
    // Index, manifest, configuration, two layers.
    assert_eq!(server.requests().len(), 5, "{:?}", server.requests());
    let locked = Reference::at(&found.reference, found.digest());
    let again = registry.resolve(&locked, Arch::X86_64, &store).expect("from the store");
    assert_eq!(again.layers, found.layers);
    let blobs = || found.blobs().collect::<Vec<_>>();
    let fetched = registry.fetch(&[(&locked, blobs()), (&locked, blobs())], &store, "images", &Silent);
    assert_eq!(fetched.expect("nothing to do").blobs, 0);
    assert_eq!(server.requests().len(), 5, "{:?}", server.requests());
    assert_eq!(registry.current(&found.reference).expect("the tag"), found.digest());
    // All of it anew, by the lock alone; what two images share comes once.
    let (_folder, empty) = self::store();
    registry.fetch(&[(&locked, blobs()), (&locked, blobs())], &empty, "images", &Silent).expect("by digest");
    assert_whole(&found, &image, &empty);
    assert_eq!(server.requests().len(), 11, "{:?}", server.requests());
}

#[test]
fn a_registry_of_this_machine_may_go_without_tls() {
    let image = Arc::new(Image::new());
    let server = Server::start(move |request, to| image.serve(request, to));
    let registry = Registry::new(super::RegistryOptions::default()).expect("registries");
    let reference: Reference = format!("{}/factory/pump:1", server.address).parse().expect("parses");
    registry.current(&reference).expect("without TLS");
}

#[test]
fn dropped_downloads_go_on_where_they_were() {
    let image = Arc::new(Image::new());
    let served = image.clone();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let server = Server::start(move |request: &Request, to| {
        let (bytes, _) = served.at(&request.path).expect("known");
        if bytes.len() < 100_000 {
            return served.serve(request, to);
        }
        // A part, and the connection ends.
        let from = request.from();
        let part = &bytes[from..bytes.len().min(from + 120_000)];
        count.fetch_add(part.len(), Ordering::Relaxed);
        let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
        write!(
            to,
            "HTTP/1.1 {status}\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
            bytes.len() - 1,
            bytes.len(),
            bytes.len() - from
        )?;
        to.write_all(part)
    });
    let (_folder, store) = store();
    let found = pull(&server.client(&json!({})), &store).expect("pulls in the end");
    assert_whole(&found, &image, &store);
    // What a dying connection takes with it, at most.
    let whole = 1_000_000;
    let sent = sent.load(Ordering::Relaxed);
    assert!((whole..2 * whole).contains(&sent), "{sent} bytes were sent for {whole}");
    assert!(
        server.requests().iter().filter(|line| line.contains("bytes=")).count() >= 7,
        "{:?}",
        server.requests()
    );
}

#[test]
fn other_bytes_than_the_digest_says_are_refused() {
    for (bad, what) in [("blobs", "has SHA-256"), ("manifests/1", "the manifest from 127.0.0.1")] {
        let image = Image::new();
        let layer = image.layers[0].digest;
        let server = Server::start(move |request, to| match image.at(&request.path) {
            Some((bytes, digest)) if request.path.contains(bad) && (bad != "blobs" || digest == layer) => {
                let mut bytes = bytes.to_vec();
                bytes[10] ^= 1;
                answer(to, "200 OK", &[&format!("Docker-Content-Digest: sha256:{digest}")], &bytes)
            }
            _ => image.serve(request, to),
        });
        let (_folder, store) = store();
        let error = told(&pull(&server.client(&json!({})), &store).expect_err(what));
        assert!(
            error.contains(what) && error.contains("twice in a row") && error.contains("expected"),
            "{error}"
        );
        assert!(!store.has_blob(&layer));
    }
}

/// A registry with a token server in the same place. Each token opens `uses` requests.
fn with_tokens(image: Arc<Image>, uses: usize, grant: fn(&Request) -> bool) -> Server {
    let address = Arc::new(Mutex::new(String::new()));
    let realm = address.clone();
    let tokens = Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    let server = Server::start(move |request, to| {
        if request.path.starts_with("/token") || request.path.starts_with("/oauth2") {
            if !grant(request) {
                return answer(to, "401 Unauthorized", &[], b"{\"errors\":[]}");
            }
            let mut tokens = tokens.lock().expect("tokens");
            let token = format!("t{}", tokens.len());
            tokens.insert(format!("Bearer {token}"), uses);
            let body = json!({"token": token, "refresh_token": "dG9rZW4-exchanged", "expires_in": 300});
            return answer(to, "200 OK", &[], body.to_string().as_bytes());
        }
        let mut tokens = tokens.lock().expect("tokens");
        let left = tokens.get_mut(request.header("authorization")).filter(|left| **left > 0);
        let Some(left) = left else {
            let challenge = CHALLENGE.replace("REALM", &realm.lock().expect("the address"));
            return answer(to, "401 Unauthorized", &[&challenge], b"{}");
        };
        *left -= 1;
        drop(tokens);
        image.serve(request, to)
    });
    server.address.clone_into(&mut address.lock().expect("the address"));
    server
}

fn count(server: &Server, what: &str) -> usize {
    server.requests().iter().filter(|line| line.contains(what)).count()
}

#[test]
fn a_token_that_ends_in_the_middle_is_replaced() {
    let image = Arc::new(Image::new());
    let server = with_tokens(image.clone(), 2, |request| {
        request.path.contains("scope=repository%3Afactory%2Fpump%3Apull")
            && request.path.contains("service=reg")
    });
    let (_folder, store) = store();
    let found = pull(&server.client(&json!({})), &store).expect("pulls without a login");
    assert_whole(&found, &image, &store);
    // Five requests, two a token.
    assert_eq!(count(&server, "/token"), 3, "{:?}", server.requests());
}

#[test]
fn a_token_that_never_opens_is_no_endless_loop() {
    let server = with_tokens(Arc::new(Image::new()), 0, |_| true);
    let (_folder, store) = store();
    let error = told(&pull(&server.client(&json!({})), &store).expect_err("refused"));
    assert!(
        error.contains("lets nobody pull factory/pump without a login") && error.contains("docker login"),
        "{error}"
    );
    assert!(server.requests().len() <= 6, "{:?}", server.requests());
}

#[test]
fn tokens_for_passwords_and_for_other_tokens() {
    let entra = "x.eyJpc3MiOiJodHRwczovL3N0cy53aW5kb3dzLm5ldC90LyJ9.geheim";
    for (auth, grant, asked) in [
        (
            json!({"username": "u", "password": "geheim"}),
            // Basic of u:geheim
            (|request| request.header("authorization") == "Basic dTpnZWhlaW0=") as fn(&Request) -> bool,
            vec![
                "GET /token?service=reg&scope=repository%3Afactory%2Fpump%3Apull&account=u&client_id=edgepress",
            ],
        ),
        (
            json!({"identitytoken": "geheim"}),
            |request| {
                request.body.contains("grant_type=refresh_token")
                    && request.body.ends_with("refresh_token=geheim")
            },
            vec!["POST /token"],
        ),
        (
            json!({"identitytoken": entra}),
            |request| match request.path.as_str() {
                "/oauth2/exchange" => {
                    request.body.contains("grant_type=access_token") && request.body.ends_with("geheim")
                }
                _ => request.body.ends_with("refresh_token=dG9rZW4-exchanged"),
            },
            vec!["POST /oauth2/exchange", "POST /token"],
        ),
    ] {
        let image = Arc::new(Image::new());
        let server = with_tokens(image.clone(), 100, grant);
        let (_folder, store) = store();
        let found = pull(&server.client(&server.login(&auth)), &store).expect("pulls");
        assert_whole(&found, &image, &store);
        let requests = server.requests();
        let tokens: Vec<&String> = requests.iter().filter(|line| !line.contains("/v2/")).collect();
        assert_eq!(tokens, asked);
    }
}

#[test]
fn credentials_go_to_no_other_server() {
    let leaked = Arc::new(Mutex::new(Vec::new()));
    let image = Arc::new(Image::new());
    let (log, served) = (leaked.clone(), image.clone());
    let storage = Server::start(move |request, to| {
        log.lock().expect("the log").push(request.header("authorization").to_owned());
        let path = request.path.split('?').next().unwrap_or_default().to_owned();
        let Request { method, headers, body, .. } = request;
        let (method, headers, body) = (method.clone(), headers.clone(), body.clone());
        served.serve(&Request { method, path, headers, body }, to)
    });
    let (elsewhere, served) = (storage.address.clone(), image.clone());
    let server = Server::start(move |request, to| match request.header("authorization") {
        "Basic dTpnZWhlaW0=" if request.path.contains("/blobs/") => {
            let location = format!("Location: http://{elsewhere}{}?signature=geheim", request.path);
            answer(to, "307 Temporary Redirect", &[&location], b"")
        }
        "Basic dTpnZWhlaW0=" => served.serve(request, to),
        _ => answer(to, "401 Unauthorized", &["WWW-Authenticate: Basic realm=\"x\""], b""),
    });
    let login = server.login(&json!({"username": "u", "password": "geheim"}));
    let (_folder, store) = store();
    let found = pull(&server.client(&login), &store).expect("pulls");
    assert_whole(&found, &image, &store);
    let leaked = leaked.lock().expect("the log");
    assert!(leaked.len() == 3 && leaked.iter().all(String::is_empty), "{leaked:?}");
}

#[test]
fn a_server_that_is_redirected_to_gets_no_login() {
    // It asks for one, as if it were the registry.
    let thief =
        Server::start(|_, to| answer(to, "401 Unauthorized", &["WWW-Authenticate: Basic realm=\"x\""], b""));
    let elsewhere = format!("Location: http://{}/x", thief.address);
    let server = Server::start(move |_, to| answer(to, "307 Temporary Redirect", &[&elsewhere], b""));
    let login = server.login(&json!({"username": "u", "password": "geheim"}));
    let (_folder, store) = store();
    told(&pull(&server.client(&login), &store).expect_err("refused"));
    assert_eq!(thief.requests().len(), 1, "{:?}", thief.requests());
}

#[test]
fn a_token_server_without_tls_gets_nothing() {
    let (client, bearer) = (crate::store::net::Client::new(Default::default()), |realm: &str| {
        let challenge = crate::oci::challenge::parse(
            &CHALLENGE["WWW-Authenticate: ".len()..].replace("http://REALM/token", realm),
        );
        match challenge.into_iter().next() {
            Some(crate::oci::challenge::Challenge::Bearer(bearer)) => bearer,
            other => panic!("{other:?}"),
        }
    });
    let address = super::Address::parse("https://registry.example").expect("an address");
    let asking =
        super::token::Asking { client: &client, address: &address, repository: "factory/pump", login: None };
    for realm in ["http://127.0.0.1:1/token?x=geheim", "file:///etc/passwd", "no address"] {
        let error = told(&asking.token(&bearer(realm)).expect_err(realm));
        assert!(error.contains("Nothing was sent there"), "{error}");
    }
}

#[test]
fn a_registry_that_has_enough_is_waited_for() {
    let image = Arc::new(Image::new());
    let served = image.clone();
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request, to| match asked.fetch_add(1, Ordering::Relaxed) % 3 {
        0 => answer(to, "429 Too Many Requests", &["Retry-After: 0"], b"{}"),
        1 => answer(to, "503 Service Unavailable", &["Retry-After: 0"], b"{}"),
        _ => served.serve(request, to),
    });
    let (_folder, store) = store();
    let found = pull(&server.client(&json!({})), &store).expect("pulls in the end");
    assert_whole(&found, &image, &store);
    for (status, what) in [
        ("429 Too Many Requests", "has enough of our requests"),
        ("502 Bad Gateway", "in trouble (HTTP 502)"),
    ] {
        let server = Server::start(move |_, to| answer(to, status, &["Retry-After: 0"], b"{}"));
        let error = told(&resolve(&server.client(&json!({})), "factory/pump:1", &store).expect_err(what));
        assert!(error.contains(what) && error.contains("--mirror"), "{error}");
        assert_eq!(server.requests().len(), 5);
    }
}

#[test]
fn each_failure_says_what_and_what_to_do() {
    let image = Image::new();
    let server = Server::start(move |request, to| image.serve(request, to));
    let gone = Digest::of("gone");
    let basic = "WWW-Authenticate: Basic realm=\"x\"";
    let refusing = Server::start(move |_, to| answer(to, "401 Unauthorized", &[basic], b""));
    let forbidding = Server::start(move |_, to| answer(to, "403 Forbidden", &[], b""));
    let odd = Server::start(move |_, to| answer(to, "418 I'm a teapot", &[], b""));
    let page = Server::start(move |_, to| answer(to, "200 OK", &["Content-Type: text/html"], b"<html>"));
    let long = Server::start(move |_, to| answer(to, "200 OK", &[], &vec![b' '; 5 << 20]));
    let one = || "factory/pump:1".to_owned();
    let cases = [
        (&server, false, "factory/pump:2".to_owned(), vec!["has no tag `2` of factory/pump", "pushed?"]),
        (
            &server,
            false,
            "factory/tank:1".to_owned(),
            vec!["has no repository factory/tank", "is the name right?"],
        ),
        (&server, false, format!("factory/pump@sha256:{gone}"), vec!["has no sha256:", "lock --update"]),
        (
            &server,
            false,
            format!("factory/pump:1@sha256:{gone}"),
            vec!["the tag `1` of factory/pump has moved", "lock --update"],
        ),
        (
            &refusing,
            false,
            one(),
            vec!["lets nobody pull factory/pump without a login", "docker login 127.0.0.1"],
        ),
        (&refusing, true, one(), vec!["does not take the credentials for factory/pump", "docker login"]),
        (&forbidding, true, one(), vec!["does not let these credentials pull factory/pump", "403"]),
        (&odd, false, one(), vec!["answers 418", "is it a registry"]),
        (&page, false, one(), vec!["the manifest cannot be read", "is it a container image?"]),
        (&long, false, one(), vec!["more than 4096 KiB"]),
    ];
    for (server, login, text, expected) in cases {
        let credentials =
            if login { server.login(&json!({"username": "u", "password": "geheim"})) } else { json!({}) };
        let (_folder, store) = store();
        let error = told(&resolve(&server.client(&credentials), &text, &store).expect_err(&text));
        assert!(error.starts_with("resolving the image registry.example/factory/"), "{error}");
        for what in expected {
            assert!(error.contains(what), "{what} is not in: {error}");
        }
    }
}

#[test]
fn what_is_not_there_is_told_apart() {
    let image = Image::new();
    let server = Server::start(move |request, to| image.serve(request, to));
    let (_folder, store) = store();
    let registry = server.client(&json!({}));
    let error = registry
        .resolve(&reference("factory/pump:1"), Arch::Aarch64, &store)
        .expect_err("another architecture");
    assert!(told(&error).contains("no image for aarch64 (linux/arm64); there is linux/amd64"), "{error:#}");
    // What a manifest names and is not there says nothing about the tag.
    let served = Image::new();
    let without = Server::start(move |request, to| match request.path.contains("/blobs/") {
        true => answer(to, "404 Not Found", &[], b""),
        false => served.serve(request, to),
    });
    let error = told(&pull(&without.client(&json!({})), &store).expect_err("no configuration"));
    assert!(error.contains("has no sha256:"), "{error}");
    let absent = Descriptor::of(OCI_LAYER, b"gone");
    let fetched = registry.fetch(&[(&reference("factory/pump:1"), vec![&absent])], &store, "images", &Silent);
    let error = told(&fetched.expect_err("gone"));
    assert!(
        error.contains("the registry no longer has what the lock names")
            && error.contains("--mirror registry.example=URL"),
        "{error}"
    );
}

/// Where the process that is killed finds its registry and its store.
const KILLED: [&str; 2] = ["EDGEPRESS_TEST_REGISTRY", "EDGEPRESS_TEST_STORE"];

#[test]
#[ignore = "a half of the test below, which runs it in a process of its own"]
fn the_pull_that_is_killed() {
    let [address, store] = KILLED.map(|name| std::env::var(name).expect(name));
    let mirrors = [("registry.example".to_owned(), format!("http://{address}"))].into();
    let registry =
        Registry::new(super::RegistryOptions { mirrors, ..Default::default() }).expect("registries");
    let store = Store::open(Some(store.into())).expect("opens");
    let _ = pull(&registry, &store);
}

#[test]
fn a_pull_goes_on_after_a_kill() {
    let image = Arc::new(Image::new());
    let (served, layer) = (image.clone(), image.layers[0].digest);
    let child = Arc::new(Mutex::new(None::<std::process::Child>));
    let (killed, done) = std::sync::mpsc::channel();
    let victim = child.clone();
    let server = Server::start(move |request, to| {
        let (bytes, digest) = served.at(&request.path).expect("known");
        if digest != layer {
            return served.serve(request, to);
        }
        let Some(mut child) = victim.lock().expect("the child").take() else {
            return served.serve(request, to);
        };
        // A half is on its way; the store's file has begun.
        write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
        to.write_all(&bytes[..bytes.len() / 2])?;
        child.kill().and_then(|()| child.wait()).map(drop)?;
        killed.send(()).expect("the test waits");
        Ok(())
    });
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("store");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "registry::nasty_tests::the_pull_that_is_killed", "--ignored"]);
    command.env(KILLED[0], &server.address).env(KILLED[1], &path).stdout(std::process::Stdio::null());
    {
        let mut child = child.lock().expect("the child");
        *child = Some(command.spawn().expect("runs"));
    }
    done.recv_timeout(std::time::Duration::from_secs(120)).expect("it asks for the layer, and is killed");
    let store = Store::open(Some(path)).expect("opens");
    assert!(!store.has_blob(&layer) && store.has_blob(&image.manifest.digest));
    let there: Vec<Digest> = image
        .layers
        .iter()
        .map(|layer| layer.digest)
        .chain([image.manifest.digest])
        .filter(|it| store.has_blob(it))
        .collect();
    let before = server.requests().len();
    let found = pull(&server.client(&json!({})), &store).expect("pulls");
    assert_whole(&found, &image, &store);
    // What was there whole is not asked for again. (How often the rest is asked for is not counted: a request of the
    // killed process may be read this late.)
    let again = server.requests()[before..].to_vec();
    for digest in there {
        assert!(!again.iter().any(|line| line.contains(&digest.to_string())), "{again:?}");
    }
}
