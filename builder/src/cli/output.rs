//! Standard output: a verb's answer, as text or as the one JSON document of `--json`, which also says how the verb failed.
//!
//! ```text
//! text       the answer, at once
//! document   the answer is held until it is known how the verb ended ─► {…answer…, "error": {…}}
//! lines      one document a line, each at once: `sim` runs until it is stopped
//! ```
//! *Gone*: whoever read standard output has ended (`| head`). That is no failure: the verb's own exit status stands.
//! *Lost*: the answer could not be written otherwise (a full disk), which a script must learn.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use super::terminal;

/// How a verb answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Document,
    Lines,
}

/// Standard output of one verb.
#[derive(Debug)]
pub(super) struct Output {
    form: Form,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Value>,
    /// The last document is out.
    ended: bool,
    gone: bool,
    lost: Option<io::Error>,
}

impl Output {
    pub(super) fn new(form: Form) -> Self {
        Self { form, state: Mutex::default() }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// The verb's answer.
    ///
    /// # Errors
    /// When it cannot be put into JSON.
    pub(super) fn answer<T: Serialize + Display>(&self, answer: &T) -> Result<()> {
        match self.form {
            Form::Text => {
                let colour = terminal::colours(&io::stdout());
                let text = if colour { format!("{answer:#}") } else { answer.to_string() };
                self.state().write(text.trim_end());
            }
            Form::Document | Form::Lines => {
                let value = serde_json::to_value(answer)?;
                self.state().held = Some(value);
            }
        }
        Ok(())
    }

    /// One line of a stream of documents; false when nobody reads them any more.
    ///
    /// # Errors
    /// When it cannot be put into JSON.
    pub(super) fn line(&self, line: &impl Serialize) -> Result<bool> {
        let text = serde_json::to_string(line)?;
        let mut state = self.state();
        if !state.ended {
            state.write(&text);
        }
        Ok(!state.gone && state.lost.is_none())
    }

    /// The end of the verb: what was held goes out, once, and why the verb failed with it. Returns why the answer did not
    /// reach the end of its way.
    pub(super) fn end(&self, failure: Option<&Failure>) -> Option<io::Error> {
        let mut state = self.state();
        if std::mem::replace(&mut state.ended, true) {
            return None;
        }
        if let Some(text) = self.last(state.held.take(), failure) {
            state.write(&text);
        }
        state.lost.take()
    }

    fn last(&self, held: Option<Value>, failure: Option<&Failure>) -> Option<String> {
        let document = match (self.form, failure) {
            (Form::Text, _) => return None,
            (_, None) => held?,
            // Without numbers for names and without floats that are none, JSON cannot fail.
            (_, Some(failure)) => failure.clone().into_document(held).unwrap_or_default(),
        };
        match self.form {
            Form::Lines => {
                let mut line = serde_json::json!({ "event": "error" });
                if let (Some(line), Value::Object(members)) = (line.as_object_mut(), document) {
                    line.extend(members);
                }
                Some(line.to_string())
            }
            _ => serde_json::to_string_pretty(&document).ok(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, text: &str) {
        if self.gone || self.lost.is_some() {
            return;
        }
        let mut stream = io::stdout().lock();
        match writeln!(stream, "{text}").and_then(|()| stream.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.gone = true,
            Err(error) => self.lost = Some(error),
        }
    }
}
