//! From a reference to digests: index, manifest of the architecture, configuration, layers.
//!
//! What is asked for by digest and lies in the store is not asked of the registry. What stands under a tag is asked each time.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::Registry;
use super::access::Access;
use super::ask::body;
use crate::error::Problem;
use crate::oci::config::Config;
use crate::oci::descriptor::{ACCEPT, Descriptor, MAX_CONFIG, MAX_MANIFEST, parse_digest, written_digest};
use crate::oci::manifest::{Document, Manifest};
use crate::oci::reference::Reference;
use crate::store::Store;
use crate::store::net::{Answer, Extras};
use crate::units::{Arch, Digest};

/// Most bytes of an error that a registry explains itself with.
const MAX_ERROR: u64 = 64 << 10;

/// An image for one architecture, by digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// What stands under the tag, where that is an index. The engine knows the image by its digest.
    pub index: Option<Descriptor>,
    /// The manifest.
    pub manifest: Descriptor,
    /// The configuration; its digest is the image's id.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

impl Resolved {
    /// What `docker pull` says that it pulled: the digest of the index, or of the manifest where there is none.
    pub fn digest(&self) -> Digest {
        self.index.as_ref().unwrap_or(&self.manifest).digest
    }

    /// All blobs, from the index down.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.index.iter().chain([&self.manifest, &self.config]).chain(&self.layers)
    }

    /// Bytes of all blobs.
    pub fn size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).fold(0, u64::saturating_add)
    }
}

/// An answer's error, as registries write it (distribution-spec, "Error Codes").
#[derive(Deserialize)]
struct Errors {
    errors: Vec<Code>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

/// One repository, being asked.
struct Asked<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    access: Arc<Access>,
    store: &'a Store,
}

impl Registry {
    /// What an image is made of, for an architecture. Index, manifest and configuration are in the store afterwards.
    ///
    /// # Errors
    /// When the registry is not to be reached, does not let us in, or has no such image; when the image is not for the
    /// architecture, or none that a device can have; when what comes is not what its digest says.
    pub fn resolve(&self, reference: &Reference, arch: Arch, store: &Store) -> Result<Resolved> {
        self.resolve_at(reference, arch, store).with_context(|| format!("resolving the image {reference}"))
    }

    fn resolve_at(&self, reference: &Reference, arch: Arch, store: &Store) -> Result<Resolved> {
        let asked = self.asked(reference, store)?;
        let (top, document) = asked.document(reference.digest(), None)?;
        let (index, manifest, found) = match document {
            Document::Manifest(found) => (None, top, found),
            Document::Index(entries) => {
                let chosen = entries.choose(arch)?.clone();
                let (_, document) = asked.document(Some(chosen.digest), Some(&chosen))?;
                let Document::Manifest(found) = document else {
                    return Err(Problem::input("the index names a further index for the architecture")
                        .hint("name the image by the digest of its own manifest")
                        .into());
                };
                (Some(top), chosen, found)
            }
        };
        asked.config(&found)?.check(&found, arch)?;
        let Manifest { config, layers, .. } = found;
        Ok(Resolved { reference: reference.clone(), index, manifest, config, layers })
    }

    /// What stands under a reference's tag now; of a reference by digest, that digest. Little is transferred.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub fn current(&self, reference: &Reference) -> Result<Digest> {
        let Some(tag) = reference.pulled_tag() else {
            return reference.digest().context("reading the reference's digest");
        };
        let address = self.address(reference)?;
        let access = self.access(&address, reference.repository())?;
        let found =
            self.tagged(&access, reference, tag).with_context(|| format!("asking for {reference}"))?;
        found.ok_or_else(|| absent(&access, &format!("tag `{tag}`"), None).into())
    }

    fn tagged(&self, access: &Access, reference: &Reference, tag: &str) -> Result<Option<Digest>> {
        let url = access.address.manifest(reference.repository(), tag)?;
        let head = Extras { head: true, accept: &ACCEPT, authorization: None };
        let answer = self.ask(&format!("the manifest of {reference}"), access, &url, head)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        match stated(&answer) {
            Some(digest) => Ok(Some(digest)),
            // Old registries say it in no header.
            None => {
                let answer = self.ask("the manifest", access, &url, Extras { head: false, ..head })?;
                let bytes =
                    body(answer, MAX_MANIFEST).map_err(|why| anyhow!("reading the manifest: {why}"))?;
                Ok(Some(Digest::of(bytes)))
            }
        }
    }

    fn asked<'a>(&'a self, reference: &'a Reference, store: &'a Store) -> Result<Asked<'a>> {
        let address = self.address(reference)?;
        let access = self.access(&address, reference.repository())?;
        Ok(Asked { registry: self, reference, access, store })
    }
}

