//! Ctrl-C (and a polite kill): what must be undone is undone, then the program ends with exit code 130.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

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

/// Handles SIGINT, SIGTERM and SIGHUP from now on; `last` is done when everything is undone.
///
/// # Errors
/// When the signals are already handled.
pub fn install(last: impl Fn() + Send + 'static) -> Result<()> {
    ctrlc::set_handler(move || {
        REQUESTED.store(true, Ordering::Relaxed);
        for action in actions().values() {
            action();
        }
        last();
        std::process::exit(EXIT_CODE.into());
    })
    .context("handling interrupts")
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
    use super::{actions, on_interrupt};

    #[test]
    fn an_action_lives_as_long_as_its_guard() {
        let guard = on_interrupt(|| {});
        let id = guard.id;
        assert!(actions().contains_key(&id));
        drop(guard);
        assert!(!actions().contains_key(&id));
    }
}
