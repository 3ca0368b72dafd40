//! What has been seen of a boot so far, and whether it is decided.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;

use super::milestone::{FIRST_BOOT_DONE, FIRST_BOOT_THROUGH, Milestone, Sign, prompt, read};

/// How the services of edgepress begin a line on the console.
const EDGEPRESS: &str = "edgepress: ";

/// How many of the console's last lines are shown.
const TAIL_LINES: usize = 30;

/// The state of one boot. Times are seconds since power-on.
#[derive(Debug)]
pub(crate) struct Tracker {
    goal: Milestone,
    reached: BTreeMap<Milestone, f64>,
    failure: Option<String>,
    tail: VecDeque<String>,
    registration_id: Option<String>,
    earlier: BTreeSet<Milestone>,
    through: bool,
    /// What edgepress on the device said last.
    words: Option<String>,
    /// It failed for want of time.
    late: bool,
}

/// What a device does once in its life: a boot after it was done need not do it again. edgeAgent's identity is asked for when its
/// container is made; one that was made before the power went is only started.
const ONCE: [Milestone; 4] =
    [Milestone::FirstBoot, Milestone::DpsRegistered, Milestone::DpsAssigned, Milestone::AgentIdentity];

impl Default for Tracker {
    /// A boot that is to end provisioned.
    fn default() -> Self {
        Self::toward(Milestone::AgentRunning)
    }
}

impl Tracker {
    /// A boot of which nothing beyond a milestone is expected.
    pub(crate) fn toward(goal: Milestone) -> Self {
        Self {
            goal,
            reached: BTreeMap::new(),
            failure: None,
            tail: VecDeque::new(),
            registration_id: None,
            earlier: BTreeSet::new(),
            through: false,
            words: None,
            late: false,
        }
    }

    /// The boot after this one, whose power was cut.
    pub(crate) fn next(&self) -> Self {
        let earlier = self.reached.keys().copied().filter(|milestone| ONCE.contains(milestone)).collect();
        Self { earlier, through: self.through, ..Self::toward(self.goal) }
    }

    /// Takes a whole line of the console; returns the milestone that it tells for the first time.
    pub(crate) fn line(&mut self, line: &str, at: f64) -> Option<Milestone> {
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        if let Some((_, id)) = line.split_once(FIRST_BOOT_DONE) {
            self.registration_id = Some(id.trim().to_owned());
        }
        self.through |= line.contains(FIRST_BOOT_THROUGH);
        if let Some((_, words)) = line.split_once(EDGEPRESS) {
            self.words = Some(words.trim().to_owned());
        }
        self.sign(read(line)?, at)
    }

    /// Takes a line that has begun and not ended.
    pub(crate) fn pending(&mut self, text: &str) {
        if let Some(Sign::Fatal(reason)) = prompt(text) {
            self.fail(reason);
        }
    }

    /// A milestone was seen; true if for the first time.
    pub(crate) fn reach(&mut self, milestone: Milestone, at: f64) -> bool {
        let new = !self.reached.contains_key(&milestone);
        if new {
            self.reached.insert(milestone, at);
        }
        new
    }

