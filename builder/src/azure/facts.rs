//! What is known of an image: from what was built, or from its recipe alone.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use url::Url;

use super::modules::{self, Fleet};
use super::names::Names;
use super::version::Version;
use crate::error::Problem;
use crate::manifest::{FILE_NAME, Manifest};
use crate::recipe;
use crate::recipe::types::{Board, CertificateSource, Format, Provisioning, VaultToken};
use crate::units::{Arch, Digest};

/// Bytes of a VHD's footer, and where in it is what (numbers are big-endian): "Virtual Hard Disk Image Format
/// Specification", Microsoft, 2006.
const FOOTER: u64 = 512;
const COOKIE: &[u8] = b"conectix";
const CURRENT_SIZE: std::ops::Range<usize> = 48..56;
const DISK_TYPE: std::ops::Range<usize> = 60..64;
const FIXED: u32 = 2;
/// What Azure's disks are a multiple of.
const MIB: u64 = 1 << 20;
/// The largest VHD, by Microsoft's pages on images of Linux: 1,023 GB.
const LARGEST: u64 = 1023 << 30;
/// Smallest disk of a VM, in GiB.
const DISK_LEAST: u64 = 32;
/// Far above any manifest.
const MANIFEST_MAX: u64 = 16 << 20;

/// What is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    /// The recipe's name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Architecture.
    pub arch: Arch,
    /// The generation of VMs that boot it: 1 with a BIOS, 2 with UEFI.
    pub generation: u8,
    /// Names by Azure's rules.
    pub names: Names,
    /// Version of the image.
    pub version: Version,
    /// The VHD; none where only the recipe is known.
    pub vhd: Option<Vhd>,
    /// The vault that a VM reads with its own identity, if the recipe says so.
    pub vault: Option<String>,
    /// Name of its secrets, as the recipe has it.
    pub secret: String,
    /// Name of the secret that is the password for a registry, as the recipe has it.
    pub registry_secret: Option<String>,
    /// Registration id, as the recipe has it.
    pub registration_id: String,
    /// ID scope of DPS.
    pub id_scope: String,
    /// The modules of the devices; none where the recipe names no manifest, or only what was built is known.
    pub modules: Option<Fleet>,
}

/// The file that is uploaded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vhd {
    /// Absolute.
    pub path: PathBuf,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Bytes of the file: the disk and its footer.
    pub upload_size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

impl Facts {
    /// Of a recipe (`*.toml`), a folder that `edgepress build` made, or a file in one. A version that is stated is the
    /// image's.
    ///
    /// # Errors
    /// A [`Problem`] that says what is missing.
    pub(super) fn of(input: &Path, version: Option<Version>) -> Result<Self> {
        if input.extension().is_some_and(|ending| ending == "toml") {
            return Self::of_recipe(input, version.unwrap_or(Version::FIRST));
        }
        let data = std::fs::metadata(input).map_err(|error| {
            Problem::input(format!("cannot open {}: {error}", input.display()))
                .hint("name a recipe (*.toml) or the folder that `edgepress build` made")
        })?;
        let folder = if data.is_dir() { input } else { input.parent().unwrap_or(Path::new("")) };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Self::of_build(folder, version)
    }

    fn of_build(folder: &Path, version: Option<Version>) -> Result<Self> {
        let manifest = read_manifest(&folder.join(FILE_NAME))?;
        let output =
            manifest.outputs.iter().find(|output| output.file.extension().is_some_and(|it| it == "vhd"));
        let Some(output) = output else {
            return Err(Problem::input(format!(
                "{} holds no VHD, and Azure takes nothing else",
                folder.display()
            ))
            .hint("build it with --set 'target.formats=[\"vhd\"]'")
            .into());
        };
        let path = folder.join(output.file.file_name().context("reading the manifest: a file has no name")?);
        let virtual_size = look_at_vhd(&path, output.size)?;
        let path = std::path::absolute(&path).with_context(|| format!("resolving {}", path.display()))?;
        let vhd = Vhd { path, virtual_size, upload_size: output.size, sha256: output.sha256 };
        let version = version.map_or_else(|| Version::of_epoch(manifest.epoch), Ok)?;
        let Manifest { name, description, arch, board, provisioning, .. } = manifest;
        Self::common(name, &description, (arch, board), &provisioning, version, Some(vhd))
    }

    fn of_recipe(path: &Path, version: Version) -> Result<Self> {
        let recipe = recipe::load(path, &[], None)?.recipe;
        if !recipe.target.formats.contains(&Format::Vhd) {
            return Err(Problem::input(format!(
                "{} makes no VHD, and Azure takes nothing else",
                path.display()
            ))
            .hint("add \"vhd\" to target.formats")
            .into());
        }
        let modules = modules::of(&recipe.modules)?;
        let facts = Self::common(
            recipe.name,
            &recipe.description,
            (recipe.target.arch, recipe.target.board),
            &recipe.provisioning,
            version,
            None,
        )?;
        Ok(Self { modules, ..facts })
    }

    fn common(
        name: String,
        description: &str,
        (arch, board): (Arch, Board),
        provisioning: &Provisioning,
        version: Version,
        vhd: Option<Vhd>,
    ) -> Result<Self> {
        let registration_id = provisioning.registration_id.clone().unwrap_or_default();
        let (vault, secret, registry_secret) = match &provisioning.certificate {
            CertificateSource::KeyVault {
                vault,
                name,
                token: VaultToken::ManagedIdentity,
                client_id: None,
                registry_secret,
                ..
            } => (Some(vault_name(vault)?), name.clone(), registry_secret.clone()),
            _ => (None, String::new(), None),
        };
        let id_scope = provisioning.id_scope.clone();
        // They stand in scripts. A recipe's are checked; a manifest may be anybody's.
        for (what, text) in [
            ("name", &name),
            ("secret", &secret),
            ("registry's secret", registry_secret.as_ref().unwrap_or(&String::new())),
            ("registration id", &registration_id),
            ("ID scope", &id_scope),
        ] {
            check(what, text)?;
        }
        Ok(Self {
            names: Names::of(&name, version, vhd.as_ref().map(|vhd| &vhd.sha256)),
            name,
            description: description.replace(char::is_control, " "),
            arch,
            generation: generation(board),
            version,
            vhd,
            vault,
            secret,
            registry_secret,
            registration_id,
            id_scope,
            modules: None,
        })
    }
}

