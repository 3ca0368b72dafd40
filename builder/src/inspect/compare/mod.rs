//! What differs between two images, in the order in which a machine uses them.
//!
//! ```text
//! a ─┐
//!    ├─► bytes ─► equal: done
//! b ─┘     └────► tables ─► FAT files ─► root files ─► packages ─► and where the differing bytes lie
//! ```

mod bytes;
mod place;
mod text;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

pub(crate) use self::bytes::Region;
pub(crate) use self::tree::{Changed, Files};
use super::partition::{list, look_at_fat, root_part};
use super::system::{self, ContainerImages, Package};
use super::{FileFacts, Report, outline};
use crate::disk::table::Role;
use crate::event::Sink;
use crate::format::Container;
use crate::image::root;
use crate::image::source::OpenImage;
use crate::units::Digest;

/// Most bytes of one file on the FAT partition that are compared.
const FAT_FILE_MAX: u64 = 512 << 20;

/// What differs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    /// The two images.
    pub images: [PathBuf; 2],
    /// How they lie in their files; that alone is no difference.
    pub containers: [Container; 2],
    /// Bytes of the two disks.
    pub sizes: [u64; 2],
    /// Not one bit differs.
    pub identical: bool,
    /// Partition tables and file systems.
    pub tables: Vec<Change>,
    /// Files on the FAT partition.
    pub fat: Files,
    /// Files on the root.
    pub root: Files,
    /// Packages: one or both versions.
    pub packages: Vec<PackageChange>,
    /// Container images in the engine's store, by name: their image ids. Its files are not compared one by one.
    pub container_images: Vec<Change>,
    /// Where the bytes lie that differ.
    pub bytes: Vec<Region>,
    /// What could not be compared file by file, and why.
    pub not_compared: Vec<String>,
}

/// One value that differs; absent where it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// What.
    pub what: String,
    /// In the first image.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
}

/// A package that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PackageChange {
    /// Name and architecture, as dpkg writes it: `libc6:amd64`.
    pub package: String,
    /// Version in the first image.
    pub a: Option<String>,
    /// Version in the second.
    pub b: Option<String>,
}

/// Compares two images; they are only read.
///
/// # Errors
/// A [`crate::error::Problem`] when one of them is none.
pub(crate) fn compare(a: &Path, b: &Path, sink: &dyn Sink) -> Result<Comparison> {
    let sources = [OpenImage::open(a, sink)?, OpenImage::open(b, sink)?];
    let [a, b] = &sources;
    let differing = bytes::differing(a, b)?;
    let mut found = Comparison {
        images: [a.path.clone(), b.path.clone()],
        containers: [a.container, b.container],
        sizes: [a.size, b.size],
        identical: differing.is_empty() && a.size == b.size,
        tables: Vec::new(),
        fat: Files::default(),
        root: Files::default(),
        packages: Vec::new(),
        container_images: Vec::new(),
        bytes: Vec::new(),
        not_compared: Vec::new(),
    };
    if found.identical {
        return Ok(found);
    }
    let reports = [outline(a)?, outline(b)?];
    found.tables = tables(&reports);
    match fat(&sources, &reports) {
        Ok(files) => found.fat = files,
        Err(error) => found.not_compared.push(format!("FAT partition: {error:#}")),
    }
    match roots(&sources, &reports) {
        Ok(Some(roots)) => (found.root, found.packages, found.container_images) = roots,
        Ok(None) => found.not_compared.push("root: not both images have one in ext4".into()),
        Err(error) => found.not_compared.push(format!("root: {error:#}")),
    }
    found.not_compared.extend(others(&sources, &reports, &differing)?);
    found.bytes = bytes::regions(&differing, &place::Places::of(a, &reports[0]));
    Ok(found)
}

fn tables([a, b]: &[Report; 2]) -> Vec<Change> {
    let facts = |report: &Report| {
        let mut facts = BTreeMap::from([
            ((0, "disk: size"), report.size.to_string()),
            ((0, "disk: table"), format!("{:?}", report.table).to_uppercase()),
            ((0, "disk: id"), report.disk.clone()),
        ]);
        for partition in &report.partitions {
            let (entry, system) = (&partition.entry, partition.file_system.as_ref());
            let text = |of: fn(&super::FileSystem) -> String| system.map(of).unwrap_or_default();
            for (what, value) in [
                ("begins at", entry.offset.to_string()),
                ("size", entry.size.to_string()),
                ("role", format!("{:?}", entry.role)),
                ("PARTUUID", entry.partuuid.clone()),
                ("name", entry.name.clone()),
                ("file system", text(|system| system.kind.to_owned())),
                ("file system's UUID", text(|system| system.uuid.clone())),
                ("file system's label", text(|system| system.label.clone())),
                ("file system's size", text(|system| system.size.unwrap_or_default().to_string())),
            ] {
                facts.insert((entry.number, what), value);
            }
        }
        facts
    };
    let (a, b) = (facts(a), facts(b));
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let changed = keys.into_iter().filter(|key| a.get(key) != b.get(key));
    let change = |key: &(u32, &str)| {
        let what = if key.0 == 0 { key.1.to_owned() } else { format!("partition {}: {}", key.0, key.1) };
        Change { what, a: a.get(key).cloned(), b: b.get(key).cloned() }
    };
    changed.map(change).collect()
}

