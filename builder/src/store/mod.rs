//! The store: a content-addressed cache that several builds share.
//!
//! ```text
//! ~/.cache/edgepress/
//!   lock                  flock: shared by whoever uses the store, exclusive while it is pruned
//!   blobs/sha256/ab/ab…   files named by their digest, read-only, complete by construction
//!   layers/  steps/       root trees and step records, see `layers`
//!   keys/                 signing keys that recipes name by address
//!   tmp/                  staging folders, each locked by the process that fills it
//! ```
//! Nothing appears under its final name before it is whole: it is written in `tmp/`, checked, synced and renamed.

pub(crate) mod download;
pub(crate) mod jobs;
pub(crate) mod layers;
pub(crate) mod net;
pub(crate) mod pace;
pub(crate) mod prune;
mod resolve;
pub(crate) mod room;
pub(crate) mod staging;
pub(crate) mod verify;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Problem, problem};
use crate::units::{Digest, Sha256};
use staging::Staging;

/// Environment variable that names the store's folder.
pub const ENVIRONMENT: &str = "EDGEPRESS_STORE";
/// A blob's last use is recorded in its modification time, no finer than this.
const STAMP_EVERY: Duration = Duration::from_secs(600);
const COPY_BUFFER: usize = 1 << 17;

/// An open store. While it is open, no other process prunes it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lock: Flock<File>,
    scratch: OnceLock<Staging>,
    next: AtomicU64,
}

impl Store {
    /// Opens the store, making it where there is none, and removes what killed processes left in `tmp/`. Without
    /// `explicit` it is `$EDGEPRESS_STORE`, `$XDG_CACHE_HOME/edgepress` or `~/.cache/edgepress`.
    ///
    /// # Errors
    /// When its folders cannot be made, or there is no home.
    pub fn open(explicit: Option<PathBuf>) -> Result<Self> {
        let root = explicit.map_or_else(default_root, Ok)?;
        let root = std::path::absolute(&root).with_context(|| format!("resolving {}", root.display()))?;
        let shown = root.display().to_string();
        let opened = room::explained(Self::open_at(root.clone()), &root, Self::NO_ROOM);
        opened.map_err(|error| {
            let known = problem(&error).and_then(|problem| problem.hint.clone());
            let hint = known.unwrap_or_else(|| {
                format!("name a folder of your own, which you may write, with --store or {ENVIRONMENT}")
            });
            Problem::input(format!("the store {shown} cannot be used: {error:#}")).hint(hint).into()
        })
    }

    fn open_at(root: PathBuf) -> Result<Self> {
        for folder in ["blobs/sha256", "layers", "steps", "keys", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("making the store's folder {}", folder.display()))?;
        }
        // Trees hold set-user-id programs that belong to whoever builds: nobody else may reach them.
        for folder in ["layers", "tmp"] {
            fs::set_permissions(root.join(folder), Permissions::from_mode(0o700))
                .with_context(|| format!("closing the store's folder {folder} to other users"))?;
        }
        let lock = lock(&root.join("lock"), FlockArg::LockShared)?;
        let store = Self { root, lock, scratch: OnceLock::new(), next: AtomicU64::new(0) };
        staging::sweep(&store.tmp())?;
        Ok(store)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the blobs.
    pub fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Folder of the layers.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Folder of the step records.
    pub fn steps_dir(&self) -> PathBuf {
        self.root.join("steps")
    }

    /// Folder of the signing keys that were downloaded.
    pub fn keys_dir(&self) -> PathBuf {
        self.root.join("keys")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A private folder in the store's file system, removed when it is dropped. `what` shows in its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn staging(&self, what: &str) -> Result<Staging> {
        Staging::new(&self.tmp(), what)
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    /// Is the blob there?
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// The blob's file, if it is there; records that it was used.
    pub fn blob(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.blob_path(digest);
        touch(&path).ok().map(|()| path)
    }

    /// Copies `reader` into the store and returns digest and size.
    ///
    /// # Errors
    /// When the content is not what was `expected`, or cannot be read or written.
    pub fn insert_reader(&self, mut reader: impl Read, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let mut blob = self.new_blob()?;
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => blob.write(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading what goes into the store"),
            }
        }
        let size = blob.size();
        let (digest, _) = blob.finish(expected)?;
        Ok((digest, size))
    }

    /// Puts bytes into the store.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn insert_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        Ok(self.insert_reader(bytes, None)?.0)
    }

    /// Copies a file into the store.
    ///
    /// # Errors
    /// When it cannot be read, or the store not be written.
    pub fn insert_file(&self, path: &Path) -> Result<(Digest, u64)> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        self.insert_reader(file, None).with_context(|| format!("copying {} into the store", path.display()))
    }

    /// Begins a blob whose content comes bit by bit.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn new_blob(&self) -> Result<NewBlob<'_>> {
        let scratch = match self.scratch.get() {
            Some(scratch) => scratch,
            None => {
                let made = self.staging("blobs")?;
                self.scratch.get_or_init(|| made)
            }
        };
        let path = scratch.path().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        Ok(NewBlob { store: self, path, file, hasher: Sha256::new(), size: 0 })
    }
}

/// A blob in the making: hashed while it is written, and in the store only once [`NewBlob::finish`] says so.
#[derive(Debug)]
pub struct NewBlob<'a> {
    store: &'a Store,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
}

