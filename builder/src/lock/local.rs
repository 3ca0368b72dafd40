//! Packages that the recipe brings itself: single .debs by file or address, and folders of package sources.
//!
//! All end as blobs in the store. Sources are built so that the .deb's bytes depend on nothing but the files' names,
//! contents and executable bits: a git checkout has other times and modes on every machine.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::error::Problem;
use crate::event::Sink;
use crate::files;
use crate::host;
use crate::lock::host::HostApt;
use crate::packages::control::{Control, is_architecture};
use crate::packages::deb::{self, Deb};
use crate::recipe::types::{self, Recipe};
use crate::store::download::{Wanted, fetch_all};
use crate::store::net::{Client, parse};
use crate::store::{Store, verify};
use crate::units::{Arch, Digest};

/// Time of everything in a package built from sources: 2024-01-01T00:00:00Z.
const EPOCH: u64 = 1_704_067_200;
/// Scripts that dpkg runs: executable whatever the work tree says (deb-preinst(5) and its kin).
const SCRIPTS: [&str; 5] = ["config", "postinst", "postrm", "preinst", "prerm"];

/// Most bytes of a control file that a source folder may have.
const LARGEST_CONTROL: u64 = 1 << 20;

/// A package that comes from no archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LocalDeb {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Debian architecture (`amd64`, `arm64`, `all`).
    pub architecture: String,
    /// Its control data.
    pub control: Control,
    /// The .deb, a blob of the store.
    pub sha256: Digest,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// The file or source folder it was made from; for a downloaded one, its address.
    pub origin: PathBuf,
}

/// Collects the recipe's own packages for its architecture, sorted by name.
///
/// # Errors
/// Names the .deb or source folder that is missing, is broken, or brings a package that another brings too.
pub(crate) fn gather(recipe: &Recipe, store: &Store, sink: &dyn Sink) -> Result<Vec<LocalDeb>> {
    let wanted = |deb: &&types::Deb| deb.arch.is_none_or(|arch| arch == recipe.target.arch);
    let debs: Vec<&types::Deb> = recipe.packages.debs.iter().filter(wanted).collect();
    download(&debs, store, sink)?;
    let mut all = Vec::new();
    for deb in debs {
        let (digest, origin) = match (&deb.file, &deb.url) {
            (Some(file), _) => (from_file(file, deb.sha256.as_deref(), store)?, file.clone()),
            (None, Some(url)) => (digest(deb)?, PathBuf::from(url)),
            (None, None) => {
                return Err(Problem::input("an entry of packages.debs has neither `file` nor `url`").into());
            }
        };
        let deb = local(digest, origin, store)?;
        if kept(&deb.control, recipe.target.arch, &deb.origin, sink)? {
            all.push(deb);
        }
    }
    for folder in &recipe.packages.sources {
        for source in source_folders(folder)?.0 {
            if kept(&source_control(&source)?, recipe.target.arch, &source, sink)? {
                all.push(local(build(&source, store)?, source, store)?);
            }
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    match all.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(twice(&pair[0].name, &pair[0].origin, &pair[1].origin).into()),
        None => Ok(all),
    }
}

/// Two packages of one name.
pub(crate) fn twice(name: &str, one: &Path, other: &Path) -> Problem {
    Problem::input(format!("the package `{name}` comes from both {} and {}", one.display(), other.display()))
        .hint("leave one of them out")
}

/// Whether the image gets a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It does.
    Here,
    /// It is made for another machine.
    Elsewhere,
}

/// Is it no package for systems? The section of all that the installer loads is `debian-installer`.
fn is_of_installer(control: &Control) -> bool {
    let is = |field, value| control.fields.get(field).is_some_and(|text: &str| text.trim() == value);
    is("Package-Type", "udeb") || is("Section", "debian-installer")
}

