//! Runs programs of a root tree in the tree, and the mounts that they need; see [`crate::sandbox::confined`] for what they see.

pub(crate) mod mounts;

use std::collections::VecDeque;
use std::path::Path;

use anyhow::Result;

use crate::error::Problem;
use crate::event::Sink;
use crate::sandbox::confined::{Ended, Left, Limits, Program};
use crate::tree::Root;

/// Lines of a program's output that are kept for its error message: dpkg says what failed once at the place and
/// once at the end, and the whole of a failed script's output has to be between them.
const KEPT_LINES: usize = 400;

/// A tree whose programs run, and under which conditions.
#[derive(Clone, Copy)]
pub(crate) struct Chroot<'a> {
    /// The tree.
    pub root: &'a Root,
    /// Its folder, which becomes `/` for them.
    pub folder: &'a Path,
    /// Time stamp of everything that scripts write, seconds since 1970.
    pub epoch: u64,
    /// What they may take.
    pub limits: Limits,
    /// Who hears of processes that they leave.
    pub sink: &'a dyn Sink,
}

impl Chroot<'_> {
    /// A program inside the tree: nothing of the host's environment, nobody to answer a question.
    pub(crate) fn program(&self, name: &str) -> Program {
        let epoch = self.epoch.to_string();
        let environment = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            // Every date that a script writes (shadow's last change, initramfs, caches) is the image's own.
            ("SOURCE_DATE_EPOCH", &epoch),
            // systemctl and friends act on files only.
            ("SYSTEMD_OFFLINE", "1"),
            // Ubuntu's flash-kernel would look for the board that it runs on.
            ("FLASH_KERNEL_SKIP", "true"),
        ];
        Program {
            root: self.folder.to_owned(),
            name: name.to_owned(),
            arguments: Vec::new(),
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            limits: self.limits,
        }
    }

    /// Runs the program; each line of its output is handed to `line`, and the last of them stand in the error.
    ///
    /// # Errors
    /// The command, its exit status and its output.
    pub(crate) fn run(&self, program: &Program, mut line: impl FnMut(&str)) -> Result<()> {
        let mut kept = VecDeque::new();
        let ended = program.run(|text| {
            line(text);
            kept.push_back(text.to_owned());
            if kept.len() > KEPT_LINES {
                kept.pop_front();
            }
        })?;
        for left in &ended.left {
            self.sink.warn(left_running(&program.name, left));
        }
        if ended.success() {
            return Ok(());
        }
        Err(failed(program, &ended, kept.make_contiguous()).into())
    }
}

/// A package that starts its service itself, and not by the init system, does so in a build too.
fn left_running(name: &str, left: &Left) -> String {
    let who = left.package.as_ref().map_or_else(|| name.to_owned(), |package| format!("package {package}"));
    format!("{who} left a process running, which was ended: {}", left.command)
}

fn failed(program: &Program, ended: &Ended, kept: &[String]) -> Problem {
    let words = std::iter::once(&program.name).chain(&program.arguments);
    let command = shortened(&words.map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
    let output = kept.join("\n");
    let problem = Problem::work(format!("{command} failed: {}\n{output}", ended.status()));
    match ended.passed {
        None => problem,
        Some(_) => problem.hint(format!(
            "a package's script did that (the last lines are its own); where it has to, allow more: --limits with some of {}",
            Limits::WORDS
        )),
    }
}

/// As one would type it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
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
    use super::{Chroot, failed, left_running, shortened};
    use crate::event::Silent;
    use crate::sandbox::confined::{Ended, Left, Limits};
    use crate::tree::Root;

    fn ended(code: Option<i32>, passed: Option<&str>) -> Ended {
        Ended { code, signal: None, left: Vec::new(), passed: passed.map(str::to_owned) }
    }

    #[test]
    fn the_error_has_command_status_and_output() {
        let folder = tempfile::tempdir().expect("temp dir");
        let root = Root::open(folder.path()).expect("root");
        let limits = Limits::default();
        let tree = Chroot { root: &root, folder: folder.path(), epoch: 7, limits, sink: &Silent };
        let program = tree.program("sh").args(["-c", "echo one; exit 4"]);
        let output = || vec!["one".to_owned(), "two".to_owned()];
        let problem = failed(&program, &ended(Some(4), None), &output());
        assert_eq!(problem.message, "sh -c 'echo one; exit 4' failed: exit status: 4\none\ntwo");
        assert_eq!(problem.hint, None);
        let problem = failed(&program, &ended(None, Some("it took too much")), &output());
        assert!(problem.message.contains("failed: it took too much\none"), "{}", problem.message);
        assert!(problem.hint.expect("a way out").contains("--limits"));
    }

    #[test]
    fn who_left_a_process() {
        let left =
            |package: Option<&str>| Left { command: "sleep 9".into(), package: package.map(str::to_owned) };
        let by = |package| left_running("dpkg", &left(package));
        assert_eq!(by(Some("site")), "package site left a process running, which was ended: sleep 9");
        assert_eq!(by(None), "dpkg left a process running, which was ended: sleep 9");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(300)).chars().count(), 162);
    }
}