impl Asked<'_> {
    /// An index or manifest: by digest, or what stands under the tag.
    fn document(&self, digest: Option<Digest>, by: Option<&Descriptor>) -> Result<(Descriptor, Document)> {
        let stated = by.map(|descriptor| descriptor.media_type.as_str());
        if let Some(bytes) = digest.and_then(|digest| kept(self.store, &digest, MAX_MANIFEST)) {
            return document(&bytes, stated);
        }
        let what = match digest {
            Some(digest) => written_digest(&digest),
            None => self.reference.pulled_tag().unwrap_or_default().to_owned(),
        };
        let url = self.access.address.manifest(self.reference.repository(), &what)?;
        let extras = Extras { accept: &ACCEPT, ..Extras::default() };
        let send = || self.registry.ask("the manifest", &self.access, &url, extras);
        let (bytes, answered) = self.checked("the manifest", digest, MAX_MANIFEST, &send)?;
        // Registries that speak OCI say what it is; of one that says `application/json` the bytes decide.
        let answered = answered.as_deref().filter(|text| text.starts_with("application/vnd."));
        let stated = stated.or(answered);
        let read = document(&bytes, stated)?;
        self.store.insert_bytes(&bytes)?;
        Ok(read)
    }

    fn config(&self, manifest: &Manifest) -> Result<Config> {
        let digest = manifest.config.digest;
        if let Some(bytes) = kept(self.store, &digest, MAX_CONFIG) {
            return Ok(Config::parse(&bytes)?);
        }
        let url = self.access.address.blob(self.reference.repository(), &digest)?;
        let send = || self.registry.ask("the configuration", &self.access, &url, Extras::default());
        let (bytes, _) = self.checked("the configuration", Some(digest), MAX_CONFIG, &send)?;
        let config = Config::parse(&bytes)?;
        self.store.insert_bytes(&bytes)?;
        Ok(config)
    }

    /// The bytes that have the digest which was asked for, or the one that the registry states; and their media type. Asked
    /// for twice: a proxy may have had half of an update.
    fn checked(
        &self,
        what: &str,
        digest: Option<Digest>,
        most: u64,
        send: &dyn Fn() -> Result<Answer>,
    ) -> Result<(Vec<u8>, Option<String>)> {
        let mut wrong = String::new();
        for _ in 0..2 {
            let answer = send()?;
            if answer.status() == 404 {
                return Err(self.missing(answer, digest)?.into());
            }
            let expected = digest.or(stated(&answer));
            let media_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok());
            let media_type = media_type.map(str::to_owned);
            match body(answer, most) {
                Ok(bytes) => {
                    let found = Digest::of(&bytes);
                    match expected.filter(|expected| *expected != found) {
                        None => return Ok((bytes, media_type)),
                        Some(expected) => wrong = format!("it has SHA-256 {found}, expected {expected}"),
                    }
                }
                Err(why) => wrong = why,
            }
        }
        let host = self.access.address.host();
        Err(Problem::work(format!("{what} from {host} is refused, twice in a row: {wrong}"))
            .hint("ask who runs the registry, or name another with --mirror")
            .into())
    }

    /// Why there is nothing under the name. Where a tag and its digest were asked for, the tag may have moved.
    fn missing(&self, answer: Answer, digest: Option<Digest>) -> Result<Problem> {
        let known = body(answer, MAX_ERROR).unwrap_or_default();
        let code = serde_json::from_slice::<Errors>(&known).ok();
        let code = code.and_then(|errors| errors.errors.into_iter().next()).map(|error| error.code);
        let Some(digest) = digest else {
            let what = format!("tag `{}`", self.reference.pulled_tag().unwrap_or_default());
            return Ok(absent(&self.access, &what, code.as_deref()));
        };
        // Only of what the reference itself names; what a manifest names is simply gone.
        let tag = self.reference.tag().filter(|_| self.reference.digest() == Some(digest));
        let now = match tag {
            Some(tag) => self.registry.tagged(&self.access, self.reference, tag)?.map(|now| (tag, now)),
            None => None,
        };
        Ok(match now {
            Some((tag, now)) if now != digest => moved(&self.access, tag, &digest, &now),
            _ => absent(&self.access, &written_digest(&digest), code.as_deref()),
        })
    }
}

/// A tag that leads elsewhere than it did, when what it led to is gone.
fn moved(access: &Access, tag: &str, was: &Digest, now: &Digest) -> Problem {
    let (host, repository) = (access.address.host(), &access.repository);
    Problem::work(format!(
        "the tag `{tag}` of {repository} has moved: it is sha256:{now} now, and {host} no longer has sha256:{was}"
    ))
    .hint("look at what changed, then renew the lock: edgepress lock --update")
}

fn absent(access: &Access, what: &str, code: Option<&str>) -> Problem {
    let (host, repository) = (access.address.host(), &access.repository);
    match code {
        Some("NAME_UNKNOWN") => Problem::work(format!("{host} has no repository {repository} (HTTP 404)"))
            .hint("is the name right? Some registries say so too of what a login is needed for"),
        _ => Problem::work(format!("{host} has no {what} of {repository} (HTTP 404)"))
            .hint("is it right, and pushed? A digest may have been removed: renew the lock (edgepress lock --update)"),
    }
}

/// The digest that a registry says an answer has.
fn stated(answer: &Answer) -> Option<Digest> {
    let value = answer.headers().get("docker-content-digest")?.to_str().ok()?;
    parse_digest(value).ok()
}

fn document(bytes: &[u8], stated: Option<&str>) -> Result<(Descriptor, Document)> {
    let document = Document::parse(bytes, stated)?;
    let media_type = match &document {
        Document::Manifest(manifest) => manifest.media_type.clone(),
        Document::Index(index) => index.media_type.clone(),
    };
    Ok((Descriptor::of(media_type, bytes), document))
}

/// What the store has, if that is no larger than it may be, and still what it was.
fn kept(store: &Store, digest: &Digest, most: u64) -> Option<Vec<u8>> {
    let path = store.blob(digest)?;
    let size = path.metadata().ok()?.len();
    let bytes = if size <= most { std::fs::read(path).ok()? } else { return None };
    (Digest::of(&bytes) == *digest).then_some(bytes)
}
