//! The part of a test that runs in the sandbox: the simulated world, the machine, and who watches both.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::azure::Awaited;
use super::console::Lines;
use super::fault_injection::{Moment, Planned};
use super::machine::{Boot, Start};
use super::milestone::Milestone;
use super::processor::{self, Processor};
use super::qemu::Qemu;
pub(crate) use super::run::{Cut, Run};
use super::tracker::Tracker;
use super::world::{self, Setting, World};
use crate::event::{Event, Sink, Unit};
use crate::sandbox::{Job, Users};
use crate::sim::log::{LogEntry, Mark};

/// The step's name in events, and that of the boot which ends with the power cut.
const STEP: &str = "boot";
const CUT_STEP: &str = "boot until the power cut";

/// How long the guest may take to shut down once everything is seen: a container that ignores its signal takes ten
/// seconds of it.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// Seconds that first boot's last words may come after everything else. Where the power was cut between first boot's last
/// mark on the disk and those words they never come, and the disk tells.
const LAST_WORDS: f64 = 60.0;

/// How long what a dead QEMU wrote may take to come out of its pipe.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// How many messages of console and simulators may wait.
const QUEUE: usize = 1024;

/// Most bytes of console that are kept.
const CONSOLE_MAX: u64 = 64 << 20;

/// A test as the sandbox is given it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Inside {
    /// The machine.
    pub boot: Boot,
    /// The world around it.
    pub setting: Setting,
    /// Seconds from power-on to the last milestone, of each boot.
    pub timeout: f64,
    /// The last milestone that is waited for.
    pub goal: Milestone,
    /// When the power is cut, after which the machine boots once more.
    pub cut: Option<Moment>,
    /// Seconds from power-on until the network's cable is plugged in.
    pub network_after: Option<f64>,
    /// Where console.log is written.
    pub console: PathBuf,
    /// Where the console of the boot before the power cut is written.
    pub console_before: PathBuf,
}

enum Seen {
    Console(Vec<u8>, Instant),
    Service(Box<LogEntry>),
}

impl Job for Inside {
    const NAME: &'static str = "prove";
    type Answer = Run;

    fn doing(&self) -> String {
        "booting the image".into()
    }

    fn users(&self) -> Users {
        Users::Own
    }

    fn execute(&self, sink: &dyn Sink) -> Result<Run> {
        run(self, sink)
    }
}

/// Runs the test; fails when world or machine cannot be started. A machine that fails is a [`Run`] with its reason.
fn run(inside: &Inside, sink: &dyn Sink) -> Result<Run> {
    let world = World::start(&inside.setting)?;
    for path in [&inside.console, &inside.console_before] {
        File::create(path).with_context(|| format!("creating {}", path.display()))?;
    }
    let (mut told, mut cut, mut next) = (None, None, Tracker::toward(inside.goal));
    if let Some(moment) = inside.cut {
        let (tracker, seconds) = boot_until_cut(inside, moment, &world, sink)?;
        let Some(seconds) = seconds else {
            let ended = inside.timeout.min(world.started().elapsed().as_secs_f64());
            return Ok(Run { ended, ..finish(&tracker, None, None, world.end()?) });
        };
        told = tracker.registration_id().map(str::to_owned);
        cut = Some(Cut { seconds, milestones: tracker.reached().clone() });
        next = tracker.next();
    }
    let before = processor::of_children()?;
    let mut end = boot(inside, next, cut.is_some(), &world, sink)?;
    let processor = Processor::new(processor::of_children()? - before, end.off);
    end.tracker.explain(&processor);
    let run = finish(&end.tracker, end.shut_down, cut, world.end()?);
    let registration_id = run.registration_id.or(told);
    Ok(Run { registration_id, ended: end.decided, processor: Some(processor), ..run })
}

fn finish(tracker: &Tracker, shut_down: Option<bool>, cut: Option<Cut>, entries: Vec<LogEntry>) -> Run {
    Run {
        seconds: tracker.reached().clone(),
        failure: tracker.failure().map(str::to_owned),
        tail: tracker.tail(),
        registration_id: tracker.registration_id().map(str::to_owned),
        shut_down,
        cut,
        entries,
        ended: 0.0,
        processor: None,
    }
}

/// How a boot ended.
struct End {
    tracker: Tracker,
    /// Did the guest shut down when asked?
    shut_down: Option<bool>,
    /// Seconds from power-on until it was decided what comes of it, and until QEMU had gone.
    decided: f64,
    off: f64,
}

