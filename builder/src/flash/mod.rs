//! `edgepress flash`: one image onto many devices at once.
//!
//! ```text
//! source ─► engine ── reader ─► feed ─┬─► verification ─► Verified ───────┐
//!   │                                 ├─► writer /dev/sda ◄─ its patch    ▼
//!   └ image, block map, digests       └─► writer /dev/sdb ◄─ its patch   first MiB ─► ledger
//! target, hold, system: may each be written to?      identity: who gets which patch?
//! ```
//! The image is read and unpacked once. A device's first MiB stays blank until all else is written, synced, found to be
//! the image that it must be, and read back: a device that anything went wrong with boots nothing. One that goes away in the
//! moment of its first MiB may boot all the same: it keeps its identity, and the user is told.

pub(crate) mod beside;
pub(crate) mod block_device;
pub(crate) mod chunk;
pub(crate) mod claim;
pub(crate) mod engine;
#[cfg(test)]
mod faults;
pub(crate) mod feed;
pub(crate) mod identity;
pub(crate) mod ledger;
pub(crate) mod report;
pub(crate) mod size;
pub(crate) mod source;
pub(crate) mod system;
pub(crate) mod target;
pub(crate) mod unique;
pub(crate) mod verification;
pub(crate) mod worn;
pub(crate) mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::claim::{Begun, Held};
use self::engine::feed;
use self::identity::{Assigned, Identities, Named, assign};
use self::ledger::{Ledger, Record, Verdict};
use self::report::{FlashOutcome, Plan, Row};
use self::source::FlashImage;
use self::system::System;
use self::target::{Look, Rules, Target};
use self::verification::Verified;
use self::writer::{Watch, Work, WriteFailure};
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::interrupt;
use crate::stamp::patch::Patch;

/// Name of the ledger of a fleet's folder.
pub(crate) const LEDGER: &str = "ledger.jsonl";
/// After Ctrl-C, devices get so long to come to their end; one that does not answer is left as it is.
const FAREWELL: Duration = Duration::from_secs(20);
/// A bar moves once for so many bytes.
const STRIDE: u64 = 4 << 20;

/// What to flash.
#[derive(Debug, Clone)]
pub(crate) struct FlashOptions {
    /// The image.
    pub source: source::SourceOptions,
    /// The devices and files.
    pub targets: Vec<PathBuf>,
    /// What may be written to.
    pub rules: Rules,
    /// Who gets which identity.
    pub identities: Identities,
    /// Where what was done is written down; with a fleet, besides the ledger in its folder.
    pub ledger: Option<PathBuf>,
    /// Name of the station, for the ledger; the host's name if nothing is said.
    pub station: Option<String>,
    /// Read back what was written.
    pub verify: bool,
}

/// Flashes; `confirm` is shown what is about to happen, and nothing is written unless it returns true.
///
/// # Errors
/// When nothing could be begun. What went wrong with a device stands in the [`FlashOutcome`].
pub(crate) fn flash(
    options: &FlashOptions,
    confirm: &dyn Fn(&Plan) -> Result<bool>,
    sink: &dyn Sink,
) -> Result<FlashOutcome> {
    let source = FlashImage::open(&options.source).map_err(Problem::to_input)?;
    source.notes.iter().for_each(|note| sink.warn(format!("beside {}: {note}", source.path.display())));
    let system = System::default();
    let look = Look { size: source.size, rules: options.rules, system: &system };
    let held = Held::new(look, &options.targets, &source.path).map_err(Problem::to_input)?;
    let targets = held.targets();
    let own = options.identities.ledger(&source.path)?;
    let ledger = Ledger::with_copy(own.as_deref(), options.ledger.as_deref(), sink);
    let ledger = ledger.map_err(Problem::to_input)?;
    let assigned = assign(&options.identities, &targets, &source, ledger.as_ref(), sink);
    let assigned = assigned.map_err(Problem::to_input)?;
    let plan = Plan::new(&source, &targets, &assigned, options.verify);
    if !confirm(&plan)? {
        return Err(Problem::input("nothing was written").into());
    }
    let run = Run {
        source: &source,
        targets: &targets,
        ledger: ledger.as_ref(),
        assigned: &assigned,
        station: station(options.station.as_deref()),
        verify: options.verify,
        sink,
    };
    Ok(run.go(&held.begin()?))
}

