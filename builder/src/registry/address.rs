//! Where a registry is.
//!
//! ```text
//! registry.example:5000      https://registry.example:5000/v2/…
//! docker.io                  https://registry-1.docker.io/v2/…
//! localhost:5000             as it answers: https, or http
//! a mirror's address         https://mirror.example/hub  ─►  https://mirror.example/v2/hub/…
//! ```

use std::net::IpAddr;

use anyhow::Result;
use url::Url;

use crate::error::Problem;
use crate::oci::reference::DOCKER_HUB;
use crate::units::Digest;

/// Where Docker Hub answers.
const HUB_HOST: &str = "registry-1.docker.io";

/// Where a registry's repositories are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Scheme, host and port.
    base: Url,
    /// What credentials are kept under: `HOST[:PORT]`.
    host: String,
    /// What repositories of the registry are below, at a mirror.
    prefix: String,
}

impl Address {
    /// Of a registry as references name it. `speaks_tls` is asked about this machine's own.
    pub(super) fn of(registry: &str, speaks_tls: impl Fn(&str) -> bool) -> Result<Self> {
        let host = if registry == DOCKER_HUB { HUB_HOST } else { registry };
        let scheme = if is_local(host) && !speaks_tls(host) { "http" } else { "https" };
        let mut address = Self::parse(&format!("{scheme}://{host}"))?;
        registry.clone_into(&mut address.host);
        Ok(address)
    }

    /// Of a mirror.
    ///
    /// # Errors
    /// When it is no `http://` or `https://` address.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Problem::input(format!("`{}` is not the address of a registry: {why}", text.escape_debug()))
                .hint("expected https://HOST[:PORT][/PATH]; user names go into the file of credentials")
        };
        let base = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if !["http", "https"].contains(&base.scheme()) {
            return Err(wrong("it begins with neither https:// nor http://").into());
        }
        if !base.username().is_empty() || base.password().is_some() {
            // Not shown: it may be a password.
            return Err(Problem::input("the address of a registry has a user name in it")
                .hint("user names go into the file of credentials (docker login)")
                .into());
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("it has more than a path").into());
        }
        let prefix = base.path().trim_matches('/').to_owned();
        let mut root = base.clone();
        root.set_path("/");
        let port = base.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", base.host_str().unwrap_or_default());
        Ok(Self { base: root, host, prefix })
    }

    /// What credentials are kept under.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Scheme, host and port.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// May requests go without TLS? Only where that was stated, or on this machine.
    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// The repository as it is called here.
    pub(super) fn repository(&self, repository: &str) -> String {
        if self.prefix.is_empty() { repository.to_owned() } else { format!("{}/{repository}", self.prefix) }
    }

    /// Of a manifest, by tag or `sha256:…`.
    pub(super) fn manifest(&self, repository: &str, what: &str) -> Result<Url> {
        self.below(&format!("{}/manifests/{what}", self.repository(repository)))
    }

    /// Of a blob.
    pub(super) fn blob(&self, repository: &str, digest: &Digest) -> Result<Url> {
        self.below(&format!("{}/blobs/sha256:{digest}", self.repository(repository)))
    }

    /// Of a path of the protocol's version 2.
    fn below(&self, path: &str) -> Result<Url> {
        crate::store::net::join(self.base.as_str(), &format!("v2/{path}"))
    }
}

/// Is the host this machine itself?
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::Address;
    use crate::units::Digest;

    #[test]
    fn where_registries_are() {
        let digest = Digest::of("x");
        for (registry, tls, expected) in [
            ("registry.example:5000", false, "https://registry.example:5000/v2/a/b/manifests/1"),
            ("docker.io", false, "https://registry-1.docker.io/v2/a/b/manifests/1"),
            ("localhost:5000", false, "http://localhost:5000/v2/a/b/manifests/1"),
            ("localhost:5000", true, "https://localhost:5000/v2/a/b/manifests/1"),
            ("127.0.0.2", false, "http://127.0.0.2/v2/a/b/manifests/1"),
            ("[::1]:5000", false, "http://[::1]:5000/v2/a/b/manifests/1"),
            ("[2001:db8::1]", false, "https://[2001:db8::1]/v2/a/b/manifests/1"),
            ("localhost.example", false, "https://localhost.example/v2/a/b/manifests/1"),
            ("127.example", false, "https://127.example/v2/a/b/manifests/1"),
        ] {
            let address = Address::of(registry, |_| tls).expect(registry);
            assert_eq!(address.manifest("a/b", "1").expect("an address").as_str(), expected);
            assert_eq!(address.host(), registry);
            assert_eq!(address.is_plain(), expected.starts_with("http:"));
        }
        let mirror = Address::parse("https://mirror.example:8443/hub/").expect("parses");
        let blob = mirror.blob("library/debian", &digest).expect("an address");
        assert_eq!(
            blob.as_str(),
            format!("https://mirror.example:8443/v2/hub/library/debian/blobs/sha256:{digest}")
        );
        assert_eq!(mirror.host(), "mirror.example:8443");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, what) in [
            ("mirror.example", "not the address"),
            ("ftp://mirror.example", "neither https"),
            ("file:///srv", "neither https"),
            ("https://mirror.example/?x=1", "more than a path"),
            ("https://me:geheim@mirror.example", "has a user name"),
        ] {
            let error = Address::parse(text).expect_err(text).to_string();
            assert!(error.contains(what) && !error.contains("geheim"), "{error}");
        }
    }
}
