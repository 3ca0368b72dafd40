//! Writing a layer: empty, or with runs of bytes in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{CLUSTER, CLUSTER_BITS, COPIED, ENTRY, ENTRY_EXTENDED, EXTENDED, HEADER, MAGIC, VERSION};
use crate::disk::overlay::Base;

/// Header extension: format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// log2 of the bits of a refcount.
const REFCOUNT_ORDER: u32 = 4;
/// Longest name of a backing file, bytes.
const NAME_MAX: usize = 1023;
/// Refcounts of 16 bits in one cluster: as many clusters (2 GiB) can a new layer have.
const CLUSTERS_MAX: u64 = CLUSTER / 2;
/// Where refcount table, refcount block and L1 table are, in clusters.
const REFCOUNT_TABLE: u64 = 1;
const REFCOUNT_BLOCK: u64 = 2;
const L1: u64 = 3;

/// How finely a layer keeps its bytes apart from those below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// By clusters of 64 KiB.
    Cluster,
    /// By subclusters of 2 KiB. QEMU is to fill it: it is made empty.
    Fine,
}

/// The file below: its absolute path, or its name in the layer's own folder; and its format, `raw` or `qcow2`.
type Backing<'a> = (&'a Path, &'a str);

/// Makes the file `path`, a layer of `size` bytes over `backing`, with each of `runs` at its offset; `below` reads what the
/// backing file holds.
///
/// # Errors
/// When the file exists or cannot be written, a run reaches over the end, or the path of the backing file is too long for
/// the format.
pub fn create<'r>(
    path: &Path,
    backing: Backing<'_>,
    size: u64,
    grain: Grain,
    below: &dyn Base,
    runs: impl IntoIterator<Item = (u64, &'r [u8])>,
) -> Result<()> {
    let clusters = clusters(size, below, runs).context("reading the image")?;
    ensure!(grain == Grain::Cluster || clusters.is_empty(), "a layer of subclusters is made empty");
    let plan = Plan::new(size, grain, &clusters);
    let used = plan.first_data + clusters.len() as u64;
    ensure!(used <= CLUSTERS_MAX, "{} bytes are too many for a new layer", clusters.len() as u64 * CLUSTER);
    let head = header(backing, size, grain, plan.l1_entries)?;
    let write = |file: &File| -> io::Result<()> {
        file.set_len(used * CLUSTER)?;
        file.write_all_at(&head, 0)?;
        file.write_all_at(&(REFCOUNT_BLOCK * CLUSTER).to_be_bytes(), REFCOUNT_TABLE * CLUSTER)?;
        let counts: Vec<u8> = (0..used).flat_map(|_| 1_u16.to_be_bytes()).collect();
        file.write_all_at(&counts, REFCOUNT_BLOCK * CLUSTER)?;
        plan.write(file, &clusters)
    };
    let file = File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    write(&file).with_context(|| format!("writing {}", path.display()))
}

/// The clusters that the runs touch, whole: guest cluster → its bytes.
fn clusters<'r>(
    size: u64,
    below: &dyn Base,
    runs: impl IntoIterator<Item = (u64, &'r [u8])>,
) -> Result<BTreeMap<u64, Vec<u8>>> {
    let mut clusters = BTreeMap::new();
    for (offset, bytes) in runs {
        let end = offset.checked_add(bytes.len() as u64);
        ensure!(end.is_some_and(|end| end <= size), "{} bytes at {offset} reach over the end", bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (cluster, within) = (at / CLUSTER, usize::try_from(at % CLUSTER)?);
            let count = (CLUSTER as usize - within).min(bytes.len() - done);
            if let std::collections::btree_map::Entry::Vacant(place) = clusters.entry(cluster) {
                let mut whole = vec![0; CLUSTER as usize];
                below.fill(&mut whole, cluster * CLUSTER)?;
                place.insert(whole);
            }
            if let Some(whole) = clusters.get_mut(&cluster) {
                whole[within..within + count].copy_from_slice(&bytes[done..done + count]);
            }
            done += count;
        }
    }
    Ok(clusters)
}

fn header((backing, format): Backing<'_>, size: u64, grain: Grain, l1_entries: u64) -> Result<Vec<u8>> {
    let name = backing.as_os_str().as_bytes();
    ensure!(
        name.len() <= NAME_MAX,
        "the image's path is {} bytes long, and QEMU takes {NAME_MAX} at most: {}",
        name.len(),
        backing.display()
    );
    let format = format.as_bytes();
    // The format's name is padded to eight bytes; an empty extension ends the list.
    let name_at = HEADER + 8 + format.len().next_multiple_of(8) + 8;
    let mut head = Vec::with_capacity(name_at + name.len());
    head.extend_from_slice(MAGIC);
    let mut word = |value: u32| head.extend_from_slice(&value.to_be_bytes());
    word(VERSION);
    // Offsets are longs; here and below the upper half is zero.
    [0, u32::try_from(name_at)?, u32::try_from(name.len())?, CLUSTER_BITS].into_iter().for_each(&mut word);
    let mut long = |value: u64| head.extend_from_slice(&value.to_be_bytes());
    long(size);
    // Not encrypted, and the entries of L1.
    long(l1_entries);
    long(L1 * CLUSTER);
    long(REFCOUNT_TABLE * CLUSTER);
    // One cluster of refcount table, no snapshots, which are nowhere.
    long(1 << 32);
    long(0);
    long(if grain == Grain::Fine { EXTENDED } else { 0 });
    // Compatible and autoclear features.
    long(0);
    long(0);
    long(u64::from(REFCOUNT_ORDER) << 32 | HEADER as u64);
    long(u64::from(BACKING_FORMAT) << 32 | format.len() as u64);
    head.extend_from_slice(format);
    head.resize(name_at, 0);
    head.extend_from_slice(name);
    Ok(head)
}

/// Where everything comes to lie.
struct Plan {
    l1_entries: u64,
    /// Index in L1 → where its L2 table is, in clusters.
    l2: BTreeMap<u64, u64>,
    per_l2: u64,
    first_data: u64,
}

impl Plan {
    fn new(size: u64, grain: Grain, clusters: &BTreeMap<u64, Vec<u8>>) -> Self {
        let per_l2 = CLUSTER / if grain == Grain::Fine { ENTRY_EXTENDED } else { ENTRY };
        let l1_entries = size.div_ceil(CLUSTER * per_l2).max(1);
        let first_l2 = L1 + (l1_entries * ENTRY).div_ceil(CLUSTER);
        let mut l2 = BTreeMap::new();
        for cluster in clusters.keys() {
            let next = first_l2 + l2.len() as u64;
            l2.entry(cluster / per_l2).or_insert(next);
        }
        let first_data = first_l2 + l2.len() as u64;
        Self { l1_entries, l2, per_l2, first_data }
    }

    fn write(&self, file: &File, clusters: &BTreeMap<u64, Vec<u8>>) -> io::Result<()> {
        let entry = |cluster: u64| (COPIED | (cluster * CLUSTER)).to_be_bytes();
        for (index, cluster) in &self.l2 {
            file.write_all_at(&entry(*cluster), L1 * CLUSTER + index * ENTRY)?;
        }
        for ((cluster, bytes), at) in clusters.iter().zip(self.first_data..) {
            let table = self.l2.get(&(cluster / self.per_l2)).copied().unwrap_or_default();
            file.write_all_at(&entry(at), table * CLUSTER + cluster % self.per_l2 * ENTRY)?;
            file.write_all_at(bytes, at * CLUSTER)?;
        }
        Ok(())
    }
}
