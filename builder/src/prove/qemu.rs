//! QEMU as a child process: it never outlives its owner, and its console arrives as it is written.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::machine::{Boot, CONTROL, NETWORK};
use super::qmp;
use super::tpm::Tpm;
use crate::host;

/// How long QEMU may take to end after it closed its console.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// How often a QEMU that is about to end is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// Most bytes of QEMU's own messages that are kept.
const MESSAGES_MAX: u64 = 64 << 10;

/// Lines of them that are shown.
const MESSAGE_LINES: usize = 5;

/// A running QEMU; killed when dropped.
///
/// That QEMU dies with a killed edgepress is the sandbox's doing: QEMU lives in its pid namespace.
pub(super) struct Qemu {
    child: Child,
    started: Instant,
    control: PathBuf,
    messages: Option<JoinHandle<String>>,
    _tpm: Option<Tpm>,
    // QEMU must not read an end of file: it would close the serial port.
    _keyboard: Option<ChildStdin>,
}

impl Qemu {
    /// Switches the machine on. `console` is called with what arrives on its serial console, from a thread of its own;
    /// with nothing when the console closes.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub(super) fn start<T: Send + 'static>(
        boot: &Boot,
        sender: SyncSender<T>,
        console: fn(Vec<u8>, Instant) -> T,
    ) -> Result<Self> {
        let mut command = Command::new(&boot.program);
        command.args(boot.arguments()).current_dir(&boot.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let tpm = if boot.tpm { Some(Tpm::start(&boot.folder)?) } else { None };
        // Of a machine before: whoever waits for the socket must find this one's.
        std::fs::remove_file(boot.folder.join(CONTROL)).ok();
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", host::line(&command)))?;
        let keyboard = child.stdin.take();
        let mut output = child.stdout.take().context("opening the console")?;
        let errors = child.stderr.take().context("opening QEMU's messages")?;
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = output.read(&mut buffer).unwrap_or(0);
                let gone = sender.send(console(buffer[..count].to_vec(), Instant::now())).is_err();
                if count == 0 || gone {
                    break;
                }
            }
        });
        let messages = Some(std::thread::spawn(move || read_messages(errors)));
        let control = boot.folder.join(CONTROL);
        let mut qemu = Self { child, started, control, messages, _tpm: tpm, _keyboard: keyboard };
        if boot.paused {
            qemu.go_without_network()?;
        }
        Ok(qemu)
    }

    /// Pulls the cable of a machine that waits to be let go, and lets it go: that is when it is switched on.
    fn go_without_network(&mut self) -> Result<()> {
        let deadline = Instant::now() + LAST_BREATH;
        while !self.control.exists() && Instant::now() < deadline {
            sleep(GLANCE);
        }
        self.set_link(false)?;
        qmp::go(&self.control)?;
        self.started = Instant::now();
        Ok(())
    }

    /// When it was switched on.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Waits until QEMU has ended by itself, which it must do soon; else kills it. Says how it ended.
    pub(super) fn obituary(&mut self) -> String {
        let status = self.wait_until(Instant::now() + LAST_BREATH);
        let ended = match status {
            Some(status) if status.success() => "the machine switched itself off or started over".to_owned(),
            Some(status) => format!("QEMU died ({status})"),
            None => "QEMU closed the console".to_owned(),
        };
        self.kill();
        let messages = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        match host::tail(&messages, MESSAGE_LINES) {
            text if text.is_empty() => ended,
            text => format!("{ended}: {text}"),
        }
    }

    /// Plugs a device in; see [`qmp::plug`].
    ///
    /// # Errors
    /// When QEMU does not do it.
    pub(super) fn plug(&self, device: &Value) -> Result<()> {
        qmp::plug(&self.control, device)
    }

    /// Plugs the network's cable in, or pulls it.
    ///
    /// # Errors
    /// When QEMU does not do it.
    pub(super) fn set_link(&self, up: bool) -> Result<()> {
        qmp::set_link(&self.control, NETWORK, up)
    }

    /// Takes the power away: nothing is flushed, nobody is asked. Returns when that was.
    pub(super) fn cut(&mut self) -> Instant {
        let at = Instant::now();
        self.kill();
        at
    }

    /// Asks the guest to shut down and gives it time; true if it did.
    pub(super) fn power_off(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let asked = qmp::press_power_button(&self.control).is_ok();
        // A machine without a power button gets the time all the same, to write what it has in memory.
        let off = self.wait_until(deadline).is_some() && asked;
        if !off && qmp::quit(&self.control).is_ok() {
            self.wait_until(Instant::now() + LAST_BREATH);
        }
        self.kill();
        off
    }

    fn wait_until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(GLANCE);
        }
    }

    fn kill(&mut self) {
        // Both fail only for a child that has ended and been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads to the end, so that QEMU never blocks, and keeps the beginning.
fn read_messages(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    from.by_ref().take(MESSAGES_MAX).read_to_end(&mut kept).ok();
    std::io::copy(&mut from, &mut std::io::sink()).ok();
    String::from_utf8_lossy(&kept).into_owned()
}

/// QEMU's own words on its version.
///
/// # Errors
/// When it cannot run.
pub(super) fn version(program: &Path) -> Result<String> {
    let said = host::run(Command::new(program).arg("--version"))?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}
