//! The boot loaders of an image that starts grub, and what they find.

use serde::Serialize;

use super::BOOT_CHAIN;
use crate::finding::{Finding, Severity, clean};
use crate::verdict::Check;

/// What the firmware starts, and what that finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Loaders {
    /// The loaders that are there.
    pub files: Vec<String>,
    /// grub's first configuration.
    pub config: Option<String>,
    /// The file system that it looks for.
    pub root_uuid: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Loaders {
    /// The verdict on them; claims no more than was looked at.
    pub(crate) fn verdict(&self) -> Check {
        let error = self.findings.iter().find(|finding| finding.severity == Severity::Error);
        let sound = match self.findings.is_empty() {
            true => "the loaders are there, and the root that they look for",
            false => "the loaders are there; whether they find the root cannot be told",
        };
        Check::new(BOOT_CHAIN, error.is_none(), error.map_or(sound, |error| &error.message))
    }

    /// Reads grub's first configuration `path`; `roots` are the UUIDs of the image's ext4 file systems.
    pub(crate) fn read_config(&mut self, path: String, bytes: &[u8], roots: &[String]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.root_uuid = searched(&text).map(clean);
        match &self.root_uuid {
            None => {
                let message = format!("{path} does not search for the root by UUID");
                self.findings.push(Finding::warning(message));
            }
            Some(uuid) if roots.iter().any(|root| root.eq_ignore_ascii_case(uuid)) => {}
            Some(uuid) => {
                let have = if roots.is_empty() { "no ext4".to_owned() } else { roots.join(", ") };
                let message = format!("{path} looks for the file system {uuid}, and the image has {have}");
                self.findings.push(Finding::error(message));
            }
        }
        self.config = Some(path);
    }
}

/// The UUID in `search.fs_uuid UUID root` or `search --fs-uuid --set=root UUID`.
fn searched(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let by_uuid = match words.next()? {
            "search.fs_uuid" => true,
            "search" => line.contains("--fs-uuid"),
            _ => false,
        };
        let is_uuid =
            |word: &&str| word.len() == 36 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if by_uuid { words.find(is_uuid) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::searched;

    const UUID: &str = "496e403c-81de-48e8-a48c-5de5248addec";

    #[test]
    fn two_ways_to_search() {
        for text in [format!("search.fs_uuid {UUID} root"), format!(" search --fs-uuid --set=root {UUID}")] {
            assert_eq!(searched(&text), Some(UUID));
        }
        assert_eq!(searched("search.fs_uuid\nsearch --label x\nsearch.fs_uuid short root"), None);
    }
}
