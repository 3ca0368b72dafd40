//! Downloads into the store: parallel, resumed, checked while they stream.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use url::Url;

use super::net::{Client, shown};
use super::{NewBlob, Store};
use crate::error::{Problem, problem};
use crate::event::{Event, Sink};
use crate::units::Digest;

/// Connections at once.
const CONNECTIONS: usize = 8;
/// How often a file is tried again after failures in a row that brought no byte.
const RETRIES: u32 = 4;
/// The wait before the first new attempt; it doubles each time.
const BACKOFF: Duration = Duration::from_millis(400);
const BUFFER: usize = 1 << 16;
/// Progress is reported in steps of this many bytes.
const REPORT_EVERY: u64 = 1 << 20;

/// One file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What messages call it, for example "bash 5.2-1".
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// Its size in bytes, where it is known.
    pub size: Option<u64>,
    /// Its digest.
    pub sha256: Digest,
    /// What to do when it is not there, or is another file than expected.
    pub hint: String,
}

/// How one attempt ended without the file.
enum Failed {
    /// Worth another attempt: the network, or a server in trouble.
    Passing(Error),
    /// The server has no such file.
    Missing(u16),
    /// What came is not what was expected.
    Wrong(String),
    /// No attempt will help.
    Final(Error),
}

/// Fetches whatever of `wanted` the store does not have. Nothing is asked of the network when it has all.
///
/// # Errors
/// Names every file that is gone; or the first that cannot be fetched, or is not what was expected twice in a row.
pub fn fetch_all(
    client: &Client,
    store: &Store,
    wanted: Vec<Wanted>,
    step: &str,
    sink: &dyn Sink,
) -> Result<()> {
    // The largest first: the last one to end is then a small one.
    let mut wanted = wanted;
    wanted.sort_by_key(|file| std::cmp::Reverse(file.size));
    let job = Job {
        client,
        store,
        sink,
        step,
        queue: Mutex::new(wanted.into()),
        gone: Mutex::default(),
        broken: Mutex::default(),
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| job.work());
        }
    });
    job.outcome()
}

