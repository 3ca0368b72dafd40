//! From digests to blobs in the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::Registry;
use super::access::Access;
use crate::event::{Event, Sink, Unit};
use crate::oci::descriptor::{ACCEPT, BlobKind, Descriptor};
use crate::oci::reference::Reference;
use crate::store::Store;
use crate::store::download::{Refusal, Transport, Wanted, fetch_all};
use crate::store::net::{Answer, Extras};
use crate::units::{Digest, counted};

/// Blobs at once: what registries, and docker itself, let one client have.
const CONNECTIONS: usize = 4;

/// What fetching did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fetched {
    /// Blobs downloaded.
    pub blobs: usize,
    /// Bytes downloaded.
    pub bytes: u64,
}

/// How each blob is come by.
struct Session<'a> {
    registry: &'a Registry,
    doors: BTreeMap<Digest, Door>,
}

struct Door {
    access: Arc<Access>,
    is_manifest: bool,
}

impl Transport for Session<'_> {
    fn ask(&self, file: &Wanted, from: u64) -> Result<Answer, Refusal> {
        let door = self
            .doors
            .get(&file.sha256)
            .ok_or_else(|| Refusal::Final(anyhow::anyhow!("{} was not asked for", file.name)))?;
        let accept: &[&str] = if door.is_manifest { &ACCEPT } else { &[] };
        let extras = Extras { accept, ..Extras::default() };
        match self.registry.once(&door.access, &file.url, from, extras) {
            Ok(answer) => answer.map_err(Refusal::Http),
            Err(error) => Err(Refusal::Final(error)),
        }
    }

    fn connections(&self) -> usize {
        CONNECTIONS
    }

    fn gone(&self) -> &'static str {
        "the registry no longer has what the lock names"
    }
}

impl Registry {
    /// Brings blobs of images into the store, by digest. With all of them there, no connection is made. `step` names it in
    /// events.
    ///
    /// # Errors
    /// When a registry cannot be reached, does not let us in, no longer has a blob, or twice sends other bytes for it; when
    /// there is no room.
    pub fn fetch(
        &self,
        images: &[(&Reference, Vec<&Descriptor>)],
        store: &Store,
        step: &str,
        sink: &dyn Sink,
    ) -> Result<Fetched> {
        let start = Instant::now();
        let (mut doors, mut wanted, mut all) = (BTreeMap::new(), Vec::new(), 0u64);
        for (reference, blobs) in images {
            for blob in blobs.iter().copied() {
                all += 1;
                // A layer that several images share is fetched once.
                if doors.contains_key(&blob.digest) || is_stored(blob, store) {
                    continue;
                }
                let (door, file) = self.door(reference, blob)?;
                doors.insert(blob.digest, door);
                wanted.push(file);
            }
        }
        let fetched = Fetched {
            blobs: wanted.len(),
            bytes: wanted.iter().filter_map(|file| file.size).fold(0, u64::saturating_add),
        };
        sink.emit(Event::Started { step: step.to_owned(), total: Some(fetched.bytes), unit: Unit::Bytes });
        if !wanted.is_empty() {
            store.needs(fetched.bytes, "the container images to download")?;
            fetch_all(&Session { registry: self, doors }, store, wanted, step, sink)?;
        }
        let outcome = match fetched.blobs {
            0 => format!("{}, all from the store", counted(all, "blob")),
            count => format!("{count} of {} downloaded", counted(all, "blob")),
        };
        sink.emit(Event::Finished { step: step.to_owned(), seconds: start.elapsed().as_secs_f64(), outcome });
        Ok(fetched)
    }

    fn door(&self, reference: &Reference, blob: &Descriptor) -> Result<(Door, Wanted)> {
        let address = self.address(reference)?;
        let access = self.access(&address, reference.repository())?;
        let (what, is_manifest) = match blob.kind() {
            BlobKind::Index => ("index", true),
            BlobKind::Manifest => ("manifest", true),
            BlobKind::Config => ("configuration", false),
            _ => ("layer", false),
        };
        let repository = reference.repository();
        let url = match is_manifest {
            true => address.manifest(repository, &format!("sha256:{}", blob.digest))?,
            false => address.blob(repository, &blob.digest)?,
        };
        let file = Wanted {
            name: format!("{what} {} of {reference}", blob.digest.short()),
            url,
            size: Some(blob.size),
            sha256: blob.digest,
            hint: format!(
                "renew the lock (edgepress lock --update), or name a registry that still has it with --mirror {}=URL",
                reference.registry()
            ),
        };
        Ok((Door { access, is_manifest }, file))
    }
}

/// Is the blob in the store, at its full size? A file that a broken disk has shortened is fetched again.
pub fn is_stored(blob: &Descriptor, store: &Store) -> bool {
    let path = store.blob(&blob.digest);
    path.and_then(|path| path.metadata().ok()).is_some_and(|metadata| metadata.len() == blob.size)
}
