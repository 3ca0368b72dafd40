//! Credentials of edgeAgent's registry from the identity, on the host: see script.rs.

use crate::support::device::{Device, shells};
use crate::support::pki::Identity;

const FAT: &str = "boot/efi/edgepress";
const CONFIG: &str = "etc/aziot/config.toml";
/// Whatever a registry may make of a password, and a shell or TOML might read out of it.
const PASSWORD: &str = r#"p\a"s's$(w)`o` r%d\n=#[x]+/"#;

fn identified(mut device: Device) -> Device {
    let identity = Identity::new("dev-01");
    device.give(&identity.chain(), &identity.key);
    device
}

fn auth(device: &Device) -> Option<toml::Table> {
    let config: toml::Table = device.read(CONFIG).parse().expect("config.toml is TOML");
    let auth = config.get("agent")?.get("config")?.get("auth")?;
    Some(auth.as_table().expect("a table").clone())
}

fn assert_wiped(device: &Device) {
    for name in
        ["registry-password", "registry-password.txt", "registry-address", "registry-username", "wiping.tmp"]
    {
        assert!(!device.exists(&format!("{FAT}/{name}")), "{name} is left");
    }
}

#[test]
fn credentials_reach_the_runtime_under_every_shell() {
    for shell in shells() {
        let mut device = identified(Device::with_shell(shell));
        device.give_registry("factory.azurecr.io\r\n", "\u{feff}devices\n", &format!("{PASSWORD}\r\n"));
        device.run();
        let found = auth(&device).unwrap_or_else(|| panic!("none: {}", device.story()));
        assert_eq!(found["serveraddress"].as_str(), Some("factory.azurecr.io"));
        assert_eq!(found["username"].as_str(), Some("devices"));
        assert_eq!(found["password"].as_str(), Some(PASSWORD), "{}", device.read(CONFIG));
        assert_eq!(device.mode(CONFIG), 0o600);
        assert_wiped(&device);
        for said in ["dev/console", "world/stdout", "world/stderr", "world/calls", "var/lib/edgepress/state"]
        {
            assert!(!device.read(said).contains("$(w)"), "{said}");
        }
    }
}

#[test]
fn a_table_of_the_image_is_replaced() {
    let mut device = identified(Device::new());
    let config = device.read(CONFIG);
    device.write(CONFIG, format!("{config}\n[ agent . config . auth ]\nserveraddress = \"old\"\npassword = \"old\"\n\n[agent.env]\nA = \"b\"\n"));
    device.give_registry("plant:5000", "u", "p");
    device.run();
    let found = auth(&device).expect("credentials");
    assert_eq!(
        (found["serveraddress"].as_str(), found["password"].as_str()),
        (Some("plant:5000"), Some("p"))
    );
    let config: toml::Table = device.read(CONFIG).parse().expect("TOML");
    assert_eq!(config["agent"]["env"]["A"].as_str(), Some("b"));
}

#[test]
fn an_identity_without_leaves_the_image_s_alone() {
    let device = identified(Device::new());
    let config = device.read(CONFIG);
    device.write(CONFIG, format!("{config}\n[agent.config.auth]\nserveraddress = \"own\"\n"));
    device.run();
    assert_eq!(auth(&device).expect("the image's")["serveraddress"].as_str(), Some("own"));
}

#[test]
fn what_cannot_be_used_is_refused_without_showing_the_password() {
    let missing = "of registry-address, registry-username and registry-password one is missing";
    for (address, username, password, says) in [
        ("", "u", "hunter22", missing),
        ("a.example", "", "hunter22", missing),
        ("a.example", "u", "", missing),
        ("https://a.example", "u", "hunter22", "registry-address is no registry"),
        ("a.example/path", "u", "hunter22", "registry-address is no registry"),
        ("a.example:port", "u", "hunter22", "registry-address is no registry"),
        ("a:1:2", "u", "hunter22", "registry-address is no registry"),
        ("factory", "u", "hunter22", "registry-address is no registry"),
        ("a.example", "  \n", "hunter22", "registry-username holds no name"),
        ("a.example", "u", "hunter22\nhunter22\n", "registry-password holds 2 lines"),
        ("a.example", "u", "hunter22\u{e9}", "registry-password holds a sign that is no plain ASCII"),
    ] {
        let mut device = identified(Device::new());
        device.give_registry(address, username, password);
        device.start().until(&format!("refused: {says}"));
        assert_eq!(auth(&device), None, "{address} {username}");
        for said in ["dev/console", "world/stdout", "world/stderr", "world/calls", "var/lib/edgepress/state"]
        {
            assert!(!device.read(said).contains("hunter22"), "{said}");
        }
    }
}

#[test]
fn where_overrides_are_forbidden_the_password_is_wiped_unread() {
    let mut device = identified(Device::new());
    device.constants("no", 1_000_000_000);
    device.give_registry("a.example", "u", PASSWORD);
    device.run();
    assert_eq!(auth(&device), None);
    assert_wiped(&device);
}
