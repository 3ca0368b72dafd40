//! How slowly a download may come, and how much may come at all. A server decides neither.
//!
//! A connection that brings nothing is given up by [`super::net`]; one that drips a byte a second, or sends the same
//! start of a file again and again, is given up here.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

/// Most bytes of a file whose size nobody has stated. The largest packages of the distributions are below.
pub(crate) const LARGEST: u64 = 2 << 30;

/// Limits of one file's download.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// In each such while …
    pub window: Duration,
    /// … so many bytes must come, or the connection is given up.
    pub least: u64,
    /// All attempts together may take so long, …
    pub grace: Duration,
    /// … and a second more for so many bytes that are there.
    pub rate: u64,
}

impl Default for Pace {
    /// A modem's speed: 16 KiB in 20 seconds; ten minutes, and what is there at 4 KiB a second.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(20),
            least: 16 << 10,
            grace: Duration::from_secs(600),
            rate: 4 << 10,
        }
    }
}

impl Pace {
    /// Has a file of which `size` bytes are there taken too long since `start`?
    pub(crate) fn is_over(&self, start: Instant, size: u64) -> bool {
        start.elapsed() > self.grace + Duration::from_secs(size / self.rate.max(1))
    }
}

/// A reader that must keep the pace.
pub(crate) struct Paced<R> {
    inner: R,
    pace: Pace,
    since: Instant,
    came: u64,
}

impl<R: Read> Paced<R> {
    /// Begins now.
    pub(crate) fn new(inner: R, pace: Pace) -> Self {
        Self { inner, pace, since: Instant::now(), came: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.came += count as u64;
        let elapsed = self.since.elapsed();
        if elapsed > self.pace.window {
            if self.came < self.pace.least && count > 0 {
                let message = format!("too slow: {} bytes came in {} s", self.came, elapsed.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
            (self.since, self.came) = (Instant::now(), 0);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, ErrorKind, Instant, Pace, Paced, Read};

    /// Brings one byte at a time, each after a while.
    struct Drip(Duration);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(self.0);
            buffer[0] = b'x';
            Ok(1)
        }
    }

    #[test]
    fn a_drip_is_given_up_and_a_stream_is_not() {
        let window = Duration::from_millis(60);
        let pace = Pace { window, least: 100, ..Pace::default() };
        let error =
            Paced::new(Drip(Duration::from_millis(10)), pace).read_to_end(&mut Vec::new()).expect_err("slow");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let mut whole = Vec::new();
        let stream = Drip(Duration::ZERO).take(200_000);
        Paced::new(stream, Pace { least: 1, ..pace }).read_to_end(&mut whole).expect("comes");
        assert_eq!(whole.len(), 200_000);
    }

    #[test]
    fn what_is_there_earns_time() {
        let pace = Pace { grace: Duration::from_secs(10), rate: 100, ..Pace::default() };
        let start =
            Instant::now().checked_sub(Duration::from_secs(20)).expect("the machine runs for a while");
        assert!(pace.is_over(start, 900) && !pace.is_over(start, 1100));
    }
}
