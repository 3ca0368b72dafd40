//! Names that a device goes by.

use crate::provisioning::lint::registration_id_is_legal;
use crate::provisioning::room::COMMON_NAME;
use crate::units::Digest;

/// A label of a host name (RFC 1035).
const LONGEST_LABEL: usize = 63;
/// Of a longer name so much stays, and so many hexadecimal digits of its SHA-256 take the place of the rest: what tells
/// two devices apart may stand at the end.
const KEPT: usize = 50;
const DIGITS: usize = 12;

/// What is wrong with a registration id, if anything is; `certified`: it is also a certificate's common name.
pub fn registration_id_fault(id: &str, certified: bool) -> Option<&'static str> {
    if !registration_id_is_legal(id) {
        return Some(
            "is no registration id: letters, digits and `-._:`, at the end a letter, digit or `-`, at most 128",
        );
    }
    // Programs take the one for an option, and the other for a hidden file or a folder.
    if id.starts_with(['-', '.']) {
        return Some("begins with `-` or `.`, which programs and file systems treat specially");
    }
    (certified && id.len() > COMMON_NAME)
        .then_some("is longer than the 64 characters that a certificate's common name holds")
}

/// The host name that first boot makes of a name (`label` in overlays/base/usr/lib/edgepress/overrides.sh): lower case, `-`
/// for what it cannot hold, a letter first, at most 63. Of a longer one a digest of the whole takes the place of the end.
pub fn label(whole: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = whole.bytes().map(|byte| clean(char::from(byte))).collect();
    let name = name.trim_start_matches('-');
    let mut name = match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => name.to_owned(),
        Some(_) => format!("edge-{name}"),
        None => "edge".to_owned(),
    };
    if name.len() > LONGEST_LABEL {
        let digest = Digest::of(whole.as_bytes()).to_string();
        name.truncate(KEPT);
        name = format!("{name}-{}", &digest[..DIGITS.min(digest.len())]);
    }
    name.trim_end_matches('-').to_owned()
}

/// A serial as it is compared. Serials are written in many ways: 0x0012AB is 12ab.
pub fn plain_serial(serial: &str) -> String {
    let serial = serial.trim().to_ascii_lowercase();
    let digits = serial.strip_prefix("0x").unwrap_or(&serial).trim_start_matches('0');
    digits.to_owned()
}

/// A registration id as a file's name: `:` and a dot at the beginning become `%3A` and `%2E`, which no id holds.
pub fn file_name(id: &str) -> String {
    let name = id.replace(':', "%3A");
    match name.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => name,
    }
}

/// The registration id that [`file_name`] made a name of, if it is one.
pub fn from_file_name(name: &str) -> Option<String> {
    let id = name.replace("%3A", ":").replace("%2E", ".");
    (registration_id_fault(&id, false).is_none() && file_name(&id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::{file_name, from_file_name, label, plain_serial, registration_id_fault};

    #[test]
    fn labels_are_those_of_first_boot() {
        for (name, host) in [
            ("pump-7", "pump-7"),
            ("Pump_7.Plant:A", "pump-7-plant-a"),
            ("7", "edge-7"),
            ("--7", "edge-7"),
            ("-", "edge"),
            ("é", "edge"),
            ("x--", "x"),
            (&"a".repeat(63), &"a".repeat(63)),
        ] {
            assert_eq!(label(name), host, "{name}");
        }
        // As `printf %s … | sha256sum` has them.
        let long = "line-north-".repeat(6);
        let [one, other] = ["1", "2"].map(|end| label(&format!("{long}{end}")));
        assert_eq!(one.len(), 63);
        assert_ne!(one, other);
        assert!(one.starts_with("line-north-line-north-") && one[..51] == other[..51]);
    }

    #[test]
    fn file_names_are_safe_and_lead_back() {
        for (id, name) in [("pump-7", "pump-7"), ("a:b", "a%3Ab"), (":a", "%3Aa"), ("_.-", "_.-")] {
            assert_eq!(file_name(id), name);
            assert_eq!(from_file_name(name).as_deref(), Some(id));
        }
        for name in ["a:b", ".x", "a b", "", "x%2Ey", "%2Ehidden-", "%2E.-"] {
            assert_eq!(from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn serials_in_any_writing() {
        for serial in ["12ab", " 0x0012AB ", "0012Ab"] {
            assert_eq!(plain_serial(serial), "12ab");
        }
    }

    #[test]
    fn ids_that_dps_refuses() {
        assert_eq!(registration_id_fault("a.b:c_d-", false), None);
        for id in
            ["", "a b", "a.", "a/b", "ä", &"a".repeat(129), "-n", "--", "-", ".", "..", ".a", "..-", "-rf"]
        {
            assert!(registration_id_fault(id, false).is_some(), "{id}");
        }
        assert!(registration_id_fault(&"a".repeat(65), true).is_some());
        assert!(registration_id_fault(&"a".repeat(65), false).is_none());
    }
}