/// Is a package for a machine of this architecture?
///
/// # Errors
/// When it is for one that no machine has, or for the installer.
pub(crate) fn fit(control: &Control, arch: Arch, origin: &Path) -> Result<Fit, Problem> {
    let own = arch.debian();
    if is_of_installer(control) {
        let (package, origin) = (&control.package, origin.display());
        let message = format!("the package `{package}` ({origin}) is a part of Debian's installer (a udeb)");
        let hint = "name the package for systems: a udeb needs others of its kind, which no system has";
        return Err(Problem::input(message).hint(hint));
    }
    if control.fits(own) {
        return Ok(Fit::Here);
    }
    let stated = &control.architecture;
    if is_architecture(stated) {
        return Ok(Fit::Elsewhere);
    }
    let (package, origin) = (&control.package, origin.display());
    let message =
        format!("the package `{package}` ({origin}) has `Architecture: {stated}`, which no machine has");
    let hint = format!("`all` where its files fit every machine (scripts, data), else `{own}`");
    Err(Problem::input(message).hint(hint))
}

/// What is said of a package that is for another machine.
pub(crate) fn left_out(control: &Control, arch: Arch, origin: &Path) -> String {
    format!(
        "the package `{}` ({}) is left out: it is for {}, and the image for {}",
        control.package,
        origin.display(),
        control.architecture,
        arch.debian()
    )
}

fn kept(control: &Control, arch: Arch, origin: &Path, sink: &dyn Sink) -> Result<bool> {
    let here = fit(control, arch, origin)? == Fit::Here;
    if !here {
        sink.note(left_out(control, arch, origin));
    }
    Ok(here)
}

fn digest(deb: &types::Deb) -> Result<Digest> {
    let text = deb.sha256.as_deref().ok_or_else(|| {
        let url = deb.url.as_deref().unwrap_or_default();
        Problem::input(format!("packages.debs: {url} has no `sha256`"))
            .hint("state the file's SHA-256 digest")
    })?;
    text.parse().map_err(|error| Problem::input(format!("packages.debs: {error}")).into())
}

