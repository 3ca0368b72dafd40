//! The part of a test that runs in the sandbox: the simulated world, the machine, and who watches both.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::console::Lines;
use super::machine::{Boot, Start};
use super::milestone::Milestone;
use super::qemu::Qemu;
use super::tracker::Tracker;
use super::world::{self, Setting, World};
use crate::event::{Event, Sink, Unit};
use crate::sim::log::{Entry, Mark};

/// The step's name in events.
const STEP: &str = "boot";

/// How long the guest may take to shut down once everything is seen: a container that ignores its signal takes ten
/// seconds of it.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// How many messages of console and simulators may wait.
const QUEUE: usize = 1024;

/// Most bytes of console that are kept.
const CONSOLE_MAX: u64 = 64 << 20;

/// A test as the sandbox is given it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inside {
    /// The machine.
    pub boot: Boot,
    /// The world around it.
    pub setting: Setting,
    /// Seconds from power-on to the last milestone.
    pub timeout: f64,
    /// Where console.log is written.
    pub console: PathBuf,
}

/// What was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Milestone → seconds since power-on.
    pub seconds: BTreeMap<Milestone, f64>,
    /// Why not all of them came.
    pub failure: Option<String>,
    /// The console's last lines.
    pub tail: Vec<String>,
    /// The registration id that first boot reported on the console.
    pub registration_id: Option<String>,
    /// Did the guest shut down when asked? Not asked after a failure.
    pub shut_down: Option<bool>,
    /// Everything that the simulators were asked.
    pub entries: Vec<Entry>,
}

impl Run {
    /// A machine that was never switched on.
    pub fn not_started(reason: String) -> Self {
        Self {
            seconds: BTreeMap::new(),
            failure: Some(reason),
            tail: Vec::new(),
            registration_id: None,
            shut_down: None,
            entries: Vec::new(),
        }
    }
}

enum Seen {
    Console(Vec<u8>, Instant),
    Service(Box<Entry>),
}

/// Runs the test; called as pid 1 of a sandbox.
///
/// # Errors
/// When world or machine cannot be started. A machine that fails is a [`Run`] with its reason.
pub fn run(inside: &Inside, sink: &dyn Sink) -> Result<Run> {
    let world = World::start(&inside.setting)?;
    let (sender, receiver) = sync_channel(QUEUE);
    forward(world.subscribe(), sender.clone());
    let log =
        File::create(&inside.console).with_context(|| format!("creating {}", inside.console.display()))?;
    let total = Some(Milestone::ALL.len() as u64);
    sink.emit(Event::Started { step: STEP.into(), total, unit: Unit::Items });
    let mut qemu = Qemu::start(&inside.boot, sender, Seen::Console)?;
    let mut watch = Watch {
        tracker: Tracker::default(),
        lines: Lines::default(),
        log: Log { file: BufWriter::new(log), left: CONSOLE_MAX },
        power_on: qemu.started(),
        world_began: world.started(),
        sink,
    };
    if let Start::Raspi3b(_) = inside.boot.start {
        // The firmware's work was done before power-on.
        watch.reach(Milestone::Firmware, 0.0);
    }
    watch.until_decided(&receiver, inside, &mut qemu)?;
    let shut_down = match watch.tracker.failure() {
        Some(_) => None,
        None => Some(watch.while_shutting_down(receiver, &mut qemu)?),
    };
    drop(qemu);
    watch.end()?;
    let tracker = watch.tracker;
    let outcome = tracker.failure().map_or_else(|| "provisioned".to_owned(), |_| "failed".to_owned());
    let seconds = watch.power_on.elapsed().as_secs_f64();
    sink.emit(Event::Finished { step: STEP.into(), seconds, outcome });
    Ok(Run {
        seconds: tracker.reached().clone(),
        failure: tracker.failure().map(str::to_owned),
        tail: tracker.tail(),
        registration_id: tracker.registration_id().map(str::to_owned),
        shut_down,
        entries: world.end()?,
    })
}

fn forward(entries: Receiver<Entry>, sender: SyncSender<Seen>) {
    std::thread::spawn(move || {
        for entry in entries {
            if sender.send(Seen::Service(Box::new(entry))).is_err() {
                break;
            }
        }
    });
}

/// Everything that watching needs.
struct Watch<'a> {
    tracker: Tracker,
    lines: Lines,
    log: Log,
    power_on: Instant,
    world_began: Instant,
    sink: &'a dyn Sink,
}

