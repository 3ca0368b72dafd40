//! What is in an image, read without mounting anything, and verdicts on it.
//!
//! ```text
//!            ┌─► partition table ─► file systems
//! source ────┼─► FAT partition: files, identity ─► boot chain of the board
//!            └─► ext4 root: system, packages, units, configuration, first boot
//!                                     └─► verdicts: boot-chain, identity-leak, time-zone, azure-preflight
//! ```
//! Images may come from anybody: whatever they hold is judged, and nothing of it is trusted. Contents of an identity are
//! never shown.

mod clock;
pub(crate) mod compare;
mod config;
mod file_system;
mod grub;
pub(crate) mod leaks;
mod partition;
pub(crate) mod preflight;
pub(crate) mod system;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub(crate) use self::file_system::FileSystem;
use self::leaks::{Leak, Meant, Seen};
pub(crate) use self::partition::{Partition, look_at_fat, root_partition};
use self::preflight::{Disk, Inside};
use self::system::{Started, System};
pub(crate) use self::text::shown;
use crate::board::files::Files;
use crate::board::loaders::Loaders;
use crate::board::raspberry_pi::chain::Chain;
use crate::board::{self, BOOT_CHAIN, Evidence};
use crate::disk::table::{self, TableKind};
use crate::error::{Problem, problem};
use crate::event::Sink;
use crate::format::Container;
use crate::image::root;
use crate::image::source::OpenImage;
use crate::recipe::types::{Board, Model};
use crate::rootfs::guard::Allowed;
use crate::sign;
use crate::units::{Arch, Digest};
use crate::verdict::{Check, Outcome};

/// What to inspect.
#[derive(Debug, Clone, Default)]
pub(crate) struct InspectOptions {
    /// The image, or the folder with image and manifest.
    pub image: PathBuf,
    /// Models of the Raspberry Pi instead of the manifest's.
    pub models: Vec<Model>,
    /// What the image is meant to be.
    pub meant: Meant,
    /// Judge it as an Azure image, also where neither its form nor its manifest says that it is one.
    pub azure: bool,
    /// Hold it against the list of digests beside it.
    pub verify: bool,
    /// Whose signature that list must have.
    pub key: Option<PathBuf>,
    /// List the packages in text.
    pub packages: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The image.
    pub image: PathBuf,
    /// How it lies in its file.
    pub container: Container,
    /// Bytes of its file.
    pub packed: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// The board, from the manifest or by its files; none when neither tells.
    pub board: Option<Board>,
    /// The architecture, from the manifest.
    pub arch: Option<Arch>,
    /// How the partition table is written.
    pub table: TableKind,
    /// The disk's GUID or id.
    pub disk: String,
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// The files on the FAT partition, by path.
    pub files: Vec<FileFacts>,
    /// The files of an identity that are on the FAT partition, by name; a golden image has none.
    pub identity: Vec<String>,
    /// The boot chain of each model of a Raspberry Pi.
    pub chains: Vec<Chain>,
    /// The boot loaders of a UEFI image.
    pub loaders: Option<Loaders>,
    /// What is installed on the root; nothing where that is not ext4 or cannot be read.
    pub system: Option<System>,
    /// What must not be in an image for many devices.
    pub leaks: Vec<Leak>,
    /// What Azure asks, point by point; nothing for an image that is not for Azure.
    pub azure: Option<Vec<Check>>,
    /// The verdicts.
    pub verdicts: Vec<Check>,
    /// Text lists the packages.
    #[serde(skip)]
    pub list_packages: bool,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct FileFacts {
    /// Path from the top.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

impl Report {
    /// The verdicts that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Check> {
        self.verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Failed)
    }
}

