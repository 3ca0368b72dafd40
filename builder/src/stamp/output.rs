//! What stamping leaves: a patch or an image for each device, and an index of them.
//!
//! ```text
//! DIR/pump-7.patch  …          or  DIR/gateway-pump-7.img  …       mode 0600, each there as a whole or not at all
//! DIR/fleet.jsonl              one JSON object a line for each of them; nothing secret in it
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::golden::Golden;
use super::names;
use super::patch::Patch;
use super::unique::{Seen, UniqueValue};
use crate::disk::sparse;
use crate::error::Problem;
use crate::interrupt;
use crate::units::Digest;

/// The index's name.
pub const INDEX: &str = "fleet.jsonl";
const PRIVATE: u32 = 0o600;

/// What is made for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Its changed sectors.
    Patch,
    /// A whole image.
    Image,
}

/// A line of the index: what `flash` finds a device's patch by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexLine {
    /// Registration id.
    pub registration_id: String,
    /// Serial of the card or device, as the fleet has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Patch or image.
    pub form: Form,
    /// Name of the file, in the index's folder.
    pub file: String,
    /// SHA-256 of the certificate (DER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<Digest>,
    /// End of its validity, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// SHA-256 of the golden image, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden_sha256: Option<Digest>,
}

/// What came of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The file is new; bytes on the disk.
    New(u64),
    /// It was there with the same content.
    Kept,
    /// Something else is there, and was left.
    Refused,
}

/// The folder of the results; nobody else writes to it meanwhile.
pub struct Output<'a> {
    folder: PathBuf,
    golden: &'a Golden,
    form: Form,
    force: bool,
    _lock: Flock<File>,
}

impl<'a> Output<'a> {
    /// Makes the folder, if need be.
    ///
    /// # Errors
    /// When it cannot be made, or another edgepress writes to it.
    pub fn open(folder: &Path, golden: &'a Golden, form: Form, force: bool) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let lock = lock(folder)?;
        Ok(Self { folder: folder.to_owned(), golden, form, force, _lock: lock })
    }

    /// The file of a device.
    pub fn file_name(&self, registration_id: &str) -> String {
        let id = names::file_name(registration_id);
        match self.form {
            Form::Patch => format!("{id}.patch"),
            Form::Image => format!("{}-{id}.img", self.golden.name()),
        }
    }

    /// Writes a device's patch, or its image. What is there stays: the same is kept, anything else refused, unless it
    /// was forced.
    ///
    /// # Errors
    /// On a write error.
    pub fn write(&self, patch: &Patch) -> Result<(Written, IndexLine)> {
        let entry = self.entry(&patch.header.registration_id, patch);
        let path = self.folder.join(&entry.file);
        if !self.force && fs::symlink_metadata(&path).is_ok_and(|data| data.len() > 0) {
            let same = match self.form {
                Form::Patch => Patch::read(&path).is_ok_and(|there| there == *patch),
                Form::Image => self.is_stamped(&path, patch),
            };
            return Ok((if same { Written::Kept } else { Written::Refused }, entry));
        }
        let partial = Partial::new(&path)?;
        let size = match self.form {
            Form::Patch => partial.patch(patch),
            Form::Image => partial.image(patch, self.golden),
        };
        let size = size.with_context(|| format!("writing {}", path.display()))?;
        partial.persist(&path)?;
        Ok((Written::New(size), entry))
    }

    fn entry(&self, id: &str, patch: &Patch) -> IndexLine {
        IndexLine {
            registration_id: id.to_owned(),
            serial: patch.header.serial.clone(),
            form: self.form,
            file: self.file_name(id),
            certificate_sha256: patch.header.certificate_sha256,
            not_after: patch.header.not_after.clone(),
            golden_sha256: self.golden.sha256,
        }
    }

    /// Images appear whole, so the changed sectors tell one from another.
    fn is_stamped(&self, path: &Path, patch: &Patch) -> bool {
        let Ok(file) = File::open(path) else { return false };
        let sized = file.metadata().is_ok_and(|data| data.len() == self.golden.size);
        sized
            && patch.runs().iter().all(|(offset, new)| {
                let mut now = vec![0; new.len()];
                file.read_exact_at(&mut now, *offset).is_ok() && now == *new
            })
    }

