//! What must not be in a golden image, by path and content.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::credentials::{ANYWHERE, is_placeholder};
use super::secrets::{self, Secret};

/// Something that makes one machine, or opens one.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Where, from the root: `*` stands for any characters within a name, a last `**` for everything below a folder, a first
    /// `~` for any folder.
    pub pattern: &'static str,
    /// What is wrong with a file there, given its first bytes; most are wrong whatever they hold.
    pub holds: fn(&[u8]) -> bool,
    /// What it is.
    pub what: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

pub(super) const fn any(pattern: &'static str, what: &'static str, hint: &'static str) -> Rule {
    Rule { pattern, holds: anything, what, hint }
}

pub(super) const fn if_holds(
    pattern: &'static str,
    holds: fn(&[u8]) -> bool,
    what: &'static str,
    hint: &'static str,
) -> Rule {
    Rule { pattern, holds, what, hint }
}

pub(super) const REMOVE: &str = "remove it at the end of the build";
const NOT_STARTED: &str = "let no service start while the image is built, and remove what it left";
const FROM_RECIPE: &str = "name the key in access.ssh_keys of the recipe, or remove the file";
const NETWORK: &str = "let the identity bring it, or name it in network.wifi of the recipe";
const FROM_PARTITION: &str = "leave it to first boot, which takes it from the FAT partition";
const NO_KEY: &str = "the device's own comes from the FAT partition at first boot; one that a package made goes by packages.remove \
                      of the recipe, one that is no secret stays by packages.keep_keys";

