//! How much of the host's processors the machine had: a boot that was too slow for the limit may have been starved.

use std::fmt;
use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// A machine that has this much of one core and more is not waiting: it works, and needs its time.
const WORKING: f64 = 60.0;

/// What QEMU had.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Processor {
    /// Seconds of processor time that QEMU used, by the kernel's account.
    pub seconds: f64,
    /// The same in percent of one core, over the time that it ran.
    pub percent: f64,
    /// Processors of the host that may be used.
    pub cpus: usize,
    /// How many threads wanted one in the last minute: the host's load average.
    pub load: Option<f64>,
}

impl Processor {
    /// Of a QEMU that used `seconds` while `wall` seconds passed; asked when it has just ended.
    pub(crate) fn new(seconds: f64, wall: f64) -> Self {
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            seconds,
            percent: if wall > 0.0 { seconds / wall * 100.0 } else { 0.0 },
            cpus: available_parallelism().map_or(1, usize::from),
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }

    /// Did more threads want a processor than there are?
    #[expect(clippy::cast_precision_loss, reason = "few processors")]
    fn crowded(&self) -> bool {
        self.load.is_some_and(|load| load > self.cpus as f64 + 0.5)
    }
}

/// Why a boot was slow, as far as the processor is concerned, and what to do about it.
impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, cpus) = (self.percent, self.cpus);
        let plural = if cpus == 1 { "" } else { "s" };
        match self.load {
            Some(load) if self.crowded() => write!(
                f,
                "QEMU got {percent:.0} % of a core, where {load:.1} threads wanted {cpus} processor{plural}: raise --timeout or \
                 free the machine"
            ),
            _ if percent >= WORKING => write!(
                f,
                "QEMU used {percent:.0} % of a core of {cpus} to the end: raise --timeout, if the device needs that long"
            ),
            _ => {
                write!(f, "QEMU used {percent:.0} % of a core: the device waited, and not for the processor")
            }
        }
    }
}

/// Seconds of processor time of all children that have ended, and were waited for.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn of_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking what children used")?;
    #[expect(clippy::cast_precision_loss, reason = "seconds and microseconds of a boot")]
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Processor, of_children};

    #[test]
    fn what_a_child_used_is_known_when_it_has_ended() {
        let before = of_children().expect("known");
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", work]).status().expect("sh").success());
        assert!(of_children().expect("known") > before);
        let found = Processor::new(90.0, 180.0);
        assert!((found.percent - 50.0).abs() < 1e-9 && found.cpus >= 1 && found.load.is_some());
        assert!(Processor::new(1.0, 0.0).percent < 1e-9);
    }

    #[test]
    fn a_reason_and_a_remedy() {
        let of = |percent, load| Processor { seconds: 0.0, percent, cpus: 2, load }.to_string();
        assert_eq!(
            of(46.2, Some(7.31)),
            "QEMU got 46 % of a core, where 7.3 threads wanted 2 processors: raise --timeout or free the machine"
        );
        assert!(
            of(130.0, Some(1.5)).starts_with("QEMU used 130 % of a core of 2 to the end: raise --timeout")
        );
        assert_eq!(of(9.0, None), "QEMU used 9 % of a core: the device waited, and not for the processor");
    }
}
