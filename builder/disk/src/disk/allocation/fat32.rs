//! The clusters that a FAT32 file system has given away, with everything in front of them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

use super::{Understood, push};
use crate::disk::fat_check::Geometry;

/// What is used, if there is a FAT32 file system at `offset`. Its tables are used whole: free clusters are zeros there.
///
/// # Errors
/// When the image cannot be read.
pub(super) fn used(image: &File, offset: u64, size: u64) -> Result<Option<Understood>> {
    let mut boot = [0; 512];
    if size < boot.len() as u64 {
        return Ok(None);
    }
    image.read_exact_at(&mut boot, offset).context("reading a boot sector")?;
    let Ok(geometry) = Geometry::parse(&boot, size) else { return Ok(None) };
    if !geometry.wide {
        return Ok(None);
    }
    let table = geometry.table(&mut Part { image, offset, at: 0 })?;
    let mut used = Vec::new();
    push(&mut used, 0..geometry.data_offset);
    for cluster in (2..).zip(&table[2..]).filter(|(_, next)| **next != 0).map(|(cluster, _)| cluster) {
        let start = geometry.offset(cluster);
        push(&mut used, start..start + geometry.cluster_bytes);
    }
    let length = geometry.data_offset + geometry.clusters * geometry.cluster_bytes;
    Ok(Some(Understood { length, used }))
}

/// A partition as a device of its own; only for what has checked its bounds.
struct Part<'a> {
    image: &'a File,
    offset: u64,
    at: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.image.read_at(buffer, self.offset + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = at;
        Ok(at)
    }
}