fn download(debs: &[&types::Deb], store: &Store, sink: &dyn Sink) -> Result<()> {
    let mut wanted = Vec::new();
    for deb in debs {
        let (None, Some(url)) = (&deb.file, &deb.url) else { continue };
        let sha256 = digest(deb)?;
        if store.sound_blob(&sha256)?.is_none() {
            let name = url.rsplit('/').next().unwrap_or(url).to_owned();
            let hint = "check `url` and `sha256` of this entry of packages.debs".to_owned();
            wanted.push(Wanted { name, url: parse(url)?, size: None, sha256, hint });
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let client = Client::new(HostApt::read().settings());
    fetch_all(&client, store, wanted, "packages", sink)
}

fn from_file(file: &Path, expected: Option<&str>, store: &Store) -> Result<Digest> {
    let (digest, _) = store.insert_file(file)?;
    if let Some(expected) = expected {
        is_digest(file, digest, expected)?;
    }
    Ok(digest)
}

/// Does a file have the digest that the recipe states?
///
/// # Errors
/// When it has another, or cannot be read.
pub(crate) fn same_digest(file: &Path, expected: &str) -> Result<(), Problem> {
    let found = verify::digest(file)
        .map_err(|error| Problem::input(format!("{} cannot be read: {error}", file.display())))?;
    is_digest(file, found, expected)
}

fn is_digest(file: &Path, found: Digest, expected: &str) -> Result<(), Problem> {
    if expected.eq_ignore_ascii_case(&found.to_string()) {
        return Ok(());
    }
    let message = format!("{} has SHA-256 {found}, the recipe says {expected}", file.display());
    Err(Problem::input(message).hint("take the file that was meant, or state the digest of this one"))
}

fn local(sha256: Digest, origin: PathBuf, store: &Store) -> Result<LocalDeb> {
    let path = store.blob(&sha256).with_context(|| format!("{} is not in the store", origin.display()))?;
    // The blob's path says nothing to the user.
    let control = Deb::read_as(&path, &origin.display().to_string())?.control;
    measure(&path, &sha256, &origin, store)?;
    let size = path.metadata().with_context(|| format!("reading {}", path.display()))?.len();
    let (name, version, architecture) =
        (control.package.clone(), control.version.clone(), control.architecture.clone());
    Ok(LocalDeb { name, version, architecture, control, sha256, size, origin })
}

/// Refuses a package that unpacks to more than it announces, once: no archive vouches for it, and the tree's dpkg would
/// fill the disk.
fn measure(path: &Path, sha256: &Digest, origin: &Path, store: &Store) -> Result<()> {
    let memo = store.steps_dir().join(format!("measured-{sha256}"));
    if memo.exists() {
        return Ok(());
    }
    let size = deb::measure(path, &origin.display().to_string())?;
    files::write(&memo, 0o644, size.to_string().as_bytes())
}

/// The child folders that are package sources; and what else lies there and may have been meant for one: other folders,
/// and .debs. Hidden ones are an editor's or git's.
///
/// # Errors
/// When the folder cannot be read, or has no package source.
pub(crate) fn source_folders(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let reading = || format!("reading the folder of package sources {}", folder.display());
    if !folder.is_dir() {
        let what = if folder.exists() { "is not a folder" } else { "does not exist" };
        return Err(Problem::input(format!("the folder of package sources {} {what}", folder.display()))
            .hint("a path in a recipe is one from the folder of the file that states it")
            .into());
    }
    let (mut sources, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let path = entry.path();
        if path.join("DEBIAN/control").is_file() {
            sources.push(path);
        } else if !entry.file_name().as_encoded_bytes().starts_with(b".")
            && (path.is_dir() || path.extension().is_some_and(|ending| ending == "deb"))
        {
            others.push(path);
        }
    }
    others.sort();
    if sources.is_empty() {
        let message = format!("{} has no child folder with a DEBIAN/control", folder.display());
        return Err(Problem::input(message).into());
    }
    sources.sort();
    Ok((sources, others))
}

/// The control data of a source folder.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(crate) fn source_control(source: &Path) -> Result<Control, Problem> {
    let path = source.join("DEBIAN/control");
    let wrong = |why: &dyn std::fmt::Display| {
        Problem::input(format!("{}: {why}", path.display())).hint("deb-control(5) says what stands in it")
    };
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(LARGEST_CONTROL + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(wrong(&error)),
        Ok(size) if size as u64 > LARGEST_CONTROL => Err(wrong(&"it is larger than 1 MiB")),
        Ok(_) => Control::parse(&text).map_err(|malformed| wrong(&malformed)),
    }
}

/// Builds one source folder, unless a .deb of just these files is in the store.
fn build(source: &Path, store: &Store) -> Result<Digest> {
    let building = || format!("building the package in {}", source.display());
    let staging = store.staging("source")?;
    let tree = staging.path().join("tree");
    let mut files = Vec::new();
    copy(source, &tree, Path::new(""), &mut files).with_context(building)?;
    let memo = store.steps_dir().join(format!("source-{}", Digest::of_json(&(EPOCH, &files))));
    let known = fs::read_to_string(&memo).ok().and_then(|text| text.trim().parse::<Digest>().ok());
    if let Some(digest) = known
        && store.sound_blob(&digest)?.is_some()
    {
        return Ok(digest);
    }
    let made = staging.path().join("made.deb");
    let mut command: Command = host::command("dpkg-deb")?;
    command.env("SOURCE_DATE_EPOCH", EPOCH.to_string()).env("LC_ALL", "C");
    command.args(["--root-owner-group", "-Zgzip", "--build"]).arg(&tree).arg(&made);
    host::run(&mut command).with_context(building)?;
    let (digest, _) = store.insert_file(&made)?;
    files::write(&memo, 0o644, digest.to_string().as_bytes())?;
    Ok(digest)
}

/// What of a file enters the package: path, mode, and the digest of content or link target.
type Entry = (PathBuf, u32, Digest);

/// Copies a tree with fixed modes and times; folders are stamped after what is in them.
fn copy(from: &Path, to: &Path, inner: &Path, files: &mut Vec<Entry>) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    if metadata.is_symlink() {
        let target = fs::read_link(from)?;
        files.push((inner.to_owned(), 0o777, Digest::of(target.as_os_str().as_encoded_bytes())));
        return symlink(target, to);
    }
    if metadata.is_file() {
        let script = SCRIPTS.iter().any(|script| inner == Path::new("DEBIAN").join(script));
        let mode = if script || metadata.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
        fs::copy(from, to)?;
        files.push((inner.to_owned(), mode, verify::digest(to)?));
        return stamp(to, mode);
    }
    if !metadata.is_dir() {
        let message = format!("{} is no file, folder or link: a package cannot hold it", from.display());
        return Err(io::Error::other(message));
    }
    fs::create_dir(to)?;
    files.push((inner.to_owned(), 0o755, Digest::of("folder")));
    let mut names =
        fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        copy(&from.join(&name), &to.join(&name), &inner.join(&name), files)?;
    }
    stamp(to, 0o755)
}

