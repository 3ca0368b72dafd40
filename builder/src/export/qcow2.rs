//! qcow2, by the program that defines it.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::consume::Whole;
use crate::disk::sparse;
use crate::error::Problem;
use crate::{host, interrupt};

/// Writes the file. Its clusters are not compressed: QEMU reads and writes such an image as fast as a raw one.
pub(super) fn convert(raw: &Path, path: &Path) -> Result<Whole> {
    let mut command = host::command("qemu-img")?;
    command.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(path);
    let line = host::line(&command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("starting {line}"))?;
    let doomed = path.to_owned();
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // What it had not yet created when the file was removed must not come after.
    let guard = interrupt::on_interrupt(move || {
        kill(pid, Signal::SIGKILL).ok();
        std::fs::remove_file(&doomed).ok();
    });
    let output = child.wait_with_output().with_context(|| format!("waiting for {line}"))?;
    drop(guard);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(
            Problem::work(format!("{line} failed: {}\n{}", output.status, host::tail(&said, 5))).into()
        );
    }
    let size = path.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    Ok(Whole { size, sha256: sparse::digest(path)? })
}
