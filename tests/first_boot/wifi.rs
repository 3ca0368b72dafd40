//! Wi-Fi from the identity, on the host: see script.rs.

use crate::support::device::{Device, shells};
use crate::support::pki::Identity;

const FAT: &str = "boot/efi/edgepress";
const WIFI: &str = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
const KEY: &str = "correct \"horse\" $(battery)";

fn device(recipe_ssid: &str) -> Device {
    let mut device = Device::new();
    device.made_for_wifi(recipe_ssid);
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device
}

fn expected(ssid: &str, psk: &str) -> String {
    format!(
        "# From the identity of this device.\nctrl_interface=/run/wpa_supplicant\ncountry=DE\nnetwork={{\n\
         \tssid={ssid}\n\tkey_mgmt=WPA-PSK\n\tpsk={psk}\n}}\n"
    )
}

fn assert_wiped(device: &Device) {
    for name in ["wifi-key", "wifi-key.txt", "wifi-ssid", "private-key.pem", "wiping.tmp"] {
        assert!(!device.exists(&format!("{FAT}/{name}")), "{name} is left");
    }
    device.assert_secrets_kept();
}

#[test]
fn name_and_key_reach_wpa_supplicant_under_every_shell() {
    for shell in shells() {
        let mut device = Device::with_shell(shell);
        device.made_for_wifi("");
        let identity = Identity::new("dev-01");
        device.give(&identity.chain(), &identity.key);
        device.give_wifi("\u{feff}Café 'n' Bar\r\n".as_bytes(), &format!("{KEY}\r\n"));
        device.run();
        let ssid = "436166c3a920276e2720426172";
        assert_eq!(device.read(WIFI), expected(ssid, &format!("\"{KEY}\"")), "{}", device.story());
        assert_eq!(device.mode(WIFI), 0o600);
        let calls = device.read("world/calls");
        let at = |text: &str| calls.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{calls}"));
        // There is no network before there is a radio that knows its key.
        assert!(at("systemctl --no-block restart wpa_supplicant@wlan0.service") < at("iotedge config apply"));
        assert_wiped(&device);
    }
}

#[test]
fn the_recipe_s_network_needs_only_its_key() {
    let mut device = device("73686f70");
    device.give_wifi(b"", &"AB".repeat(32));
    device.run();
    assert_eq!(device.read(WIFI), expected("73686f70", &"AB".repeat(32)));
    assert_wiped(&device);
}

#[test]
fn an_identity_without_wifi_leaves_the_recipe_s_alone() {
    let device = device("73686f70");
    device.write(WIFI, "the recipe's\n");
    device.run();
    assert_eq!(device.read(WIFI), "the recipe's\n");
    assert!(!device.read("world/calls").contains("wpa_supplicant"));
}

#[test]
fn a_wrong_key_is_replaced_while_there_is_no_network() {
    let mut device = device("");
    device.give_wifi(b"shop\n", "a wrong key\n");
    let route = device.read("proc/net/route");
    device.write("proc/net/route", "");
    {
        let mut running = device.start();
        running.until("waiting: no network");
        device.write(&format!("{FAT}/wifi-key"), KEY);
        while !device.read(WIFI).contains(KEY) {
            running.until("waiting: no network");
        }
        device.write("proc/net/route", route);
        assert!(running.end().success());
    }
    assert_eq!(device.read("world/calls").matches("restart wpa_supplicant@wlan0").count(), 2);
    assert_wiped(&device);
}

#[test]
fn what_is_no_network_is_refused_without_showing_the_key() {
    let long = "x".repeat(33);
    for (ssid, key, says) in [
        ("shop", "", "wifi-ssid comes without wifi-key"),
        ("", "hunter22", "wifi-key comes without wifi-ssid"),
        ("shop", "hunter2", "wifi-key is no key"),
        ("shop", "hunter22\nhunter22\n", "wifi-key is no key"),
        ("shop", "hunter2\thunter2", "wifi-key is no key"),
        ("shop", &"hunter22".repeat(8), "wifi-key is no key"),
        (&long, "hunter22", "wifi-ssid is longer than 32 bytes"),
    ] {
        let mut device = device("");
        device.give_wifi(ssid.as_bytes(), if key.is_empty() { "\n" } else { key });
        if key.is_empty() {
            device.write(&format!("{FAT}/wifi-key"), "");
        }
        device.start().until(&format!("refused: {says}"));
        assert!(!device.exists(WIFI), "{ssid} {key}");
        for said in ["dev/console", "world/stdout", "world/stderr", "world/calls", "var/lib/edgepress/state"]
        {
            assert!(!device.read(said).contains("hunter2"), "{said}");
        }
    }
    let mut wired = Device::new();
    let identity = Identity::new("dev-01");
    wired.give(&identity.chain(), &identity.key);
    wired.give_wifi(b"shop", "hunter22");
    wired.start().until("refused: wifi-ssid and wifi-key are for images that were made for Wi-Fi");
}

#[test]
fn where_overrides_are_forbidden_the_key_is_wiped_unread() {
    let mut device = device("");
    device.constants("no", 1_000_000_000);
    device.give_wifi(b"shop", KEY);
    device.run();
    assert!(!device.exists(WIFI));
    assert_wiped(&device);
}
