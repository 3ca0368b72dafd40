//! Colours of a terminal. Who knows whether they are wanted decides (`cli::terminal`); whoever renders an answer is told by
//! the flag of `{:#}`.

/// SGR codes (ECMA-48, 8.3.117).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// It failed.
    Red,
    /// It is good.
    Green,
    /// It may matter.
    Yellow,
    /// What to do.
    Cyan,
}

impl Colour {
    fn code(self) -> u8 {
        match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
        }
    }

    /// The words in this colour, where it is `wanted`.
    pub fn paint(self, words: &str, wanted: bool) -> String {
        if wanted { format!("\x1b[{}m{words}\x1b[0m", self.code()) } else { words.to_owned() }
    }
}
