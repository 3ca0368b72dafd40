//! The simulated servers around a device under test, at free ports of this host.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use edgepress::finding::Severity;
use edgepress::provisioning::lint::lint;
use edgepress::sim::pki::{DeviceOptions, Pki};
use edgepress::sim::{Addresses, Config, Service, Simulation};
use tempfile::TempDir;

use super::device::Device;

pub const FAT: &str = "boot/efi/edgepress";
pub const CERTIFICATE: &str = "var/secrets/aziot/certs/device-id.pem";
pub const KEY: &str = "var/secrets/aziot/keys/device-id.key.pem";

/// Running servers.
pub struct World {
    pub simulation: Simulation,
    pki: Pki,
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with_faults(faults: &[&str]) -> Self {
        Self::with(|config| {
            for fault in faults {
                let (service, fault) = fault.split_once('=').expect("SERVICE=FAULT");
                config.faults.push((service.parse().expect(service), fault.parse().expect(fault)));
            }
        })
    }

    /// With a vault that knows an application by its certificate.
    pub fn with_application(client_id: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (certificate, key) =
            (folder.path().join("application.pem"), folder.path().join("application.key"));
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=line", "-out",
            ])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let pem = std::fs::read_to_string(&certificate).expect("a certificate");
        Self::within(folder, |config| {
            config.token_name = "localhost".into();
            config.token_clients = BTreeMap::from([(client_id.to_owned(), pem)]);
        })
    }

    pub fn with_arc() -> Self {
        let folder = TempDir::new().expect("a folder");
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens).expect("a folder");
        Self::within(folder, |config| config.arc_tokens = Some(tokens))
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::within(TempDir::new().expect("a folder"), change)
    }

    fn within(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let pki = Pki::open_or_create(&folder.path().join("pki")).expect("authorities");
        let mut config = Config::new(pki.clone());
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        config.addresses = Service::ALL
            .into_iter()
            .fold(Addresses::all_at(Ipv4Addr::LOCALHOST), |all, it| all.with(it, any));
        config.without.clear();
        config.vault_secrets[0].pattern = "edge-*".into();
        change(&mut config);
        let simulation = Simulation::start(config).expect("the servers");
        Self { simulation, pki, folder }
    }

    /// A device that trusts these servers for what has no authorities of its own.
    pub fn device(&self, shell: Vec<String>) -> Device {
        let mut device = Device::with_shell(shell);
        let ca = self.folder.path().join("ca.pem");
        std::fs::write(&ca, self.ca()).expect("authorities");
        let address = |service| format!("http://{}", self.simulation.addr(service));
        device.env("CURL_CA_BUNDLE", &ca.display().to_string());
        device.env("EP_METADATA", &address(Service::Metadata));
        device.env("EP_ARC", &address(Service::Arc));
        device.env("EP_ARC_TOKENS", &self.folder.path().join("tokens").display().to_string());
        device
    }

    pub fn ca(&self) -> String {
        self.pki.server_ca_pem().replace("\r\n", "\n")
    }

    /// `{est}` and the like become ports.
    pub fn fill(&self, text: &str) -> String {
        Service::ALL.into_iter().fold(text.to_owned(), |text, service| {
            text.replace(&format!("{{{service}}}"), &self.simulation.addr(service).port().to_string())
        })
    }

    /// Puts a source onto the device's partition, with the authorities of the servers.
    pub fn source(&self, device: &Device, text: &str) {
        device.write(&format!("{FAT}/source.toml"), self.fill(text));
        device.write(&format!("{FAT}/source-ca.pem"), self.ca());
    }

    pub fn give_bootstrap(&self, device: &mut Device) {
        let made = self.pki.issue_bootstrap("maker-1", &DeviceOptions::default()).expect("a certificate");
        device.write(&format!("{FAT}/bootstrap-certificate.pem"), &made.chain_pem);
        device.give_secret("bootstrap-key.pem", &made.key_pem);
    }

    pub fn give_password(&self, device: &mut Device) {
        device.write(&format!("{FAT}/bootstrap-username"), "device\r\n");
        device.give_secret("bootstrap-password", self.pki.est_password());
    }

    pub fn give_token(&self, device: &mut Device) {
        device.give_secret("bootstrap-token", self.pki.files_token());
    }

    pub fn give_application(&self, device: &mut Device) {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).expect(name);
        device.write(&format!("{FAT}/bootstrap-certificate.pem"), read("application.pem"));
        device.give_secret("bootstrap-key.pem", &read("application.key"));
    }

    /// What a service was asked so far.
    pub fn requests(&self, service: Service) -> Vec<String> {
        let entries = self.simulation.entries();
        entries.into_iter().filter(|entry| entry.service == service).map(|entry| entry.what).collect()
    }

    /// When a service was asked, seconds.
    pub fn times(&self, service: Service) -> Vec<f64> {
        let entries = self.simulation.entries();
        entries.into_iter().filter(|entry| entry.service == service).map(|entry| entry.seconds).collect()
    }

    /// Waits until a service was asked so often.
    pub fn wait_for(&self, service: Service, count: usize) {
        let started = Instant::now();
        while self.requests(service).len() < count {
            assert!(started.elapsed() < Duration::from_secs(60), "{service} is not asked");
            sleep(Duration::from_millis(10));
        }
    }
}

/// The device has a certificate of its own that the enrolment group's authorities issued, and its key; it got to the end.
pub fn assert_sound(device: &Device, id: &str, world: &World) {
    let story = device.story();
    assert!(device.exists("var/lib/edgepress/provisioned"), "{story}");
    assert_eq!(device.state()["state"], "done", "{story}");
    assert_eq!(device.state()["registration_id"], id, "{story}");
    let openssl = |arguments: &[&str], path: &Path| {
        let output = Command::new("openssl").args(arguments).arg(path).output().expect("openssl");
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}\n{story}");
        String::from_utf8(output.stdout).expect("text")
    };
    let (certificate, key) = (device.path(CERTIFICATE), device.path(KEY));
    let subject = openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in"], &certificate);
    assert_eq!(subject, format!("subject=CN={id}\n"));
    let public = openssl(&["x509", "-noout", "-pubkey", "-in"], &certificate);
    assert_eq!(public, openssl(&["pkey", "-pubout", "-in"], &key), "{story}");
    let root = world.folder.path().join("pki/enrolment-root.pem");
    let root = root.to_str().expect("UTF-8");
    let chain = certificate.to_str().expect("UTF-8");
    openssl(&["verify", "-CAfile", root, "-untrusted", chain], &certificate);
    assert_eq!(
        device.read(CERTIFICATE).matches("BEGIN CERTIFICATE").count(),
        2,
        "leaf and intermediate, no root"
    );
}

/// What is wrong with a config.toml, apart from warnings.
pub fn lint_errors(text: &str) -> Vec<String> {
    let found = lint(text, None).into_iter().filter(|finding| finding.severity == Severity::Error);
    found.map(|finding| finding.to_string()).collect()
}
