//! What an identity may bring beside certificate and key: the credentials of its source, and settings of the device.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::certificate::{Role, Rules};
use super::device::{Assembly, check_files};
use super::files;
use super::golden::AUTHORITIES;
use super::secret;
use crate::board::wifi;
use crate::finding::Severity;
use crate::provisioning::device::EstAuth;
use crate::provisioning::source::{DeviceSource, is_registry};
use crate::recipe::types::{CertificateSource, Enrol, VaultToken};
use crate::ssh::judge_keys;

/// Most bytes of a network's name (IEEE 802.11).
const LONGEST_SSID: usize = 32;
/// Most characters of a serial number.
const LONGEST_SERIAL: usize = 128;

/// The credentials that a source can use.
#[derive(Clone, Copy, Default)]
struct Wanted {
    certificate: bool,
    password: bool,
    token: bool,
    symmetric_key: bool,
}

impl Wanted {
    fn of(source: &CertificateSource) -> Self {
        let none = Self::default();
        match source {
            CertificateSource::Est { .. } => Self { certificate: true, password: true, ..none },
            CertificateSource::Https { .. } => Self { certificate: true, token: true, ..none },
            CertificateSource::KeyVault { token: VaultToken::ClientCertificate, .. } => {
                Self { certificate: true, ..none }
            }
            CertificateSource::SymmetricKey {} => Self { symmetric_key: true, ..none },
            CertificateSource::Partition {}
            | CertificateSource::KeyVault { .. }
            | CertificateSource::Tpm {} => none,
        }
    }

    /// Is there a way in only with one of them?
    fn needs_one(self) -> bool {
        self.certificate || self.password || self.token
    }
}

/// Can a source use a credential?
type Belongs = fn(Wanted) -> bool;

/// Columns of credentials.
const CREDENTIALS: [(&str, Belongs); 9] = [
    ("bootstrap.certificate", |it| it.certificate),
    ("bootstrap.key", |it| it.certificate),
    ("bootstrap.username", |it| it.password),
    ("bootstrap.password", |it| it.password),
    ("bootstrap.password_file", |it| it.password),
    ("bootstrap.token", |it| it.token),
    ("bootstrap.token_file", |it| it.token),
    ("symmetric_key", |it| it.symmetric_key),
    ("symmetric_key_file", |it| it.symmetric_key),
];

