//! Names by Azure's rules. <https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules>

use super::version::Version;
use crate::stamp::names::label;
use crate::units::Digest;

/// Longest name of a Linux VM that is its computer's name as well.
const LONGEST_VM: usize = 64;
/// Longest name of most things.
const LONGEST: usize = 80;
/// Hexadecimal digits of an image's SHA-256 in the name of its disk.
const DIGEST: usize = 8;

/// The names of what is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The gallery: letters, digits, `_` and `.`.
    pub gallery: String,
    /// The image definition: letters, digits, `_`, `-` and `.`.
    pub image: String,
    /// The managed disk: letters, digits, `_` and `-`. It tells the image's bytes: a version's source cannot be changed,
    /// so a version that was used for another image is refused, where a disk of the same name would change nothing.
    pub disk: String,
    /// The VM: letters, digits and `-`.
    pub vm: String,
    /// The image's publisher, offer and stock-keeping unit are free text of these signs; these two are ours.
    pub publisher: String,
    /// See `publisher`.
    pub sku: String,
}

impl Names {
    /// Names for an image of this name, version and digest; none where it is not built yet.
    pub(super) fn of(name: &str, version: Version, digest: Option<&Digest>) -> Self {
        let plain = clean(name, "-", LONGEST);
        let version = version.to_string().replace('.', "-");
        let digest = digest.map(|digest| format!("-{}", &digest.to_string()[..DIGEST]));
        let suffix = format!("-{version}{}", digest.unwrap_or_default());
        Self {
            gallery: clean(&format!("{}_images", name.replace('-', "_")), "_", LONGEST),
            disk: format!("{}{suffix}", clean(name, "-", LONGEST - suffix.len())),
            vm: host(&plain),
            publisher: "edgepress".into(),
            sku: clean(name, "-", 64),
            image: plain,
        }
    }
}

/// Letters, digits and `sign`, at most `longest`, with a letter or digit at both ends; never empty.
fn clean(name: &str, sign: &str, longest: usize) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() { c.to_string() } else { sign.to_owned() };
    let name: String = name.chars().map(good).collect();
    let name = name.trim_start_matches(sign);
    let cut: String = name.chars().take(longest).collect();
    match cut.trim_end_matches(sign) {
        "" => "edgepress".to_owned(),
        name => name.to_owned(),
    }
}

/// As first boot makes host names, so that VM, host and registration id are one: `ubuntu-24-04-azure-1`.
fn host(name: &str) -> String {
    let short: String = label(name).chars().take(LONGEST_VM - 4).collect();
    format!("{}-1", short.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::{Names, clean};
    use crate::azure::version::Version;
    use crate::units::Digest;

    #[test]
    fn azure_s_rules() {
        let version = |text: &str| text.parse::<Version>().expect(text);
        let names = Names::of("ubuntu-24-04-azure", version("2026.1122.712"), None);
        assert_eq!(names.gallery, "ubuntu_24_04_azure_images");
        assert_eq!(names.image, "ubuntu-24-04-azure");
        assert_eq!(names.disk, "ubuntu-24-04-azure-2026-1122-712");
        assert_eq!(names.vm, "ubuntu-24-04-azure-1");
        let digest = Digest::of("vhd");
        let built = Names::of("factory", version("1.2.0"), Some(&digest));
        assert_eq!(built.disk, format!("factory-1-2-0-{}", &digest.to_string()[..8]));
        let longest = version("2147483647.2147483647.2147483647");
        let long = Names::of(&"9x-".repeat(60), longest, Some(&digest));
        for (name, longest) in [(&long.gallery, 80), (&long.image, 80), (&long.disk, 80), (&long.vm, 64)] {
            assert!(name.len() <= longest && !name.is_empty(), "{name}");
            assert!(name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric()), "{name}");
            assert!(name.chars().last().is_some_and(|c| c.is_ascii_alphanumeric()), "{name}");
        }
        assert!(long.vm.starts_with("edge-9x-"), "a host name begins with a letter: {}", long.vm);
        assert!(!long.gallery.contains('-'));
        assert_eq!(clean("--", "-", 5), "edgepress");
    }
}
