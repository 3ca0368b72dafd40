//! The golden image: its FAT partition, read once, and what its manifest says of identities.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::files::Memo;
use crate::disk::patch::Master;
use crate::error::Problem;
use crate::event::Sink;
use crate::finding::Severity;
use crate::image::Image;
use crate::image::scratch::Scratch;
use crate::manifest::FILE_NAME;
use crate::provisioning::device::{EstAuth, for_device};
use crate::provisioning::lint::lint;
use crate::provisioning::source::DeviceSource;
use crate::recipe::types::Board;
use crate::units::Digest;

/// The folder of an identity on the FAT partition.
pub(crate) const FOLDER: &str = "edgepress";
/// What an identity may put there, beside the folder `ca`.
pub(crate) const FILES: [&str; 21] = [
    "registration-id",
    "certificate.pem",
    "private-key.pem",
    "hostname",
    "hosts",
    "endpoint",
    "authorized_keys",
    "wifi-ssid",
    "wifi-key",
    "registry-address",
    "registry-username",
    "registry-password",
    "source.toml",
    "source-ca.pem",
    "bootstrap-certificate.pem",
    "bootstrap-key.pem",
    "bootstrap-username",
    "bootstrap-password",
    "bootstrap-token",
    "symmetric-key",
    // What first boot leaves for a moment while it wipes a key.
    "wiping.tmp",
];

/// The file of an identity that first boot takes a file of this name for: in any case, as FAT has it, and with the ending
/// that Notepad adds and Explorer hides.
pub(crate) fn identity_file(name: &str) -> Option<&'static str> {
    let known = |name: &str| FILES.into_iter().find(|file| file.eq_ignore_ascii_case(name));
    let end = name.len().saturating_sub(".txt".len());
    known(name).or_else(|| {
        let (plain, ending) = name.split_at_checked(end)?;
        ending.eq_ignore_ascii_case(".txt").then(|| known(plain))?
    })
}

/// What the names of authorities end in (`take_authorities` in overlays/base/usr/lib/edgepress/fat.sh).
const AUTHORITY_ENDINGS: [&str; 5] = [".pem", ".crt", ".cer", ".cert", ".der"];

/// Is this, in the folder [`AUTHORITIES`], an authority that first boot takes?
pub(crate) fn is_authority(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".txt").unwrap_or(&name);
    !name.starts_with('.') && AUTHORITY_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Where certificate authorities lie.
pub(crate) const AUTHORITIES: &str = "ca";

/// A golden image, only ever read.
pub struct Golden {
    /// The raw image; where another format was named, it is unpacked for as long as this lives.
    pub path: PathBuf,
    /// The file that was named.
    pub file: PathBuf,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the whole, where the manifest knows it.
    pub sha256: Option<Digest>,
    /// Time stamp of everything in it, seconds since 1970.
    pub epoch: u64,
    /// How its machines boot.
    pub board: Board,
    /// Where its devices get their certificates, unless the identity says otherwise.
    pub source: DeviceSource,
    /// May an identity bring more than the credentials of that source?
    pub overrides: bool,
    /// The FAT partition.
    pub master: Master,
    config_toml: String,
    linted: Memo<(String, Option<EstAuth>), Vec<String>>,
    _unpacked: Option<Scratch>,
}

impl Golden {
    /// Opens an image, or the folder that `edgepress build` made.
    ///
    /// # Errors
    /// When image or manifest cannot be used, or an identity lies in the image already.
    pub fn open(path: &Path, sink: &dyn Sink) -> Result<Self> {
        let mut image = Image::open(path)?;
        let file = image.path.clone();
        let unpacked = if image.is_raw() { None } else { Some(Scratch::create(false)?) };
        if let Some(scratch) = &unpacked {
            image.unpack(scratch.path(), sink)?;
        }
        let master = Master::open(&image.path)?;
        refuse_identity(&image.path, &master)?;
        let sha256 = image.digest();
        let manifest = image.manifest;
        Ok(Self {
            path: image.path,
            file,
            size: image.size,
            sha256,
            epoch: manifest.epoch,
            board: manifest.board,
            source: DeviceSource::of(&manifest.provisioning),
            overrides: manifest.provisioning.overrides,
            master,
            config_toml: manifest.config_toml,
            linted: Memo::default(),
            _unpacked: unpacked,
        })
    }

    /// The image's name without its ending.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What the runtime would refuse in the config.toml of a device with this source and registration id. Devices that
    /// differ only in a (legal) registration id are judged together.
    pub fn config_faults(&self, source: &DeviceSource, id: &str, auth: Option<EstAuth>) -> Vec<String> {
        // An image of an older edgepress, whose manifest does not have the file.
        if self.config_toml.is_empty() {
            return Vec::new();
        }
        let ca = source.certificate.ca().is_some();
        self.linted.get((format!("{ca} {}", source.render()), auth), || {
            let config = for_device(&self.config_toml, source, id, auth);
            let errors = lint(&config, None).into_iter().filter(|found| found.severity == Severity::Error);
            errors
                .map(|found| {
                    let key = found.key.unwrap_or_default();
                    format!("config.toml: `{key}`: {} ({})", found.message, found.hint.unwrap_or_default())
                })
                .collect()
        })
    }
}

fn refuse_identity(path: &Path, master: &Master) -> Result<()> {
    let found = master.look(|volume| volume.list(FOLDER))?;
    match found.into_iter().find(|entry| !entry.folder && identity_file(&entry.name).is_some()) {
        None => Ok(()),
        Some(entry) => Err(Problem::input(format!(
            "{} is no golden image: {FOLDER}/{} lies on its FAT partition",
            path.display(),
            entry.name
        ))
        .hint(format!("edgepress stamp --remove IMAGE takes an identity off; {FILE_NAME} beside an image names the golden one"))
        .into()),
    }
}
