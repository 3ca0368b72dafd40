//! An emulated TPM 2.0: swtpm beside QEMU, its state in the private folder of the run, so that it lasts from one boot of
//! a test to the next.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::host;

/// The program, from the package of the same name.
pub(super) const PROGRAM: &str = "swtpm";

/// The name of the socket that QEMU connects to.
pub(super) const SOCKET: &str = "tpm";

const STATE: &str = "tpm-state";

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(20);

/// A running swtpm; killed when dropped.
pub(super) struct Tpm(Child);

impl Tpm {
    /// Starts it in `folder`, with the state that it left there.
    ///
    /// # Errors
    /// Names the package when it is missing; when it does not listen.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join(SOCKET);
        // Of a machine before: what QEMU connects to must be this one's.
        std::fs::remove_file(&socket).ok();
        std::fs::create_dir_all(folder.join(STATE)).context("making a folder for the TPM's state")?;
        let mut command = Command::new(host::program(PROGRAM)?);
        command.current_dir(folder).args(["socket", "--tpm2", "--tpmstate", &format!("dir={STATE}")]);
        command.args(["--ctrl", &format!("type=unixio,path={SOCKET}"), "--log", "level=1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {}", host::line(&command)))?;
        let mut tpm = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            if let Some(status) = tpm.0.try_wait().context("waiting for swtpm")? {
                bail!("{} ended ({status}) before QEMU could connect", host::line(&command));
            }
            if Instant::now() >= deadline {
                bail!("{} did not listen within {} s", host::line(&command), PATIENCE.as_secs());
            }
            sleep(GLANCE);
        }
        Ok(tpm)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and been waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::{SOCKET, Tpm};
    use crate::host;

    #[test]
    fn starts_twice_in_the_same_folder() {
        let folder = tempfile::tempdir().expect("temp dir");
        if host::program(super::PROGRAM).is_err() {
            let error = Tpm::start(folder.path()).map(drop).expect_err("it is not installed");
            assert!(error.to_string().contains("`swtpm` is not installed"), "{error}");
            return;
        }
        for _ in 0..2 {
            let tpm = Tpm::start(folder.path()).expect("starts");
            assert!(folder.path().join(SOCKET).exists());
            drop(tpm);
        }
    }
}