impl Facts {
    /// The loaders and the kernel are the distribution's signed ones, so an x64 image boots with secure boot on, which
    /// machines of generation 2 have. For Arm processors nothing is said.
    pub(super) fn trusted_launch(&self) -> bool {
        self.arch == Arch::X86_64 && self.generation == 2
    }

    /// Size of a VM's disk, in GiB: the root grows to it.
    pub(super) fn disk_size(&self) -> u64 {
        self.vhd.as_ref().map_or(0, |vhd| vhd.virtual_size.div_ceil(1 << 30)).max(DISK_LEAST)
    }
}

fn generation(board: Board) -> u8 {
    match board {
        Board::Bios => 1,
        Board::Uefi | Board::RaspberryPi => 2,
    }
}

fn check(what: &str, text: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._: {}".contains(c);
    if text.chars().all(good) {
        return Ok(());
    }
    Err(Problem::input(format!("the image's {what} has characters that none has"))
        .hint("build the image again: its manifest is not as edgepress writes it")
        .into())
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| {
        Problem::input(format!("cannot open {}: {error}", path.display()))
            .hint("name a recipe (*.toml) or the folder that `edgepress build` made")
    })?;
    file.take(MANIFEST_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| {
        Problem::input(format!("{} is no manifest: {error}", path.display()))
            .hint("build the image again with this version of edgepress")
            .into()
    })
}

/// Is it a fixed VHD that Azure takes? Returns the bytes of its disk.
fn look_at_vhd(path: &Path, size: u64) -> Result<u64> {
    let wrong = |what: String| Problem::input(format!("{} {what}", path.display())).hint("build it again");
    let mut file = File::open(path).map_err(|error| wrong(format!("cannot be opened: {error}")))?;
    let length = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    if length != size {
        return Err(wrong(format!("has {length} bytes, and {size} in the manifest")).into());
    }
    let virtual_size = length.saturating_sub(FOOTER);
    let mut footer = [0; FOOTER as usize];
    file.seek(SeekFrom::Start(virtual_size)).context("looking for a VHD's footer")?;
    if file.read_exact(&mut footer).is_err() || !footer.starts_with(COOKIE) {
        return Err(wrong("is no VHD: it has no footer".into()).into());
    }
    let number =
        |at: std::ops::Range<usize>| footer[at].iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
    if number(DISK_TYPE) != u64::from(FIXED) || number(CURRENT_SIZE) != virtual_size {
        return Err(wrong("is no fixed VHD of its own size".into()).into());
    }
    if virtual_size % MIB != 0 || virtual_size == 0 || virtual_size > LARGEST {
        return Err(
            wrong(format!("holds {virtual_size} bytes: Azure takes whole MiB, at most 1023 GiB")).into()
        );
    }
    Ok(virtual_size)
}

/// `factory` of `https://factory.vault.azure.net`.
fn vault_name(address: &str) -> Result<String> {
    let parsed = Url::parse(address).ok();
    let host = parsed.as_ref().and_then(Url::host_str).unwrap_or_default();
    let name = host.split('.').next().unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (3..=24).contains(&name.len()) && name.chars().all(good) && host.contains('.') {
        return Ok(name.to_owned());
    }
    Err(Problem::input(format!("the vault `{address}` is none of Azure's"))
        .hint("state provisioning.certificate.vault as https://NAME.vault.azure.net, NAME of 3 to 24 letters, digits and -")
        .into())
}

#[cfg(test)]
mod tests {
    use super::{look_at_vhd, vault_name};

    /// A VHD of one MiB with a footer that says so; its checksum is the writer's business.
    fn vhd() -> Vec<u8> {
        let mut bytes = vec![0; (1 << 20) + 512];
        let footer = &mut bytes[1 << 20..];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
        bytes
    }

    fn look(bytes: &[u8]) -> Result<u64, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("write");
        look_at_vhd(file.path(), bytes.len() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_azure_takes() {
        let good = vhd();
        assert_eq!(look(&good), Ok(1 << 20));
        let at = 1 << 20;
        for (offset, said) in [(0, "no footer"), (63, "no fixed VHD"), (55, "no fixed VHD")] {
            let mut bad = good.clone();
            bad[at + offset] ^= 1;
            assert!(look(&bad).expect_err("refused").contains(said), "{offset}");
        }
        for length in [0, 1, 511, 512, 1 << 20] {
            assert!(look(&good[..length]).is_err(), "{length} bytes");
        }
        let mut odd = vec![0; 512];
        odd.extend(&good[at..]);
        odd[512 + 48..512 + 56].copy_from_slice(&512_u64.to_be_bytes());
        assert!(look(&odd).expect_err("refused").contains("whole MiB"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(look_at_vhd(file.path(), 5).expect_err("refused").to_string().contains("5 in the manifest"));
    }

    #[test]
    fn vaults() {
        assert_eq!(vault_name("https://factory.vault.azure.net").expect("a vault"), "factory");
        for bad in ["", "https://", "https://x", "https://10.1.2.3", "https://a.vault.azure.net", "x y"] {
            assert!(vault_name(bad).is_err(), "{bad}");
        }
    }
}
