//! Wi-Fi on the device: wpa_supplicant for `wlan0` as soon as udev sees it, addresses from systemd-networkd.
//!
//! The network's key is derived as wpa_passphrase(8) does (IEEE 802.11i, annex H.4): the golden image holds what joins this
//! one network, not the words that a person may use elsewhere too. What the recipe does not state comes with the
//! device's identity, and first boot writes the same file.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha1::Sha1;

use super::file;
use crate::error::Problem;
use crate::recipe::types::Wifi;
use crate::tree::entry::TreeEntry;
use crate::units::Digest;

/// wpa_supplicant's configuration, which holds the key. wpa_supplicant@wlan0.service reads it.
pub(crate) const CONFIGURATION: &str = "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
/// Rounds of PBKDF2 that the standard demands.
const ROUNDS: u32 = 4096;
/// A longer file is no key.
const LONGEST_FILE: u64 = 256;

/// What the recipe says of Wi-Fi as files of the root.
///
/// # Errors
/// When the key's file cannot be read or holds no key.
pub(crate) fn files(wifi: &Wifi) -> Result<Vec<TreeEntry>> {
    let mut entries = vec![
        file("/usr/lib/edgepress/wifi.conf", 0o644, constants(wifi)),
        file("/etc/systemd/network/80-edgepress-wireless.network", 0o644, NETWORK),
        file(
            "/etc/systemd/system/systemd-networkd-wait-online.service.d/edgepress-wifi.conf",
            0o644,
            ANY_LINK,
        ),
        file("/etc/systemd/system/wpa_supplicant@wlan0.service.d/edgepress.conf", 0o644, SUPPLICANT),
        file("/etc/udev/rules.d/80-edgepress-wifi.rules", 0o644, RULE),
    ];
    entries.extend(secret(wifi)?);
    Ok(entries)
}

/// Digest of the one file with a key that the recipe brings, if it brings one.
///
/// # Errors
/// See [`files`].
pub(crate) fn allowed(wifi: Option<&Wifi>) -> Result<Option<Digest>> {
    let entry = wifi.map(secret).transpose()?.flatten();
    Ok(entry.and_then(|entry| match entry.kind {
        crate::tree::entry::EntryKind::File(content) => Some(Digest::of(content)),
        _ => None,
    }))
}

fn secret(wifi: &Wifi) -> Result<Option<TreeEntry>> {
    let (Some(ssid), Some(key_file)) = (&wifi.ssid, &wifi.key_file) else { return Ok(None) };
    let key = derived(&read_key(key_file)?, ssid);
    let hidden = if wifi.hidden { "\tscan_ssid=1\n" } else { "" };
    let text = format!(
        "\
# Written by edgepress.
ctrl_interface=/run/wpa_supplicant
country={}
network={{
\tssid={}
{hidden}\tkey_mgmt=WPA-PSK
\tpsk={key}
}}
",
        wifi.country,
        hex(ssid.as_bytes()),
    );
    Ok(Some(file(CONFIGURATION, 0o600, text)))
}

/// For first boot, which writes that file from an identity. The name in hexadecimal: it may hold any sign.
fn constants(wifi: &Wifi) -> String {
    format!(
        "\
# Written by edgepress: constants of this image for first boot.
EP_WIFI_COUNTRY='{}'
EP_WIFI_SSID='{}'
EP_WIFI_HIDDEN={}
",
        wifi.country,
        hex(wifi.ssid.as_deref().unwrap_or_default().as_bytes()),
        if wifi.hidden { "yes" } else { "no" },
    )
}

/// Reads the key of a network: one line, 8 to 63 printable characters, or 64 hexadecimal digits.
///
/// # Errors
/// When the file cannot be read or holds something else; its content is never repeated.
pub(crate) fn read_key(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes))
        .with_context(|| format!("reading the Wi-Fi key {}", path.display()))?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let key = text.strip_suffix('\n').unwrap_or(&text);
    let key = key.strip_suffix('\r').unwrap_or(key);
    if is_key(key) {
        return Ok(key.to_owned());
    }
    let message = format!("{} is no key of a Wi-Fi network", path.display());
    Err(Problem::input(message)
        .hint(
            "one line: 8 to 63 printable characters, or the 64 hexadecimal digits that wpa_passphrase prints",
        )
        .into())
}

/// Is it the key of a network: 8 to 63 printable characters, or 64 hexadecimal digits?
pub(crate) fn is_key(key: &str) -> bool {
    let printable = (8..=63).contains(&key.len()) && key.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    printable || is_derived(key)
}

fn is_derived(key: &str) -> bool {
    key.len() == 64 && key.chars().all(|c| c.is_ascii_hexdigit())
}

