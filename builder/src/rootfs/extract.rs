//! Extracts the files of .debs into a tree, decompressing on every core.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result};

use super::packages::DebFile;
use crate::packages::deb;

/// Decompressed archives that wait for the writer: bounds memory to about this many times the largest package.
const AHEAD: usize = 2;

/// Extracts `debs` in order. Ownership, modes, times and hard links are the archive's; links that the tree already
/// has in place of folders (merged /usr) are followed.
///
/// # Errors
/// Names the package that cannot be read or written.
pub fn all(debs: &[(&DebFile, PathBuf)], root: &Path) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        // Each worker takes every n-th package and hands it over in order, so that the writer's order is the list's.
        let queues: Vec<_> = (0..workers)
            .map(|worker| {
                let (sender, receiver) = mpsc::sync_channel(AHEAD);
                scope.spawn(move || {
                    for (_, path) in debs.iter().skip(worker).step_by(workers) {
                        if sender.send(decompressed(path)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        for (at, (deb, _)) in debs.iter().enumerate() {
            let data = queues[at % workers].recv().context("waiting for a decompressor")?;
            data.and_then(|data| unpack(&data, root))
                .with_context(|| format!("extracting package {} {}", deb.name, deb.version))?;
        }
        Ok(())
    })
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    deb::data(BufReader::new(file))?.read_to_end(&mut data).context("decompressing its files")?;
    Ok(data)
}

fn unpack(data: &[u8], root: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(data);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(false);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        // merged /usr: the archive's folder `bin/` must not replace the tree's link `bin`.
        // (Collected anew, the path has no final slash, which would have the link followed.)
        let target: PathBuf = root.join(&path).components().collect();
        if entry.header().entry_type().is_dir() && target.is_symlink() && target.is_dir() {
            continue;
        }
        entry.unpack_in(root).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