impl Assembly<'_> {
    /// The credentials of the device's source; says how aziot-certd gets in, where that is what enrols.
    pub(super) fn credentials(&mut self, source: &DeviceSource, id: &str) -> Option<EstAuth> {
        let wanted = Wanted::of(&source.certificate);
        let name = source.certificate.name();
        for (column, _) in CREDENTIALS.into_iter().filter(|(_, belongs)| !belongs(wanted)) {
            if self.record.get(column).is_some() {
                self.error(column, format!("it does not belong to the source `{name}`"));
            }
        }
        // Azure lets applications in with RSA keys only; first boot refuses others.
        let rsa_only = matches!(source.certificate, CertificateSource::KeyVault { .. });
        let certificate = wanted.certificate && self.bootstrap_certificate(rsa_only);
        let password = wanted.password && self.bootstrap_password();
        let token = wanted.token && self.bootstrap_token();
        if wanted.symmetric_key {
            self.symmetric_key(id);
        }
        if wanted.needs_one() && !certificate && !password && !token {
            let mut ways = Vec::new();
            ways.extend(wanted.certificate.then_some("bootstrap.certificate with bootstrap.key"));
            ways.extend(wanted.password.then_some("bootstrap.username with bootstrap.password_file"));
            ways.extend(wanted.token.then_some("bootstrap.token_file"));
            let message = format!("the source `{name}` needs {}", ways.join(", or "));
            self.error("bootstrap.certificate", message);
        }
        let enrols = matches!(source.certificate, CertificateSource::Est { enrol: Enrol::Runtime, .. });
        match (certificate, password) {
            (true, true) if enrols => Some(EstAuth::Both),
            (true, false) if enrols => Some(EstAuth::Certificate),
            (false, true) if enrols => Some(EstAuth::Password),
            _ => None,
        }
    }

    /// Is one stated? (Whether it is good is told by findings.)
    fn bootstrap_certificate(&mut self, rsa_only: bool) -> bool {
        let columns = ["bootstrap.certificate", "bootstrap.key"];
        let paths = columns.map(|column| self.record.get(column).map(Self::path));
        match paths {
            [None, None] => return false,
            [Some(certificate), Some(key)] => {
                // Whoever vouches for a device need not vouch for what lets it in.
                let rules = Rules {
                    authorities: Vec::new(),
                    now: self.context.now,
                    named: false,
                    role: Role::Client,
                };
                let pair = (certificate.clone(), key.clone());
                let result = self.context.shared.pairs.get(pair, || check_files(&certificate, &key, &rules));
                if let Some(made) = self.judge(columns, result) {
                    if rsa_only && !made.rsa {
                        self.error(
                            columns[1],
                            "it is no RSA key, and Azure lets applications in with RSA keys only",
                        );
                    }
                    self.put("bootstrap-certificate.pem", made.chain_pem);
                    self.put("bootstrap-key.pem", made.key_pem);
                }
            }
            [Some(_), None] => self.error(columns[1], "the key of bootstrap.certificate is not named"),
            [None, Some(_)] => self.error(columns[0], "the certificate of bootstrap.key is not named"),
        }
        true
    }

    fn bootstrap_password(&mut self) -> bool {
        let name = self.record.text("bootstrap.username").map(str::to_owned);
        let password = self.secret("bootstrap.password", "bootstrap.password_file");
        match (name, password) {
            (None, None) => return false,
            (Some(name), _) if name.contains(':') => {
                self.error("bootstrap.username", "it has a colon, which basic authentication cannot send");
            }
            (Some(name), _) if !plain(&name) => {
                self.error(
                    "bootstrap.username",
                    "it is not printable ASCII, and first boot reads nothing else",
                );
            }
            (Some(_), Some(password)) if !plain(&password) => {
                self.error(
                    "bootstrap.password",
                    "it is not printable ASCII, and first boot reads nothing else",
                );
            }
            (Some(name), Some(password)) => {
                self.put("bootstrap-username", format!("{name}\n"));
                self.put("bootstrap-password", format!("{password}\n"));
            }
            (Some(_), None) => self.error("bootstrap.password_file", "bootstrap.username has no password"),
            (None, Some(_)) => self.error("bootstrap.username", "the password has no user name"),
        }
        true
    }

    fn bootstrap_token(&mut self) -> bool {
        let Some(token) = self.secret("bootstrap.token", "bootstrap.token_file") else { return false };
        if token.chars().all(|c| c.is_ascii_graphic()) {
            self.put("bootstrap-token", format!("{token}\n"));
        } else {
            self.error("bootstrap.token", "it is no bearer token: printable ASCII without spaces");
        }
        true
    }

    fn symmetric_key(&mut self, id: &str) {
        let own = self.secret("symmetric_key", "symmetric_key_file");
        match (own, &self.context.group_key) {
            (Some(key), Some(group)) if group.is(&key) => {
                self.error(
                    "symmetric_key",
                    "it is the enrolment group's own key, from which every device's is derived",
                );
            }
            (Some(key), _) => match secret::device_key_fault(&key) {
                None => {
                    self.symmetric_key = Some(secret::fingerprint(&key));
                    self.put("symmetric-key", format!("{key}\n"));
                }
                Some(fault) => self.error("symmetric_key", fault),
            },
            (None, Some(group)) => {
                self.context.shared.group_key_used.store(true, Ordering::Relaxed);
                let key = group.derive(id);
                self.symmetric_key = Some(secret::fingerprint(&key));
                self.put("symmetric-key", format!("{key}\n"));
            }
            // A file that cannot be used was told already.
            (None, None) if self.record.get("symmetric_key_file").is_some() => {}
            (None, None) => {
                let mut finding = self.record.error("symmetric_key_file", "the device has no symmetric key");
                finding.hint = Some("--enrolment-group-key FILE derives one for each device".into());
                self.findings.push(finding);
            }
        }
    }

    /// A secret that is stated itself, or by the file that holds it.
    fn secret(&mut self, inline: &str, by_file: &str) -> Option<String> {
        let column = |name| super::record::column(name).and_then(|column| self.record.get(column));
        match (column(inline), column(by_file)) {
            (None, None) => None,
            (Some(cell), None) => Some(cell.text.clone()),
            (None, Some(cell)) => {
                let path = Self::path(cell);
                match files::read_line(&path) {
                    Ok(line) => {
                        self.warn_if_public(by_file, &path);
                        Some(line)
                    }
                    Err(message) => {
                        self.error(by_file, message);
                        None
                    }
                }
            }
            (Some(_), Some(_)) => {
                self.error(inline, format!("`{by_file}` is stated, too: which of them?"));
                None
            }
        }
    }

    fn warn_if_public(&mut self, column: &str, path: &Path) {
        if files::is_public(path) {
            let message = format!("everybody on this machine can read {}", path.display());
            self.findings.push(self.record.finding(Severity::Warning, column, message));
        }
    }

    /// Serial, hosts, endpoint, SSH keys, Wi-Fi, authorities.
    pub(super) fn settings(&mut self) {
        let serial = self.record.text("serial").unwrap_or_default();
        if serial.len() > LONGEST_SERIAL || serial.chars().any(char::is_control) {
            self.error("serial", format!("it is no serial number of at most {LONGEST_SERIAL} characters"));
        }
        self.file("hosts", "hosts", judge_hosts);
        self.file("authorized_keys", "authorized_keys", judge_keys);
        if let Some(endpoint) = self.record.text("endpoint").map(str::to_owned)
            && self.overridable("endpoint")
        {
            match endpoint_is_address(&endpoint) {
                true => self.put("endpoint", format!("{endpoint}\n")),
                false => self.error("endpoint", format!("`{endpoint}` is no https:// address")),
            }
        }
        self.wifi();
        self.registry();
        self.trusted();
    }

    fn file(&mut self, column: &'static str, name: &str, judge: impl FnOnce(&str) -> Result<(), String>) {
        let Some(path) = self.record.get(column).map(Self::path) else { return };
        if !self.overridable(column) {
            return;
        }
        let content = self.context.shared.texts.get((path.clone(), column), || {
            let bytes = files::read(&path)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
            judge(text).map_err(|reason| format!("{} {reason}", path.display()))?;
            Ok(bytes)
        });
        self.attach(column, name, content);
    }

    fn wifi(&mut self) {
        if let Some(name) = self.record.text("wifi_ssid").map(str::to_owned)
            && self.overridable("wifi_ssid")
        {
            match name.len() {
                1..=LONGEST_SSID => self.put("wifi-ssid", format!("{name}\n")),
                _ => {
                    self.error(
                        "wifi_ssid",
                        format!("the name of a network has at most {LONGEST_SSID} bytes"),
                    );
                }
            }
        }
        let stated =
            ["wifi_key", "wifi_key_file"].into_iter().find(|column| self.record.get(column).is_some());
        if let Some(column) = stated
            && self.overridable(column)
            && let Some(key) = self.secret("wifi_key", "wifi_key_file")
        {
            match wifi::is_key(&key) {
                true => self.put("wifi-key", format!("{key}\n")),
                false => self.error(
                    column,
                    "it is no key of a Wi-Fi network: 8 to 63 printable characters, or 64 hexadecimal digits",
                ),
            }
        }
    }

    /// Credentials of the registry that edgeAgent's own image comes from; the runtime pulls that before the hub has told it any.
    fn registry(&mut self) {
        const ADDRESS: &str = "registry_address";
        const USERNAME: &str = "registry_username";
        const PASSWORDS: [&str; 2] = ["registry_password", "registry_password_file"];
        let all = [ADDRESS, USERNAME, PASSWORDS[0], PASSWORDS[1]];
        let Some(first) = all.into_iter().find(|column| self.record.get(column).is_some()) else { return };
        if !self.overridable(first) {
            return;
        }
        let (address, username) = (self.record.text(ADDRESS), self.record.text(USERNAME));
        let (address, username) = (address.map(str::to_owned), username.map(str::to_owned));
        let stated = PASSWORDS.into_iter().any(|column| self.record.get(column).is_some());
        let password = self.secret(PASSWORDS[0], PASSWORDS[1]);
        for (column, missing) in
            [(ADDRESS, address.is_none()), (USERNAME, username.is_none()), (PASSWORDS[0], !stated)]
        {
            if missing {
                self.error(column, "a registry's credentials are its address, a user name and a password");
            }
        }
        let (Some(address), Some(username), Some(password)) = (address, username, password) else { return };
        if !is_registry(&address) {
            let message = format!(
                "`{address}` is no registry as an image's name begins with it, `HOST` or `HOST:PORT`"
            );
            return self.error(ADDRESS, message);
        }
        for (column, text, name) in
            [(USERNAME, &username, "registry-username"), (PASSWORDS[0], &password, "registry-password")]
        {
            if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                self.error(column, "it has a sign that is no plain ASCII");
            } else if text.trim() != text.as_str() || text.is_empty() {
                self.error(column, "it begins or ends with a blank, which the device would not keep");
            } else {
                self.put(name, format!("{text}\n"));
            }
        }
        self.put("registry-address", format!("{address}\n"));
    }

    fn trusted(&mut self) {
        let Some(cell) = self.record.get("ca") else { return };
        if !self.overridable("ca") {
            return;
        }
        let paths: Vec<_> = cell.text.lines().map(str::trim).filter(|path| !path.is_empty()).collect();
        for (at, path) in (1..).zip(paths) {
            let authorities = self.authorities(&cell.origin.folder.join(path));
            self.attach("ca", &format!("{AUTHORITIES}/{at}.pem"), authorities.map(String::into_bytes));
        }
    }
}