fn station(given: Option<&str>) -> String {
    let host = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    given.map_or_else(|| host().unwrap_or_default(), str::to_owned)
}

/// One run, everything about it settled.
struct Run<'a> {
    source: &'a FlashImage,
    targets: &'a [Target],
    ledger: Option<&'a Ledger>,
    assigned: &'a Assigned,
    station: String,
    verify: bool,
    sink: &'a dyn Sink,
}

/// Set when a run is over, for the thread that handles Ctrl-C to wait for.
type Over = Arc<(Mutex<bool>, Condvar)>;

impl Run<'_> {
    fn go(&self, disks: &[Begun]) -> FlashOutcome {
        let feed = Arc::new(feed(disks.len()));
        let over = Over::default();
        let guard = farewell(&feed, &over);
        let timer = Instant::now();
        let watches: Vec<Watcher<'_>> = (0..disks.len()).map(|slot| Watcher::new(self, slot)).collect();
        let targets: Vec<_> =
            disks.iter().zip(&watches).map(|(disk, watch)| self.target(disk, watch)).collect();
        let rows = Mutex::new(Vec::new());
        let done = |slot: usize, work: &Work, result: &engine::Result| {
            let row = watches[slot].done(*work, result);
            rows.lock().unwrap_or_else(PoisonError::into_inner).push((slot, row));
        };
        engine::write(self.source, &targets, self.verify, &feed, &done);
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|(slot, _)| *slot);
        if feed.stopped() {
            for (_, row) in &rows {
                self.sink.note(format!("{}: {}", row.target.path.display(), row.said()));
            }
        }
        *over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        over.1.notify_all();
        if interrupt::requested() {
            // The thread that handles it ends the program.
            std::thread::sleep(FAREWELL);
        }
        drop(guard);
        let seconds = timer.elapsed().as_secs_f64();
        FlashOutcome {
            image: self.source.path.clone(),
            size: self.source.size,
            seconds,
            ledger: self.ledger.map(|ledger| ledger.path().to_owned()),
            devices: rows.into_iter().map(|(_, row)| row).collect(),
        }
    }

    fn target<'a>(&'a self, begun: &'a Begun, watch: &'a Watcher<'a>) -> engine::Target<'a> {
        let size = self.size(watch.slot);
        let secrets = self.assigned.secrets(watch.slot);
        engine::Target { device: &begun.disk, size, patch: self.patch(watch.slot), secrets, watch }
    }

    /// Bytes of a target; a file without any becomes as long as the image.
    fn size(&self, slot: usize) -> u64 {
        let target = &self.targets[slot];
        target.size.max(if target.kind == target::TargetKind::File { self.source.size } else { 0 })
    }

    fn patch(&self, slot: usize) -> Option<&Patch> {
        self.assigned.patches.get(slot)?.as_ref()
    }

    fn identity(&self, slot: usize) -> Option<Named<'_>> {
        self.assigned.named(slot)
    }

    /// What the ledger gets.
    fn record(&self, slot: usize, verdict: Verdict, work: Work, verified: Option<&Verified>) -> Record {
        let target = &self.targets[slot];
        let identity = self.identity(slot);
        Record {
            verdict,
            registration_id: identity.map(|named| named.registration_id.to_owned()),
            golden_sha256: identity.and_then(|named| named.golden_sha256),
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            station: self.station.clone(),
            edgepress: env!("CARGO_PKG_VERSION").into(),
            target: target.path.to_string_lossy().into_owned(),
            model: target.model.clone(),
            serial: target.serial.clone(),
            size: self.size(slot),
            image: self.source.name(),
            file_sha256: verified.map(|verified| verified.file_sha256),
            image_sha256: verified.map(|verified| verified.raw_sha256),
            certificate_sha256: identity.and_then(|named| named.certificate_sha256),
            bytes_written: work.written,
            bytes_read_back: work.read,
            seconds_write: round(work.seconds_write),
            seconds_verify: round(work.seconds_verify),
            error: None,
            key: None,
            torn: false,
        }
    }
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn verdict(result: &engine::Result) -> Verdict {
    match result {
        Ok(_) => Verdict::Good,
        Err(WriteFailure { may_boot: true, .. }) => Verdict::Uncertain,
        Err(WriteFailure { interrupted: true, .. }) => Verdict::Interrupted,
        Err(_) => Verdict::Failed,
    }
}