/// 64 hexadecimal digits.
fn derived(key: &str, ssid: &str) -> String {
    if is_derived(key) {
        return key.to_lowercase();
    }
    hex(&pbkdf2::pbkdf2_hmac_array::<Sha1, 32>(key.as_bytes(), ssid.as_bytes(), ROUNDS))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A cable is preferred where there is one.
const NETWORK: &str = "\
# Written by edgepress: see 80-edgepress-wired.network.
[Match]
Type=wlan

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
UseHostname=no
RouteMetric=2048

[DHCPv6]
UseHostname=no

[IPv6AcceptRA]
RouteMetric=2048
";

const ANY_LINK: &str = "\
# Written by edgepress: a device on Wi-Fi has no cable, and docker would wait two minutes for one.
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any
";

const SUPPLICANT: &str = "\
# Written by edgepress: where the key comes with the identity, first boot writes the file and starts this.
[Unit]
ConditionPathExists=/etc/wpa_supplicant/wpa_supplicant-wlan0.conf
StartLimitIntervalSec=0

[Service]
Restart=on-failure
RestartSec=5
";

/// Not a link in multi-user.target.wants: a device without a radio would wait 90 s for one at every boot.
const RULE: &str = "\
# Written by edgepress.
ACTION==\"add\", SUBSYSTEM==\"net\", KERNEL==\"wlan0\", TAG+=\"systemd\", ENV{SYSTEMD_WANTS}+=\"wpa_supplicant@wlan0.service\"
";

#[cfg(test)]
mod tests {
    use super::{CONFIGURATION, allowed, derived, files, read_key};
    use crate::recipe::types::Wifi;
    use crate::tree::entry::{EntryKind, TreeEntry};
    use crate::units::Digest;
    use std::path::Path;

    fn text(entries: &[TreeEntry], path: &str) -> Option<String> {
        let entry = entries.iter().find(|entry| entry.path == Path::new(path))?;
        match &entry.kind {
            EntryKind::File(content) => Some(String::from_utf8(content.clone()).expect("text")),
            other => panic!("{other:?}"),
        }
    }

    /// IEEE 802.11i-2004, annex H.4.3.
    #[test]
    fn keys_are_derived_as_the_standard_does() {
        for (key, ssid, expected) in [
            ("password", "IEEE", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
            (
                "ThisIsAPassword",
                "ThisIsASSID",
                "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af",
            ),
        ] {
            assert_eq!(derived(key, ssid), expected);
        }
        assert_eq!(derived(&"AB".repeat(32), "any"), "ab".repeat(32));
    }

    #[test]
    fn the_recipe_s_network_is_in_one_file_that_root_reads() {
        let folder = tempfile::tempdir().expect("temp folder");
        let key_file = folder.path().join("key");
        std::fs::write(&key_file, "password\r\n").expect("key");
        let wifi =
            Wifi { country: "DE".into(), ssid: Some("IEEE".into()), key_file: Some(key_file), hidden: true };
        let entries = files(&wifi).expect("files");
        let secret = entries.iter().find(|entry| entry.path == Path::new(CONFIGURATION)).expect("it");
        assert_eq!(secret.mode, 0o600);
        let configuration = text(&entries, CONFIGURATION).expect("text");
        assert_eq!(
            configuration,
            "# Written by edgepress.\nctrl_interface=/run/wpa_supplicant\ncountry=DE\nnetwork={\n\
             \tssid=49454545\n\tscan_ssid=1\n\tkey_mgmt=WPA-PSK\n\
             \tpsk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e\n}\n"
        );
        assert_eq!(allowed(Some(&wifi)).expect("digest"), Some(Digest::of(&configuration)));
        let later = Wifi { ssid: None, key_file: None, ..wifi };
        let entries = files(&later).expect("files");
        assert_eq!(text(&entries, CONFIGURATION), None);
        let constants = text(&entries, "/usr/lib/edgepress/wifi.conf").expect("constants");
        assert!(
            constants.ends_with("EP_WIFI_COUNTRY='DE'\nEP_WIFI_SSID=''\nEP_WIFI_HIDDEN=yes\n"),
            "{constants}"
        );
        assert_eq!(allowed(Some(&later)).expect("none"), None);
        assert_eq!(allowed(None).expect("none"), None);
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().expect("temp folder");
        let path = folder.path().join("key");
        let long = "hunter2".repeat(10);
        for (content, good) in [
            ("hunter22\n", true),
            (" hunter2 ", true),
            (&"ab".repeat(32), true),
            (&"hunter2".repeat(9), true),
            ("hunter2\n", false),
            (&long, false),
            ("hunter22\nhunter22\n", false),
            ("hunter2é", false),
            ("", false),
        ] {
            std::fs::write(&path, content).expect("write");
            let read = read_key(&path);
            assert_eq!(read.is_ok(), good, "{content:?}");
            assert!(read.is_ok() || !format!("{:?}", read.expect_err("refused")).contains("hunter2"));
        }
    }
}