/// The list in order of the tree. systemd(1) makes a machine id and a seed anew where they are missing, openssh's keys
/// are made at first boot, the runtime makes its state anew.
pub(crate) const RULES: &[Rule] = &[
    if_holds("etc/machine-id", is_machine_id, "a machine id", "empty the file"),
    if_holds("var/lib/dbus/machine-id", is_machine_id, "a machine id", "make it a link to /etc/machine-id"),
    any("etc/ssh/ssh_host_*", "an SSH host key", "remove it: first boot makes the device's own"),
    any("var/lib/systemd/random-seed", "a random seed, the same on every device", REMOVE),
    any("var/lib/urandom/random-seed", "a random seed, the same on every device", REMOVE),
    any("boot/efi/loader/random-seed", "a random seed, the same on every device", REMOVE),
    any("boot/loader/random-seed", "a random seed, the same on every device", REMOVE),
    any("var/lib/systemd/credential.secret", "the key of systemd's credentials", REMOVE),
    any("etc/nvme/hostid", "an NVMe host id", REMOVE),
    any("etc/nvme/hostnqn", "an NVMe host name", REMOVE),
    if_holds("etc/iscsi/initiatorname.iscsi", has_initiator_name, "an iSCSI initiator name", REMOVE),
    if_holds(
        "etc/shadow",
        has_working_password,
        "an account with a password that works, or with none",
        "lock it: passwd -l",
    ),
    // The Azure IoT Edge runtime, as far as a device fills it.
    any("var/lib/aziot/keyd/**", "keys of the Azure IoT identity service", NOT_STARTED),
    any("var/lib/aziot/certd/**", "certificates of the Azure IoT identity service", NOT_STARTED),
    any("var/lib/aziot/identityd/**", "a device's identity in the Azure IoT identity service", NOT_STARTED),
    any("var/lib/aziot/tpmd/**", "TPM state of the Azure IoT identity service", NOT_STARTED),
    any("var/lib/aziot/edged/cache/**", "state of aziot-edged", NOT_STARTED),
    any("var/lib/aziot/edged/gc/**", "state of aziot-edged", NOT_STARTED),
    any("var/lib/aziot/edged/mnt/**", "state of aziot-edged", NOT_STARTED),
    if_holds(
        "etc/aziot/config.toml",
        has_identity,
        "a secret of a device in the runtime's configuration",
        FROM_PARTITION,
    ),
    any(
        "etc/aziot/*/config.d/00-super.toml",
        "the runtime's configuration as a device applied it",
        "remove it: `iotedge config apply` makes it anew",
    ),
    any("var/secrets/**", "a device's secrets", FROM_PARTITION),
    any("var/lib/edgepress/state", "the state of a first boot", NOT_STARTED),
    any("var/lib/edgepress/configured", "the mark of a first boot", NOT_STARTED),
    any("var/lib/edgepress/installed", "the mark of a first boot", NOT_STARTED),
    any("var/lib/edgepress/provisioned", "the mark of a finished first boot", NOT_STARTED),
    any("var/lib/edgepress/grown", "the mark of a grown root", NOT_STARTED),
    // The engine. Its store of images is looked at by itself, see [`ENGINE_STORE`].
    any(
        "var/lib/docker/**",
        "containers, networks or volumes of docker",
        "preload images with engine.images",
    ),
    any("var/lib/containerd/**", "containers or images of containerd", "preload images with engine.images"),
    // What machines leave behind that were once up.
    any("var/log/journal/**", "a journal, in a folder named by a machine id", REMOVE),
    any("var/lib/cloud/data/**", "state of cloud-init", "run: cloud-init clean"),
    any("var/lib/cloud/instances/**", "state of cloud-init", "run: cloud-init clean"),
    any("var/lib/cloud/sem/**", "state of cloud-init", "run: cloud-init clean"),
    any("var/lib/cloud/seed/**", "cloud-init's data of one machine", REMOVE),
    if_holds("etc/cloud/cloud.cfg", has_account_password, "an account's password", REMOVE),
    if_holds("etc/cloud/cloud.cfg.d/*", has_account_password, "an account's password", REMOVE),
    any("var/log/cloud-init*", "a log of cloud-init", "run: cloud-init clean --logs"),
    any("var/lib/waagent/**", "state of the Azure agent", "run: waagent -deprovision"),
    any("var/log/waagent.log", "a log of the Azure agent", REMOVE),
    any("var/lib/ubuntu-advantage/private/**", "a token of Ubuntu Pro", "run: pro detach"),
    any("var/lib/tailscale/**", "a node of a Tailscale network", NOT_STARTED),
    if_holds("var/lib/dhcp/*", is_not_empty, "a DHCP lease", REMOVE),
    if_holds("var/lib/dhcpcd/*", is_not_empty, "a DHCP lease or DUID", REMOVE),
    if_holds("etc/NetworkManager/system-connections/*", has_network_key, "the key of a network", NETWORK),
    if_holds("etc/netplan/*", has_yaml_password, "the key of a network", NETWORK),
    if_holds("var/lib/iwd/*", has_iwd_key, "the key of a network", NETWORK),
    any("var/lib/NetworkManager/*.lease", "a DHCP lease", REMOVE),
    any("var/lib/NetworkManager/secret_key", "the key of NetworkManager's stable addresses", REMOVE),
    any("var/lib/systemd/network/**", "state of systemd-networkd", REMOVE),
    // What people leave behind; more is in [`super::credentials`].
    if_holds("etc/apt/auth.conf", has_password, "passwords of package archives", REMOVE),
    if_holds("etc/apt/auth.conf.d/*", has_password, "passwords of package archives", REMOVE),
    if_holds("etc/apt/sources.list", has_login_in_address, "an archive's address with a password", REMOVE),
    if_holds(
        "etc/apt/sources.list.d/*",
        has_login_in_address,
        "an archive's address with a password",
        REMOVE,
    ),
    any("var/lib/apt/lists/*_InRelease", "an index of packages, old by the time the device is up", REMOVE),
    any("var/lib/apt/lists/*_Packages", "an index of packages, old by the time the device is up", REMOVE),
    if_holds("etc/wireguard/*", has_wireguard_key, "a WireGuard key", REMOVE),
    if_holds("etc/systemd/network/*", has_wireguard_key, "a WireGuard key", REMOVE),
];

/// Allowed where the recipe names the file's digest.
pub(crate) const AUTHORIZED_KEYS: Rule =
    any("", "SSH keys that may log in, not from the recipe", FROM_RECIPE);
/// Where [`AUTHORIZED_KEYS`] are looked for: in any account's `.ssh`, wherever its home is, and in the system's own place.
pub(crate) fn lets_in(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(Path::new(""));
    (name.starts_with("authorized_keys") && (folder.ends_with(".ssh") || folder == Path::new("etc/ssh")))
        || folder == Path::new("etc/ssh/authorized_keys")
}

/// Allowed where it is what the recipe's network.wifi becomes.
pub(crate) const WIFI: Rule = if_holds(
    "etc/wpa_supplicant/*.conf",
    has_network_key,
    "the key of a Wi-Fi network, not from the recipe",
    "name it in network.wifi of the recipe, or remove the file",
);

