//! What a program of the tree may take before everything that it started is ended.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one program and all that it starts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Processes and threads alive at once.
    pub processes: u64,
    /// Bytes of memory that belong to no file; 0: three quarters of the machine's.
    pub memory: u64,
    /// Bytes that stay free on the file system of the store.
    pub reserve: u64,
    /// Seconds without a line of output.
    pub silence: u64,
    /// Seconds in all.
    pub time: u64,
}

/// A fork bomb reaches any number; a kernel's installation needs some dozens.
const PROCESSES: u64 = 4096;
/// Room that other programs of the machine keep while a package fills the disk.
const RESERVE: u64 = 256 << 20;
/// An emulated initramfs was seen to say nothing for ten minutes, on a busy machine for twenty.
const SILENCE: u64 = 45 * 60;
/// Six hundred packages take minutes; emulated, an hour or two.
const TIME: u64 = 6 * 60 * 60;

impl Default for Limits {
    fn default() -> Self {
        Self { processes: PROCESSES, memory: 0, reserve: RESERVE, silence: SILENCE, time: TIME }
    }
}

impl Limits {
    /// Their names, with values for examples: for error messages and `--help`.
    pub(crate) const WORDS: &str = "silence=45m, time=6h, processes=4096, memory=8G, reserve=256M";

    /// Until when the next line has to come, if the program has run for `spent`.
    pub(crate) fn patience(&self, spent: Duration) -> Duration {
        let left = Duration::from_secs(self.time).saturating_sub(spent);
        left.min(Duration::from_secs(self.silence))
    }

    /// Why it was ended after `spent`.
    pub(crate) fn too_long(&self, spent: Duration) -> String {
        if spent >= Duration::from_secs(self.time) {
            format!("it ran for {} min, and was ended", self.time.div_ceil(60))
        } else {
            format!("it said nothing for {}, and was ended", in_words(self.silence))
        }
    }

    /// Bytes of memory, once the machine's are known.
    pub(crate) fn memory_of(&self, machine: u64) -> u64 {
        if self.memory == 0 { machine / 4 * 3 } else { self.memory }
    }
}

fn in_words(seconds: u64) -> String {
    if seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

/// `NAME=VALUE,…` over the defaults.
impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || format!("`{part}` is no limit; the limits are {}", Self::WORDS);
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let field = match name.trim() {
                "silence" => &mut limits.silence,
                "time" => &mut limits.time,
                "processes" => &mut limits.processes,
                "memory" => &mut limits.memory,
                "reserve" => &mut limits.reserve,
                _ => return Err(wrong()),
            };
            let scale: &[(char, u64)] = match name.trim() {
                "silence" | "time" => &[('s', 1), ('m', 60), ('h', 3600)],
                "processes" => &[],
                _ => &[('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)],
            };
            *field = scaled(value.trim(), scale).filter(|value| *value > 0).ok_or_else(wrong)?;
        }
        Ok(limits)
    }
}

/// A whole number, with one of the letters behind it that multiply it.
fn scaled(text: &str, letters: &[(char, u64)]) -> Option<u64> {
    let times = letters.iter().find(|(letter, _)| text.ends_with(*letter));
    let (digits, times) = times.map_or((text, 1), |(letter, times)| (text.trim_end_matches(*letter), *times));
    digits.parse::<u64>().ok()?.checked_mul(times)
}

#[cfg(test)]
mod tests {
    use super::Limits;
    use std::time::Duration;

    #[test]
    fn limits_are_read() {
        let limits: Limits = "silence=20s, processes=100,memory=2G".parse().expect("reads");
        assert_eq!((limits.silence, limits.processes, limits.memory), (20, 100, 2 << 30));
        assert_eq!(limits.time, Limits::default().time);
        assert_eq!("".parse::<Limits>().expect("none"), Limits::default());
        for wrong in [
            "silence",
            "silence=",
            "silence=0",
            "memory=2T",
            "processes=1s",
            "cpu=1",
            "time=99999999999999999999h",
        ] {
            assert!(wrong.parse::<Limits>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_shorter_of_silence_and_time_counts() {
        let limits = Limits { silence: 60, time: 100, ..Limits::default() };
        assert_eq!(limits.patience(Duration::from_secs(10)), Duration::from_secs(60));
        assert_eq!(limits.patience(Duration::from_secs(90)), Duration::from_secs(10));
        assert!(limits.too_long(Duration::from_secs(70)).contains("said nothing for 1 min"));
        assert!(limits.too_long(Duration::from_secs(100)).contains("ran for 2 min"));
    }
}