impl NewBlob<'_> {
    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the disk is full or broken.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.writing(&error))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what was written: the content starts again.
    ///
    /// # Errors
    /// When the file cannot be emptied.
    pub fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        emptied.map_err(|error| self.writing(&error))?;
        (self.hasher, self.size) = (Sha256::new(), 0);
        Ok(())
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Syncs the blob and gives it its name; one that another process put there meanwhile is as good.
    ///
    /// # Errors
    /// When the content is not what was `expected`, or the store cannot be written.
    pub fn finish(self, expected: Option<Digest>) -> Result<(Digest, PathBuf)> {
        let digest = self.digest();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Problem::work(format!("the content has SHA-256 {digest}, expected {expected}"))
                .hint("what it comes from is damaged, or was changed meanwhile; get that anew")
                .into());
        }
        let target = self.store.blob_path(&digest);
        let folder = target.parent().context("the store has no blob folder")?;
        let placed = (|| {
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()?;
            fs::create_dir_all(folder)?;
            fs::rename(&self.path, &target)
        })();
        placed.map_err(|error| self.writing(&error))?;
        Ok((digest, target.clone()))
    }

    fn writing(&self, error: &io::Error) -> anyhow::Error {
        let problem = Problem::work(format!("writing to the store {}: {error}", self.store.root.display()));
        match error.kind() {
            io::ErrorKind::StorageFull => problem
                .hint("free some space: edgepress store prune, or put the store elsewhere with --store"),
            _ => problem,
        }
        .into()
    }
}

impl Drop for NewBlob<'_> {
    fn drop(&mut self) {
        // Gone already when the blob was finished.
        let _ = fs::remove_file(&self.path);
    }
}

/// Records that a file of the store was used now.
///
/// # Errors
/// When it is not there.
pub fn touch(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let now = SystemTime::now();
    let age = file.metadata()?.modified().ok().and_then(|stamp| now.duration_since(stamp).ok());
    if age.is_none_or(|age| age > STAMP_EVERY) {
        // A store of another user is readable and cannot be stamped; that is no reason to fail.
        let _ = file.set_modified(now);
    }
    Ok(())
}

fn default_root() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || folder("HOME").map(|home| home.join(".cache"));
    folder(ENVIRONMENT)
        .or_else(|| folder("XDG_CACHE_HOME").or_else(home).map(|cache| cache.join("edgepress")))
        .ok_or_else(|| Problem::input("there is no place for the store: HOME is not set"))
        .map_err(|problem| problem.hint(format!("name one with --store or {ENVIRONMENT}")).into())
}

fn lock(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = open.with_context(|| format!("opening {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno).with_context(|| format!("locking {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Digest, Store};
    use crate::error::problem;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, SystemTime};

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(Some(folder.path().join("store"))).expect("opens");
        (folder, store)
    }

    #[test]
    fn a_blob_is_named_by_its_content_and_read_only() {
        let (_folder, store) = store();
        let (digest, size) = store.insert_reader(&b"hello"[..], Some(Digest::of("hello"))).expect("inserts");
        assert_eq!((digest, size), (Digest::of("hello"), 5));
        assert_eq!(store.insert_bytes(b"hello").expect("again"), digest);
        let path = store.blob(&digest).expect("is there");
        assert_eq!(fs::read(&path).expect("reads"), b"hello");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o444);
        assert!(!store.has_blob(&Digest::of("other")) && store.blob(&Digest::of("other")).is_none());
    }

    #[test]
    fn other_users_reach_no_tree() {
        let (_folder, store) = store();
        for folder in [store.layers_dir(), store.tmp()] {
            assert_eq!(fs::metadata(&folder).expect("metadata").permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn wrong_content_leaves_nothing() {
        let (_folder, store) = store();
        let error = store.insert_reader(&b"evil"[..], Some(Digest::of("good"))).expect_err("refused");
        assert!(problem(&error).is_some_and(|problem| problem.message.contains("expected")), "{error}");
        assert!(!store.has_blob(&Digest::of("evil")) && !store.has_blob(&Digest::of("good")));
        let left = fs::read_dir(store.scratch.get().expect("made").path()).expect("reads").count();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_restarted_blob_holds_only_what_came_after() {
        let (_folder, store) = store();
        let mut blob = store.new_blob().expect("begins");
        blob.write(b"half of someth").expect("writes");
        blob.restart().expect("restarts");
        blob.write(b"whole").expect("writes");
        assert_eq!(blob.size(), 5);
        let (_, path) = blob.finish(Some(Digest::of("whole"))).expect("finishes");
        assert_eq!(fs::read(path).expect("reads"), b"whole");
    }

    #[test]
    fn use_is_recorded() {
        let (_folder, store) = store();
        let digest = store.insert_bytes(b"x").expect("inserts");
        let path = store.blob_path(&digest);
        let old = SystemTime::now() - Duration::from_secs(90 * 86_400);
        fs::File::open(&path).expect("opens").set_modified(old).expect("stamps");
        store.blob(&digest).expect("is there");
        let age = fs::metadata(&path).expect("metadata").modified().expect("stamp").elapsed().expect("past");
        assert!(age < Duration::from_secs(60));
    }

    #[test]
    fn two_stores_at_once_share_a_folder() {
        let (folder, first) = store();
        let second = Store::open(Some(folder.path().join("store"))).expect("opens");
        let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        std::thread::scope(|scope| {
            for store in [&first, &second] {
                for _ in 0..4 {
                    scope.spawn(|| store.insert_bytes(&bytes).expect("inserts"));
                }
            }
        });
        assert_eq!(fs::read(first.blob_path(&Digest::of(&bytes))).expect("reads"), bytes);
    }
}