    /// The boot cannot succeed any more; the first reason stands.
    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        self.failure.get_or_insert(reason.into());
    }

    /// All milestones are reached, or none will come any more.
    pub(crate) fn decided(&self) -> bool {
        self.failure.is_some() || self.missing().is_none()
    }

    /// The first milestone that has not come, and must.
    pub(crate) fn missing(&self) -> Option<Milestone> {
        self.all_missing().next()
    }

    /// Has first boot said its last words, in this boot or in the one before?
    pub(crate) fn through(&self) -> bool {
        self.through
    }

    /// Has everything come but first boot's own words? The power may have gone after first boot's last mark on the disk
    /// and before the last words: then no later boot says them.
    pub(crate) fn only_words_missing(&self) -> bool {
        let word = |milestone| milestone == Milestone::FirstBoot;
        self.failure.is_none() && !self.through && self.all_missing().all(word)
    }

    fn all_missing(&self) -> impl Iterator<Item = Milestone> {
        let came =
            |milestone: &Milestone| self.reached.contains_key(milestone) || self.earlier.contains(milestone);
        Milestone::ALL.into_iter().filter(move |milestone| *milestone <= self.goal && !came(milestone))
    }

    /// The time is up: says what is missing and what was seen last.
    pub(crate) fn time_is_up(&mut self, limit: f64) {
        let Some(missing) = self.missing() else { return };
        let latest = self.reached.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let seen = match latest {
            Some((milestone, at)) => format!("the last milestone was {milestone} at {at:.1} s"),
            None => "nothing was seen of the machine".to_owned(),
        };
        // Any other line of the console is there by chance.
        let words = self.words.as_ref().map(|words| format!("; edgepress said last: {words}"));
        let empty = self.tail.is_empty().then(|| "; the console stayed empty".to_owned());
        let more = words.or(empty).unwrap_or_default();
        let reason =
            format!("{missing} ({}) did not come within {limit:.0} s; {seen}{more}", missing.meaning());
        self.fail(reason);
        self.late = true;
    }

    /// Says of a boot that had no time left what it had instead.
    pub(crate) fn explain(&mut self, why: &dyn Display) {
        if let Some(failure) = self.failure.as_mut().filter(|_| self.late) {
            failure.push_str(&format!("; {why}"));
        }
    }

    /// The milestones that came.
    pub(crate) fn reached(&self) -> &BTreeMap<Milestone, f64> {
        &self.reached
    }

    /// Why the boot failed.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The registration id that first boot reported.
    pub(crate) fn registration_id(&self) -> Option<&str> {
        self.registration_id.as_deref()
    }

    /// The console's last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    fn sign(&mut self, sign: Sign, at: f64) -> Option<Milestone> {
        match sign {
            Sign::Reached(milestone) => self.reach(milestone, at).then_some(milestone),
            Sign::Fatal(reason) => {
                self.fail(reason);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Milestone, TAIL_LINES, Tracker};

    #[test]
    fn the_first_time_counts() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.line("Linux version 6.1", 2.0), Some(Milestone::Kernel));
        assert_eq!(tracker.line("Linux version 6.1", 3.0), None);
        assert_eq!(tracker.reached()[&Milestone::Kernel], 2.0);
        assert_eq!(tracker.missing(), Some(Milestone::Firmware));
        assert!(!tracker.decided());
    }

    #[test]
    fn all_milestones_in_any_order_decide() {
        let mut tracker = Tracker::default();
        for (at, milestone) in Milestone::ALL.into_iter().rev().enumerate() {
            assert!(!tracker.decided());
            assert!(tracker.reach(milestone, f64::from(u32::try_from(at).expect("small"))));
        }
        assert!(tracker.decided() && tracker.failure().is_none());
        tracker.time_is_up(1.0);
        assert_eq!(tracker.failure(), None);
    }

    /// A boot with these milestones.
    fn with(mut tracker: Tracker, milestones: impl IntoIterator<Item = Milestone>) -> Tracker {
        for milestone in milestones {
            tracker.reach(milestone, 1.0);
        }
        tracker
    }

    #[test]
    fn what_is_done_once_need_not_come_again() {
        let all_but = |without: &[Milestone]| {
            let without = without.to_vec();
            Milestone::ALL.into_iter().filter(move |milestone| !without.contains(milestone))
        };
        let whole = with(Tracker::default(), Milestone::ALL);
        let second = with(whole.next(), all_but(&super::ONCE));
        assert!(second.decided() && second.missing().is_none());
        let before = with(Tracker::default(), all_but(&[Milestone::AgentIdentity, Milestone::AgentRunning]));
        let second = with(before.next(), all_but(&super::ONCE));
        assert_eq!(second.missing(), Some(Milestone::AgentIdentity), "it was not asked for before");
        let second = with(whole.next(), all_but(&[Milestone::AgentRunning]));
        assert!(!second.decided() && !second.only_words_missing(), "edgeAgent must run after every boot");
    }

    #[test]
    fn first_boot_s_last_words() {
        let last = "edgepress: first boot: done: registration id abc, hub h";
        let mut whole = with(Tracker::default(), Milestone::ALL);
        assert!(!whole.through() && whole.only_words_missing());
        whole.line(last, 2.0);
        assert!(whole.through() && whole.next().through() && !whole.only_words_missing());
        let words = [Milestone::FirstBoot];
        let all = Milestone::ALL.into_iter().filter(|milestone| !words.contains(milestone));
        let mut second = with(Tracker::default().next(), all);
        assert!(second.only_words_missing() && second.missing() == Some(Milestone::FirstBoot));
        assert_eq!(second.line(last, 2.0), Some(Milestone::FirstBoot));
        assert!(second.decided() && second.through());
        second.fail("QEMU died");
        assert!(!second.only_words_missing());
    }

    #[test]
    fn the_first_reason_stands() {
        let mut tracker = Tracker::default();
        tracker.line("[ 1.0] Kernel panic - not syncing: no root", 1.0);
        tracker.fail("QEMU died");
        assert!(tracker.decided());
        assert_eq!(
            tracker.failure(),
            Some("the kernel panicked: [ 1.0] Kernel panic - not syncing: no root")
        );
        let mut tracker = Tracker::default();
        tracker.pending("(initramfs) ");
        assert!(tracker.decided());
    }

    #[test]
    fn time_is_up_says_what_is_missing() {
        let mut tracker = Tracker::default();
        tracker.time_is_up(9.0);
        assert_eq!(
            tracker.failure(),
            Some(
                "firmware (firmware starts the boot loader) did not come within 9 s; nothing was seen of the machine; \
                 the console stayed empty"
            )
        );
        let mut tracker = Tracker::default();
        tracker.line("BdsDxe: starting Boot0001", 1.25);
        tracker.line("and then", 1.5);
        tracker.time_is_up(9.0);
        let reason = tracker.failure().expect("failed");
        assert!(reason.starts_with("kernel (kernel runs) did not come within 9 s"), "{reason}");
        assert!(reason.ends_with("; the last milestone was firmware at 1.2 s"), "{reason}");
        tracker.explain(&"it slept");
        assert!(tracker.failure().is_some_and(|reason| reason.ends_with("at 1.2 s; it slept")));
        let mut tracker = Tracker::default();
        tracker.line("BdsDxe: starting Boot0001", 1.25);
        tracker.line("[    9.1] edgepress: first boot: waiting: no time yet", 1.4);
        tracker.line("and then", 1.5);
        tracker.time_is_up(9.0);
        let words = "firmware at 1.2 s; edgepress said last: first boot: waiting: no time yet";
        assert!(tracker.failure().is_some_and(|reason| reason.ends_with(words)));
        let mut tracker = Tracker::default();
        tracker.fail("QEMU died");
        tracker.explain(&"it slept");
        assert_eq!(tracker.failure(), Some("QEMU died"));
    }

    #[test]
    fn the_tail_is_short() {
        let mut tracker = Tracker::default();
        for number in 0..100 {
            tracker.line(&number.to_string(), 0.0);
        }
        tracker.line("edgepress: first boot: configured: registration id abc ", 1.0);
        assert_eq!(tracker.tail().len(), TAIL_LINES);
        assert_eq!(tracker.registration_id(), Some("abc"));
    }
}