/// On Ctrl-C: all devices stop, and the program waits until their lines are in the ledger.
fn farewell(feed: &Arc<feed::Feed>, over: &Over) -> interrupt::Guard {
    let (feed, over) = (feed.clone(), over.clone());
    interrupt::on_interrupt(move || {
        feed.stop();
        let waiting = over.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(over.1.wait_timeout_while(waiting, FAREWELL, |over| !*over));
    })
}

/// Tells the sink and the ledger about one device.
struct Watcher<'a> {
    run: &'a Run<'a>,
    slot: usize,
    verifying: AtomicBool,
    begun: Instant,
    step: String,
}

impl<'a> Watcher<'a> {
    fn new(run: &'a Run<'a>, slot: usize) -> Self {
        let step = run.targets[slot].path.display().to_string();
        let watcher = Self { run, slot, verifying: AtomicBool::new(false), begun: Instant::now(), step };
        watcher.begin(false);
        watcher
    }

    /// Writing and reading back are a step each, with a bar of its own.
    fn step(&self, verify: bool) -> String {
        if verify { format!("{}, reading back", self.step) } else { self.step.clone() }
    }

    fn begin(&self, verify: bool) {
        let total = Some(self.run.source.size);
        self.run.sink.emit(Event::Started { step: self.step(verify), total, unit: Unit::Bytes });
    }

    fn done(&self, work: Work, result: &engine::Result) -> Row {
        let verified = result.as_ref().ok().map(AsRef::as_ref);
        let mut record = self.run.record(self.slot, verdict(result), work, verified);
        record.error = result.as_ref().err().map(|fault| fault.message.clone());
        record.key = result.as_ref().err().and_then(|fault| fault.key);
        let noted = self.run.ledger.map_or(Ok(()), |ledger| ledger.add(&record));
        let mut row = Row { target: self.run.targets[self.slot].clone(), record, left_behind: work.alone };
        if let Err(error) = noted {
            // One that boots, and that the ledger says nothing of, is none to deliver.
            row.record.verdict = match row.record.verdict {
                Verdict::Good | Verdict::Uncertain => Verdict::Uncertain,
                _ => Verdict::Failed,
            };
            row.record.error = Some(format!("{error:#}"));
        }
        let seconds = work.seconds_write + work.seconds_verify;
        let (step, outcome) = (self.step(self.verifying.load(Ordering::Relaxed)), row.said());
        self.run.sink.emit(Event::Finished { step, seconds, outcome });
        row
    }
}

impl Watch for Watcher<'_> {
    fn progress(&self, verify: bool, done: u64) {
        if verify && !self.verifying.swap(true, Ordering::Relaxed) {
            let (step, outcome) = (self.step(false), "written".into());
            self.run.sink.emit(Event::Finished {
                step,
                seconds: self.begun.elapsed().as_secs_f64(),
                outcome,
            });
            self.begin(true);
        }
        if done.is_multiple_of(STRIDE) {
            let step = self.step(verify);
            self.run.sink.emit(Event::Progress { step, done, message: String::new() });
        }
    }

    fn seal(&self, verified: &Verified) -> Result<(), String> {
        let Some(ledger) = self.run.ledger.filter(|_| self.run.identity(self.slot).is_some()) else {
            return Ok(());
        };
        let record = self.run.record(self.slot, Verdict::Finishing, Work::default(), Some(verified));
        ledger.add(&record).map_err(|error| format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use crate::flash::ledger::Verdict;
    use crate::flash::writer::WriteFailure;

    #[test]
    fn only_what_boots_nothing_frees_its_identity() {
        let of = |interrupted, may_boot| {
            verdict(&Err(WriteFailure { interrupted, may_boot, key: None, message: "gone".into() }))
        };
        assert_eq!((of(false, false), of(true, false)), (Verdict::Failed, Verdict::Interrupted));
        assert_eq!((of(false, true), of(true, true)), (Verdict::Uncertain, Verdict::Uncertain));
    }
}