/// The files of both FAT partitions, by size and digest: FAT's times are those of the last writer.
fn fat(sources: &[OpenImage; 2], reports: &[Report; 2]) -> Result<Files> {
    let mut sides = Vec::new();
    for (source, report) in sources.iter().zip(reports) {
        let fat = report.partitions.iter().find(|partition| partition.entry.role == Some(Role::Fat));
        let Some(fat) = fat else {
            sides.push(BTreeMap::new());
            continue;
        };
        sides.push(look_at_fat(source, &fat.entry, |volume| {
            let digest = |file: FileFacts| {
                let content =
                    volume.read(&file.path, FAT_FILE_MAX)?.context("reading a file that is gone")?;
                Ok((file.path, (file.size, Digest::of(&content))))
            };
            list(volume)?.into_iter().map(digest).collect::<Result<BTreeMap<_, _>>>()
        })?);
    }
    let mut files = Files::default();
    for (path, (size, digest)) in &sides[0] {
        match sides[1].get(path) {
            None => files.removed.push(path.clone()),
            Some((other, other_digest)) => {
                let mut changes = Vec::new();
                tree::differ(&mut changes, "size", size, other);
                tree::differ(&mut changes, "sha256", digest, other_digest);
                files.push(path.clone(), changes);
            }
        }
    }
    files.added.extend(sides[1].keys().filter(|path| !sides[0].contains_key(*path)).cloned());
    Ok(files)
}

/// What differs of two roots.
type Roots = (Files, Vec<PackageChange>, Vec<Change>);

fn roots(sources: &[OpenImage; 2], reports: &[Report; 2]) -> Result<Option<Roots>> {
    let part = |at: usize| root_part(&sources[at], &reports[at].partitions);
    let (Some(a), Some(b)) = (part(0)?, part(1)?) else { return Ok(None) };
    root::look(vec![a, b], |roots| {
        let files = tree::compare(&roots[0], &roots[1])?;
        let packages = [system::installed(&roots[0])?, system::installed(&roots[1])?];
        let images = [containers(&roots[0])?, containers(&roots[1])?];
        Ok(Some((files, packages_changed(&packages), containers_changed(&images))))
    })
}

fn containers(root: &root::Root) -> Result<BTreeMap<String, String>> {
    match system::containers(root)? {
        ContainerImages::Known(known) => Ok(known),
        ContainerImages::CannotBeRead { cannot_be_read: why } => bail!("the container images: {why}"),
    }
}

fn containers_changed([a, b]: &[BTreeMap<String, String>; 2]) -> Vec<Change> {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let changed = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    let change =
        |name: &String| Change { what: name.clone(), a: a.get(name).cloned(), b: b.get(name).cloned() };
    changed.map(change).collect()
}

/// The partitions that differ although nobody looks at their files: all but one FAT partition and one root of each image.
fn others(
    sources: &[OpenImage; 2],
    reports: &[Report; 2],
    differing: &[Range<u64>],
) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (source, Report { partitions, .. }) in sources.iter().zip(reports) {
        let fat = partitions.iter().find(|partition| partition.entry.role == Some(Role::Fat));
        let fat = fat.map(|partition| partition.entry.offset);
        let root = root_part(source, partitions)?.map(|part| part.offset);
        for partition in partitions {
            let (start, size) = (partition.entry.offset, partition.entry.size);
            let end = start.saturating_add(size);
            let differs = differing.iter().any(|range| range.start < end && start < range.end);
            if differs && ![fat, root].contains(&Some(start)) {
                let kind = partition.file_system.as_ref().map_or("unknown", |system| system.kind);
                names.insert(format!("partition {} ({kind}): its bytes differ", partition.entry.number));
            }
        }
    }
    Ok(names)
}

fn packages_changed([a, b]: &[Vec<Package>; 2]) -> Vec<PackageChange> {
    let versions = |packages: &[Package]| -> BTreeMap<String, String> {
        let name = |package: &Package| format!("{}:{}", package.name, package.architecture);
        packages.iter().map(|package| (name(package), package.version.clone())).collect()
    };
    let (a, b) = (versions(a), versions(b));
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let changed = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    let change = |name: &String| PackageChange {
        package: name.clone(),
        a: a.get(name).cloned(),
        b: b.get(name).cloned(),
    };
    changed.map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Change, PackageChange, containers_changed, packages_changed};
    use crate::inspect::system::Package;

    #[test]
    fn container_images_that_changed() {
        let images = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect()
        };
        let a = images(&[("agent:1", "sha256:a"), ("tool:1", "sha256:b")]);
        let b = images(&[("agent:1", "sha256:a"), ("tool:1", "sha256:c"), ("tool:2", "sha256:d")]);
        let change = |what: &str, a: Option<&str>, b: &str| Change {
            what: what.into(),
            a: a.map(str::to_owned),
            b: Some(b.to_owned()),
        };
        let expected = [change("tool:1", Some("sha256:b"), "sha256:c"), change("tool:2", None, "sha256:d")];
        assert_eq!(containers_changed(&[a, b]), expected);
    }

    #[test]
    fn versions_that_changed() {
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            architecture: "all".into(),
            version: version.into(),
        };
        let a = vec![package("a", "1"), package("b", "1"), package("c", "1")];
        let b = vec![package("a", "1"), package("b", "2"), package("d", "1")];
        let found = packages_changed(&[a, b]);
        let change = |name: &str, a: Option<&str>, b: Option<&str>| PackageChange {
            package: format!("{name}:all"),
            a: a.map(str::to_owned),
            b: b.map(str::to_owned),
        };
        assert_eq!(
            found,
            [change("b", Some("1"), Some("2")), change("c", Some("1"), None), change("d", None, Some("1"))]
        );
    }
}
