//! Names are looked up once per run: ureq asks for each request, and one lost answer costs seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Remembers what a name resolved to.
#[derive(Debug)]
pub(super) struct Remembering<R = DefaultResolver> {
    inner: R,
    known: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
}

impl<R> Remembering<R> {
    /// Asks `inner` about what it does not know yet.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, known: Mutex::default() }
    }
}

impl<R: Resolver> Resolver for Remembering<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = format!("{:?}://{:?}", uri.scheme_str(), uri.authority());
        // Held while asking, so that connections that start together ask once.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(addresses) = known.get(&key) {
            let mut found = self.empty();
            addresses.iter().for_each(|address| found.push(*address));
            return Ok(found);
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        known.insert(key, found.to_vec());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, NextTimeout, Remembering, ResolvedSocketAddrs, Resolver, SocketAddr, Uri};
    use std::sync::atomic::{AtomicU16, Ordering};

    #[derive(Debug, Default)]
    struct Counting(AtomicU16);

    impl Resolver for Counting {
        fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            found.push(SocketAddr::from(([192, 0, 2, 1], self.0.fetch_add(1, Ordering::Relaxed))));
            Ok(found)
        }
    }

    #[test]
    fn asks_once_for_each_name() {
        let resolver = Remembering::new(Counting::default());
        let config = Config::default();
        let port = |uri: &'static str| {
            let uri = Uri::from_static(uri);
            let found = resolver.resolve(&uri, &config, NextTimeout::default()).expect("resolves");
            found[0].port()
        };
        let ports = ["http://a.example/1", "http://b.example/", "http://a.example/2", "http://b.example:81/"];
        assert_eq!(ports.map(port), [0, 1, 0, 2]);
    }
}
