//! Registries of container images: from a reference to digests, and from digests to blobs in the store.
//!
//! ```text
//! reference ─► resolve ─► index ─► manifest ─► config, layers         digests and sizes: what a lock keeps
//!                            └───────┴───────────┴─► store
//! digests ───► fetch ───► what the store lacks: in parallel, resumed, checked while it comes; by digest alone
//!
//! registry ─► address   where it is: itself, or a mirror            GET /v2/REPOSITORY/manifests/TAG-OR-DIGEST
//!          └► access    how one is let in: nothing, Basic, a token      /v2/REPOSITORY/blobs/DIGEST
//! ```
//! The protocol is OCI's distribution-spec 1.1; tokens are those of "Token Authentication" of distribution, and of Azure's
//! registries (github.com/Azure/acr, docs/AAD-OAuth.md). What comes is known by its digest; the registry is trusted for nothing
//! but what stands under a tag now.

mod access;
mod address;
mod ask;
mod fetch;
mod local;
mod resolve;
mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::certificate::blocks;
use crate::error::Problem;
use crate::oci::credentials::Credentials;
use crate::oci::reference::Reference;
use crate::store::download::is_misleading;
use crate::store::net::{Client, Settings};
use access::Access;
use address::Address;

pub use fetch::{Fetched, is_stored};
pub use local::take;
pub use resolve::Resolved;

/// Where docker has the authorities of registries: `HOST[:PORT]/*.crt` (docs.docker.com, "Verify repository client with
/// certificates").
const CERTIFICATES: &str = "/etc/docker/certs.d";

/// How registries are reached.
#[derive(Debug, Default)]
pub struct RegistryOptions {
    /// In the place of a registry (`HOST[:PORT]`, `docker.io` for Docker Hub): `http://` or `https://`, a host, and perhaps a
    /// path that its repositories are below.
    pub mirrors: BTreeMap<String, String>,
    /// Whom they know us as.
    pub credentials: Credentials,
    /// Proxies: those of the environment, as a rule; apt's are for archives. Credentials that are there are not used.
    pub settings: Settings,
    /// PEM file of the authorities that a registry (`HOST[:PORT]`) is trusted by, in the place of the system's and of those
    /// in `/etc/docker/certs.d`.
    pub authorities: BTreeMap<String, PathBuf>,
}

/// All registries, as one run meets them: connections, tokens and what is known about hosts are kept.
pub struct Registry {
    client: Client,
    mirrors: BTreeMap<String, Address>,
    credentials: Credentials,
    /// By repository's address.
    access: Mutex<BTreeMap<String, Arc<Access>>>,
    /// Of this machine's own registries: do they speak TLS?
    schemes: Mutex<BTreeMap<String, bool>>,
}

impl Registry {
    /// Reads what is needed of files; makes no connection.
    ///
    /// # Errors
    /// When a mirror is no address, or a file of authorities cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self> {
        let mut settings = options.settings;
        settings.credentials.clear();
        settings.authorities.extend(docker_authorities(Path::new(CERTIFICATES)));
        for (registry, file) in &options.authorities {
            let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            settings.authorities.insert(registry.clone(), certificates(&bytes, file)?);
        }
        let mut mirrors = BTreeMap::new();
        for (registry, url) in &options.mirrors {
            mirrors.insert(registry.clone(), Address::parse(url)?);
        }
        Ok(Self {
            client: Client::new(settings),
            mirrors,
            credentials: options.credentials,
            access: Mutex::default(),
            schemes: Mutex::default(),
        })
    }

    /// Where a reference's repository is.
    fn address(&self, reference: &Reference) -> Result<Address> {
        match self.mirrors.get(reference.registry()) {
            Some(mirror) => Ok(mirror.clone()),
            None => Address::of(reference.registry(), |host| self.speaks_tls(host)),
        }
    }

    /// Does a registry on this machine speak TLS? Asked once.
    fn speaks_tls(&self, host: &str) -> bool {
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        *schemes.entry(host.to_owned()).or_insert_with(|| {
            let probe = url::Url::parse(&format!("https://{host}/v2/"));
            probe.is_ok_and(|url| match self.client.get(&url, 0) {
                Ok(_) => true,
                // It answers with a redirect that is not followed, or has a certificate that is not trusted: no reason to go on
                // without TLS.
                Err(error) => is_misleading(&error) || format!("{error:?}").contains("InvalidCertificate"),
            })
        })
    }

    /// How one is let into a repository.
    fn access(&self, address: &Address, repository: &str) -> Result<Arc<Access>> {
        let repository = address.repository(repository);
        let key = format!("{}/{repository}", address.base());
        let mut all = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&key) {
            return Ok(known.clone());
        }
        let login = self.credentials.find(address.host(), &repository)?;
        let made = Arc::new(Access::new(address.clone(), repository, login));
        all.insert(key, made.clone());
        Ok(made)
    }
}

/// Authorities that docker has for registries. What cannot be read is not used: TLS fails then, and says so.
fn docker_authorities(folder: &Path) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let files = std::fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|file| file.path());
        let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "crt"));
        let read = |file: PathBuf| certificates(&std::fs::read(&file).ok()?, &file).ok();
        let all: Vec<Vec<u8>> = files.filter_map(read).flatten().collect();
        if !all.is_empty() {
            found.insert(entry.file_name().to_string_lossy().into_owned(), all);
        }
    }
    found
}

/// The certificates of a PEM file.
fn certificates(bytes: &[u8], file: &Path) -> Result<Vec<Vec<u8>>> {
    let shown = file.display();
    let read = blocks::read(bytes).map_err(|why| Problem::input(format!("{shown} cannot be read: {why}")))?;
    let found: Vec<_> =
        read.into_iter().filter(blocks::Block::is_certificate).map(|block| block.der).collect();
    if found.is_empty() {
        return Err(Problem::input(format!("{shown} has no certificate"))
            .hint("expected the authority that signs for the registry, as PEM")
            .into());
    }
    Ok(found)
}

#[cfg(test)]
mod nasty_tests;
#[cfg(test)]
mod server_tests;