/// Allowed where the recipe names the file.
pub(crate) const PRELOADED: Rule = any(
    "var/lib/edgepress/images/*",
    "a container image that waits for the first boot",
    "name it in engine.images, or remove it",
);

/// Folders of the engine's store of images; nothing in them is looked at.
pub(crate) const ENGINE_STORE: [&str; 2] = ["var/lib/docker/image", "var/lib/docker/overlay2"];

/// Allowed where the recipe has images put there.
pub(crate) const STORED: Rule = any("", "images of docker", "preload images with engine.images");

/// Anywhere in the folders that the guard walks, except where a package's scripts quote one.
pub(crate) const PRIVATE_KEY: Rule = any("", "a private key", NO_KEY);
/// Certificates with a key.
pub(crate) const KEY_STORE: Rule = any("", "a key store (PKCS #12, Java's)", NO_KEY);

/// What is wrong with a file that holds a secret.
pub(crate) fn secret_rule(secret: Secret) -> &'static Rule {
    match secret {
        Secret::Key => &PRIVATE_KEY,
        Secret::Store => &KEY_STORE,
        Secret::Login => &ANYWHERE,
    }
}

/// What is wrong with a file whose content alone does not say it: a PKCS #12 that hides all that it holds, and 32 bytes in
/// base64, which are a key where the name says so.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn by_ending(path: &Path, mut file: impl Read) -> io::Result<Option<&'static Rule>> {
    let ending = path.extension().unwrap_or_default();
    if ending.eq_ignore_ascii_case("p12") || ending.eq_ignore_ascii_case("pfx") {
        let mut first = [0];
        let empty = file.read(&mut first)? == 0;
        let trusted = secrets::is_trust_store(first.as_slice().chain(file))?;
        return Ok((!empty && !trusted).then_some(&KEY_STORE));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let is_key = ending.eq_ignore_ascii_case("key")
        || name.contains("private")
        || WIREGUARD.iter().any(|pattern| matches(pattern, path));
    // The public half has the same form, and a name that says it.
    if !is_key || name.contains("pub") {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(RAW_KEY).read_to_end(&mut content)?;
    Ok(secrets::is_raw_key(&content).then_some(&PRIVATE_KEY))
}

/// Where keys of WireGuard lie, each in a file; systemd reads them too (systemd.netdev(5), `PrivateKeyFile=`).
const WIREGUARD: [&str; 2] = ["etc/wireguard/*", "etc/systemd/network/*"];
/// A longer file is no key in base64.
const RAW_KEY: u64 = 128;

/// Package scripts and checksums: packages' own text, which may quote a key's first line.
pub(crate) const NO_KEYS_UNDER: &str = "var/lib/dpkg/info";

/// Does `path` (from the root) match a rule's pattern?
pub(crate) fn matches(pattern: &str, path: &Path) -> bool {
    if let Some(rest) = pattern.strip_prefix("~/") {
        let names: Vec<_> = path.components().collect();
        return (0..names.len()).any(|from| matches(rest, &names[from..].iter().collect::<PathBuf>()));
    }
    let mut names = path.components().map(|name| name.as_os_str().to_string_lossy());
    for part in pattern.split('/') {
        let Some(name) = names.next() else { return false };
        if part == "**" {
            return true;
        }
        let fits = match part.split_once('*') {
            None => part == name,
            Some((head, tail)) => {
                name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
            }
        };
        if !fits {
            return false;
        }
    }
    names.next().is_none()
}

/// Whatever a file holds.
fn anything(_: &[u8]) -> bool {
    true
}

fn is_not_empty(content: &[u8]) -> bool {
    !content.trim_ascii().is_empty()
}

/// `uninitialized` is what machine-id(5) asks of images.
fn is_machine_id(content: &[u8]) -> bool {
    is_not_empty(content) && content.trim_ascii() != b"uninitialized"
}

pub(super) fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
}

fn has_initiator_name(content: &[u8]) -> bool {
    lines(content).any(|line| line.starts_with(b"InitiatorName="))
}

/// A field that starts with `!` or `*` fits no password (shadow(5)).
fn has_working_password(content: &[u8]) -> bool {
    lines(content).any(|line| {
        let password = line.split(|byte| *byte == b':').nth(1);
        password.is_some_and(|field| !field.starts_with(b"!") && !field.starts_with(b"*"))
    })
}

/// A line of wpa_supplicant.conf, or of a connection of NetworkManager, with a key or password.
fn has_network_key(content: &[u8]) -> bool {
    let secret = ["psk=", "sae_password=", "password=", "wep_key"];
    String::from_utf8_lossy(content).lines().any(|line| secret.iter().any(|key| line.trim().starts_with(key)))
}

