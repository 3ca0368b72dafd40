//! The little of QEMU's machine protocol that a test needs: press the power button, plug something in or out, let it go,
//! end it.
//!
//! Format: one JSON object a line, after a greeting; QEMU's `docs/interop/qmp-spec`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// QEMU answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// Presses the power button of the machine whose control socket is at `path`.
///
/// # Errors
/// When QEMU does not answer as its protocol says.
pub(super) fn press_power_button(path: &Path) -> Result<()> {
    ask(path, &json!({ "execute": "system_powerdown" }))
}

/// Plugs a device in; `device` is what `-device` would be given, as an object.
///
/// # Errors
/// As [`press_power_button`].
pub(super) fn plug(path: &Path, device: &Value) -> Result<()> {
    ask(path, &json!({ "execute": "device_add", "arguments": device }))
}

/// Pulls the network's cable (`up`: false), or plugs it in.
///
/// # Errors
/// As [`press_power_button`].
pub(super) fn set_link(path: &Path, network: &str, up: bool) -> Result<()> {
    ask(path, &json!({ "execute": "set_link", "arguments": { "name": network, "up": up } }))
}

/// Lets a machine go that was started paused.
///
/// # Errors
/// As [`press_power_button`].
pub(super) fn go(path: &Path) -> Result<()> {
    ask(path, &json!({ "execute": "cont" }))
}

/// Ends QEMU so that what the guest wrote is in the disk's file: a killed one loses the tables that say where.
///
/// # Errors
/// As [`press_power_button`].
pub(super) fn quit(path: &Path) -> Result<()> {
    ask(path, &json!({ "execute": "quit" }))
}

fn ask(path: &Path, what: &Value) -> Result<()> {
    let stream = connect(path).with_context(|| format!("connecting to {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?.take(ANSWER_MAX));
    expect(&mut answers, "QMP")?;
    for command in [&json!({ "execute": "qmp_capabilities" }), what] {
        let text = format!("{command}\n");
        (&stream).write_all(text.as_bytes()).with_context(|| format!("asking QEMU for {command}"))?;
        expect(&mut answers, "return").with_context(|| format!("asking QEMU for {command}"))?;
    }
    Ok(())
}

/// By way of an open folder: a socket's whole path may have 107 bytes at most.
fn connect(path: &Path) -> Result<UnixStream> {
    let folder = File::open(path.parent().context("a socket has a folder")?)?;
    let name = path.file_name().context("a socket has a name")?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok(UnixStream::connect(short)?)
}

/// Reads lines up to the one that has `key`; events come between.
fn expect<R: Read>(answers: &mut BufReader<R>, key: &str) -> Result<()> {
    loop {
        let mut line = String::new();
        if answers.read_line(&mut line).context("reading QEMU's answer")? == 0 {
            bail!("QEMU closed its control socket");
        }
        let answer: Value = serde_json::from_str(&line).context("understanding QEMU's answer")?;
        if answer.get(key).is_some() {
            return Ok(());
        }
        if let Some(error) = answer.get("error") {
            bail!("QEMU answered {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::press_power_button;

    /// A QEMU that greets, then answers each line with the next text.
    fn press(answers: &'static [&'static str]) -> (anyhow::Result<()>, Vec<String>) {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).expect("bind");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.write_all(b"{\"QMP\": {\"version\": {}}}\n").expect("greet");
            let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
            let mut asked = Vec::new();
            for answer in answers {
                let Some(Ok(line)) = lines.next() else { break };
                asked.push(line);
                stream.write_all(answer.as_bytes()).expect("answer");
            }
            asked
        });
        (press_power_button(&path), server.join().expect("server"))
    }

    #[test]
    fn presses() {
        let (result, asked) = press(&["{\"event\": \"RESUME\"}\n{\"return\": {}}\n", "{\"return\": {}}\n"]);
        result.expect("pressed");
        assert_eq!(asked, ["{\"execute\":\"qmp_capabilities\"}", "{\"execute\":\"system_powerdown\"}"]);
    }

    #[test]
    fn odd_answers_are_errors() {
        for answers in [&["{\"error\": {\"desc\": \"no\"}}\n"][..], &["\x00\n"], &["[]\n"], &[]] {
            assert!(press(answers).0.is_err(), "{answers:?}");
        }
    }
}
