//! A configuration of the runtime (`/etc/aziot/config.toml`) fit to be shown: every secret in it is masked.
//!
//! Masked is what a key's name tells to be one, all that lies below such a key, and what looks like one wherever it stands.
//! Addresses of files and of keys in a module (`file:`, `pkcs11:` without a PIN) stay: they say where a secret is, not what.

use toml::{Table, Value};

/// Stands for a secret.
pub(super) const MASK: &str = "(masked)";

/// Parts of the names of keys that hold secrets, in lower case without `_` and `-`.
const SECRET: [&str; 14] = [
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
    // Of a TPM's hierarchies: all that lies below is a password.
    "authorization",
    "pwd",
];
/// Their ends.
const SECRET_END: [&str; 2] = ["pin", "pass"];
/// What stands in secrets of Azure: connection strings and signatures.
const TELLING: [&str; 6] =
    ["sharedaccesskey=", "sharedaccesssignature", "accountkey=", "sig=", "-----begin", "pin-value="];
/// As long as the base64 of a key of 24 bytes; DPS makes keys of 64.
const KEY_LENGTH: usize = 32;
/// Variables of the runtime's own modules and of proxies; all others of an environment are masked, for a module's
/// environment may hold anything.
const SHOWN: [&str; 8] = [
    "storagefolder",
    "upstreamprotocol",
    "runtimeloglevel",
    "noproxy",
    "httpproxy",
    "httpsproxy",
    "sslcertfile",
    "tz",
];

/// The configuration without its secrets; comments are dropped, for they may hold anything. With it the names of what is
/// surely a secret, as `agent.config.auth.password`.
///
/// # Errors
/// When it is no TOML; the reason holds nothing of it.
pub(super) fn masked(text: &str) -> Result<(Table, Vec<String>), String> {
    let mut table: Table = text.parse().map_err(|_| "it is no TOML".to_owned())?;
    let mut surely = Vec::new();
    mask_table(&mut table, &Place::default(), &mut surely);
    Ok((table, surely))
}

/// Where in the configuration.
#[derive(Debug, Clone, Default)]
struct Place {
    name: String,
    /// By its own name, or that of what it lies below.
    secret: bool,
    environment: bool,
}

fn bare(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

fn mask_table(table: &mut Table, place: &Place, surely: &mut Vec<String>) {
    for (key, value) in table.iter_mut() {
        let name = bare(key);
        // `auth` is a table with an address in it; as a text, it is a login.
        let named = SECRET.iter().any(|part| name.contains(part))
            || SECRET_END.iter().any(|end| name.ends_with(end))
            || (name == "auth" && value.is_str());
        let below = Place {
            name: if place.name.is_empty() { key.clone() } else { format!("{}.{key}", place.name) },
            secret: place.secret || named,
            environment: place.environment || name == "env",
        };
        mask(value, &below, surely);
    }
}

fn mask(value: &mut Value, place: &Place, surely: &mut Vec<String>) {
    match value {
        Value::Table(table) => mask_table(table, place, surely),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, place, surely)),
        Value::String(text) if text.is_empty() || (is_address(text) && !is_telling(text)) => {}
        Value::String(text) if place.secret || is_telling(text) => {
            surely.push(place.name.clone());
            *text = MASK.into();
        }
        Value::String(text) if place.environment => *text = variable(&place.name, text),
        Value::String(text) if looks_like_a_key(text) => *text = MASK.into(),
        Value::Integer(_) | Value::Float(_) if place.secret => {
            surely.push(place.name.clone());
            *value = Value::String(MASK.into());
        }
        _ => {}
    }
}

/// The value of a variable, or `NAME=value` as docker has it in a list, as far as it may be shown.
fn variable(place: &str, text: &str) -> String {
    let own = place.rsplit('.').next().unwrap_or_default();
    let (name, value) = match text.split_once('=') {
        Some(pair) if bare(own) == "env" => pair,
        _ => (own, text),
    };
    let known = SHOWN.contains(&bare(name).as_str()) || ["true", "false"].contains(&value);
    match known && !value.contains('@') {
        true => text.to_owned(),
        false if value.len() < text.len() => format!("{name}={MASK}"),
        false => MASK.to_owned(),
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

/// `https://user:password@host`, or `https://token@host`.
fn has_login(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let host = rest.split(['/', '?', ' ']).next().unwrap_or_default();
        host.contains('@')
    })
}

/// Base64 or hexadecimal digits as long as a key.
fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim();
    let digits = text.trim_end_matches('=');
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte));
    let mixed = digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().any(|byte| byte.is_ascii_alphabetic());
    // A path has slashes and no digits between; a GUID has its dashes.
    plain && mixed && text.len() >= KEY_LENGTH && !digits.starts_with('/') && !is_guid(digits)
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
DB_PASS = "S3CRET"
Optimize = "false"
storageFolder = "/var/lib/agent"
NO_PROXY = "localhost"
[agent.config.createOptions]
Env = ["DB=S3CRET", "storageFolder=/data", "https_proxy=user:S3CRET@proxy:3128", "S3CRET"]
[tpm.hierarchy_authorization]
owner = "S3CRET"
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
        let (table, surely) = masked(CONFIG).expect("TOML");
        let text = toml::to_string(&table).expect("TOML");
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
            "\"false\"",
            "/var/lib/agent",
            "localhost",
            "\"DB=(masked)\"",
            "storageFolder=/data",
            "https_proxy=(masked)",
        ] {
            assert!(text.contains(open), "{open} not in {text}");
        }
        assert_eq!(text.matches(MASK).count(), 14, "{text}");
        let surely: Vec<_> = surely.iter().map(String::as_str).collect();
        assert_eq!(
            surely,
            [
                "provisioning.connection_string",
                "provisioning.attestation.symmetric_key.value",
                "provisioning.attestation.other_pk",
                "agent.config.auth.password",
                "agent.env.HTTPS_PROXY",
                "agent.env.DB_PASS",
                "tpm.hierarchy_authorization.owner",
                "aziot_keys.pkcs11_pin",
                "aziot_keys.deep.token",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_not_shown() {
        let error = masked("password = \"S3CRET\" x").expect_err("no TOML");
        assert!(!error.contains("S3CRET"), "{error}");
    }
}
