//! What the engine says while it works. Progress bars, plain lines and JSON are subscribers (see `cli::progress`).

use serde::{Deserialize, Serialize};

/// One thing that happened. Steps are named by a short noun ("fetch", "base", "disk").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step began; `total` is in `unit`s where it is known.
    Started {
        /// The step's name.
        step: String,
        /// What the bar counts to.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// A step got to `done`; `message` is what it is busy with.
    Progress {
        /// The step's name.
        step: String,
        /// How far it is.
        done: u64,
        /// What it is busy with; empty: unchanged.
        message: String,
    },
    /// A step ended well.
    Finished {
        /// The step's name.
        step: String,
        /// Wall-clock seconds that it took.
        seconds: f64,
        /// One line on what came of it ("from the store", "212 packages").
        outcome: String,
    },
    /// Something worth a line.
    Note {
        /// The line.
        text: String,
    },
    /// Something that will bite later.
    Warning {
        /// The line.
        text: String,
    },
}

/// What a progress bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes, shown as MiB.
    Bytes,
    /// Packages, files, images: whatever the step says.
    Items,
}

/// Who listens. Called from several threads.
pub trait Sink: Send + Sync {
    /// Takes one event; must not block for long.
    fn emit(&self, event: Event);

    /// A [`Event::Note`].
    fn note(&self, text: String) {
        self.emit(Event::Note { text });
    }

    /// A [`Event::Warning`].
    fn warn(&self, text: String) {
        self.emit(Event::Warning { text });
    }
}

/// Listens to nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Sink for Silent {
    fn emit(&self, _: Event) {}
}