/// Looks into an image; it is only read.
///
/// # Errors
/// A [`Problem`] when there is no image or it has no partition table. What is wrong with what it holds is a verdict.
pub(crate) fn inspect(options: &InspectOptions, sink: &dyn Sink) -> Result<Report> {
    let source = OpenImage::open(&options.image, sink)?;
    let mut report = outline(&source)?;
    report.list_packages = options.packages;
    if options.verify {
        report.verdicts.extend(sign::verify(&source.path, options.key.as_deref())?);
    }
    let mut seen = Seen::default();
    let started = on_fat(&source, &mut report, options, &mut seen)?;
    let azure = options.azure || is_for_azure(&source);
    let root = partition::root_of(&source, &report.partitions)?;
    let inside = on_root(&source, &mut report, root.as_ref(), started, azure)?;
    seen.root = report.system.is_some();
    elsewhere(&source, &mut report, root.as_ref(), &mut seen)?;
    report.verdicts.push(leaks::judge(&report.leaks, &report.identity, options.meant, &seen));
    if azure {
        let points = preflight::points(&Disk::of(&source, &report)?, inside.as_ref(), &report.leaks);
        report.verdicts.push(preflight::judge(&points));
        report.azure = Some(points);
    }
    Ok(report)
}

/// Only Azure takes a VHD: an image that is one, or has one beside it, is for Azure.
fn is_for_azure(source: &OpenImage) -> bool {
    let manifest = source.manifest.as_ref();
    source.container == Container::Vhd
        || manifest.is_some_and(|manifest| {
            manifest
                .outputs
                .iter()
                .any(|output| output.file.extension().is_some_and(|ending| ending == "vhd"))
        })
}

fn ext4_uuids(partitions: &[Partition]) -> Vec<String> {
    let systems = partitions.iter().filter_map(|partition| partition.file_system.as_ref());
    systems.filter(|system| system.is_ext4()).map(|system| system.uuid.clone()).collect()
}

/// What the partition table and the heads of the file systems tell.
fn outline(source: &OpenImage) -> Result<Report> {
    let table = table::read(source.disk()).map_err(|error| nothing(&source.path, error))?;
    let context = || format!("reading {}", source.path.display());
    let manifest = source.manifest.as_ref();
    Ok(Report {
        image: source.path.clone(),
        container: source.container,
        packed: source.packed,
        size: source.size,
        board: manifest.map(|manifest| manifest.board),
        arch: manifest.map(|manifest| manifest.arch),
        table: table.kind,
        disk: table.disk.clone(),
        partitions: partition::read(&source.file, &table).with_context(context)?,
        files: Vec::new(),
        identity: Vec::new(),
        chains: Vec::new(),
        loaders: None,
        system: None,
        leaks: Vec::new(),
        azure: None,
        verdicts: Vec::new(),
        list_packages: false,
    })
}

/// Reads the FAT partition, and judges the boot chain; the kernel there that a Raspberry Pi starts.
fn on_fat(
    source: &OpenImage,
    report: &mut Report,
    options: &InspectOptions,
    seen: &mut Seen,
) -> Result<Option<Started>> {
    let Some(entry) = partition::fat_of(&report.partitions).map(|partition| partition.entry.clone()) else {
        seen.fat = true;
        let detail = "there is no FAT partition for a firmware to read";
        report.verdicts.push(Check::new(BOOT_CHAIN, false, detail));
        return Ok(None);
    };
    let mut started = None;
    let judged = look_at_fat(source, &entry, |volume| {
        report.files = partition::list(volume)?;
        report.identity = leaks::identity(&report.files);
        report.leaks.extend(leaks::on_fat(volume, &report.files, leaks::FAT));
        let verdict = boot_chain(volume, report, options, source)?;
        let kernel =
            report.chains.iter().filter(|chain| chain.sound()).find_map(|chain| chain.kernel.as_ref());
        let content = kernel.and_then(|kernel| Files::read(volume, kernel));
        started = content.map(|content| (content.len() as u64, Digest::of(&content)));
        Ok(verdict)
    });
    let verdict = match judged {
        Err(error) if problem(&error).is_some() => Check::new(BOOT_CHAIN, false, format!("{error:#}")),
        judged => {
            seen.fat = true;
            judged?
        }
    };
    report.verdicts.push(verdict);
    Ok(started)
}

