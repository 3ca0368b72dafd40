//! qcow2 layers over an image: made here, written to by QEMU, read here again. Neither needs a program besides QEMU.
//!
//! Format: QEMU's `docs/interop/qcow2.txt`, version 3, big endian. A *cluster* (64 KiB) is what places are given in; a
//! *layer* holds the clusters that differ from its *backing* file. Nothing of an image that somebody else made is read here:
//! see `format::unpack`.
//!
//! ```text
//! header       name of the backing file
//! refcounts    how often each cluster of this file is used: one table, one block
//! L1           guest cluster / 8192 ─► an L2 table
//! L2           guest cluster ─► a cluster of this file; nothing: as in the backing file
//! data
//! ```
//! With *extended* L2 entries every cluster has 32 subclusters of 2 KiB, each of which is here or below by itself.

mod create;
mod read;

pub use create::{Grain, create};
pub use read::Layer;

/// First bytes.
const MAGIC: &[u8; 4] = b"QFI\xfb";
const VERSION: u32 = 3;
/// Clusters of 64 KiB, QEMU's own default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of the header, without what follows it.
const HEADER: usize = 104;

/// Incompatible feature: extended L2 entries.
const EXTENDED: u64 = 1 << 4;
/// Bytes of an L2 entry, and of an extended one.
const ENTRY: u64 = 8;
const ENTRY_EXTENDED: u64 = 16;
/// Subclusters of a cluster with an extended entry.
const PARTS: u64 = 32;

/// Bit of an L1 or L2 entry: the cluster belongs to it alone and may be written in place.
const COPIED: u64 = 1 << 63;
/// Bit of an L2 entry: the cluster is compressed, which QEMU does on request only.
const COMPRESSED: u64 = 1 << 62;
/// Bit of an L2 entry: the cluster reads as zeros.
const ZEROS: u64 = 1;
/// Bits of an entry that are an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

#[cfg(test)]
mod tests;
