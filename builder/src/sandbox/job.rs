//! What can be done in a sandbox: any type that can be written down, sent there, and done.

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Users, World};
use crate::event::Sink;

/// One piece of work, done as pid 1 of a sandbox. It travels there as JSON, and its answer back.
pub(crate) trait Job: Serialize + DeserializeOwned {
    /// Sets it apart from every other kind of job of this program.
    const NAME: &'static str;

    /// What comes of it.
    type Answer: Serialize + DeserializeOwned;

    /// A lower-case gerund for error messages.
    fn doing(&self) -> String;

    /// Which users it needs to see.
    fn users(&self) -> Users {
        Users::Range
    }

    /// What it may see of the host, where it runs what others wrote; nothing: all of it.
    fn world(&self) -> Option<World> {
        None
    }

    /// Does it.
    ///
    /// # Errors
    /// Its own.
    fn execute(&self, sink: &dyn Sink) -> Result<Self::Answer>;
}

/// A kind of job, as the far side of a sandbox knows it: by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// What the type calls itself.
    pub(crate) name: &'static str,
    read: fn(serde_json::Value) -> serde_json::Result<Box<dyn Work>>,
}

impl Known {
    /// Knows the jobs of one type.
    pub(crate) const fn of<J: Job + 'static>() -> Self {
        Self { name: J::NAME, read: |job| Ok(Box::new(serde_json::from_value::<J>(job)?)) }
    }
}

/// A job whose type is not known here.
pub(super) trait Work {
    fn world(&self) -> Option<World>;
    fn execute(&self, sink: &dyn Sink) -> Result<serde_json::Value>;
}

impl<J: Job> Work for J {
    fn world(&self) -> Option<World> {
        Job::world(self)
    }

    fn execute(&self, sink: &dyn Sink) -> Result<serde_json::Value> {
        let answer = Job::execute(self, sink)?;
        serde_json::to_value(answer).context("writing down the answer")
    }
}

/// A job on its way.
#[derive(Serialize, Deserialize)]
struct Message {
    name: String,
    job: serde_json::Value,
}

/// The line that tells a sandbox what to do.
pub(super) fn write<J: Job>(job: &J) -> Result<Vec<u8>> {
    let message = Message { name: J::NAME.into(), job: serde_json::to_value(job)? };
    let mut text = serde_json::to_vec(&message)?;
    text.push(b'\n');
    Ok(text)
}

/// What a line tells to do.
pub(super) fn read(line: &str, known: &[Known]) -> Result<Box<dyn Work>> {
    let Message { name, job } = serde_json::from_str(line).context("understanding the sandbox's job")?;
    let kind = known.iter().find(|known| known.name == name);
    let kind = kind.with_context(|| format!("no job of this program is called `{name}`"))?;
    (kind.read)(job).with_context(|| format!("understanding the job `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::{Job, Known, read, write};
    use crate::event::{Silent, Sink};
    use anyhow::Result;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Double(u32);

    impl Job for Double {
        const NAME: &'static str = "double";
        type Answer = u32;

        fn doing(&self) -> String {
            "doubling".into()
        }

        fn execute(&self, _: &dyn Sink) -> Result<u32> {
            Ok(2 * self.0)
        }
    }

    #[test]
    fn a_job_travels_by_its_name() {
        let line = String::from_utf8(write(&Double(21)).expect("writes")).expect("text");
        let job = read(&line, &[Known::of::<Double>()]).expect("reads");
        assert_eq!(job.execute(&Silent).expect("works"), 42);
        assert!(read(&line, &[]).is_err_and(|error| error.to_string().contains("`double`")));
        assert!(read("{}", &[Known::of::<Double>()]).is_err());
    }
}