/// Text that first boot's `take_text` leaves as it is.
fn plain(text: &str) -> bool {
    text.chars().all(|c| c == ' ' || c.is_ascii_graphic())
}

/// Lines for /etc/hosts, as first boot takes them (`hosts_lines` in overlays/base/usr/lib/edgepress/overrides.sh): what
/// follows a `#` is a comment.
fn judge_hosts(text: &str) -> Result<(), String> {
    let text = text.trim_start_matches('\u{feff}');
    let all = text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'));
    let plain = all.map(|line| line.split_once('#').map_or(line, |(line, _)| line));
    let mut lines = (1..).zip(plain).filter(|(_, line)| !line.trim().is_empty());
    let good = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().is_some_and(|word| word.parse::<std::net::IpAddr>().is_ok());
        let plain = |c: char| c.is_ascii_alphanumeric() || ":._ \t-".contains(c);
        address && words.next().is_some() && line.trim_end().chars().all(plain)
    };
    match lines.find(|(_, line)| !good(line)) {
        Some((number, _)) => Err(format!("is no hosts file (line {number}: an address, then names)")),
        None => Ok(()),
    }
}

/// The rule of `check_overrides` in overlays/base/usr/lib/edgepress/overrides.sh.
fn endpoint_is_address(text: &str) -> bool {
    text.strip_prefix("https://").is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_alphanumeric())
            && rest.chars().all(|c| c.is_ascii_alphanumeric() || ".:/_-".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::{endpoint_is_address, judge_hosts};

    #[test]
    fn hosts() {
        assert_eq!(judge_hosts("# plant\n\n10.0.0.1 hub hub.plant\r\nfe80::1\tgw\n"), Ok(()));
        assert_eq!(
            judge_hosts("\u{feff}10.0.0.1\thub  # the hub\r\n10.0.0.2 dps#dps\r#\r10.0.0.3 est # ä"),
            Ok(())
        );
        let third = judge_hosts("# one\r\n10.0.0.1 hub # two\r\nfe80::1%eth0 gw\r\n").expect_err("a zone");
        assert!(third.contains("line 3"), "{third}");
        for text in [
            "10.0.0.1 # hub",
            "10.0.0.1 h\u{fc}b",
            "hub 10.0.0.1",
            "10.0.0.1",
            "10.0.0.1 a$b",
            "10.0.0.1 ok\n10.0.0.256 no",
        ] {
            assert!(judge_hosts(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints() {
        assert!(endpoint_is_address("https://dps.plant.example:8443/x"));
        for text in ["http://dps", "https://", "https://-x", "https://a b", "https://a\"b"] {
            assert!(!endpoint_is_address(text), "{text}");
        }
    }
}
