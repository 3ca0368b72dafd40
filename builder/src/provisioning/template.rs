//! Templates of names: text with `{{ word }}`, filled in on the device by what it finds out about itself.

use crate::finding::nearest;

/// Characters, beside letters and digits, of a registration id (what DPS accepts).
pub(crate) const IN_ID: &str = "-._:";
/// Characters, beside letters and digits, of the name of a Key Vault secret.
pub(crate) const IN_SECRET: &str = "-";
/// Characters, beside letters and digits, of an address: none that a shell, TOML or curl (`[]{}`) treats specially.
pub(crate) const IN_URL: &str = "-._:/?=&%~+,@";

/// What a device can find out about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Serial number: of the device tree, else of DMI.
    Serial,
    /// MAC address of the first wired interface, without colons.
    Mac,
    /// Name of the Azure VM.
    VmName,
    /// Id of the Azure VM.
    VmId,
    /// The registration id, once it is known.
    RegistrationId,
}

impl Word {
    /// Every word.
    pub(crate) const ALL: [Self; 5] =
        [Self::Serial, Self::Mac, Self::VmName, Self::VmId, Self::RegistrationId];
    /// What a registration id can be made of.
    pub(crate) const OF_MACHINE: [Self; 4] = [Self::Serial, Self::Mac, Self::VmName, Self::VmId];

    /// As it stands between the braces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Mac => "mac",
            Self::VmName => "vm_name",
            Self::VmId => "vm_id",
            Self::RegistrationId => "registration_id",
        }
    }
}

/// Is it a template of these words, with letters, digits and `extra` between them?
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(text: &str, words: &[Word], extra: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    for part in parts(text) {
        match part {
            Part::Text(text) => {
                let odd = text.chars().find(|c| !c.is_ascii_alphanumeric() && !extra.contains(*c));
                if let Some(odd) = odd {
                    return Err(format!("it has the character {odd:?}"));
                }
            }
            Part::Word(name) => {
                let names = || words.iter().map(|word| word.name());
                if !names().any(|known| known == name) {
                    let near = nearest(name, names());
                    let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    return Err(format!("`{{{{ {name} }}}}` is nothing that can be known here{near}"));
                }
            }
        }
    }
    Ok(())
}

/// The text with each `{{ word }}` replaced.
pub(crate) fn fill(text: &str, value: impl Fn(&str) -> String) -> String {
    let part = |part: Part<'_>| match part {
        Part::Text(text) => text.to_owned(),
        Part::Word(name) => value(name),
    };
    parts(text).into_iter().map(part).collect()
}

/// Does it name this word?
pub(crate) fn names(text: &str, word: Word) -> bool {
    count(text, word) > 0
}

/// How often does it name this word?
pub(crate) fn count(text: &str, word: Word) -> usize {
    parts(text).iter().filter(|part| matches!(part, Part::Word(name) if *name == word.name())).count()
}

#[derive(Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Word(&'a str),
}

/// Braces that are not closed are text, and no text allows them.
fn parts(mut text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some((before, rest)) = text.split_once("{{") {
        let Some((word, after)) = rest.split_once("}}") else { break };
        parts.extend([Part::Text(before), Part::Word(word.trim())]);
        text = after;
    }
    parts.push(Part::Text(text));
    parts
}

#[cfg(test)]
mod tests {
    use super::{IN_ID, Word, check, fill, names};

    #[test]
    fn templates() {
        assert_eq!(check("edge-{{ serial }}.{{mac}}", &Word::ALL, IN_ID), Ok(()));
        for (text, message) in [
            ("", "it is empty"),
            ("a b", "it has the character ' '"),
            ("{{ serial", "it has the character '{'"),
            ("{{}}", "`{{  }}` is nothing"),
            ("{{ serail }}", "did you mean `serial`?"),
            ("{{ serial }}}}", "it has the character '}'"),
        ] {
            let error = check(text, &Word::ALL, IN_ID).expect_err(text);
            assert!(error.contains(message), "{error}");
        }
        assert_eq!(fill("a{{ x }}b{{y}}c{{", str::to_uppercase), "aXbYc{{");
        assert!(names("{{mac}}", Word::Mac) && !names("mac", Word::Mac));
    }
}
