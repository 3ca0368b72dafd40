//! Runs programs of the tree in the tree.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::error::Problem;
use crate::host;

/// Lines of a program's output that are kept for its error message: dpkg says what failed once at the place and
/// once at the end, and the whole of a failed script's output has to be between them.
const KEPT_LINES: usize = 400;

/// A command inside the tree: nothing of the host's environment, nobody to answer a question.
///
/// # Errors
/// When the host has no chroot program.
pub fn command(root: &Path, epoch: u64, program: &str) -> Result<Command> {
    let mut command = host::command("chroot")?;
    command
        .arg(root)
        .arg(program)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
        // Every date that a script writes (shadow's last change, initramfs, caches) is the image's own.
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        // systemctl and friends act on files only.
        .env("SYSTEMD_OFFLINE", "1")
        // Ubuntu's flash-kernel would look for the board that it runs on.
        .env("FLASH_KERNEL_SKIP", "true")
        .current_dir("/");
    Ok(command)
}

/// Runs the command; each line of its output is handed to `line`, and the last of them stand in the error.
///
/// # Errors
/// The command, its exit status and its output.
pub fn run(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting {}", host::line(command)))?;
    let shown = shortened(&host::line(command));
    // Both ends that this process holds would keep the pipe open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut kept = VecDeque::new();
    for text in BufReader::new(reader).split(b'\n') {
        let text = String::from_utf8_lossy(&text.context("reading a program's output")?).into_owned();
        line(&text);
        kept.push_back(text);
        if kept.len() > KEPT_LINES {
            kept.pop_front();
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let output = Vec::from(kept).join("\n");
    Err(Problem::work(format!("{shown} failed: {status}\n{output}")).into())
}

/// A dpkg command names two hundred files: the first few tell enough.
fn shortened(line: &str) -> String {
    const LIMIT: usize = 160;
    match line.char_indices().nth(LIMIT) {
        Some((at, _)) => format!("{} …", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{run, shortened};
    use std::process::Command;

    #[test]
    fn output_is_streamed_and_kept_for_the_error() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 4"]);
        let error = run(&mut command, |line| seen.push(line.to_owned())).expect_err("fails");
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(
            error.to_string(),
            "sh -c 'echo one; echo two >&2; exit 4' failed: exit status: 4\none\ntwo"
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(300)).chars().count(), 162);
    }
}
