//! Downloads into the store: parallel, resumed, checked while they stream.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use url::Url;

use super::net::{Answer, Client, retry_after, shown};
use super::pace::{LARGEST, Pace, Paced};
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
pub(crate) struct Wanted {
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

/// Who asks for files: plainly for those of archives; with tokens for those of registries.
pub(crate) trait Transport: Sync {
    /// Asks for a file from byte `from` on.
    ///
    /// # Errors
    /// When there is no answer, or no attempt will bring one.
    fn ask(&self, file: &Wanted, from: u64) -> Result<Answer, Refusal>;

    /// Files at once.
    fn connections(&self) -> usize {
        CONNECTIONS
    }

    /// What a message says of files that are not there.
    fn gone(&self) -> &'static str {
        "the archive no longer has what the lock names"
    }
}

/// Why there is no answer.
pub(crate) enum Refusal {
    /// The network, or how the server answers.
    Http(ureq::Error),
    /// The server will not give the file.
    Final(Error),
}

impl Transport for Client {
    fn ask(&self, file: &Wanted, from: u64) -> Result<Answer, Refusal> {
        self.get(&file.url, from).map_err(Refusal::Http)
    }
}

/// How one attempt ended without the file.
enum Failed {
    /// Worth another attempt: the network, or a server in trouble.
    Passing(Error),
    /// The same, and the server says for how long it wants to be left alone.
    Busy(Error, Duration),
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
pub(crate) fn fetch_all(
    from: &dyn Transport,
    store: &Store,
    wanted: Vec<Wanted>,
    step: &str,
    sink: &dyn Sink,
) -> Result<()> {
    Job::new(from, store, wanted, step, sink).run()
}

struct Job<'a> {
    source: &'a dyn Transport,
    store: &'a Store,
    sink: &'a dyn Sink,
    step: &'a str,
    queue: Mutex<VecDeque<Wanted>>,
    gone: Mutex<Vec<(Wanted, u16)>>,
    broken: Mutex<Option<Error>>,
    stop: AtomicBool,
    done: AtomicU64,
    pace: Pace,
    /// Most bytes of a file whose size is not stated.
    largest: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Job<'a> {
    fn new(
        source: &'a dyn Transport,
        store: &'a Store,
        mut wanted: Vec<Wanted>,
        step: &'a str,
        sink: &'a dyn Sink,
    ) -> Self {
        // The largest first: the last one to end is then a small one.
        wanted.sort_by_key(|file| std::cmp::Reverse(file.size));
        Self {
            source,
            store,
            sink,
            step,
            queue: Mutex::new(wanted.into()),
            gone: Mutex::default(),
            broken: Mutex::default(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            pace: Pace::default(),
            largest: LARGEST,
        }
    }

    fn run(self) -> Result<()> {
        std::thread::scope(|scope| {
            for _ in 0..self.source.connections() {
                scope.spawn(|| self.work());
            }
        });
        self.outcome()
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(file) = locked(&self.queue).pop_front() else { return };
            match self.fetch(&file) {
                Ok(()) => {}
                Err(Failed::Missing(status)) => locked(&self.gone).push((file, status)),
                Err(Failed::Passing(error) | Failed::Busy(error, _) | Failed::Final(error)) => {
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
        let message = format!("{}:\n{}", self.source.gone(), lines.join("\n"));
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
        let (start, mut failures) = (Instant::now(), 0);
        loop {
            let before = blob.size();
            let (error, wait) = match self.attempt(file, &mut blob) {
                Ok(()) => return self.finish(file, blob),
                Err(Failed::Passing(error)) => (error, Duration::ZERO),
                Err(Failed::Busy(error, wait)) => (error, wait),
                Err(other) => {
                    self.count(0, blob.size());
                    return Err(other);
                }
            };
            failures = if blob.size() >= before + self.pace.least { 0 } else { failures + 1 };
            if self.pace.is_over(start, blob.size()) {
                return Err(Failed::Final(endless(file, start, blob.size())));
            }
            if failures > RETRIES || self.stop.load(Ordering::Relaxed) {
                return Err(Failed::Passing(unreachable(file, &error)));
            }
            std::thread::sleep(wait.max(BACKOFF * 2u32.pow(failures)));
        }
    }

    /// Brings what is still missing of the blob.
    fn attempt(&self, file: &Wanted, blob: &mut NewBlob<'_>) -> Result<(), Failed> {
        if file.url.scheme() == "file" {
            return self.copy_local(file, blob);
        }
        let from = blob.size();
        let answer = self.source.ask(file, from).map_err(|refusal| match refusal {
            Refusal::Http(error) if is_misleading(&error) => Failed::Final(misled(file, &error)),
            Refusal::Http(error) => Failed::Passing(error.into()),
            Refusal::Final(error) => Failed::Final(error),
        })?;
        match answer.status().as_u16() {
            206 if from > 0 && resumes_at(&answer, from) => {}
            200 => self.restart(blob)?,
            416 | 206 => {
                self.restart(blob)?;
                return Err(Failed::Passing(anyhow!("the server cannot resume")));
            }
            status @ (404 | 410) => return Err(Failed::Missing(status)),
            status @ (408 | 425 | 429 | 500..=599) => {
                let wait = retry_after(&answer).unwrap_or_default();
                return Err(Failed::Busy(anyhow!("the server answers {status}"), wait));
            }
            status => {
                let message =
                    format!("{} cannot be fetched: {} answers {status}", file.name, shown(&file.url));
                return Err(Failed::Final(Problem::work(message).into()));
            }
        }
        self.copy(file, Paced::new(answer.into_body().into_reader(), self.pace), blob)
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
            self.is_too_large(file, blob.size())?;
        }
        Err(Failed::Final(anyhow!("{} was not fetched to its end", file.name)))
    }

    /// More than was stated is another file; more than anybody needs is the end.
    fn is_too_large(&self, file: &Wanted, size: u64) -> Result<(), Failed> {
        let (name, url) = (&file.name, shown(&file.url));
        match file.size {
            Some(expected) if size > expected => {
                Err(Failed::Wrong(format!("{name} from {url} is larger than the {expected} bytes expected")))
            }
            None if size > self.largest => {
                let message = format!("{name} from {url} is larger than {} MiB", self.largest >> 20);
                Err(Failed::Final(Problem::work(message).hint(&file.hint).into()))
            }
            _ => Ok(()),
        }
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
fn resumes_at(answer: &Answer, from: u64) -> bool {
    let range =
        answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()) == Some(from.to_string().as_str())
}

fn endless(file: &Wanted, start: Instant, size: u64) -> Error {
    let (name, url, seconds) = (&file.name, shown(&file.url), start.elapsed().as_secs());
    Problem::work(format!("{name} from {url} takes too long: {size} bytes are there after {seconds} s"))
        .hint("try another mirror with --mirror, or a better connection")
        .into()
}

/// Does the server send us where we do not go? No further attempt helps.
pub(crate) fn is_misleading(error: &ureq::Error) -> bool {
    use ureq::Error::{BadUri, RequireHttpsOnly, TooManyRedirects};
    matches!(error, RequireHttpsOnly(_) | TooManyRedirects | BadUri(_))
}

fn misled(file: &Wanted, error: &ureq::Error) -> Error {
    let (name, url) = (&file.name, shown(&file.url));
    let why = match error {
        ureq::Error::RequireHttpsOnly(to) => format!("the server sends us on from https to {to}"),
        other => other.to_string(),
    };
    Problem::work(format!("{name} cannot be fetched from {url}: {why}"))
        .hint("name the address that it is really at")
        .into()
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

#[cfg(test)]
mod tests {
    use super::{Client, Digest, Duration, Job, Pace, Store, Wanted};
    use crate::event::Silent;
    use crate::store::net::{Settings, parse};
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    /// Answers every request by `answer`, until nobody reads; returns the address.
    fn server(answer: fn(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("has an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let head = BufReader::new(&stream).lines().map_while(Result::ok);
                    head.take_while(|line| !line.is_empty()).for_each(drop);
                    let _ = answer(&mut &stream);
                });
            }
        });
        format!("http://{address}/x.deb")
    }

    fn fetched(url: &str) -> String {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(Some(folder.path().into())).expect("opens");
        let (name, hint) = ("x.deb".into(), "check the entry".into());
        let wanted =
            Wanted { name, url: parse(url).expect("parses"), size: None, sha256: Digest::of("x"), hint };
        let client = Client::new(Settings::default());
        let mut job = Job::new(&client, &store, vec![wanted], "test", &Silent);
        let window = Duration::from_millis(100);
        job.pace = Pace { window, least: 1000, grace: Duration::from_millis(50), rate: u64::MAX };
        job.largest = 1 << 20;
        let error = job.run().expect_err("refused");
        assert_eq!(store.usage().expect("counts").blobs.count, 0);
        error.to_string()
    }

    #[test]
    fn a_server_that_drips_or_floods_comes_to_an_end() {
        let drip = server(|to| {
            to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
            loop {
                to.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let error = fetched(&drip);
        assert!(error.contains("x.deb from http://127.0.0.1") && error.contains("takes too long"), "{error}");
        let flood = server(|to| {
            to.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                to.write_all(&[0; 65536])?;
            }
        });
        let error = fetched(&flood);
        assert!(error.contains("is larger than 1 MiB"), "{error}");
    }

    #[test]
    fn redirects_come_to_an_end_and_never_to_a_file() {
        for (answer, expected) in [
            (
                server(|to| {
                    to.write_all(b"HTTP/1.1 302 Found\r\nLocation: /x.deb\r\nContent-Length: 0\r\n\r\n")
                }),
                "redirects",
            ),
            (
                server(|to| {
                    to.write_all(
                        b"HTTP/1.1 301 Moved\r\nLocation: file:///etc/hostname\r\nContent-Length: 0\r\n\r\n",
                    )
                }),
                "file:///etc/hostname",
            ),
        ] {
            let error = fetched(&answer);
            assert!(error.contains("x.deb cannot be fetched") && error.contains(expected), "{error}");
        }
    }
}
