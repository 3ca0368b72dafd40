//! Credentials of clouds, registries and services, which people leave in a home or beside an application: rules for files
//! by name in any home, and one judge for what any file holds.

use super::guard_rules::{REMOVE, Rule, any, has_password, has_registry_login, if_holds, lines};

const AT_RUN_TIME: &str = "have the device fetch or be given its own, or hand it to one container at run time; whoever has the image has it";

/// By name, below any folder: an account's home may be anywhere. `~/` stands for any folder, and for the root.
pub const IN_A_HOME: &[Rule] = &[
    if_holds("~/.aws/credentials", has_assignment, "keys of Amazon's cloud", REMOVE),
    if_holds("~/.aws/sso/cache/*", has_content, "a login to Amazon's cloud", REMOVE),
    any("~/.azure/**", "a login to Azure", REMOVE),
    if_holds("~/.config/gcloud/**", has_gcloud_login, "a login to Google's cloud", REMOVE),
    if_holds("~/.kube/config", has_kube_login, "a login to Kubernetes", REMOVE),
    if_holds("~/.docker/config.json", has_registry_login, "a login to a container registry", REMOVE),
    if_holds("~/.config/containers/auth.json", has_registry_login, "a login to a container registry", REMOVE),
    if_holds("~/.netrc", has_password, "passwords", REMOVE),
    if_holds("~/.git-credentials", has_content, "passwords of git servers", REMOVE),
    if_holds("~/.config/git/credentials", has_content, "passwords of git servers", REMOVE),
    if_holds("~/.config/gh/hosts.yml", has_token, "a login to GitHub", REMOVE),
    if_holds("~/.npmrc", has_npm_login, "a login to an npm registry", REMOVE),
    if_holds("~/.yarnrc.yml", has_npm_login, "a login to an npm registry", REMOVE),
    if_holds("~/.pypirc", has_password, "a login to a Python package index", REMOVE),
    if_holds("~/.cargo/credentials", has_token, "a login to a Rust package registry", REMOVE),
    if_holds("~/.cargo/credentials.toml", has_token, "a login to a Rust package registry", REMOVE),
    if_holds("~/.nuget/NuGet/NuGet.Config", has_password, "a login to a NuGet feed", REMOVE),
    if_holds("~/.m2/settings.xml", has_password, "a login to a Maven repository", REMOVE),
    if_holds("~/.terraform.d/credentials.tfrc.json", has_token, "a login to Terraform", REMOVE),
    if_holds("~/.vault-token", has_content, "a token of a Vault server", REMOVE),
    if_holds("~/.pgpass", has_content, "passwords of databases", REMOVE),
    if_holds("~/.my.cnf", has_password, "a password of a database", REMOVE),
    if_holds("~/.boto", has_assignment, "keys of a cloud", REMOVE),
    if_holds("~/.s3cfg", has_assignment, "keys of a cloud", REMOVE),
    if_holds("~/.config/rclone/rclone.conf", has_assignment, "keys of a cloud", REMOVE),
    if_holds("~/.gnupg/private-keys-v1.d/*", has_content, "a private key of GnuPG", REMOVE),
    any("~/.*_history", "a shell's history", REMOVE),
    any("~/.lesshst", "a program's history", REMOVE),
    any("~/.viminfo", "a program's history", REMOVE),
];

/// Anywhere: text of a kind that is nothing but a secret, whatever the file's name.
pub const ANYWHERE: Rule = if_holds("", has_cloud_secret, "a cloud's secret in plain text", AT_RUN_TIME);

/// Fewer characters are a placeholder: an IoT Hub's keys have 44, Amazon's 40, a storage account's 88.
const LEAST_SECRET: usize = 32;

/// What stands before the value, and the value's characters: base64, or as a URL's query has it.
const SECRETS: [&str; 8] = [
    "SharedAccessKey=",
    "AccountKey=",
    "SharedSecretValue=",
    "aws_secret_access_key",
    "AWS_SECRET_ACCESS_KEY",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_KEY",
    "azure_client_secret",
];

fn has_cloud_secret(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let known = SECRETS.iter().any(|name| {
        text.match_indices(name).any(|(at, _)| {
            let value = text[at + name.len()..].trim_start_matches([' ', '\t', '=', ':', '"', '\'']);
            secret_length(value) >= LEAST_SECRET
        })
    });
    known || has_sas_token(&text) || has_amazon_pair(&text)
}

/// Characters that a secret of any of these kinds has, at the start of a text; a template or a shell's variable has others.
fn secret_length(text: &str) -> usize {
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=%-_~.".contains(byte)).count()
}

/// `SharedAccessSignature sr=…&sig=…&se=…`: a token, which may be good for years.
fn has_sas_token(text: &str) -> bool {
    text.match_indices("SharedAccessSignature sr=").any(|(at, _)| {
        let line = text[at..].lines().next().unwrap_or_default();
        line.split('&')
            .filter_map(|part| part.strip_prefix("sig="))
            .any(|sig| secret_length(sig) >= LEAST_SECRET)
    })
}

