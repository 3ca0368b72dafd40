//! A fleet worked on by several threads, in groups: a fleet of any size takes the same memory, and what comes of it is
//! handed over in the fleet's order.

use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::counted;
use super::fleet::{Fleet, Row};
use crate::event::{Event, Sink};

/// Devices of a group; each takes some kilobytes.
const GROUP: usize = 512;

/// Who works, and at what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parallel {
    /// The step's name.
    pub step: &'static str,
    /// Threads.
    pub workers: usize,
    /// Devices of a group.
    pub group: usize,
}

impl Parallel {
    /// A thread for each processor.
    pub(crate) fn of_all_processors(step: &'static str) -> Self {
        Self { step, workers: thread::available_parallelism().map_or(1, usize::from), group: GROUP }
    }

    /// Does `work` on every row, and hands the results to `take`, a group at a time.
    ///
    /// # Errors
    /// When the fleet cannot be read any more; what `take` returns.
    pub(crate) fn work<T: Send>(
        self,
        fleet: &Fleet,
        sink: &dyn Sink,
        work: impl Fn(Row) -> T + Sync,
        mut take: impl FnMut(Vec<T>) -> Result<()>,
    ) -> Result<()> {
        let timer = Instant::now();
        let step = || self.step.to_owned();
        let (total, unit) = fleet.total();
        sink.emit(Event::Started { step: step(), total: Some(total), unit });
        let mut rows = fleet.rows().context("reading the fleet")?;
        let mut devices = 0;
        loop {
            let group: Vec<Row> = rows.by_ref().take(self.group.max(1)).collect();
            let Some(done) = group.last().map(|row| row.done) else { break };
            devices += group.len() as u64;
            take(together(group, self.workers.max(1), &work))?;
            sink.emit(Event::Progress { step: step(), done, message: String::new() });
        }
        let outcome = counted(devices, "device");
        sink.emit(Event::Finished { step: step(), seconds: timer.elapsed().as_secs_f64(), outcome });
        Ok(())
    }
}

/// `work` on every row of a group; the results in the group's order.
fn together<T: Send>(mut group: Vec<Row>, workers: usize, work: &(impl Fn(Row) -> T + Sync)) -> Vec<T> {
    let share = group.len().div_ceil(workers).max(1);
    thread::scope(|scope| {
        let mut running = Vec::new();
        while !group.is_empty() {
            let rest = group.split_off(share.min(group.len()));
            let part = std::mem::replace(&mut group, rest);
            running.push(scope.spawn(move || part.into_iter().map(work).collect::<Vec<T>>()));
        }
        let results = running.into_iter().map(|thread| match thread.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::Parallel;
    use crate::event::Silent;
    use crate::stamp::fleet::Fleet;
    use std::fmt::Write as _;

    #[test]
    fn results_come_in_the_order_of_the_fleet() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut text = String::from("registration_id\n");
        (0..1000).for_each(|number| writeln!(text, "{number}").expect("text"));
        std::fs::write(file.path(), text).expect("write");
        let fleet = Fleet::open(file.path()).unwrap_or_else(|error| panic!("{error}"));
        for (workers, group) in [(1, 1), (3, 7), (4, 5000), (0, 0)] {
            let mut numbers = Vec::new();
            let parallel = Parallel { step: "check", workers, group };
            parallel
                .work(
                    &fleet,
                    &Silent,
                    |row| row.number,
                    |group| {
                        numbers.extend(group);
                        Ok(())
                    },
                )
                .expect("worked");
            assert_eq!(numbers, (2..1002).collect::<Vec<u32>>(), "{workers} workers");
        }
    }
}
