//! A real registry (Debian's docker-registry) with TLS on a free port of this host, its token server, and images to put there.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use edgepress::oci::credentials::Credentials;
use edgepress::oci::descriptor::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use edgepress::registry::RegistryOptions;
use edgepress::units::Digest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

pub const USER: &str = "edge";
pub const PASSWORD: &str = "geheim";
/// `htpasswd -nbB edge geheim`.
const HTPASSWD: &str = "edge:$2y$05$z6CGvJSAuaBY82B0ePJJl.K11NhleuqdVOy/jM23BRfNqLZEdmIMC\n";
const ISSUER: &str = "edgepress tests";
const SERVICE: &str = "registry of the tests";

/// How the registry lets somebody in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Basic,
    Token,
}

/// An authority, and a server's certificate by it.
struct Trust {
    ca: String,
    chain: String,
    der: Vec<u8>,
    key: KeyPair,
}

impl Trust {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("an authority").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let leaf = params.signed_by(&key, &issuer).expect("a certificate");
        Self { ca, chain: leaf.pem(), der: leaf.der().to_vec(), key }
    }

    /// For a server of this process.
    fn tls(&self) -> Arc<rustls::ServerConfig> {
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone().into()], key.into())
            .expect("a certificate");
        Arc::new(config)
    }
}

/// A running registry.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    tokens: Option<TokenServer>,
    folder: TempDir,
}

impl Registry {
    pub fn start(door: Door) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let trust = Trust::new();
        fs::create_dir(path("certs")).expect("a folder");
        fs::write(path("certs/ca.crt"), &trust.ca).expect("writes");
        fs::write(path("server.pem"), &trust.chain).expect("writes");
        fs::write(path("server.key"), trust.key.serialize_pem()).expect("writes");
        fs::write(path("htpasswd"), HTPASSWD).expect("writes");
        let tokens = (door == Door::Token).then(|| TokenServer::start(trust));
        let auth = match &tokens {
            None => json!({"htpasswd": {"realm": "tests", "path": path("htpasswd")}}),
            Some(tokens) => json!({"token": {
                "realm": format!("https://{}/token", tokens.address), "service": SERVICE, "issuer": ISSUER,
                "rootcertbundle": path("certs/ca.crt")}}),
        };
        let config = json!({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": path("data")}},
            "http": {"addr": "127.0.0.1:0",
                     "tls": {"certificate": path("server.pem"), "key": path("server.key")}},
            "auth": auth});
        // JSON is YAML.
        fs::write(path("config.yml"), config.to_string()).expect("writes");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry: ci/host-packages test installs it");
        let address = listening(child.stderr.take().expect("a pipe"));
        Self { child, address, tokens, folder }
    }

    /// The authority that signs for it.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("certs/ca.crt")
    }

    /// Registries as edgepress meets them, with this user's name.
    pub fn options(&self, login: Option<(&str, &str)>) -> RegistryOptions {
        let auth =
            login.map_or(json!({}), |(user, password)| json!({"username": user, "password": password}));
        let file = json!({"auths": {self.address.clone(): auth}}).to_string();
        let servers = self.tokens.iter().map(|tokens| &tokens.address).chain([&self.address]);
        RegistryOptions {
            credentials: Credentials::parse(&file, "config.json").expect("credentials"),
            authorities: servers.map(|server| (server.clone(), self.ca())).collect(),
            ..RegistryOptions::default()
        }
    }

    /// A command of skopeo that trusts this registry; `sides` are `src`, `dest` or nothing, for what it logs in to.
    pub fn skopeo(&self, verb: &str, sides: &[&str]) -> Command {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", verb]);
        // Go trusts what this names beside its own: the token server too.
        command.env("SSL_CERT_FILE", self.ca());
        for side in sides {
            let prefix = if side.is_empty() { String::new() } else { format!("{side}-") };
            command.arg(format!("--{prefix}creds={USER}:{PASSWORD}"));
            command.arg(format!("--{prefix}cert-dir={}", self.folder.path().join("certs").display()));
        }
        command
    }

    /// Puts a layout's image there, for all architectures.
    pub fn push(&self, layout: &Path, name: &str) {
        let mut command = self.skopeo("copy", &["dest"]);
        command.args(["--all", "--preserve-digests"]);
        command.arg(format!("oci:{}", layout.display())).arg(format!("docker://{}/{name}", self.address));
        run(&mut command);
    }

    /// How many tokens were given to edgepress.
    pub fn tokens(&self) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| *tokens.given.lock().expect("a number"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that must succeed; returns what it prints.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("skopeo: ci/host-packages test installs it");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Where the registry says that it listens.
fn listening(stderr: impl Read + Send + 'static) -> String {
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let mut said = String::new();
    let address = lines.by_ref().find_map(|line| {
        said.push_str(&line);
        let rest = line.split("listening on ").nth(1)?;
        Some(rest.split([',', '"']).next()?.to_owned())
    });
    // A full pipe would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    address.unwrap_or_else(|| panic!("docker-registry does not listen: {said}"))
}

/// Gives tokens to `edge` for everything, and to nobody for `public/…`. Of those for edgepress every other one has ended when it
/// is given out.
struct TokenServer {
    address: String,
    given: Arc<Mutex<usize>>,
}

impl TokenServer {
    fn start(trust: Trust) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("an address").to_string();
        let given = Arc::new(Mutex::new(0));
        let config = trust.tls();
        let count = given.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
                let mut stream = rustls::StreamOwned::new(connection, stream);
                let _ = answer(&mut stream, &trust, &count);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Self { address, given }
    }
}