/// Boots and takes the power away. Returns when that was; nothing, if the boot failed before.
fn boot_until_cut(
    inside: &Inside,
    moment: Moment,
    world: &World,
    sink: &dyn Sink,
) -> Result<(Tracker, Option<f64>)> {
    let (mut watch, mut qemu, seen) =
        Watch::start(inside, &inside.console_before, CUT_STEP, Tracker::toward(inside.goal), world, sink)?;
    let due = watch.until_cut(&seen, inside, &mut qemu, moment)?;
    let cut = due.then(|| watch.since_power_on(qemu.cut()));
    if due {
        watch.leftovers(&seen)?;
    }
    drop(qemu);
    watch.end()?;
    watch.finished(if due { "cut" } else { "failed" });
    Ok((watch.tracker, cut))
}

/// Boots until it is decided whether the device is provisioned; `again`: after a power cut.
fn boot(inside: &Inside, tracker: Tracker, again: bool, world: &World, sink: &dyn Sink) -> Result<End> {
    let (mut watch, mut qemu, seen) = Watch::start(inside, &inside.console, STEP, tracker, world, sink)?;
    watch.again = again;
    watch.until_decided(&seen, inside, &mut qemu)?;
    let decided = watch.now();
    let shut_down = match (watch.tracker.failure(), again) {
        (Some(_), _) => None,
        (None, false) => Some(watch.while_shutting_down(seen, &mut qemu)?),
        // The power goes once more: what was reached must be on the disk by now.
        (None, true) => {
            qemu.cut();
            watch.leftovers(&seen)?;
            None
        }
    };
    drop(qemu);
    watch.end()?;
    watch.finished(if watch.tracker.failure().is_none() { "provisioned" } else { "failed" });
    Ok(End { off: watch.now(), tracker: watch.tracker, shut_down, decided })
}

fn forward(entries: Receiver<LogEntry>, sender: SyncSender<Seen>) {
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
    step: &'static str,
    faults: &'a [Planned],
    /// When the network comes, if it has not.
    network: Option<f64>,
    /// The second boot: what the first one asked may still come in.
    again: bool,
    /// What the VM of a simulated Azure does besides.
    azure: Option<Awaited>,
}

impl<'a> Watch<'a> {
    /// Switches the machine on.
    fn start(
        inside: &'a Inside,
        log: &Path,
        step: &'static str,
        tracker: Tracker,
        world: &World,
        sink: &'a dyn Sink,
    ) -> Result<(Self, Qemu, Receiver<Seen>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        forward(world.subscribe(), sender.clone());
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let total = Some(Milestone::ALL.len() as u64);
        sink.emit(Event::Started { step: step.into(), total, unit: Unit::Items });
        let qemu = Qemu::start(&inside.boot, sender, Seen::Console)?;
        let mut watch = Self {
            tracker,
            lines: Lines::default(),
            log: Log { file: BufWriter::new(log), left: CONSOLE_MAX },
            power_on: qemu.started(),
            world_began: world.started(),
            sink,
            step,
            faults: &inside.setting.faults,
            network: inside.network_after,
            again: false,
            azure: inside.setting.azure.as_ref().map(|_| Awaited::default()),
        };
        if let Start::Raspi3b(_) = inside.boot.start {
            // The firmware's work was done before power-on.
            watch.reach(Milestone::Firmware, 0.0);
        }
        Ok((watch, qemu, receiver))
    }

    /// True when the moment has come, false when the boot failed before.
    fn until_cut(
        &mut self,
        seen: &Receiver<Seen>,
        inside: &Inside,
        qemu: &mut Qemu,
        moment: Moment,
    ) -> Result<bool> {
        loop {
            let due = match moment {
                Moment::At(seconds) => Some(seconds),
                Moment::After(milestone, seconds) => {
                    self.tracker.reached().get(&milestone).map(|reached| reached + seconds)
                }
            };
            if self.tracker.failure().is_some() {
                return Ok(false);
            }
            if due.is_some_and(|due| self.now() >= due) {
                return Ok(true);
            }
            if due.is_none() && self.now() >= inside.timeout {
                let limit = inside.timeout;
                self.tracker.fail(format!(
                    "the power was to be cut at {moment}, which did not come within {limit:.0} s"
                ));
                return Ok(false);
            }
            self.next(seen, inside, qemu, due.unwrap_or(inside.timeout))?;
        }
    }

    fn until_decided(&mut self, seen: &Receiver<Seen>, inside: &Inside, qemu: &mut Qemu) -> Result<()> {
        let timeout = inside.timeout;
        loop {
            // After a power cut the disk is looked at, and what first boot says last is what stands there last.
            let again = self.again && self.tracker.failure().is_none() && !self.tracker.through();
            let deadline = if !self.tracker.decided() || again {
                let silent = self.again && self.tracker.only_words_missing();
                let latest = self.tracker.reached().values().copied().fold(0.0, f64::max) + LAST_WORDS;
                if silent && self.now() >= latest {
                    return Ok(());
                }
                if !silent && self.now() >= timeout {
                    self.tracker.time_is_up(timeout);
                    return Ok(());
                }
                if silent { latest } else { timeout }
            } else {
                let Some(due) = self.awaits(timeout) else { return Ok(()) };
                due
            };
            self.next(seen, inside, qemu, deadline)?;
        }
    }

