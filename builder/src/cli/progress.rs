//! What the engine says, for people: bars where standard error is a terminal, plain lines where it is none.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::terminal;
use crate::colour::Colour;
use crate::event::{Event, Sink, Unit};

/// A step that takes long says so this often, where there is no bar.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(120);
const MIB: f64 = 1024.0 * 1024.0;

/// The sink that suits standard error.
pub(super) fn for_stderr() -> Arc<dyn Sink> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let terminal = std::io::stderr().is_terminal() && variable("TERM").is_some_and(|term| term != "dumb");
    if terminal {
        Arc::new(Bars::new(terminal::colours(&std::io::stderr())))
    } else {
        Arc::new(Plain::new(std::io::stderr()))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finished(step: &str, seconds: f64, outcome: &str) -> String {
    let outcome = if outcome.is_empty() { "done" } else { outcome };
    format!("{step}: {outcome} ({seconds:.1} s)")
}

/// One bar per running step; what is over stands above as a line.
struct Bars {
    all: MultiProgress,
    colour: bool,
    running: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn new(colour: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { all, colour, running: Mutex::default() }
    }

    fn start(&self, step: String, total: Option<u64>, unit: Unit) {
        let numbers = match (total, unit) {
            (None, _) => "{spinner}",
            (Some(_), Unit::Bytes) => "[BAR] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
            (Some(_), Unit::Items) => "[BAR] {pos}/{len}",
        };
        let bar = if self.colour { "{bar:30.cyan}" } else { "{bar:30}" };
        let template = format!("{{prefix}}: {} {{elapsed}} {{wide_msg}}", numbers.replace("BAR", bar));
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let new = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let new = self.all.add(new.with_style(style.progress_chars("=> ")).with_prefix(step.clone()));
        new.enable_steady_tick(TICK);
        if let Some(old) = locked(&self.running).insert(step, new) {
            old.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        // A terminal that cannot be written to has nobody to tell.
        let _ = self.all.println(text);
    }
}

impl Sink for Bars {
    fn emit(&self, event: Event) {
        match event {
            Event::Started { step, total, unit } => self.start(step, total, unit),
            Event::Progress { step, done, message } => {
                if let Some(bar) = locked(&self.running).get(&step) {
                    bar.set_position(done);
                    if !message.is_empty() {
                        bar.set_message(message);
                    }
                }
            }
            Event::Finished { step, seconds, outcome } => {
                if let Some(bar) = locked(&self.running).remove(&step) {
                    bar.finish_and_clear();
                }
                self.line(&finished(&step, seconds, &outcome));
            }
            Event::Note { text } => self.line(&text),
            Event::Warning { text } => {
                self.line(&format!("{} {text}", Colour::Yellow.paint("warning:", self.colour)));
            }
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // A step that failed has no end; its bar must not stand above the error.
        for bar in locked(&self.running).values() {
            bar.finish_and_clear();
        }
    }
}

/// One line when a step starts and ends, and now and then while it runs.
struct Plain<W> {
    out: Mutex<W>,
    running: Mutex<HashMap<String, Step>>,
}

struct Step {
    total: Option<u64>,
    unit: Unit,
    said: Instant,
    message: String,
}

impl<W: Write> Plain<W> {
    fn new(out: W) -> Self {
        Self { out: Mutex::new(out), running: Mutex::default() }
    }

    fn line(&self, text: &str) {
        // Standard error that is closed has nobody to tell.
        let _ = writeln!(locked(&self.out), "{text}");
    }

    fn progress(&self, step: &str, done: u64, message: String, now: Instant) {
        let mut running = locked(&self.running);
        let Some(state) = running.get_mut(step) else { return };
        if !message.is_empty() {
            state.message = message;
        }
        if now.saturating_duration_since(state.said) < PLAIN_EVERY {
            return;
        }
        state.said = now;
        let text = format!("{step}: {}{}", amount(done, state.total, state.unit), state.message);
        drop(running);
        self.line(text.trim_end());
    }
}

fn amount(done: u64, total: Option<u64>, unit: Unit) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
    match (total, unit) {
        (Some(total), Unit::Bytes) => format!("{} of {} MiB ", mib(done), mib(total)),
        (None, Unit::Bytes) => format!("{} MiB ", mib(done)),
        (Some(total), Unit::Items) => format!("{done} of {total} "),
        (None, Unit::Items) => String::new(),
    }
}

impl<W: Write + Send> Sink for Plain<W> {
    fn emit(&self, event: Event) {
        match event {
            Event::Started { step, total, unit } => {
                self.line(&format!("{step}: started"));
                let state = Step { total, unit, said: Instant::now(), message: String::new() };
                locked(&self.running).insert(step, state);
            }
            Event::Progress { step, done, message } => self.progress(&step, done, message, Instant::now()),
            Event::Finished { step, seconds, outcome } => {
                locked(&self.running).remove(&step);
                self.line(&finished(&step, seconds, &outcome));
            }
            Event::Note { text } => self.line(&text),
            Event::Warning { text } => self.line(&format!("warning: {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Instant, PLAIN_EVERY, Plain, Sink as _, Unit};

    fn text(sink: Plain<Vec<u8>>) -> String {
        String::from_utf8(sink.out.into_inner().expect("unpoisoned")).expect("text")
    }

    #[test]
    fn plain_lines_tell_start_end_and_notes() {
        let sink = Plain::new(Vec::new());
        sink.emit(Event::Started { step: "fetch".into(), total: Some(7), unit: Unit::Bytes });
        sink.emit(Event::Progress { step: "fetch".into(), done: 3, message: String::new() });
        sink.warn("careful".into());
        sink.note("by the way".into());
        sink.emit(Event::Finished { step: "fetch".into(), seconds: 1.24, outcome: "7 packages".into() });
        sink.emit(Event::Finished { step: "disk".into(), seconds: 0.0, outcome: String::new() });
        let expected =
            "fetch: started\nwarning: careful\nby the way\nfetch: 7 packages (1.2 s)\ndisk: done (0.0 s)\n";
        assert_eq!(text(sink), expected);
    }

    #[test]
    fn a_long_step_says_now_and_then_how_far_it_is() {
        let sink = Plain::new(Vec::new());
        sink.emit(Event::Started { step: "fetch".into(), total: Some(8 << 20), unit: Unit::Bytes });
        let later = Instant::now() + PLAIN_EVERY;
        sink.progress("fetch", 2 << 20, "bash".into(), later);
        sink.progress("fetch", 3 << 20, String::new(), later + PLAIN_EVERY / 2);
        sink.progress("fetch", 4 << 20, String::new(), later + PLAIN_EVERY);
        sink.progress("unknown", 1, String::new(), later);
        assert_eq!(text(sink), "fetch: started\nfetch: 2.0 of 8.0 MiB bash\nfetch: 4.0 of 8.0 MiB bash\n");
    }
}
