//! The output of a program that nobody trusts: lines of bounded length, without what a terminal would obey.

use std::io::{PipeReader, Read as _};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Limits;

/// A longer line is cut into several.
const LONGEST_LINE: usize = 8 << 10;
/// Pieces of output that wait for whoever reads them.
const AHEAD: usize = 16;

/// The program was silent too long, or ran too long; how long it ran.
pub(super) struct Silence(pub Duration);

/// Hands each line to `line` until the output ends; the inner error is a program that took too long.
///
/// # Errors
/// When the pipe cannot be read.
pub(super) fn each_line(
    mut output: PipeReader,
    since: Instant,
    limits: &Limits,
    mut line: impl FnMut(&str),
) -> Result<Result<(), Silence>> {
    let (sender, receiver) = sync_channel(AHEAD);
    // Not joined: when the limit is passed the program is ended after this returns, and only then does the pipe end.
    thread::spawn(move || {
        loop {
            let mut piece = vec![0; LONGEST_LINE];
            let read = output.read(&mut piece).map(|count| {
                piece.truncate(count);
                piece
            });
            let end = read.as_ref().map_or(true, Vec::is_empty);
            if sender.send(read).is_err() || end {
                return;
            }
        }
    });
    let mut rest = Vec::new();
    loop {
        match receiver.recv_timeout(limits.patience(since.elapsed())) {
            Ok(piece) => {
                let piece = piece.context("reading a program's output")?;
                if piece.is_empty() {
                    break;
                }
                rest = cut(rest, &piece, &mut line);
                if since.elapsed() >= Duration::from_secs(limits.time) {
                    return Ok(Err(Silence(since.elapsed())));
                }
            }
            Err(RecvTimeoutError::Timeout) => return Ok(Err(Silence(since.elapsed()))),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if !rest.is_empty() {
        line(&clean(&rest));
    }
    Ok(Ok(()))
}

/// Hands over the whole lines of what came so far, and returns the rest.
fn cut(mut rest: Vec<u8>, piece: &[u8], line: &mut impl FnMut(&str)) -> Vec<u8> {
    for byte in piece {
        if *byte == b'\n' || rest.len() == LONGEST_LINE {
            line(&clean(&rest));
            rest.clear();
        }
        if *byte != b'\n' {
            rest.push(*byte);
        }
    }
    rest
}

/// Text for a terminal: what would move the cursor, set a title or ring a bell is shown as a replacement character; of a
/// line that was overwritten, the last state is shown, as on a terminal.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    let last = text.rsplit('\r').next().unwrap_or_default();
    last.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_LINE, clean, each_line};
    use crate::sandbox::confined::Limits;
    use std::io::Write as _;
    use std::time::Instant;

    #[test]
    fn lines_are_bounded_and_clean() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let long = vec![b'x'; 3 * LONGEST_LINE];
        std::thread::spawn(move || {
            writer.write_all(b"one\n\x1b]0;title\x07two\r\n10%\r100%\n").expect("writes");
            writer.write_all(&long).expect("writes");
        });
        let mut lines = Vec::new();
        let ended = each_line(reader, Instant::now(), &Limits::default(), |line| lines.push(line.to_owned()));
        assert!(ended.expect("reads").is_ok());
        assert_eq!(lines[..3], ["one", "\u{fffd}]0;title\u{fffd}two", "100%"]);
        assert_eq!(lines[3..].iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE; 3]);
    }

    #[test]
    fn silence_ends() {
        let (reader, _writer) = std::io::pipe().expect("pipe");
        let limits = Limits { silence: 1, ..Limits::default() };
        let ended = each_line(reader, Instant::now(), &limits, |_| {}).expect("reads");
        assert!(ended.is_err_and(|silence| silence.0.as_secs() >= 1));
    }

    #[test]
    fn tabs_stay() {
        assert_eq!(clean(b"a\tb"), "a\tb");
    }
}