/// Looks for keys in what is neither the firmware's partition nor the root, and names what cannot be looked through.
fn elsewhere(
    source: &OpenImage,
    report: &mut Report,
    root: Option<&Partition>,
    seen: &mut Seen,
) -> Result<()> {
    let known = [partition::fat_of(&report.partitions).cloned(), root.cloned()];
    let others: Vec<_> =
        report.partitions.iter().filter(|one| !known.contains(&Some((*one).clone()))).cloned().collect();
    for other in others {
        let name = format!("partition {}", other.entry.number);
        let kind = other.file_system.as_ref().map_or("unknown", |system| system.kind);
        let label = name.clone();
        let found = match kind {
            "ext4" => root::look(vec![partition::part(source, &other)?], move |trees| {
                leaks::elsewhere(&trees[0], &label)
            }),
            "fat32" | "fat16" => look_at_fat(source, &other.entry, |volume| {
                Ok(leaks::on_fat(volume, &partition::list(volume)?, &name))
            }),
            _ => {
                seen.not.push(format!("{name} ({kind})"));
                continue;
            }
        };
        match found {
            Ok(found) => report.leaks.extend(found),
            Err(_) => seen.not.push(format!("{name} ({kind}, which cannot be read)")),
        }
    }
    Ok(())
}

const ROOT: &str = "root-file-system";

/// Reads the root; one that cannot be read is a verdict. `azure`: what the preflight asks, too.
fn on_root(
    source: &OpenImage,
    report: &mut Report,
    root: Option<&Partition>,
    started: Option<Started>,
    azure: bool,
) -> Result<Option<Inside>> {
    let Some(root) = root else { return Ok(None) };
    let preloaded = source.manifest.as_ref().map(|manifest| manifest.preloaded.iter().cloned().collect());
    let engine_store = source.manifest.as_ref().is_some_and(|manifest| !manifest.container_images.is_empty());
    let allowed = Allowed { images: preloaded.unwrap_or_default(), engine_store, ..Allowed::default() };
    let found = root::look(vec![partition::part(source, root)?], move |roots| {
        let root = &roots[0];
        let system = system::look(root, started)?;
        let inside = if azure { Some(Inside::of(root, &system)?) } else { None };
        let leaks = leaks::on_root(root, &system, &allowed)?;
        Ok((system, leaks, inside, clock::judge(root)?))
    });
    match found {
        Ok((system, leaks, inside, clock)) => {
            report.verdicts.extend(clock);
            report.system = Some(system);
            report.leaks.extend(leaks);
            Ok(inside)
        }
        Err(error) => {
            report.verdicts.push(Check::new(ROOT, false, format!("it cannot be read: {error:#}")));
            Ok(None)
        }
    }
}

fn nothing(path: &Path, error: anyhow::Error) -> anyhow::Error {
    match problem(&error) {
        None => error.context(format!("reading {}", path.display())),
        Some(_) => Problem::input(format!("{} is no disk image: {error}", path.display()))
            .hint(format!("inspect reads disks with a partition table, as {}", Container::names()))
            .into(),
    }
}

fn boot_chain(
    files: &dyn Files,
    report: &mut Report,
    options: &InspectOptions,
    source: &OpenImage,
) -> Result<Check> {
    if !options.models.is_empty() {
        report.board = Some(Board::RaspberryPi);
    }
    let named = source.manifest.as_ref().map_or(&[][..], |manifest| &manifest.models);
    let evidence = Evidence {
        files,
        head: &partition::head(source, &report.partitions)?,
        arch: report.arch,
        root: partition::root(&report.partitions),
        roots: &ext4_uuids(&report.partitions),
        models: if options.models.is_empty() { named } else { &options.models },
    };
    report.board = report.board.or_else(|| board::recognised(&evidence));
    let Some(board) = report.board else {
        return Ok(Check::new(
            BOOT_CHAIN,
            false,
            "the FAT partition has neither config.txt nor EFI/BOOT, and the first sector no grub: no board that edgepress \
             knows boots it",
        ));
    };
    let judged = board::of(board).judge(&evidence);
    report.chains = judged.chains;
    report.loaders = judged.loaders;
    Ok(judged.verdict)
}
