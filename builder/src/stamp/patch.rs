//! A device's patch: the few sectors of the FAT partition in which its image differs from the golden one.
//!
//! ```text
//! 0       8 bytes   "EPPATCH" and the version, 1
//! 8       4 bytes   H, length of the header; little-endian
//! 12      H bytes   header, JSON: whose patch, for which image, `runs` as [offset, bytes] in ascending order
//! 12+H              the runs' new bytes, one after the other; raw deflate (RFC 1951)
//! -32    32 bytes   SHA-256 of everything before
//! ```
//!
//! It holds the device's private key. Offsets count from the start of the disk, in whole sectors. The header has a digest
//! of what the image holds there *before*: a patch laid over another image is noticed from the sectors alone.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::disk::gpt::SECTOR;
use crate::error::Problem;
use crate::units::{Digest, Sha256};

/// First bytes of a patch; the last one is the version.
pub const MAGIC: &[u8; 8] = b"EPPATCH\x01";
const DIGEST: usize = 32;
/// Far above any identity; bounds what a damaged or hostile file can make us allocate.
const LARGEST_FILE: u64 = 16 << 20;
const LARGEST_HEADER: usize = 1 << 20;
const LARGEST_CONTENT: u64 = 32 << 20;

/// What a patch says of itself; none of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Registration id of the device.
    pub registration_id: String,
    /// Serial of its card or hardware, to find the patch by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 of its certificate (DER), where it brings one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<Digest>,
    /// End of the certificate's validity, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// The golden image.
    pub image: Base,
    /// SHA-256 of what the runs replace, one after the other.
    pub before_sha256: Digest,
    runs: Vec<(u64, u64)>,
}

/// The image that a patch is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its file's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the whole, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

/// A patch. Its form for debugging shows no content.
#[derive(Clone, PartialEq, Eq)]
pub struct Patch {
    /// What it says of itself.
    pub header: Header,
    content: disk::patch::Patch,
}

impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header.fmt(f)
    }
}

impl Patch {
    /// The patch of these sectors; `before` is the same with the old bytes, and `header`'s digest and runs are made here.
    pub fn new(
        identity: Identity,
        image: Base,
        content: disk::patch::Patch,
        before: &disk::patch::Patch,
    ) -> Self {
        let header = Header {
            registration_id: identity.registration_id,
            serial: identity.serial,
            certificate_sha256: identity.certificate_sha256,
            not_after: identity.not_after,
            image,
            before_sha256: digest(before.runs.iter().map(|(_, bytes)| bytes.as_slice())),
            runs: content.runs.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).collect(),
        };
        Self { header, content }
    }

    /// The changed sectors: byte offset in the image and new bytes, ascending, no two touch.
    pub fn runs(&self) -> &[(u64, Vec<u8>)] {
        &self.content.runs
    }

    /// Reads a patch's file.
    ///
    /// # Errors
    /// When it cannot be read; a [`Problem`] when it is no whole patch.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let mut bytes = Vec::new();
        let file = File::open(path).with_context(|| format!("opening {name}"))?;
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
        Self::parse(&bytes).map_err(|reason| {
            Problem::input(format!("{name} is no patch that can be used: {reason}"))
                .hint("edgepress stamp IMAGE --fleet … makes it anew")
                .into()
        })
    }

    /// Reads a patch.
    ///
    /// # Errors
    /// Says why these bytes are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() as u64 > LARGEST_FILE {
            return Err("it is too large");
        }
        let (body, sum) = bytes.split_last_chunk::<DIGEST>().ok_or("it is too short")?;
        let rest = body.strip_prefix(MAGIC.as_slice()).ok_or("it begins with something else")?;
        if Digest::of(body).0 != *sum {
            return Err("it is damaged: its digest differs");
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > LARGEST_HEADER {
            return Err("its header is too large");
        }
        let (header, content) = rest.split_at_checked(length).ok_or("its header is cut off")?;
        let header: Header = serde_json::from_slice(header).map_err(|_| "its header cannot be read")?;
        let total = header.check()?;
        let mut unpacked = Vec::new();
        DeflateDecoder::new(content)
            .take(total + 1)
            .read_to_end(&mut unpacked)
            .map_err(|_| "its content cannot be unpacked")?;
        if unpacked.len() as u64 != total {
            return Err("its content has another length than its header says");
        }
        let mut rest = unpacked.as_slice();
        let mut runs = Vec::new();
        for (offset, length) in &header.runs {
            let length = usize::try_from(*length).map_err(|_| "a run is too long")?;
            let (bytes, more) = rest.split_at_checked(length).ok_or("its content is cut off")?;
            runs.push((*offset, bytes.to_vec()));
            rest = more;
        }
        Ok(Self { header, content: disk::patch::Patch { runs } })
    }

    /// The patch as a file has it.
    ///
    /// # Errors
    /// When there is more than a file may hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = serde_json::to_vec(&self.header).context("writing a patch's header")?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(header.len()).context("writing a patch's header")?.to_le_bytes());
        bytes.extend(header);
        let mut packer = DeflateEncoder::new(bytes, Compression::best());
        for (_, run) in self.runs() {
            packer.write_all(run)?;
        }
        let mut bytes = packer.finish()?;
        let sum = Digest::of(&bytes);
        bytes.extend(sum.0);
        anyhow::ensure!(bytes.len() as u64 <= LARGEST_FILE, "the identity is too large for a patch");
        Ok(bytes)
    }

    /// Checks that an image is the one that the patch is for, by its size and the sectors that change.
    ///
    /// # Errors
    /// A [`Problem`] when it is another; an error from reading.
    pub fn check(&self, image: &File, size: u64) -> Result<()> {
        if size != self.header.image.size {
            return Err(self.wrong_image().into());
        }
        let mut hasher = Sha256::new();
        for (offset, new) in self.runs() {
            let mut old = vec![0; new.len()];
            image.read_exact_at(&mut old, *offset).context("reading the sectors that a patch changes")?;
            hasher.update(&old);
        }
        if hasher.finish() != self.header.before_sha256 {
            return Err(self.wrong_image().into());
        }
        Ok(())
    }

    fn wrong_image(&self) -> Problem {
        let Header { registration_id, image, .. } = &self.header;
        Problem::input(format!("the patch of {registration_id} is for another image"))
            .hint(format!("it was made for {} of {} bytes", image.name, image.size))
    }

    /// Writes the new sectors into a copy of the image that [`Patch::check`] accepts.
    ///
    /// # Errors
    /// As [`Patch::check`]; on a write error.
    pub fn apply_to(&self, copy: &File, size: u64) -> Result<()> {
        self.check(copy, size)?;
        self.content.apply_to(copy)
    }

    /// Lays the patch over the image's bytes as they stream by.
    pub fn stream(&self) -> Stream<'_> {
        Stream { patch: self, run: 0, within: 0, position: 0, hasher: Sha256::new() }
    }
}

