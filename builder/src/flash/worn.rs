//! The identity that an image has in itself: `edgepress stamp --full` made it, or somebody put the files there by hand.
//!
//! ```text
//! image ─► unpacked up to the end of its FAT partition ─► edgepress/registration-id, certificate.pem, keys
//! ```
//! Such an image is one device's. Settings alone (a host name, a wireless network) are no identity.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::chunk::{CHUNK, is_zero};
use super::source::FlashImage;
use crate::disk::patch::{Draft, Master};
use crate::disk::table::{self, Role};
use crate::error::problem;
use crate::format::decode::fill;
use crate::stamp::golden::{FOLDER, identity_file};
use crate::units::Digest;

/// Whose an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worn {
    /// Its registration id; where the partition has none, the file that makes it one device's, and what tells this one from
    /// others'.
    pub registration_id: String,
    /// SHA-256 of its certificate (DER).
    pub certificate_sha256: Option<Digest>,
    /// Where its partition lies, bytes.
    pub fat: Range<u64>,
}

/// What makes one device, in the order in which it is named. Bootstrap credentials may be a fleet's.
const PERSONAL: [&str; 4] = ["registration-id", "certificate.pem", "private-key.pem", "symmetric-key"];
/// Far above any of these files.
const LARGEST_FILE: u64 = 1 << 20;
/// A FAT partition that ends behind this is not looked into: boards have 64 to 512 MiB, near the start. It bounds what a
/// hostile file can put into the folder for temporary files.
const LARGEST_HEAD: u64 = 1 << 30;

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wears {
    /// It is one device's.
    Identity(Worn),
    /// It is everybody's.
    Nothing,
    /// It has a FAT partition that cannot be looked into, for this reason.
    Unknown(String),
}

/// Looks for an identity in the image.
///
/// # Errors
/// When it cannot be read or unpacked.
pub(crate) fn find(source: &FlashImage) -> Result<Wears> {
    if source.container.is_plain() {
        let file = File::open(&source.path).with_context(|| format!("opening {}", source.path.display()))?;
        return look_into(&file);
    }
    let head = tempfile::tempfile().context("making a temporary file")?;
    head.set_len(source.size).context("making a temporary file")?;
    unpack(source, &head, CHUNK as u64)?;
    let end =
        table::read(&head).ok().and_then(|table| table.find(Role::Fat).map(|fat| fat.offset + fat.size));
    match end {
        None => Ok(Wears::Nothing),
        Some(end) if end > LARGEST_HEAD => {
            Ok(Wears::Unknown(format!("its FAT partition ends {} GiB behind its start", end >> 30)))
        }
        Some(end) => {
            unpack(source, &head, end)?;
            look_into(&head)
        }
    }
}

/// A partition that no edgepress could write to has no identity that a first boot of ours would take.
fn look_into(disk: &File) -> Result<Wears> {
    if !table::read(disk).is_ok_and(|table| table.find(Role::Fat).is_some()) {
        return Ok(Wears::Nothing);
    }
    let name = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    let found = Master::open(&name).and_then(|master| {
        let fat = master.partition();
        let fat = fat.offset..fat.offset + fat.size;
        master.look(|volume| look(volume, fat))
    });
    match found {
        Ok(worn) => Ok(worn.map_or(Wears::Nothing, Wears::Identity)),
        Err(error) if problem(&error).is_some() => Ok(Wears::Unknown(error.to_string())),
        Err(error) => Err(error.context("looking for an identity in the image")),
    }
}

fn look(volume: &Draft<'_>, fat: Range<u64>) -> Result<Option<Worn>> {
    let files: Vec<String> =
        volume.list(FOLDER)?.into_iter().filter(|entry| !entry.folder).map(|entry| entry.name).collect();
    let named = |wanted: &str| files.iter().find(|file| identity_file(file) == Some(wanted));
    let Some((first, _)) = PERSONAL.iter().find_map(|wanted| Some((*wanted, named(wanted)?))) else {
        return Ok(None);
    };
    let read = |wanted: &str| -> Result<Option<Vec<u8>>> {
        let Some(file) = named(wanted) else { return Ok(None) };
        volume.read(&format!("{FOLDER}/{file}"), LARGEST_FILE)
    };
    let id = read("registration-id")?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    let certificate = read("certificate.pem")?;
    let leaf = certificate.and_then(|pem| CertificateDer::from_pem_slice(&pem).ok()).map(Digest::of);
    let registration_id = match id.filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => format!("{first} {}", Digest::of(read(first)?.unwrap_or_default()).short()),
    };
    Ok(Some(Worn { registration_id, certificate_sha256: leaf, fat }))
}

