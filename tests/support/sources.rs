//! A device with curl and OpenSSL beside a simulator.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

use super::simulator::Sim;

pub const EST: &str = "https://est.edgepress.example/.well-known/est";
pub const VAULT: &str = "https://factory.vault.azure.net";
pub const FILES: &str = "https://devices.edgepress.example";
pub const TOKEN: &str = "https://login.microsoftonline.com/contoso/oauth2/v2.0/token";
pub const IDENTITY: &str = "metadata/identity/oauth2/token";

/// What curl got.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn string(&self, key: &str) -> String {
        self.json()[key].as_str().unwrap_or_else(|| panic!("no {key}: {}", self.text())).to_owned()
    }
}

/// A simulator and a folder of the device's own.
pub struct World {
    pub sim: Sim,
    pub here: PathBuf,
}

impl World {
    pub fn start(more: &[&str]) -> Self {
        Self::of(Sim::start(more))
    }

    pub fn of(sim: Sim) -> Self {
        let here = sim.folder.path().join("device");
        fs::create_dir(&here).expect("folder");
        Self { sim, here }
    }

    pub fn pki(&self, file: &str) -> String {
        self.sim.folder.path().join("pki").join(file).to_str().expect("UTF-8").to_owned()
    }

    pub fn path(&self, file: &str) -> String {
        self.here.join(file).to_str().expect("UTF-8").to_owned()
    }

    pub fn curl_raw(&self, url: &str, more: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
            "--dump-header",
            "head",
        ])
        .args(["--output", "body", "--write-out", "%{http_code}", "--cacert"])
        .arg(self.pki("root.pem"))
        .current_dir(&self.here);
        for (service, name) in [
            ("est", "est.edgepress.example"),
            ("vault", "factory.vault.azure.net"),
            ("token", "login.microsoftonline.com"),
            ("files", "devices.edgepress.example"),
            ("dps", "global.azure-devices-provisioning.net"),
        ] {
            if let Some(address) = self.sim.listening[service].as_str() {
                curl.args(["--connect-to", &format!("{name}:443:{address}")]);
            }
        }
        curl.args(more).arg(url).output().expect("curl is needed for this test")
    }

    pub fn curl(&self, url: &str, more: &[&str]) -> Reply {
        let output = self.curl_raw(url, more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {url}: {said}");
        let status = String::from_utf8(output.stdout).expect("status").parse().expect("status");
        let head = fs::read_to_string(self.here.join("head")).expect("head").to_ascii_lowercase();
        Reply { status, head, body: fs::read(self.here.join("body")).unwrap_or_default() }
    }

    /// Runs shell with the device's folder as its own; what it prints.
    pub fn shell(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-euc", script])
            .env("PKI", self.sim.folder.path().join("pki"))
            .current_dir(&self.here)
            .output()
            .expect("sh");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// `edgepress sim --issue ID` into a folder of this name.
    pub fn issue(&self, id: &str, folder: &str, more: &[&str]) -> PathBuf {
        assert_cmd::Command::new(cargo_bin("edgepress"))
            .args(["sim", "--issue", id, "--dir", &self.sim.folder.path().join("pki").display().to_string()])
            .args(["--out", &self.path(folder)])
            .args(more)
            .assert()
            .success();
        self.here.join(folder).join("edgepress")
    }

    /// curl's arguments for a bootstrap certificate, issued for this.
    pub fn bootstrap(&self, folder: &str, more: &[&str]) -> [String; 4] {
        let made = self.issue("line-3", folder, &[&["--bootstrap"], more].concat());
        let file = |name: &str| made.join(name).to_str().expect("UTF-8").to_owned();
        ["--cert".into(), file("bootstrap-certificate.pem"), "--key".into(), file("bootstrap-key.pem")]
    }

    /// A key and a request in base64, as `name.key` and `name.b64`.
    pub fn request(&self, name: &str, id: &str, algorithm: &str) {
        self.shell(&format!(
            "openssl req -new -newkey {algorithm} -nodes -keyout {name}.key -subj /CN={id} -outform DER 2>/dev/null |
             openssl base64 -e >{name}.b64"
        ));
    }

    pub fn enrol(&self, action: &str, request: &str, more: &[&str]) -> Reply {
        let data = format!("@{request}.b64");
        let mut arguments = vec!["-H", "Content-Type: application/pkcs10", "--data-binary", &data];
        arguments.extend(more);
        self.curl(&format!("{EST}/{action}"), &arguments)
    }

    /// Makes `name.pem` of the last answer, and checks that it fits `name.key` and belongs to the enrolment group.
    pub fn take(&self, name: &str, id: &str) {
        self.shell(&format!(
            r#"openssl base64 -d -in body | openssl pkcs7 -inform DER -print_certs -out {name}.pem
            openssl verify -purpose sslclient -CAfile "$PKI/enrolment-root.pem" -untrusted "$PKI/enrolment-ca.pem" {name}.pem
            [ "$(openssl x509 -in {name}.pem -noout -subject -nameopt RFC2253)" = "subject=CN={id}" ]
            [ "$(openssl x509 -in {name}.pem -noout -pubkey)" = "$(openssl pkey -in {name}.key -pubout)" ]
            cat "$PKI/enrolment-ca.pem" >>{name}.pem"#
        ));
    }

    /// The entry of the last request in the log, which may hold none of these secrets.
    pub fn entry(&mut self, secrets: &[&str]) -> Value {
        let entry = self.sim.line();
        for secret in secrets {
            assert!(!entry.to_string().contains(secret), "{entry}");
        }
        entry
    }

    pub fn metadata(&self, service: &str, path: &str, more: &[&str]) -> Reply {
        let address = self.sim.address(service);
        self.curl(&format!("http://{address}/{path}"), &[&["-H", "Metadata: true"], more].concat())
    }

    pub fn token(&self) -> String {
        let query = "api-version=2018-02-01&resource=https://vault.azure.net";
        let reply = self.metadata("metadata", &format!("{IDENTITY}?{query}"), &[]);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.string("access_token")
    }

    pub fn secret(&self, name: &str, token: &str) -> Reply {
        let url = format!("{VAULT}/secrets/{name}?api-version=7.4");
        self.curl(&url, &["-H", &format!("Authorization: Bearer {token}")])
    }
}

/// Borrowed.
pub fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
