//! A tiny signed Debian archive in a temporary folder, and a web server for it that can misbehave.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use edgepress::units::Digest;
use tempfile::TempDir;

/// Suite and component of the archive.
pub const SUITE: &str = "bookworm";

/// A throw-away signing key in a GnuPG home of its own.
pub struct Key {
    home: TempDir,
    /// Fingerprint of the primary key.
    pub fingerprint: String,
    /// The public key, armoured.
    pub public: PathBuf,
}

impl Key {
    pub fn new(name: &str) -> Self {
        // The agent's socket lies in it, whose path may have 107 bytes: so no deep folder.
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").expect("temporary folder");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("sets the mode");
        let user = format!("{name} <{name}@test.example>");
        gpg(home.path(), &["--quick-gen-key", &user, "ed25519", "sign", "never"], b"");
        let listing = gpg(home.path(), &["--list-keys", "--with-colons"], b"");
        let listing = String::from_utf8(listing).expect("text");
        let line = listing.lines().find(|line| line.starts_with("fpr:")).expect("a fingerprint");
        let fingerprint = line.split(':').nth(9).expect("the tenth field").to_owned();
        let public = home.path().join("public.asc");
        fs::write(&public, gpg(home.path(), &["--armor", "--export"], b"")).expect("writes");
        Self { home, fingerprint, public }
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        gpg(self.home.path(), &["--clearsign"], text.as_bytes())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        command.arg("--homedir").arg(self.home.path()).args(["--kill", "all"]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn gpg(home: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gpg")
        .args(["--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback", "--homedir"])
        .arg(home)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("gpg starts (package gnupg)");
    child.stdin.take().expect("standard input").write_all(input).expect("writes");
    let output = child.wait_with_output().expect("gpg ends");
    assert!(output.status.success(), "gpg {arguments:?}");
    output.stdout
}

/// The archive: packages in `pool/`, one index, a signed InRelease.
pub struct Archive {
    folder: TempDir,
    packages: BTreeMap<String, String>,
}

impl Archive {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("pool")).expect("makes pool");
        Self { folder, packages: BTreeMap::new() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a package; `fields` are further lines of its control file. Returns its path in the archive.
    pub fn add(&mut self, name: &str, version: &str, fields: &str) -> String {
        let tree = tempfile::tempdir().expect("temporary folder");
        let control = control(name, version, fields);
        write(tree.path(), "DEBIAN/control", &control);
        write(tree.path(), &format!("usr/share/{name}/version"), version);
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("sets the mode");
        let path = format!("pool/{name}_{version}_all.deb");
        let file = self.path().join(&path);
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "--build"])
            .args([tree.path(), &file])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .stdout(Stdio::null())
            .status();
        assert!(built.expect("dpkg-deb starts").success());
        let bytes = fs::read(&file).expect("reads");
        let entry =
            format!("{control}Filename: {path}\nSize: {}\nSHA256: {}\n", bytes.len(), Digest::of(&bytes));
        self.packages.insert(format!("{name} {version}"), entry);
        path
    }

    /// Takes a package from the index and the pool.
    pub fn remove(&mut self, name: &str, version: &str) {
        self.packages.remove(&format!("{name} {version}")).expect("was there");
        fs::remove_file(self.path().join(format!("pool/{name}_{version}_all.deb"))).expect("removes");
    }

    /// Writes index and InRelease; `dates` are its lines `Date` and `Valid-Until`.
    pub fn publish(&self, key: &Key, dates: &str) {
        let index: String = self.packages.values().map(|entry| format!("{entry}\n")).collect();
        let inner = "main/binary-amd64/Packages";
        write(self.path(), &format!("dists/{SUITE}/{inner}"), &index);
        let release = format!(
            "Origin: Test\nSuite: {SUITE}\nCodename: {SUITE}\n{dates}Architectures: amd64\nComponents: main\n\
             SHA256:\n {} {} {inner}\n",
            Digest::of(&index),
            index.len()
        );
        fs::write(self.path().join(format!("dists/{SUITE}/InRelease")), key.sign(&release)).expect("writes");
    }
}

pub fn control(name: &str, version: &str, fields: &str) -> String {
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@test.example>\n{fields}\
         Description: a package\n"
    )
}

pub fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("makes folders");
    fs::write(path, text).expect("writes");
}

/// What the server does with the next request for a path, instead of sending the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Ends the connection half-way.
    HangUp,
    /// Sends only half, and says that this is all.
    Truncate,
    /// Sends other bytes of the same length.
    Tamper,
}

#[derive(Default)]
struct Shared {
    /// Requests as `PATH` or `PATH from N`.
    log: Vec<String>,
    /// Path → what to do, in order; what is left then is right.
    faults: BTreeMap<String, Vec<Fault>>,
}

/// Serves a folder on 127.0.0.1; ends with the test.
pub struct Server {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    pub fn new(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/debian", listener.local_addr().expect("an address"));
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (folder, state) = (folder.to_owned(), shared.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, state) = (folder.clone(), state.clone());
                std::thread::spawn(move || serve(&stream, &folder, &state));
            }
        });
        Self { url, shared }
    }

    /// What the next requests for a path meet.
    pub fn fail(&self, path: &str, faults: &[Fault]) {
        self.shared.lock().expect("lock").faults.insert(path.to_owned(), faults.to_vec());
    }

    /// The requests so far for paths that begin with `prefix`; forgets them.
    pub fn requests(&self, prefix: &str) -> Vec<String> {
        let log = std::mem::take(&mut self.shared.lock().expect("lock").log);
        log.into_iter().filter(|line| line.starts_with(prefix)).collect()
    }
}

/// Answers the requests of one connection until it ends; errors are the client's to notice.
fn serve(stream: &TcpStream, folder: &Path, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream);
    while let Some((path, from)) = request(&mut reader) {
        let fault = {
            let mut shared = shared.lock().expect("lock");
            let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
            shared.log.push(format!("{path}{from}"));
            shared.faults.get_mut(&path).filter(|faults| !faults.is_empty()).map(|faults| faults.remove(0))
        };
        if answer(stream, &folder.join(&path), from, fault).is_err() || fault == Some(Fault::HangUp) {
            return;
        }
    }
}

/// Path below `/debian/` and the start of the range asked for.
fn request(reader: &mut impl BufRead) -> Option<(String, Option<usize>)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
    let path =
        first.split(' ').nth(1)?.trim_start_matches("/debian/").replace("%2b", "+").replace("%7e", "~");
    let mut from = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            return Some((path, from));
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.split('-').next().and_then(|from| from.parse().ok());
        }
    }
}

fn answer(
    mut stream: &TcpStream,
    file: &Path,
    from: Option<usize>,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let Ok(mut bytes) = fs::read(file) else { return head(stream, "404 Not Found", 0, "") };
    if let Some(Fault::Status(status)) = fault {
        return head(stream, &format!("{status} Trouble"), 0, "");
    }
    let total = bytes.len();
    let mut status = "200 OK";
    let mut range = String::new();
    if let Some(from) = from.filter(|from| *from < total) {
        bytes.drain(..from);
        status = "206 Partial Content";
        range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
    }
    match fault {
        Some(Fault::Tamper) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        Some(Fault::Truncate) => bytes.truncate(total / 2),
        _ => {}
    }
    head(stream, status, bytes.len(), &range)?;
    let sent = if fault == Some(Fault::HangUp) { bytes.len() / 2 } else { bytes.len() };
    stream.write_all(&bytes[..sent])
}

fn head(mut stream: &TcpStream, status: &str, length: usize, more: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n")
}