/// An access key's id, which by itself tells nothing, and in the same file something of a secret key's length.
fn has_amazon_pair(text: &str) -> bool {
    let words = || text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/".contains(c)));
    let is_id = |word: &str| {
        word.len() == 20
            && word.starts_with("AKIA")
            && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    words().any(is_id) && words().any(|word| word.len() == 40 && word.bytes().any(|b| b.is_ascii_uppercase()))
}

fn has_content(content: &[u8]) -> bool {
    !content.trim_ascii().is_empty()
}

/// A line `name = value` that is no comment, as in INI files.
fn has_assignment(content: &[u8]) -> bool {
    lines(content).any(|line| {
        let line = String::from_utf8_lossy(line);
        let pair = line.split_once('=').filter(|(name, _)| !name.trim_start().starts_with(['#', ';']));
        pair.is_some_and(|(name, value)| {
            let name = name.to_lowercase();
            ["key", "secret", "token", "pass"].iter().any(|word| name.contains(word))
                && !value.trim().is_empty()
        })
    })
}

fn has_token(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        !line.trim_start().starts_with('#') && line.contains("token") && line.contains([':', '='])
    })
}

fn has_npm_login(content: &[u8]) -> bool {
    let words = ["_authToken", "_auth", "_password", "npmAuthToken", "npmAuthIdent"];
    String::from_utf8_lossy(content).lines().any(|line| {
        !line.trim_start().starts_with(['#', ';'])
            && words.iter().any(|word| line.contains(word))
            // `${NPM_TOKEN}` is none.
            && !line.contains("${")
    })
}

fn has_kube_login(content: &[u8]) -> bool {
    let words = ["client-key-data:", "token:", "password:", "client-key:"];
    String::from_utf8_lossy(content)
        .lines()
        .any(|line| words.iter().any(|word| line.trim().starts_with(word)))
}

fn has_gcloud_login(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    ["refresh_token", "private_key", "access_token", "SQLite format 3"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::{IN_A_HOME, has_cloud_secret};
    use crate::rootfs::guard_rules::matches;
    use std::path::Path;

    #[test]
    fn secrets_in_plain_text() {
        let key = "wZ4X9m2h".repeat(5) + "abc=";
        for (text, expected) in [
            (format!("X=HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey={key}\n"), true),
            (format!("conn: \"Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey={key}\"\n"), true),
            (format!("DefaultEndpointsProtocol=https;AccountName=a;AccountKey={key}{key}\n"), true),
            (format!("export AWS_SECRET_ACCESS_KEY='{key}'\n"), true),
            (format!("AZURE_CLIENT_SECRET={key}\n"), true),
            (format!("SharedAccessSignature sr=h%2Fdevices%2Fd&sig={key}&se=99\n"), true),
            (format!("id = AKIA{}\nother = {}\n", "ABCDEFGH12345678", "aB3/".repeat(10)), true),
            ("SharedAccessKey=${KEY}\nAccountKey=<your key>\nSharedAccessKey=\n".into(), false),
            ("aws_secret_access_key = changeme\nAZURE_CLIENT_SECRET=\"$1\"\n".into(), false),
            (format!("a digest: {}\nid = AKIA\n", "0".repeat(64)), false),
            ("SharedAccessSignature sr={}&sig={}&se={}\n".into(), false),
        ] {
            assert_eq!(has_cloud_secret(text.as_bytes()), expected, "{text}");
        }
    }

    /// Each rule with what its file holds, and with what it holds where nobody has logged in.
    #[test]
    fn logins_and_what_is_none() {
        for (path, login, none) in [
            ("root/.aws/credentials", "[default]\naws_secret_access_key = x\n", "[default]\n# key = x\n"),
            ("srv/app/.aws/credentials", "aws_session_token=x\n", ""),
            ("home/edge/.aws/sso/cache/1.json", "{}", " \n"),
            ("root/.config/gcloud/application_default_credentials.json", "{\"refresh_token\": 1}", "{}"),
            ("var/lib/app/.kube/config", "users:\n- user:\n    token: x\n", "apiVersion: v1\n"),
            ("root/.config/containers/auth.json", "{\"auths\":{\"r\":{}}}", "{\"auths\":{}}"),
            ("home/edge/.netrc", "machine x login y password z\n", "# password\n"),
            (".npmrc", "//r.example/:_authToken=x\n", "//r.example/:_authToken=${NPM_TOKEN}\nfund=false\n"),
            ("home/edge/.pypirc", "[pypi]\npassword = x\n", "[distutils]\nindex-servers = pypi\n"),
            ("root/.cargo/credentials.toml", "[registry]\ntoken = \"x\"\n", "# token =\n"),
            ("root/.config/gh/hosts.yml", "github.com:\n  oauth_token: x\n", "github.com:\n  user: x\n"),
            ("root/.my.cnf", "[client]\npassword=x\n", "[client]\nuser=x\n"),
            ("root/.pgpass", "h:1:d:u:p\n", ""),
        ] {
            let rules: Vec<_> =
                IN_A_HOME.iter().filter(|rule| matches(rule.pattern, Path::new(path))).collect();
            assert_eq!(rules.len(), 1, "{path}");
            assert!((rules[0].holds)(login.as_bytes()), "{path}");
            assert!(!(rules[0].holds)(none.as_bytes()), "{path}: {none:?}");
        }
        assert!(!IN_A_HOME.iter().any(|rule| matches(rule.pattern, Path::new("etc/credentials"))));
    }
}
