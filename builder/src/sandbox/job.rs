//! What can be done in a sandbox.

use serde::{Deserialize, Serialize};

use super::Users;
use crate::event::Sink;

/// One piece of work; serialised from the verb to the sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Says which user and group ids it sees: a probe of the host.
    Probe,
    /// Removes a tree that holds other users' files.
    Remove(std::path::PathBuf),
}

impl Job {
    /// A word for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Probe => "a probe",
            Self::Remove(_) => "a removal",
        }
    }

    /// Which users the job needs to see.
    pub fn users(&self) -> Users {
        match self {
            Self::Probe | Self::Remove(_) => Users::Range,
        }
    }

    /// Does it; called as pid 1 of the sandbox.
    pub(super) fn execute(&self, _sink: &dyn Sink) -> anyhow::Result<serde_json::Value> {
        match self {
            Self::Probe => Ok(serde_json::json!({ "uid": nix::unistd::getuid().as_raw() })),
            Self::Remove(path) => match std::fs::remove_dir_all(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(anyhow::Error::new(error).context(format!("removing {}", path.display())))
                }
                _ => Ok(serde_json::Value::Null),
            },
        }
    }
}