    /// Until when something is awaited besides, in seconds since power-on: what its platform is told, and what stands on
    /// the disk then. What is missing in the end the checks will tell.
    fn awaits(&self, timeout: f64) -> Option<f64> {
        let awaited = self.azure.as_ref().filter(|_| self.tracker.failure().is_none())?;
        let due = awaited.due().map_or(timeout, |due| due.min(timeout));
        (self.now() < due).then_some(due)
    }

    /// Takes the next message, waiting until `deadline` at most, in seconds since power-on.
    fn next(&mut self, seen: &Receiver<Seen>, inside: &Inside, qemu: &mut Qemu, deadline: f64) -> Result<()> {
        self.connect(qemu)?;
        let deadline = self.network.map_or(deadline, |network| network.min(deadline));
        let left = Duration::from_secs_f64((deadline - self.now()).max(0.0));
        match seen.recv_timeout(left) {
            Ok(Seen::Console(bytes, _)) if bytes.is_empty() => {
                let how = qemu.obituary();
                self.end()?;
                self.tracker.fail(how);
            }
            Ok(Seen::Console(bytes, at)) => {
                let reached = self.console(&bytes, at)?;
                for device in reached.into_iter().filter_map(|milestone| inside.boot.plugged_in_at(milestone))
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
        Ok(())
    }

    /// Plugs the network's cable in when it is time.
    fn connect(&mut self, qemu: &Qemu) -> Result<()> {
        if self.network.is_some_and(|due| self.now() >= due) {
            self.network = None;
            qemu.set_link(true).context("plugging the network's cable in")?;
            self.say(format!("{:.1} s: the network's cable is plugged in", self.now()));
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

    /// What came in before the power went and was not looked at yet.
    fn leftovers(&mut self, seen: &Receiver<Seen>) -> Result<()> {
        while let Ok(message) = seen.recv_timeout(LEFTOVERS) {
            match message {
                Seen::Console(bytes, _) if bytes.is_empty() => break,
                Seen::Console(bytes, at) => drop(self.console(&bytes, at)?),
                Seen::Service(entry) => self.service(&entry),
            }
        }
        Ok(())
    }

    /// Takes what came on the console; returns the milestones that it tells.
    fn console(&mut self, bytes: &[u8], at: Instant) -> Result<Vec<Milestone>> {
        let at = self.since_power_on(at);
        let mut reached = Vec::new();
        for line in self.lines.push(bytes) {
            self.log.line(at, &line)?;
            if let Some(awaited) = &mut self.azure {
                awaited.line(&line, at);
            }
            if let Some(milestone) = self.tracker.line(&line, at) {
                self.tell(milestone, at);
                reached.push(milestone);
            }
        }
        self.tracker.pending(&self.lines.pending());
        Ok(reached)
    }

    fn service(&mut self, entry: &LogEntry) {
        // What the boot before asked, and got its answer late.
        if self.again && !self.tracker.reached().contains_key(&Milestone::Kernel) {
            return;
        }
        if let Some(awaited) = &mut self.azure {
            awaited.entry(entry);
        }
        // The world is older than the machine.
        let at = entry.seconds - (self.power_on - self.world_began).as_secs_f64();
        if let Some(milestone) = entry.mark.and_then(milestone) {
            self.reach(milestone, at);
        }
        if let Some(reason) = world::refusal(entry, self.faults) {
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
        let at = self.now();
        if let Some(line) = self.lines.end() {
            self.log.line(at, &line)?;
            self.tracker.line(&line, at);
        }
        self.log.file.flush().context("writing console.log")
    }

    fn tell(&self, milestone: Milestone, at: f64) {
        self.say(format!("{at:.1} s: {}", milestone.meaning()));
    }

    fn say(&self, message: String) {
        let done = self.tracker.reached().len() as u64;
        self.sink.emit(Event::Progress { step: self.step.into(), done, message });
    }

    fn finished(&self, outcome: &str) {
        let (step, outcome) = (self.step.into(), outcome.into());
        self.sink.emit(Event::Finished { step, seconds: self.now(), outcome });
    }

    fn now(&self) -> f64 {
        self.power_on.elapsed().as_secs_f64()
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
        Mark::EstEnrolled | Mark::SecretRead | Mark::IdentityServed | Mark::VmReady | Mark::AgentReady => {
            None
        }
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
