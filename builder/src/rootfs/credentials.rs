//! Credentials of clouds, registries and services, which people leave in a home or beside an application: rules for files
//! by name in any home, and one judge for what any file holds.

use super::guard_rules::{
    REMOVE, Rule, any, has_login_in_address, has_password, has_registry_login, if_holds,
};

const AT_RUN_TIME: &str = "have the device fetch or be given its own, or hand it to one container at run time; whoever has the image has it";

/// By name, below any folder: an account's home may be anywhere. `~/` stands for any folder, and for the root.
pub(super) const IN_A_HOME: &[Rule] = &[
    if_holds("~/.aws/credentials", has_assignment, "keys of Amazon's cloud", REMOVE),
    if_holds("~/.aws/sso/cache/*", has_content, "a login to Amazon's cloud", REMOVE),
    if_holds("~/.azure/**", has_azure_login, "a login to Azure", REMOVE),
    if_holds("~/.config/gcloud/**", has_gcloud_login, "a login to Google's cloud", REMOVE),
    if_holds("~/.kube/config", has_kube_login, "a login to Kubernetes", REMOVE),
    if_holds("~/.docker/config.json", has_registry_login, "a login to a container registry", REMOVE),
    if_holds("~/.dockercfg", has_old_registry_login, "a login to a container registry", REMOVE),
    if_holds("~/.config/containers/auth.json", has_registry_login, "a login to a container registry", REMOVE),
    if_holds("~/.netrc", has_netrc_password, "passwords", REMOVE),
    if_holds("~/.git-credentials", has_login_in_address, "passwords of git servers", REMOVE),
    if_holds("~/.config/git/credentials", has_login_in_address, "passwords of git servers", REMOVE),
    if_holds("~/.gitconfig", has_login_in_address, "a password of a git server", REMOVE),
    if_holds("~/.git/config", has_login_in_address, "a password of a git server", REMOVE),
    if_holds("~/pip.conf", has_login_in_address, "a login to a Python package index", REMOVE),
    if_holds("~/.condarc", has_login_in_address, "a login to a package channel", REMOVE),
    if_holds("~/.config/gh/hosts.yml", has_token, "a login to GitHub", REMOVE),
    if_holds("~/.npmrc", has_npm_login, "a login to an npm registry", REMOVE),
    if_holds("~/npmrc", has_npm_login, "a login to an npm registry", REMOVE),
    if_holds("~/.yarnrc.yml", has_npm_login, "a login to an npm registry", REMOVE),
    if_holds("~/.pypirc", has_password, "a login to a Python package index", REMOVE),
    if_holds("~/.cargo/credentials", has_token, "a login to a Rust package registry", REMOVE),
    if_holds("~/.cargo/credentials.toml", has_token, "a login to a Rust package registry", REMOVE),
    if_holds("~/.nuget/NuGet/NuGet.Config", has_password, "a login to a NuGet feed", REMOVE),
    if_holds("~/.m2/settings.xml", has_password, "a login to a Maven repository", REMOVE),
    if_holds("~/.terraform.d/credentials.tfrc.json", has_token, "a login to Terraform", REMOVE),
    if_holds("~/.vault-token", has_content, "a token of a Vault server", REMOVE),
    if_holds("~/.pgpass", has_pgpass, "passwords of databases", REMOVE),
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
pub(super) const ANYWHERE: Rule = any("", "a cloud's secret in plain text", AT_RUN_TIME);

fn has_content(content: &[u8]) -> bool {
    !content.trim_ascii().is_empty()
}

/// A value that stands for none yet: nothing, `<key>`, `${VAR}`, `%VAR%`, `changeme`, `xxxx`. Quotes around it count for nothing.
pub(super) fn is_placeholder(value: &str) -> bool {
    let value = value.trim().trim_end_matches([',', ';']).trim_matches(['"', '\'']).trim();
    let lower = value.to_lowercase();
    let between = |start: &str, end: &str| value.starts_with(start) && value.ends_with(end);
    value.starts_with('$')
        || [("<", ">"), ("{", "}"), ("%", "%"), ("[", "]")].iter().any(|(start, end)| between(start, end))
        || ["", "null", "none", "~", "...", "…", "[]"].contains(&lower.as_str())
        || ["changeme", "change-me", "change_me", "replace", "placeholder", "your"]
            .iter()
            .any(|word| lower.starts_with(word))
        || (lower.len() > 2 && lower.bytes().all(|byte| b"x*.-_".contains(&byte)))
}

/// A line `name = value` or `name: value` that is no comment, its name with one of these words, and its value real.
fn assigns(content: &[u8], words: &[&str], signs: &[char]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        let line = line.trim().trim_start_matches(['-', ' ']);
        let pair = line.split_once(signs).filter(|(name, _)| !name.starts_with(['#', ';', '!']));
        pair.is_some_and(|(name, value)| {
            let name = name.to_lowercase();
            words.iter().any(|word| name.contains(word)) && !is_placeholder(value)
        })
    })
}