struct Job<'a> {
    client: &'a Client,
    store: &'a Store,
    sink: &'a dyn Sink,
    step: &'a str,
    queue: Mutex<VecDeque<Wanted>>,
    gone: Mutex<Vec<(Wanted, u16)>>,
    broken: Mutex<Option<Error>>,
    stop: AtomicBool,
    done: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job<'_> {
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(file) = locked(&self.queue).pop_front() else { return };
            match self.fetch(&file) {
                Ok(()) => {}
                Err(Failed::Missing(status)) => locked(&self.gone).push((file, status)),
                Err(Failed::Passing(error) | Failed::Final(error)) => {
                    self.stop.store(true, Ordering::Relaxed);
                    locked(&self.broken).get_or_insert(error);
                }
                Err(Failed::Wrong(what)) => {
                    self.stop.store(true, Ordering::Relaxed);
                    let error =
                        Problem::work(format!("{what}, twice in a row; it is refused")).hint(&file.hint);
                    locked(&self.broken).get_or_insert(error.into());
                }
            }
        }
    }

    fn outcome(self) -> Result<()> {
        if let Some(error) = locked(&self.broken).take() {
            return Err(error);
        }
        let mut gone = std::mem::take(&mut *locked(&self.gone));
        gone.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        let Some((first, _)) = gone.first() else { return Ok(()) };
        let lines: Vec<String> = gone
            .iter()
            .map(|(file, status)| format!("  {} (HTTP {status}: {})", file.name, shown(&file.url)))
            .collect();
        let message = format!("the archive no longer has what the lock names:\n{}", lines.join("\n"));
        Err(Problem::work(message).hint(&first.hint).into())
    }

    /// One file, from its first attempt to the store. A wrong one is fetched once more: a proxy or mirror may have
    /// served half an update.
    fn fetch(&self, file: &Wanted) -> Result<(), Failed> {
        match self.fetch_once(file) {
            Err(Failed::Wrong(what)) => {
                self.sink.warn(format!("{what}; fetching it again"));
                self.fetch_once(file)
            }
            other => other,
        }
    }

    fn fetch_once(&self, file: &Wanted) -> Result<(), Failed> {
        let mut blob = self.store.new_blob().map_err(Failed::Final)?;
        let mut failures = 0;
        loop {
            let before = blob.size();
            match self.attempt(file, &mut blob) {
                Ok(()) => return self.finish(file, blob),
                Err(Failed::Passing(error)) => {
                    failures = if blob.size() > before { 0 } else { failures + 1 };
                    if failures > RETRIES || self.stop.load(Ordering::Relaxed) {
                        return Err(Failed::Passing(unreachable(file, &error)));
                    }
                    std::thread::sleep(BACKOFF * 2u32.pow(failures));
                }
                Err(other) => {
                    self.count(0, blob.size());
                    return Err(other);
                }
            }
        }
    }

    /// Brings what is still missing of the blob.
    fn attempt(&self, file: &Wanted, blob: &mut NewBlob<'_>) -> Result<(), Failed> {
        if file.url.scheme() == "file" {
            return self.copy_local(file, blob);
        }
        let from = blob.size();
        let answer = self.client.get(&file.url, from).map_err(|error| Failed::Passing(error.into()))?;
        match answer.status().as_u16() {
            206 if from > 0 && resumes_at(&answer, from) => {}
            200 => self.restart(blob)?,
            416 | 206 => {
                self.restart(blob)?;
                return Err(Failed::Passing(anyhow!("the server cannot resume")));
            }
            status @ (404 | 410) => return Err(Failed::Missing(status)),
            status @ (408 | 425 | 429 | 500..=599) => {
                return Err(Failed::Passing(anyhow!("the server answers {status}")));
            }
            status => {
                let message =
                    format!("{} cannot be fetched: {} answers {status}", file.name, shown(&file.url));
                return Err(Failed::Final(Problem::work(message).into()));
            }
        }
        self.copy(file, answer.into_body().into_reader(), blob)
    }

    fn copy_local(&self, file: &Wanted, blob: &mut NewBlob<'_>) -> Result<(), Failed> {
        let path = file.url.to_file_path().map_err(|()| Failed::Missing(404))?;
        let opened = File::open(&path).map_err(|_| Failed::Missing(404))?;
        self.restart(blob)?;
        self.copy(file, opened, blob)
    }

    fn copy(&self, file: &Wanted, mut reader: impl Read, blob: &mut NewBlob<'_>) -> Result<(), Failed> {
        let mut buffer = vec![0; BUFFER];
        while !self.stop.load(Ordering::Relaxed) {
            let count = reader.read(&mut buffer).map_err(|error| Failed::Passing(error.into()))?;
            if count == 0 {
                return match file.size.filter(|size| blob.size() < *size) {
                    Some(size) => Err(Failed::Wrong(format!(
                        "{} from {} is cut short: {} of {size} bytes",
                        file.name,
                        shown(&file.url),
                        blob.size()
                    ))),
                    None => Ok(()),
                };
            }
            blob.write(&buffer[..count]).map_err(Failed::Final)?;
            self.count(count as u64, 0);
            if file.size.is_some_and(|size| blob.size() > size) {
                return Err(Failed::Wrong(format!(
                    "{} from {} is larger than the {} bytes expected",
                    file.name,
                    shown(&file.url),
                    file.size.unwrap_or_default()
                )));
            }
        }
        Err(Failed::Final(anyhow!("{} was not fetched to its end", file.name)))
    }

    fn restart(&self, blob: &mut NewBlob<'_>) -> Result<(), Failed> {
        self.count(0, blob.size());
        blob.restart().map_err(Failed::Final)
    }

    fn finish(&self, file: &Wanted, blob: NewBlob<'_>) -> Result<(), Failed> {
        let (digest, size) = (blob.digest(), blob.size());
        if digest != file.sha256 {
            self.count(0, size);
            return Err(Failed::Wrong(format!(
                "{} from {} has SHA-256 {digest}, expected {}",
                file.name,
                shown(&file.url),
                file.sha256
            )));
        }
        blob.finish(None).map(drop).map_err(Failed::Final)
    }

    /// Moves the progress, and reports it now and then.
    fn count(&self, more: u64, less: u64) {
        let before = self.done.fetch_add(more, Ordering::Relaxed);
        let after = (before + more).saturating_sub(less);
        if less > 0 {
            self.done.fetch_sub(less, Ordering::Relaxed);
        }
        if less > 0 || before / REPORT_EVERY != after / REPORT_EVERY {
            self.sink.emit(Event::Progress {
                step: self.step.to_owned(),
                done: after,
                message: String::new(),
            });
        }
    }
}

/// Does the answer begin at the byte that was asked for?
fn resumes_at(answer: &super::net::Answer, from: u64) -> bool {
    let range =
        answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()) == Some(from.to_string().as_str())
}

fn unreachable(file: &Wanted, error: &Error) -> Error {
    if problem(error).is_some() {
        return anyhow!("{error:#}");
    }
    let host = file.url.host_str().unwrap_or_default();
    let hint = match error.downcast_ref() {
        Some(ureq::Error::ConnectProxyFailed(_)) => {
            format!("the proxy refuses to connect to {host}: let it, or name an https mirror with --mirror")
        }
        _ => format!(
            "is {host} reachable? A proxy goes into http_proxy or https_proxy, a mirror into --mirror"
        ),
    };
    Problem::work(format!("{} cannot be fetched from {}: {error:#}", file.name, shown(&file.url)))
        .hint(hint)
        .into()
}