/// A key of YAML called `password` (netplan's for networks) with a value.
pub(crate) fn has_yaml_password(content: &[u8]) -> bool {
    has_yaml(content, &["password"])
}

/// Cloud-init's keys for an account's password; `lock_passwd` is none.
fn has_account_password(content: &[u8]) -> bool {
    has_yaml(content, &["passwd", "hashed_passwd", "plain_text_passwd", "password"])
}

fn has_yaml(content: &[u8], keys: &[&str]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        let line = line.trim_start_matches([' ', '\t', '-', '{']);
        let pair = line.split_once(':');
        pair.is_some_and(|(key, value)| {
            keys.contains(&key.trim().trim_matches(['"', '\''])) && !value.trim().is_empty()
        })
    })
}

/// A network of iwd(8) with its key.
fn has_iwd_key(content: &[u8]) -> bool {
    let secret = ["Passphrase=", "PreSharedKey=", "SAE-PT", "EAP-Password="];
    String::from_utf8_lossy(content).lines().any(|line| secret.iter().any(|key| line.trim().starts_with(key)))
}

/// The secrets that make a device, or let one enrol: whoever has the image has them.
fn has_identity(content: &[u8]) -> bool {
    let Ok(config) = String::from_utf8_lossy(content).parse::<toml::Table>() else { return false };
    let at = |path: &[&str]| {
        let mut value = config.get(path[0])?;
        for name in &path[1..] {
            value = value.get(name)?;
        }
        value.as_str().filter(|text| !text.is_empty())
    };
    [
        &["provisioning", "connection_string"][..],
        &["provisioning", "attestation", "symmetric_key", "value"],
        &["provisioning", "authentication", "device_id_pk", "value"],
    ]
    .iter()
    .any(|path| at(path).is_some())
        || config.get("cert_issuance").is_some_and(enrols)
}

/// A password of an EST server; each certificate may have its own.
fn enrols(issuance: &toml::Value) -> bool {
    let Some(table) = issuance.as_table() else { return false };
    table.iter().any(|(key, value)| match value.as_str() {
        Some(text) => key == "password" && !text.is_empty(),
        None => enrols(value),
    })
}

pub(super) fn has_registry_login(content: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Value>(content) {
        Ok(config) => config["auths"].as_object().is_some_and(|auths| !auths.is_empty()),
        Err(_) => is_not_empty(content),
    }
}

/// A line with the word, and something after it: `password x`, `password = x`, `<password>x</password>`.
pub(super) fn has_password(content: &[u8]) -> bool {
    lines(content).filter(|line| !line.starts_with(b"#") && !line.starts_with(b"<!--")).any(|line| {
        let line = String::from_utf8_lossy(line);
        let lower = line.to_ascii_lowercase();
        lower.match_indices("password").any(|(at, word)| {
            let value = line[at + word.len()..].trim_start_matches(['"', '\'', ' ', '\t', '=', ':', '>']);
            let value = value.strip_prefix("value=").unwrap_or(value).split("</").next().unwrap_or_default();
            let value = value.split_whitespace().next().unwrap_or_default().trim_end_matches("/>");
            !is_placeholder(value)
        })
    })
}

pub(super) fn has_login_in_address(content: &[u8]) -> bool {
    lines(content).filter(|line| !line.starts_with(b"#")).any(|line| {
        let text = String::from_utf8_lossy(line);
        text.split("://").skip(1).any(|rest| {
            let host = rest.split(['/', ' ', '\t', ']']).next().unwrap_or_default();
            let password = host.rsplit_once('@').and_then(|(login, _)| login.split_once(':'));
            password.is_some_and(|(_, password)| !is_placeholder(password))
        })
    })
}

