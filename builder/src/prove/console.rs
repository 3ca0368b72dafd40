//! A serial console as lines of plain text.
//!
//! Firmware, boot loader, kernel and systemd all write terminal escapes and start lines without ending them. What
//! comes out here is what a person would read: one text per line, without escapes, control characters or blanks.

/// Longest line that is kept together, in bytes: a guest that never ends its line must not fill the memory.
const LINE_MAX: usize = 4096;

/// Turns a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    escape: Escape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Escape {
    /// Plain text.
    #[default]
    None,
    /// After ESC.
    Begun,
    /// In a control sequence, `ESC [ … letter`.
    Control,
    /// In a string, `ESC ] … BEL` or `ESC ] … ESC \`.
    Text,
    /// One more byte belongs to the escape, as in `ESC ( B`.
    OneMore,
}

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

impl Lines {
    /// Takes bytes as they come and returns the lines that they end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut done = Vec::new();
        for &byte in bytes {
            if self.takes(byte) {
                done.extend(self.end());
            }
        }
        done
    }

    /// The line that has begun and not ended: a prompt, mostly.
    pub(crate) fn pending(&self) -> String {
        text(&self.line)
    }

    /// Ends the line that has begun, if there is one.
    pub(crate) fn end(&mut self) -> Option<String> {
        let line = text(&self.line);
        self.line.clear();
        (!line.is_empty()).then_some(line)
    }

    /// Takes one byte; true if it ends the line.
    fn takes(&mut self, byte: u8) -> bool {
        match (self.escape, byte) {
            (Escape::Text, BEL) => self.escape = Escape::None,
            // Of any escape: ESC starts anew (`ESC \`, the end of a string, is then an escape of its own).
            (_, ESC) => self.escape = Escape::Begun,
            (Escape::Text, b'\n') | (Escape::None, b'\n' | b'\r') => {
                self.escape = Escape::None;
                return true;
            }
            (Escape::Text, _) => {}
            (Escape::Begun, _) => {
                self.escape = match byte {
                    b'[' => Escape::Control,
                    b']' | b'P' | b'^' | b'_' | b'X' => Escape::Text,
                    b'(' | b')' | b'*' | b'+' | b'#' | b'%' | b' ' => Escape::OneMore,
                    _ => Escape::None,
                };
            }
            (Escape::OneMore, _) => self.escape = Escape::None,
            (Escape::Control, 0x40..=0x7e) => {
                self.escape = Escape::None;
                // The cursor goes elsewhere, or the screen is cleared: what follows is another line.
                return matches!(byte, b'H' | b'f' | b'J' | b'd' | b'A' | b'B' | b'E' | b'F');
            }
            (Escape::Control, _) => {}
            (Escape::None, b'\t') => self.line.push(b' '),
            (Escape::None, 0..=0x1f | 0x7f) => {}
            (Escape::None, _) => {
                self.line.push(byte);
                return self.line.len() >= LINE_MAX;
            }
        }
        false
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{LINE_MAX, Lines};

    #[test]
    fn escapes_go() {
        for (bytes, expected) in [
            (&b"plain\r\nnext\n"[..], &["plain", "next"][..]),
            (
                b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mdocker.service\x1b[0m - Docker.\r\n",
                &["[  OK  ] Started docker.service - Docker."],
            ),
            (b"\x1b[2J\x1b[01;01HBdsDxe: loading\x1b[02;01Hnext\n", &["BdsDxe: loading", "next"]),
            (b"\x1b]0;title\x07shown\n", &["shown"]),
            (b"\x1b]3008;start=x\x1b\\shown\n", &["shown"]),
            (b"\x1b(Bshown\x1b=\x1bc\n", &["shown"]),
            (b"a\tb\x00\x08\n\n   \n", &["a b"]),
            (b"\xff\xfe\n", &["\u{fffd}\u{fffd}"]),
            (b"\x1b]unended\nnext\n", &["next"]),
        ] {
            assert_eq!(Lines::default().push(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn any_division_gives_the_same_lines() {
        let bytes = b"a\x1b[1;31mb\x1b[0mc\r\n\x1b]0;t\x07d\ne";
        let whole = Lines::default().push(bytes);
        let mut lines = Lines::default();
        let parts: Vec<String> = bytes.iter().flat_map(|byte| lines.push(&[*byte])).collect();
        assert_eq!(parts, whole);
        assert_eq!(lines.pending(), "e");
        assert_eq!(lines.end().as_deref(), Some("e"));
        assert_eq!(lines.end(), None);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let lines = Lines::default().push(&vec![b'x'; 3 * LINE_MAX]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LINE_MAX; 3]);
    }
}