/// Whose a patch is.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// See [`Header`].
    pub registration_id: String,
    /// See [`Header`].
    pub serial: Option<String>,
    /// See [`Header`].
    pub certificate_sha256: Option<Digest>,
    /// See [`Header`].
    pub not_after: Option<String>,
}

impl Header {
    /// Checks the runs, and says how many bytes they are.
    fn check(&self) -> Result<u64, &'static str> {
        let mut end = 0;
        let mut total: u64 = 0;
        for (at, (offset, length)) in self.runs.iter().enumerate() {
            if offset % SECTOR != 0 || length % SECTOR != 0 || *length == 0 || *length > LARGEST_CONTENT {
                return Err("a run is not made of whole sectors");
            }
            if at > 0 && *offset <= end {
                return Err("its runs are out of order");
            }
            end = offset.checked_add(*length).ok_or("a run ends nowhere")?;
            total += length;
            if end > self.image.size || total > LARGEST_CONTENT {
                return Err("a run reaches over the end of the image");
            }
        }
        Ok(total)
    }
}

fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut hasher = Sha256::new();
    parts.for_each(|part| hasher.update(part));
    hasher.finish()
}

/// A patch on its way over an image that is read from start to end.
///
/// ```text
/// replace(bytes) ─ hole(length) ─ replace(bytes) ─ … ─ finish
/// ```
pub struct Stream<'a> {
    patch: &'a Patch,
    run: usize,
    within: usize,
    position: u64,
    hasher: Sha256,
}

impl Stream<'_> {
    /// Takes the image's next bytes and puts the patch's in their place.
    pub fn replace(&mut self, bytes: &mut [u8]) {
        let start = self.position;
        for (at, run, from) in self.advance(bytes.len() as u64) {
            let place = (at - start) as usize;
            let new = &self.patch.runs()[run].1[from];
            let old = &mut bytes[place..place + new.len()];
            self.hasher.update(&*old);
            old.copy_from_slice(new);
        }
    }

    /// Skips bytes of the image that are zero and are not written, and returns what must be written there all the same:
    /// offset in the image, bytes.
    pub fn hole(&mut self, length: u64) -> Vec<(u64, &[u8])> {
        let patch = self.patch;
        let parts = self.advance(length);
        parts
            .into_iter()
            .map(|(at, run, from)| {
                let new = &patch.runs()[run].1[from];
                self.hasher.update(vec![0; new.len()]);
                (at, new)
            })
            .collect()
    }

    /// Ends the image, of which this is the digest where it is known.
    ///
    /// # Errors
    /// A [`Problem`] when it was another one than the patch is for: then what was written is no device's image.
    pub fn finish(self, sha256: Option<Digest>) -> Result<()> {
        let whole = self.position == self.patch.header.image.size && self.run == self.patch.runs().len();
        let same = self.hasher.finish() == self.patch.header.before_sha256;
        // Two builds may differ, and not in these sectors.
        let golden = self.patch.header.image.sha256;
        let same = same && (golden.is_none() || sha256.is_none() || golden == sha256);
        if whole && same { Ok(()) } else { Err(self.patch.wrong_image().into()) }
    }

    /// Moves on; says which parts of which runs lie there: offset in the image, run, bytes of the run.
    fn advance(&mut self, length: u64) -> Vec<(u64, usize, Range<usize>)> {
        let end = self.position.saturating_add(length);
        let mut parts = Vec::new();
        while let Some((offset, bytes)) = self.patch.runs().get(self.run) {
            let at = offset + self.within as u64;
            if at >= end {
                break;
            }
            let left = bytes.len() - self.within;
            let count = usize::try_from(end - at).map_or(left, |room| room.min(left));
            parts.push((at, self.run, self.within..self.within + count));
            self.within += count;
            if self.within == bytes.len() {
                (self.run, self.within) = (self.run + 1, 0);
            }
        }
        self.position = end;
        parts
    }
}

#[cfg(test)]
mod tests;