/// As in INI files.
fn has_assignment(content: &[u8]) -> bool {
    assigns(content, &["key", "secret", "token", "pass"], &['='])
}

fn has_token(content: &[u8]) -> bool {
    assigns(content, &["token"], &['=', ':'])
}

/// Its settings are INI, as `[core]`; everything else there are tokens and who has them.
fn has_azure_login(content: &[u8]) -> bool {
    match content.trim_ascii() {
        [] => false,
        [b'[', rest @ ..] if rest.first().is_some_and(u8::is_ascii_alphabetic) => has_assignment(content),
        b"{}" | b"[]" => false,
        _ => true,
    }
}

/// The form before `config.json`: addresses, each with its login.
fn has_old_registry_login(content: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Value>(content) {
        Ok(config) => config.as_object().is_some_and(|logins| !logins.is_empty()),
        Err(_) => has_content(content),
    }
}

/// Words, on one line or several: `machine x login y password z`.
fn has_netrc_password(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let mut words =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    while let Some(word) = words.next() {
        if word == "password" && words.next().is_some_and(|value| !is_placeholder(value)) {
            return true;
        }
    }
    false
}

/// `host:port:database:user:password`; a colon of a value is `\:`.
fn has_pgpass(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        let password = line.replace("\\:", "").splitn(5, ':').nth(4).map(str::to_owned);
        !line.starts_with('#') && password.is_some_and(|password| !is_placeholder(&password))
    })
}

fn has_npm_login(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        // Its address has colons: `//registry.example/:_authToken=…`.
        let pair = line.split_once('=').or_else(|| line.rsplit_once(": "));
        pair.filter(|(name, _)| !name.trim_start().starts_with(['#', ';'])).is_some_and(|(name, value)| {
            let name = name.trim().trim_matches('"');
            let words = ["_authToken", "_auth", "_password", "npmAuthToken", "npmAuthIdent"];
            words.iter().any(|word| name.ends_with(word)) && !is_placeholder(value) && !value.contains("${")
        })
    })
}

fn has_kube_login(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        let pair = line.trim().trim_start_matches(['-', ' ']).split_once(':');
        pair.is_some_and(|(name, value)| {
            let words = ["client-key-data", "token", "password", "client-key"];
            words.contains(&name.trim_matches('"')) && !is_placeholder(value)
        })
    })
}

fn has_gcloud_login(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    ["refresh_token", "private_key", "access_token", "SQLite format 3"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::IN_A_HOME;
    use crate::rootfs::guard_rules::matches;
    use std::path::Path;

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
            ("root/.pgpass", "h:1:d:u:p\n", "#h:1:d:u:p\nh:1:d:u:${PW}\n"),
            ("root/.dockercfg", "{\"r\":{\"auth\":\"eA==\"}}", "{}"),
            ("root/.azure/msal_token_cache.json", "{\"AccessToken\":{}}", "{}"),
            ("root/.azure/config", "[core]\nclient_secret = x\n", "[core]\ncollect_telemetry = no\n"),
            ("root/.azure/service_principal_entries.json", "[{\"client_id\":\"x\"}]", "[]"),
            (
                "root/.netrc",
                "machine x\n  login y\n  password z\n",
                "machine x login y password <password>\n",
            ),
            ("root/.git-credentials", "https://u:p@git.example\n", "# https://u:p@git.example\n"),
            ("srv/app/.git/config", "url = https://u:p@git.example/x\n", "url = git@git.example:x\n"),
            (
                "etc/pip.conf",
                "index-url = https://u:p@pypi.example/x\n",
                "index-url = https://u:${PW}@pypi.example/x\n",
            ),
            ("etc/npmrc", "//r.example/:_auth = eA==\n", "//r.example/:_auth=<token>\nalways-auth=true\n"),
            (
                "root/.kube/config",
                "users:\n- user:\n    client-key-data: eA==\n",
                "    token: \"\"\n    password: changeme\n",
            ),
            ("root/.s3cfg", "secret_key = x\n", "secret_key = xxxx\naccess_token =\n"),
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
