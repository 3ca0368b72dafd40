//! A running `edgepress sim`, for tests that drive it from outside.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use edgepress::sim::Service;
use serde_json::Value;
use tempfile::TempDir;

/// The only ID scope that it knows.
pub const SCOPE: &str = "0ne00000001";

/// A running `edgepress sim --json`; killed when dropped.
pub struct Sim {
    pub child: Child,
    pub stdout: BufReader<ChildStdout>,
    pub listening: Value,
    pub folder: TempDir,
}

impl Sim {
    /// At any free ports.
    pub fn start(more: &[&str]) -> Self {
        let ports = Service::ALL.map(|service| format!("--port={service}=0"));
        let more: Vec<&str> = ports.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Self::launch(&more)
    }

    /// With exactly these arguments.
    pub fn launch(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut child = Command::new(cargo_bin("edgepress"))
            .args(["--json", "sim", "--id-scope", SCOPE, "--dir"])
            .arg(folder.path().join("pki"))
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting edgepress");
        let stdout = BufReader::new(child.stdout.take().expect("standard output"));
        let mut sim = Self { child, stdout, listening: Value::Null, folder };
        sim.listening = sim.line();
        assert_eq!(sim.listening["event"], "listening");
        sim
    }

    /// The next line of the log.
    pub fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("reading standard output");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    pub fn address(&self, service: &str) -> SocketAddr {
        self.listening[service].as_str().expect("address").parse().expect("address")
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
