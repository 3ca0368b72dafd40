//! A registry of this process, for tests: it behaves as badly as it is told to.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Registry, RegistryOptions};
use crate::oci::credentials::Credentials;
use crate::oci::descriptor::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::units::Digest;

/// One request.
pub(super) struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The byte that is asked from.
    pub(super) fn from(&self) -> usize {
        let range = self.header("range").strip_prefix("bytes=").and_then(|rest| rest.strip_suffix('-'));
        range.map_or(0, |from| from.parse().expect("a range"))
    }
}

/// A server, and what it was asked.
pub(super) struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers by `handler`, a connection a request.
    pub(super) fn start(
        handler: impl Fn(&Request, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("has an address").to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log) = (Arc::new(handler), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (handler.clone(), log.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else {
                        let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
                        return;
                    };
                    let line = format!("{} {} {}", request.method, request.path, request.header("range"));
                    log.lock().expect("the log").push(line.trim_end().to_owned());
                    let _ = handler(&request, &mut &stream);
                });
            }
        });
        Self { address, seen }
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().expect("the log").clone()
    }

    /// Registries, of which `registry.example` is this one.
    pub(super) fn client(&self, credentials: &Value) -> Registry {
        let credentials = Credentials::parse(&credentials.to_string(), "config.json").expect("parses");
        let mirrors = [("registry.example".to_owned(), format!("http://{}", self.address))].into();
        Registry::new(RegistryOptions { mirrors, credentials, ..RegistryOptions::default() })
            .expect("registries")
    }

    /// A file of credentials for this server.
    pub(super) fn login(&self, auth: &Value) -> Value {
        json!({"auths": {self.address.clone(): auth}})
    }
}

/// Reads a request; nothing for what is none, for example a greeting of TLS.
fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    if reader.fill_buf().ok()?.first()? == &0x16 {
        return None;
    }
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: u64 = headers.get("content-length").map_or(Some(0), |text| text.parse().ok())?;
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

/// A whole answer.
pub(super) fn answer(to: &mut dyn Write, status: &str, headers: &[&str], body: &[u8]) -> io::Result<()> {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    write!(to, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
    to.write_all(body)
}

/// An image for amd64 with two layers, and all that a registry has of it.
pub(super) struct Image {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub index: Descriptor,
    pub manifest: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Image {
    pub(super) fn new() -> Self {
        let layers = [noise(700_000, 1), noise(300_000, 2)];
        let diff_ids: Vec<String> =
            layers.iter().map(|bytes| format!("sha256:{}", Digest::of(bytes))).collect();
        let config = json!({"architecture": "amd64", "os": "linux",
                            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let mut image = Self {
            blobs: BTreeMap::new(),
            index: Descriptor::of("", b""),
            manifest: Descriptor::of("", b""),
            layers: Vec::new(),
        };
        image.layers = layers.into_iter().map(|bytes| image.add(OCI_LAYER, bytes)).collect();
        let config = image.add(OCI_CONFIG, config.to_string().into());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": image.layers});
        image.manifest = image.add(OCI_MANIFEST, manifest.to_string().into());
        let mut entry = serde_json::to_value(&image.manifest).expect("JSON");
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        image.index = image.add(OCI_INDEX, index.to_string().into());
        image
    }

    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.insert(descriptor.digest, bytes);
        descriptor
    }

    /// What a good registry has at a path; the tag is `1`.
    pub(super) fn at(&self, path: &str) -> Option<(&[u8], Digest)> {
        let name = path.strip_prefix("/v2/factory/pump/")?;
        let name = name.strip_prefix("manifests/").or_else(|| name.strip_prefix("blobs/"))?;
        let digest = match name.strip_prefix("sha256:") {
            Some(hex) => hex.parse().ok()?,
            None => (name == "1").then_some(self.index.digest)?,
        };
        Some((self.blobs.get(&digest)?.as_slice(), digest))
    }

    /// Answers as a good registry does.
    pub(super) fn serve(&self, request: &Request, to: &mut dyn Write) -> io::Result<()> {
        let Some((bytes, digest)) = self.at(&request.path) else {
            let code = if request.path.starts_with("/v2/factory/pump/") {
                "MANIFEST_UNKNOWN"
            } else {
                "NAME_UNKNOWN"
            };
            let body = json!({"errors": [{"code": code, "message": "x"}]}).to_string();
            return answer(to, "404 Not Found", &["Content-Type: application/json"], body.as_bytes());
        };
        let stated = format!("Docker-Content-Digest: sha256:{digest}");
        let from = request.from();
        let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        match (request.method.as_str(), from) {
            ("HEAD", _) => answer(to, "200 OK", &[&stated], b""),
            (_, 0) => answer(to, "200 OK", &[&stated], bytes),
            _ => answer(to, "206 Partial Content", &[&stated, &range], &bytes[from..]),
        }
    }
}

/// Bytes that no packing makes smaller, the same each time.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}
