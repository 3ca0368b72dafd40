//! A configuration of the runtime (`/etc/aziot/config.toml`) fit to be shown: every secret in it is masked.
//!
//! Masked is what a key's name tells to be one, all that lies below such a key, and what looks like one wherever it stands.
//! Addresses of files and of keys in a module (`file:`, `pkcs11:` without a PIN) stay: they say where a secret is, not what.

use toml::{Table, Value};

/// Stands for a secret.
pub const MASK: &str = "(masked)";

/// Parts of the names of keys that hold secrets, in lower case without `_` and `-`.
const SECRET: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "sharedaccess",
    "symmetrickey",
    "connectionstring",
    "privatekey",
    "accountkey",
    "apikey",
    "credential",
];
/// What stands in secrets of Azure: connection strings and signatures.
const TELLING: [&str; 6] =
    ["sharedaccesskey=", "sharedaccesssignature", "accountkey=", "sig=", "-----begin", "pin-value="];
/// As long as the base64 of a key of 24 bytes; DPS makes keys of 64.
const KEY_LENGTH: usize = 32;

/// The configuration without its secrets; comments are dropped, for they may hold anything.
///
/// # Errors
/// When it is no TOML; the reason holds nothing of it.
pub fn masked(text: &str) -> Result<Table, String> {
    let mut table: Table = text.parse().map_err(|_| "it is no TOML".to_owned())?;
    mask_table(&mut table, false, false);
    Ok(table)
}

fn mask_table(table: &mut Table, secret: bool, environment: bool) {
    for (key, value) in table.iter_mut() {
        let name: String = key.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
        let named = SECRET.iter().any(|part| name.contains(part)) || name.ends_with("pin");
        // A module's environment may hold anything: names say too little.
        mask(value, secret || named, environment || (name == "env" && value.is_table()));
    }
}

fn mask(value: &mut Value, secret: bool, environment: bool) {
    match value {
        Value::Table(table) => mask_table(table, secret, environment),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, secret, environment)),
        Value::String(text) if is_address(text) && !is_telling(text) => {}
        Value::String(text) if secret || is_telling(text) || looks_like_a_key(text, environment) => {
            *text = MASK.into();
        }
        Value::Integer(_) | Value::Float(_) if secret => *value = Value::String(MASK.into()),
        _ => {}
    }
}

/// Where something lies.
fn is_address(text: &str) -> bool {
    ["file:", "pkcs11:"].iter().any(|scheme| text.starts_with(scheme))
}

fn is_telling(text: &str) -> bool {
    let lower = text.to_lowercase();
    TELLING.iter().any(|part| lower.contains(part)) || has_login(text)
}

/// `https://user:password@host`.
fn has_login(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let host = rest.split(['/', '?', ' ']).next().unwrap_or_default();
        host.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
    })
}

/// Base64 or hexadecimal digits as long as a key; in an environment, where anything may stand, also shorter ones.
fn looks_like_a_key(text: &str, environment: bool) -> bool {
    let least = if environment { KEY_LENGTH / 2 } else { KEY_LENGTH };
    let text = text.trim();
    let digits = text.trim_end_matches('=');
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte));
    let mixed = digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().any(|byte| byte.is_ascii_alphabetic());
    // A path has slashes and no digits between; a GUID has its dashes.
    plain && mixed && text.len() >= least && !digits.starts_with('/') && !is_guid(digits)
}

fn is_guid(text: &str) -> bool {
    text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use super::{MASK, masked};

    const CONFIG: &str = r#"
# the key is S3CRET-comment
[provisioning]
source = "manual"
connection_string = "HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=S3CRET=="
id_scope = "0ne00123456"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "pump-7"
symmetric_key = { value = "UzNDUkVUUzNDUkVUUzNDUkVUUzNDUkVUUzNDUkVUUzNDUkVU" }
identity_pk = "file:///var/secrets/aziot/keys/device-id.key.pem"
other_pk = "pkcs11:token=edge;object=id?pin-value=S3CRET"
[agent.config]
image = "mcr.microsoft.com/azureiotedge-agent:1.5"
[agent.config.auth]
serveraddress = "https://r.example"
username = "puller"
password = "S3CRET"
[agent.env]
UpstreamProtocol = "AmqpWs"
HTTPS_PROXY = "http://user:S3CRET@proxy:3128"
UNNAMED = "S3CRET0123456789"
[aziot_keys]
pkcs11_pin = 1234567
deep = [{ token = ["S3CRET"] }]
[free]
uuid = "496e403c-81de-48e8-a48c-5de5248addec"
text = "dmFsdWUgdGhhdCBpcyBTM0NSRVQgYW5kIGxvbmc0"
imagePullPolicy = "never"
"#;

    #[test]
    fn no_secret_stays() {
        let text = toml::to_string(&masked(CONFIG).expect("TOML")).expect("TOML");
        for secret in ["S3CRET", "UzNDUkVU", "dmFsdWUg", "1234567"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for open in [
            "0ne00123456",
            "pump-7",
            "azureiotedge-agent:1.5",
            "file:///var/secrets/aziot/keys/device-id.key.pem",
            "puller",
            "AmqpWs",
            "496e403c-81de-48e8-a48c-5de5248addec",
            "https://r.example",
            "\"never\"",
        ] {
            assert!(text.contains(open), "{open} not in {text}");
        }
        assert_eq!(text.matches(MASK).count(), 9, "{text}");
    }

    #[test]
    fn what_is_no_toml_is_not_shown() {
        let error = masked("password = \"S3CRET\" x").expect_err("no TOML");
        assert!(!error.contains("S3CRET"), "{error}");
    }
}
