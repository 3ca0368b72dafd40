//! Ctrl-C (and a polite kill): what must be undone is undone, then the program ends with exit code 130.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

/// Exit code of a program that the user stopped (128 + SIGINT).
pub const EXIT_CODE: u8 = 130;

/// How long work that has ended waits for the thread that ends the program: longer than any action takes.
const PATIENCE: Duration = Duration::from_secs(60);

type Action = Box<dyn Fn() + Send>;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(0);
static ACTIONS: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());

/// Did the user ask to stop? For loops that may run long between two registered actions.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on the program ends when it is asked to stop; `last` is done when everything is undone.
///
/// # Errors
/// As [`on_signal`].
pub fn install(last: impl FnOnce() + Send + 'static) -> Result<()> {
    on_signal(move || {
        REQUESTED.store(true, Ordering::Relaxed);
        for action in actions().values() {
            action();
        }
        last();
        std::process::exit(EXIT_CODE.into());
    })
}

/// Calls `action`, on a thread of its own, when the program is asked to stop: by Ctrl-C, a polite kill, a lost terminal. To
/// be called before other threads begin, for they inherit that these signals wait for that one thread (children do not:
/// `Command` gives them an empty mask). A signal that was ignored when the program began stays so: `nohup` means it.
///
/// # Errors
/// When the kernel refuses.
pub fn on_signal(action: impl FnOnce() + Send + 'static) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        if ignored >> (signal as u32 - 1) & 1 == 0 {
            signals.add(signal);
        }
    }
    signals.thread_block().context("handling interrupts")?;
    let wait = move || {
        if signals.wait().is_ok() {
            action();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("handling interrupts")?;
    Ok(())
}

/// The ignored signals, a bit each, the lowest for signal 1: `SigIgn` of proc(5).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Called when the work is over: where the user asked to stop, the thread that handles it undoes what must be undone and
/// ends the program, and what the interrupted work says of its end is of no interest.
pub fn wait() {
    if requested() {
        std::thread::park_timeout(PATIENCE);
    }
}

/// Runs `action` when the program is interrupted, for as long as the guard lives. It runs on a thread of its own,
/// while the interrupted work still goes on.
#[must_use]
pub fn on_interrupt(action: impl Fn() + Send + 'static) -> Guard {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    actions().insert(id, Box::new(action));
    Guard { id }
}

/// Removes a temporary file or folder when the program is interrupted, for as long as the guard lives: its owner's `drop`,
/// which does so otherwise, is not called then.
#[must_use]
pub fn remove_on_interrupt(path: &Path) -> Guard {
    let doomed = path.to_owned();
    // What is not there, or cannot be removed, was not to be had.
    on_interrupt(move || drop(fs::remove_file(&doomed).or_else(|_| fs::remove_dir_all(&doomed))))
}

/// Keeps an action of [`on_interrupt`] registered.
#[derive(Debug)]
pub struct Guard {
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        actions().remove(&self.id);
    }
}

fn actions() -> MutexGuard<'static, BTreeMap<u64, Action>> {
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{actions, ignored, on_interrupt, remove_on_interrupt};

    #[test]
    fn ignored_signals_are_bits() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!((ignored("SigIgn:\tno"), ignored("")), (0, 0));
    }

    #[test]
    fn a_temporary_file_or_folder_is_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let (file, inner) = (folder.path().join("file"), folder.path().join("inner"));
        std::fs::create_dir(&inner).expect("inner");
        for path in [&file, &inner.join("within")] {
            std::fs::write(path, "x").expect("write");
        }
        let guards = [remove_on_interrupt(&file), remove_on_interrupt(&inner)];
        for guard in &guards {
            actions()[&guard.id]();
        }
        assert!(!file.exists() && !inner.exists());
    }

    #[test]
    fn an_action_lives_as_long_as_its_guard() {
        let guard = on_interrupt(|| {});
        let id = guard.id;
        assert!(actions().contains_key(&id));
        drop(guard);
        assert!(!actions().contains_key(&id));
    }
}
