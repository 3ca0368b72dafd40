//! The host's processors, shared out among the machines that run: never more are emulated than there are. More machines
//! would each be so slow that what has a time limit in them runs out of it.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// Processors of one machine, given back when dropped.
pub struct Share(usize);

impl Share {
    /// Waits until so many are free, or all of them where there are fewer.
    pub fn take(processors: usize) -> Self {
        let all = available_parallelism().map_or(1, NonZeroUsize::get);
        let wanted = processors.min(all);
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = GIVEN_BACK.wait_while(taken, |taken| *taken + wanted > all);
        *free.unwrap_or_else(PoisonError::into_inner) += wanted;
        Self(wanted)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}
