//! Does a template leave its words the room that they need? What tells devices apart is never cut: first boot refuses a
//! registration id that is too long, so it is told here, before an image is made.
//!
//! ```text
//! "plant-north-{{ serial }}"      fixed part 12, room of 64 − 12 = 52 for the serial number
//! ```

use super::source::DeviceSource;
use super::template::{self, Word};
use crate::finding::{Finding, Severity};
use crate::recipe::types::{Board, CertificateSource};

/// Characters of a certificate's common name (RFC 5280, ub-common-name), which is the registration id.
pub(crate) const COMMON_NAME: usize = 64;
/// Characters of a registration id where no certificate bears it (DPS).
pub(crate) const REGISTRATION_ID: usize = 128;

/// How long a word's value comes out.
struct Length {
    /// So long it is with many machines.
    common: usize,
    /// Longer it is with none that is known.
    longest: usize,
}

impl Length {
    const fn exactly(characters: usize) -> Self {
        Self { common: characters, longest: characters }
    }

    fn of(word: Word, board: Board) -> Self {
        match word {
            Word::Serial => match board {
                // The firmware's 64 bits in hexadecimal.
                Board::RaspberryPi => Self::exactly(16),
                // SMBIOS sets no limit: Hyper-V's has 32 characters, VMware's 54.
                Board::Uefi | Board::Bios => Self { common: 32, longest: 54 },
            },
            Word::Mac => Self::exactly(12),
            Word::VmId => Self::exactly(36),
            // Azure allows 64 for Linux, and nobody types that.
            Word::VmName => Self { common: 32, longest: 64 },
            Word::RegistrationId => Self::exactly(0),
        }
    }
}

/// Most characters of a registration id with this source.
pub(crate) fn most(certificate: &CertificateSource) -> usize {
    match certificate {
        CertificateSource::Tpm {} | CertificateSource::SymmetricKey {} => REGISTRATION_ID,
        _ => COMMON_NAME,
    }
}

/// Says where the template of the registration id leaves too little room. (Host names need none: what is too long of them
/// is replaced by a digest of the whole.) An error: it does not fit with many machines; a warning: with some.
pub(crate) fn shortage(source: &DeviceSource, board: Board) -> Option<Finding> {
    let text = source.registration_id.as_deref()?;
    let most = most(&source.certificate);
    let fixed = template::fill(text, |_| String::new()).len();
    let words: Vec<Word> = Word::OF_MACHINE.into_iter().filter(|word| template::names(text, *word)).collect();
    let sum = |of: fn(&Length) -> usize| -> usize {
        words.iter().map(|word| template::count(text, *word) * of(&Length::of(*word, board))).sum()
    };
    let (common, longest) = (sum(|length| length.common), sum(|length| length.longest));
    if fixed + longest <= most {
        return None;
    }
    let severity = if fixed + common > most { Severity::Error } else { Severity::Warning };
    let names: Vec<String> = words.iter().map(|word| format!("{{{{ {} }}}}", word.name())).collect();
    let message = match words.is_empty() {
        true => format!("it has {fixed} characters, and a registration id has at most {most} here"),
        false => format!(
            "its fixed part of {fixed} characters leaves {} for {}, which may have {longest}",
            most.saturating_sub(fixed),
            names.join(" and "),
        ),
    };
    let expected = format!(
        "at most {} characters beside the words (a longer registration id is refused at first boot, never cut)",
        most.saturating_sub(longest),
    );
    Some(Finding { severity, ..Finding::error(message).expected(expected) })
}

#[cfg(test)]
mod tests {
    use super::shortage;
    use crate::finding::Severity;
    use crate::provisioning::source::DeviceSource;
    use crate::recipe::types::Board;

    fn found(from: &str, id: &str, board: Board) -> Option<Severity> {
        let text = format!("from = \"{from}\"\nregistration_id = \"{id}\"");
        let source = DeviceSource::from_table(text.parse().expect("TOML")).expect("source");
        let shortage = shortage(&source, board);
        if let Some(shortage) = &shortage {
            assert!(shortage.message.contains("characters"), "{shortage:?}");
        }
        shortage.map(|shortage| shortage.severity)
    }

    #[test]
    fn the_longest_value_of_every_word_must_fit() {
        let (error, warning) = (Some(Severity::Error), Some(Severity::Warning));
        let prefix = |length: usize, word: &str| format!("{}{{{{ {word} }}}}", "p".repeat(length));
        for (board, word, good, doubtful) in [
            (Board::RaspberryPi, "serial", 48, 48),
            (Board::Uefi, "serial", 10, 32),
            (Board::Uefi, "mac", 52, 52),
            (Board::Uefi, "vm_id", 28, 28),
            (Board::Uefi, "vm_name", 0, 32),
        ] {
            for (from, more) in [("partition", 0), ("tpm", 64), ("symmetric-key", 64)] {
                assert_eq!(found(from, &prefix(good + more, word), board), None, "{from} {word}");
                let after = found(from, &prefix(good + more + 1, word), board);
                assert_eq!(after, if good == doubtful { error } else { warning }, "{from} {word}");
                assert_eq!(found(from, &prefix(doubtful + more + 1, word), board), error, "{from} {word}");
            }
        }
        // Words add up, one that stands twice counts twice, and a text without words has a length, too.
        assert_eq!(found("partition", "{{ vm_id }}-{{ mac }}", Board::Uefi), None);
        assert_eq!(found("partition", "{{ vm_id }}-{{ vm_id }}", Board::Uefi), error);
        assert_eq!(found("partition", &"p".repeat(64), Board::Uefi), None);
        assert_eq!(found("partition", &"p".repeat(65), Board::Uefi), error);
    }
}