/// Names without case, as wg(8) reads them.
fn has_wireguard_key(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().filter_map(|line| line.split_once('=')).any(|(name, value)| {
        let name = name.trim();
        let is_key = name.eq_ignore_ascii_case("PrivateKey") || name.eq_ignore_ascii_case("PresharedKey");
        is_key && !is_placeholder(value)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        has_account_password, has_identity, has_iwd_key, has_login_in_address, has_network_key, has_password,
        has_registry_login, has_wireguard_key, has_working_password, has_yaml_password, is_machine_id,
        lets_in, matches,
    };
    use std::path::Path;

    #[test]
    fn patterns() {
        for (pattern, path, expected) in [
            ("etc/machine-id", "etc/machine-id", true),
            ("etc/machine-id", "etc/machine-id/x", false),
            ("etc/ssh/ssh_host_*", "etc/ssh/ssh_host_rsa_key.pub", true),
            ("home/*/.netrc", "home/edge/.netrc", true),
            ("home/*/.netrc", "home/edge/x/.netrc", false),
            ("~/.netrc", "home/edge/x/.netrc", true),
            ("~/.netrc", ".netrc", true),
            ("~/.aws/credentials", "srv/.aws/credentials", true),
            ("~/.aws/credentials", "srv/aws/credentials", false),
            ("~/.azure/**", "root/.azure/a/b", true),
            ("~/.azure/**", "root/.azure", false),
            ("~/.*_history", "root/.bash_history", true),
            ("~/.*_history", "root/_history", false),
            ("var/lib/docker/**", "var/lib/docker/a/b", true),
            ("var/lib/docker/**", "var/lib/docker", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, Path::new(path)), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn places() {
        for (path, expected) in [
            ("root/.ssh/authorized_keys", true),
            ("var/lib/app/.ssh/authorized_keys2", true),
            ("etc/ssh/authorized_keys", true),
            ("etc/ssh/authorized_keys/ops", true),
            ("etc/ssh/sshd_config", false),
            ("srv/authorized_keys", false),
        ] {
            assert_eq!(lets_in(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn contents() {
        type Holds = fn(&[u8]) -> bool;
        for (holds, content, expected) in [
            (is_machine_id as Holds, "", false),
            (is_machine_id, "uninitialized\n", false),
            (is_machine_id, "0123456789abcdef0123456789abcdef\n", true),
            (has_working_password, "root:*:1:0\nedge:!:1\n_apt:!*:1\n", false),
            (has_working_password, "root:*:1\nedge:$y$j9T$x:1\n", true),
            (has_working_password, "edge::1\n", true),
            (has_network_key, "country=DE\n# psk=none\nssid=1234\n", false),
            (has_network_key, "network={\n\tpsk=\"hunter22\"\n}\n", true),
            (has_network_key, "[wifi-security]\npsk=hunter22\n", true),
            (has_registry_login, "{}", false),
            (has_registry_login, r#"{"auths":{}}"#, false),
            (has_registry_login, r#"{"auths":{"r.example":{"auth":"eA=="}}}"#, true),
            (has_registry_login, "{", true),
            (has_yaml_password, "access-points:\n  x:\n    password: \"hunter22\"\n", true),
            (has_yaml_password, "# password: x\nlock_passwd: true\npassword:\n", false),
            (has_account_password, "- {passwd: x}\n", true),
            (has_account_password, "  lock_passwd: True\n", false),
            (has_iwd_key, "[Security]\nPassphrase=hunter22\n", true),
            (has_iwd_key, "[Settings]\nAutoConnect=true\n", false),
            (has_identity, "[provisioning]\nconnection_string = \"x\"\n", true),
            (has_identity, "provisioning.attestation.symmetric_key.value = \"x\"\n", true),
            (has_identity, "provisioning.attestation.symmetric_key.uri = \"file:///x\"\n", false),
            (has_identity, "cert_issuance.certs.device-id.auth.password = \"x\"\n", true),
            (has_identity, "agent.config.auth.password = \"x\"\n", false),
            (has_identity, "x = [", false),
            (has_login_in_address, "deb https://archive.example/x y main\n", false),
            (has_login_in_address, "deb [signed-by=/k] https://u:p@archive.example/x y main\n", true),
            (has_login_in_address, "deb https://u:<password>@archive.example/x y main\n", false),
            (has_wireguard_key, "[Interface]\nprivatekey = AAAA=\n", true),
            (has_wireguard_key, "[Interface]\nPrivateKey = <key>\nPrivateKeyFile=/x\n", false),
            (has_password, "machine x login y password z\n", true),
            (has_password, "<password>x</password>\n", true),
            (has_password, "<add key=\"ClearTextPassword\" value=\"x\" />\n", true),
            (has_password, "<password>${env.PW}</password>\npassword =\n# password x\n", false),
            (has_login_in_address, "# deb https://u:p@archive.example/x y main\n", false),
        ] {
            assert_eq!(holds(content.as_bytes()), expected, "{content}");
        }
    }
}