fn stamp(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    File::open(path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH))
}

#[cfg(test)]
mod tests {
    use super::{Arch, Control, Fit, Permissions, build, fit, from_file, fs, local, source_folders};
    use crate::store::Store;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn source(folder: &Path, mode: u32) {
        fs::create_dir_all(folder.join("DEBIAN")).expect("makes");
        fs::create_dir_all(folder.join("usr/bin")).expect("makes");
        let control =
            "Package: hello\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.example>\nDescription: x\n";
        fs::write(folder.join("DEBIAN/control"), control).expect("writes");
        fs::write(folder.join("DEBIAN/postinst"), "#!/bin/sh\n").expect("writes");
        fs::write(folder.join("usr/bin/hello"), "#!/bin/sh\n").expect("writes");
        fs::set_permissions(folder.join("usr/bin/hello"), Permissions::from_mode(mode)).expect("sets");
    }

    #[test]
    fn the_same_sources_give_the_same_bytes() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut digests = Vec::new();
        // A store of its own each: the second must be built, not remembered.
        for (name, mode) in [("one", 0o700), ("two", 0o775)] {
            let store = Store::open(Some(folder.path().join(format!("store-{name}")))).expect("opens");
            let from = folder.path().join(name);
            source(&from.join("hello"), mode);
            fs::write(from.join("README"), "x").expect("writes");
            fs::create_dir(from.join("notes")).expect("makes");
            let (sources, others) = source_folders(&from).expect("finds");
            assert_eq!(others, [from.join("notes")]);
            digests.push(build(&sources[0], &store).expect("builds"));
            assert_eq!(build(&sources[0], &store).expect("remembers"), digests[digests.len() - 1]);
            let deb = local(digests[0], sources[0].clone(), &store).expect("reads");
            assert_eq!((deb.name.as_str(), deb.version.as_str()), ("hello", "1"));
        }
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn only_another_machine_s_package_is_left_out() {
        let judge = |architecture: &str| {
            let text = format!("Package: tool\nVersion: 1\nArchitecture: {architecture}\n");
            let control = Control::parse(&text).expect("parses");
            fit(&control, Arch::X86_64, Path::new("own/tool"))
        };
        for (architecture, expected) in
            [("all", Fit::Here), ("amd64", Fit::Here), ("arm64", Fit::Elsewhere), ("i386", Fit::Elsewhere)]
        {
            assert_eq!(judge(architecture), Ok(expected), "{architecture}");
        }
        for architecture in
            ["any", "linux-any", "any-amd64", "amd46", "x86_64", "aarch64", "amd64 arm64", "ALL"]
        {
            let problem = judge(architecture).expect_err(architecture);
            assert!(
                problem.message.contains("own/tool") && problem.message.contains(architecture),
                "{problem}"
            );
            assert!(problem.hint.is_some_and(|hint| hint.contains("`all`") && hint.contains("`amd64`")));
        }
    }

    #[test]
    fn a_file_with_another_digest_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(Some(folder.path().join("store"))).expect("opens");
        let file = folder.path().join("a.deb");
        fs::write(&file, "content").expect("writes");
        let error = from_file(&file, Some(&"0".repeat(64)), &store).expect_err("refused").to_string();
        assert!(error.contains("a.deb has SHA-256 ed70"), "{error}");
    }
}