/// A server behind TLS that sends everybody on to `location`; returns its address, and the file of its authority.
pub fn redirecting(folder: &Path, location: String) -> (String, PathBuf) {
    let trust = Trust::new();
    let (ca, config) = (folder.join("redirecting.pem"), trust.tls());
    fs::write(&ca, &trust.ca).expect("writes");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
            let mut stream = rustls::StreamOwned::new(connection, stream);
            // A client that hangs up is none of our business.
            let _ = head(&mut stream).and_then(|_| {
                write!(stream, "HTTP/1.1 307 On\r\nConnection: close\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n")?;
                stream.conn.send_close_notify();
                stream.flush()
            });
        }
    });
    (address, ca)
}

/// The head of a request.
fn head(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn answer(stream: &mut (impl Read + Write), trust: &Trust, given: &Mutex<usize>) -> std::io::Result<()> {
    let head = head(stream)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("https://x{path}")).expect("an address");
    let scopes: Vec<String> =
        url.query_pairs().filter(|(key, _)| key == "scope").map(|(_, value)| value.into_owned()).collect();
    let basic = format!("basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let sent = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    let known = sent.as_ref().is_some_and(|sent| sent.replacen("Basic", "basic", 1) == basic);
    let (status, body) = match sent {
        Some(_) if !known => ("401 Unauthorized", json!({"errors": []})),
        _ => {
            // skopeo, which puts the images there, does not ask twice.
            let ours = head.to_ascii_lowercase().contains("user-agent: edgepress");
            let mut given = given.lock().expect("a number");
            *given += usize::from(ours);
            let ended = ours && *given % 2 == 1;
            ("200 OK", json!({"token": token(trust, &scopes, known, ended), "expires_in": 300}))
        }
    };
    let body = body.to_string();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A token as distribution demands it: a JWT with the signer's certificate in it.
fn token(trust: &Trust, scopes: &[String], known: bool, ended: bool) -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let now = if ended { now - 3600 } else { now };
    let access: Vec<Value> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> =
                actions.split(',').filter(|_| known || name.starts_with("public/")).collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&trust.der)]});
    let claims = json!({"iss": ISSUER, "sub": USER, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now,
                        "jti": "1", "access": access});
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let random = SystemRandom::new();
    let pkcs8 = trust.key.serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &random).expect("a key");
    let signature = key.sign(&random, text.as_bytes()).expect("signs");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A layout with one image for both architectures, of two layers: one packed by gzip, the small one by zstd if Docker's formats
/// need not have it. Returns its index's digest.
pub fn layout(folder: &Path, megabytes: usize, zstd: bool) -> Digest {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let put = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        fs::write(blobs.join(descriptor.digest.to_string()), bytes).expect("writes");
        descriptor
    };
    let document = |media_type: &str, value: Value| put(media_type, value.to_string().as_bytes());
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let tars = [tar("usr/bin/pump", &noise(megabytes << 20)), tar("etc/pump", architecture.as_bytes())];
        let diff_ids: Vec<String> = tars.iter().map(|tar| format!("sha256:{}", Digest::of(tar))).collect();
        let small = match zstd {
            true => {
                put(&format!("{OCI_LAYER}+zstd"), &zstd::encode_all(tars[1].as_slice(), 3).expect("packs"))
            }
            false => put(&format!("{OCI_LAYER}+gzip"), &gzip(&tars[1])),
        };
        let layers = [put(&format!("{OCI_LAYER}+gzip"), &gzip(&tars[0])), small];
        let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/usr/bin/pump"]},
                            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = document(OCI_CONFIG, config);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        let mut entry = serde_json::to_value(document(OCI_MANIFEST, manifest)).expect("JSON");
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let index = document(OCI_INDEX, index);
    let top = json!({"schemaVersion": 2, "manifests": [index]});
    fs::write(folder.join("index.json"), top.to_string()).expect("writes");
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("writes");
    index.digest
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("packs");
    packer.finish().expect("packs")
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, name, content).expect("appends");
    builder.into_inner().expect("ends")
}

/// Bytes that no packing makes smaller, the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}