impl Watch<'_> {
    fn until_decided(&mut self, seen: &Receiver<Seen>, inside: &Inside, qemu: &mut Qemu) -> Result<()> {
        let timeout = inside.timeout;
        while !self.tracker.decided() {
            let left = timeout - self.power_on.elapsed().as_secs_f64();
            if left <= 0.0 {
                self.tracker.time_is_up(timeout);
                break;
            }
            match seen.recv_timeout(Duration::from_secs_f64(left)) {
                Ok(Seen::Console(bytes, _)) if bytes.is_empty() => {
                    let how = qemu.obituary();
                    self.end()?;
                    self.tracker.fail(how);
                }
                Ok(Seen::Console(bytes, at)) => {
                    let reached = self.console(&bytes, at)?;
                    for device in
                        reached.into_iter().filter_map(|milestone| inside.boot.plugged_in_at(milestone))
                    {
                        qemu.plug(&device).context("plugging a device into the machine")?;
                    }
                }
                Ok(Seen::Service(entry)) => self.service(&entry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.tracker.fail("nobody watches the machine any more");
                }
            }
        }
        Ok(())
    }

    /// Keeps the console's last words, in which nothing is looked for any more.
    fn while_shutting_down(&mut self, seen: Receiver<Seen>, qemu: &mut Qemu) -> Result<bool> {
        let reader = std::thread::spawn(move || {
            let mut last = Vec::new();
            while let Ok(message) = seen.recv() {
                match message {
                    Seen::Console(bytes, _) if bytes.is_empty() => break,
                    Seen::Console(bytes, at) => last.push((bytes, at)),
                    Seen::Service(_) => {}
                }
            }
            last
        });
        let off = qemu.power_off(SHUTDOWN);
        for (bytes, at) in reader.join().unwrap_or_default() {
            let at = self.since_power_on(at);
            for line in self.lines.push(&bytes) {
                self.log.line(at, &line)?;
            }
        }
        Ok(off)
    }

    /// Takes what came on the console; returns the milestones that it tells.
    fn console(&mut self, bytes: &[u8], at: Instant) -> Result<Vec<Milestone>> {
        let at = self.since_power_on(at);
        let mut reached = Vec::new();
        for line in self.lines.push(bytes) {
            self.log.line(at, &line)?;
            if let Some(milestone) = self.tracker.line(&line, at) {
                self.tell(milestone, at);
                reached.push(milestone);
            }
        }
        self.tracker.pending(&self.lines.pending());
        Ok(reached)
    }

    fn service(&mut self, entry: &Entry) {
        // The world is older than the machine.
        let at = entry.seconds - (self.power_on - self.world_began).as_secs_f64();
        if let Some(milestone) = entry.mark.and_then(milestone) {
            self.reach(milestone, at);
        }
        if let Some(reason) = world::refusal(entry) {
            self.tracker.fail(reason);
        }
    }

    fn reach(&mut self, milestone: Milestone, at: f64) {
        if self.tracker.reach(milestone, at) {
            self.tell(milestone, at);
        }
    }

    /// Writes the line that has begun and not ended.
    fn end(&mut self) -> Result<()> {
        let at = self.since_power_on(Instant::now());
        if let Some(line) = self.lines.end() {
            self.log.line(at, &line)?;
            self.tracker.line(&line, at);
        }
        self.log.file.flush().context("writing console.log")
    }

    fn tell(&self, milestone: Milestone, at: f64) {
        let done = self.tracker.reached().len() as u64;
        let message = format!("{at:.1} s: {}", milestone.meaning());
        self.sink.emit(Event::Progress { step: STEP.into(), done, message });
    }

    fn since_power_on(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.power_on).as_secs_f64()
    }
}

fn milestone(mark: Mark) -> Option<Milestone> {
    match mark {
        Mark::DpsRegistered => Some(Milestone::DpsRegistered),
        Mark::DpsAssigned => Some(Milestone::DpsAssigned),
        Mark::AgentIdentity => Some(Milestone::AgentIdentity),
        Mark::HubMessaging => Some(Milestone::AgentRunning),
        Mark::EstEnrolled | Mark::SecretRead | Mark::IdentityServed => None,
    }
}

/// console.log: seconds since power-on, then the line.
struct Log {
    file: BufWriter<File>,
    left: u64,
}

impl Log {
    fn line(&mut self, at: f64, line: &str) -> Result<()> {
        let text = format!("[{at:9.3}] {line}\n");
        let Some(left) = self.left.checked_sub(text.len() as u64) else { return Ok(()) };
        self.left = left;
        self.file.write_all(text.as_bytes()).context("writing console.log")
    }
}
