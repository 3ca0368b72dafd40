//! What was seen of a machine, from power-on to its end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::milestone::Milestone;
use super::processor::Processor;
use crate::sim::log::LogEntry;

/// What was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Milestone → seconds since power-on; after a power cut, of the second boot.
    pub seconds: BTreeMap<Milestone, f64>,
    /// Why not all of them came.
    pub failure: Option<String>,
    /// The console's last lines.
    pub tail: Vec<String>,
    /// The registration id that first boot reported on the console.
    pub registration_id: Option<String>,
    /// Did the guest shut down when asked? Not asked after a failure, nor in a test of power cuts.
    pub shut_down: Option<bool>,
    /// The power cut, if it came to that.
    pub cut: Option<Cut>,
    /// Everything that the simulators were asked.
    pub entries: Vec<LogEntry>,
    /// Seconds from power-on until it was decided what comes of the boot; after a power cut, of the second one.
    pub ended: f64,
    /// What QEMU had of the host.
    pub processor: Option<Processor>,
}

/// A power cut that took place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// Seconds since power-on.
    pub seconds: f64,
    /// Milestone → seconds since power-on, of what was reached before.
    pub milestones: BTreeMap<Milestone, f64>,
}

impl Cut {
    /// The milestone that was reached last.
    pub(crate) fn after(&self) -> Option<Milestone> {
        self.milestones.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(milestone, _)| *milestone)
    }
}

impl Run {
    /// A machine that was never switched on.
    pub(crate) fn not_started(reason: String) -> Self {
        Self {
            seconds: BTreeMap::new(),
            failure: Some(reason),
            tail: Vec::new(),
            registration_id: None,
            shut_down: None,
            cut: None,
            entries: Vec::new(),
            ended: 0.0,
            processor: None,
        }
    }
}