/// The disk's beginning up to `end`, into a file of zeros; holes stay holes.
fn unpack(source: &FlashImage, target: &File, end: u64) -> Result<()> {
    let mut stream = source.read_from(0, &|| true)?;
    let mut bytes = vec![0; CHUNK];
    let mut at = 0;
    while at < end.min(source.size) {
        let read = fill(&mut stream, &mut bytes);
        let length = read.with_context(|| format!("unpacking {}", source.path.display()))?;
        if length == 0 {
            break;
        }
        if !is_zero(&bytes[..length]) {
            target.write_all_at(&bytes[..length], at).context("unpacking the image's beginning")?;
        }
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Wears, Worn, find};
    use crate::disk::fat::{self, LEAST};
    use crate::disk::gpt::ALIGN;
    use crate::disk::ids::VolumeId;
    use crate::disk::mbr;
    use crate::disk::overlay::{Overlay, Zeros};
    use crate::flash::source::{FlashImage, Map, SourceOptions};
    use crate::units::Digest;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    fn image(path: &Path, files: &[(&str, &[u8])]) {
        let file = File::options().read(true).write(true).create_new(true).open(path).expect("file");
        file.set_len(LEAST + 3 * ALIGN).expect("size");
        let fat = mbr::Partition { kind: mbr::FAT32_LBA, offset: ALIGN, size: LEAST, active: false };
        let table = mbr::Table { disk_id: 7, partitions: vec![fat] };
        mbr::write(&file, LEAST + 3 * ALIGN, &table).expect("table");
        let mut volume = Overlay::new(Zeros, LEAST);
        fat::format(&mut volume, LEAST, VolumeId(7), "EFI", 0, |volume| {
            files.iter().try_for_each(|(path, content)| volume.write(path, content))
        })
        .expect("format");
        for (offset, run) in volume.changes().expect("changes") {
            file.write_all_at(&run, ALIGN + offset).expect("write");
        }
    }

    fn wears(path: &Path) -> Wears {
        let options = SourceOptions { image: path.to_owned(), bmap: Map::None, sha256: None };
        find(&FlashImage::open(&options).expect("opens")).expect("looks")
    }

    #[test]
    fn an_identity_is_found_in_any_form_and_settings_are_none() {
        let folder = tempfile::tempdir().expect("folder");
        let pem = rcgen::generate_simple_self_signed(vec!["pump-1".into()]).expect("certificate").cert;
        let whole = [
            ("edgepress/registration-id", &b"pump-1\n"[..]),
            ("edgepress/certificate.pem", pem.pem().leak().as_bytes()),
        ];
        let one = |id: &str, sum| {
            Wears::Identity(Worn {
                registration_id: id.into(),
                certificate_sha256: sum,
                fat: ALIGN..ALIGN + LEAST,
            })
        };
        for (at, (files, expected)) in [
            (&whole[..], one("pump-1", Some(Digest::of(pem.der())))),
            (
                &[("edgepress/SYMMETRIC-KEY.TXT", &b"c2VjcmV0"[..])],
                one(&format!("symmetric-key {}", Digest::of("c2VjcmV0").short()), None),
            ),
            (&[("edgepress/hostname", &b"pump"[..]), ("edgepress/README.txt", b"x")], Wears::Nothing),
            (&[("registration-id", &b"elsewhere"[..])], Wears::Nothing),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(format!("{at}.img"));
            image(&path, files);
            assert_eq!(wears(&path), expected, "{at}");
            let packed = folder.path().join(format!("{at}.img.zst"));
            fs::write(&packed, zstd::encode_all(File::open(&path).expect("open"), 1).expect("zst"))
                .expect("write");
            assert_eq!(wears(&packed), expected, "{at}, packed");
        }
    }

    #[test]
    fn what_cannot_be_looked_into_is_said() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.img");
        image(&path, &[]);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.write_all_at(&[0xff; 512], ALIGN))
            .expect("damaged");
        assert!(matches!(wears(&path), Wears::Unknown(_)));
    }
}
