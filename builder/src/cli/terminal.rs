//! Whether a terminal gets colours, and what is said on standard error.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write as _};

/// Are colours wanted on this stream? `NO_COLOR` (no-color.org) and `CLICOLOR_FORCE` (bixense.com/clicolors) have the last
/// word, in this order; then it is a terminal that is not dumb.
pub(super) fn colours(stream: &impl IsTerminal) -> bool {
    decide(stream.is_terminal(), |name| std::env::var_os(name))
}

fn decide(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let says = |name: &str, word: &str| set(name).is_some_and(|value| value == word);
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some() && !says("CLICOLOR_FORCE", "0") {
        return true;
    }
    terminal && set("TERM").is_some() && !says("TERM", "dumb") && !says("CLICOLOR", "0")
}

/// Writes to standard error. One that is closed, or whose disk is full, has nobody to tell, and the work goes on: `eprint!`
/// would panic there.
///
/// # Errors
/// When it did not go out, for those few whom that concerns.
pub(super) fn say(words: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stream = io::stderr().lock();
    stream.write_fmt(words).and_then(|()| stream.flush())
}

#[cfg(test)]
mod tests {
    use super::decide;

    #[test]
    fn who_decides_about_colours() {
        for (terminal, environment, expected) in [
            (true, &[("TERM", "xterm")][..], true),
            (true, &[("TERM", "xterm"), ("NO_COLOR", "")], true),
            (true, &[("TERM", "xterm"), ("NO_COLOR", "1")], false),
            (true, &[("TERM", "dumb")], false),
            (true, &[], false),
            (true, &[("TERM", "xterm"), ("CLICOLOR", "0")], false),
            (false, &[("TERM", "xterm")], false),
            (false, &[("CLICOLOR_FORCE", "1")], true),
            (false, &[("CLICOLOR_FORCE", "0"), ("TERM", "xterm")], false),
            (true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"), ("TERM", "xterm")], false),
        ] {
            let value = |name: &str| {
                environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            };
            assert_eq!(decide(terminal, value), expected, "{terminal} {environment:?}");
        }
    }
}
