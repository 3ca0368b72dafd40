//! One digest for all of a tree: names, kinds, owners, modes, times, links, attributes and contents.
//!
//! It finds what a failing disk or a careless tool changed, not what somebody forged, who could write a digest as well: so
//! it is XXH3 of 128 bits, which costs a tenth of SHA-256 where the processor does not help with that.

use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result};
use twox_hash::xxhash3_128::Hasher;

use super::{FileKind, Meta, Root, shown};

const BUFFER: usize = 1 << 18;

impl Root {
    /// The digest, in hexadecimal.
    ///
    /// # Errors
    /// When something of the tree cannot be read.
    pub fn content(&self) -> Result<String> {
        let mut all = vec![(PathBuf::from("/"), self.lstat("/")?.context("looking at a root tree")?)];
        self.walk("/", &mut |path, meta| {
            all.push((path.to_owned(), *meta));
            Ok(())
        })?;
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let parts: Vec<_> = thread::scope(|scope| {
            let work = |first: usize| {
                let mine = all.iter().skip(first).step_by(workers);
                mine.map(|(path, meta)| self.entry_digest(path, meta)).collect::<Result<Vec<u128>>>()
            };
            let running: Vec<_> = (0..workers).map(|first| scope.spawn(move || work(first))).collect();
            running.into_iter().map(|worker| worker.join().unwrap_or_else(|_| panicked())).collect::<Vec<_>>()
        });
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        let mut whole = Hasher::new();
        for at in 0..all.len() {
            whole.write(&parts[at % workers][at / workers].to_le_bytes());
        }
        Ok(format!("{:032x}", whole.finish_128()))
    }

    fn entry_digest(&self, path: &Path, meta: &Meta) -> Result<u128> {
        let mut hasher = Hasher::new();
        let mut field = |bytes: &[u8]| {
            // With its length, so that no two lists of fields are one string.
            hasher.write(&bytes.len().to_le_bytes());
            hasher.write(bytes);
        };
        field(path.as_os_str().as_bytes());
        let facts = (meta.kind, meta.mode, meta.uid, meta.gid, meta.mtime, meta.device);
        field(format!("{facts:?}").as_bytes());
        for (name, value) in self.attributes(path)? {
            field(name.as_bytes());
            field(&value);
        }
        if let Some(target) = self.read_link(path)? {
            field(target.as_os_str().as_bytes());
        }
        if meta.kind == FileKind::File {
            self.hash_file(path, &mut hasher).with_context(|| format!("reading {}", shown(path)))?;
        }
        Ok(hasher.finish_128())
    }

    fn hash_file(&self, path: &Path, hasher: &mut Hasher) -> Result<()> {
        let mut file = self.open_file_nofollow(path)?.context("it is gone")?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => hasher.write(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn panicked<T>() -> Result<T> {
    Err(anyhow::anyhow!("a thread that read a root tree panicked"))
}

#[cfg(test)]
mod tests {
    use crate::tree::Root;

    #[test]
    fn every_change_shows() {
        let folder = tempfile::tempdir().expect("temp dir");
        let root = Root::open(folder.path()).expect("root");
        root.write("/usr/bin/tool", 0o755, b"tool").expect("writes");
        root.write("/etc/empty", 0o644, b"").expect("writes");
        root.symlink("tool", "/usr/bin/link").expect("links");
        root.set_time("/usr/bin/tool", 1_700_000_000).expect("sets");
        let before = root.content().expect("reads");
        assert_eq!(root.content().expect("reads"), before);
        let changes: [(&str, &dyn Fn() -> anyhow::Result<()>); 6] = [
            ("content", &|| {
                root.write("/usr/bin/tool", 0o755, b"t00l")?;
                root.set_time("/usr/bin/tool", 1_700_000_000)
            }),
            ("mode", &|| root.set_mode("/usr/bin/tool", 0o700)),
            ("time", &|| root.set_time("/usr/bin/tool", 1)),
            ("a link", &|| root.symlink("other", "/usr/bin/link")),
            ("one more", &|| root.write("/etc/new", 0o644, b"")),
            ("one less", &|| root.remove("/etc/empty").map(drop)),
        ];
        let mut seen = vec![before];
        for (what, change) in changes {
            change().expect(what);
            let now = root.content().expect("reads");
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        }
    }
}
