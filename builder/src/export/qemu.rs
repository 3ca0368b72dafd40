//! The formats that qemu-img writes: it reads the raw image for itself, beside the pass.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::consume::Whole;
use crate::disk::ids::Uuid;
use crate::disk::sparse;
use crate::error::Problem;
use crate::format::Qemu;
use crate::{host, interrupt};

/// Writes the file, and puts into it what follows from `id` where qemu-img would have something else every time.
pub(super) fn convert(program: &Qemu, raw: &Path, path: &Path, id: Uuid) -> Result<Whole> {
    let mut command = host::command("qemu-img")?;
    command.args(["convert", "-q", "-f", "raw", "-O", program.driver]);
    if !program.options.is_empty() {
        command.args(["-o", program.options]);
    }
    command.arg(raw).arg(path);
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
    settle(program, path, id).with_context(|| format!("giving {} its identifiers", path.display()))?;
    let size = path.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    Ok(Whole { size, sha256: sparse::digest(path)? })
}

fn settle(program: &Qemu, path: &Path, id: Uuid) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    (program.settle)(&file, id)
}