    /// Begins the index anew.
    ///
    /// # Errors
    /// On a write error.
    pub fn index(&self) -> Result<Index<'_>> {
        let partial = Partial::new(&self.folder.join(INDEX))?;
        let file = partial.create(0o644)?;
        Ok(Index { folder: &self.folder, lines: BufWriter::new(file), partial })
    }
}

/// Keeps others from writing to a folder.
pub fn lock(folder: &Path) -> Result<Flock<File>> {
    let open = File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
    Flock::lock(open, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Problem::work(format!("another edgepress is writing to {}", folder.display()))
            .hint("wait for it to end, or name another folder")
            .into()
    })
}

/// The index in the making.
pub struct Index<'a> {
    folder: &'a Path,
    lines: BufWriter<File>,
    partial: Partial,
}

impl Index<'_> {
    /// Adds a line.
    ///
    /// # Errors
    /// On a write error.
    pub fn add(&mut self, entry: &IndexLine) -> Result<()> {
        serde_json::to_writer(&mut self.lines, entry).context("writing the index")?;
        self.lines.write_all(b"\n").context("writing the index")
    }

    /// Adds what the old index has of other devices, makes everything durable, and puts the index in its place.
    ///
    /// # Errors
    /// On a write error.
    pub fn finish(mut self, stamped: &Seen) -> Result<PathBuf> {
        let path = self.folder.join(INDEX);
        if path.exists() {
            for entry in entries(&path)? {
                let entry = entry?;
                let id = entry.registration_id.to_ascii_lowercase();
                if !stamped.has(UniqueValue::RegistrationId, id.as_bytes())
                    && self.folder.join(&entry.file).exists()
                {
                    self.add(&entry)?;
                }
            }
        }
        let file = self.lines.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all().context("writing the index")?;
        // One call for all patches: a thousand single ones take seconds.
        nix::unistd::syncfs(&file).context("writing everything to the disk")?;
        self.partial.persist(&path)?;
        Ok(path)
    }
}

/// The lines of an index.
///
/// # Errors
/// When it cannot be opened; each line may be one that is none.
pub fn entries(path: &Path) -> Result<impl Iterator<Item = Result<IndexLine>>> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("opening {name}"))?;
    let lines = BufReader::new(file).lines().enumerate();
    Ok(lines.map(move |(at, line)| {
        let line = line.with_context(|| format!("reading {name}"))?;
        serde_json::from_str(&line).map_err(|error| {
            Problem::input(format!("{name}:{}: this is no line of an index: {error}", at + 1))
                .hint("remove the file: it is made anew")
                .into()
        })
    }))
}

/// Takes a file out of the index of its folder, if it is there; says what stood there.
///
/// # Errors
/// When the index cannot be read or written.
pub fn forget(folder: &Path, file: &str) -> Result<Option<IndexLine>> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(None);
    }
    let mut found = None;
    let partial = Partial::new(&path)?;
    let mut index = Index { folder, lines: BufWriter::new(partial.create(0o644)?), partial };
    for entry in entries(&path)? {
        let entry = entry?;
        if entry.file == file { found = Some(entry) } else { index.add(&entry)? }
    }
    index.lines.flush().context("writing the index")?;
    index.partial.persist(&path)?;
    Ok(found)
}

/// A file in the making, beside its final place; gone again on every way out but [`Partial::persist`].
pub struct Partial {
    path: PathBuf,
    _guard: interrupt::Guard,
}

impl Partial {
    /// What a killed run left is removed.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn new(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.partial"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
        let doomed = path.clone();
        let guard = interrupt::on_interrupt(move || drop(fs::remove_file(&doomed)));
        Ok(Self { path, _guard: guard })
    }

    fn create(&self, mode: u32) -> Result<File> {
        let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(&self.path);
        open.with_context(|| format!("creating {}", self.path.display()))
    }

    fn patch(&self, patch: &Patch) -> Result<u64> {
        let bytes = patch.to_bytes()?;
        self.create(PRIVATE)?.write_all(&bytes)?;
        Ok(bytes.len() as u64)
    }

    fn image(&self, patch: &Patch, golden: &Golden) -> Result<u64> {
        sparse::copy(&golden.path, &self.path)?;
        // Nothing secret is in it before.
        fs::set_permissions(&self.path, Permissions::from_mode(PRIVATE))?;
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        patch.apply_to(&file, golden.size)?;
        file.sync_all()?;
        Ok(golden.size)
    }

    fn persist(self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).with_context(|| format!("creating {}", target.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already where it became the target.
        fs::remove_file(&self.path).ok();
    }
}
