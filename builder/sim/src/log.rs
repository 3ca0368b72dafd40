//! The log: one entry for each request, kept in memory, sent to subscribers and written as JSON Lines.
//!
//! An entry holds a request's path, never its query, headers or body: that is where tokens and keys are.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Service;

/// Entries kept in memory; older ones are dropped (the file has them all).
const KEPT: usize = 100_000;

/// Longest `what`, `client` or `note`, in characters: all three hold text that a peer chose.
const LONGEST: usize = 400;

/// A request that means progress, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// DPS accepted a registration (202 to `register`).
    DpsRegistered,
    /// DPS told the device its hub (200 to `operations/…`).
    DpsAssigned,
    /// The hub answered a GET or PUT of `$edgeAgent` with 200.
    AgentIdentity,
    /// A device came to its hub's messaging: TLS with the hub's name, then MQTT's CONNECT of an assigned device (8883), AMQP's
    /// header (5671), or the request for a web socket (443).
    HubMessaging,
    /// EST issued a certificate (200 to `simpleenroll`).
    EstEnrolled,
    /// The key vault gave away a secret (200 to `secrets/…`).
    SecretRead,
    /// The company's server gave away a certificate and its key.
    IdentityServed,
    /// The wireserver was told that the VM is ready (`Health`), by cloud-init.
    VmReady,
    /// The same, by the VM's agent.
    AgentReady,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Seconds since the simulation started, by the monotonic clock.
    pub seconds: f64,
    /// Wall clock of the host, RFC 3339, UTC.
    pub time: String,
    /// Who was asked.
    pub service: Service,
    /// Who asked.
    pub peer: SocketAddr,
    /// Method and path; `A <name>` for DNS; `hub-messaging …` for the messaging ports.
    pub what: String,
    /// Common name of the client certificate that was shown, verified or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// HTTP status, or DNS response code; none where nothing was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Progress that the request means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// Why the answer was what it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} {:<8} {} {}", self.seconds, self.service, self.peer, self.what)?;
        match self.status {
            Some(status) => write!(f, " -> {status}")?,
            None => f.write_str(" -> -")?,
        }
        if let Some(client) = &self.client {
            write!(f, " [{client}]")?;
        }
        if self.note.is_empty() { Ok(()) } else { write!(f, " ({})", self.note) }
    }
}

/// What a service says of one request; the log adds the times.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub what: String,
    pub client: Option<String>,
    pub status: Option<u16>,
    pub mark: Option<Mark>,
    pub note: String,
}

/// The log of one simulation.
pub(super) struct Log {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: VecDeque<LogEntry>,
    subscribers: Vec<Sender<LogEntry>>,
    file: Option<File>,
    failure: Option<io::Error>,
}

impl Log {
    /// An empty log, with a new file of JSON Lines where a path is given.
    pub(super) fn create(file: Option<&Path>) -> Result<Self> {
        let file = file
            .map(|path| File::create(path).with_context(|| format!("creating the log {}", path.display())))
            .transpose()?;
        Ok(Self { started: Instant::now(), inner: Mutex::new(Inner { file, ..Inner::default() }) })
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn entries(&self) -> Vec<LogEntry> {
        self.lock().entries.iter().cloned().collect()
    }

    pub(super) fn subscribe(&self) -> Receiver<LogEntry> {
        let (sender, receiver) = channel();
        self.lock().subscribers.push(sender);
        receiver
    }

    /// The first failure to write the file, once.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }

    pub(super) fn add(&self, service: Service, peer: SocketAddr, line: &Line) {
        // Times are taken under the lock, so that entries stand in the order of their times.
        let mut inner = self.lock();
        let entry = LogEntry {
            seconds: self.started.elapsed().as_secs_f64(),
            time: rfc3339(OffsetDateTime::now_utc()),
            service,
            peer,
            what: printable(&line.what),
            client: line.client.as_deref().map(printable),
            status: line.status,
            mark: line.mark,
            note: printable(&line.note),
        };
        inner.write(&entry);
        inner.subscribers.retain(|subscriber| subscriber.send(entry.clone()).is_ok());
        if inner.entries.len() == KEPT {
            inner.entries.pop_front();
        }
        inner.entries.push_back(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, entry: &LogEntry) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(entry).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            // A full disk must not stop the services; the failure is told when the simulation ends.
            self.file = None;
            self.failure = Some(error);
        }
    }
}

/// Text from outside, fit for a terminal: control characters replaced, length bounded.
fn printable(text: &str) -> String {
    text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// RFC 3339 with microseconds, UTC.
pub(super) fn rfc3339(time: OffsetDateTime) -> String {
    let micros = time.replace_nanosecond(time.microsecond() * 1000).unwrap_or(time);
    micros.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, Line, Log, LogEntry, Mark};
    use crate::Service;
    use std::net::SocketAddr;

    #[test]
    fn entries_reach_memory_subscribers_and_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log.jsonl");
        let log = Log::create(Some(&path)).expect("log");
        let receiver = log.subscribe();
        let peer: SocketAddr = "127.0.0.1:5".parse().expect("address");
        let line = Line {
            what: "PUT /x".into(),
            client: Some("dev\u{1b}[2J".into()),
            status: Some(202),
            mark: Some(Mark::DpsRegistered),
            note: "n".repeat(LONGEST + 5),
        };
        log.add(Service::Dps, peer, &line);
        log.add(Service::Ntp, peer, &Line::default());

        let entries = log.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].client.as_deref(), Some("dev\u{fffd}[2J"));
        assert_eq!(entries[0].note.len(), LONGEST);
        assert!(entries[0].seconds <= entries[1].seconds);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), entries);
        let text = std::fs::read_to_string(&path).expect("log file");
        let read: Vec<LogEntry> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(read, entries);
        assert!(log.failure().is_none());
    }

    #[test]
    fn a_full_disk_is_remembered() {
        let log = Log::create(Some("/dev/full".as_ref())).expect("log");
        log.add(Service::Dns, "127.0.0.1:5".parse().expect("address"), &Line::default());
        assert!(log.failure().is_some());
        assert_eq!(log.entries().len(), 1);
    }
}
